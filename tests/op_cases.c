// op_cases.c: the table of op cases. Every op: what buffers it has, how it is called, what it means in double.
//
// The formulas are those of backend.h, written straight, without regard to speed and without looking at cpu/ops.c:
// they are what the plain ops answer to.
#include "tests/op_cases.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

// ---------------------------------------------------------------------------------------------------------------
// Declaring buffers. Their order in `declare` is their number. Page-guarded memory comes later (op_check.c).

static struct op_buf *add(struct op_run *r, const char *name, unsigned role, enum dtype dtype,
                          int64_t rows, int64_t cols) {
    assert(r->n_bufs < OP_BUFS);
    struct op_buf *b = &r->buf[r->n_bufs++];
    *b = (struct op_buf){.name = name, .role = role, .dtype = dtype, .rows = rows, .cols = cols};
    b->v = mem_array((size_t)(rows * cols), sizeof *b->v, "values of a test buffer");
    return b;
}

static uint64_t stream_of(const struct op_run *r, const struct op_buf *b) {
    return (uint64_t)(b - r->buf);
}

// Uniform with mean 0 and this standard deviation; four numbers of one block.
static void spread(struct op_run *r, struct op_buf *b, double std) {
    uint32_t word[4];
    for (int64_t i = 0; i < b->rows * b->cols; i++) {
        if (i % 4 == 0) rng_block(r->seed, stream_of(r, b), (uint64_t)i / 4, word);
        b->v[i] = (float)(std * sqrt(3) * ((double)word[i % 4] * 0x1p-31 - 1));
    }
}
static struct op_buf *f32(struct op_run *r, const char *name, unsigned role, int64_t rows,
                          int64_t cols) {
    struct op_buf *b = add(r, name, role, DTYPE_F32, rows, cols);
    spread(r, b, 1);
    return b;
}
static struct op_buf *below(struct op_run *r, const char *name, unsigned role, int64_t rows,
                            int64_t limit) {
    struct op_buf *b = add(r, name, role | FLAT, DTYPE_I32, rows, 1);
    for (int64_t i = 0; i < rows; i++)
        b->v[i] = (double)rng_below(r->seed, stream_of(r, b), (uint64_t)i, (uint64_t)limit);
    return b;
}

// The tensor, and the bare array, of a buffer, as an op sees them; and what the host put in.
static void *P(const struct op_run *r, int i) { return r->buf[i].device ? r->buf[i].device : r->buf[i].data; }
static struct tensor T(const struct op_run *r, int i) {
    const struct op_buf *b = &r->buf[i];
    if (b->loaded.data) return b->loaded;
    return (struct tensor){P(r, i), b->dtype, LAYOUT_ROWS, 1, b->rows, b->cols, b->row_bytes};
}
static void *host(const struct op_run *r, int i) { return r->buf[i].data; }
// Memory of the backend beside the buffers: a room, and a copy of what the host has. b->free gives it back.
static void *room_of(const struct backend *b, size_t bytes) {
    struct err err;
    void *p = b->alloc(bytes, "room of a test", &err);
    assert(p);
    return p;
}
static void *sent(const struct backend *b, const void *from, size_t bytes) {
    void *p = room_of(b, bytes);
    b->upload(p, from, bytes);
    return p;
}
static double *V(const struct op_run *r, int i) { return r->buf[i].v; }
static double scale_of(const struct op_run *r) { return r->s.scale == 0 ? 1 : (double)r->s.scale; }

static int64_t terms_few(const struct op_run *r) { return (void)r, 1; }
static int64_t terms_C(const struct op_run *r) { return r->s.C; }
static int64_t terms_K(const struct op_run *r) { return r->s.K; }
static int64_t terms_M(const struct op_run *r) { return r->s.M; }
static int64_t terms_n(const struct op_run *r) { return r->s.n; }
static int64_t terms_attend(const struct op_run *r) { return r->s.n + r->s.K + r->s.D; }

// ---------------------------------------------------------------------------------------------------------------
// Embedding. M is the vocabulary.

enum { EMBED_OUT, EMBED_TABLE, EMBED_IDS };
static void embed_declare(struct op_run *r) {
    f32(r, "out", OUT | BY_ROW, r->s.n, r->s.C);
    spread(r, add(r, "table", IN | WEIGHT, r->dtype, r->s.M, r->s.C), 1);
    below(r, "ids", IN | BY_ROW, r->s.n, r->s.M);
}
static void embed_call(const struct op_run *r, const struct backend *b) {
    b->embed(&(struct embed_args){T(r, EMBED_OUT), T(r, EMBED_TABLE), P(r, EMBED_IDS), r->s.scale});
}
static void embed_reference(const struct op_run *r) {
    int64_t C = r->s.C;
    for (int64_t i = 0; i < r->s.n; i++)
        for (int64_t c = 0; c < C; c++)
            V(r, EMBED_OUT)
            [i * C + c] = scale_of(r) * V(r, EMBED_TABLE)[(int64_t)V(r, EMBED_IDS)[i] * C + c];
}

enum { EMBED_BACK_DTABLE, EMBED_BACK_DOUT, EMBED_BACK_IDS, EMBED_BACK_TABLE };
static void embed_back_declare(struct op_run *r) {
    f32(r, "dtable", BOTH, r->s.M, r->s.C);
    f32(r, "dout", IN | BY_ROW, r->s.n, r->s.C);
    below(r, "ids", IN | BY_ROW, r->s.n, r->s.M);
    f32(r, "table", IN | UNREAD, r->s.M, r->s.C);
}
static void embed_back_call(const struct op_run *r, const struct backend *b) {
    b->embed_back(&(struct embed_back_args){T(r, EMBED_BACK_DTABLE), T(r, EMBED_BACK_DOUT),
                                            P(r, EMBED_BACK_IDS), r->s.scale});
}
static double embed_back_loss(const struct op_run *r) {
    double sum = 0;
    int64_t C = r->s.C;
    for (int64_t i = 0; i < r->s.n; i++)
        for (int64_t c = 0; c < C; c++)
            sum += V(r, EMBED_BACK_DOUT)[i * C + c] * scale_of(r) *
                   V(r, EMBED_BACK_TABLE)[(int64_t)V(r, EMBED_BACK_IDS)[i] * C + c];
    return sum;
}

// ---------------------------------------------------------------------------------------------------------------
// RMSNorm. mode 1: in place.

static const float norm_eps = 1e-5f;

static void norm_row(const double *x, const double *w, int64_t C, double *out) {
    double sum = 0;
    for (int64_t c = 0; c < C; c++) sum += x[c] * x[c];
    for (int64_t c = 0; c < C; c++) out[c] = x[c] / sqrt(sum / (double)C + (double)norm_eps) * w[c];
}

enum { NORM_X, NORM_W, NORM_OUT };
static void rmsnorm_declare(struct op_run *r) {
    f32(r, "x", (r->s.mode ? BOTH : IN) | BY_ROW, r->s.n, r->s.C);
    f32(r, "weight", IN, 1, r->s.C);
    if (!r->s.mode) f32(r, "out", OUT | BY_ROW, r->s.n, r->s.C);
}
static void rmsnorm_call(const struct op_run *r, const struct backend *b) {
    b->rmsnorm(&(struct rmsnorm_args){T(r, r->s.mode ? NORM_X : NORM_OUT), T(r, NORM_X),
                                      T(r, NORM_W), norm_eps});
}
static void rmsnorm_reference(const struct op_run *r) {
    int64_t C = r->s.C;
    double *out = V(r, r->s.mode ? NORM_X : NORM_OUT);
    for (int64_t i = 0; i < r->s.n; i++)
        norm_row(V(r, NORM_X) + i * C, V(r, NORM_W), C, out + i * C);
}

enum { NORM_BACK_DX, NORM_BACK_DW, NORM_BACK_DOUT, NORM_BACK_X, NORM_BACK_W };
static void rmsnorm_back_declare(struct op_run *r) {
    f32(r, "dx", BOTH | BY_ROW, r->s.n, r->s.C);
    f32(r, "dweight", BOTH, 1, r->s.C);
    f32(r, "dout", IN | BY_ROW, r->s.n, r->s.C);
    f32(r, "x", IN | BY_ROW, r->s.n, r->s.C);
    f32(r, "weight", IN, 1, r->s.C);
}
static void rmsnorm_back_call(const struct op_run *r, const struct backend *b) {
    b->rmsnorm_back(&(struct rmsnorm_back_args){T(r, NORM_BACK_DX), T(r, NORM_BACK_DW),
                                                T(r, NORM_BACK_DOUT), T(r, NORM_BACK_X),
                                                T(r, NORM_BACK_W), norm_eps, r->s.segment});
}
static double rmsnorm_back_loss(const struct op_run *r) {
    double sum = 0;
    int64_t C = r->s.C;
    double *out = mem_array((size_t)C, sizeof *out, "row");
    for (int64_t i = 0; i < r->s.n; i++) {
        norm_row(V(r, NORM_BACK_X) + i * C, V(r, NORM_BACK_W), C, out);
        for (int64_t c = 0; c < C; c++) sum += V(r, NORM_BACK_DOUT)[i * C + c] * out[c];
    }
    mem_free(out);
    return sum;
}

// ---------------------------------------------------------------------------------------------------------------
// Products.

static enum precision precision_of(const struct op_run *r) {
    return r->spec->rounds ? PRECISION_BF16 : PRECISION_F32;
}
// What a product of this precision multiplies.
static void take_rounded(const struct op_run *r, int buffer) {
    const struct op_buf *b = &r->buf[buffer];
    for (int64_t i = 0; r->spec->rounds && i < b->rows * b->cols; i++)
        b->v[i] = (double)bf16_to_f32(bf16_from_f32((float)b->v[i]));
}

// Products of PRECISION_F32 with block formats see x in sixteen bits (backend.h); what they make of that is judged as
// strictly as ever.
static void take_whole(const struct op_run *r, int buffer) {
    const struct op_buf *b = &r->buf[buffer];
    if (r->spec->rounds || dtype_row(r->dtype)->block_weights == 1) return;
    for (int64_t i = 0; i < b->rows * b->cols; i += 32) {
        float most = 0;
        for (int64_t j = i; j < i + 32; j++) most = fmaxf(most, (float)fabs(b->v[j]));
        for (int64_t j = i; j < i + 32 && most > 0; j++)
            b->v[j] = most / 32512 * rintf((float)b->v[j] * (32512 / most));
    }
}

// sum of out[i,m] = scale * x[i,:] . w[m,:] into out, or against dout when that is given
static double product(const struct op_run *r, const double *x, const double *w, double *out,
                      const double *dout) {
    int64_t n = r->s.n, K = r->s.K, M = r->s.M;
    double loss = 0;
    for (int64_t i = 0; i < n; i++)
        for (int64_t m = 0; m < M; m++) {
            double sum = 0;
            for (int64_t k = 0; k < K; k++) sum += x[i * K + k] * w[m * K + k];
            sum *= scale_of(r);
            if (out) out[i * M + m] = sum + (r->s.accumulate ? out[i * M + m] : 0);
            if (dout) loss += dout[i * M + m] * sum;
        }
    return loss;
}

enum { MATMUL_OUT, MATMUL_X, MATMUL_W };
static void matmul_declare(struct op_run *r) {
    f32(r, "out", (r->s.accumulate ? BOTH : OUT) | BY_ROW, r->s.n, r->s.M);
    f32(r, "x", IN | BY_ROW, r->s.n, r->s.K);
    spread(r, add(r, "w", IN | WEIGHT, r->dtype, r->s.M, r->s.K), 1);
}
static void matmul_call(const struct op_run *r, const struct backend *b) {
    b->matmul(&(struct matmul_args){T(r, MATMUL_OUT), T(r, MATMUL_X), T(r, MATMUL_W), r->s.scale,
                                    r->s.accumulate, precision_of(r)});
}
static void matmul_reference(const struct op_run *r) {
    take_rounded(r, MATMUL_X), take_rounded(r, MATMUL_W), take_whole(r, MATMUL_X);
    product(r, V(r, MATMUL_X), V(r, MATMUL_W), V(r, MATMUL_OUT), NULL);
}

enum { DX_DX, DX_DOUT, DX_W, DX_X };
static void matmul_dx_declare(struct op_run *r) {
    f32(r, "dx", (r->s.accumulate ? BOTH : OUT) | BY_ROW, r->s.n, r->s.K);
    f32(r, "dout", IN | BY_ROW, r->s.n, r->s.M);
    spread(r, add(r, "w", IN, r->dtype, r->s.M, r->s.K), 1);
    f32(r, "x", IN | BY_ROW | UNREAD, r->s.n, r->s.K);
}
static void matmul_dx_call(const struct op_run *r, const struct backend *b) {
    b->matmul_dx(&(struct matmul_dx_args){T(r, DX_DX), T(r, DX_DOUT), T(r, DX_W), r->s.scale,
                                          r->s.accumulate, precision_of(r)});
}
static void matmul_dx_reference(const struct op_run *r) {
    int64_t K = r->s.K, M = r->s.M;
    take_rounded(r, DX_DOUT), take_rounded(r, DX_W);
    for (int64_t i = 0; i < r->s.n; i++)
        for (int64_t k = 0; k < K; k++) {
            double sum = 0;
            for (int64_t m = 0; m < M; m++) sum += V(r, DX_DOUT)[i * M + m] * V(r, DX_W)[m * K + k];
            double *dx = &V(r, DX_DX)[i * K + k];
            *dx = scale_of(r) * sum + (r->s.accumulate ? *dx : 0);
        }
}
static double matmul_dx_loss(const struct op_run *r) {
    return product(r, V(r, DX_X), V(r, DX_W), NULL, V(r, DX_DOUT));
}

enum { DW_DW, DW_DOUT, DW_X, DW_W };
static void matmul_dw_declare(struct op_run *r) {
    f32(r, "dw", r->s.mode ? OUT : BOTH, r->s.M, r->s.K);
    f32(r, "dout", IN | BY_ROW, r->s.n, r->s.M);
    f32(r, "x", IN | BY_ROW, r->s.n, r->s.K);
    f32(r, "w", IN | UNREAD, r->s.M, r->s.K); // of the loss
}
static void matmul_dw_call(const struct op_run *r, const struct backend *b) {
    b->matmul_dw(
        &(struct matmul_dw_args){T(r, DW_DW), T(r, DW_DOUT), T(r, DW_X), r->s.scale, r->s.segment, precision_of(r), r->s.mode});
}
static void matmul_dw_reference(const struct op_run *r) {
    int64_t K = r->s.K, M = r->s.M;
    take_rounded(r, DW_DOUT), take_rounded(r, DW_X);
    for (int64_t m = 0; m < M; m++)
        for (int64_t k = 0; k < K; k++) {
            double sum = 0;
            for (int64_t i = 0; i < r->s.n; i++)
                sum += V(r, DW_DOUT)[i * M + m] * V(r, DW_X)[i * K + k];
            double *dw = &V(r, DW_DW)[m * K + k];
            *dw = scale_of(r) * sum + (r->s.mode ? 0 : *dw);
        }
}
static double matmul_dw_loss(const struct op_run *r) {
    return product(r, V(r, DW_X), V(r, DW_W), NULL, V(r, DW_DOUT));
}

// ---------------------------------------------------------------------------------------------------------------
// Branches, in f32 and with weights that are numbers; that they have the bits of their parts in everything else is shown
// in test_branches.c. M, G and H are rows of the weights; C, M and K those of feed_forward. mode 1: without a norm, 2: kept,
// 4: without a gate. A room is nobody's business, so it is taken and given back here.

static void branch_norm(const struct op_run *r, int x, int weight, double *to) {
    for (int64_t i = 0; i < r->s.n; i++) {
        if (r->s.mode & 1) memcpy(to + i * r->s.K, V(r, x) + i * r->s.K, (size_t)r->s.K * sizeof *to);
        else norm_row(V(r, x) + i * r->s.K, V(r, weight), r->s.K, to + i * r->s.K);
    }
}
static void multiply(int64_t n, int64_t K, int64_t M, const double *x, const double *w, double *out) {
    for (int64_t i = 0; i < n; i++)
        for (int64_t m = 0; m < M; m++) {
            double sum = 0;
            for (int64_t k = 0; k < K; k++) sum += x[i * K + k] * w[m * K + k];
            out[i * M + m] = sum;
        }
}

