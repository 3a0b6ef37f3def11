// amx.c: products of bf16 numbers on the matrix units of recent Xeons (AMX-BF16), for PRECISION_BF16.
//
// Products of block formats in f32 are in amx_whole.c, everything else of this level is AVX-512's (avx512.c). One
// engine serves matmul, matmul_dx, matmul_dw and head_loss (amx_head.h): C[rows, cols] = A[rows, terms] B[terms, cols].
// A tile register holds 16 lines of 64 bytes, and one instruction does 16 x 16 x 32 multiplications in 16 cycles:
// C[16][16] f32 += A[16][32] B, B as 16 lines of 16 columns of two terms each. Four accumulators, two tiles of A and
// two of B make 32 x 32 outputs: 4 KiB of tiles for 64 cycles of multiplying. From L1 they take 32 cycles (two lines
// each), from L2 some 84 (48 bytes each): one factor must come from L1, then it is 58. From L3 (9 bytes a cycle) A may
// come once per 8 panels, 4 bytes a cycle.
//
//   A   packed to bf16 once per call by all threads, in the order it is read: block of terms, strip of 32 rows, step of
//       32 terms, two tiles. A block of all rows (288 KiB of 512 rows) stays in L2 while the panels of a piece pass.
//   B   a panel of 32 columns, one block of terms: made by the thread that uses it, right before, for all rows; 18 KiB,
//       which stay in L1 while A streams through it (36 KiB would fit alone, but make 750 GFLOP/s of 1000: one thread,
//       512 x 2048 x 2048 of Q8_0 on a busy two-core Xeon with AMX, November 2026; tiles all from L1: 2600). Weights of
//       every format are turned to bf16 here, so a format costs by weight, not by product: a fifth at 512 rows.
//   C   where terms take several blocks, sums rest in L2 between blocks.
//
// The order of a sum is one chain over all terms in steps of 32, whatever the blocks: sums that rest are f32 as the
// tiles hold them. A step itself sums its even and its odd terms from zero, adds the two and then the chain (Intel SDM,
// TDPBF16PS; fused, denormals count as zero). Rows, columns and terms that do not exist are zeros, so every shape takes
// the same way and a row gives the same bits alone, in any batch and at any place of it.
//
// The state of the tiles (8 KiB a thread) would be saved at every switch of threads, so a piece configures them at its
// beginning and releases them at its end. Linux gives the permission to use them once per process.
#include "cpu/cpu.h"

#if defined(__AMX_TILE__) && defined(__AMX_BF16__) && defined(__AVX512BF16__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>

#include "cpu/words_avx512.h"

#include "cpu/kernels_base.h"
#include "cpu/kernels_codes.h"
#include "cpu/kernels_exp.h"
#include "cpu/kernels_lanes.h"
#include "cpu/words_amx.h"

enum {
    STRIP = 32,              // rows of A that are multiplied together
    SUMS = STRIP * PANEL,    // f32 numbers in the four tiles of C
    DEPTH = 288,             // most terms of a block: 18 KiB of B
};

// Memory: `bytes` of every row, rows `stride` apart.
struct region {
    const char *at;
    int64_t rows;
    size_t bytes, stride;
};

struct product;
struct right_kind { // how panels of B are made
    // The panel of 32 columns, terms [k0, k0 + terms) of a segment, zeros up to whole steps; room: DEPTH * PANEL numbers.
    void (*fill)(const struct product *p, const struct tensor *right, int64_t segment, int64_t panel, int64_t k0, int64_t terms,
                 uint16_t *room, uint16_t *to);
    // What that reads.
    struct region (*source)(const struct product *p, const struct tensor *right, int64_t segment, int64_t panel, int64_t k0,
                            int64_t terms);
};

struct product {
    struct tensor out;
    const uint16_t *left; // packed A of all segments
    struct tensor right[2];     // panel i is of right[i % rights]
    int64_t rights; // 0: 1
    const struct right_kind *kind;
    int64_t terms, segments;    // terms of one segment; out += segment after segment
    int64_t steps, block_steps; // of a segment, of a block of terms
    int64_t strips, strips_each, row_blocks, panels_each; // a piece is a block of strips times some panels
    int64_t together; // blocks that take turns with some panels before the next ones come
    float scale;
    bool accumulate, around; // around the caches: out is more than they hold
    // Instead of out, which has rows and columns only, take gets the sums of every strip and panel, c as four tiles. With
    // two rights the sums of the panel before lie SUMS before c.
    void (*take)(const void *taker, int64_t strip, int64_t panel, const float *c);
    const void *taker;
};

static int64_t product_blocks(const struct product *p) { return ceil_div(p->steps, p->block_steps); }
static size_t left_segment(const struct product *p) { // numbers
    return (size_t)(p->strips * p->steps) * 2 * TILE;
}
// Strip `strip` of block `block` of the packed A of a segment.
static size_t left_at(const struct product *p, int64_t block, int64_t strip) {
    const int64_t before = block * p->block_steps, here = min_i64(p->block_steps, p->steps - before);
    return (size_t)(p->strips * before + strip * here) * 2 * TILE;
}

