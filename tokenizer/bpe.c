// bpe.c: merging. What both kinds share (which neighbours merge next), and the rules of byte-level
// BPE.
//
// Byte-pair encoding (Sennrich et al. 2016): of all neighbouring symbols that may merge, the pair
// of lowest rank does, the leftmost among equals, until none is left. Short pieces scan for the
// lowest, long ones keep a linked list and a heap: O(n log n). A heap entry is not removed when its
// symbols change; it is recognised as stale because the two symbols no longer have the size they
// had together (symbols only grow).
//
// For BPE a rule is (left id, right id) -> (rank, result). Loading holds every rule to bytes(left)
// + bytes(right) == bytes(result), and byte tokens to their byte, so that decode(encode(x)) == x
// whatever the vocabulary says else.
#include "tokenizer/internal.h"

#include <stdlib.h>
#include <string.h>

#define SHORT_PIECE 40 // symbols; above, the heap is faster

// ---- rules

static struct merge_rule *rule_place(const struct tokenizer *t, int32_t left, int32_t right) {
    uint64_t key = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    return &t->rule_slots[(size_t)((key * 0x9E3779B97F4A7C15ull) >> 20) & t->rule_mask];
}
static struct merge_rule *rule_slot(const struct tokenizer *t, int32_t left, int32_t right) {
    size_t at = (size_t)(rule_place(t, left, right) - t->rule_slots);
    for (;; at = (at + 1) & t->rule_mask) {
        struct merge_rule *slot = &t->rule_slots[at];
        if (slot->left < 0 || (slot->left == left && slot->right == right)) return slot;
    }
}

bool bpe_merge(const struct tokenizer *t, int32_t left, int32_t right, uint32_t *rank,
               int32_t *id) {
    const struct merge_rule *slot = rule_slot(t, left, right);
    if (slot->left < 0) return false;
    *rank = slot->rank;
    *id = slot->result;
    return true;
}

static bool is_text(const struct tokenizer *t, int32_t id) {
    return id >= 0 && t->type[id] != TOKEN_CONTROL && t->type[id] != TOKEN_UNKNOWN;
}
static int32_t normal_token(const struct tokenizer *t, const char *spelling, size_t n) {
    int32_t id = tokenizer_find(t, spelling, n);
    return is_text(t, id) ? id : -1;
}

static bool spans_join(struct span a, struct span b, struct span whole) {
    return a.n + b.n == whole.n && !memcmp(whole.p, a.p, a.n) && !memcmp(whole.p + a.n, b.p, b.n);
}

struct merge_line { // a line of the file on its way to a rule
    struct span part[2];
    uint64_t hash[2];
};

// The parts of line i: given apart, or as "left right".
static bool line_parts(const struct recipe *r, size_t i, struct merge_line *m, struct err *err) {
    struct span line = r->merges[i];
    m->part[0] = line;
    if (r->merge_right) {
        m->part[1] = r->merge_right[i];
    } else {
        const char *space = line.n > 2 ? memchr(line.p + 1, ' ', line.n - 2) : NULL;
        if (!space) return err_set(err, "expected two tokens with a space between them");
        m->part[0].n = (size_t)(space - line.p);
        m->part[1] = (struct span){space + 1, line.n - m->part[0].n - 1};
    }
    for (int k = 0; k < 2; k++) m->hash[k] = token_hash(m->part[k]);
    return true;
}

// The token of both parts together: mostly the one behind that of the line before.
static int32_t joined_token(const struct tokenizer *t, const struct merge_line *m, int32_t before,
                            struct text *joined) {
    const int32_t next = before + 1;
    if ((size_t)next < t->n && spans_join(m->part[0], m->part[1], t->token[next]))
        return is_text(t, next) ? next : -1;
    text_clear(joined);
    for (int k = 0; k < 2; k++) text_add(joined, m->part[k].p, m->part[k].n);
    return normal_token(t, joined->data, joined->len);
}

