// tokenizer.c: a recipe becomes a tokenizer, and the questions one can ask it.
//
// Everything a file says is checked here once, so that encoding has nothing left that could fail:
//   - spellings are unique; only tokens that are no text may be empty
//   - special ids are -1 or inside the vocabulary
//   - every byte has ids: a byte token, or for SPM an unknown token
//   - merges name text tokens and keep their bytes (bpe.c); scores are finite
// A tokenizer never changes after that; threads share it without locks.
#include "tokenizer/internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define WORD_MARK "\xE2\x96\x81" // U+2581, SentencePiece's space

// ---- the table of spellings

uint64_t token_hash(struct span spelling) { return hash_bytes(1, spelling.p, spelling.n); }

// The slot of a spelling, or the empty one where it belongs.
static struct token_slot *token_slot(const struct tokenizer *t, const char *spelling, size_t n,
                                     uint64_t hash) {
    for (size_t at = (size_t)hash & t->table_mask;; at = (at + 1) & t->table_mask) {
        struct token_slot *slot = &t->table[at];
        if (!slot->id_plus_1) return slot;
        if (slot->tag != (uint32_t)(hash >> 32)) continue;
        struct span s = t->token[slot->id_plus_1 - 1];
        if (s.n == n && !memcmp(s.p, spelling, n)) return slot;
    }
}

int32_t tokenizer_find_hashed(const struct tokenizer *t, struct span s, uint64_t hash) {
    return s.n ? (int32_t)token_slot(t, s.p, s.n, hash)->id_plus_1 - 1 : -1;
}
int32_t tokenizer_find(const struct tokenizer *t, const char *spelling, size_t n) {
    const struct span s = {spelling, n};
    return tokenizer_find_hashed(t, s, token_hash(s));
}

void token_expect(const struct tokenizer *t, uint64_t hash, enum token_expect_step step) {
    const struct token_slot *slot = &t->table[(size_t)hash & t->table_mask];
    if (step == EXPECT_SLOT)
        __builtin_prefetch(slot);
    else if (slot->id_plus_1 && step == EXPECT_TOKEN)
        __builtin_prefetch(&t->token[slot->id_plus_1 - 1]);
    else if (slot->id_plus_1)
        __builtin_prefetch(t->token[slot->id_plus_1 - 1].p);
}

// The hashes of the next few tokens, their slots on the way from memory.
enum { TOKENS_AHEAD = 16 };
static uint64_t hash_ahead(const struct tokenizer *t, size_t i) {
    const uint64_t hash = i < t->n ? token_hash(t->token[i]) : 0;
    token_expect(t, hash, EXPECT_SLOT);
    return hash;
}

static bool table_make(struct tokenizer *t, struct err *err) {
    size_t slots = 16;
    while (slots < 2 * t->n) slots *= 2;
    t->table = mem_array(slots, sizeof *t->table, "token table");
    t->table_mask = slots - 1;
    uint64_t ahead[TOKENS_AHEAD];
    for (size_t i = 0; i < TOKENS_AHEAD; i++) ahead[i] = hash_ahead(t, i);
    for (size_t i = 0; i < t->n; i++) {
        struct span s = t->token[i];
        const uint64_t hash = ahead[i % TOKENS_AHEAD];
        ahead[i % TOKENS_AHEAD] = hash_ahead(t, i + TOKENS_AHEAD);
        if (!s.n) {
            if (t->type[i] == TOKEN_NORMAL)
                return err_set(err, "token %zu is empty, yet said to be text", i);
            continue;
        }
        struct token_slot *slot = token_slot(t, s.p, s.n, hash);
        if (slot->id_plus_1)
            return err_set(
                err,
                "tokens %u and %zu are spelled alike, \"%.*s\"; every token needs its own spelling",
                slot->id_plus_1 - 1, i, s.n < 60 ? (int)s.n : 60, s.p);
        *slot = (struct token_slot){(uint32_t)(hash >> 32), (uint32_t)i + 1};
    }
    return true;
}

// ---- making

