// amx_branches.h: project and feed_forward on the matrix units, PRECISION_BF16. Part of amx.c.
//
// Beside multiplying, a prompt pass moves activations: 512 rows of a small model are more than L2 holds, so each f32
// matrix that one op leaves for the next goes out to L3 and comes back. Here only two leave: x, normed on its way into
// the packed bf16 rows that all products read, and act(gate) * up, which is made 32 x 32 at a time as the tiles leave
// both sums, and laid down in bf16 as the packed rows of the product with down. Rounding them there is what matmul would
// do with them, so the bits are those of the ops one by one.

static void project(const struct project_args *a) {
    if (a->precision != PRECISION_BF16) {
        below.project(a);
        return;
    }
    if (a->keep) {
        const struct branch_parts parts = {below.rmsnorm, products, below.bias, below.glu};
        cpu_project(a, &parts);
        return;
    }
    assert(a->count >= 1 && a->count <= PROJECT_MOST);
    struct matmul_args list[PROJECT_MOST];
    for (int j = 0; j < a->count; j++) list[j] = (struct matmul_args){.out = a->to[j].out, .x = a->x, .w = a->to[j].w};
    multiply(list, a->count, tensor_present(&a->norm) ? &a->norm : NULL, a->eps);
}

struct gating {
    struct product down; // whose left factor this makes
    uint16_t *to;
    enum glu_kind kind;
};

// Panels come in pairs, gate and up, and c as the four tiles of up's. What lies beyond the rows or columns is act(0) * 0.
static void gating_take(const void *taker, int64_t strip, int64_t panel, const float *c) {
    const struct gating *g = taker;
    if (panel % 2 == 0) return; // its sums rest
    const int64_t step = panel / 2, block = step / g->down.block_steps;
    uint16_t *to = g->to + left_at(&g->down, block, strip) + (step - block * g->down.block_steps) * 2 * TILE;
    const float *gate = c - SUMS;
    for (int64_t r = 0; r < STRIP; r++, to += STEP) {
        const int64_t at = r / 16 * 512 + r % 16 * VW;
        _mm512_storeu_si512(to, in_row(glu_one(g->kind, v_load(gate + at), v_load(c + at)),
                                       glu_one(g->kind, v_load(gate + at + 256), v_load(c + at + 256))));
    }
}

static void feed_forward(const struct feed_forward_args *a) {
    const bool pairs = tensor_present(&a->gate) && tensor_present(&a->down) && !tensor_present(&a->up_bias) && a->kind <= GLU_GELU &&
                       weight_kind(&a->up) == weight_kind(&a->gate) && weight_kind(&a->up) != &right_blocks;
    if (a->precision != PRECISION_BF16) {
        below.feed_forward(a);
        return;
    }
    if (a->keep || !pairs) {
        const struct branch_parts parts = {below.rmsnorm, products, below.bias, below.glu};
        cpu_feed_forward(a, &parts);
        return;
    }
    if (a->x.rows == 0) return;
    assert(is_f32(&a->x) && a->out.rows == a->x.rows && a->up.cols == a->x.cols && a->down.cols == a->up.rows);
    struct gating g = {.kind = a->kind, .down = product_with(a->down, a->out, a->scale, a->accumulate)};
    struct product p = {.out = {.rows = a->x.rows, .cols = 2 * ceil_div(a->up.rows, PANEL) * PANEL},
                        .right = {a->gate, a->up},
                        .rights = 2,
                        .kind = weight_kind(&a->up),
                        .terms = a->x.cols,
                        .segments = 1,
                        .take = gating_take,
                        .taker = &g};
    product_cut(&p);
    g.to = cpu_scratch(0, SLOT_C, left_segment(&g.down) * sizeof(uint16_t));
    struct left_job job = {&p, &a->x, tensor_present(&a->norm) ? &a->norm : NULL, a->eps, left_room(&p)};
    left_rows(&job);
    p.left = job.to;
    product_run(&p);
    g.down.left = g.to;
    product_run(&g.down);
}
