// spec.c: logits before they are asked for, and when that pays.
//
// State: a tree whose nodes were judged in one pass, and the path of it that the text took. spec_feed(id) looks for id among the
// children of the path's last node. There: its logits are at hand. Not there: the path becomes part of the session, a new
// draft is made behind it, and one pass judges that. Plain decoding is the case of a tree of one node.
//
// The controller. A pass that judges n rows costs T(n) and brings 1 + (sum of the chances of its nodes) tokens; the drafter's
// time comes on top. With the speed of late as the price of time, a pass is worth tokens - price * seconds, and the best of
// none, n-grams and model is taken. Chances are the drafter's own, corrected by how often guesses of such a chance held;
// T(n) is remembered as a multiple of T(1); both forget, so that what has changed is tried again.
#include "gen/spec.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { BUCKETS = 16, PLAIN_EVERY = 32, WARM_PASSES = 3 };

struct arm { // what is known of a drafter
    double tried[BUCKETS], held[BUCKETS]; // of late, by the drafter's own chance
    double mean_tried, mean_held;
    double guess_s;                       // seconds of a guess; 0: not known
    bool given_up;
};

struct spec {
    struct spec_options o;
    struct sampler *sampler;
    struct draft d;           // judged in the last pass; n == 0: nothing is open
    const float *logits;      // of its nodes
    int32_t path[DRAFT_ROWS], steps; // nodes taken, the root first
    int by;                   // the drafter
    struct arm arm[3];
    double plain_s, ratio[DRAFT_ROWS + 1]; // T(1); T(n) / T(1), 0: not known
    double late_tokens, late_s;            // of late, both forgotten alike
    double account;                        // seconds won by guesses, as far as it is remembered
    double draft_start;                    // of the draft under way
    int64_t since_plain, drafts;
    struct spec_stats stats;
    double entered;           // when spec_feed was called last; 0: not in this text
    bool was_plain;
    struct ids text;
    struct candidate *p;      // room for verifiers
    double *room;
    struct err trouble;
};