static bool recipe_ids_good(const struct recipe *r, struct err *err) {
    if (r->n == 0 || r->n > VOCAB_MAX)
        return err_set(err, "expected 1 to %zu tokens, found %zu", VOCAB_MAX, r->n);
    const struct {
        const char *name;
        int64_t id;
    } special[] = {{"BOS", r->bos}, {"EOS", r->eos}, {"EOT", r->eot}, {"EOM", r->eom}, {"unknown", r->unknown}};
    for (size_t i = 0; i < COUNT_OF(special); i++)
        if (special[i].id < -1 || special[i].id >= (int64_t)r->n)
            return err_set(err, "the %s token has id %lld, the vocabulary ends at %zu",
                           special[i].name, (long long)special[i].id, r->n - 1);
    return true;
}

// Types for a file that has none: what the spellings and the special ids say.
static unsigned char type_guess(const struct recipe *r, size_t i) {
    if ((int64_t)i == r->unknown) return TOKEN_UNKNOWN;
    if ((int64_t)i == r->bos || (int64_t)i == r->eos || (int64_t)i == r->eot ||
        (int64_t)i == r->eom)
        return TOKEN_CONTROL;
    return r->kind == TOKENIZER_SPM && byte_token_value(r->tokens[i]) >= 0 ? TOKEN_BYTE
                                                                           : TOKEN_NORMAL;
}

static bool tokens_copy(struct tokenizer *t, const struct recipe *r, struct err *err) {
    size_t bytes = 0;
    for (size_t i = 0; i < r->n; i++) {
        if (r->tokens[i].n > PIECE_MAX)
            return err_set(err, "token %zu has %zu bytes, at most %zu make sense", i,
                           r->tokens[i].n, PIECE_MAX);
        if (!size_add(bytes, 2 * r->tokens[i].n, &bytes))
            return err_set(err, "the tokens are too long together");
    }
    t->n = r->n;
    t->token = mem_array(t->n, sizeof *t->token, "tokens");
    t->piece = mem_array(t->n, sizeof *t->piece, "token pieces");
    t->type = mem_array(t->n, 1, "token types");
    t->bytes = mem_alloc(bytes, "token bytes");
    char *at = t->bytes;
    for (size_t i = 0; i < t->n; i++) {
        size_t n = r->tokens[i].n;
        if (n) memcpy(at, r->tokens[i].p, n);
        t->token[i] = (struct span){at, n};
        at += n;
        unsigned char type = r->types ? r->types[i] : type_guess(r, i);
        if (type == 0) type = TOKEN_NORMAL; // "undefined" in some files
        if (type > TOKEN_BYTE)
            return err_set(err, "token %zu has type %d, known are 1 to %d", i, type, TOKEN_BYTE);
        // "<0xZZ>" is no byte, whatever the file says: plain text.
        if (marks_spaces(t) && type == TOKEN_BYTE && byte_token_value(t->token[i]) < 0)
            type = TOKEN_NORMAL;
        t->type[i] = type;
    }
    if (!r->scores) return true;
    t->score = mem_array(t->n, sizeof *t->score, "token scores");
    for (size_t i = 0; i < t->n; i++) {
        if (!isfinite(r->scores[i]))
            return err_set(err, "token %zu has a score that is no finite number", i);
        t->score[i] = r->scores[i] + 0.0f; // makes -0 equal 0 in bits too
    }
    return true;
}

// What a token stands for in text, written at out (room for its spelling); its length.
static size_t piece_write(const struct tokenizer *t, size_t i, char *out) {
    struct span s = t->token[i];
    unsigned char type = t->type[i];
    if (type == TOKEN_CONTROL || type == TOKEN_UNKNOWN) return 0;
    size_t n = 0;
    if (marks_spaces(t)) {
        if (type == TOKEN_BYTE) {
            *out = (char)byte_token_value(s);
            return 1;
        }
        bool marks = type != TOKEN_USER || t->by_rules || t->n_scored; // GGUF has spaces in user-defined tokens, tokenizer.json marks
        for (size_t at = 0; marks && at < s.n; n++) {
            bool mark = s.n - at >= 3 && !memcmp(s.p + at, WORD_MARK, 3);
            out[n] = mark ? ' ' : s.p[at];
            at += mark ? 3 : 1;
        }
        if (marks) return n;
    } else if (type != TOKEN_USER && bytes_unspell(s.p, s.n, out, &n)) {
        return n;
    }
    if (s.n) memcpy(out, s.p, s.n); // stands for itself
    return s.n;
}

