// acceptance.c: how often each verifier takes a guess, for a target, a draft and a text, beside the best that any could.
//
//     acceptance TARGET DRAFT TEXT [options] > rows.csv      any draft that ./run would take; acceptance.sh has the options' words
//
// At places spread over the text both models give their distribution behind the sampler's filters. Where a verifier has a formula
// (tests/transport.h) its acceptance is that, else the share of so many simulated draws; rows are means over places, with
// their standard errors. `coupled` is simulated as it runs: noise that both share, the target's argmax of log p + g looked up among
// the draft's k largest log q + g, which is a draw without replacement, so that is its best. No other rule there keeps the bytes.
#include "../transport.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { PLACES_PER_WINDOW = 8, WIDTHS = 4, VERIFIERS_MOST = 8, WIDEST = 8, SEED = 1, DRAFT_WINDOWS = 2 };
static const int widths[WIDTHS] = {1, 2, 4, WIDEST};

static struct {
    int64_t places, window, draws, threads;
    struct sampler_options sampler;
    bool open;
} o = {.places = 200, .window = 256, .draws = 1000, .threads = 1};

static struct opt table[] = {
    {"--places", OPT_INT, &o.places, 8, 1e6, "N", "places of the text", false},
    {"--window", OPT_INT, &o.window, 2 * PLACES_PER_WINDOW, 1e6, "N", "tokens that are read at a time; places are in its second half", false},
    {"--draws", OPT_INT, &o.draws, 1, 1e6, "N", "at a place, where there is no formula", false},
    {"--temp", OPT_REAL, &o.sampler.temp, 0, 100, "X", "temperature", false},
    {"--top-k", OPT_INT, &o.sampler.top_k, 0, 1e9, "N", "filter; 0: off", false},
    {"--top-p", OPT_REAL, &o.sampler.top_p, 0, 1, "X", "filter; 1: off", false},
    {"--min-p", OPT_REAL, &o.sampler.min_p, 0, 1, "X", "filter; 0: off", false},
    {"--open", OPT_FLAG, &o.open, 0, 0, NULL, "the draft's distribution by its temperature alone, not behind the filters", false},
    {"-t --threads", OPT_INT, &o.threads, 0, 1024, "N", "0: all", false},
};

static void refuse(const char *sentence) {
    fprintf(stderr, "acceptance: %s\n", sentence);
    exit(2);
}

struct side {
    struct model_file *file;
    struct model *model;
    struct tokenizer *tokenizer;
    struct session *session;
};

static struct side open_side(const char *path, int64_t rows, const struct backend *b) {
    struct err err;
    struct side s = {.file = model_file_open(path, &err)};
    s.model = s.file ? model_load(s.file, b, &err) : NULL;
    s.tokenizer = s.model ? tokenizer_from_file(s.file, &err) : NULL;
    struct session_options so = {.ctx = rows, .all_logits = rows, .exact = true};
    s.session = s.tokenizer ? session_new(s.model, &so, &err) : NULL;
    if (!s.session) refuse(err.text);
    return s;
}

static void close_side(struct side *s) {
    session_free(s->session);
    tokenizer_free(s->tokenizer);
    model_free(s->model);
    model_file_close(s->file);
}

// ---- one place

// Both distributions: as lists by id, and dense over the tokens that either has.
struct place {
    struct candidate *p, *q;
    size_t n_p, n_q;
    int32_t *id;
    double *dense_p, *dense_q, *work;
    int V;
};

static int by_id(const void *a, const void *b) {
    const struct candidate *x = a, *y = b;
    return (x->id > y->id) - (x->id < y->id);
}

// A p may have become 0 in a float; lists have none.
static size_t read_list(struct sampler *s, const float *logits, struct candidate *out) {
    size_t n = sampler_distribution(s, logits, out);
    while (n > 1 && !(out[n - 1].p > 0)) n--; // by falling p
    qsort(out, n, sizeof *out, by_id);
    return n;
}

static void make_dense(struct place *at) {
    double sum_p = 0, sum_q = 0;
    size_t a = 0, b = 0;
    for (at->V = 0; a < at->n_p || b < at->n_q; at->V++) {
        int32_t x = a < at->n_p ? at->p[a].id : INT32_MAX, y = b < at->n_q ? at->q[b].id : INT32_MAX;
        at->id[at->V] = x < y ? x : y;
        sum_p += at->dense_p[at->V] = x <= y ? (double)at->p[a++].p : 0;
        sum_q += at->dense_q[at->V] = y <= x ? (double)at->q[b++].p : 0;
    }
    for (int i = 0; i < at->V; i++) at->dense_p[i] /= sum_p, at->dense_q[i] /= sum_q;
}

