// device_check.c: before a GPU is believed, its kernels do small cases, and what comes out is held against the plain kernels of
// the processor. A driver, a compiler or a card that is broken in one of them is found here, by name, and not in a text that reads
// oddly or a loss that does not fall. The plain kernels take about a tenth of a second for it
// (one thread of a loaded two-core Xeon, November 2026); the tests hold far more (make test-gpu).
//
// A case is a row: what is asked, a function that calls it on any backend with memory of that backend, and how far apart two
// exact computations of it may be. Numbers are a function of the case.
#include "device.h"

#include <math.h>
#include <string.h>

enum { C = 320, KEYS = 300, D = 64, HEADS = 4, KV = 2, VOCAB = 90, KINDS = 5 };

// Memory of a case on one backend; everything is given back at once.
struct case_room {
    const struct backend *b;
    void *taken[32];
    int count;
    uint64_t stream;
    int64_t rows; // of the case
    enum dtype dtype;
    enum precision precision;
};

static void *take(struct case_room *r, size_t bytes, const void *from) {
    void *p = r->b->alloc(bytes, "self-check", NULL);
    assert((size_t)r->count < COUNT_OF(r->taken));
    r->taken[r->count++] = p;
    if (p && from) r->b->upload(p, from, bytes);
    return p;
}
static float *numbers(int64_t n, uint64_t stream) {
    float *x = mem_array((size_t)n, sizeof *x, "self-check");
    for (int64_t i = 0; i < n; i++) x[i] = (float)(2 * rng_uniform(7, stream, (uint64_t)i) - 1);
    return x;
}
static struct tensor made(struct case_room *r, int64_t rows, int64_t cols) {
    float *x = numbers(rows * cols, r->stream++);
    struct tensor t = tensor_f32(take(r, (size_t)(rows * cols) * sizeof *x, x), rows, cols);
    mem_free(x);
    return t;
}
static struct tensor empty(struct case_room *r, int64_t rows, int64_t cols) {
    return tensor_f32(take(r, (size_t)(rows * cols) * sizeof(float), NULL), rows, cols);
}
static int32_t *counted(struct case_room *r, int64_t n, int64_t from, int64_t step, int64_t below) {
    int32_t *x = mem_array((size_t)n, sizeof *x, "self-check");
    for (int64_t i = 0; i < n; i++) x[i] = (int32_t)((from + step * i) % below);
    int32_t *on = take(r, (size_t)n * sizeof *x, x);
    mem_free(x);
    return on;
}
// A weight as models have it: rows of the case's dtype that the backend has loaded. Of five kinds, because some formats take
// their time to be made.
static struct tensor weight(struct case_room *r, int64_t rows, int64_t cols) {
    size_t row_bytes;
    struct tensor on = {0};
    bool owned;
    if (!dtype_row_bytes(r->dtype, cols, &row_bytes)) return on;
    float *x = numbers(KINDS * cols, r->stream++);
    unsigned char *bytes = mem_array((size_t)rows, row_bytes, "self-check");
    for (int64_t i = 0; i < rows; i++) {
        unsigned char *to = bytes + (size_t)i * row_bytes;
        if (i < KINDS) dtype_row(r->dtype)->from_f32(x + i * cols, to, cols);
        else memcpy(to, to - KINDS * row_bytes, row_bytes);
    }
    on = (struct tensor){take(r, (size_t)rows * row_bytes, bytes), r->dtype, LAYOUT_ROWS, 1, rows, cols, row_bytes};
    struct tensor host = on, loaded;
    host.data = bytes;
    struct err err;
    if (!r->b->reads_host && on.data && r->b->weight_load(&loaded, &host, &owned, &err)) {
        if (owned) r->taken[r->count++] = loaded.data;
        on = loaded;
    }
    mem_free(x), mem_free(bytes);
    return on;
}

