// formats/internal.h: what the readers and the writer share; nobody outside formats/ includes it.
//
// An open file is a map plus two tables, keys and tensors, in file order, each with an index sorted
// by name: a hostile file can neither flood a hash table nor make the check for duplicates
// quadratic. The tables point into the map. The llama2.c reader makes up key bytes in GGUF's own
// layout and has them read like those of a file, so there is one decoder.
#ifndef LEHR_FORMATS_INTERNAL_H
#define LEHR_FORMATS_INTERNAL_H

#include "formats/formats.h"

// The caps of formats.h, and two more: no header or text of a sane file comes near them.
#define KEYS_MAX ((uint64_t)1 << 20)
#define TENSORS_MAX ((uint64_t)1 << 20)
#define KEY_BYTES_MAX 65535
#define TENSOR_NAME_MAX 64
#define DIMS_MAX 4
#define DIM_LIMIT ((int64_t)1 << 31)         // sizes are below it
#define HEADER_BYTES_MAX ((size_t)256 << 20) // keys and tensor infos
#define TEXT_BYTES_MAX ((uint64_t)64 << 20)  // one text value
#define ALIGNMENT_DEFAULT 32
#define ALIGNMENT_MIN 8
#define ALIGNMENT_MAX 65536

enum gguf_type {
    GGUF_U8,
    GGUF_I8,
    GGUF_U16,
    GGUF_I16,
    GGUF_U32,
    GGUF_I32,
    GGUF_F32,
    GGUF_BOOL,
    GGUF_TEXT,
    GGUF_ARRAY,
    GGUF_U64,
    GGUF_I64,
    GGUF_F64,
    GGUF_TYPE_COUNT
};
static_assert(GGUF_U32 == 4 && GGUF_TEXT == 8 && GGUF_ARRAY == 9 && GGUF_F64 == 12,
              "value types as on disk");

// Bytes of one value on disk, 0 for texts, arrays and unknown types; and what a reader sees it as.
size_t gguf_type_bytes(uint32_t type);
enum meta_kind gguf_type_kind(uint32_t type);

// Every tensor type that a GGUF may hold, whether or not we multiply it: enough to check sizes and
// to name it.
struct ggml_type {
    uint32_t id;
    const char *name;
    int32_t block_weights, block_bytes;
};
const struct ggml_type *ggml_type_by_id(uint32_t id); // NULL when unknown
// Bytes on disk; false with a sentence that says which dimension is wrong or that the product does
// not fit.
MUST_USE bool ggml_tensor_bytes(const struct ggml_type *t, int n_dims, const int64_t *size,
                                size_t *bytes, struct err *err);

struct meta_entry {
    struct span key;
    uint32_t type;      // enum gguf_type
    uint32_t item_type; // of an array's elements
    uint64_t count;     // elements of an array, bytes of a text
    const unsigned char
        *at; // the value; for texts the bytes behind the length, for arrays the first element
};

struct name_row {
    const char *p;
    size_t n;
    size_t i; // in the table
};
struct name_index {
    struct name_row *rows;
    size_t count;
};

struct model_file {
    struct file_map map; // for a file in memory only data, size and path are set
    bool mapped;
    char kind[32];
    struct meta_entry *keys;
    size_t n_keys, cap_keys;
    struct name_index key_index;
    struct file_tensor *tensors;
    size_t n_tensors, cap_tensors;
    struct name_index tensor_index;
    size_t data_at; // where tensor data begin: all before is "the header"
    size_t alignment;
    struct text made_up;     // key bytes that a reader wrote itself: llama2.c, Hugging Face folders
    struct file_map *parts;  // further files of the same model: shards, parts of a split GGUF
    size_t n_parts;
    void **owned; // tensor data that no file has in this form
    size_t n_owned, cap_owned;
};
// Zeroed memory that dies with f.
void *model_file_own(struct model_file *f, size_t bytes, const char *what);
// The index over f->tensors; false when a name is there twice, *twice is then its number.
MUST_USE bool model_file_index(struct model_file *f, size_t *twice);

