// gen: from logits to text.
//
// Sampling is Gumbel-max with counter-based noise (design 7): the token at position t is
//     argmax over v that passed the filters of  log p_t(v) + g(seed, t, v)
// so, given the seed, the choice at a position is a fixed function of the distribution there: no state to save, and
// whoever computes the same distribution makes the same choice. Temperature 0 is the plain argmax, ties to the lowest id.
//
// Filters form a chain in the order of the table: penalties, top-k, typical, top-p, min-p, temperature, (mirostat replaces
// the three in the middle). A filter keeps at least one token. --list prints the table.
#ifndef LEHR_GEN_H
#define LEHR_GEN_H

#include "core/core.h"
#include "model/model.h"
#include "tokenizer/chat.h"
#include "tokenizer/tokenizer.h"

struct sampler_options {
    double temp;            // 0: greedy. Default 0.8
    int64_t top_k;          // 0: off. Default 40
    double top_p, min_p;    // 1 and 0: off. Defaults 0.95, 0.05
    double typical;         // 1: off (Meister et al. 2022)
    double repeat_penalty;  // 1: off; divides positive and multiplies negative logits (Keskar et al. 2019)
    double presence_penalty, frequency_penalty; // 0: off; subtracted once, and per occurrence
    int64_t repeat_last;    // window of the penalties in tokens; 0: off, -1: all. Default 64
    int64_t mirostat;       // 0, 1 or 2 (Basu et al. 2021)
    double mirostat_tau, mirostat_eta; // 5.0, 0.1
    int64_t seed;           // -1: from the clock, printed
};
extern const struct sampler_options sampler_defaults;

struct sampler_filter { // one row per filter, in chain order
    const char *name, *help;
};
extern const struct sampler_filter sampler_filters[];
extern const int sampler_filter_count;

struct sampler;
MUST_USE bool sampler_check(const struct sampler_options *o, struct err *err); // ranges; NaN refused
struct sampler *sampler_new(const struct sampler_options *o, int64_t vocab);   // o checked; seed already resolved
void sampler_free(struct sampler *s);
// The token for `position` given logits [V]. -1 with a sentence when the logits have NaN or no finite value.
int32_t sampler_pick(struct sampler *s, const float *logits, int64_t position, struct err *err);
void sampler_accept(struct sampler *s, int32_t id);   // the token became part of the text (prompt tokens too)
// The distribution that sampler_pick draws from: candidates with probabilities, sorted by falling p; for tests and logprobs.
struct candidate {
    int32_t id;
    float logit, p;
};
size_t sampler_distribution(struct sampler *s, const float *logits, struct candidate *out); // out: room for V
int candidate_by_id(const void *a, const void *b); // for qsort and bsearch of candidates

MUST_USE bool sampler_sees(const float *logits, int64_t n, int64_t position, struct err *err); // what sampler_pick refuses
// Guesses, from logits that another model made: only the SAMPLER_ROUGH likeliest are looked at; the state stays.
// Guess: what sampler_pick would choose with them, and what comes next by logit / temp + noise: up to n, best first, p the softmax
// of that sum (of the logits at temperature 0): how sure the choice is; *entropy: that of the distribution
// behind the filters, in nats. Rough: their distribution behind the filters, as sampler_distribution.
enum { SAMPLER_ROUGH = 256 };
struct guess_logits {
    const float *of;
    const int32_t *ids; // [n] the token that each is of, -1: of none; NULL: 0, 1, ...
    int64_t n;
};
size_t sampler_guess(struct sampler *s, const struct guess_logits *logits, int64_t position, size_t n, struct candidate *out, double *entropy);
size_t sampler_rough(struct sampler *s, const struct guess_logits *logits, struct candidate *out);

// log(sum(exp(logits))) over V values, in double: what turns a logit into a log-probability.
double logits_log_sum_exp(const float *logits, int64_t V);

// --- generating ----------------------------------------------------------------------------------------------------

struct spec;
struct generate_options {
    int64_t n;                 // tokens to make; -1: until the end token or the context is full
    bool ignore_eos;
    const struct opt_words *stop; // texts that end the generation; not printed
    int64_t logprobs;          // top alternatives reported per token; -1: none
    bool special;              // print control tokens too
    int64_t prompt_threads;    // threads for reading the prompt; 0: those of the pool
    const int32_t *ends;       // n_ends more tokens that end the text
    size_t n_ends;
    struct spec *spec;         // guesses ahead (spec.h); NULL: plain decoding
    // Called with the session full: shortens it and tells what is fed next to go on; false: the text ends. NULL: it always does.
    bool (*make_room)(void *arg, struct ids *next);
};
// One call per chosen token; bytes is text now complete (may be empty), never part of a stop text.
struct token_event {
    int32_t id;
    int64_t position;
    const char *bytes;
    size_t n;
    double logprob;                 // natural log of the model's own p (temperature 1, no filter); NaN unless logprobs >= 0
    const struct candidate *top;    // `logprobs` best by that distribution
    size_t n_top;
};
typedef bool token_fn(void *arg, const struct token_event *e); // false stops
enum stop_reason { STOP_LENGTH, STOP_END, STOP_TEXT, STOP_CONTEXT, STOP_CALLER };
struct generate_stats {
    int64_t prompt_tokens, new_tokens;
    double prompt_s, new_s, first_s; // first_s: until the first token
    double settle_s;                 // of weights, behind the first token; in none of the others
    enum stop_reason why;
};
const char *stop_reason_name(enum stop_reason r);
// Feeds prompt after what is in the session, then samples. False when the session or sampler failed.
MUST_USE bool generate(struct session *s, const struct tokenizer *t, struct sampler *sampler, const int32_t *prompt,
                       size_t n_prompt, const struct generate_options *o, token_fn *fn, void *arg,
                       struct generate_stats *stats, struct err *err);

