// plan: what a run will cost, measured rather than guessed.
//
// Memory is the sum of the blocks a run allocates, each sized by the function that will allocate it, plus what the
// process holds already, plus the kernels' scratch and tables, which only running shows: resident size after a few
// real micro-batches and updates, less the blocks. Time is the mean of those micro-batches and updates.
//
// A model whose micro-batch would take too long is measured with fewer sequences; one that is large, or does not fit,
// at one and two layers. Cost is linear in both, so the rest follows.
#include "learn/learn.h"

#include <math.h>
#include <unistd.h>

#ifdef __GLIBC__
#include <malloc.h>
#endif

static const double sequence_flops_most =
    2e10; // of a forward and backward pass: seconds on a slow machine
static const double micro_seconds = 1, update_seconds = 0.3;

// Resident size of the process now; its peak where the system does not tell.
static size_t resident_bytes(void) {
    FILE *f = fopen("/proc/self/statm", "r");
    unsigned long long all, resident;
    int got = f ? fscanf(f, "%llu %llu", &all, &resident) : 0;
    if (f) fclose(f);
    return got == 2 ? (size_t)resident * (size_t)sysconf(_SC_PAGESIZE) : mem_peak_bytes();
}

// --- blocks --------------------------------------------------------------------------------------------------------

static size_t weights_bytes_of(const struct model_config *c, enum dtype compute, size_t *grads) {
    int n;
    struct param *table = config_params_table(c, &n);
    size_t bytes = 0;
    *grads = 0;
    for (int i = 0; i < n; i++) {
        size_t count = (size_t)(table[i].mats * table[i].rows) * (size_t)table[i].cols;
        *grads += arena_round(count * sizeof(float));
        bytes += arena_round(count * sizeof(float));
        bool only_looked_up = i == 0 && !c->tied;
        if (compute == DTYPE_BF16 && table[i].init_std != 0 && !table[i].exact && !only_looked_up)
            bytes += arena_round(count * 2);
    }
    mem_free(table);
    return bytes;
}

// p->memory is of->memory, or nine tenths of what is free besides weights, gradients and moments.
static void blocks(struct plan *p, const struct plan_of *of) {
    const struct model_config *c = of->config;
    p->weights_bytes = weights_bytes_of(c, of->compute, &p->grads_bytes);
    p->moments_bytes = optimizer_bytes(of->optimizer, c);
    p->memory = of->memory;
    if (!p->memory) {
        size_t free = p->available_bytes ? p->available_bytes / 10 * 9 : SIZE_MAX;
        size_t others = p->weights_bytes + p->grads_bytes + p->moments_bytes, least = train_state_bytes(c, of->T, of->T, 0, NULL);
        p->memory = free > others && free - others > least ? free - others : least;
    }
    p->activations_bytes = train_state_bytes(c, of->micro_rows, of->T, p->memory, &p->again);
}

static size_t blocks_sum(const struct plan *p) {
    return p->weights_bytes + p->grads_bytes + p->moments_bytes + p->activations_bytes;
}

// --- measuring -----------------------------------------------------------------------------------------------------

struct measured {
    double row_s, update_s; // one row of a micro-batch, one update
    size_t scratch_bytes;
};

// Rows of random ids, every sequence one document: the most attention there can be.
struct batch_rows {
    int32_t *ids, *targets, *doc_start;
};

static struct batch_rows random_rows(int64_t rows, int64_t T, int64_t V) {
    struct batch_rows r = {mem_array((size_t)rows, 4, "plan"), mem_array((size_t)rows, 4, "plan"),
                           mem_array((size_t)rows, 4, "plan")};
    for (int64_t i = 0; i < rows; i++) {
        r.ids[i] = (int32_t)rng_below(1, 0, (uint64_t)i, (uint64_t)V);
        r.targets[i] = (int32_t)rng_below(1, 0, (uint64_t)i + 1, (uint64_t)V);
        r.doc_start[i] = (int32_t)(i / T * T);
    }
    return r;
}

// What takes time of an objective.
static struct train_state *new_state(struct model *m, int64_t rows, const struct plan_of *of, struct err *err) {
    struct train_state *state = train_state_new(m, rows, of->T, of->memory, err);
    if (state) train_state_aim(state, &(struct objective){.exit_weight = m->config.exit_layer ? 0.1 : 0});
    return state;
}

static double time_loss(struct train_state *state, const struct train_batch *batch) {
    double start = time_now();
    train_loss(state, batch, 1 / (float)batch->rows, NULL);
    train_close_grads(state);
    return time_now() - start;
}

