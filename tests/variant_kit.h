// variant_kit: the small models of tests/golden/variants, written as the folders that transformers writes.
//
// Each is a config.json and a table of tensors; the weights are a formula, the same here and in
// tests/make_variant_goldens.py.
#ifndef LEHR_TESTS_VARIANT_KIT_H
#define LEHR_TESTS_VARIANT_KIT_H

#include "formats/formats.h"

struct variant {
    const char *name;
    int64_t ctx; // of the session, 0: the model's. It decides where rope depends on the length
};
extern const struct variant variants[];
extern const int variant_count;

struct text variant_golden(const char *name, const char *end); // a file of the variant; free with text_free
// Writes config.json and model.safetensors into the folder, which is there, and opens it.
struct model_file *variant_open(const char *folder, const char *name);

#endif