enum { PROJECT_X, PROJECT_NORM, PROJECT_W, PROJECT_OUT = PROJECT_W + 3 };
static int64_t project_rows(const struct op_run *r, int j) { return j == 0 ? r->s.M : j == 1 ? r->s.G : r->s.H; }
static void project_declare(struct op_run *r) {
    f32(r, "x", IN | BY_ROW, r->s.n, r->s.K);
    f32(r, "norm", IN | (r->s.mode & 1 ? UNREAD : 0), 1, r->s.K);
    for (int j = 0; j < 3; j++) spread(r, add(r, "w", IN | WEIGHT, r->dtype, project_rows(r, j), r->s.K), 1);
    for (int j = 0; j < 3; j++) f32(r, "out", OUT | BY_ROW, r->s.n, project_rows(r, j));
}
static void project_call(const struct op_run *r, const struct backend *b) {
    float *room = room_of(b, (size_t)(r->s.n * r->s.K) * sizeof *room);
    struct project_args a = {.x = T(r, PROJECT_X), .normed = tensor_f32(room, r->s.n, r->s.K), .eps = norm_eps, .count = 3,
                             .keep = r->s.mode & 2};
    if (!(r->s.mode & 1)) a.norm = T(r, PROJECT_NORM);
    for (int j = 0; j < 3; j++) a.to[j].out = T(r, PROJECT_OUT + j), a.to[j].w = T(r, PROJECT_W + j);
    b->project(&a);
    b->free(room);
}
static void project_reference(const struct op_run *r) {
    double *x = mem_array((size_t)(r->s.n * r->s.K), sizeof *x, "rows");
    branch_norm(r, PROJECT_X, PROJECT_NORM, x);
    for (int j = 0; j < 3; j++) multiply(r->s.n, r->s.K, project_rows(r, j), x, V(r, PROJECT_W + j), V(r, PROJECT_OUT + j));
    mem_free(x);
}

enum { FEED_OUT, FEED_X, FEED_NORM, FEED_GATE, FEED_UP, FEED_BIAS, FEED_DOWN };
static void feed_declare(struct op_run *r) {
    f32(r, "out", (r->s.accumulate ? BOTH : OUT) | BY_ROW, r->s.n, r->s.M);
    f32(r, "x", IN | BY_ROW, r->s.n, r->s.K);
    f32(r, "norm", IN | (r->s.mode & 1 ? UNREAD : 0), 1, r->s.K);
    spread(r, add(r, "gate", IN | WEIGHT | (r->s.mode & 4 ? UNREAD : 0), r->dtype, r->s.C, r->s.K), .2);
    spread(r, add(r, "up", IN | WEIGHT, r->dtype, r->s.C, r->s.K), .2);
    f32(r, "bias", IN | FLAT, 1, r->s.C);
    spread(r, add(r, "down", IN | WEIGHT, r->dtype, r->s.M, r->s.C), 1);
}
static void feed_call(const struct op_run *r, const struct backend *b) {
    const int64_t n = r->s.n, K = r->s.K, F = r->s.C;
    float *room = room_of(b, (size_t)(n * (K + 3 * F)) * sizeof *room);
    struct feed_forward_args a = {
        .out = T(r, FEED_OUT), .x = T(r, FEED_X), .normed = tensor_f32(room, n, K), .eps = norm_eps, .up = T(r, FEED_UP),
        .up_bias = T(r, FEED_BIAS), .down = T(r, FEED_DOWN), .gates = tensor_f32(room + n * K, n, F), .ups = tensor_f32(room + n * (K + F), n, F),
        .product = tensor_f32(room + n * (K + 2 * F), n, F), .scale = r->s.scale, .accumulate = r->s.accumulate, .keep = r->s.mode & 2};
    if (!(r->s.mode & 1)) a.norm = T(r, FEED_NORM);
    if (!(r->s.mode & 4)) a.gate = T(r, FEED_GATE);
    b->feed_forward(&a);
    b->free(room);
}
static void feed_reference(const struct op_run *r) {
    const int64_t n = r->s.n, K = r->s.K, F = r->s.C, M = r->s.M;
    double *x = mem_array((size_t)(n * (K + 2 * F + M)), sizeof *x, "rows"), *up = x + n * K, *gate = up + n * F, *out = gate + n * F;
    branch_norm(r, FEED_X, FEED_NORM, x);
    multiply(n, K, F, x, V(r, FEED_UP), up);
    multiply(n, K, F, x, V(r, FEED_GATE), gate);
    for (int64_t i = 0; i < n * F; i++) {
        up[i] += V(r, FEED_BIAS)[i % F];
        const double g = r->s.mode & 4 ? up[i] : gate[i], s = g / (1 + exp(-g));
        up[i] = r->s.mode & 4 ? s : s * up[i];
    }
    multiply(n, F, M, up, V(r, FEED_DOWN), out);
    for (int64_t i = 0; i < n * M; i++) V(r, FEED_OUT)[i] = scale_of(r) * out[i] + (r->s.accumulate ? V(r, FEED_OUT)[i] : 0);
    mem_free(x);
}
static int64_t terms_branch(const struct op_run *r) { return r->s.K + r->s.C; }

// ---------------------------------------------------------------------------------------------------------------
// Rotary positions. mode: 0 adjacent, 1 halves; +2 inverse. K is `rotated`, M the largest position.

enum { ROPE_X, ROPE_POS, ROPE_FREQ };
static void rope_declare(struct op_run *r) {
    f32(r, "x", BOTH | BY_ROW, r->s.n, r->s.H * r->s.D);
    below(r, "pos", IN | BY_ROW, r->s.n, r->s.M);
    struct op_buf *freq = add(r, "freq", IN | FLAT, DTYPE_F32, 1, r->s.K / 2);
    for (int64_t j = 0; j < r->s.K / 2; j++)
        freq->v[j] = (float)pow(10000, -2.0 * (double)j / (double)r->s.K);
}
static void rope_call(const struct op_run *r, const struct backend *b) {
    b->rope(&(struct rope_args){.x = T(r, ROPE_X),
                                .pos = P(r, ROPE_POS),
                                .freq = P(r, ROPE_FREQ),
                                .head_size = r->s.D,
                                .rotated = r->s.K,
                                .pairs = r->s.mode & 1 ? ROPE_HALVES : ROPE_ADJACENT,
                                .inverse = r->s.mode & 2,
                                .scale = r->s.scale});
}
static void rope_reference(const struct op_run *r) {
    int64_t D = r->s.D, pairs = r->s.K / 2;
    for (int64_t i = 0; i < r->s.n; i++)
        for (int64_t h = 0; h < r->s.H; h++)
            for (int64_t j = 0; j < pairs; j++) {
                double *x = V(r, ROPE_X) + (i * r->s.H + h) * D;
                double *a = r->s.mode & 1 ? &x[j] : &x[2 * j],
                       *b = r->s.mode & 1 ? &x[j + pairs] : &x[2 * j + 1];
                double angle = V(r, ROPE_POS)[i] * V(r, ROPE_FREQ)[j] * (r->s.mode & 2 ? -1 : 1);
                double first = *a, second = *b;
                *a = scale_of(r) * (first * cos(angle) - second * sin(angle));
                *b = scale_of(r) * (first * sin(angle) + second * cos(angle));
            }
}

// ---------------------------------------------------------------------------------------------------------------
// Rows into a cache of M rows; numbers between dtypes. Both answer to the conversions of core, exactly.

static void round_row(enum dtype to, const double *from, double *into, int64_t n) {
    float *x = mem_array((size_t)n, sizeof *x, "row");
    unsigned char *bytes = mem_array((size_t)n, sizeof(float), "row");
    for (int64_t i = 0; i < n; i++) x[i] = (float)from[i];
    dtype_row(to)->from_f32(x, bytes, n);
    dtype_row(to)->to_f32(bytes, x, n);
    for (int64_t i = 0; i < n; i++) into[i] = x[i];
    mem_free(x);
    mem_free(bytes);
}

enum { STORE_DST, STORE_SRC, STORE_ROWS };
static void store_rows_declare(struct op_run *r) {
    spread(r, add(r, "dst", BOTH, r->dtype, r->s.M, r->s.C), 1);
    f32(r, "src", IN | BY_ROW, r->s.n, r->s.C);
    struct op_buf *rows = add(r, "rows", IN | BY_ROW | FLAT, DTYPE_I32, r->s.n, 1);
    for (int64_t i = 0; i < r->s.n; i++)
        rows->v[i] = (double)rng_permute(r->seed, 9, (uint64_t)i, (uint64_t)r->s.M);
}
static void store_rows_call(const struct op_run *r, const struct backend *b) {
    b->store_rows(&(struct store_rows_args){T(r, STORE_DST), T(r, STORE_SRC), P(r, STORE_ROWS), CACHE_KEYS, r->s.D ? r->s.D : r->s.C});
}
static void store_rows_reference(const struct op_run *r) {
    int64_t C = r->s.C;
    for (int64_t i = 0; i < r->s.n; i++)
        round_row(r->dtype, V(r, STORE_SRC) + i * C,
                  V(r, STORE_DST) + (int64_t)V(r, STORE_ROWS)[i] * C, C);
}

// mode is the dtype of the source.
enum { CAST_DST, CAST_SRC };
static void cast_declare(struct op_run *r) {
    add(r, "dst", OUT | BY_ROW, r->dtype, r->s.n, r->s.C);
    spread(r, add(r, "src", IN | BY_ROW, (enum dtype)r->s.mode, r->s.n, r->s.C), 1);
}
static void cast_call(const struct op_run *r, const struct backend *b) {
    b->cast(&(struct cast_args){T(r, CAST_DST), T(r, CAST_SRC)});
}
static void cast_reference(const struct op_run *r) {
    for (int64_t i = 0; i < r->s.n; i++)
        round_row(r->dtype, V(r, CAST_SRC) + i * r->s.C, V(r, CAST_DST) + i * r->s.C, r->s.C);
}

// ---------------------------------------------------------------------------------------------------------------
// Attention. K keys in a cache (mode 0: any ranges, some empty), or K 0: the keys are the rows themselves, rows see
// back to the start of their document, a document may begin anywhere in a segment.

struct ranges {
    double *lo, *hi;
};

// Dropout. Row i is number 2^32 - 2 + i, which a call learns of the first number in the buffer `row`.
static const int64_t drop_first = ((int64_t)1 << 32) - 2;
static const uint64_t drop_seed = UINT64_C(0x123456789abcdef), drop_place = UINT64_C(7) << 32 | 5;
static void drop_rows(struct op_run *r) {
    struct op_buf *row = below(r, "row", IN | BY_ROW | UNREAD, r->s.n, 1);
    for (int64_t i = 0; i < r->s.n; i++) row->v[i] = (double)i;
}
static struct dropout drop_of(const struct op_run *r, int rows) {
    if (r->s.drop == 0) return (struct dropout){0};
    return (struct dropout){drop_seed, drop_place, drop_first + *(const int32_t *)host(r, rows), (uint32_t)r->s.drop};
}
static double drop_factor(const struct op_run *r, int64_t i, int64_t h, int64_t c) {
    const struct rng_row row = rng_row(drop_seed, drop_place + (uint64_t)h, (uint64_t)(drop_first + i));
    if (r->s.drop == 0) return 1;
    return rng_row_at(row, (uint32_t)c) < r->s.drop ? 0 : 1 / (1 - (double)r->s.drop * 0x1p-16);
}
static void ranges_fill(const struct op_run *r, struct ranges to, uint64_t stream) {
    int64_t n = r->s.n, K = r->s.K, segment = r->s.segment ? r->s.segment : n, document = 0;
    for (int64_t i = 0; i < n; i++) {
        if (K) {
            to.lo[i] = (double)rng_below(r->seed, stream, (uint64_t)(2 * i), (uint64_t)K + 1);
            to.hi[i] =
                i == 0 ? (double)K
                       : (double)rng_below(r->seed, stream, (uint64_t)(2 * i + 1), (uint64_t)K + 1);
            if (i == 0 || i % 3 == 1) to.lo[i] = 0;
            if (i == 2) to.hi[i] = to.lo[i]; // an empty range for certain; hi < lo is empty too
        } else {
            if (i % segment == 0 || rng_below(r->seed, stream, (uint64_t)i, 6) == 0) document = i;
            to.lo[i] = (double)document;
            to.hi[i] = (double)(i + 1);
        }
    }
}

// Of row i, head h: probabilities of the keys in p; returns the log-sum-exp.
static double attend_weights(const struct op_run *r, const double *q, const double *k, double lo,
                             double hi, int64_t g, double *p) { // before dropout
    int64_t D = r->s.D, width = r->s.G * D;
    double most = -INFINITY, sum = 0;
    for (int64_t j = (int64_t)lo; j < (int64_t)hi; j++) {
        double score = 0;
        for (int64_t d = 0; d < D; d++) score += q[d] * k[j * width + g * D + d];
        p[j] = score * (double)r->s.scale;
        if (r->s.softcap > 0) p[j] = (double)r->s.softcap * tanh(p[j] / (double)r->s.softcap);
        most = fmax(most, p[j]);
    }
    for (int64_t j = (int64_t)lo; j < (int64_t)hi; j++) sum += p[j] = exp(p[j] - most);
    for (int64_t j = (int64_t)lo; j < (int64_t)hi; j++) p[j] /= sum;
    return hi > lo ? most + log(sum) : -INFINITY;
}

enum { ATTEND_Q, ATTEND_K, ATTEND_V, ATTEND_LO, ATTEND_HI, ATTEND_OUT, ATTEND_LSE, ATTEND_ROW };
static void attend_declare(struct op_run *r) {
    int64_t n = r->s.n, keys = r->s.K ? r->s.K : n;
    f32(r, "q", IN | BY_ROW, n, r->s.H * r->s.D);
    spread(r, add(r, "k", IN, r->dtype, keys, r->s.G * r->s.D), 1);
    spread(r, add(r, "v", IN, r->s.mode == 2 ? DTYPE_F16 : r->dtype, keys, r->s.G * r->s.D), 1);
    struct op_buf *lo = add(r, "lo", IN | BY_ROW | FLAT, DTYPE_I32, n, 1);
    struct op_buf *hi = add(r, "hi", IN | BY_ROW | FLAT, DTYPE_I32, n, 1);
    ranges_fill(r, (struct ranges){lo->v, hi->v}, 77);
    f32(r, "out", OUT | BY_ROW, n, r->s.H * r->s.D);
    if (!r->s.mode) f32(r, "lse", OUT | BY_ROW | FLAT, n, r->s.H);
    if (r->s.drop) drop_rows(r);
}
static struct attend_args attend_args(const struct op_run *r) {
    return (struct attend_args){.out = T(r, ATTEND_OUT),
                                .q = T(r, ATTEND_Q),
                                .k = T(r, ATTEND_K),
                                .v = T(r, ATTEND_V),
                                .lo = P(r, ATTEND_LO),
                                .hi = P(r, ATTEND_HI),
                                .lse = r->s.mode ? NULL : P(r, ATTEND_LSE),
                                .heads = r->s.H,
                                .kv_heads = r->s.G,
                                .head_size = r->s.D,
                                .scale = r->s.scale,
                                .softcap = r->s.softcap,
                                .precision = precision_of(r),
                                .drop = drop_of(r, ATTEND_ROW)};
}
static void attend_call(const struct op_run *r, const struct backend *b) {
    const struct attend_args a = attend_args(r);
    b->attend(&a);
}
// The same rows in a cache as the backend likes it, which store_rows fills. Rounding what is rounded already changes
// nothing.
static struct tensor cache_of(const struct op_run *r, int buf, enum cache_side side, const struct backend *b) {
    const struct op_buf *from = &r->buf[buf];
    struct tensor dst = T(r, buf);
    dst.layout = LAYOUT_DEVICE;
    dst.rows = (from->rows + CACHE_ROWS - 1) / CACHE_ROWS * CACHE_ROWS;
    if (!dtype_row_bytes(from->dtype, from->cols, &dst.row_bytes)) abort();
    dst.data = room_of(b, (size_t)dst.rows * dst.row_bytes);
    float *x = mem_array((size_t)(from->rows * from->cols), sizeof *x, "rows");
    int32_t *rows = mem_array((size_t)from->rows, sizeof *rows, "row numbers");
    for (int64_t i = 0; i < from->rows; i++) {
        rows[i] = (int32_t)i;
        dtype_row(from->dtype)->to_f32(from->data + (size_t)i * from->row_bytes, x + i * from->cols, from->cols);
    }
    float *src = sent(b, x, (size_t)(from->rows * from->cols) * sizeof *x);
    int32_t *numbers = sent(b, rows, (size_t)from->rows * sizeof *rows);
    b->store_rows(&(struct store_rows_args){dst, tensor_f32(src, from->rows, from->cols), numbers, side, r->s.D});
    b->sync();
    b->free(src), b->free(numbers);
    mem_free(x);
    mem_free(rows);
    return dst;
}
static void attend_held_call(const struct op_run *r, const struct backend *b) {
    struct attend_args a = attend_args(r);
    a.k = cache_of(r, ATTEND_K, CACHE_KEYS, b);
    a.v = cache_of(r, ATTEND_V, CACHE_VALUES, b);
    b->attend(&a);
    b->sync();
    b->free(a.k.data);
    b->free(a.v.data);
}
// out and lse may be NULL; returns dout . out when dout is given.
static double attend_all(const struct op_run *r, const struct ranges *at, const double *q,
                         const double *k, const double *v, double *out, double *lse,
                         const double *dout) {
    int64_t n = r->s.n, H = r->s.H, D = r->s.D, width = r->s.G * D, keys = r->s.K ? r->s.K : n;
    double *p = mem_array((size_t)keys, sizeof *p, "probabilities"), loss = 0;
    for (int64_t i = 0; i < n; i++)
        for (int64_t h = 0; h < H; h++) {
            int64_t g = h / (H / r->s.G);
            double sum_exp = attend_weights(r, q + (i * H + h) * D, k, at->lo[i], at->hi[i], g, p);
            if (lse) lse[i * H + h] = sum_exp;
            for (int64_t d = 0; d < D; d++) {
                double sum = 0;
                for (int64_t j = (int64_t)at->lo[i]; j < (int64_t)at->hi[i]; j++)
                    sum += drop_factor(r, i, h, j - (int64_t)at->lo[i]) * p[j] * v[j * width + g * D + d];
                if (out) out[(i * H + h) * D + d] = sum;
                if (dout) loss += dout[(i * H + h) * D + d] * sum;
            }
        }
    mem_free(p);
    return loss;
}
static void attend_reference(const struct op_run *r) {
    take_rounded(r, ATTEND_Q), take_rounded(r, ATTEND_K), take_rounded(r, ATTEND_V);
    attend_all(r, &(struct ranges){V(r, ATTEND_LO), V(r, ATTEND_HI)}, V(r, ATTEND_Q),
               V(r, ATTEND_K), V(r, ATTEND_V), V(r, ATTEND_OUT),
               r->s.mode ? NULL : V(r, ATTEND_LSE), NULL);
}

