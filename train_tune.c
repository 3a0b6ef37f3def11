// train_tune.c: --tune: the best base values for a run, found on a narrow model in minutes.
//
// Under muP (Yang et al. 2022, arXiv 2203.03466) the best base rate is the same for every width. So a proxy is trained in
// the run's place: fewer channels, but the same depth, head size, vocabulary, data, sequence and seed, for few tokens, by the
// same step loop. One number after the other is swept:
//
//     coarse   the rule's value times 2^-3 ... 2^3, and on by twos, three at the most, while the best lies at an edge
//     refined  the best so far times 2^-1/2 and 2^1/2, then 2^-1/4 and 2^1/4
//
// Values are rounded to three digits. The lowest validation loss wins, the smaller value where two are equal, and a run
// that diverged, or is no better than a uniform guess, loses to all. Nothing here depends on the clock but --tune-time,
// behind which no run is started and of which the answer tells: the same command gives the same answer, for any number of
// threads.
//
// What was found is a factor on what the rules of learn/rules.c say for the proxy; the answer is that factor on what they say
// for the run, so that what is known of the batch's influence is kept. With power, a rate's factor is that of the whole
// curve, of its cap and its amplitude: either alone does nothing where the other one rules.
#include "train.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { TRIALS_MOST = 32, COARSE = 3, EXTEND_MOST = 3 };
static const double proxy_flops = 4e12;        // of one run of the proxy
enum { PROXY_TOKENS_MOST = 1 << 19, PROXY_STEPS_LEAST = 100, PROXY_WIDTH_LEAST = 64, PROXY_WIDTH_MOST = 256 };

struct trial {
    double value, loss; // nats per token of validation text; INFINITY: diverged
};

// A number that can be swept: where the option is, and what the rules say.
struct knob {
    const char *name;
    double *option;
    double (*rule)(const struct train_amounts *a, const struct model_config *c);
};
static double rule_lr(const struct train_amounts *a, const struct model_config *c) { return (void)c, a->lr; }
static double rule_power_a(const struct train_amounts *a, const struct model_config *c) { return (void)c, a->power_a; }
static double rule_init_std(const struct train_amounts *a, const struct model_config *c) { return (void)a, (double)c->init_std; }
static double rule_weight_decay(const struct train_amounts *a, const struct model_config *c) { return (void)a, (void)c, opts.weight_decay; }
static const struct knob knobs[] = {
    {"lr", &opts.lr, rule_lr},
    {"power-a", &opts.power_a, rule_power_a},
    {"init-std", &opts.init_std, rule_init_std},
    {"weight-decay", &opts.weight_decay, rule_weight_decay},
};

struct sweep {
    struct run *run;
    struct model_config config;    // of the proxy
    struct train_amounts start;    // of the proxy, by the rules
    const struct knob *knob;
    double from;                   // the rule's value
    struct trial trial[TRIALS_MOST]; // ascending
    int n;
    double until;                  // time_now
    bool cut_short;
};

static bool moves_the_curve(const struct sweep *s) { return s->run->known.power && s->knob->option == &opts.lr; }

static double three_digits(double x) {
    char text[32];
    snprintf(text, sizeof text, "%.3g", x);
    return strtod(text, NULL);
}

// ---- the proxy ----------------------------------------------------------------------------------------------------

static int64_t proxy_width(const struct model_config *c) {
    if (opts.tune_width) return opts.tune_width;
    int64_t width = c->C / 4;
    if (!c->mup) return c->C; // nothing carries over to another width
    if (width < PROXY_WIDTH_LEAST) width = PROXY_WIDTH_LEAST;
    if (width > PROXY_WIDTH_MOST) width = PROXY_WIDTH_MOST;
    width = width / (2 * c->D) * (2 * c->D);
    if (width == 0) width = 2 * c->D;
    return width < c->C ? width : c->C;
}

static void make_proxy(struct sweep *s, const struct model_config *c) {
    struct err err;
    int64_t width = proxy_width(c);
    if (width % c->D) refuse(2, "--tune-width %lld is no multiple of the head size, %lld", (long long)width, (long long)c->D);
    s->config = config_at_width(c, width);
    if (!config_check(&s->config, &err)) fail(2, &err);
    double tokens = fmin(PROXY_TOKENS_MOST, proxy_flops / config_flops_per_token(&s->config, opts.seq));
    if (!opts.batch_tokens) opts.batch_tokens = default_batch(tokens);
    opts.tokens = opts.tune_tokens ? opts.tune_tokens : (int64_t)fmax(tokens, (double)(PROXY_STEPS_LEAST * opts.batch_tokens));
    opts.steps = 0, opts.time = 0;
    resolve_amounts(s->run, &s->config);
    s->start = amount;
}

