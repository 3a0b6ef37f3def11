// train_options.c: the option table of ./train.
//
// Two tables: what the user may say, and the numbers it came to (how many tokens, which rate). Checkpoints keep both, one after
// the other with a comment line between, so a resumed run never has to guess again what "auto" meant.
#include "train_options.h"

#include <string.h>

enum { EXPERTS_MOST = 1024, LAYERS_MOST = 1024 };

struct train_options opts = {
    .out = "out", .from = "", .draft_for = "", .draft_vocab = 8192, .from_tokens = -1, .replay_share = -1, .family = "granite", .size = "", .ratio = 20, .tokenizer = "bpe:4096", .schedule = "power",
    .decay_shape = "linear", .dtype = "f32", .device = "auto", .batch_rule = "constant", .batch_lr = "", .batch_ramp = 0.1, .batch_theta = 0.5, .export_dtype = "f32",
    .save_aside = true, .rollback = 500, .seq = 1024, .seed = 1, .keep = 2, .eval_every = 0, .eval_tokens = 65536, .samples = 3, .tune_time = 600, .check_widths = "64,128,256,512",
    .story_bytes = 20000000, .decay = -1, .power_b = -0.51, .power_c = 0.67, .phi = 1, .probe_share = 0.1, .hold = 0.55, .cool = 0.5, .beta1 = -1, .beta2 = -1, .momentum = 0.95, .optimizer = "adamw", .eps = 1e-8, .weight_decay = 0.1,
    .clip = 1, .guard = 6, .valid_share = 0.05, .save_seconds = 600, .floor = 0, .resume = true, .tied = true, .doc_mask = true, .balance = "global", .depth_rule = "sqrt", .balance_coef = 0.01, .router_z = 0.001,
};