static double simulated(const struct verifier *v, const struct place *at, int n, uint64_t number) {
    int32_t child[WIDEST];
    int64_t hits = 0;
    for (int64_t i = 0; i < o.draws; i++) {
        uint64_t address = number * (uint64_t)o.draws + (uint64_t)i;
        size_t have = verifier_draw(v->draw, at->q, at->n_q, (size_t)n, SEED, 0, address, at->work, child);
        struct judgement j = {.p = at->p, .q = at->q, .n_p = at->n_p, .n_q = at->n_q, .child = child, .n = have, .seed = SEED,
                              .counter = address, .work = at->work};
        int32_t id = v->choose(&j);
        for (size_t k = 0; k < have; k++)
            if (child[k] == id) {
                hits++;
                break;
            }
    }
    return (double)hits / (double)o.draws;
}

// share[w]: of draws where the target's choice is among the widths[w] best of the draft.
static void coupled(const struct place *at, uint64_t number, double share[WIDTHS]) {
    double *noisy = at->work;
    for (int w = 0; w < WIDTHS; w++) share[w] = 0;
    for (int64_t i = 0; i < o.draws; i++) {
        int best = -1, better = 0;
        double most = -INFINITY;
        for (int k = 0; k < at->V; k++) {
            double g = rng_gumbel(SEED, number * (uint64_t)o.draws + (uint64_t)i, (uint64_t)at->id[k]), x = log(at->dense_p[k]) + g;
            noisy[k] = log(at->dense_q[k]) + g;
            if (x > most) most = x, best = k;
        }
        for (int k = 0; k < at->V; k++) better += noisy[k] > noisy[best];
        for (int w = 0; w < WIDTHS; w++) share[w] += at->dense_q[best] > 0 && better < widths[w];
    }
    for (int w = 0; w < WIDTHS; w++) share[w] /= (double)o.draws;
}

// ---- all of them

struct cell {
    double sum, sum_sq, best;
};

static void add_place(const struct place *at, uint64_t number, struct cell cells[][WIDTHS]) {
    double share[WIDTHS];
    coupled(at, number, share);
    for (int k = 0; k < verifier_count; k++)
        for (int w = 0; w < WIDTHS; w++) {
            const struct verifier *v = &verifiers[k];
            double x = v->choose ? transport_taken(v, at->dense_p, at->dense_q, at->V, widths[w]) : share[w];
            if (x != x) x = simulated(v, at, widths[w], number);
            cells[k][w].sum += x;
            cells[k][w].sum_sq += x * x;
            cells[k][w].best += transport_best(v->draw, at->dense_p, at->dense_q, at->V, widths[w]);
        }
}

// The window as the draft reads it; last[i]: where token i of the target ends.
static const float *read_draft(struct side *draft, const struct tokenizer *target, const struct vocab_map *map, const int32_t *from, int64_t *last,
                               struct err *err) {
    struct ids spelled = {0};
    for (int64_t i = 0; i < o.window; i++) {
        vocab_map_read(map, draft->tokenizer, target, from[i], &spelled);
        last[i] = (int64_t)spelled.count - 1;
    }
    session_rewind(draft->session, 0);
    if ((int64_t)spelled.count > DRAFT_WINDOWS * o.window) refuse("the draft lacks too many of the text's tokens: it would have to read more than twice as many");
    const float *logits = session_feed(draft->session, spelled.id, (int64_t)spelled.count, FEED_PROMPT, LOGITS_ALL, err);
    ids_free(&spelled);
    return logits;
}

// What the draft says of its own tokens, as the target numbers them; of others, nothing.
static void spread(const struct vocab_map *map, const float *logits, float *to, int64_t V) {
    for (int64_t i = 0; i < V; i++) to[i] = -INFINITY;
    for (int64_t i = 0; i < map->draft_n; i++)
        if (map->to_target[i] >= 0) to[map->to_target[i]] = logits[i];
}

