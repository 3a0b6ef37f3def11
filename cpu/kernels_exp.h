// kernels_exp.h: the exponential and what is made of it. Part of kernels.h, of amx.c and amx_attend.c.
//
// Polynomials of our own (Cody and Waite 1980 for the reduction), so that all levels, and every libc, agree.

// e^x within 1.1 units in the last place (measured); 0 below -87.3, at most e^88.3; NaN stays NaN.
INLINE vf v_exp(vf x) {
    const vf c = v_max(v_set1(-87.3f), v_min(v_set1(88.3f), x));
    const vf n = v_round(v_mul(c, v_set1(1.44269504f)));
    const vf r =
        v_fnma(n, v_set1(-2.12194440e-4f), v_fnma(n, v_set1(0.693359375f), c)); // |r| <= ln(2) / 2
    vf p = v_set1(1.0f / 5040);
    p = v_fma(p, r, v_set1(1.0f / 720));
    p = v_fma(p, r, v_set1(1.0f / 120));
    p = v_fma(p, r, v_set1(1.0f / 24));
    p = v_fma(p, r, v_set1(1.0f / 6));
    p = v_fma(p, r, v_set1(0.5f));
    p = v_fma(v_mul(r, r), p, r);
    return v_zero_below(v_mul(v_add(p, v_set1(1)), v_exp2_whole(n)), x, -87.3f);
}

INLINE vf v_sigmoid(vf x) { return v_div(v_set1(1), v_add(v_set1(1), v_exp(v_sub(v_zero(), x)))); }

// Near 0, where 1 - 2 / (1 + e^2x) would cancel, an odd polynomial (Moshier's, 1992).
INLINE vf v_tanh(vf x) {
    const vf size = v_max(x, v_sub(v_zero(), x)), z = v_mul(x, x);
    vf p = v_set1(-5.70498872745e-3f);
    p = v_fma(p, z, v_set1(2.06390887954e-2f));
    p = v_fma(p, z, v_set1(-5.37397155531e-2f));
    p = v_fma(p, z, v_set1(1.33314422036e-1f));
    p = v_fma(p, z, v_set1(-3.33332819422e-1f));
    p = v_fma(v_mul(p, z), x, x);
    const vf e = v_exp(v_add(x, x));
    const vf far = v_sub(v_set1(1), v_div(v_set1(2), v_add(v_set1(1), e)));
    return v_add(v_zero_below(far, size, 0.625f), v_sub(p, v_zero_below(p, size, 0.625f)));
}

// cap tanh(scale x / cap), in place.
INLINE void cap_numbers(float *x, int64_t n, float scale, float cap) {
    const vf in = v_set1(scale / cap), out = v_set1(cap);
    for (int64_t c = 0; c < n; c += VW)
        v_store_n(x + c, v_mul(out, v_tanh(v_mul(in, v_load_n(x + c, n - c)))), n - c);
}

// Both gates of gated units are x s(kx): SILU with x itself, GELU's tanh form with 2 sqrt(2/pi) (x +
// .044715 x^3), because .5 (1 + tanh u) = 1 / (1 + e^-2u).
INLINE vf gate_inner(enum glu_kind kind, vf x) {
    if (kind == GLU_SILU) return x;
    const vf k = v_set1(1.5957691216f); // 2 sqrt(2/pi)
    return v_mul(v_mul(k, x), v_fma(v_mul(v_set1(0.044715f), x), x, v_set1(1)));
}

INLINE vf glu_one(enum glu_kind kind, vf gate, vf up) {
    return v_mul(v_mul(gate, v_sigmoid(gate_inner(kind, gate))), up);
}
