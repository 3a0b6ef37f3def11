// amx_whole.c: products of block formats in whole numbers (kernels_whole.h) on the matrix units of recent Xeons
// (AMX-INT8), for more than five rows: speculation, small batches, and prompts whose products must be exact.
//
// Whole numbers are exact by any instruction, and the float operations behind them are those of coded_dot, in the same
// order: every bit is that of AVX-512. One instruction, 16 cycles, does for a group of terms and 16 columns
//
//     C[2 R][16] = A[2 R][group] B[group][16]     R = 6 to 8 rows
//
//   A   the high bytes of R rows, then their low bytes: x is laid so once per call (planes, kernels_wide.h)
//   B   codes, a quad of terms a word: a segment of 256 terms of a panel is taken out of its bits into L1 (8 KiB), with
//       its factors, for up to 64 rows. Q8_0 lies so in the panel and is read there.
//   C   int32, through L1: row r of x is 256 C[r] + C[R + r], made a float and added to sums that rest in registers
//       while the segment passes. While those of one step are added, the unit multiplies the next.
//
// The floor for 32 terms, 16 columns and 8 rows (4096 products), in cycles: unit 16; C to L1 16, a line a cycle; adding
// six vector operations a row on two ports, 24; taking codes of four bits out another 8: 32. AVX-512-VNNI needs 64 for
// the dots alone, 92 in all. Measured 56 to 80 where clocks fall by a fifth while tiles are in use and one of the ports
// does no floats then: one thread, 2048 x 2048, Q4_0, 8 rows 170 GMAC/s (VNNI 100), 64 rows 195 (VNNI 98), Q8_0 150 and
// 180, Q6_K, in groups of 16, 95 and 110 (VNNI 78), on the two-core Xeon of amx.c.
#include "cpu/cpu.h"

#if defined(__AMX_TILE__) && defined(__AMX_INT8__) && defined(__AVX512VBMI__) && defined(__linux__)
#include "cpu/words_avx512.h"

#include "cpu/kernels_base.h"
#include "cpu/kernels_codes.h"
#include "cpu/kernels_wide.h"

enum {
    WALK = 4,      // panels at once, because one stream does not fill the memory pipe
    SEGMENT = 256, // terms
    CHUNKS = SEGMENT / 32,
    CODES = 32 * PANEL,       // bytes of a chunk
    LINE = 4 * PANEL,         // bytes of its quads of one kind
    PASSES = 8,               // that share the codes
    SUMS = PANEL * PASS,      // of a pass and a panel: [2 halves][R][VW]
};

// A thread's own.
struct room {
    unsigned char codes[CHUNKS * CODES];
    float factors[CHUNKS * 2][2][PANEL]; // of a group: d * scale, -dmin * min
    float sums[PASSES][WALK][SUMS];
};

// A segment of a panel, taken out.
struct segment {
    const unsigned char *codes;
    int apart; // bytes from a chunk's codes to the next
    const float (*factors)[2][PANEL];
    int64_t k, chunks;
    const unsigned char *next; // what the thread reads after it
    int lines;                 // of that, to be asked for per chunk
};

// ---------------------------------------------------------------------------------------------------------------
// Taking out.

// Codes less their zero, which fits a signed byte: so no sum of x has to be taken off again.
INLINE vi signed_quad(const enum dtype t, const unsigned char *chunk, int col, const int quad) {
    return _mm512_sub_epi8(coded_quad(t, chunk, col, quad), _mm512_set1_epi8((char)coded_zero(t)));
}

INLINE void segment_fill(const enum dtype t, const unsigned char *from, int64_t chunks, struct room *room) {
    float(*factors)[2][PANEL] = room->factors;
    for (int64_t c = 0; c < chunks; c++) {
        const unsigned char *block = from + c * 32 / coded_terms(t) * coded_block_bytes(t);
        const unsigned char *chunk = block + coded_head(t) + c * 32 % coded_terms(t) / 32 * coded_chunk_bytes(t);
        factors = coded_factors_keep(t, block, chunk, factors);
        if (coded_octets(t)) continue;
        for (int col = 0; col < PANEL; col += VW)
#pragma GCC unroll 8
            for (int quad = 0; quad < 8; quad++)
                v_store_words(room->codes + c * CODES + quad * LINE + col * 4, signed_quad(t, chunk, col, quad));
    }
}

