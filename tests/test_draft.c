// test_draft.c: a draft learns from what its target wrote.
//
// Texts at once are the texts alone, token for token; a part of a vocabulary is a tokenizer of its own; samples survive an end
// anywhere; what is told of a draft is what a plain computation finds; and a draft gets better, which is the point of it.
#include "backend.h"
#include "gen/samples.h"
#include "gen/spec.h"
#include "learn/distil.h"
#include "tests/scratch.h"
#include "tests/tokenizer_kit.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

TestSuite(draft, .init = make_scratch, .fini = drop_scratch, .timeout = 200);

static const char stories[] = "data/stories-1m.gguf";

struct target {
    struct model_file *file;
    struct model *model;
    struct tokenizer *tokenizer;
};
static struct target open_target(void) {
    struct err err = {""};
    struct target t;
    pool_start(2);
    const struct backend *b = backend_cpu(NULL, &err);
    cr_assert(b, "%s", err.text);
    cr_assert((t.file = model_file_open(stories, &err)), "%s", err.text);
    cr_assert((t.model = model_load(t.file, b, &err)), "%s", err.text);
    cr_assert((t.tokenizer = tokenizer_of_model(t.file, NULL, &err)), "%s", err.text);
    return t;
}
static void close_target(struct target *t) {
    model_free(t->model);
    tokenizer_free(t->tokenizer);
    model_file_close(t->file);
}

// ---- texts at once --------------------------------------------------------------------------------------------------

// Exactly: a row's sums do not depend on the rows beside it, and stretches begin where a session's chunks of keys do.
Test(draft, texts_at_once_have_the_bits_of_each_alone) {
    enum { TEXTS = 19, LENGTH = 300, ANEW = 120 }; // past a chunk of keys; text 1 begins anew at token ANEW, and ends before a chunk does
    struct err err = {""};
    struct target t = open_target();
    const int64_t V = t.model->config.V;
    struct streams *s = streams_new(t.model, TEXTS, LENGTH, &err);
    struct session *alone = session_new(t.model, &(struct session_options){.ctx = LENGTH, .kv = DTYPE_F16}, &err);
    cr_assert(s && alone, "%s", err.text);
    static const int looked_at[] = {0, 1, TEXTS - 1};
    static int32_t ids[LENGTH][TEXTS];
    for (int i = 0; i < LENGTH; i++)
        for (int x = 0; x < TEXTS; x++) ids[i][x] = (int32_t)rng_below(1, (uint64_t)x, (uint64_t)i, (uint64_t)V);
    float *seen = mem_array((size_t)(LENGTH * V) * COUNT_OF(looked_at), sizeof *seen, "logits");
    for (int i = 0; i < LENGTH; i++) {
        if (i == ANEW) streams_begin(s, 1);
        const float *z = streams_feed(s, ids[i], false);
        for (size_t k = 0; k < COUNT_OF(looked_at); k++)
            memcpy(seen + ((int64_t)k * LENGTH + i) * V, z + looked_at[k] * V, (size_t)V * sizeof *z);
    }
    for (size_t k = 0; k < COUNT_OF(looked_at); k++) {
        session_rewind(alone, 0);
        for (int i = 0; i < (k == 1 ? 256 : LENGTH); i++) {
            if (k == 1 && i == ANEW) session_rewind(alone, 0);
            const float *z = session_feed(alone, &ids[i][looked_at[k]], 1, FEED_GENERATED, LOGITS_LAST, &err);
            cr_assert(z && !memcmp(z, seen + ((int64_t)k * LENGTH + i) * V, (size_t)V * sizeof *z), "text %d, token %d", looked_at[k], i);
        }
    }
    // As probabilities: those of the logits.
    streams_clear(s);
    const float *p = streams_feed(s, ids[0], true);
    for (int x = 0; x < 3; x++) {
        const float *z = seen + (int64_t)x * LENGTH * V, *row = p + looked_at[x] * V;
        const double lse = logits_log_sum_exp(z, V);
        for (int64_t v = 0; v < V; v++) cr_assert(fabs((double)row[v] - exp((double)z[v] - lse)) < 2e-6, "text %d, token %lld", x, (long long)v);
    }
    mem_free(seen);
    session_free(alone);
    streams_free(s);
    close_target(&t);
}