static void pieces_make(struct tokenizer *t) {
    const struct span last = t->token[t->n - 1];
    char *at = t->bytes + (last.p + last.n - t->bytes);
    for (size_t i = 0; i < t->n; i++) {
        size_t n = piece_write(t, i, at);
        t->piece[i] = (struct span){at, n};
        at += n;
    }
}

// Bytes that no UTF-8 text has, those of the unused planes, and controls: real vocabularies of BPE lack some.
static bool byte_may_lack(int byte) { return byte < 0x20 || byte == 0x7F || byte == 0xC0 || byte == 0xC1 || byte > 0xF0; }

static bool bytes_find(struct tokenizer *t, struct err *err) {
    for (int i = 0; i < 256; i++) t->byte_id[i] = -1;
    if (marks_spaces(t)) {
        for (size_t i = t->n; i-- > 0;)
            if (t->type[i] == TOKEN_BYTE) t->byte_id[byte_token_value(t->token[i])] = (int32_t)i;
    } else {
        for (int i = 0; i < 256; i++) {
            char spelling[4], byte = (char)i;
            int32_t id =
                tokenizer_find(t, spelling, utf8_encode(byte_spelling((unsigned char)i), spelling));
            if (id >= 0 && t->piece[id].n == 1 && t->piece[id].p[0] == byte) t->byte_id[i] = id;
        }
    }
    t->all_bytes = true;
    for (int i = 0; i < 256; i++) t->all_bytes = t->all_bytes && t->byte_id[i] >= 0;
    for (int i = 0; i < 256; i++)
        if (t->byte_id[i] < 0 && (t->kind == TOKENIZER_BPE ? !byte_may_lack(i) : t->unknown < 0))
            return err_set(err, "byte 0x%02X has no token, so that some texts could not be told%s",
                           i,
                           marks_spaces(t) ? " (there is no unknown token either)" : "");
    return true;
}

static int special_order(const void *a, const void *b) {
    const struct special_token *x = a, *y = b;
    size_t n = x->text.n < y->text.n ? x->text.n : y->text.n;
    int order = memcmp(x->text.p, y->text.p, n);
    return order ? order : (x->text.n > y->text.n) - (x->text.n < y->text.n);
}

static void special_list_sort(struct special_list *list) {
    if (list->count) qsort(list->token, list->count, sizeof *list->token, special_order);
    size_t at = 0;
    for (size_t c = 0; c < 256; c++) {
        list->first[c] = at;
        while (at < list->count && (unsigned char)list->token[at].text.p[0] == c) at++;
    }
    list->first[256] = at;
}

// Phi-3's role tokens take the white space behind them, as its tokenizer.json says; a GGUF file has no place for that, so its
// vocabulary is known by its spellings.
static bool is_phi3(const struct tokenizer *t) {
    return t->kind == TOKENIZER_SPM && tokenizer_find(t, "<|placeholder1|>", 16) >= 0 && tokenizer_find(t, "<|assistant|>", 13) >= 0;
}

static bool takes_space(struct span s) {
    static const char *const not[] = {"<unk>", "<s>", "<|endoftext|>"};
    for (size_t i = 0; i < COUNT_OF(not); i++)
        if (s.n == strlen(not[i]) && !memcmp(s.p, not[i], s.n)) return false;
    return true;
}

static void special_list_make(const struct tokenizer *t, bool control, struct special_list *list) {
    bool phi3 = is_phi3(t);
    list->token = mem_array(t->n, sizeof *list->token, "special tokens");
    for (size_t i = 0; i < t->n; i++) {
        bool is = t->type[i] == TOKEN_USER ||
                  (control && (t->type[i] == TOKEN_CONTROL || t->type[i] == TOKEN_UNKNOWN));
        if (is && t->token[i].n > 0 && t->token[i].n <= SPECIAL_MAX)
            list->token[list->count++] = (struct special_token){.text = t->token[i], .id = (int32_t)i,
                                                                    .rstrip = phi3 && takes_space(t->token[i])};
    }
    special_list_sort(list);
}

