// render_chat.c: conversations in, renderings and ids out, for tests/check_chat.py to compare with other programs.
//
//     render_chat MODEL TEMPLATE < lines of {"messages":[{"role":..,"content":..},..],"add":true}
// MODEL gives the tokenizer, TEMPLATE is a file, a name, or "-" for the one in the model. Each line answers
// {"text":..,"marks":"0011..","ids":[..]} or {"error":..}; the date is 2024-07-26.
#include "tokenizer/chat.h"

#include <stdlib.h>
#include <string.h>

enum { MOST = 32 };

struct talk {
    struct text role[MOST], content[MOST];
    struct chat_message message[MOST];
    size_t n;
    bool add;
};

static bool read_talk(const char *line, size_t n, struct talk *t) {
    struct json j;
    struct err err;
    char key[16];
    t->n = 0;
    json_open(&j, line, n);
    bool good = json_object(&j) && json_key(&j, key, sizeof key) && json_array(&j);
    while (good && json_item(&j)) {
        size_t i = t->n++;
        good = i < MOST && json_object(&j) && json_key(&j, key, sizeof key) && json_string(&j, &t->role[i]) && json_key(&j, key, sizeof key) &&
               json_string(&j, &t->content[i]) && !json_key(&j, key, sizeof key);
        if (good) t->message[i] = (struct chat_message){t->role[i].data, {t->content[i].data, t->content[i].len}};
    }
    return good && json_key(&j, key, sizeof key) && json_bool(&j, &t->add) && !json_key(&j, key, sizeof key) && json_done(&j, &err);
}

static void answer(const struct chat_template *template, const struct tokenizer *tokenizer, const struct talk *t) {
    const struct tm day = {.tm_year = 124, .tm_mon = 6, .tm_mday = 26, .tm_wday = 5, .tm_yday = 207};
    struct rendering r = {{0}, {0}};
    struct ids ids = {0};
    struct text line = {0};
    struct json_out j;
    struct err err;
    bool good = chat_render(template, tokenizer, t->message, t->n, t->add, &day, &r, &err);
    json_out_open(&j, &line);
    json_out_object(&j, NULL);
    if (good) {
        chat_encode(tokenizer, &r, &ids);
        for (size_t i = 0; i < r.marks.len; i++) r.marks.data[i] = r.marks.data[i] ? '1' : '0';
        json_out_string(&j, "text", r.text.len ? r.text.data : "", r.text.len);
        json_out_string(&j, "marks", r.marks.len ? r.marks.data : "", r.marks.len);
        json_out_array(&j, "ids");
        for (size_t i = 0; i < ids.count; i++) json_out_integer(&j, NULL, ids.id[i]);
        json_out_close(&j, ']');
    } else {
        json_out_string(&j, "error", err.text, strlen(err.text));
    }
    json_out_close(&j, '}');
    puts(line.data);
    text_free(&line);
    ids_free(&ids);
    rendering_free(&r);
}

static int fail(const char *what) {
    fprintf(stderr, "render_chat: %s\n", what);
    return 1;
}

int main(int argc, char **argv) {
    static struct talk talk;
    struct err err;
    char *line = NULL;
    size_t cap = 0;
    if (argc != 3) return fail("MODEL TEMPLATE");
    struct model_file *file = model_file_open(argv[1], &err);
    struct tokenizer *tokenizer = file ? tokenizer_from_file(file, &err) : NULL;
    struct chat_template *template = !tokenizer                ? NULL
                                     : strcmp(argv[2], "-") ? chat_template_named(argv[2], &err)
                                                               : chat_template_from_model(file, &err);
    if (!template) return fail(err.text);
    for (ssize_t n; (n = getline(&line, &cap, stdin)) > 0;) {
        if (!read_talk(line, (size_t)n, &talk)) return fail("a line is no conversation");
        answer(template, tokenizer, &talk);
    }
    for (size_t i = 0; i < MOST; i++) text_free(&talk.role[i]), text_free(&talk.content[i]);
    free(line);
    chat_template_free(template);
    tokenizer_free(tokenizer);
    model_file_close(file);
    return 0;
}