// ---- samples --------------------------------------------------------------------------------------------------------

enum { WINDOWS = 7, LONG = 48 };
struct kept {
    int64_t n;
    int32_t ids[WINDOWS][LONG], top[WINDOWS][LONG][SAMPLE_TOP];
    float p[WINDOWS][LONG][SAMPLE_TOP];
};
static bool keep_sample(void *arg, const struct sample *s) {
    struct kept *k = arg;
    if (!s) return true;
    cr_assert_eq(s->number, k->n);
    memcpy(k->ids[k->n], s->ids, sizeof k->ids[0]);
    memcpy(k->top[k->n], s->top, sizeof k->top[0]);
    memcpy(k->p[k->n++], s->p, sizeof k->p[0]);
    return true;
}

Test(draft, a_window_does_not_depend_on_those_beside_it) {
    static const char text[] = "A fox ran home.\nThe red ball rolled down the long green hill and the girl laughed.\nOnce there was a cat.";
    static const size_t ends[] = {16, sizeof text - 1};
    struct err err = {""};
    struct target t = open_target();
    struct chat_template *chat = chat_template_named("chatml", &err);
    struct kept *first = mem_alloc(sizeof *first, "samples"), *other = mem_alloc(sizeof *other, "samples");
    for (int with_text = 0; with_text < 2; with_text++) {
        struct sampling s = {.model = t.model, .tokenizer = t.tokenizer, .chat = chat, .text = text, .ends = ends, .n_ends = with_text ? 2 : 0,
                             .count = WINDOWS, .length = LONG, .at_once = 1, .seed = 3, .take = keep_sample, .arg = first};
        first->n = 0;
        cr_assert(sample_windows(&s, &err), "%s", err.text);
        cr_assert_eq(first->n, WINDOWS);
        for (int64_t at_once = 3; at_once <= 16; at_once += 13) { // 3 and 16, and in two parts
            s.at_once = at_once, s.arg = other, other->n = 0;
            s.first = 0, s.count = 2;
            cr_assert(sample_windows(&s, &err), "%s", err.text);
            s.first = 2, s.count = WINDOWS - 2;
            cr_assert(sample_windows(&s, &err), "%s", err.text);
            cr_expect(!memcmp(first, other, sizeof *first), "%lld at once", (long long)at_once);
        }
    }
    // Likeliest first, what was drawn at 0.7 is among them, and a chat begins as its template says.
    for (int w = 0; w < WINDOWS; w++)
        for (int i = 0; i < LONG; i++)
            for (int k = 1; k < SAMPLE_TOP; k++) cr_assert(first->p[w][i][k] <= first->p[w][i][k - 1] && first->p[w][i][0] <= 1);
    struct ids begin = tk_encode(t.tokenizer, "<|im_start|>user\n", 17, TOKENIZE_SPECIAL);
    for (size_t i = 0; i + 1 < begin.count; i++) cr_assert_eq(first->ids[1][i + tokenizer_adds_bos(t.tokenizer)], begin.id[i]);
    ids_free(&begin);
    chat_template_free(chat);
    mem_free(first);
    mem_free(other);
    close_target(&t);
}

// Frequencies of the first token behind the beginning, by the temperature of its window.
enum { LIKELY = 10 };
struct tally {
    double n[2], seen[2][LIKELY + 1]; // the last one: all others
    int32_t top[SAMPLE_TOP];
    float p[SAMPLE_TOP];
};
static bool count_first(void *arg, const struct sample *s) {
    struct tally *t = arg;
    if (!s) return true;
    const bool cool = s->number / 2 % 2;
    int at = 0;
    memcpy(t->top, s->top, sizeof t->top), memcpy(t->p, s->p, sizeof t->p);
    while (at < LIKELY && t->top[at] != s->ids[1]) at++;
    t->seen[cool][at]++, t->n[cool]++;
    return true;
}