// The spelling that a "normalized" added token has in normalized text.
static void late_spelling(const struct tokenizer *t, struct span s, struct text *out) {
    struct text buffer[2] = {{0}, {0}};
    struct span normal;
    normalize_all(t, s.p, s.n, false, buffer, &normal);
    bool marks = marks_spaces(t) && !t->metaspace;
    if (marks && t->prefix != PREFIX_NEVER && normal.n) text_str(out, WORD_MARK);
    for (size_t i = 0; i < normal.n; i++) {
        bool space = marks && normal.p[i] == ' ';
        text_add(out, space ? WORD_MARK : normal.p + i, space ? 3 : 1);
    }
    text_free(&buffer[0]);
    text_free(&buffer[1]);
}

// The lists as tokenizer.json gives them: found in the text as it is, or (late) in the normalized text.
static void added_lists_make(struct tokenizer *t, const struct recipe *r) {
    struct special_list *lists[] = {&t->special, &t->user, &t->late};
    size_t *ends = mem_array(r->n_added + 1, sizeof *ends, "added tokens");
    t->n_added = r->n_added;
    t->added = mem_array(2 * r->n_added + 1, sizeof *t->added, "added tokens");
    for (size_t i = 0; i < r->n_added; i++) {
        const struct added_token *a = &r->added[i];
        t->added[2 * i] = a->id;
        t->added[2 * i + 1] = (a->special ? ADDED_SPECIAL : 0) | (a->lstrip ? ADDED_LSTRIP : 0) |
                              (a->rstrip ? ADDED_RSTRIP : 0) | (a->normalized ? ADDED_NORMALIZED : 0) |
                              (a->single_word ? ADDED_SINGLE_WORD : 0);
        if (r->added[i].normalized) late_spelling(t, r->added[i].text, &t->late_bytes);
        ends[i] = t->late_bytes.len;
    }
    for (size_t k = 0; k < COUNT_OF(lists); k++) {
        lists[k]->token = mem_array(r->n_added, sizeof *lists[k]->token, "special tokens");
        for (size_t i = 0, from = 0; i < r->n_added; from = ends[i++]) {
            const struct added_token *a = &r->added[i];
            struct span s = a->normalized ? (struct span){t->late_bytes.data + from, ends[i] - from} : t->token[a->id];
            if (a->normalized != (k == 2) || (k == 1 && a->special) || s.n > SPECIAL_MAX || !s.n) continue;
            lists[k]->token[lists[k]->count++] =
                (struct special_token){s, a->id, a->lstrip, a->rstrip, a->single_word, a->special};
        }
        special_list_sort(lists[k]);
    }
    mem_free(ends);
}

// How long a token of text can be, and whether no token has a space behind another character.
static void facts_find(struct tokenizer *t) {
    t->cuts_at_spaces = marks_spaces(t) && (t->kind == TOKENIZER_SPM || tokenizer_find(t, WORD_MARK, 3) >= 0);
    for (size_t i = 0; i < t->n; i++) {
        unsigned char type = t->type[i];
        if (type == TOKEN_CONTROL || type == TOKEN_UNKNOWN || type == TOKEN_BYTE) continue;
        struct span s = t->token[i];
        if (s.n > t->longest) t->longest = s.n;
        if (!marks_spaces(t)) continue;
        for (size_t at = 1; at + 3 <= s.n; at++)
            if (!memcmp(s.p + at, WORD_MARK, 3) &&
                (at < 3 || memcmp(s.p + at - 3, WORD_MARK, 3) != 0))
                t->cuts_at_spaces = false;
    }
}

