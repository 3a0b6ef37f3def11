// op_check.c: the checks of op_cases.h. They see an op only as buffers with roles.
//
// Memory of a buffer: pages of its own. The numbers end where an unmapped page begins, so that one byte read or
// written behind them ends the test; before them and between padded rows lie canaries.
//
//   | canary ............ | row 0 | gap | row 1 | gap | row 2 | unmapped page |
//
// Tolerance: a sum of t rounded terms is off by about eps * sqrt(t) of its size, in f32, and a few roundings come on
// top, so |error| <= eps * (4 + sqrt(t)) * max(|expected|, rms of the buffer); outputs of fewer bits add half a step
// of their own.
#include "tests/op_cases.h"

#include <float.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { CANARY = 0xA5, POISON = 0xFF }; // 0xFF.. is NaN in every float dtype and -1 as an id

static size_t page_bytes(void) { return (size_t)sysconf(_SC_PAGESIZE); }

// Which case runs, for the message when it touches memory it must not.
static char running[256];
static void on_fault(int signal_number) {
    static const char head[] = "op case touched memory outside its buffers: ";
    if (write(2, head, sizeof head - 1) < 0 || write(2, running, strlen(running)) < 0 ||
        write(2, "\n", 1) < 0) {
    }
    signal(signal_number, SIG_DFL);
    raise(signal_number);
}

void op_case_name(const struct op_case *c, char *to, size_t size) {
    const struct op_shape *s = &c->spec->shapes[c->shape];
    int at = snprintf(to, size, "%s %s", c->spec->name, dtype_row(c->dtype)->name);
    const struct {
        const char *letter;
        int64_t value;
    } part[] = {{"n", s->n},      {"C", s->C}, {"M", s->M}, {"K", s->K},
                {"H", s->H},      {"G", s->G}, {"D", s->D}, {"segment", s->segment},
                {"mode", s->mode}};
    for (size_t i = 0; i < COUNT_OF(part); i++)
        if (part[i].value)
            at += snprintf(to + at, size - (size_t)at, " %s %lld", part[i].letter,
                           (long long)part[i].value);
    if (s->scale != 0) at += snprintf(to + at, size - (size_t)at, " scale %g", (double)s->scale);
    if (s->z_loss != 0) at += snprintf(to + at, size - (size_t)at, " z %g", (double)s->z_loss);
    snprintf(to + at, size - (size_t)at, "%s%s%s", s->accumulate ? " accumulate" : "",
             s->loaded ? " loaded" : "", c->padded ? " padded" : "");
}

// ---------------------------------------------------------------------------------------------------------------
// A run: buffers made, op called, buffers looked at.

static void row_to_doubles(const struct op_buf *b, const unsigned char *data, int64_t i,
                           double *to) {
    const void *from = data + (size_t)i * b->row_bytes;
    if (b->dtype == DTYPE_I32) {
        for (int64_t c = 0; c < b->cols; c++) to[c] = ((const int32_t *)from)[c];
        return;
    }
    float *x = mem_array((size_t)b->cols, sizeof *x, "row");
    dtype_row(b->dtype)->to_f32(from, x, b->cols);
    for (int64_t c = 0; c < b->cols; c++) to[c] = x[c];
    mem_free(x);
}

static void row_from_doubles(const struct op_buf *b, int64_t i, const double *from) {
    void *to = b->data + (size_t)i * b->row_bytes;
    if (b->dtype == DTYPE_I32) {
        for (int64_t c = 0; c < b->cols; c++) ((int32_t *)to)[c] = (int32_t)from[c];
        return;
    }
    float *x = mem_array((size_t)b->cols, sizeof *x, "row");
    for (int64_t c = 0; c < b->cols; c++) x[c] = (float)from[c];
    dtype_row(b->dtype)->from_f32(x, to, b->cols);
    mem_free(x);
}

