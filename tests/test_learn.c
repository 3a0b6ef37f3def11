// learn: the guard, data from files to sequences, the optimizer, checkpoints, export and plan.
#include "learn/learn.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

// --- helpers -------------------------------------------------------------------------------------------------------

static char folder[64];

static void make_folder(void) {
    strcpy(folder, "/tmp/lehr-test-XXXXXX");
    cr_assert_not_null(mkdtemp(folder));
}

static void remove_folder(void) {
    char command[96];
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    cr_assert_eq(system(command), 0);
}

static const char *in_folder(const char *name) {
    static char paths[8][128];
    static int next;
    char *path = paths[next++ % 8];
    snprintf(path, sizeof paths[0], "%s/%s", folder, name);
    return path;
}

static const char *put_bytes(const char *name, const char *bytes, size_t n) {
    const char *path = in_folder(name);
    FILE *f = fopen(path, "wb");
    cr_assert_not_null(f, "%s", path);
    cr_assert_eq(fwrite(bytes, 1, n, f), n);
    fclose(f);
    return path;
}

static const char *put(const char *name, const char *text) {
    return put_bytes(name, text, strlen(text));
}

static void expect_documents(const struct corpus *c, size_t n, const char *const *texts) {
    cr_assert_eq(c->n_docs, n, "%zu documents, expected %zu", c->n_docs, n);
    for (size_t i = 0; i < n; i++) {
        size_t start = i ? c->doc_end[i - 1] : 0, size = c->doc_end[i] - start;
        cr_expect(size == strlen(texts[i]) && memcmp(c->bytes.data + start, texts[i], size) == 0,
                  "document %zu is '%.*s', expected '%s'", i, (int)size, c->bytes.data + start,
                  texts[i]);
    }
}

static struct corpus corpus_of(size_t n, const char *const *texts) {
    struct corpus c = {0};
    for (size_t i = 0; i < n; i++) {
        text_str(&c.bytes, texts[i]);
        mem_grow((void **)&c.doc_end, &c.cap_docs, c.n_docs + 1, sizeof *c.doc_end, "test");
        c.doc_end[c.n_docs++] = c.bytes.len;
    }
    return c;
}

// Documents that name the numbers [from, to), in falling order.
static struct corpus corpus_of_numbers(int from, int to) {
    struct corpus c = {0};
    for (int i = to - 1; i >= from; i--) {
        text_fmt(&c.bytes, "document number %d of the test, and a few words more", i * 7919);
        mem_grow((void **)&c.doc_end, &c.cap_docs, c.n_docs + 1, sizeof *c.doc_end, "test");
        c.doc_end[c.n_docs++] = c.bytes.len;
    }
    return c;
}

// --- guard ---------------------------------------------------------------------------------------------------------

static void feed_history(struct guard *g, int n) {
    for (int i = 0; i < n; i++)
        cr_assert_eq(guard_judge(g, 3 + 0.05 * rng_normal(1, 0, (uint64_t)i),
                                 1 + 0.1 * rng_normal(1, 1, (uint64_t)i)),
                     GUARD_KEEP, "step %d", i);
}

Test(guard, skips_what_is_not_finite_at_once) {
    struct guard g = {.limit = 6};
    cr_expect_eq(guard_judge(&g, NAN, 1), GUARD_NOT_FINITE);
    cr_expect_eq(guard_judge(&g, 1, INFINITY), GUARD_NOT_FINITE);
    cr_expect_eq(guard_judge(&g, -INFINITY, 1), GUARD_NOT_FINITE);
    cr_expect_eq(g.skipped, 3);
    cr_expect_eq(g.in_a_row, 3);
    cr_expect_eq(guard_judge(&g, 1, 1), GUARD_KEEP);
    cr_expect_eq(g.in_a_row, 0);
    cr_expect_eq(g.count, 1);
    for (int i = 0; i < 100; i++)
        cr_expect_eq(guard_judge(&g, NAN, 1), GUARD_NOT_FINITE, "never accepted");
}

Test(guard, skips_upward_outliers_of_loss_and_norm_only) {
    struct guard g = {.limit = 6};
    feed_history(&g, 200);
    cr_expect_eq(guard_judge(&g, 3.5, 1), GUARD_LOSS);
    cr_expect_eq(guard_judge(&g, 3, 2), GUARD_NORM);
    cr_expect_eq(guard_judge(&g, 0.1, 0.01), GUARD_KEEP, "less is no outlier");
    cr_expect_eq(g.skipped, 2);
    struct guard off = {.limit = 0};
    for (int i = 0; i < 200; i++) cr_assert_eq(guard_judge(&off, 3, 1), GUARD_KEEP);
    cr_expect_eq(guard_judge(&off, 1e9, 1e9), GUARD_KEEP);
}

Test(guard, waits_for_32_steps) {
    struct guard g = {.limit = 6};
    feed_history(&g, 31);
    cr_expect_eq(guard_judge(&g, 100, 100), GUARD_KEEP);
    struct guard full = {.limit = 6};
    feed_history(&full, 32);
    cr_expect_eq(guard_judge(&full, 100, 1), GUARD_LOSS);
}

Test(guard, leaves_a_flat_history_and_a_fast_fall_alone) {
    struct guard g = {.limit = 6};
    for (int i = 0; i < 300; i++) cr_assert_eq(guard_judge(&g, 2, 1), GUARD_KEEP);
    cr_expect_eq(guard_judge(&g, 2.1, 1.5), GUARD_KEEP, "5%% and 50%% above a constant");
    struct guard fall = {.limit = 6};
    for (int i = 0; i < 300; i++)
        cr_assert_eq(guard_judge(&fall, 2 + 8 * exp(-i / 20.0), 1 + 5 * exp(-i / 10.0)), GUARD_KEEP,
                     "step %d", i);
}

// One that can go back accepts no new level; a slow rise is found too, and a fall or a flat stretch never.
Test(guard, says_when_a_run_is_lost) {
    struct guard g = {.limit = 6, .goes_back = true};
    feed_history(&g, 100);
    cr_expect(guard_calm(&g) && !guard_lost(&g));
    for (int i = 0; i < GUARD_PATIENCE; i++) {
        cr_expect_null(guard_lost(&g));
        cr_expect_eq(guard_judge(&g, i % 2 ? 5 : NAN, 1), i % 2 ? GUARD_LOSS : GUARD_NOT_FINITE);
        cr_expect_not(guard_calm(&g));
    }
    cr_expect_not_null(guard_lost(&g));
    struct guard slow = {.limit = 6, .goes_back = true};
    feed_history(&slow, 100);
    int steps = 0;
    for (; steps < 100 && !guard_lost(&slow); steps++) cr_assert_eq(guard_judge(&slow, 3 + 0.03 * steps, 1), GUARD_KEEP, "step %d", steps);
    cr_expect(steps > GUARD_PATIENCE && steps < 20 && slow.skipped == 0, "%d steps", steps);
    struct guard fall = {.limit = 6, .goes_back = true};
    for (int i = 0; i < 400; i++) {
        guard_judge(&fall, 2 + 8 * exp(-i / 20.0), 1);
        cr_assert_null(guard_lost(&fall), "step %d", i);
    }
}