// ---------------------------------------------------------------------------------------------------------------
// Pairs of terms.

// Where the pair of terms k, k + 1 of a panel's half lies.
INLINE uint16_t *pair_at(uint16_t *to, int64_t k, int half) {
    return to + k / STEP * 2 * TILE + half * TILE + k % STEP / 2 * 32;
}
INLINE void zeros_behind(uint16_t *to, int64_t terms) {
    for (int64_t k = terms + terms % 2; k % STEP; k += 2)
        for (int half = 0; half < 2; half++)
            _mm512_storeu_si512(pair_at(to, k, half), _mm512_setzero_si512());
}

// ---------------------------------------------------------------------------------------------------------------
// B out of packed weights.

// Byte j of every word as the float base + byte: the byte stands where the unit of base's exponent is. Converting takes the
// one port that multiplies floats while tiles are in use; bytes are moved by the other.
INLINE int code_base(const enum dtype t) { return coded_octets(t) || coded_uneven(t) ? 1 << 15 : 1 << 7; }
INLINE vf code_float(const enum dtype t, vi quad, const int j) {
    const bool wide = code_base(t) > 128; // else codes are below 128
    const int place = wide ? 1 : 2, exponent = wide ? 0x47000000 : 0x43000000;
    if (j != place) {
        const int none = (int)0x80808080, from = (none & ~(255 << 8 * place)) | j << 8 * place, next = 4 << 8 * place;
        quad = _mm512_shuffle_epi8(quad, _mm512_set4_epi32(from + 3 * next, from + 2 * next, from + next, from));
        return _mm512_castsi512_ps(_mm512_or_si512(quad, _mm512_set1_epi32(exponent)));
    }
    enum { A_AND_B_OR_C = 0xea };
    return _mm512_castsi512_ps(_mm512_ternarylogic_epi32(quad, _mm512_set1_epi32(255 << 8 * place),
                                                         _mm512_set1_epi32(exponent), A_AND_B_OR_C));
}
// Whether dl (base + zero) is exact: 11 bits of d, at most 8 of a scale, and few of the sum.
INLINE bool code_folds(const enum dtype t) { return !coded_mins(t) && !coded_uneven(t); }

// Terms 8g + 2j and 8g + 2j + 1 are bytes j of quads 2g and 2g + 1. d * scale * (base + zero) is exact, so one fused
// multiply-add gives the weight as the formula of the format does.
INLINE void fill_codes(const enum dtype t, const unsigned char *panel, int64_t k0, int64_t terms,
                       uint16_t *to) {
    const vf base = v_set1((float)code_base(t));
    for (int64_t k = k0; k < k0 + terms; k += 32, to += 2 * TILE) {
        const unsigned char *block = panel + k / coded_terms(t) * coded_block_bytes(t);
        const unsigned char *chunk =
            block + coded_head(t) + k % coded_terms(t) / 32 * coded_chunk_bytes(t);
        for (int half = 0; half < 2; half++) {
            vf dl, ml;
#pragma GCC unroll 4
            for (int g = 0; g < 4; g++) {
                if (8 * g % coded_group(t) == 0) {
                    coded_factors(t, block, chunk, half * VW, 8 * g, &dl, &ml);
                    const int folded = code_folds(t) ? code_base(t) : 0;
                    if (!coded_mins(t)) ml = v_mul(dl, v_set1((float)-(coded_zero(t) + folded)));
                }
                const vi even = coded_quad(t, chunk, half * VW, 2 * g);
                const vi odd = coded_quad(t, chunk, half * VW, 2 * g + 1);
#pragma GCC unroll 4
                for (int j = 0; j < 4; j++) {
                    vf first = code_float(t, even, j), second = code_float(t, odd, j);
                    if (!code_folds(t)) first = v_sub(first, base), second = v_sub(second, base);
                    _mm512_storeu_si512(pair_at(to, 8 * g + 2 * j, half),
                                        in_pairs(v_fma(dl, first, ml), v_fma(dl, second, ml)));
                }
            }
        }
    }
}

// Numbers of 4 or 2 bytes, [k][32].
INLINE void fill_numbers(const enum dtype t, const unsigned char *panel, int64_t k0, int64_t terms,
                         uint16_t *to) {
    const int64_t bytes = t == DTYPE_F32 ? 4 : 2, line = PANEL * bytes;
    const unsigned char *from = panel + k0 * line;
    for (int64_t k = 0; k < terms; k += 2, from += 2 * line)
        for (int half = 0; half < 2; half++) {
            const unsigned char *even = from + half * VW * bytes, *odd = even + line;
            const bool two = k + 1 < terms;
            __m512i pairs;
            if (t == DTYPE_BF16) {
                const __m256i next = two ? _mm256_loadu_si256((const void *)odd) : _mm256_setzero_si256();
                pairs = in_pairs_bf16(_mm256_loadu_si256((const void *)even), next);
            } else if (t == DTYPE_F16) {
                pairs = in_pairs(v_load_f16(even), two ? v_load_f16(odd) : v_zero());
            } else {
                pairs = in_pairs(v_load((const float *)(const void *)even),
                                 two ? v_load((const float *)(const void *)odd) : v_zero());
            }
            _mm512_storeu_si512(pair_at(to, k, half), pairs);
        }
    zeros_behind(to, terms);
}