typedef void fill_segment(const unsigned char *from, int64_t chunks, struct room *room);
#define FILL(upper, lower)                                                                         \
    static void fill_##lower(const unsigned char *from, int64_t chunks, struct room *room) {       \
        segment_fill(DTYPE_##upper, from, chunks, room);                                           \
    }
CODED_DTYPES(FILL)
#define FILL_ROW(upper, lower) [DTYPE_##upper] = fill_##lower,
static fill_segment *const fills[DTYPE_COUNT] = {CODED_DTYPES(FILL_ROW)};

// ---------------------------------------------------------------------------------------------------------------
// Multiplying.

// Tiles 0 to 3 are C, 4 and 5 the two halves of B, 6 is A.
static void tiles_open(int R, int group) {
    struct {
        uint8_t palette, start_row, zero[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    } shapes = {.palette = 1};
    static_assert(sizeof shapes == 64, "the configuration of the tiles is 64 bytes");
    for (int i = 0; i < 7; i++) {
        shapes.row_bytes[i] = (uint16_t)(i == 6 ? group : 64);
        shapes.rows[i] = (uint8_t)(i == 4 || i == 5 ? group / 4 : 2 * R);
    }
    __asm__ volatile("" ::"r"(&shapes) : "memory"); // gcc 12 believes that only 8 bytes of it are read
    _tile_loadconfig(&shapes);
}

// Of a pair of tiles, `now` or `old`, into c[2 halves][2 R][16].
#define GROUP_STORE(old0, old1)                                                                    \
    do {                                                                                           \
        _tile_stored(old0, c, 64);                                                                 \
        _tile_stored(old1, c + 2 * R * VW, 64);                                                    \
    } while (0)
// How a dot becomes a sum: by a factor alone; with what starts it where codes lie in the panel and keep their zero;
// with an offset where the format has mins.
enum ending { FACTOR, START, OFFSET };
INLINE enum ending ending_of(enum dtype t) { return coded_mins(t) ? OFFSET : coded_octets(t) ? START : FACTOR; }

#define TILE_DOT(c, b)                                                                             \
    do {                                                                                           \
        if (ending == START)                                                                       \
            _tile_dpbsud(c, 6, b);                                                                 \
        else                                                                                       \
            _tile_dpbssd(c, 6, b);                                                                 \
    } while (0)
// The products of a group into `now`, while those of the group before go from `old` to c. A store right behind its own
// product waits for it, and no product starts meanwhile.
#define GROUP_MULTIPLY(now0, now1, old0, old1)                                                     \
    do {                                                                                           \
        _tile_loadd(4, codes, LINE);                                                               \
        _tile_loadd(6, planes, 32);                                                                \
        _tile_zero(now0);                                                                          \
        TILE_DOT(now0, 4);                                                                         \
        _tile_loadd(5, codes + LINE / 2, LINE);                                                    \
        _tile_zero(now1);                                                                          \
        TILE_DOT(now1, 5);                                                                         \
        if (i > 0) GROUP_STORE(old0, old1);                                                        \
    } while (0)
// Step i of `groups` and one more, which only stores.
INLINE void group_multiply(const int R, const enum ending ending, const unsigned char *planes,
                           const unsigned char *codes, int64_t i, int64_t groups, int32_t *c) {
    if (i < groups && i % 2)
        GROUP_MULTIPLY(2, 3, 0, 1);
    else if (i < groups)
        GROUP_MULTIPLY(0, 1, 2, 3);
    else if (i % 2)
        GROUP_STORE(0, 1);
    else
        GROUP_STORE(2, 3);
}

// Words at p, 8 to the left. While tiles are in use there is one port for floats, shifts and whole multiplications;
// bytes are moved by the other.
INLINE vi v_left_8(const int32_t *p) {
    const vi from = _mm512_sub_epi8(_mm512_set_epi64(0x3f3e3d3c3b3a3938, 0x3736353433323130, 0x2f2e2d2c2b2a2928,
                                                     0x2726252423222120, 0x1f1e1d1c1b1a1918, 0x1716151413121110,
                                                     0x0f0e0d0c0b0a0908, 0x0706050403020100),
                                    _mm512_set1_epi8(1));
    return _mm512_maskz_permutexvar_epi8(0xeeeeeeeeeeeeeeee, from, v_load_words(p));
}
// sums[2 halves][R] += what c says, as coded_dot adds it. Between them, `lines` of the next segment are asked for into L2,
// one at a time: a core keeps 16 lines on their way, and asking for more at once stops everything (a tenth of eight rows).
INLINE void group_add(const int R, const enum ending ending, const float (*factors)[PANEL], const float *steps,
                      const float *offsets, const int32_t *starts, const int32_t *c, vf *sums,
                      const unsigned char *next, int lines) {
#pragma GCC unroll 2
    for (int half = 0; half < 2; half++) {
        const vf dl = v_load(factors[0] + half * VW);
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) {
            const int32_t *high = c + (half * 2 * R + r) * VW, *low = high + R * VW;
            vi whole = _mm512_add_epi32(v_left_8(high), v_load_words(low));
            if (ending == START) whole = _mm512_add_epi32(whole, v_set1_words(starts[r]));
            const int line = half * R + r;
            if (line < lines) __builtin_prefetch(next + 64 * line, 0, 2);
            if (R < PASS && line + 2 * R < lines) __builtin_prefetch(next + 64 * (line + 2 * R), 0, 2);
            vf *sum = &sums[line];
            *sum = v_fma(dl, v_mul(v_set1(steps[r]), v_float(whole)), *sum);
            if (ending == OFFSET) *sum = v_fma(v_load(factors[1] + half * VW), v_set1(offsets[r]), *sum);
        }
    }
}