Test(draft, tokens_are_drawn_by_their_probabilities) {
    struct err err = {""};
    struct target t = open_target();
    struct tally k = {0};
    struct sampling s = {.model = t.model, .tokenizer = t.tokenizer, .count = 4096, .length = 2, .at_once = 64, .seed = 11, .take = count_first, .arg = &k};
    cr_assert(sample_windows(&s, &err), "%s", err.text);
    for (int cool = 0; cool < 2; cool++) {
        double weight[SAMPLE_TOP], sum = cool ? 0 : 1, rest = 1, chi = 0;
        for (int i = 0; i < SAMPLE_TOP; i++) {
            weight[i] = cool ? pow((double)k.p[i], 1 / 0.7) : (double)k.p[i];
            if (cool) sum += weight[i];
        }
        for (int i = 0; i <= LIKELY; i++) {
            const double expected = k.n[cool] * (i < LIKELY ? weight[i] / sum : rest);
            if (i < LIKELY) rest -= weight[i] / sum;
            if (expected < 5) continue; // too few for the statistic; they only lower it
            chi += (k.seen[cool][i] - expected) * (k.seen[cool][i] - expected) / expected;
        }
        // 10 degrees of freedom at the most: above 35 once in ten thousand seeds.
        cr_expect(chi < 35 && k.n[cool] == 2048, "temperature %s: chi-squared %.1f of %.0f draws", cool ? "0.7" : "1", chi, k.n[cool]);
    }
    close_target(&t);
}

// ---- the file -------------------------------------------------------------------------------------------------------

static void some_window(int w, int32_t *ids, int32_t *top, float *p, int length) {
    for (int i = 0; i < length; i++) {
        ids[i] = (int32_t)rng_below(5, (uint64_t)w, (uint64_t)i, 400);
        for (int k = 0; k < SOFT_TOP; k++) top[i * SOFT_TOP + k] = (ids[i] + k) % 400, p[i * SOFT_TOP + k] = 0.5f / (float)(1 << k);
    }
}

static void append(const char *path, int from, int to) {
    enum { LENGTH = 24 };
    struct err err = {""};
    int64_t there = -1;
    int32_t ids[LENGTH], top[LENGTH * SOFT_TOP];
    float p[LENGTH * SOFT_TOP];
    struct samples_head head = {.source = 7, .seed = 1, .vocab = 400, .length = LENGTH};
    struct samples_out *o = samples_append(path, &head, &there, &err);
    cr_assert(o, "%s", err.text);
    cr_assert_eq(there, from);
    for (int w = from; w < to; w++) {
        some_window(w, ids, top, p, LENGTH);
        samples_add(o, ids, top, p);
    }
    cr_assert(samples_done(o, &err), "%s", err.text);
}

Test(draft, samples_survive_an_end_anywhere) {
    struct err err = {""};
    struct text path = {0}, cut_path = {0};
    text_fmt(&path, "%s/all.lehr", scratch);
    text_fmt(&cut_path, "%s/cut.lehr", scratch);
    append(path.data, 0, 5);
    struct text all = read_file("all.lehr");
    const size_t window = (all.len - 64) / 5;
    for (size_t end = 0; end <= all.len; end += 37) { // killed there
        const int whole = end < 64 ? 0 : (int)((end - 64) / window);
        FILE *f = fopen(cut_path.data, "wb");
        fwrite(all.data, 1, end, f);
        fclose(f);
        append(cut_path.data, whole, 5);
        struct text again = read_file("cut.lehr");
        cr_assert(again.len == all.len && !memcmp(again.data, all.data, all.len), "ended at byte %zu", end);
        text_free(&again);
    }
    struct samples s;
    cr_assert(samples_open(&s, path.data, 0, &err), "%s", err.text);
    cr_assert(s.windows == 5 && samples_row(&s, 4, 3).id[2] == (samples_id(&s, 4, 3) + 2) % 400 && f16_to_f32(samples_row(&s, 4, 3).p[2]) == 0.125f);
    samples_close(&s);
    // Another writer's file, and bytes that changed.
    int64_t there;
    struct samples_head other = {.source = 8, .seed = 1, .vocab = 400, .length = 24};
    cr_assert(!samples_append(path.data, &other, &there, &err) && strstr(err.text, "another model"), "%s", err.text);
    all.data[64 + 2 * window + 100] ^= 1;
    FILE *f = fopen(path.data, "wb");
    fwrite(all.data, 1, all.len, f);
    fclose(f);
    cr_assert(!samples_open(&s, path.data, 0, &err) && strstr(err.text, "window 2 is damaged"), "%s", err.text);
    text_free(&all);
    text_free(&path);
    text_free(&cut_path);
}

