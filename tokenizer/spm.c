// spm.c: pieces of SentencePiece BPE as Llama 2 has it (Kudo and Richardson 2018; the order of
// llama.cpp).
//
// The text has U+2581 for spaces and, where the file wants it, one in front. Symbols are
// characters; two neighbours may merge when their joined spelling is a token, the highest score
// first, the leftmost among equals. What is left and is no token falls back to the byte tokens
// "<0x00>".."<0xFF>". Control, unknown and byte tokens never come out of text.
//
// Where no token has U+2581 behind another character, no merge can cross the start of a word, so
// words are merged on their own: the same ids, and words met before need no merging.
#include "tokenizer/internal.h"

#include <string.h>

#define WORD_MARK "\xE2\x96\x81" // U+2581

int byte_token_value(struct span s) {
    if (s.n != 6 || memcmp(s.p, "<0x", 3) != 0 || s.p[5] != '>') return -1;
    int value = 0;
    for (int i = 3; i < 5; i++) {
        char c = s.p[i];
        int digit = c >= '0' && c <= '9'   ? c - '0'
                    : c >= 'A' && c <= 'F' ? c - 'A' + 10
                    : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                           : -1;
        if (digit < 0) return -1;
        value = value * 16 + digit;
    }
    return value;
}

static int32_t text_token(const struct tokenizer *t, const char *spelling, size_t n) {
    if (n > t->longest) return -1;
    int32_t id = tokenizer_find(t, spelling, n);
    if (id < 0) return -1;
    unsigned char type = t->type[id];
    return type == TOKEN_CONTROL || type == TOKEN_UNKNOWN || type == TOKEN_BYTE ? -1 : id;
}

bool spm_merge(const struct tokenizer *t, const char *both, size_t n, uint32_t *rank, int32_t *id) {
    int32_t found = text_token(t, both, n);
    if (found < 0) return false;
    // The bits of a float, sign folded, order like the float; complemented, the highest score has
    // the lowest rank.
    uint32_t bits;
    memcpy(&bits, &t->score[found], sizeof bits);
    *rank = ~(bits ^ (bits >> 31 ? UINT32_MAX : 0x80000000u));
    *id = found;
    return true;
}

// Bytes of the space at text: 1 for U+0020, 3 for U+2581, 0 for none.
static size_t space_at(const char *text, size_t n) {
    if (text[0] == ' ') return 1;
    return n >= 3 && !memcmp(text, WORD_MARK, 3) ? 3 : 0;
}

size_t spm_piece_length(const struct tokenizer *t, const char *text, size_t n) {
    assert(n > 0);
    if (n > PIECE_MAX) n = PIECE_MAX;
    if (!t->cuts_at_spaces && !t->splits_spaces && !t->splits_lines) return n;
    bool in_word = false, spaces = t->cuts_at_spaces || t->splits_spaces;
    for (size_t at = 0; at < n;) {
        if (t->splits_lines && at && (text[at] == '\n') != (text[0] == '\n')) return at;
        size_t space = spaces ? space_at(text + at, n - at) : 0;
        if (space && (in_word || (at && t->splits_spaces))) return at;
        in_word = !space;
        at += space ? space : 1;
    }
    return n;
}

static size_t spm_symbols(struct encoder *e, const char *piece, size_t n) {
    size_t count = 0;
    for (size_t at = 0; at < n;) {
        uint32_t code;
        size_t length = utf8_decode(piece + at, n - at, &code);
        if (count == e->symbol_cap)
            mem_grow((void **)&e->symbols, &e->symbol_cap, count + 1, sizeof *e->symbols,
                     "symbols of a piece");
        e->symbols[count++] = (struct symbol){.start = (uint32_t)at,
                                              .size = (uint32_t)length,
                                              .id = text_token(e->t, piece + at, length)};
        at += length;
    }
    return count;
}

static void spm_symbol_out(struct encoder *e, const char *piece, const struct symbol *s) {
    const int32_t *byte_id = e->t->byte_id;
    bool known = s->id >= 0, bytes = !known;
    for (uint32_t i = 0; bytes && i < s->size; i++) bytes = byte_id[(unsigned char)piece[s->start + i]] >= 0;
    if (known)
        ids_add(e->out, s->id);
    else if (!bytes && !(e->after_unknown && e->t->fuses_unknown)) // one unknown token for the character
        ids_add(e->out, e->t->unknown);
    for (uint32_t i = 0; bytes && i < s->size; i++) ids_add(e->out, byte_id[(unsigned char)piece[s->start + i]]);
    e->after_unknown = !known && !bytes;
}

struct span spm_mark_spaces(struct encoder *e, const char *text, size_t n, bool prefix) {
    if (!prefix && !memchr(text, ' ', n)) return (struct span){text, n};
    text_clear(&e->escaped);
    if (prefix) text_add(&e->escaped, WORD_MARK, 3);
    for (size_t at = 0; at < n;) {
        const char *space = memchr(text + at, ' ', n - at);
        size_t plain = space ? (size_t)(space - text) - at : n - at;
        text_add(&e->escaped, text + at, plain);
        if (space) text_add(&e->escaped, WORD_MARK, 3);
        at += plain + (space != NULL);
    }
    return (struct span){e->escaped.data, e->escaped.len};
}

void spm_encode_piece(struct encoder *e, const char *text, size_t n, bool prefix) {
    struct span piece = spm_mark_spaces(e, text, n, prefix);
    int32_t whole = e->t->splits_lines && n && text[0] == '\n' ? text_token(e->t, text, n) : -1;
    if (whole >= 0) { // a run of line ends that is a token, whatever the merges say
        ids_add(e->out, whole);
        return;
    }
    size_t count = merge_symbols(e, piece.p, spm_symbols(e, piece.p, piece.n));
    for (size_t i = 0; i < count; i++) spm_symbol_out(e, piece.p, &e->symbols[i]);
}
