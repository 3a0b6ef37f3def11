// kernels_update.h: one step of one parameter by an optimizer's rule (backend.h, update_args), over the vector words.
//
// Bound by memory: a number of Adam is 16 bytes read and 12 written. Every rule is one pass over them.

// 1, 0 or -1.
INLINE vf sign_of(vf x) {
    const vf one = v_set1(1);
    return v_sub(v_zero_below(one, x, FLT_TRUE_MIN), v_zero_below(one, v_sub(v_zero(), x), FLT_TRUE_MIN));
}

// d of the rule; writes the moments.
INLINE vf direction(const enum update_rule rule, const struct cpu_update *u, int64_t i, int64_t n, vf grad) {
    const struct update_args *a = u->a;
    float *m = a->m.data, *v = a->v.data;
    const vf b1 = v_set1(a->beta1), b2 = v_set1(a->beta2), c1 = v_set1(1 - a->beta1), c2 = v_set1(1 - a->beta2);
    if (rule == UPDATE_SGD) {
        if (!m) return grad;
        const vf mean = v_fma(b1, v_load_n(m + i, n), grad);
        v_store_n(m + i, mean, n);
        return v_fma(b1, mean, grad);
    }
    if (rule == UPDATE_LION) {
        const vf old = v_load_n(m + i, n);
        v_store_n(m + i, v_fma(b2, old, v_mul(c2, grad)), n);
        return sign_of(v_fma(b1, old, v_mul(c1, grad)));
    }
    const vf square = v_fma(b2, v_load_n(v + i, n), v_mul(c2, v_mul(grad, grad)));
    v_store_n(v + i, square, n);
    const vf size = v_add(v_sqrt(v_mul(square, v_set1(u->square))), v_set1(a->eps));
    if (rule == UPDATE_SCHEDULE_FREE) return v_div(grad, size);
    const vf mean = v_fma(b1, v_load_n(m + i, n), v_mul(c1, grad));
    v_store_n(m + i, mean, n);
    if (rule == UPDATE_ADAM) return v_div(v_mul(mean, v_set1(u->mean)), size);
    const vf ahead = v_mul(v_mul(b1, mean), v_set1(u->ahead));
    return v_div(v_fma(v_mul(c1, grad), v_set1(u->mean), ahead), size);
}

INLINE void update_by(const enum update_rule rule, const struct cpu_update *u, int64_t lo, int64_t hi) {
    const struct update_args *a = u->a;
    float *w = a->w.data, *out = a->out.data, *m = a->m.data, *x = a->x.data;
    const float *g = a->g.data;
    const vf gs = v_set1(one_if_zero(a->grad_scale)), lr = v_set1(a->lr), decay = v_set1(a->weight_decay);
    for (int64_t i = lo; i < hi; i += VW) {
        const int64_t n = hi - i;
        const vf old = v_load_n(w + i, n);
        const vf d = v_fma(decay, old, direction(rule, u, i, n, v_mul(gs, v_load_n(g + i, n))));
        if (out) {
            v_store_n(out + i, d, n);
            continue;
        }
        vf now = v_fnma(lr, d, old);
        if (rule == UPDATE_SCHEDULE_FREE) {
            const vf fast = v_fnma(lr, d, v_load_n(m + i, n)), before = v_load_n(x + i, n);
            const vf mean = v_fma(v_set1(a->mix), v_sub(fast, before), before);
            v_store_n(m + i, fast, n);
            v_store_n(x + i, mean, n);
            now = v_fma(v_set1(1 - a->beta1), v_sub(fast, mean), mean);
        }
        v_store_n(w + i, now, n);
        if (tensor_present(&a->copy)) {
            uint16_t half[VW];
            v_store_bf16(half, now);
            memcpy((uint16_t *)a->copy.data + i, half, (size_t)min_i64(n, VW) * sizeof *half);
        }
    }
}

static void update_piece(void *arg, int64_t lo, int64_t hi, int thread) {
    const struct cpu_update *u = arg;
    (void)thread;
    switch (u->a->rule) {
    case UPDATE_ADAM: update_by(UPDATE_ADAM, u, lo, hi); break;
    case UPDATE_NADAM: update_by(UPDATE_NADAM, u, lo, hi); break;
    case UPDATE_LION: update_by(UPDATE_LION, u, lo, hi); break;
    case UPDATE_SGD: update_by(UPDATE_SGD, u, lo, hi); break;
    case UPDATE_SCHEDULE_FREE: update_by(UPDATE_SCHEDULE_FREE, u, lo, hi); break;
    }
}

static void update(const struct update_args *a) {
    struct cpu_update u = cpu_update_begin(a);
    pool_for(a->w.rows * a->w.cols, 2 * CHUNK, update_piece, &u);
}