// The one cursor through which every byte of a header is read. The first problem sticks: err keeps
// it, `at` stops there, and every later take returns NULL or zero. The three noun fields only serve
// the sentence.
struct cursor {
    const unsigned char *bytes;
    size_t size, at;
    size_t file_size; // more than size where HEADER_BYTES_MAX cut
    bool bad;
    struct err *err;
    const char *noun; // "key", "tensor"
    uint64_t number;
    struct span name; // of that key or tensor, once known
};
bool cursor_refuse(struct cursor *c, const char *format, ...) PRINTF_LIKE(2, 3); // false
const unsigned char *cursor_take(struct cursor *c, uint64_t n,
                                 const char *what); // NULL when n bytes are not there
uint64_t cursor_int(struct cursor *c, size_t width, const char *what);
struct span cursor_text(struct cursor *c, uint64_t max, const char *what);

// Little-endian numbers anywhere in memory.
uint64_t bytes_int(const unsigned char *p, size_t width);
void text_int(struct text *t, uint64_t x, size_t width);

// Sorts the n names in rows (taken over, freed by name_index_close). duplicate: an entry that
// occurs twice, or n.
void name_index_open(struct name_index *x, struct name_row *rows, size_t n, size_t *duplicate);
void name_index_close(struct name_index *x);
size_t name_index_find(const struct name_index *x, const char *name, size_t n,
                       size_t absent); // its i, or absent

// A name or text of a file made fit for a terminal: control bytes and broken UTF-8 become '?', what
// does not fit is cut and marked. Returns buf.
#define SHOWN 96
char *span_shown(struct span s, char *buf, size_t cap);
// The end of a path is what tells files apart, and a message has room for that much.
const char *path_end(const char *path);
// NULL when a name is fine, else why not ("is empty", "holds a control character"): names end up in
// messages and in C strings, so neither NUL nor escape codes may be in them.
const char *name_problem(struct span s);

// Readers fill f from f->map; false with a sentence. Whatever they left in f, model_file_close
// frees.
MUST_USE bool gguf_read(struct model_file *f, struct err *err);
MUST_USE bool gguf_read_keys(struct cursor *c, uint64_t n, struct model_file *f);
// After gguf_read of the first part: opens the others, when split.count says that there are any.
MUST_USE bool gguf_read_parts(struct model_file *f, struct err *err);
MUST_USE bool llama2c_read(struct model_file *f, struct err *err);
bool llama2c_looks_like(const unsigned char *bytes,
                        size_t n); // seven integers in range; the size is not looked at

// ---------------------------------------------------------------------------------------------------------------
// Keys that a reader makes up, in GGUF's own layout; n counts them.

struct key_text {
    struct text *to;
    uint64_t n;
};
void key_u32(struct key_text *k, const char *key, int64_t x);
void key_f32(struct key_text *k, const char *key, double x);
void key_bool(struct key_text *k, const char *key, bool x);
void key_text_add(struct key_text *k, const char *key, const char *bytes, size_t n);
void key_i32s(struct key_text *k, const char *key, const int64_t *x, size_t n);
void key_bools(struct key_text *k, const char *key, const bool *x, size_t n);
// Makes them the keys of f, whose made_up they are.
MUST_USE bool key_text_read(const struct key_text *k, struct model_file *f, struct err *err);

// ---------------------------------------------------------------------------------------------------------------
// safetensors: the table at the head of one file.

#define ST_HEADER_MAX ((uint64_t)100000000) // as the format has it
#define ST_NAME_MAX 256
#define ST_DIMS_MAX 8

