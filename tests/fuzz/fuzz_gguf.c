// GGUF files, whole and split: the tables, then all that programs read out of the keys: the model's config, the tokenizer,
// the chat template, the state of a training run.
//
// The input is one file, or the parts of a split one as m-00001-of-00002.gguf and so on (files.h).
#include "learn/learn.h"
#include "tests/fuzz/files.h"
#include "tests/hostile.h"
#include "tokenizer/chat.h"

#include <string.h>

static void read_keys(const struct model_file *f) {
    struct err err = {""};
    struct model_config config;
    must_tell(config_read(&config, f, &err), &err);
    err.text[0] = 0;
    struct tokenizer *t = tokenizer_from_file(f, &err);
    must_tell(t, &err);
    struct ids ids = {0};
    if (t) tokenizer_encode(t, " Hello\xE2\x96\x81 <s>12\xff\n", 17, TOKENIZE_BOS | TOKENIZE_SPECIAL, &ids);
    for (size_t i = 0; i < ids.count; i++) {
        must(ids.id[i] >= 0 && ids.id[i] < tokenizer_vocab(t), "ids are in the vocabulary");
        must(tokenizer_piece(t, ids.id[i]).p, "ids have pieces");
    }
    ids_free(&ids);
    tokenizer_free(t);
    err.text[0] = 0;
    struct chat_template *c = chat_template_from_model(f, &err);
    must_tell(c, &err);
    chat_template_free(c);
    struct run_state state;
    err.text[0] = 0;
    bool good = checkpoint_read_state(f, &state, &err);
    must_tell(good, &err);
    text_free(&state.options);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    struct err err = {""};
    files_split(bytes, n);
    if (!files_name(0)) files_add("m.gguf", bytes, n);
    struct model_file *f = model_file_open(files_name(0), &err);
    must_tell(f, &err);
    if (f) {
        hostile_walk(f);
        read_keys(f);
    }
    model_file_close(f);
    files_drop();
    return 0;
}
