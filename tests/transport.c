// transport.c: what verifiers accept, in numbers. Written apart from gen/verify.c, so that each can find the other wrong.
#include "transport.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static double smaller(double a, double b) { return a < b ? a : b; }

// ---- at best

struct ratio {
    double p, q;
};

// By rising p / q, without a division: q may be 0.
static int by_ratio(const void *a, const void *b) {
    const struct ratio *x = a, *y = b;
    double left = x->p * y->q, right = y->p * x->q;
    return (left > right) - (left < right);
}

// Tokens that neither has are left out: their ratio has no place in an order.
static int sorted(const double *p, const double *q, int V, struct ratio *out) {
    int n = 0;
    for (int i = 0; i < V; i++)
        if (p[i] > 0 || q[i] > 0) out[n++] = (struct ratio){p[i], q[i]};
    qsort(out, (size_t)n, sizeof *out, by_ratio);
    return n;
}

static double best_replaced(const struct ratio *r, int V, int n) {
    double in_p = 0, in_q = 0, least = 0;
    for (int i = 0; i < V; i++) {
        in_p += r[i].p;
        in_q += r[i].q;
        least = smaller(least, in_p - pow(in_q, n));
    }
    return 1 + least;
}

// Without replacement tokens come as in a race: token i arrives at a time of rate q(i), and the n first are drawn. All lie in H
// when n of H have arrived before the first of the others, whose rate is their sum c:
//     Pr = integral over t of  c exp(-c t) Pr(n or more of H arrived by t)
// Over log t the integrand is analytic in a strip of width pi and falls off at both ends, so the trapezoidal rule at steps of
// 1/4 errs by some exp(-4 pi^2). H grows token by token, and so do, at each of the times, the probabilities of 0 to n - 1 arrivals.
enum { TIMES = 220, GUESSES_MOST = 64 };
static const double first_time = -18, time_step = .25; // log t

static double best_without(const struct ratio *r, int V, int n) {
    double *none = mem_array((size_t)TIMES * (size_t)n, sizeof *none, "arrivals"), in_p = 0, out_q = 0, least = 0;
    for (int k = 0; k < TIMES; k++) none[k * n] = 1;
    double *behind = mem_array((size_t)V + 1, sizeof *behind, "mass behind a beginning");
    for (int i = V; i-- > 0;) behind[i] = out_q += r[i].q;
    for (int i = 0; i < V; i++) {
        double c = behind[i + 1], all = 0;
        in_p += r[i].p;
        for (int k = 0; k < TIMES; k++) {
            double t = exp(first_time + time_step * k), arrived = -expm1(-r[i].q * t), fewer = 0, *count = none + k * n;
            for (int m = n; m-- > 0;) {
                count[m] = count[m] * (1 - arrived) + (m ? count[m - 1] * arrived : 0);
                fewer += count[m];
            }
            all += time_step * c * t * exp(-c * t) * (1 - fewer);
        }
        least = smaller(least, in_p - (c > 0 ? all : 1));
    }
    mem_free(none);
    mem_free(behind);
    return 1 + least;
}

// Marks the n likeliest of q, equals by rising number.
static void mark_top(const double *q, int V, int n, bool *top) {
    memset(top, 0, (size_t)V * sizeof *top);
    for (int k = 0; k < n; k++) {
        int best = -1;
        for (int i = 0; i < V; i++)
            if (!top[i] && q[i] > 0 && (best < 0 || q[i] > q[best])) best = i;
        if (best < 0) return;
        top[best] = true;
    }
}

// p of the n - 1 likeliest, and what is common to p and the rest of q: the one drawn from it can do no more.
static double best_top_one(const double *p, const double *q, int V, int n) {
    bool *top = mem_array((size_t)V, sizeof *top, "likeliest tokens");
    double sum = 0, left = 0;
    mark_top(q, V, n - 1, top);
    for (int i = 0; i < V; i++) left += top[i] ? 0 : q[i];
    for (int i = 0; i < V; i++) sum += top[i] ? p[i] : left > 0 ? smaller(p[i], q[i] / left) : 0;
    mem_free(top);
    return sum;
}

