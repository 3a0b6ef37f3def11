// test_hostile_hf.c: nothing a Hugging Face folder says can crash, hang or swell ./run.
//
// A good folder is made by ./run itself; then one thing in it is bent: every value of every JSON file becomes each of the values
// below (spread evenly, the label says which), files are cut, nested, doubled, replaced, linked in circles. Each folder either
// runs to an end or is refused with exit code 1 and one sentence, within seconds and within memory that fits its size.
#include "core/core.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__)
enum { CPU_SECONDS = 40, UNDER_ASAN = 1 };
#else
enum { CPU_SECONDS = 3, UNDER_ASAN = 0 };
#endif
static const rlim_t memory_most = (rlim_t)1 << 30;

static char scratch[64], program[4200];
static size_t n_run, n_refused;

static void shell(const char *format, ...) PRINTF_LIKE(1, 2);
static void shell(const char *format, ...) {
    char body[2048], command[2200];
    va_list args;
    va_start(args, format);
    vsnprintf(body, sizeof body, format, args);
    va_end(args);
    snprintf(command, sizeof command, "cd '%s' && %s", scratch, body);
    cr_assert(system(command) == 0, "%s", body);
}

static char *in_scratch(const char *name) { // one at a time
    static char path[256];
    snprintf(path, sizeof path, "%s/%s", scratch, name);
    return path;
}

static struct text read_file(const char *name) {
    struct text t = {0};
    struct err err = {""};
    cr_assert(file_read_all(in_scratch(name), (size_t)1 << 30, &t, &err), "%s", err.text);
    return t;
}

static void write_file(const char *name, const char *bytes, size_t n) {
    unlink(in_scratch(name)); // it is a second name of the good file
    FILE *f = fopen(in_scratch(name), "wb");
    cr_assert(f && fwrite(bytes, 1, n, f) == n && fclose(f) == 0);
}

static void setup(void) {
    char origin[4096];
    strcpy(scratch, "/tmp/lehr-hf-XXXXXX");
    cr_assert(mkdtemp(scratch) && getcwd(origin, sizeof origin));
    setenv("ASAN_OPTIONS", "detect_leaks=0", 1); // programs end without giving back what they hold
    snprintf(program, sizeof program, "%s/" PROGRAMS "/run", origin);
    shell("'%s/" PROGRAMS "/stories' --bytes 30000 -s 5 --out corpus.txt 2>said", origin);
    shell("'%s/" PROGRAMS "/train' corpus.txt --size 1M --width 32 --layers 2 --heads 2 --kv-heads 1 --ffn 64 --seq 32 --batch-tokens 256 "
          "--tokenizer bpe:300 --samples 0 --steps 1 -o out 2>said", origin);
    shell("'%s' -m out/model.gguf --export hf -o good 2>said >said2", program);
    n_run = n_refused = 0;
}

static void drop(void) { shell("cd / && rm -rf '%s'", scratch); }