static bool rule_parse(const struct tokenizer *t, const struct merge_line *m, struct text *joined,
                       struct merge_rule *rule, struct err *err) {
    rule->left = tokenizer_find_hashed(t, m->part[0], m->hash[0]);
    rule->right = tokenizer_find_hashed(t, m->part[1], m->hash[1]);
    if (!is_text(t, rule->left) || !is_text(t, rule->right))
        return err_set(err, "its %s part is no text token of the vocabulary",
                       !is_text(t, rule->left) ? "left" : "right");
    rule->result = joined_token(t, m, rule->result, joined);
    if (rule->result < 0) return err_set(err, "its result is no text token of the vocabulary");
    if (!spans_join(t->piece[rule->left], t->piece[rule->right], t->piece[rule->result]))
        return err_set(err, "its result stands for other bytes than its parts");
    return true;
}

static void rule_add(struct tokenizer *t, const struct merge_rule *rule) {
    struct merge_rule *slot = rule_slot(t, rule->left, rule->right);
    if (slot->left >= 0) return; // said twice: the first counts
    *slot = *rule;
    slot->rank = (uint32_t)t->n_rules;
    t->rules[t->n_rules++] = *slot;
}

// Lines are taken LINES at a time, in steps: what they look up is all over the tables, and the
// processor fetches many places at once, but no place before it knows the one that leads there.
enum { LINES = 16 };
bool bpe_rules_make(struct tokenizer *t, const struct recipe *r, struct err *err) {
    size_t slots = 16;
    while (slots < 2 * r->n_merges) slots *= 2;
    t->rules = mem_array(r->n_merges, sizeof *t->rules, "merge rules");
    t->rule_slots = mem_array(slots, sizeof *t->rule_slots, "merge table");
    t->rule_mask = slots - 1;
    for (size_t i = 0; i < slots; i++) t->rule_slots[i].left = -1;
    struct text joined = {0};
    struct merge_line line[LINES];
    struct merge_rule rule[LINES];
    int32_t before = -1;
    bool good = true;
    for (size_t at = 0; at < r->n_merges && good; at += LINES) {
        size_t n = 0, done = 0; // lines with two parts, and those that became rules
        while (n < LINES && at + n < r->n_merges && line_parts(r, at + n, &line[n], err)) n++;
        for (enum token_expect_step step = EXPECT_SLOT; step <= EXPECT_BYTES; step++)
            for (size_t i = 0; i < 2 * n; i++) token_expect(t, line[i / 2].hash[i % 2], step);
        for (; done < n; done++) {
            rule[done].result = before;
            if (!rule_parse(t, &line[done], &joined, &rule[done], err)) break;
            before = rule[done].result;
            __builtin_prefetch(rule_place(t, rule[done].left, rule[done].right), 1);
        }
        for (size_t i = 0; i < done; i++) rule_add(t, &rule[i]);
        good = done == LINES || at + done == r->n_merges;
        if (good) continue;
        struct span bad = r->merges[at + done];
        err_in(err, "merge %zu of %zu, \"%.*s\"", at + done + 1, r->n_merges, bad.n < 60 ? (int)bad.n : 60, bad.p);
    }
    text_free(&joined);
    return good;
}

// ---- merging

static bool merge_of(const struct tokenizer *t, const char *piece, const struct symbol *left,
                     const struct symbol *right, struct candidate_merge *out) {
    out->size = left->size + right->size;
    if (t->kind == TOKENIZER_SPM && !t->by_rules)
        return spm_merge(t, piece + left->start, out->size, &out->rank, &out->id);
    return bpe_merge(t, left->id, right->id, &out->rank, &out->id);
}

static size_t merge_short(const struct tokenizer *t, const char *piece, struct symbol *s,
                          size_t count) {
    struct candidate_merge with_next[SHORT_PIECE]; // of symbol i with symbol i + 1
    for (size_t i = 0; i + 1 < count; i++)
        if (!merge_of(t, piece, &s[i], &s[i + 1], &with_next[i])) with_next[i].rank = UINT32_MAX;
    while (count > 1) {
        size_t best = 0;
        for (size_t i = 1; i + 1 < count; i++)
            if (with_next[i].rank < with_next[best].rank) best = i;
        if (with_next[best].rank == UINT32_MAX) break;
        s[best].size = with_next[best].size;
        s[best].id = with_next[best].id;
        memmove(&s[best + 1], &s[best + 2], (count - best - 2) * sizeof *s);
        memmove(&with_next[best], &with_next[best + 1], (count - best - 2) * sizeof *with_next);
        count--;
        for (size_t i = best ? best - 1 : 0; i <= best && i + 1 < count; i++)
            if (!merge_of(t, piece, &s[i], &s[i + 1], &with_next[i]))
                with_next[i].rank = UINT32_MAX;
    }
    return count;
}

