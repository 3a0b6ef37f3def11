// bench_ops: how fast each op runs at each level, in GFLOP/s or GB/s.
//
//   bench_ops [LEVEL] [THREADS] [WORD]     level as in --cpu, or - for the best; only rows whose name has WORD
//
// Sizes are those of a model of about 125M parameters: C 768, F 2048, 12 heads of 64, 4 kv heads, V 32000. "step"
// rows feed 256 rows, "token" rows one row, as decoding does; "rounded" products are of PRECISION_BF16. The number is the median of seven timed batches of calls,
// each of at least 20 ms, after a warm-up; bytes are those a call must read and write once.
// Not a test: it has a main of its own and stands outside the suites.
#include "backend.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { C = 768, F = 2048, H = 12, G = 4, D = 64, V = 32000, N = 256, KEYS = 1024 };

// Memory for all rows, filled once: values do not matter to the time, denormals and NaN would.
static struct world {
    float *a, *b, *c, *d, *e;
    int32_t *lo, *hi, *ids;
    struct tensor f32, bf16, q8_0, q4_0, q4_k, q6_k; // weights [F, C] as loaded
    double sum;
} w;
enum { FLOATS = N * V };

static struct tensor rows(float *p, int64_t n, int64_t cols) { return tensor_f32(p, n, cols); }

