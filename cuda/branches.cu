// branches.cu: project, feed_forward and head_loss as the sequences they stand for, out of the table's own members, so their bits
// are those of the parts. Everything between is enqueued on the one stream; nothing is waited for.
//
// Where the parts are bound by memory, this is what they move beside the products: feed_forward reads x twice and writes x' (12
// bytes a number of it), and goes over gates, ups and product once (12 bytes a number of these).
#include "cuda/cuda.cuh"

static const struct backend *parts; // the table, whole when the first op runs

// What the products read: x, or what its norm gives, in the room that the caller has for it.
static struct tensor entering(struct tensor x, struct tensor norm, struct tensor room, float eps) {
    if (!tensor_present(&norm)) return x;
    const struct rmsnorm_args a = {room, x, norm, eps};
    parts->rmsnorm(&a);
    return room;
}
static void multiply(struct tensor out, struct tensor x, struct tensor w, float scale, bool accumulate, enum precision precision) {
    const struct matmul_args a = {out, x, w, scale, accumulate, precision};
    parts->matmul(&a);
}

static void cuda_project(const struct project_args *a) {
    assert(a->count >= 1 && a->count <= PROJECT_MOST);
    const struct tensor x = entering(a->x, a->norm, a->normed, a->eps);
    for (int j = 0; j < a->count; j++) multiply(a->to[j].out, x, a->to[j].w, 1, false, a->precision);
}

static void cuda_feed_forward(const struct feed_forward_args *a) {
    const struct tensor x = entering(a->x, a->norm, a->normed, a->eps);
    const bool gated = tensor_present(&a->gate);
    multiply(a->ups, x, a->up, 1, false, a->precision);
    if (gated) multiply(a->gates, x, a->gate, 1, false, a->precision);
    if (tensor_present(&a->up_bias)) {
        const struct bias_args bias = {a->ups, a->up_bias, 1};
        parts->bias(&bias);
    }
    struct glu_args glu = {a->product, a->ups, {}, a->kind};
    if (gated) glu.gate = a->gates, glu.up = a->ups;
    parts->glu(&glu);
    if (tensor_present(&a->down)) multiply(a->out, a->product, a->down, a->scale, a->accumulate, a->precision);
}

// ---------------------------------------------------------------------------------------------------------------
// The head and its loss, a block of rows at a time. Where blocks end shows in no bit: a weight's gradient is one partial sum per
// segment, or per HEAD_ROWS rows of a longer one, and blocks are made of these.

struct head_block { int64_t at, rows, segment; };
// The block behind *b; false behind the last. b begins as zeros.
static bool head_next(const struct head_loss_args *a, int64_t fits, struct head_block *b) {
    b->at += b->rows;
    const int64_t left = a->x.rows - b->at;
    if (left <= 0) return false;
    if (a->segment <= HEAD_ROWS) {
        const int64_t most = fits / a->segment * a->segment;
        b->rows = left < most ? left : most;
        b->segment = a->segment;
    } else {
        const int64_t end = a->segment - b->at % a->segment;
        b->rows = b->segment = end < HEAD_ROWS ? end : (int64_t)HEAD_ROWS;
    }
    assert(b->rows > 0 && b->rows <= fits);
    return true;
}

// Logits lie in rows of a multiple of 32 numbers, as `room` has place for, so that every row begins on 128 bytes. In PRECISION_BF16
// the backward products round dz itself, as matmul_dx and matmul_dw do with any gradient: what stands in the contract in its place
// (e^z, with t apart) saves a processor the pass of cross_entropy over the logits, and rounds the same numbers but for a factor.
static void cuda_head_loss(const struct head_loss_args *a) {
    const int64_t V = a->w.rows, stride = (V + 31) / 32 * 32;
    assert(is_f32(a->x) && is_rows(a->w) && a->x.cols == a->w.cols && a->segment > 0 && a->x.rows % a->segment == 0);
    assert(a->room_bytes >= head_loss_room(head_loss_least(a->segment), V));
    struct head_block b = {};
    while (head_next(a, (int64_t)(a->room_bytes / sizeof(float)) / stride, &b)) {
        struct tensor logits = tensor_f32((float *)a->room, b.rows, V);
        logits.row_bytes = (size_t)stride * sizeof(float);
        const struct tensor x = tensor_rows(a->x, b.at, b.rows);
        multiply(logits, x, a->w, 1, false, a->precision);
        const struct cross_entropy_args loss = {a->loss + b.at, logits, a->targets + b.at, a->logit_scale, a->grad_scale, a->z_loss};
        parts->cross_entropy(&loss);
        if (a->grad_scale == 0) continue;
        const struct matmul_dx_args dx = {tensor_rows(a->dx, b.at, b.rows), logits, a->w, 1, false, a->precision};
        parts->matmul_dx(&dx);
        const struct matmul_dw_args dw = {a->dw, logits, x, 1, b.segment, a->precision, a->fresh && b.at == 0};
        parts->matmul_dw(&dw);
    }
}

void cuda_fill_branches(struct backend *b) {
    parts = b;
    b->project = cuda_project;
    b->feed_forward = cuda_feed_forward;
    b->head_loss = cuda_head_loss;
}
