// tokenizer.json, with the tokenizer_config.json beside it when the input has several files (files.h): it becomes a tokenizer that
// gives ids inside its vocabulary for any bytes, or is refused with a sentence.
#include "tests/fuzz/files.h"
#include "tokenizer/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    static const char text[] = "The  glass <s>\xC3\xA9 a\xCC\x81\r\n\xEF\xBC\xA1 12\xFF\xE4\xB8\xAD</s> \xE2\x96\x81x";
    struct err err = {""};
    files_split(bytes, n);
    if (!files_name(0)) files_add("tokenizer.json", bytes, n);
    struct tokenizer *t = tokenizer_open(files_name(0), -1, &err);
    must_tell(t, &err);
    for (unsigned flags = 0; t && flags < 8; flags++) {
        struct ids ids = {0};
        tokenizer_encode(t, text, sizeof text - 1, flags, &ids);
        tokenizer_encode(t, (const char *)bytes, n < 512 ? n : 512, flags, &ids); // the file has the spellings that matter
        for (size_t i = 0; i < ids.count; i++) must(ids.id[i] >= 0 && ids.id[i] < tokenizer_vocab(t), "ids are in the vocabulary");
        ids_free(&ids);
    }
    tokenizer_free(t);
    files_drop();
    return 0;
}
