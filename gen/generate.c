// generate.c: prompt in, tokens out, text as it becomes complete.
//
// Three things may hold bytes back before they are shown: a character whose UTF-8 is not complete (utf8_hold), and a tail
// that could still become a stop text. Both are resolved in the order of the stream, so what is shown never has to be taken back.
#include "gen/spec.h"

#include <math.h>
#include <string.h>

static const char *const reasons[] = {"length", "end", "stop", "context", "caller"};
const char *stop_reason_name(enum stop_reason r) { return reasons[r]; }

struct output {
    const struct generate_options *o;
    struct utf8_hold hold;
    struct text pending; // complete characters not shown yet
};

// Where the first stop text begins in pending, or pending.len.
static size_t find_stop(const struct output *out) {
    size_t first = out->pending.len;
    for (size_t i = 0; out->o->stop && i < out->o->stop->count; i++) {
        const char *stop = out->o->stop->word[i], *at = *stop ? strstr(out->pending.data, stop) : NULL;
        if (at && (size_t)(at - out->pending.data) < first) first = (size_t)(at - out->pending.data);
    }
    return first;
}

// Bytes at the end of pending that could be the beginning of a stop text.
static size_t stop_tail(const struct output *out) {
    size_t longest = 0;
    for (size_t i = 0; out->o->stop && i < out->o->stop->count; i++) {
        const char *stop = out->o->stop->word[i];
        size_t n = strlen(stop), most = n < out->pending.len ? n : out->pending.len;
        for (size_t k = most; k > longest; k--)
            if (memcmp(out->pending.data + out->pending.len - k, stop, k) == 0) longest = k;
    }
    return longest;
}

double logits_log_sum_exp(const float *logits, int64_t V) {
    float most = logits[0];
    for (int64_t i = 1; i < V; i++) most = fmaxf(most, logits[i]);
    double sum = 0;
    for (int64_t i = 0; i < V; i++) sum += exp((double)logits[i] - most);
    return most + log(sum);
}

// The `n` likeliest tokens by the model's own distribution, best first; insertion into a short sorted list.
static size_t best_tokens(const float *logits, int64_t V, double lse, size_t n, struct candidate *out) {
    size_t have = 0;
    for (int64_t i = 0; i < V && n > 0; i++) {
        if (have == n && logits[i] <= out[have - 1].logit) continue;
        size_t at = have < n ? have++ : n - 1;
        for (; at > 0 && out[at - 1].logit < logits[i]; at--) out[at] = out[at - 1];
        out[at] = (struct candidate){(int32_t)i, logits[i], (float)exp((double)logits[i] - lse)};
    }
    return have;
}

static void take_piece(struct output *out, const struct tokenizer *t, int32_t id, bool first) {
    struct span piece = tokenizer_piece_at(t, id, first);
    enum token_type type = tokenizer_type(t, id);
    if (out->o->special && (type == TOKEN_CONTROL || type == TOKEN_UNKNOWN)) piece = tokenizer_token(t, id);
    utf8_hold_feed(&out->hold, piece.p, piece.n, &out->pending);
}

static bool is_end(const struct tokenizer *t, const struct generate_options *o, int32_t id) {
    for (size_t i = 0; i < o->n_ends; i++)
        if (o->ends[i] == id) return true;
    return tokenizer_is_end(t, id);
}

static const float *read_ids(struct session *s, const struct generate_options *o, const int32_t *ids, size_t n, struct err *err) {
    int threads = pool_threads();
    if (o->prompt_threads) pool_start((int)o->prompt_threads);
    const float *logits = session_feed(s, ids, (int64_t)n, FEED_PROMPT, LOGITS_LAST, err);
    if (o->prompt_threads) pool_start(threads);
    return logits;
}

// Feeds the token just chosen; when the session is full, what make_room says instead, and *full when it has nothing to say.
static const float *feed_chosen(struct session *s, const struct generate_options *o, void *arg, int32_t id, bool *full, struct err *err) {
    struct ids next = {0};
    const float *logits = NULL;
    if (o->spec && spec_length(o->spec) < session_capacity(s)) return spec_feed(o->spec, id, err);
    if (o->spec) spec_end(o->spec);
    if (session_length(s) < session_capacity(s)) return session_feed(s, &id, 1, FEED_GENERATED, LOGITS_LAST, err);
    *full = !o->make_room || !o->make_room(arg, &next);
    if (!*full) logits = read_ids(s, o, next.id, next.count, err);
    ids_free(&next);
    return logits;
}

