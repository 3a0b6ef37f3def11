// run.c: a language model in, text out.
//
// options -> model file -> model, tokenizer, session -> one of the modes: generate (default), --chat, --perplexity,
// --tokenize, --check, or one of run_models.c (--export, --quantize, --imatrix, --kl-against) or run_bench.c (--bench,
// --ceiling). Standard output carries the text (or --json lines) and nothing else; what was found, chosen and measured
// goes to standard error in a few lines. With -p the program never asks anything.
#include "device.h"
#include "run.h"

#include <errno.h>
#include <locale.h>
#include <math.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/select.h>
#include <time.h>
#include <unistd.h>

static struct {
    const char *model, *prompt, *file, *tokenizer, *tokenizer_pre, *device, *cpu, *kv, *kv_values, *perplexity, *export, *quantize,
        *imatrix, *report_text, *kl_against, *out, *dtype, *system, *chat_template, *bench_texts;
    int64_t n, ctx, threads, threads_batch, chunk, logprobs, stride, chunks, bench_prompt, bench_new, bench_depth, bench_rows, repeats;
    struct opt_words stop;
    struct sampler_options sampler;
    struct speculation_options spec;
    bool spec_check;
    bool pure, ignore_eos, json, special, parse_special, echo, chat, show_prompt, context_shift, bench, ceiling, profile, exact, tokenize, check, list, version, help, verbose;
} o = {.device = "auto", .kv = "f16", .n = -1, .logprobs = -1, .echo = true, .bench_prompt = 512, .bench_new = 128, .bench_rows = 1, .repeats = 5,
     .spec = {.name = "auto", .accept = "coupled", .adapt = true}};

