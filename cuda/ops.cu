// ops.cu: ops that work on rows as they come: a thread for each quad of numbers, or a team of warps for each row (rows.cuh).
//
// All of them are bound by memory. What the comments call the floor is the bytes that must move for one number of the batch;
// arithmetic has to stay below some 70 instructions a number at 12 bytes of it (H200: 4.8 TB/s against 29e12 lanes a second).
#include "cuda/gate.cuh"
#include "cuda/norm.cuh"
#include "cuda/rng.cuh"

// ---------------------------------------------------------------------------------------------------------------
// out = a + scale * b

__global__ void add_kernel(struct add_args a, bool wide) {
    const int64_t c = quad_column(), left = a.out.cols - c;
    const float scale = one_if_zero(a.scale);
    for (int64_t row = quad_row(); row < a.out.rows && left > 0; row += quad_rows()) {
        struct quad b = quad_load(row_f32(a.b, row) + c, left, wide);
        if (a.a.data) {
            const struct quad base = quad_load(row_f32(a.a, row) + c, left, wide);
            for (int j = 0; j < QUAD; j++) b.v[j] = fmaf(scale, b.v[j], base.v[j]);
        } else {
            for (int j = 0; j < QUAD; j++) b.v[j] *= scale;
        }
        quad_store(row_f32(a.out, row) + c, b, left, wide);
    }
}
static void cuda_add(const struct add_args *a) {
    assert(is_f32(a->out) && is_f32(a->b) && same_shape(a->out, a->b));
    assert(!tensor_present(&a->a) || (is_f32(a->a) && same_shape(a->out, a->a)));
    struct add_args b = *a;
    if (has_no_gaps(b.out) && has_no_gaps(b.b) && has_no_gaps(b.a))
        b.out = as_one_row(b.out), b.b = as_one_row(b.b), b.a = as_one_row(b.a);
    const bool wide = by_sixteen(b.out) && by_sixteen(b.a) && by_sixteen(b.b);
    if (b.out.rows * b.out.cols > 0) LAUNCH_QUADS((add_kernel), b.out, b, wide);
}

// out = a + scale * f * b. Who is dropped is a function of the row's number and the column, so rows stay rows here.
__global__ void dropout_kernel(struct dropout_args a, bool wide) {
    const int64_t c = quad_column(), left = a.out.cols - c;
    const float kept = one_if_zero(a.scale) * device_dropout_factor(a.drop);
    for (int64_t row = quad_row(); row < a.out.rows && left > 0; row += quad_rows()) {
        const struct rng_row key = device_dropout_row(a.drop, row, 0);
        struct quad b = quad_load(row_f32(a.b, row) + c, left, wide), base = quad_of(0);
        if (a.a.data) base = quad_load(row_f32(a.a, row) + c, left, wide);
        for (int j = 0; j < QUAD; j++) {
            const float factor = device_rng_row_at(key, (uint32_t)(c + j)) < a.drop.below ? 0 : kept;
            b.v[j] = a.a.data ? fmaf(factor, b.v[j], base.v[j]) : factor * b.v[j];
        }
        quad_store(row_f32(a.out, row) + c, b, left, wide);
    }
}
static void cuda_dropout(const struct dropout_args *a) {
    assert(is_f32(a->out) && is_f32(a->b) && same_shape(a->out, a->b) && a->drop.below < 65536);
    assert(!tensor_present(&a->a) || (is_f32(a->a) && same_shape(a->out, a->a)));
    const bool wide = by_sixteen(a->out) && by_sixteen(a->a) && by_sixteen(a->b);
    if (a->out.rows * a->out.cols > 0) LAUNCH_QUADS((dropout_kernel), a->out, *a, wide);
}

// ---------------------------------------------------------------------------------------------------------------
// RMSNorm. With r = 1 / sqrt(mean(x^2) + eps):  out = x r w.
//   dx += r w dout - x r^3 / C * sum(dout w x) ;  dw += sum over rows of dout x r

