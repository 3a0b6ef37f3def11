// spec.c: logits before they are asked for, and when that pays.
//
// State: a tree whose nodes were judged in one pass, and the path of it that the text took. spec_feed(id) looks for id among the
// children of the path's last node. There: its logits are at hand. Not there: the path becomes part of the session, a new
// draft is made behind it, and one pass judges that. Plain decoding is the case of a tree of one node.
//
// Whom to ask and how far to go is the pace's business (pace.c).
#include "gen/spec.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { SLOW_PASSES = 3 }; // the first of a process; they and plain passes behind guesses say nothing of plain decoding

struct spec {
    struct spec_options o;
    struct sampler *sampler;
    struct draft d;           // judged in the last pass; n == 0: nothing is open
    const float *logits;      // of its nodes
    int32_t path[DRAFT_ROWS], steps; // nodes taken, the root first
    int by;                   // the drafter
    struct pace pace;
    bool given_up[PACE_ARMS];
    double draft_start;       // of the draft under way
    int64_t drafts;
    struct spec_stats stats;
    double entered;           // when spec_feed was called last; 0: not in this text
    int64_t plain_in_a_row;
    struct ids text;
    struct candidate *p;      // room for verifiers
    double *room;
    struct err trouble;
};

struct spec *spec_new(const struct spec_options *o) {
    assert(o->rows >= 2 && o->rows <= DRAFT_ROWS && o->most >= 1 && o->most < o->rows && o->wide >= 1);
    struct spec *s = mem_alloc(sizeof *s, "speculation");
    s->o = *o;
    double cost[PACE_ARMS];
    for (int i = 0; i < o->n_drafters; i++) cost[i] = o->drafters[i]->cost;
    pace_open(&s->pace, o->n_drafters, cost);
    s->o.seed ^= UINT64_C(0x6775657373); // none of the numbers that the sampler draws with
    if (!o->verifier->choose) return s;
    size_t V = (size_t)tokenizer_vocab(o->tokenizer);
    s->p = mem_array(V, sizeof *s->p, "a distribution to judge by");
    s->room = mem_array(V + SAMPLER_ROUGH, sizeof *s->room, "room of a verifier");
    return s;
}

void spec_free(struct spec *s) {
    if (!s) return;
    ids_free(&s->text);
    mem_free(s->p);
    mem_free(s->room);
    mem_free(s);
}

// ---- drafting

// Chances that the walk comes to each node; their sum is what the pass brings besides the one token.
static double chances(const struct spec *s, const struct draft *d, double *reach) {
    double sum = 0;
    reach[0] = 1;
    for (int32_t i = 1; i < d->n; i++) {
        reach[i] = reach[d->parent[i]] * pace_chance(&s->pace, s->by, d->word[i]);
        sum += reach[i];
    }
    return sum;
}

static int32_t longest(const struct spec *s) { return s->o.most < s->o.rows ? s->o.most : s->o.rows - 1; }

static bool another(void *arg, const struct draft *d) {
    struct spec *s = arg;
    double reach[DRAFT_ROWS];
    bool more;
    if (d->p[d->n - 1] < s->o.p_min) return false;
    if (s->o.fixed || d->n - 1 < s->o.least) return true;
    struct pace_chain c = {.n = d->n - 1, .most = longest(s), .sum = chances(s, d, reach), .seconds = time_now() - s->draft_start - d->reading_s};
    c.reach = reach[d->n - 1];
    pace_ahead(&s->pace, s->by, &c, &more);
    return more;
}

static struct draft_ask ask_for(struct spec *s) {
    int32_t left = (int32_t)(session_capacity(s->o.session) - session_length(s->o.session)) - 1;
    struct draft_ask ask = {.text = s->text.id, .n = s->text.count, .most = s->o.rows - 1, .deepest = s->o.most, .wide = s->o.wide,
                            .least = s->o.fixed ? 1 / (double)s->o.rows : fmax(0.02, pace_row_share(&s->pace)), .verifier = s->o.verifier,
                            .draws = (uint64_t)s->drafts, .sampler = s->sampler, .seed = s->o.seed, .arg = s};
    if (ask.deepest > left) ask.deepest = left;
    return ask;
}

// Cuts a chain to the length that is worth most, perhaps none; of a tree all is kept or nothing. What was drawn for another verifier than
// coupled stays: to drop a draw for what it is would be to draw from something else.
static void cut(struct spec *s, struct draft *d) {
    double reach[DRAFT_ROWS], sum = 0, best = pace_value(&s->pace, 0, 1);
    int32_t keep = 1;
    if (s->o.fixed || s->o.verifier->draw != DRAW_ANY) return;
    chances(s, d, reach);
    for (int32_t i = 1; i < d->n; i++) {
        sum += reach[i];
        double value = pace_value(&s->pace, sum, i + 1);
        bool allowed = s->o.wide == 1 || i == d->n - 1;
        if (allowed && i >= s->o.least && value > best) best = value, keep = i + 1;
    }
    d->n = keep;
}