typedef void fill_panel(const unsigned char *panel, int64_t k0, int64_t terms, uint16_t *to);
#define FILL(kind, upper, lower)                                                                   \
    static void fill_##lower(const unsigned char *panel, int64_t k0, int64_t terms, uint16_t *to) { \
        fill_##kind(DTYPE_##upper, panel, k0, terms, to);                                          \
    }
#define FILL_CODES(upper, lower) FILL(codes, upper, lower)
FILL(numbers, F32, f32)
FILL(numbers, F16, f16)
FILL(numbers, BF16, bf16)
CODED_DTYPES(FILL_CODES)
#define FILL_ROW(upper, lower) [DTYPE_##upper] = fill_##lower,
static fill_panel *const fills[DTYPE_COUNT] = {FILL_ROW(F32, f32) FILL_ROW(F16, f16) FILL_ROW(BF16, bf16)
                                                   CODED_DTYPES(FILL_ROW)};

static void fill_packed(const struct product *p, const struct tensor *right, int64_t segment, int64_t panel, int64_t k0,
                        int64_t terms, uint16_t *room, uint16_t *to) {
    (void)p, (void)segment, (void)room;
    fills[right->dtype]((const unsigned char *)right->data + (size_t)panel * panel_bytes(right),
                          k0, terms, to);
}

static struct region source_packed(const struct product *p, const struct tensor *right, int64_t segment, int64_t panel, int64_t k0,
                                   int64_t terms) {
    const size_t bytes = panel_bytes(right);
    const char *at = (const char *)right->data + (size_t)panel * bytes;
    (void)segment;
    return (struct region){at + bytes * (size_t)k0 / (size_t)p->terms, 1,
                           bytes * (size_t)terms / (size_t)p->terms, 0};
}
static const struct right_kind right_packed = {fill_packed, source_packed};

// ---------------------------------------------------------------------------------------------------------------
// B out of rows.

// Terms [k0, k0 + terms) of one row of any dtype as bf16, zeros up to whole steps.
static void row_read(const struct tensor *t, int64_t row, int64_t k0, int64_t terms, uint16_t *to) {
    const struct dtype_row *d = dtype_row(t->dtype);
    const int64_t first = k0 / d->block_weights * d->block_weights, padded = ceil_div(terms, STEP) * STEP;
    const char *from =
        (const char *)t->data + (size_t)row * t->row_bytes + first / d->block_weights * d->block_bytes;
    if (t->dtype == DTYPE_BF16) {
        memcpy(to, from, (size_t)terms * sizeof *to);
        memset(to + terms, 0, (size_t)(padded - terms) * sizeof *to);
    } else if (t->dtype == DTYPE_F32) {
        row_to_bf16((const float *)(const void *)from, terms, padded, to);
    } else {
        float some[DEPTH + 2 * QK_K]; // with what a format's blocks have around them
        d->to_f32(from, some, ceil_div(k0 + terms - first, d->block_weights) * d->block_weights);
        row_to_bf16(some + (k0 - first), terms, padded, to);
    }
}

// Columns of B are rows of the weight: pairs of terms lie side by side, so a tile is a transposed 16 x 16 of pairs.
static void fill_rows(const struct product *p, const struct tensor *right, int64_t segment, int64_t panel, int64_t k0,
                      int64_t terms, uint16_t *room, uint16_t *to) {
    (void)p, (void)segment;
    const int64_t count = min_i64(PANEL, right->rows - panel * PANEL);
    for (int64_t l = 0; l < count; l++)
        row_read(right, panel * PANEL + l, k0, terms, room + l * DEPTH);
    for (int64_t l = count; l < PANEL; l++)
        memset(room + l * DEPTH, 0, (size_t)(ceil_div(terms, STEP) * STEP) * sizeof *room);
    for (int64_t k = 0; k < terms; k += STEP)
        for (int half = 0; half < 2; half++)
            v_transpose((const float *)(const void *)(room + half * VW * DEPTH + k), DEPTH / 2,
                        (float *)(void *)pair_at(to, k, half), VW);
}

static struct region source_rows(const struct product *p, const struct tensor *right, int64_t segment, int64_t panel, int64_t k0,
                                 int64_t terms) {
    const struct dtype_row *d = dtype_row(right->dtype);
    const char *at = (const char *)right->data + (size_t)(panel * PANEL) * right->row_bytes;
    (void)p, (void)segment;
    return (struct region){at + k0 / d->block_weights * d->block_bytes,
                           min_i64(PANEL, right->rows - panel * PANEL),
                           (size_t)(terms / d->block_weights * d->block_bytes), right->row_bytes};
}
static const struct right_kind right_rows = {fill_rows, source_rows};