// ---- a part of a vocabulary -----------------------------------------------------------------------------------------

// Every third token with what it needs. Texts come back as they were; those whose tokens are all kept have the same ones.
static void expect_part(const struct tokenizer *t, const char *what, const char *text, size_t n, bool exact) {
    struct err err = {""};
    const int64_t V = tokenizer_vocab(t);
    bool *keep = mem_array((size_t)V, sizeof *keep, "tokens to keep");
    size_t kept = tokenizer_part_least(t, keep), same = 0;
    for (int32_t v = 0; v < V; v += 3) kept += tokenizer_part_add(t, v, keep);
    struct tokenizer *made = tokenizer_part(t, keep, &err);
    cr_assert(made, "%s: %s", what, err.text);
    struct tokenizer *part = tk_reread(made, &err);
    cr_assert(part && tokenizer_hash(part) == tokenizer_hash(made), "%s: %s", what, err.text);
    cr_assert_eq((int64_t)kept, tokenizer_vocab(part), "%s", what);
    int32_t *of = mem_array((size_t)V, sizeof *of, "map");
    for (int32_t v = 0, k = 0; v < V; v++) of[v] = keep[v] ? k++ : -1;
    for (size_t from = 0, size; from < n; from += size) {
        size = 1 + (size_t)rng_below(4, 4, from, 12); // words and pieces of words
        if (size > n - from) size = n - from;
        while (from + size < n && ((unsigned char)text[from + size] & 0xC0) == 0x80) size++;
        struct ids whole = tk_encode(t, text + from, size, 0), ids = tk_encode(part, text + from, size, 0);
        struct text back = tk_decode(part, &ids), as_it_was = tk_decode(t, &whole);
        if (exact) cr_assert(back.len == as_it_was.len && !memcmp(back.data, as_it_was.data, back.len), "%s: \"%.*s\"", what, (int)size, text + from);
        bool all = true;
        for (size_t i = 0; i < whole.count; i++) all = all && keep[whole.id[i]];
        if (all) {
            cr_assert_eq(ids.count, whole.count, "%s: \"%.*s\"", what, (int)size, text + from);
            for (size_t i = 0; i < ids.count; i++) cr_assert_eq(ids.id[i], of[whole.id[i]], "%s: \"%.*s\"", what, (int)size, text + from);
            same++;
        }
        ids_free(&whole);
        ids_free(&ids);
        text_free(&back);
        text_free(&as_it_was);
    }
    cr_assert(same > 20, "%s: only %zu texts of kept tokens", what, same);
    mem_free(keep);
    mem_free(of);
    tokenizer_free(made);
    tokenizer_free(part);
}

