// rules: the numbers of a run that nobody gave.
//
// One dial is enough: a size, a number of tokens or a time. Everything else follows by a row of this table: the first row of
// a name that holds. A row says where its law was fitted; outside of that it is still used, and the user is told. What was
// measured here, on small models and short runs where the laws are extrapolations, has "measured here" for its source.
#include "learn/learn.h"

#include <math.h>
#include <string.h>

// --- how much (Hoffmann et al. 2022, approach 1; Muennighoff et al. 2023) --------------------------------------------

enum { EPOCHS_MOST = 16 }; // about R* of the paper: behind it a repeated token is worth less than 1/e of a new one

static double of_params(const struct known *k) { return k->params; }
static double of_body(const struct known *k) { return k->body; }
static double of_tokens(const struct known *k) { return k->tokens; }
static double of_batch(const struct known *k) { return k->batch; }

static double size_by_tokens(const struct known *k) { return k->tokens / k->ratio; }
static double tokens_by_size(const struct known *k) { return k->ratio * k->params; }
static double tokens_by_text(const struct known *k) { return EPOCHS_MOST * k->text; }
static bool text_is_short(const struct known *k) { return k->text > 0 && tokens_by_text(k) < tokens_by_size(k); }
static double tokens_once(const struct known *k) { return k->text; }
static bool goes_on(const struct known *k) { return k->goes_on && k->text > 0; }
static double tokens_by_clock(const struct known *k) { return k->seconds * k->pace; }
static bool clock_decides(const struct known *k) { return k->seconds > 0; }

// --- batch ---------------------------------------------------------------------------------------------------------

static bool is_short(const struct known *k) { return k->tokens < 1e8; }
static double batch_by_step_law(const struct known *k) { return step_law_batch(k->tokens); }

// --- rate ----------------------------------------------------------------------------------------------------------

// The power law was fitted for batches of 64k to 2M tokens; below that its cap is that of the other schedules.
enum { POWER_MOST_BATCH = 1 << 21 };

static bool power_is_fitted(const struct known *k) { return k->power && k->mup && k->batch >= POWER_LEAST_BATCH; }
static bool is_mup(const struct known *k) { return k->mup; }
static double lr_cap(const struct known *k) { return (void)k, 0.02; }
static double lr_mup(const struct known *k) { return (void)k, 0.01; }
static double lr_by_step_law(const struct known *k) {
    double lr = step_law_lr(k->body, k->tokens);
    return lr < 1e-4 ? 1e-4 : lr > 4e-3 ? 4e-3 : lr;
}
static double power_a(const struct known *k) { return (void)k, 4; }

double step_law_lr(double body, double tokens) { return 1.79 * pow(body, -0.713) * pow(tokens, 0.307); }

// --- phases --------------------------------------------------------------------------------------------------------

static double warmup_tokens(const struct known *k) {
    return fmax(0.02 * k->tokens, fmin(50 * k->batch, 0.1 * k->tokens));
}

// A tenth is enough for long runs (MiniCPM); short ones gain from more: at 1.5M tokens 0.6 beats 0.4 beats 0.2 here.
static bool is_long(const struct known *k) { return k->tokens >= 1e9; }
static bool is_middling(const struct known *k) { return k->tokens >= 1e7; }
static double tenth(const struct known *k) { return (void)k, 0.1; }
static double fifth(const struct known *k) { return (void)k, 0.2; }
static double half(const struct known *k) { return (void)k, 0.5; }

// clang-format off
const struct rule rules[] = {
    {"size", clock_decides, size_by_tokens, of_params, "parameters", 70e6, 16e9,
     "the largest whose --ratio tokens a parameter fit into the time", "Hoffmann et al. 2022, arXiv 2203.15556"},
    {"size", NULL, size_by_tokens, of_params, "parameters", 70e6, 16e9,
     "the nearest to tokens / --ratio", "Hoffmann et al. 2022, arXiv 2203.15556"},
    {"tokens", clock_decides, tokens_by_clock, NULL, "", 0, 0, "the time at the speed of a short measurement", "measured now"},
    {"tokens", goes_on, tokens_once, NULL, "", 0, 0, "the new text once, and what is replayed beside it", "a convention"},
    {"tokens", text_is_short, tokens_by_text, NULL, "", 0, 0,
     "16 times the text, where repeating has lost most of its worth", "Muennighoff et al. 2023, arXiv 2305.16264"},
    {"tokens", NULL, tokens_by_size, of_params, "parameters", 70e6, 16e9, "--ratio a parameter", "Hoffmann et al. 2022, arXiv 2203.15556"},
    {"batch-tokens", is_short, batch_by_step_law, of_tokens, "tokens", 4e9, 100e9,
     "Step Law, 0.58 D^0.571, and half of it below 100M tokens", "Li et al. 2025, arXiv 2503.04715; the half measured here"},
    {"batch-tokens", NULL, batch_by_step_law, of_tokens, "tokens", 4e9, 100e9, "Step Law, 0.58 D^0.571", "Li et al. 2025, arXiv 2503.04715"},
    {"lr", power_is_fitted, lr_cap, of_batch, "tokens a batch", POWER_LEAST_BATCH, POWER_MOST_BATCH,
     "the cap of the power law, a base rate of muP", "Shen et al. 2024, arXiv 2408.13359"},
    {"lr", is_mup, lr_mup, of_params, "parameters", 40e6, 2.1e9,
     "MiniCPM's base rate of muP, the same for every width", "Hu et al. 2024, arXiv 2404.06395"},
    {"lr", NULL, lr_by_step_law, of_body, "parameters", 215e6, 1.07e9,
     "Step Law, 1.79 N^-0.713 D^0.307, N without the embedding, held to 1e-4 ... 4e-3", "Li et al. 2025, arXiv 2503.04715"},
    {"power-a", NULL, power_a, of_batch, "tokens a batch", POWER_LEAST_BATCH, POWER_MOST_BATCH,
     "lr = min(cap, batch/4096 a n^b) at n tokens, below 64k tokens a batch 16 (batch/64k)^c a n^b", "Shen et al. 2024, arXiv 2408.13359; c measured here"},
    {"warmup", NULL, warmup_tokens, NULL, "", 0, 0, "2% or 50 steps, whichever is longer, and at most a tenth", "measured here"},
    {"decay", is_long, tenth, NULL, "", 0, 0, "share of the tokens", "Hu et al. 2024, arXiv 2404.06395"},
    {"decay", is_middling, fifth, NULL, "", 0, 0, "share of the tokens, for less than 1G of them", "measured here"},
    {"decay", NULL, half, NULL, "", 0, 0, "share of the tokens, for less than 10M of them", "measured here"},
};
// clang-format on
const int rule_count = COUNT_OF(rules);

const struct rule *rule_find(const char *name, const struct known *k) {
    for (int i = 0; i < rule_count; i++)
        if (strcmp(rules[i].name, name) == 0 && (!rules[i].holds || rules[i].holds(k))) return &rules[i];
    assert(!"a rule of that name");
    return NULL;
}

double rule_value(const char *name, const struct known *k) { return rule_find(name, k)->value(k); }

bool rule_is_inside(const struct rule *rule, const struct known *k) {
    return !rule->of || (rule->of(k) >= rule->low && rule->of(k) <= rule->high);
}