// Rows of blocks, which are there until weights are packed: the panel is packed into the room first, where it rests for
// all blocks of terms. Nothing is asked for ahead, as a piece is one panel.
static void fill_blocks(const struct product *p, const struct tensor *right, int64_t segment, int64_t panel, int64_t k0,
                        int64_t terms, uint16_t *room, uint16_t *to) {
    (void)p, (void)segment;
    if (k0 == 0) cpu_panel_make(right, panel, (unsigned char *)room);
    fills[right->dtype]((const unsigned char *)room, k0, terms, to);
}

static struct region source_blocks(const struct product *p, const struct tensor *right, int64_t segment, int64_t panel, int64_t k0,
                                   int64_t terms) {
    (void)right, (void)p, (void)segment, (void)panel, (void)k0, (void)terms;
    return (struct region){NULL, 0, 0, 0};
}
static const struct right_kind right_blocks = {fill_blocks, source_blocks};

// Columns of B are columns of the tensor: a pair of terms is two of its rows, f32 or bf16.
static void fill_columns(const struct product *p, const struct tensor *right, int64_t segment, int64_t panel, int64_t k0,
                         int64_t terms, uint16_t *room, uint16_t *to) {
    (void)room;
    const struct tensor *t = right;
    const bool f32 = t->dtype == DTYPE_F32;
    const char *from = (const char *)t->data + (size_t)(segment * p->terms + k0) * t->row_bytes;
    const int64_t size = f32 ? 4 : 2, cols = min_i64(PANEL, t->cols - panel * PANEL);
    const __mmask16 some[2] = {v_first(cols), v_first(max_i64(0, cols - VW))};
    const char *row = from + panel * PANEL * size;
    for (int64_t k = 0; k < terms; k += 2, row += 2 * t->row_bytes) {
        const bool two = k + 1 < terms;
        for (int half = 0; half < 2; half++) {
            const char *even = row + half * VW * size, *odd = two ? even + t->row_bytes : even;
            const __mmask16 first = some[half], second = two ? some[half] : 0;
            const __m512i pairs =
                f32 ? in_pairs(_mm512_maskz_loadu_ps(first, even), _mm512_maskz_loadu_ps(second, odd))
                    : in_pairs_bf16(_mm256_maskz_loadu_epi16(first, even),
                                    _mm256_maskz_loadu_epi16(second, odd));
            _mm512_storeu_si512(pair_at(to, k, half), pairs);
        }
    }
    zeros_behind(to, terms);
}

static struct region source_columns(const struct product *p, const struct tensor *right, int64_t segment, int64_t panel, int64_t k0,
                                    int64_t terms) {
    const size_t bytes = right->dtype == DTYPE_F32 ? 4 : 2;
    const char *at = (const char *)right->data + (size_t)(segment * p->terms + k0) * right->row_bytes;
    const int64_t cols = min_i64(PANEL, right->cols - panel * PANEL);
    return (struct region){at + (size_t)(panel * PANEL) * bytes, terms, (size_t)cols * bytes, right->row_bytes};
}
static const struct right_kind right_columns = {fill_columns, source_columns};

// ---------------------------------------------------------------------------------------------------------------
// A, packed by all threads.

struct left_job {
    const struct product *p;
    const struct tensor *from, *norm; // norm: weight of an rmsnorm on the way; NULL: none
    float eps;
    uint16_t *to;
};

// Terms [k, k + STEP) of a row, normed where there is a norm: x r w, as rmsnorm has it.
INLINE void left_step(const float *x, int64_t k, int64_t terms, const float *norm, vf r, uint16_t *to) {
    vf part[2];
    for (int half = 0; half < 2; half++, k += VW) {
        const int64_t n = max_i64(0, min_i64(VW, terms - k));
        part[half] = n == VW ? v_load(x + k) : v_load_n(x + k, n);
        if (norm) part[half] = v_mul(v_mul(part[half], r), n == VW ? v_load(norm + k) : v_load_n(norm + k, n));
    }
    _mm512_storeu_si512(to, in_row(part[0], part[1]));
}

// Pieces are strips; rows of A are rows of x.
static void left_rows_piece(void *arg, int64_t lo, int64_t hi, int thread) {
    const struct left_job *job = arg;
    const struct product *p = job->p;
    const float *norm = job->norm ? row_f32(job->norm, 0) : NULL;
    (void)thread;
    for (int64_t s = lo; s < hi; s++) {
        const int64_t rows = min_i64(STRIP, job->from->rows - s * STRIP), tall = rows > 16 ? 32 : 16;
        for (int64_t r = 0; r < tall; r++) {
            const float *x = r < rows ? row_f32(job->from, s * STRIP + r) : NULL;
            const vf by = v_set1(x && norm ? inverse_rms(x, p->terms, job->eps) : 1);
            for (int64_t b = 0; b < product_blocks(p); b++) {
                const int64_t k0 = b * p->block_steps * STEP, end = min_i64(k0 + p->block_steps * STEP, p->steps * STEP);
                uint16_t *line = job->to + left_at(p, b, s) + r / 16 * TILE + r % 16 * STEP;
                for (int64_t k = k0; k < end; k += STEP, line += 2 * TILE) {
                    if (!x) _mm512_storeu_si512(line, _mm512_setzero_si512());
                    else if (norm) left_step(x, k, p->terms, norm, by, line);
                    else left_step(x, k, p->terms, NULL, by, line);
                }
            }
        }
    }
}
static void left_rows(struct left_job *job) {
    const struct product *p = job->p;
    pool_for(p->strips, max_i64(1, (1 << 15) / (p->steps * STEP * STRIP)), left_rows_piece, job);
}

