// tokenizer.json and GGUF files there and back, through files on disk, so slower than fuzz_tokenizer_json.c:
// A file becomes a tokenizer or is refused with a sentence; a tokenizer gives ids inside its vocabulary for any bytes, and
// comes back from a GGUF file with the same hash and the same ids.
#include "tokenizer/tokenizer.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

static struct ids ids_of(const struct tokenizer *t, const char *text, size_t n, unsigned flags) {
    struct ids ids = {0};
    tokenizer_encode(t, text, n, flags, &ids);
    for (size_t i = 0; i < ids.count; i++)
        if (ids.id[i] < 0 || ids.id[i] >= tokenizer_vocab(t)) abort();
    return ids;
}

static void come_back(const struct tokenizer *t, const char *path, const char *text, size_t n) {
    struct err err = {""};
    struct gguf_out *o = gguf_out_open(path, &err);
    if (!o) abort();
    gguf_out_text(o, "general.architecture", "llama", 5);
    tokenizer_write(t, o);
    if (!gguf_out_commit(o, &err)) abort();
    struct tokenizer *back = tokenizer_open(path, -1, &err);
    if (!back || tokenizer_hash(back) != tokenizer_hash(t)) abort();
    struct ids a = ids_of(t, text, n, TOKENIZE_SPECIAL), b = ids_of(back, text, n, TOKENIZE_SPECIAL);
    if (a.count != b.count || (a.count && memcmp(a.id, b.id, a.count * sizeof *a.id))) abort();
    ids_free(&a);
    ids_free(&b);
    tokenizer_free(back);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    static const char text[] = "The  glass <s>\xC3\xA9 a\xCC\x81\r\n\xEF\xBC\xA1 12\xFF\xE4\xB8\xAD</s> \xE2\x96\x81x";
    char path[64];
    snprintf(path, sizeof path, "/tmp/fuzz-tokenizer-%d", (int)getpid());
    struct err err = {""};
    struct file_out *f = file_out_open(path, &err);
    if (!f) abort();
    file_out_write(f, bytes, n);
    if (!file_out_commit(f, &err)) abort();
    struct tokenizer *t = tokenizer_open(path, -1, &err);
    if (!t && !*err.text) abort();
    if (t) {
        size_t some = n < 512 ? n : 512; // the file itself has the spellings that matter
        for (unsigned flags = 0; flags < 8; flags++) {
            struct ids a = ids_of(t, text, sizeof text - 1, flags), b = ids_of(t, (const char *)bytes, some, flags);
            ids_free(&a);
            ids_free(&b);
        }
        come_back(t, path, text, sizeof text - 1);
    }
    tokenizer_free(t);
    unlink(path);
    return 0;
}