enum { AB_DQ, AB_DK, AB_DV, AB_DOUT, AB_OUT, AB_Q, AB_K, AB_V, AB_LO, AB_HI, AB_LSE, AB_ROW };
static void attend_back_declare(struct op_run *r) {
    int64_t n = r->s.n, wide = r->s.H * r->s.D, narrow = r->s.G * r->s.D;
    f32(r, "dq", OUT | BY_ROW, n, wide);
    f32(r, "dk", OUT | BY_ROW, n, narrow);
    f32(r, "dv", OUT | BY_ROW, n, narrow);
    f32(r, "dout", IN | BY_ROW, n, wide);
    f32(r, "out", IN | BY_ROW, n, wide);
    f32(r, "q", IN | BY_ROW, n, wide);
    f32(r, "k", IN | BY_ROW, n, narrow);
    f32(r, "v", IN | BY_ROW, n, narrow);
    struct op_buf *lo = add(r, "lo", IN | BY_ROW | FLAT | ROW_INDEX, DTYPE_I32, n, 1);
    struct op_buf *hi = add(r, "hi", IN | BY_ROW | FLAT | ROW_INDEX, DTYPE_I32, n, 1);
    f32(r, "lse", IN | BY_ROW | FLAT, n, r->s.H);
    if (r->s.drop) drop_rows(r);
    struct ranges at = {lo->v, hi->v};
    ranges_fill(r, at, 77);
    if (r->s.mode) hi->v[n - 1] = lo->v[n - 1]; // a row that sees nothing
    attend_all(r, &at, V(r, AB_Q), V(r, AB_K), V(r, AB_V), V(r, AB_OUT), V(r, AB_LSE), NULL);
}
static void attend_back_call(const struct op_run *r, const struct backend *b) {
    b->attend_back(&(struct attend_back_args){.dq = T(r, AB_DQ),
                                              .dk = T(r, AB_DK),
                                              .dv = T(r, AB_DV),
                                              .dout = T(r, AB_DOUT),
                                              .out = T(r, AB_OUT),
                                              .q = T(r, AB_Q),
                                              .k = T(r, AB_K),
                                              .v = T(r, AB_V),
                                              .lo = P(r, AB_LO),
                                              .hi = P(r, AB_HI),
                                              .lse = P(r, AB_LSE),
                                              .heads = r->s.H,
                                              .kv_heads = r->s.G,
                                              .head_size = r->s.D,
                                              .scale = r->s.scale,
                                              .segment = r->s.segment,
                                              .drop = drop_of(r, AB_ROW)});
}
static double attend_back_loss(const struct op_run *r) {
    return attend_all(r, &(struct ranges){V(r, AB_LO), V(r, AB_HI)}, V(r, AB_Q), V(r, AB_K),
                      V(r, AB_V), NULL, NULL, V(r, AB_DOUT));
}

// ---------------------------------------------------------------------------------------------------------------
// Gated units. mode: 0 apart, 1 and 2 two ways of sharing memory, 3 no up; M: the kind; scale: how far gates spread (0: 3).

static double act(const struct op_run *r, double x) {
    if (r->s.M == GLU_SILU) return x / (1 + exp(-x));
    if (r->s.M == GLU_GELU_ERF) return .5 * x * (1 + erf(x / sqrt(2)));
    if (r->s.M == GLU_RELU2) return x > 0 ? x * x : 0;
    if (r->s.M == GLU_SIGMOID) return 1 / (1 + exp(-x));
    if (r->s.M == GLU_CLAMPED) return fmin(x, 7) / (1 + exp(-1.702 * fmin(x, 7)));
    return .5 * x * (1 + tanh(sqrt(2 / 3.14159265358979323846) * (x + .044715 * x * x * x)));
}

static double gate_spread(const struct op_run *r) {
    return r->s.scale == 0 ? 3 : (double)r->s.scale;
}

enum { GLU_GATE, GLU_UP, GLU_OUT };
static int glu_to(const struct op_run *r) {
    return r->s.mode == 0 || r->s.mode == 3 ? GLU_OUT : r->s.mode == 1 ? GLU_GATE : GLU_UP;
}
static void glu_declare(struct op_run *r) {
    spread(r, f32(r, "gate", (r->s.mode == 1 ? BOTH : IN) | BY_ROW, r->s.n, r->s.C),
           gate_spread(r));
    f32(r, "up", (r->s.mode == 2 ? BOTH : r->s.mode == 3 ? IN | UNREAD : IN) | BY_ROW, r->s.n, r->s.C);
    if (r->s.mode == 0 || r->s.mode == 3) f32(r, "out", OUT | BY_ROW, r->s.n, r->s.C);
}
static void glu_call(const struct op_run *r, const struct backend *b) {
    struct glu_args a = {T(r, glu_to(r)), T(r, GLU_GATE), T(r, GLU_UP), (enum glu_kind)r->s.M};
    if (r->s.mode == 3) a.up = (struct tensor){0};
    b->glu(&a);
}
static void glu_reference(const struct op_run *r) {
    for (int64_t i = 0; i < r->s.n * r->s.C; i++) {
        double up = r->s.mode == 3 ? 1 : V(r, GLU_UP)[i];
        if (r->s.M == GLU_CLAMPED) up = fmax(-7, fmin(7, up)) + 1;
        V(r, glu_to(r))[i] = act(r, V(r, GLU_GATE)[i]) * up;
    }
}

enum { GB_DOUT, GB_GATE, GB_UP, GB_DGATE, GB_DUP };
static void glu_back_declare(struct op_run *r) {
    unsigned dout = r->s.mode == 2 ? BOTH : IN, gate = r->s.mode ? BOTH : IN,
             up = r->s.mode == 1 ? BOTH : IN;
    f32(r, "dout", dout | BY_ROW, r->s.n, r->s.C);
    spread(r, f32(r, "gate", gate | BY_ROW, r->s.n, r->s.C), gate_spread(r));
    f32(r, "up", up | BY_ROW, r->s.n, r->s.C);
    if (r->s.mode) return;
    f32(r, "dgate", OUT | BY_ROW, r->s.n, r->s.C);
    f32(r, "dup", OUT | BY_ROW, r->s.n, r->s.C);
}
static void glu_back_call(const struct op_run *r, const struct backend *b) {
    static const int to[3][2] = {{GB_DGATE, GB_DUP}, {GB_GATE, GB_UP}, {GB_DOUT, GB_GATE}};
    b->glu_back(&(struct glu_back_args){T(r, to[r->s.mode][0]), T(r, to[r->s.mode][1]),
                                        T(r, GB_DOUT), T(r, GB_GATE), T(r, GB_UP),
                                        (enum glu_kind)r->s.M});
}
static double glu_back_loss(const struct op_run *r) {
    double sum = 0;
    for (int64_t i = 0; i < r->s.n * r->s.C; i++)
        sum += V(r, GB_DOUT)[i] * act(r, V(r, GB_GATE)[i]) * V(r, GB_UP)[i];
    return sum;
}

// mode: 0 apart, 1 out is a, 2 out is b, 3 no a
enum { ADD_A, ADD_B, ADD_OUT };
static int add_to(const struct op_run *r) {
    return r->s.mode == 1 ? ADD_A : r->s.mode == 2 ? ADD_B : ADD_OUT;
}
static void add_declare(struct op_run *r) {
    f32(r, "a",
        (r->s.mode == 1   ? BOTH
         : r->s.mode == 3 ? IN | UNREAD
                          : IN) |
            BY_ROW,
        r->s.n, r->s.C);
    f32(r, "b", (r->s.mode == 2 ? BOTH : IN) | BY_ROW, r->s.n, r->s.C);
    if (r->s.mode == 0 || r->s.mode == 3) f32(r, "out", OUT | BY_ROW, r->s.n, r->s.C);
}
static void add_call(const struct op_run *r, const struct backend *b) {
    struct add_args a = {T(r, add_to(r)), T(r, ADD_A), T(r, ADD_B), r->s.scale};
    if (r->s.mode == 3) a.a = (struct tensor){0};
    b->add(&a);
}
static void add_reference(const struct op_run *r) {
    for (int64_t i = 0; i < r->s.n * r->s.C; i++)
        V(r, add_to(r))[i] = (r->s.mode == 3 ? 0 : V(r, ADD_A)[i]) + scale_of(r) * V(r, ADD_B)[i];
}

// Dropout. mode as in add.
enum { DROP_A, DROP_B, DROP_ROW, DROP_OUT };
static int drop_to(const struct op_run *r) { return r->s.mode == 1 ? DROP_A : r->s.mode == 2 ? DROP_B : DROP_OUT; }
static void drop_declare(struct op_run *r) {
    f32(r, "a", (r->s.mode == 1 ? BOTH : r->s.mode >= 2 ? IN | UNREAD : IN) | BY_ROW, r->s.n, r->s.C);
    f32(r, "b", (r->s.mode == 2 ? BOTH : IN) | BY_ROW, r->s.n, r->s.C);
    drop_rows(r);
    if (r->s.mode == 0 || r->s.mode == 3) f32(r, "out", OUT | BY_ROW, r->s.n, r->s.C);
}
static void drop_call(const struct op_run *r, const struct backend *b) {
    struct dropout_args a = {T(r, drop_to(r)), T(r, DROP_A), T(r, DROP_B), r->s.scale, drop_of(r, DROP_ROW)};
    if (r->s.mode >= 2) a.a = (struct tensor){0};
    b->dropout(&a);
}
static void drop_reference(const struct op_run *r) {
    for (int64_t i = 0; i < r->s.n; i++)
        for (int64_t c = 0, at = i * r->s.C; c < r->s.C; c++, at++)
            V(r, drop_to(r))[at] = (r->s.mode >= 2 ? 0 : V(r, DROP_A)[at]) +
                                   scale_of(r) * drop_factor(r, i, 0, c) * V(r, DROP_B)[at];
}

// ---------------------------------------------------------------------------------------------------------------
// Loss. K is the logit scale in tenths, scale the gradient's (0: loss only, and logits stay as they are), M how far
// logits spread (0: 4).

enum { CE_LOGITS, CE_TARGETS, CE_LOSS };
static double ce_logit_scale(const struct op_run *r) {
    return r->s.K ? (double)((float)r->s.K * .1f) : 1;
}
static void cross_entropy_declare(struct op_run *r) {
    spread(r, f32(r, "logits", (r->s.scale == 0 ? IN : BOTH) | BY_ROW, r->s.n, r->s.C),
           r->s.M ? (double)r->s.M : 4);
    struct op_buf *targets = below(r, "targets", IN | BY_ROW, r->s.n, r->s.C);
    for (int64_t i = 1; i < r->s.n; i += 3) targets->v[i] = -1;
    f32(r, "loss", OUT | BY_ROW | FLAT, r->s.n, 1);
}
static void cross_entropy_call(const struct op_run *r, const struct backend *b) {
    b->cross_entropy(&(struct cross_entropy_args){P(r, CE_LOSS), T(r, CE_LOGITS), P(r, CE_TARGETS),
                                                  (float)r->s.K * .1f, r->s.scale, r->s.z_loss});
}
static double cross_entropy_row(const struct op_run *r, int64_t i) {
    int64_t C = r->s.C, target = (int64_t)V(r, CE_TARGETS)[i];
    const double *logits = V(r, CE_LOGITS) + i * C;
    double by = ce_logit_scale(r), most = -INFINITY, sum = 0;
    if (target < 0) return 0;
    for (int64_t c = 0; c < C; c++) most = fmax(most, by * logits[c]);
    for (int64_t c = 0; c < C; c++) sum += exp(by * logits[c] - most);
    return log(sum) + most - by * logits[target];
}
static void cross_entropy_reference(const struct op_run *r) {
    int64_t C = r->s.C;
    for (int64_t i = 0; i < r->s.n; i++) {
        int64_t target = (int64_t)V(r, CE_TARGETS)[i];
        double *logits = V(r, CE_LOGITS) + i * C, by = ce_logit_scale(r);
        V(r, CE_LOSS)[i] = cross_entropy_row(r, i);
        if (r->s.scale == 0) continue;
        double lse = target < 0 ? 0 : V(r, CE_LOSS)[i] + by * logits[target];
        for (int64_t c = 0; c < C; c++) {
            double p = exp(by * logits[c] - lse);
            logits[c] = target < 0 ? 0 : (double)r->s.scale * by * (p * (1 + 2 * (double)r->s.z_loss * lse) - (c == target));
        }
    }
}
static double cross_entropy_loss(const struct op_run *r) {
    double sum = 0;
    for (int64_t i = 0; i < r->s.n; i++) {
        int64_t target = (int64_t)V(r, CE_TARGETS)[i];
        double loss = cross_entropy_row(r, i), lse = target < 0 ? 0 : loss + ce_logit_scale(r) * V(r, CE_LOGITS)[i * r->s.C + target];
        sum += loss + (double)r->s.z_loss * lse * lse;
    }
    return (double)r->s.scale * sum;
}

// ---------------------------------------------------------------------------------------------------------------
// The head and its loss. M is the vocabulary, K and scale as in cross_entropy, mode how far x spreads (0: as all else).

