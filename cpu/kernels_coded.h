// kernels_coded.h: packed weights of codes (kernels_codes.h) turned into floats, and made at load. Part of kernels.h.

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
    const uint64_t mask = 0x0101010101010101u * ((1u << width) - 1);
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