Test(guard, accepts_a_new_level_after_patience) {
    struct guard g = {.limit = 6};
    feed_history(&g, 100);
    int skipped = 0;
    while (guard_judge(&g, 5, 1) != GUARD_KEEP) cr_assert_lt(++skipped, 1000, "stuck");
    cr_expect_eq(skipped, GUARD_PATIENCE - 1);
    cr_expect_eq(g.count, 1, "history was forgotten");
    cr_expect_eq(guard_judge(&g, 5, 1), GUARD_KEEP);
}

// --- corpus --------------------------------------------------------------------------------------------------------

Test(corpus, a_file_without_markers_is_one_document_byte_for_byte, .init = make_folder,
     .fini = remove_folder) {
    static const char *const texts[] = {"\n\n one \r\n two\n\n",
                                        "x <|endoftext|> y\n<|endoftext|> \n", "no line end"};
    struct err err = {{0}};
    for (size_t i = 0; i < COUNT_OF(texts); i++) {
        struct corpus c;
        const char *path = put("a.txt", texts[i]);
        cr_assert(corpus_read(&c, &path, 1, &err), "%s", err.text);
        expect_documents(&c, 1, &texts[i]);
        corpus_free(&c);
    }
}

Test(corpus, marker_lines_part_documents, .init = make_folder, .fini = remove_folder) {
    static const struct {
        const char *text;
        size_t n;
        const char *docs[3];
    } cases[] = {
        {"A\n<|endoftext|>\nB\n", 2, {"A", "B"}},
        {"A\n<|endoftext|>\nB", 2, {"A", "B"}},
        {"A\r\nA2\r\n<|endoftext|>\r\nB\r\n", 2, {"A\r\nA2", "B"}},
        {"A\n\n<|endoftext|>\n\nB\n\n<|endoftext|>\n", 2, {"A", "B"}},
        {"A\r\n\r\n<|endoftext|>\r\n\r\nB", 2, {"A", "B"}},
        {"A\n\n\n<|endoftext|>\n\n\nB", 2, {"A\n", "\nB"}},
        {"<|endoftext|>\nA\n<|endoftext|>\n<|endoftext|>\n\n<|endoftext|>", 1, {"A"}},
        {"\nA\n<|endoftext|>\n", 1, {"\nA"}},
        {"A\n<|endoftext|>", 1, {"A"}},
        {"A<|endoftext|>\n<|endoftext|>\n <|endoftext|>\nB",
         2,
         {"A<|endoftext|>", " <|endoftext|>\nB"}},
    };
    struct err err = {{0}};
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct corpus c;
        const char *path = put("a.txt", cases[i].text);
        cr_assert(corpus_read(&c, &path, 1, &err), "case %zu: %s", i, err.text);
        expect_documents(&c, cases[i].n, cases[i].docs);
        corpus_free(&c);
    }
}

Test(corpus, json_lines_are_documents_and_bad_ones_are_named, .init = make_folder,
     .fini = remove_folder) {
    struct err err = {{0}};
    struct corpus c;
    const char *path =
        put("a.jsonl", "{\"id\": 1, \"text\": \"A\\nB \\u00e9\", \"meta\": {\"text\": 3}}\r\n\n"
                       "  \n{\"text\": \"\"}\n{\"text\":\"<|endoftext|>\"}");
    cr_assert(corpus_read(&c, &path, 1, &err), "%s", err.text);
    expect_documents(&c, 2, (const char *[]){"A\nB \xc3\xa9", "<|endoftext|>"});
    corpus_free(&c);
    static const char *const bad[] = {"{\"text\": \"x\"",
                                      "{\"text\": 5}",
                                      "{\"tex\": \"x\"}",
                                      "[\"text\"]",
                                      "text",
                                      "{}",
                                      "{\"text\": \"a\", \"text\": \"b\"}",
                                      "{\"text\": \"x\"} x",
                                      "{\"text\": null}"};
    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        struct text t = {0};
        text_fmt(&t, "{\"text\": \"fine\"}\n\n%s\n{\"text\": \"fine\"}\n", bad[i]);
        path = put("b.jsonl", t.data);
        cr_expect_not(corpus_read(&c, &path, 1, &err), "'%s' was read", bad[i]);
        cr_expect(strstr(err.text, "b.jsonl line 3"), "'%s': %s", bad[i], err.text);
        cr_expect(c.bytes.data == NULL && c.n_docs == 0, "a failure leaves nothing");
        text_free(&t);
    }
}

Test(corpus, folders_are_read_in_order_and_nothing_is_skipped_silently, .init = make_folder,
     .fini = remove_folder) {
    struct err err = {{0}};
    struct corpus c;
    cr_assert(file_make_folder(in_folder("d/b/deep"), &err) &&
              file_make_folder(in_folder("d/.git"), &err));
    put("d/c.txt", "3");
    put("d/b/deep/x.text", "2");
    put("d/b/a.md", "1");
    put("d/picture.png", "no");
    put("d/.git/x.txt", "no");
    put("d/a.jsonl", "{\"text\": \"0\"}");
    put("d/empty.txt", "");
    put("d/empty.jsonl", "");
    put_bytes("d/z.txt", "a\0b", 3);
    put("d/shard.tok", "later");
    cr_assert_eq(symlink("..", in_folder("d/loop")), 0);
    cr_assert_eq(symlink("nowhere", in_folder("d/dangling.txt")), 0);
    const char *path = in_folder("d");
    cr_assert(corpus_read(&c, &path, 1, &err), "%s", err.text);
    expect_documents(&c, 4, (const char *[]){"0", "1", "2", "3"});
    cr_assert_eq(c.shards.count, 1);
    cr_expect(strstr(c.shards.word[0], "d/shard.tok"));
    static const char *const named[] = {"z.txt", ".git", "loop", "dangling.txt",
                                        "skipped 1 file in"};
    for (size_t i = 0; i < COUNT_OF(named); i++)
        cr_expect(strstr(c.notes.data, named[i]), "%s is not in the notes:\n%s", named[i],
                  c.notes.data);
    corpus_free(&c);
}

Test(corpus, refuses_what_is_no_text_with_a_reason, .init = make_folder, .fini = remove_folder) {
    struct err err = {{0}};
    struct corpus c;
    struct {
        const char *path, *says;
    } cases[] = {
        {put_bytes("model.gguf", "GGUF\3\0\0\0", 8), "GGUF"},
        {put_bytes("wide.txt",
                   "\xff\xfe"
                   "a\0b\0",
                   6),
         "UTF-16"},
        {in_folder("nothing-here.txt"), "nothing"},
        {put("empty.txt", ""), "nothing to train on"},
        {"/dev/zero", "device"},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        cr_expect_not(corpus_read(&c, &cases[i].path, 1, &err), "%s was read", cases[i].path);
        cr_expect(strstr(err.text, cases[i].says), "%s: %s", cases[i].path, err.text);
    }
    cr_expect_not(corpus_read(&c, NULL, 0, &err));
}