// Pieces are strips of a segment; rows of A are columns of dout, terms its rows.
static void left_columns_piece(void *arg, int64_t lo, int64_t hi, int thread) {
    const struct left_job *job = arg;
    const struct product *p = job->p;
    const struct tensor *t = job->from;
    (void)thread;
    for (int64_t i = lo; i < hi; i++) {
        const int64_t s = i % p->strips, segment = i / p->strips;
        for (int64_t step = 0; step < p->steps; step++) {
            const int64_t b = step / p->block_steps;
            uint16_t *to = job->to + (size_t)segment * left_segment(p) + left_at(p, b, s) +
                           (step - b * p->block_steps) * 2 * TILE;
            for (int half = 0; half < 2; half++, to += TILE) {
                const int64_t col = s * STRIP + half * VW, n = max_i64(0, min_i64(VW, t->cols - col));
                const __mmask16 some = v_first(n);
                uint16_t pairs[TILE];
                for (int64_t k = 0; k < STEP; k += 2) {
                    const int64_t at = step * STEP + k, row = segment * p->terms + at;
                    const char *even = (const char *)t->data + (size_t)row * t->row_bytes +
                                       (n ? (size_t)col * sizeof(float) : 0);
                    const vf x = _mm512_maskz_loadu_ps(at < p->terms ? some : 0, even);
                    const vf y = _mm512_maskz_loadu_ps(at + 1 < p->terms ? some : 0, even + t->row_bytes);
                    _mm512_storeu_si512(pairs + k * VW, in_pairs(x, y));
                }
                v_transpose((const float *)(const void *)pairs, VW, (float *)(void *)to, VW);
            }
        }
    }
}

// ---------------------------------------------------------------------------------------------------------------
// The product.