// Seconds per row: mean over about a second of micro-batches, after one that touches every page.
static double time_rows(struct train_state *state, const struct train_batch *batch) {
    double sum = 0;
    int n = 0;
    time_loss(state, batch);
    while (sum < micro_seconds && n < 200) {
        sum += time_loss(state, batch);
        n++;
    }
    return sum / (double)n / (double)batch->rows;
}

static double time_update(struct model *m, struct optimizer *o) {
    double start = 0, now = 0;
    int64_t n = -1; // the first one touches the moments and is not counted
    while (n < 1 || (now - start < update_seconds && n < 200)) {
        double norm = optimizer_grad_norm(o);
        optimizer_step(o, 1e-4, isfinite(norm) ? norm : 1, n + 2);
        m->backend->zero(m->grads_block, m->grads_bytes);
        m->backend->sync();
        now = time_now();
        if (++n == 0) start = now;
    }
    return (now - start) / (double)n;
}

// As many whole sequences, at most max_rows, as half a second takes if one takes sequence_s.
static int64_t rows_to_measure(double sequence_s, int64_t max_rows, int64_t T) {
    double sequences = 0.5 * micro_seconds / fmax(sequence_s, 1e-9);
    if (sequences >= (double)(max_rows / T)) return max_rows;
    return sequences < 1 ? T : (int64_t)sequences * T;
}

static bool time_model(struct model *m, struct optimizer *o, const struct plan_of *of, struct measured *out,
                       struct err *err) {
    int64_t T = of->T;
    struct train_state *state = new_state(m, T, of, err);
    if (!state) return false;
    struct batch_rows r = random_rows(of->micro_rows, T, m->config.V);
    struct train_batch batch = {T, T, r.ids, r.targets, r.doc_start};
    train_zero_grads(state);
    time_loss(state, &batch);
    int64_t rows = rows_to_measure(time_loss(state, &batch), of->micro_rows, T);
    train_state_free(state);
    state = new_state(m, rows, of, err);
    if (state) {
        batch.rows = rows;
        out->row_s = time_rows(state, &batch);
        out->update_s = time_update(m, o);
        struct plan parts = {0};
        struct plan_of measured = *of;
        measured.micro_rows = rows;
        blocks(&parts, &measured);
        size_t known = blocks_sum(&parts), now = resident_bytes();
        out->scratch_bytes =
            now > out->scratch_bytes + known ? now - out->scratch_bytes - known : 0;
    }
    train_state_free(state);
    mem_free(r.ids);
    mem_free(r.targets);
    mem_free(r.doc_start);
    return state != NULL;
}

static bool measure(const struct plan_of *of, struct measured *out, struct err *err) {
    struct optimizer_options options = {
        .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.1, .clip = 1, .momentum = 0.95, .row = of->optimizer};
    out->scratch_bytes = resident_bytes(); // what is there before
    struct model *m = model_new(of->config, of->backend, of->compute, 1, err);
    struct optimizer *o = m ? optimizer_new(m, &options, err) : NULL;
    bool fine = o && time_model(m, o, of, out, err);
    optimizer_free(o);
    model_free(m);
    return fine;
}

// Measures the model itself, or one and two layers of it when that is too much.
static bool measure_scaled(const struct plan *p, const struct plan_of *of, bool fits, struct measured *out, struct err *err) {
    const struct model_config *c = of->config;
    struct plan_of part = *of;
    part.memory = p->memory;
    if (fits && (c->L <= 2 || config_flops_per_token(c, of->T) * (double)of->T <= sequence_flops_most))
        return measure(&part, out, err);
    struct model_config shallow = *c;
    struct measured at[2];
    part.config = &shallow;
    part.micro_rows = of->T;
    part.memory = SIZE_MAX; // what is computed again is counted, not measured
    for (int i = 0; i < 2; i++) {
        shallow.L = i + 1;
        if (!measure(&part, &at[i], err)) return false;
    }
    double more = (double)(c->L - 1);
    out->row_s = (at[0].row_s + more * fmax(at[1].row_s - at[0].row_s, 0)) * (1 + p->again.work);
    out->update_s = at[0].update_s + more * fmax(at[1].update_s - at[0].update_s, 0);
    out->scratch_bytes = at[0].scratch_bytes > at[1].scratch_bytes
                             ? at[0].scratch_bytes
                             : at[1].scratch_bytes; // some stays
    return true;
}