Test(corpus, standard_input_and_pipes_are_text, .init = make_folder, .fini = remove_folder) {
    struct err err = {{0}};
    struct corpus c;
    int fd = open(put("in", "A\n<|endoftext|>\nB\n"), O_RDONLY);
    cr_assert(fd >= 0 && dup2(fd, 0) == 0);
    const char *path = "-";
    cr_assert(corpus_read(&c, &path, 1, &err), "%s", err.text);
    expect_documents(&c, 2, (const char *[]){"A", "B"});
    corpus_free(&c);
    path = in_folder("fifo");
    cr_assert_eq(mkfifo(path, 0600), 0);
    pid_t child = fork();
    if (child == 0) {
        FILE *f = fopen(path, "w");
        _exit(!f || fputs("from a pipe", f) < 0 || fclose(f));
    }
    cr_assert(corpus_read(&c, &path, 1, &err), "%s", err.text);
    waitpid(child, NULL, 0);
    expect_documents(&c, 1, (const char *[]){"from a pipe"});
    corpus_free(&c);
}

// --- tokens --------------------------------------------------------------------------------------------------------

// The ids as text again: decoded bytes, '|' for end marks.
static char *spell(const struct tokens *t, const struct tokenizer *tok) {
    struct text s = {0};
    text_str(&s, "");
    for (int64_t i = 0; i < t->count; i++) {
        struct span p = tokenizer_piece(tok, tokens_at(t, i));
        if (tokens_at(t, i) == t->eos) text_str(&s, "|");
        else text_add(&s, p.p, p.n);
    }
    return s.data;
}

Test(tokens, documents_end_with_a_mark_and_bytes_count_it) {
    struct tokenizer *tok = tokenizer_byte();
    struct corpus c = corpus_of(3, (const char *[]){"one", "t\xc3\xa9", "3"});
    struct tokens train;
    struct err err = {{0}};
    cr_assert(tokens_make(&c, tok, 0, &train, NULL, &err), "%s", err.text);
    char *s = spell(&train, tok);
    cr_expect_str_eq(s, "one|t\xc3\xa9|3|");
    cr_expect_eq(train.bytes, 10);
    cr_expect_eq(train.documents, 3);
    cr_expect_str_eq(train.split, "whole");
    cr_expect_eq(train.start, train.eos);
    cr_expect_not_null(train.t16);
    mem_free(s);
    tokens_free(&train);
    corpus_free(&c);
    tokenizer_free(tok);
}

static bool has_document(const struct tokens *t, const struct tokenizer *tok, const char *words) {
    char *s = spell(t, tok);
    bool has = strstr(s, words) != NULL;
    mem_free(s);
    return has;
}

Test(tokens, a_document_keeps_its_side_whatever_else_there_is) {
    struct tokenizer *tok = tokenizer_byte();
    struct corpus small = corpus_of_numbers(0, 400), large = corpus_of_numbers(0, 1000);
    struct tokens a[2], b[2];
    struct err err = {{0}};
    cr_assert(tokens_make(&small, tok, 0.1, &a[0], &a[1], &err) &&
              tokens_make(&large, tok, 0.1, &b[0], &b[1], &err));
    cr_assert_str_eq(a[0].split, "by document");
    cr_assert_str_eq(b[1].split, "by document");
    cr_expect(a[1].documents > 20 && a[1].documents < 60, "%lld of 400", (long long)a[1].documents);
    cr_expect_eq(a[0].documents + a[1].documents, 400);
    for (int i = 0; i < 400; i += 7) {
        char words[64];
        snprintf(words, sizeof words, "number %d of", i * 7919);
        int in_a = has_document(&a[1], tok, words), in_b = has_document(&b[1], tok, words);
        cr_expect_eq(in_a, in_b, "%s changed sides", words);
        cr_expect_eq(has_document(&a[0], tok, words), !in_a);
    }
    for (int i = 0; i < 2; i++) tokens_free(&a[i]), tokens_free(&b[i]);
    corpus_free(&small);
    corpus_free(&large);
    tokenizer_free(tok);
}

Test(tokens, few_documents_are_cut_by_position) {
    struct tokenizer *tok = tokenizer_byte();
    struct text text = {0};
    for (int i = 0; i < 1000; i++) text_fmt(&text, "line %d\n", i);
    struct corpus c = corpus_of(1, (const char *[]){text.data});
    struct tokens train, valid;
    struct err err = {{0}};
    cr_assert(tokens_make(&c, tok, 0.1, &train, &valid, &err));
    cr_expect_str_eq(train.split, "by position");
    char *a = spell(&train, tok), *b = spell(&valid, tok);
    size_t n = strlen(a) - 1;
    cr_assert_eq(a[n], '|', "an end mark on both sides of the cut");
    cr_expect_eq(a[n - 1], '\n');
    cr_expect_float_eq((double)n / (double)text.len, 0.9, 0.002);
    cr_expect(strncmp(a, text.data, n) == 0 && strncmp(b, text.data + n, text.len - n) == 0,
              "nothing lost at the cut");
    cr_expect_eq(train.bytes + valid.bytes, (double)text.len + 2);
    mem_free(a), mem_free(b);
    tokens_free(&train), tokens_free(&valid);
    corpus_free(&c);
    // Without lines the cut falls between characters.
    text_clear(&text);
    for (int i = 0; i < 4000; i++) text_str(&text, "\xe2\x82\xac");
    c = corpus_of(1, (const char *[]){text.data});
    cr_assert(tokens_make(&c, tok, 0.33333, &train, &valid, &err));
    cr_expect_eq((train.count - 1) % 3, 0);
    cr_expect_eq((valid.count - 1) % 3, 0);
    tokens_free(&train), tokens_free(&valid);
    corpus_free(&c);
    text_free(&text);
    tokenizer_free(tok);
}

Test(tokens, one_giant_among_many_documents_does_not_spoil_the_split) {
    struct tokenizer *tok = tokenizer_byte();
    for (int which = 0; which < 30;
         which++) { // some of these giants have a hash on the validation side
        struct corpus c = corpus_of_numbers(0, 30);
        for (int i = 0; i < 3000; i++) text_fmt(&c.bytes, "giant %d line %d\n", which, i);
        mem_grow((void **)&c.doc_end, &c.cap_docs, c.n_docs + 1, sizeof *c.doc_end, "test");
        c.doc_end[c.n_docs++] = c.bytes.len;
        struct tokens train, valid;
        struct err err = {{0}};
        cr_assert(tokens_make(&c, tok, 0.1, &train, &valid, &err));
        double share = valid.bytes / (valid.bytes + train.bytes);
        cr_expect(share > 0.03 && share < 0.31, "giant %d: %g in validation, %s", which, share,
                  train.split);
        tokens_free(&train), tokens_free(&valid);
        corpus_free(&c);
    }
    tokenizer_free(tok);
}

