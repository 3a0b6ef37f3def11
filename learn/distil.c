// distil.c: see distil.h.
#include "learn/distil.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const uint64_t stream_soft = 0x736f667400000000u;

// --- vocabulary ------------------------------------------------------------------------------------------------------

struct rank {
    double weight;
    int32_t id;
};

static int by_weight(const void *a, const void *b) {
    const struct rank *x = a, *y = b;
    if (x->weight != y->weight) return x->weight < y->weight ? 1 : -1;
    return (x->id > y->id) - (x->id < y->id);
}

int64_t distil_vocabulary(const struct samples *s, const struct tokenizer *t, int64_t most, bool *keep) {
    const int64_t n = tokenizer_vocab(t);
    struct rank *rank = mem_array((size_t)n, sizeof *rank, "use of tokens");
    memset(keep, 0, (size_t)n * sizeof *keep);
    int64_t kept = (int64_t)tokenizer_part_least(t, keep);
    for (int64_t v = 0; v < n; v++) rank[v].id = (int32_t)v;
    // Both what was said and what was likely: a thing that was likely at a thousand places and was drawn at none will be guessed.
    for (int64_t w = 0; w < s->windows; w++)
        for (int64_t i = 0; i < s->head.length; i++) {
            const struct soft_row row = samples_row(s, w, i);
            if (samples_id(s, w, i) < n) rank[samples_id(s, w, i)].weight += 1;
            for (int k = 0; k < SOFT_TOP; k++)
                if (row.id[k] < n) rank[row.id[k]].weight += (double)f16_to_f32(row.p[k]);
        }
    qsort(rank, (size_t)n, sizeof *rank, by_weight);
    for (int64_t k = 0; k < n && kept < most && rank[k].weight > 0; k++) kept += (int64_t)tokenizer_part_add(t, rank[k].id, keep);
    mem_free(rank);
    return kept;
}

// --- tokens ----------------------------------------------------------------------------------------------------------

void draft_words_free(struct draft_words *w) {
    mem_free(w->guess);
    mem_free(w->at);
    ids_free(&w->read);
}

struct side {
    struct tokens *to;
    struct soft *soft;
    void *ids;
    bool wide;
    size_t count, ids_cap, place_cap, begins_cap;
};

static void add(struct side *x, int32_t id, int32_t place, bool begins) {
    mem_grow(&x->ids, &x->ids_cap, x->count + 1, x->wide ? 4 : 2, "token ids");
    mem_grow((void **)&x->soft->place, &x->place_cap, x->count + 1, sizeof *x->soft->place, "places of tokens");
    mem_grow((void **)&x->soft->begins, &x->begins_cap, x->count + 1, 1, "beginnings of texts");
    if (x->wide) ((uint32_t *)x->ids)[x->count] = (uint32_t)id;
    else ((uint16_t *)x->ids)[x->count] = (uint16_t)id;
    x->soft->place[x->count] = place;
    x->soft->begins[x->count] = begins;
    x->count++;
    x->to->documents += begins;
}

static bool another_begins(const struct samples *s, int64_t w, int64_t i) { return i == 0 || samples_row(s, w, i - 1).p[0] == 0; }

static void add_window(struct side *x, const struct samples *s, int64_t w, const struct tokenizer *target, const struct draft_words *words) {
    const int64_t length = s->head.length;
    bool begins = false;
    for (int64_t i = 0; i < length; i++) {
        const int32_t id = samples_id(s, w, i);
        begins = begins || another_begins(s, w, i);
        x->to->bytes += (double)tokenizer_piece(target, id).n;
        for (size_t k = id < words->n ? words->at[id] : 0, end = id < words->n ? words->at[id + 1] : 0; k < end; k++) {
            add(x, words->read.id[k], k + 1 == end ? (int32_t)(w * length + i) : -1, begins);
            begins = false;
        }
    }
}

void distil_tokens(const struct samples *s, const struct tokenizer *target, const struct tokenizer *draft, const struct draft_words *words,
                   double valid_share, struct tokens *train, struct tokens *valid) {
    struct side side[2] = {{.to = train}, {.to = valid}};
    for (int k = 0; k < 2; k++) {
        struct side *x = &side[k];
        *x->to = (struct tokens){.eos = -1, .start = -1, .split = "by window"};
        x->wide = tokenizer_vocab(draft) > 65536;
        x->soft = mem_alloc(sizeof *x->soft, "targets");
        *x->soft = (struct soft){.samples = s, .words = words};
    }
    for (int64_t w = 0; w < s->windows; w++) {
        const bool held_out = floor((double)(w + 1) * valid_share) > floor((double)w * valid_share);
        add_window(&side[held_out], s, w, target, words);
    }
    for (int k = 0; k < 2; k++) {
        struct side *x = &side[k];
        struct tokens *t = x->to;
        t->owned = x->ids, t->soft = x->soft, t->count = (int64_t)x->count;
        if (x->wide) t->t32 = x->ids;
        else t->t16 = x->ids;
        t->hash = hash_bytes(s->hash, x->ids, x->count * (x->wide ? 4 : 2));
    }
}

