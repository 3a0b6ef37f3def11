// amx_head.h: the head and its loss on the matrix units, PRECISION_BF16. Part of amx.c.
//
// Logits exist 32 x 32 at a time, as the tiles leave them. What stays of them is e = exp(z - r) in bf16, laid out as the
// left factor that dx = e w wants, so nothing is packed again, and their sums in f32. The reference r of a row must be
// known before its first logit: it is the logit of the target, computed alone. No logit is far below the largest then,
// but one may be far above: where the largest lies more than FAR above r, r becomes it and the block is done
// again. Rows that were fine keep their r, so no row depends on its neighbours.
//
// With S = sum(e) and g = grad_scale * logit_scale, dz = (e - S [target]) g / S. The first factor is what rests in bf16,
// rounded once; the second belongs to the row: it multiplies the row of dx afterwards, and the row of x before dw.
//
// Sums of e go by pieces of panels whose number hangs on the vocabulary alone, never on threads.

enum { HEAD_PIECES = 32, HEAD_PANELS = 8, FAR = 60 };

struct head {
    const struct head_loss_args *a;
    const int32_t *targets;
    int64_t rows, panels_each;
    struct product layout; // of e: the product dx
    uint16_t *e;           // NULL when no gradient is wanted
    float *reference, *at_target, *factor; // [rows]; factor: g / S, 0 without a target
    float *sum, *most;     // [pieces][rows]
    float *scaled;         // [rows,C] x g / S
    float *loss;           // [rows]
    bool *far;             // [rows]
};

// Where e of row i, column v lies.
static uint16_t *head_at(const struct head *h, int64_t i, int64_t v) {
    const int64_t step = v / STEP, block = step / h->layout.block_steps, r = i % STRIP;
    return h->e + left_at(&h->layout, block, i / STRIP) + (step - block * h->layout.block_steps) * 2 * TILE +
           r / 16 * TILE + r % 16 * STEP + v % STEP;
}

// From 32 rows of logits of a panel, c as four tiles, to e, the piece's sums and maxima.
static void head_take(const void *taker, int64_t strip, int64_t panel, const float *c) {
    const struct head *h = taker;
    const float scale = one_if_zero(h->a->logit_scale);
    const int64_t rows = min_i64(STRIP, h->rows - strip * STRIP), col = panel * PANEL;
    const int64_t n = h->a->w.rows - col, piece = panel / h->panels_each;
    const bool first = panel % h->panels_each == 0;
    const vf by = v_set1(scale), least = v_set1(-INFINITY);
    const __mmask16 some[2] = {v_first(n), v_first(max_i64(0, n - VW))};
    float *sum = h->sum + piece * h->rows + strip * STRIP, *most = h->most + piece * h->rows + strip * STRIP;
    uint16_t *to = h->e ? head_at(h, strip * STRIP, col) : NULL;
    for (int64_t r = 0; r < rows; r++) {
        const int64_t row = strip * STRIP + r;
        const float *from = c + r / 16 * 512 + r % 16 * VW;
        const vf z = _mm512_mask_mul_ps(least, some[0], by, v_load(from));
        const vf y = _mm512_mask_mul_ps(least, some[1], by, v_load(from + 256));
        const vf shift = v_set1(h->reference[row]);
        vf e = v_exp(v_sub(z, shift)), f = v_exp(v_sub(y, shift));
        const int32_t target = h->targets[row];
        const float here = _mm512_reduce_add_ps(v_add(e, f)), top = _mm512_reduce_max_ps(v_max(z, y));
        sum[r] = first ? here : sum[r] + here;
        most[r] = first || top > most[r] ? top : most[r];
        if (target >= col && target < col + PANEL)
            h->at_target[row] = scale * from[(target - col) / VW * 256 + (target - col) % VW];
        if (target < 0) e = f = v_zero();
        if (to) _mm512_storeu_si512(to + r / 16 * TILE + r % 16 * STEP, in_row(e, f));
    }
    for (int64_t r = rows; to && r < STRIP; r++)
        _mm512_storeu_si512(to + r / 16 * TILE + r % 16 * STEP, _mm512_setzero_si512());
}