// clang-format off
static struct opt table[] = {
    {"-m --model", OPT_TEXT, &o.model, 0, 0, "FILE", "[Model] .gguf, Hugging Face folder or .safetensors, llama2.c .bin, known by its content; without it the model in data/", 0},
    {"--tokenizer", OPT_TEXT, &o.tokenizer, 0, 0, "FILE", "for files that carry none (llama2.c): tokenizer.bin, a GGUF file, or byte", 0},
    {"--tokenizer-pre", OPT_TEXT, &o.tokenizer_pre, 0, 0, "NAME", "the pre-tokenizer, for files that name none or an unknown one", 0},
    {"-c --ctx-size --ctx", OPT_INT, &o.ctx, 0, 1 << 24, "N", "context in tokens; 0: what the model was made for, or what fits into free memory", 0},
    {"--kv -ctk --cache-type-k", OPT_TEXT, &o.kv, 0, 0, "TYPE", "cache of keys and values: f16, q8_0 (half the memory, a little worse), q4_0 (bad for keys), f32, bf16", 0},
    {"--kv-values -ctv --cache-type-v", OPT_TEXT, &o.kv_values, 0, 0, "TYPE", "of values, when not as the keys", 0},
    {"-p --prompt", OPT_TEXT, &o.prompt, 0, 0, "TEXT", "[Text] what the text begins with", 0},
    {"-f --file", OPT_TEXT, &o.file, 0, 0, "FILE", "the same from a file; - for standard input", 0},
    {"-n --predict --n-predict", OPT_INT, &o.n, -1, 1e12, "N", "tokens to make; -1: until the model ends or the context is full", 0},
    {"--stop -r --reverse-prompt", OPT_MANY, &o.stop, 0, 0, "TEXT", "end when this text appears; may be given several times", 0},
    {"--ignore-eos", OPT_FLAG, &o.ignore_eos, 0, 0, "", "go on after end tokens", 0},
    {"--echo --display-prompt", OPT_FLAG, &o.echo, 0, 0, "", "print the prompt before the new text", 0},
    {"--special", OPT_FLAG, &o.special, 0, 0, "", "print control tokens too", 0},
    {"--parse-special", OPT_FLAG, &o.parse_special, 0, 0, "", "spellings of control tokens in the prompt become those tokens", 0},
    {"--chat -cnv --conversation", OPT_FLAG, &o.chat, 0, 0, "", "[Chat] a conversation: on a terminal turn by turn, with -p one turn", 0},
    {"--system -sys --system-prompt", OPT_TEXT, &o.system, 0, 0, "TEXT", "what the model is told before the conversation", 0},
    {"--chat-template", OPT_TEXT, &o.chat_template, 0, 0, "NAME", "a name of --list or a file, instead of the template of the model", 0},
    {"--context-shift", OPT_FLAG, &o.context_shift, 0, 0, "", "when the context is full, forget the oldest turns, read the rest anew and say so", 0},
    {"--show-prompt", OPT_FLAG, &o.show_prompt, 0, 0, "", "tell what the model is given: text, the conversation's part in marks, and ids", 0},
    {"--temp --temperature", OPT_REAL, &o.sampler.temp, 0, 1000, "X", "[Sampling] 0 takes the likeliest token always", 0},
    {"--top-k", OPT_INT, &o.sampler.top_k, 0, 1e9, "N", "0: off", 0},
    {"--top-p", OPT_REAL, &o.sampler.top_p, 0, 1, "X", "1: off", 0},
    {"--min-p", OPT_REAL, &o.sampler.min_p, 0, 1, "X", "0: off", 0},
    {"--typical --typical-p", OPT_REAL, &o.sampler.typical, 0, 1, "X", "1: off", 0},
    {"--repeat-penalty", OPT_REAL, &o.sampler.repeat_penalty, 0.01, 100, "X", "1: off", 0},
    {"--presence-penalty", OPT_REAL, &o.sampler.presence_penalty, -100, 100, "X", "0: off", 0},
    {"--frequency-penalty", OPT_REAL, &o.sampler.frequency_penalty, -100, 100, "X", "0: off", 0},
    {"--repeat-last-n", OPT_INT, &o.sampler.repeat_last, -1, 1e7, "N", "window of the penalties; -1: all", 0},
    {"--mirostat", OPT_INT, &o.sampler.mirostat, 0, 2, "N", "1 or 2: hold the surprise at --mirostat-tau", 0},
    {"--mirostat-tau --mirostat-ent", OPT_REAL, &o.sampler.mirostat_tau, 0, 100, "X", "bits", 0},
    {"--mirostat-eta --mirostat-lr", OPT_REAL, &o.sampler.mirostat_eta, 0, 10, "X", "learning rate", 0},
    {"-s --seed", OPT_INT, &o.sampler.seed, -1, 9e18, "N", "-1: from the clock, and printed; the same seed gives the same bytes", 0},
    {"--spec", OPT_TEXT, &o.spec.name, 0, 0, "NAME", "[Speculation, which changes nothing but speed] who guesses tokens ahead: auto, none, ngram, model, staged, tree, exit; --list explains", 0},
    {"--draft -md --model-draft", OPT_TEXT, &o.spec.draft, 0, 0, "FILE", "a small model that guesses, of any vocabulary that is much the same; without it NAME.draft.gguf beside NAME.gguf", 0},
    {"--exit-layer", OPT_INT, &o.spec.exit_layer, 0, LAYERS_MAX, "N", "the first N layers of the model guess for all of it (--spec exit, and auto without a draft); 0: as its file says, if it was trained to be left early", 0},
    {"--draft-max --draft-n", OPT_INT, &o.spec.most, 0, DRAFT_MOST, "N", "guesses in a row, at most; 0: 15, of a tree 8", 0},
    {"--draft-min --draft-n-min", OPT_INT, &o.spec.least, 0, DRAFT_MOST, "N", "fewer are not judged", 0},
    {"--draft-p-min", OPT_REAL, &o.spec.p_min, 0, 1, "X", "a guess that the draft itself holds less likely is the last of its row", 0},
    {"--draft-ctx -cd --ctx-size-draft", OPT_INT, &o.spec.ctx, 0, 1 << 24, "N", "context of the draft; 0: its own, or the target's when that is less", 0},
    {"--spec-nodes", OPT_INT, &o.spec.nodes, 0, DRAFT_MOST, "N", "guesses of a tree, at most; 0: 24", 0},
    {"--spec-adapt", OPT_FLAG, &o.spec.adapt, 0, 0, "", "measure, and guess only where it pays; without it always --draft-max", 0},
    {"--spec-accept", OPT_TEXT, &o.spec.accept, 0, 0, "NAME", "coupled: the same bytes as without; others of --list keep the distribution only", 0},
    {"--spec-check", OPT_FLAG, &o.spec_check, 0, 0, "", "make the text without and with guesses, and compare; exit code 3 when they differ", 0},
    {"--json", OPT_FLAG, &o.json, 0, 0, "", "[Output] one JSON object per token, and one at the end", 0},
    {"--logprobs", OPT_INT, &o.logprobs, -1, 1e6, "N", "with the N likeliest tokens and their log-probabilities; implies --json", 0},
    {"-v --verbose", OPT_FLAG, &o.verbose, 0, 0, "", "print every key of the model file", 0},
    {"--perplexity", OPT_TEXT, &o.perplexity, 0, 0, "FILE", "[Other modes] score a text in chunks of -c (512), second halves only, as llama.cpp does; with the use of experts, where there are any", 0},
    {"--stride", OPT_INT, &o.stride, 0, 1 << 24, "N", "instead: a window of -c every N tokens, each token scored once", 0},
    {"--chunks", OPT_INT, &o.chunks, 0, 1e12, "N", "stop after so many chunks", 0},
    {"--tokenize", OPT_FLAG, &o.tokenize, 0, 0, "", "print the ids of the prompt and stop", 0},
    {"--bench", OPT_FLAG, &o.bench, 0, 0, "", "measure prompt reading and generation on random tokens, and their share of what this machine can do", 0},
    {"--bench-prompt", OPT_INT, &o.bench_prompt, 0, 1 << 24, "N", "tokens of that prompt", 0},
    {"--bench-new", OPT_INT, &o.bench_new, 0, 1 << 24, "N", "tokens generated", 0},
    {"--bench-depth -d --n-depth", OPT_INT, &o.bench_depth, 0, 1 << 24, "N", "measure behind so many tokens that are in the cache already", 0},
    {"--profile", OPT_FLAG, &o.profile, 0, 0, "", "with --bench: what each op cost", 0},
    {"--bench-rows", OPT_INT, &o.bench_rows, 1, 4096, "N", "tokens of a pass when generating, as a draft is verified", 0},
    {"--bench-texts", OPT_TEXT, &o.bench_texts, 0, 0, "PATH", "what guesses are worth: a file of prompts with lines of %% between, or a folder of such, each gone on with plainly and with guesses in turns; with --chat as turns", 0},
    {"--ceiling", OPT_FLAG, &o.ceiling, 0, 0, "", "measure what this machine can do: reading memory and every unit, for 1 to -t threads", 0},
    {"--repeats", OPT_INT, &o.repeats, 1, 1000, "N", "runs of each; the median is told", 0},
    {"--check", OPT_FLAG, &o.check, 0, 0, "", "examine the file: structure, every weight finite, seal, hash; exit code 3 when it fails", 0},
    {"--export", OPT_TEXT, &o.export, 0, 0, "gguf|hf", "write the model as a GGUF file or as a Hugging Face folder to -o, read it back, compare", 0},
    {"--quantize", OPT_TEXT, &o.quantize, 0, 0, "MIX", "write a GGUF file to -o by MIX (Q4_K_M, Q8_0; see --list), read it back, report what was lost", 0},
    {"--pure", OPT_FLAG, &o.pure, 0, 0, "", "with --quantize: all matrices in one type, no mix", 0},
    {"--imatrix", OPT_TEXT, &o.imatrix, 0, 0, "FILE", "with --quantize: weigh errors by what enters the matrices, over a text or by an imatrix file; alone: write that to -o", 0},
    {"--report-text", OPT_TEXT, &o.report_text, 0, 0, "FILE", "with --quantize: report on this text; else on the end of the --imatrix text, or on what the model writes", 0},
    {"--kl-against", OPT_TEXT, &o.kl_against, 0, 0, "FILE", "KL divergence from that model, the reference, on the text of -f or --perplexity", 0},
    {"-o --output", OPT_TEXT, &o.out, 0, 0, "PATH", "file or folder to write", 0},
    {"--dtype", OPT_TEXT, &o.dtype, 0, 0, "TYPE", "matrices of --export hf: f32, f16 or bf16; without it as they are, f16 for quantized ones", 0},
    {"--list", OPT_FLAG, &o.list, 0, 0, "", "families, filters and dtypes", 0},
    {"-t --threads", OPT_INT, &o.threads, 0, 256, "N", "[Machine] 0: physical cores that this process may use", 0},
    {"-tb --threads-batch", OPT_INT, &o.threads_batch, 0, 256, "N", "threads for reading the prompt; 0: the same", 0},
    {"-b --batch-size -ub --ubatch-size", OPT_INT, &o.chunk, 0, 1 << 20, "N", "rows of a pass when reading a prompt; never changes the result (0: 512 to 2048, by the size of the model)", 0},
    {"--device", OPT_TEXT, &o.device, 0, 0, "NAME", "auto, cpu, cuda (the first GPU) or cuda:N", 0},
    {"--cpu", OPT_TEXT, &o.cpu, 0, 0, "LEVEL", "plain, avx2, avx512, amx, neon, dotprod or i8mm instead of the best present", 0},
    {"--exact", OPT_FLAG, &o.exact, 0, 0, "", "read prompts with products in f32, as generating does, where bf16 units would do it faster", 0},
    {"--version", OPT_FLAG, &o.version, 0, 0, "", "version and the kernels this machine would use", 0},
    {"-h --help", OPT_FLAG, &o.help, 0, 0, "", "this text", 0},
};
// clang-format on

