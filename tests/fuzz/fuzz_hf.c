// A whole Hugging Face folder, several files in one input (files.h): config.json, generation_config.json,
// tokenizer_config.json, chat_template.jinja, model.safetensors or an index and its shards. What opens has every byte it claims,
// and the model's config and the chat template are read from it or refused.
#include "model/model.h"
#include "tests/fuzz/files.h"
#include "tests/hostile.h"
#include "tokenizer/chat.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    struct err err = {""};
    files_split(bytes, n);
    struct model_file *f = model_file_open("m", &err);
    must_tell(f, &err);
    if (f) {
        struct model_config config;
        hostile_walk(f);
        err.text[0] = 0;
        must_tell(config_read(&config, f, &err), &err);
        err.text[0] = 0;
        struct chat_template *c = chat_template_from_model(f, &err);
        must_tell(c, &err);
        chat_template_free(c);
    }
    model_file_close(f);
    files_drop();
    return 0;
}