enum { HEAD_X, HEAD_W, HEAD_TARGETS, HEAD_LOSS, HEAD_DX, HEAD_DW };
static void head_loss_declare(struct op_run *r) {
    spread(r, f32(r, "x", IN | BY_ROW, r->s.n, r->s.C), r->s.mode ? r->s.mode : 1);
    spread(r, add(r, "w", IN, r->dtype, r->s.M, r->s.C), 1);
    struct op_buf *targets = below(r, "targets", IN | BY_ROW, r->s.n, r->s.M);
    for (int64_t i = 1; i < r->s.n; i += 3) targets->v[i] = -1;
    f32(r, "loss", OUT | BY_ROW | FLAT, r->s.n, 1);
    if (r->s.scale == 0) return;
    f32(r, "dx", OUT | BY_ROW, r->s.n, r->s.C);
    f32(r, "dw", BOTH, r->s.M, r->s.C);
}
static void head_loss_call(const struct op_run *r, const struct backend *b) {
    struct head_loss_args a = {.loss = P(r, HEAD_LOSS), .x = T(r, HEAD_X), .w = T(r, HEAD_W), .targets = P(r, HEAD_TARGETS),
                               .logit_scale = (float)r->s.K * .1f, .grad_scale = r->s.scale, .segment = r->s.segment,
                               .precision = precision_of(r), .z_loss = r->s.z_loss};
    if (r->s.scale != 0) a.dx = T(r, HEAD_DX), a.dw = T(r, HEAD_DW);
    a.room_bytes = head_loss_room(head_loss_least(a.segment), a.w.rows);
    a.room = room_of(b, a.room_bytes);
    b->head_loss(&a);
    b->free(a.room);
}
// z of row i, and its log-sum-exp.
static double head_logits(const struct op_run *r, int64_t i, double *z) {
    double most = -INFINITY, sum = 0;
    for (int64_t m = 0; m < r->s.M; m++) {
        z[m] = 0;
        for (int64_t c = 0; c < r->s.C; c++) z[m] += V(r, HEAD_X)[i * r->s.C + c] * V(r, HEAD_W)[m * r->s.C + c];
        z[m] *= ce_logit_scale(r);
        most = fmax(most, z[m]);
    }
    for (int64_t m = 0; m < r->s.M; m++) sum += exp(z[m] - most);
    return log(sum) + most;
}
static void head_loss_reference(const struct op_run *r) {
    int64_t C = r->s.C, M = r->s.M;
    double *z = mem_array((size_t)M, sizeof *z, "logits");
    take_rounded(r, HEAD_X), take_rounded(r, HEAD_W);
    for (int64_t i = 0; i < r->s.n; i++) {
        int64_t target = (int64_t)V(r, HEAD_TARGETS)[i];
        double lse = head_logits(r, i, z);
        V(r, HEAD_LOSS)[i] = target < 0 ? 0 : lse - z[target];
        for (int64_t c = 0; c < C && r->s.scale != 0; c++) V(r, HEAD_DX)[i * C + c] = 0;
        for (int64_t m = 0; m < M && r->s.scale != 0 && target >= 0; m++) {
            double dz = (double)r->s.scale * ce_logit_scale(r) * (exp(z[m] - lse) * (1 + 2 * (double)r->s.z_loss * lse) - (m == target));
            for (int64_t c = 0; c < C; c++) {
                V(r, HEAD_DX)[i * C + c] += dz * V(r, HEAD_W)[m * C + c];
                V(r, HEAD_DW)[m * C + c] += dz * V(r, HEAD_X)[i * C + c];
            }
        }
    }
    mem_free(z);
}
static double head_loss_loss(const struct op_run *r) {
    double sum = 0, *z = mem_array((size_t)r->s.M, sizeof *z, "logits");
    for (int64_t i = 0; i < r->s.n; i++) {
        int64_t target = (int64_t)V(r, HEAD_TARGETS)[i];
        double lse = head_logits(r, i, z);
        if (target >= 0) sum += lse - z[target] + (double)r->s.z_loss * lse * lse;
    }
    mem_free(z);
    return (double)r->s.scale * sum;
}
static int64_t terms_head(const struct op_run *r) { return r->s.C + r->s.M + r->s.n; }

// ---------------------------------------------------------------------------------------------------------------
// Updates.

enum { SQ_X, SQ_OUT };
static void sum_squares_declare(struct op_run *r) {
    f32(r, "x", IN | FLAT, r->s.n, r->s.C);
    f32(r, "out", OUT | FLAT, 1, 2); // one double, compared as bits by `rows` and `threads`
}
// The double goes into two floats: the sum rounded, and what is left of it.
static void sum_squares_call(const struct op_run *r, const struct backend *b) {
    double out = NAN;
    double *to = sent(b, &out, sizeof out);
    b->sum_squares(&(struct sum_squares_args){to, T(r, SQ_X)});
    b->download(&out, to, sizeof out);
    b->free(to);
    float high = (float)out, low = (float)(out - (double)high), both[2] = {high, low};
    b->upload(P(r, SQ_OUT), both, sizeof both);
}
static void sum_squares_reference(const struct op_run *r) {
    double sum = 0;
    for (int64_t i = 0; i < r->s.n * r->s.C; i++) sum += V(r, SQ_X)[i] * V(r, SQ_X)[i];
    V(r, SQ_OUT)[0] = (float)sum;
    V(r, SQ_OUT)[1] = sum - (double)(float)sum;
}

// mode: rule * 4, + 1 with a bf16 copy, + 2 into out; MODE_SGD without momentum is MODE_BARE. M is the step, scale
// grad_scale.
enum { UP_W, UP_G, UP_M, UP_V, UP_X, UP_COPY, UP_OUT };
enum { MODE_ADAM = UPDATE_ADAM * 4, MODE_NADAM = UPDATE_NADAM * 4, MODE_LION = UPDATE_LION * 4, MODE_SGD = UPDATE_SGD * 4,
       MODE_FREE = UPDATE_SCHEDULE_FREE * 4, MODE_BARE = 20, WITH_COPY = 1, INTO_OUT = 2 };
static const float beta1 = .9f, beta2 = .95f, adam_eps = 1e-8f, decay = .1f, rate = .01f, mix = .3f;
static enum update_rule rule_of(const struct op_run *r) {
    return r->s.mode >= MODE_BARE ? UPDATE_SGD : (enum update_rule)(r->s.mode / 4);
}
static void update_declare(struct op_run *r) {
    const enum update_rule rule = rule_of(r);
    const bool has_m = r->s.mode < MODE_BARE, has_v = rule == UPDATE_ADAM || rule == UPDATE_NADAM || rule == UPDATE_SCHEDULE_FREE;
    const bool first = r->s.M == 1 && rule != UPDATE_SCHEDULE_FREE;
    const int64_t n = r->s.n, C = r->s.C;
    f32(r, "w", (r->s.mode & INTO_OUT ? IN : BOTH) | BY_ROW | FLAT, n, C);
    f32(r, "g", IN | BY_ROW | FLAT, n, C);
    f32(r, "m", has_m ? BOTH | BY_ROW | FLAT : IN | UNREAD, has_m ? n : 1, C);
    struct op_buf *v = f32(r, "v", has_v ? BOTH | BY_ROW | FLAT : IN | UNREAD, has_v ? n : 1, C);
    for (int64_t i = 0; i < n * C && has_v; i++) v->v[i] = first ? 0 : (float)(v->v[i] * v->v[i]);
    for (int64_t i = 0; i < n * C && first && has_m; i++) V(r, UP_M)[i] = 0;
    f32(r, "x", rule == UPDATE_SCHEDULE_FREE ? BOTH | BY_ROW | FLAT : IN | UNREAD, rule == UPDATE_SCHEDULE_FREE ? n : 1, C);
    add(r, "copy", r->s.mode & WITH_COPY ? OUT | BY_ROW | FLAT : IN | UNREAD, DTYPE_BF16, r->s.mode & WITH_COPY ? n : 1, C);
    f32(r, "out", r->s.mode & INTO_OUT ? OUT | BY_ROW | FLAT : IN | UNREAD, r->s.mode & INTO_OUT ? n : 1, C);
}
static void update_call(const struct op_run *r, const struct backend *b) {
    const enum update_rule rule = rule_of(r);
    struct update_args a = {.w = T(r, UP_W), .g = T(r, UP_G), .rule = rule, .lr = rate, .beta1 = beta1, .beta2 = beta2,
                            .eps = adam_eps, .weight_decay = decay, .grad_scale = r->s.scale, .mix = mix, .step = r->s.M};
    if (r->s.mode < MODE_BARE) a.m = T(r, UP_M);
    if (rule != UPDATE_LION && rule != UPDATE_SGD) a.v = T(r, UP_V);
    if (rule == UPDATE_SCHEDULE_FREE) a.x = T(r, UP_X);
    if (r->s.mode & WITH_COPY) a.copy = T(r, UP_COPY);
    if (r->s.mode & INTO_OUT) a.out = T(r, UP_OUT);
    b->update(&a);
}
static double update_direction(const struct op_run *r, double g, double *m, double *v) {
    double b1 = (double)beta1, b2 = (double)beta2, t = (double)r->s.M;
    switch (rule_of(r)) {
    case UPDATE_SGD:
        if (r->s.mode >= MODE_BARE) return g;
        *m = b1 * *m + g;
        return g + b1 * *m;
    case UPDATE_LION: {
        double x = b1 * *m + (1 - b1) * g;
        *m = b2 * *m + (1 - b2) * g;
        return x > 0 ? 1 : x < 0 ? -1 : 0;
    }
    default: break;
    }
    *v = b2 * *v + (1 - b2) * g * g;
    double size = sqrt(*v / (1 - pow(b2, t))) + (double)adam_eps;
    if (rule_of(r) == UPDATE_SCHEDULE_FREE) return g / size;
    *m = b1 * *m + (1 - b1) * g;
    double mean = *m / (1 - pow(b1, t)), ahead = b1 * *m / (1 - pow(b1, t + 1)) + (1 - b1) * g / (1 - pow(b1, t));
    return (rule_of(r) == UPDATE_ADAM ? mean : ahead) / size;
}
static void update_reference(const struct op_run *r) {
    for (int64_t i = 0; i < r->s.n * r->s.C; i++) {
        double g = V(r, UP_G)[i] * scale_of(r), *w = &V(r, UP_W)[i], *m = &V(r, UP_M)[i], *x = &V(r, UP_X)[i];
        double d = update_direction(r, g, m, &V(r, UP_V)[i]) + (double)decay * *w;
        if (r->s.mode & INTO_OUT) {
            V(r, UP_OUT)[i] = d;
            continue;
        }
        if (rule_of(r) == UPDATE_SCHEDULE_FREE) {
            *m -= (double)rate * d;
            *x += (double)mix * (*m - *x);
            *w = *x + (1 - (double)beta1) * (*m - *x);
        } else {
            *w -= (double)rate * d;
        }
        if (r->s.mode & WITH_COPY) V(r, UP_COPY)[i] = *w;
    }
}

// M is the step, scale grad_scale, mode 1: with a bf16 copy.
enum { FACTOR_W, FACTOR_G, FACTOR_ROW, FACTOR_COLUMN, FACTOR_SCRATCH, FACTOR_COPY };
static void adafactor_declare(struct op_run *r) {
    const bool first = r->s.M == 1;
    f32(r, "w", BOTH | FLAT, r->s.n, r->s.C);
    f32(r, "g", IN | FLAT, r->s.n, r->s.C);
    struct op_buf *row = f32(r, "row", BOTH | FLAT, 1, r->s.n), *column = f32(r, "column", BOTH | FLAT, 1, r->s.C);
    for (int64_t i = 0; i < r->s.n; i++) row->v[i] = first ? 0 : (float)(row->v[i] * row->v[i] + .1);
    for (int64_t i = 0; i < r->s.C; i++) column->v[i] = first ? 0 : (float)(column->v[i] * column->v[i] + .1);
    f32(r, "scratch", IN | UNREAD | FLAT, 1, 4 * r->s.n);
    if (r->s.mode) add(r, "copy", OUT | FLAT, DTYPE_BF16, r->s.n, r->s.C);
}
static void adafactor_call(const struct op_run *r, const struct backend *b) {
    double *scratch = calloc((size_t)r->s.n * 2, sizeof *scratch);
    struct adafactor_args a = {.w = T(r, FACTOR_W), .g = T(r, FACTOR_G), .row = T(r, FACTOR_ROW), .column = T(r, FACTOR_COLUMN),
                               .scratch = scratch, .lr = rate, .weight_decay = decay, .grad_scale = r->s.scale, .step = r->s.M};
    if (r->s.mode) a.copy = T(r, FACTOR_COPY);
    b->adafactor(&a);
    free(scratch);
}
static void adafactor_reference(const struct op_run *r) {
    const int64_t M = r->s.n, K = r->s.C;
    double share = pow((double)r->s.M, -.8), mean = 0, units = 0, size = 0, t = (double)r->s.M;
    double *row = V(r, FACTOR_ROW), *column = V(r, FACTOR_COLUMN), *w = V(r, FACTOR_W), *u = calloc((size_t)(M * K), sizeof *u);
    for (int64_t i = 0; i < M && M > 1; i++) {
        double sum = 0;
        for (int64_t k = 0; k < K; k++) sum += pow(V(r, FACTOR_G)[i * K + k] * scale_of(r), 2);
        row[i] += share * (sum / (double)K - row[i]);
        mean += row[i] / (double)M;
    }
    for (int64_t k = 0; k < K; k++) {
        double sum = 0;
        for (int64_t i = 0; i < M; i++) sum += pow(V(r, FACTOR_G)[i * K + k] * scale_of(r), 2);
        column[k] += share * (sum / (double)M - column[k]);
    }
    for (int64_t i = 0; i < M * K; i++) {
        double square = column[i % K] * (M > 1 ? row[i / K] / mean : 1);
        u[i] = V(r, FACTOR_G)[i] * scale_of(r) / sqrt(square);
        units += u[i] * u[i] / (double)(M * K), size += w[i] * w[i] / (double)(M * K);
    }
    double step = fmin((double)rate, 1 / sqrt(t)) * fmax(1e-3, sqrt(size)) / fmax(1, sqrt(units));
    for (int64_t i = 0; i < M * K; i++) {
        w[i] = w[i] * (1 - (double)rate * (double)decay) - step * u[i];
        if (r->s.mode) V(r, FACTOR_COPY)[i] = w[i];
    }
    free(u);
}

// ---------------------------------------------------------------------------------------------------------------
// What only some families need.

// mode: 0 with a bias, 1 without, 2 in place, 3 with neither weight nor bias
enum { LN_X, LN_W, LN_BIAS, LN_OUT };
static void layernorm_declare(struct op_run *r) {
    struct op_buf *x = f32(r, "x", (r->s.mode == 2 ? BOTH : IN) | BY_ROW, r->s.n, r->s.C);
    for (int64_t i = 0; i < r->s.n * r->s.C; i++) x->v[i] += 2; // a mean to take away
    f32(r, "weight", IN | (r->s.mode == 3 ? UNREAD : 0), 1, r->s.C);
    f32(r, "bias", IN | (r->s.mode == 1 || r->s.mode == 3 ? UNREAD : 0), 1, r->s.C);
    if (r->s.mode != 2) f32(r, "out", OUT | BY_ROW, r->s.n, r->s.C);
}
static void layernorm_call(const struct op_run *r, const struct backend *b) {
    struct layernorm_args a = {T(r, r->s.mode == 2 ? LN_X : LN_OUT), T(r, LN_X), T(r, LN_W), T(r, LN_BIAS), norm_eps};
    if (r->s.mode == 1 || r->s.mode == 3) a.bias = (struct tensor){0};
    if (r->s.mode == 3) a.weight = (struct tensor){0};
    b->layernorm(&a);
}
static void layernorm_reference(const struct op_run *r) {
    int64_t C = r->s.C;
    for (int64_t i = 0; i < r->s.n; i++) {
        const double *x = V(r, LN_X) + i * C;
        double *out = V(r, r->s.mode == 2 ? LN_X : LN_OUT) + i * C, mean = 0, square = 0;
        for (int64_t c = 0; c < C; c++) mean += x[c] / (double)C;
        for (int64_t c = 0; c < C; c++) square += (x[c] - mean) * (x[c] - mean) / (double)C;
        for (int64_t c = 0; c < C; c++)
            out[c] = (x[c] - mean) / sqrt(square + (double)norm_eps) * (r->s.mode == 3 ? 1 : V(r, LN_W)[c]) +
                     (r->s.mode == 1 || r->s.mode == 3 ? 0 : V(r, LN_BIAS)[c]);
    }
}

enum { BIAS_X, BIAS_B };
static void bias_declare(struct op_run *r) {
    f32(r, "x", BOTH | BY_ROW, r->s.n, r->s.C);
    f32(r, "bias", IN, 1, r->s.C);
}
static void bias_call(const struct op_run *r, const struct backend *b) {
    b->bias(&(struct bias_args){T(r, BIAS_X), T(r, BIAS_B), r->s.scale});
}
static void bias_reference(const struct op_run *r) {
    for (int64_t i = 0; i < r->s.n * r->s.C; i++) V(r, BIAS_X)[i] += scale_of(r) * V(r, BIAS_B)[i % r->s.C];
}

static void softcap_declare(struct op_run *r) {
    spread(r, f32(r, "x", BOTH | BY_ROW, r->s.n, r->s.C), r->s.M ? (double)r->s.M : 3);
}
static void softcap_call(const struct op_run *r, const struct backend *b) {
    b->softcap(&(struct softcap_args){T(r, 0), r->s.scale});
}
static void softcap_reference(const struct op_run *r) {
    for (int64_t i = 0; i < r->s.n * r->s.C; i++)
        V(r, 0)[i] = (double)r->s.scale * tanh(V(r, 0)[i] / (double)r->s.scale);
}

static void clamp_call(const struct op_run *r, const struct backend *b) {
    b->clamp(&(struct clamp_args){T(r, 0), r->s.scale});
}
static void clamp_reference(const struct op_run *r) {
    double limit = (double)r->s.scale;
    for (int64_t i = 0; i < r->s.n * r->s.C; i++) V(r, 0)[i] = fmax(-limit, fmin(limit, V(r, 0)[i]));
}

