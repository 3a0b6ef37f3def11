// train.c: training a byte-level BPE (Sennrich et al. 2016, with the pre-tokenizer of GPT-2).
//
// 1. Count. Documents are cut into chunks where a non-space meets a space, which is always the end
// of a pre-token; the
//    pool counts the different pre-tokens ("words") of chunks in one table per thread, and the
//    tables are added up. Sums of integers have no order, and nothing later looks at the order of
//    words, so threads do not matter.
// 2. Merge. All different words lie behind one another as symbols. Every pair of neighbours knows
// its count and the
//    places where it stands; the pair of highest count (then of lowest ids) becomes a token, and
//    only its places change.
//
// Cost: a merge at a place takes a symbol away and there are only as many as bytes in different
// words, so the whole is linear up to hashing and the heap, for every text. Longer words than
// WORD_MAX (a megabyte of one letter) count as several. Memory: about 18 bytes per byte of
// different words.
#include "tokenizer/internal.h"

#include <string.h>

#define WORD_MAX 256
#define CHUNK_BYTES ((size_t)256 << 10)
#define END_OF_TEXT "<|endoftext|>"

// ---- chunks

struct chunks {
    struct span *list;
    size_t count, cap;
};

// Whether the character that ends before `at` is no space.
static bool ends_in_word(const char *text, size_t at) {
    for (size_t k = 1; k <= 4 && k <= at; k++) {
        uint32_t code;
        if (utf8_decode(text + at - k, k, &code) == k && code != UTF8_BAD)
            return char_class(code) != CHAR_SPACE;
    }
    return true; // bytes that are no character
}

static void chunks_add(struct chunks *c, struct span document) {
    while (document.n) {
        size_t end = CHUNK_BYTES;
        while (end < document.n && !((document.p[end] == ' ' || document.p[end] == '\n') &&
                                     ends_in_word(document.p, end)))
            end++;
        if (end > document.n) end = document.n;
        if (c->count == c->cap)
            mem_grow((void **)&c->list, &c->cap, c->count + 1, sizeof *c->list, "training chunks");
        c->list[c->count++] = (struct span){document.p, end};
        document.p += end;
        document.n -= end;
    }
}

// Keeps chunks spread evenly, about max_bytes together: one is kept when what is kept so far lags
// behind its share.
static void chunks_thin(struct chunks *c, size_t max_bytes) {
    double all = 0, before = 0, kept_bytes = 0;
    for (size_t i = 0; i < c->count; i++) all += (double)c->list[i].n;
    if (max_bytes == 0 || (double)max_bytes >= all) return;
    size_t kept = 0;
    for (size_t i = 0; i < c->count; i++) {
        double bytes = (double)c->list[i].n;
        if (kept_bytes * all <= before * (double)max_bytes && kept_bytes < (double)max_bytes) {
            c->list[kept++] = c->list[i];
            kept_bytes += bytes;
        }
        before += bytes;
    }
    c->count = kept;
}

// ---- counting words

struct word { // text is NULL in an empty slot
    const char *text;
    uint32_t size, tag;
    int64_t count;
};
struct words { // open addressing, at most half full
    struct word *slots;
    size_t mask, count;
};

static void words_add(struct words *w, const char *text, uint32_t size, uint64_t hash,
                      int64_t count);

static void words_grow(struct words *w) {
    struct words old = *w;
    w->mask = old.slots ? 2 * old.mask + 1 : 4095;
    w->count = 0;
    w->slots = mem_array(w->mask + 1, sizeof *w->slots, "word counts");
    for (size_t i = 0; old.slots && i <= old.mask; i++) {
        struct word *s = &old.slots[i];
        if (s->text) words_add(w, s->text, s->size, hash_bytes(2, s->text, s->size), s->count);
    }
    mem_free(old.slots);
}

static void words_add(struct words *w, const char *text, uint32_t size, uint64_t hash,
                      int64_t count) {
    if (!w->slots || 2 * w->count > w->mask) words_grow(w);
    uint32_t tag = (uint32_t)(hash >> 32);
    size_t at = (size_t)hash & w->mask;
    for (; w->slots[at].text; at = (at + 1) & w->mask) {
        struct word *s = &w->slots[at];
        if (s->tag == tag && s->size == size && !memcmp(s->text, text, size)) {
            s->count += count;
            return;
        }
    }
    w->slots[at] = (struct word){text, size, tag, count};
    w->count++;
}

