// What the files of this folder share: the tokenizer itself, the recipe it is made from, the
// encoder at work.
//
//   hf.c              tokenizer.json -> recipe
//   hf_out.c          tokenizer -> tokenizer.json
//   load.c            files and the built-in byte vocabulary -> recipe; tokenizer -> keys of a GGUF file
//   tokenizer.c       recipe -> tokenizer: checks, the token table, pieces, the hash; all small questions about one
//   ends.c            which tokens end a generation
//   encode.c          text -> parts between control spellings -> pieces -> ids, with a cache of pieces for long texts
//   pretokenize.c     where a piece ends, for every known pattern; pretokenizers.c: the patterns by name and text
//   normalize.c       what happens to a text before it is cut
//   bpe.c, spm.c      one piece -> ids: merging, and what a merge is for each kind
//   unigram.c         one piece -> ids: the most probable segmentation
//   train.c           documents -> recipe
//   part.c            tokenizer -> recipe of a part of it
//   utf8.c, spell.c   characters and the streaming hold; bytes as spelled
//   unicode.c, unicode_more.c   classes and normal forms; words and clusters
#ifndef LEHR_TOKENIZER_INTERNAL_H
#define LEHR_TOKENIZER_INTERNAL_H

#include "tokenizer/tokenizer.h"

// Pieces and tokens are at most this long, so that 32 bits hold every position. A longer run of one
// class of characters is cut here; only its ids at the cut could differ from those of an unbounded
// encoder.
#define PIECE_MAX ((size_t)1 << 24)
#define VOCAB_MAX ((size_t)1 << 22)
// Control tokens with longer spellings exist, but no text is ever read as one: bounds the search at
// a position.
#define SPECIAL_MAX ((size_t)256)

// ---- utf8.c

#define UTF8_BAD 0x110000u // no character: an invalid byte
// Length of the character at p (n > 0 bytes) and its code point; an invalid byte has length 1 and
// UTF8_BAD.
size_t utf8_decode(const char *p, size_t n, uint32_t *code);
size_t utf8_encode(uint32_t code, char out[4]);

// ---- unicode.c

// What the patterns of pre-tokenizers tell apart; KIND_PUNCT_NEW is punctuation that the pre-tokenizer "Punctuation",
// of an older Unicode, does not know.
enum char_kind {
    KIND_OTHER,
    KIND_UPPER,
    KIND_LOWER,
    KIND_TITLE,
    KIND_MODIFIER,
    KIND_LETTER,
    KIND_MARK,
    KIND_NUMBER,
    KIND_PUNCT,
    KIND_PUNCT_NEW,
    KIND_SYMBOL,
    KIND_SPACE
};
#define IS_LETTER                                                                                  \
    (1u << KIND_UPPER | 1u << KIND_LOWER | 1u << KIND_TITLE | 1u << KIND_MODIFIER |                \
     1u << KIND_LETTER)                                              // \p{L}
#define IS_MARK (1u << KIND_MARK)                                    // \p{M}
#define IS_NUMBER (1u << KIND_NUMBER)                                // \p{N}
#define IS_PUNCT (1u << KIND_PUNCT | 1u << KIND_PUNCT_NEW)           // \p{P}
#define IS_SYMBOL (1u << KIND_SYMBOL)                                // \p{S}
#define IS_SPACE (1u << KIND_SPACE)                                  // \s
enum char_kind char_kind(uint32_t code);
enum char_class { CHAR_OTHER, CHAR_LETTER, CHAR_NUMBER, CHAR_SPACE };
enum char_class char_class(uint32_t code);

struct codes {
    uint32_t *code;
    size_t count, cap;
};
// How many bytes at the start are in Normalization Form C for certain, whatever follows.
size_t nfc_prefix(const char *text, size_t n);
void nfc_add(const char *text, size_t n, struct text *out); // appends the text in form C
enum normal_form { FORM_NFC, FORM_NFD, FORM_NFKC, FORM_NFKD };
void form_add(const char *text, size_t n, enum normal_form form, struct text *out); // the same for any form

// ---- unicode_more.c

bool is_word(uint32_t code); // \w
bool is_han(uint32_t code);  // \p{Han}
// The complete compatibility decomposition of a code point, 0 where it is the canonical one.
size_t compat_find(uint32_t code, const uint32_t **to);
size_t cluster_length(const char *text, size_t n); // bytes of the first grapheme cluster, n > 0

// ---- normalize.c

#define STEPS_MAX 16
#define GROWTH_MAX 2048 // times as long as it was, a text after all steps