bool plan_memory(struct plan *p, const struct plan_of *of, struct err *err) {
    assert(of->T > 0 && of->micro_rows >= of->T && of->micro_rows % of->T == 0 && of->batch_tokens > 0 && of->tokens >= 0);
    *p = (struct plan){.params = config_params(of->config), .layers = of->config->L, .tokens = of->tokens,
                       .data_bytes = of->data_bytes, .batch_tokens = of->batch_tokens};
    p->steps = of->tokens / of->batch_tokens + (of->tokens % of->batch_tokens != 0);
#ifdef __GLIBC__
    malloc_trim(0); // what was freed before shall not hide what is needed now
#endif
    p->base_bytes = resident_bytes();
    p->available_bytes = mem_available_bytes();
    blocks(p, of);
    p->checkpoint_bytes = 12 * (size_t)p->params + 64 * (size_t)of->config->V;
    p->flops = config_flops_per_token(of->config, of->T) * (double)of->tokens;
    return train_state_fits(of->config, of->T, p->memory, err);
}

bool plan_make(struct plan *p, const struct plan_of *of, struct err *err) {
    if (!plan_memory(p, of, err)) return false;
    bool fits = p->available_bytes == 0 || blocks_sum(p) < p->available_bytes / 10 * 9;
    struct measured seen = {0};
    if (!measure_scaled(p, of, fits, &seen, err)) return false;
    p->scratch_bytes = seen.scratch_bytes;
    p->peak_bytes = p->base_bytes + blocks_sum(p) + p->scratch_bytes + p->data_bytes;
    size_t so_far = mem_peak_bytes(); // reading the data may have needed more than training will
    if (p->peak_bytes < so_far) p->peak_bytes = so_far;
    double step_s = seen.row_s * (double)p->batch_tokens + seen.update_s;
    p->tokens_per_s = (double)p->batch_tokens / step_s;
    p->seconds = (double)p->tokens / p->tokens_per_s;
    return true;
}

void plan_add_copy(struct plan *p) {
    size_t copy = (size_t)p->params * sizeof(float) + p->moments_bytes;
    size_t sum = p->base_bytes + blocks_sum(p) + p->scratch_bytes + p->data_bytes;
    if (p->available_bytes && blocks_sum(p) + copy >= p->available_bytes / 10 * 9) return;
    p->copy_bytes = copy;
    if (sum + copy > p->peak_bytes) p->peak_bytes = sum + copy;
}

const char *plan_recomputed(char buf[160], const struct plan *p) {
    buf[0] = '\0';
    if (p->again.halves)
        snprintf(buf, 160, "computed again in the backward pass: feed-forward of %lld of %lld layers, attention of %lld (%.0f%% more operations)",
                 (long long)p->again.halves, (long long)p->layers, (long long)p->again.wholes, 100 * p->again.work);
    return buf;
}

void plan_print(const struct plan *p, FILE *to) {
    char a[32], b[32], c[32], d[32], e[32], f[32];
    fprintf(to, "parameters   %s\n", text_count(a, (double)p->params));
    fprintf(to, "tokens       %s in %lld steps of %s\n", text_count(a, (double)p->tokens),
            (long long)p->steps, text_count(b, (double)p->batch_tokens));
    fprintf(to,
            "memory       %s at the most: weights %s, gradients %s, moments %s, activations %s,\n",
            text_bytes(a, (double)p->peak_bytes), text_bytes(b, (double)p->weights_bytes),
            text_bytes(c, (double)p->grads_bytes), text_bytes(d, (double)p->moments_bytes),
            text_bytes(e, (double)p->activations_bytes));
    fprintf(to, "             data %s, kernels %s, copy to write from %s, program so far %s\n", text_bytes(a, (double)p->data_bytes),
            text_bytes(b, (double)p->scratch_bytes), text_bytes(d, (double)p->copy_bytes), text_bytes(c, (double)p->base_bytes));
    char again[160];
    if (*plan_recomputed(again, p)) fprintf(to, "             %s\n", again);
    if (p->available_bytes && p->peak_bytes - p->base_bytes > p->available_bytes)
        fprintf(
            to,
            "             this is more than the %s that are free: take a smaller --size or --micro-batch\n",
            text_bytes(a, (double)p->available_bytes));
    fprintf(to, "disk         %s per checkpoint, %s for the model\n",
            text_bytes(a, (double)p->checkpoint_bytes), text_bytes(b, 4 * (double)p->params));
    fprintf(to, "work         %.3g operations, %.3g a second\n", p->flops,
            p->seconds > 0 ? p->flops / p->seconds : 0);
    fprintf(to, "time         %s at %s tokens/s, measured now\n", text_time(a, p->seconds),
            text_count(f, p->tokens_per_s));
}
