// ngram.c: the longest end of a text that stood in it before, and what followed there.
//
// A suffix automaton (Blumer, Blumer, Haussler, Ehrenfeucht, Chen and Seiferas 1985), grown token by token. A state stands for
// all strings that end at the same places of the text; its longest has `length`, and `link` leads to the state of the longest of
// its ends that stands in more places. The whole text is the state `last` and ends at one place only, so the string of its link is
// the longest end that stood before: the match needs no search. Appending a token makes one state, or two where a state splits,
// and a text of n tokens has at most 2n states and 3n edges; the work is constant for each token, amortised.
//
//     text     a b c a b        the link of the whole is "ab" (length 2), which ended at 2 before;
//              1 2 3 4 5        guess: text[2] = c, then a b, then the guess itself: c a b c a b ...
//
// Every state knows one place where it ended (`latest`), and a text goes on behind each but the last. What was new at a token
// are the link of the whole and all states on its way to the root. That way can be as long as the text (a a a a ...), so only the
// first NEWS of them hear of the new place: no string is ever given a place where it does not stand, and the place is the latest
// one unless the string lay deeper than NEWS at its last occurrence, inside a much longer repetition. (Always the latest one
// costs a logarithm: Larsson 2014.) Over 132 thousand tokens of this program's own source it was another one 5 times,
// over 73 thousand of prose 95 times, and followed no worse.
//
// A read text is kept and compared with the next one, whole: 4 bytes a token at the speed of memory, some 5 us for 32 thousand,
// against milliseconds of a pass. So a text that was rewound and changed is noticed whatever changed, and read anew.
//
// Memory is linear, by tables that double: 80 to 170 bytes a token of prose or code (1.4 states, 2 edges), 230 of any text. A
// million tokens of prose are read in 0.6 s (Sapphire Rapids, one thread, 2026-11).
#include "gen/spec.h"

#include <string.h>

enum { NEWS = 32, EDGES_LEAST = 64, TEXT_MOST = 1 << 28 };

struct state {
    int32_t length, link, latest; // latest: a place is the number of tokens up to its end
    uint32_t first;               // of its edges: slot + 1, 0: none
};
// All edges lie in one table with open addressing, found by (from, id). Edges of a state are chained for when it splits.
struct edge {
    int32_t from, id, to; // to is 0, the root, in an empty slot: no edge leads there
    uint32_t next;        // slot + 1
};
struct ngram {
    int32_t *text;
    struct state *state; // 0: the root, the empty string
    struct edge *edge;
    size_t n, text_cap, n_states, state_cap, n_edges;
    int bits;       // 2^bits slots
    int32_t last;   // the whole text
    int32_t before; // where its link ended before
};

// ---- edges

static size_t slots(const struct ngram *g) { return (size_t)1 << g->bits; }

// The slot of an edge, or the empty one where it belongs.
static struct edge *edge_slot(const struct ngram *g, int32_t from, int32_t id) {
    uint64_t h = ((uint64_t)(uint32_t)from << 32 | (uint32_t)id) * 0x9E3779B97F4A7C15u;
    size_t at = (size_t)(h >> (64 - g->bits)), mask = slots(g) - 1;
    while (g->edge[at].to && (g->edge[at].from != from || g->edge[at].id != id)) at = (at + 1) & mask;
    return &g->edge[at];
}

static void edge_put(struct ngram *g, struct edge *slot, int32_t from, int32_t id, int32_t to) {
    *slot = (struct edge){from, id, to, g->state[from].first};
    g->state[from].first = (uint32_t)(slot - g->edge) + 1;
    g->n_edges++;
}

static void edges_reserve(struct ngram *g, size_t more) {
    if ((g->n_edges + more) * 8 <= slots(g) * 5) return;
    struct edge *old = g->edge;
    size_t n = slots(g);
    while ((g->n_edges + more) * 8 > slots(g) * 5) g->bits++;
    g->edge = mem_array(slots(g), sizeof *g->edge, "n-grams");
    g->n_edges = 0;
    for (size_t i = 0; i < g->n_states; i++) g->state[i].first = 0;
    for (size_t i = 0; i < n; i++)
        if (old[i].to) edge_put(g, edge_slot(g, old[i].from, old[i].id), old[i].from, old[i].id, old[i].to);
    mem_free(old);
}