enum normalize_kind { // the first four as enum normal_form
    NORMALIZE_NFC,
    NORMALIZE_NFD,
    NORMALIZE_NFKC,
    NORMALIZE_NFKD,
    NORMALIZE_STRIP,
    NORMALIZE_REPLACE,
    NORMALIZE_BLANKS,
    NORMALIZE_CHARSMAP,
    NORMALIZE_LONGEST,
    NORMALIZE_SPACES,
    NORMALIZE_TRIM,
    NORMALIZE_COUNT
};
enum normalize_flags { STRIP_LEFT = 1, STRIP_RIGHT = 2, SPACES_PREFIX = 1, SPACES_MERGE = 2 };
struct normalize_step {
    enum normalize_kind kind;
    unsigned flags;
    struct span from, to;
};
struct charsmap { // 0-initialised: none
    uint32_t *unit;
    size_t n_units, pool_bytes, longest;
    char *pool; // NUL behind the end
};
struct tokenizer;
const char *normalize_name(enum normalize_kind kind);
bool normalize_find(struct span name, enum normalize_kind *kind);
MUST_USE bool charsmap_make(struct charsmap *m, struct span blob, struct err *err); // free it whatever comes out
void charsmap_free(struct charsmap *m);
// False where steps would make texts absurdly long.
MUST_USE bool steps_growth(const struct normalize_step *step, size_t n, const struct charsmap *map, struct err *err);
// The text after all steps, in one of the buffers (or as it was); inside: it goes on from another. True: what stood first in
// the text is gone.
bool normalize_all(const struct tokenizer *t, const char *text, size_t n, bool inside, struct text buffer[2], struct span *out);

// ---- pretokenize.c, pretokenizers.c

#define STAGES_MAX 8

// One way to split a text; a pre-tokenizer is up to STAGES_MAX of them, each splitting the pieces of the one before.
struct splitter {
    const char *name; // our word for it, as files keep it
    size_t (*length)(const struct splitter *s, const char *text, size_t n); // of the first piece, n > 0
    // What differs inside a family of patterns (pretokenize.c).
    unsigned digits, in, lead, tail;
    bool contractions, suffixes, cased, marks, han;
    bool (*member)(uint32_t code, unsigned is);
};
enum split {
    SPLIT_GPT2,
    SPLIT_LLAMA3,
    SPLIT_LLAMA3_RUNS,
    SPLIT_QWEN2,
    SPLIT_QWEN35,
    SPLIT_SEED_CODER,
    SPLIT_TEKKEN,
    SPLIT_GPT4O,
    SPLIT_KIMI,
    SPLIT_UFAKZEKA,
    SPLIT_LINES,
    SPLIT_DEEPSEEK3,
    SPLIT_DIGITS_EACH,
    SPLIT_DIGITS_RUN,
    SPLIT_NUMBER_EACH,
    SPLIT_NUMBER_RUN,
    SPLIT_NUMBER_3,
    SPLIT_ASCII_3,
    SPLIT_PUNCTUATION,
    SPLIT_PUNCT_DEFAULT,
    SPLIT_NEWLINE,
    SPLIT_LETTERS,
    SPLIT_PUNCTS,
    SPLIT_CASED_LETTERS,
    SPLIT_WIDE_PUNCTS,
    SPLIT_LAST_SPACES,
    SPLIT_CJK,
    SPLIT_HAN_KANA,
    SPLIT_BLOOM,
    SPLIT_COUNT
};
extern const struct splitter splitters[SPLIT_COUNT];

enum pretokenizer_flags {
    PRE_NFC = 1,   // the text is brought to form C first
    PRE_WHOLE = 2, // a piece that is a token is that token, whatever the merges say
    PRE_BOS = 4    // adds BOS when the file does not say
};
struct pretokenizer {
    const char *names; // that tokenizer.ggml.pre has for it, with spaces between
    unsigned flags;
    const struct splitter *stage[STAGES_MAX]; // the rest NULL
};
const struct pretokenizer *pretokenizer_find(const char *name, size_t n); // NULL: unknown
const struct pretokenizer *pretokenizer_row(size_t i);                    // NULL past the end
const struct splitter *splitter_find(const char *name, size_t n);         // by our word
// By the text of a pattern as tokenizer.json has it; NULL: unknown.
const struct splitter *splitter_of_pattern(const char *pattern, size_t n);
const char *splitter_pattern(const struct splitter *s); // the way back, one of its texts; NULL: has none

struct pieces { // a text being split; 0-initialise the rest
    const struct splitter *const *stage;
    const char *text;
    size_t n, at, end[STAGES_MAX];
};
size_t pieces_next(struct pieces *p); // length of the piece at p->at, which moves behind it; 0 at the end

// Length of the first pre-token of a text of n > 0 bytes under the GPT-2 pattern.
size_t pretoken_length(const char *text, size_t n);

// ---- spell.c

