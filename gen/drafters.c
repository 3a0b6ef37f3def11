// drafters.c: who guesses.
//
// An n-gram drafter repeats what followed the end of the text before. A model drafter runs a small model along the text. It
// samples with the target's own noise: where both models agree on a distribution they agree on the token, and where they
// nearly agree they mostly do (Gumbel coupling; Angelopoulos et al. 2022 on counterfactual sampling has the idea).
//
// A tree is grown as DySpec grows it (Xiong et al. 2024, its form by layers): a slot is the next child of a node, worth
// the chance that the walk comes there and takes it; every slot above a threshold becomes a node, and one pass of the draft model
// over the tree opens the slots of the next layer. Nodes come in the order of layers and are put in preorder at the end.
//
// The draft's session is a cache of what it has read: each draft rewinds it to what it has in common with the text and
// feeds the rest, so that it follows accepted paths, rewound conversations and shifted contexts alike, by one rule.
#include "gen/spec.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

const struct drafter_row drafter_rows[] = {
    {"auto", "what is at hand, whichever is fastest here, or nothing", false},
    {"none", "plain decoding", false},
    {"ngram", "what followed the last tokens earlier in the text; no model", false},
    {"model", "the draft model of --draft, a chain", true},
    {"staged", "the same, with n-grams that guess for the draft model", true},
    {"tree", "a tree of its guesses, grown by their likelihood", true},
    {"exit", "the first layers of the model itself, a chain; for models that have learned it, or any with --exit-layer", false},
};
const int drafter_row_count = COUNT_OF(drafter_rows);

int32_t draft_add(struct draft *d, int32_t parent, int32_t id, float p) {
    assert(d->n >= 1 && d->n < DRAFT_ROWS && parent >= 0 && parent < d->n);
    int32_t i = d->n++;
    d->id[i] = id;
    d->parent[i] = parent;
    d->depth[i] = d->depth[parent] + 1;
    d->p[i] = p;
    for (int k = 0; k < PREDICTORS; k++) d->word[i][k] = k == BY_CONFIDENCE ? p : -1;
    d->q[i] = NULL;
    d->n_q[i] = 0;
    return i;
}

int32_t draft_child(const struct draft *d, int32_t node, int32_t id) {
    for (int32_t i = node + 1; i < d->n; i++)
        if (d->parent[i] == node && d->id[i] == id) return i;
    return -1;
}

// ---- n-grams

struct ngram_drafter {
    struct drafter base;
    struct ngram *ngram;
};

// How likely a guess is whose last `match` tokens stood there before; only the order matters, the rest is learned (spec.c).
static float chance_of(size_t match) { return (float)match / ((float)match + 4); }

static bool ngram_draft(struct drafter *self, const struct draft_ask *ask, struct draft *d, struct err *err) {
    struct ngram_drafter *g = (struct ngram_drafter *)self;
    int32_t guess[DRAFT_MOST];
    size_t match, most = (size_t)(ask->most < ask->deepest ? ask->most : ask->deepest);
    (void)err;
    if (ask->verifier->draw != DRAW_ANY) return true; // it cannot tell what its guesses were drawn from
    ngram_read(g->ngram, ask->text, ask->n);
    size_t n = ngram_guess(g->ngram, most, guess, &match);
    for (size_t i = 0; i < n; i++) draft_add(d, d->n - 1, guess[i], chance_of(match + i));
    return true;
}

static void ngram_drafter_free(struct drafter *self) {
    ngram_free(((struct ngram_drafter *)self)->ngram);
    mem_free(self);
}

struct drafter *drafter_ngram(void) {
    struct ngram_drafter *g = mem_alloc(sizeof *g, "n-gram drafter");
    g->base = (struct drafter){"ngram", 0, ngram_draft, ngram_drafter_free};
    g->ngram = ngram_new();
    return &g->base;
}

// ---- a model

struct model_drafter {
    struct drafter base;
    struct draft_model o;
    struct spec *inner;             // staged: what guesses for the draft
    struct drafter *inner_drafter;
    struct ids text, spelled, upto; // the target's text; as the draft reads it; how much of that belongs to the first i + 1 of text
    size_t skip;                    // of spelled, what lies before the draft's context
    struct candidate *q;            // [DRAFT_ROWS][SAMPLER_ROUGH]
    double *work;                   // [SAMPLER_ROUGH]
    float *room;                    // of the acceptance head
};