static struct tensor case_embed(struct case_room *r) {
    struct tensor out = empty(r, r->rows, 512), table = weight(r, VOCAB, 512);
    r->b->embed(&(struct embed_args){out, table, counted(r, r->rows, 3, 7, VOCAB), 2});
    return out;
}
static struct tensor case_rmsnorm(struct case_room *r) {
    struct tensor out = empty(r, r->rows, C);
    r->b->rmsnorm(&(struct rmsnorm_args){out, made(r, r->rows, C), made(r, 1, C), 1e-5f});
    return out;
}
static struct tensor case_rope(struct case_room *r) {
    struct tensor x = made(r, r->rows, HEADS * D);
    float *freq = numbers(D / 2, r->stream++);
    const float *on = take(r, D / 2 * sizeof *freq, freq);
    mem_free(freq);
    r->b->rope(&(struct rope_args){.x = x, .pos = counted(r, r->rows, 5, 3, 1000), .freq = on, .head_size = D, .rotated = D, .pairs = ROPE_HALVES});
    return x;
}
static struct tensor case_glu(struct case_room *r) {
    struct tensor gate = made(r, r->rows, C);
    r->b->glu(&(struct glu_args){gate, gate, made(r, r->rows, C), GLU_SILU});
    return gate;
}
static struct tensor case_add(struct case_room *r) {
    struct tensor out = empty(r, r->rows, C), a = made(r, r->rows, C);
    r->b->add(&(struct add_args){out, a, made(r, r->rows, C), .5f});
    return out;
}
static struct tensor case_matmul(struct case_room *r) {
    struct tensor out = empty(r, r->rows, 130), x = made(r, r->rows, 512);
    r->b->matmul(&(struct matmul_args){.out = out, .x = x, .w = weight(r, 130, 512), .scale = .5f, .precision = r->precision});
    return out;
}
static struct tensor case_matmul_dx(struct case_room *r) {
    struct tensor dx = empty(r, r->rows, C), dout = made(r, r->rows, 130);
    r->b->matmul_dx(&(struct matmul_dx_args){.dx = dx, .dout = dout, .w = made(r, 130, C), .precision = r->precision});
    return dx;
}
static struct tensor case_matmul_dw(struct case_room *r) {
    struct tensor dw = empty(r, 130, C), dout = made(r, r->rows, 130);
    r->b->matmul_dw(&(struct matmul_dw_args){.dw = dw, .dout = dout, .x = made(r, r->rows, C), .segment = r->rows, .precision = r->precision, .fresh = true});
    return dw;
}
// The rows are the last ones of a text of KEYS tokens whose keys and values a cache holds.
static struct tensor case_attend(struct case_room *r) {
    const int64_t kept = (KEYS + CACHE_ROWS - 1) / CACHE_ROWS * CACHE_ROWS;
    struct tensor out = empty(r, r->rows, HEADS * D), q = made(r, r->rows, HEADS * D), cache[2];
    for (int i = 0; i < 2; i++) {
        cache[i] = (struct tensor){NULL, r->dtype, LAYOUT_DEVICE, 1, kept, KV * D, 0};
        if (!dtype_row_bytes(r->dtype, KV * D, &cache[i].row_bytes)) return (struct tensor){0};
        cache[i].data = take(r, (size_t)kept * cache[i].row_bytes, NULL);
        r->b->store_rows(&(struct store_rows_args){cache[i], made(r, KEYS, KV * D), counted(r, KEYS, 0, 1, KEYS), i ? CACHE_VALUES : CACHE_KEYS, D});
    }
    r->b->attend(&(struct attend_args){.out = out, .q = q, .k = cache[0], .v = cache[1], .lo = counted(r, r->rows, 0, 0, 1),
                                       .hi = counted(r, r->rows, KEYS - r->rows + 1, 1, KEYS + 1), .heads = HEADS, .kv_heads = KV, .head_size = D,
                                       .scale = .125f, .precision = r->precision});
    return out;
}
static struct tensor case_attend_back(struct case_room *r) {
    const int64_t n = r->rows;
    struct tensor q = made(r, n, HEADS * D), k = made(r, n, KV * D), v = made(r, n, KV * D), out = empty(r, n, HEADS * D), dout = made(r, n, HEADS * D);
    struct tensor all = empty(r, n, (HEADS + 2 * KV) * D); // dq, dk and dv, one after the other
    float *to = all.data, *lse = take(r, (size_t)(n * HEADS) * sizeof *lse, NULL);
    const int32_t *lo = counted(r, n, 0, 0, 1), *hi = counted(r, n, 1, 1, n + 1);
    struct attend_args a = {.out = out, .q = q, .k = k, .v = v, .lo = lo, .hi = hi, .lse = lse, .heads = HEADS, .kv_heads = KV, .head_size = D, .scale = .125f,
                            .precision = r->precision};
    r->b->attend(&a);
    r->b->attend_back(&(struct attend_back_args){.dq = tensor_f32(to, n, HEADS * D), .dk = tensor_f32(to + n * HEADS * D, n, KV * D),
                                                 .dv = tensor_f32(to + n * (HEADS + KV) * D, n, KV * D), .dout = dout, .out = out, .q = q, .k = k, .v = v,
                                                 .lo = lo, .hi = hi, .lse = lse, .heads = HEADS, .kv_heads = KV, .head_size = D, .scale = .125f, .segment = n,
                                                 .precision = r->precision});
    return all;
}
static struct tensor case_head_loss(struct case_room *r) {
    struct tensor dx = empty(r, r->rows, C), x = made(r, r->rows, C), w = made(r, VOCAB, C);
    struct head_loss_args a = {.loss = take(r, (size_t)r->rows * sizeof(float), NULL), .dx = dx, .dw = empty(r, VOCAB, C), .x = x, .w = w,
                               .targets = counted(r, r->rows, 1, 11, VOCAB), .logit_scale = 1, .grad_scale = 1, .segment = r->rows,
                               .precision = r->precision, .fresh = true};
    a.room_bytes = head_loss_room(r->rows, VOCAB);
    a.room = take(r, a.room_bytes, NULL);
    r->b->head_loss(&a);
    return dx;
}
static struct tensor case_update(struct case_room *r) {
    struct tensor w = made(r, r->rows, C);
    r->b->update(&(struct update_args){.w = w, .g = made(r, r->rows, C), .m = empty(r, r->rows, C), .v = empty(r, r->rows, C), .rule = UPDATE_ADAM, .lr = .1f,
                                       .beta1 = .9f, .beta2 = .95f, .eps = 1e-8f, .weight_decay = .1f, .grad_scale = 1, .step = 1});
    return w;
}