// clang-format off
struct opt train_table[] = { // --data stays first: words without an option go there
    {"--data", OPT_MANY, &opts.data, 0, 0, "PATH", "[Data] text to learn: .txt, .jsonl, folders, .tok, - for standard input; the option's name may be left out", 0},
    {"--story-bytes", OPT_INT, &opts.story_bytes, 10000, 1e12, "N", "with no path: how much of our own stories to write and learn", 0},
    {"--valid", OPT_MANY, &opts.valid, 0, 0, "PATH", "text to validate on; without it --valid-share of the documents, chosen by their hash", 0},
    {"--valid-share", OPT_REAL, &opts.valid_share, 0, 0.5, "X", "share of documents (or of the end of a single one) kept for validation", 0},
    {"--replay", OPT_MANY, &opts.replay, 0, 0, "PATH", "old text to repeat beside the new, so that it is not forgotten; its held-out documents are a second validation", 0},
    {"--replay-share", OPT_REAL, &opts.replay_share, -1, 0.99, "X", "share of all tokens that is replayed: 0.05 where the new text is like the old, 0.25 and more where it is not; 0: only validate; -1: 0.05", 0},
    {"--tokenizer", OPT_TEXT, &opts.tokenizer, 0, 0, "WHAT", "bpe:N trains one of N tokens on the data; byte; or a GGUF file that carries one", 0},
    {"--tokenizer-bytes", OPT_INT, &opts.tokenizer_bytes, 0, 1e15, "N", "train the tokenizer on about this many bytes (0: up to 64m)", 0},
    {"--doc-mask", OPT_FLAG, &opts.doc_mask, 0, 0, "", "attention stays inside a document", 0},
    {"-o --out", OPT_TEXT, &opts.out, 0, 0, "FOLDER", "[Files] where checkpoints, model.gguf, log.jsonl and report.html go", 0},
    {"--from", OPT_TEXT, &opts.from, 0, 0, "MODEL", "begin a new run with the weights of a model: a checkpoint (with its optimizer's state), any GGUF or Hugging Face folder of a family that trains; shape and tokenizer are the model's", 0},
    {"--from-tokens", OPT_INT, &opts.from_tokens, -1, 1e15, "N", "tokens that model has learned from, which power and infinite go on counting; -1: what a checkpoint says, else --ratio a parameter; 0: the rate rises to the cap again", 0},
    {"--config", OPT_TEXT, &opts.config, 0, 0, "FILE", "read options from a file of `name = value` lines; the command line wins", 0},
    {"--save-seconds --save-minutes", OPT_TIME, &opts.save_seconds, 1, 1e9, "TIME", "write a checkpoint at least this often", 0},
    {"--save-every", OPT_INT, &opts.save_every, 0, 1e15, "STEPS", "and every so many steps", 0},
    {"--save-aside", OPT_FLAG, &opts.save_aside, 0, 0, "", "copy the state and write checkpoints beside the steps, where memory for the copy is free", 0},
    {"--keep", OPT_INT, &opts.keep, 1, 1e6, "N", "how many checkpoints to keep", 0},
    {"--resume --auto-resume", OPT_FLAG, &opts.resume, 0, 0, "", "continue from the newest whole checkpoint in the folder", 0},
    {"--override", OPT_FLAG, &opts.override, 0, 0, "", "let the command line change what a checkpoint was started with", 0},
    {"--export-dtype", OPT_TEXT, &opts.export_dtype, 0, 0, "TYPE", "matrices of model.gguf: f32, f16, bf16, q8_0, q4_0; f32 and, of a draft, q8_0, when not given", 0},
    {"--family", OPT_TEXT, &opts.family, 0, 0, "NAME", "[Model] granite (muP, four multipliers), granitemoe (with experts), llama, qwen3 (norms of queries and keys); --list names all", 0},
    {"--size", OPT_TEXT, &opts.size, 0, 0, "SIZE", "1M 3M 10M 30M 70M 125M 350M 1B 3B; one of size, tokens and time is enough, the rest follows and is printed with its rule", 0},
    {"--width --n-embd", OPT_INT, &opts.width, 0, 65536, "N", "channels, instead of the size's", 0},
    {"--layers --n-layer", OPT_INT, &opts.layers, 0, 1024, "N", "blocks, instead of the size's", 0},
    {"--heads --n-head", OPT_INT, &opts.heads, 0, 1024, "N", "query heads, instead of the size's", 0},
    {"--kv-heads", OPT_INT, &opts.kv_heads, 0, 1024, "N", "key/value heads, instead of the size's", 0},
    {"--head-size", OPT_INT, &opts.head_size, 0, 1024, "N", "channels of a head, instead of width / heads", 0},
    {"--ffn", OPT_INT, &opts.ffn, 0, 1 << 20, "N", "feed-forward width, instead of the size's", 0},
    {"--experts", OPT_INT, &opts.experts, 0, EXPERTS_MOST, "N", "of families with experts (granitemoe, qwen3moe, olmoe); --ffn is the width of one; 0: 8", 0},
    {"--experts-used --top-k", OPT_INT, &opts.experts_used, 0, EXPERTS_MOST, "N", "experts that a token goes through; 0: 2", 0},
    {"--balance", OPT_TEXT, &opts.balance, 0, 0, "NAME", "what experts are to be used evenly in: global (the batch), sequence (every text), none", 0},
    {"--balance-coef", OPT_REAL, &opts.balance_coef, 0, 100, "X", "weight of that in the loss", 0},
    {"--router-z", OPT_REAL, &opts.router_z, 0, 100, "X", "weight of the squared log-sum-exp of router logits in the loss", 0},
    {"--z-loss", OPT_REAL, &opts.head_z, 0, 100, "X", "weight of the squared log-sum-exp of the logits (PaLM: 1e-4)", 0},
    {"--exit-layer", OPT_INT, &opts.exit_layer, 0, LAYERS_MOST, "N", "norm and head also learn to read what the first N layers make, so that ./run can guess with these (LayerSkip); 0: they do not", 0},
    {"--exit-weight", OPT_REAL, &opts.exit_weight, 0, 100, "X", "weight of that loss beside the one of the last layer; 0: 0.1", 0},
    {"--dropout", OPT_REAL, &opts.dropout, 0, 0.95, "P", "share of the embeddings, of attention's probabilities and of what each branch adds that a training pass leaves out at random; 0.1 to 0.2 for a text that is read many times", 0},
    {"--tied", OPT_FLAG, &opts.tied, 0, 0, "", "the head is the embedding", 0},
    {"--embedding-scale", OPT_REAL, &opts.embedding_scale, 0, 1e4, "X", "multiplier of embeddings (granite); 0: 12", 0},
    {"--attention-scale", OPT_REAL, &opts.attention_scale, 0, 100, "X", "multiplier of q.k; 0: 1/head size (granite), 1/sqrt(head size) (llama)", 0},
    {"--residual-scale", OPT_REAL, &opts.residual_scale, 0, 100, "X", "multiplier of branches (granite); 0: by --depth-rule", 0},
    {"--depth-rule", OPT_TEXT, &opts.depth_rule, 0, 0, "NAME", "what changes with the number of blocks (granite): sqrt, none, depth-mup, completep; --list explains", 0},
    {"--base-layers", OPT_INT, &opts.base_layers, 0, 1024, "N", "blocks at which depth-mup and completep change nothing; 0: 2", 0},
    {"--init-std", OPT_REAL, &opts.init_std, 0, 10, "X", "standard deviation at the start; 0: 0.1 (granite), 0.02 (llama)", 0},
    {"--tokens", OPT_INT, &opts.tokens, 0, 1e15, "N", "[How much] tokens to train on; 20m is twenty million", 0},
    {"--time", OPT_TIME, &opts.time, 0, 1e9, "TIME", "or how long: 2m, 8h; the decay phase is placed by the clock", 0},
    {"--steps --max-iters", OPT_INT, &opts.steps, 0, 1e12, "N", "or how many steps", 0},
    {"--ratio", OPT_REAL, &opts.ratio, 0.01, 1e6, "X", "tokens a parameter, where one of tokens and size has to follow from the other or from the time", 0},
    {"--seq --block-size", OPT_INT, &opts.seq, 8, 1 << 20, "N", "tokens of a sequence", 0},
    {"--batch-tokens", OPT_INT, &opts.batch_tokens, 0, 1e12, "N", "tokens of a step; 0: by the Step Law, 0.58 D^0.571", 0},
    {"--batch-rule", OPT_TEXT, &opts.batch_rule, 0, 0, "NAME", "constant, ramp, critical or adaptive, up to --batch-tokens; --list explains", 0},
    {"--batch-least", OPT_INT, &opts.batch_least, 0, 1e12, "N", "tokens of the first steps of a batch that grows; 0: an eighth", 0},
    {"--batch-ramp", OPT_REAL, &opts.batch_ramp, 0, 1e15, "N", "tokens of the ramp; below 1 a share of all", 0},
    {"--batch-theta", OPT_REAL, &opts.batch_theta, 0.01, 10, "X", "of the norm test: the noise a batch may have, as a share of its signal", 0},
    {"--batch-lr", OPT_TEXT, &opts.batch_lr, 0, 0, "NAME", "the rate when the batch changes: none, sqrt, linear, surge; \"\": sqrt, and none for power, whose law knows the batch", 0},
    {"--micro-batch", OPT_INT, &opts.micro_batch, 0, 1 << 20, "N", "sequences computed at once: memory and speed, never the result (0: about 4096 tokens)", 0},
    {"--memory", OPT_INT, &opts.memory, 0, 1e15, "BYTES", "most memory of activations, 2g is two billion: layers that have no place are computed again in the backward pass, the result never changes; 0: what is free", 0},
    {"--schedule", OPT_TEXT, &opts.schedule, 0, 0, "NAME", "[Learning] power, wsd, cosine, linear, constant; --list explains", 0},
    {"--lr", OPT_REAL, &opts.lr, 0, 100, "X", "peak learning rate, for power the cap; 0: the family's default", 0},
    {"--warmup", OPT_REAL, &opts.warmup, -1, 1e15, "N", "tokens of warmup; below 1 a share of all; 0: 2% or 50 steps, whichever is longer; -1: none", 0},
    {"--decay", OPT_REAL, &opts.decay, -1, 1, "X", "share of the tokens spent in the decay phase (power, wsd, infinite, inverse-sqrt); -1: 0.1, below 1G tokens 0.2, below 10M 0.5", 0},
    {"--decay-shape", OPT_TEXT, &opts.decay_shape, 0, 0, "NAME", "linear, 1-sqrt, exponential, affine, cosine, rex, uba", 0},
    {"--phi", OPT_REAL, &opts.phi, 0.01, 100, "X", "where uba falls: 2 is the cosine, below it later, above it earlier", 0},
    {"--hold", OPT_REAL, &opts.hold, 0, 1, "X", "share of the peak at which infinite is level", 0},
    {"--cool", OPT_REAL, &opts.cool, 0, 1e15, "N", "tokens in which infinite falls to it; below 1 a share of all", 0},
    {"--final", OPT_REAL, &opts.final, 0, 1, "X", "floor of the decay as a share", 0},
    {"--decay-from", OPT_TEXT, &opts.decay_from, 0, 0, "CKPT", "cool down any checkpoint: branch off with --decay-tokens into another --out", 0},
    {"--decay-tokens", OPT_INT, &opts.decay_tokens, 0, 1e15, "N", "length of that branch; 0: 25% of what the checkpoint has seen", 0},
    {"--probe-decay", OPT_REAL, &opts.probe_decay, 0, 1e15, "N", "every so many tokens (below 1: share of all) cool a copy down and log what the run is worth now", 0},
    {"--probe-share", OPT_REAL, &opts.probe_share, 0.001, 0.9, "X", "length of that cool-down, as a share of all it has seen then", 0},
    {"--ladder", OPT_MANY, &opts.ladder, 0, 0, "X[:D]", "also cool down the run that ends with this share of the tokens, D of these in its decay (--decay), and keep its model; give it several times", 0},
    {"--power-a", OPT_REAL, &opts.power_a, 0, 1000, "X", "amplitude of the power law; 0: 4", 0},
    {"--power-b", OPT_REAL, &opts.power_b, -2, 0, "X", "exponent of the power law", 0},
    {"--power-c", OPT_REAL, &opts.power_c, 0, 1, "X", "exponent of the batch in it below 64k tokens; 1: in proportion, as above that", 0},
    {"--optimizer", OPT_TEXT, &opts.optimizer, 0, 0, "NAME", "adamw, nadamw, muon, lion, adafactor, sgd, lamb, schedule-free; --list explains", 0},
    {"--beta1", OPT_REAL, &opts.beta1, -1, 0.99999, "X", "memory of the gradient's mean; -1: the optimizer's, 0.9", 0},
    {"--beta2", OPT_REAL, &opts.beta2, -1, 0.999999, "X", "memory of its square; -1: the optimizer's, 0.95", 0},
    {"--momentum", OPT_REAL, &opts.momentum, 0, 0.99999, "X", "muon's, of hidden matrices", 0},
    {"--eps", OPT_REAL, &opts.eps, 0, 1, "X", "added to the root of the square", 0},
    {"--weight-decay", OPT_REAL, &opts.weight_decay, 0, 10, "X", "on matrices; multiplied by the learning rate", 0},
    {"--clip", OPT_REAL, &opts.clip, 0, 1e9, "X", "global gradient norm; 0: off", 0},
    {"--guard", OPT_REAL, &opts.guard, 0, 1e9, "Z", "skip a step whose loss or gradient norm is Z deviations above the last 128; 0: only non-finite", 0},
    {"--rollback", OPT_INT, &opts.rollback, 0, 1e9, "STEPS", "keep a calm state every so many steps; when 8 steps in a row are skipped, or the mean loss of 8 lies half of --guard above the 120 before, go back to it and pass over what was seen since; 0: never", 0},
    {"-s --seed", OPT_INT, &opts.seed, 0, 9e18, "N", "of initialisation and data order", 0},
    {"--eval-every", OPT_INT, &opts.eval_every, 0, 1e12, "STEPS", "[Watching] validate every so many steps; 0: about ten times in a run", 0},
    {"--eval-tokens", OPT_INT, &opts.eval_tokens, 0, 1e15, "N", "tokens of such a validation; the last one, and that of a rung, takes up to sixteen times as many", 0},
    {"--eval-sample", OPT_INT, &opts.eval_sample, 0, 1e6, "N", "write a text of so many tokens at each evaluation, into the log and the report", 0},
    {"--peak", OPT_REAL, &opts.peak, -1, 1e18, "X", "operations a second that the processor can do, of which the log says the share; 0: measured after a minute, for half a second; -1: left out", 0},
    {"--samples", OPT_INT, &opts.samples, 0, 1000, "N", "texts to print at the end", 0},
    {"-p --prompt", OPT_TEXT, &opts.prompt, 0, 0, "TEXT", "how the samples begin", 0},
    {"--tensorboard", OPT_TEXT, &opts.tensorboard, 0, 0, "FOLDER", "write the log for TensorBoard too", 0},
    {"--floor", OPT_REAL, &opts.floor, 0, 100, "X", "entropy of the source in nats per byte, 0 when unknown: drawn and compared", 0},
    {"--draft-for", OPT_TEXT, &opts.draft_for, 0, 0, "MODEL", "[Draft] make a small model that guesses what this one says, for ./run --draft: the model writes texts itself, which begin with pieces of PATH if one is given, and the draft learns them; OUT/NAME.draft.gguf, and the model beside it as OUT/NAME.gguf", 0},
    {"--draft-tokens", OPT_INT, &opts.draft_tokens, 0, 1e12, "N", "how much the model writes; 0: as much as it can in --time, else 1m", 0},
    {"--draft-vocab", OPT_INT, &opts.draft_vocab, 1, 1 << 20, "N", "tokens of the draft, the likeliest of what was written; all, where the model has no more than twice as many", 0},
    {"-t --threads", OPT_INT, &opts.threads, 0, 256, "N", "[Machine] 0: physical cores that this process may use", 0},
    {"--device", OPT_TEXT, &opts.device, 0, 0, "NAME", "auto, cpu, cuda (the first GPU) or cuda:N", 0},
    {"--cpu", OPT_TEXT, &opts.cpu, 0, 0, "LEVEL", "plain, avx2, avx512, amx, neon, dotprod or i8mm instead of the best present", 0},
    {"--dtype", OPT_TEXT, &opts.dtype, 0, 0, "TYPE", "of products: f32, or bf16 with f32 master weights and sums; f32 and, of a draft, bf16, when not given", 0},
    {"--plan", OPT_FLAG, &opts.plan, 0, 0, "", "[Other] measure two seconds, print memory and time this run would take, and stop", 0},
    {"--tune", OPT_FLAG, &opts.tune, 0, 0, "", "find the best base rate for this run on a narrow model and write it to OUT/tuned.config, for --config", 0},
    {"--tune-what", OPT_MANY, &opts.tune_what, 0, 0, "NAME", "lr (with power the whole curve), power-a, init-std, weight-decay; several times: one after the other; else lr", 0},
    {"--tune-width", OPT_INT, &opts.tune_width, 0, 65536, "N", "channels of that model; 0: a quarter, within 64 to 256", 0},
    {"--tune-tokens", OPT_INT, &opts.tune_tokens, 0, 1e15, "N", "tokens of each of its runs; 0: for 4e12 operations, 524288 at the most and 100 steps at the least", 0},
    {"--tune-time", OPT_TIME, &opts.tune_time, 0, 1e9, "TIME", "after which no further run is started", 0},
    {"--coord-check", OPT_FLAG, &opts.coord_check, 0, 0, "", "train a few steps at several widths: do activations keep their size under muP, and not without? Ends with 3 if not so", 0},
    {"--check-widths", OPT_TEXT, &opts.check_widths, 0, 0, "LIST", "of --coord-check: multiples of 64 with commas between", 0},
    {"--profile", OPT_FLAG, &opts.profile, 0, 0, "", "at the end, print what each op cost in the steps after the first", 0},
    {"--plot", OPT_TEXT, &opts.plot, 0, 0, "LOG", "draw a log.jsonl in the terminal and stop", 0},
    {"--watch", OPT_TEXT, &opts.watch, 0, 0, "FOLDER", "draw the run in that --out folder as it goes, in the terminal", 0},
    {"--list", OPT_FLAG, &opts.list, 0, 0, "", "families, schedules, decay shapes and dtypes", 0},
    {"--version", OPT_FLAG, &opts.version, 0, 0, "", "version and the kernels this machine would use", 0},
    {"-h --help", OPT_FLAG, &opts.help, 0, 0, "", "this text", 0},
};
// clang-format on