// The text as the draft reads it.
static void spell(struct model_drafter *m, const struct draft_ask *ask) {
    size_t same = 0;
    while (same < m->text.count && same < ask->n && m->text.id[same] == ask->text[same]) same++;
    m->text.count = m->upto.count = same;
    m->spelled.count = same ? (size_t)m->upto.id[same - 1] : 0;
    for (size_t i = same; i < ask->n; i++) {
        ids_add(&m->text, ask->text[i]);
        vocab_map_read(m->o.map, m->o.tokenizer, m->o.target_tokenizer, ask->text[i], &m->spelled);
        ids_add(&m->upto, (int32_t)m->spelled.count);
    }
}

static const float *feed(struct model_drafter *m, int32_t id, struct err *err) {
    return m->inner ? spec_feed(m->inner, id, err) : session_feed(m->o.session, &id, 1, FEED_GENERATED, LOGITS_LAST, err);
}

// Reads what the draft has not read yet of all but the last token, then that one. *room: tokens that fit behind it.
static const float *catch_up(struct model_drafter *m, const struct draft_ask *ask, struct draft *d, int32_t *room, struct err *err) {
    struct session *s = m->o.session;
    double start = time_now();
    size_t capacity = (size_t)session_capacity(s), n = m->spelled.count, same = 0;
    size_t ahead = (size_t)ask->deepest + 2;
    if (capacity < 2 * ahead) {
        err_set(err, "the draft's context of %zu tokens is too small to guess with", capacity);
        return NULL;
    }
    if (m->skip >= n) m->skip = 0;
    if (n - m->skip + ahead > capacity) m->skip = n - (capacity - ahead) / 2;
    if (!session_settle(s, err)) return NULL; // the target's first layers may still lie in the file: that is not what a guess costs
    const int32_t *want = m->spelled.id + m->skip, *have = session_ids(s);
    n -= m->skip;
    while (same + 1 < n && same < (size_t)session_length(s) && want[same] == have[same]) same++;
    session_rewind(s, (int64_t)same);
    *room = (int32_t)(capacity - n);
    if (same + 1 < n && !session_feed(s, want + same, (int64_t)(n - same - 1), FEED_PROMPT, LOGITS_NONE, err)) return NULL;
    d->reading_s = time_now() - start;
    if (m->inner) spec_begin(m->inner, NULL);
    return feed(m, want[n - 1], err);
}

// False with a sentence when the draft's logits are no numbers.
static bool sound(const struct model_drafter *m, const float *logits, struct err *err) {
    if (sampler_sees(logits, m->o.map->draft_n, 0, NULL)) return true;
    return err_set(err, "the draft model's output is not a number: its weights are damaged, try --check");
}

// Candidates for what follows a node at a position, up to n, into out: p is how likely each is. *entropy: of what they come from.
static size_t candidates(struct model_drafter *m, const struct draft_ask *ask, struct draft *d, int32_t node, const float *logits,
                         size_t n, struct candidate *out, double *entropy) {
    int64_t position = (int64_t)ask->n + d->depth[node]; // of the token that is guessed
    const struct guess_logits z = {logits, m->o.map->same ? NULL : m->o.map->to_target, m->o.map->same ? m->o.map->target_n : m->o.map->draft_n};
    if (ask->verifier->draw == DRAW_ANY) return sampler_guess(ask->sampler, &z, position, n, out, entropy);
    struct candidate *q = m->q + (size_t)node * SAMPLER_ROUGH;
    int32_t child[DRAFT_MOST];
    d->n_q[node] = sampler_rough(ask->sampler, &z, q);
    qsort(q, d->n_q[node], sizeof *q, candidate_by_id);
    d->q[node] = q;
    *entropy = 0;
    for (size_t i = 0; i < d->n_q[node]; i++) *entropy -= q[i].p > 0 ? (double)q[i].p * log((double)q[i].p) : 0;
    // A stream for each node: what is drawn at one must not tell what is drawn at another.
    n = verifier_draw(ask->verifier->draw, q, d->n_q[node], n, ask->seed, (uint64_t)node << 48 | (uint64_t)position, ask->draws, m->work, child);
    for (size_t i = 0; i < n; i++) {
        struct candidate key = {.id = child[i]}, *found = bsearch(&key, q, d->n_q[node], sizeof *q, candidate_by_id);
        assert(found);
        out[i] = *found;
    }
    return n;
}