enum { SINK_X, SINK_SINKS, SINK_LSE };
static void sink_declare(struct op_run *r) {
    f32(r, "x", BOTH | BY_ROW, r->s.n, r->s.H * r->s.D);
    spread(r, f32(r, "sinks", IN, 1, r->s.H), 3);
    spread(r, f32(r, "lse", IN | BY_ROW | FLAT, r->s.n, r->s.H), 3);
}
static void sink_call(const struct op_run *r, const struct backend *b) {
    b->sink(&(struct sink_args){T(r, SINK_X), T(r, SINK_SINKS), P(r, SINK_LSE)});
}
static void sink_reference(const struct op_run *r) {
    int64_t H = r->s.H, D = r->s.D;
    for (int64_t i = 0; i < r->s.n * H; i++) {
        double seen = exp(V(r, SINK_LSE)[i]), share = seen / (seen + exp(V(r, SINK_SINKS)[i % H]));
        for (int64_t d = 0; d < D; d++) V(r, SINK_X)[i * D + d] *= share;
    }
}

// C experts, K of them chosen, mode 1: their weights sum to one.
enum { ROUTE_LOGITS, ROUTE_CHOSEN, ROUTE_WEIGHT };
static void route_declare(struct op_run *r) {
    struct op_buf *logits = f32(r, "logits", IN | BY_ROW, r->s.n, r->s.C);
    if (r->s.C > 2) // equal ones: the lower number goes first
        for (int64_t i = 0; i < r->s.n; i++) logits->v[i * r->s.C + 2] = logits->v[i * r->s.C + 1];
    add(r, "chosen", OUT | BY_ROW | FLAT, DTYPE_I32, r->s.n, r->s.K);
    add(r, "weight", OUT | BY_ROW | FLAT, DTYPE_F32, r->s.n, r->s.K);
}
static void route_call(const struct op_run *r, const struct backend *b) {
    b->route(&(struct route_args){T(r, ROUTE_LOGITS), P(r, ROUTE_CHOSEN), P(r, ROUTE_WEIGHT), r->s.K, r->s.mode == 1});
}
static void route_reference(const struct op_run *r) {
    int64_t E = r->s.C, used = r->s.K;
    for (int64_t i = 0; i < r->s.n; i++) {
        const double *z = V(r, ROUTE_LOGITS) + i * E;
        double *chosen = V(r, ROUTE_CHOSEN) + i * used, *weight = V(r, ROUTE_WEIGHT) + i * used, sum = 0, kept = 0;
        for (int64_t e = 0; e < E; e++) {
            int64_t before = 0; // experts that go first
            for (int64_t o = 0; o < E; o++) before += z[o] > z[e] || (z[o] == z[e] && o < e);
            sum += exp(z[e]);
            if (before >= used) continue;
            chosen[before] = (double)e;
            weight[before] = exp(z[e]);
            kept += weight[before];
        }
        for (int64_t k = 0; k < used; k++) weight[k] /= r->s.mode == 1 ? kept : sum;
    }
}

// Pairs of rows and experts, chosen at random, in order of experts; and what comes back into the order of pairs.
struct grouped {
    int32_t *place, *row, *expert, *start; // of the backend
    int32_t *where;                        // place, for the host
    int64_t pairs, segments;
};

static void choose_experts(struct op_run *r, struct op_buf *chosen) {
    for (int64_t i = 0; i < chosen->rows * chosen->cols; i++)
        chosen->v[i] = (double)rng_below(r->seed, stream_of(r, chosen), (uint64_t)i, (uint64_t)r->s.H);
}

static struct grouped group_open(const struct op_run *r, const struct backend *b, const int32_t *chosen, int64_t rows) {
    struct grouped g = {.pairs = rows * r->s.mode};
    int64_t segment = r->s.segment ? r->s.segment : rows;
    g.segments = rows / segment;
    const size_t bytes = (size_t)g.pairs * sizeof(int32_t);
    g.place = room_of(b, bytes), g.row = room_of(b, bytes), g.expert = room_of(b, bytes);
    g.start = room_of(b, (size_t)(r->s.H * g.segments + 1) * sizeof(int32_t));
    b->group(&(struct group_args){chosen, rows, r->s.mode, r->s.H, segment, g.place, g.row, g.expert, g.start});
    g.where = mem_array((size_t)g.pairs + 1, sizeof *g.where, "test list");
    b->download(g.where, g.place, bytes);
    return g;
}

// [pairs, cols] in order of experts, for the backend, of numbers that the host has: row `per_row` of them a pair, `stride` bytes
// apart.
static struct tensor in_order(const struct backend *b, const struct grouped *g, const unsigned char *from, size_t stride, int64_t per_row, int64_t cols) {
    const size_t row_bytes = (size_t)cols * sizeof(float);
    unsigned char *rows = mem_array((size_t)g->pairs + 1, row_bytes, "test rows");
    for (int64_t p = 0; p < g->pairs; p++) memcpy(rows + (size_t)g->where[p] * row_bytes, from + (size_t)(p / per_row) * stride, row_bytes);
    struct tensor to = tensor_f32(sent(b, rows, (size_t)g->pairs * row_bytes), g->pairs, cols);
    mem_free(rows);
    return to;
}
// Rows of a buffer, each as often as it has experts, in order of experts.
static struct tensor group_gather(const struct op_run *r, const struct backend *b, const struct grouped *g, int i) {
    return in_order(b, g, host(r, i), r->buf[i].row_bytes, r->s.mode, r->buf[i].cols);
}
// A buffer [n, mode * cols] as rows of pairs in order of experts.
static struct tensor gather_pairs(const struct op_run *r, const struct backend *b, const struct grouped *g, int i, int64_t cols) {
    return in_order(b, g, host(r, i), (size_t)cols * sizeof(float), 1, cols);
}
// The way back, into a buffer; frees the rows.
static void group_scatter(const struct backend *b, const struct grouped *g, struct tensor from, void *to) {
    const size_t bytes = (size_t)g->pairs * from.row_bytes;
    unsigned char *rows = mem_alloc(bytes + 1, "test rows"), *sorted = mem_alloc(bytes + 1, "test rows");
    b->download(sorted, from.data, bytes);
    for (int64_t p = 0; p < g->pairs; p++) memcpy(rows + (size_t)p * from.row_bytes, sorted + (size_t)g->where[p] * from.row_bytes, from.row_bytes);
    b->upload(to, rows, bytes);
    mem_free(rows), mem_free(sorted);
    b->free(from.data);
}

static void group_close(const struct backend *b, struct grouped *g) {
    b->free(g->place), b->free(g->row), b->free(g->expert), b->free(g->start);
    mem_free(g->where);
}

// H experts, mode of them a row.
enum { GROUP_CHOSEN, GROUP_PLACE, GROUP_ROW, GROUP_EXPERT, GROUP_START };
static void group_declare(struct op_run *r) {
    choose_experts(r, add(r, "chosen", IN | FLAT, DTYPE_I32, r->s.n, r->s.mode));
    for (int i = 0; i < 3; i++) {
        static const char *const names[] = {"place", "row", "expert"};
        add(r, names[i], OUT | FLAT, DTYPE_I32, r->s.n * r->s.mode, 1);
    }
    add(r, "start", OUT | FLAT, DTYPE_I32, r->s.H * (r->s.n / r->s.segment) + 1, 1);
}
static void group_call(const struct op_run *r, const struct backend *b) {
    b->group(&(struct group_args){P(r, GROUP_CHOSEN), r->s.n, r->s.mode, r->s.H, r->s.segment, P(r, GROUP_PLACE),
                                  P(r, GROUP_ROW), P(r, GROUP_EXPERT), P(r, GROUP_START)});
}
static void group_reference(const struct op_run *r) {
    const double *chosen = V(r, GROUP_CHOSEN);
    int64_t pairs = r->s.n * r->s.mode, S = r->s.n / r->s.segment;
    for (int64_t i = 0; i <= r->s.H * S; i++) V(r, GROUP_START)[i] = 0;
    for (int64_t p = 0; p < pairs; p++) {
        int64_t q = 0, segment = p / r->s.mode / r->s.segment;
        for (int64_t o = 0; o < pairs; o++) q += chosen[o] < chosen[p] || (chosen[o] == chosen[p] && o < p);
        V(r, GROUP_PLACE)[p] = (double)q;
        V(r, GROUP_ROW)[q] = (double)(p / r->s.mode);
        V(r, GROUP_EXPERT)[q] = chosen[p];
        for (int64_t i = (int64_t)chosen[p] * S + segment + 1; i <= r->s.H * S; i++) V(r, GROUP_START)[i]++;
    }
}

// H experts of [M,K]; mode: how many pairs share a row of x. The rows of pairs, brought into order and back around the op.
enum { ME_OUT, ME_X, ME_W, ME_CHOSEN };
enum { EXPERTS_IN_TESTS = 8 };
static void experts_declare(struct op_run *r) {
    f32(r, "out", OUT | BY_ROW | FLAT, r->s.n, r->s.mode * r->s.M);
    f32(r, "x", IN | BY_ROW, r->s.n, r->s.K);
    spread(r, add(r, "w", IN, r->dtype, r->s.H * r->s.M, r->s.K), 1);
    choose_experts(r, add(r, "chosen", IN | BY_ROW | FLAT, DTYPE_I32, r->s.n, r->s.mode));
}
static void load_experts(const struct op_run *r, const struct backend *b, struct tensor *w, bool *owned) {
    assert(r->s.H <= EXPERTS_IN_TESTS);
    for (int64_t e = 0; e < r->s.H; e++) {
        w[e] = tensor_rows(T(r, ME_W), e * r->s.M, r->s.M);
        struct tensor on_host = w[e];
        on_host.data = (unsigned char *)host(r, ME_W) + (size_t)(e * r->s.M) * on_host.row_bytes;
        struct err err;
        bool loaded = !r->s.loaded || b->weight_load(&w[e], &on_host, &owned[e], &err);
        assert(loaded);
        (void)loaded;
    }
}
static void experts_call(const struct op_run *r, const struct backend *b) {
    struct tensor w[EXPERTS_IN_TESTS];
    bool owned[EXPERTS_IN_TESTS] = {0};
    load_experts(r, b, w, owned);
    struct grouped g = group_open(r, b, P(r, ME_CHOSEN), r->buf[ME_X].rows);
    struct tensor x = group_gather(r, b, &g, ME_X);
    struct tensor out = tensor_f32(room_of(b, (size_t)(g.pairs * r->s.M) * sizeof(float)), g.pairs, r->s.M);
    b->matmul_experts(&(struct matmul_experts_args){out, x, w, g.start, r->s.H, g.segments, precision_of(r)});
    group_scatter(b, &g, out, P(r, ME_OUT));
    b->free(x.data);
    group_close(b, &g);
    for (int64_t e = 0; e < r->s.H; e++)
        if (owned[e]) b->free(w[e].data);
}
static void experts_reference(const struct op_run *r) {
    int64_t M = r->s.M, K = r->s.K, each = r->s.mode;
    take_rounded(r, ME_X), take_rounded(r, ME_W), take_whole(r, ME_X);
    for (int64_t p = 0; p < r->s.n * each; p++)
        for (int64_t m = 0; m < M; m++) {
            const double *w = V(r, ME_W) + ((int64_t)V(r, ME_CHOSEN)[p] * M + m) * K;
            double sum = 0;
            for (int64_t k = 0; k < K; k++) sum += V(r, ME_X)[p / each * K + k] * w[k];
            V(r, ME_OUT)[p * M + m] = sum;
        }
}

// dx [n*mode,K] in order of pairs from dout [n*mode,M]; accumulate: added to.
enum { MED_DX, MED_DOUT, MED_W, MED_CHOSEN };
static void experts_dx_declare(struct op_run *r) {
    f32(r, "dx", (r->s.accumulate ? BOTH : OUT) | BY_ROW | FLAT, r->s.n, r->s.mode * r->s.K);
    f32(r, "dout", IN | BY_ROW | FLAT, r->s.n, r->s.mode * r->s.M);
    spread(r, add(r, "w", IN, r->dtype, r->s.H * r->s.M, r->s.K), 1);
    choose_experts(r, add(r, "chosen", IN | BY_ROW | FLAT, DTYPE_I32, r->s.n, r->s.mode));
}
static void experts_dx_call(const struct op_run *r, const struct backend *b) {
    struct tensor w[EXPERTS_IN_TESTS];
    bool owned[EXPERTS_IN_TESTS] = {0};
    load_experts(r, b, w, owned);
    struct grouped g = group_open(r, b, P(r, MED_CHOSEN), r->buf[MED_DX].rows);
    struct tensor dout = gather_pairs(r, b, &g, MED_DOUT, r->s.M), dx = gather_pairs(r, b, &g, MED_DX, r->s.K);
    b->matmul_experts_dx(&(struct matmul_experts_dx_args){dx, dout, w, g.start, r->s.H, g.segments, r->s.accumulate, precision_of(r)});
    group_scatter(b, &g, dx, P(r, MED_DX));
    b->free(dout.data);
    group_close(b, &g);
}
static void experts_dx_reference(const struct op_run *r) {
    int64_t M = r->s.M, K = r->s.K;
    take_rounded(r, MED_DOUT), take_rounded(r, MED_W);
    for (int64_t p = 0; p < r->s.n * r->s.mode; p++)
        for (int64_t k = 0; k < K; k++) {
            const double *w = V(r, MED_W) + (int64_t)V(r, MED_CHOSEN)[p] * M * K;
            double sum = r->s.accumulate ? V(r, MED_DX)[p * K + k] : 0;
            for (int64_t m = 0; m < M; m++) sum += V(r, MED_DOUT)[p * M + m] * w[m * K + k];
            V(r, MED_DX)[p * K + k] = sum;
        }
}

// dw of H experts from n rows of mode pairs; accumulate: not fresh.
enum { MEW_DW, MEW_DOUT, MEW_X, MEW_CHOSEN };
static void experts_dw_declare(struct op_run *r) {
    f32(r, "dw", r->s.accumulate ? BOTH : OUT, r->s.H * r->s.M, r->s.K);
    f32(r, "dout", IN | BY_ROW | FLAT, r->s.n, r->s.mode * r->s.M);
    f32(r, "x", IN | BY_ROW, r->s.n, r->s.K);
    struct op_buf *chosen = add(r, "chosen", IN | BY_ROW | FLAT, DTYPE_I32, r->s.n, r->s.mode);
    choose_experts(r, chosen);
    for (int64_t i = 0; r->s.H > 2 && i < r->s.n * r->s.mode; i++) // one that nobody chose
        if (chosen->v[i] == 1) chosen->v[i] = 0;
}
static void experts_dw_call(const struct op_run *r, const struct backend *b) {
    struct grouped g = group_open(r, b, P(r, MEW_CHOSEN), r->buf[MEW_X].rows);
    struct tensor dout = gather_pairs(r, b, &g, MEW_DOUT, r->s.M), x = group_gather(r, b, &g, MEW_X);
    b->matmul_experts_dw(&(struct matmul_experts_dw_args){T(r, MEW_DW), dout, x, g.start, r->s.H, g.segments, precision_of(r),
                                                          !r->s.accumulate});
    b->free(dout.data), b->free(x.data);
    group_close(b, &g);
}
static void experts_dw_reference(const struct op_run *r) {
    int64_t M = r->s.M, K = r->s.K;
    take_rounded(r, MEW_DOUT), take_rounded(r, MEW_X);
    if (!r->s.accumulate) memset(V(r, MEW_DW), 0, (size_t)(r->s.H * M * K) * sizeof(double));
    for (int64_t p = 0; p < r->s.n * r->s.mode; p++)
        for (int64_t m = 0; m < M; m++)
            for (int64_t k = 0; k < K; k++)
                V(r, MEW_DW)[((int64_t)V(r, MEW_CHOSEN)[p] * M + m) * K + k] +=
                    V(r, MEW_DOUT)[p * M + m] * V(r, MEW_X)[p / r->s.mode * K + k];
}

// K parts to a row.
enum { MIX_OUT, MIX_X, MIX_WEIGHT };
static void mix_declare(struct op_run *r) {
    f32(r, "out", OUT | BY_ROW, r->s.n, r->s.C);
    f32(r, "x", IN | BY_ROW | FLAT, r->s.n, r->s.K * r->s.C);
    f32(r, "weight", IN | BY_ROW | FLAT | (r->s.mode == 1 ? UNREAD : 0), r->s.n, r->s.K);
}
static void mix_call(const struct op_run *r, const struct backend *b) {
    struct tensor x = tensor_f32(P(r, MIX_X), r->buf[MIX_X].rows * r->s.K, r->s.C);
    b->mix(&(struct mix_args){T(r, MIX_OUT), x, r->s.mode == 1 ? NULL : P(r, MIX_WEIGHT), r->s.K, NULL});
}
static void mix_reference(const struct op_run *r) {
    int64_t C = r->s.C, K = r->s.K;
    for (int64_t i = 0; i < r->s.n; i++)
        for (int64_t c = 0; c < C; c++) {
            double sum = 0;
            for (int64_t k = 0; k < K; k++) sum += (r->s.mode == 1 ? 1 : V(r, MIX_WEIGHT)[i * K + k]) * V(r, MIX_X)[(i * K + k) * C + c];
            V(r, MIX_OUT)[i * C + c] = sum;
        }
}