bool generate(struct session *s, const struct tokenizer *t, struct sampler *sampler, const int32_t *prompt, size_t n_prompt,
              const struct generate_options *o, token_fn *fn, void *arg, struct generate_stats *stats, struct err *err) {
    assert(n_prompt > 0);
    struct output out = {.o = o};
    int64_t V = tokenizer_vocab(t);
    size_t n_top = o->logprobs > 0 ? (size_t)(o->logprobs < V ? o->logprobs : V) : 0;
    struct candidate *top = mem_array(n_top, sizeof *top, "likeliest tokens");
    text_fmt(&out.pending, "%4096s", ""); // room enough that the token loop need not grow it
    text_clear(&out.pending);
    *stats = (struct generate_stats){.prompt_tokens = (int64_t)n_prompt, .why = STOP_LENGTH};
    double start = time_now();
    bool fine = true, first_of_text = session_length(s) == 0 && n_prompt <= 1; // no text before the first new token
    const float *logits = read_ids(s, o, prompt, n_prompt, err);
    fine = logits != NULL;
    for (size_t i = 0; fine && i < n_prompt; i++) sampler_accept(sampler, prompt[i]);
    stats->prompt_s = time_now() - start;
    if (fine && o->spec) spec_begin(o->spec, sampler);
    while (fine && (o->n < 0 || stats->new_tokens < o->n)) {
        int64_t position = o->spec ? spec_length(o->spec) : session_length(s);
        int32_t id = o->spec ? spec_pick(o->spec, logits, position, err) : sampler_pick(sampler, logits, position, err);
        if (id < 0) {
            fine = false;
            break;
        }
        bool end = is_end(t, o, id) && !o->ignore_eos;
        struct token_event e = {.id = id, .position = position, .logprob = NAN, .top = top};
        if (o->logprobs >= 0) {
            double lse = logits_log_sum_exp(logits, V);
            e.logprob = (double)logits[id] - lse;
            e.n_top = best_tokens(logits, V, lse, n_top, top);
        }
        if (!end || o->special) take_piece(&out, t, id, first_of_text && stats->new_tokens == 0);
        size_t stop_at = find_stop(&out), show = stop_at < out.pending.len ? stop_at : out.pending.len - stop_tail(&out);
        if (end) show = stop_at;
        e.bytes = out.pending.data;
        e.n = show;
        stats->new_tokens++;
        if (stats->new_tokens == 1) stats->first_s = time_now() - start;
        bool go_on = fn(arg, &e);
        bool stopped = stop_at < out.pending.len;
        memmove(out.pending.data, out.pending.data + show, out.pending.len - show + 1);
        out.pending.len -= show;
        sampler_accept(sampler, id);
        if (end || stopped || !go_on) {
            stats->why = end ? STOP_END : stopped ? STOP_TEXT : STOP_CALLER;
            text_clear(&out.pending);
            break;
        }
        if (o->n >= 0 && stats->new_tokens >= o->n) break;
        double settle_start = time_now();
        fine = session_settle(s, err);
        stats->settle_s += time_now() - settle_start;
        if (!fine) break;
        bool full = false;
        logits = feed_chosen(s, o, arg, id, &full, err);
        if (full) {
            stats->why = STOP_CONTEXT;
            break;
        }
        fine = logits != NULL;
    }
    if (o->spec) spec_end(o->spec);
    if (fine && stats->why != STOP_TEXT && stats->why != STOP_CALLER) { // what was held back is text after all
        utf8_hold_flush(&out.hold, &out.pending);
        if (out.pending.len)
            fn(arg, &(struct token_event){.id = -1, .position = session_length(s), .bytes = out.pending.data,
                                          .n = out.pending.len, .logprob = NAN});
    }
    stats->new_s = time_now() - start - stats->prompt_s - stats->settle_s;
    text_free(&out.pending);
    mem_free(top);
    return fine;
}
