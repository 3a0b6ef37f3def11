// unigram.c: pieces of a unigram language model (Kudo 2018, "Subword regularization").
//
// Every token has a log-probability; a piece is cut so that their sum is the greatest. Viterbi from left to right: best[i] is
// the best way to reach byte i, and from every reached character all tokens that begin there are tried, by a walk
// through a trie. A character that is no token itself may be passed as unknown, for the lowest log-probability less 10.
// Sums are doubles added from the left and only a better one replaces, as in SentencePiece, llama.cpp and `tokenizers`, so
// that ties fall alike. Unknown characters in a row are one unknown token; with byte fallback they become their bytes.
//
// The trie has its nodes breadth first: the children of a node stand together, sorted by byte. It is made from the sorted
// spellings, level by level, without recursion. A walk is at most TOKEN_MAX bytes, so a piece costs O(n) whatever it is.
//
// Control, unknown and byte tokens never come out of text, also where their spelling stands in it.
#include "tokenizer/internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define UNKNOWN_PENALTY 10.0
#define TOKEN_MAX 1024 // bytes of a spelling

// ---- the trie

struct entry {
    struct span text;
    int32_t id;
};

static int entry_order(const void *a, const void *b) {
    const struct entry *x = a, *y = b;
    size_t n = x->text.n < y->text.n ? x->text.n : y->text.n;
    int order = memcmp(x->text.p, y->text.p, n);
    return order ? order : (x->text.n > y->text.n) - (x->text.n < y->text.n);
}

static bool in_text(const struct tokenizer *t, size_t i) {
    unsigned char type = t->type[i];
    return t->token[i].n && (!t->n_scored || i < t->n_scored) && type != TOKEN_CONTROL && type != TOKEN_UNKNOWN && type != TOKEN_BYTE;
}

// The entries [from, to) of a node agree on its bytes; its own entry, if it has one, was taken off in front.
struct range {
    uint32_t from, to;
};

static void node_add(struct unigram *u, size_t *cap, unsigned char byte) {
    if (u->n_nodes == *cap) mem_grow((void **)&u->node, cap, u->n_nodes + 1, sizeof *u->node, "trie");
    u->node[u->n_nodes++] = (struct trie_node){.byte = byte, .id = -1};
}

static void trie_make(struct unigram *u, const struct entry *entry, size_t n) {
    size_t cap = 0, range_cap = 0;
    struct range *range = NULL;
    node_add(u, &cap, 0);
    mem_grow((void **)&range, &range_cap, 1, sizeof *range, "trie");
    range[0] = (struct range){0, (uint32_t)n};
    size_t depth = 0, level_end = 1;
    for (size_t i = 0; i < u->n_nodes; i++) {
        if (i == level_end) {
            depth++;
            level_end = u->n_nodes;
        }
        struct range r = range[i];
        if (r.from < r.to && entry[r.from].text.n == depth) u->node[i].id = entry[r.from++].id;
        u->node[i].child = (uint32_t)u->n_nodes;
        while (r.from < r.to) {
            unsigned char byte = (unsigned char)entry[r.from].text.p[depth];
            uint32_t end = r.from + 1;
            while (end < r.to && (unsigned char)entry[end].text.p[depth] == byte) end++;
            node_add(u, &cap, byte);
            if (u->n_nodes > range_cap) mem_grow((void **)&range, &range_cap, u->n_nodes, sizeof *range, "trie");
            range[u->n_nodes - 1] = (struct range){r.from, end};
            u->node[i].n_children++;
            r.from = end;
        }
    }
    mem_free(range);
}

static const struct trie_node *trie_step(const struct unigram *u, const struct trie_node *node, unsigned char byte) {
    const struct trie_node *child = u->node + node->child;
    size_t low = 0, high = node->n_children;
    if (high == 256) return child + byte;
    while (low < high) {
        size_t mid = (low + high) / 2;
        if (child[mid].byte < byte)
            low = mid + 1;
        else
            high = mid;
    }
    return low < node->n_children && child[low].byte == byte ? child + low : NULL;
}

// ---- making