// The logit of the target, near enough to be the reference.
static void head_references(void *arg, int64_t lo, int64_t hi, int thread) {
    const struct head *h = arg;
    const int64_t C = h->a->x.cols;
    (void)thread;
    for (int64_t i = lo; i < hi; i++) {
        const float *x = row_f32(&h->a->x, i);
        const int64_t t = h->targets[i] < 0 ? 0 : h->targets[i];
        const char *w = (const char *)h->a->w.data + (size_t)t * h->a->w.row_bytes;
        vf dot = v_zero();
        for (int64_t c = 0; c < C; c += VW) {
            const __mmask16 some = v_first(C - c);
            const vf y = h->a->w.dtype == DTYPE_F32
                             ? _mm512_maskz_loadu_ps(some, w + 4 * c)
                             : _mm512_castsi512_ps(_mm512_slli_epi32(
                                   _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(some, w + 2 * c)), 16));
            dot = v_fma(v_load_n(x + c, C - c), y, dot);
        }
        h->reference[i] = one_if_zero(h->a->logit_scale) * _mm512_reduce_add_ps(dot);
    }
}

// Loss and factor of each row; rows whose reference was too low get a better one.
static void head_rows(void *arg, int64_t lo, int64_t hi, int thread) {
    const struct head *h = arg;
    const int64_t panels = ceil_div(h->a->w.rows, PANEL), pieces = ceil_div(panels, h->panels_each);
    const double g = (double)h->a->grad_scale * (double)one_if_zero(h->a->logit_scale);
    (void)thread;
    for (int64_t i = lo; i < hi; i++) {
        float sum = 0, most = -INFINITY;
        for (int64_t p = 0; p < pieces; p++) {
            sum += h->sum[p * h->rows + i];
            if (h->most[p * h->rows + i] > most) most = h->most[p * h->rows + i];
        }
        h->loss[i] = h->factor[i] = 0;
        h->far[i] = h->targets[i] >= 0 && most - h->reference[i] > FAR;
        if (h->far[i]) h->reference[i] = most;
        if (h->far[i] || h->targets[i] < 0) continue;
        h->loss[i] = (float)(log((double)sum) + (double)h->reference[i] - (double)h->at_target[i]);
        if (!h->e) continue;
        const float e = (float)exp((double)h->at_target[i] - (double)h->reference[i]);
        const double up = 1 + 2 * (double)h->a->z_loss * (log((double)sum) + (double)h->reference[i]);
        *head_at(h, i, h->targets[i]) = bf16_from_f32(e - (float)((double)sum / up));
        h->factor[i] = (float)(g * up / (double)sum);
    }
}

// to[i,:] = factor[i] * from[i,:]
struct head_scaling {
    const float *factor;
    struct tensor to, from;
};
static void head_scale(void *arg, int64_t lo, int64_t hi, int thread) {
    const struct head_scaling *s = arg;
    (void)thread;
    for (int64_t i = lo; i < hi; i++)
        for (int64_t c = 0; c < s->to.cols; c += VW)
            v_store_n(row_f32(&s->to, i) + c,
                      v_mul(v_set1(s->factor[i]), v_load_n(row_f32(&s->from, i) + c, s->to.cols - c)), s->to.cols - c);
}

// Strips of A are 32 columns of e, terms its rows: a step of a strip is a tile of pairs, transposed.
struct head_turn {
    const struct head *h;
    const struct product *p;
    int64_t col;
    uint16_t *to;
};
static void head_columns_piece(void *arg, int64_t lo, int64_t hi, int thread) {
    const struct head_turn *job = arg;
    const struct product *p = job->p;
    (void)thread;
    for (int64_t i = lo; i < hi; i++) {
        const int64_t s = i % p->strips, segment = i / p->strips, col = job->col + s * STRIP;
        for (int64_t step = 0; step < p->steps; step++) {
            const int64_t b = step / p->block_steps, row = segment * p->terms + step * STEP;
            const int64_t rows = min_i64(STEP, p->terms - step * STEP);
            uint16_t *to = job->to + (size_t)segment * left_segment(p) + left_at(p, b, s) +
                           (step - b * p->block_steps) * 2 * TILE;
            uint16_t pairs[2][TILE];
            for (int64_t k = 0; k < STEP; k += 2) {
                const __m512i none = _mm512_setzero_si512();
                const __m512i even = k < rows ? _mm512_loadu_si512(head_at(job->h, row + k, col)) : none;
                const __m512i odd = k + 1 < rows ? _mm512_loadu_si512(head_at(job->h, row + k + 1, col)) : none;
                for (int half = 0; half < 2; half++)
                    _mm512_storeu_si512(pairs[half] + k * VW,
                                        half ? in_pairs_bf16(_mm512_extracti64x4_epi64(even, 1), _mm512_extracti64x4_epi64(odd, 1))
                                             : in_pairs_bf16(_mm512_castsi512_si256(even), _mm512_castsi512_si256(odd)));
            }
            for (int half = 0; half < 2; half++)
                v_transpose((const float *)(const void *)pairs[half], VW, (float *)(void *)(to + half * TILE), VW);
        }
    }
}

