// hf_tokenizer.c: tokenizer.json, tokenizer_config.json and generation_config.json of a written folder.
//
// From the tokenizer.ggml.* keys, in the words of the `tokenizers` library:
//   "gpt2"   BPE over GPT-2's spelling of bytes, merges as they are, pre-tokenizer ByteLevel
//   "llama"  BPE over characters with byte fallback; SentencePiece has scores where BPE has an order
//            of merges, so every split of a token into two tokens is a merge, best score first
// Control tokens become special added tokens, user-defined ones plain added tokens. BOS in front of
// a text is a post-processor. A source that is a folder itself has its own files, which are copied.
// What cannot be said this way (another pre-tokenizer, tokens that are no UTF-8) is not written, and
// notes say so: the weights are good without it.
#include "formats/internal.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define TOKENIZER_BYTES_MAX ((size_t)256 << 20)

struct vocab {
    struct span *token;
    int64_t *type;
    double *score;
    size_t n;
    struct name_index index;
};

static void vocab_free(struct vocab *v) {
    mem_free(v->token);
    mem_free(v->type);
    mem_free(v->score);
    name_index_close(&v->index);
}

static bool is_utf8(struct span s) {
    for (size_t at = 0, step; at < s.n; at += step)
        if (!(step = utf8_size(s.p + at, s.n - at))) return false;
    return true;
}

// False with the reason in err when the keys hold no vocabulary that JSON can.
static bool read_vocab(const struct model_file *f, struct vocab *v, bool scored, struct err *err) {
    struct meta_array a;
    if (!meta_array_open(f, "tokenizer.ggml.tokens", META_TEXT, &a, err)) return false;
    v->n = (size_t)a.count;
    v->token = mem_array(v->n, sizeof *v->token, "vocabulary");
    v->type = mem_array(v->n, sizeof *v->type, "token types");
    v->score = mem_array(v->n, sizeof *v->score, "token scores");
    struct name_row *rows = mem_array(v->n, sizeof *rows, "index of a vocabulary");
    size_t twice, bad = v->n;
    for (size_t i = 0; i < v->n && meta_next_text(&a, &v->token[i]); i++) {
        rows[i] = (struct name_row){v->token[i].p, v->token[i].n, i};
        v->type[i] = 1;
        if (bad == v->n && !is_utf8(v->token[i])) bad = i;
    }
    name_index_open(&v->index, rows, v->n, &twice);
    if (bad < v->n) return err_set(err, "token %zu is no UTF-8", bad);
    if (twice < v->n) return err_set(err, "token %zu is spelled like another", twice);
    if (meta_kind(f, "tokenizer.ggml.token_type") != META_ABSENT) {
        if (!meta_array_open(f, "tokenizer.ggml.token_type", META_INT, &a, err)) return false;
        for (size_t i = 0; i < v->n && meta_next_int(&a, &v->type[i]); i++) continue;
    }
    if (!scored) return true;
    if (!meta_array_open(f, "tokenizer.ggml.scores", META_REAL, &a, err)) return false;
    for (size_t i = 0; i < v->n && meta_next_real(&a, &v->score[i]); i++) continue;
    return true;
}

enum { UNKNOWN = 2, CONTROL = 3, USER = 4 };

static void put_added(struct json_out *j, const struct vocab *v) {
    json_out_array(j, "added_tokens");
    for (size_t i = 0; i < v->n; i++) {
        if (v->type[i] != UNKNOWN && v->type[i] != CONTROL && v->type[i] != USER) continue;
        json_out_object(j, NULL);
        json_out_integer(j, "id", (int64_t)i);
        json_out_string(j, "content", v->token[i].p, v->token[i].n);
        json_out_bool(j, "single_word", false);
        json_out_bool(j, "lstrip", false);
        json_out_bool(j, "rstrip", false);
        json_out_bool(j, "normalized", false);
        json_out_bool(j, "special", v->type[i] != USER);
        json_out_close(j, '}');
    }
    json_out_close(j, ']');
}

static void put_type(struct json_out *j, const char *key, const char *type) {
    json_out_object(j, key);
    json_out_string(j, "type", type, strlen(type));
}

static void put_byte_level(struct json_out *j, const char *key) {
    put_type(j, key, "ByteLevel");
    json_out_bool(j, "add_prefix_space", false);
    json_out_bool(j, "trim_offsets", true);
    json_out_bool(j, "use_regex", true);
    json_out_close(j, '}');
}

static void put_piece(struct json_out *j, const char *kind, const char *id, size_t n, int type_id) {
    json_out_object(j, NULL);
    json_out_object(j, kind);
    json_out_string(j, "id", id, n);
    json_out_integer(j, "type_id", type_id);
    json_out_close(j, '}');
    json_out_close(j, '}');
}