Test(tokens, do_not_depend_on_threads_and_long_documents_equal_their_whole) {
    struct corpus c = corpus_of_numbers(0, 500);
    struct err err = {{0}};
    for (int i = 0; i < 40000; i++)
        text_fmt(&c.bytes, "%s wor%ld's  thing%s", i % 50 ? "" : "\n\n", (long)(i % 977),
                 i % 3 ? "" : " a thing");
    mem_grow((void **)&c.doc_end, &c.cap_docs, c.n_docs + 1, sizeof *c.doc_end, "test");
    c.doc_end[c.n_docs++] = c.bytes.len;
    struct span sample = {c.bytes.data, 1 << 16};
    struct tokenizer *tok = tokenizer_train(&sample, 1, 600, 0, &err);
    cr_assert_not_null(tok, "%s", err.text);
    struct tokens one, four;
    cr_assert(tokens_make(&c, tok, 0, &one, NULL, &err));
    pool_start(4);
    cr_assert(tokens_make(&c, tok, 0, &four, NULL, &err));
    cr_assert_eq(one.count, four.count);
    cr_expect_eq(memcmp(one.t16, four.t16, (size_t)one.count * 2), 0);
    cr_expect_eq(one.hash, four.hash);
    struct ids whole = {0};
    size_t start = c.doc_end[499];
    tokenizer_encode(tok, c.bytes.data + start, c.bytes.len - start, 0, &whole);
    cr_assert_leq((int64_t)whole.count + 1, one.count);
    for (size_t i = 0; i < whole.count; i++)
        cr_assert_eq(tokens_at(&one, one.count - 1 - (int64_t)whole.count + (int64_t)i),
                     whole.id[i], "id %zu", i);
    ids_free(&whole);
    tokens_free(&one), tokens_free(&four);
    corpus_free(&c);
    tokenizer_free(tok);
}

Test(tokens, a_file_of_tokens_comes_back, .init = make_folder, .fini = remove_folder) {
    struct tokenizer *tok = tokenizer_byte();
    struct corpus c = corpus_of_numbers(0, 50);
    struct tokens made, read;
    struct err err = {{0}};
    const char *path = in_folder("a.tok");
    cr_assert(tokens_make(&c, tok, 0, &made, NULL, &err));
    cr_assert(tokens_write(&made, tokenizer_hash(tok), path, &err), "%s", err.text);
    cr_assert(tokens_open(&read, path, tokenizer_hash(tok), 257, &err), "%s", err.text);
    cr_expect(read.count == made.count && read.eos == made.eos && read.start == made.start &&
              read.hash == made.hash && read.bytes == made.bytes &&
              read.documents == made.documents);
    tokens_free(&read);
    cr_expect_not(tokens_open(&read, path, tokenizer_hash(tok) + 1, 257, &err));
    cr_expect(strstr(err.text, "another tokenizer"), "%s", err.text);
    cr_expect_not(tokens_open(&read, path, tokenizer_hash(tok), 100, &err),
                  "ids outside the vocabulary");
    tokens_free(&made);
    corpus_free(&c);
    tokenizer_free(tok);
}

Test(tokens, damaged_files_are_refused, .init = make_folder, .fini = remove_folder) {
    struct tokenizer *tok = tokenizer_byte();
    struct corpus c = corpus_of(2, (const char *[]){"one", "two"});
    struct tokens t;
    struct err err = {{0}};
    struct text good = {0};
    cr_assert(tokens_make(&c, tok, 0, &t, NULL, &err));
    cr_assert(tokens_write(&t, tokenizer_hash(tok), in_folder("a.tok"), &err));
    tokens_free(&t);
    cr_assert(file_read_all(in_folder("a.tok"), 1000, &good, &err));
    for (size_t n = 0; n < good.len; n++) {
        const char *path = put_bytes("cut.tok", good.data, n);
        cr_expect_not(tokens_open(&t, path, tokenizer_hash(tok), 257, &err), "%zu bytes were read",
                      n);
    }
    for (size_t bit = 0; bit < 52 * 8;
         bit++) { // magic to start, the text bytes apart, where any number may stand
        if (bit / 8 >= 32 && bit / 8 < 48) continue;
        good.data[bit / 8] ^= (char)(1 << bit % 8);
        const char *path = put_bytes("bad.tok", good.data, good.len);
        if (tokens_open(&t, path, tokenizer_hash(tok), 257, &err)) {
            bool mark = bit / 8 >= 20 &&
                        bit / 8 < 24; // another id of the vocabulary as end mark cannot be told
            mark = mark || bit / 8 >= 48;
            cr_expect(mark, "a flip of bit %zu was not seen", bit);
            tokens_free(&t);
        }
        good.data[bit / 8] ^= (char)(1 << bit % 8);
    }
    text_free(&good);
    corpus_free(&c);
    tokenizer_free(tok);
}

Test(tokens, shards_are_used_as_they_are, .init = make_folder, .fini = remove_folder) {
    struct tokenizer *tok = tokenizer_byte();
    struct corpus text = corpus_of_numbers(0, 50), c;
    struct tokens whole, train, valid;
    struct err err = {{0}};
    cr_assert(tokens_make(&text, tok, 0, &whole, NULL, &err));
    const char *paths[3] = {in_folder("a.tok"), in_folder("b.tok"), put("c.txt", "and text")};
    cr_assert(tokens_write(&whole, tokenizer_hash(tok), paths[0], &err));
    cr_assert(tokens_write(&whole, tokenizer_hash(tok), paths[1], &err));
    cr_assert(corpus_read(&c, paths, 1, &err), "%s", err.text);
    cr_assert(tokens_make(&c, tok, 0.1, &train, &valid, &err), "%s", err.text);
    cr_expect_not_null(train.map.data, "one shard stays mapped");
    cr_expect_eq(train.count + valid.count, whole.count);
    cr_expect_eq(train.bytes + valid.bytes, whole.bytes);
    cr_expect_eq(train.documents + valid.documents, 50);
    cr_expect_float_eq((double)valid.count / (double)whole.count, 0.1, 0.03);
    cr_expect_eq(tokens_at(&train, train.count - 1), whole.eos, "cut after an end mark");
    char *a = spell(&train, tok), *b = spell(&valid, tok), *w = spell(&whole, tok);
    cr_expect(strncmp(w, a, strlen(a)) == 0 && strcmp(w + strlen(a), b) == 0);
    mem_free(a), mem_free(b), mem_free(w);
    tokens_free(&valid), tokens_free(&train);
    corpus_free(&c);
    cr_assert(corpus_read(&c, paths, 3, &err), "%s", err.text);
    cr_assert(tokens_make(&c, tok, 0, &train, NULL, &err), "%s", err.text);
    cr_expect_eq(train.count, 2 * whole.count + 9);
    cr_expect_eq(train.bytes, 2 * whole.bytes + 9);
    cr_expect_eq(train.documents, 101);
    tokens_free(&train);
    tokens_free(&whole);
    corpus_free(&c), corpus_free(&text);
    tokenizer_free(tok);
}

// --- loader --------------------------------------------------------------------------------------------------------

enum { N = 1009, EOS = 7 };
static uint16_t ring[N];

// Every id is the position (mod 60000), an EOS at irregular places.
static struct tokens ring_tokens(void) {
    for (int i = 0; i < N; i++) ring[i] = (uint16_t)(1000 + i);
    for (int i = 3; i < N; i += 5 + i % 17) ring[i] = EOS;
    ring[N - 1] = EOS;
    return (struct tokens){.t16 = ring, .count = N, .eos = EOS, .start = EOS};
}

