// llama2.c's two files, which have no magic: the same bytes as a model and as a tokenizer.bin.
#include "tests/fuzz/files.h"
#include "tests/hostile.h"
#include "tokenizer/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    struct err err = {""};
    struct model_file *f = model_file_open_bytes(bytes, n, "m.bin", &err);
    must_tell(f, &err);
    if (f) hostile_walk(f);
    model_file_close(f);
    files_add("tokenizer.bin", bytes, n);
    err.text[0] = 0;
    struct tokenizer *t = tokenizer_from_llama2c("m/tokenizer.bin", -1, &err);
    must_tell(t, &err);
    struct ids ids = {0};
    if (t) tokenizer_encode(t, " Hello<s>\n\xff", 11, TOKENIZE_BOS, &ids);
    for (size_t i = 0; i < ids.count; i++) must(tokenizer_piece(t, ids.id[i]).p, "ids have pieces");
    ids_free(&ids);
    tokenizer_free(t);
    files_drop();
    return 0;
}