static uint64_t hash_make(const struct tokenizer *t) {
    int64_t head[] = {t->kind, (int64_t)t->n, t->bos,      t->eos,
                      t->eot,  t->unknown,    t->adds_bos, t->space_prefix};
    uint64_t h = hash_bytes(0, head, sizeof head);
    for (size_t i = 0; i < t->n; i++) {
        h = hash_bytes(h ^ t->type[i], t->token[i].p, t->token[i].n);
        if (t->kind == TOKENIZER_SPM && t->score) h = hash_bytes(h, &t->score[i], sizeof t->score[i]);
    }
    for (size_t i = 0; i < t->n_rules; i++) {
        int32_t rule[3] = {t->rules[i].left, t->rules[i].right, t->rules[i].result};
        h = hash_bytes(h, rule, sizeof rule);
    }
    // What came later counts only where it differs from what there was, so that hashes stay.
    for (size_t i = 0; i < STAGES_MAX && t->stage[i]; i++)
        if (t->stage[i] != &splitters[SPLIT_GPT2] || i) h = hash_bytes(h, t->stage[i]->name, strlen(t->stage[i]->name));
    if (t->nfc || t->ignores_merges || t->adds_eos)
        h = hash_bytes(h ^ (unsigned)(t->nfc + 2 * t->ignores_merges + 4 * t->adds_eos), "flags", 5);
    if (t->kind == TOKENIZER_UNIGRAM) h = hash_bytes(h, t->unigram.logp, t->n * sizeof *t->unigram.logp);
    for (size_t i = 0; i < t->n_steps && !t->nfc; i++) {
        h = hash_bytes(h ^ t->step[i].flags, normalize_name(t->step[i].kind), 3);
        h = hash_bytes(h ^ t->step[i].from.n, t->step[i].from.p, t->step[i].from.n);
        h = hash_bytes(h, t->step[i].to.p, t->step[i].to.n);
    }
    if (t->map_blob.len) h = hash_bytes(h, t->map_blob.data, t->map_blob.len);
    return h;
}

// The steps with their texts, and the map among them.
static bool steps_copy(struct tokenizer *t, const struct recipe *r, struct err *err) {
    static const struct normalize_step nfc = {.kind = NORMALIZE_NFC};
    const struct normalize_step *from = r->nfc ? &nfc : r->step;
    t->n_steps = r->nfc ? 1 : r->n_steps;
    assert(t->n_steps <= STEPS_MAX);
    size_t room = 0;
    for (size_t i = 0; i < t->n_steps; i++) room += from[i].from.n + from[i].to.n;
    mem_grow((void **)&t->step_bytes.data, &t->step_bytes.cap, room + 1, 1, "normalizers"); // the spans stay where they are
    bool maps = false;
    for (size_t i = 0; i < t->n_steps; i++) {
        const struct span of[] = {from[i].from, from[i].to};
        struct span *to[] = {&t->step[i].from, &t->step[i].to};
        t->step[i] = from[i];
        for (int k = 0; k < 2; k++) {
            *to[k] = (struct span){t->step_bytes.data + t->step_bytes.len, of[k].n};
            if (of[k].n) text_add(&t->step_bytes, of[k].p, of[k].n);
        }
        maps |= from[i].kind == NORMALIZE_CHARSMAP || from[i].kind == NORMALIZE_LONGEST;
    }
    t->nfc = t->n_steps == 1 && t->step[0].kind == NORMALIZE_NFC;
    t->spaces_done = t->n_steps && t->step[t->n_steps - 1].kind == NORMALIZE_SPACES;
    if (maps && r->charsmap.n) {
        text_add(&t->map_blob, r->charsmap.p, r->charsmap.n);
        if (!charsmap_make(&t->map, r->charsmap, err)) return false;
    }
    return steps_growth(t->step, t->n_steps, &t->map, err);
}

static void pre_copy(struct tokenizer *t, const struct recipe *r) {
    t->stage[0] = &splitters[SPLIT_GPT2];
    if (r->stage) memcpy(t->stage, r->stage, sizeof t->stage);
    snprintf(t->pre, sizeof t->pre, "%.*s", r->stage ? (int)r->pre.n : 5, r->stage ? r->pre.p : "gpt-2");
    if (t->kind == TOKENIZER_BPE)
        snprintf(t->kind_name, sizeof t->kind_name, "bpe %s", t->pre);
    else
        snprintf(t->kind_name, sizeof t->kind_name, "%s",
                 t->kind == TOKENIZER_SPM ? "spm" : t->kind == TOKENIZER_UNIGRAM ? "unigram" : "byte");
}

static bool merging_make(struct tokenizer *t, const struct recipe *r, struct err *err) {
    if (t->kind == TOKENIZER_UNIGRAM) return unigram_make(t, r, err);
    return (t->kind == TOKENIZER_SPM && !t->by_rules) || bpe_rules_make(t, r, err);
}