struct counting {
    const struct span *chunks;
    struct words *tables; // one per thread
};

static void count_chunks(void *arg, int64_t low, int64_t high, int thread) {
    struct counting *c = arg;
    struct words *w = &c->tables[thread];
    for (int64_t i = low; i < high; i++) {
        struct span left = c->chunks[i];
        while (left.n) {
            size_t n = pretoken_length(left.p, left.n < PIECE_MAX ? left.n : PIECE_MAX);
            for (size_t at = 0; at < n; at += WORD_MAX) {
                size_t size = n - at < WORD_MAX ? n - at : WORD_MAX;
                if (size > 1)
                    words_add(w, left.p + at, (uint32_t)size, hash_bytes(2, left.p + at, size), 1);
            }
            left.p += n;
            left.n -= n;
        }
    }
}

static struct words words_count(const struct chunks *chunks) {
    int threads = pool_threads();
    struct counting c = {chunks->list, mem_array((size_t)threads, sizeof *c.tables, "word counts")};
    pool_for((int64_t)chunks->count, 1, count_chunks, &c);
    struct words all = c.tables[0];
    for (int t = 1; t < threads; t++) {
        struct words *w = &c.tables[t];
        for (size_t i = 0; w->slots && i <= w->mask; i++) {
            struct word *s = &w->slots[i];
            if (s->text)
                words_add(&all, s->text, s->size, hash_bytes(2, s->text, s->size), s->count);
        }
        mem_free(w->slots);
    }
    mem_free(c.tables);
    return all;
}

// ---- pairs and their places

#define NOWHERE UINT32_MAX

struct pair {
    int32_t left, right;
    int64_t count;       // over all words, each as often as it occurs
    uint32_t head, tail; // its places, linked through trainer.link
    bool grew;           // since the last merge
};
struct heap_entry { // a promise that the pair had this count; checked when it comes out
    int64_t count;
    int32_t left, right;
};
struct place { // a symbol that has a neighbour to the right: links of the pair that they are
    uint32_t before, after;
};

struct trainer {
    // Symbols: one lies at [at, at + size) of all words' bytes; id[at] is its token, -1 inside a
    // symbol. Its size - 1 stands at its first and its last byte, so that both neighbours are
    // found. word[at] is the number of its word.
    int32_t *id;
    uint8_t *extent;
    uint32_t *word;
    struct place *link;
    size_t n_symbols;
    int64_t *word_count;
    struct pair *pairs;
    uint32_t *pair_slots; // index + 1
    size_t n_pairs, pair_cap, pair_mask;
    struct heap_entry *heap;
    size_t heap_count, heap_cap;
    uint32_t *places, *grown; // of the merge at work: where, and pairs whose count grew
    size_t place_cap, n_grown, grown_cap;
    // Tokens as bytes. No two are alike: at any time the same bytes between two symbol borders are
    // the same symbols, so that a merge takes every occurrence of its bytes that could still become
    // one token.
    struct text bytes;
    size_t *token_end;
    size_t n_tokens;
    struct pair_ids {
        int32_t left, right;
    } * merges;
    size_t n_merges, merge_cap;
};

static uint32_t right_of(const struct trainer *t, uint32_t at) {
    size_t next = (size_t)at + t->extent[at] + 1;
    return next < t->n_symbols && t->word[next] == t->word[at] ? (uint32_t)next : NOWHERE;
}

static uint32_t left_of(const struct trainer *t, uint32_t at) {
    if (at == 0 || t->word[at - 1] != t->word[at]) return NOWHERE;
    return at - 1 - t->extent[at - 1];
}

static uint64_t pair_hash(int32_t left, int32_t right) {
    uint64_t h = ((uint64_t)(uint32_t)left << 32 | (uint32_t)right) * 0x9E3779B97F4A7C15ull;
    return h ^ h >> 32;
}

static void pairs_grow(struct trainer *t) {
    size_t slots = t->pair_slots ? 2 * (t->pair_mask + 1) : 1 << 16;
    mem_free(t->pair_slots);
    t->pair_slots = mem_array(slots, sizeof *t->pair_slots, "pair table");
    t->pair_mask = slots - 1;
    for (size_t i = 0; i < t->n_pairs; i++) {
        size_t at = (size_t)pair_hash(t->pairs[i].left, t->pairs[i].right) & t->pair_mask;
        while (t->pair_slots[at]) at = (at + 1) & t->pair_mask;
        t->pair_slots[at] = (uint32_t)i + 1;
    }
}

