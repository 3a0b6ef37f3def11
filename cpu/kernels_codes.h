// kernels_codes.h: packed weights of the block formats. Part of kernels.h.
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
// kernels_whole.h multiplies them.

#define CODED_DTYPES(X) X(Q8_0, q8_0) X(Q4_0, q4_0) BLOCK_DTYPES(X)

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

// to[k][PANEL] of terms [k0, k0 + terms), multiples of 32, rows [from, to) of the panel, as floats.
// d * scale and dmin * min are exact in f32, and so is their product with a value wherever there is
// a min: one fused multiply-add rounds as the product and the difference of the formula do.
INLINE void coded_unpack(const enum dtype t, const unsigned char *panel, int64_t k0, int64_t terms,
                         int from_row, int to_row, float *to) {
    for (int64_t k = k0; k < k0 + terms; k += 32, to += 32 * PANEL) {
        const unsigned char *block = panel + k / coded_terms(t) * coded_block_bytes(t);
        const unsigned char *chunk =
            block + coded_head(t) + k % coded_terms(t) / 32 * coded_chunk_bytes(t);
        for (int row = from_row; row < to_row; row += VW) {
            vf dl, ml;
#pragma GCC unroll 8
            for (int quad = 0; quad < 8; quad++) {
                if (4 * quad % coded_group(t) == 0)
                    coded_factors(t, block, chunk, row, 4 * quad, &dl, &ml);
                const vi codes = coded_quad(t, chunk, row, quad);
#pragma GCC unroll 4
                for (int j = 0; j < 4; j++) {
                    const vf code = v_float(v_and(v_right(codes, 8 * j), 255));
                    const vf value = v_sub(code, v_set1((float)coded_zero(t)));
                    v_store(to + (quad / 2 * 8 + 2 * j + quad % 2) * PANEL + row,
                            coded_mins(t) ? v_fma(dl, value, ml) : v_mul(dl, value));
                }
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
CODED_DTYPES(CODED_UNPACK)
static coded_unpack_fn *const coded_unpacks[DTYPE_COUNT] = {
#define CODED_ROW(upper, lower) [DTYPE_##upper] = coded_unpack_##lower,
    CODED_DTYPES(CODED_ROW)};

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

// Every second byte of x, from the first, side by side.
INLINE uint32_t even_bytes(uint64_t x) {
    x &= 0x00ff00ff00ff00ff;
    x = (x | x >> 8) & 0x0000ffff0000ffff;
    return (uint32_t)(x | x >> 16);
}
// Bits [from, from + width) of the 32 codes into words of 32 / width terms, PANEL words apart. Byte j
// of what eight codes give has terms 2j and 2j + 1 side by side: a nibble each, or two bits, or one.
INLINE void words_pack(const uint8_t *code, const int from, const int width, unsigned char *to) {
    uint32_t words[8] = {0};
    const uint64_t mask = 0x0101010101010101 * ((1u << width) - 1);
    for (int g = 0; g < 4; g++) {
        uint64_t eight;
        memcpy(&eight, code + 8 * g, sizeof eight);
        eight = eight >> from & mask;
        if (width == 8) {
            words[2 * g] = even_bytes(eight), words[2 * g + 1] = even_bytes(eight >> 8);
        } else {
            const uint32_t both = even_bytes(eight | eight >> (8 - width));
            words[g * width / 4] |= both << (g * 2 * width) % 8;
        }
    }
    for (int w = 0; w < width; w++) memcpy(to + w * 4 * PANEL, &words[w], sizeof words[w]);
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
    if (coded_octets(t)) words_pack(code, 0, 8, to + coded_at_nibbles(t) + 4 * l);
    if (coded_nibbles(t)) words_pack(code, 0, 4, to + coded_at_nibbles(t) + 4 * l);
    if (coded_pairs(t))
        words_pack(code, t == DTYPE_Q6_K ? 4 : 0, 2, to + coded_at_pairs(t) + 4 * l);
    if (coded_singles(t)) words_pack(code, coded_bits(t) - 1, 1, to + coded_at_singles(t) + 4 * l);
}

INLINE void coded_split(const enum dtype t, const unsigned char *block, struct block_parts *p) {
    if (t != DTYPE_Q8_0) {
        block_form(t)->split(block, p);
        return;
    }
    struct block_q8_0 b;
    memcpy(&b, block, sizeof b);
    *p = (struct block_parts){.d = f16_to_f32(b.d)};
    for (int i = 0; i < QK; i++) p->code[i] = (uint8_t)(b.q[i] + 128);
}

INLINE void coded_pack_block(const enum dtype t, const unsigned char *from, int64_t l,
                             unsigned char *to) {
    struct block_parts p;
    coded_split(t, from, &p);
    const uint16_t d = t == DTYPE_MXFP4 ? bf16_from_f32(p.d) : f16_from_f32(p.d),
                   dmin = f16_from_f32(p.dmin);
    memcpy(to + 2 * l, &d, sizeof d);
    if (coded_mins(t)) memcpy(to + 2 * PANEL + 2 * l, &dmin, sizeof dmin);
    for (int at = 0; at < coded_terms(t); at += 32)
        coded_pack_chunk(t, &p, at, l, to + coded_head(t) + at / 32 * coded_chunk_bytes(t));
}

// A kilobyte of a row at a time, so that it is read in runs while its place in the panel stays in L1.
INLINE void coded_pack(const enum dtype t, const struct tensor *w, int64_t first, int64_t count,
                       unsigned char *to) {
    const int bytes = dtype_row(t)->block_bytes, run = coded_terms(t) == 32 ? 16 : 2;
    const int64_t blocks = w->cols / coded_terms(t);
    assert(dtype_row(t)->block_weights == coded_terms(t));
    for (int64_t at = 0; at < blocks; at += run)
        for (int64_t l = 0; l < count; l++) {
            const unsigned char *row =
                (const unsigned char *)w->data + (size_t)(first + l) * w->row_bytes;
            for (int64_t b = at; b < min_i64(at + run, blocks); b++)
                coded_pack_block(t, row + b * bytes, l, to + b * coded_block_bytes(t));
        }
}

typedef void coded_pack_fn(const struct tensor *w, int64_t first, int64_t count, unsigned char *to);
#define CODED_PACK(upper, lower)                                                                   \
    static void coded_pack_##lower(const struct tensor *w, int64_t first, int64_t count,           \
                                   unsigned char *to) {                                            \
        coded_pack(DTYPE_##upper, w, first, count, to);                                            \
    }
CODED_DTYPES(CODED_PACK)
static coded_pack_fn *const coded_packs[DTYPE_COUNT] = {
#define CODED_PACK_ROW(upper, lower) [DTYPE_##upper] = coded_pack_##lower,
    CODED_DTYPES(CODED_PACK_ROW)};