template <int WARPS> __global__ void rmsnorm_kernel(struct rmsnorm_args a, double share, bool wide) {
    SHARED(double, room, WARPS);
    const int64_t row = team_number<WARPS>(), C = a.x.cols, first = QUAD * team_thread<WARPS>(), step = QUAD * WARPS * WARP;
    if (row >= a.x.rows) return; // a whole warp, where a team is one
    const float *x = row_f32(a.x, row), *w = row_f32(a.weight, 0);
    float *out = row_f32(a.out, row);
    const float r = row_inverse_rms<WARPS>(x, C, share, a.eps, wide, room);
    for (int64_t c = first; c < C; c += 2 * step) {
        struct quad q[2], v[2];
        quads_load<2>(q, x, c, step, C, wide), quads_load<2>(v, w, c, step, C, wide);
        for (int n = 0; n < 2; n++) quad_store(out + c + n * step, quad_normed(q[n], r, v[n]), C - c - n * step, wide);
    }
}
static void cuda_rmsnorm(const struct rmsnorm_args *a) {
    assert(is_f32(a->out) && same_shape(a->out, a->x) && is_rmsnorm(a->x, a->weight));
    const bool wide = by_sixteen(a->out) && by_sixteen(a->x) && by_sixteen(a->weight) && a->x.cols % QUAD == 0;
    if (a->x.rows > 0) LAUNCH_TEAMS(rmsnorm_kernel, a->x.cols, a->x.rows, 0, *a, 1 / (double)a->x.cols, wide);
}

// dx and dweight in one pass over x, dout and dx (16 bytes a number). A team goes over a part of PART rows of a segment, in order,
// and adds up its share of dweight, a thread its own columns; the parts are added in order by the kernel below.
enum { PART = 8, SUMS_SHARED_MOST = 47 << 10 };
struct back_parts {
    int64_t count, each; // of all rows; of a segment
    int64_t stride;      // numbers of a part: the columns, rounded up to quads
    float *sum;          // [count][stride]
    bool shared;         // are sums made in shared memory?
};
template <int WARPS>
__global__ void __launch_bounds__(WARPS * teams_a_block(WARPS) * WARP, 32 / (WARPS * teams_a_block(WARPS)))
rmsnorm_back_kernel(struct rmsnorm_back_args a, struct back_parts parts, double share, bool wide) {
    SHARED(double, room, 4 * WARPS);
    SHARED_REST(float, rest);
    const int64_t part = team_number<WARPS>(), C = a.x.cols, first = QUAD * team_thread<WARPS>(), step = QUAD * WARPS * WARP;
    if (part >= parts.count) return;
    float *sum = parts.shared ? rest + part % teams_a_block(WARPS) * parts.stride : parts.sum + part * parts.stride;
    const int64_t start = part / parts.each * a.segment, at = part % parts.each * PART, end = start + min(a.segment, at + PART);
    const float *w = row_f32(a.weight, 0);
    for (int64_t i = start + at; i < end; i++) {
        const float *x = row_f32(a.x, i), *dout = row_f32(a.dout, i);
        float *dx = row_f32(a.dx, i);
        double squares = 0, along = 0;
        for (int64_t c = first; c < C; c += 2 * step) {
            struct quad q[2], d[2], v[2];
            quads_load<2>(q, x, c, step, C, wide), quads_load<2>(d, dout, c, step, C, wide), quads_load<2>(v, w, c, step, C, wide);
            for (int n = 0; n < 2; n++) {
                for (int j = 0; j < QUAD; j++) d[n].v[j] *= v[n].v[j];
                squares += (double)quad_dot(q[n], q[n]), along += (double)quad_dot(d[n], q[n]);
            }
        }
        double *const here = room + i % 2 * 2 * WARPS; // two rooms by turns: a row's last reader is past the next row's barrier
        squares = team_sum<WARPS>(squares, here);
        along = team_sum<WARPS>(along, here + WARPS);
        const float r = inverse_rms(squares, share, a.eps), along_x = (float)(along * share) * r * r * r;
        for (int64_t c = first; c < C; c += step) {
            const struct quad q = quad_load(x + c, C - c, wide), d = quad_load(dout + c, C - c, wide);
            const struct quad v = quad_load(w + c, C - c, wide);
            struct quad to = quad_load(dx + c, C - c, wide), dw = i == start + at ? quad_of(0) : quad_load(sum + c, QUAD, true);
            for (int j = 0; j < QUAD; j++) {
                to.v[j] += fmaf(r * v.v[j], d.v[j], -__fmul_rn(along_x, q.v[j]));
                dw.v[j] = fmaf(d.v[j], __fmul_rn(q.v[j], r), dw.v[j]);
            }
            quad_store(dx + c, to, C - c, wide);
            quad_store(sum + c, dw, QUAD, true);
        }
    }
    for (int64_t c = first; c < C && parts.shared; c += step)
        quad_store(parts.sum + part * parts.stride + c, quad_load(sum + c, QUAD, true), QUAD, true);
}