// GPT-2's printable spelling of bytes: bytes -> spelling, and back (false when a character is no
// byte's spelling).
uint32_t byte_spelling(unsigned char byte);
void bytes_spell(const char *bytes, size_t n, struct text *out);
bool bytes_unspell(const char *spelling, size_t n, char *out, size_t *out_n); // out: room for n

// ---- the tokenizer

struct token_slot {          // of the table of spellings; open addressing
    uint32_t tag, id_plus_1; // upper half of the hash; 0 in an empty slot
};
struct merge_rule { // bytes of left and right together are those of result; rank is the line,
                    // lowest first
    int32_t left, right, result; // left is -1 in an empty slot
    uint32_t rank;
};

struct trie_node {
    uint32_t child; // the first of them
    int32_t id;     // -1: no token ends here
    uint16_t n_children;
    unsigned char byte;
};
struct unigram {
    double *logp, unknown_logp;
    struct trie_node *node; // 0: the root
    size_t n_nodes;
};

enum space_prefix { PREFIX_NEVER, PREFIX_ALWAYS, PREFIX_FIRST }; // every stretch of text, or at the very start

struct tokenizer {
    enum tokenizer_kind kind;
    size_t n;                   // vocabulary
    struct span *token, *piece; // as spelled, and as bytes of text; both in `bytes`
    char *bytes;
    unsigned char *type; // enum token_type
    float *score;        // SPM, else NULL
    struct token_slot *table;
    size_t table_mask;
    size_t longest;       // spelling that can stand in text, in bytes
    int32_t byte_id[256]; // -1: has no token (SPM with an unknown token only)
    int32_t bos, eos, eot, eom, unknown;
    bool adds_bos, adds_eos, space_prefix, cuts_at_spaces;
    // BPE: how a text is split, by which name (tokenizer.ggml.pre), and what pretokenizer_flags say.
    const struct splitter *stage[STAGES_MAX];
    char pre[48], kind_name[64];
    bool ignores_merges;
    // What a text goes through first; spans into step_bytes.
    struct normalize_step step[STEPS_MAX];
    size_t n_steps;
    struct text step_bytes;
    struct charsmap map;
    struct text map_blob; // as it stands in files
    bool nfc;             // form C is the only step
    // Unigram: tokens below n_scored come out of text (0: by the types); bytes for what is unknown; words between white
    // space, which is dropped; spaces are marked by the last step already.
    struct unigram unigram;
    size_t n_scored;
    bool falls_back, splits_words, spaces_done;
    bool splits_lines; // SPM: runs of line ends are pieces (Gemma 4)
    // SPM from tokenizer.json: merges by rules as BPE; where a space goes in front, whether not before another one
    // (Metaspace), whether every space begins a piece; neighbours that are unknown are one token.
    bool all_bytes; // every byte has a token
    bool by_rules, metaspace, splits_spaces, fuses_unknown;
    enum space_prefix prefix;
    int32_t *added; // pairs of id and added_flags as tokenizer.json had them; NULL: by the types
    size_t n_added;
    int32_t *ends; // sorted
    size_t n_ends;
    // BPE: the rules in rank order, and a table of them by (left, right).
    struct merge_rule *rules, *rule_slots;
    size_t n_rules, rule_mask;
    // Tokens that are split out of the text first: control, unknown and user-defined ones; the
    // user-defined alone.
    struct special_list {
        struct special_token {
            struct span text;
            int32_t id;
            bool lstrip, rstrip; // takes the spaces in front, behind
            bool single_word;    // only where no word character touches it
            bool control;        // tokenizer.json: passed over unless control spellings count
        } * token;                // sorted by spelling
        size_t count, first[257]; // where those with first byte c begin
    } special, user, late; // late: found in the normalized text (tokenizer.json)
    struct text late_bytes;                   // their spellings
    uint64_t hash; // 0: made when somebody asks, which few programs do
};
// Before types change: the hash is that of what the tokenizer was made from.
void tokenizer_keep_hash(struct tokenizer *t);

// Whether U+2581 stands for spaces: SentencePiece's kinds.
static inline bool marks_spaces(const struct tokenizer *t) { return t->kind == TOKENIZER_SPM || t->kind == TOKENIZER_UNIGRAM; }

