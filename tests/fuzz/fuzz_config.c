// A config.json on its way to GGUF's keys, and those on their way to a model's config. What the folder reader accepts
// the model either takes or refuses with a sentence.
#include "formats/internal.h"
#include "model/model.h"
#include "tests/fuzz/files.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    struct hf_config c = {0};
    struct hf_model m;
    struct err err = {""};
    struct model_file *f = mem_alloc(sizeof *f, "model file");
    struct key_text keys = {.to = &f->made_up};
    struct model_config config;
    f->map.path = mem_text("m/config.json");
    text_add(&c.bytes, (const char *)bytes, n);
    bool good = hf_config_parse(&c, &err) && hf_config_keys(&c, &m, &keys, &err);
    must_tell(good, &err);
    if (good) must(key_text_read(&keys, f, &err), "keys that were made up are read");
    err.text[0] = 0;
    if (good) must_tell(config_read(&config, f, &err), &err);
    hf_config_free(&c);
    model_file_close(f);
    return 0;
}
