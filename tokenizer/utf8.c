// utf8.c: characters out of bytes, and the hold that keeps half characters back while text streams.
//
// Decoding is strict (Unicode 16, table 3-7): no overlong forms, no surrogates, nothing above
// U+10FFFF. A byte that begins no character is one "bad" unit of length 1, so every byte string
// splits into units and joins back unchanged.
#include "tokenizer/internal.h"

#include <string.h>

// Length that a lead byte announces (0: no lead), and the range of the byte after it, which alone
// excludes overlong forms, surrogates and numbers above U+10FFFF.
static size_t lead_length(unsigned char lead, unsigned char *low, unsigned char *high) {
    *low = 0x80;
    *high = 0xBF;
    if (lead < 0x80) return 1;
    if (lead >= 0xC2 && lead <= 0xDF) return 2;
    if (lead >= 0xE0 && lead <= 0xEF) {
        if (lead == 0xE0) *low = 0xA0;
        if (lead == 0xED) *high = 0x9F;
        return 3;
    }
    if (lead >= 0xF0 && lead <= 0xF4) {
        if (lead == 0xF0) *low = 0x90;
        if (lead == 0xF4) *high = 0x8F;
        return 4;
    }
    return 0;
}

// How many of the first bytes at p belong to one character as far as they go; *whole is its full
// length, 0 for none.
static size_t character_prefix(const unsigned char *p, size_t n, size_t *whole) {
    unsigned char low, high;
    *whole = lead_length(p[0], &low, &high);
    if (*whole < 2) return *whole;
    size_t i = 1;
    while (i < *whole && i < n && p[i] >= low && p[i] <= high) {
        low = 0x80;
        high = 0xBF;
        i++;
    }
    return i;
}

size_t utf8_decode(const char *text, size_t n, uint32_t *code) {
    assert(n > 0);
    const unsigned char *p = (const unsigned char *)text;
    if (p[0] < 0x80) {
        *code = p[0];
        return 1;
    }
    size_t whole;
    if (character_prefix(p, n, &whole) != whole || whole == 0) {
        *code = UTF8_BAD;
        return 1;
    }
    uint32_t c = p[0] & (0x7Fu >> whole);
    for (size_t i = 1; i < whole; i++) c = c << 6 | (p[i] & 0x3Fu);
    *code = c;
    return whole;
}

size_t utf8_encode(uint32_t code, char out[4]) {
    assert(code < UTF8_BAD);
    if (code < 0x80) {
        out[0] = (char)code;
        return 1;
    }
    size_t n = code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    for (size_t i = n; i-- > 1; code >>= 6) out[i] = (char)(0x80u | (code & 0x3Fu));
    out[0] = (char)((0xF00u >> n & 0xFFu) | code);
    return n;
}

// Bytes at the end of the text that may still become a character: 0 to 3.
static size_t unfinished_tail(const char *text, size_t n) {
    for (size_t k = 1; k <= 3 && k <= n; k++) {
        const unsigned char *p = (const unsigned char *)text + n - k;
        if ((*p & 0xC0) == 0x80) continue; // a continuation: its lead is further left
        size_t whole;
        return character_prefix(p, k, &whole) == k && whole > k ? k : 0;
    }
    return 0;
}

void utf8_hold_feed(struct utf8_hold *h, const char *bytes, size_t n, struct text *out) {
    assert(h->n >= 0 && h->n <= 3);
    if (!n) return;
    // At most three bytes are held, so the decision needs them and the last three new ones only.
    char tail[6];
    size_t held = (size_t)h->n, fresh = n < 3 ? n : 3, from_held = n < 3 ? held : 0;
    memcpy(tail, h->held, from_held);
    memcpy(tail + from_held, bytes + n - fresh, fresh);
    size_t keep = unfinished_tail(tail, from_held + fresh);
    if (keep > n) { // all new bytes and some held ones stay
        size_t old = keep - n;
        text_add(out, h->held, held - old);
        memmove(h->held, h->held + held - old, old);
        memcpy(h->held + old, bytes, n);
    } else {
        text_add(out, h->held, held);
        text_add(out, bytes, n - keep);
        memcpy(h->held, bytes + n - keep, keep);
    }
    h->n = (int)keep;
}

void utf8_hold_flush(struct utf8_hold *h, struct text *out) {
    if (h->n > 0) text_add(out, "\xEF\xBF\xBD", 3);
    h->n = 0;
}
