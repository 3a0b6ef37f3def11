// spell.c: how bytes are spelled in the vocabularies of byte-level BPE.
//
// A vocabulary file holds text, not bytes, so each byte has a printable character: 33..126, 161..172 and 174..255
// stand for themselves, the other 68 are U+0100 and up in order ("Ġ" is the space; Radford et al. 2019).
#include "tokenizer/internal.h"

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
