// A libFuzzer target for every reader of model files:
//     clang -g -O1 -fsanitize=fuzzer,address,undefined -I. -D_GNU_SOURCE tests/fuzz/fuzz_formats.c
//           tests/hostile.c formats/*.c core/*.c -lm -pthread -o fuzz_formats
//     ./fuzz_formats -max_len=65536 CORPUS
// A file either opens and can be walked to its last byte, or is refused with a sentence; anything
// else is a finding.
#include "tests/hostile.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    struct err err = {0};
    struct model_file *f = model_file_open_bytes(bytes, n, "fuzz", &err);
    if (!f && !err.text[0]) abort();
    if (f) hostile_walk(f);
    model_file_close(f);
    return 0;
}