Test(draft, a_part_of_a_vocabulary_is_a_tokenizer) {
    struct err err = {""};
    struct text text = {0};
    cr_assert(file_read_all("data/stories-sample.txt", (size_t)1 << 24, &text, &err), "%s", err.text);
    struct model_file *f = model_file_open(stories, &err);
    struct tokenizer *t = tokenizer_of_model(f, NULL, &err);
    expect_part(t, "stories", text.data, 20000, true);
    tokenizer_free(t);
    model_file_close(f);
    text_clear(&text);
    for (uint64_t i = 0; i < 4000; i++) text_add(&text, &"aaabbbccc  "[rng_below(1, 1, i, 11)], 1);
    for (uint64_t seed = 0; seed < 40; seed++) {
        t = seed % 2 ? tk_random_bpe(seed) : tk_random_spm(seed, seed % 4 == 0);
        expect_part(t, seed % 2 ? "merges at random" : "scores at random", text.data, text.len, seed % 2);
        tokenizer_free(t);
    }
    text_free(&text);
    static const char *const names[] = {"gpt-2", "llama-spm", "deepseek-coder"};
    const char *folder = getenv("LEHR_VOCABS");
    for (size_t i = 0; folder && i < COUNT_OF(names); i++) {
        struct text path = {0}, words = {0};
        text_fmt(&path, "%s/%s.gguf", folder, names[i]);
        cr_assert((t = tokenizer_open(path.data, -1, &err)), "%s", err.text);
        text_str(&path, ".inp");
        cr_assert(file_read_all(path.data, (size_t)1 << 24, &words, &err), "%s", err.text);
        expect_part(t, names[i], words.data, words.len, true);
        text_free(&words);
        text_free(&path);
        tokenizer_free(t);
    }
}

// ---- targets --------------------------------------------------------------------------------------------------------

// A whole draft of the stories model as the program makes it, for the tests below.
struct lesson {
    struct samples samples;
    struct draft_words words;
    struct tokenizer *draft;
    struct tokens train, valid;
};
static bool add_sample(void *arg, const struct sample *s) {
    if (s) samples_add(arg, s->ids, s->top, s->p);
    return true;
}
static void make_lesson(struct lesson *l, const struct target *t, int64_t windows, int64_t length, int64_t vocab) {
    struct err err = {""};
    struct text path = {0};
    int64_t there;
    text_fmt(&path, "%s/lesson.lehr", scratch);
    struct samples_head head = {.source = 1, .seed = 1, .vocab = (int32_t)t->model->config.V, .length = (int32_t)length};
    struct samples_out *o = samples_append(path.data, &head, &there, &err);
    cr_assert(o, "%s", err.text);
    struct sampling s = {.model = t->model, .tokenizer = t->tokenizer, .count = windows, .length = length, .at_once = 16, .seed = 1, .take = add_sample, .arg = o};
    cr_assert(sample_windows(&s, &err) && samples_done(o, &err) && samples_open(&l->samples, path.data, 0, &err), "%s", err.text);
    const int64_t V = tokenizer_vocab(t->tokenizer);
    bool *keep = mem_array((size_t)V, sizeof *keep, "tokens to keep");
    cr_assert(distil_vocabulary(&l->samples, t->tokenizer, vocab, keep) >= vocab);
    cr_assert((l->draft = tokenizer_part(t->tokenizer, keep, &err)), "%s", err.text);
    struct vocab_map *m = vocab_map_new(l->draft, t->tokenizer, 0, &err);
    cr_assert(m, "%s", err.text);
    l->words.n = (int32_t)V;
    l->words.guess = mem_array((size_t)V, sizeof *l->words.guess, "map");
    l->words.at = mem_array((size_t)V + 1, sizeof *l->words.at, "map");
    for (int32_t v = 0; v < V; v++) {
        l->words.guess[v] = m->to_draft[v];
        vocab_map_read(m, l->draft, t->tokenizer, v, &l->words.read);
        l->words.at[v + 1] = l->words.read.count;
    }
    distil_tokens(&l->samples, t->tokenizer, l->draft, &l->words, 0.25, &l->train, &l->valid);
    vocab_map_free(m);
    mem_free(keep);
    text_free(&path);
}
static void free_lesson(struct lesson *l) {
    tokens_free(&l->train);
    tokens_free(&l->valid);
    samples_close(&l->samples);
    draft_words_free(&l->words);
    tokenizer_free(l->draft);
}