// dw += the parts of each segment, added in order, segment by segment. A block has 32 columns and eight segments at a time, of each
// of which a thread adds up a quarter, so that the loads of some dozen parts are under way at once.
enum { SEGMENTS_AT_ONCE = 8, QUARTERS = 4, PIECES = SEGMENTS_AT_ONCE * QUARTERS };
__global__ void add_segments_kernel(struct tensor dw, struct back_parts parts) {
    SHARED(float, room, PIECES * (int)WARP);
    const int x = (int)threadIdx.x, y = (int)threadIdx.y;
    const int64_t c = (int64_t)blockIdx.x * WARP + x, segments = parts.count / parts.each, quarter = ceil_div(parts.each, QUARTERS);
    float all = y == 0 && c < dw.cols ? row_f32(dw, 0)[c] : 0;
    for (int64_t s = 0; s < segments; s += SEGMENTS_AT_ONCE) {
        const int64_t segment = s + y / QUARTERS, first = y % QUARTERS * quarter, end = min(parts.each, first + quarter);
        const float *from = parts.sum + segment * parts.each * parts.stride + c;
        float sum = 0;
        if (segment < segments && c < dw.cols) {
#pragma unroll 8
            for (int64_t p = first; p < end; p++) sum += from[p * parts.stride];
        }
        room[y * WARP + x] = sum;
        __syncthreads();
        for (int k = 0; y == 0 && k < SEGMENTS_AT_ONCE && s + k < segments; k++) {
            const float *four = room + k * QUARTERS * WARP + x;
            all += ((four[0] + four[WARP]) + four[2 * WARP]) + four[3 * WARP];
        }
        __syncthreads();
    }
    if (y == 0 && c < dw.cols) row_f32(dw, 0)[c] = all;
}

static void cuda_rmsnorm_back(const struct rmsnorm_back_args *a) {
    assert(is_f32(a->dx) && is_f32(a->dout) && is_f32(a->x) && same_shape(a->dx, a->x) && same_shape(a->dout, a->x));
    assert(is_f32(a->weight) && a->weight.rows == 1 && a->weight.cols == a->x.cols);
    assert(is_f32(a->dweight) && same_shape(a->dweight, a->weight));
    assert(a->segment > 0 && a->x.rows % a->segment == 0);
    if (a->x.rows == 0) return;
    const int64_t C = a->x.cols, each = ceil_div(a->segment, PART), stride = ceil_div(C, QUAD) * QUAD;
    struct back_parts parts = {a->x.rows / a->segment * each, each, stride, NULL, false};
    parts.sum = (float *)cuda_scratch(SLOT_NORM, (size_t)(parts.count * stride) * sizeof(float));
    size_t bytes = (size_t)(teams_a_block(team_warps(C)) * stride) * sizeof(float);
    parts.shared = bytes <= SUMS_SHARED_MOST;
    if (!parts.shared) bytes = 0;
    const bool wide = by_sixteen(a->dx) && by_sixteen(a->dout) && by_sixteen(a->x) && by_sixteen(a->weight) && C % QUAD == 0;
    LAUNCH_TEAMS(rmsnorm_back_kernel, C, parts.count, bytes, *a, parts, 1 / (double)C, wide);
    LAUNCH((add_segments_kernel), dim3((unsigned)ceil_div(C, WARP)), dim3(WARP, PIECES), 0, a->dweight, parts);
}

// ---------------------------------------------------------------------------------------------------------------
// Rotary positions. A thread has four pairs of each of two heads of a row, which share their angles. All of them are loaded before
// the first is stored. The floor is 8 bytes a number.