// BOS in front of every text: {"single": [BOS, A], "pair": [BOS, A, BOS, B]}.
static void put_begin(struct json_out *j, const struct vocab *v, int64_t bos) {
    struct span s = v->token[bos];
    put_type(j, "post_processor", "TemplateProcessing");
    for (int pair = 0; pair < 2; pair++) {
        json_out_array(j, pair ? "pair" : "single");
        put_piece(j, "SpecialToken", s.p, s.n, 0);
        put_piece(j, "Sequence", "A", 1, 0);
        if (pair) {
            put_piece(j, "SpecialToken", s.p, s.n, 1);
            put_piece(j, "Sequence", "B", 1, 1);
        }
        json_out_close(j, ']');
    }
    struct text name = {0};
    text_add(&name, s.p, s.n);
    json_out_object(j, "special_tokens");
    json_out_object(j, name.data);
    json_out_string(j, "id", s.p, s.n);
    json_out_array(j, "ids");
    json_out_integer(j, NULL, bos);
    json_out_close(j, ']');
    json_out_array(j, "tokens");
    json_out_string(j, NULL, s.p, s.n);
    json_out_close(j, ']');
    json_out_close(j, '}');
    json_out_close(j, '}');
    json_out_close(j, '}');
    text_free(&name);
}

// Keys of a JSON object are C strings for the writer; a token with a NUL inside was no UTF-8 for us.
static bool put_vocab(struct json_out *j, const struct vocab *v, struct err *err) {
    struct text name = {0};
    bool good = true;
    json_out_object(j, "vocab");
    for (size_t i = 0; good && i < v->n; i++) {
        text_clear(&name);
        text_add(&name, v->token[i].p, v->token[i].n);
        if (memchr(v->token[i].p, 0, v->token[i].n)) good = err_set(err, "token %zu holds a NUL", i);
        else json_out_integer(j, name.data, (int64_t)i);
    }
    json_out_close(j, '}');
    text_free(&name);
    return good;
}

static void put_pair(struct json_out *j, struct span left, struct span right) {
    json_out_array(j, NULL);
    json_out_string(j, NULL, left.p, left.n);
    json_out_string(j, NULL, right.p, right.n);
    json_out_close(j, ']');
}

static bool put_bpe_merges(const struct model_file *f, struct json_out *j, struct err *err) {
    struct meta_array a;
    struct span line;
    json_out_array(j, "merges");
    bool some = meta_kind(f, "tokenizer.ggml.merges") != META_ABSENT;
    if (some && !meta_array_open(f, "tokenizer.ggml.merges", META_TEXT, &a, err)) return false;
    while (some && meta_next_text(&a, &line)) {
        const char *space = line.n > 1 ? memchr(line.p + 1, ' ', line.n - 1) : NULL;
        if (!space || !is_utf8(line)) return err_set(err, "a merge is not two tokens with a space between");
        size_t left = (size_t)(space - line.p);
        put_pair(j, (struct span){line.p, left}, (struct span){space + 1, line.n - left - 1});
    }
    json_out_close(j, ']');
    return true;
}

struct split_merge {
    double score;
    size_t token, left, right; // ids of the halves
    size_t left_n;             // bytes
};

static int by_score(const void *a, const void *b) {
    const struct split_merge *x = a, *y = b;
    if (x->score != y->score) return x->score < y->score ? 1 : -1;
    if (x->token != y->token) return x->token < y->token ? -1 : 1;
    if (x->left_n != y->left_n) return x->left_n < y->left_n ? 1 : -1;
    return 0;
}

static void put_spm_merges(const struct vocab *v, struct json_out *j) {
    struct split_merge *m = NULL;
    size_t n = 0, cap = 0;
    for (size_t i = 0; i < v->n; i++) {
        struct span s = v->token[i];
        if (v->type[i] != 1) continue;
        for (size_t at = utf8_size(s.p, s.n); at && at < s.n; at += utf8_size(s.p + at, s.n - at)) {
            size_t left = name_index_find(&v->index, s.p, at, v->n);
            size_t right = name_index_find(&v->index, s.p + at, s.n - at, v->n);
            if (left == v->n || right == v->n || v->type[left] != 1 || v->type[right] != 1) continue;
            mem_grow((void **)&m, &cap, n + 1, sizeof *m, "merges of a vocabulary");
            m[n++] = (struct split_merge){v->score[i], i, left, right, at};
        }
    }
    if (n) qsort(m, n, sizeof *m, by_score);
    json_out_array(j, "merges");
    for (size_t i = 0; i < n; i++) put_pair(j, v->token[m[i].left], v->token[m[i].right]);
    json_out_close(j, ']');
    mem_free(m);
}

