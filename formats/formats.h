// formats: files of weights behind one bounded reader.
//
// Whatever the file (GGUF v2 and v3, whole or split; a Hugging Face folder of safetensors; llama2.c .bin), a reader sees
// metadata under GGUF keys and tensors under GGUF names: the llama2.c reader makes the keys up from its seven integers,
// the folder reader from config.json. So model/ and tokenizer/ know one vocabulary.
//
// Safety, all of it at open: every count, length, offset and size is compared with the bytes left in the file before
// anything is allocated or read; sizes multiply through size_mul; duplicate names and keys, overlapping or unaligned
// tensors, empty dimensions, rows that are no multiple of their block are refused with one sentence. After a
// successful open no accessor below can read outside the map. Caps: 1M keys, 1M tensors, 4 dimensions, keys of 65535
// bytes, tensor names of 64 bytes, arrays nested not at all, dimensions below 2^31.
#ifndef LEHR_FORMATS_H
#define LEHR_FORMATS_H

#include "core/core.h"

struct span { // bytes inside the mapped file, not NUL-terminated
    const char *p;
    size_t n;
};
bool span_is(struct span s, const char *text);

struct file_tensor {
    char name[65];
    enum dtype dtype;    // DTYPE_COUNT: known to GGUF but not to us (type_name says which); bytes is then 0
    const char *type_name;
    int n_dims;
    int64_t size[4];     // outermost first, as in PyTorch; a matrix is size[0] rows of size[1] contiguous columns
    const void *data;    // in the map
    size_t bytes;
};

struct model_file;
// By magic. A folder with config.json, that config.json, its index of shards or one of its .safetensors all open the
// model in the folder; a split GGUF opens by its first part. Keys beside GGUF's own: lehr.tokenizer_json (path of a
// tokenizer.json beside the weights), lehr.eos_token_ids (all tokens that end a text). Names git-LFS pointers, HTML pages, zip and pickle files, other GGUF versions and truncated downloads as what
// they are. NULL on failure.
struct model_file *model_file_open(const char *path, struct err *err);
// The same for a file in memory, which the caller keeps alive and aligned as malloc does; name serves messages.
struct model_file *model_file_open_bytes(const void *bytes, size_t n, const char *name, struct err *err);
void model_file_close(struct model_file *f); // NULL is allowed; all spans and tensor data die with it
const char *model_file_path(const struct model_file *f);
const char *model_file_kind(const struct model_file *f); // "GGUF v3", "GGUF in 3 parts", "safetensors", "llama2.c v0"
size_t model_file_bytes(const struct model_file *f);     // of all files together, but the small ones of a folder

size_t model_file_tensor_count(const struct model_file *f);
const struct file_tensor *model_file_tensor_at(const struct model_file *f, size_t i); // in file order
const struct file_tensor *model_file_tensor(const struct model_file *f, const char *name); // NULL when absent
// These bytes of a tensor will hardly be read again: what is mapped of them need not stay resident.
void model_file_forget(const struct model_file *f, const void *data, size_t bytes);

// Metadata. A missing key is an error only when required; an optional missing key leaves *value alone and is fine.
// A wrong type or a value outside [min, max] is always an error. Integers come from any integer type.
enum meta_kind { META_ABSENT, META_BOOL, META_INT, META_REAL, META_TEXT, META_ARRAY };
enum meta_kind meta_kind(const struct model_file *f, const char *key);
MUST_USE bool meta_int(const struct model_file *f, const char *key, bool required, int64_t min, int64_t max,
                       int64_t *value, struct err *err);
MUST_USE bool meta_real(const struct model_file *f, const char *key, bool required, double min, double max,
                        double *value, struct err *err); // also from integers; NaN and infinities are refused