bool unigram_make(struct tokenizer *t, const struct recipe *r, struct err *err) {
    struct unigram *u = &t->unigram;
    if (t->unknown < 0 && !(t->falls_back && t->all_bytes))
        return err_set(err, "a Unigram model needs an unknown token, or all bytes to fall back on, and there is none");
    for (size_t i = 0; r->logp && i < t->n; i++)
        if (!isfinite(r->logp[i])) return err_set(err, "token %zu has a log probability that is no finite number", i);
    struct entry *entry = mem_array(t->n, sizeof *entry, "trie");
    size_t n = 0;
    double least = 0;
    bool any = false;
    u->logp = mem_array(t->n, sizeof *u->logp, "log probabilities");
    for (size_t i = 0; i < t->n; i++) {
        u->logp[i] = (r->logp ? r->logp[i] : (double)t->score[i]) + 0.0; // no -0
        bool counts = t->n_scored ? i < t->n_scored : t->type[i] == TOKEN_NORMAL;
        if (counts && (!any || u->logp[i] < least)) least = u->logp[i];
        any |= counts;
        if (!t->n_scored && t->type[i] == TOKEN_USER) u->logp[i] = 0; // llama.cpp
        if (in_text(t, i)) entry[n++] = (struct entry){t->token[i], (int32_t)i};
    }
    u->unknown_logp = least - UNKNOWN_PENALTY;
    size_t longest = 0;
    for (size_t i = 0; i < n; i++)
        if (entry[i].text.n > longest) longest = entry[i].text.n;
    if (n) qsort(entry, n, sizeof *entry, entry_order);
    if (longest <= TOKEN_MAX) trie_make(u, entry, n);
    mem_free(entry);
    return longest <= TOKEN_MAX || err_set(err, "a token of a Unigram model has %zu bytes, at most %d make sense", longest, TOKEN_MAX);
}

// ---- a piece

struct reached { // the best way to a byte
    double sum;
    int32_t id; // of the token that ends here; -1: an unknown character
    uint32_t from;
};

static void reach(struct reached *to, bool first, double sum, int32_t id, size_t from) {
    if (first || sum > to->sum) *to = (struct reached){sum, id, (uint32_t)from};
}

#define NOWHERE UINT32_MAX

// All tokens from `at` on; whether the first character is one.
static void walk(const struct tokenizer *t, const char *text, size_t n, size_t at, struct reached *best) {
    const struct unigram *u = &t->unigram;
    uint32_t code;
    size_t character = at + utf8_decode(text + at, n - at, &code);
    bool single = false;
    const struct trie_node *node = u->node;
    for (size_t i = at; i < n && (node = trie_step(u, node, (unsigned char)text[i])) != NULL;) {
        i++;
        if (node->id < 0) continue;
        single |= i == character;
        reach(&best[i], best[i].from == NOWHERE, best[at].sum + u->logp[node->id], node->id, at);
    }
    if (!single) reach(&best[character], best[character].from == NOWHERE, best[at].sum + u->unknown_logp, -1, at);
}

// The unknown stretch, which may after all be spelled like a token (`tokenizers` looks again).
static void unknown_out(struct encoder *e, const char *text, size_t n) {
    const struct tokenizer *t = e->t;
    int32_t id = t->n_scored && n <= t->longest ? tokenizer_find(t, text, n) : -1;
    bool bytes = t->falls_back;
    for (size_t i = 0; i < n && bytes; i++) bytes = t->byte_id[(unsigned char)text[i]] >= 0;
    if (id >= 0 && in_text(t, (size_t)id))
        ids_add(e->out, id);
    else if (!bytes)
        ids_add(e->out, t->unknown);
    for (size_t i = 0; i < n && bytes; i++) ids_add(e->out, t->byte_id[(unsigned char)text[i]]);
}

void unigram_encode_piece(struct encoder *e, const char *text, size_t n, bool prefix) {
    struct span marked = spm_mark_spaces(e, text, n, prefix);
    text = marked.p;
    n = marked.n;
    if (n + 1 > e->reached_cap)
        mem_grow((void **)&e->reached, &e->reached_cap, n + 1, sizeof *e->reached, "paths through a piece");
    struct reached *best = e->reached;
    for (size_t i = 0; i <= n; i++) best[i].from = NOWHERE;
    best[0] = (struct reached){.from = 0};
    for (size_t at = 0, length; at < n; at += length) {
        uint32_t code;
        length = utf8_decode(text + at, n - at, &code);
        walk(e->t, text, n, at, best);
    }
    // Back along the best path, turning best[i].from from where the token of i began into where the next one ends (0: none).
    size_t end = 0;
    for (size_t at = n, from; at > 0; at = from) {
        from = best[at].from;
        best[at].from = (uint32_t)end;
        end = at;
    }
    for (size_t at = end, from = 0; at; from = at, at = best[at].from) {
        if (best[at].id >= 0) {
            ids_add(e->out, best[at].id);
            continue;
        }
        while (best[at].from && best[best[at].from].id < 0) at = best[at].from;
        unknown_out(e, text + from, at - from);
    }
}
