// branches.cu: project, feed_forward and head_loss with the bits of the sequences they stand for.
//
// Decoding reads every weight once for a few rows, 2 us of an H200 for a large one: a launch costs as much. So in PRECISION_F32, where
// nobody wants to see what is in between, few rows take few launches:
//
//   project       numbers: the norm; all products.  block formats: the norm and x in sixteen bits; all products of a format
//   feed_forward  numbers: the norm; gate, up and activation; down.  block formats: the same three, if down is of one, too:
//                 the second leaves the product in sixteen bits
//
// Everything else is the sequence itself, out of the table's own members.
#include "cuda/branches.cuh"

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

static bool rounds(enum precision precision) { return precision == PRECISION_BF16 && cuda_has_bf16(); }
static bool is_loaded(const struct tensor &w) { return w.layout == LAYOUT_DEVICE && dtype_row(w.dtype)->block_weights > 1 && w.mats == 1; }
static bool is_numbers(const struct tensor &w) { return is_rows(w) && (w.dtype == DTYPE_F32 || w.dtype == DTYPE_F16 || w.dtype == DTYPE_BF16); }
static struct packed packed_of(const struct tensor &w) { return (struct packed){(const char *)w.data, w.row_bytes, w.rows}; }

// Products of one x, those of a format together. wide: x in sixteen bits, for weights of block formats, where it has been made.
static void products(const struct matmul_args *list, int count, struct wide wide) {
    bool done[PROJECT_MOST] = {};
    for (int j = 0; j < count; j++) {
        if (done[j]) continue;
        struct matmul_args some[PROJECT_MOST];
        struct wide_list blocks = {};
        int here = 0;
        const bool loaded = is_loaded(list[j].w), few = !loaded && is_numbers(list[j].w) && list[j].x.rows <= FEW_NUMBERS;
        for (int i = j; i < count; i++) {
            if (i > j && (list[i].w.dtype != list[j].w.dtype || list[i].w.layout != list[j].w.layout || !(loaded || few))) continue;
            assert(is_f32(list[i].out) && list[i].out.rows == list[i].x.rows && list[i].out.cols == list[i].w.rows && list[i].x.cols == list[i].w.cols);
            blocks.of[here].w = packed_of(list[i].w), blocks.of[here].out = product_out_of(list[i].out, list[i].scale, list[i].accumulate);
            some[here++] = list[i], done[i] = true;
        }
        if (!loaded && !few) {
            parts->matmul(some);
        } else if (few) {
            cuda_few_products(some, here);
        } else {
            if (!wide.data) wide = cuda_widen(list[j].x, {}, 0, 0, NULL);
            blocks.count = here;
            cuda_wide_products(&blocks, list[j].w.dtype, wide);
        }
    }
}

static void cuda_project(const struct project_args *a) {
    assert(a->count >= 1 && a->count <= PROJECT_MOST && is_f32(a->x));
    if (a->x.rows == 0) return;
    bool loaded = !a->keep;
    for (int j = 0; j < a->count; j++) loaded = loaded && is_loaded(a->to[j].w);
    struct wide wide = {};
    struct tensor x = a->x;
    if (loaded && !rounds(a->precision)) wide = cuda_widen(x, a->norm, a->eps, 0, NULL);
    else x = entering(x, a->norm, a->normed, a->eps);
    struct matmul_args list[PROJECT_MOST];
    for (int j = 0; j < a->count; j++) {
        list[j] = (struct matmul_args){a->to[j].out, x, a->to[j].w, 1, false, a->precision};
        if (rounds(a->precision)) parts->matmul(&list[j]);
    }
    if (!rounds(a->precision)) products(list, a->count, wide);
}

// The product of a gated unit of few rows in one launch, and all of it in three; false where that cannot be.
static bool feed_forward_numbers(const struct feed_forward_args *a) {
    const bool gated = tensor_present(&a->gate) && a->gate.dtype == a->up.dtype && a->gate.row_bytes == a->up.row_bytes;
    if (!gated || !is_numbers(a->up) || !is_numbers(a->gate) || a->x.rows > FEW_NUMBERS) return false;
    const struct tensor x = entering(a->x, a->norm, a->normed, a->eps);
    const struct few_gated unit = {product_out_of(a->product, 1, false), (const float *)a->up_bias.data, a->kind};
    cuda_few_gated(&unit, x, a->gate, a->up);
    if (tensor_present(&a->down)) multiply(a->out, a->product, a->down, a->scale, a->accumulate, a->precision);
    return true;
}
static bool feed_forward_blocks(const struct feed_forward_args *a) {
    const bool has_gate = tensor_present(&a->gate), wide_down = tensor_present(&a->down) && is_loaded(a->down);
    if (!is_loaded(a->up) || (has_gate && (!is_loaded(a->gate) || a->gate.dtype != a->up.dtype)) || a->x.rows > FEW_MOST) return false;
    struct wide product = {};
    const struct wide x = cuda_widen(a->x, a->norm, a->eps, wide_down ? a->down.cols : 0, &product);
    struct wide_gated unit = {packed_of(a->up), (const char *)a->gate.data, (const float *)a->up_bias.data, a->kind, product_out_of(a->product, 1, false), {}};
    if (wide_down) unit.wide = product;
    cuda_wide_gated(&unit, a->up.dtype, x);
    if (!tensor_present(&a->down)) return true;
    const struct matmul_args down = {a->out, a->product, a->down, a->scale, a->accumulate, a->precision};
    if (wide_down) products(&down, 1, product);
    else parts->matmul(&down);
    return true;
}

static void cuda_feed_forward(const struct feed_forward_args *a) {
    const bool gated = tensor_present(&a->gate), biased = tensor_present(&a->up_bias);
    assert(is_f32(a->x) && is_f32(a->product) && a->product.rows == a->x.rows && a->product.cols == a->up.rows && a->up.cols == a->x.cols);
    assert(!gated || same_shape(a->gate, a->up));
    assert(!biased || (is_f32(a->up_bias) && a->up_bias.rows == 1 && a->up_bias.cols == a->up.rows));
    if (a->x.rows == 0) return;
    if (!a->keep && !rounds(a->precision) && (feed_forward_blocks(a) || feed_forward_numbers(a))) return;
    const struct tensor x = entering(a->x, a->norm, a->normed, a->eps);
    multiply(a->ups, x, a->up, 1, false, a->precision);
    if (gated) multiply(a->gates, x, a->gate, 1, false, a->precision);
    if (biased) {
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