struct spec *spec_new(const struct spec_options *o) {
    assert(o->rows >= 2 && o->rows <= DRAFT_ROWS && o->most >= 1 && o->most < o->rows && o->wide >= 1);
    struct spec *s = mem_alloc(sizeof *s, "speculation");
    s->o = *o;
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

// ---- what passes cost, what guesses are worth

static void drift(double *x, double to, double share) { *x = *x > 0 ? *x + share * (to - *x) : to; }

// T(n) / T(1): measured, or on the line between its neighbours; beyond the last, each row is taken to cost a quarter.
static double cost_of_rows(const struct spec *s, int32_t n) {
    if (n <= 1) return 1;
    if (s->ratio[n] > 0) return s->ratio[n];
    int32_t below = n - 1, above = n + 1;
    while (below > 1 && s->ratio[below] <= 0) below--;
    while (above <= DRAFT_ROWS && s->ratio[above] <= 0) above++;
    double low = below == 1 ? 1 : s->ratio[below];
    if (above > DRAFT_ROWS) return low + 0.25 * (n - below);
    return low + (s->ratio[above] - low) * (n - below) / (above - below);
}

static int bucket_of(float p) {
    int b = (int)(p * BUCKETS);
    return b < 0 ? 0 : b >= BUCKETS ? BUCKETS - 1 : b;
}

// The chance that a guess holds once all before it did.
static double chance(const struct arm *a, float p) {
    enum { PRIOR = 4 }; // guesses that the drafter's own word weighs
    int b = bucket_of(p);
    return (a->held[b] + PRIOR * (double)p) / (a->tried[b] + PRIOR);
}

static double usual_chance(const struct arm *a) { return (a->mean_held + 2 * 0.6) / (a->mean_tried + 2); }

static void learn(struct arm *a, float p, bool held) {
    const double keep = 0.97;
    int b = bucket_of(p);
    a->tried[b] = keep * a->tried[b] + 1;
    a->held[b] = keep * a->held[b] + held;
    a->mean_tried = keep * a->mean_tried + 1;
    a->mean_held = keep * a->mean_held + held;
}

// What was not seen for a while is less certain: so a drafter that lost is tried again, after some hundred tokens.
static void forget(struct spec *s) {
    const double keep = 0.995;
    for (int i = 0; i < s->o.n_drafters; i++) {
        struct arm *a = &s->arm[i];
        for (int b = 0; b < BUCKETS; b++) a->tried[b] *= keep, a->held[b] *= keep;
        a->mean_tried *= keep, a->mean_held *= keep;
    }
}

// Tokens a second: what a second must bring to be well spent.
static double price(const struct spec *s) {
    double plain = 1 / s->plain_s, late = s->late_s > 0 ? s->late_tokens / s->late_s : 0;
    return late > plain ? late : plain;
}
static double price_of_rows(const struct spec *s, int32_t n) { return price(s) * s->plain_s * cost_of_rows(s, n); }

// Nodes' chances that the walk comes to them; their sum is what the pass brings besides the one token.
static double chances(const struct arm *a, const struct draft *d, double *reach) {
    double sum = 0;
    reach[0] = 1;
    for (int32_t i = 1; i < d->n; i++) {
        reach[i] = reach[d->parent[i]] * chance(a, d->p[i]);
        sum += reach[i];
    }
    return sum;
}

// Seconds of a guess: as measured, in this draft too, or as the sizes of both models say.
static double cost_of_guess(const struct spec *s, int32_t made) {
    const struct arm *a = &s->arm[s->by];
    double before = a->guess_s > 0 ? a->guess_s : s->o.drafters[s->by]->cost * s->plain_s;
    return made > 0 && s->draft_start > 0 ? fmax(before, 0.5 * (time_now() - s->draft_start) / made) : before;
}

// The best that a chain of k guesses, whose last is reached with this chance, may still become: tokens less the price of time.
static double best_ahead(const struct spec *s, const struct arm *a, int32_t k, double sum, double reach, bool *more) {
    double best = sum - price_of_rows(s, k + 1), usual = usual_chance(a), spent = 0, guess = price(s) * cost_of_guess(s, k);
    *more = false;
    for (int32_t i = k + 1; i <= s->o.most && i < s->o.rows; i++) {
        reach *= usual;
        sum += reach;
        spent += guess;
        double value = sum - spent - price_of_rows(s, i + 1);
        if (value > best) best = value, *more = true;
    }
    return best;
}

static bool another(void *arg, const struct draft *d) {
    struct spec *s = arg;
    const struct arm *a = &s->arm[s->by];
    double reach[DRAFT_ROWS];
    bool more;
    if (d->p[d->n - 1] < s->o.p_min) return false;
    if (s->o.fixed || d->n - 1 < s->o.least) return true;
    double sum = chances(a, d, reach);
    best_ahead(s, a, d->n - 1, sum, reach[d->n - 1], &more);
    return more;
}

// ---- drafting

static struct draft_ask ask_for(struct spec *s) {
    enum { SLOPE_ROWS = 8 };
    double slope = (cost_of_rows(s, SLOPE_ROWS) - 1) / (SLOPE_ROWS - 1), least = s->plain_s > 0 ? price(s) * s->plain_s * slope : 0;
    int32_t left = (int32_t)(session_capacity(s->o.session) - session_length(s->o.session)) - 1;
    struct draft_ask ask = {.text = s->text.id, .n = s->text.count, .most = s->o.rows - 1, .deepest = s->o.most, .wide = s->o.wide,
                            .least = s->o.fixed ? 1 / (double)s->o.rows : fmax(0.02, least), .verifier = s->o.verifier, .draws = (uint64_t)s->drafts, .sampler = s->sampler, .seed = s->o.seed};
    if (ask.deepest > left) ask.deepest = left;
    return ask;
}

static bool worth_a_try(const struct spec *s) {
    if (s->o.fixed) return true;
    if (s->stats.plain_passes < WARM_PASSES || s->since_plain >= PLAIN_EVERY) return false;
    return s->account > -2 * s->plain_s;
}

// Cuts a chain to the length that is worth most, perhaps none. What was drawn for another verifier than coupled stays: to drop a draw for
// what it is would be to draw from something else.
static double cut(struct spec *s, const struct arm *a, struct draft *d) {
    double reach[DRAFT_ROWS], sum = 0, best = -price_of_rows(s, 1);
    int32_t keep = 1;
    chances(a, d, reach);
    for (int32_t i = 1; i < d->n; i++) {
        sum += reach[i];
        double value = sum - price_of_rows(s, i + 1);
        bool allowed = s->o.wide == 1 || i == d->n - 1;
        if (allowed && i >= s->o.least && value > best) best = value, keep = i + 1;
    }
    if (s->o.verifier->draw != DRAW_ANY) keep = d->n;
    d->n = keep;
    return best;
}

static void ask_drafter(struct spec *s, int i, struct draft *d, const struct draft_ask *ask) {
    struct err err;
    struct arm *a = &s->arm[i];
    s->draft_start = time_now();
    if (!s->o.drafters[i]->draft(s->o.drafters[i], ask, d, &err)) {
        d->n = 1;
        a->given_up = true;
        err_set(&s->trouble, "guessing by %s ends here, the text goes on without: %s", s->o.drafters[i]->name, err.text);
    }
    double took = time_now() - s->draft_start;
    s->draft_start = 0;
    if (d->n > 1) drift(&a->guess_s, took / (d->n - 1), 0.2);
    s->stats.draft_s += took;
    s->account -= took;
    if (!s->o.fixed) cut(s, a, d);
}

// A drafter without a model is asked for its guesses; one with a model is asked when a guess of the usual kind would be worth more.
static void make_draft(struct spec *s, struct draft *d) {
    s->drafts++;
    struct draft_ask ask = ask_for(s);
    struct draft best = *d;
    double have = s->o.fixed ? 0 : -price_of_rows(s, 1); // a plain pass, less the token that every pass brings
    int by = -1;
    if (ask.deepest < 1 || !worth_a_try(s)) return;
    for (int i = 0; i < s->o.n_drafters; i++) {
        struct arm *a = &s->arm[i];
        bool costs = s->o.drafters[i]->cost > 0, more = true;
        s->by = i;
        if (a->given_up || (s->o.fixed && by >= 0)) continue;
        if (costs && !s->o.fixed && !(best_ahead(s, a, 0, 0, 1, &more) > have && more)) continue;
        struct draft one = {.n = 1, .id = {d->id[0]}, .parent = {-1}, .p = {1}};
        ask.go_on = costs ? another : NULL;
        ask.arg = s;
        ask_drafter(s, i, &one, &ask);
        if (one.n < 2) continue;
        double reach[DRAFT_ROWS];
        double value = s->o.fixed ? 1 : chances(a, &one, reach) - price_of_rows(s, one.n);
        if (by >= 0 && value <= have) continue;
        have = value;
        best = one;
        by = i;
    }
    *d = best;
    s->by = by < 0 ? 0 : by;
}

// ---- passes

static const float *plain_pass(struct spec *s, int32_t id, struct err *err) {
    double start = time_now();
    const float *logits = session_feed(s->o.session, &id, 1, FEED_GENERATED, LOGITS_LAST, err);
    double took = time_now() - start;
    if (s->stats.plain_passes++ > 0) drift(&s->plain_s, took, took < s->plain_s ? 0.5 : 0.1); // the first may pack weights; others only wait longer
    s->account = fmin(s->account + 0.01 * s->plain_s, 4 * s->plain_s);
    s->since_plain = 0;
    s->was_plain = true;
    s->d.n = 0;
    return logits;
}

static const float *judging_pass(struct spec *s, const struct draft *d, struct err *err) {
    double start = time_now();
    s->d = *d;
    s->logits = session_feed_tree(s->o.session, d->id, d->parent, d->n, err);
    double took = time_now() - start;
    if (!s->logits) s->d.n = 0;
    if (s->plain_s > 0) drift(&s->ratio[d->n], took / s->plain_s, 0.3);
    s->path[0] = 0;
    s->steps = 1;
    s->account += s->plain_s - took;
    s->since_plain++;
    s->was_plain = false;
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
        learn(&s->arm[s->by], s->d.p[i], i == taken);
        any = true;
    }
    s->stats.at[place] += any;
    s->stats.held_at[place] += taken >= 0;
    s->stats.held += taken >= 0;
    if (taken >= 0) s->account = fmin(s->account + s->plain_s, 4 * s->plain_s);
}