// One run of the proxy with the options as they are now.
static double train_proxy(struct sweep *s) {
    struct err err;
    struct run r = *s->run;
    struct model_config c = s->config;
    if (opts.init_std > 0) c.init_std = (float)opts.init_std;
    resolve_amounts(&r, &c);
    start_run(&r);
    size_t memory = memory_for_activations(&r, &c);
    r.model = model_new(&c, r.backend, dtype_from_name(opts.dtype), (uint64_t)opts.seed, &err);
    if (!r.model) fail(1, &err);
    allocate_run(&r, memory);
    double loss = loop_aside(&r);
    s->run->progress = r.progress;
    free_run(&r);
    return loss;
}

// ---- the sweep ----------------------------------------------------------------------------------------------------

static int best_of(const struct sweep *s) {
    int best = 0;
    for (int i = 1; i < s->n; i++)
        if (s->trial[i].loss < s->trial[best].loss) best = i;
    return best;
}

// Trains with the rule's value times 2^power. False when there is no more to be done: a signal, or the time.
static bool attempt(struct sweep *s, double value) {
    const struct train_options kept = opts;
    struct trial t = {.value = three_digits(value)};
    if (s->n > 0 && time_now() > s->until) s->cut_short = true;
    if (s->cut_short || stop_wanted || s->n == TRIALS_MOST) return false;
    for (int i = 0; i < s->n; i++)
        if (s->trial[i].value == t.value) return true;
    *s->knob->option = t.value;
    if (moves_the_curve(s)) opts.power_a = s->start.power_a * t.value / s->from;
    t.loss = train_proxy(s);
    opts = kept;
    if (stop_wanted) return false;
    progress_note(&s->run->progress, "tune: %s %g: %s %.4f", s->knob->name, t.value, isfinite(t.loss) ? "validation loss" : "diverged,", t.loss);
    int at = s->n++;
    for (; at > 0 && s->trial[at - 1].value > t.value; at--) s->trial[at] = s->trial[at - 1];
    s->trial[at] = t;
    return true;
}

static void sweep(struct sweep *s) {
    // From the middle outwards: whenever the time ends, what is there lies around the rule's value.
    attempt(s, s->from);
    for (int i = 1; i <= COARSE; i++) attempt(s, s->from * exp2(-i)), attempt(s, s->from * exp2(i));
    for (int i = 1, best; i <= EXTEND_MOST; i++) {
        best = best_of(s);
        if (best > 0 && best + 1 < s->n) break;
        if (!attempt(s, s->trial[best].value * (best == 0 ? 0.5 : 2))) break;
    }
    for (double share = 0.5; share >= 0.25; share /= 2) {
        double best = s->n ? s->trial[best_of(s)].value : s->from;
        attempt(s, best * exp2(-share)), attempt(s, best * exp2(share));
    }
}

// ---- the answer ---------------------------------------------------------------------------------------------------

static void draw(const struct sweep *s) {
    double x[TRIALS_MOST], y[TRIALS_MOST];
    char label[64];
    for (int i = 0; i < s->n; i++) x[i] = log10(s->trial[i].value), y[i] = s->trial[i].loss;
    snprintf(label, sizeof label, "log10 of %s", s->knob->name);
    struct series series[] = {{"proxy's validation loss", x, y, (size_t)s->n, LOOK_LINE}, {"runs", x, y, (size_t)s->n, LOOK_POINTS}};
    struct plot plot = {"nats per token", label, "", series, 2, false, 0};
    int width = term_width();
    plot_terminal(&plot, width > 80 ? 80 : width, 14, stdout);
}