static void matmul(const struct backend *b, int64_t n, struct tensor weight) {
    b->matmul(&(struct matmul_args){.out = rows(w.b, n, F), .x = rows(w.a, n, C), .w = weight});
}
static void rounded(const struct backend *b, int64_t n, struct tensor weight) {
    b->matmul(&(struct matmul_args){
        .out = rows(w.b, n, F), .x = rows(w.a, n, C), .w = weight, .precision = PRECISION_BF16});
}
static void token_f32(const struct backend *b) { matmul(b, 1, w.f32); }
static void token_bf16(const struct backend *b) { matmul(b, 1, w.bf16); }
static void token_q8_0(const struct backend *b) { matmul(b, 1, w.q8_0); }
static void token_q4_0(const struct backend *b) { matmul(b, 1, w.q4_0); }
static void token_q4_k(const struct backend *b) { matmul(b, 1, w.q4_k); }
static void token_q6_k(const struct backend *b) { matmul(b, 1, w.q6_k); }
static void step_f32(const struct backend *b) { matmul(b, N, w.f32); }
static void step_bf16(const struct backend *b) { matmul(b, N, w.bf16); }
static void step_q8_0(const struct backend *b) { matmul(b, N, w.q8_0); }
static void step_q4_0(const struct backend *b) { matmul(b, N, w.q4_0); }
static void step_q4_k(const struct backend *b) { matmul(b, N, w.q4_k); }
static void step_q6_k(const struct backend *b) { matmul(b, N, w.q6_k); }
static void rounded_f32(const struct backend *b) { rounded(b, N, w.f32); }
static void rounded_bf16(const struct backend *b) { rounded(b, N, w.bf16); }
static void rounded_q8_0(const struct backend *b) { rounded(b, N, w.q8_0); }
static void rounded_q4_0(const struct backend *b) { rounded(b, N, w.q4_0); }
static void rounded_q4_k(const struct backend *b) { rounded(b, N, w.q4_k); }
static void rounded_q6_k(const struct backend *b) { rounded(b, N, w.q6_k); }
static void few_q8_0(const struct backend *b) { rounded(b, 16, w.q8_0); }
static void few_q4_k(const struct backend *b) { rounded(b, 16, w.q4_k); }
static void step_dx(const struct backend *b) {
    b->matmul_dx(&(struct matmul_dx_args){
        .dx = rows(w.b, N, C), .dout = rows(w.a, N, F), .w = rows(w.c, F, C)});
}
static void step_dw(const struct backend *b) {
    b->matmul_dw(&(struct matmul_dw_args){
        .dw = rows(w.e, F, C), .dout = rows(w.a, N, F), .x = rows(w.c, N, C), .segment = N});
}
static void rounded_dx(const struct backend *b) {
    b->matmul_dx(&(struct matmul_dx_args){.dx = rows(w.b, N, C),
                                          .dout = rows(w.a, N, F),
                                          .w = rows(w.c, F, C),
                                          .precision = PRECISION_BF16});
}
static void rounded_dw(const struct backend *b) {
    b->matmul_dw(&(struct matmul_dw_args){.dw = rows(w.e, F, C),
                                          .dout = rows(w.a, N, F),
                                          .x = rows(w.c, N, C),
                                          .segment = N,
                                          .precision = PRECISION_BF16});
}
static void token_attend(const struct backend *b) {
    static const int32_t lo = 0, hi = KEYS;
    b->attend(&(struct attend_args){.out = rows(w.b, 1, H * D),
                                    .q = rows(w.a, 1, H * D),
                                    .k = rows(w.c, KEYS, G * D),
                                    .v = rows(w.d, KEYS, G * D),
                                    .lo = &lo,
                                    .hi = &hi,
                                    .heads = H,
                                    .kv_heads = G,
                                    .head_size = D,
                                    .scale = .125f});
}
static void step_attend(const struct backend *b) {
    b->attend(&(struct attend_args){.out = rows(w.b, N, H * D),
                                    .q = rows(w.a, N, H * D),
                                    .k = rows(w.c, N, G * D),
                                    .v = rows(w.d, N, G * D),
                                    .lo = w.lo,
                                    .hi = w.hi,
                                    .lse = w.e,
                                    .heads = H,
                                    .kv_heads = G,
                                    .head_size = D,
                                    .scale = .125f});
}
static void step_attend_back(const struct backend *b) {
    float *dq = w.b, *dk = dq + N * H * D, *dv = dk + N * G * D;
    b->attend_back(&(struct attend_back_args){.dq = rows(dq, N, H * D),
                                              .dk = rows(dk, N, G * D),
                                              .dv = rows(dv, N, G * D),
                                              .dout = rows(w.a, N, H * D),
                                              .out = rows(w.a, N, H * D),
                                              .q = rows(w.a, N, H * D),
                                              .k = rows(w.c, N, G * D),
                                              .v = rows(w.d, N, G * D),
                                              .lo = w.lo,
                                              .hi = w.hi,
                                              .lse = w.c,
                                              .heads = H,
                                              .kv_heads = G,
                                              .head_size = D,
                                              .scale = .125f,
                                              .segment = N});
}
static void step_rmsnorm(const struct backend *b) {
    b->rmsnorm(&(struct rmsnorm_args){rows(w.b, N, C), rows(w.a, N, C), rows(w.c, 1, C), 1e-5f});
}
static void step_rmsnorm_back(const struct backend *b) {
    b->rmsnorm_back(&(struct rmsnorm_back_args){rows(w.b, N, C), rows(w.e, 1, C), rows(w.c, N, C),
                                                rows(w.a, N, C), rows(w.d, 1, C), 1e-5f, N});
}
static void step_rope(const struct backend *b) {
    b->rope(&(struct rope_args){
        .x = rows(w.b, N, H * D), .pos = w.hi, .freq = w.c, .head_size = D, .rotated = D});
}
static void step_glu(const struct backend *b) {
    b->glu(&(struct glu_args){rows(w.b, N, F), rows(w.a, N, F), rows(w.c, N, F), GLU_SILU});
}
static void step_glu_back(const struct backend *b) {
    b->glu_back(&(struct glu_back_args){rows(w.b, N, F), rows(w.e, N, F), rows(w.d, N, F),
                                        rows(w.a, N, F), rows(w.c, N, F), GLU_SILU});
}
static void step_add(const struct backend *b) {
    b->add(&(struct add_args){rows(w.b, N, C), rows(w.a, N, C), rows(w.c, N, C), .22f});
}
static void
step_loss(const struct backend *b) { // without the gradient, which would change what is timed next
    b->cross_entropy(
        &(struct cross_entropy_args){.loss = w.e, .logits = rows(w.a, N, V), .targets = w.ids});
}
static void all_sum(const struct backend *b) {
    b->sum_squares(&(struct sum_squares_args){&w.sum, rows(w.a, F, C)});
}
static void all_update(const struct backend *b) {
    b->update(&(struct update_args){.w = rows(w.b, F, C),
                                  .g = rows(w.a, F, C),
                                  .m = rows(w.d, F, C),
                                  .v = rows(w.e, F, C),
                                  .lr = 1e-9f,
                                  .beta1 = .9f,
                                  .beta2 = .95f,
                                  .eps = 1e-8f,
                                  .step = 10});
}

