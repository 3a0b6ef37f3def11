// perplexity.c: how well a model predicts a text.
//
// Two protocols, because numbers of one cannot be compared with the other's: llama.cpp's (chunks of ctx, the first token
// replaced by BOS when the model has one, only the second half scored) and the sliding window of transformers (every token
// scored once, with at least ctx - stride tokens before it).
#include "gen/gen.h"

#include <math.h>
#include <string.h>

// Adds the losses of ids[from..to) inside the window ids[0..n); token j is predicted by row j - 1.
static bool score_window(struct session *s, const struct tokenizer *t, const int32_t *ids, int64_t n, int64_t from,
                         struct perplexity *p, struct err *err) {
    int64_t V = session_vocab(s);
    session_rewind(s, 0);
    for (int64_t at = 0; at < n - 1; at += PERPLEXITY_ROWS) {
        int64_t rows = n - 1 - at < PERPLEXITY_ROWS ? n - 1 - at : PERPLEXITY_ROWS;
        bool scored = at + rows >= from;
        enum logits_wanted want = scored ? LOGITS_ALL : LOGITS_NONE;
        const float *logits = session_feed(s, ids + at, rows, FEED_PROMPT, want, err);
        if (!logits) return false;
        for (int64_t i = 0; scored && i < rows; i++) {
            int64_t target = at + i + 1;
            if (target < from) continue;
            const float *row = logits + i * V;
            double loss = logits_log_sum_exp(row, V) - row[ids[target]];
            p->nll += loss;
            p->nll_sq += loss * loss;
            p->tokens++;
            p->bytes += (int64_t)tokenizer_piece(t, ids[target]).n;
        }
    }
    return true;
}

bool perplexity_run(struct session *s, const struct tokenizer *t, const int32_t *ids, size_t n, int64_t ctx,
                    int64_t stride, int64_t max_chunks, void (*each)(void *arg, const struct perplexity *so_far), void *arg,
                    struct perplexity *out, struct err *err) {
    assert(ctx >= 4 && ctx <= session_capacity(s));
    *out = (struct perplexity){0};
    int64_t count = (int64_t)n;
    if (stride <= 0 && count < ctx)
        return err_set(err, "the text has %lld tokens, but one chunk needs %lld: give more text or a smaller -c", (long long)count,
                       (long long)ctx);
    if (count < 2) return err_set(err, "the text has %lld tokens, at least 2 are needed", (long long)count);
    int32_t *window = mem_array((size_t)ctx, sizeof *window, "window");
    bool fine = true;
    int64_t done = 0; // tokens before this index are scored (sliding)
    for (int64_t chunk = 0; fine && (max_chunks <= 0 || chunk < max_chunks); chunk++) {
        int64_t begin = chunk * (stride > 0 ? stride : ctx), length = count - begin < ctx ? count - begin : ctx;
        if (stride > 0 ? done >= count : length < ctx) break;
        memcpy(window, ids + begin, (size_t)length * sizeof *window);
        int64_t from = stride > 0 ? done - begin : ctx / 2 + 1;
        if (stride <= 0 && tokenizer_adds_bos(t) && tokenizer_bos(t) >= 0) window[0] = tokenizer_bos(t);
        fine = score_window(s, t, window, length, from < 1 ? 1 : from, out, err);
        done = begin + length;
        if (fine && each) each(arg, out);
    }
    mem_free(window);
    return fine;
}
