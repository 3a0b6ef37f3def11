// unicode.c: what a code point is, and the normal forms, C above all.
//
// Classes are looked up in a table of boundaries; an index by blocks of 128 makes the search short where texts live.
// A text that is no UTF-8 is units all the same (utf8.c): a stray byte has class "other" and passes every step.
//
// NFC (Unicode Standard Annex 15): decompose, order the marks by their class, compose again. Most texts are
// in that form already, and the table nfc_quick says so without work: a code point outside it never changes and never
// composes with what stands before it, so only the stretches between two such code points are worked on, together
// with the one in front. Linear but for the ordering of marks, which counts classes when a run is long. The other forms are
// rare and take the whole text at once.
#include "tokenizer/internal.h"
#include "tokenizer/unicode.h"

#include <string.h>

enum char_kind char_kind(uint32_t code) {
    if (code >= UTF8_BAD) return KIND_OTHER;
    size_t low = 0, high = COUNT_OF(unicode_starts); // the last start <= code lies in [low, high)
    if (code < UNICODE_TOP) {
        low = unicode_index[code / UNICODE_STEP];
        high = (size_t)unicode_index[code / UNICODE_STEP + 1] + 1;
    }
    while (high - low > 1) {
        size_t mid = (low + high) / 2;
        if (unicode_starts[mid] >> 4 <= code)
            low = mid;
        else
            high = mid;
    }
    return (enum char_kind)(unicode_starts[low] & 15);
}

enum char_class char_class(uint32_t code) {
    unsigned is = 1u << char_kind(code);
    return is & IS_LETTER ? CHAR_LETTER : is & IS_NUMBER ? CHAR_NUMBER : is & IS_SPACE ? CHAR_SPACE : CHAR_OTHER;
}

// ---- NFC

#define HANGUL_S 0xAC00u // syllables: (L * 21 + V) * 28 + T
#define HANGUL_L 0x1100u
#define HANGUL_V 0x1161u
#define HANGUL_T 0x11A7u
#define LONG_RUN 32 // marks; from there they are ordered by counting