Test(loader, every_token_once_per_epoch_and_other_orders_each_epoch) {
    enum { T = 16 };
    for (int i = 0; i < N; i++) ring[i] = (uint16_t)i;
    struct tokens t = {.t16 = ring, .count = N, .eos = -1, .start = -1};
    int64_t per_epoch = loader_epoch(&t, T);
    cr_assert_eq(per_epoch, N / T);
    int32_t ids[T], targets[T], docs[T], first[4][N / T];
    for (int64_t e = 0; e < 4; e++) {
        char seen[N] = {0};
        for (int64_t s = 0; s < per_epoch; s++) {
            loader_sequence(&t, T, 5, e * per_epoch + s, 0, ids, targets, docs);
            first[e][s] = ids[0];
            for (int i = 0; i < T; i++) {
                cr_assert_eq(seen[ids[i]]++, 0, "token %d twice in epoch %lld", ids[i],
                             (long long)e);
                cr_assert_eq(targets[i], ids[i] == N - 1 ? -1 : ids[i] + 1);
            }
        }
    }
    cr_expect_neq(memcmp(first[0], first[1], sizeof first[0]), 0);
    cr_expect_neq(memcmp(first[2], first[3], sizeof first[0]), 0);
    loader_sequence(&t, T, 6, 0, 0, ids, targets, docs);
    cr_expect_neq(ids[0], first[0][0], "another seed, another order");
}

Test(loader, is_a_pure_function_of_the_sequence_number) {
    enum { T = 24, S = 40 };
    struct tokens t = ring_tokens();
    int32_t all[3][S * T], one[3][T];
    for (int s = 0; s < S; s++)
        loader_sequence(&t, T, 9, 1000 + s, s * T, all[0] + s * T, all[1] + s * T, all[2] + s * T);
    for (int s = S - 1; s >= 0; s--) {
        loader_sequence(&t, T, 9, 1000 + s, 0, one[0], one[1], one[2]);
        for (int i = 0; i < T; i++) {
            cr_assert_eq(one[0][i], all[0][s * T + i]);
            cr_assert_eq(one[1][i], all[1][s * T + i]);
            cr_assert_eq(one[2][i] + s * T, all[2][s * T + i], "doc_start counts from base");
        }
    }
}

// Each text has its share in every stretch, each of its own sequences comes once, and another seed mixes otherwise.
Test(mixture, shares_hold_in_every_stretch_and_no_sequence_is_lost) {
    enum { RUN = 64 * 250 };
    static const double shares[][3] = {{0.95, 0.05, 0}, {0.5, 0.5, 0}, {0.999, 0.001, 0}, {0.01, 0.99, 0}, {3, 1, 0}, {0.6, 0.3, 0.1}, {1, 0, 0.02}};
    for (size_t k = 0; k < COUNT_OF(shares); k++) {
        struct mixture m = {.count = shares[k][2] > 0 ? 3 : 2, .share = {shares[k][0], shares[k][1], shares[k][2]}};
        const double all = shares[k][0] + shares[k][1] + shares[k][2];
        static char seen[3][RUN];
        int64_t count[3] = {0}, most[3] = {-1, -1, -1}, moved = 0;
        memset(seen, 0, sizeof seen);
        for (int64_t s = 0; s < RUN; s++) {
            int64_t own = s, other = s;
            int source = mixture_source(&m, 5, &own);
            cr_assert(own >= 0 && own < RUN && seen[source][own]++ == 0, "text %d, sequence %lld twice", source, (long long)own);
            most[source] = own > most[source] ? own : most[source];
            count[source]++;
            moved += mixture_source(&m, 6, &other) != source;
            for (int i = 0; i < m.count && (s + 1) % 64 == 0; i++) {
                double off = fabs((double)count[i] - (double)(s + 1) * m.share[i] / all);
                cr_assert(off < (m.count == 2 || i == 2 ? 1 : 12), "text %d of case %zu: %g off at %lld", i, k, off, (long long)s + 1);
                if (m.count == 2 || i == 2) cr_assert(count[i] == most[i] + 1, "text %d leaves out a sequence", i);
            }
        }
        cr_expect(m.share[1] < 0.05 || m.share[1] > 0.95 || moved > RUN / 50, "case %zu: the seed changes %lld", k, (long long)moved);
    }
}

Test(mixture, sequences_are_those_of_their_text) {
    enum { T = 16 };
    uint16_t other[N];
    struct tokens t = ring_tokens(), u = {.t16 = other, .count = N, .eos = -1, .start = -1, .hash = 1};
    for (int i = 0; i < N; i++) other[i] = (uint16_t)(30000 + i);
    struct mixture m = {2, {&t, &u}, {0.75, 0.25}};
    for (int64_t s = 0; s < 200; s++) {
        int32_t a[3][T], b[3][T];
        int64_t own = s;
        int source = mixture_source(&m, 3, &own);
        mixture_sequence(&m, T, 3, s, 0, a[0], a[1], a[2]);
        loader_sequence(source ? &u : &t, T, 3, own, 0, b[0], b[1], b[2]);
        cr_assert(memcmp(a, b, sizeof a) == 0 && (a[0][0] >= 30000) == source);
    }
    cr_expect(mixture_hash(&m) != mixture_hash(&(struct mixture){2, {&u, &t}, {0.75, 0.25}}));
    m.count = 1;
    for (int64_t s = 0; s < 70; s++) {
        int64_t own = s;
        cr_assert(mixture_source(&m, 3, &own) == 0 && own == s);
    }
    cr_expect_eq(mixture_hash(&m), t.hash);
}

Test(loader, rows_see_their_own_document_only) {
    enum { T = 32 };
    struct tokens t = ring_tokens();
    int32_t ids[T], targets[T], docs[T];
    for (int64_t s = 0; s < 100; s++) {
        loader_sequence(&t, T, 1, s, 0, ids, targets, docs);
        int32_t doc = 0;
        for (int i = 0; i < T; i++) {
            if (ids[i] == EOS) doc = i; // the end mark begins the next document
            cr_assert_eq(docs[i], doc, "sequence %lld row %d", (long long)s, i);
            if (i + 1 < T) cr_assert_eq(targets[i], ids[i + 1]);
        }
    }
}

Test(loader, a_separate_begin_mark_starts_documents_and_is_never_a_target) {
    enum { T = 8, BOS = 1, END = 2 };
    static const uint16_t ids16[] = {BOS, 10, 11, END, BOS, 12, 13, 14, END, BOS, 15, END};
    struct tokens t = {.t16 = ids16, .count = COUNT_OF(ids16), .eos = END, .start = BOS};
    int32_t ids[T], targets[T], docs[T];
    for (int64_t s = 0; s < 20; s++) {
        loader_sequence(&t, T, 3, s, 0, ids, targets, docs);
        for (int i = 0; i < T; i++) {
            cr_expect_eq(targets[i] == -1, ids[i] == END,
                         "after the end mark there is nothing to predict");
            if (ids[i] == BOS) cr_expect_eq(docs[i], i);
            if (ids[i] == END && i > 0) cr_expect_neq(docs[i], i);
        }
    }
}

