// kernels_pairs.h: products of block formats with several rows of x, in whole numbers (kernels_whole.h). Part of kernels.h.
//
// One row waits for memory, so its codes are multiplied as they come out of the panel. Rows together wait for the
// multipliers, so codes are taken out once for all of them: 256 terms of a panel become words of two codes, sixteen bits
// each (16 KiB, which stay in L1), with their factors. x lies as words of two terms of sixteen bits, and one instruction
// (AVX2: two) does for VW columns
//
//     sum += code * x + code * x         exact: what is added fits 32 bits
//
// which is one product where bytes would need two, x having sixteen bits. (On ARM, which has dots of bytes only,
// TILE_PLANES is 2: codes stay bytes, and x lies as its high and its low bytes, which have sums of their own; where it multiplies
// two by two rows, tiles are those of kernels_squares.h.) A tile is TILE_PASS rows and TILE_VECTORS
// vectors of columns; its sums of a group of terms are made floats and added to those of the groups before, the same operations in
// the same order as coded_dot: every bit is that of a row alone.
//
// The floor for 32 terms, 8 rows and VW columns, in cycles of a core with two multipliers: AVX-512 64 + 12 for the
// floats, for 4096 products; AVX2 85 + 8 on three ports, for 2048. Codes taken out for 64 rows add 3%.

enum {
    SEGMENT = 256, // terms
    LINE = PANEL,  // words of one pair of terms
    PASSES = 8,    // that share the codes
};

// A thread's own.
struct pairs_room {
    int32_t codes[SEGMENT / 2 * LINE];
    float factors[SEGMENT / 16][2][PANEL]; // of a group: d * scale, -dmin * min
    float sums[PASSES][WALK][PANEL * PASS]; // [PANEL / VW][PASS][VW]
};

// What a tile needs of its rows of x.
struct pairs_row {
    const int32_t *terms, *start;
    const float *offset, *step;
    float *sums;
};

#ifdef TILE_SQUARES
#include "cpu/kernels_squares.h"
#else
// Two quads of VW columns, from column `col`.
INLINE void pairs_lay(int32_t *codes, int col, vi even, vi odd) {
    const vi quads[2] = {even, odd};
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++) {
        int32_t *to = codes + i * (2 / TILE_PLANES) * LINE + col;
        v_store_words(to, TILE_PLANES == 2 ? quads[i] : v_and(quads[i], 0x00ff00ff));
        if (TILE_PLANES == 1) v_store_words(to + LINE, v_right_16(quads[i], 8));
    }
}

// Group g of a segment: TILE_PASS rows times TILE_VECTORS vectors from column `col`. The terms are unrolled: a loop over
// them costs a quarter.
INLINE void pairs_tile(const int group, const bool mins, const struct pairs_room *room, int64_t g, int64_t col,
                       const struct pairs_row *x) {
    const int32_t *codes = room->codes + g * (group / 2 / TILE_PLANES) * LINE + col, *terms = x->terms;
    __asm__("" : "+r"(terms)); // else gcc 12 makes the address of every term beforehand, and keeps them in memory
    enum { LAST = TILE_PLANES - 1 };
    vi dot[TILE_PLANES][TILE_VECTORS][TILE_PASS];
#pragma GCC unroll 2
    for (int v = 0; v < TILE_VECTORS; v++)
#pragma GCC unroll 8
        for (int r = 0; r < TILE_PASS; r++) {
            dot[0][v][r] = v_zero_words();
            dot[LAST][v][r] = mins ? v_zero_words() : v_set1_words(x->start[r]);
        }
#pragma GCC unroll 16
    for (int i = 0; i < group / 2; i++) {
        vi w[TILE_VECTORS];
#pragma GCC unroll 2
        for (int v = 0; v < TILE_VECTORS; v++) w[v] = v_load_words(codes + i / TILE_PLANES * LINE + v * VW);
#pragma GCC unroll 8
        for (int r = 0; r < TILE_PASS; r++) {
            const vi two = v_set1_words(terms[(i / 2 * PASS + r) * 2 + i % 2]);
#pragma GCC unroll 2
            for (int v = 0; v < TILE_VECTORS; v++)
                dot[i % TILE_PLANES][v][r] = v_pair_dot(dot[i % TILE_PLANES][v][r], w[v], two);
        }
    }
#pragma GCC unroll 2
    for (int v = 0; v < TILE_VECTORS; v++) {
        const vf dl = v_load(room->factors[g][0] + col + v * VW);
        const vf ml = mins ? v_load(room->factors[g][1] + col + v * VW) : dl;
#pragma GCC unroll 8
        for (int r = 0; r < TILE_PASS; r++) {
            float *to = x->sums + (v * PASS + r) * VW;
            const vi whole = TILE_PLANES == 2 ? v_quad_sum(dot[0][v][r], dot[LAST][v][r]) : dot[0][v][r];
            vf sum = v_fma(dl, v_mul(v_set1(x->step[r]), v_float(whole)), v_load(to));
            if (mins) sum = v_fma(ml, v_set1(x->offset[r]), sum);
            v_store(to, sum);
        }
    }
}

INLINE void pairs_finish(float *sums) { (void)sums; }
#endif

