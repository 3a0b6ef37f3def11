// kernels_codes.h: packed weights of the block formats that are codes into a table (core/blocks.h).
// Part of kernels.h.
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

// to[k][PANEL] of terms [k0, k0 + terms), multiples of 32, rows [from, to) of the panel.
INLINE void coded_unpack(const enum dtype t, const unsigned char *panel, int64_t k0, int64_t terms,
                         int from_row, int to_row, float *to) {
    for (int64_t k = k0; k < k0 + terms; k += 32, to += 32 * PANEL) {
        const unsigned char *block = panel + k / coded_terms(t) * coded_block_bytes(t);
        const unsigned char *chunk =
            block + coded_head(t) + k % coded_terms(t) / 32 * coded_chunk_bytes(t);
        for (int j = from_row; j < to_row; j += VW) {
            struct coded c = {.d = v_zero()};
#pragma GCC unroll 4
            for (int g = 0; g < 32; g += 8) {
                coded_begin(t, &c, block, chunk, j, g);
                for (int l = g; l < g + 8; l++) v_store(to + l * PANEL + j, coded_next(t, &c));
            }
        }
    }
}

typedef void coded_unpack_fn(const unsigned char *panel, int64_t k0, int64_t terms, int from_row,
                             int to_row, float *to);
#define CODED_UNPACK(upper, lower)                                                                 \
    static void coded_unpack_##lower(const unsigned char *panel, int64_t k0, int64_t terms,        \
                                     int from_row, int to_row, float *to) {                        \
        coded_unpack(DTYPE_##upper, panel, k0, terms, from_row, to_row, to);                       \
    }
BLOCK_DTYPES(CODED_UNPACK)
static coded_unpack_fn *const coded_unpacks[DTYPE_COUNT] = {
#define CODED_ROW(upper, lower) [DTYPE_##upper] = coded_unpack_##lower,
    BLOCK_DTYPES(CODED_ROW)};

// Row `row` of the panel as floats.
static void coded_unpack_row(enum dtype t, const unsigned char *panel, int row, int64_t terms,
                             float *out) {
    float some[32 * PANEL];
    const int from = row / VW * VW;
    for (int64_t k = 0; k < terms; k += 32) {
        coded_unpacks[t](panel, k, 32, from, from + VW, some);
        for (int l = 0; l < 32; l++) out[k + l] = some[l * PANEL + row];
    }
}

// ---------------------------------------------------------------------------------------------------------------
// Into the panel.

// bits [from, from + width) of the next codes, 32 / width of them, as a word at `to`.
INLINE void word_pack(const uint8_t *code, const int from, const int width, unsigned char *to) {
    uint32_t word = 0;
    for (int i = 0; i < 32 / width; i++)
        word |= ((uint32_t)code[i] >> from & ((1u << width) - 1)) << i * width;
    memcpy(to, &word, sizeof word);
}

// Codes and integers of terms [at, at + 32) of row l.
INLINE void coded_pack_chunk(const enum dtype t, const struct block_parts *p, int at, int64_t l,
                             unsigned char *to) {
    const int group = coded_group(t);
    for (int g = at / group; coded_scales(t) && g * group < at + 32; g++) {
        unsigned char *scale = to + (g - at / group) * PANEL + l;
        scale[0] = (unsigned char)p->scale[g];
        if (t == DTYPE_Q2_K)
            scale[0] |= (unsigned char)(p->min[g] << 4);
        else if (coded_mins(t))
            scale[coded_at_mins(t)] = p->min[g];
    }
    const uint8_t *code = p->code + at;
    for (int k = 0; k < 32 && coded_nibbles(t); k += 8)
        word_pack(code + k, 0, 4, to + coded_at_nibbles(t) + (k / 8 * PANEL + l) * 4);
    for (int k = 0; k < 32 && coded_pairs(t); k += 16)
        word_pack(code + k, t == DTYPE_Q6_K ? 4 : 0, 2,
                  to + coded_at_pairs(t) + (k / 16 * PANEL + l) * 4);
    if (coded_singles(t))
        word_pack(code, coded_bits(t) - 1, 1, to + coded_at_singles(t) + l * 4);
}

INLINE void coded_pack(const enum dtype t, const struct tensor *w, int64_t first, int64_t count,
                       unsigned char *to) {
    const struct block_form *form = block_form(t);
    const int bytes = dtype_row(t)->block_bytes;
    assert(form->weights == coded_terms(t) && form->bits == coded_bits(t));
    for (int64_t b = 0; b < w->cols / coded_terms(t); b++, to += coded_block_bytes(t))
        for (int64_t l = 0; l < count; l++) {
            struct block_parts p;
            form->split((const char *)w->data + (size_t)(first + l) * w->row_bytes +
                            (size_t)(b * bytes),
                        &p);
            const uint16_t d = t == DTYPE_MXFP4 ? bf16_from_f32(p.d) : f16_from_f32(p.d),
                           dmin = f16_from_f32(p.dmin);
            memcpy(to + 2 * l, &d, sizeof d);
            if (coded_mins(t)) memcpy(to + 2 * PANEL + 2 * l, &dmin, sizeof dmin);
            for (int at = 0; at < coded_terms(t); at += 32)
                coded_pack_chunk(t, &p, at, l,
                                 to + coded_head(t) + at / 32 * coded_chunk_bytes(t));
        }
}

typedef void coded_pack_fn(const struct tensor *w, int64_t first, int64_t count, unsigned char *to);
#define CODED_PACK(upper, lower)                                                                   \
    static void coded_pack_##lower(const struct tensor *w, int64_t first, int64_t count,           \
                                   unsigned char *to) {                                            \
        coded_pack(DTYPE_##upper, w, first, count, to);                                            \
    }
BLOCK_DTYPES(CODED_PACK)
static coded_pack_fn *const coded_packs[DTYPE_COUNT] = {
#define CODED_PACK_ROW(upper, lower) [DTYPE_##upper] = coded_pack_##lower,
    BLOCK_DTYPES(CODED_PACK_ROW)};

// ---------------------------------------------------------------------------------------------------------------
// Few rows: one chunk of W strips for R rows of x; see decode_block.

INLINE void coded_decode(const enum dtype t, const int R, const int W,
                         const unsigned char *const *at, const int *col, const float *const *x,
                         int64_t k0, vf chain[4][8][2]) {
    struct coded code[4][2];
    vf c[4][8][2];
    const unsigned char *block[4], *chunk[4];
#pragma GCC unroll 4
    for (int s = 0; s < W; s++) {
        code[s][0] = code[s][1] = (struct coded){.d = v_zero()};
        block[s] = at[s] + k0 / coded_terms(t) * coded_block_bytes(t);
        chunk[s] = block[s] + coded_head(t) + k0 % coded_terms(t) / 32 * coded_chunk_bytes(t);
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) c[s][r][0] = chain[s][r][0], c[s][r][1] = chain[s][r][1];
    }
#pragma GCC unroll 4
    for (int g = 0; g < 32; g += 8) {
#pragma GCC unroll 4
        for (int s = 0; s < W; s++) {
            coded_begin(t, &code[s][0], block[s], chunk[s], col[s], g);
            coded_begin(t, &code[s][1], block[s], chunk[s], col[s] + VW, g);
            for (int line = 0; line < coded_chunk_bytes(t) / 4; line += 64)
                __builtin_prefetch(chunk[s] + 2048 + g / 8 * (coded_chunk_bytes(t) / 4) + line);
        }
        for (int k = g; k < g + 8; k++) {
#pragma GCC unroll 4
            for (int s = 0; s < W; s++) {
                const vf lo = coded_next(t, &code[s][0]), hi = coded_next(t, &code[s][1]);
#pragma GCC unroll 8
                for (int r = 0; r < R; r++) {
                    const vf xk = v_set1(x[r][k0 + k]);
                    c[s][r][0] = v_fma(xk, lo, c[s][r][0]);
                    c[s][r][1] = v_fma(xk, hi, c[s][r][1]);
                }
            }
        }
    }
#pragma GCC unroll 4
    for (int s = 0; s < W; s++)
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) chain[s][r][0] = c[s][r][0], chain[s][r][1] = c[s][r][1];
}
