// tokenizer: text to ids and back, and training a byte-level BPE.
//
// Four kinds: BPE over bytes with one of the known pre-tokenizers (Radford et al. 2019; merges applied by rank), SPM
// (SentencePiece BPE as in Llama 2: merges by score, spaces become U+2581, unknown characters fall back to byte tokens),
// UNIGRAM (Kudo 2018: the most probable segmentation; T5, XLM-R), and BYTE, which is a BPE without merges: 256 bytes and one end token. Decoding is exact: for BPE and BYTE,
// decode(encode(x)) == x for every byte string x, unless the family normalizes its text (Qwen 2, OLMo): then it is x in
// Normalization Form C. Some vocabularies lack a token for bytes that no UTF-8 text has and for control characters; those
// become nothing (or the unknown token that a tokenizer.json names), as in the tokenizers they come from.
//
// Text never becomes a control token unless the caller asks (TOKENIZE_SPECIAL): spellings such as "<s>" in user text are
// plain text. User-defined tokens (runs of spaces in some vocabularies) are text and always split out, longest first.
// Encoding is O(n log n) for every input, also for a megabyte of one letter.
#ifndef LEHR_TOKENIZER_H
#define LEHR_TOKENIZER_H

#include "core/core.h"
#include "formats/formats.h"

enum tokenizer_kind { TOKENIZER_BYTE, TOKENIZER_BPE, TOKENIZER_SPM, TOKENIZER_UNIGRAM };
enum token_type { TOKEN_NORMAL = 1, TOKEN_UNKNOWN = 2, TOKEN_CONTROL = 3, TOKEN_USER = 4, TOKEN_UNUSED = 5, TOKEN_BYTE = 6 };

struct tokenizer; // immutable after making; safe to share between threads

struct ids { // a growable list of token ids; free with ids_free
    int32_t *id;
    size_t count, cap;
};
void ids_add(struct ids *ids, int32_t id);
void ids_free(struct ids *ids);

// From the tokenizer.ggml.* keys of a file. Known models: "gpt2" with a known tokenizer.ggml.pre, "llama", "t5", "gemma4". Anything else
// is refused by name, so are merges, types or special ids that do not fit. The file may be closed after. NULL on failure.
struct tokenizer *tokenizer_from_file(const struct model_file *f, struct err *err);
// The same with the pre-tokenizer of that name instead of the file's (NULL: the file's), for files that name none or a
// name unknown here. Refused for kinds that have no pre-tokenizer.
struct tokenizer *tokenizer_from_file_as(const struct model_file *f, const char *pre, struct err *err);
// That of any model: from the file's own keys, or from the tokenizer.json beside it, with the ends its folder names.
struct tokenizer *tokenizer_of_model(const struct model_file *f, const char *pre, struct err *err);
// The names it may have, a line for each pre-tokenizer.
void tokenizer_list_pre(struct text *out);
// From tokenizer.json of a Hugging Face folder: byte-level BPE with known patterns, or BPE of characters or Unigram
// with spaces replaced. tokenizer_config.json (may be NULL) names BOS and EOS. What is not known is refused by name. A model may have more
// rows than there are tokens here. NULL on failure.
struct tokenizer *tokenizer_from_json(const char *json_path, const char *config_path, struct err *err);
// llama2.c's tokenizer.bin for a model of vocab tokens (-1: as many as there are): id 0 unknown, 1 BOS, 2 EOS, 3..258
// bytes. A file with more or fewer tokens is refused: it belongs to another model. NULL on failure.
struct tokenizer *tokenizer_from_llama2c(const char *path, int64_t vocab, struct err *err);
// Any of: "byte"; a GGUF file with a tokenizer; a tokenizer.json (with the tokenizer_config.json beside it); a llama2.c
// tokenizer.bin (vocab as above).
struct tokenizer *tokenizer_open(const char *what, int64_t vocab, struct err *err);
struct tokenizer *tokenizer_byte(void); // the id of a byte is its value, 256 ends a text and begins one
void tokenizer_free(struct tokenizer *t);
// The tokenizer.ggml.* keys llama.cpp reads.
void tokenizer_write(const struct tokenizer *t, struct gguf_out *o);
// As a tokenizer.json, appended to json; lines in notes (may be NULL) say what comes out otherwise there. False, with
// nothing appended, when it has no words for this tokenizer.
MUST_USE bool tokenizer_write_json(const struct tokenizer *t, struct text *json, struct text *notes, struct err *err);