// Asks for codes that are read where they lie, two chunks ahead, into L1. All that comes, into L1, would be too much for
// it: 18 ms instead of 14 for eight rows of 65536 x 2048 Q8_0, one thread.
INLINE void chunk_ask(const struct segment *s, int64_t chunk) {
    if (s->apart == CODES) return;
    for (int l = 0; l < CODES; l += 64) __builtin_prefetch(s->codes + (chunk + 2) * s->apart + l);
}

INLINE void segment_multiply(const int R, const int group, const enum ending ending, const struct segment *s,
                             const struct wide *x, float *total) {
    enum { ROOM = 2 * 2 * PASS * VW };
    int32_t c[2][ROOM] __attribute__((aligned(64)));
    vf sums[2 * PASS];
    const int each = 32 / group; // groups in a chunk
    const int64_t groups = s->chunks * each;
    const unsigned char *planes = (const unsigned char *)(x->quads + s->k / 2 * R);
    const float *steps = x->steps + s->k / 32 * R, *offsets = x->sums + s->k / group * R;
    const int32_t *starts = x->starts + s->k / group * R;
    const unsigned char *next = s->next;
    const int lines = (s->lines + each - 1) / each; // of a group
#pragma GCC unroll 16
    for (int i = 0; i < 2 * R; i++) sums[i] = v_load(total + i * VW);
    // Group i is multiplied, i - 1 stored, i - 2 added.
    for (int64_t i = 0; i < groups + 2; i++) {
        const int64_t chunk = i / each, g = i % each, done = i - 2;
        __asm__ volatile("" ::: "memory"); // gcc 12 does not know that a tile load reads memory
        if (i <= groups)
            group_multiply(R, ending, planes + chunk * 64 * R + g * group,
                           s->codes + chunk * s->apart + g * (group / 4) * LINE, i, groups, c[i % 2]);
        __asm__ volatile("" ::: "memory");
        if (g == 0 && i < groups) chunk_ask(s, chunk);
        if (done < 0) continue;
        group_add(R, ending, s->factors[done], steps + done / each * R, offsets + done * R, starts + done * R,
                  c[(done + 1) % 2], sums, next, lines);
        next += 64 * lines;
    }
#pragma GCC unroll 16
    for (int i = 0; i < 2 * R; i++) v_store(total + i * VW, sums[i]);
}

typedef void multiply_segment(const struct segment *s, const struct wide *x, float *total);
#define MULTIPLY(R, group, ending)                                                                 \
    static void multiply_##R##_##group##_##ending(const struct segment *s, const struct wide *x,   \
                                                  float *total) {                                  \
        segment_multiply(R, group, ending, s, x, total);                                           \
    }