double transport_best(enum draw draw, const double *p, const double *q, int V, int n) {
    assert(n >= 1 && n <= GUESSES_MOST);
    if (draw == DRAW_TOP_ONE) return best_top_one(p, q, V, n);
    int support = 0;
    for (int i = 0; i < V; i++) support += q[i] > 0;
    struct ratio *r = mem_array((size_t)V, sizeof *r, "sorted tokens");
    int used = sorted(p, q, V, r);
    double best = draw == DRAW_REPLACE ? best_replaced(r, used, n) : best_without(r, used, n < support ? n : support);
    mem_free(r);
    return best;
}

// ---- by the rules

// Overlap of p and q; p becomes what is missing of it then, divided by its sum.
static double refuse(double *p, const double *q, int V) {
    double common = 0, left = 0;
    for (int i = 0; i < V; i++) {
        double part = smaller(p[i], q[i]);
        common += part;
        left += p[i] -= part;
    }
    for (int i = 0; i < V && left > 0; i++) p[i] /= left;
    return common;
}

// What is missing after a refusal does not depend on what was refused, and the next guess is as the first.
static double rejection(const double *p, const double *q, int V, int n) {
    double *missing = mem_array((size_t)V, sizeof *missing, "missing mass"), refused = 1;
    memcpy(missing, p, (size_t)V * sizeof *p);
    for (int i = 0; i < n; i++) refused *= 1 - refuse(missing, q, V);
    mem_free(missing);
    return 1 - refused;
}

// Here the next guess depends on what was refused, so this sums over all that may be.
enum { PATHS_MOST = 20000, PATH_TOKENS = 64 };
static double without_from(const double *p, const double *q, int V, int n) {
    double missing[PATH_TOKENS], less[PATH_TOKENS], taken, sum = 0;
    memcpy(missing, p, (size_t)V * sizeof *p);
    taken = refuse(missing, q, V);
    for (int x = 0; x < V && n > 1; x++) {
        double refused = q[x] - smaller(p[x], q[x]), left = 0;
        if (refused <= 0) continue;
        memcpy(less, q, (size_t)V * sizeof *q);
        less[x] = 0;
        for (int i = 0; i < V; i++) left += less[i];
        for (int i = 0; i < V && left > 0; i++) less[i] /= left;
        if (left > 0) sum += refused * without_from(missing, less, V, n - 1);
    }
    return taken + sum;
}

static double without(const double *p, const double *q, int V, int n) {
    if (n == 1) return rejection(p, q, V, 1);
    return V <= PATH_TOKENS && pow(V, n - 1) <= PATHS_MOST ? without_from(p, q, V, n) : NAN;
}

// The paper's equation for rho by bisection; then what is accepted, and what the rest hits that was refused.
static double k_seq(const double *p, const double *q, int V, int n) {
    double lo = 1, hi = n, beta = 0, tries = 0, hit = 0;
    for (int round = 0; round < 60; round++) {
        double rho = (lo + hi) / 2;
        beta = 0;
        for (int i = 0; i < V; i++) beta += smaller(p[i] / rho, q[i]);
        *(1 - pow(1 - beta, n) > rho * beta ? &lo : &hi) = rho;
    }
    for (int i = 0; i < n; i++) tries += pow(1 - beta, i);
    double refused = pow(1 - beta, n);
    if (refused < 1e-12) return 1;
    for (int i = 0; i < V; i++) {
        double part = smaller(p[i] / hi, q[i]), missed = pow(1 - beta - (q[i] - part), n);
        hit += (p[i] - part * tries) / refused * (refused - missed);
    }
    return 1 - refused + hit;
}

static const struct {
    const char *name;
    double (*taken)(const double *p, const double *q, int V, int n);
} formulas[] = {
    {"rejection", rejection}, {"without-replacement", without}, {"k-seq", k_seq}, {"greedy-multi", best_top_one},
};

double transport_taken(const struct verifier *v, const double *p, const double *q, int V, int n) {
    for (size_t i = 0; i < COUNT_OF(formulas); i++)
        if (!strcmp(formulas[i].name, v->name)) return formulas[i].taken(p, q, V, n);
    return NAN;
}