static const struct bench {
    const char *name;
    void (*call)(const struct backend *b);
    double gflop, gbyte; // of one call; what is 0 is not printed
} benches[] = {
    {"token matmul F32", token_f32, 2e-9 * F *C, 4e-9 * F *C},
    {"token matmul BF16", token_bf16, 2e-9 * F *C, 2e-9 * F *C},
    {"token matmul Q8_0", token_q8_0, 2e-9 * F *C, 34e-9 / 32 * F *C},
    {"token matmul Q4_0", token_q4_0, 2e-9 * F *C, 18e-9 / 32 * F *C},
    {"token matmul Q4_K", token_q4_k, 2e-9 * F *C, 144e-9 / 256 * F *C},
    {"token matmul Q6_K", token_q6_k, 2e-9 * F *C, 210e-9 / 256 * F *C},
    {"step matmul F32", step_f32, 2e-9 * N *F *C, 0},
    {"step matmul BF16", step_bf16, 2e-9 * N *F *C, 0},
    {"step matmul Q8_0", step_q8_0, 2e-9 * N *F *C, 0},
    {"step matmul Q4_0", step_q4_0, 2e-9 * N *F *C, 0},
    {"step matmul Q4_K", step_q4_k, 2e-9 * N *F *C, 0},
    {"step matmul Q6_K", step_q6_k, 2e-9 * N *F *C, 0},
    {"step matmul_dx F32", step_dx, 2e-9 * N *F *C, 0},
    {"step matmul_dw", step_dw, 2e-9 * N *F *C, 0},
    {"step rounded F32", rounded_f32, 2e-9 * N *F *C, 0},
    {"step rounded BF16", rounded_bf16, 2e-9 * N *F *C, 0},
    {"step rounded Q8_0", rounded_q8_0, 2e-9 * N *F *C, 0},
    {"step rounded Q4_0", rounded_q4_0, 2e-9 * N *F *C, 0},
    {"step rounded Q4_K", rounded_q4_k, 2e-9 * N *F *C, 0},
    {"step rounded Q6_K", rounded_q6_k, 2e-9 * N *F *C, 0},
    {"16 rows rounded Q8_0", few_q8_0, 2e-9 * 16 * F *C, 0},
    {"16 rows rounded Q4_K", few_q4_k, 2e-9 * 16 * F *C, 0},
    {"step rounded dx F32", rounded_dx, 2e-9 * N *F *C, 0},
    {"step rounded dw", rounded_dw, 2e-9 * N *F *C, 0},
    {"token attend", token_attend, 4e-9 * KEYS *H *D, 8e-9 * KEYS *G *D},
    {"step attend", step_attend, 4e-9 * N *(N + 1) / 2 * H *D, 0},
    {"step attend_back", step_attend_back, 10e-9 * N *(N + 1) / 2 * H *D, 0},
    {"step rmsnorm", step_rmsnorm, 0, 8e-9 * N *C},
    {"step rmsnorm_back", step_rmsnorm_back, 0, 20e-9 * N *C},
    {"step rope", step_rope, 0, 8e-9 * N *H *D},
    {"step glu", step_glu, 0, 12e-9 * N *F},
    {"step glu_back", step_glu_back, 0, 20e-9 * N *F},
    {"step add", step_add, 0, 12e-9 * N *C},
    {"step cross_entropy", step_loss, 0, 4e-9 * N *V},
    {"sum_squares", all_sum, 0, 4e-9 * F *C},
    {"adam", all_update, 0, 28e-9 * F *C},
};

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