// Places: those of the pairs in order, turned around. mode 1: out of mix is in the loss, the weights are no variables.
enum { MIXB_DX, MIXB_DOUT, MIXB_WEIGHT, MIXB_PLACE };
static void mix_back_declare(struct op_run *r) {
    int64_t pairs = r->s.n * r->s.K;
    f32(r, "dx", OUT, pairs, r->s.C);
    f32(r, "dout", IN, r->s.n, r->s.C);
    f32(r, "weight", IN | FLAT, r->s.n, r->s.K);
    struct op_buf *place = add(r, "place", IN | FLAT, DTYPE_I32, pairs, 1);
    for (int64_t p = 0; p < pairs; p++) place->v[p] = (double)(pairs - 1 - p);
}
static void mix_back_call(const struct op_run *r, const struct backend *b) {
    b->mix_back(&(struct mix_back_args){T(r, MIXB_DX), T(r, MIXB_DOUT), P(r, MIXB_WEIGHT), r->s.K, P(r, MIXB_PLACE), r->s.scale});
}
static void mix_back_reference(const struct op_run *r) {
    int64_t C = r->s.C;
    for (int64_t p = 0; p < r->s.n * r->s.K; p++)
        for (int64_t c = 0; c < C; c++)
            V(r, MIXB_DX)[(int64_t)V(r, MIXB_PLACE)[p] * C + c] = scale_of(r) * V(r, MIXB_WEIGHT)[p] * V(r, MIXB_DOUT)[p / r->s.K * C + c];
}

// C experts, K of them chosen, M wide; mode 1: renormalized; segment: rows that share a row of balance; scale: the z-loss.
// x in order of pairs, turned around; dx is what comes back through the weight.
enum { RB_DLOGITS, RB_OTHER, RB_LOGITS, RB_X, RB_DY, RB_BALANCE };
static void route_back_declare(struct op_run *r) {
    int64_t n = r->s.n;
    f32(r, "dlogits", OUT | BY_ROW, n, r->s.C);
    add(r, "other", OUT | BY_ROW | FLAT, DTYPE_F32, n, 1);
    f32(r, "logits", IN | BY_ROW, n, r->s.C);
    f32(r, "x", IN | BY_ROW | FLAT, n, r->s.K * r->s.M);
    f32(r, "dy", IN | BY_ROW | FLAT, n, r->s.K * r->s.M);
    f32(r, "balance", IN, r->s.segment ? n / r->s.segment : 1, r->s.C);
}
static void route_back_call(const struct op_run *r, const struct backend *b) {
    int64_t n = r->buf[RB_LOGITS].rows, used = r->s.K, pairs = n * used, M = r->s.M;
    const size_t list = (size_t)pairs * sizeof(int32_t), rows = (size_t)(pairs * M) * sizeof(float);
    int32_t *chosen = room_of(b, list), *place = mem_alloc(list, "test list");
    float *weight = room_of(b, list), *known = mem_alloc(list, "test list"), *xs = mem_alloc(rows + 1, "test rows"), *dxs = mem_alloc(rows + 1, "test rows");
    struct tensor balance = T(r, RB_BALANCE);
    b->route(&(struct route_args){T(r, RB_LOGITS), chosen, weight, used, r->s.mode == 1});
    b->download(known, weight, list);
    for (int64_t p = 0; p < pairs; p++) {
        place[p] = (int32_t)(pairs - 1 - p);
        for (int64_t m = 0; m < M; m++) {
            xs[place[p] * M + m] = ((const float *)host(r, RB_X))[p * M + m];
            dxs[place[p] * M + m] = known[p] * ((const float *)host(r, RB_DY))[p * M + m];
        }
    }
    int32_t *places = sent(b, place, list);
    struct tensor x = tensor_f32(sent(b, xs, rows), pairs, M), dx = tensor_f32(sent(b, dxs, rows), pairs, M);
    if (!r->s.segment) balance.rows = 1;
    b->route_back(&(struct route_back_args){T(r, RB_DLOGITS), T(r, RB_LOGITS), x, dx, r->s.H ? (struct tensor){0} : balance, chosen, places,
                                            weight, P(r, RB_OTHER), used, r->s.mode == 1, r->s.scale});
    b->sync();
    b->free(chosen), b->free(places), b->free(weight), b->free(x.data), b->free(dx.data);
    mem_free(place), mem_free(known), mem_free(xs), mem_free(dxs);
}
static double route_back_loss(const struct op_run *r) {
    int64_t E = r->s.C, used = r->s.K, M = r->s.M;
    double loss = 0;
    for (int64_t i = 0; i < r->s.n; i++) {
        const double *z = V(r, RB_LOGITS) + i * E, *balance = V(r, RB_BALANCE) + (r->s.segment ? i / r->s.segment * E : 0);
        double sum = 0, kept = 0, other = 0;
        for (int64_t e = 0; e < E; e++) sum += exp(z[e]);
        for (int64_t e = 0; e < E && !r->s.H; e++) other += balance[e] * exp(z[e]) / sum;
        V(r, RB_OTHER)[i] = other + (double)r->s.scale * log(sum) * log(sum);
        loss += V(r, RB_OTHER)[i];
        for (int pass = 0; pass < 2; pass++)
            for (int64_t e = 0; e < E; e++) {
                int64_t k = 0, at = i * used * M;
                double worth = 0;
                for (int64_t o = 0; o < E; o++) k += z[o] > z[e] || (z[o] == z[e] && o < e);
                if (k >= used) continue;
                for (int64_t m = 0; m < M; m++) worth += V(r, RB_X)[at + k * M + m] * V(r, RB_DY)[at + k * M + m];
                if (pass == 0) kept += exp(z[e]);
                else loss += exp(z[e]) / (r->s.mode == 1 ? kept : sum) * worth;
            }
    }
    return loss;
}

// ---------------------------------------------------------------------------------------------------------------
// The table. Shapes: 1, a vector's width and its neighbours, more than one block of 256.

#define BIT(d) (1u << DTYPE_##d)
#define SHAPES(...)                                                                                \
    (const struct op_shape[]){__VA_ARGS__}, COUNT_OF(((const struct op_shape[]){__VA_ARGS__}))
#define FLOATS (BIT(F32) | BIT(F16) | BIT(BF16))
#define BLOCKS_CACHE (BIT(Q8_0) | BIT(Q4_0)) // what a cache may be kept in
#define BLOCKS                                                                                     \
    (BIT(Q8_0) | BIT(Q4_0) | BIT(Q4_1) | BIT(Q5_0) | BIT(Q5_1) | BIT(IQ4_NL) | BIT(MXFP4))
#define BLOCKS_256 (BIT(Q2_K) | BIT(Q3_K) | BIT(Q4_K) | BIT(Q5_K) | BIT(Q6_K) | BIT(IQ4_XS))