struct tokenizer *tokenizer_make(const struct recipe *r, struct err *err) {
    struct tokenizer *t = mem_alloc(sizeof *t, "tokenizer");
    *t = (struct tokenizer){.kind = r->kind,
                            .adds_bos = r->adds_bos && r->bos >= 0,
                            .adds_eos = r->adds_eos && r->eos >= 0,
                            .n_scored = r->n_scored,
                            .falls_back = r->falls_back,
                            .splits_words = r->splits_words,
                            .splits_lines = r->splits_lines,
                            .ignores_merges = r->ignores_merges,
                            .by_rules = r->kind == TOKENIZER_SPM && r->by_rules,
                            .metaspace = r->metaspace,
                            .splits_spaces = r->splits_spaces,
                            .fuses_unknown = r->fuses_unknown,
                            .prefix = r->space_prefix && !r->prefix ? PREFIX_ALWAYS : r->prefix,
                            .space_prefix = r->space_prefix,
                            .bos = (int32_t)r->bos,
                            .eos = (int32_t)r->eos,
                            .eot = (int32_t)r->eot,
                            .eom = (int32_t)r->eom,
                            .unknown = (int32_t)r->unknown};
    pre_copy(t, r);
    bool good = recipe_ids_good(r, err) && tokens_copy(t, r, err) && table_make(t, err) && steps_copy(t, r, err);
    if (good) {
        ends_override_types(t);
        pieces_make(t);
        good = bytes_find(t, err) && merging_make(t, r, err);
    }
    if (!good) {
        tokenizer_free(t);
        return NULL;
    }
    ends_make(t);
    if (r->added) {
        added_lists_make(t, r);
    } else {
        special_list_make(t, true, &t->special);
        special_list_make(t, false, &t->user);
    }
    facts_find(t);
    return t;
}

void tokenizer_free(struct tokenizer *t) {
    if (!t) return;
    mem_free(t->token);
    mem_free(t->piece);
    mem_free(t->bytes);
    mem_free(t->type);
    mem_free(t->score);
    mem_free(t->table);
    mem_free(t->rules);
    mem_free(t->rule_slots);
    mem_free(t->ends);
    mem_free(t->added);
    mem_free(t->special.token);
    mem_free(t->user.token);
    mem_free(t->late.token);
    text_free(&t->late_bytes);
    text_free(&t->step_bytes);
    text_free(&t->map_blob);
    charsmap_free(&t->map);
    mem_free(t->unigram.logp);
    mem_free(t->unigram.node);
    mem_free(t);
}

// ---- questions

enum tokenizer_kind tokenizer_kind(const struct tokenizer *t) { return t->kind; }

const char *tokenizer_kind_name(const struct tokenizer *t) {
    return t->kind_name;
}

int64_t tokenizer_vocab(const struct tokenizer *t) { return (int64_t)t->n; }
uint64_t tokenizer_hash(const struct tokenizer *t) { return t->hash ? t->hash : hash_make(t); }
void tokenizer_keep_hash(struct tokenizer *t) { t->hash = tokenizer_hash(t); }
int32_t tokenizer_bos(const struct tokenizer *t) { return t->bos; }
int32_t tokenizer_eos(const struct tokenizer *t) { return t->eos; }
bool tokenizer_adds_bos(const struct tokenizer *t) { return t->adds_bos; }
bool tokenizer_adds_eos(const struct tokenizer *t) { return t->adds_eos; }

static bool in_vocabulary(const struct tokenizer *t, int32_t id) {
    return id >= 0 && (size_t)id < t->n;
}

enum token_type tokenizer_type(const struct tokenizer *t, int32_t id) {
    return in_vocabulary(t, id) ? (enum token_type)t->type[id] : TOKEN_UNUSED;
}

struct span tokenizer_token(const struct tokenizer *t, int32_t id) {
    return in_vocabulary(t, id) ? t->token[id] : (struct span){"", 0};
}

struct span tokenizer_piece(const struct tokenizer *t, int32_t id) {
    return in_vocabulary(t, id) ? t->piece[id] : (struct span){"", 0};
}

struct span tokenizer_piece_at(const struct tokenizer *t, int32_t id, bool first) {
    struct span s = tokenizer_piece(t, id);
    bool drop = first && marks_spaces(t) && t->space_prefix && s.n && s.p[0] == ' ' &&
                t->type[id] != TOKEN_BYTE;
    return drop ? (struct span){s.p + 1, s.n - 1} : s;
}