static size_t row_used(const struct op_buf *b) {
    size_t used = 0;
    if (!dtype_row_bytes(b->dtype, b->cols, &used)) abort();
    return used;
}

static void buffer_open(struct op_run *r, struct op_buf *b) {
    size_t page = page_bytes(), used = row_used(b);
    size_t gap = r->padded && !(b->role & FLAT) ? 3 * (size_t)dtype_row(b->dtype)->block_bytes : 0;
    b->row_bytes = used + gap;
    b->bytes = b->rows ? (size_t)(b->rows - 1) * b->row_bytes + used : 0;
    b->map_bytes = (b->bytes + page - 1) / page * page + 2 * page;
    b->map = mmap(NULL, b->map_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert(b->map != MAP_FAILED);
    if (mprotect(b->map + b->map_bytes - page, page, PROT_NONE)) abort();
    memset(b->map, CANARY, b->map_bytes - page);
    b->data = b->map + b->map_bytes - page - b->bytes;
    for (int64_t i = 0; i < b->rows; i++) {
        double *v = b->v + i * b->cols;
        if (b->role & IN)
            row_from_doubles(b, i, v);
        else
            memset(b->data + (size_t)i * b->row_bytes, POISON, used);
        row_to_doubles(b, b->data, i, v); // as rounded to the dtype
    }
    b->before = mem_alloc(b->map_bytes - page, "bytes before");
    memcpy(b->before, b->map, b->map_bytes - page);
}

// n: 0 for the shape's own.
static void run_open(struct op_run *r, const struct op_case *c, int64_t n) {
    *r = (struct op_run){
        .spec = c->spec, .s = c->spec->shapes[c->shape], .dtype = c->dtype, .padded = c->padded};
    r->seed = 1000 + (uint64_t)c->shape; // small, so that a failure is easy to name
    if (n) r->s.n = n;
    op_case_name(c, running, sizeof running);
    signal(SIGSEGV, on_fault);
    signal(SIGBUS, on_fault);
    c->spec->declare(r);
    for (int i = 0; i < r->n_bufs; i++) buffer_open(r, &r->buf[i]);
}

static void run_close(struct op_run *r) {
    for (int i = 0; i < r->n_bufs; i++) {
        munmap(r->buf[i].map, r->buf[i].map_bytes);
        mem_free(r->buf[i].before);
        mem_free(r->buf[i].v);
    }
}

// Where the memory of a backend is not the host's, buffers go there with the canaries around them, and come back.
static size_t sent_bytes(const struct op_buf *b) { return b->map_bytes - page_bytes(); }
static bool in_its_map(const struct op_buf *b) { return b->data >= b->map && b->data < b->map + b->map_bytes; }
static bool buffer_send(struct op_buf *b, const struct backend *to, struct err *err) {
    const bool whole = in_its_map(b);
    const size_t bytes = whole ? sent_bytes(b) : (size_t)b->rows * b->row_bytes;
    b->device = to->alloc(bytes, "buffer of a test", err);
    if (!b->device) return false;
    to->upload(b->device, whole ? b->map : b->data, bytes);
    if (whole) b->device += b->data - b->map;
    return true;
}
static void buffer_fetch(struct op_buf *b, const struct backend *from) {
    if (!b->device) return;
    const bool whole = in_its_map(b);
    if (whole) b->device -= b->data - b->map;
    if (whole) from->download(b->map, b->device, sent_bytes(b));
    from->free(b->device);
    b->device = NULL;
}

static bool run_call(struct op_run *r, const struct backend *b, struct err *err) {
    bool owned[OP_BUFS] = {0}, good = true;
    for (int i = 0; i < r->n_bufs && good; i++) {
        struct op_buf *buf = &r->buf[i];
        if (!b->reads_host) good = buffer_send(buf, b, err);
        if (!good || !(buf->role & WEIGHT) || !r->s.loaded) continue;
        struct tensor host = {buf->data, buf->dtype, LAYOUT_ROWS,   1,
                              buf->rows, buf->cols,  buf->row_bytes};
        good = b->weight_load(&buf->loaded, &host, &owned[i], err);
    }
    if (good) r->spec->call(r, b), b->sync();
    for (int i = 0; i < r->n_bufs; i++) {
        if (owned[i]) b->free(r->buf[i].loaded.data);
        r->buf[i].loaded = (struct tensor){0};
        buffer_fetch(&r->buf[i], b);
    }
    return good;
}

// Nothing but the rows of outputs has changed.
static bool run_untouched(const struct op_run *r, struct err *err) {
    for (int i = 0; i < r->n_bufs; i++) {
        const struct op_buf *b = &r->buf[i];
        size_t front = b->map_bytes - page_bytes() - b->bytes, used = row_used(b);
        if (memcmp(b->map, b->before, front))
            return err_set(err, "%s: something was written outside, before the first row of %s",
                           running, b->name);
        for (int64_t row = 0; row < b->rows; row++) {
            const unsigned char *now = b->data + (size_t)row * b->row_bytes,
                                *then = b->before + (now - b->map);
            if (!(b->role & OUT) && memcmp(now, then, used))
                return err_set(err, "%s: row %lld of %s is an input but was changed", running,
                               (long long)row, b->name);
            if (row < b->rows - 1 && memcmp(now + used, then + used, b->row_bytes - used))
                return err_set(err, "%s: something was written outside, behind row %lld of %s",
                               running, (long long)row, b->name);
        }
    }
    return true;
}

static void run_again(struct op_run *r) {
    for (int i = 0; i < r->n_bufs; i++)
        memcpy(r->buf[i].map, r->buf[i].before, r->buf[i].map_bytes - page_bytes());
}

static bool run_whole(struct op_run *r, const struct op_case *c, int64_t n, const struct backend *b,
                      struct err *err) {
    run_open(r, c, n);
    if (run_call(r, b, err) && run_untouched(r, err)) return true;
    run_close(r);
    return false;
}

// ---------------------------------------------------------------------------------------------------------------
// Numbers against numbers.

static double allowed_factor(const struct op_run *r) {
    double amplify = r->s.amplify > 0 ? r->s.amplify : 1;
    return (double)FLT_EPSILON * (4 + sqrt((double)r->spec->terms(r))) * amplify;
}
static double half_step(enum dtype d) {
    return d == DTYPE_F16 ? 0x1p-11 : d == DTYPE_BF16 ? 0x1p-8 : 0;
}

// Every output of r against expected values in v of `e` (same case). low_bits: both sides were rounded to the dtype.
static bool compare(const struct op_run *r, const struct op_run *e, bool both_rounded,
                    double *worst, struct err *err) {
    for (int i = 0; i < r->n_bufs; i++) {
        const struct op_buf *b = &r->buf[i];
        if (!(b->role & OUT)) continue;
        const double *expected = e->buf[i].v;
        double sum = 0, *got = mem_array((size_t)b->cols, sizeof *got, "row");
        int64_t count = 0;
        for (int64_t k = 0; k < b->rows * b->cols; k++)
            if (isfinite(expected[k])) sum += expected[k] * expected[k], count++;
        double rms = count ? sqrt(sum / (double)count) : 0;
        bool exact = r->spec->op == OP_STORE_ROWS || r->spec->op == OP_CAST;
        bool good = true;
        for (int64_t k = 0; k < b->rows && good; k++) {
            row_to_doubles(b, b->data, k, got);
            for (int64_t c = 0; c < b->cols && good; c++) {
                double want = expected[k * b->cols + c], error = fabs(got[c] - want);
                double allowed = exact ? 0 : allowed_factor(r) * fmax(fabs(want), rms);
                allowed += r->spec->inner * fmax(fabs(want), rms);
                if (!exact) allowed += (both_rounded ? 2 : 1) * half_step(b->dtype) * fabs(want);
                if (got[c] == want) continue; // infinities too
                if (worst && allowed > 0) *worst = fmax(*worst, error / allowed);
                if (error <= allowed) continue;
                good = err_set(err,
                               "%s (seed %llu): %s[%lld,%lld] expected %.9g, found %.9g, off by "
                               "%.3g of %.3g allowed",
                               running, (unsigned long long)r->seed, b->name, (long long)k,
                               (long long)c, want, got[c], error, allowed);
            }
        }
        mem_free(got);
        if (!good) return false;
    }
    return true;
}

static bool same_bits(const struct op_run *a, const struct op_run *b, const char *what,
                      struct err *err) {
    for (int i = 0; i < a->n_bufs; i++) {
        const struct op_buf *x = &a->buf[i], *y = &b->buf[i];
        for (int64_t k = 0; k < x->rows && (x->role & OUT); k++) {
            const unsigned char *p = x->data + (size_t)k * x->row_bytes,
                                *q = y->data + (size_t)k * y->row_bytes;
            if (memcmp(p, q, row_used(x)) == 0) continue;
            double *two = mem_array(2 * (size_t)x->cols, sizeof *two, "rows");
            row_to_doubles(x, x->data, k, two);
            row_to_doubles(y, y->data, k, two + x->cols);
            int64_t c = 0;
            while (c < x->cols - 1 && memcmp(&two[c], &two[x->cols + c], sizeof *two) == 0) c++;
            err_set(err, "%s (seed %llu): %s[%lld,%lld] is %.9g, but %.9g %s", running,
                    (unsigned long long)a->seed, x->name, (long long)k, (long long)c, two[c],
                    two[x->cols + c], what);
            mem_free(two);
            return false;
        }
    }
    return true;
}

// ---------------------------------------------------------------------------------------------------------------
// The checks.

bool op_check_reference(const struct op_case *c, const struct backend *b, double *worst,
                        struct err *err) {
    struct op_run r;
    if (!run_whole(&r, c, 0, b, err)) return false;
    c->spec->reference(&r);
    bool good = compare(&r, &r, false, worst, err);
    run_close(&r);
    return good;
}

bool op_check_equal(const struct op_case *c, const struct backend *b, const struct backend *plain,
                    double *worst, struct err *err) {
    struct op_run r, e;
    if (!run_whole(&e, c, 0, plain, err)) return false;
    if (!run_whole(&r, c, 0, b, err)) {
        run_close(&e);
        return false;
    }
    for (int i = 0; i < e.n_bufs; i++)
        for (int64_t k = 0; k < e.buf[i].rows; k++)
            row_to_doubles(&e.buf[i], e.buf[i].data, k, e.buf[i].v + k * e.buf[i].cols);
    bool good = compare(&r, &e, true, worst, err);
    run_close(&r);
    run_close(&e);
    return good;
}

// Central differences with a step of 1e-4 are right to about 1e-8 in double, so what is off is the f32 op.
static bool gradient_pair(const struct op_run *r, const struct op_pair *pair, double *worst,
                          struct err *err) {
    enum { MOST = 96 };
    const struct op_buf *grad = &r->buf[pair->grad], *of = &r->buf[pair->of];
    const double step = 1e-4, relative = 1e-4;
    int64_t size = grad->rows * grad->cols, tried = size < MOST ? size : MOST;
    double expected[MOST], got[MOST], sum = 0,
                                      *row = mem_array((size_t)grad->cols, sizeof *row, "row");
    int64_t at[MOST];
    bool adds = (grad->role & IN) && !pair->overwrites;
    for (int64_t k = 0; k < tried; k++) {
        // All of a small gradient; of a large one the ends and a sample.
        at[k] = size <= MOST ? k
                : k < 8      ? k
                : k < 16     ? size - 1 - (k - 8)
                             : (int64_t)rng_below(r->seed, 99, (uint64_t)k, (uint64_t)size);
        double kept = of->v[at[k]];
        of->v[at[k]] = kept + step;
        double above = r->spec->loss(r);
        of->v[at[k]] = kept - step;
        double below = r->spec->loss(r);
        of->v[at[k]] = kept;
        expected[k] = (above - below) / (2 * step);
        sum += expected[k] * expected[k];
        if (adds) expected[k] += grad->v[at[k]];
        row_to_doubles(grad, grad->data, at[k] / grad->cols, row);
        got[k] = row[at[k] % grad->cols];
    }
    mem_free(row);
    double rms = sqrt(sum / (double)tried);
    for (int64_t k = 0; k < tried; k++) {
        double error = fabs(got[k] - expected[k]),
               allowed = relative * fmax(fabs(expected[k]), rms) + 1e-7;
        if (worst) *worst = fmax(*worst, error / allowed);
        if (!(error <= allowed))
            return err_set(
                err,
                "%s (seed %llu): %s[%lld,%lld] is %.9g, but differences of the formula give %.9g",
                running, (unsigned long long)r->seed, grad->name, (long long)(at[k] / grad->cols),
                (long long)(at[k] % grad->cols), got[k], expected[k]);
    }
    return true;
}

bool op_check_gradient(const struct op_case *c, const struct backend *b, double *worst,
                       struct err *err) {
    struct op_run r;
    if (!run_whole(&r, c, 0, b, err)) return false;
    bool good = true;
    for (int p = 0; p < c->spec->n_pairs && good; p++)
        good = gradient_pair(&r, &c->spec->pairs[p], worst, err);
    run_close(&r);
    return good;
}

// Rows [from, from + count) of a run, on its memory; numbers of rows inside count from `from`.
static bool call_part(const struct op_run *whole, int64_t from, int64_t count,
                      const struct backend *b, struct err *err) {
    struct op_run part = *whole;
    void *shifted[OP_BUFS] = {0};
    part.s.n = count;
    for (int i = 0; i < part.n_bufs; i++) {
        struct op_buf *buf = &part.buf[i];
        if (!(buf->role & BY_ROW)) continue;
        buf->data += (size_t)from * buf->row_bytes;
        buf->rows = count;
        if (!(buf->role & ROW_INDEX)) continue;
        int32_t *index = shifted[i] = mem_array((size_t)count, sizeof *index, "row numbers");
        for (int64_t k = 0; k < count; k++)
            index[k] = ((const int32_t *)(const void *)buf->data)[k] - (int32_t)from;
        buf->data = shifted[i];
    }
    bool good = run_call(&part, b, err);
    for (int i = 0; i < part.n_bufs; i++) mem_free(shifted[i]);
    return good;
}

bool op_check_quick;

// One cut into parts of several sizes.
static bool rows_in_mixed_parts(struct op_run *parts, int64_t units, int64_t unit, const struct backend *b, struct err *err) {
    static const int64_t sizes[] = {1, 2, 5, 1, 16};
    bool good = true;
    for (int64_t at = 0, k = 0, count; at < units && good; at += count, k++) {
        count = k < (int64_t)COUNT_OF(sizes) && sizes[k] < units - at ? sizes[k] : units - at;
        good = call_part(parts, at * unit, count * unit, b, err);
    }
    return good;
}

bool op_check_rows(const struct op_case *c, const struct backend *b, struct err *err) {
    static const int64_t rows_at_once[] = {1, 2, 5, 16, 64}, segments_at_once[] = {1, 3};
    const struct op_shape *s = &c->spec->shapes[c->shape];
    int64_t unit = c->spec->unit < 0 ? s->segment : 1, units = c->spec->unit < 0 ? 8
                                                               : s->n > 77
                                                                   ? s->n
                                                                   : 77; // 77: a tail for all
    const int64_t *sizes = c->spec->unit < 0 ? segments_at_once : rows_at_once;
    size_t n_sizes = c->spec->unit < 0 ? COUNT_OF(segments_at_once) : COUNT_OF(rows_at_once);
    struct op_run whole, parts;
    if (!run_whole(&whole, c, units * unit, b, err)) return false;
    run_open(&parts, c, units * unit);
    bool good = true;
    if (op_check_quick) {
        n_sizes = 0;
        good = rows_in_mixed_parts(&parts, units, unit, b, err) && run_untouched(&parts, err) && same_bits(&whole, &parts, "in parts of 1, 2, 5, 1, 16 and more", err);
    }
    for (size_t k = 0; k < n_sizes && good; k++) {
        char what[64];
        snprintf(what, sizeof what, "in parts of %lld row%s", (long long)(sizes[k] * unit),
                 sizes[k] * unit == 1 ? "" : "s");
        run_again(&parts);
        for (int64_t at = 0; at < units && good; at += sizes[k]) {
            int64_t count = at + sizes[k] < units ? sizes[k] : units - at;
            good = call_part(&parts, at * unit, count * unit, b, err);
        }
        good = good && run_untouched(&parts, err) && same_bits(&whole, &parts, what, err);
    }
    run_close(&parts);
    run_close(&whole);
    return good;
}

bool op_check_threads(const struct op_case *c, const struct backend *b, struct err *err) {
    struct op_run one, more;
    int before = pool_threads();
    pool_start(1);
    bool good = run_whole(&one, c, 0, b, err);
    if (!good) return false;
    for (int threads = 2; threads <= 3 && good; threads++) {
        char what[64];
        snprintf(what, sizeof what, "with %d threads", threads);
        pool_start(threads);
        good = run_whole(&more, c, 0, b, err);
        if (!good) break;
        good = same_bits(&one, &more, what, err);
        run_close(&more);
    }
    run_close(&one);
    pool_start(before);
    return good;
}

// A step that went wrong must show: kernels that clamp with min and max may swallow a NaN, or spill it.
bool op_check_nan(const struct op_case *c, const struct backend *b, struct err *err) {
    struct op_run clean, spoiled;
    if (!run_whole(&clean, c, 0, b, err)) return false;
    run_open(&spoiled, c, 0);
    bool good = true;
    for (int i = 0; i < spoiled.n_bufs && good; i++) {
        const struct op_buf *in = &spoiled.buf[i];
        bool wanted =
            in->role & IN && in->role & BY_ROW && !(in->role & UNREAD) && in->dtype == DTYPE_F32;
        if (!wanted) continue;
        run_again(&spoiled);
        for (int64_t k = 0; k < in->cols; k++) ((float *)(void *)in->data)[k] = NAN; // row 0
        good = run_call(&spoiled, b, err);
        bool seen = false, by_row = false;
        for (int o = 0; o < spoiled.n_bufs && good; o++) {
            struct op_buf *x = &clean.buf[o], *y = &spoiled.buf[o];
            if (!(y->role & OUT) || !(y->role & BY_ROW)) continue;
            by_row = true;
            double *row = mem_array((size_t)y->cols, sizeof *row, "row");
            row_to_doubles(y, y->data, 0, row);
            for (int64_t k = 0; k < y->cols; k++) seen = seen || isnan(row[k]);
            mem_free(row);
            for (int64_t k = 1; k < y->rows && good; k++)
                if (memcmp(x->data + (size_t)k * x->row_bytes, y->data + (size_t)k * y->row_bytes,
                           row_used(y)))
                    good = err_set(err, "%s: NaN in row 0 of %s changed row %lld of %s", running,
                                   in->name, (long long)k, y->name);
        }
        bool has_nan = dtype_row(spoiled.dtype)->block_weights == 1; // block formats have none
        if (good && by_row && !seen && has_nan)
            good = err_set(err, "%s: NaN in row 0 of %s did not come out", running, in->name);
    }
    run_close(&spoiled);
    run_close(&clean);
    return good;
}