static int64_t read_places(struct side *target, struct side *draft, const struct vocab_map *map, const struct ids *ids, struct cell cells[][WIDTHS]) {
    struct err err;
    int64_t V = session_vocab(target->session), windows = (o.places + PLACES_PER_WINDOW - 1) / PLACES_PER_WINDOW, done = 0;
    size_t n = 2 * (size_t)V;
    struct place at = {.p = mem_array((size_t)V, sizeof *at.p, "target's list"), .q = mem_array((size_t)V, sizeof *at.q, "draft's list"),
                       .id = mem_array(n, sizeof *at.id, "ids"), .dense_p = mem_array(n, sizeof(double), "target"),
                       .dense_q = mem_array(n, sizeof(double), "draft"), .work = mem_array(n, sizeof(double), "work")};
    int64_t *last = mem_array((size_t)o.window, sizeof *last, "places");
    float *said = mem_array((size_t)V, sizeof *said, "what the draft says");
    struct sampler_options open = o.sampler;
    if (o.open) open.top_k = 0, open.top_p = 1, open.min_p = 0;
    struct sampler *sampler = sampler_new(&o.sampler, V), *drafts = sampler_new(&open, V);
    for (int64_t k = 0; k < windows; k++) {
        const int32_t *from = ids->id + ((int64_t)ids->count - o.window) * k / (windows > 1 ? windows - 1 : 1);
        session_rewind(target->session, 0);
        const float *x = session_feed(target->session, from, o.window, FEED_PROMPT, LOGITS_ALL, &err);
        const float *y = x ? read_draft(draft, target->tokenizer, map, from, last, &err) : NULL;
        if (!y) refuse(err.text);
        for (int i = 0; i < PLACES_PER_WINDOW; i++, done++) {
            int64_t row = o.window / 2 + o.window / 2 * i / PLACES_PER_WINDOW;
            at.n_p = read_list(sampler, x + row * V, at.p);
            spread(map, y + last[row] * session_vocab(draft->session), said, V);
            at.n_q = read_list(drafts, said, at.q);
            make_dense(&at);
            add_place(&at, (uint64_t)done, cells);
        }
    }
    sampler_free(sampler);
    sampler_free(drafts);
    mem_free(last), mem_free(said);
    mem_free(at.p), mem_free(at.q), mem_free(at.id), mem_free(at.dense_p), mem_free(at.dense_q), mem_free(at.work);
    return done;
}

static const char *name_of(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

int main(int argc, char **argv) {
    struct err err;
    struct opt_words words = {0};
    struct text text = {0};
    struct ids ids = {0};
    o.sampler = sampler_defaults;
    o.sampler.seed = SEED;
    if (!opt_parse(table, COUNT_OF(table), argc, argv, &words, &err) || !sampler_check(&o.sampler, &err)) refuse(err.text);
    if (words.count != 3) refuse("usage: acceptance TARGET DRAFT TEXT [options]");
    pool_start((int)o.threads);
    const struct backend *b = backend_cpu(NULL, &err);
    if (!b || !file_read_all(words.word[2], (size_t)1 << 30, &text, &err)) refuse(err.text);
    struct side target = open_side(words.word[0], o.window, b), draft = open_side(words.word[1], DRAFT_WINDOWS * o.window, b);
    struct vocab_map *map = vocab_map_new(draft.tokenizer, target.tokenizer, 0.5, &err);
    if (!map) refuse(err.text);
    tokenizer_encode(target.tokenizer, text.data, text.len, 0, &ids);
    if ((int64_t)ids.count < o.window) refuse("the text is shorter than a window: give more, or a smaller --window");
    struct cell cells[VERIFIERS_MOST][WIDTHS] = {{{0}}};
    assert(verifier_count <= VERIFIERS_MOST);
    double n = (double)read_places(&target, &draft, map, &ids, cells);
    for (int k = 0; k < verifier_count; k++)
        for (int w = 0; w < WIDTHS; w++) {
            const struct cell *c = &cells[k][w];
            double mean = c->sum / n, error = sqrt(fmax(c->sum_sq / n - mean * mean, 0) / fmax(n - 1, 1));
            printf("%s,%s,%g,%s,%d,%.5f,%.5f,%.5f,%.0f\n", name_of(words.word[0]), name_of(words.word[1]), o.sampler.temp, verifiers[k].name,
                   widths[w], mean, error, c->best / n, n);
        }
    vocab_map_free(map);
    close_side(&target);
    close_side(&draft);
    ids_free(&ids);
    text_free(&text);
    return 0;
}
