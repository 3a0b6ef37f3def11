// run.h: what the files of ./run share. run.c reads the options and has the modes that make text; run_models.c has those
// that write models or set one against another, run_bench.c those
// that measure. Only run.c ends the program.
#ifndef LEHR_RUN_H
#define LEHR_RUN_H

#include "gen/spec.h"

struct app {
    struct model_file *file;
    struct model *model;
    struct tokenizer *tokenizer;
    const struct backend *backend;
    struct session *session;
    struct speculation *guesses; // NULL: plain decoding
};

struct speculation_options { // of --spec and --draft, as they stand on the command line
    const char *name, *draft, *accept;
    int64_t most, least, nodes, ctx, threads; // 0: by rule
    int64_t exit_layer; // 0: what the model's file says, if anything
    double p_min;
    bool adapt;
    uint64_t seed;
    const char *model; // path of the target, to look for a draft beside it
};
// Names and numbers, before anything is loaded.
MUST_USE bool speculation_check(const struct speculation_options *o, struct err *err);
int64_t speculation_rows(const struct speculation_options *o); // of a pass: what the target's session needs in tree and all_logits; 0: plain
// The app has model, tokenizer and session. What cannot be had is a line in notes, and is done without. NULL: plain decoding.
struct speculation *speculation_open(struct app *a, const struct speculation_options *o, struct text *notes);
void speculation_close(struct speculation *s);
void speculation_anew(struct speculation *s, uint64_t seed); // as if nothing had been guessed yet
struct spec *speculation_spec(struct speculation *s); // NULL is fine, and then NULL
void speculation_tell(struct speculation *s);         // to standard error: what came of it
void speculation_json(struct speculation *s, struct json_out *j); // the same, members of the object at hand

struct models_options { // as they stand on the command line; NULL and 0: not given
    const char *model, *out, *export, *quantize, *dtype, *imatrix, *report_text, *against, *text, *tokenizer_pre;
    bool pure, json;
    bool new_tokenizer; // the tokenizer of the app replaces that of the file
    bool imatrix_is_text;
    int64_t ctx, chunks, stride, rows;
    enum dtype kv;
};
// Each returns the exit code, with a sentence in err when it is not 0. The app has file, model and backend, and its
// tokenizer where a text is to be read or new_tokenizer says so.
int models_write(struct app *a, const struct models_options *o, struct err *err);   // --export, --quantize
int models_imatrix(struct app *a, const struct models_options *o, struct err *err); // --imatrix alone
int models_compare(struct app *a, const struct models_options *o, struct err *err); // --kl-against

struct bench_options { // of --bench; tokens of the prompt, generated, and in the cache before
    int64_t prompt, fresh, depth, repeats;
    int64_t rows;            // of one pass of generation: as many tokens are fed and answered at once, as a draft is verified
    enum dtype keys, values; // of the cache
    bool exact, json, profile; // profile: what each op cost, to standard error; the backend is a profiled one
};
int bench_model(struct app *a, const struct bench_options *o, struct err *err); // --bench; the app has a session
int bench_ceiling(const struct backend *backend, bool json, struct err *err);   // --ceiling; leaves the pool as it was

// --spec-check: makes the text behind ids without and with guesses and says whether they are the same bytes; exit code 3 when not.
int speculation_compare(struct app *a, const struct ids *ids, const struct sampler_options *sampler, const struct generate_options *g, struct err *err);
// --bench-texts: prompts, divided by lines of %%, from a file, or from all files of a folder, each a kind of text. Each prompt is gone on with
// plainly and with guesses, a few tokens of one and then of the other, `repeats` times; the last line of a kind sums it up. encode makes ids of a prompt.
struct texts_options {
    const char *path;
    struct session *plain; // what is made without guesses; the app's session has what is made with them
    int64_t n, repeats, most; // tokens each; prompts of a file, 0: all
    bool json;
    const struct sampler_options *sampler;
    const struct generate_options *generate;
    bool (*encode)(struct app *a, const char *text, size_t n, struct ids *ids, struct err *err);
};
int bench_texts(struct app *a, const struct texts_options *o, struct err *err);

#endif