enum { HEADS_EACH = 2 };
__global__ void __launch_bounds__(THREADS, 4) rope_kernel(struct rope_args a, int items, bool wide) {
    const int pairs = (int)a.rotated / 2, quads = (pairs + QUAD - 1) / QUAD, item = (int)(quad_column() / QUAD);
    const int j = item % quads * QUAD, head = item / quads * HEADS_EACH, heads = (int)(a.x.cols / a.head_size) - head;
    const bool halves = a.pairs == ROPE_HALVES;
    // Where a head's two quads begin, and how many of their numbers are there.
    const int low = halves ? j : 2 * j, high = halves ? j + pairs : low + QUAD;
    const int in_low = halves ? pairs - j : 2 * (pairs - j), in_high = halves ? in_low : in_low - QUAD;
    const float scale = one_if_zero(a.scale);
    for (int64_t row = quad_row(); row < a.x.rows && item < items; row += quad_rows()) {
        float *const x = row_f32(a.x, row) + head * a.head_size, cosine[QUAD], sine[QUAD];
        struct quad u[HEADS_EACH], v[HEADS_EACH];
#pragma unroll
        for (int h = 0; h < HEADS_EACH; h++)
            if (h < heads) {
                u[h] = quad_load(x + h * a.head_size + low, in_low, wide);
                v[h] = quad_load(x + h * a.head_size + high, in_high, wide);
            }
#pragma unroll
        for (int k = 0; k < QUAD; k++) {
            const struct turn t = turn_by(j + k < pairs ? (double)a.pos[row] * (double)a.freq[j + k] : 0);
            cosine[k] = t.cos * scale, sine[k] = (a.inverse ? -t.sin : t.sin) * scale;
        }
#pragma unroll
        for (int h = 0; h < HEADS_EACH; h++) {
            if (h >= heads) break;
#pragma unroll
            for (int k = 0; k < QUAD; k++) {
                float *const first = halves ? &u[h].v[k] : k < 2 ? &u[h].v[2 * k] : &v[h].v[2 * k - QUAD];
                float *const second = halves ? &v[h].v[k] : first + 1;
                const float p = *first, q = *second;
                *first = fmaf(p, cosine[k], -__fmul_rn(q, sine[k]));
                *second = fmaf(p, sine[k], __fmul_rn(q, cosine[k]));
            }
            quad_store(x + h * a.head_size + low, u[h], in_low, wide);
            quad_store(x + h * a.head_size + high, v[h], in_high, wide);
        }
    }
}
static void cuda_rope(const struct rope_args *a) {
    assert(is_f32(a->x) && a->head_size > 0 && a->x.cols % a->head_size == 0);
    assert(a->rotated >= 0 && a->rotated <= a->head_size && a->rotated % 2 == 0);
    const int64_t pairs = a->rotated / 2, items = ceil_div(pairs, QUAD) * ceil_div(a->x.cols / a->head_size, HEADS_EACH);
    const bool wide = by_sixteen(a->x) && a->head_size % QUAD == 0 && (a->pairs == ROPE_ADJACENT || pairs % QUAD == 0);
    if (a->x.rows > 0 && items > 0)
        LAUNCH((rope_kernel), quad_grid(a->x.rows, items * QUAD), quad_block(a->x.rows, items * QUAD), 0, *a, (int)items, wide);
}

// ---------------------------------------------------------------------------------------------------------------
// Gated units. SILU and GELU are x s(u), u = x or what gelu_inner says; the slope is s + x s(u) s(-u) u'. Written so, neither
// tail cancels. The floor is 12 bytes a number forward and 20 backward.