static void close_tree(struct spec *s) {
    if (s->d.n) session_take(s->o.session, s->path, s->steps);
    s->d.n = 0;
}

static void clock_token(struct spec *s) {
    const double keep = 0.98;
    double now = time_now(), took = now - s->entered;
    if (s->entered > 0) {
        s->stats.seconds += took;
        s->stats.tokens++;
        if (s->was_plain) s->stats.plain_s += took, s->stats.plain_tokens++;
        s->late_tokens = keep * s->late_tokens + 1;
        s->late_s = keep * s->late_s + took;
    }
    s->entered = now;
}

void spec_begin(struct spec *s, struct sampler *sampler) {
    s->sampler = sampler;
    s->d.n = 0;
    s->entered = 0;
    s->was_plain = false;
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
        if (child >= 0) {
            s->path[s->steps++] = child;
            return s->logits + (size_t)child * (size_t)session_vocab(s->o.session);
        }
        close_tree(s);
    }
    forget(s);
    s->stats.passes++;
    read_text(s, id);
    struct draft d = {.n = 1, .id = {id}, .parent = {-1}, .p = {1}};
    make_draft(s, &d);
    return d.n > 1 ? judging_pass(s, &d, err) : plain_pass(s, id, err);
}

// ---- verifiers other than coupled

static int by_id(const void *a, const void *b) {
    const struct candidate *x = a, *y = b;
    return (x->id > y->id) - (x->id < y->id);
}

int32_t spec_pick(struct spec *s, const float *logits, int64_t position, struct err *err) {
    int32_t child[DRAFT_MOST], node = s->d.n ? s->path[s->steps - 1] : 0;
    size_t n = 0;
    for (int32_t i = node + 1; i < s->d.n; i++)
        if (s->d.parent[i] == node) child[n++] = s->d.id[i];
    if (!s->o.verifier->choose || n == 0) return sampler_pick(s->sampler, logits, position, err);
    if (!sampler_sees(s->sampler, logits, position, err)) return -1;
    struct judgement j = {.p = s->p, .n_p = sampler_distribution(s->sampler, logits, s->p), .q = s->d.q[node], .n_q = s->d.n_q[node],
                          .child = child, .n = n, .seed = s->o.seed, .stream = (uint64_t)position, .counter = (uint64_t)s->drafts, .work = s->room};
    qsort(s->p, j.n_p, sizeof *s->p, by_id);
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