struct st_tensor {
    size_t name_at, name_n; // in names
    const char *type;       // "BF16"
    enum dtype dtype;       // DTYPE_COUNT: not one of ours
    int n_dims;
    int64_t size[ST_DIMS_MAX]; // may hold zeros
    size_t begin, bytes;       // in the file
};
struct st_file {
    struct text names;
    struct st_tensor *tensors;
    size_t n, cap;
    struct name_index index;
};
bool safetensors_looks_like(const unsigned char *bytes, size_t n);
// True when every tensor lies in the n bytes and together they fill the file exactly. Free with
// safetensors_free whatever it returned.
MUST_USE bool safetensors_read(const unsigned char *bytes, size_t n, struct st_file *s,
                               struct err *err);
void safetensors_free(struct st_file *s);
struct span safetensors_name(const struct st_file *s, const struct st_tensor *t);

// ---------------------------------------------------------------------------------------------------------------
// Hugging Face folders: config.json and what it means in GGUF's words.

struct hf_value { // one value of a config.json, objects flattened: "rope_scaling.factor"
    size_t path_at, path_n; // in paths
    enum json_kind kind;    // objects are listed too, before their members
    const char *at;         // its JSON text
    size_t n;
    bool used;
};
struct hf_config {
    struct text bytes, paths;
    struct hf_value *values;
    size_t n, cap;
    struct name_index index;
};
// Takes the bytes of c->bytes apart. Free with hf_config_free whatever it returned.
MUST_USE bool hf_config_parse(struct hf_config *c, struct err *err);
void hf_config_free(struct hf_config *c);
struct hf_value *hf_find(struct hf_config *c, const char *path); // NULL when absent or null
// As meta_int and its kin: an optional absent value leaves *value alone; what is read is marked used.
MUST_USE bool hf_int(struct hf_config *c, const char *path, bool required, int64_t min, int64_t max,
                     int64_t *value, struct err *err);
MUST_USE bool hf_real(struct hf_config *c, const char *path, bool required, double min, double max,
                      double *value, struct err *err);
MUST_USE bool hf_bool(struct hf_config *c, const char *path, bool *value, struct err *err);
MUST_USE bool hf_text(struct hf_config *c, const char *path, struct text *value, struct err *err);

