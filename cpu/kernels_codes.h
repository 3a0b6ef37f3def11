// kernels_codes.h: packed weights of the block formats that are codes into a table (core/blocks.h).
// Part of kernels.h, and of amx.c.
//
//     w = (d * scale) * value[code] - dmin * min
//
// A panel is 32 weight rows. Per block of the format (32 or 256 terms) it holds what all rows have
// at this place, side by side: 32 d's (f16; bf16 for MXFP4), 32 dmin's where the format has mins,
// then one chunk after the other. A chunk is 32 terms:
//
//     32 scales (i8) per group of 16 or 32 terms, where the format has them
//     32 mins (u8) per group, where it has them; Q2_K keeps both in one byte, min in the high half
//     nibbles   4 x [32] words: word j of line g has the low 4 bits of terms 8g to 8g + 7 of row j
//     pairs     2 x [32] words: 16 terms each, 2 bits a term: codes of 2 and 3 bits, top of 6
//     singles   1 x [32] words: 32 terms, 1 bit a term: the top bit of codes of 3 and 5 bits
//
// So bits stay as few as in the file (scales of six bits take eight), every load is a whole vector,
// and a code comes out by a shift and a mask in all rows at once. d * scale and dmin * min are
// exact in f32, and so is their product with a value wherever there is a min: one fused
// multiply-add rounds as the product and the difference of the formula do.
//
// The sign of -dmin is turned before, not inside: x + (-0) and x - (+0) then agree for every zero.

enum { PANEL = 32 }; // weight rows side by side in packed memory

// All of these are folded: the dtype is a constant wherever they are called.
INLINE bool is_coded(const enum dtype t) {
    return t == DTYPE_Q4_1 || t == DTYPE_Q5_0 || t == DTYPE_Q5_1 || t == DTYPE_Q2_K ||
           t == DTYPE_Q3_K || t == DTYPE_Q4_K || t == DTYPE_Q5_K || t == DTYPE_Q6_K ||
           t == DTYPE_IQ4_NL || t == DTYPE_IQ4_XS || t == DTYPE_MXFP4;
}
INLINE bool coded_mins(const enum dtype t) {
    return t == DTYPE_Q4_1 || t == DTYPE_Q5_1 || t == DTYPE_Q2_K || t == DTYPE_Q4_K ||
           t == DTYPE_Q5_K;
}
INLINE int coded_bits(const enum dtype t) {
    return t == DTYPE_Q2_K                                             ? 2
           : t == DTYPE_Q3_K                                           ? 3
           : t == DTYPE_Q6_K                                           ? 6
           : t == DTYPE_Q5_0 || t == DTYPE_Q5_1 || t == DTYPE_Q5_K     ? 5
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
INLINE bool coded_nibbles(const enum dtype t) { return coded_bits(t) >= 4; }
INLINE bool coded_pairs(const enum dtype t) { return coded_bits(t) % 4 >= 2; }
INLINE bool coded_singles(const enum dtype t) { return coded_bits(t) % 2 == 1; }

// Byte offsets: of the first chunk in a block, of the parts in a chunk, and of what follows.
INLINE int coded_head(const enum dtype t) { return 2 * PANEL * (1 + coded_mins(t)); }
INLINE int coded_at_mins(const enum dtype t) {
    return coded_scales(t) ? PANEL * (32 / coded_group(t)) : 0;
}
INLINE int coded_at_nibbles(const enum dtype t) {
    const bool own_mins = coded_scales(t) && coded_mins(t) && t != DTYPE_Q2_K;
    return coded_at_mins(t) + (own_mins ? PANEL * (32 / coded_group(t)) : 0);
}
INLINE int coded_at_pairs(const enum dtype t) {
    return coded_at_nibbles(t) + (coded_nibbles(t) ? 16 * PANEL : 0);
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

// ---------------------------------------------------------------------------------------------------------------
// Out of the panel: one vector of neighbouring rows, term after term.

struct coded {
    vf d, dmin;   // of the block; dmin with its sign turned
    vf dl, ml;    // times scale and min of the group
    vi q, p, s;   // the words in use: nibbles, pairs, singles, shifted so that the next code is at hand
    vi pair, single;
};

// Before term g, a multiple of 8, of the chunk at `chunk` of the block at `block`; rows from `col`.
INLINE void coded_begin(const enum dtype t, struct coded *c, const unsigned char *block,
                        const unsigned char *chunk, int col, const int g) {
    if (g == 0) {
        c->d = t == DTYPE_MXFP4 ? v_load_bf16(block + 2 * col) : v_load_f16(block + 2 * col);
        if (coded_mins(t))
            c->dmin = v_mul(v_set1(-1), v_load_f16(block + 2 * PANEL + 2 * col));
        if (!coded_scales(t)) c->dl = c->d, c->ml = c->dmin;
        if (coded_singles(t)) c->single = v_load_words(chunk + coded_at_singles(t) + 4 * col);
    }
    if (coded_scales(t) && g % coded_group(t) == 0) {
        const unsigned char *scale = chunk + g / coded_group(t) * PANEL + col;
        if (t == DTYPE_Q2_K) {
            const vi both = v_load_bytes(scale);
            c->dl = v_mul(c->d, v_float(v_and(both, 15)));
            c->ml = v_mul(c->dmin, v_float(v_right(both, 4)));
        } else {
            c->dl = v_mul(c->d, v_load_i8(scale));
            if (coded_mins(t)) c->ml = v_mul(c->dmin, v_load_i8(scale + coded_at_mins(t)));
        }
    }
    if (coded_nibbles(t))
        c->q = v_load_words(chunk + coded_at_nibbles(t) + g / 8 * 4 * PANEL + 4 * col);
    if (coded_pairs(t)) {
        if (g % 16 == 0)
            c->pair = v_load_words(chunk + coded_at_pairs(t) + g / 16 * 4 * PANEL + 4 * col);
        const vi here = g % 16 ? v_right(c->pair, 16) : c->pair;
        c->p = t == DTYPE_Q6_K ? v_left(here, 4) : here;
    }
    if (coded_singles(t)) {
        const int at = t == DTYPE_Q3_K ? 2 : 4; // where the bit goes in a code
        c->s = g >= at ? v_right(c->single, g - at) : v_left(c->single, at - g);
    }
}

// The weight of the next term.
INLINE vf coded_next(const enum dtype t, struct coded *c) {
    vf value;
    switch (coded_bits(t)) {
    case 2:
        value = v_code2(c->p);
        break;
    case 3:
        value = v_code3(c->p, c->s);
        break;
    case 4:
        value = t == DTYPE_MXFP4                          ? v_nibble_e2m1(c->q)
                : t == DTYPE_IQ4_NL || t == DTYPE_IQ4_XS ? v_nibble_uneven(c->q)
                                                          : v_nibble_count(c->q);
        break;
    case 5:
        value = v_code5(c->q, c->s, t == DTYPE_Q5_0 ? -16 : 0);
        break;
    default:
        value = v_code6(c->q, c->p);
    }
    if (coded_nibbles(t)) c->q = v_right(c->q, 4);
    if (coded_pairs(t)) c->p = v_right(c->p, 2);
    if (coded_singles(t)) c->s = v_right(c->s, 1);
    return coded_mins(t) ? v_fma(c->dl, value, c->ml) : v_mul(c->dl, value);
}

// Bytes of a panel of packed weights of any dtype; see kernels_matmul.h for those without codes.
INLINE size_t panel_bytes(const struct tensor *w) {
    return is_coded(w->dtype) ? coded_panel_bytes(w->dtype, w->cols) : PANEL * w->row_bytes;
}
