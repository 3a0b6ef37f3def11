// A libFuzzer target for what stands in a Hugging Face folder:
//     clang -g -O1 -fsanitize=fuzzer,address,undefined -I. -D_GNU_SOURCE tests/fuzz/fuzz_safetensors.c
//           formats/*.c core/*.c -lm -pthread -o fuzz_safetensors
//     ./fuzz_safetensors -max_len=65536 CORPUS
// Bytes that begin with '{' are a config.json, which becomes keys; all others are a .safetensors. Either is read or
// refused with a sentence.
#include "formats/internal.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

static void config(const uint8_t *bytes, size_t n) {
    struct hf_config c = {0};
    struct hf_model m;
    struct err err = {""};
    struct model_file *f = mem_alloc(sizeof *f, "fuzz");
    struct key_text keys = {.to = &f->made_up};
    f->map.path = mem_text("fuzz");
    text_add(&c.bytes, (const char *)bytes, n);
    bool good = hf_config_parse(&c, &err) && hf_config_keys(&c, &m, &keys, &err) && key_text_read(&keys, f, &err);
    if (!good && !err.text[0]) abort();
    hf_config_free(&c);
    model_file_close(f);
}

static void weights(const uint8_t *bytes, size_t n) {
    struct st_file s;
    struct err err = {""};
    bool good = safetensors_read(bytes, n, &s, &err);
    if (!good && !err.text[0]) abort();
    uint64_t sum = 0;
    for (size_t i = 0; good && i < s.n; i++) sum = hash_bytes(sum, bytes + s.tensors[i].begin, s.tensors[i].bytes);
    safetensors_free(&s);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    if (n && bytes[0] == '{') config(bytes, n);
    else weights(bytes, n);
    return 0;
}