// What a class of models does its own way, as bits: rows of the tables in hf_tables.c say in which families they stand.
#define HF_BLOCKS (UINT64_C(1) << 0)    // config of Llama's kind; every family but gpt2
#define HF_GPT2 (UINT64_C(1) << 1)      // names of its own, matrices transposed, positions learned
#define HF_ADJACENT (UINT64_C(1) << 2)  // GGUF wants the rows of Q and K in adjacent rope pairs; the folder has halves
#define HF_PLAIN (UINT64_C(1) << 3)     // a norm before each branch
#define HF_SANDWICH (UINT64_C(1) << 4)  // norms behind the branches, too or only
#define HF_PLUS_ONE (UINT64_C(1) << 5)  // the folder has w where the norm multiplies by 1 + w
#define HF_TIED (UINT64_C(1) << 6)      // what an absent tie_word_embeddings means
#define HF_SPLIT (UINT64_C(1) << 7)     // q, k, v and gate, up are tensors of their own
#define HF_JOINED (UINT64_C(1) << 8)    // they are rows of one
#define HF_BIAS_QKV (UINT64_C(1) << 9)  // always biases on q, k, v
#define HF_BIAS_SWITCH (UINT64_C(1) << 10) // attention_bias: on q, k, v and o, or on none
#define HF_BIAS_OUT (UINT64_C(1) << 11) // attention_bias is about q, k, v, attention_out_bias about o
#define HF_BIAS_STABLE (UINT64_C(1) << 12) // use_qkv_bias
#define HF_BIAS_ALL (UINT64_C(1) << 13) // on every matrix of a layer
#define HF_MLP_SWITCH (UINT64_C(1) << 14) // mlp_bias
#define HF_MULTIPLIERS (UINT64_C(1) << 15) // the four of Granite
#define HF_MINICPM (UINT64_C(1) << 16)  // multipliers by other names
#define HF_COHERE (UINT64_C(1) << 17)   // logits times logit_scale
#define HF_CAPS (UINT64_C(1) << 18)     // capped scores and logits, query_pre_attn_scalar
#define HF_CLIP (UINT64_C(1) << 19)     // clip_qkv
#define HF_WINDOW (UINT64_C(1) << 20)   // sliding_window; layers as `period` has it, or layer_types
#define HF_WINDOW_SWITCH (UINT64_C(1) << 21) // only with use_sliding_window, from layer max_window_layers on
#define HF_WINDOW_FREE (UINT64_C(1) << 22) // the window may be missing though layers would slide
#define HF_LOCAL_ROPE (UINT64_C(1) << 23) // sliding layers have their own rope
#define HF_NO_ROPE (UINT64_C(1) << 24)  // every fourth layer is not turned
#define HF_MIXTRAL (UINT64_C(1) << 25)  // three ways to name experts
#define HF_QWEN_MOE (UINT64_C(1) << 26)
#define HF_GRANITE_MOE (UINT64_C(1) << 27)
#define HF_SHARED (UINT64_C(1) << 28)   // an expert that sees every token, with a gate of its own
#define HF_GRANITE_SHARED (UINT64_C(1) << 29) // one without
#define HF_NORM_SWITCH (UINT64_C(1) << 30) // norm_topk_prob is in the config
#define HF_MOE_WIDTH (UINT64_C(1) << 31) // experts have their own moe_intermediate_size
#define HF_TEXT_PART (UINT64_C(1) << 32) // the model lies under text_config, beside eyes or ears that are left out
#define HF_KV_FREE (UINT64_C(1) << 33)  // an absent num_key_value_heads means one for each query head
#define HF_EPS_RMS (UINT64_C(1) << 34)  // what the norm's epsilon is called
#define HF_EPS_LAYER (UINT64_C(1) << 35)
#define HF_EPS_SHORT (UINT64_C(1) << 36)
#define HF_EPS_STAR (UINT64_C(1) << 37)
#define HF_PARALLEL (UINT64_C(1) << 38) // use_parallel_residual
#define HF_PHI2 (UINT64_C(1) << 39)     // further ways to name tensors
#define HF_NEOX (UINT64_C(1) << 40)
#define HF_STARCODER (UINT64_C(1) << 41)
#define HF_GPT_OSS (UINT64_C(1) << 42)  // names and layouts of experts, sinks
#define HF_BY_POSITION (UINT64_C(1) << 43) // llama_4_scaling_beta beside YaRN: queries grow with the position
#define HF_STRETCHED (UINT64_C(1) << 44) // an absent rope_parameters would mean a YaRN
#define HF_EXPERTS (HF_MIXTRAL | HF_QWEN_MOE | HF_GRANITE_MOE | HF_GPT_OSS)
#define HF_LAYER_NORM (HF_GPT2 | HF_EPS_LAYER | HF_EPS_SHORT | HF_EPS_STAR | HF_CLIP)

struct hf_family {
    const char *class, *type, *arch; // "LlamaForCausalLM", "llama" in config.json, "llama" in GGUF
    uint64_t traits;
    const char *act; // hidden_act that the family computes
    double theta;    // what an absent rope_theta means
    int period;      // of HF_WINDOW: all layers slide but each period-th; 0: all; 1: none unless listed
    bool normed;     // weights of the chosen experts are divided by their sum
    const char *act2; // another name of act
    double part;      // what an absent partial_rotary_factor means, 0: 1
};
extern const struct hf_family hf_families[];
extern const size_t hf_family_count;