MUST_USE bool meta_bool(const struct model_file *f, const char *key, bool required, bool *value, struct err *err);
MUST_USE bool meta_text(const struct model_file *f, const char *key, bool required, struct span *value, struct err *err);
// Arrays are walked: open, then next_* count times. Asking for META_REAL also takes an array of integers; bools are read
// with meta_next_int as 0 and 1. A u64 beyond INT64_MAX arrives as INT64_MAX. A missing key is an error.
struct meta_array {
    enum meta_kind kind; // of the elements as found: META_INT also where META_REAL was asked for
    uint32_t type;       // element type on disk
    uint64_t count, taken;
    const unsigned char *at;
};
MUST_USE bool meta_array_open(const struct model_file *f, const char *key, enum meta_kind kind, struct meta_array *a,
                              struct err *err);
bool meta_next_text(struct meta_array *a, struct span *out); // false at the end
bool meta_next_real(struct meta_array *a, double *out);
bool meta_next_int(struct meta_array *a, int64_t *out);
// Calls fn for every key in file order with a printable value ("[512 texts]" for arrays), for --check.
void meta_each(const struct model_file *f, void (*fn)(void *arg, const char *key, const char *value), void *arg);

// Writing GGUF v3: keys, then tensor declarations, then the data in the same order, then commit. Errors (a name too long or
// twice, rows that are no multiple of their block, a full disk) stick and are told by commit, which replaces the file
// atomically (core, file_out). A call out of this order is a broken rule of the program: assert. Tensor names pass
// what the reader accepts: 1 to 64 bytes of UTF-8 without control characters. llama.cpp refuses files that hold
// tensors it does not expect, so seal checkpoints, not clean exports.
struct gguf_out;
struct gguf_out *gguf_out_open(const char *path, struct err *err);
void gguf_out_u32(struct gguf_out *o, const char *key, uint32_t x);
void gguf_out_u64(struct gguf_out *o, const char *key, uint64_t x);
void gguf_out_i32(struct gguf_out *o, const char *key, int32_t x);
void gguf_out_f32(struct gguf_out *o, const char *key, float x);
void gguf_out_f64(struct gguf_out *o, const char *key, double x);
void gguf_out_bool(struct gguf_out *o, const char *key, bool x);
void gguf_out_text(struct gguf_out *o, const char *key, const char *bytes, size_t n);
void gguf_out_texts(struct gguf_out *o, const char *key, const struct span *texts, size_t n);
void gguf_out_f32s(struct gguf_out *o, const char *key, const float *x, size_t n);
void gguf_out_i32s(struct gguf_out *o, const char *key, const int32_t *x, size_t n);
void gguf_out_u8s(struct gguf_out *o, const char *key, const char *bytes, size_t n);
void gguf_out_tensor(struct gguf_out *o, const char *name, enum dtype dtype, int n_dims, const int64_t size[4]);
// All keys of f for which wanted(key) is true, as they are.
void gguf_out_copy_keys(struct gguf_out *o, const struct model_file *f, bool (*wanted)(struct span key));
// The next declared tensor's bytes, whole or in pieces; asserts against writing past its end.
void gguf_out_data(struct gguf_out *o, const void *bytes, size_t n);
// sealed: a last tensor "lehr.seal" (I32) holds a hash of the header and of every tensor, see model_file_seal.
MUST_USE bool gguf_out_commit(struct gguf_out *o, struct err *err);
void gguf_out_seal(struct gguf_out *o); // call once, after the last declaration and before the first data
void gguf_out_abort(struct gguf_out *o); // NULL is allowed
// True when the file is sealed and whole. False with the name of the damaged part, or when there is no seal.
MUST_USE bool model_file_seal(const struct model_file *f, struct err *err);

// Writing a Hugging Face folder from any open file: model.safetensors (matrices as F32, F16 or BF16, norms as F32, Q and K
// back to halves), generation_config.json, tokenizer.json as given (tokenizer_write_json; NULL: none) with
// tokenizer_config.json, or those of a source that is a folder, config.json last: without it the folder is no model. A key
// or tensor that the folder has no word for is refused by name; what else to know is told in notes (may be NULL). Files are
// replaced atomically, one by one.
MUST_USE bool hf_write(const struct model_file *f, const char *folder, enum dtype matrices, const struct text *tokenizer_json,
                       struct text *notes, struct err *err);

#endif
