// kernels_codes.h: packed weights of the block formats. Part of kernels.h, and of amx.c.
//
// Every block format is codes into a table (core/blocks.h):
//
//     w = (d * scale) * (code - zero) - dmin * min           (table formats: the table's value for code - zero)
//
// A panel is 32 weight rows. Per block of the format (32 or 256 terms) it holds what all rows have
// at this place, side by side: 32 d's (f16; bf16 for MXFP4), 32 dmin's where the format has mins,
// then one chunk after the other. A chunk is 32 terms:
//
//     32 scales (i8) per group of 16 or 32 terms, where the format has them
//     32 mins (u8) per group, where it has them; Q2_K keeps both in one byte, min in the high half
//     octets    8 x [32] words: codes of 8 bits, 4 terms a word
//     nibbles   4 x [32] words: the low 4 bits of 8 terms
//     pairs     2 x [32] words: 2 bits of 16 terms: codes of 2 and 3 bits, top of 6
//     singles   1 x [32] words: 1 bit of 32 terms: the top bit of codes of 3 and 5 bits
//
// The 32 terms of a chunk are 8 quads of 4: term 8g + 2j + b is byte j of quad 2g + b. The order of
// bits in the words is such that one shift and one mask bring out the four codes of a quad as the
// four bytes of a word, in all rows at once. Bits stay as few as in the file (scales of six bits
// take eight) and every load is a whole vector.
//
// kernels_pack.h makes them, kernels_coded.h turns them into floats, kernels_whole.h multiplies them.

#define CODED_DTYPES(X) X(Q8_0, q8_0) X(Q4_0, q4_0) BLOCK_DTYPES(X)

enum { PANEL = 32 }; // weight rows side by side in packed memory

// All of these are folded: the dtype is a constant wherever they are called.
INLINE bool is_coded(const enum dtype t) {
    return t != DTYPE_F32 && t != DTYPE_F16 && t != DTYPE_BF16 && t != DTYPE_I32;
}
INLINE bool coded_mins(const enum dtype t) {
    return t == DTYPE_Q4_1 || t == DTYPE_Q5_1 || t == DTYPE_Q2_K || t == DTYPE_Q4_K ||
           t == DTYPE_Q5_K;
}
INLINE int coded_bits(const enum dtype t) {
    return t == DTYPE_Q2_K                                         ? 2
           : t == DTYPE_Q3_K                                       ? 3
           : t == DTYPE_Q6_K                                       ? 6
           : t == DTYPE_Q8_0                                       ? 8
           : t == DTYPE_Q5_0 || t == DTYPE_Q5_1 || t == DTYPE_Q5_K ? 5
                                                                   : 4;
}
INLINE bool coded_scales(const enum dtype t) { // else a block is one group, 32 terms
    return t == DTYPE_Q2_K || t == DTYPE_Q3_K || t == DTYPE_Q4_K || t == DTYPE_Q5_K ||
           t == DTYPE_Q6_K || t == DTYPE_IQ4_XS;
}
INLINE int coded_terms(const enum dtype t) { return coded_scales(t) ? 256 : 32; }
INLINE int coded_group(const enum dtype t) {
    return t == DTYPE_Q2_K || t == DTYPE_Q3_K || t == DTYPE_Q6_K ? 16 : 32;
}
INLINE bool coded_octets(const enum dtype t) { return coded_bits(t) == 8; }
INLINE bool coded_nibbles(const enum dtype t) { return coded_bits(t) >= 4 && coded_bits(t) < 8; }
INLINE bool coded_pairs(const enum dtype t) { return coded_bits(t) % 4 >= 2; }
INLINE bool coded_singles(const enum dtype t) { return coded_bits(t) % 2 == 1; }
INLINE bool coded_uneven(const enum dtype t) { return t == DTYPE_IQ4_NL || t == DTYPE_IQ4_XS; }
INLINE int coded_zero(const enum dtype t) { // what a code, or its table's entry, is when the value is 0
    return coded_mins(t)       ? 0
           : t == DTYPE_MXFP4  ? 12
           : coded_uneven(t)   ? 127
           : coded_bits(t) == 8 ? 128
                               : 1 << (coded_bits(t) - 1);
}

// Dots of signed bytes: codes whose top bit may be set are taken less 128, and so is their zero.
INLINE bool coded_turned(const enum dtype t) { return CODES_SIGNED && coded_zero(t) > 64; }
INLINE int coded_dot_zero(const enum dtype t) { return coded_zero(t) - (coded_turned(t) ? 128 : 0); }