static bool comes_first(const struct candidate_merge *a, const struct candidate_merge *b) {
    return a->rank != b->rank ? a->rank < b->rank : a->at < b->at;
}

static void heap_push(struct encoder *e, struct candidate_merge c) {
    if (e->heap_count == e->heap_cap)
        mem_grow((void **)&e->heap, &e->heap_cap, e->heap_count + 1, sizeof *e->heap, "merge heap");
    size_t at = e->heap_count++;
    for (; at > 0 && comes_first(&c, &e->heap[(at - 1) / 2]); at = (at - 1) / 2)
        e->heap[at] = e->heap[(at - 1) / 2];
    e->heap[at] = c;
}

static struct candidate_merge heap_pop(struct encoder *e) {
    struct candidate_merge top = e->heap[0], c = e->heap[--e->heap_count];
    size_t at = 0;
    for (size_t child; (child = 2 * at + 1) < e->heap_count; at = child) {
        if (child + 1 < e->heap_count && comes_first(&e->heap[child + 1], &e->heap[child])) child++;
        if (!comes_first(&e->heap[child], &c)) break;
        e->heap[at] = e->heap[child];
    }
    e->heap[at] = c;
    return top;
}

static void heap_offer(struct encoder *e, const char *piece, int32_t left) {
    struct symbol *s = e->symbols;
    if (left < 0 || s[left].after < 0) return;
    struct candidate_merge c = {.at = (uint32_t)left};
    if (merge_of(e->t, piece, &s[left], &s[s[left].after], &c)) heap_push(e, c);
}

static size_t merge_long(struct encoder *e, const char *piece, size_t count) {
    struct symbol *s = e->symbols;
    for (size_t i = 0; i < count; i++) {
        s[i].before = (int32_t)i - 1;
        s[i].after = i + 1 < count ? (int32_t)i + 1 : -1;
    }
    e->heap_count = 0;
    for (size_t i = 0; i + 1 < count; i++) heap_offer(e, piece, (int32_t)i);
    while (e->heap_count) {
        struct candidate_merge c = heap_pop(e);
        struct symbol *left = &s[c.at];
        if (!left->size || left->after < 0 || left->size + s[left->after].size != c.size) continue;
        struct symbol *right = &s[left->after];
        left->size = c.size;
        left->id = c.id;
        left->after = right->after;
        right->size = 0;
        if (left->after >= 0) s[left->after].before = (int32_t)c.at;
        heap_offer(e, piece, left->before);
        heap_offer(e, piece, (int32_t)c.at);
    }
    size_t kept = 0;
    for (size_t i = 0; i < count; i++)
        if (s[i].size) s[kept++] = s[i];
    return kept;
}

size_t merge_symbols(struct encoder *e, const char *piece, size_t count) {
    if (count < 2) return count;
    return count <= SHORT_PIECE ? merge_short(e->t, piece, e->symbols, count)
                                : merge_long(e, piece, count);
}

// ---- a piece of BPE

void bpe_encode_piece(struct encoder *e, const char *text, size_t n) {
    const int32_t *byte_id = e->t->byte_id;
    if (e->t->ignores_merges) {
        text_clear(&e->escaped);
        bytes_spell(text, n <= e->t->longest ? n : 0, &e->escaped);
        int32_t whole = normal_token(e->t, e->escaped.data, e->escaped.len);
        if (whole >= 0) {
            ids_add(e->out, whole);
            return;
        }
    }
    if (n > e->symbol_cap)
        mem_grow((void **)&e->symbols, &e->symbol_cap, n, sizeof *e->symbols, "symbols of a piece");
    size_t count = 0;
    for (size_t i = 0; i < n; i++) {
        int32_t id = byte_id[(unsigned char)text[i]];
        // A GGUF file often names an end token as the unknown one, and text must not become that.
        if (id < 0 && e->t->added) id = e->t->unknown;
        if (id >= 0) e->symbols[count++] = (struct symbol){.start = (uint32_t)i, .size = 1, .id = id};
    }
    count = merge_symbols(e, text, count);
    for (size_t i = 0; i < count; i++) ids_add(e->out, e->symbols[i].id);
}