// Seconds of one call.
static double seconds(const struct bench *bench, const struct backend *b) {
    enum { TIMES = 7 };
    double took[TIMES];
    bench->call(b);
    double start = time_now();
    bench->call(b);
    double once = time_now() - start;
    int calls = once > .02 ? 1 : (int)(.02 / (once + 1e-9)) + 1;
    for (int i = 0; i < TIMES; i++) {
        start = time_now();
        for (int k = 0; k < calls; k++) bench->call(b);
        took[i] = (time_now() - start) / calls;
    }
    qsort(took, TIMES, sizeof *took, by_value);
    return took[TIMES / 2];
}

static struct tensor weight(const struct backend *b, enum dtype d) {
    size_t row = 0;
    struct err err;
    struct tensor loaded = {0};
    bool owned;
    if (!dtype_row_bytes(d, C, &row)) abort();
    struct tensor host = {mem_alloc(row * F, "weights"), d, LAYOUT_ROWS, 1, F, C, row};
    for (int64_t i = 0; i < F; i++)
        dtype_row(d)->from_f32(w.a + i * C, (char *)host.data + (size_t)i * row, C);
    if (!b->weight_load(&loaded, &host, &owned, &err)) {
        fprintf(stderr, "%s\n", err.text);
        exit(1);
    }
    return loaded; // one process, one run: the system takes it back
}

static void fill(float **to, uint64_t stream) {
    *to = mem_array(FLOATS, sizeof **to, "activations");
    for (int64_t i = 0; i < FLOATS; i++)
        (*to)[i] = (float)(.1 + rng_uniform(1, stream, (uint64_t)(i % 100003)));
}

int main(int argc, char **argv) {
    const char *level = argc > 1 && strcmp(argv[1], "-") ? argv[1] : NULL,
               *word = argc > 3 ? argv[3] : "";
    struct err err;
    const struct backend *b = backend_cpu(level, &err);
    if (!b) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    pool_start(argc > 2 ? atoi(argv[2]) : 0);
    float **const all[] = {&w.a, &w.b, &w.c, &w.d, &w.e};
    for (size_t i = 0; i < COUNT_OF(all); i++) fill(all[i], i);
    w.lo = mem_array(N, sizeof *w.lo, "ranges");
    w.hi = mem_array(N, sizeof *w.hi, "ranges");
    w.ids = mem_array(N, sizeof *w.ids, "targets");
    for (int i = 0; i < N; i++) w.hi[i] = i + 1, w.ids[i] = i;
    w.f32 = weight(b, DTYPE_F32), w.bf16 = weight(b, DTYPE_BF16);
    w.q8_0 = weight(b, DTYPE_Q8_0), w.q4_0 = weight(b, DTYPE_Q4_0);
    w.q4_k = weight(b, DTYPE_Q4_K), w.q6_k = weight(b, DTYPE_Q6_K);
    struct text line = {0};
    b->report(&line);
    printf("%s\n", line.data);
    for (size_t i = 0; i < COUNT_OF(benches); i++) {
        const struct bench *bench = &benches[i];
        if (!strstr(bench->name, word)) continue;
        double s = seconds(bench, b);
        printf("%-20s %10.1f us", bench->name, 1e6 * s);
        if (bench->gflop > 0) printf("  %8.2f GFLOP/s", bench->gflop / s);
        if (bench->gbyte > 0) printf("  %8.2f GB/s", bench->gbyte / s);
        printf("\n");
    }
    return 0;
}
