// kernels_coded.h: packed weights of codes (kernels_codes.h) turned into floats. Part of kernels.h. Made: kernels_pack.h.

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