// What was found, as lines of a config file: comments, then the option. target: of the run, by the rules.
static void tell(const struct sweep *s, const struct train_amounts *target, const struct model_config *c, struct text *to) {
    int best = best_of(s);
    double factor = s->trial[best].value / s->from, value = three_digits(s->knob->rule(target, c) * factor);
    text_fmt(to, "\n# %s: %g was best on the proxy, %.3g times what the rules say%s\n", s->knob->name, s->trial[best].value, factor,
             s->cut_short ? "; --tune-time ended the sweep" : "");
    if (s->trial[best].loss < INFINITY && (best == 0 || best == s->n - 1)) text_str(to, "# the best lies at the edge of what was tried: it may not be the best\n");
    text_fmt(to, "#   %-12s validation loss\n", s->knob->name);
    for (int i = 0; i < s->n; i++) text_fmt(to, "#   %-12g %.5f%s\n", s->trial[i].value, s->trial[i].loss, i == best ? "  best" : "");
    text_fmt(to, "%s = %g\n", s->knob->name, value);
    if (moves_the_curve(s)) text_fmt(to, "power-a = %g\n", three_digits(target->power_a * factor));
}

static void tell_proxy(const struct sweep *s, const struct model_config *c, const struct train_amounts *a, struct text *to) {
    text_fmt(to, "# Written by ./train --tune; --config takes it.\n"
             "# proxy: %lld channels for the %lld of the run, %lld blocks, heads of %lld, vocabulary %lld; %lld tokens in batches of %lld (the run's: %lld)\n"
             "# schedule %s, optimizer %s, sequences of %lld, seed %lld, text %016llx\n"
             "# rule: by twos around what the rules say, finer around the best; lowest validation loss, the smaller value of equals\n",
             (long long)s->config.C, (long long)c->C, (long long)c->L, (long long)c->D, (long long)c->V, (long long)s->start.tokens,
             (long long)s->start.batch_tokens, (long long)a->batch_tokens, opts.schedule, opts.optimizer, (long long)opts.seq, (long long)opts.seed,
             (unsigned long long)s->run->train.hash);
    if (!c->mup) text_str(to, "# without muP nothing carries over to another width, so the proxy is as wide as the run\n");
}

static void write_answer(const struct text *answer) {
    struct err err;
    char *path = in_out("tuned.config");
    struct file_out *f = file_out_open(path, &err);
    if (!f) fail(1, &err);
    file_out_write(f, answer->data, answer->len);
    if (!file_out_commit(f, &err)) fail(1, &err);
    fputs(answer->data, stdout);
    fprintf(stderr, "tune: written to %s; the same command with --config %s for --tune learns by it\n", path, path);
    mem_free(path);
}

static const struct knob *knob_of(const char *name) {
    for (size_t i = 0; i < COUNT_OF(knobs); i++)
        if (!strcmp(knobs[i].name, name)) return &knobs[i];
    refuse(2, "--tune-what %s: expected lr, power-a, init-std or weight-decay", name);
}

int tune(struct run *r) {
    struct text answer = {0};
    const char *only[] = {"lr"};
    const char *const *names = opts.tune_what.count ? opts.tune_what.word : only;
    size_t n = opts.tune_what.count ? opts.tune_what.count : 1;
    for (size_t i = 0; i < n; i++) knob_of(names[i]);
    if (loader_windows(&r->valid, opts.seq) < 1) refuse(1, "--tune judges by validation text, and there is none: give --valid, or a larger --valid-share");
    if (!*opts.size && !opts.tokens && !opts.steps && opts.time <= 0) opts.size = config_size_name(0);
    struct model_config c = make_config(r);
    resolve_amounts(r, &c);
    const struct train_amounts target = amount;
    const struct train_options said = opts;
    struct sweep s = {.run = r, .until = time_now() + opts.tune_time};
    make_proxy(&s, &c);
    tell_proxy(&s, &c, &target, &answer);
    progress_open(&r->progress, 5);
    for (size_t i = 0; i < n && !stop_wanted; i++) {
        s.knob = knob_of(names[i]), s.n = 0, s.from = s.knob->rule(&s.start, &c);
        sweep(&s);
        if (!s.n) break;
        if (!isfinite(s.trial[best_of(&s)].loss)) refuse(1, "no run of the proxy is better than a uniform guess: they diverged (begin lower, with --%s), or are too short (--tune-tokens)", s.knob->name);
        *s.knob->option = s.trial[best_of(&s)].value; // those that follow build on it
        if (moves_the_curve(&s)) opts.power_a = s.start.power_a * *s.knob->option / s.from;
        tell(&s, &target, &c, &answer);
        progress_close(&r->progress);
        if (!stop_wanted) draw(&s);
    }
    progress_close(&r->progress);
    opts = said;
    if (stop_wanted) fprintf(stderr, "interrupted; nothing was written\n");
    else write_answer(&answer);
    text_free(&answer);
    return stop_wanted ? 130 : 0;
}
