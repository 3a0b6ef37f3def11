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

static struct merge_rule *rule_slot(const struct tokenizer *t, int32_t left, int32_t right) {
    uint64_t key = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    size_t at = (size_t)((key * 0x9E3779B97F4A7C15ull) >> 20) & t->rule_mask;
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

static int32_t normal_token(const struct tokenizer *t, const char *spelling, size_t n) {
    int32_t id = tokenizer_find(t, spelling, n);
    return id >= 0 && t->type[id] != TOKEN_CONTROL && t->type[id] != TOKEN_UNKNOWN ? id : -1;
}

static bool spans_join(struct span a, struct span b, struct span whole) {
    return a.n + b.n == whole.n && !memcmp(whole.p, a.p, a.n) && !memcmp(whole.p + a.n, b.p, b.n);
}

// The parts of line i: given apart, or as "left right".
static bool rule_parts(const struct recipe *r, size_t i, struct span *left, struct span *right, struct err *err) {
    struct span line = r->merges[i];
    *left = line;
    if (r->merge_right) {
        *right = r->merge_right[i];
        return true;
    }
    const char *space = line.n > 2 ? memchr(line.p + 1, ' ', line.n - 2) : NULL;
    if (!space) return err_set(err, "expected two tokens with a space between them");
    left->n = (size_t)(space - line.p);
    *right = (struct span){space + 1, line.n - left->n - 1};
    return true;
}

static bool rule_parse(const struct tokenizer *t, struct span left, struct span right, struct text *joined,
                       struct merge_rule *rule, struct err *err) {
    rule->left = normal_token(t, left.p, left.n);
    rule->right = normal_token(t, right.p, right.n);
    if (rule->left < 0 || rule->right < 0)
        return err_set(err, "its %s part is no text token of the vocabulary",
                       rule->left < 0 ? "left" : "right");
    text_clear(joined);
    text_add(joined, left.p, left.n);
    text_add(joined, right.p, right.n);
    rule->result = normal_token(t, joined->data, joined->len);
    if (rule->result < 0) return err_set(err, "its result is no text token of the vocabulary");
    if (!spans_join(t->piece[rule->left], t->piece[rule->right], t->piece[rule->result]))
        return err_set(err, "its result stands for other bytes than its parts");
    return true;
}

bool bpe_rules_make(struct tokenizer *t, const struct recipe *r, struct err *err) {
    size_t slots = 16;
    while (slots < 2 * r->n_merges) slots *= 2;
    t->rules = mem_array(r->n_merges, sizeof *t->rules, "merge rules");
    t->rule_slots = mem_array(slots, sizeof *t->rule_slots, "merge table");
    t->rule_mask = slots - 1;
    for (size_t i = 0; i < slots; i++) t->rule_slots[i].left = -1;
    struct text joined = {0};
    bool good = true;
    for (size_t i = 0; i < r->n_merges && good; i++) {
        struct merge_rule rule = {.rank = (uint32_t)t->n_rules};
        struct span left = {0}, right = {0};
        good = rule_parts(r, i, &left, &right, err) && rule_parse(t, left, right, &joined, &rule, err);
        if (!good) {
            int shown = r->merges[i].n < 60 ? (int)r->merges[i].n : 60;
            err_in(err, "merge %zu of %zu, \"%.*s\"", i + 1, r->n_merges, shown, r->merges[i].p);
            break;
        }
        struct merge_rule *slot = rule_slot(t, rule.left, rule.right);
        if (slot->left >= 0) continue; // said twice: the first counts
        *slot = t->rules[t->n_rules++] = rule;
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