// Rounding factors to bf16 moves a product by up to 2^-8 of its terms; two such computations agree far better than that, but
// what is rounded in between (probabilities of attention) need not be the same.
static const double exact = 1e-4, rounded = 5e-2;
static const struct check {
    const char *name;
    struct tensor (*run)(struct case_room *r);
    int64_t rows[3]; // 0: no more
    unsigned dtypes; // bit d
    enum precision precision;
    double apart;
} checks[] = {
#define BIT(d) (1u << DTYPE_##d)
#define FILES (BIT(F32) | BIT(F16) | BIT(BF16) | BIT(Q8_0) | BIT(Q4_0) | BIT(Q4_1) | BIT(Q5_0) | BIT(Q5_1) | BIT(Q2_K) | BIT(Q3_K) | BIT(Q4_K) | BIT(Q5_K) | BIT(Q6_K) | \
               BIT(IQ4_NL) | BIT(IQ4_XS) | BIT(MXFP4))
    {"embed", case_embed, {3}, FILES, PRECISION_F32, 1e-6},
    {"rmsnorm", case_rmsnorm, {3}, BIT(F32), PRECISION_F32, exact},
    {"rope", case_rope, {3}, BIT(F32), PRECISION_F32, exact},
    {"glu", case_glu, {3}, BIT(F32), PRECISION_F32, exact},
    {"add", case_add, {3}, BIT(F32), PRECISION_F32, 1e-6},
    {"matmul", case_matmul, {1, 9, 40}, FILES, PRECISION_F32, exact},
    {"matmul in bf16", case_matmul, {1, 9, 70}, FILES, PRECISION_BF16, rounded},
    {"attend", case_attend, {1, 9, 40}, BIT(F16) | BIT(Q8_0), PRECISION_F32, exact},
    {"attend in bf16", case_attend, {1, 70}, BIT(F16), PRECISION_BF16, rounded},
    {"matmul_dx", case_matmul_dx, {40}, BIT(F32), PRECISION_F32, exact},
    {"matmul_dx in bf16", case_matmul_dx, {70}, BIT(F32), PRECISION_BF16, rounded},
    {"matmul_dw", case_matmul_dw, {40}, BIT(F32), PRECISION_F32, exact},
    {"matmul_dw in bf16", case_matmul_dw, {70}, BIT(F32), PRECISION_BF16, rounded},
    {"attend_back", case_attend_back, {40}, BIT(F32), PRECISION_F32, exact},
    {"attend_back in bf16", case_attend_back, {70}, BIT(F32), PRECISION_BF16, rounded},
    {"head_loss", case_head_loss, {40}, BIT(F32), PRECISION_F32, exact},
    {"update", case_update, {3}, BIT(F32), PRECISION_F32, exact},
};