static void put_replace(struct json_out *j, const char *from, const char *to) {
    put_type(j, NULL, "Replace");
    json_out_object(j, "pattern");
    json_out_string(j, "String", from, strlen(from));
    json_out_close(j, '}');
    json_out_string(j, "content", to, strlen(to));
    json_out_close(j, '}');
}

static void put_bare(struct json_out *j, const char *type) {
    put_type(j, NULL, type);
    json_out_close(j, '}');
}

#define SPACE_MARK "\xe2\x96\x81"

static void put_spm_frame(struct json_out *j, bool prefix) {
    put_type(j, "normalizer", "Sequence");
    json_out_array(j, "normalizers");
    if (prefix) {
        put_type(j, NULL, "Prepend");
        json_out_string(j, "prepend", SPACE_MARK, 3);
        json_out_close(j, '}');
    }
    put_replace(j, " ", SPACE_MARK);
    json_out_close(j, ']');
    json_out_close(j, '}');
    json_out_null(j, "pre_tokenizer");
    put_type(j, "decoder", "Sequence");
    json_out_array(j, "decoders");
    put_replace(j, SPACE_MARK, " ");
    put_bare(j, "ByteFallback");
    put_bare(j, "Fuse");
    if (prefix) {
        put_type(j, NULL, "Strip");
        json_out_string(j, "content", " ", 1);
        json_out_integer(j, "start", 1);
        json_out_integer(j, "stop", 0);
        json_out_close(j, '}');
    }
    json_out_close(j, ']');
    json_out_close(j, '}');
}

struct special { // ids, -1: none
    int64_t bos, eos, eot, unknown;
    bool adds_bos, space_prefix;
};

static bool read_special(const struct model_file *f, bool spm, size_t n, struct special *s, struct err *err) {
    *s = (struct special){-1, -1, -1, -1, spm, spm};
    int64_t last = (int64_t)n - 1;
    return meta_int(f, "tokenizer.ggml.bos_token_id", false, 0, last, &s->bos, err) &&
           meta_int(f, "tokenizer.ggml.eos_token_id", false, 0, last, &s->eos, err) &&
           meta_int(f, "tokenizer.ggml.eot_token_id", false, 0, last, &s->eot, err) &&
           meta_int(f, "tokenizer.ggml.unknown_token_id", false, 0, last, &s->unknown, err) &&
           meta_bool(f, "tokenizer.ggml.add_bos_token", false, &s->adds_bos, err) &&
           meta_bool(f, "tokenizer.ggml.add_space_prefix", false, &s->space_prefix, err);
}

static bool put_model(const struct model_file *f, struct json_out *j, const struct vocab *v, const struct special *s,
                      bool spm, struct err *err) {
    put_type(j, "model", "BPE");
    json_out_null(j, "dropout");
    if (spm && s->unknown >= 0) json_out_string(j, "unk_token", v->token[s->unknown].p, v->token[s->unknown].n);
    else json_out_null(j, "unk_token");
    json_out_null(j, "continuing_subword_prefix");
    json_out_null(j, "end_of_word_suffix");
    json_out_bool(j, "fuse_unk", spm);
    json_out_bool(j, "byte_fallback", spm);
    json_out_bool(j, "ignore_merges", false);
    bool good = put_vocab(j, v, err);
    if (good && spm) put_spm_merges(v, j);
    if (good && !spm) good = put_bpe_merges(f, j, err);
    if (good) json_out_close(j, '}');
    return good;
}

// The whole tokenizer.json in t; false with the reason when these keys cannot be said there.
static bool make_tokenizer(const struct model_file *f, const struct vocab *v, const struct special *s, bool spm,
                           struct text *t, struct err *err) {
    struct json_out j;
    json_out_open(&j, t);
    json_out_object(&j, NULL);
    json_out_string(&j, "version", "1.0", 3);
    json_out_null(&j, "truncation");
    json_out_null(&j, "padding");
    put_added(&j, v);
    if (spm) {
        put_spm_frame(&j, s->space_prefix);
    } else {
        json_out_null(&j, "normalizer");
        put_byte_level(&j, "pre_tokenizer");
        put_byte_level(&j, "decoder");
    }
    if (s->adds_bos && s->bos >= 0) put_begin(&j, v, s->bos);
    else if (spm) json_out_null(&j, "post_processor");
    else put_byte_level(&j, "post_processor");
    if (!put_model(f, &j, v, s, spm, err)) return false;
    json_out_close(&j, '}');
    text_str(t, "\n");
    return true;
}

static void put_token(struct json_out *j, const char *key, const struct vocab *v, int64_t id) {
    if (id >= 0) json_out_string(j, key, v->token[id].p, v->token[id].n);
}

