// train.c: text in, a language model out.
//
// The story: options -> data and tokenizer -> model, optimizer, schedule -> the loop -> model.gguf, log, report, samples.
// Here are the options, what a resumed run takes from its checkpoint, and main; train.h says what is where.
#include "device.h"
#include "train.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

volatile sig_atomic_t stop_wanted;
static volatile sig_atomic_t learning; // there is something to save

static void on_stop(int signal_number) {
    (void)signal_number;
    if (stop_wanted || !learning) _exit(130);
    stop_wanted = 1;
}

_Noreturn void fail(int code, const struct err *err) {
    fprintf(stderr, "train: %s\n", err->text);
    exit(code);
}

_Noreturn void refuse(int code, const char *format, ...) {
    va_list args;
    va_start(args, format);
    fputs("train: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    exit(code);
}

char *in_out(const char *name) {
    struct text path = {0};
    text_fmt(&path, "%s/%s", opts.out, name);
    return path.data;
}

// ---- small modes --------------------------------------------------------------------------------------------------

static void print_list(void) {
    puts("families (--family)");
    for (int i = 0; i < family_count; i++)
        if (families[i].trains) printf("  %-12s %s\n", families[i].name, families[i].help);
    puts("schedules (--schedule)");
    for (int i = 0; i < schedule_count; i++)
        printf("  %-14s %s [%s]\n", schedules[i].name, schedules[i].help, schedules[i].source);
    puts("optimizers (--optimizer)");
    for (int i = 0; i < optimizer_count; i++) printf("  %-14s %s [%s]\n", optimizers[i].name, optimizers[i].help, optimizers[i].source);
    puts("batch rules (--batch-rule)");
    for (int i = 0; i < batch_rule_count; i++) printf("  %-14s %s [%s]\n", batch_rules[i].name, batch_rules[i].help, batch_rules[i].source);
    puts("what the rate does when the batch changes (--batch-lr)");
    for (int i = 0; i < batch_lr_rule_count; i++)
        printf("  %-14s %s [%s]\n", batch_lr_rules[i].name, batch_lr_rules[i].help, batch_lr_rules[i].source);
    puts("what changes with depth (--depth-rule)");
    for (int i = 0; i < depth_rule_count; i++)
        printf("  %-14s %s%s%s%s\n", depth_rules[i].name, depth_rules[i].help, *depth_rules[i].source ? " [" : "", depth_rules[i].source,
               *depth_rules[i].source ? "]" : "");
    puts("decay shapes (--decay-shape)");
    for (int i = 0; i < decay_count; i++) printf("  %-14s %s\n", decays[i].name, decays[i].help);
    puts("rules for what nobody gave");
    for (int i = 0; i < rule_count; i++) printf("  %-14s %s [%s]\n", rules[i].name, rules[i].help, rules[i].source);
    puts("dtypes (--export-dtype)");
    for (int i = 0; i < DTYPE_COUNT; i++)
        if (dtype_row((enum dtype)i)->from_f32) printf("  %s\n", dtype_row((enum dtype)i)->name);
}

// ---- resuming -----------------------------------------------------------------------------------------------------

// Options not given now come from the checkpoint; given ones that differ are refused, with both values.
static void adopt_options(const struct run_state *saved, const char *path) {
    struct err err;
    struct text now = {0};
    opt_write(train_table, train_table_count, &now);
    for (size_t i = 0; i < train_table_count; i++) {
        const char *name = strstr(train_table[i].names, "--") + 2;
        size_t n = strcspn(name, " ");
        if (!train_table[i].given || train_option_is_free(name, n) || opts.override) continue;
        char key[64];
        snprintf(key, sizeof key, "%.*s", (int)n, name);
        struct span ours = train_options_line(&now, key), theirs = train_options_line(&saved->options, key);
        if (!theirs.n || (ours.n == theirs.n && memcmp(ours.p, theirs.p, ours.n) == 0)) continue;
        refuse(2, "%s was started with `%.*s`, now `%.*s` is asked for; leave it out, use another --out, or force it with --override",
               path, (int)theirs.n, theirs.p, (int)ours.n, ours.p);
    }
    text_free(&now);
    if (!train_options_read(&saved->options, path, &err)) fail(1, &err);
    if (opts.override && (opts.tokens || opts.steps)) resolve_tokens((double)amount.tokens);
}

// The checkpoint to go on from: --decay-from, or the newest whole one in --out. NULL to start afresh.
static struct model_file *find_checkpoint(struct run *r) {
    struct err err = {""};
    char *path = NULL;
    if (opts.decay_from) {
        path = mem_text(opts.decay_from);
    } else if (!opts.resume || !file_exists(opts.out) || !checkpoint_newest(opts.out, &path, &r->notes, &err)) {
        if (err.text[0]) fail(1, &err);
        print_notes(&r->notes);
        return NULL;
    }
    print_notes(&r->notes);
    struct model_file *f = model_file_open(path, &err);
    if (!f || !model_file_seal(f, &err) || !checkpoint_read_state(f, &r->state, &err)) fail(1, &err);
    char *chosen_out = mem_text(opts.out);
    adopt_options(&r->state, path);
    opts.out = chosen_out;
    r->resumed_at = r->saved_at = r->state.tokens;
    r->floor = opts.floor > 0 ? opts.floor : NAN;
    fprintf(stderr, "resume: %s, step %lld, %lld tokens\n", path, (long long)r->state.step, (long long)r->state.tokens);
    mem_free(path);
    return f;
}

static void branch_off(struct run *r) {
    amount.decay_tokens = whole_batches(opts.decay_tokens ? (double)opts.decay_tokens : 0.25 * (double)r->state.tokens);
    amount.tokens = r->state.tokens + amount.decay_tokens;
    r->state.good = -1; // that state is the trunk's
    if ((double)amount.decay_tokens < 0.05 * (double)amount.tokens)
        fprintf(stderr, "note: a decay of %.1f%% of the tokens is short; 10%% to 20%% is usual\n",
                100 * (double)amount.decay_tokens / (double)amount.tokens);
    if (!schedule_find(opts.schedule)->curve)
        refuse(2, "--decay-from needs a schedule with a decay phase; %s has none", opts.schedule);
}

// ---- set-up -------------------------------------------------------------------------------------------------------

static void parse_options(int argc, char **argv) {
    struct err err;
    struct opt_words rest = {0};
    if (!opt_parse(train_table, train_table_count, argc, argv, &rest, &err)) fail(2, &err);
    for (size_t i = 0; i < rest.count; i++) {
        mem_grow((void **)&opts.data.word, &opts.data.cap, opts.data.count + 1, sizeof *opts.data.word, "data path");
        opts.data.word[opts.data.count++] = rest.word[i];
        train_table[0].given = true;
    }
    mem_free(rest.word);
    if (opts.config && !opt_read_file(train_table, train_table_count, opts.config, &err)) fail(1, &err);
    enum dtype compute = dtype_from_name(opts.dtype), out = dtype_from_name(opts.export_dtype);
    if (compute != DTYPE_F32 && compute != DTYPE_BF16) refuse(2, "--dtype %s: expected f32 or bf16", opts.dtype);
    if (out == DTYPE_COUNT || !dtype_row(out)->from_f32) refuse(2, "--export-dtype %s is unknown; --list names them", opts.export_dtype);
    if (!schedule_find(opts.schedule)) refuse(2, "--schedule %s is unknown; --list names them", opts.schedule);
    for (size_t i = 0; i < opts.ladder.count; i++) {
        double share, decay;
        if (!rung_read(opts.ladder.word[i], &share, &decay))
            refuse(2, "--ladder %s: expected a share between 0 and 1, and behind a colon, if at all, its decay as such a share", opts.ladder.word[i]);
    }
    if ((opts.ladder.count || opts.probe_decay > 0) && !schedule_find(opts.schedule)->curve)
        refuse(2, "--ladder and --probe-decay need a schedule with a decay phase; %s has none", opts.schedule);
    if (opts.ladder.count && !opts.tokens && !opts.steps) refuse(2, "--ladder divides --tokens or --steps; give one of them");
    if (opts.steps && opts.tokens) refuse(2, "--steps and --tokens both say how much; give one");
    if (!optimizer_find(opts.optimizer)) refuse(2, "--optimizer %s is unknown; --list names them", opts.optimizer);
    if (!batch_rule_find(opts.batch_rule)) refuse(2, "--batch-rule %s is unknown; --list names them", opts.batch_rule);
    if (*opts.batch_lr && !batch_lr_rule_find(opts.batch_lr)) refuse(2, "--batch-lr %s is unknown; --list names them", opts.batch_lr);
    if (!decay_find(opts.decay_shape)) refuse(2, "--decay-shape %s is unknown; --list names them", opts.decay_shape);
    if (!family_find(opts.family)) refuse(2, "--family %s is unknown; --list names them", opts.family);
    if (*opts.from && opts.decay_from) refuse(2, "--from begins a new run and --decay-from ends an old one: give one of them");
    if (*opts.from && (opts.tune || opts.coord_check)) refuse(2, "--tune and --coord-check make models of their own: leave out --from");
    if (opts.exit_weight > 0 && !opts.exit_layer) refuse(2, "--exit-weight is the weight of a loss behind --exit-layer N: give both");
    if (opts.exit_layer && opts.exit_weight == 0) opts.exit_weight = 0.1;
    draft_options();
    if (!device_named(opts.device, opts.cpu, &err)) fail(2, &err);
}

static void print_start(const struct run *r) {
    if (!r->resumed_at) print_derived(r);
    const struct model_config *c = &r->model->config;
    char params[32], active[32], batch[32], tokens[32];
    if (c->E > 0)
        fprintf(stderr, "experts: %lld, a token goes through %lld of them and meets %s parameters in all; balance: %s\n", (long long)c->E,
                (long long)c->used, text_count(active, (double)config_params_active(c)), opts.balance);
    fprintf(stderr, "model: %s, %s parameters; %lld blocks, %lld channels, %lld heads of %lld (%lld kv), ffn %lld, vocabulary %lld\n",
            c->family->name, text_count(params, (double)config_params(c)), (long long)c->L, (long long)c->C,
            (long long)c->H, (long long)c->D, (long long)c->G, (long long)c->F, (long long)c->V);
    fprintf(stderr, "learning: %s, %s %g, batch of %s tokens, warmup %.0f tokens, %s%s\n", opts.schedule,
            strcmp(opts.schedule, "power") == 0 ? "cap" : "peak", amount.lr, text_count(batch, (double)amount.batch_tokens), amount.warmup,
            amount.tokens ? text_count(tokens, (double)amount.tokens) : "until the clock says decay", amount.tokens ? " tokens" : "");
    if (r->mixture.count > 1 && amount.tokens)
        fprintf(stderr, "replay: %g%% of the sequences, %s tokens, are of the old text: %.2g times all of it\n", 100 * opts.replay_share,
                text_count(tokens, opts.replay_share * (double)amount.tokens), opts.replay_share * (double)amount.tokens / (double)r->replay.count);
}

// --help, --list, --plot: true when one of them was all that was asked for.
static bool small_mode(void) {
    struct err err;
    struct log_rows rows = {0};
    if (opts.help) {
        puts("usage: ./train [PATH...] [options]\nWith no path it writes stories of its own and learns them for two minutes.\n");
        opt_help(train_table, train_table_count, stdout);
    } else if (opts.list) {
        print_list();
    } else if (opts.plot) {
        if (!log_read(opts.plot, &rows, &err)) fail(1, &err);
        draw_log(&rows, stdout);
    } else if (opts.watch) {
        watch(opts.watch);
    } else {
        return false;
    }
    return true;
}

static void start_machine(struct run *r) {
    struct err err;
    struct text line = {0};
    pool_start((int)opts.threads);
    file_guard_sigbus();
    struct sigaction action = {.sa_handler = on_stop};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    r->backend = device_open(opts.device, opts.cpu, &err);
    if (!r->backend) fail(1, &err);
    if (opts.profile) r->backend = backend_profiled(r->backend);
    device_report(r->backend, &line);
    fprintf(opts.version ? stdout : stderr, "lehr train: %s\n", line.data);
    text_free(&line);
}

// The numbers of the run: from the checkpoint, or derived now.
static struct model_config settle(struct run *r, const struct model_file *checkpoint) {
    struct err err;
    struct model_config config;
    if (!checkpoint) {
        config = r->source ? r->source_config : make_config(r);
        resolve_amounts(r, &config);
        start_run(r);
        if (r->source) begin_from_source(r);
    } else {
        if (!config_read(&config, checkpoint, &err)) fail(1, &err);
        set_depth(&config);
        set_exit(&config);
        const uint64_t hash = mixture_hash(&r->mixture);
        if (r->state.data_hash != hash && !opts.override)
            refuse(1, "the training text is not the one the checkpoint was made with (hash %016llx, now %016llx); --override goes on with it",
                   (unsigned long long)r->state.data_hash, (unsigned long long)hash);
        if (opts.decay_from) branch_off(r);
        make_schedule(r);
        make_batch(r);
        r->micro_seq = micro_sequences(amount.batch_tokens);
    }
    return config;
}

// The log, and the settings of the run as a file that --config takes. report.html is the last thing a run writes, so
// one from before must go: it would say that this run is complete.
static void open_records(struct run *r) {
    struct err err;
    struct text settings = {0};
    struct log_rows rows = {0};
    char *log_path = in_out("log.jsonl"), *config_path = in_out("config"), *report_path = in_out("report.html");
    unlink(report_path);
    r->log = log_open(log_path, r->state.tokens ? r->state.tokens : -1, r->state.rollbacks, &err);
    if (!r->log || !log_read(log_path, &rows, &err)) fail(1, &err);
    if (opts.tensorboard && !(r->board = board_open(opts.tensorboard, r->state.step, &err))) fail(1, &err);
    r->evaluated_at = r->cooled_at = -1;
    for (size_t i = 0; i < rows.count; i++) {
        if (rows.row[i].undone) continue;
        if (isfinite(rows.row[i].val_loss)) r->evaluated_at = rows.row[i].tokens;
        if (rows.row[i].cooled_tokens > 0) r->cooled_at = rows.row[i].tokens;
    }
    log_rows_free(&rows);
    opt_write(train_table, train_table_count, &settings);
    struct file_out *f = file_out_open(config_path, &err);
    if (!f) fail(1, &err);
    file_out_write(f, settings.data, settings.len);
    if (!file_out_commit(f, &err)) fail(1, &err);
    mem_free(log_path);
    mem_free(config_path);
    mem_free(report_path);
    text_free(&settings);
}

int main(int argc, char **argv) {
    struct err err = {""};
    parse_options(argc, argv);
    if (small_mode()) return 0;
    struct run r = {.floor = opts.floor > 0 ? opts.floor : NAN};
    start_machine(&r);
    if (opts.version) return 0;
    if (!file_make_folder(opts.out, &err)) fail(1, &err);
    struct model_file *checkpoint = opts.tune || opts.coord_check ? NULL : find_checkpoint(&r); // those begin anew
    if (*opts.from && !checkpoint) open_source(&r);
    learning = *opts.draft_for != '\0'; // samples are kept as they come
    if (*opts.draft_for) make_draft_data(&r, checkpoint);
    else if (!opts.data.count) make_stories(&r);
    if (!r.draft) make_data(&r, checkpoint ? checkpoint : r.source);
    if (r.source) check_source_tokenizer(&r);
    if (opts.tune) return tune(&r);
    if (opts.coord_check) {
        if (!*opts.size) opts.size = config_size_name(0);
        struct model_config c = make_config(&r);
        return coord_check(&r, &c) ? 0 : 3;
    }
    struct model_config config = settle(&r, checkpoint);
    if (opts.plan) {
        struct plan plan;
        if (!checkpoint) print_derived(&r);
        plan_run(&r, &config, &plan);
        plan_print(&plan, stdout);
        return 0;
    }
    check_disk(&r, &config);
    size_t memory = memory_for_activations(&r, &config);
    r.model = model_new(&config, r.backend, dtype_from_name(opts.dtype), (uint64_t)opts.seed, &err);
    if (!r.model) fail(1, &err);
    allocate_run(&r, memory);
    if (r.source) read_source(&r);
    if (checkpoint && !checkpoint_read_tensors(checkpoint, r.model, r.optimizer, &err)) fail(1, &err);
    model_file_close(checkpoint);
    print_start(&r);
    char *report = in_out("report.html");
    if (checkpoint && finished(&r) && file_exists(report)) {
        fprintf(stderr, "this run is complete: see %s/model.gguf; give another --out, or --decay-from %s/trunk/ckpt-N.gguf, for something new\n", opts.out, opts.out);
        return 0;
    }
    mem_free(report);
    make_saver(&r, memory);
    open_records(&r);
    progress_open(&r.progress, 5);
    r.last_save = time_now();

    learning = 1;
    loop(&r);
    if (stop_wanted) {
        save(&r, opts.out, (int)opts.keep);
        bool good = saved(&r, true);
        progress_close(&r.progress);
        fputs(good ? "interrupted; the same command goes on from here\n" : "interrupted, and not saved\n", stderr);
        return 130;
    }
    finish(&r);
    if (stop_wanted) fputs("interrupted; the same command goes on from here\n", stderr);
    return stop_wanted ? 130 : 0;
}