// --- chatting ------------------------------------------------------------------------------------------------------

// A conversation. Each turn renders all of it by the template and feeds only what differs from the ids in the session, so
// what was read once is not read again and yet the result is that of reading everything anew.
struct chat_options {
    const struct chat_template *template;
    const struct tokenizer *tokenizer;
    struct session *session;
    const struct sampler_options *sampler;
    struct generate_options generate; // stop may be NULL
    const char *system;               // NULL: none
    bool shift;                       // drop the oldest turns when the context is full; else a turn is refused, a reply ends
    struct tm now;                    // what the template takes for today
};
struct chat_stats {
    struct generate_stats generate; // prompt_tokens: those that were fed
    int64_t reused;                 // tokens of the prompt that were in the session already
    int64_t dropped;                // messages dropped for this turn
};
struct chat;
struct chat *chat_new(const struct chat_options *o, struct err *err); // borrows what o points to; NULL on failure
void chat_free(struct chat *c);
void chat_clear(struct chat *c); // forgets all but the system text
// The prompt of a turn: everything so far and this text.
MUST_USE bool chat_prompt(struct chat *c, const char *text, size_t n, struct rendering *r, struct ids *ids, struct err *err);
// One turn. After a failure the text is not part of the conversation; a reply that fn stopped counts as far as it went.
MUST_USE bool chat_say(struct chat *c, const char *text, size_t n, token_fn *fn, void *arg, struct chat_stats *stats,
                       struct err *err);

// --- scoring -------------------------------------------------------------------------------------------------------

// Perplexity by llama.cpp's protocol: chunks of ctx tokens, BOS in front of each when the model has one, only the second half
// scored; or by a sliding window (stride > 0): windows of ctx every stride tokens, each token scored once.
// Logits come in pieces of PERPLEXITY_ROWS: the session needs all_logits of at least that.
enum { PERPLEXITY_ROWS = 128 };
struct perplexity {
    double nll, nll_sq; // sums over scored tokens, nats
    int64_t tokens, bytes;
};
struct scoring {
    struct session *session;
    const struct tokenizer *tokenizer; // NULL: nothing is put in front, bytes are not counted
    const int32_t *ids;
    size_t n;
    int64_t ctx, stride, max_chunks;   // max_chunks 0: all
    void (*each)(void *arg, const struct perplexity *so_far); // after each chunk; may be NULL
    void *arg;
};
MUST_USE bool perplexity_run(const struct scoring *s, struct perplexity *out, struct err *err);

// How often each expert of each layer is chosen by what the session reads, from new to free; it has no other observer then.
struct expert_use;
struct expert_use *expert_use_new(const struct model *m, struct session *s); // borrows both. NULL: a model without experts
void expert_use_free(struct expert_use *u);                                  // NULL is fine
struct expert_summary {
    int64_t layers, experts, unused; // unused: of layers * experts
    double busiest, entropy;         // means over layers: the largest share times E (1 is even), bits (log2 E is even)
};
struct expert_summary expert_use_summary(const struct expert_use *u);
void expert_use_write(const struct expert_use *u, const char *key, struct json_out *to); // counts: a list for each layer

// How far a model is from a reference, token by token over a text: both read the same chunks, and at every scored place
// KL(reference || model) is that of their distributions. Both vocabularies have the same size. Of the logits only the rows
// at hand are kept; of each token one number, for the quantiles.
struct divergence {
    struct perplexity model, reference;
    double kl, kl_sq;      // sums, nats
    double both;           // sum of products of the two losses, for the error of their difference
    double guess;          // sum of KL(reference || all tokens alike): what a model that knows nothing would have
    int64_t same_top;      // places where the likeliest token is the same
    bool identical;        // every logit, bit for bit
    double median, p99, p999, most; // of the KL of a place
};
// Both sessions need all_logits as above; so_far of `each` is the model's.
MUST_USE bool divergence_run(const struct scoring *s, struct session *reference, struct divergence *out, struct err *err);
double divergence_kl_error(const struct divergence *d); // standard error of the mean KL
// exp(mean loss of the model - mean loss of the reference), and its standard error from the paired differences.
double divergence_ratio(const struct divergence *d, double *error);
double perplexity_of(const struct perplexity *p, double *error); // exp(mean loss); error may be NULL

// A text that the model writes itself at temperature 1, for measuring where no other text is at hand: n ids in windows
// of `window`, each begun with `begin`; behind an id of `ends` the text begins anew. The session holds a window.
MUST_USE bool sample_text(struct session *s, const struct ids *ends, int32_t begin, int64_t window, uint64_t seed, int64_t n,
                          int32_t *out, struct err *err);

#endif
