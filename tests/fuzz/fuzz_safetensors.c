// The table at the head of a .safetensors file: read, or refused with a sentence; every byte of every tensor is there.
#include "formats/internal.h"
#include "tests/fuzz/files.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    struct st_file s;
    struct err err = {""};
    bool good = safetensors_read(bytes, n, &s, &err);
    must_tell(good, &err);
    uint64_t sum = 0;
    for (size_t i = 0; good && i < s.n; i++) sum = hash_bytes(sum, bytes + s.tensors[i].begin, s.tensors[i].bytes);
    safetensors_free(&s);
    return 0;
}