// Byte offsets: of the first chunk in a block, of the parts in a chunk, and of what follows.
INLINE int coded_head(const enum dtype t) { return 2 * PANEL * (1 + coded_mins(t)); }
INLINE int coded_at_mins(const enum dtype t) {
    return coded_scales(t) ? PANEL * (32 / coded_group(t)) : 0;
}
INLINE int coded_at_nibbles(const enum dtype t) {
    const bool own_mins = coded_scales(t) && coded_mins(t) && t != DTYPE_Q2_K;
    return coded_at_mins(t) + (own_mins ? PANEL * (32 / coded_group(t)) : 0);
}
INLINE int coded_at_pairs(const enum dtype t) { // octets stand where nibbles would
    return coded_at_nibbles(t) + (coded_octets(t) ? 32 : coded_nibbles(t) ? 16 : 0) * PANEL;
}
INLINE int coded_at_singles(const enum dtype t) {
    return coded_at_pairs(t) + (coded_pairs(t) ? 8 * PANEL : 0);
}
INLINE int coded_chunk_bytes(const enum dtype t) {
    return coded_at_singles(t) + (coded_singles(t) ? 4 * PANEL : 0);
}
INLINE int coded_block_bytes(const enum dtype t) {
    return coded_head(t) + coded_terms(t) / 32 * coded_chunk_bytes(t);
}
INLINE size_t coded_panel_bytes(const enum dtype t, int64_t terms) {
    return (size_t)(terms / coded_terms(t)) * (size_t)coded_block_bytes(t);
}

INLINE size_t panel_bytes(const struct tensor *w) {
    return is_coded(w->dtype) ? coded_panel_bytes(w->dtype, w->cols) : PANEL * w->row_bytes;
}

// ---------------------------------------------------------------------------------------------------------------
// Out of the panel.

// Bits `mask` of every byte of w, moved up by `up` (down when negative) and masked by `mask` after it.
INLINE vi bits_moved(vi w, const int up, const int mask) {
    return v_and(up > 0 ? v_left(w, up) : v_right(w, -up), mask * 0x01010101);
}

// The four codes (table formats: entries) of a quad as bytes, of VW rows from `col`.
INLINE vi coded_quad(const enum dtype t, const unsigned char *chunk, int col, const int quad) {
    if (coded_octets(t)) return v_load_words(chunk + coded_at_nibbles(t) + (quad * PANEL + col) * 4);
    vi code = v_zero_words();
    if (coded_nibbles(t)) {
        const vi w = v_load_words(chunk + coded_at_nibbles(t) + (quad / 2 * PANEL + col) * 4);
        code = bits_moved(w, -4 * (quad % 2), 15);
    }
    if (coded_pairs(t)) {
        const vi w = v_load_words(chunk + coded_at_pairs(t) + (quad / 4 * PANEL + col) * 4);
        const int to = t == DTYPE_Q6_K ? 4 : 0;
        code = v_or(code, bits_moved(w, to - 2 * (quad % 4), 3 << to));
    }
    if (coded_singles(t)) {
        const vi w = v_load_words(chunk + coded_at_singles(t) + col * 4);
        const int to = coded_bits(t) - 1;
        code = v_or(code, bits_moved(w, to - quad, 1 << to));
    }
    if (coded_uneven(t))
        return v_table(code, 0, 23, 44, 62, 78, 92, 105, 117, 128, 140, 152, 165, 180, 196, 216, 240);
    if (t == DTYPE_MXFP4)
        return v_table(code, 12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0);
    return code;
}

// The same, as dots take them.
INLINE vi coded_operand(const enum dtype t, const unsigned char *chunk, int col, const int quad) {
    const vi codes = coded_quad(t, chunk, col, quad);
    return coded_turned(t) ? v_xor(codes, (int)0x80808080) : codes;
}

// d * scale and -dmin * min of the group that begins at term g of the chunk, for VW rows. The sign
// is turned before, not inside: x + (-0) and x - (+0) then agree for every zero.
INLINE void coded_factors(const enum dtype t, const unsigned char *block, const unsigned char *chunk,
                          int col, const int g, vf *dl, vf *ml) {
    const vf d = t == DTYPE_MXFP4 ? v_load_bf16(block + 2 * col) : v_load_f16(block + 2 * col);
    const vf dmin = coded_mins(t) ? v_mul(v_set1(-1), v_load_f16(block + 2 * PANEL + 2 * col)) : d;
    const unsigned char *scale = chunk + g / coded_group(t) * PANEL + col;
    *dl = d, *ml = dmin;
    if (!coded_scales(t)) return;
    if (t == DTYPE_Q2_K) {
        const vi both = v_load_bytes(scale);
        *dl = v_mul(d, v_float(v_and(both, 15)));
        *ml = v_mul(dmin, v_float(v_right(both, 4)));
        return;
    }
    *dl = v_mul(d, v_load_i8(scale));
    if (coded_mins(t)) *ml = v_mul(dmin, v_load_i8(scale + coded_at_mins(t)));
}

// The factors of a chunk's groups, and their offsets where the format has mins, where a product keeps them; one behind the
// last.
INLINE float (*coded_factors_keep(const enum dtype t, const unsigned char *block, const unsigned char *chunk,
                                  float (*to)[2][PANEL]))[2][PANEL] {
    for (int g = 0; g < 32; g += coded_group(t), to++)
        for (int col = 0; col < PANEL; col += VW) {
            vf dl, ml;
            coded_factors(t, block, chunk, col, g, &dl, &ml);
            v_store(to[0][0] + col, dl);
            if (coded_mins(t)) v_store(to[0][1] + col, ml);
        }
    return to;
}