static bool grow_chain(struct model_drafter *m, const struct draft_ask *ask, int32_t room, const float *logits, struct draft *d, struct err *err) {
    int32_t most = ask->most < ask->deepest ? ask->most : ask->deepest;
    if (most > room) most = room;
    while (d->n <= most) {
        struct candidate guess;
        double entropy;
        if (!sound(m, logits, err)) return false;
        if (!candidates(m, ask, d, d->n - 1, logits, 1, &guess, &entropy)) break;
        int32_t node = draft_add(d, d->n - 1, guess.id, guess.p), id = m->o.map->to_draft[guess.id];
        d->word[node][BY_ENTROPY] = (float)exp(-entropy);
        d->word[node][BY_RUNNING] = fmaxf(0, 1 - ((float)d->depth[node] - 0.5f) / PACE_BUCKETS); // a bucket for each depth
        if (m->o.accept && !m->inner) d->word[node][BY_HEAD] = accept_chance(m->o.accept, session_hidden(m->o.session), m->room);
        if (tokenizer_is_end(m->o.target_tokenizer, guess.id) || d->n > most || (ask->go_on && !ask->go_on(ask->arg, d))) break;
        assert(id >= 0 && node == d->n - 1);
        if (!(logits = feed(m, id, err))) return false;
    }
    return true;
}

// ---- trees

struct slots { // of a node whose logits are there: its children, in the tree or not yet
    struct candidate next[DRAFT_MOST];
    int32_t n, used;
    double left; // of q, what the used ones leave
};
struct layers { // nodes in the order they were made
    struct draft d;
    double value[DRAFT_ROWS]; // the walk comes here
    struct slots slots[DRAFT_ROWS];
    int32_t opened; // nodes whose logits are there
};

// What the next child of a node is worth. A guess of known likelihood: that the walk takes it. A draw: that the walk comes to where it is
// judged; its own likelihood must not matter, or what is judged would no longer be distributed as q.
static double slot_value(const struct layers *t, int32_t node, const struct draft_ask *ask) {
    const struct slots *s = &t->slots[node];
    if (s->used >= s->n || t->d.depth[node] >= ask->deepest) return 0;
    return t->value[node] * (ask->verifier->draw == DRAW_ANY ? (double)s->next[s->used].p : s->left);
}

static void take_slot(struct layers *t, int32_t node) {
    struct slots *s = &t->slots[node];
    struct candidate c = s->next[s->used++];
    bool again = draft_child(&t->d, node, c.id) >= 0; // drawn twice: judged twice, but the walk goes on from the first
    t->value[draft_add(&t->d, node, c.id, c.p)] = again ? 0 : t->value[node] * (double)c.p;
    s->left -= (double)c.p;
}

// Adds the slots that are worth it, best first; whether any was added. A node of a verifier that has to know how many there are gets all of
// its children or none.
static bool add_layer(struct layers *t, const struct draft_ask *ask) {
    int32_t before = t->d.n;
    bool whole = ask->verifier->at_once;
    for (;;) {
        int32_t best = -1;
        double most = ask->least;
        for (int32_t i = 0; i < t->opened; i++) {
            double value = slot_value(t, i, ask);
            if (value > most && t->d.n + (whole ? t->slots[i].n : 1) <= ask->most + 1) most = value, best = i;
        }
        if (best < 0) break;
        do take_slot(t, best);
        while (whole && t->slots[best].used < t->slots[best].n);
    }
    return t->d.n > before;
}

// Preorder, children in their order; q belongs to nodes and moves with them.
static void in_preorder(const struct layers *t, struct draft *to, int32_t node, int32_t as) {
    to->q[as] = t->d.q[node];
    to->n_q[as] = t->d.n_q[node];
    for (int32_t i = node + 1; i < t->d.n; i++)
        if (t->d.parent[i] == node) in_preorder(t, to, i, draft_add(to, as, t->d.id[i], t->d.p[i]));
}

// The tree as the draft model reads it, in preorder; from[i]: the node in layers of row i.
static int32_t rows_of(const struct layers *t, const struct vocab_map *map, int32_t last, int32_t node, int32_t parent, int32_t *id,
                       int32_t *up, int32_t *from, int32_t n) {
    int32_t here = n++;
    id[here] = node ? map->to_draft[t->d.id[node]] : last;
    up[here] = parent;
    from[here] = node;
    for (int32_t i = node + 1; i < t->d.n; i++)
        if (t->d.parent[i] == node) n = rows_of(t, map, last, i, here, id, up, from, n);
    return n;
}