static void ask_drafter(struct spec *s, const struct draft_ask *ask, struct draft *d) {
    struct err err;
    struct drafter *drafter = s->o.drafters[s->by];
    s->draft_start = time_now();
    if (!drafter->draft(drafter, ask, d, &err)) {
        d->n = 1;
        s->given_up[s->by] = true;
        err_set(&s->trouble, "guessing by %s ends here, the text goes on without: %s", drafter->name, err.text);
    }
    double took = time_now() - s->draft_start;
    s->stats.draft_s += took;
    pace_drafted(&s->pace, s->by, d->n - 1, took - d->reading_s); // the prompt is read once, however little comes of it
    for (int32_t i = 1; i < d->n; i++) pace_made(&s->pace, s->by, d->word[i]);
    cut(s, d);
}

// A drafter without a model is asked for its guesses; one with a model only when guesses of the usual kind would be worth more.
static void make_draft(struct spec *s, struct draft *d) {
    s->drafts++;
    struct draft_ask ask = ask_for(s);
    const struct draft none = *d;
    double have = s->o.fixed ? 0 : pace_value(&s->pace, 0, 1);
    int by = 0;
    if (ask.deepest < 1 || (!s->o.fixed && !pace_may_guess(&s->pace))) return;
    for (int i = 0; i < s->o.n_drafters; i++) {
        bool costs = s->o.drafters[i]->cost > 0, more = true;
        struct pace_chain usual = {.n = 0, .most = longest(s), .reach = 1};
        s->by = i;
        if (s->given_up[i] || (s->o.fixed && d->n > 1)) continue;
        if (costs && !s->o.fixed && !(pace_ahead(&s->pace, i, &usual, &more) > have && more)) continue;
        struct draft one = none;
        ask.go_on = costs ? another : NULL;
        ask_drafter(s, &ask, &one);
        double reach[DRAFT_ROWS], value = s->o.fixed ? 1 : pace_value(&s->pace, chances(s, &one, reach), one.n);
        if (one.n < 2 || (value <= have && d->n > 1)) continue;
        have = value;
        *d = one;
        by = i;
    }
    s->by = by;
}

// ---- passes

static const float *plain_pass(struct spec *s, int32_t id, struct err *err) {
    double start = time_now();
    const float *logits = session_feed(s->o.session, &id, 1, FEED_GENERATED, LOGITS_LAST, err);
    pace_plain(&s->pace, time_now() - start);
    s->stats.plain_passes++;
    s->plain_in_a_row++;
    s->d.n = 0;
    return logits;
}

static const float *judging_pass(struct spec *s, const struct draft *d, struct err *err) {
    double start = time_now();
    s->d = *d;
    s->logits = session_feed_tree(s->o.session, d->id, d->parent, d->n, err);
    double took = time_now() - start;
    if (!s->logits) s->d.n = 0;
    pace_judged(&s->pace, d->n, took);
    s->path[0] = 0;
    s->steps = 1;
    s->plain_in_a_row = 0;
    s->stats.judge_s += took;
    s->stats.guesses += d->n - 1;
    s->stats.by[s->by]++;
    return s->logits;
}

// The token behind the path is known: what does that say of the guesses?
static void note_guesses(struct spec *s, int32_t taken) {
    int32_t node = s->path[s->steps - 1], place = s->steps - 1 < SPEC_PLACES ? s->steps - 1 : SPEC_PLACES - 1;
    bool any = false;
    for (int32_t i = node + 1; i < s->d.n; i++) {
        if (s->d.parent[i] != node) continue;
        pace_told(&s->pace, s->by, s->d.word[i], i == taken);
        any = true;
    }
    s->stats.at[place] += any;
    s->stats.held_at[place] += taken >= 0;
    s->stats.held += taken >= 0;
}

static void close_tree(struct spec *s) {
    if (s->d.n) session_take(s->o.session, s->path, s->steps);
    s->d.n = 0;
}

static void clock_token(struct spec *s) {
    double now = time_now();
    if (s->entered > 0) {
        s->stats.seconds += now - s->entered;
        s->stats.tokens++;
        if (s->plain_in_a_row > 1 && s->stats.plain_passes > SLOW_PASSES) s->stats.plain_s += now - s->entered, s->stats.plain_tokens++;
    }
    s->entered = now;
}

