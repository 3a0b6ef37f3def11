// hand: model files made by hand for the tests of the readers, and the questions those tests ask.
//
// A test builds bytes with hand_header, hand_key, hand_tensor (and hostile_int, hostile_text for
// values), bends one thing and calls hand_refused with words that the sentence must hold. Temporary
// files live in one folder per test process: every test that names a hand_path ends with
// hand_cleanup.
#ifndef LEHR_TESTS_HAND_H
#define LEHR_TESTS_HAND_H

#include "formats/formats.h"

const char *hand_path(
    const char *name);   // in the folder, which is made when first named; four paths live at a time
void hand_cleanup(void); // removes the folder and what is in it
void hand_write(const char *path, const void *bytes, size_t n);
struct text hand_read(const char *path);

// Opens a copy in an allocation of exactly n bytes; the caller closes the file, then frees *copy.
struct model_file *hand_open(const void *bytes, size_t n, void **copy, struct err *err);
void hand_refused(const struct text *t, const char *why); // ... with a sentence that holds `why`
void hand_accepted(const struct text *t);                 // ... and every byte of it can be walked
void hand_refused_and_freed(struct text t, const char *why);
void hand_accepted_and_freed(struct text t);

void hand_copy_tensors(struct gguf_out *to, const struct model_file *from); // declares all, then their data

// GGUF v3. The pieces are separate so that a test can bend one and leave the rest right.
void hand_header(struct text *t, uint64_t tensors, uint64_t keys); // clears t first
void hand_key(struct text *t, const char *key, uint32_t type);     // the value follows
void hand_tensor(struct text *t, const char *name, uint32_t type, uint64_t offset, int dims,
                 const uint64_t *size); // innermost first, as on disk
// One tensor "w" and 256 bytes of data: fine as F32 (type 0) of {8, 8} at offset 0.
struct text hand_one_tensor(uint32_t type, uint64_t offset, int dims, const uint64_t *size);
struct text hand_one_key(const char *key, uint32_t type); // the value follows

// Small whole files. The last byte of the first two belongs to a tensor, so that every shorter file
// is damaged.
struct text hand_small_gguf(void);       // every kind of field that hostile_open can bend
struct text hand_small_bin(bool shared); // llama2.c v0: dim 8, hidden 12, 2 layers, 4 heads, 2 kv
                                         // heads, vocabulary 5, context 3
// Written by gguf_out: every key type it has and a tensor of every dtype, filled by hand_fill with
// its number as stream.
bool hand_write_sample(const char *path, bool seal, struct err *err);
struct text hand_sample(bool seal);
extern const int64_t hand_shapes[DTYPE_COUNT][4];
extern const int hand_dims_of[DTYPE_COUNT];
extern const enum dtype hand_dtypes[DTYPE_COUNT];
void hand_fill(unsigned char *p, size_t n, uint64_t stream);

#endif