#define MULTIPLIES(R)                                                                              \
    MULTIPLY(R, 16, FACTOR)                                                                        \
    MULTIPLY(R, 16, OFFSET)                                                                        \
    MULTIPLY(R, 32, FACTOR)                                                                        \
    MULTIPLY(R, 32, START)                                                                         \
    MULTIPLY(R, 32, OFFSET)
MULTIPLIES(6)
MULTIPLIES(7)
MULTIPLIES(8)
#define MULTIPLY_ROW(R)                                                                            \
    [R] = {{multiply_##R##_16_FACTOR, NULL, multiply_##R##_16_OFFSET},                             \
           {multiply_##R##_32_FACTOR, multiply_##R##_32_START, multiply_##R##_32_OFFSET}}
static multiply_segment *multiply_choose(int R, enum dtype t) {
    static multiply_segment *const of[PASS + 1][2][3] = {
        MULTIPLY_ROW(6), MULTIPLY_ROW(7), MULTIPLY_ROW(8)};
    return of[R][coded_group(t) == 32][ending_of(t)];
}

// ---------------------------------------------------------------------------------------------------------------
// The product.

struct product {
    const struct matmul_args *a;
    const unsigned char *wide;
    int64_t pieces; // even shares of the panels, a walk or less
};

// out = scale * sums (+ out) for a pass of one panel, as sums_write has it.
static void pass_write(const struct matmul_args *a, const float *sums, int64_t panel, int64_t row, int R) {
    const vf scale = v_set1(one_if_zero(a->scale));
    for (int half = 0; half < 2; half++) {
        const int64_t col = panel * PANEL + half * VW, n = a->out.cols - col;
        for (int64_t r = 0; n > 0 && r < min_i64(R, a->x.rows - row); r++) {
            float *out = row_f32(&a->out, row + r) + col;
            vf x = v_mul(scale, v_load(sums + (half * R + r) * VW));
            if (a->accumulate) x = v_add(v_load_n(out, n), x);
            v_store_n(out, x, n);
        }
    }
}

// Panels [first, end), at most WALK, times rows [row, last), at most PASSES passes.
static void walk_multiply(const struct product *p, struct room *room, int64_t first, int64_t end, int64_t row,
                          int64_t last) {
    const struct matmul_args *a = p->a;
    const enum dtype t = a->w.dtype;
    const int64_t K = a->x.cols;
    const size_t panel = coded_panel_bytes(t, K), part = (size_t)(SEGMENT / coded_terms(t) * coded_block_bytes(t));
    multiply_segment *const multiply = multiply_choose(tile_rows(a->x.rows), t);
    memset(room->sums, 0, sizeof room->sums[0] * (size_t)ceil_div(last - row, PASS));
    struct segment s = {.codes = room->codes, .apart = CODES, .factors = (const void *)room->factors};
    for (s.k = 0; s.k < K; s.k += SEGMENT)
        for (int64_t i = first; i < end; i++) {
            const unsigned char *from = (const unsigned char *)a->w.data + (size_t)i * panel + (size_t)(s.k / SEGMENT) * part;
            s.chunks = min_i64(CHUNKS, (K - s.k) / 32);
            s.next = s.k + SEGMENT < K ? from + part : from + part + (size_t)(end - first - 1) * panel;
            s.lines = (int)ceil_div((int64_t)part, CHUNKS * 64);
            if (coded_octets(t)) s.codes = from + coded_head(t), s.apart = coded_block_bytes(t);
            fills[t](from, s.chunks, room);
            for (int64_t at = row, pass = 0; at < last; at += PASS, pass++, s.lines = 0) {
                const int R = tile_rows(a->x.rows);
                const struct wide x = wide_at(p->wide + (size_t)at * wide_bytes(K), K, R);
                multiply(&s, &x, room->sums[pass][i - first]);
            }
        }
    for (int64_t at = row, pass = 0; at < last; at += PASS, pass++)
        for (int64_t i = first; i < end; i++)
            pass_write(a, room->sums[pass][i - first], i, at, tile_rows(a->x.rows));
}

// A piece is a walk, all rows.
static void product_piece(void *arg, int64_t lo, int64_t hi, int thread) {
    const struct product *p = arg;
    const int64_t panels = ceil_div(p->a->out.cols, PANEL), rows = p->a->x.rows;
    struct room *room = cpu_scratch(thread, SLOT_A, sizeof *room);
    tiles_open(tile_rows(rows), coded_group(p->a->w.dtype));
    for (int64_t piece = lo; piece < hi; piece++)
        for (int64_t row = 0; row < rows; row += PASSES * PASS)
            walk_multiply(p, room, panels * piece / p->pieces, panels * (piece + 1) / p->pieces, row,
                          min_i64(row + PASSES * PASS, rows));
    _tile_release();
}

static struct backend below; // written again with the same values whenever a table is made

// Measured: five rows gain nothing (Q4_1), six 12 to 13% (Q4_K, Q6_K, Q8_0; 768 x 1536, two threads). Passes have as many rows as there are, so that a row more costs what a row costs.
static bool tiles_pay(int64_t rows) { return rows > 5; }

static bool is_ours(const struct matmul_args *a) {
    return a->precision == PRECISION_F32 && is_coded(a->w.dtype) && a->w.layout == LAYOUT_DEVICE &&
           tiles_pay(a->x.rows);
}

// Of one x, which is laid out once for neighbours that want it alike.
static void products(const struct matmul_args *list, int count) {
    const struct widening *laid = NULL;
    struct widening w;
    for (int j = 0; j < count; j++) {
        const struct matmul_args *a = &list[j];
        const enum dtype t = a->w.dtype;
        if (!is_ours(a)) {
            below.matmul(a);
            laid = NULL; // it may use the same scratch
            continue;
        }
        assert(is_f32(&a->out) && is_f32(&a->x) && a->w.mats == 1);
        assert(a->out.rows == a->x.rows && a->out.cols == a->w.rows && a->x.cols == a->w.cols);
        const int64_t K = a->x.cols, passes = ceil_div(a->x.rows, PASS);
        if (!laid || laid->group != coded_group(t) || laid->zero != coded_zero(t) || laid->mins != coded_mins(t)) {
            unsigned char *wide = cpu_scratch(0, SLOT_SHARED, (size_t)(passes * PASS) * wide_bytes(K));
            w = (struct widening){&a->x, wide, coded_group(t), coded_zero(t), coded_mins(t), WIDE_PLANES};
            widen(&w);
            laid = &w;
        }
        cpu_scratch_reserve(SLOT_A, sizeof(struct room));
        const int64_t threads = pool_threads(), panels = ceil_div(a->out.cols, PANEL), each = WALK * PANEL * K * a->x.rows;
        struct product p = {a, w.to, threads * ceil_div(panels, WALK * threads)};
        pool_for(p.pieces, max_i64(1, (1 << 18) / each), product_piece, &p);
    }
}

static void matmul(const struct matmul_args *a) { products(a, 1); }

static void matmul_experts(const struct matmul_experts_args *a) {
    if (a->precision == PRECISION_BF16) below.matmul_experts(a);
    else cpu_matmul_experts(a, matmul);
}

// Where no tile pays, the level below does what has x in common together.
static void project(const struct project_args *a) {
    const struct branch_parts parts = {below.rmsnorm, products, below.bias, below.glu};
    bool ours = false;
    for (int j = 0; j < a->count; j++)
        ours |= is_ours(&(struct matmul_args){.x = a->x, .w = a->to[j].w, .precision = a->precision});
    if (ours) cpu_project(a, &parts);
    else below.project(a);
}
static void feed_forward(const struct feed_forward_args *a) {
    const struct branch_parts parts = {below.rmsnorm, products, below.bias, below.glu};
    const struct matmul_args up = {.x = a->x, .w = a->up, .precision = a->precision};
    const struct matmul_args down = {.x = a->x, .w = a->down, .precision = a->precision};
    if (is_ours(&up) || is_ours(&down)) cpu_feed_forward(a, &parts);
    else below.feed_forward(a);
}

bool cpu_fill_amx_whole(struct backend *b) {
    enum { AMX_INT8 = 25 };
    unsigned x, y, z, d;
    if (!__get_cpuid_count(7, 0, &x, &y, &z, &d) || !(d >> AMX_INT8 & 1)) return false;
    if (!__builtin_cpu_supports("avx512vbmi")) return false;
    below = *b;
    b->matmul = matmul;
    b->matmul_experts = matmul_experts;
    b->project = project;
    b->feed_forward = feed_forward;
    return true;
}

#else
bool cpu_fill_amx_whole(struct backend *b) {
    (void)b;
    return false;
}
#endif
