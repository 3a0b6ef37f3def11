// train_save.c: what a run keeps on disk, and how it goes back.
//
// Saving: the state is copied and written beside the steps (learn.h, saver), in order: a checkpoint that names a state to
// go back to is on disk only after that state. Without memory for the copy steps wait for the writing.
//
// Going back (Chowdhery et al. 2022, arXiv 2204.02311, section 5.1: restart some hundred steps before a spike and pass over
// the 200 to 500 batches around it): every --rollback steps a calm state is kept in OUT/good. When the guard finds the run
// lost, that state is read back, and learning goes on with the sequences behind the last one seen: nothing between the
// state and the spike is learned again. Which states are kept, and when the run returns, depends on steps alone, and
// checkpoints carry which state is good and what was passed over; so a run that was killed returns as one that was not.
//   (1) A good state stays as long as a checkpoint before the next one exists: a resumed run may need it.
//   (2) Checkpoints of what was returned from go after the state behind the return is on disk. Killed before that, the run
//       resumes there, finds itself lost at the same step, and returns again.
#include "train.h"

#include <math.h>
#include <string.h>

enum { RETURNS_TO_ONE_STATE = 3, ALL = 1 << 30 };

static char *good_folder(void) { return in_out("good"); }

static bool is_good_folder(const char *folder) {
    char *good = good_folder();
    bool same = strcmp(folder, good) == 0;
    mem_free(good);
    return same;
}

// ---- saving -------------------------------------------------------------------------------------------------------

static void tell(struct run *r, const struct saved *s) {
    const bool good = is_good_folder(s->folder);
    if (!s->good) progress_note(&r->progress, "warning: not saved: %s", s->err.text);
    else if (good) checkpoint_thin(s->folder, opts.out, s->tokens);
    else if (s->copy_s > 0)
        progress_note(&r->progress, "saved %s/ckpt-%lld.gguf in %.1f s, of which steps waited %.2f s", s->folder, (long long)s->tokens,
                      s->seconds, s->copy_s);
    else progress_note(&r->progress, "saved %s/ckpt-%lld.gguf in %.1f s", s->folder, (long long)s->tokens, s->seconds);
}

bool saved(struct run *r, bool wait) {
    struct saved what;
    if (!r->saver || !saver_done(r->saver, wait, &what)) return true;
    tell(r, &what);
    return what.good;
}

void keep_options(struct run *r) {
    text_clear(&r->state.options);
    train_options_write(&r->state.options);
}

bool save(struct run *r, const char *folder, int keep) {
    keep_options(r);
    saved(r, true);
    if (!is_good_folder(folder)) r->last_save = time_now();
    if (strcmp(folder, opts.out) == 0) r->saved_at = r->state.tokens;
    if (r->saver) {
        saver_start(r->saver, folder, r->model, r->tokenizer, r->optimizer, &r->state, keep);
        return true;
    }
    struct saved what = {.folder = folder, .tokens = r->state.tokens};
    double start = time_now();
    what.good = checkpoint_save(folder, r->model, r->tokenizer, r->optimizer, &r->state, keep, &what.err);
    what.seconds = time_now() - start;
    tell(r, &what);
    return what.good;
}

// Memory for a copy of the state, where it fits beside what training has not touched yet.
void make_saver(struct run *r, size_t memory) {
    struct err err;
    char need[32], left[32];
    const struct model_config *c = &r->model->config;
    if (!opts.save_aside) return;
    size_t copy = saver_bytes(c, optimizer_state_bytes(r->optimizer)), have = mem_available_bytes();
    size_t later = r->model->grads_bytes + optimizer_bytes(optimizer_find(opts.optimizer), c) +
                   train_state_bytes(c, r->micro_seq * opts.seq, opts.seq, memory, NULL);
    bool fits = !have || copy + later < have / 10 * 9;
    if (fits) r->saver = saver_new(r->model, r->optimizer, &err);
    if (!r->saver)
        fprintf(stderr, "note: checkpoints hold up the steps: writing them aside takes %s more memory, %s are free\n",
                text_bytes(need, (double)copy), text_bytes(left, have > later ? (double)(have - later) : 0));
}

// Files this run will have at one time, that are not there yet.
void check_disk(const struct run *r, const struct model_config *c) {
    char need[32], each[32], left[32];
    char *good = good_folder();
    const double one = (double)checkpoint_bytes(c, r->tokenizer, optimizer_bytes(optimizer_find(opts.optimizer), c));
    const double steps = amount.tokens ? ceil((double)(amount.tokens - r->state.tokens) / (double)opts.seq) : INFINITY;
    double files = fmin((double)opts.keep, steps) + 1 - (double)checkpoint_count(opts.out);
    if (opts.rollback && steps > (double)opts.rollback) files += fmin((double)opts.keep + 1, steps / (double)opts.rollback) - (double)checkpoint_count(good);
    mem_free(good);
    files = fmax(files, 1); // the newest is written before the oldest goes
    double all = files * one + 4 * (double)config_params(c), have = (double)file_free_bytes(opts.out);
    if (all > have)
        refuse(1, "%s: this run needs %s of disk (%.0f checkpoints of %s, and model.gguf), %s are free: free some, lower --keep%s", opts.out,
               text_bytes(need, all), files, text_bytes(each, one), text_bytes(left, have), opts.rollback ? " or say --rollback 0" : "");
}