// ---- states

static int32_t state_add(struct ngram *g, int32_t length, int32_t link, int32_t latest) {
    if (g->n_states == g->state_cap) mem_grow((void **)&g->state, &g->state_cap, g->n_states + 1, sizeof *g->state, "n-grams");
    g->state[g->n_states] = (struct state){length, link, latest, 0};
    return (int32_t)g->n_states++;
}

// Splits off the strings of q that are no longer than `length`: they are about to end at one place more.
static int32_t state_split(struct ngram *g, int32_t q, int32_t length) {
    int32_t half = state_add(g, length, g->state[q].link, g->state[q].latest);
    size_t n = 0;
    for (uint32_t e = g->state[q].first; e; e = g->edge[e - 1].next) n++;
    edges_reserve(g, n);
    for (uint32_t e = g->state[q].first; e; e = g->edge[e - 1].next)
        edge_put(g, edge_slot(g, half, g->edge[e - 1].id), half, g->edge[e - 1].id, g->edge[e - 1].to);
    g->state[q].link = half;
    return half;
}

static void append(struct ngram *g, int32_t id) {
    if (g->n == g->text_cap) mem_grow((void **)&g->text, &g->text_cap, g->n + 1, sizeof *g->text, "n-grams");
    g->text[g->n++] = id;
    int32_t whole = state_add(g, (int32_t)g->n, 0, (int32_t)g->n), p = g->last;
    struct edge *e = NULL;
    for (; p >= 0; p = g->state[p].link) { // ends that id never followed
        edges_reserve(g, 1);
        e = edge_slot(g, p, id);
        if (e->to) break;
        edge_put(g, e, p, id, whole);
    }
    if (p >= 0) { // the longest end that id did follow, and with it the new link
        int32_t q = e->to, length = g->state[p].length + 1, link = q;
        if (g->state[q].length > length) {
            link = state_split(g, q, length);
            for (; p >= 0 && (e = edge_slot(g, p, id))->to == q; p = g->state[p].link) e->to = link;
        }
        g->state[whole].link = link;
    }
    g->last = whole;
    int32_t s = g->state[whole].link;
    g->before = g->state[s].latest;
    for (int i = 0; i < NEWS && s; i++, s = g->state[s].link) g->state[s].latest = (int32_t)g->n;
}

// ---- the text

static void forget(struct ngram *g) {
    g->n = g->n_edges = 0;
    g->n_states = 1;
    g->last = g->before = 0;
    g->state[0] = (struct state){.link = -1};
    memset(g->edge, 0, slots(g) * sizeof *g->edge);
}

struct ngram *ngram_new(void) {
    struct ngram *g = mem_alloc(sizeof *g, "n-grams");
    while (slots(g) < EDGES_LEAST) g->bits++;
    g->edge = mem_array(slots(g), sizeof *g->edge, "n-grams");
    mem_grow((void **)&g->state, &g->state_cap, EDGES_LEAST, sizeof *g->state, "n-grams");
    forget(g);
    return g;
}

void ngram_free(struct ngram *g) {
    if (!g) return;
    mem_free(g->text);
    mem_free(g->state);
    mem_free(g->edge);
    mem_free(g);
}

void ngram_read(struct ngram *g, const int32_t *ids, size_t n) {
    assert(g && (ids || !n) && n <= TEXT_MOST);
    if (g->n > n || (g->n && memcmp(g->text, ids, g->n * sizeof *ids))) forget(g);
    while (g->n < n) append(g, ids[g->n]);
}

size_t ngram_guess(const struct ngram *g, size_t most, int32_t *out, size_t *match) {
    size_t length = g->n ? (size_t)g->state[g->state[g->last].link].length : 0;
    if (match) *match = length;
    if (!length) return 0;
    // Behind the end of the text its continuation is the guess itself.
    for (size_t i = 0, at = (size_t)g->before; i < most; i++, at++) out[i] = at < g->n ? g->text[at] : out[at - g->n];
    return most;
}