// A number that config.json and GGUF both have, under two names.
struct hf_number {
    const char *hf, *gguf; // behind "<arch>."
    uint64_t in;           // families with any of these traits have it
    enum hf_number_kind { HF_WHOLE, HF_REAL } kind;
    enum hf_presence { HF_NEEDED, HF_MAYBE, HF_ONE } presence; // absent: refused, left out, 1
    double min, max;
};
extern const struct hf_number hf_numbers[];
extern const size_t hf_number_count;
// The row of an architecture's key in a family; NULL when it has none.
const struct hf_number *hf_number_of(const struct hf_family *family, struct span gguf);

struct hf_model { // what reading the tensors needs of the config
    const struct hf_family *family;
    int64_t C, L, H, G, D, V;
    int64_t turned; // columns of a head that rope turns
    int64_t E; // experts, 0: none
    bool tied;
    double llama3_factor, llama3_low, llama3_high; // factor 0: no such rope scaling
    int64_t llama3_ctx;
    const struct hf_value *long_factors[2]; // arrays of divisors, short and long; NULL: no such rope scaling
    double theta;
};
// Writes the keys and fills m; refuses by name whatever would change the computation unseen.
MUST_USE bool hf_config_keys(struct hf_config *c, struct hf_model *m, struct key_text *k,
                             struct err *err);

enum hf_change { // what a tensor goes through on its way to GGUF; on the way back the reverse
    HF_AS_IS,
    HF_ROWS_Q,    // rows of each of H heads from halves to adjacent pairs
    HF_ROWS_K,    // the same for G heads
    HF_NORM,      // plus one, where the family has it
    HF_TRANSPOSE, // rows and columns change places
    HF_EXPERT,    // becomes one of E matrices in a tensor of three dimensions
    HF_HALVES,    // [E, 2 F, C] or [2 F, C]: the first F of each are the gate, the others, named beside it, the up projection
    HF_INTERLEAVED, // [E, C, 2 F] or biases [E, 2 F]: columns of gate and up in turn; becomes two of [E, F, C] or [E, F]
    HF_TURNED,    // [E, F, C] becomes [E, C, F]
    HF_HEADS,     // rows of queries, keys and values head by head become all queries, all keys, all values
    HF_VECTOR,    // [1, C] becomes [C]
    HF_SKIP,
};
struct hf_place {
    char gguf[65];
    enum hf_change change;
    int64_t expert; // its number, where change is HF_EXPERT
};
// The GGUF name of a tensor and its change; false with a sentence when the family has none.
MUST_USE bool hf_tensor_name(const struct hf_model *m, struct span hf, struct hf_place *place, struct err *err);
// The way back: the class that writes a model of this architecture (NULL when there is none), and the name in the folder
// of a GGUF tensor (false when it has none). Of an expert, "*" in the name stands for its number.
const struct hf_family *hf_family_of(struct span arch, bool experts, bool shared, bool window);
MUST_USE bool hf_name_of(const struct hf_family *family, const char *gguf, char hf[128],
                         enum hf_change *change);
// "..ffn_gate_x" to "..ffn_up_x": where the other half of HF_HALVES is.
void hf_up_beside(const char *gate, char up[65]);

// What config.json says and the keys do not: seen in the tensors.
struct hf_shape {
    const struct hf_family *family;
    int64_t C, L, H, G, D, V;
    bool tied;
    enum dtype matrices;
};
// config.json in to; false when a key has no word in it.
MUST_USE bool hf_make_config(const struct model_file *f, const struct hf_shape *shape, struct text *to,
                             struct err *err);
// tokenizer.json as given (NULL: none), tokenizer_config.json and generation_config.json from the keys of f.
MUST_USE bool hf_write_tokenizer(const struct model_file *f, const char *folder,
                                 const struct text *json, struct err *err);
MUST_USE bool hf_write_text(const char *folder, const char *name, const struct text *t,
                            struct err *err); // one file, atomically
// Fills f from a folder; only: the one file of weights to take, or NULL.
MUST_USE bool hf_read(struct model_file *f, const char *folder, const char *only, struct err *err);
bool path_is_folder(const char *path);

#endif