// ---- going back ---------------------------------------------------------------------------------------------------

void keep_good(struct run *r) {
    if (!opts.rollback || r->state.step % opts.rollback || finished(r) || !guard_calm(&r->state.guard)) return;
    char *good = good_folder();
    r->state.good = r->state.tokens;
    r->state.again = 0;
    save(r, good, ALL);
    mem_free(good);
}

bool read_back(struct run *r, const char *path, struct err *err) {
    struct run_state state;
    struct model_file *f = model_file_open(path, err);
    bool fine = f && model_file_seal(f, err) && checkpoint_read_state(f, &state, err) &&
                checkpoint_read_tensors(f, r->model, r->optimizer, err);
    model_file_close(f);
    if (!fine) return false;
    text_free(&r->state.options);
    r->state = state;
    make_schedule(r);
    make_batch(r);
    return true;
}

// How the documents begin that the last steps saw, sequence by sequence.
static void write_documents(struct run *r, int64_t first, int64_t end, const char *why) {
    enum { SHOWN = 32 }; // tokens of a document
    struct text name = {0}, page = {0};
    struct err err;
    const int64_t T = opts.seq, last_steps = GUARD_PATIENCE * r->state.batch.now / T;
    if (end - first > last_steps) first = end - last_steps;
    text_fmt(&name, "rollback-%lld.txt", (long long)r->state.rollbacks + 1);
    text_fmt(&page, "%s; the sequences of the last %d steps, and how their documents begin or go on\n", why, GUARD_PATIENCE);
    for (int64_t s = first; s < end; s++) {
        mixture_sequence(&r->mixture, T, r->state.seed, s, 0, r->ids, r->targets, r->doc_start);
        text_fmt(&page, "\n--- sequence %lld\n", (long long)s);
        for (int64_t i = 0; i < T; i++) {
            if (i && r->doc_start[i] == r->doc_start[i - 1]) continue;
            for (int64_t k = i; k < T && k < i + SHOWN && r->doc_start[k] == r->doc_start[i]; k++) {
                struct span token = tokenizer_piece(r->tokenizer, r->ids[k]);
                text_add(&page, token.p, token.n);
            }
            text_str(&page, "\n");
        }
    }
    char *path = in_out(name.data);
    struct file_out *f = file_out_open(path, &err);
    if (f) file_out_write(f, page.data, page.len);
    if (!f || !file_out_commit(f, &err)) progress_note(&r->progress, "warning: %s", err.text);
    mem_free(path);
    text_free(&name);
    text_free(&page);
}

// The log and what else has seen steps that are undone now.
static void note_return(struct run *r, int64_t from, const char *why, int64_t first, int64_t end) {
    struct err err;
    const struct run_state *s = &r->state;
    struct log_row row = log_row_at(s->step, s->tokens);
    row.back_from = from, row.why = why, row.passed_from = first, row.passed_to = end;
    if (r->board) {
        if (!board_close(r->board, &err) || !(r->board = board_open(opts.tensorboard, s->step + 1, &err))) fail(1, &err);
    }
    note_row(r, &row);
    if (r->evaluated_at > s->tokens) r->evaluated_at = s->tokens;
    if (r->cooled_at > s->tokens) r->cooled_at = s->tokens;
    progress_note(&r->progress,
                  "%s: back from %lld to %lld tokens, passing over sequences %lld to %lld (return %lld, see %s/rollback-%lld.txt)", why,
                  (long long)from, (long long)s->tokens, (long long)first, (long long)end - 1, (long long)s->rollbacks, opts.out,
                  (long long)s->rollbacks);
}

void go_back(struct run *r, const char *why) {
    struct err err;
    struct text path = {0};
    const int64_t from = r->state.tokens, good = r->state.good, T = opts.seq, passed = r->state.passed, rollbacks = r->state.rollbacks + 1,
                  again = r->state.again + 1, first = good / T + passed, end = from / T + passed;
    const double seconds = r->state.seconds;
    saved(r, true);
    if (again > RETURNS_TO_ONE_STATE)
        refuse(1, "%s at %lld tokens, after %d returns to the state at %lld tokens: this is not a matter of some documents; start again from %s/good with a lower --lr and --override",
               why, (long long)from, RETURNS_TO_ONE_STATE, (long long)good, opts.out);
    write_documents(r, first, end, why);
    char *folder = good_folder();
    text_fmt(&path, "%s/ckpt-%lld.gguf", folder, (long long)good);
    if (read_back(r, path.data, &err)) {
        r->state.rollbacks = rollbacks, r->state.again = again, r->state.passed = end - good / T, r->state.seconds = seconds;
        note_return(r, from, why, first, end);
        checkpoint_drop_after(folder, good);
        save(r, opts.out, (int)opts.keep);
        if (saved(r, true)) checkpoint_drop_after(opts.out, good);
    } else {
        progress_note(&r->progress, "warning: %s, but there is no way back: %s", why, err.text);
        r->state.good = -1;
    }
    mem_free(folder);
    text_free(&path);
}