template <int KIND> __global__ void glu_kernel(struct glu_args a, bool wide) {
    const int64_t c = quad_column(), left = a.out.cols - c;
    for (int64_t row = quad_row(); row < a.out.rows && left > 0; row += quad_rows()) {
        struct quad gate = quad_load(row_f32(a.gate, row) + c, left, wide), up = quad_of(1);
        if (a.up.data) up = quad_load(row_f32(a.up, row) + c, left, wide);
        for (int j = 0; j < QUAD; j++) gate.v[j] = gate_f32<KIND>(gate.v[j], up.v[j]);
        quad_store(row_f32(a.out, row) + c, gate, left, wide);
    }
}
static void cuda_glu(const struct glu_args *a) {
    assert(is_f32(a->out) && is_f32(a->gate) && same_shape(a->out, a->gate));
    assert(a->kind != GLU_CLAMPED || tensor_present(&a->up));
    assert(!tensor_present(&a->up) || (is_f32(a->up) && same_shape(a->out, a->up)));
    struct glu_args b = *a;
    if (has_no_gaps(b.out) && has_no_gaps(b.gate) && has_no_gaps(b.up))
        b.out = as_one_row(b.out), b.gate = as_one_row(b.gate), b.up = as_one_row(b.up);
    if (b.out.rows * b.out.cols == 0) return;
    const bool wide = by_sixteen(b.out) && by_sixteen(b.gate) && by_sixteen(b.up);
    switch (b.kind) {
    case GLU_SILU: LAUNCH_QUADS((glu_kernel<GLU_SILU>), b.out, b, wide); break;
    case GLU_GELU: LAUNCH_QUADS((glu_kernel<GLU_GELU>), b.out, b, wide); break;
    case GLU_GELU_ERF: LAUNCH_QUADS((glu_kernel<GLU_GELU_ERF>), b.out, b, wide); break;
    case GLU_RELU2: LAUNCH_QUADS((glu_kernel<GLU_RELU2>), b.out, b, wide); break;
    case GLU_SIGMOID: LAUNCH_QUADS((glu_kernel<GLU_SIGMOID>), b.out, b, wide); break;
    case GLU_CLAMPED: LAUNCH_QUADS((glu_kernel<GLU_CLAMPED>), b.out, b, wide); break;
    }
}

// All inputs of an element are read before its outputs are written, as they may be the same memory.
template <int KIND> __global__ void glu_back_kernel(struct glu_back_args a, bool wide) {
    const int64_t c = quad_column(), left = a.dout.cols - c;
    for (int64_t row = quad_row(); row < a.dout.rows && left > 0; row += quad_rows()) {
        struct quad gate = quad_load(row_f32(a.gate, row) + c, left, wide), up = quad_load(row_f32(a.up, row) + c, left, wide);
        const struct quad dout = quad_load(row_f32(a.dout, row) + c, left, wide);
        for (int j = 0; j < QUAD; j++) {
            const float x = gate.v[j], d = dout.v[j];
            float u = x, u_slope = 1;
            if (KIND == GLU_GELU) u = gelu_inner(x), u_slope = GELU_LINE * fmaf(3 * GELU_CUBE * x, x, 1);
            const struct sigmoids s = both_sigmoids(u);
            gate.v[j] = d * up.v[j] * fmaf(x * s.here * s.there, u_slope, s.here);
            up.v[j] = d * (x * s.here);
        }
        quad_store(row_f32(a.dgate, row) + c, gate, left, wide);
        quad_store(row_f32(a.dup, row) + c, up, left, wide);
    }
}
static void cuda_glu_back(const struct glu_back_args *a) {
    assert(a->kind <= GLU_GELU && is_f32(a->dgate) && is_f32(a->dup) && is_f32(a->dout) && is_f32(a->gate) && is_f32(a->up));
    assert(same_shape(a->dgate, a->dout) && same_shape(a->dup, a->dout) && same_shape(a->gate, a->dout) && same_shape(a->up, a->dout));
    struct glu_back_args b = *a;
    if (has_no_gaps(b.dgate) && has_no_gaps(b.dup) && has_no_gaps(b.dout) && has_no_gaps(b.gate) && has_no_gaps(b.up)) {
        b.dgate = as_one_row(b.dgate), b.dup = as_one_row(b.dup), b.dout = as_one_row(b.dout);
        b.gate = as_one_row(b.gate), b.up = as_one_row(b.up);
    }
    if (b.dout.rows * b.dout.cols == 0) return;
    const bool wide = by_sixteen(b.dgate) && by_sixteen(b.dup) && by_sixteen(b.dout) && by_sixteen(b.gate) && by_sixteen(b.up);
    if (b.kind == GLU_SILU) LAUNCH_QUADS((glu_back_kernel<GLU_SILU>), b.dout, b, wide);
    else LAUNCH_QUADS((glu_back_kernel<GLU_GELU>), b.dout, b, wide);
}