Test(draft, rows_learn_what_was_likely_behind_them) {
    enum { T = 32, DRAWS = 4000 };
    struct target t = open_target();
    struct lesson l = {0};
    make_lesson(&l, &t, 16, 64, 600);
    // The draft's tokens are the target's text, and windows are where they should be.
    int64_t at = 0, spelled = 0, scored = 0;
    for (int64_t w = 0; w < 16; w++) {
        if ((w + 1) % 4 == 0) continue; // validation
        for (int64_t i = 0; i < 64; i++) {
            const int32_t id = samples_id(&l.samples, w, i);
            struct span bytes = tokenizer_piece(t.tokenizer, id);
            size_t done = 0;
            const int64_t begin = at;
            do {
                struct span piece = tokenizer_piece(l.draft, tokens_at(&l.train, at));
                cr_assert(done + piece.n <= bytes.n && !memcmp(piece.p, bytes.p + done, piece.n), "window %lld, token %lld", (long long)w, (long long)i);
                done += piece.n;
                cr_assert_eq(l.train.soft->place[at], done == bytes.n ? (int32_t)(w * 64 + i) : -1);
                cr_assert(at == begin || !l.train.soft->begins[at]);
                at++;
            } while (done < bytes.n);
            spelled += at - begin > 1;
            if (i == 0) cr_assert(l.train.soft->begins[begin]);
        }
    }
    cr_assert(at == l.train.count && spelled > 0, "%lld of %lld tokens, %lld spelled", (long long)at, (long long)l.train.count, (long long)spelled);
    // Targets of a row over the epochs: as often as they are likely, but for a few. Over places: by chance, chi-squared.
    double seen[SOFT_TOP] = {0}, first = 0, likely = 0, variance = 0;
    int32_t id[SOFT_TOP];
    float p[SOFT_TOP];
    cr_assert(soft_targets(l.train.soft, 0, id, p));
    for (uint64_t n = 0; n < DRAWS; n++) {
        const int32_t drawn = soft_draw(l.train.soft, 0, 9, n);
        for (int k = 0; k < SOFT_TOP; k++) seen[k] += drawn >= 0 && drawn == id[k];
    }
    for (int k = 0; k < SOFT_TOP; k++) cr_expect(id[k] < 0 || fabs(seen[k] - DRAWS * (double)p[k]) < 4, "token %d: %.0f draws, %.1f expected", k, seen[k], DRAWS * (double)p[k]);
    for (int64_t k = 0; k < l.train.count; k++) {
        if (!soft_targets(l.train.soft, k, id, p) || id[0] < 0) continue;
        first += soft_draw(l.train.soft, k, 9, 0) == id[0], likely += (double)p[0], variance += (double)p[0] * (1 - (double)p[0]);
    }
    cr_expect(fabs(first - likely) < 4 * sqrt(variance), "%.0f of the likeliest, %.1f expected", first, likely);
    // A sequence of a run: rows inside of a spelling, and where another text begins behind, have no target.
    int32_t ids[T], targets[T], start[T];
    for (int64_t s = 0; s < 40; s++) {
        loader_sequence(&l.train, T, 1, s, 0, ids, targets, start);
        for (int i = 0; i < T; i++) {
            cr_assert(targets[i] >= -1 && targets[i] < tokenizer_vocab(l.draft) && start[i] <= i);
            scored += targets[i] >= 0;
        }
    }
    cr_assert(scored > 40 * T / 3 && scored < 40 * T);
    free_lesson(&l);
    close_target(&t);
}

