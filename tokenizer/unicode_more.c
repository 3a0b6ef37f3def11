// unicode_more.c: what only some tokenizers ask of Unicode: words, grapheme clusters, compatibility decompositions.
//
// Clusters follow Unicode Standard Annex 29 but for two of its rules: pairs of regional indicators and conjuncts of Indic
// consonants. Both join characters of three bytes and more, and clusters matter here only below six bytes
// (normalize.c), where characters one by one are treated as such a cluster would be.
#include "tokenizer/internal.h"
#include "tokenizer/unicode_more.h"

enum cluster_class { CLUSTER_ANY, CLUSTER_CONTROL, CLUSTER_EXTEND, CLUSTER_SPACING, CLUSTER_PREPEND, CLUSTER_PICTURE };
enum jamo { JAMO_NONE, JAMO_L, JAMO_V, JAMO_T, JAMO_LV, JAMO_LVT };
#define JOINER 0x200Du

// Whether code lies behind an odd number of the boundaries.
static bool inside(const uint32_t *quick, size_t n, uint32_t code) {
    size_t low = 0, high = n;
    while (low < high) {
        size_t mid = (low + high) / 2;
        if (quick[mid] <= code)
            low = mid + 1;
        else
            high = mid;
    }
    return code < UTF8_BAD && low % 2;
}

bool is_word(uint32_t code) { return inside(word_quick, COUNT_OF(word_quick), code); }
bool is_han(uint32_t code) { return inside(han_quick, COUNT_OF(han_quick), code); }

size_t compat_find(uint32_t code, const uint32_t **to) {
    size_t low = 0, high = COUNT_OF(compat_starts);
    while (low < high) {
        size_t mid = (low + high) / 2;
        if (compat_starts[mid] >> 16 < code)
            low = mid + 1;
        else
            high = mid;
    }
    if (low == COUNT_OF(compat_starts) || compat_starts[low] >> 16 != code) return 0;
    size_t from = compat_starts[low] & 0xFFFF;
    *to = compat_pool + from;
    return (low + 1 < COUNT_OF(compat_starts) ? (size_t)(compat_starts[low + 1] & 0xFFFF) : COUNT_OF(compat_pool)) - from;
}

static enum cluster_class cluster_class(uint32_t code) {
    if (code >= UTF8_BAD) return CLUSTER_ANY;
    size_t low = 0, high = COUNT_OF(cluster_starts);
    while (high - low > 1) {
        size_t mid = (low + high) / 2;
        if (cluster_starts[mid] >> 4 <= code)
            low = mid;
        else
            high = mid;
    }
    return (enum cluster_class)(cluster_starts[low] & 15);
}

static enum jamo jamo(uint32_t code) {
    if (code < 0x1100 || code > 0xD7FB) return JAMO_NONE;
    if (code <= 0x115F || (code >= 0xA960 && code <= 0xA97C)) return JAMO_L;
    if (code <= 0x11A7 || (code >= 0xD7B0 && code <= 0xD7C6)) return JAMO_V;
    if (code <= 0x11FF || code >= 0xD7CB) return JAMO_T;
    if (code < 0xAC00 || code > 0xD7A3) return JAMO_NONE;
    return (code - 0xAC00) % 28 ? JAMO_LVT : JAMO_LV;
}

static bool jamo_join(enum jamo a, enum jamo b) {
    if (a == JAMO_L) return b == JAMO_L || b == JAMO_V || b == JAMO_LV || b == JAMO_LVT;
    if (a == JAMO_V || a == JAMO_LV) return b == JAMO_V || b == JAMO_T;
    return (a == JAMO_T || a == JAMO_LVT) && b == JAMO_T;
}

size_t cluster_length(const char *text, size_t n) {
    uint32_t code, next;
    unsigned char first = (unsigned char)text[0];
    if (first < 0x80 && first != '\r' && (n == 1 || (unsigned char)text[1] < 0x80)) return 1; // ASCII stands alone
    size_t at = utf8_decode(text, n, &code);
    if (code == '\r' && at < n && text[at] == '\n') return at + 1;
    enum cluster_class last = cluster_class(code);
    bool picture = last == CLUSTER_PICTURE; // and nothing behind it but extensions
    if (last == CLUSTER_CONTROL) return at;
    for (size_t length; at < n; at += length) {
        length = utf8_decode(text + at, n - at, &next);
        enum cluster_class c = cluster_class(next);
        bool extends = c == CLUSTER_EXTEND || c == CLUSTER_SPACING;
        bool joins = extends || (last == CLUSTER_PREPEND && c != CLUSTER_CONTROL) || jamo_join(jamo(code), jamo(next)) ||
                     (picture && code == JOINER && c == CLUSTER_PICTURE);
        if (!joins) break;
        picture = c == CLUSTER_PICTURE || (picture && c == CLUSTER_EXTEND);
        last = c;
        code = next;
    }
    return at;
}