// ---------------------------------------------------------------------------------------------------------------
// Loss. A block has a row. The first pass finds the maximum and the sum of e^(z - maximum) at once: a thread's sum is scaled
// whenever its own maximum grows (Milakov & Gimelshein 2018). The second makes the gradient; a row of 50,000 logits in each of 132
// blocks is 26 MB, which then still lies in the L2 cache. So the floor is 4 bytes a logit, and 8 with a gradient.

enum { FEW_LOGITS = 4096, ROW_THREADS = 1024 };
__global__ void __launch_bounds__(ROW_THREADS) cross_entropy_kernel(struct cross_entropy_args a, bool wide) {
    SHARED(float, float_room, WARP);
    SHARED(double, room, WARP);
    const int64_t V = a.logits.cols, first = QUAD * (int)threadIdx.x, step = QUAD * (int)blockDim.x;
    float *logits = row_f32(a.logits, blockIdx.x);
    const int32_t target = a.targets[blockIdx.x];
    const float by = one_if_zero(a.logit_scale);
    if (target < 0) {
        if (threadIdx.x == 0) a.loss[blockIdx.x] = 0;
        for (int64_t c = first; c < V && a.grad_scale != 0; c += step) quad_store(logits + c, quad_of(0), V - c, wide);
        return;
    }
    const float z_target = __fmul_rn(by, logits[target]); // before anyone writes
    float most = -3e38f, part[QUAD] = {0};                // finite, so that logits of -infinity are 0 in the sum
    struct quad next = quad_load(logits + first, V - first, wide);
    for (int64_t c = first; c < V; c += step) {
        struct quad q = next;
        next = quad_load(logits + c + step, V - c - step, wide);
        for (int j = 0; j < QUAD; j++) q.v[j] = c + j < V ? __fmul_rn(by, q.v[j]) : -INFINITY;
        const float here = fmaxf(fmaxf(q.v[0], q.v[1]), fmaxf(q.v[2], q.v[3]));
        if (here > most) {
            const float shrink = exp_f32(most - here);
            for (int j = 0; j < QUAD; j++) part[j] *= shrink;
            most = here;
        }
        for (int j = 0; j < QUAD; j++) part[j] += exp_f32(q.v[j] - most);
    }
    const float all = block_max(most, float_room);
    const double own = (double)((part[0] + part[1]) + (part[2] + part[3])) * (double)exp_f32(most - all);
    const double sum = block_sum(own, room), lse = log(sum) + (double)all;
    if (threadIdx.x == 0) a.loss[blockIdx.x] = (float)(lse - (double)z_target);
    if (a.grad_scale == 0) return;
    const float inverse = (float)((1 + 2 * (double)a.z_loss * lse) / sum), outer = a.grad_scale * by;
#pragma unroll 2
    for (int64_t c = first; c < V; c += step) {
        struct quad q = quad_load(logits + c, V - c, wide);
        for (int j = 0; j < QUAD; j++) {
            const float e = exp_f32(__fmul_rn(by, q.v[j]) - all);
            q.v[j] = outer * fmaf(e, inverse, c + j == target ? -1.f : 0.f);
        }
        quad_store(logits + c, q, V - c, wide);
    }
}
static void cuda_cross_entropy(const struct cross_entropy_args *a) {
    assert(is_f32(a->logits) && a->logits.cols > 0 && a->loss && a->targets);
    const int threads = a->logits.cols <= FEW_LOGITS ? (int)THREADS : ROW_THREADS;
    if (a->logits.rows > 0) LAUNCH((cross_entropy_kernel), dim3((unsigned)a->logits.rows), threads, 0, *a, by_sixteen(a->logits));
}

void cuda_fill_ops(struct backend *b) {
    b->add = cuda_add;
    b->dropout = cuda_dropout;
    b->rmsnorm = cuda_rmsnorm;
    b->rmsnorm_back = cuda_rmsnorm_back;
    b->rope = cuda_rope;
    b->glu = cuda_glu;
    b->glu_back = cuda_glu_back;
    b->cross_entropy = cuda_cross_entropy;
    cuda_fill_families(b);
}