static volatile sig_atomic_t stop_wanted;

static void on_stop(int signal_number) {
    if (stop_wanted) _exit(130);
    stop_wanted = signal_number;
}

// A signal must end the waiting for input, but not break the writing of a text.
static void catch_signals(bool restart) {
    struct sigaction action = {.sa_handler = on_stop, .sa_flags = restart ? SA_RESTART : 0};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
}

static _Noreturn void fail(int code, const struct err *err) {
    fflush(stdout);
    fprintf(stderr, "run: %s\n", err->text);
    exit(code);
}

static _Noreturn void refuse(int code, const char *format, ...) PRINTF_LIKE(2, 3);
static _Noreturn void refuse(int code, const char *format, ...) {
    va_list args;
    va_start(args, format);
    fputs("run: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    exit(code);
}

// ---- set-up -------------------------------------------------------------------------------------------------------

// The model that ships: beside the program, or in the current folder.
static const char *shipped_model(const char *program) {
    static char path[4096];
    const char *slash = strrchr(program, '/');
    int folder = slash ? (int)(slash - program) + 1 : 0;
    snprintf(path, sizeof path, "%.*sdata/stories-1m.gguf", folder, program);
    if (file_exists(path)) return path;
    return "data/stories-1m.gguf";
}

static void open_tokenizer(struct app *a) {
    struct err err;
    int64_t vocab = -1;
    struct span json = {0};
    if (!meta_int(a->file, "llama.vocab_size", false, 1, 1 << 30, &vocab, &err)) fail(1, &err);
    if (!meta_text(a->file, "lehr.tokenizer_json", false, &json, &err)) fail(1, &err);
    bool carries = meta_kind(a->file, "tokenizer.ggml.model") != META_ABSENT || json.n;
    if (o.tokenizer) {
        a->tokenizer = tokenizer_open(o.tokenizer, vocab, &err);
        if (carries) fprintf(stderr, "note: the model carries a tokenizer; --tokenizer %s is used instead\n", o.tokenizer);
    } else if (carries) {
        a->tokenizer = tokenizer_of_model(a->file, o.tokenizer_pre, &err);
    } else {
        // llama2.c keeps its tokenizer beside the model; nothing is taken from the current folder unseen.
        refuse(1, "%s carries no tokenizer: give one by --tokenizer: tokenizer.bin of llama2.c, or a GGUF file that has it", model_file_path(a->file));
    }
    if (!a->tokenizer) fail(1, &err);
}

static void open_model(struct app *a) {
    struct err err;
    double start = time_now();
    a->file = model_file_open(o.model, &err);
    if (!a->file) fail(1, &err);
    open_tokenizer(a);
    a->model = model_load(a->file, a->backend, &err);
    if (!a->model) fail(1, &err);
    const struct model_config *c = &a->model->config;
    if (c->V < tokenizer_vocab(a->tokenizer))
        refuse(1, "%s: the model has %lld tokens, its tokenizer (%s) %lld: they do not belong together", o.model, (long long)c->V,
               tokenizer_kind_name(a->tokenizer), (long long)tokenizer_vocab(a->tokenizer));
    if (c->V > tokenizer_vocab(a->tokenizer))
        fprintf(stderr, "note: the model has %lld rows of vocabulary, its tokenizer %lld tokens: the rest is padding and never chosen\n",
                (long long)c->V, (long long)tokenizer_vocab(a->tokenizer));
    struct text machine = {0};
    char params[32], bytes[32];
    device_report(a->backend, &machine);
    fprintf(stderr, "%s: %s, %s, %s parameters, %s, tokenizer %s; loaded in %.2f s on %s\n", o.model, model_file_kind(a->file),
            c->family->name, text_count(params, (double)config_params(c)),
            text_bytes(bytes, (double)model_file_bytes(a->file)), tokenizer_kind_name(a->tokenizer), time_now() - start,
            machine.data);
    text_free(&machine);
}

static enum dtype cache_dtype(const char *option, const char *name) {
    enum dtype d = dtype_from_name(name);
    if (d != DTYPE_F32 && d != DTYPE_F16 && d != DTYPE_BF16 && d != DTYPE_Q8_0 && d != DTYPE_Q4_0)
        refuse(2, "%s %s: expected f32, f16, bf16, q8_0 or q4_0", option, name);
    return d;
}

// ctx 0: as long as the model and the memory allow; the choice is told when somebody may want to change it.
static void open_session(struct app *a, int64_t ctx, int64_t all_logits, int64_t tree, bool tell) {
    struct err err;
    struct text line = {0};
    enum dtype values = DTYPE_F32;
    struct session_options so = {.ctx = ctx, .chunk = o.chunk, .all_logits = all_logits, .tree = tree, .kv = cache_dtype("--kv", o.kv), .exact = o.exact};
    if (o.kv_values) values = cache_dtype("--kv-values", o.kv_values), so.values = &values;
    if (!session_choose_context(a->model, &so, mem_available_bytes(), &line, &err)) fail(1, &err);
    a->session = session_new(a->model, &so, &err);
    if (!a->session) fail(1, &err);
    if (tell) fprintf(stderr, "%s\n", line.data);
    text_clear(&line);
    if (config_rope_note(&a->model->config, session_capacity(a->session), &line)) fprintf(stderr, "%s\n", line.data);
    text_free(&line);
}

// A session to make text with, and what guesses ahead in it.
static void open_writing(struct app *a) {
    struct text notes = {0};
    int64_t rows = speculation_rows(&o.spec);
    open_session(a, o.ctx, rows, rows, true);
    o.spec.model = o.model;
    o.spec.seed = (uint64_t)o.sampler.seed;
    a->guesses = speculation_open(a, &o.spec, &notes);
    if (notes.len) fputs(notes.data, stderr);
    text_free(&notes);
}

static void read_prompt(struct text *prompt) {
    struct err err;
    if (o.prompt && o.file) refuse(2, "-p and -f both give the prompt; give one");
    if (o.file) {
        if (!file_read_all(o.file, (size_t)1 << 30, prompt, &err)) fail(1, &err);
    } else if (o.prompt) {
        text_str(prompt, o.prompt);
    } else {
        text_str(prompt, "");
    }
}

// ---- generate -----------------------------------------------------------------------------------------------------

struct printer {
    struct app *app;
    struct text line;
    bool broken; // standard output is gone
};

static void put_text(struct printer *p, const char *bytes, size_t n) {
    if (n && fwrite(bytes, 1, n, stdout) != n) p->broken = true;
    if (fflush(stdout)) p->broken = true;
}

static bool print_token(void *arg, const struct token_event *e) {
    struct printer *p = arg;
    if (!o.json) {
        put_text(p, e->bytes, e->n);
        return !stop_wanted && !p->broken;
    }
    struct json_out j;
    text_clear(&p->line);
    json_out_open(&j, &p->line);
    json_out_object(&j, NULL);
    if (e->id >= 0) json_out_integer(&j, "id", e->id);
    json_out_integer(&j, "position", e->position);
    json_out_string(&j, "text", e->bytes, e->n);
    if (o.logprobs >= 0 && e->id >= 0) {
        json_out_number(&j, "logprob", e->logprob);
        json_out_array(&j, "top");
        for (size_t i = 0; i < e->n_top; i++) {
            struct span piece = tokenizer_token(p->app->tokenizer, e->top[i].id);
            json_out_object(&j, NULL);
            json_out_integer(&j, "id", e->top[i].id);
            json_out_string(&j, "token", piece.p, piece.n);
            json_out_number(&j, "logprob", log((double)e->top[i].p));
            json_out_close(&j, '}');
        }
        json_out_close(&j, ']');
    }
    json_out_close(&j, '}');
    text_add(&p->line, "\n", 1);
    put_text(p, p->line.data, p->line.len);
    return !stop_wanted && !p->broken;
}

static void print_summary(struct printer *p, const struct generate_stats *s) {
    double prompt_speed = s->prompt_s > 0 ? (double)s->prompt_tokens / s->prompt_s : 0;
    double speed = s->new_s > 0 ? (double)s->new_tokens / s->new_s : 0;
    if (o.json) {
        struct json_out j;
        text_clear(&p->line);
        json_out_open(&j, &p->line);
        json_out_object(&j, NULL);
        json_out_string(&j, "stopped", stop_reason_name(s->why), strlen(stop_reason_name(s->why)));
        json_out_integer(&j, "prompt_tokens", s->prompt_tokens);
        json_out_integer(&j, "new_tokens", s->new_tokens);
        json_out_integer(&j, "seed", o.sampler.seed);
        json_out_number(&j, "first_token_s", s->first_s);
        json_out_number(&j, "prompt_tok_per_s", prompt_speed);
        json_out_number(&j, "tok_per_s", speed);
        speculation_json(p->app->guesses, &j);
        json_out_close(&j, '}');
        text_add(&p->line, "\n", 1);
        put_text(p, p->line.data, p->line.len);
    } else {
        put_text(p, "\n", 1);
    }
    fprintf(stderr, "%lld prompt tokens at %.1f/s, first token after %.0f ms, ", (long long)s->prompt_tokens, prompt_speed, s->first_s * 1e3);
    if (s->settle_s > 1e-3) fprintf(stderr, "weights packed in %.2f s, ", s->settle_s);
    fprintf(stderr, "%lld new at %.1f/s, stopped by %s, seed %lld\n", (long long)s->new_tokens, speed, stop_reason_name(s->why),
            (long long)o.sampler.seed);
    speculation_tell(p->app->guesses);
}

static int check_guesses(struct app *a, const struct ids *ids, const struct generate_options *g) {
    struct err err;
    if (!a->guesses) refuse(2, "--spec-check compares with guesses, and there is nobody to guess");
    if (verifier_find(o.spec.accept)->choose) refuse(2, "--spec-check goes with --spec-accept coupled: the others keep the distribution, not the bytes");
    int code = speculation_compare(a, ids, &o.sampler, g, &err);
    if (code == 1) fail(1, &err);
    return code;
}

static int run_generate(struct app *a) {
    struct err err;
    struct text prompt = {0};
    struct ids ids = {0};
    read_prompt(&prompt);
    unsigned flags = TOKENIZE_BOS | (o.parse_special ? TOKENIZE_SPECIAL : 0u);
    tokenizer_encode(a->tokenizer, prompt.data, prompt.len, flags, &ids);
    if (!ids.count) { // nothing to begin with: the token that stands before every text
        int32_t begin = tokenizer_bos(a->tokenizer) >= 0 ? tokenizer_bos(a->tokenizer) : tokenizer_eos(a->tokenizer);
        if (begin < 0) refuse(2, "this model has no token that begins a text: give a prompt with -p");
        ids_add(&ids, begin);
    }
    open_writing(a);
    int64_t ctx = session_capacity(a->session);
    if ((int64_t)ids.count > ctx)
        refuse(1, "the prompt has %zu tokens, the context holds %lld: give a larger -c or a shorter prompt", ids.count, (long long)ctx);
    struct sampler *sampler = sampler_new(&o.sampler, tokenizer_vocab(a->tokenizer));
    struct generate_options g = {.n = o.n, .ignore_eos = o.ignore_eos, .stop = &o.stop, .logprobs = o.logprobs, .special = o.special,
                                 .prompt_threads = o.threads_batch, .spec = speculation_spec(a->guesses)};
    struct generate_stats stats;
    struct printer p = {.app = a};
    catch_signals(true);
    if (o.spec_check) return check_guesses(a, &ids, &g);
    if (o.echo && !o.json) put_text(&p, prompt.data, prompt.len);
    if (o.n != 0 && !generate(a->session, a->tokenizer, sampler, ids.id, ids.count, &g, print_token, &p, &stats, &err)) fail(1, &err);
    if (o.n == 0) stats = (struct generate_stats){.prompt_tokens = (int64_t)ids.count};
    print_summary(&p, &stats);
    bool broken = p.broken;
    text_free(&p.line);
    text_free(&prompt);
    ids_free(&ids);
    sampler_free(sampler);
    if (broken && !stop_wanted) {
        fprintf(stderr, "run: standard output could not be written: %s\n", strerror(errno));
        return 1;
    }
    return stop_wanted ? 130 : 0;
}

// ---- chat ---------------------------------------------------------------------------------------------------------

// The rendering with its control bytes escaped and what came from the conversation in double angle brackets, then the ids.
static void show_prompt(struct app *a, const struct rendering *r, const struct ids *ids) {
    struct text line = {0};
    bool content = false;
    for (size_t i = 0; i <= r->text.len; i++) {
        bool now = i < r->text.len && r->marks.data[i];
        if (now != content) text_str(&line, now ? "\xC2\xAB" : "\xC2\xBB");
        content = now;
        if (i == r->text.len) break;
        unsigned char c = (unsigned char)r->text.data[i];
        if (c == '\n') text_str(&line, "\\n\n");
        else if (c < 32 || c == 127) text_fmt(&line, "\\x%02x", c);
        else text_add(&line, r->text.data + i, 1);
    }
    fprintf(stderr, "prompt, \xC2\xABso\xC2\xBB what the conversation wrote:\n%s\n%zu ids:", line.data, ids->count);
    for (size_t i = 0; i < ids->count; i++) {
        bool control = tokenizer_type(a->tokenizer, ids->id[i]) == TOKEN_CONTROL;
        struct span s = tokenizer_token(a->tokenizer, ids->id[i]);
        fprintf(stderr, control ? " %d=%.*s" : " %d", ids->id[i], s.n < 60 ? (int)s.n : 60, s.p);
    }
    fputc('\n', stderr);
    text_free(&line);
}

enum { TTY_LINE = 4095 }; // bytes of a line that a terminal hands over, without its newline; it drops the rest

// More lines are there already: what a person pasted, not typed.
static bool more_waits(bool tty) {
    struct pollfd in = {.fd = STDIN_FILENO, .events = POLLIN};
    return tty && poll(&in, 1, 30) == 1;
}

// Waits until a terminal has a line; false when a signal ended the waiting. Signals are let in only while waiting, so one
// that comes between the prompt and the reading is not lost.
static bool line_waits(void) {
    sigset_t stops, before;
    sigemptyset(&stops);
    sigaddset(&stops, SIGINT);
    sigaddset(&stops, SIGTERM);
    sigprocmask(SIG_BLOCK, &stops, &before);
    int ready = 0;
    while (!stop_wanted && ready == 0) {
        fd_set in;
        FD_ZERO(&in);
        FD_SET(STDIN_FILENO, &in);
        ready = pselect(STDIN_FILENO + 1, &in, NULL, NULL, NULL, &before);
        if (ready < 0 && errno == EINTR) ready = 0;
    }
    sigprocmask(SIG_SETMASK, &before, NULL);
    return ready != 0; // an error is for the reading to tell
}

// Appends a line from standard input; *n is its length without the newline, -1 at the end of the input. False when it does
// not count, which is told.
static bool read_line(struct text *turn, ssize_t *n, bool tty) {
    static char *line;
    static size_t cap;
    catch_signals(false);
    *n = tty && !line_waits() ? -1 : getline(&line, &cap, stdin);
    catch_signals(true);
    if (*n < 0 && tty && stop_wanted == SIGINT) { // Ctrl-C while typing
        clearerr(stdin);
        stop_wanted = 0;
        fputs("\n(Ctrl-D ends the conversation)\n", stderr);
        return false;
    }
    if (*n > 0 && line[*n - 1] == '\n') --*n;
    if (*n > 0) text_add(turn, line, (size_t)*n);
    if (turn->len > (size_t)1 << 24) refuse(1, "a turn of more than 16 MB");
    if (!tty || *n < TTY_LINE) return true;
    while (more_waits(tty) && getline(&line, &cap, stdin) > 0) continue;
    fprintf(stderr, "note: a terminal cuts lines at %d bytes, so nothing was asked; give it in several lines, or with -f FILE\n", TTY_LINE);
    return false;
}

// A turn from standard input: one line, more while lines end in a backslash. Lines that are pasted together are one turn,
// which Enter sends, because the last of them may lack its newline. False at the end of the input.
static bool read_turn(struct text *turn, bool tty) {
    text_clear(turn);
    text_str(turn, "");
    for (bool waits = false, pasted = false;;) {
        ssize_t n;
        bool burst = waits;
        if (tty && !waits) fputs(pasted ? "(Enter sends) " : turn->len ? "\\ " : "> ", stderr);
        if (!read_line(turn, &n, tty)) { // the turn so far is forgotten
            text_clear(turn);
            waits = pasted = false;
            continue;
        }
        if (n < 0) {
            if (tty) fputc('\n', stderr);
            return turn->len > 0 && !stop_wanted;
        }
        waits = more_waits(tty);
        if (!turn->len) continue; // an empty line asks nothing
        if (n && turn->data[turn->len - 1] == '\\') {
            turn->data[turn->len - 1] = '\n';
            continue;
        }
        pasted = pasted || waits;
        if (!waits && !(pasted && burst)) break;
        text_add(turn, "\n", 1);
    }
    while (turn->len && turn->data[turn->len - 1] == '\n') turn->data[--turn->len] = 0;
    return turn->len > 0 || read_turn(turn, tty);
}

// What a person may type instead of a turn: true when it was that.
static bool chat_command(const char *word, struct chat *chat, bool *ended) {
    if (!strcmp(word, "/clear")) {
        chat_clear(chat);
        fputs("(the conversation is forgotten)\n", stderr);
    } else if (!strcmp(word, "/exit") || !strcmp(word, "/quit")) {
        *ended = true;
    } else if (!strcmp(word, "/help")) {
        fputs("/clear forgets the conversation, /exit or Ctrl-D ends it, Ctrl-C stops a reply; a line ending in \\ goes on;\n"
              "lines pasted together are one turn, which Enter sends\n", stderr);
    } else {
        return false;
    }
    return true;
}

static bool chat_turn(struct app *a, struct chat *chat, const struct text *turn, struct printer *p, bool once) {
    struct err err;
    struct chat_stats stats;
    if (o.show_prompt) {
        struct rendering r = {{0}, {0}};
        struct ids ids = {0};
        if (!chat_prompt(chat, turn->data, turn->len, &r, &ids, &err)) fail(1, &err);
        show_prompt(a, &r, &ids);
        rendering_free(&r);
        ids_free(&ids);
    }
    if (!chat_say(chat, turn->data, turn->len, print_token, p, &stats, &err)) {
        if (once) fail(1, &err);
        fprintf(stderr, "run: %s\n", err.text);
        return false;
    }
    bool told = once || o.json || o.verbose;
    if (!told) put_text(p, "\n", 1);
    if (stats.dropped) fprintf(stderr, "note: the context was full, the oldest %lld messages are forgotten and the rest is read anew\n", (long long)stats.dropped);
    if (stats.generate.why == STOP_CONTEXT) fprintf(stderr, "note: the context is full, the reply ends here\n");
    if (told) print_summary(p, &stats.generate);
    if (o.verbose) fprintf(stderr, "%lld tokens of the conversation were known already\n", (long long)stats.reused);
    return true;
}

static int run_chat(struct app *a) {
    struct err err;
    struct text turn = {0};
    bool once = o.prompt || o.file, tty = isatty(STDIN_FILENO);
    struct chat_template *t = o.chat_template ? chat_template_named(o.chat_template, &err) : chat_template_from_model(a->file, &err);
    if (!t) fail(o.chat_template ? 2 : 1, &err);
    if (once) read_prompt(&turn);
    open_writing(a);
    time_t clock_now = time(NULL);
    struct chat_options co = {.template = t, .tokenizer = a->tokenizer, .session = a->session, .sampler = &o.sampler,
                              .system = o.system, .shift = o.context_shift,
                              .generate = {.n = o.n, .ignore_eos = o.ignore_eos, .stop = &o.stop, .logprobs = o.logprobs,
                                           .special = o.special, .prompt_threads = o.threads_batch, .spec = speculation_spec(a->guesses)}};
    localtime_r(&clock_now, &co.now);
    struct chat *chat = chat_new(&co, &err);
    if (!chat) fail(1, &err);
    fprintf(stderr, "chat template: %s; seed %lld%s\n", chat_template_name(t), (long long)o.sampler.seed,
            once || !tty ? "" : "; Ctrl-C stops a reply, Ctrl-D ends, /help tells more");
    struct printer p = {.app = a};
    bool ended = false, left = false, refused = false;
    catch_signals(true);
    if (once) chat_turn(a, chat, &turn, &p, true);
    while (!once && !p.broken && !ended && !left && read_turn(&turn, tty)) {
        stop_wanted = 0;
        if (tty && chat_command(turn.data, chat, &left)) continue;
        if (!chat_turn(a, chat, &turn, &p, false)) refused = !tty; // a person has read it, a script sees the exit code
        ended = stop_wanted && stop_wanted != SIGINT;
        stop_wanted = 0;
    }
    bool broken = p.broken;
    text_free(&p.line);
    text_free(&turn);
    chat_free(chat);
    chat_template_free(t);
    if (broken) fprintf(stderr, "run: standard output could not be written: %s\n", strerror(errno));
    return broken ? 1 : ended || stop_wanted ? 130 : refused;
}

// ---- the other modes ----------------------------------------------------------------------------------------------

static int run_tokenize(struct app *a) {
    struct text prompt = {0};
    struct ids ids = {0};
    if (!o.prompt && !o.file) o.file = "-";
    read_prompt(&prompt);
    tokenizer_encode(a->tokenizer, prompt.data, prompt.len, TOKENIZE_BOS | (o.parse_special ? TOKENIZE_SPECIAL : 0u), &ids);
    struct text line = {0};
    struct json_out j;
    json_out_open(&j, &line);
    if (o.json) json_out_array(&j, NULL);
    for (size_t i = 0; i < ids.count; i++) {
        if (o.json) json_out_integer(&j, NULL, ids.id[i]);
        else text_fmt(&line, i ? " %d" : "%d", ids.id[i]);
    }
    if (o.json) json_out_close(&j, ']');
    text_str(&line, "\n");
    fwrite(line.data, 1, line.len, stdout);
    fprintf(stderr, "%zu tokens for %zu bytes\n", ids.count, prompt.len);
    text_free(&line);
    text_free(&prompt);
    ids_free(&ids);
    return 0;
}

static void print_perplexity(void *arg, const struct perplexity *p) {
    progress_line(arg, false, "%lld tokens scored, perplexity %.4f", (long long)p->tokens, exp(p->nll / (double)p->tokens));
}

static void print_scores(const struct perplexity *p, const struct expert_use *use, int64_t ctx) {
    double error, value = perplexity_of(p, &error);
    printf("perplexity %.4f +- %.4f, %.4f nats per token, %.4f nats per byte, %lld tokens scored (%s, context %lld)\n", value, error,
           p->nll / (double)p->tokens, p->bytes ? p->nll / (double)p->bytes : (double)NAN, (long long)p->tokens,
           o.stride ? "sliding window" : "second halves of chunks", (long long)ctx);
    if (!use) return;
    struct expert_summary s = expert_use_summary(use);
    printf("experts: the busiest of a layer has %.2f times an even share, entropy %.3f of %.3f bits, %lld of %lld unused\n", s.busiest,
           s.entropy, log2((double)s.experts), (long long)s.unused, (long long)(s.layers * s.experts));
}

static void print_scores_json(const struct perplexity *p, const struct expert_use *use, int64_t ctx) {
    struct text line = {0};
    struct json_out j;
    double error, value = perplexity_of(p, &error);
    json_out_open(&j, &line);
    json_out_object(&j, NULL);
    json_out_number(&j, "perplexity", value);
    json_out_number(&j, "error", error);
    json_out_number(&j, "nats_per_token", p->nll / (double)p->tokens);
    if (p->bytes) json_out_number(&j, "nats_per_byte", p->nll / (double)p->bytes);
    json_out_integer(&j, "tokens", p->tokens);
    json_out_integer(&j, "ctx", ctx);
    json_out_integer(&j, "stride", o.stride);
    if (use) expert_use_write(use, "experts", &j);
    json_out_close(&j, '}');
    puts(line.data);
    text_free(&line);
}

static int run_perplexity(struct app *a) {
    struct err err;
    struct text text = {0};
    struct ids ids = {0};
    struct perplexity p;
    struct progress progress;
    int64_t ctx = o.ctx ? o.ctx : a->model->config.ctx < 512 ? a->model->config.ctx : 512;
    if (ctx < 4) refuse(2, "-c %lld is too small to score a text", (long long)ctx);
    if (!file_read_all(o.perplexity, (size_t)1 << 32, &text, &err)) fail(1, &err);
    tokenizer_encode(a->tokenizer, text.data, text.len, TOKENIZE_BOS, &ids);
    open_session(a, ctx, PERPLEXITY_ROWS, 0, false);
    struct expert_use *use = expert_use_new(a->model, a->session);
    progress_open(&progress, 5);
    struct scoring scoring = {.session = a->session, .tokenizer = a->tokenizer, .ids = ids.id, .n = ids.count, .ctx = ctx,
                              .stride = o.stride, .max_chunks = o.chunks, .each = print_perplexity, .arg = &progress};
    if (!perplexity_run(&scoring, &p, &err)) fail(1, &err);
    progress_close(&progress);
    if (o.json) print_scores_json(&p, use, ctx);
    else print_scores(&p, use, ctx);
    expert_use_free(use);
    text_free(&text);
    ids_free(&ids);
    return 0;
}

static int run_bench(struct app *a) {
    struct err err;
    struct bench_options b = {.prompt = o.bench_prompt, .fresh = o.bench_new, .depth = o.bench_depth, .rows = o.bench_rows, .repeats = o.repeats, .exact = o.exact, .profile = o.profile,
                              .json = o.json, .keys = dtype_from_name(o.kv), .values = dtype_from_name(o.kv_values ? o.kv_values : o.kv)};
    if (b.prompt + b.fresh < 1) refuse(2, "--bench needs --bench-prompt or --bench-new above 0");
    b.fresh = (b.fresh + b.rows - 1) / b.rows * b.rows; // whole passes
    open_session(a, b.depth + (b.prompt > b.fresh ? b.prompt : b.fresh), b.rows > 1 ? b.rows : 0, 0, false);
    int code = bench_model(a, &b, &err);
    if (code) fail(code, &err);
    return 0;
}

static bool encode_prompt(struct app *a, const char *text, size_t n, struct ids *ids, struct err *err) {
    static struct chat_template *template; // of the one model of this program
    if (!o.chat) {
        tokenizer_encode(a->tokenizer, text, n, TOKENIZE_BOS, ids);
        return true;
    }
    if (!template) template = o.chat_template ? chat_template_named(o.chat_template, err) : chat_template_from_model(a->file, err);
    if (!template) return false;
    struct rendering r = {{0}, {0}};
    time_t clock_now = time(NULL);
    struct tm now;
    localtime_r(&clock_now, &now);
    struct chat_message turn = {"user", {text, n}};
    bool good = chat_render(template, a->tokenizer, &turn, 1, true, &now, &r, err);
    if (good) chat_encode(a->tokenizer, &r, ids);
    rendering_free(&r);
    return good;
}

static int run_bench_texts(struct app *a) {
    struct err err;
    struct generate_options g = {.ignore_eos = true, .logprobs = -1, .prompt_threads = o.threads_batch};
    struct texts_options t = {.path = o.bench_texts, .n = o.n < 0 ? o.bench_new : o.n, .repeats = o.repeats, .most = o.chunks, .json = o.json,
                              .sampler = &o.sampler, .generate = &g, .encode = encode_prompt};
    if (t.n < 2) refuse(2, "--bench-texts -n %lld: speed begins behind the first token; ask for two or more", (long long)t.n);
    open_writing(a);
    struct session *guessed = a->session;
    open_session(a, session_capacity(guessed), 0, 0, false);
    t.plain = a->session, a->session = guessed;
    int code = bench_texts(a, &t, &err);
    session_free(t.plain);
    if (code == 1) fail(1, &err);
    return code;
}

static void print_key(void *arg, const char *key, const char *value) {
    (void)arg;
    fprintf(stderr, "  %s = %s\n", key, value);
}

// Counts weights that are not finite; rows one at a time through the dtype table.
static int64_t count_bad(const struct file_tensor *t, double *largest) {
    const struct dtype_row *d = dtype_row(t->dtype);
    if (!d->to_f32) return 0;
    int64_t bad = 0, cols = t->size[t->n_dims - 1], rows = (int64_t)(t->bytes / ((size_t)(cols / d->block_weights) * (size_t)d->block_bytes));
    float *row = mem_array((size_t)cols, sizeof *row, "row of weights");
    for (int64_t r = 0; r < rows; r++) {
        d->to_f32((const char *)t->data + (size_t)r * (size_t)(cols / d->block_weights) * (size_t)d->block_bytes, row, cols);
        for (int64_t i = 0; i < cols; i++) {
            if (!isfinite(row[i])) bad++;
            else if (fabs((double)row[i]) > *largest) *largest = fabs((double)row[i]);
        }
    }
    mem_free(row);
    return bad;
}

static int run_check(struct app *a) {
    struct err err;
    int64_t bad_tensors = 0;
    uint64_t hash = 0;
    printf("file: %s, %zu bytes\n", model_file_kind(a->file), model_file_bytes(a->file));
    for (size_t i = 0; i < model_file_tensor_count(a->file); i++) {
        const struct file_tensor *t = model_file_tensor_at(a->file, i);
        double largest = 0;
        int64_t bad = t->dtype == DTYPE_COUNT ? 0 : count_bad(t, &largest);
        bad_tensors += bad > 0;
        hash = hash_bytes(hash_bytes(hash, t->name, strlen(t->name)), t->data, t->bytes);
        printf("  %-32s %-5s [%lld", t->name, t->type_name, (long long)t->size[0]);
        for (int d = 1; d < t->n_dims; d++) printf(", %lld", (long long)t->size[d]);
        printf("] largest %.4g%s\n", largest, bad ? "  NOT FINITE" : "");
    }
    printf("hash of all tensors: %016llx\n", (unsigned long long)hash);
    if (model_file_tensor(a->file, "lehr.seal")) {
        bool whole = model_file_seal(a->file, &err);
        printf("seal: %s\n", whole ? "whole" : err.text);
        if (!whole) return 3;
    }
    printf("tokenizer: %s, %lld tokens, hash %016llx\n", tokenizer_kind_name(a->tokenizer), (long long)tokenizer_vocab(a->tokenizer),
           (unsigned long long)tokenizer_hash(a->tokenizer));
    // A first forward pass: a model that loads but cannot say a number is not fine.
    o.kv = "f32", o.kv_values = NULL; // a fingerprint does not depend on options
    open_session(a, 8, 0, 0, false);
    int32_t first = tokenizer_bos(a->tokenizer) >= 0 ? tokenizer_bos(a->tokenizer) : 0;
    const float *logits = session_feed(a->session, &first, 1, FEED_GENERATED, LOGITS_LAST, &err);
    if (!logits) fail(1, &err);
    bool finite = true;
    for (int64_t v = 0; v < a->model->config.V; v++) finite = finite && isfinite(logits[v]);
    printf("first logits: %s, fingerprint %016llx\n", finite ? "finite" : "NOT FINITE",
           (unsigned long long)hash_bytes(0, logits, (size_t)a->model->config.V * sizeof *logits));
    printf("%s\n", bad_tensors || !finite ? "FAILED" : "fine");
    return bad_tensors || !finite ? 3 : 0;
}

// ---- modes of run_models.c ----------------------------------------------------------------------------------------

static struct models_options models_options(void) {
    struct models_options m = {.model = o.model, .out = o.out, .export = o.export, .quantize = o.quantize, .dtype = o.dtype,
                               .imatrix = o.imatrix, .report_text = o.report_text, .against = o.kl_against,
                               .text = o.perplexity ? o.perplexity : o.file, .pure = o.pure, .json = o.json,
                               .new_tokenizer = o.tokenizer != NULL, .ctx = o.ctx, .chunks = o.chunks, .stride = o.stride,
                               .rows = o.chunk, .tokenizer_pre = o.tokenizer_pre, .kv = dtype_from_name(o.kv)};
    if (m.kv != DTYPE_F32 && m.kv != DTYPE_F16 && m.kv != DTYPE_BF16) refuse(2, "--kv %s: expected f32, f16 or bf16", o.kv);
    return m;
}

static void check_writing(bool folder) {
    if (o.export && o.quantize) refuse(2, "--export and --quantize both write to -o; give one");
    if (o.export && !folder && strcmp(o.export, "gguf")) refuse(2, "--export %s: expected gguf or hf", o.export);
    if (o.export && o.imatrix) refuse(2, "--imatrix goes with --quantize, or alone; an export is not quantized");
    if ((o.export || o.quantize) && !o.out) refuse(2, "%s needs -o PATH to write to", o.export ? "--export" : "--quantize");
    if (o.dtype && !folder) refuse(2, "--dtype goes with --export hf; --quantize TYPE writes a GGUF of that type");
    if (o.tokenizer && folder) refuse(2, "--tokenizer goes with --export gguf; --export hf writes the tokenizer that the model carries");
}

// What does not run here cannot be compared, so the model is loaded; a tokenizer only where a text is to be read.
static int run_models(struct app *a) {
    struct err err;
    struct models_options m = models_options();
    bool folder = o.export && !strcmp(o.export, "hf");
    enum imatrix_kind kind = IMATRIX_NONE;
    check_writing(folder);
    if (o.imatrix && !imatrix_recognise(o.imatrix, &kind, &err)) fail(1, &err);
    if (o.imatrix && kind == IMATRIX_NONE)
        refuse(1, "--imatrix %s: neither a text nor an importance matrix (llama.cpp's GGUF or .dat format)", o.imatrix);
    m.imatrix_is_text = kind == IMATRIX_TEXT;
    a->file = model_file_open(o.model, &err);
    if (!a->file) fail(1, &err);
    bool beside = (o.export || o.quantize) && !folder && meta_kind(a->file, "lehr.tokenizer_json") != META_ABSENT; // a GGUF carries it inside
    m.new_tokenizer = o.tokenizer || beside;
    if (m.new_tokenizer || m.imatrix_is_text || o.report_text) open_tokenizer(a);
    else if (o.export && meta_kind(a->file, "tokenizer.ggml.model") == META_ABSENT && !folder)
        fprintf(stderr, "note: %s carries no tokenizer, so %s will not either\n", o.model, o.out);
    a->model = model_load(a->file, a->backend, &err);
    if (!a->model) fail(1, &err);
    int64_t V = a->model->config.V;
    if (a->tokenizer && V < tokenizer_vocab(a->tokenizer))
        refuse(1, "%s: the model has %lld tokens, its tokenizer %lld: they do not belong together", o.model, (long long)V,
               (long long)tokenizer_vocab(a->tokenizer));
    int code = o.export || o.quantize ? models_write(a, &m, &err) : models_imatrix(a, &m, &err);
    if (code) fail(code, &err);
    return 0;
}

static int run_compare(struct app *a) {
    struct err err;
    struct models_options m = models_options();
    int code = models_compare(a, &m, &err);
    if (code) fail(code, &err);
    return 0;
}

static void print_list(void) {
    puts("families");
    for (int i = 0; i < family_count; i++) printf("  %-12s %s\n", families[i].name, families[i].help);
    puts("filters, in the order they apply");
    for (int i = 0; i < sampler_filter_count; i++) printf("  %-12s %s\n", sampler_filters[i].name, sampler_filters[i].help);
    puts("who guesses ahead (--spec)");
    for (int i = 0; i < drafter_row_count; i++) printf("  %-12s %s\n", drafter_rows[i].name, drafter_rows[i].help);
    puts("what tells how likely a guess holds; they are mixed, the best so far the most");
    for (int i = 0; i < PREDICTORS; i++) printf("  %-12s %s\n", predictors[i].name, predictors[i].help);
    puts("how guesses are judged (--spec-accept)");
    for (int i = 0; i < verifier_count; i++) printf("  %-12s %s [%s]\n", verifiers[i].name, verifiers[i].help, verifiers[i].source);
    puts("chat templates");
    for (int i = 0; i < chat_template_count; i++) printf("  %-18s %s\n", chat_templates[i].name, chat_templates[i].help);
    puts("mixes of --quantize");
    for (int i = 0; i < mix_count; i++) {
        printf("  %-12s %s", mixes[i].name, mixes[i].help);
        printf(mixes[i].also ? " (also %s)\n" : "\n", mixes[i].also);
    }
    puts("dtypes");
    for (int i = 0; i < DTYPE_COUNT; i++)
        if (dtype_row((enum dtype)i)->to_f32) printf("  %s\n", dtype_row((enum dtype)i)->name);
}

int main(int argc, char **argv) {
    struct err err;
    struct opt_words rest = {0};
    setlocale(LC_CTYPE, "");
    o.sampler = sampler_defaults;
    if (!opt_parse(table, COUNT_OF(table), argc, argv, &rest, &err)) fail(2, &err);
    if (o.help) {
        puts("usage: ./run [-m MODEL] [-p TEXT] [options]\n");
        opt_help(table, COUNT_OF(table), stdout);
        return 0;
    }
    if (o.list) return print_list(), 0;
    if (rest.count > 1 || (rest.count && o.model)) refuse(2, "%s: one model is expected, given by -m or alone", rest.word[rest.count - 1]);
    if (rest.count) o.model = rest.word[0];
    if (!o.chat && (o.system || o.chat_template || o.show_prompt || o.context_shift))
        refuse(2, "--system, --chat-template, --show-prompt and --context-shift belong to --chat");
    if (o.spec_check && (o.chat || o.json)) refuse(2, "--spec-check goes with plain text: leave --chat and --json out");
    if (o.logprobs >= 0) o.json = true;
    if (o.sampler.seed < 0) o.sampler.seed = (int64_t)time(NULL) ^ (int64_t)getpid() << 32;
    if (!device_named(o.device, o.cpu, &err) || !sampler_check(&o.sampler, &err) || !speculation_check(&o.spec, &err)) fail(2, &err);
    if (verifier_find(o.spec.accept)->choose && o.sampler.mirostat) refuse(2, "--mirostat goes with --spec-accept coupled only: it steers by what was chosen");
    pool_start((int)o.threads);
    file_guard_sigbus();
    signal(SIGPIPE, SIG_IGN);
    catch_signals(false);
    if (o.profile && !o.bench) refuse(2, "--profile tells what the ops of --bench cost; give both");
    struct app a = {.backend = device_open(o.device, o.cpu, &err)};
    if (a.backend && o.profile) a.backend = backend_profiled(a.backend);
    if (!a.backend) fail(1, &err);
    if (o.version) {
        struct text machine = {0};
        device_report(a.backend, &machine);
        printf("lehr run: %s\n", machine.data);
        return 0;
    }
    if (o.ceiling) {
        int code = bench_ceiling(a.backend, o.json, &err);
        if (code) fail(code, &err);
        return 0;
    }
    if (!o.model) o.model = shipped_model(argv[0]);
    bool models = o.export || o.quantize || o.imatrix;
    if ((o.pure || o.report_text) && !o.quantize) refuse(2, "--pure and --report-text belong to --quantize");
    if (!models) open_model(&a);
    if (!models && o.verbose) meta_each(a.file, print_key, NULL);
    int code = models         ? run_models(&a)
               : o.kl_against ? run_compare(&a)
               : o.check      ? run_check(&a)
               : o.tokenize   ? run_tokenize(&a)
               : o.bench_texts ? run_bench_texts(&a)
               : o.bench      ? run_bench(&a)
               : o.perplexity ? run_perplexity(&a)
               : o.chat       ? run_chat(&a)
                              : run_generate(&a);
    speculation_close(a.guesses);
    session_free(a.session);
    model_free(a.model);
    tokenizer_free(a.tokenizer);
    model_file_close(a.file);
    mem_free(rest.word);
    pool_start(1);
    return code;
}