static bool write_words(const struct model_file *f, const char *folder, const struct vocab *v, const struct special *s,
                        struct err *err) {
    struct text t = {0};
    struct json_out j;
    struct span template = {0};
    if (!meta_text(f, "tokenizer.chat_template", false, &template, err)) return false;
    json_out_open(&j, &t);
    json_out_object(&j, NULL);
    json_out_string(&j, "tokenizer_class", "PreTrainedTokenizerFast", 23);
    put_token(&j, "bos_token", v, s->bos);
    put_token(&j, "eos_token", v, s->eos);
    put_token(&j, "unk_token", v, s->unknown);
    json_out_bool(&j, "clean_up_tokenization_spaces", false);
    if (template.n) json_out_string(&j, "chat_template", template.p, template.n);
    json_out_close(&j, '}');
    text_str(&t, "\n");
    bool good = hf_write_text(folder, "tokenizer_config.json", &t, err);
    text_free(&t);
    return good;
}

static bool write_generation(const struct model_file *f, const char *folder, struct err *err) {
    struct text t = {0};
    struct json_out j;
    struct meta_array a = {0};
    int64_t bos = -1, eos = -1, eot = -1, id;
    if (!meta_int(f, "tokenizer.ggml.bos_token_id", false, 0, INT32_MAX, &bos, err) ||
        !meta_int(f, "tokenizer.ggml.eos_token_id", false, 0, INT32_MAX, &eos, err) ||
        !meta_int(f, "tokenizer.ggml.eot_token_id", false, 0, INT32_MAX, &eot, err))
        return false;
    bool listed = meta_kind(f, "lehr.eos_token_ids") == META_ARRAY;
    if (listed && !meta_array_open(f, "lehr.eos_token_ids", META_INT, &a, err)) return false;
    json_out_open(&j, &t);
    json_out_object(&j, NULL);
    if (bos >= 0) json_out_integer(&j, "bos_token_id", bos);
    if (listed || (eos >= 0 && eot >= 0 && eot != eos)) {
        json_out_array(&j, "eos_token_id");
        while (listed && meta_next_int(&a, &id)) json_out_integer(&j, NULL, id);
        if (!listed) json_out_integer(&j, NULL, eos);
        if (!listed) json_out_integer(&j, NULL, eot);
        json_out_close(&j, ']');
    } else if (eos >= 0) {
        json_out_integer(&j, "eos_token_id", eos);
    }
    json_out_close(&j, '}');
    text_str(&t, "\n");
    bool good = hf_write_text(folder, "generation_config.json", &t, err);
    text_free(&t);
    return good;
}

// The tokenizer files of a source that is a folder itself.
static bool copy_files(struct span json_path, const char *folder, struct err *err) {
    static const char *const names[] = {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"};
    bool good = true;
    for (size_t i = 0; good && i < COUNT_OF(names); i++) {
        struct text path = {0}, bytes = {0};
        text_add(&path, json_path.p, json_path.n - strlen("tokenizer.json"));
        text_str(&path, names[i]);
        if (file_exists(path.data))
            good = file_read_all(path.data, TOKENIZER_BYTES_MAX, &bytes, err) && hf_write_text(folder, names[i], &bytes, err);
        text_free(&path);
        text_free(&bytes);
    }
    return good;
}

bool hf_write_tokenizer(const struct model_file *f, const char *folder, struct text *notes, struct err *err) {
    struct span path = {0}, model = {0}, pre = {"gpt-2", 5};
    struct err why = {""};
    if (!write_generation(f, folder, err) || !meta_text(f, "lehr.tokenizer_json", false, &path, err) ||
        !meta_text(f, "tokenizer.ggml.model", false, &model, err) || !meta_text(f, "tokenizer.ggml.pre", false, &pre, err))
        return false;
    size_t tail = strlen("tokenizer.json");
    if (path.n >= tail && !memcmp(path.p + path.n - tail, "tokenizer.json", tail)) return copy_files(path, folder, err);
    bool spm = span_is(model, "llama");
    struct vocab v = {0};
    struct special s;
    struct text t = {0};
    char shown[SHOWN];
    bool said = model.n || err_set(&why, "the model carries no tokenizer");
    if (said && !spm && !span_is(model, "gpt2"))
        said = err_set(&why, "a tokenizer of model '%s' is not known", span_shown(model, shown, sizeof shown));
    if (said && !spm && !span_is(pre, "gpt-2"))
        said = err_set(&why, "the pre-tokenizer '%s' has no words there yet", span_shown(pre, shown, sizeof shown));
    said = said && read_vocab(f, &v, spm, &why) && read_special(f, spm, v.n, &s, &why) &&
           make_tokenizer(f, &v, &s, spm, &t, &why);
    bool good = !said || (hf_write_text(folder, "tokenizer.json", &t, err) && write_words(f, folder, &v, &s, err));
    if (!said && notes) text_fmt(notes, "tokenizer.json is not written: %s\n", why.text);
    vocab_free(&v);
    text_free(&t);
    return good;
}
