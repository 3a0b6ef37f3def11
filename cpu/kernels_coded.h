// kernels_coded.h: packed weights of codes (kernels_codes.h) turned into floats, made at load, and multiplied with few
// rows. Part of kernels.h.

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
