// ends.c: which tokens end a generation.
//
// The keys of a file name at most three (EOS, EOT, EOM), our own lehr.eos_token_ids any number, and they are often incomplete: a chat model that ends its turns
// with "<|im_end|>" may name "<|endoftext|>" alone and then talk to itself without end. So spellings count too, those that
// llama.cpp goes by (llama-vocab.cpp, the end-of-generation list). Two of them mean something else in some vocabularies: "</s>" and
// "<eos>" are also plain markup, and count only where the file says control; "<|end|>" ends a message, not the turn, where
// "<|return|>" and "<|call|>" do.
#include "tokenizer/internal.h"

#include <stdlib.h>
#include <string.h>

static const struct end_spelling {
    const char *text;
    bool control_only; // counts only when the file calls it a control token
} spellings[] = {
    {"<|endoftext|>", false},
    {"<|end_of_text|>", false},
    {"<|im_end|>", false},
    {"<|eot_id|>", false},
    {"<|eom_id|>", false},
    {"<|end|>", false},
    {"<|return|>", false},
    {"<|call|>", false},
    {"<|calls|>", false},
    {"<|flush|>", false},
    {"<|endofturn|>", false},
    {"<end_of_turn>", false},
    {"<end_of_utterance>", false},
    {"<turn|>", false},
    {"<|tool_response>", false},
    {"<\xEF\xBD\x9C" "end\xE2\x96\x81" "of\xE2\x96\x81sentence\xEF\xBD\x9C>", false}, // DeepSeek, with wide bars
    {"</s>", true},
    {"<eos>", true},
    {"<EOT>", true},
    {"_<EOT>", true},
    {"[EOT]", true},
    {"[EOS]", true},
    {"[e~[", true},
    // The end of a file or its padding: a model that writes it has left the text.
    {"<|fim_pad|>", true},
    {"<fim_pad>", true},
    {"<fim-pad>", true},
    {"<|fim_repo|>", true},
    {"<|repo_name|>", true},
    {"<reponame>", true},
    {"<fim-repo>", true},
    {"<|file_sep|>", true},
};

static int32_t find(const struct tokenizer *t, const char *text) { return tokenizer_find(t, text, strlen(text)); }

// Harmony: messages end by "<|end|>", turns by the others.
static bool end_is_of_message(const struct tokenizer *t) {
    return (find(t, "<|return|>") >= 0 && find(t, "<|call|>") >= 0) ||
           (find(t, "<|calls|>") >= 0 && find(t, "<|flush|>") >= 0);
}

static bool spelling_ends(const struct tokenizer *t, const struct end_spelling *s, int32_t id) {
    if (id < 0 || t->type[id] == TOKEN_UNUSED || t->type[id] == TOKEN_BYTE) return false;
    if (s->control_only && t->type[id] != TOKEN_CONTROL) return false;
    return strcmp(s->text, "<|end|>") != 0 || !end_is_of_message(t);
}

void ends_override_types(struct tokenizer *t) {
    for (size_t i = 0; i < COUNT_OF(spellings); i++) {
        int32_t id = find(t, spellings[i].text);
        if (spelling_ends(t, &spellings[i], id)) t->type[id] = TOKEN_CONTROL;
    }
}

static int by_id(const void *a, const void *b) {
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return (x > y) - (x < y);
}

void ends_make(struct tokenizer *t) {
    t->ends = mem_array(COUNT_OF(spellings) + 3, sizeof *t->ends, "end tokens");
    const int32_t named[] = {t->eos, t->eot, t->eom};
    for (size_t i = 0; i < COUNT_OF(named); i++)
        if (named[i] >= 0) t->ends[t->n_ends++] = named[i];
    for (size_t i = 0; i < COUNT_OF(spellings); i++) {
        int32_t id = find(t, spellings[i].text);
        if (spelling_ends(t, &spellings[i], id)) t->ends[t->n_ends++] = id;
    }
    qsort(t->ends, t->n_ends, sizeof *t->ends, by_id);
}

// One id more, kept sorted; a token that ends a text is no part of it.
static void end_add(struct tokenizer *t, int32_t id) {
    if (tokenizer_is_end(t, id)) return;
    tokenizer_keep_hash(t);
    size_t cap = t->n_ends;
    mem_grow((void **)&t->ends, &cap, t->n_ends + 1, sizeof *t->ends, "end tokens");
    t->ends[t->n_ends++] = id;
    qsort(t->ends, t->n_ends, sizeof *t->ends, by_id);
    if (t->type[id] == TOKEN_NORMAL || t->type[id] == TOKEN_USER) t->type[id] = TOKEN_CONTROL;
    if (t->type[id] == TOKEN_CONTROL) t->piece[id].n = 0;
}

bool tokenizer_take_ends(struct tokenizer *t, const struct model_file *f, struct err *err) {
    static const char *const named[] = {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"};
    const char *key = "lehr.eos_token_ids";
    struct meta_array a;
    for (size_t i = 0; i < COUNT_OF(named); i++) {
        int64_t id = -1;
        if (!meta_int(f, named[i], false, 0, (int64_t)t->n - 1, &id, err)) return false;
        if (id >= 0) end_add(t, (int32_t)id);
    }
    if (meta_kind(f, key) == META_ABSENT) return true;
    if (!meta_array_open(f, key, META_INT, &a, err)) return false;
    for (int64_t id; meta_next_int(&a, &id);) {
        if (id < 0 || (uint64_t)id >= t->n)
            return err_set(err, "%s names token %lld, the vocabulary ends at %zu", key, (long long)id, t->n - 1);
        end_add(t, (int32_t)id);
    }
    return true;
}

bool tokenizer_is_end(const struct tokenizer *t, int32_t id) {
    return id >= 0 && t->n_ends && bsearch(&id, t->ends, t->n_ends, sizeof *t->ends, by_id);
}
