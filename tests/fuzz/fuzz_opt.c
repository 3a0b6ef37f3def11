// Options: a command line (the input cut at zero bytes), a file of `name = value` lines, and the options a checkpoint keeps.
// Values that were taken lie in their ranges, and what opt_write says reads back to the same.
#include "tests/fuzz/files.h"
#include "train_options.h"

#include <string.h>

static struct {
    bool flag;
    int64_t whole, any;
    double real, time;
    const char *text;
    struct opt_words many;
} o;
static const struct opt rows[] = {
    {"-f --flag --old-flag", OPT_FLAG, &o.flag, 0, 0, "", "a flag", 0},
    {"-n --whole", OPT_INT, &o.whole, -5, 1e9, "N", "a number", 0},
    {"--any", OPT_INT, &o.any, 0, 0, "N", "any number", 0},
    {"-r --real", OPT_REAL, &o.real, 0, 1, "X", "a share", 0},
    {"--time", OPT_TIME, &o.time, 0, 1e9, "T", "a time", 0},
    {"-p --text", OPT_TEXT, &o.text, 0, 0, "TEXT", "a text", 0},
    {"--many", OPT_MANY, &o.many, 0, 0, "WORD", "words", 0},
};

// The tables keep copies of texts for ever, as programs do; here they go with the input.
static char *texts[4096];
static size_t n_texts;
char *__wrap_mem_text(const char *s);
char *__real_mem_text(const char *s);
char *__wrap_mem_text(const char *s) {
    char *copy = __real_mem_text(s);
    must(n_texts < COUNT_OF(texts), "texts are few");
    texts[n_texts++] = copy;
    return copy;
}

static void in_range(const struct opt *t) {
    must(o.whole >= -5 && o.whole <= 1000000000 && o.real >= 0 && o.real <= 1 && o.time >= 0 && o.time <= 1e9, "ranges hold");
    must(!t[6].given || o.many.count, "a list that was given has words");
}

static void reset(struct opt *t) {
    mem_free(o.many.word);
    memset(&o, 0, sizeof o);
    memcpy(t, rows, sizeof rows);
}

static void command_line(const char *bytes, size_t n) {
    struct opt table[COUNT_OF(rows)];
    struct err err = {""};
    struct opt_words rest = {0};
    char *copy = mem_alloc(n + 1, "words"), *argv[64] = {(char *)"fuzz"};
    int argc = 1;
    if (n) memcpy(copy, bytes, n);
    for (char *p = copy; p < copy + n && argc < 63; p += strlen(p) + 1) argv[argc++] = p;
    reset(table);
    bool good = opt_parse(table, COUNT_OF(rows), argc, argv, &rest, &err);
    must_tell(good, &err);
    in_range(table);
    reset(table);
    mem_free(rest.word);
    mem_free(copy);
}

static void file(const char *bytes, size_t n) {
    struct opt table[COUNT_OF(rows)];
    struct err err = {""};
    struct text once = {0}, twice = {0};
    reset(table);
    bool good = opt_read_text(table, COUNT_OF(rows), bytes, n, "the file", &err);
    must_tell(good, &err);
    in_range(table);
    opt_write(table, COUNT_OF(rows), &once);
    reset(table);
    must(opt_read_text(table, COUNT_OF(rows), once.data, once.len, "what was written", &err), err.text);
    opt_write(table, COUNT_OF(rows), &twice);
    must(once.len == twice.len && !memcmp(once.data, twice.data, once.len), "options read back to the same");
    reset(table);
    text_free(&once);
    text_free(&twice);
}

static void checkpoint(const char *bytes, size_t n) {
    static struct train_options first;
    static struct train_amounts first_amount;
    static bool kept;
    struct err err = {""};
    struct text from = {0};
    if (!kept) first = opts, first_amount = amount, kept = true;
    text_add(&from, bytes, n);
    must_tell(train_options_read(&from, "a checkpoint", &err), &err);
    mem_free(opts.data.word);
    mem_free(opts.valid.word);
    opts = first, amount = first_amount;
    for (size_t i = 0; i < train_table_count; i++) train_table[i].given = false;
    for (size_t i = 0; i < train_amounts_count; i++) train_amounts_table[i].given = false;
    text_free(&from);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    const char *p = (const char *)bytes;
    command_line(p, n);
    file(p, n);
    checkpoint(p, n);
    while (n_texts) mem_free(texts[--n_texts]);
    return 0;
}
