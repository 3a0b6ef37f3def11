// hf_tokenizer.c: the files of a written folder that are about the tokenizer.
//
//   tokenizer.json           given as text: the tokenizer itself writes it (tokenizer/hf_out.c)
//   tokenizer_config.json    which tokens begin and end a text, are unknown or padding; the chat template
//   generation_config.json   the ids that begin and end a text
// The last two are from the tokenizer.ggml.* keys. A source that is a folder itself has its own files, which are copied.
#include "formats/internal.h"

#include <inttypes.h>
#include <string.h>

#define TOKENIZER_BYTES_MAX ((size_t)256 << 20)

// The tokens that transformers knows by name. Padding is left out where it names a token of text, as transformers would
// split that out of texts from then on.
static const struct {
    const char *name, *key;
    bool no_text;
} named[] = {{"bos_token", "tokenizer.ggml.bos_token_id", false},
             {"eos_token", "tokenizer.ggml.eos_token_id", false},
             {"unk_token", "tokenizer.ggml.unknown_token_id", true},
             {"pad_token", "tokenizer.ggml.padding_token_id", true}};

struct names { // ids, -1: none; and what is known of those tokens
    int64_t id[COUNT_OF(named)], type[COUNT_OF(named)];
    struct span token[COUNT_OF(named)];
};

static bool read_names(const struct model_file *f, struct names *n, struct err *err) {
    struct meta_array a;
    struct span token;
    int64_t type;
    *n = (struct names){{0}, {0}, {{0}}};
    for (size_t k = 0; k < COUNT_OF(named); k++) {
        n->id[k] = -1;
        n->type[k] = 1;
        if (!meta_int(f, named[k].key, false, 0, INT32_MAX, &n->id[k], err)) return false;
    }
    if (meta_kind(f, "tokenizer.ggml.tokens") == META_ABSENT) return true;
    if (!meta_array_open(f, "tokenizer.ggml.tokens", META_TEXT, &a, err)) return false;
    for (int64_t i = 0; meta_next_text(&a, &token); i++)
        for (size_t k = 0; k < COUNT_OF(named); k++)
            if (n->id[k] == i) n->token[k] = token;
    if (meta_kind(f, "tokenizer.ggml.token_type") == META_ABSENT) return true;
    if (!meta_array_open(f, "tokenizer.ggml.token_type", META_INT, &a, err)) return false;
    for (int64_t i = 0; meta_next_int(&a, &type); i++)
        for (size_t k = 0; k < COUNT_OF(named); k++)
            if (n->id[k] == i) n->type[k] = type;
    return true;
}

static bool write_words(const struct model_file *f, const char *folder, struct err *err) {
    struct text t = {0};
    struct json_out j;
    struct span template = {0};
    struct names n;
    if (!meta_text(f, "tokenizer.chat_template", false, &template, err) || !read_names(f, &n, err)) return false;
    json_out_open(&j, &t);
    json_out_object(&j, NULL);
    json_out_string(&j, "tokenizer_class", "PreTrainedTokenizerFast", 23);
    for (size_t k = 0; k < COUNT_OF(named); k++)
        if (n.token[k].n && !(named[k].no_text && n.type[k] == 1)) json_out_string(&j, named[k].name, n.token[k].p, n.token[k].n);
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

bool hf_write_tokenizer(const struct model_file *f, const char *folder, const struct text *json, struct err *err) {
    struct span path = {0};
    if (!write_generation(f, folder, err) || !meta_text(f, "lehr.tokenizer_json", false, &path, err)) return false;
    size_t tail = strlen("tokenizer.json");
    if (path.n >= tail && !memcmp(path.p + path.n - tail, "tokenizer.json", tail)) return copy_files(path, folder, err);
    return !json || (hf_write_text(folder, "tokenizer.json", json, err) && write_words(f, folder, err));
}