Test(loader, validation_scores_every_token_exactly_once) {
    static const int64_t lengths[] = {1, 7, 64, 1008, 1009, 1010, 5000};
    struct tokens t = ring_tokens();
    for (size_t k = 0; k < COUNT_OF(lengths); k++) {
        int64_t T = lengths[k], at = 0;
        int32_t *ids = mem_array((size_t)T, 4, "test"), *targets = mem_array((size_t)T, 4, "test"),
                *docs = mem_array((size_t)T, 4, "test");
        for (int64_t w = 0; w < loader_windows(&t, T); w++) {
            loader_window(&t, T, w, 100, ids, targets, docs);
            for (int64_t i = 0; i < T; i++) {
                cr_assert(docs[i] >= 100 && docs[i] <= 100 + i && ids[i] >= 0);
                if (targets[i] < 0) continue;
                cr_assert_eq(targets[i], ring[at], "T %lld, token %lld", (long long)T,
                             (long long)at);
                cr_assert_eq(ids[i], at ? ring[at - 1] : EOS);
                if (ids[i] == EOS) cr_assert_eq(docs[i], 100 + i);
                at++;
            }
        }
        cr_expect_eq(at, N, "T %lld scored %lld of %d", (long long)T, (long long)at, N);
        mem_free(ids), mem_free(targets), mem_free(docs);
    }
}

// --- optimizer, checkpoints ----------------------------------------------------------------------------------------

enum { T = 16, ROWS = 4 * T };

static struct model_config tiny_config(void) {
    struct model_config c = {.family = family_find("granite"),
                             .C = 32,
                             .L = 2,
                             .H = 2,
                             .D = 16,
                             .V = 257,
                             .ctx = 32,
                             .tied = true,
                             .base_width = 16,
                             .mup = true};
    config_derive(&c);
    return c;
}

struct run { // a whole small training run
    struct model *model;
    struct optimizer *optimizer;
    struct train_state *state;
    struct tokenizer *tokenizer;
    struct tokens tokens;
    struct run_state r;
    double losses[16];
};

static const struct optimizer_options adamw = {0.9, 0.95, 1e-8, 0.1, 1.0, 0.95, NULL};

static void run_open(struct run *x, uint64_t seed) {
    struct err err = {{0}};
    struct model_config c = tiny_config();
    const struct backend *b = backend_cpu("plain", &err);
    *x = (struct run){.r = {.batch_tokens = ROWS, .T = T, .seed = seed, .guard = {.limit = 6}}};
    cr_assert_not_null(b, "%s", err.text);
    cr_assert(config_check(&c, &err), "%s", err.text);
    x->tokenizer = tokenizer_byte();
    x->model = model_new(&c, b, DTYPE_F32, seed, &err);
    cr_assert_not_null(x->model, "%s", err.text);
    x->optimizer = optimizer_new(x->model, &adamw, &err);
    x->state = train_state_new(x->model, ROWS, T, SIZE_MAX, &err);
    cr_assert(x->optimizer && x->state, "%s", err.text);
    struct corpus text = corpus_of_numbers(0, 40);
    cr_assert(tokens_make(&text, x->tokenizer, 0, &x->tokens, NULL, &err));
    x->r.data_hash = x->tokens.hash;
    text_str(&x->r.options, "lr = 0.01\nname = \"x\"\n");
    corpus_free(&text);
}

static void run_close(struct run *x) {
    train_state_free(x->state);
    optimizer_free(x->optimizer);
    model_free(x->model);
    tokens_free(&x->tokens);
    tokenizer_free(x->tokenizer);
    text_free(&x->r.options);
}

static void run_steps(struct run *x, int n) {
    int32_t ids[ROWS], targets[ROWS], docs[ROWS];
    for (int k = 0; k < n; k++) {
        for (int i = 0; i < ROWS / T; i++)
            loader_sequence(&x->tokens, T, x->r.seed, x->r.tokens / T + i, i * T, ids + i * T,
                            targets + i * T, docs + i * T);
        train_zero_grads(x->state);
        double loss = train_loss(x->state, &(struct train_batch){ROWS, T, ids, targets, docs},
                                 1.0f / ROWS, NULL) /
                      ROWS;
        train_close_grads(x->state);
        double norm = optimizer_grad_norm(x->optimizer);
        cr_assert(isfinite(loss) && isfinite(norm));
        guard_judge(&x->r.guard, loss, norm);
        optimizer_step(x->optimizer, 0.01, norm, x->r.step + 1);
        x->losses[x->r.step++] = loss;
        x->r.tokens += ROWS;
    }
}

static bool save(struct run *x, int keep, struct err *err) {
    return checkpoint_save(folder, x->model, x->tokenizer, x->optimizer, &x->r, keep, err);
}

// The newest checkpoint into x, which was opened with any seed.
static void resume(struct run *x, struct err *err) {
    char *path;
    struct text notes = {0};
    cr_assert(checkpoint_newest(folder, &path, &notes, err), "%s %s", err->text,
              notes.data ? notes.data : "");
    struct model_file *f = model_file_open(path, err);
    cr_assert_not_null(f, "%s", err->text);
    text_free(&x->r.options);
    cr_assert(checkpoint_read_state(f, &x->r, err), "%s", err->text);
    cr_assert(checkpoint_read_tensors(f, x->model, x->optimizer, err), "%s", err->text);
    model_file_close(f);
    mem_free(path);
    text_free(&notes);
}

static void expect_same_weights(const struct run *a, const struct run *b) {
    for (int i = 0; i < a->model->n_params; i++) {
        const struct param *p = &a->model->params[i], *q = &b->model->params[i];
        cr_expect_eq(memcmp(p->w.data, q->w.data, (size_t)(p->rows * p->cols) * 4), 0, "%s differs",
                     p->name);
    }
}

Test(optimizer, norm_is_that_of_all_gradients_and_clips) {
    struct run x;
    run_open(&x, 1);
    double sum = 0;
    for (int i = 0; i < x.model->n_params; i++) {
        struct param *p = &x.model->params[i];
        for (int64_t k = 0; k < p->rows * p->cols; k++) {
            float g = (float)rng_normal(3, (uint64_t)i, (uint64_t)k);
            ((float *)p->grad.data)[k] = g;
            sum += (double)g * (double)g;
        }
    }
    double norm = optimizer_grad_norm(x.optimizer);
    cr_expect_float_eq(norm, sqrt(sum), 1e-9 * norm);
    ((float *)x.model->params[2].grad.data)[5] = NAN;
    cr_expect(isnan(optimizer_grad_norm(x.optimizer)));
    run_close(&x);
}

// With eps = 1 the first update is lr g / (|g| + 1), which shows the scale of g; AdamW with a small eps would not.
Test(optimizer, clips_to_the_global_norm) {
    static const struct { double clip, value; } cases[] = {{1, 1}, {1, 1e-4}, {0, 1}, {5, 0.5}};
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct run x;
        struct err err = {{0}};
        run_open(&x, 1);
        optimizer_free(x.optimizer);
        x.optimizer = optimizer_new(
            x.model, &(struct optimizer_options){0.9, 0.95, 1, 0, cases[i].clip, 0.95, NULL}, &err);
        int64_t count = 0;
        for (int k = 0; k < x.model->n_params; k++) {
            struct param *p = &x.model->params[k];
            for (int64_t j = 0; j < p->rows * p->cols; j++)
                ((float *)p->grad.data)[j] = (float)cases[i].value;
            count += p->rows * p->cols;
        }
        double norm = optimizer_grad_norm(x.optimizer), g = cases[i].value;
        cr_assert_float_eq(norm, g * sqrt((double)count), 1e-6 * norm);
        if (cases[i].clip > 0 && norm > cases[i].clip) g *= cases[i].clip / norm;
        float before = ((float *)x.model->params[0].w.data)[7];
        optimizer_step(x.optimizer, 0.5, norm, 1);
        double moved = (double)before - (double)((float *)x.model->params[0].w.data)[7];
        cr_expect_float_eq(moved, 0.5 * g / (g + 1), 1e-4 * g + 1e-7, "case %zu: moved by %g", i,
                           moved);
        run_close(&x);
    }
}