void soft_free(struct soft *f) {
    if (!f) return;
    mem_free(f->place);
    mem_free(f->begins);
    mem_free(f);
}

bool soft_targets(const struct soft *f, int64_t at, int32_t *id, float *p) {
    if (f->place[at] < 0) return false;
    const struct soft_row row = samples_row(f->samples, f->place[at] / f->samples->head.length, f->place[at] % f->samples->head.length);
    for (int k = 0; k < SOFT_TOP; k++) {
        id[k] = row.id[k] < f->words->n ? f->words->guess[row.id[k]] : -1;
        p[k] = f16_to_f32(row.p[k]);
    }
    return p[0] > 0;
}

int32_t soft_draw(const struct soft *f, int64_t at, uint64_t seed, uint64_t epoch) {
    static const double golden = 0.61803398874989485; // whose multiples, modulo 1, are spread the most evenly
    int32_t id[SOFT_TOP];
    float p[SOFT_TOP];
    if (!soft_targets(f, at, id, p)) return -1;
    const double turned = rng_uniform(seed, stream_soft, (uint64_t)at) + golden * (double)epoch, u = turned - floor(turned);
    double below = 0;
    for (int k = 0; k < SOFT_TOP; k++)
        if ((below += (double)p[k]) > u) return id[k];
    return -1;
}

// --- how good a draft is ---------------------------------------------------------------------------------------------

struct judging {
    const struct soft *soft;
    const float *logits; // of n rows from token `at` on
    int64_t V, at;
    double accepted[DISTIL_ROWS], sure[DISTIL_ROWS];
    signed char agrees[DISTIL_ROWS]; // -1: nothing is to be said
};

static void judge_rows(void *arg, int64_t lo, int64_t hi, int thread) {
    struct judging *j = arg;
    (void)thread;
    for (int64_t i = lo; i < hi; i++) {
        int32_t id[SOFT_TOP];
        float p[SOFT_TOP];
        j->agrees[i] = -1;
        if (!soft_targets(j->soft, j->at + i, id, p)) continue;
        const float *z = j->logits + i * j->V;
        int64_t best = 0;
        double sum = 0, accepted = 0;
        for (int64_t v = 1; v < j->V; v++)
            if (z[v] > z[best]) best = v;
        for (int64_t v = 0; v < j->V; v++) sum += (double)expf(z[v] - z[best]);
        for (int k = 0; k < SOFT_TOP; k++)
            if (id[k] >= 0) accepted += fmin((double)p[k], (double)expf(z[id[k]] - z[best]) / sum);
        j->accepted[i] = accepted;
        j->sure[i] = 1 / sum;
        j->agrees[i] = id[0] == best;
    }
}

// One text, from token `from` on.
static bool judge_text(struct judging *j, const struct tokens *t, struct session *s, int64_t from, int64_t to, const struct distil_seer *seer,
                       struct distil_score *sum, struct err *err) {
    int32_t ids[DISTIL_ROWS];
    session_rewind(s, 0);
    if (to - from > session_capacity(s)) to = from + session_capacity(s);
    for (int64_t at = from, n; at < to; at += n) {
        n = to - at < DISTIL_ROWS ? to - at : DISTIL_ROWS;
        for (int64_t i = 0; i < n; i++) ids[i] = tokens_at(t, at + i);
        j->at = at;
        j->logits = session_feed(s, ids, n, FEED_PROMPT, LOGITS_ALL, err);
        if (!j->logits) return false;
        pool_for(n, 4, judge_rows, j);
        for (int64_t i = 0; i < n; i++) {
            if (j->agrees[i] < 0) continue;
            sum->acceptance += j->accepted[i], sum->agreement += j->agrees[i], sum->places++;
            if (seer) seer->see(seer->arg, session_hidden(s) + i * session_width(s), j->accepted[i], j->sure[i]);
        }
    }
    return true;
}

bool distil_look(const struct tokens *valid, struct session *s, int64_t tokens, const struct distil_seer *seer, struct distil_score *score, struct err *err) {
    struct judging *j = mem_alloc(sizeof *j, "judging of a draft");
    const double share = tokens < valid->count ? (double)tokens / (double)valid->count : 1;
    bool good = true;
    int64_t text = 0;
    *score = (struct distil_score){0};
    *j = (struct judging){.soft = valid->soft, .V = session_vocab(s)};
    for (int64_t from = 0, to; good && from < valid->count; from = to, text++) {
        for (to = from + 1; to < valid->count && !valid->soft->begins[to]; to++) continue;
        if (ceil((double)(text + 1) * share) > ceil((double)text * share)) good = judge_text(j, valid, s, from, to, seer, score, err);
    }
    if (score->places) score->acceptance /= (double)score->places, score->agreement /= (double)score->places;
    session_rewind(s, 0);
    mem_free(j);
    return good;
}

bool distil_judge(const struct tokens *valid, struct session *s, int64_t tokens, struct distil_score *score, struct err *err) {
    return distil_look(valid, s, tokens, NULL, score, err);
}