// What the case gives on b, in host memory; NULL where memory ran out.
static float *result_of(const struct check *c, int64_t rows, enum dtype dtype, const struct backend *b, int64_t *n) {
    struct case_room r = {.b = b, .stream = 1, .rows = rows, .dtype = dtype, .precision = c->precision};
    struct tensor out = c->run(&r);
    bool fine = true;
    for (int i = 0; i < r.count; i++) fine = fine && r.taken[i];
    *n = out.rows * out.cols;
    float *x = mem_array((size_t)*n + 1, sizeof *x, "self-check");
    if (fine) b->download(x, out.data, (size_t)*n * sizeof *x);
    for (int i = 0; i < r.count; i++) b->free(r.taken[i]);
    if (fine) return x;
    mem_free(x);
    return NULL;
}

static bool check_one(const struct check *c, int64_t rows, enum dtype dtype, const struct backend *b, const struct backend *plain, struct err *err) {
    int64_t n, same;
    float *found = result_of(c, rows, dtype, b, &n), *expected = result_of(c, rows, dtype, plain, &same);
    assert(n == same);
    double squares = 0;
    for (int64_t i = 0; expected && i < n; i++) squares += (double)expected[i] * (double)expected[i];
    const double typical = sqrt(squares / (double)(n ? n : 1));
    bool good = found && expected;
    if (!good) err_set(err, "%s: no memory for the self-check", b->name);
    for (int64_t i = 0; good && i < n; i++) {
        const double off = fabs((double)found[i] - (double)expected[i]), allowed = c->apart * (fabs((double)expected[i]) + typical);
        if (off <= allowed) continue;
        good = err_set(err, "%s: the self-check of %s with %lld rows and %s failed: number %lld is %g, the processor computes %g; "
                            "the driver or the card cannot be trusted, --device cpu goes without it",
                       b->name, c->name, (long long)rows, dtype_row(dtype)->name, (long long)i, (double)found[i], (double)expected[i]);
    }
    mem_free(found), mem_free(expected);
    return good;
}

bool device_check(const struct backend *b, struct err *err) {
    const struct backend *plain = backend_cpu("plain", err);
    if (!plain) return false;
    for (size_t i = 0; i < COUNT_OF(checks); i++)
        for (int d = 0; d < DTYPE_COUNT; d++)
            for (int k = 0; k < 3 && checks[i].rows[k] && checks[i].dtypes >> d & 1; k++)
                if (!check_one(&checks[i], checks[i].rows[k], (enum dtype)d, b, plain, err)) return false;
    return true;
}