Test(optimizer, matrices_decay_and_norms_do_not) {
    struct run x;
    run_open(&x, 1);
    float before[64];
    for (int i = 0; i < x.model->n_params; i++) before[i] = ((float *)x.model->params[i].w.data)[3];
    train_zero_grads(x.state);
    optimizer_step(x.optimizer, 0.5, 0, 1); // no gradient: only the decay lr * lr_scale * 0.1 acts
    for (int i = 0; i < x.model->n_params; i++) {
        const struct param *p = &x.model->params[i];
        float now = ((float *)p->w.data)[3];
        double keeps = p->decay ? 1 - 0.05 * (double)p->lr_scale : 1;
        cr_expect_float_eq(now, (float)((double)before[i] * keeps), 1e-6, "%s: %g to %g", p->name,
                           before[i], now);
        cr_expect_eq(p->decay, p->rows > 1, "%s", p->name);
    }
    cr_expect_float_eq(x.model->params[2].lr_scale, 0.5, 1e-7, "muP: width 32 over base 16");
    run_close(&x);
}

Test(optimizer, learns) {
    struct run x;
    run_open(&x, 1);
    run_steps(&x, 15);
    cr_expect_lt(x.losses[14], x.losses[0] - 0.5, "%g to %g", x.losses[0], x.losses[14]);
    run_close(&x);
}

Test(checkpoint, a_resumed_run_is_the_run_that_was_never_stopped, .init = make_folder,
     .fini = remove_folder) {
    struct run whole, first, second;
    struct err err = {{0}};
    run_open(&whole, 0xFEDCBA9876543210u);
    run_steps(&whole, 6);
    run_open(&first, 0xFEDCBA9876543210u);
    run_steps(&first, 3);
    first.r.guard.loss[77] = 0.1 + 0.2; // a value with many bits, and counters
    first.r.guard.skipped = 3;
    first.r.seconds = 1.0 / 3;
    first.r.tokens_before = ((int64_t)1 << 40) + 7, first.r.steps_before = 12345;
    cr_assert(save(&first, 2, &err), "%s", err.text);
    run_open(&second, 99);
    resume(&second, &err);
    cr_expect_eq(memcmp(&second.r.guard, &first.r.guard, sizeof first.r.guard), 0);
    cr_expect(second.r.seed == first.r.seed && second.r.data_hash == first.r.data_hash &&
              second.r.step == 3 && second.r.tokens == 3 * ROWS && second.r.T == T &&
              second.r.batch_tokens == ROWS && second.r.seconds == first.r.seconds);
    cr_expect(second.r.tokens_before == first.r.tokens_before && second.r.steps_before == first.r.steps_before);
    cr_expect_str_eq(second.r.options.data, first.r.options.data);
    run_steps(&second, 3);
    for (int i = 3; i < 6; i++)
        cr_expect_eq(second.losses[i], whole.losses[i], "loss of step %d", i);
    expect_same_weights(&whole, &second);
    run_close(&whole), run_close(&first), run_close(&second);
}

// A key's value stands behind its name and its type of 4 bytes.
Test(checkpoint, of_an_older_version_is_refused_with_what_to_do, .init = make_folder, .fini = remove_folder) {
    static const char key[] = "train.version";
    struct run x;
    struct err err = {{0}};
    struct text bytes = {0};
    struct run_state state;
    run_open(&x, 1);
    cr_assert(save(&x, 1, &err), "%s", err.text);
    cr_assert(file_read_all(in_folder("ckpt-0.gguf"), 1 << 24, &bytes, &err), "%s", err.text);
    char *at = memmem(bytes.data, bytes.len, key, strlen(key));
    cr_assert_not_null(at);
    at[strlen(key) + 4] = 1;
    struct model_file *f = model_file_open(put_bytes("old.gguf", bytes.data, bytes.len), &err);
    cr_assert_not_null(f, "%s", err.text);
    cr_expect_not(checkpoint_read_state(f, &state, &err));
    cr_expect(strstr(err.text, "version 1") && strstr(err.text, "another --out"), "%s", err.text);
    model_file_close(f);
    text_free(&bytes);
    run_close(&x);
}

Test(checkpoint, a_write_that_fails_anywhere_leaves_the_last_one, .init = make_folder,
     .fini = remove_folder) {
    struct run x;
    struct err err = {{0}};
    char *path;
    struct stat st;
    run_open(&x, 1);
    run_steps(&x, 1);
    cr_assert(save(&x, 1, &err), "%s", err.text);
    cr_assert_eq(stat(in_folder("ckpt-64.gguf"), &st), 0);
    run_steps(&x, 1);
    for (uint64_t n = 1; n <= (uint64_t)st.st_size; n += (uint64_t)st.st_size / 37) {
        file_out_fail_at(n);
        cr_expect_not(save(&x, 1, &err), "a write failing at byte %llu went unnoticed",
                      (unsigned long long)n);
        cr_expect(strstr(err.text, "ckpt-128"), "%s", err.text);
        struct file_list list;
        cr_assert(file_list_open(&list, folder, &err));
        cr_expect(list.count == 1 && strcmp(list.names[0], "ckpt-64.gguf") == 0,
                  "the old file alone is there");
        file_list_free(&list);
    }
    cr_assert(checkpoint_newest(folder, &path, NULL, &err));
    mem_free(path);
    file_out_fail_at(0);
    cr_assert(save(&x, 1, &err), "%s", err.text);
    cr_expect(file_exists(in_folder("ckpt-128.gguf")) && !file_exists(in_folder("ckpt-64.gguf")));
    run_close(&x);
}

Test(checkpoint, keeps_the_newest_and_clears_up_after_the_dead, .init = make_folder,
     .fini = remove_folder) {
    struct run x;
    struct err err = {{0}};
    run_open(&x, 1);
    pid_t child = fork();
    if (child == 0) _exit(0);
    waitpid(child, NULL, 0);
    char dead[64], alive[64];
    snprintf(dead, sizeof dead, "ckpt-5.gguf.tmp-%ld", (long)child);
    snprintf(alive, sizeof alive, "ckpt-5.gguf.tmp-%ld", (long)getppid());
    put(dead, "x"), put(alive, "x");
    put("ckpt-007.gguf", "not ours"), put("ckpt-9999999.gguf", "another story"),
        put("notes.txt", "mine");
    for (int i = 0; i < 5; i++) {
        x.r.tokens = i * 1000;
        cr_assert(save(&x, 2, &err), "%s", err.text);
    }
    static const struct {
        const char *name;
        bool there;
    } expected[] = {
        {"ckpt-0.gguf", false},   {"ckpt-2000.gguf", false}, {"ckpt-3000.gguf", true},
        {"ckpt-4000.gguf", true}, {"ckpt-007.gguf", true},   {"ckpt-9999999.gguf", true},
        {"notes.txt", true},
    };
    for (size_t i = 0; i < COUNT_OF(expected); i++)
        cr_expect_eq(file_exists(in_folder(expected[i].name)), expected[i].there, "%s",
                     expected[i].name);
    cr_expect_not(file_exists(in_folder(dead)));
    cr_expect(file_exists(in_folder(alive)));
    run_close(&x);
}