// Against each text alone, token by token, in double.
Test(draft, what_is_told_of_a_draft_is_so) {
    struct err err = {""};
    struct target t = open_target();
    struct lesson l = {0};
    make_lesson(&l, &t, 16, 64, 600);
    struct model_config c;
    cr_assert(config_from_size(&c, family_find("granite"), "1M", tokenizer_vocab(l.draft), 256, &err), "%s", err.text);
    struct model *m = model_new(&c, t.model->backend, DTYPE_F32, 3, &err);
    cr_assert(m, "%s", err.text);
    struct session_options so = {.ctx = 256, .all_logits = DISTIL_ROWS, .exact = true};
    struct session *s = session_new(m, &so, &err);
    struct distil_score score, fewer;
    cr_assert(s && distil_judge(&l.valid, s, 1 << 20, &score, &err) && distil_judge(&l.valid, s, 100, &fewer, &err), "%s", err.text);
    double accepted = 0, agrees = 0;
    int64_t places = 0;
    for (int64_t at = 0; at < l.valid.count; at++) {
        const int32_t token = tokens_at(&l.valid, at), place = l.valid.soft->place[at];
        if (l.valid.soft->begins[at]) session_rewind(s, 0);
        const float *z = session_feed(s, &token, 1, FEED_GENERATED, LOGITS_LAST, &err);
        cr_assert(z, "%s", err.text);
        if (place < 0) continue;
        const struct soft_row row = samples_row(&l.samples, place / 64, place % 64);
        if (row.p[0] == 0) continue;
        const double lse = logits_log_sum_exp(z, c.V);
        int32_t best = 0;
        for (int32_t v = 1; v < c.V; v++)
            if (z[v] > z[best]) best = v;
        for (int k = 0; k < SOFT_TOP; k++) {
            const int32_t guess = l.words.guess[row.id[k]];
            if (guess >= 0) accepted += fmin((double)f16_to_f32(row.p[k]), exp((double)z[guess] - lse));
        }
        agrees += best == l.words.guess[row.id[0]];
        places++;
    }
    cr_assert(places == score.places && fewer.places < score.places && fewer.places > 20, "%lld places, %lld and %lld told", (long long)places,
              (long long)score.places, (long long)fewer.places);
    cr_expect(fabs(score.acceptance - accepted / (double)places) < 1e-6 && score.agreement == agrees / (double)places, "%.9f, %.9f told", accepted / (double)places,
              score.acceptance);
    session_free(s);
    model_free(m);
    free_lesson(&l);
    close_target(&t);
}

// ---- the program ----------------------------------------------------------------------------------------------------

#define SMALL "--width 64 --layers 1 --seq 64 --samples 0 --batch-tokens 1024 --draft-vocab 1024"

static bool same_bytes(const char *a, const char *b) {
    struct text x = read_file(a), y = read_file(b);
    const bool same = x.len == y.len && !memcmp(x.data, y.data, x.len);
    text_free(&x);
    text_free(&y);
    return same;
}

// A head with a number that is none is told in a line, and the draft guesses without it; the text is that of no draft.
static void damage_the_head(void) {
    static const char key[] = "lehr.accept.weights";
    static const char run[] = "$RUN -m target.gguf -p Once -n 40 --seed 3 --temp 0.7 %s >%s 2>%s.err";
    struct text file = read_file("a/target.draft.gguf"), path = {0};
    char *at = memmem(file.data, file.len, key, sizeof key - 1);
    cr_assert(at);
    memset(at + sizeof key - 1 + 4 + 4 + 8 + 40, 0xff, 4); // behind types and count
    text_fmt(&path, "%s/broken.gguf", scratch);
    FILE *to = fopen(path.data, "wb");
    cr_assert(to && fwrite(file.data, 1, file.len, to) == file.len && fclose(to) == 0);
    cr_assert(shell(run, "--spec none", "plain", "plain") == 0);
    cr_assert(shell(run, "--draft a/target.draft.gguf --spec model", "whole", "whole") == 0);
    cr_assert(shell(run, "--draft broken.gguf --spec model", "broken", "broken") == 0);
    cr_expect(same_bytes("plain", "whole") && same_bytes("plain", "broken"));
    cr_expect(shell("grep -q 'an acceptance head' whole.err && grep -q 'acceptance head of broken.gguf is not used.*not finite' broken.err") == 0);
    cr_expect(shell("grep -q '^draft: ' broken.err && $RUN -m a/target.draft.gguf --check >/dev/null 2>&1") == 0);
    text_free(&path);
    text_free(&file);
}