// clang-format off: a row reads as a row
const struct op_spec op_specs[] = {
    {OP_EMBED, "embed", FLOATS,
     SHAPES({.n = 1, .C = 1, .M = 1}, {.n = 5, .C = 33, .M = 7, .scale = 12},
            {.n = 19, .C = 257, .M = 40, .loaded = true},
            {.n = 3, .C = 31, .M = 17, .scale = .5f, .loaded = true},
            {.n = 16, .C = 64, .M = 64, .loaded = true}),
     embed_declare, embed_call, .reference = embed_reference, .terms = terms_few, .unit = 1},
    {OP_EMBED, "embed blocks", BLOCKS,
     SHAPES({.n = 1, .C = 32, .M = 1}, {.n = 5, .C = 96, .M = 7, .scale = 12, .loaded = true},
            {.n = 19, .C = 320, .M = 40, .loaded = true}),
     embed_declare, embed_call, .reference = embed_reference, .terms = terms_few, .unit = 1},
    {OP_EMBED, "embed blocks of 256", BLOCKS_256,
     SHAPES({.n = 1, .C = 256, .M = 1}, {.n = 5, .C = 512, .M = 7, .scale = 12, .loaded = true},
            {.n = 19, .C = 256, .M = 40, .loaded = true}),
     embed_declare, embed_call, .reference = embed_reference, .terms = terms_few, .unit = 1},
    {OP_EMBED_BACK, "embed_back", BIT(F32),
     SHAPES({.n = 1, .C = 1, .M = 1}, {.n = 19, .C = 65, .M = 4, .scale = 3},
            {.n = 7, .C = 257, .M = 3}),
     embed_back_declare, embed_back_call, .loss = embed_back_loss,
     .pairs = {{EMBED_BACK_DTABLE, EMBED_BACK_TABLE, 0}}, .n_pairs = 1, .terms = terms_n,
     .unit = 1},
    {OP_RMSNORM, "rmsnorm", BIT(F32),
     SHAPES({.n = 1, .C = 1}, {.n = 3, .C = 31}, {.n = 5, .C = 33}, {.n = 2, .C = 65, .mode = 1},
            {.n = 19, .C = 257}, {.n = 4, .C = 1024, .mode = 1}, {.n = 2, .C = 600}, {.n = 2, .C = 9001}),
     rmsnorm_declare, rmsnorm_call, .reference = rmsnorm_reference, .terms = terms_C, .unit = 1},
    {OP_RMSNORM_BACK, "rmsnorm_back", BIT(F32),
     SHAPES({.n = 1, .C = 3, .segment = 1}, {.n = 4, .C = 33, .segment = 2},
            {.n = 18, .C = 65, .segment = 6}, {.n = 6, .C = 257, .segment = 3}, {.n = 6, .C = 2100, .segment = 3}, {.n = 90, .C = 40, .segment = 45}),
     rmsnorm_back_declare, rmsnorm_back_call, .loss = rmsnorm_back_loss,
     .pairs = {{NORM_BACK_DX, NORM_BACK_X, 0}, {NORM_BACK_DW, NORM_BACK_W, 0}}, .n_pairs = 2,
     .terms = terms_C, .unit = -1},
    {OP_MATMUL, "matmul", FLOATS,
     SHAPES({.n = 1, .K = 1, .M = 1}, {.n = 1, .K = 3, .M = 31},
            {.n = 2, .K = 31, .M = 33, .scale = .5f},
            {.n = 5, .K = 257, .M = 65, .accumulate = true},
            {.n = 19, .K = 64, .M = 257, .scale = 2, .accumulate = true},
            {.n = 1, .K = 600, .M = 40}, {.n = 7, .K = 515, .M = 17},
            {.n = 1, .K = 1, .M = 1, .loaded = true}, {.n = 1, .K = 600, .M = 40, .loaded = true},
            {.n = 3, .K = 257, .M = 33, .scale = .5f, .loaded = true},
            {.n = 19, .K = 512, .M = 65, .loaded = true},
            {.n = 2, .K = 33, .M = 1, .accumulate = true, .loaded = true},
            {.n = 65, .K = 96, .M = 48, .loaded = true},
            {.n = 200, .K = 300, .M = 129, .loaded = true},
            {.n = 6, .K = 300, .M = 128, .scale = 3, .accumulate = true, .loaded = true}),
     matmul_declare, matmul_call, .reference = matmul_reference, .terms = terms_K, .unit = 1},
    // Of 20,000 sums over many dtypes a few pass 35 on the way to a result of 12 (plain C with seed 1006: 4.8e-5 off
    // where 4.7e-5 is allowed for): hence the amplify of the last shape.
    {OP_MATMUL, "matmul blocks", BLOCKS,
     SHAPES({.n = 1, .K = 32, .M = 1}, {.n = 3, .K = 288, .M = 33, .scale = .5f},
            {.n = 1, .K = 32, .M = 1, .loaded = true}, {.n = 1, .K = 608, .M = 31, .loaded = true},
            {.n = 5, .K = 256, .M = 65, .accumulate = true, .loaded = true},
            {.n = 19, .K = 544, .M = 48, .loaded = true},
            {.n = 200, .K = 320, .M = 97, .loaded = true, .amplify = 1.5f}),
     matmul_declare, matmul_call, .reference = matmul_reference, .terms = terms_K, .unit = 1},
    {OP_MATMUL, "matmul blocks of 256", BLOCKS_256,
     SHAPES({.n = 1, .K = 256, .M = 1}, {.n = 3, .K = 512, .M = 33, .scale = .5f},
            {.n = 1, .K = 768, .M = 31, .loaded = true},
            {.n = 5, .K = 256, .M = 65, .accumulate = true, .loaded = true},
            {.n = 100, .K = 512, .M = 49, .loaded = true}),
     matmul_declare, matmul_call, .reference = matmul_reference, .terms = terms_K, .unit = 1},
    {OP_MATMUL_DX, "matmul_dx", BIT(F32) | BIT(BF16),
     SHAPES({.n = 1, .K = 1, .M = 1}, {.n = 3, .K = 31, .M = 33, .scale = .5f},
            {.n = 5, .K = 65, .M = 257, .accumulate = true},
            {.n = 19, .K = 257, .M = 48, .scale = 2, .accumulate = true},
            {.n = 2, .K = 17, .M = 600}, {.n = 140, .K = 80, .M = 90}),
     matmul_dx_declare, matmul_dx_call, .reference = matmul_dx_reference, .loss = matmul_dx_loss,
     .pairs = {{DX_DX, DX_X, 0}}, .n_pairs = 1, .terms = terms_M, .unit = 1},
    {OP_MATMUL_DW, "matmul_dw", BIT(F32),
     SHAPES({.n = 1, .K = 1, .M = 1, .segment = 1},
            {.n = 6, .K = 31, .M = 33, .segment = 3, .scale = .5f},
            {.n = 19, .K = 65, .M = 17, .segment = 19},
            {.n = 600, .K = 33, .M = 18, .segment = 300},
            {.n = 8, .K = 257, .M = 3, .segment = 2, .scale = 2}),
     matmul_dw_declare, matmul_dw_call, .reference = matmul_dw_reference, .loss = matmul_dw_loss,
     .pairs = {{DW_DW, DW_W, 0}}, .n_pairs = 1, .terms = terms_n, .unit = -1},
    {OP_MATMUL_DW, "matmul_dw fresh", BIT(F32),
     SHAPES({.n = 6, .K = 31, .M = 33, .segment = 3, .scale = .5f, .mode = 1}, {.n = 600, .K = 33, .M = 18, .segment = 300, .mode = 1}),
     matmul_dw_declare, matmul_dw_call, .reference = matmul_dw_reference, .terms = terms_n, .unit = 0},
    {OP_MATMUL_DW, "matmul_dw fresh rounded", BIT(F32),
     SHAPES({.n = 6, .K = 31, .M = 33, .segment = 3, .scale = .5f, .mode = 1}, {.n = 600, .K = 64, .M = 96, .segment = 300, .mode = 1}),
     matmul_dw_declare, matmul_dw_call, .reference = matmul_dw_reference, .terms = terms_n, .unit = 0, .rounds = true},
    // Tiles are 32 rows by 32 columns by 32 terms, blocks 288 terms, pieces 512 rows and 8 panels of 32 columns.
    {OP_MATMUL, "matmul rounded", FLOATS,
     SHAPES({.n = 1, .K = 1, .M = 1}, {.n = 2, .K = 31, .M = 33, .scale = .5f},
            {.n = 17, .K = 577, .M = 65, .accumulate = true}, {.n = 1, .K = 1200, .M = 40},
            {.n = 3, .K = 257, .M = 33, .scale = .5f, .accumulate = true, .loaded = true},
            {.n = 33, .K = 32, .M = 16, .loaded = true}, {.n = 19, .K = 33, .M = 17, .loaded = true},
            {.n = 2, .K = 600, .M = 1, .loaded = true},
            {.n = 70, .K = 1153, .M = 31, .scale = 3, .accumulate = true, .loaded = true},
            {.n = 200, .K = 96, .M = 330, .loaded = true}, {.n = 530, .K = 40, .M = 33, .loaded = true}),
     matmul_declare, matmul_call, .reference = matmul_reference, .terms = terms_K, .unit = 1, .rounds = true},
    {OP_MATMUL, "matmul rounded blocks", BLOCKS,
     SHAPES({.n = 1, .K = 32, .M = 1}, {.n = 3, .K = 608, .M = 33, .scale = .5f},
            {.n = 1, .K = 32, .M = 1, .loaded = true}, {.n = 1, .K = 608, .M = 31, .loaded = true},
            {.n = 17, .K = 256, .M = 65, .accumulate = true, .loaded = true},
            {.n = 40, .K = 1184, .M = 48, .loaded = true}),
     matmul_declare, matmul_call, .reference = matmul_reference, .terms = terms_K, .unit = 1, .rounds = true},
    {OP_MATMUL, "matmul rounded blocks of 256", BLOCKS_256,
     SHAPES({.n = 1, .K = 256, .M = 1}, {.n = 3, .K = 1024, .M = 33, .scale = .5f},
            {.n = 1, .K = 768, .M = 31, .loaded = true},
            {.n = 18, .K = 1280, .M = 65, .accumulate = true, .loaded = true}),
     matmul_declare, matmul_call, .reference = matmul_reference, .terms = terms_K, .unit = 1, .rounds = true},
    {OP_MATMUL_DX, "matmul_dx rounded", BIT(F32) | BIT(BF16),
     SHAPES({.n = 1, .K = 1, .M = 1}, {.n = 3, .K = 31, .M = 33, .scale = .5f},
            {.n = 5, .K = 65, .M = 579, .accumulate = true},
            {.n = 40, .K = 257, .M = 48, .scale = 2, .accumulate = true}, {.n = 140, .K = 80, .M = 1201}),
     matmul_dx_declare, matmul_dx_call, .reference = matmul_dx_reference, .terms = terms_M, .unit = 1, .rounds = true},
    {OP_MATMUL_DW, "matmul_dw rounded", BIT(F32),
     SHAPES({.n = 1, .K = 1, .M = 1, .segment = 1}, {.n = 6, .K = 31, .M = 33, .segment = 3, .scale = .5f},
            {.n = 70, .K = 65, .M = 17, .segment = 35}, {.n = 1200, .K = 33, .M = 18, .segment = 600},
            {.n = 64, .K = 257, .M = 40, .segment = 32, .scale = 2}, {.n = 4, .K = 33, .M = 4100, .segment = 4}),
     matmul_dw_declare, matmul_dw_call, .reference = matmul_dw_reference, .terms = terms_n, .unit = -1, .rounds = true},
    {OP_PROJECT, "project", FLOATS,
     SHAPES({.n = 1, .K = 1, .M = 1, .G = 1, .H = 1}, {.n = 3, .K = 70, .M = 33, .G = 5, .H = 64, .loaded = true},
            {.n = 9, .K = 257, .M = 40, .G = 31, .H = 2, .mode = 1, .loaded = true},
            {.n = 20, .K = 96, .M = 130, .G = 33, .H = 33, .mode = 2}),
     project_declare, project_call, .reference = project_reference, .terms = terms_K, .unit = 1},
    {OP_FEED_FORWARD, "feed_forward", FLOATS,
     SHAPES({.n = 1, .K = 1, .C = 1, .M = 1}, {.n = 3, .K = 70, .C = 90, .M = 33, .loaded = true, .amplify = 3},
            {.n = 9, .K = 65, .C = 40, .M = 31, .mode = 1, .scale = .5f, .accumulate = true, .loaded = true, .amplify = 3},
            {.n = 20, .K = 96, .C = 70, .M = 17, .mode = 2, .accumulate = true, .amplify = 3},
            {.n = 5, .K = 64, .C = 130, .M = 64, .mode = 4, .loaded = true, .amplify = 3}),
     feed_declare, feed_call, .reference = feed_reference, .terms = terms_branch, .unit = 1},
    {OP_ROPE, "rope", BIT(F32),
     SHAPES({.n = 1, .H = 1, .D = 2, .K = 2, .M = 10},
            {.n = 3, .H = 3, .D = 32, .K = 32, .M = 100000},
            {.n = 3, .H = 3, .D = 32, .K = 32, .M = 4096, .mode = 1},
            {.n = 19, .H = 2, .D = 64, .K = 48, .M = 4096, .mode = 1},
            {.n = 5, .H = 5, .D = 16, .K = 10, .M = 4096},
            {.n = 7, .H = 4, .D = 64, .K = 64, .M = 4096, .mode = 2},
            {.n = 2, .H = 1, .D = 6, .K = 6, .M = 4096, .mode = 3},
            {.n = 3, .H = 3, .D = 32, .K = 20, .M = 4096, .mode = 1, .scale = 1.3f},
            {.n = 3, .H = 1, .D = 300, .K = 300, .M = 4096, .scale = .8f},
            {.n = 2, .H = 1, .D = 6, .K = 0, .M = 50, .mode = 1}),
     rope_declare, rope_call, .reference = rope_reference, .terms = terms_few, .unit = 1},
    {OP_STORE_ROWS, "store_rows", FLOATS,
     SHAPES({.n = 1, .C = 1, .M = 80}, {.n = 5, .C = 33, .M = 90}, {.n = 19, .C = 257, .M = 80}),
     store_rows_declare, store_rows_call, .reference = store_rows_reference, .terms = terms_few,
     .unit = 1},
    {OP_STORE_ROWS, "store_rows of blocks", BLOCKS_CACHE,
     SHAPES({.n = 1, .C = 32, .M = 80}, {.n = 19, .C = 192, .D = 64, .M = 80}),
     store_rows_declare, store_rows_call, .reference = store_rows_reference, .terms = terms_few,
     .unit = 1},
    // A score's own rounding comes out as a factor of e^error: amplify is the size of the scores.
    {OP_ATTEND, "attend cache", FLOATS,
     SHAPES({.n = 1, .H = 1, .G = 1, .D = 1, .K = 1, .scale = 1},
            {.n = 3, .H = 2, .G = 1, .D = 8, .K = 33, .scale = .35f},
            {.n = 5, .H = 6, .G = 3, .D = 31, .K = 65, .scale = .18f},
            {.n = 19, .H = 4, .G = 4, .D = 64, .K = 257, .scale = .125f},
            {.n = 4, .H = 8, .G = 2, .D = 128, .K = 300, .scale = .09f, .mode = 1},
            {.n = 3, .H = 2, .G = 2, .D = 32, .K = 40, .scale = 8, .amplify = 50},
            {.n = 3, .H = 2, .G = 2, .D = 16, .K = 40, .scale = 500, .amplify = 2000},
            {.n = 1, .H = 2, .G = 1, .D = 64, .K = 1200, .scale = .125f},
            {.n = 5, .H = 6, .G = 3, .D = 31, .K = 65, .scale = .18f, .softcap = .7f},
            {.n = 19, .H = 4, .G = 1, .D = 64, .K = 300, .scale = 2, .softcap = 50, .amplify = 50}),
     attend_declare, attend_call, .reference = attend_reference, .terms = terms_attend, .unit = 1},
    {OP_ATTEND, "attend cache of blocks", BLOCKS_CACHE,
     SHAPES({.n = 3, .H = 2, .G = 1, .D = 32, .K = 33, .scale = .35f},
            {.n = 19, .H = 4, .G = 2, .D = 64, .K = 300, .scale = .125f, .mode = 2}),
     attend_declare, attend_call, .reference = attend_reference, .terms = terms_attend, .unit = 1},
    {OP_ATTEND, "attend held cache", FLOATS,
     SHAPES({.n = 1, .H = 1, .G = 1, .D = 1, .K = 1, .scale = 1},
            {.n = 5, .H = 6, .G = 3, .D = 31, .K = 65, .scale = .18f, .amplify = 2},
            {.n = 19, .H = 4, .G = 4, .D = 64, .K = 257, .scale = .125f, .mode = 2},
            {.n = 1, .H = 6, .G = 2, .D = 64, .K = 1200, .scale = .125f},
            {.n = 40, .H = 3, .G = 1, .D = 80, .K = 700, .scale = .11f, .mode = 1},
            {.n = 2, .H = 1, .G = 1, .D = 320, .K = 300, .scale = .06f},
            {.n = 5, .H = 6, .G = 3, .D = 64, .K = 65, .scale = .18f, .softcap = .7f}),
     attend_declare, attend_held_call, .reference = attend_reference, .terms = terms_attend, .unit = 1},
    {OP_ATTEND, "attend held cache of blocks", BLOCKS_CACHE,
     SHAPES({.n = 3, .H = 2, .G = 1, .D = 32, .K = 33, .scale = .35f},
            {.n = 19, .H = 4, .G = 4, .D = 64, .K = 257, .scale = .125f, .mode = 2},
            {.n = 1, .H = 6, .G = 2, .D = 64, .K = 1200, .scale = .125f},
            {.n = 2, .H = 14, .G = 2, .D = 128, .K = 300, .scale = .09f, .amplify = 2},
            {.n = 40, .H = 3, .G = 1, .D = 96, .K = 700, .scale = .1f, .mode = 1}),
     attend_declare, attend_held_call, .reference = attend_reference, .terms = terms_attend, .unit = 1},
    {OP_ATTEND, "attend rows", BIT(F32),
     SHAPES({.n = 1, .H = 1, .G = 1, .D = 4, .scale = .5f},
            {.n = 19, .H = 4, .G = 2, .D = 33, .scale = .17f},
            {.n = 65, .H = 2, .G = 2, .D = 64, .segment = 13, .scale = .125f},
            {.n = 19, .H = 4, .G = 2, .D = 33, .scale = .17f, .drop = 6554, .amplify = 2},
            {.n = 300, .H = 2, .G = 1, .D = 16, .scale = .25f, .drop = 20000, .amplify = 2}),
     attend_declare, attend_call, .reference = attend_reference, .terms = terms_attend, .unit = 1},
    // A p_j is off by 2^-8 of itself at most, 0.41 of that on average, in either direction, so a sum of p_j v_j by 0.41
    // 2^-8 of what it is itself, on average over random v; none of some 10^5 by six times that.
    {OP_ATTEND, "attend rounded rows", FLOATS,
     SHAPES({.n = 1, .H = 1, .G = 1, .D = 32, .scale = .2f}, {.n = 19, .H = 4, .G = 2, .D = 96, .scale = .1f},
            {.n = 170, .H = 5, .G = 1, .D = 32, .segment = 85, .scale = .3f}, {.n = 70, .H = 2, .G = 2, .D = 256, .scale = .06f},
            {.n = 300, .H = 2, .G = 1, .D = 64, .scale = .125f, .softcap = 2},
            {.n = 300, .H = 2, .G = 1, .D = 64, .scale = .125f, .drop = 13107}),
     attend_declare, attend_call, .reference = attend_reference, .terms = terms_attend, .rounds = true, .inner = 0x3p-8, .unit = 1},
    {OP_ATTEND, "attend rounded cache", FLOATS,
     SHAPES({.n = 1, .H = 6, .G = 2, .D = 64, .K = 700, .scale = .125f}, {.n = 5, .H = 6, .G = 3, .D = 32, .K = 65, .scale = .18f, .softcap = .7f},
            {.n = 19, .H = 4, .G = 4, .D = 64, .K = 257, .scale = .125f, .mode = 2},
            {.n = 60, .H = 14, .G = 2, .D = 128, .K = 300, .scale = .09f}),
     attend_declare, attend_held_call, .reference = attend_reference, .terms = terms_attend, .rounds = true, .inner = 0x3p-8, .unit = 1},
    {OP_ATTEND, "attend rounded cache of blocks", BLOCKS_CACHE,
     SHAPES({.n = 3, .H = 2, .G = 1, .D = 32, .K = 33, .scale = .35f}, {.n = 40, .H = 3, .G = 1, .D = 96, .K = 600, .scale = .1f}),
     attend_declare, attend_held_call, .reference = attend_reference, .terms = terms_attend, .rounds = true, .inner = 0x3p-8, .unit = 1},
    // dout . v, of size sqrt(D), less its mean over the keys: where one key has all the weight nothing is left but
    // rounding, scale * sqrt(D) = 1 of epsilon beside gradients of 0.3.
    {OP_ATTEND_BACK, "attend_back", BIT(F32),
     SHAPES(
         {.n = 1, .H = 1, .G = 1, .D = 1, .segment = 1, .scale = 1, .amplify = 4},
         {.n = 3, .H = 2, .G = 1, .D = 5, .segment = 3, .scale = .4f, .amplify = 4},
         {.n = 18, .H = 4, .G = 2, .D = 33, .segment = 9, .scale = .17f, .mode = 1, .amplify = 4},
         {.n = 34, .H = 2, .G = 2, .D = 64, .segment = 17, .scale = .125f, .amplify = 4},
         {.n = 130, .H = 2, .G = 1, .D = 16, .segment = 65, .scale = .25f, .amplify = 4},
         {.n = 18, .H = 4, .G = 2, .D = 33, .segment = 9, .scale = .17f, .amplify = 4, .drop = 13107},
         {.n = 130, .H = 2, .G = 1, .D = 16, .segment = 65, .scale = .25f, .amplify = 4, .drop = 6554}),
     attend_back_declare, attend_back_call, .loss = attend_back_loss,
     .pairs = {{AB_DQ, AB_Q, 0}, {AB_DK, AB_K, 0}, {AB_DV, AB_V, 0}}, .n_pairs = 3,
     .terms = terms_attend, .unit = -1},
    {OP_GLU, "glu", BIT(F32),
     SHAPES({.n = 1, .C = 1}, {.n = 3, .C = 31, .mode = 1}, {.n = 5, .C = 65, .mode = 2},
            {.n = 19, .C = 257}, {.n = 2, .C = 33, .M = GLU_GELU},
            {.n = 7, .C = 257, .M = GLU_GELU, .mode = 1}, {.n = 3, .C = 65, .scale = 100},
            {.n = 3, .C = 65, .M = GLU_GELU, .scale = 1000}, {.n = 5, .C = 65, .M = GLU_GELU, .mode = 3},
            {.n = 2, .C = 33, .mode = 3}, {.n = 5, .C = 33, .M = GLU_GELU_ERF, .mode = 1},
            {.n = 3, .C = 65, .M = GLU_RELU2, .mode = 3}, {.n = 19, .C = 257, .M = GLU_SIGMOID, .mode = 2},
            {.n = 5, .C = 65, .M = GLU_CLAMPED, .scale = 10}),
     glu_declare, glu_call, .reference = glu_reference, .terms = terms_few, .unit = 1},
    {OP_GLU_BACK, "glu_back", BIT(F32),
     SHAPES({.n = 1, .C = 1}, {.n = 3, .C = 31}, {.n = 19, .C = 257},
            {.n = 1, .C = 33, .M = GLU_GELU}, {.n = 5, .C = 65, .M = GLU_GELU},
            {.n = 2, .C = 33, .scale = 100}, {.n = 2, .C = 33, .M = GLU_GELU, .scale = 1000}),
     glu_back_declare, glu_back_call, .loss = glu_back_loss,
     .pairs = {{GB_DGATE, GB_GATE, 0}, {GB_DUP, GB_UP, 0}}, .n_pairs = 2, .terms = terms_few,
     .unit = 1},
    {OP_GLU_BACK, "glu_back over gate and up", BIT(F32),
     SHAPES({.n = 3, .C = 33, .mode = 1}, {.n = 2, .C = 65, .M = GLU_GELU, .mode = 1}),
     glu_back_declare, glu_back_call, .loss = glu_back_loss,
     .pairs = {{GB_GATE, GB_GATE, 1}, {GB_UP, GB_UP, 1}}, .n_pairs = 2, .terms = terms_few,
     .unit = 1},
    {OP_GLU_BACK, "glu_back over dout and gate", BIT(F32),
     SHAPES({.n = 3, .C = 33, .mode = 2}, {.n = 2, .C = 65, .M = GLU_GELU, .mode = 2}),
     glu_back_declare, glu_back_call, .loss = glu_back_loss,
     .pairs = {{GB_DOUT, GB_GATE, 1}, {GB_GATE, GB_UP, 1}}, .n_pairs = 2, .terms = terms_few,
     .unit = 1},
    {OP_ADD, "add", BIT(F32),
     SHAPES({.n = 1, .C = 1}, {.n = 3, .C = 31, .scale = .22f, .mode = 1},
            {.n = 5, .C = 65, .scale = -2, .mode = 2}, {.n = 19, .C = 257, .scale = .22f},
            {.n = 7, .C = 33, .scale = 3, .mode = 3}),
     add_declare, add_call, .reference = add_reference, .terms = terms_few, .unit = 1},
    {OP_DROPOUT, "dropout", BIT(F32),
     SHAPES({.n = 1, .C = 1, .drop = 1}, {.n = 3, .C = 31, .drop = 6554, .scale = .22f, .mode = 1},
            {.n = 5, .C = 65, .drop = 13107, .scale = -2, .mode = 2}, {.n = 19, .C = 257, .drop = 32768, .scale = .22f},
            {.n = 7, .C = 48, .drop = 60000, .scale = 3, .mode = 3}),
     drop_declare, drop_call, .reference = drop_reference, .terms = terms_few, .unit = 1},
    {OP_CROSS_ENTROPY, "cross_entropy", BIT(F32),
     SHAPES({.n = 1, .C = 1}, {.n = 3, .C = 31}, {.n = 5, .C = 257, .K = 5},
            {.n = 5, .C = 65, .M = 5000}, {.n = 2, .C = 70000}),
     cross_entropy_declare, cross_entropy_call, .reference = cross_entropy_reference,
     .terms = terms_C, .unit = 1},
    {OP_CROSS_ENTROPY, "cross_entropy with gradient", BIT(F32),
     SHAPES({.n = 1, .C = 3, .scale = 1}, {.n = 3, .C = 33, .scale = .25f, .K = 20},
            {.n = 19, .C = 257, .scale = .5f, .K = 3}, {.n = 2, .C = 1000, .scale = 1},
            {.n = 5, .C = 65, .M = 300, .scale = 1, .amplify = 300}, {.n = 4, .C = 257, .scale = .5f, .K = 5, .z_loss = .125f}),
     cross_entropy_declare, cross_entropy_call, .reference = cross_entropy_reference,
     .loss = cross_entropy_loss, .pairs = {{CE_LOGITS, CE_LOGITS, 1}}, .n_pairs = 1,
     .terms = terms_C, .unit = 1},
    {OP_HEAD_LOSS, "head_loss", BIT(F32) | BIT(BF16),
     SHAPES({.n = 1, .C = 1, .M = 1, .segment = 1}, {.n = 6, .C = 33, .M = 65, .segment = 3},
            {.n = 6, .C = 31, .M = 33, .segment = 3, .scale = .5f, .K = 5, .amplify = 8},
            {.n = 6, .C = 31, .M = 33, .segment = 3, .scale = .5f, .K = 5, .amplify = 8, .z_loss = .125f},
            {.n = 70, .C = 17, .M = 300, .segment = 35, .scale = .25f, .amplify = 8}),
     head_loss_declare, head_loss_call, .reference = head_loss_reference, .loss = head_loss_loss,
     .pairs = {{HEAD_DX, HEAD_X, 1}, {HEAD_DW, HEAD_W, 0}}, .n_pairs = 2, .terms = terms_head, .unit = -1},
    // Sums of e over pieces of up to eight panels, in 32 pieces or more: a vocabulary of 9000 has whole ones.
    {OP_HEAD_LOSS, "head_loss rounded, loss", BIT(F32) | BIT(BF16),
     SHAPES({.n = 1, .C = 1, .M = 3, .segment = 1}, {.n = 40, .C = 33, .M = 65, .segment = 20},
            {.n = 3, .C = 300, .M = 9000, .segment = 3, .K = 1}, {.n = 34, .C = 17, .M = 90, .segment = 17, .mode = 60}),
     head_loss_declare, head_loss_call, .reference = head_loss_reference, .terms = terms_head, .unit = -1, .rounds = true},
    // Where one term is all, dx and dw may lose 2^-9 with each of two factors, here and in what they are compared with:
    // 2^-7 in all, which is 2^13 of what these sums may lose in f32.
    {OP_HEAD_LOSS, "head_loss rounded", BIT(F32) | BIT(BF16),
     SHAPES({.n = 6, .C = 31, .M = 33, .segment = 3, .scale = .5f, .K = 5, .amplify = 8192},
            {.n = 6, .C = 31, .M = 33, .segment = 3, .scale = .5f, .K = 5, .amplify = 8192, .z_loss = .125f},
            {.n = 70, .C = 17, .M = 300, .segment = 35, .scale = .25f, .amplify = 8192},
            {.n = 34, .C = 17, .M = 90, .segment = 17, .scale = .5f, .mode = 60, .amplify = 8192},
            {.n = 1100, .C = 9, .M = 40, .segment = 1100, .scale = .5f, .amplify = 8192}),
     head_loss_declare, head_loss_call, .reference = head_loss_reference, .terms = terms_head, .unit = -1, .rounds = true},
    {OP_SUM_SQUARES, "sum_squares", BIT(F32),
     SHAPES({.n = 1, .C = 1}, {.n = 1, .C = 4097}, {.n = 33, .C = 257}, {.n = 16, .C = 4096}),
     sum_squares_declare, sum_squares_call, .reference = sum_squares_reference, .terms = terms_few,
     .unit = 0},
    {OP_UPDATE, "update by adam", BIT(F32),
     SHAPES({.n = 1, .C = 1, .M = 1}, {.n = 3, .C = 33, .M = 1, .scale = .3f}, {.n = 19, .C = 257, .M = 10},
            {.n = 5, .C = 31, .M = 100000, .scale = 2, .mode = WITH_COPY}, {.n = 70, .C = 300, .M = 2, .mode = WITH_COPY},
            {.n = 7, .C = 65, .M = 3, .mode = INTO_OUT}),
     update_declare, update_call, .reference = update_reference, .terms = terms_few, .unit = 1},
    {OP_UPDATE, "update by other rules", BIT(F32),
     SHAPES({.n = 19, .C = 257, .M = 1, .mode = MODE_NADAM}, {.n = 3, .C = 33, .M = 9, .scale = .3f, .mode = MODE_NADAM + WITH_COPY},
            {.n = 19, .C = 257, .M = 1, .mode = MODE_LION}, {.n = 3, .C = 33, .M = 9, .scale = .3f, .mode = MODE_LION + WITH_COPY},
            {.n = 19, .C = 257, .M = 1, .mode = MODE_SGD}, {.n = 3, .C = 33, .M = 9, .scale = .3f, .mode = MODE_SGD + INTO_OUT},
            {.n = 19, .C = 257, .M = 1, .mode = MODE_BARE}, {.n = 3, .C = 33, .M = 9, .scale = .3f, .mode = MODE_BARE + WITH_COPY},
            {.n = 19, .C = 257, .M = 1, .mode = MODE_FREE}, {.n = 3, .C = 33, .M = 9, .scale = .3f, .mode = MODE_FREE + WITH_COPY}),
     update_declare, update_call, .reference = update_reference, .terms = terms_few, .unit = 1},
    {OP_ADAFACTOR, "adafactor", BIT(F32),
     SHAPES({.n = 1, .C = 1, .M = 1}, {.n = 1, .C = 100, .M = 7}, {.n = 3, .C = 33, .M = 1, .scale = .3f},
            {.n = 130, .C = 257, .M = 10, .mode = 1}, {.n = 300, .C = 700, .M = 2}),
     adafactor_declare, adafactor_call, .reference = adafactor_reference, .terms = terms_C, .unit = 0},
    {OP_CAST, "cast from F32", FLOATS | BLOCKS,
     SHAPES({.n = 1, .C = 32}, {.n = 3, .C = 288}, {.n = 2, .C = 8224}), cast_declare, cast_call,
     .reference = cast_reference, .terms = terms_few, .unit = 1},
    {OP_CAST, "cast to blocks of 256", BLOCKS_256,
     SHAPES({.n = 1, .C = 256}, {.n = 2, .C = 4352, .mode = DTYPE_Q8_0}), cast_declare, cast_call,
     .reference = cast_reference, .terms = terms_few, .unit = 1},
    {OP_CAST, "cast odd", FLOATS,
     SHAPES({.n = 1, .C = 1}, {.n = 3, .C = 33, .mode = DTYPE_BF16},
            {.n = 19, .C = 257, .mode = DTYPE_F16}, {.n = 2, .C = 31, .mode = DTYPE_F32},
            {.n = 1, .C = 20000, .mode = DTYPE_F32}),
     cast_declare, cast_call, .reference = cast_reference, .terms = terms_few, .unit = 1},
    {OP_CAST, "cast from blocks", BIT(F32) | BIT(BF16) | BIT(Q8_0),
     SHAPES({.n = 3, .C = 96, .mode = DTYPE_Q8_0}, {.n = 2, .C = 544, .mode = DTYPE_Q4_0},
            {.n = 2, .C = 96, .mode = DTYPE_Q5_1}, {.n = 3, .C = 512, .mode = DTYPE_Q4_K},
            {.n = 1, .C = 4352, .mode = DTYPE_Q6_K}),
     cast_declare, cast_call, .reference = cast_reference, .terms = terms_few, .unit = 1},
    {OP_LAYERNORM, "layernorm", BIT(F32),
     SHAPES({.n = 1, .C = 2}, {.n = 3, .C = 31, .mode = 1}, {.n = 5, .C = 65, .mode = 2}, {.n = 19, .C = 257},
            {.n = 5, .C = 33, .mode = 3}, {.n = 2, .C = 9000}),
     layernorm_declare, layernorm_call, .reference = layernorm_reference, .terms = terms_C, .unit = 1},
    {OP_BIAS, "bias", BIT(F32), SHAPES({.n = 1, .C = 1}, {.n = 5, .C = 33, .scale = .22f}, {.n = 19, .C = 257}),
     bias_declare, bias_call, .reference = bias_reference, .terms = terms_few, .unit = 1},
    {OP_SOFTCAP, "softcap", BIT(F32),
     SHAPES({.n = 1, .C = 1, .scale = 30}, {.n = 5, .C = 33, .scale = 2}, {.n = 19, .C = 257, .scale = 50, .M = 100},
            {.n = 3, .C = 65, .scale = 1, .M = 1000}),
     softcap_declare, softcap_call, .reference = softcap_reference, .terms = terms_few, .unit = 1},
    {OP_CLAMP, "clamp", BIT(F32), SHAPES({.n = 1, .C = 1, .scale = 1}, {.n = 5, .C = 33, .scale = .5f}, {.n = 19, .C = 257, .scale = 2}),
     softcap_declare, clamp_call, .reference = clamp_reference, .terms = terms_few, .unit = 1},
    {OP_SINK, "sink", BIT(F32), SHAPES({.n = 1, .H = 1, .D = 1}, {.n = 5, .H = 3, .D = 8}, {.n = 19, .H = 8, .D = 64}),
     sink_declare, sink_call, .reference = sink_reference, .terms = terms_few, .unit = 1},
    {OP_ROUTE, "route", BIT(F32),
     SHAPES({.n = 1, .C = 1, .K = 1}, {.n = 5, .C = 8, .K = 2, .mode = 1}, {.n = 19, .C = 40, .K = 8},
            {.n = 3, .C = 3, .K = 3, .mode = 1}, {.n = 5, .C = 256, .K = 8, .mode = 1}),
     route_declare, route_call, .reference = route_reference, .terms = terms_C, .unit = 1},
    {OP_MATMUL_EXPERTS, "matmul_experts", FLOATS,
     SHAPES({.n = 1, .K = 1, .M = 1, .H = 1, .mode = 1}, {.n = 5, .K = 33, .M = 17, .H = 3, .mode = 2},
            {.n = 5, .K = 257, .M = 33, .H = 3, .mode = 2, .loaded = true},
            {.n = 40, .K = 64, .M = 65, .H = 2, .mode = 1, .loaded = true}),
     experts_declare, experts_call, .reference = experts_reference, .terms = terms_K, .unit = 1},
    {OP_MATMUL_EXPERTS, "matmul_experts blocks", BLOCKS,
     SHAPES({.n = 5, .K = 64, .M = 17, .H = 3, .mode = 2}, {.n = 30, .K = 256, .M = 33, .H = 2, .mode = 2, .loaded = true}),
     experts_declare, experts_call, .reference = experts_reference, .terms = terms_K, .unit = 1},
    {OP_MATMUL_EXPERTS, "matmul_experts blocks of 256", BLOCKS_256,
     SHAPES({.n = 5, .K = 256, .M = 17, .H = 3, .mode = 2}, {.n = 30, .K = 512, .M = 33, .H = 2, .mode = 2, .loaded = true}),
     experts_declare, experts_call, .reference = experts_reference, .terms = terms_K, .unit = 1},
    {OP_MATMUL_EXPERTS, "matmul_experts rounded", FLOATS,
     SHAPES({.n = 5, .K = 257, .M = 33, .H = 3, .mode = 2, .loaded = true},
            {.n = 40, .K = 64, .M = 65, .H = 2, .mode = 1, .loaded = true}),
     experts_declare, experts_call, .reference = experts_reference, .terms = terms_K, .unit = 1, .rounds = true},
    {OP_GROUP, "group", BIT(F32),
     SHAPES({.n = 1, .H = 1, .mode = 1, .segment = 1}, {.n = 24, .H = 3, .mode = 2, .segment = 8}, {.n = 30, .H = 40, .mode = 8, .segment = 30},
            {.n = 300, .H = 128, .mode = 4, .segment = 150}),
     group_declare, group_call, .reference = group_reference, .terms = terms_few},
    {OP_MATMUL_EXPERTS_DX, "matmul_experts_dx", BIT(F32) | BIT(BF16),
     SHAPES({.n = 1, .K = 1, .M = 1, .H = 1, .mode = 1}, {.n = 5, .K = 33, .M = 17, .H = 3, .mode = 2, .accumulate = true},
            {.n = 40, .K = 64, .M = 300, .H = 2, .mode = 2}),
     experts_dx_declare, experts_dx_call, .reference = experts_dx_reference, .terms = terms_M, .unit = 1},
    {OP_MATMUL_EXPERTS_DX, "matmul_experts_dx rounded", BIT(F32) | BIT(BF16),
     SHAPES({.n = 5, .K = 33, .M = 17, .H = 3, .mode = 2, .accumulate = true}, {.n = 40, .K = 64, .M = 300, .H = 2, .mode = 2}),
     experts_dx_declare, experts_dx_call, .reference = experts_dx_reference, .terms = terms_M, .unit = 1, .rounds = true},
    {OP_MATMUL_EXPERTS_DW, "matmul_experts_dw", BIT(F32),
     SHAPES({.n = 12, .K = 33, .M = 17, .H = 3, .mode = 2, .segment = 4, .accumulate = true},
            {.n = 120, .K = 257, .M = 50, .H = 4, .mode = 3, .segment = 40, .accumulate = true}),
     experts_dw_declare, experts_dw_call, .reference = experts_dw_reference, .terms = terms_n, .unit = -1},
    {OP_MATMUL_EXPERTS_DW, "matmul_experts_dw fresh", BIT(F32),
     SHAPES({.n = 1, .K = 1, .M = 1, .H = 1, .mode = 1, .segment = 1}, {.n = 12, .K = 33, .M = 17, .H = 8, .mode = 2, .segment = 4},
            {.n = 600, .K = 64, .M = 130, .H = 2, .mode = 1, .segment = 600}),
     experts_dw_declare, experts_dw_call, .reference = experts_dw_reference, .terms = terms_n},
    {OP_MATMUL_EXPERTS_DW, "matmul_experts_dw rounded", BIT(F32),
     SHAPES({.n = 12, .K = 33, .M = 17, .H = 3, .mode = 2, .segment = 4, .accumulate = true},
            {.n = 120, .K = 257, .M = 50, .H = 4, .mode = 3, .segment = 40, .accumulate = true}),
     experts_dw_declare, experts_dw_call, .reference = experts_dw_reference, .terms = terms_n, .unit = -1, .rounds = true},
    {OP_MATMUL_EXPERTS_DW, "matmul_experts_dw rounded fresh", BIT(F32),
     SHAPES({.n = 600, .K = 64, .M = 130, .H = 2, .mode = 1, .segment = 600}),
     experts_dw_declare, experts_dw_call, .reference = experts_dw_reference, .terms = terms_n, .rounds = true},
    {OP_MIX_BACK, "mix_back", BIT(F32), SHAPES({.n = 1, .C = 1, .K = 1}, {.n = 5, .C = 33, .K = 2, .scale = .22f}, {.n = 19, .C = 257, .K = 8}),
     mix_back_declare, mix_back_call, .reference = mix_back_reference, .terms = terms_few},
    {OP_ROUTE_BACK, "route_back", BIT(F32),
     SHAPES({.n = 1, .C = 2, .K = 1, .M = 3, .mode = 1}, {.n = 6, .C = 8, .K = 2, .M = 17, .mode = 1, .scale = .3f},
            {.n = 6, .C = 8, .K = 2, .M = 17, .segment = 2, .scale = .3f}, {.n = 5, .C = 40, .K = 8, .M = 9, .H = 1}),
     route_back_declare, route_back_call, .loss = route_back_loss, .pairs = {{RB_DLOGITS, RB_LOGITS, true}}, .n_pairs = 1,
     .terms = terms_C},
    {OP_MIX, "mix", BIT(F32), SHAPES({.n = 1, .C = 1, .K = 1}, {.n = 5, .C = 33, .K = 2}, {.n = 19, .C = 257, .K = 8}, {.n = 5, .C = 33, .K = 2, .mode = 1}),
     mix_declare, mix_call, .reference = mix_reference, .terms = terms_K, .unit = 1},
};
// clang-format on
const int op_spec_count = COUNT_OF(op_specs);

const struct op_spec *op_spec_find(const char *name) {
    for (int i = 0; i < op_spec_count; i++)
        if (strcmp(op_specs[i].name, name) == 0) return &op_specs[i];
    return NULL;
}