static void child(const char *folder, bool chat) {
    struct rlimit cpu = {CPU_SECONDS, CPU_SECONDS + 1}, memory = {memory_most, memory_most};
    int said = chdir(scratch) ? -1 : open("err", O_WRONLY | O_CREAT | O_TRUNC, 0600), text = open("said", O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (said < 0 || text < 0 || setrlimit(RLIMIT_CPU, &cpu) || (!UNDER_ASAN && setrlimit(RLIMIT_AS, &memory))) _exit(99);
    dup2(text, 1);
    dup2(said, 2);
    alarm(10 * CPU_SECONDS); // a program that waits uses no time of the processor
    execl(program, "run", "-m", folder, "-p", "Hi", "-n", "3", "-c", "32", "-t", "1", chat ? "--chat" : (char *)NULL, (char *)NULL);
    _exit(98);
}

// Runs the folder "bad"; it ends well, or with one sentence.
static void run_bad(const char *label, bool chat) {
    pid_t pid = fork();
    if (pid == 0) child("bad", chat);
    int status = 0;
    cr_assert(pid > 0 && waitpid(pid, &status, 0) == pid);
    int code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    struct text said = read_file("err");
    const char *words = said.data ? said.data : "", *sentence = strstr(words, "run: ");
    cr_expect(code == 0 || code == 1, "%s ended with %d: %.600s", label, code, words);
    if (code == 1) cr_expect(sentence && strlen(sentence) > 25 && strchr(sentence, '\n') == sentence + strlen(sentence) - 1,
                             "%s: wanted one sentence, got %.600s", label, words);
    cr_expect(!strstr(words, "out of memory"), "%s: %.300s", label, words);
    n_run++;
    n_refused += code == 1;
    text_free(&said);
}

static void refused(const char *label, bool chat) {
    size_t before = n_refused;
    run_bad(label, chat);
    cr_expect(n_refused == before + 1, "%s was not refused", label);
}

// ---- one value bent

static const char *const values[] = {"null", "-1", "0", "1", "3", "255", "2147483648", "9223372036854775807", "99999999999999999999", "1e308",
                                     "-1e-320", "1e999", "NaN", "true", "\"\"", "\"\\u0000\"", "\"\\ud800x\"", "[]", "{}", "[[0]]", ""};

struct place {
    size_t from, to;
    char path[80];
};
struct places {
    struct place *at;
    size_t count, cap;
};

static void add_place(struct places *p, struct json *j, const char *path) {
    if (json_peek(j) == JSON_BAD) return; // skips blanks
    struct json copy = *j;
    json_skip(&copy);
    void *at = p->at;
    mem_grow(&at, &p->cap, p->count + 1, sizeof *p->at, "places");
    p->at = at;
    struct place *new = &p->at[p->count++];
    *new = (struct place){.from = (size_t)(j->at - j->start), .to = (size_t)(copy.at - j->start)};
    snprintf(new->path, sizeof new->path, "%s", path);
}

// Every value, but of long lists and dictionaries only the first ones.
static void find_places(struct places *p, struct json *j, const char *path) {
    char key[128], inner[300];
    size_t n = 0;
    add_place(p, j, path);
    bool object = json_peek(j) == JSON_OBJECT, array = json_peek(j) == JSON_ARRAY;
    if (!object && !array) {
        json_skip(j);
        return;
    }
    for (bool open = object ? json_object(j) : json_array(j); open && (object ? json_key(j, key, sizeof key) : json_item(j)); n++) {
        snprintf(inner, sizeof inner, "%s.%s", path, object ? key : "item");
        if (n < 30 && !(n > 2 && (array || strstr(path, "vocab")))) find_places(p, j, inner);
        else json_skip(j);
    }
}

// head: bytes in front of the JSON text that say its length, as safetensors has them; tail: what follows it.
static void bend_values(const char *file, size_t head, size_t wanted, bool chat) {
    char good_name[128], bad_name[128], label[300];
    snprintf(good_name, sizeof good_name, "good/%s", file);
    snprintf(bad_name, sizeof bad_name, "bad/%s", file);
    struct text good = read_file(good_name), bad = {0};
    size_t n = good.len - head;
    if (head) memcpy(&n, good.data, sizeof n);
    struct places p = {0};
    struct json j;
    json_open(&j, good.data + head, n);
    find_places(&p, &j, file);
    size_t all = p.count * COUNT_OF(values);
    cr_assert_gt(p.count, 1);
    if (wanted > all) wanted = all;
    for (size_t i = 0; i < wanted; i++) {
        size_t which = i * all / wanted;
        const struct place *at = &p.at[which / COUNT_OF(values)];
        const char *value = values[(which + i) % COUNT_OF(values)];
        text_clear(&bad);
        uint64_t length = n - (at->to - at->from) + strlen(value);
        if (head) text_add(&bad, (const char *)&length, sizeof length);
        text_add(&bad, good.data + head, at->from);
        text_str(&bad, value);
        text_add(&bad, good.data + head + at->to, good.len - head - at->to);
        write_file(bad_name, bad.data, bad.len);
        snprintf(label, sizeof label, "%s becomes %s", at->path, *value ? value : "nothing");
        run_bad(label, chat);
    }
    unlink(in_scratch(bad_name));
    shell("ln '%s' '%s'", good_name, bad_name);
    mem_free(p.at);
    text_free(&good);
    text_free(&bad);
}

// ---- one file bent

static struct text repeated(const char *before, const char *what, size_t times, const char *after) {
    struct text t = {0};
    text_str(&t, before);
    for (size_t i = 0; i < times; i++) text_str(&t, what);
    text_str(&t, after);
    return t;
}

static void replaced(const char *file, struct text t, const char *label, bool chat) {
    char bad_name[128], good_name[128], what[200];
    snprintf(good_name, sizeof good_name, "good/%s", file);
    snprintf(bad_name, sizeof bad_name, "bad/%s", file);
    snprintf(what, sizeof what, "%s: %s", file, label);
    bool there = file_exists(in_scratch(good_name));
    write_file(bad_name, t.data, t.len);
    refused(what, chat);
    unlink(in_scratch(bad_name));
    if (there) shell("ln '%s' '%s'", good_name, bad_name);
    text_free(&t);
}

static void cut_and_replaced(const char *file, bool chat) {
    char good_name[128], label[80];
    snprintf(good_name, sizeof good_name, "good/%s", file);
    struct text good = read_file(good_name);
    for (size_t i = 0; i < 8; i++) {
        struct text cut = {0};
        text_add(&cut, good.data, good.len * i / 8);
        snprintf(label, sizeof label, "cut after %zu bytes", cut.len);
        replaced(file, cut, label, chat);
    }
    text_free(&good);
    replaced(file, repeated("", "[", 100000, ""), "100000 brackets", chat);
    replaced(file, repeated("", "{\"a\":", 100000, ""), "100000 braces", chat);
    replaced(file, repeated("<!DOCTYPE html><html>", "x", 100, "</html>"), "a web page", chat);
    replaced(file, repeated("version https://git-lfs.github.com/spec/v1\noid sha256:", "0", 64, "\nsize 1\n"), "a git-LFS pointer", chat);
    replaced(file, repeated("{\"", "k", 200000, "\":1}"), "a key of 200000 letters", chat);
    replaced(file, repeated("{\"a\":", "9", 200000, "}"), "a number of 200000 digits", chat);
}

TestSuite(hostile_hf, .init = setup, .fini = drop, .timeout = 600);

Test(hostile_hf, bent_values_end_in_a_sentence) {
    shell("cp -rl good bad");
    run_bad("nothing", false);
    cr_assert_eq(n_refused, 0, "the good folder runs");
    bend_values("config.json", 0, 160, false);
    bend_values("model.safetensors", 8, 140, false);
    bend_values("tokenizer.json", 0, 140, false);
    bend_values("tokenizer_config.json", 0, 30, true);
    bend_values("generation_config.json", 0, 30, true);
    cr_expect(n_run > 400 && n_refused > n_run / 3 && n_refused < n_run, "%zu of %zu refused", n_refused, n_run);
}

Test(hostile_hf, bent_files_end_in_a_sentence) {
    static const char *const json_files[] = {"config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"};
    shell("cp -rl good bad");
    for (size_t i = 0; i < COUNT_OF(json_files); i++) cut_and_replaced(json_files[i], false);
    cut_and_replaced("model.safetensors", false);
    replaced("config.json", repeated("{\"architectures\": [\"LlamaForCausalLM\"]", ", \"hidden_size\": 32", 2, "}"), "a key twice", false);
    replaced("chat_template.jinja", repeated("{% for i in range(1000000000) %}", "{{ 'x' * 1000000000 }}", 1, "{% endfor %}"), "a loop without an end", true);
    replaced("chat_template.jinja", repeated("", "{% if 1 %}", 100000, ""), "100000 conditions", true);
    replaced("chat_template.jinja", repeated("{{ ", "(", 100000, " }}"), "100000 parentheses", true);
    replaced("chat_template.jinja", repeated("{% macro f() %}{{ f() }}", "", 1, "{% endmacro %}{{ f() }}"), "a macro that calls itself", true);
    cr_expect_geq(n_refused, 70);
}

// A tokenizer.json with one text replaced by another.
static struct text edited(const char *from, struct text to) {
    struct text good = read_file("good/tokenizer.json"), t = {0};
    char *at = strstr(good.data, from);
    cr_assert(at, "%s", from);
    text_add(&t, good.data, (size_t)(at - good.data));
    text_add(&t, to.data, to.len);
    text_str(&t, at + strlen(from));
    text_free(&good);
    text_free(&to);
    return t;
}

Test(hostile_hf, swollen_tokenizers_end_in_a_sentence) {
    shell("cp -rl good bad");
    struct text many = {0};
    text_str(&many, "\"added_tokens\":[");
    for (int i = 0; i < 1000000; i++)
        text_fmt(&many, "{\"id\":%d,\"content\":\"<%d>\",\"single_word\":false,\"lstrip\":false,\"rstrip\":false,\"normalized\":false,\"special\":true},", i + 300, i);
    replaced("tokenizer.json", edited("\"added_tokens\":[", many), "a million added tokens", false);
    static const char added[] = "{\"id\":301,\"content\":\"x\",\"single_word\":false,\"lstrip\":false,\"rstrip\":false,\"normalized\":false,\"special\":true},";
    replaced("tokenizer.json", edited("\"added_tokens\":[", repeated("\"added_tokens\":[", added, 1000, "")), "an added token a thousand times", false);
    replaced("tokenizer.json", edited("\"merges\":[", repeated("\"merges\":[", "[\"no\",\"thing\"],", 100000, "")), "merges of nothing", false);
    replaced("tokenizer.json", edited("\"vocab\":{", repeated("\"vocab\":{", "\"\":4194303,", 1, "")), "an id far away", false);
    replaced("tokenizer.json", edited("\"vocab\":{", repeated("\"vocab\":{", "\"a\":0,", 100000, "")), "a token 100000 times", false);
}

// An index of shards that leads elsewhere.
Test(hostile_hf, indexes_that_lead_elsewhere_end_in_a_sentence) {
    static const struct {
        const char *make, *file; // in the folder: a command, and what the index calls the shard
    } cases[] = {
        {"true", "../good/model.safetensors"}, {"true", "../../../../../../etc/passwd"}, {"true", "/etc/passwd.safetensors"},
        {"true", "/dev/zero"}, {"true", "absent.safetensors"}, {"true", ""}, {"true", ".safetensors"}, {"true", "a\\u0000.safetensors"},
        {"true", "a\\n.safetensors"}, {"true", "config.json"}, {"true", "..\\\\a.safetensors"}, {"true", "C:\\\\a.safetensors"},
        {"ln -s a.safetensors b.safetensors && ln -s b.safetensors a.safetensors", "a.safetensors"},
        {"ln -s a.safetensors a.safetensors", "a.safetensors"}, {"mkdir a.safetensors", "a.safetensors"},
        {"mkfifo a.safetensors", "a.safetensors"}, {"ln -s /dev/zero a.safetensors", "a.safetensors"},
        {"ln -s . a.safetensors", "a.safetensors"}, {": > a.safetensors", "a.safetensors"},
        {"chmod 0 config.json && ln config.json a.safetensors", "a.safetensors"},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        char index[400];
        snprintf(index, sizeof index, "{\"weight_map\": {\"model.norm.weight\": \"%s\"}}", cases[i].file);
        shell("rm -rf bad && cp -r good bad && cd bad && rm model.safetensors && %s", cases[i].make);
        write_file("bad/model.safetensors.index.json", index, strlen(index));
        refused(cases[i].file, false);
    }
    shell("rm -rf bad && cp -r good bad && cd bad && mv model.safetensors all.safetensors");
    static const char *const maps[] = {"{}", "{\"weight_map\": {}}", "{\"weight_map\": []}", "{\"weight_map\": 1}", "[]", "{\"weight_map\": {\"a\": {}}}",
                                       "{\"weight_map\": {\"a\": \"all.safetensors\"}}", "{\"weight_map\": {\"model.norm.weight\": \"all.safetensors\"}}",
                                       "{\"weight_map\": {}, \"weight_map\": {}}"};
    for (size_t i = 0; i < COUNT_OF(maps); i++) {
        write_file("bad/model.safetensors.index.json", maps[i], strlen(maps[i]));
        refused(maps[i], false);
    }
    struct text many = repeated("{\"weight_map\": {\"a\":\"all.safetensors\"", ",\"a\":\"all.safetensors\"", 100000, "}}");
    write_file("bad/model.safetensors.index.json", many.data, many.len);
    refused("a tensor 100000 times", false);
    text_free(&many);
    shell("rm -rf bad && ln -s bad bad");
    refused("a folder that is a link to itself", false);
    shell("rm -rf bad && mkdir bad && cd bad && ln -s config.json config.json && cp ../good/model.safetensors .");
    refused("a config.json that is a link to itself", false);
    shell("rm -rf bad && cp -r good bad && cd bad && rm config.json && mkfifo config.json");
    refused("a config.json that is a FIFO", false);
}
