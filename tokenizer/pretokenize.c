// pretokenize.c: where a BPE piece ends, and how bytes are spelled.
//
// The pattern of GPT-2 (Radford et al. 2019), first alternative that matches wins:
//     's|'t|'re|'ve|'m|'ll|'d | ?letters | ?numbers | ?others | spaces not followed by a non-space
//     | spaces
// so a run of spaces gives its last one to the word behind it (when that one is U+0020). Matching
// is by hand, one pass, no backtracking: the class of each character is looked up once, twice at
// most. Bytes that are no UTF-8 are "others".
//
// Spelling: a vocabulary file holds text, not bytes, so each byte has a printable
// character: 33..126, 161..172 and 174..255 stand for themselves, the other 68 are U+0100 and up in
// order ("Ġ" is the space).
#include "tokenizer/internal.h"
#include "tokenizer/unicode.h"

#include <string.h>

enum char_class char_class(uint32_t code) {
    if (code >= UTF8_BAD) return CHAR_OTHER;
    size_t low = 0, high = COUNT_OF(unicode_starts); // the last start <= code lies in [low, high)
    while (high - low > 1) {
        size_t mid = (low + high) / 2;
        if (unicode_starts[mid] >> 2 <= code)
            low = mid;
        else
            high = mid;
    }
    return (enum char_class)(unicode_starts[low] & 3);
}

static enum char_class class_at(const char *text, size_t n, size_t *length) {
    unsigned char c = (unsigned char)text[0];
    if (c < 0x80) {
        *length = 1;
        if ((c | 0x20) >= 'a' && (c | 0x20) <= 'z') return CHAR_LETTER;
        if (c >= '0' && c <= '9') return CHAR_NUMBER;
        return c == ' ' || (c >= '\t' && c <= '\r') ? CHAR_SPACE : CHAR_OTHER;
    }
    uint32_t code;
    *length = utf8_decode(text, n, &code);
    return char_class(code);
}

static size_t contraction_length(const char *text, size_t n) { // text[0] is the apostrophe
    if (n < 2) return 0;
    char a = text[1], b = n > 2 ? text[2] : '\0';
    if (a == 's' || a == 't' || a == 'm' || a == 'd') return 2;
    return (a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l') ? 3 : 0;
}

// A run of spaces from the start: all of it at the end of the text or when it is one character,
// else without the last.
static size_t spaces_length(const char *text, size_t n) {
    size_t at = 0, last = 0, length;
    while (at < n && class_at(text + at, n - at, &length) == CHAR_SPACE) {
        last = at;
        at += length;
    }
    return at == n || last == 0 ? at : last;
}

size_t pretoken_length(const char *text, size_t n) {
    assert(n > 0);
    if (text[0] == '\'') {
        size_t length = contraction_length(text, n);
        if (length) return length;
    }
    size_t length, at = 0;
    enum char_class first = class_at(text, n, &length);
    if (first == CHAR_SPACE) {
        if (text[0] != ' ' || n == 1) return spaces_length(text, n);
        first = class_at(text + 1, n - 1, &length);
        if (first == CHAR_SPACE) return spaces_length(text, n);
        at = 1;
    }
    do {
        at += length;
    } while (at < n && class_at(text + at, n - at, &length) == first);
    return at;
}

// ---- spelling

static bool spells_itself(uint32_t c) {
    return (c >= 33 && c <= 126) || (c >= 161 && c <= 172) || (c >= 174 && c <= 255);
}

uint32_t byte_spelling(unsigned char byte) {
    if (spells_itself(byte)) return byte;
    // The k-th of the 68 others: 0..32, 127..160, 173.
    return byte <= 32 ? 256u + byte : byte <= 160 ? 256u + 33 + (byte - 127u) : 256u + 67;
}

static int spelled_byte(uint32_t code) { // -1: spells none
    if (code < 256) return spells_itself(code) ? (int)code : -1;
    uint32_t k = code - 256;
    return k <= 32 ? (int)k : k < 67 ? (int)(127 + k - 33) : k == 67 ? 173 : -1;
}

void bytes_spell(const char *bytes, size_t n, struct text *out) {
    for (size_t i = 0; i < n; i++) {
        char utf8[4];
        text_add(out, utf8, utf8_encode(byte_spelling((unsigned char)bytes[i]), utf8));
    }
}

bool bytes_unspell(const char *spelling, size_t n, char *out, size_t *out_n) {
    size_t count = 0;
    for (size_t at = 0; at < n;) {
        uint32_t code;
        at += utf8_decode(spelling + at, n - at, &code);
        int byte = spelled_byte(code);
        if (byte < 0) return false;
        out[count++] = (char)byte;
    }
    *out_n = count;
    return true;
}