// How many entries of a sorted table are <= key.
static size_t entries_below(const uint32_t *table, size_t n, uint32_t key) {
    size_t low = 0, high = n;
    while (low < high) {
        size_t mid = (low + high) / 2;
        if (table[mid] <= key)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

static bool may_change(uint32_t code) {
    return code >= 0x300 && code < UTF8_BAD && entries_below(nfc_quick, COUNT_OF(nfc_quick), code) % 2;
}

static unsigned combining_class(uint32_t code) {
    if (code < 0x300 || code >= UTF8_BAD) return 0;
    size_t at = entries_below(nfc_classes, COUNT_OF(nfc_classes), code << 8 | 255);
    return at ? nfc_classes[at - 1] & 255 : 0;
}

static void code_add(struct codes *c, uint32_t code) {
    if (c->count == c->cap) mem_grow((void **)&c->code, &c->cap, c->count + 1, sizeof *c->code, "code points");
    c->code[c->count++] = code;
}

static void decompose(struct codes *c, uint32_t code, bool compat) {
    const uint32_t *wide;
    size_t n_wide = compat ? compat_find(code, &wide) : 0;
    for (size_t i = 0; i < n_wide; i++) code_add(c, wide[i]); // complete
    if (n_wide) return;
    if (code >= HANGUL_S && code < HANGUL_S + 11172) {
        uint32_t s = code - HANGUL_S;
        code_add(c, HANGUL_L + s / 588);
        code_add(c, HANGUL_V + s % 588 / 28);
        if (s % 28) code_add(c, HANGUL_T + s % 28);
        return;
    }
    uint32_t tail[8]; // no chain of steps is longer than four
    size_t n = 0;
    for (size_t low = 0, high = COUNT_OF(nfc_steps); low < high;) {
        size_t mid = (low + high) / 2;
        if (nfc_steps[mid][0] == code) {
            if (nfc_steps[mid][2]) tail[n++] = nfc_steps[mid][2];
            code = nfc_steps[mid][1];
            low = 0;
            high = n < COUNT_OF(tail) ? COUNT_OF(nfc_steps) : 0;
        } else if (nfc_steps[mid][0] < code) {
            low = mid + 1;
        } else {
            high = mid;
        }
    }
    code_add(c, code);
    while (n) decompose(c, tail[--n], false);
}

// Orders a run of marks by class, stable.
static void order_run(uint32_t *code, size_t n, struct codes *spare) {
    if (n <= LONG_RUN) {
        for (size_t i = 1; i < n; i++) {
            uint32_t c = code[i];
            unsigned ccc = combining_class(c);
            size_t at = i;
            for (; at && combining_class(code[at - 1]) > ccc; at--) code[at] = code[at - 1];
            code[at] = c;
        }
        return;
    }
    size_t from[257] = {0};
    if (n > spare->cap) mem_grow((void **)&spare->code, &spare->cap, n, sizeof *spare->code, "code points");
    for (size_t i = 0; i < n; i++) from[combining_class(code[i]) + 1]++;
    for (size_t i = 0; i < 256; i++) from[i + 1] += from[i];
    for (size_t i = 0; i < n; i++) spare->code[from[combining_class(code[i])]++] = code[i];
    memcpy(code, spare->code, n * sizeof *code);
}

static uint32_t composed(uint32_t a, uint32_t b) { // 0: they do not compose
    if (a >= HANGUL_L && a < HANGUL_L + 19 && b >= HANGUL_V && b < HANGUL_V + 21)
        return HANGUL_S + ((a - HANGUL_L) * 21 + (b - HANGUL_V)) * 28;
    if (a >= HANGUL_S && a < HANGUL_S + 11172 && (a - HANGUL_S) % 28 == 0 && b > HANGUL_T && b < HANGUL_T + 28)
        return a + (b - HANGUL_T);
    for (size_t low = 0, high = COUNT_OF(nfc_pairs); low < high;) {
        size_t mid = (low + high) / 2;
        const uint32_t *p = nfc_pairs[mid];
        if (p[0] == a && p[1] == b) return p[2];
        if (p[0] < a || (p[0] == a && p[1] < b))
            low = mid + 1;
        else
            high = mid;
    }
    return 0;
}

static void compose(struct codes *c) {
    size_t kept = 0, starter = SIZE_MAX;
    unsigned last = 0; // class of the code point kept last, behind the starter
    for (size_t i = 0; i < c->count; i++) {
        uint32_t code = c->code[i];
        unsigned ccc = combining_class(code);
        if (starter != SIZE_MAX && (last < ccc || starter + 1 == kept)) {
            uint32_t both = composed(c->code[starter], code);
            if (both) {
                c->code[starter] = both;
                continue;
            }
        }
        if (!ccc) starter = kept;
        last = ccc;
        c->code[kept++] = code;
    }
    c->count = kept;
}

// The stretch [text, text + n) in that form, appended.
static void form_stretch(const char *text, size_t n, enum normal_form form, struct codes *c, struct codes *spare,
                         struct text *out) {
    bool compat = form == FORM_NFKC || form == FORM_NFKD;
    c->count = 0;
    for (size_t at = 0; at < n;) {
        uint32_t code;
        size_t length = utf8_decode(text + at, n - at, &code);
        if (code == UTF8_BAD)
            code_add(c, UTF8_BAD + 1 + (unsigned char)text[at]);
        else
            decompose(c, code, compat);
        at += length;
    }
    for (size_t i = 0; i < c->count;) {
        size_t end = i;
        while (end < c->count && combining_class(c->code[end])) end++;
        order_run(c->code + i, end - i, spare);
        i = end + 1;
    }
    if (form == FORM_NFC || form == FORM_NFKC) compose(c);
    for (size_t i = 0; i < c->count; i++) {
        char utf8[4] = {(char)(c->code[i] - UTF8_BAD - 1)};
        text_add(out, utf8, c->code[i] > UTF8_BAD ? 1 : utf8_encode(c->code[i], utf8));
    }
}

size_t nfc_prefix(const char *text, size_t n) {
    size_t at = 0, before = 0;
    while (at < n) {
        if ((unsigned char)text[at] < 0x80) {
            before = at++;
            continue;
        }
        uint32_t code;
        size_t length = utf8_decode(text + at, n - at, &code);
        if (may_change(code)) return before;
        before = at;
        at += length;
    }
    return n;
}

void nfc_add(const char *text, size_t n, struct text *out) {
    struct codes codes = {0}, spare = {0};
    while (n) {
        size_t plain = nfc_prefix(text, n);
        text_add(out, text, plain);
        text += plain;
        n -= plain;
        if (!n) break;
        uint32_t code;
        size_t end = utf8_decode(text, n, &code);
        for (size_t length; end < n; end += length) {
            length = utf8_decode(text + end, n - end, &code);
            if (!may_change(code)) break;
        }
        form_stretch(text, end, FORM_NFC, &codes, &spare, out);
        text += end;
        n -= end;
    }
    mem_free(codes.code);
    mem_free(spare.code);
}

void form_add(const char *text, size_t n, enum normal_form form, struct text *out) {
    if (form == FORM_NFC) {
        nfc_add(text, n, out);
        return;
    }
    struct codes codes = {0}, spare = {0};
    form_stretch(text, n, form, &codes, &spare, out);
    mem_free(codes.code);
    mem_free(spare.code);
}