static bool open_slots(struct model_drafter *m, const struct draft_ask *ask, struct layers *t, int32_t node, const float *logits, struct err *err) {
    if (!sound(m, logits, err)) return false;
    size_t n = (size_t)(ask->wide < DRAFT_MOST ? ask->wide : DRAFT_MOST);
    bool end = node && tokenizer_is_end(m->o.target_tokenizer, t->d.id[node]);
    double entropy; // says nothing of one child among several
    t->slots[node].n = end ? 0 : (int32_t)candidates(m, ask, &t->d, node, logits, n, t->slots[node].next, &entropy);
    t->slots[node].used = 0;
    t->slots[node].left = 1;
    return true;
}

static bool grow_tree(struct model_drafter *m, const struct draft_ask *ask, int32_t room, const float *logits, struct draft *d, struct err *err) {
    struct session *s = m->o.session;
    struct layers *t = mem_alloc(sizeof *t, "tree of guesses");
    int32_t id[DRAFT_ROWS], up[DRAFT_ROWS], from[DRAFT_ROWS], last = m->spelled.id[m->spelled.count - 1];
    t->d = *d;
    t->value[0] = 1;
    bool good = open_slots(m, ask, t, 0, logits, err);
    t->opened = 1;
    session_rewind(s, session_length(s) - 1); // the last token becomes the root of the tree
    while (good && add_layer(t, ask) && t->d.depth[t->d.n - 1] < ask->deepest && t->d.depth[t->d.n - 1] < room) {
        int32_t n = rows_of(t, m->o.map, last, 0, -1, id, up, from, 0);
        logits = session_feed_tree(s, id, up, n, err);
        good = logits != NULL;
        for (int32_t i = 0; good && i < n; i++)
            if (from[i] >= t->opened) good = open_slots(m, ask, t, from[i], logits + (size_t)i * (size_t)session_vocab(s), err);
        t->opened = t->d.n;
    }
    if (good) in_preorder(t, d, 0, 0);
    mem_free(t);
    return good;
}

static bool model_draft(struct drafter *self, const struct draft_ask *ask, struct draft *d, struct err *err) {
    struct model_drafter *m = (struct model_drafter *)self;
    int32_t room;
    spell(m, ask);
    if (!m->spelled.count) return true; // control tokens that it knows nothing like
    const float *logits = catch_up(m, ask, d, &room, err);
    if (!logits) return false;
    bool good = ask->wide > 1 && !m->inner ? grow_tree(m, ask, room, logits, d, err) : grow_chain(m, ask, room, logits, d, err);
    if (m->inner) spec_end(m->inner);
    return good;
}

static void model_drafter_free(struct drafter *self) {
    struct model_drafter *m = (struct model_drafter *)self;
    spec_free(m->inner);
    if (m->inner_drafter) m->inner_drafter->free(m->inner_drafter);
    ids_free(&m->text);
    ids_free(&m->spelled);
    ids_free(&m->upto);
    mem_free(m->q);
    mem_free(m->work);
    mem_free(m->room);
    mem_free(m);
}

struct drafter *drafter_model(const struct draft_model *o) {
    struct model_drafter *m = mem_alloc(sizeof *m, "model drafter");
    m->base = (struct drafter){o->name ? o->name : o->staged ? "staged" : "model", o->cost, model_draft, model_drafter_free};
    m->o = *o;
    m->q = mem_array(DRAFT_ROWS * SAMPLER_ROUGH, sizeof *m->q, "distributions of guesses");
    m->work = mem_array(SAMPLER_ROUGH, sizeof *m->work, "draws of guesses");
    if (o->accept) m->room = mem_array(2 * (size_t)o->accept->C, sizeof *m->room, "acceptance head");
    if (!o->staged) return &m->base;
    m->inner_drafter = drafter_ngram();
    m->inner = spec_new(&(struct spec_options){.session = o->session, .tokenizer = o->tokenizer, .drafters = {m->inner_drafter}, .n_drafters = 1,
                                               .verifier = &verifiers[0], .rows = STAGED_ROWS, .most = STAGED_ROWS - 1, .wide = 1});
    return &m->base;
}
