// profile.c: a backend around a backend that notes what each op costs.
//
// Every member of kind op calls the member of the table inside and adds the time by the clock, the time of the processors
// and, for products, the operations. It changes no result. Ops have no argument for a state, so the sums are of this
// file, one profile for a process; a step calls some hundred ops and reads the clocks twice for each, which costs
// a microsecond. An op that calls another through its own table is one op here. On a GPU each op is waited for, which costs some
// more of those; there the operations are told per second of the clock.
#include "backend.h"

#include <string.h>
#include <time.h>

static struct backend inner;
static struct cost {
    int64_t calls;
    double wall_s, processor_s, operations;
} costs[OP_COUNT], all; // all: of the time between run and stop
static bool running;

static double processor_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static struct cost begun(void) { return (struct cost){0, time_now(), processor_now(), 0}; }
static void done(struct cost *c, struct cost since, double operations) {
    c->calls++;
    c->wall_s += time_now() - since.wall_s;
    c->processor_s += processor_now() - since.processor_s;
    c->operations += operations;
}

// Multiply-adds count as two.
static double product(const struct tensor *x, int64_t out) {
    return 2 * (double)x->rows * (double)x->cols * (double)out;
}

static double projection(const struct project_args *a) {
    double sum = 0;
    for (int j = 0; j < a->count; j++) sum += product(&a->x, a->to[j].w.rows);
    return sum;
}

// Name of the op, upper and lower case, and its operations from the arguments a.
#define OPS(row)                                                                                                       \
    row(EMBED, embed, 0) row(EMBED_BACK, embed_back, 0) row(RMSNORM, rmsnorm, 0)                                       \
    row(RMSNORM_BACK, rmsnorm_back, 0) row(MATMUL, matmul, product(&a->x, a->w.rows))                                  \
    row(MATMUL_DX, matmul_dx, product(&a->dout, a->w.cols)) row(MATMUL_DW, matmul_dw, product(&a->dout, a->x.cols))    \
    row(ROPE, rope, 0) row(STORE_ROWS, store_rows, 0) row(ATTEND, attend, 0) row(ATTEND_BACK, attend_back, 0)          \
    row(GLU, glu, 0) row(GLU_BACK, glu_back, 0) row(ADD, add, 0) row(CROSS_ENTROPY, cross_entropy, 0)                  \
    row(SUM_SQUARES, sum_squares, 0) row(UPDATE, update, 0) row(ADAFACTOR, adafactor, 0) row(CAST, cast, 0) row(LAYERNORM, layernorm, 0)              \
    row(BIAS, bias, 0) row(SOFTCAP, softcap, 0) row(ROUTE, route, 0) row(ROUTE_BACK, route_back, 0) row(GROUP, group, 0) \
    row(MATMUL_EXPERTS, matmul_experts, product(&a->x, a->out.cols))                                                   \
    row(MATMUL_EXPERTS_DX, matmul_experts_dx, product(&a->dout, a->dx.cols))                                           \
    row(MATMUL_EXPERTS_DW, matmul_experts_dw, product(&a->dout, a->x.cols))                                            \
    row(MIX, mix, 0) row(MIX_BACK, mix_back, 0) row(CLAMP, clamp, 0) row(SINK, sink, 0) row(DROPOUT, dropout, 0)       \
    row(HEAD_LOSS, head_loss, product(&a->x, a->w.rows) * (a->grad_scale != 0 ? 3 : 1))                                \
    row(PROJECT, project, projection(a))                                                                               \
    row(FEED_FORWARD, feed_forward,                                                                                    \
        product(&a->x, a->up.rows) * (tensor_present(&a->gate) ? 2 : 1) + product(&a->product, a->down.rows))

#define TIMED(upper, lower, work)                                                                                      \
    static void timed_##lower(const struct lower##_args *a) {                                                          \
        if (!running) {                                                                                                \
            inner.lower(a);                                                                                            \
            return;                                                                                                    \
        }                                                                                                              \
        const double operations = work;                                                                                \
        const struct cost since = begun();                                                                             \
        inner.lower(a);                                                                                                \
        if (!inner.reads_host) inner.sync(); /* a GPU has only begun */                                                \
        done(&costs[OP_##upper], since, operations);                                                                   \
    }
OPS(TIMED)

const struct backend *backend_profiled(const struct backend *b) {
    static struct backend table;
    inner = table = *b;
    memset(costs, 0, sizeof costs);
    all = (struct cost){0};
    running = false;
#define MEMBER(upper, lower, work) table.lower = timed_##lower;
    OPS(MEMBER)
    return &table;
}

void backend_profile_run(bool run) {
    static struct cost since;
    if (run == running) return;
    running = run;
    if (run) since = begun();
    else done(&all, since, 0);
}

void backend_profile(struct text *to) {
    text_fmt(to, "%-17s %9s %10s %7s %10s %9s\n", "op", "calls", "seconds", "share", "cpu s", "GFLOP/s");
    double wall = 0, processor = 0;
    bool told[OP_COUNT] = {false};
    for (;;) {
        int most = -1;
        for (int i = 0; i < OP_COUNT; i++)
            if (costs[i].calls && !told[i] && (most < 0 || costs[i].wall_s > costs[most].wall_s)) most = i;
        if (most < 0) break;
        const struct cost *c = &costs[most];
        told[most] = true;
        wall += c->wall_s, processor += c->processor_s;
        text_fmt(to, "%-17s %9lld %10.3f %6.1f%% %10.3f", op_name((enum op)most), (long long)c->calls, c->wall_s,
                 100 * c->wall_s / all.wall_s, c->processor_s);
        if (c->operations > 0) text_fmt(to, " %9.0f", 1e-9 * c->operations / (inner.reads_host ? c->processor_s : c->wall_s));
        text_str(to, "\n");
    }
    text_fmt(to, "%-16s %9s %10.3f %6.1f%% %10.3f\n", "outside of ops", "", all.wall_s - wall,
             100 * (1 - wall / all.wall_s), all.processor_s - processor);
    memset(costs, 0, sizeof costs);
    all = (struct cost){0};
}
