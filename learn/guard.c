// guard: whether a step is taken, and whether the run is lost and has to go back. Its rules are in learn.h.
//
// Plain statistics on the host over the last kept steps. Means and deviations are computed anew each time, in two passes:
// exact enough, and the same bits after a resume, which running sums would not be.
#include "learn/learn.h"

#include <math.h>

enum { GUARD_LEAST = 32 };

static int64_t kept(const struct guard *g) { return g->count < GUARD_WINDOW ? g->count : GUARD_WINDOW; }

// Of the n values of a ring up to the one before `end`: mean, and the deviation, which is at least floor_share of it.
static void level_of(const double *ring, int64_t end, int64_t n, double floor_share, double *mean, double *deviation) {
    double sum = 0, var = 0;
    for (int64_t i = end - n; i < end; i++) sum += ring[i % GUARD_WINDOW];
    *mean = sum / (double)n;
    for (int64_t i = end - n; i < end; i++) var += (ring[i % GUARD_WINDOW] - *mean) * (ring[i % GUARD_WINDOW] - *mean);
    *deviation = fmax(sqrt(var / (double)n), floor_share * fabs(*mean));
}

static bool far_above(const double *ring, const struct guard *g, double x, double floor_share) {
    double mean, deviation;
    level_of(ring, g->count, kept(g), floor_share, &mean, &deviation);
    return x - mean > g->limit * deviation;
}

enum guard_verdict guard_judge(struct guard *g, double loss, double grad_norm) {
    assert(g->count >= 0 && g->limit >= 0);
    enum guard_verdict verdict = GUARD_KEEP;
    if (!isfinite(loss) || !isfinite(grad_norm)) {
        verdict = GUARD_NOT_FINITE;
    } else if (g->limit > 0 && kept(g) >= GUARD_LEAST) {
        if (far_above(g->loss, g, loss, 0.01)) verdict = GUARD_LOSS;
        else if (far_above(g->norm, g, grad_norm, 0.10)) verdict = GUARD_NORM;
    }
    if (verdict != GUARD_KEEP && verdict != GUARD_NOT_FINITE && g->in_a_row + 1 >= GUARD_PATIENCE && !g->goes_back) {
        g->count = 0;
        verdict = GUARD_KEEP;
    }
    if (verdict != GUARD_KEEP) {
        g->skipped++;
        g->in_a_row++;
        return verdict;
    }
    g->loss[g->count % GUARD_WINDOW] = loss;
    g->norm[g->count % GUARD_WINDOW] = grad_norm;
    g->count++;
    g->in_a_row = 0;
    return GUARD_KEEP;
}

// How far the last GUARD_PATIENCE kept losses lie above those before them, in deviations of these; -INFINITY: not known yet.
static double rise(const struct guard *g) {
    double now, before, deviation, unused;
    int64_t n = kept(g) - GUARD_PATIENCE;
    if (n < GUARD_LEAST) return -INFINITY;
    level_of(g->loss, g->count - GUARD_PATIENCE, n, 0.01, &before, &deviation);
    level_of(g->loss, g->count, GUARD_PATIENCE, 0, &now, &unused);
    return (now - before) / deviation;
}

const char *guard_lost(const struct guard *g) {
    if (g->in_a_row >= GUARD_PATIENCE) return "steps were skipped one after the other";
    return g->limit > 0 && rise(g) > g->limit / 2 ? "the loss rose and stayed" : NULL;
}

bool guard_calm(const struct guard *g) { return g->in_a_row == 0 && isfinite(rise(g)) && rise(g) <= 1; }

const char *guard_name(enum guard_verdict v) {
    static const char *const names[] = {"kept", "not finite", "loss", "gradient norm"};
    static_assert(COUNT_OF(names) == GUARD_NORM + 1, "a name for every verdict");
    return names[v];
}