const size_t train_table_count = COUNT_OF(train_table);

struct train_amounts amount;
struct opt train_amounts_table[] = {
    {"--tokens", OPT_INT, &amount.tokens, 0, 0, "", "", 0},   {"--batch-tokens", OPT_INT, &amount.batch_tokens, 0, 0, "", "", 0},
    {"--decay-tokens", OPT_INT, &amount.decay_tokens, 0, 0, "", "", 0}, {"--lr", OPT_REAL, &amount.lr, 0, 0, "", "", 0},
    {"--warmup", OPT_REAL, &amount.warmup, 0, 0, "", "", 0}, {"--power-a", OPT_REAL, &amount.power_a, 0, 0, "", "", 0},
    {"--decay", OPT_REAL, &amount.decay, 0, 0, "", "", 0}, {"--cool", OPT_REAL, &amount.cool, 0, 0, "", "", 0},
    {"--batch-ramp", OPT_REAL, &amount.batch_ramp, 0, 0, "", "", 0},
};
const size_t train_amounts_count = COUNT_OF(train_amounts_table);
static const char amounts_follow[] = "# what these came to\n";

// What a resumed run may change without changing what is learned.
static const char *const free_options[] = {
    "out", "config", "save-seconds", "save-every", "keep", "resume", "override", "export-dtype", "micro-batch", "memory", "eval-every",
    "eval-tokens", "eval-sample", "peak", "samples", "prompt", "save-aside", "floor", "threads", "device", "cpu", "plan", "tune", "tune-what", "tune-width", "tune-tokens", "tune-time", "coord-check", "check-widths", "profile", "plot", "watch", "tensorboard", "list", "version", "help", "time",
    "decay-from", "decay-tokens", "data", "replay", "probe-decay", "probe-share", "ladder"};

