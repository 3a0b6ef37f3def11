// encode.c: text to ids.
//
//     text -> split out control spellings (only when asked) and user-defined tokens, leftmost,
//     longest first
//          -> pieces that merge on their own (pretokenize.c, spm.c)
//          -> ids (bpe.c, spm.c)
//
// Long texts repeat their words, so a call remembers where it met a piece first, in its text and in
// its own output, and copies those ids when the piece comes again: a direct-mapped table that lives
// as long as the call, so that a tokenizer has no state to share. All of it is O(n log n); the
// search for split-out tokens looks at most SPECIAL_MAX bytes ahead, and only where a first byte
// fits.
#include "tokenizer/internal.h"

#include <stdlib.h>
#include <string.h>

#define KNOWN_TEXT 2048   // bytes of text from which remembering pays
#define KNOWN_SIZE 48     // bytes of a piece worth remembering
#define KNOWN_SLOTS 32768 // at most; 24 bytes each

// ---- ids

static void ids_reserve(struct ids *ids, size_t more) {
    size_t need = ids->count + more;
    assert(need >= more);
    if (need > ids->cap) mem_grow((void **)&ids->id, &ids->cap, need, sizeof *ids->id, "token ids");
}

void ids_add(struct ids *ids, int32_t id) {
    ids_reserve(ids, 1);
    ids->id[ids->count++] = id;
}

void ids_free(struct ids *ids) {
    mem_free(ids->id);
    *ids = (struct ids){0};
}

// ---- pieces

static void encode_piece(struct encoder *e, const char *text, size_t n) {
    if (e->t->kind == TOKENIZER_SPM)
        spm_encode_piece(e, text, n, false);
    else
        bpe_encode_piece(e, text, n);
}

static void encode_remembered(struct encoder *e, const char *text, size_t n) {
    if (!e->known || n > KNOWN_SIZE) {
        encode_piece(e, text, n);
        return;
    }
    struct known_piece *k = &e->known[hash_bytes(0, text, n) & e->known_mask];
    if (k->size == n && !memcmp(k->text, text, n)) {
        ids_reserve(e->out, k->ids_count);
        memcpy(e->out->id + e->out->count, e->out->id + k->ids_at,
               k->ids_count * sizeof *e->out->id);
        e->out->count += k->ids_count;
        return;
    }
    size_t before = e->out->count;
    encode_piece(e, text, n);
    *k = (struct known_piece){text, before, (uint32_t)n, (uint32_t)(e->out->count - before)};
}

// A stretch without split-out tokens.
static void encode_plain(struct encoder *e, const char *text, size_t n) {
    const struct tokenizer *t = e->t;
    bool prefix = t->kind == TOKENIZER_SPM && t->space_prefix;
    while (n) {
        size_t length = t->kind == TOKENIZER_SPM
                            ? spm_piece_length(t, text, n)
                            : pretoken_length(text, n < PIECE_MAX ? n : PIECE_MAX);
        if (prefix)
            spm_encode_piece(e, text, length, true);
        else
            encode_remembered(e, text, length);
        prefix = false;
        text += length;
        n -= length;
    }
}

// ---- split-out tokens

// Narrows [*low, *high), tokens that agree on the first `depth` bytes, to those with byte c next.
static void special_narrow(const struct special_token *s, size_t depth, unsigned char c,
                           size_t *low, size_t *high) {
    size_t from = *low, to = *high;
    while (from < to) { // first whose byte is >= c; a token that ends here sorts before all
        size_t mid = (from + to) / 2;
        if (s[mid].text.n <= depth || (unsigned char)s[mid].text.p[depth] < c)
            from = mid + 1;
        else
            to = mid;
    }
    *low = from;
    to = *high;
    while (from < to) { // first whose byte is > c
        size_t mid = (from + to) / 2;
        if ((unsigned char)s[mid].text.p[depth] <= c)
            from = mid + 1;
        else
            to = mid;
    }
    *high = from;
}

// The longest token of the list that begins the text; NULL when none does.
static const struct special_token *special_at(const struct special_list *list, const char *text,
                                              size_t n) {
    unsigned char c = (unsigned char)text[0];
    size_t low = list->first[c], high = list->first[c + 1];
    const struct special_token *longest = NULL;
    for (size_t depth = 1; low < high; depth++) {
        if (list->token[low].text.n == depth) longest = &list->token[low];
        if (depth == n) break;
        special_narrow(list->token, depth, (unsigned char)text[depth], &low, &high);
    }
    return longest;
}

// The longest token that may be split out at `at`. With marks, control spellings count only where no byte of them is
// marked, and user-defined tokens that look like control ones ("<|user|>" in some files) count as such.
static const struct special_token *split_at(const struct tokenizer *t, struct span text, const char *marks, unsigned flags, size_t at) {
    const char *from = text.p + at;
    if (!marks) return special_at(flags & TOKENIZE_SPECIAL ? &t->special : &t->user, from, text.n - at);
    size_t own = at;
    while (own < text.n && own - at < SPECIAL_MAX && !marks[own]) own++;
    const struct special_token *control = own > at ? special_at(&t->special, from, own - at) : NULL;
    const struct special_token *user = special_at(&t->user, from, text.n - at);
    size_t n = user ? user->text.n : 0;
    if (n > 4 && n > own - at && !memcmp(user->text.p, "<|", 2) && !memcmp(user->text.p + n - 2, "|>", 2)) user = NULL;
    return control && (!user || control->text.n >= user->text.n) ? control : user;
}

void tokenizer_encode(const struct tokenizer *t, const char *text, size_t n, unsigned flags, struct ids *out) {
    tokenizer_encode_marked(t, text, NULL, n, flags, out);
}

void tokenizer_encode_marked(const struct tokenizer *t, const char *text, const char *marks, size_t n, unsigned flags,
                             struct ids *out) {
    assert(t && out && (text || !n));
    if ((flags & TOKENIZE_BOS) && t->adds_bos && t->bos >= 0) ids_add(out, t->bos);
    struct encoder e = {.t = t, .out = out};
    if (n >= KNOWN_TEXT) {
        size_t slots = 512;
        while (slots < KNOWN_SLOTS && slots < n / 8) slots *= 2;
        e.known = mem_array(slots, sizeof *e.known, "table of known pieces");
        e.known_mask = slots - 1;
    }
    bool none = (flags & TOKENIZE_SPECIAL || marks ? t->special.count : t->user.count) == 0;
    size_t begin = 0;
    for (size_t at = 0; !none && at < n;) {
        const struct special_token *s = split_at(t, (struct span){text, n}, marks, flags, at);
        if (!s) {
            at++;
            continue;
        }
        encode_plain(&e, text + begin, at - begin);
        ids_add(out, s->id);
        at += s->text.n;
        begin = at;
    }
    encode_plain(&e, text + begin, n - begin);
    mem_free(e.known);
    mem_free(e.symbols);
    mem_free(e.heap);
    text_free(&e.escaped);
}