static struct pair *pair_find(struct trainer *t, int32_t left, int32_t right) {
    if (2 * t->n_pairs >= t->pair_mask) pairs_grow(t);
    size_t at = (size_t)pair_hash(left, right) & t->pair_mask;
    for (; t->pair_slots[at]; at = (at + 1) & t->pair_mask) {
        struct pair *p = &t->pairs[t->pair_slots[at] - 1];
        if (p->left == left && p->right == right) return p;
    }
    if (t->n_pairs == t->pair_cap)
        mem_grow((void **)&t->pairs, &t->pair_cap, t->n_pairs + 1, sizeof *t->pairs,
                 "pairs of neighbours");
    t->pairs[t->n_pairs] =
        (struct pair){.left = left, .right = right, .head = NOWHERE, .tail = NOWHERE};
    t->pair_slots[at] = (uint32_t)++t->n_pairs;
    return &t->pairs[t->n_pairs - 1];
}

// Enters the pair that begins at `at`.
static void place_add(struct trainer *t, uint32_t at) {
    struct pair *p = pair_find(t, t->id[at], t->id[right_of(t, at)]);
    t->link[at] = (struct place){p->tail, NOWHERE};
    if (p->tail == NOWHERE)
        p->head = at;
    else
        t->link[p->tail].after = at;
    p->tail = at;
    p->count += t->word_count[t->word[at]];
    if (p->grew) return;
    p->grew = true;
    if (t->n_grown == t->grown_cap)
        mem_grow((void **)&t->grown, &t->grown_cap, t->n_grown + 1, sizeof *t->grown,
                 "grown pairs");
    t->grown[t->n_grown++] = (uint32_t)(p - t->pairs);
}

static void place_remove(struct trainer *t, uint32_t at) {
    struct pair *p = pair_find(t, t->id[at], t->id[right_of(t, at)]);
    struct place l = t->link[at];
    if (l.before == NOWHERE)
        p->head = l.after;
    else
        t->link[l.before].after = l.after;
    if (l.after == NOWHERE)
        p->tail = l.before;
    else
        t->link[l.after].before = l.before;
    p->count -= t->word_count[t->word[at]];
    assert(p->count >= 0);
}

// ---- which pair is next

static bool entry_first(const struct heap_entry *a, const struct heap_entry *b) {
    if (a->count != b->count) return a->count > b->count;
    return a->left != b->left ? a->left < b->left : a->right < b->right;
}

static void heap_push(struct trainer *t, struct heap_entry e) {
    if (t->heap_count == t->heap_cap)
        mem_grow((void **)&t->heap, &t->heap_cap, t->heap_count + 1, sizeof *t->heap,
                 "heap of pairs");
    size_t at = t->heap_count++;
    for (; at > 0 && entry_first(&e, &t->heap[(at - 1) / 2]); at = (at - 1) / 2)
        t->heap[at] = t->heap[(at - 1) / 2];
    t->heap[at] = e;
}

static struct heap_entry heap_pop(struct trainer *t) {
    struct heap_entry top = t->heap[0], e = t->heap[--t->heap_count];
    size_t at = 0;
    for (size_t child; (child = 2 * at + 1) < t->heap_count; at = child) {
        if (child + 1 < t->heap_count && entry_first(&t->heap[child + 1], &t->heap[child])) child++;
        if (!entry_first(&t->heap[child], &e)) break;
        t->heap[at] = t->heap[child];
    }
    t->heap[at] = e;
    return top;
}

static void push_grown(struct trainer *t) {
    for (size_t i = 0; i < t->n_grown; i++) {
        struct pair *p = &t->pairs[t->grown[i]];
        p->grew = false;
        if (p->count > 1) heap_push(t, (struct heap_entry){p->count, p->left, p->right});
    }
    t->n_grown = 0;
}

// The pair of highest count; NULL when none is left that stands twice (a token seen once teaches
// nothing).
static struct pair *pair_best(struct trainer *t) {
    while (t->heap_count) {
        struct heap_entry e = heap_pop(t);
        struct pair *p = pair_find(t, e.left, e.right);
        if (p->count == e.count) return p;
        // It shrank: back to its place. (It cannot have grown without a higher entry, met before
        // this one.)
        if (p->count < e.count && p->count > 1)
            heap_push(t, (struct heap_entry){p->count, p->left, p->right});
    }
    return NULL;
}

// ---- merging