// Takes out `chunks` chunks; asks for those of the next segment, `ahead` bytes from here.
INLINE void pairs_fill(const enum dtype t, const unsigned char *from, int64_t chunks, size_t ahead,
                       struct pairs_room *room) {
    int32_t *codes = room->codes;
    float(*factors)[2][PANEL] = room->factors;
    for (int64_t c = 0; c < chunks; c++, codes += 16 / TILE_PLANES * LINE) {
        const unsigned char *block = from + c * 32 / coded_terms(t) * coded_block_bytes(t);
        const unsigned char *chunk = block + coded_head(t) + c * 32 % coded_terms(t) / 32 * coded_chunk_bytes(t);
        for (int line = 0; line < coded_chunk_bytes(t); line += 64) __builtin_prefetch(chunk + ahead + line, 0, 2);
        factors = coded_factors_keep(t, block, chunk, factors);
        for (int col = 0; col < PANEL; col += VW)
#pragma GCC unroll 8
            for (int quad = 0; quad < 8; quad += 2)
                pairs_lay(codes + quad * (2 / TILE_PLANES) * LINE, col, coded_operand(t, chunk, col, quad),
                          coded_operand(t, chunk, col, quad + 1));
    }
}

// Adds the chunks of a segment, whose first term is k, to the sums of a pass.
INLINE void pairs_multiply(const int group, const bool mins, const struct pairs_room *room, int64_t k, int64_t chunks,
                           const struct wide *x, float *sums) {
    const int each = 32 / group; // groups in a chunk
    for (int64_t g = 0; g < chunks * each; g++)
        for (int64_t row = 0; row < PASS; row += TILE_PASS)
            for (int64_t col = 0; col < PANEL; col += TILE_VECTORS * VW)
                pairs_tile(group, mins, room, g, col, &(struct pairs_row){
                    .terms = x->quads + (k + g * group) / 2 * PASS + 2 * row,
                    .start = x->starts + (k / group + g) * PASS + row,
                    .offset = x->sums + (k / group + g) * PASS + row,
                    .step = x->steps + (k / 32 + g / each) * PASS + row,
                    .sums = sums + col * PASS + row * VW});
}

typedef void pairs_multiply_fn(const struct pairs_room *room, int64_t k, int64_t chunks, const struct wide *x, float *sums);
#define PAIRS_MULTIPLY(group, mins)                                                                \
    static void pairs_multiply_##group##_##mins(const struct pairs_room *room, int64_t k,          \
                                                int64_t chunks, const struct wide *x, float *sums) { \
        pairs_multiply(group, mins, room, k, chunks, x, sums);                                     \
    }
PAIRS_MULTIPLY(16, 0)
PAIRS_MULTIPLY(16, 1)
PAIRS_MULTIPLY(32, 0)
PAIRS_MULTIPLY(32, 1)
static pairs_multiply_fn *const pairs_multiplies[2][2] = {{pairs_multiply_16_0, pairs_multiply_16_1},
                                                          {pairs_multiply_32_0, pairs_multiply_32_1}};

typedef void pairs_fill_fn(const unsigned char *from, int64_t chunks, size_t ahead, struct pairs_room *room);
#define PAIRS_FILL(upper, lower)                                                                   \
    static void pairs_fill_##lower(const unsigned char *from, int64_t chunks, size_t ahead,        \
                                   struct pairs_room *room) {                                      \
        pairs_fill(DTYPE_##upper, from, chunks, ahead, room);                                      \
    }
CODED_DTYPES(PAIRS_FILL)
#define PAIRS_FILL_ROW(upper, lower) [DTYPE_##upper] = pairs_fill_##lower,
static pairs_fill_fn *const pairs_fills[DTYPE_COUNT] = {CODED_DTYPES(PAIRS_FILL_ROW)};

// Panels [first, first + count) of a walk times rows [row, last), at most PASSES passes.
static void pairs_walk(const struct coded_product *p, struct pairs_room *room, const unsigned char *const *panel,
                       int64_t first, int64_t count, int64_t row, int64_t last) {
    const struct matmul_args *a = p->a;
    const enum dtype t = a->w.dtype;
    const int64_t K = a->x.cols;
    const size_t part = (size_t)(SEGMENT / coded_terms(t) * coded_block_bytes(t));
    pairs_multiply_fn *const multiply = pairs_multiplies[coded_group(t) == 32][coded_mins(t)];
    memset(room->sums, 0, sizeof room->sums[0] * (size_t)ceil_div(last - row, PASS));
    for (int64_t k = 0; k < K; k += SEGMENT)
        for (int64_t s = 0; s < count; s++) {
            const int64_t chunks = min_i64(SEGMENT, K - k) / 32;
            pairs_fills[t](panel[s] + (size_t)(k / SEGMENT) * part, chunks, part, room);
            for (int64_t at = row, pass = 0; at < last; at += PASS, pass++) {
                const struct wide x = wide_at(p->wide + (size_t)at * wide_bytes(K), K, PASS);
                multiply(room, k, chunks, &x, room->sums[pass][s]);
            }
        }
    for (int64_t at = row, pass = 0; at < last; at += PASS, pass++)
        for (int64_t s = 0; s < count; s++) {
            pairs_finish(room->sums[pass][s]);
            coded_write(a, room->sums[pass][s], first + s, at, PASS);
        }
}

// A piece is some walks of panels, each with `rows_each` rows: neighbours find the weights in the cache.
static void pairs_piece(void *arg, int64_t lo, int64_t hi, int thread) {
    const struct coded_product *p = arg;
    const int64_t panels = ceil_div(p->a->out.cols, PANEL), rows = p->a->x.rows;
    struct pairs_room *room = cpu_scratch(thread, SLOT_B, sizeof *room);
    for (int64_t piece = lo; piece < hi; piece++) {
        const int64_t first = piece / p->row_blocks * WALK, from = piece % p->row_blocks * p->rows_each;
        const int64_t count = min_i64(WALK, panels - first);
        const unsigned char *panel[WALK];
        walk_panels(p, first, count, thread, panel);
        for (int64_t row = from; row < min_i64(from + p->rows_each, rows); row += PASSES * PASS)
            pairs_walk(p, room, panel, first, count, row,
                       min_i64(min_i64(row + PASSES * PASS, from + p->rows_each), rows));
    }
}