// An untrained draft is right with about one guess in the vocabulary; this one has seen the target's texts for seconds.
Test(draft, a_draft_gets_better_and_goes_on_where_it_was_ended) {
    static const char run[] = "ln -sf '%s/data/stories-1m.gguf' target.gguf; $TRAIN --draft-for target.gguf " SMALL
                              " --draft-tokens 24k --steps 60 --eval-every 20 --save-every 30 %s -o %s 2>log";
    cr_assert(shell(run, origin, "-t 1", "a") == 0);
    cr_assert(shell(run, origin, "-t 2", "b") == 0);
    // Ended while it learned.
    cr_assert(shell("cd b && rm -rf ckpt-6* *.gguf~ target.* model.gguf report.html && mv ckpt-30720.gguf keep && rm -f ckpt-* && mv keep ckpt-30720.gguf") == 0);
    cr_assert(shell(run, origin, "-t 2 --micro-batch 3", "b") == 0);
    cr_expect(shell("grep -q '^resume' log") == 0);
    cr_expect(same_bytes("a/model.gguf", "b/model.gguf"));
    cr_expect(same_bytes("a/target.draft.gguf", "b/target.draft.gguf"));
    // Ended while its target wrote.
    cr_assert(shell("mkdir c && head -c 1000000 a/samples.lehr >c/samples.lehr && echo mine >c/target.gguf") == 0);
    cr_assert(shell(run, origin, "-t 1", "c") == 0);
    cr_expect(shell("grep -q mine c/target.gguf && grep -q 'is another file and is left alone' log") == 0, "a file of the user's is gone");
    cr_expect(same_bytes("a/samples.lehr", "c/samples.lehr") && same_bytes("a/model.gguf", "c/model.gguf"));
    struct log_rows rows = {0};
    struct err err = {""};
    struct text path = {0};
    text_fmt(&path, "%s/a/log.jsonl", scratch);
    cr_assert(log_read(path.data, &rows, &err), "%s", err.text);
    const struct log_row *last = &rows.row[rows.count - 1];
    cr_expect(last->acceptance > 0.1 && last->agreement > 0.15, "%.3f accepted, %.3f greedy", last->acceptance, last->agreement);
    // What was left behind is a model with its keys, beside its target.
    text_clear(&path), text_fmt(&path, "%s/a/target.draft.gguf", scratch);
    struct model_file *f = model_file_open(path.data, &err);
    struct span name = {"", 0};
    double acceptance = 0;
    cr_assert(f && meta_text(f, "lehr.draft_for", true, &name, &err) && meta_real(f, "lehr.draft_acceptance", true, 0, 1, &acceptance, &err), "%s", err.text);
    cr_expect(span_is(name, "target") && fabs(acceptance - last->acceptance) < 1e-6);
    cr_expect(same_bytes("a/target.gguf", "target.gguf") && shell("$RUN -m a/target.draft.gguf -p Once -n 5 >/dev/null 2>&1") == 0);
    model_file_close(f);
    damage_the_head();
    log_rows_free(&rows);
    text_free(&path);
}

Test(draft, what_cannot_be_is_refused_in_a_sentence) {
    static const struct { const char *args, *says; } rows[] = {
        {"--draft-for none.gguf", "none.gguf"},
        {"--draft-for text.gguf", "text.gguf"},
        {"--draft-for target.gguf --from target.gguf", "give one of them"},
        {"--draft-for target.gguf --tune", "leave out --draft-for"},
        {"--draft-for target.gguf --replay text.gguf", "leave out --replay"},
        {"--draft-for target.gguf --tokenizer byte", "--draft-vocab says how much"},
        {"--draft-for target.gguf --seq 32", "use another --out"}, // there are windows of 64
        {"text.gguf --draft-for target.gguf --seq 64", "use another --out"}, // of no text
    };
    cr_assert(shell("ln -sf '%s/data/stories-1m.gguf' target.gguf; echo 'no model' >text.gguf; $TRAIN --draft-for target.gguf " SMALL
                    " --draft-tokens 2k --steps 1 -o out 2>log; rm -f out/ckpt*", origin) == 0);
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        const int code = shell("$TRAIN %s -o out --steps 1 --draft-tokens 2k 2>log >/dev/null", rows[i].args);
        struct text log = read_file("log");
        const char *told = strstr(log.data, "train: ");
        while (told && strstr(told + 1, "\ntrain: ")) told = strstr(told + 1, "\ntrain: ") + 1;
        cr_expect((code == 1 || code == 2) && told && strstr(told, rows[i].says), "%s: exit %d, %s", rows[i].args, code, log.data);
        text_free(&log);
    }
}