// z = x w^T, as often as references change.
static void head_forward(struct head *h, struct tensor x) {
    struct product p = {.right = {h->a->w}, .kind = &right_rows, .terms = x.cols, .segments = 1, .scale = 1,
                        .take = head_take, .taker = h};
    p.out = (struct tensor){.rows = h->rows, .cols = h->a->w.rows};
    product_cut(&p);
    p.panels_each = h->panels_each;
    struct left_job job = {.p = &p, .from = &x, .to = left_room(&p)};
    p.left = job.to;
    left_rows(&job);
    for (bool again = true; again;) {
        product_run(&p);
        pool_for(h->rows, 64, head_rows, h);
        again = false;
        for (int64_t i = 0; i < h->rows; i++) again |= h->far[i];
    }
}

static void head_backward(const struct head *h, struct tensor x, struct tensor dx, int64_t segment) {
    const struct head_loss_args *a = h->a;
    struct product p = h->layout;
    p.out = dx, p.left = h->e;
    product_run(&p);
    struct head_scaling rows = {h->factor, dx, dx}, scaled = {h->factor, tensor_f32(h->scaled, h->rows, x.cols), x};
    pool_for(h->rows, 16, head_scale, &rows);
    pool_for(h->rows, 16, head_scale, &scaled);
    for (int64_t at = 0; at < a->dw.rows; at += GRADIENT_ROWS) {
        p = (struct product){.out = tensor_rows(a->dw, at, min_i64(GRADIENT_ROWS, a->dw.rows - at)),
                             .right = {scaled.to}, .kind = &right_columns, .terms = segment,
                             .segments = h->rows / segment, .scale = 1, .accumulate = !a->fresh};
        product_cut(&p);
        p.around = false;
        struct head_turn job = {h, &p, at, left_room(&p)};
        p.left = job.to;
        pool_for(p.strips * p.segments, 1, head_columns_piece, &job);
        product_run(&p);
    }
}

// The small arrays of a block, [rows] and [pieces][rows], and x times the factors.
static void head_place(struct head *h, int64_t pieces, int64_t C) {
    float **floats[] = {&h->reference, &h->at_target, &h->factor};
    const size_t rows = (size_t)h->rows, each = (COUNT_OF(floats) + 2 * (size_t)pieces + (h->e ? (size_t)C : 0));
    float *at = cpu_scratch(0, SLOT_C, rows * (each * sizeof(float) + sizeof(bool)));
    for (size_t i = 0; i < COUNT_OF(floats); i++, at += rows) *floats[i] = at;
    h->sum = at, at += (size_t)pieces * rows;
    h->most = at, at += (size_t)pieces * rows;
    h->scaled = at, at += h->e ? (size_t)C * rows : 0;
    h->far = (bool *)at;
}

static void head_loss(const struct head_loss_args *a) {
    if (a->precision != PRECISION_BF16) {
        below.head_loss(a);
        return;
    }
    assert(is_f32(&a->x) && a->w.layout == LAYOUT_ROWS && a->w.mats == 1 && a->x.cols == a->w.cols);
    assert(a->w.dtype == DTYPE_F32 || a->w.dtype == DTYPE_BF16);
    assert(a->segment > 0 && a->x.rows % a->segment == 0);
    assert(a->room_bytes >= head_loss_room(head_loss_least(a->segment), a->w.rows));
    const int64_t V = a->w.rows, C = a->x.cols, panels = ceil_div(V, PANEL);
    const int64_t fits = (int64_t)(a->room_bytes / sizeof(uint16_t)) / (panels * PANEL) / STRIP * STRIP;
    struct head_block b = {0};
    while (cpu_head_next(a, fits, &b)) {
        struct tensor x = tensor_rows(a->x, b.at, b.rows);
        struct head_loss_args part = *a;
        part.x = x, part.fresh = a->fresh && b.at == 0;
        struct head h = {.a = &part, .targets = a->targets + b.at, .rows = b.rows, .loss = a->loss + b.at};
        h.panels_each = max_i64(1, min_i64(HEAD_PANELS, panels / HEAD_PIECES));
        h.layout = (struct product){.right = {a->w}, .kind = &right_columns, .terms = V, .segments = 1, .scale = 1};
        h.layout.out = (struct tensor){.rows = b.rows, .cols = C};
        product_cut(&h.layout);
        if (a->grad_scale != 0) h.e = a->room;
        head_place(&h, ceil_div(panels, h.panels_each), C);
        pool_for(b.rows, 64, head_references, &h);
        head_forward(&h, x);
        if (h.e) head_backward(&h, x, tensor_rows(a->dx, b.at, b.rows), b.segment);
    }
}