Test(checkpoint, damage_is_found_and_the_newest_whole_one_is_taken, .init = make_folder,
     .fini = remove_folder) {
    struct run x;
    struct err err = {{0}};
    struct text good = {0}, notes = {0};
    char *path;
    run_open(&x, 1);
    cr_expect_not(checkpoint_newest(folder, &path, &notes, &err));
    cr_expect_str_eq(err.text, "", "no checkpoint is no error");
    cr_expect_not(checkpoint_newest("/tmp/lehr-no-such-folder", &path, &notes, &err));
    cr_expect_str_eq(err.text, "");
    run_steps(&x, 1);
    cr_assert(save(&x, 0, &err));
    run_steps(&x, 1);
    cr_assert(save(&x, 0, &err));
    cr_assert(file_read_all(in_folder("ckpt-128.gguf"), 1u << 30, &good, &err));
    for (int i = 0; i < 60; i++) {
        size_t at = (size_t)rng_below(11, 0, (uint64_t)i, good.len), n = good.len;
        char was = good.data[at];
        if (i % 3 == 0) n = at;
        else good.data[at] ^= (char)(1 << rng_below(11, 1, (uint64_t)i, 8));
        put_bytes("ckpt-128.gguf", good.data, n);
        good.data[at] = was;
        text_clear(&notes);
        cr_assert(checkpoint_newest(folder, &path, &notes, &err), "%s", err.text);
        cr_expect(strstr(path, "ckpt-64.gguf"), "damage %d at byte %zu was not seen", i, at);
        cr_expect(notes.len && strstr(notes.data, "ckpt-128.gguf"), "the damaged file is named");
        mem_free(path);
    }
    text_free(&good), text_free(&notes);
    run_close(&x);
}

Test(checkpoint, a_model_without_state_is_not_resumed, .init = make_folder, .fini = remove_folder) {
    struct run x;
    struct err err = {{0}};
    struct run_state r;
    run_open(&x, 1);
    cr_assert(
        checkpoint_export(in_folder("model.gguf"), x.model, x.tokenizer, DTYPE_F32, NULL, &err),
        "%s", err.text);
    struct model_file *f = model_file_open(in_folder("model.gguf"), &err);
    cr_assert_not_null(f);
    cr_expect_not(checkpoint_read_state(f, &r, &err));
    cr_expect(strstr(err.text, "expected a checkpoint"), "%s", err.text);
    cr_expect_not(checkpoint_read_tensors(f, x.model, x.optimizer, &err));
    cr_expect(checkpoint_read_tensors(f, x.model, NULL, &err), "%s", err.text);
    model_file_close(f);
    run_close(&x);
}

Test(checkpoint, exports_are_compared_before_they_are_put_in_place, .init = make_folder,
     .fini = remove_folder) {
    static const enum dtype dtypes[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16, DTYPE_Q8_0, DTYPE_Q4_0};
    struct run x;
    struct err err = {{0}};
    struct text notes = {0};
    run_open(&x, 1);
    run_steps(&x, 10);
    for (size_t i = 0; i < COUNT_OF(dtypes); i++) {
        text_clear(&notes);
        cr_expect(checkpoint_export(in_folder("model.gguf"), x.model, x.tokenizer, dtypes[i],
                                    &notes, &err),
                  "%s: %s", dtype_row(dtypes[i])->name, err.text);
        cr_expect(strstr(notes.data, "compared"), "%s", notes.data);
        if (dtypes[i] == DTYPE_F32)
            cr_expect(strstr(notes.data, "differ by 0 of"), "f32 is exact: %s", notes.data);
    }
    struct stat before, after;
    cr_assert_eq(stat(in_folder("model.gguf"), &before), 0);
    ((float *)x.model->params[0].w.data)[1] = NAN; // logits that cannot be equal
    cr_expect_not(
        checkpoint_export(in_folder("model.gguf"), x.model, x.tokenizer, DTYPE_F32, &notes, &err));
    cr_assert_eq(stat(in_folder("model.gguf"), &after), 0);
    cr_expect_eq(before.st_ino, after.st_ino, "the old model stands");
    struct file_list list;
    cr_assert(file_list_open(&list, folder, &err));
    cr_expect_eq(list.count, 1, "nothing is left beside it");
    file_list_free(&list);
    text_free(&notes);
    run_close(&x);
}

// --- plan ----------------------------------------------------------------------------------------------------------

Test(plan, adds_up_and_measures, .timeout = 60) {
    struct err err = {{0}};
    struct model_config c = tiny_config();
    struct plan p;
    struct plan_of of = {.config = &c, .backend = backend_cpu("plain", &err), .compute = DTYPE_F32, .optimizer = &optimizers[0],
                         .micro_rows = ROWS, .T = T, .batch_tokens = 4 * ROWS, .tokens = 100 * ROWS + 1, .data_bytes = 12345};
    cr_assert(plan_make(&p, &of, &err), "%s", err.text);
    cr_expect_eq(p.params, config_params(&c));
    cr_expect_eq(p.steps, 26);
    cr_expect_geq(p.weights_bytes, 4 * (size_t)p.params);
    cr_expect_geq(p.moments_bytes, 8 * (size_t)p.params);
    cr_expect_geq(p.peak_bytes, p.base_bytes + p.weights_bytes + p.grads_bytes + p.moments_bytes +
                                    p.activations_bytes);
    cr_expect(p.tokens_per_s > 100 && p.seconds > 0, "%g tokens/s", p.tokens_per_s);
    char *text = NULL;
    size_t n = 0;
    FILE *f = open_memstream(&text, &n);
    plan_print(&p, f);
    fclose(f);
    cr_expect(strstr(text, "memory") && strstr(text, "tokens/s"), "%s", text);
    free(text);
}

Test(plan, weights_are_what_a_model_allocates) {
    struct err err = {{0}};
    static const enum dtype computes[] = {DTYPE_F32, DTYPE_BF16};
    for (int tied = 0; tied < 2; tied++)
        for (int k = 0; k < 2; k++) {
            struct model_config c = tiny_config();
            c.tied = tied;
            const struct backend *b = backend_cpu("plain", &err);
            if (!b->supports(OP_MATMUL_DX, computes[k])) continue;
            struct plan p;
            struct model *m = model_new(&c, b, computes[k], 1, &err);
            cr_assert_not_null(m, "%s", err.text);
            struct plan_of of = {.config = &c, .backend = b, .compute = computes[k], .optimizer = &optimizers[0], .micro_rows = T,
                                 .T = T, .batch_tokens = T, .tokens = T};
            cr_assert(plan_make(&p, &of, &err), "%s", err.text);
            cr_expect_eq(p.weights_bytes, m->weights_bytes, "tied %d compute %d", tied,
                         computes[k]);
            cr_expect_eq(p.grads_bytes, m->grads_bytes);
            model_free(m);
        }
}
