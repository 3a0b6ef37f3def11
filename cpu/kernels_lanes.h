// kernels_lanes.h: sums and maxima along a row. Part of kernels.h, and of amx.c.
//
// A sum goes through `lanes`: 64 partial sums, lane l taking the columns l, l + 64, ..., folded in halves, so every width of
// vectors gives the same bits.

enum { LANE_VECTORS = LANES / VW };
struct lanes {
    vf at[LANE_VECTORS];
};

INLINE float fold_add(const struct lanes *s) {
    float x[LANES];
    for (int v = 0; v < LANE_VECTORS; v++) v_store(x + v * VW, s->at[v]);
    for (int half = LANES / 2; half > 0; half /= 2)
        for (int l = 0; l < half; l++) x[l] += x[l + half];
    return x[0];
}
// The order of a maximum does not matter.
INLINE float fold_max(vf m) {
    float x[VW];
    v_store(x, m);
    float most = x[0];
    for (int l = 1; l < VW; l++) most = x[l] > most ? x[l] : most;
    return most;
}

// Runs `body` with c (first column) and v (which vector of the lanes) over n columns; tail =
// columns left where fewer than VW.
#define EACH_LANE(n, whole, tail)                                                                  \
    do {                                                                                           \
        int64_t c = 0;                                                                             \
        for (; c + LANES <= (n); c += LANES) {                                                     \
            _Pragma("GCC unroll 8") for (int v = 0; v < LANE_VECTORS; v++) {                       \
                const int64_t at = c + v * VW;                                                     \
                whole                                                                              \
            }                                                                                      \
        }                                                                                          \
        for (int v = 0; v < LANE_VECTORS; v++) {                                                   \
            const int64_t at = c + v * VW, left = (n)-at;                                          \
            if (left <= 0) break;                                                                  \
            tail                                                                                   \
        }                                                                                          \
    } while (0)

// sum of x[c] * y[c] (* w[c] when w is given)
INLINE float row_dot(const float *x, const float *y, const float *w, int64_t n) {
    struct lanes s;
    for (int v = 0; v < LANE_VECTORS; v++) s.at[v] = v_zero();
    if (w)
        EACH_LANE(
            n, { s.at[v] = v_fma(v_mul(v_load(x + at), v_load(w + at)), v_load(y + at), s.at[v]); },
            {
                s.at[v] = v_fma(v_mul(v_load_n(x + at, left), v_load_n(w + at, left)),
                                v_load_n(y + at, left), s.at[v]);
            });
    else
        EACH_LANE(
            n, { s.at[v] = v_fma(v_load(x + at), v_load(y + at), s.at[v]); },
            { s.at[v] = v_fma(v_load_n(x + at, left), v_load_n(y + at, left), s.at[v]); });
    return fold_add(&s);
}

// 1 / sqrt(mean(x^2) + eps)
INLINE float inverse_rms(const float *x, int64_t n, float eps) {
    return (float)(1 / sqrt((double)row_dot(x, x, NULL, n) / (double)n + eps));
}