static struct span token_bytes(const struct trainer *t, int32_t id) {
    size_t from = id ? t->token_end[id - 1] : 0;
    return (struct span){t->bytes.data + from, t->token_end[id] - from};
}

static int32_t token_new(struct trainer *t, const char *bytes, size_t n) {
    text_add(&t->bytes, bytes, n);
    t->token_end[t->n_tokens] = t->bytes.len;
    return (int32_t)t->n_tokens++;
}

// Copies the places of a pair, from left to right, so that "aaa" merges its first two. They are in
// this order by themselves: a pair's places are entered from left to right, all in the one merge
// that makes the later of its two tokens.
static size_t places_of(struct trainer *t, const struct pair *p) {
    size_t n = 0;
    for (uint32_t at = p->head; at != NOWHERE; at = t->link[at].after) {
        if (n == t->place_cap)
            mem_grow((void **)&t->places, &t->place_cap, n + 1, sizeof *t->places,
                     "places of a pair");
        assert(n == 0 || t->places[n - 1] < at);
        t->places[n++] = at;
    }
    return n;
}

static void merge_at(struct trainer *t, uint32_t at, int32_t id) {
    uint32_t left = left_of(t, at), right = right_of(t, at), end;
    if (left != NOWHERE) place_remove(t, left);
    if (right_of(t, right) != NOWHERE) place_remove(t, right);
    place_remove(t, at);
    end = right + t->extent[right];
    t->id[at] = id;
    t->id[right] = -1;
    t->extent[at] = t->extent[end] = (uint8_t)(end - at);
    if (left != NOWHERE) place_add(t, left);
    if (right_of(t, at) != NOWHERE) place_add(t, at);
}

static void merge_pair(struct trainer *t, struct pair_ids p) {
    char joined[WORD_MAX];
    struct span a = token_bytes(t, p.left), b = token_bytes(t, p.right);
    assert(a.n + b.n <= WORD_MAX);
    memcpy(joined, a.p, a.n);
    memcpy(joined + a.n, b.p, b.n);
    int32_t id = token_new(t, joined, a.n + b.n);
    if (t->n_merges == t->merge_cap)
        mem_grow((void **)&t->merges, &t->merge_cap, t->n_merges + 1, sizeof *t->merges, "merges");
    t->merges[t->n_merges++] = p;
    size_t n = places_of(t, pair_find(t, p.left, p.right));
    for (size_t i = 0; i < n; i++) {
        uint32_t at = t->places[i], right = t->id[at] == p.left ? right_of(t, at) : NOWHERE;
        if (right != NOWHERE && t->id[right] == p.right)
            merge_at(t, at, id); // else overlapped the one before
    }
    push_grown(t);
}

// ---- the whole

// Bytes in the order of GPT-2's vocabulary: those that spell themselves first.
static void byte_order(unsigned char order[256]) {
    size_t n = 0;
    for (int pass = 0; pass < 2; pass++)
        for (int b = 0; b < 256; b++)
            if ((byte_spelling((unsigned char)b) == (uint32_t)b) == (pass == 0))
                order[n++] = (unsigned char)b;
    assert(n == 256);
}

// Lays out the words; false when there are too many bytes of them for 32-bit places.
static bool trainer_open(struct trainer *t, struct words *words, size_t vocab, struct err *err) {
    t->token_end = mem_array(vocab, sizeof *t->token_end, "trained tokens");
    unsigned char order[256];
    int32_t byte_id[256];
    byte_order(order);
    for (int i = 0; i < 256; i++) byte_id[order[i]] = token_new(t, (const char *)&order[i], 1);
    for (size_t i = 0; words->slots && i <= words->mask; i++)
        if (words->slots[i].text) t->n_symbols += words->slots[i].size;
    if (t->n_symbols >= NOWHERE)
        return err_set(err,
                       "expected less than 4 GB of different words to train a tokenizer on, found "
                       "%zu bytes; train on less text",
                       t->n_symbols);
    t->id = mem_array(t->n_symbols, sizeof *t->id, "symbols");
    t->extent = mem_array(t->n_symbols, 1, "symbols");
    t->word = mem_array(t->n_symbols, sizeof *t->word, "symbols");
    t->link = mem_array(t->n_symbols, sizeof *t->link, "symbols");
    t->word_count = mem_array(words->count, sizeof *t->word_count, "word counts");
    pairs_grow(t);
    size_t at = 0;
    uint32_t word = 0;
    for (size_t i = 0; words->slots && i <= words->mask; i++) {
        const struct word *w = &words->slots[i];
        if (!w->text) continue;
        for (size_t k = 0; k < w->size; k++, at++) {
            t->id[at] = byte_id[(unsigned char)w->text[k]];
            t->word[at] = word;
        }
        t->word_count[word++] = w->count;
    }
    for (uint32_t i = 0; i < t->n_symbols; i++)
        if (right_of(t, i) != NOWHERE) place_add(t, i);
    push_grown(t);
    return true;
}