void spec_begin(struct spec *s, struct sampler *sampler) {
    s->sampler = sampler;
    s->d.n = 0;
    s->entered = 0;
    s->plain_in_a_row = 0;
}

static void read_text(struct spec *s, int32_t id) {
    size_t n = (size_t)session_length(s->o.session);
    s->text.count = 0;
    if (s->text.cap < n + 1) mem_grow((void **)&s->text.id, &s->text.cap, n + 1, sizeof *s->text.id, "the text");
    memcpy(s->text.id, session_ids(s->o.session), n * sizeof *s->text.id);
    s->text.id[n] = id;
    s->text.count = n + 1;
}

const float *spec_feed(struct spec *s, int32_t id, struct err *err) {
    clock_token(s);
    if (s->d.n) {
        int32_t child = draft_child(&s->d, s->path[s->steps - 1], id);
        note_guesses(s, child);
        pace_token(&s->pace, child >= 0);
        if (child >= 0) {
            s->path[s->steps++] = child;
            return s->logits + (size_t)child * (size_t)session_vocab(s->o.session);
        }
        close_tree(s);
    } else {
        pace_token(&s->pace, false);
    }
    s->stats.passes++;
    read_text(s, id);
    struct draft d = {.n = 1, .id = {id}, .parent = {-1}, .p = {1}};
    make_draft(s, &d);
    return d.n > 1 ? judging_pass(s, &d, err) : plain_pass(s, id, err);
}

// ---- verifiers other than coupled

int32_t spec_pick(struct spec *s, const float *logits, int64_t position, struct err *err) {
    int32_t child[DRAFT_MOST], node = s->d.n ? s->path[s->steps - 1] : 0;
    size_t n = 0;
    for (int32_t i = node + 1; i < s->d.n; i++)
        if (s->d.parent[i] == node) child[n++] = s->d.id[i];
    if (!s->o.verifier->choose || n == 0) return sampler_pick(s->sampler, logits, position, err);
    if (!sampler_sees(logits, tokenizer_vocab(s->o.tokenizer), position, err)) return -1;
    struct judgement j = {.p = s->p, .n_p = sampler_distribution(s->sampler, logits, s->p), .q = s->d.q[node], .n_q = s->d.n_q[node],
                          .child = child, .n = n, .seed = s->o.seed, .stream = (uint64_t)position, .counter = (uint64_t)s->drafts, .work = s->room};
    qsort(s->p, j.n_p, sizeof *s->p, candidate_by_id);
    return s->o.verifier->choose(&j);
}

int64_t spec_length(const struct spec *s) { return session_length(s->o.session) + (s->d.n ? s->steps : 0); }

void spec_end(struct spec *s) {
    if (s->sampler) clock_token(s);
    close_tree(s);
    s->entered = 0;
}

// ---- what came of it

struct spec_stats spec_stats(const struct spec *s) { return s->stats; }
const char *spec_trouble(const struct spec *s) { return *s->trouble.text ? s->trouble.text : NULL; }

double spec_gain(const struct spec_stats *t, double *plain) {
    *plain = t->plain_tokens ? (double)t->plain_tokens / t->plain_s : NAN;
    return (double)t->tokens / t->seconds / *plain;
}

void spec_tell(const struct spec *s, struct text *line) {
    const struct spec_stats *t = &s->stats;
    if (t->tokens == 0) return;
    double plain, gain = spec_gain(t, &plain);
    if (t->guesses == 0) {
        text_fmt(line, "guesses: none were worth it in %lld passes", (long long)t->passes);
        return;
    }
    if (t->plain_tokens > 0) text_fmt(line, "guesses: %.2fx (%.1f/s, plain %.1f/s on %lld of the tokens), ", gain, (double)t->tokens / t->seconds, plain, (long long)t->plain_tokens);
    else text_fmt(line, "guesses: %.1f/s, ", (double)t->tokens / t->seconds);
    text_fmt(line, "%.2f tokens a pass, %lld of %lld guesses held, by place", (double)t->tokens / (double)t->passes, (long long)t->held, (long long)t->guesses);
    for (int i = 0; i < SPEC_PLACES && t->at[i] > 0; i++) text_fmt(line, " %.0f", 100 * (double)t->held_at[i] / (double)t->at[i]);
    text_fmt(line, "%%, drafting %.0f%% of the time; passes:", 100 * t->draft_s / t->seconds);
    for (int i = 0; i < s->o.n_drafters; i++) text_fmt(line, " %lld %s,", (long long)t->by[i], s->o.drafters[i]->name);
    text_fmt(line, " %lld plain", (long long)t->plain_passes);
}