enum tokenizer_kind tokenizer_kind(const struct tokenizer *t);
const char *tokenizer_kind_name(const struct tokenizer *t); // "bpe gpt-2", "spm", "unigram", "byte"
int64_t tokenizer_vocab(const struct tokenizer *t);
uint64_t tokenizer_hash(const struct tokenizer *t); // of kind, token bytes, merges and special ids
int32_t tokenizer_bos(const struct tokenizer *t);   // -1 when there is none
int32_t tokenizer_eos(const struct tokenizer *t);
bool tokenizer_adds_bos(const struct tokenizer *t); // whether a prompt begins with BOS
bool tokenizer_adds_eos(const struct tokenizer *t); // whether a text for training ends with EOS
// Any end-of-generation token: EOS, EOT, EOM, and those known by their spelling ("<|im_end|>", "<end_of_turn>", ...).
// They are control tokens (empty pieces, never out of user text) whatever type the file gives them.
bool tokenizer_is_end(const struct tokenizer *t, int32_t id);
// The end tokens that a model's file names: tokenizer.ggml.{eos,eot,eom}_token_id and lehr.eos_token_ids (what
// generation_config.json lists). Done already where the tokenizer came from that file; to be called, before the tokenizer
// is shared, where it came from elsewhere. False for an id that there is not.
MUST_USE bool tokenizer_take_ends(struct tokenizer *t, const struct model_file *f, struct err *err);
enum token_type tokenizer_type(const struct tokenizer *t, int32_t id);
int32_t tokenizer_find(const struct tokenizer *t, const char *spelling, size_t n); // as it stands in the vocabulary; -1 when absent
// The token as it stands in the vocabulary (for listings), and as bytes of text (control tokens: empty).
struct span tokenizer_token(const struct tokenizer *t, int32_t id);
struct span tokenizer_piece(const struct tokenizer *t, int32_t id);
// SPM prints no space for the very first token of a text; first says it is that one.
struct span tokenizer_piece_at(const struct tokenizer *t, int32_t id, bool first);

// Add BOS if the model wants one; control spellings count; add EOS if the model wants one; the text goes on from another,
// so that no space is put in front.
enum tokenize_flags { TOKENIZE_BOS = 1, TOKENIZE_SPECIAL = 2, TOKENIZE_EOS = 4, TOKENIZE_INSIDE = 8 };
// Appends the ids of n bytes to out. Never fails: every byte string has ids. Where the text itself begins with a
// spelling of BOS that counts (chat templates do that), there is one BOS, not two; EOS at the end likewise.
void tokenizer_encode(const struct tokenizer *t, const char *text, size_t n, unsigned flags, struct ids *out);
// The same for a text whose marked bytes (marks[i] != 0) come from somebody else: control spellings count where none of
// their bytes is marked, whatever the flags say. marks may be NULL.
void tokenizer_encode_marked(const struct tokenizer *t, const char *text, const char *marks, size_t n, unsigned flags,
                             struct ids *out);

// Streaming decode: bytes that do not yet end a UTF-8 character are held back; invalid ones pass as they are at
// the next call that shows they cannot complete. 0-initialise.
struct utf8_hold {
    char held[4];
    int n;
};
// Appends to out what of held + bytes is complete; flush at the end appends U+FFFD for what is left.
void utf8_hold_feed(struct utf8_hold *h, const char *bytes, size_t n, struct text *out);
void utf8_hold_flush(struct utf8_hold *h, struct text *out);

// A part of a vocabulary as a tokenizer of its own (part.c). keep: one for each token. What every part needs: bytes, control
// tokens (named ones alone where there are many), and a token with all that it is merged from; both tell how many are new.
size_t tokenizer_part_least(const struct tokenizer *t, bool *keep);
size_t tokenizer_part_add(const struct tokenizer *t, int32_t id, bool *keep);
// The tokens that were marked by these two, in their order. A text whose tokens by t are all kept has the same ones by the part.
struct tokenizer *tokenizer_part(const struct tokenizer *t, const bool *keep, struct err *err); // NULL on failure

// Training. documents are n spans; vocab >= 257: 256 bytes, merges, and the last id is "<|endoftext|>" (control, EOS and BOS). Uses
// the pool; the result depends only on the multiset of pre-tokens (ties: the smaller pair of ids). If the text
// runs out of pairs that occur twice, the vocabulary is smaller than asked. max_bytes: train on about that many bytes, 0
// for all, chosen as whole documents (pieces of 256 KB of long ones) spread evenly. The documents may go after. Adds BOS:
// it stands in front of every document. (Sennrich et al. 2016; incremental pair counts with a heap.)
struct tokenizer *tokenizer_train(const struct span *documents, size_t n, int64_t vocab, size_t max_bytes, struct err *err);

#endif