// Everything a tokenizer is made from; spans are borrowed during the call. Merges are lines "left
// right" in spellings.
struct added_token {
    struct span text;
    int32_t id;
    bool special, lstrip, rstrip, normalized, single_word;
};
enum added_flags { ADDED_SPECIAL = 1, ADDED_LSTRIP = 2, ADDED_RSTRIP = 4, ADDED_NORMALIZED = 8, ADDED_SINGLE_WORD = 16 };
struct recipe {
    enum tokenizer_kind kind;
    const struct span *tokens;
    const unsigned char *types; // NULL: taken from the spellings and the special ids
    const float *scores;
    size_t n;
    const struct span *merges, *merge_right; // with merge_right, merges are the left parts
    size_t n_merges;
    const struct added_token *added; // what is split out; NULL: what the types say
    size_t n_added;
    int64_t bos, eos, eot, eom, unknown; // -1: none
    bool adds_bos, adds_eos, space_prefix;
    const struct splitter *const *stage; // BPE; NULL: GPT-2
    struct span pre;                     // its name, empty with stage NULL
    bool nfc, ignores_merges;
    const struct normalize_step *step; // instead of nfc
    size_t n_steps;
    struct span charsmap;              // for the step of that kind
    const double *logp;                // Unigram; NULL: the scores
    size_t n_scored;
    bool falls_back, splits_words, splits_lines;
    bool by_rules;                                // SPM: merges instead of scores
    bool metaspace, splits_spaces, fuses_unknown; // SPM
    enum space_prefix prefix;                     // PREFIX_NEVER with space_prefix: PREFIX_ALWAYS
};
struct tokenizer *tokenizer_make(const struct recipe *r, struct err *err); // NULL on failure
// tokenizer_find in steps, for many spellings at a time: what a look-up reads, one place after the other, is asked from memory
// before it is needed.
uint64_t token_hash(struct span spelling);
enum token_expect_step { EXPECT_SLOT, EXPECT_TOKEN, EXPECT_BYTES };
void token_expect(const struct tokenizer *t, uint64_t hash, enum token_expect_step step);
int32_t tokenizer_find_hashed(const struct tokenizer *t, struct span spelling, uint64_t hash);
// The byte that a spelling "<0x0A>" names, -1 when it is no such spelling.
int byte_token_value(struct span spelling);

// ---- ends.c

// Before anything is made of the types: a token that ends a turn is a control token, whatever the file says.
void ends_override_types(struct tokenizer *t);
void ends_make(struct tokenizer *t);

// ---- encoding

struct symbol {                // a stretch of the piece; a list while merging
    uint32_t start, size;      // size 0: merged away
    int32_t before, after, id; // id -1: no token (SPM)
};
struct candidate_merge {     // a heap entry: stale when the two symbols changed in the meantime
    uint32_t rank, at, size; // size of both symbols together
    int32_t id;
};
struct known_piece { // where a piece was met first, in the text and in the ids
    const char *text;
    size_t ids_at;
    uint32_t size, ids_count;
};
struct encoder {
    const struct tokenizer *t;
    struct ids *out;
    struct symbol *symbols;
    struct candidate_merge *heap;
    struct known_piece *known; // NULL for short texts
    size_t symbol_cap, heap_count, heap_cap, known_mask;
    bool special;       // spellings of control tokens count
    bool inside;        // the text goes on from another: no space in front
    const char *marks, *base; // a rendered chat: which bytes of the text at base a user wrote; NULL otherwise
    bool after_unknown; // the piece ended with the unknown token
    struct text escaped; // SPM: the piece with U+2581 for spaces; BPE: the piece as spelled
    struct text buffer[2]; // between the steps of normalization
    struct kept_block {    // stretches that normalization changed; known pieces point into them
        char *data;
        size_t used, size;
    } *kept;
    size_t n_kept, kept_cap;
    struct reached *reached; // unigram.c
    size_t reached_cap;
};

// The merge of two neighbours, if there is one: rank (lower first) and the token they become.
bool bpe_merge(const struct tokenizer *t, int32_t left, int32_t right, uint32_t *rank, int32_t *id);
bool spm_merge(const struct tokenizer *t, const char *both, size_t n, uint32_t *rank, int32_t *id);
// Merges the encoder's first `count` symbols until nothing merges; returns how many are left, in
// order.
size_t merge_symbols(struct encoder *e, const char *piece, size_t count);

bool bpe_rules_make(struct tokenizer *t, const struct recipe *r, struct err *err);
// Length of the first piece of a text that may be merged on its own.
size_t spm_piece_length(const struct tokenizer *t, const char *text, size_t n);
void bpe_encode_piece(struct encoder *e, const char *text, size_t n);
void spm_encode_piece(struct encoder *e, const char *text, size_t n,
                      bool prefix); // prefix: a space in front
// The piece with U+2581 for spaces, in e->escaped where that changes anything.
struct span spm_mark_spaces(struct encoder *e, const char *text, size_t n, bool prefix);
MUST_USE bool unigram_make(struct tokenizer *t, const struct recipe *r, struct err *err);
void unigram_encode_piece(struct encoder *e, const char *text, size_t n, bool prefix);

#endif