bool train_option_is_free(const char *name, size_t n) {
    for (size_t i = 0; i < COUNT_OF(free_options); i++)
        if (strlen(free_options[i]) == n && memcmp(free_options[i], name, n) == 0) return true;
    return false;
}

bool train_option_given(const char *name) {
    for (size_t i = 0; i < train_table_count; i++) {
        const char *at = strstr(train_table[i].names, "--") + 2;
        if (strcspn(at, " ") == strlen(name) && memcmp(at, name, strlen(name)) == 0) return train_table[i].given;
    }
    assert(!"an option of the table");
    return false;
}

struct span train_options_line(const struct text *options, const char *name) {
    const size_t n = strlen(name);
    for (const char *p = options->data; p && *p;) {
        const char *end = strchr(p, '\n');
        size_t length = end ? (size_t)(end - p) : strlen(p);
        if (length > n && memcmp(p, name, n) == 0 && p[n] == ' ') return (struct span){p, length};
        p += length + (end != NULL);
    }
    return (struct span){0};
}

void train_options_write(struct text *to) {
    opt_write(train_table, train_table_count, to);
    text_str(to, amounts_follow);
    opt_write(train_amounts_table, train_amounts_count, to);
}

bool train_options_read(const struct text *from, const char *where, struct err *err) {
    const char *split = from->data ? strstr(from->data, amounts_follow) : NULL;
    if (!split) return err_set(err, "%s does not say how its run was set up; it was not written by this program", where);
    size_t n = (size_t)(split - from->data);
    return opt_read_text(train_table, train_table_count, from->data, n, where, err) &&
           opt_read_text(train_amounts_table, train_amounts_count, split, from->len - n, where, err);
}