void cpu_tiles_open(void) {
    static const struct {
        uint8_t palette, start_row, zero[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    } all_whole = {.palette = 1,
                   .row_bytes = {64, 64, 64, 64, 64, 64, 64, 64},
                   .rows = {16, 16, 16, 16, 16, 16, 16, 16}};
    static_assert(sizeof all_whole == 64, "the configuration of the tiles is 64 bytes");
    __asm__ volatile("" ::"r"(&all_whole) : "memory"); // gcc 12 believes that only 8 bytes of it are read
    _tile_loadconfig(&all_whole);
}

// Asks for share i of `shares` of a region, so that it is in L2 when it is used, after the product at hand.
INLINE void ask_for(const struct region *r, int64_t i, int64_t shares) {
    if (r->rows == 1) {
        const size_t from = r->bytes * (size_t)i / (size_t)shares / 64 * 64;
        const size_t to = r->bytes * (size_t)(i + 1) / (size_t)shares;
        for (size_t at = from; at < to; at += 64) __builtin_prefetch(r->at + at, 0, 2);
        return;
    }
    for (int64_t row = r->rows * i / shares; row < r->rows * (i + 1) / shares; row++)
        for (size_t at = 0; at < r->bytes; at += 64)
            __builtin_prefetch(r->at + (size_t)row * r->stride + at, 0, 2);
}

// c[4 tiles] = or += a[steps][2 tiles] b[steps][2 tiles]; rows of the second tile of a only when tall.
INLINE void strip_multiply(const uint16_t *a, const uint16_t *b, int64_t steps, float *c, bool add,
                           const bool tall) {
    __asm__ volatile("" ::: "memory"); // gcc 12 does not know that a tile load reads memory
    if (add) {
        _tile_loadd(0, c, 64);
        _tile_loadd(1, c + 256, 64);
        _tile_loadd(2, c + 512, 64);
        _tile_loadd(3, c + 768, 64);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    for (int64_t i = 0; i < steps; i++, a += 2 * TILE, b += 2 * TILE) {
        _tile_loadd(4, b, 64);
        _tile_loadd(6, a, 64);
        _tile_loadd(5, b + TILE, 64);
        _tile_dpbf16ps(0, 6, 4);
        if (tall) _tile_loadd(7, a + TILE, 64);
        _tile_dpbf16ps(1, 6, 5);
        if (!tall) continue;
        _tile_dpbf16ps(2, 7, 4);
        _tile_dpbf16ps(3, 7, 5);
    }
    _tile_stored(0, c, 64);
    _tile_stored(1, c + 256, 64);
    _tile_stored(2, c + 512, 64);
    _tile_stored(3, c + 768, 64);
    __asm__ volatile("" ::: "memory");
}

// out[rows][32] = scale * c, lines of 64 bytes that are not read first
static void strip_write_around(const float *c, int64_t rows, float *out, int64_t stride, float scale) {
    const vf s = v_set1(scale);
    for (int64_t i = 0; i < rows; i++, out += stride) {
        const float *from = c + i / 16 * 512 + i % 16 * VW;
        _mm512_stream_ps(out, v_mul(s, v_load(from)));
        _mm512_stream_ps(out + VW, v_mul(s, v_load(from + 256)));
    }
}

// out[rows][cols] = scale * c (+ out)
static void strip_write(const float *c, int64_t rows, int64_t cols, float *out, int64_t stride,
                        float scale, bool accumulate) {
    const vf s = v_set1(scale);
    const __mmask16 first = v_first(cols), second = v_first(max_i64(0, cols - VW));
    for (int64_t i = 0; i < rows; i++, out += stride) {
        const float *from = c + i / 16 * 512 + i % 16 * VW;
        vf x = v_mul(s, v_load(from)), y = v_mul(s, v_load(from + 256));
        if (accumulate) {
            x = v_add(_mm512_maskz_loadu_ps(first, out), x);
            y = v_add(_mm512_maskz_loadu_ps(second, out + VW), y);
        }
        _mm512_mask_storeu_ps(out, first, x);
        _mm512_mask_storeu_ps(out + VW, second, y);
    }
}

// Of B, and of the room behind it.
static size_t right_bytes(const struct product *p) {
    const size_t b = (size_t)DEPTH * PANEL * sizeof(uint16_t);
    return b + (p->kind == &right_blocks ? panel_bytes(&p->right[0]) : b);
}
static bool sums_rest(const struct product *p) { return product_blocks(p) > 1 || p->rights > 1; }
static size_t sums_bytes(const struct product *p) {
    return (size_t)(sums_rest(p) ? p->strips_each * p->panels_each : 1) * SUMS * sizeof(float);
}

// One panel of one block of one segment for the strips of a piece.
struct share {
    int64_t segment, block, panel, strip, strips;
    uint16_t *b;
    float *sums;   // of the panel
    int64_t apart; // from a strip's sums to the next
    struct region next; // what the next share's panel is made of
};

static void product_share(const struct product *p, const struct share *h) {
    const int64_t k0 = h->block * p->block_steps * STEP;
    const int64_t terms = min_i64(p->block_steps * STEP, p->terms - k0), steps = ceil_div(terms, STEP);
    const bool last = h->block + 1 == product_blocks(p), add = h->segment > 0 || p->accumulate;
    const uint16_t *a = p->left + (size_t)h->segment * left_segment(p) + left_at(p, h->block, h->strip);
    p->kind->fill(p, &p->right[h->panel % p->rights], h->segment, h->panel / p->rights, k0, terms,
                  h->b + DEPTH * PANEL, h->b);
    const int64_t cols = min_i64(PANEL, p->out.cols - h->panel * PANEL);
    for (int64_t s = 0; s < h->strips; s++, a += steps * 2 * TILE) {
        const int64_t row = (h->strip + s) * STRIP, rows = min_i64(STRIP, p->out.rows - row);
        float *c = h->sums + s * h->apart, *out = p->take ? NULL : row_f32(&p->out, row) + h->panel * PANEL;
        ask_for(&h->next, s, h->strips);
        const bool around = p->around && cols == PANEL && !add;
        if (last && out && !around)
            ask_for(&(struct region){(const char *)out, rows, (size_t)cols * sizeof(float), p->out.row_bytes}, 0, 1);
        if (rows > 16)
            strip_multiply(a, h->b, steps, c, h->block > 0, true);
        else
            strip_multiply(a, h->b, steps, c, h->block > 0, false);
        if (last && out && around) strip_write_around(c, rows, out, row_stride(&p->out), p->scale);
        else if (last && out) strip_write(c, rows, cols, out, row_stride(&p->out), p->scale, add);
        else if (last) p->take(p->taker, h->strip + s, h->panel, c);
    }
}

// The panel, block or segment after h of panels [from, to); nothing behind the last.
static struct region share_next(const struct product *p, const struct share *h, int64_t from, int64_t to) {
    int64_t panel = h->panel + 1, block = h->block, segment = h->segment;
    if (panel == to) panel = from, block++;
    if (block == product_blocks(p)) block = 0, segment++;
    if (segment == p->segments) return (struct region){NULL, 0, 0, 0};
    const int64_t k0 = block * p->block_steps * STEP;
    return p->kind->source(p, &p->right[panel % p->rights], segment, panel / p->rights, k0,
                           min_i64(p->block_steps * STEP, p->terms - k0));
}

static void product_piece(void *arg, int64_t lo, int64_t hi, int thread) {
    const struct product *p = arg;
    const int64_t panels = ceil_div(p->out.cols, PANEL), blocks = product_blocks(p);
    const int64_t groups = ceil_div(panels, p->panels_each);
    struct share h = {.b = cpu_scratch(thread, SLOT_A, right_bytes(p))};
    float *sums = cpu_scratch(thread, SLOT_B, sums_bytes(p)); // [strip][panel] where they rest
    h.apart = sums_rest(p) ? p->panels_each * SUMS : 0;
    cpu_tiles_open();
    for (int64_t t = lo; t < hi; t++) {
        const int64_t row_block = t / p->together / groups * p->together + t % p->together;
        const int64_t from = t / p->together % groups * p->panels_each, to = min_i64(from + p->panels_each, panels);
        if (row_block >= p->row_blocks) continue;
        h.strip = row_block * p->strips_each;
        h.strips = min_i64(p->strips_each, p->strips - h.strip);
        for (h.segment = 0; h.segment < p->segments; h.segment++)
            for (h.block = 0; h.block < blocks; h.block++)
                for (h.panel = from; h.panel < to; h.panel++) {
                    h.sums = sums + (h.apart ? (h.panel - from) * SUMS : 0);
                    h.next = share_next(p, &h, from, to);
                    product_share(p, &h);
                }
    }
    _tile_release();
    if (p->around) _mm_sfence();
}

// A piece takes up to 512 rows, as each piece makes its panels anew, and up to 8 panels, because A comes from L3 once per
// piece where all of it does not fit L2: 4 bytes per cycle of multiplying at 8 panels. Where there are rows enough, each
// thread has rows of its own, and first those: what it writes is what it reads in the next op, and lines of another
// core's cache come slowly. Fewer panels where that leaves threads without work. Pieces show in no bit, as no sum is cut.
enum { ROWS_MOST = 512, ROWS_LEAST = 128, PANELS_MOST = 8, AROUND_BYTES = 1 << 20 };
static void product_cut(struct product *p) {
    const int64_t threads = pool_threads(), panels = ceil_div(p->out.cols, PANEL);
    p->rights = max_i64(1, p->rights);
    p->steps = ceil_div(p->terms, STEP);
    p->block_steps = ceil_div(p->steps, ceil_div(p->steps * STEP, DEPTH));
    p->strips = ceil_div(p->out.rows, STRIP);
    p->row_blocks = max_i64(ceil_div(p->out.rows, ROWS_MOST), max_i64(1, min_i64(threads, p->out.rows / ROWS_LEAST)));
    if (p->kind == &right_blocks) p->row_blocks = 1; // packing a panel costs more than anything else
    p->strips_each = ceil_div(p->strips, p->row_blocks);
    p->row_blocks = ceil_div(p->strips, p->strips_each);
    p->together = ceil_div(p->row_blocks, threads);
    p->around = !p->accumulate && !p->take && (size_t)p->out.rows * p->out.row_bytes > AROUND_BYTES &&
                p->out.row_bytes % 64 == 0 && (uintptr_t)p->out.data % 64 == 0;
    p->panels_each = max_i64(1, min_i64(PANELS_MOST, panels * p->row_blocks / (4 * threads)));
    if (p->kind == &right_blocks) p->panels_each = 1;
    if (p->rights > 1) p->panels_each = ceil_div(p->panels_each, p->rights) * p->rights;
}

static uint16_t *left_room(const struct product *p) {
    return cpu_scratch(0, SLOT_SHARED, (size_t)p->segments * left_segment(p) * sizeof(uint16_t));
}

static void product_run(struct product *p) {
    cpu_scratch_reserve(SLOT_A, right_bytes(p));
    cpu_scratch_reserve(SLOT_B, sums_bytes(p));
    const int64_t groups = ceil_div(ceil_div(p->out.cols, PANEL), p->panels_each);
    pool_for(groups * ceil_div(p->row_blocks, p->together) * p->together, 1, product_piece, p);
}

// ---------------------------------------------------------------------------------------------------------------
// The ops. What asks for f32 goes to the level below.

static struct backend below; // written again with the same values whenever a table is made

static const struct right_kind *weight_kind(const struct tensor *w) {
    return w->layout == LAYOUT_DEVICE ? &right_packed : is_coded(w->dtype) ? &right_blocks : &right_rows;
}

// Everything but the left factor.
static struct product product_with(struct tensor w, struct tensor out, float scale, bool accumulate) {
    assert(is_f32(&out) && w.mats == 1 && w.dtype != DTYPE_I32 && out.cols == w.rows);
    struct product p = {.out = out,
                        .right = {w},
                        .kind = weight_kind(&w),
                        .terms = w.cols,
                        .segments = 1,
                        .scale = one_if_zero(scale),
                        .accumulate = accumulate};
    product_cut(&p);
    return p;
}

// Several of one x, which is packed once: rows of x, or of its rmsnorm with the weight `norm`.
static void multiply(const struct matmul_args *list, int count, const struct tensor *norm, float eps) {
    const struct tensor x = list->x;
    uint16_t *left = NULL;
    for (int j = 0; j < count && x.rows > 0; j++) {
        const struct matmul_args *a = &list[j];
        assert(is_f32(&x) && a->x.data == x.data && a->out.rows == x.rows && x.cols == a->w.cols);
        struct product p = product_with(a->w, a->out, a->scale, a->accumulate);
        struct left_job job = {&p, &x, norm, eps, left ? left : left_room(&p)};
        if (!left) left_rows(&job);
        p.left = left = job.to;
        product_run(&p);
    }
}

static void products(const struct matmul_args *list, int count) { multiply(list, count, NULL, 0); }

static void matmul(const struct matmul_args *a) {
    if (a->precision == PRECISION_BF16) products(a, 1);
    else below.matmul(a);
}

static void matmul_dx(const struct matmul_dx_args *a) {
    if (a->precision != PRECISION_BF16) {
        below.matmul_dx(a);
        return;
    }
    assert(is_f32(&a->dx) && is_f32(&a->dout) && a->w.layout == LAYOUT_ROWS && a->w.mats == 1);
    assert(a->w.dtype == DTYPE_F32 || a->w.dtype == DTYPE_BF16);
    assert(a->dx.rows == a->dout.rows && a->dx.cols == a->w.cols && a->dout.cols == a->w.rows);
    if (a->dx.rows == 0) return;
    struct product p = {.out = a->dx,
                        .right = {a->w},
                        .kind = &right_columns,
                        .terms = a->dout.cols,
                        .segments = 1,
                        .scale = one_if_zero(a->scale),
                        .accumulate = a->accumulate};
    product_cut(&p);
    struct left_job job = {.p = &p, .from = &a->dout, .to = left_room(&p)};
    p.left = job.to;
    left_rows(&job);
    product_run(&p);
}

// dout may be as wide as a vocabulary: GRADIENT_ROWS rows of dw at a time bound what is packed of it.
enum { GRADIENT_ROWS = 4096 };
static void matmul_dw(const struct matmul_dw_args *a) {
    if (a->precision != PRECISION_BF16) {
        below.matmul_dw(a);
        return;
    }
    assert(is_f32(&a->dw) && is_f32(&a->dout) && is_f32(&a->x));
    assert(a->dout.rows == a->x.rows && a->dw.rows == a->dout.cols && a->dw.cols == a->x.cols);
    assert(a->segment > 0 && a->x.rows % a->segment == 0);
    if (a->x.rows == 0) return;
    for (int64_t at = 0; at < a->dw.rows; at += GRADIENT_ROWS) {
        struct tensor dout = a->dout;
        dout.data = row_f32(&a->dout, 0) + at;
        dout.cols = min_i64(GRADIENT_ROWS, a->dw.rows - at);
        struct product p = {.out = tensor_rows(a->dw, at, dout.cols),
                            .right = {a->x},
                            .kind = &right_columns,
                            .terms = a->segment,
                            .segments = a->x.rows / a->segment,
                            .scale = one_if_zero(a->scale),
                            .accumulate = !a->fresh};
        product_cut(&p);
        p.around = false; // it is read again by the next segment
        struct left_job job = {.p = &p, .from = &dout, .to = left_room(&p)};
        p.left = job.to;
        pool_for(p.strips * p.segments, 1, left_columns_piece, &job);
        product_run(&p);
    }
}

// What products of experts need at the most, whatever run an expert has: A of `rows` rows and `terms` terms, and sums.
static void reserve_runs(int64_t rows, int64_t terms) {
    const size_t numbers = (size_t)(ceil_div(rows, STRIP) * ceil_div(terms, STEP)) * 2 * TILE;
    cpu_scratch(0, SLOT_SHARED, numbers * sizeof(uint16_t));
    cpu_scratch_reserve(SLOT_B, (size_t)(ROWS_MOST / STRIP) * PANELS_MOST * SUMS * sizeof(float));
}

static void matmul_experts(const struct matmul_experts_args *a) {
    if (a->precision == PRECISION_BF16) reserve_runs(a->x.rows, a->x.cols);
    cpu_matmul_experts(a, matmul);
}

static void matmul_experts_dx(const struct matmul_experts_dx_args *a) {
    if (a->precision == PRECISION_BF16) reserve_runs(a->dout.rows, a->dout.cols);
    cpu_matmul_experts_dx(a, matmul_dx);
}

static void matmul_experts_dw(const struct matmul_experts_dw_args *a) {
    if (a->precision == PRECISION_BF16) reserve_runs(min_i64(GRADIENT_ROWS, a->dout.cols), a->x.rows);
    cpu_matmul_experts_dw(a, matmul_dw);
}

#include "cpu/amx_head.h"
#include "cpu/amx_branches.h"

// ---------------------------------------------------------------------------------------------------------------

bool cpu_tiles_allowed(void) {
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18, AMX_BF16 = 22, AMX_TILE = 24, AVX512_BF16 = 5 };
    unsigned a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d >> AMX_BF16 & 1) || !(d >> AMX_TILE & 1)) return false;
    if (!__get_cpuid_count(7, 1, &a, &b, &c, &d) || !(a >> AVX512_BF16 & 1)) return false;
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
}

bool cpu_fill_amx(struct backend *b) {
    if (!kernels_processor() || !cpu_tiles_allowed()) return false;
    below = *b;
    b->matmul = matmul;
    b->matmul_experts = matmul_experts;
    b->matmul_experts_dx = matmul_experts_dx;
    b->matmul_experts_dw = matmul_experts_dw;
    b->matmul_dx = matmul_dx;
    b->matmul_dw = matmul_dw;
    b->head_loss = head_loss;
    b->project = project;
    b->feed_forward = feed_forward;
    return true;
}

#else
bool cpu_fill_amx(struct backend *b) {
    (void)b;
    return false;
}
#endif