static void trainer_close(struct trainer *t) {
    void *owned[] = {t->id,         t->extent, t->word,   t->link,  t->word_count, t->pairs,
                     t->pair_slots, t->heap,   t->places, t->grown, t->token_end,  t->merges};
    for (size_t i = 0; i < COUNT_OF(owned); i++) mem_free(owned[i]);
    text_free(&t->bytes);
}

// Spans of a text that was written part by part.
static struct span *text_parts(const struct text *text, const size_t *ends, size_t n) {
    struct span *parts = mem_array(n, sizeof *parts, "spellings");
    for (size_t i = 0, from = 0; i < n; from = ends[i++])
        parts[i] = (struct span){text->data + from, ends[i] - from};
    return parts;
}

static struct tokenizer *trainer_result(const struct trainer *t, struct err *err) {
    struct text spellings = {0}, lines = {0};
    size_t n = t->n_tokens + 1;
    size_t *spelling_end = mem_array(n, sizeof *spelling_end, "spellings");
    size_t *line_end = mem_array(t->n_merges, sizeof *line_end, "merge lines");
    unsigned char *types = mem_alloc(n, "token types");
    for (size_t i = 0; i < t->n_tokens; i++) {
        struct span s = token_bytes(t, (int32_t)i);
        bytes_spell(s.p, s.n, &spellings);
        spelling_end[i] = spellings.len;
    }
    text_str(&spellings, END_OF_TEXT);
    spelling_end[n - 1] = spellings.len;
    memset(types, TOKEN_NORMAL, n - 1);
    types[n - 1] = TOKEN_CONTROL;
    for (size_t i = 0; i < t->n_merges; i++) {
        struct span left = token_bytes(t, t->merges[i].left),
                    right = token_bytes(t, t->merges[i].right);
        bytes_spell(left.p, left.n, &lines);
        text_add(&lines, " ", 1);
        bytes_spell(right.p, right.n, &lines);
        line_end[i] = lines.len;
    }
    struct span *tokens = text_parts(&spellings, spelling_end, n),
                *merges = text_parts(&lines, line_end, t->n_merges);
    int64_t last = (int64_t)n - 1;
    struct recipe r = {.kind = TOKENIZER_BPE,
                       .tokens = tokens,
                       .types = types,
                       .n = n,
                       .merges = merges,
                       .n_merges = t->n_merges,
                       .bos = last,
                       .eos = last,
                       .eot = -1,
                       .eom = -1,
                       .unknown = -1,
                       .adds_bos = true};
    struct tokenizer *made = tokenizer_make(&r, err);
    mem_free(tokens);
    mem_free(merges);
    mem_free(types);
    mem_free(spelling_end);
    mem_free(line_end);
    text_free(&spellings);
    text_free(&lines);
    return made;
}

struct tokenizer *tokenizer_train(const struct span *documents, size_t n, int64_t vocab,
                                  size_t max_bytes, struct err *err) {
    if (vocab < 257 || (uint64_t)vocab > VOCAB_MAX) {
        err_set(
            err,
            "expected a vocabulary of 257 (256 bytes and an end token) to %zu tokens, found %lld",
            VOCAB_MAX, (long long)vocab);
        return NULL;
    }
    struct chunks chunks = {0};
    for (size_t i = 0; i < n; i++) chunks_add(&chunks, documents[i]);
    chunks_thin(&chunks, max_bytes);
    struct words words = words_count(&chunks);
    mem_free(chunks.list);

    struct trainer t = {0};
    struct tokenizer *made = NULL;
    bool good = trainer_open(&t, &words, (size_t)vocab, err);
    mem_free(words.slots);
    if (good) {
        const struct pair *best;
        while (t.n_tokens < (size_t)vocab - 1 && (best = pair_best(&t)) != NULL)
            merge_pair(&t, (struct pair_ids){best->left, best->right});
        made = trainer_result(&t, err);
    }
    trainer_close(&t);
    return made;
}
