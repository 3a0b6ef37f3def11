// encode.c: text to ids.
//
//     text -> split out control spellings (only when asked) and user-defined tokens, leftmost,
//     longest first
//          -> pieces that merge on their own (pretokenize.c, spm.c)
//          -> ids (bpe.c, spm.c)
//
// Long texts repeat their words, so a call remembers where it met a piece first, in its text and in
// its own output, and copies those ids when the piece comes again: a direct-mapped table that lives
// as long as the call, so that a tokenizer has no state to share. All of it is O(n log n); the
// search for split-out tokens looks at most SPECIAL_MAX bytes ahead, and only where a first byte
// fits.
#include "tokenizer/internal.h"

#include <stdlib.h>
#include <string.h>

#define WORD_MARK "\xE2\x96\x81" // U+2581
#define KNOWN_TEXT 2048   // bytes of text from which remembering pays
#define KNOWN_SIZE 48     // bytes of a piece worth remembering
#define KNOWN_SLOTS 32768 // at most; 24 bytes each
#define KEPT_BLOCK 65536

// ---- ids

static void ids_reserve(struct ids *ids, size_t more) {
    size_t need = ids->count + more;
    assert(need >= more);
    if (need > ids->cap) mem_grow((void **)&ids->id, &ids->cap, need, sizeof *ids->id, "token ids");
}

void ids_add(struct ids *ids, int32_t id) {
    ids_reserve(ids, 1);
    ids->id[ids->count++] = id;
}

void ids_free(struct ids *ids) {
    mem_free(ids->id);
    *ids = (struct ids){0};
}

// ---- pieces

static void encode_piece(struct encoder *e, const char *text, size_t n) {
    if (e->t->kind == TOKENIZER_SPM)
        spm_encode_piece(e, text, n, false);
    else if (e->t->kind == TOKENIZER_UNIGRAM)
        unigram_encode_piece(e, text, n, false);
    else
        bpe_encode_piece(e, text, n);
}

static void encode_remembered(struct encoder *e, const char *text, size_t n) {
    if (!e->known || n > KNOWN_SIZE) {
        encode_piece(e, text, n);
        return;
    }
    struct known_piece *k = &e->known[hash_bytes(0, text, n) & e->known_mask];
    if (k->size == n && !memcmp(k->text, text, n)) {
        ids_reserve(e->out, k->ids_count);
        memcpy(e->out->id + e->out->count, e->out->id + k->ids_at,
               k->ids_count * sizeof *e->out->id);
        e->out->count += k->ids_count;
        return;
    }
    size_t before = e->out->count;
    encode_piece(e, text, n);
    *k = (struct known_piece){text, before, (uint32_t)n, (uint32_t)(e->out->count - before)};
}

// SPM and Unigram: words one by one; prefix: a space in front of the first.
static void encode_words(struct encoder *e, const char *text, size_t n, bool prefix) {
    const struct tokenizer *t = e->t;
    e->after_unknown = false;
    while (n) {
        size_t length = spm_piece_length(t, text, n);
        if (!prefix)
            encode_remembered(e, text, length);
        else if (t->kind == TOKENIZER_UNIGRAM)
            unigram_encode_piece(e, text, length, true);
        else
            spm_encode_piece(e, text, length, true);
        prefix = false;
        text += length;
        n -= length;
    }
}

// ---- text in parts

static size_t space_before(const char *text, size_t from, size_t to) { // where the run of spaces before `to` begins
    while (to > from) {
        size_t at = to - 1;
        while (at > from && to - at < 4 && ((unsigned char)text[at] & 0xC0) == 0x80) at--;
        uint32_t code;
        if (utf8_decode(text + at, to - at, &code) != to - at || char_class(code) != CHAR_SPACE) break;
        to = at;
    }
    return to;
}

static size_t space_behind(const char *text, size_t n, size_t at) {
    uint32_t code;
    for (size_t length; at < n; at += length) {
        length = utf8_decode(text + at, n - at, &code);
        if (char_class(code) != CHAR_SPACE) break;
    }
    return at;
}

// A part of a text and what is known about it.
struct part {
    const char *text;
    size_t n;
    bool first;  // the very beginning of the text
    bool marked; // spaces are U+2581 already, and one was put in front
};

static bool begins_with_space(const struct part *p) {
    return p->text[0] == ' ' || (p->n >= 3 && !memcmp(p->text, WORD_MARK, 3));
}

static void encode_marked_part(struct encoder *e, const struct part *p) {
    const struct tokenizer *t = e->t;
    bool prefix = t->prefix == PREFIX_ALWAYS || (t->prefix == PREFIX_FIRST && p->first);
    encode_words(e, p->text, p->n, prefix && !(p->first && e->inside) && !p->marked && !(t->metaspace && begins_with_space(p)));
}

// The white space between words is dropped, and each begins anew.
static void encode_split_words(struct encoder *e, const struct part *p) {
    for (size_t at = 0; at < p->n;) {
        size_t begin = space_behind(p->text, p->n, at), end = begin;
        uint32_t code;
        for (size_t length; end < p->n; end += length) {
            length = utf8_decode(p->text + end, p->n - end, &code);
            if (char_class(code) == CHAR_SPACE) break;
        }
        if (end > begin) encode_marked_part(e, &(struct part){p->text + begin, end - begin, p->first && !begin, p->marked});
        at = end;
    }
}

// Without split-out tokens.
static void encode_plain(struct encoder *e, const struct part *p) {
    const struct tokenizer *t = e->t;
    if (!p->n) return;
    if (marks_spaces(t)) {
        (t->splits_words ? encode_split_words : encode_marked_part)(e, p);
        return;
    }
    struct pieces pieces = {.stage = t->stage, .text = p->text, .n = p->n};
    for (size_t length; (length = pieces_next(&pieces)) > 0;)
        encode_remembered(e, p->text + pieces.at - length, length);
}

// ---- split-out tokens

// Narrows [*low, *high), tokens that agree on the first `depth` bytes, to those with byte c next.
static void special_narrow(const struct special_token *s, size_t depth, unsigned char c,
                           size_t *low, size_t *high) {
    size_t from = *low, to = *high;
    while (from < to) { // first whose byte is >= c; a token that ends here sorts before all
        size_t mid = (from + to) / 2;
        if (s[mid].text.n <= depth || (unsigned char)s[mid].text.p[depth] < c)
            from = mid + 1;
        else
            to = mid;
    }
    *low = from;
    to = *high;
    while (from < to) { // first whose byte is > c
        size_t mid = (from + to) / 2;
        if ((unsigned char)s[mid].text.p[depth] <= c)
            from = mid + 1;
        else
            to = mid;
    }
    *high = from;
}

// The longest token of the list that begins the text; NULL when none does.
static const struct special_token *special_at(const struct special_list *list, const char *text,
                                              size_t n) {
    unsigned char c = (unsigned char)text[0];
    size_t low = list->first[c], high = list->first[c + 1];
    const struct special_token *longest = NULL;
    for (size_t depth = 1; low < high; depth++) {
        if (list->token[low].text.n == depth) longest = &list->token[low];
        if (depth == n) break;
        special_narrow(list->token, depth, (unsigned char)text[depth], &low, &high);
    }
    return longest;
}

// "<|user|>", DeepSeek's "<\uFF5CUser\uFF5C>" and Phi-3's "</s>" are user-defined in some files, yet steer the model.
static bool looks_like_control(struct span s) {
    static const char bar[] = "\xEF\xBD\x9C"; // U+FF5C
    if (s.n == 4 && !memcmp(s.p, "</s>", 4)) return true;
    if (s.n > 4 && !memcmp(s.p, "<|", 2) && !memcmp(s.p + s.n - 2, "|>", 2)) return true;
    return s.n > 8 && s.p[0] == '<' && !memcmp(s.p + 1, bar, 3) && !memcmp(s.p + s.n - 4, bar, 3) && s.p[s.n - 1] == '>';
}

// The token to split out at `at`. In a marked text (a rendered chat) control spellings count only where no byte of them is
// marked, that is, where the template wrote them; user-defined tokens that look like control ones ("<|user|>" in some
// files) count as such. Marks lie along the text as it was given, so only the first of the two lists knows them.
static const struct special_token *split_at(const struct encoder *e, const struct special_list *list, const char *at, size_t n) {
    const struct tokenizer *t = e->t;
    if (!e->marks || list != &t->special) return special_at(list, at, n);
    const char *marks = e->marks + (at - e->base);
    size_t own = 0;
    while (own < n && own < SPECIAL_MAX && !marks[own]) own++;
    const struct special_token *control = own ? special_at(&t->special, at, own) : NULL;
    const struct special_token *user = t->user.count ? special_at(&t->user, at, n) : NULL;
    size_t length = user ? user->text.n : 0;
    if (length > own && looks_like_control(user->text)) user = NULL;
    return control && (!user || control->text.n >= user->text.n) ? control : user;
}

typedef void part_fn(struct encoder *e, const struct part *p);

static bool touches_words(const char *text, size_t n, size_t from, size_t to) {
    uint32_t code;
    size_t before = from;
    while (before > 0 && from - before < 4) {
        before--;
        if (((unsigned char)text[before] & 0xC0) != 0x80) break;
    }
    if (from && utf8_decode(text + before, from - before, &code) == from - before && is_word(code)) return true;
    return to < n && utf8_decode(text + to, n - to, &code) && is_word(code);
}

// Splits the tokens of the list out, leftmost, longest first; what is between goes to `plain`. A token may take the
// spaces around it, up to the token before. One that does not count here is passed over whole.
static void encode_split(struct encoder *e, const struct special_list *list, const struct part *whole, part_fn *plain) {
    const char *text = whole->text;
    size_t n = whole->n, begin = 0;
    bool all = e->special || (e->marks && list == &e->t->special); // marks: split_at has judged already
    for (size_t at = 0; list->count && at < n;) {
        const struct special_token *s = split_at(e, list, text + at, n - at);
        size_t behind = at + (s ? s->text.n : 1);
        if (!s || (s->control && !all) || (s->single_word && touches_words(text, n, at, behind))) {
            at = behind;
            continue;
        }
        size_t start = s->lstrip ? space_before(text, begin < at ? begin : at, at) : at;
        if (start > begin) plain(e, &(struct part){text + begin, start - begin, whole->first && !begin, whole->marked});
        ids_add(e->out, s->id);
        begin = s->rstrip ? space_behind(text, n, behind) : behind;
        at = behind;
    }
    if (n > begin) plain(e, &(struct part){text + begin, n - begin, whole->first && !begin, whole->marked});
}

static bool marks_early(const struct encoder *e) { // spaces are replaced before the late tokens are looked for
    return e->t->late.count && marks_spaces(e->t) && !e->t->metaspace;
}

// The text where it stays until the end of the call.
static const char *keep(struct encoder *e, const char *text, size_t n) {
    struct kept_block *b = e->n_kept ? &e->kept[e->n_kept - 1] : NULL;
    if (!b || b->size - b->used < n) {
        if (e->n_kept == e->kept_cap)
            mem_grow((void **)&e->kept, &e->kept_cap, e->n_kept + 1, sizeof *e->kept, "normalized text");
        b = &e->kept[e->n_kept++];
        b->size = n > KEPT_BLOCK ? n : KEPT_BLOCK;
        b->used = 0;
        b->data = mem_alloc(b->size, "normalized text");
    }
    char *to = b->data + b->used;
    if (n) memcpy(to, text, n);
    b->used += n;
    return to;
}

// A stretch between tokens that are found in the text as it is: normalized, then those found in normalized text.
static void encode_stretch(struct encoder *e, const struct part *whole) {
    const struct tokenizer *t = e->t;
    struct part p = *whole;
    if (t->n_steps && !(t->nfc && nfc_prefix(p.text, p.n) == p.n)) {
        struct span normal;
        if (normalize_all(t, p.text, p.n, e->inside && p.first, e->buffer, &normal)) p.first = false;
        p.text = keep(e, normal.p, normal.n);
        p.n = normal.n;
        p.marked = t->spaces_done;
    }
    if (marks_early(e) && p.n) {
        struct text *marked = &e->buffer[0];
        text_clear(marked);
        if (t->prefix != PREFIX_NEVER && !(p.first && e->inside)) text_add(marked, WORD_MARK, 3);
        for (size_t i = 0; i < p.n; i++) {
            bool space = p.text[i] == ' ';
            text_add(marked, space ? WORD_MARK : p.text + i, space ? 3 : 1);
        }
        p = (struct part){keep(e, marked->data, marked->len), marked->len, p.first, true};
    }
    encode_split(e, &t->late, &p, encode_plain);
}

void tokenizer_encode(const struct tokenizer *t, const char *text, size_t n, unsigned flags, struct ids *out) {
    tokenizer_encode_marked(t, text, NULL, n, flags, out);
}

void tokenizer_encode_marked(const struct tokenizer *t, const char *text, const char *marks, size_t n, unsigned flags,
                             struct ids *out) {
    assert(t && out && (text || !n));
    size_t before = out->count;
    bool bos = (flags & TOKENIZE_BOS) && t->adds_bos, eos = (flags & TOKENIZE_EOS) && t->adds_eos;
    if (bos) ids_add(out, t->bos);
    struct encoder e = {.t = t, .out = out, .special = (flags & TOKENIZE_SPECIAL) && !marks, .inside = flags & TOKENIZE_INSIDE, .marks = marks, .base = text};
    // Fused unknown tokens of SPM depend on what stands before a piece, so such pieces are not remembered.
    if (n >= KNOWN_TEXT && (!t->fuses_unknown || t->all_bytes || t->kind == TOKENIZER_UNIGRAM)) {
        size_t slots = 512;
        while (slots < KNOWN_SLOTS && slots < n / 8) slots *= 2;
        e.known = mem_array(slots, sizeof *e.known, "table of known pieces");
        e.known_mask = slots - 1;
    }
    encode_split(&e, e.special || marks || t->added ? &t->special : &t->user, &(struct part){text, n, true, false}, encode_stretch);
    if (bos && out->count - before > 1 && out->id[before + 1] == t->bos) { // the text has its own
        memmove(out->id + before, out->id + before + 1, (out->count - before - 1) * sizeof *out->id);
        out->count--;
    }
    if (eos && (out->count == before || out->id[out->count - 1] != t->eos)) ids_add(out, t->eos);
    mem_free(e.known);
    for (size_t i = 0; i < e.n_kept; i++) mem_free(e.kept[i].data);
    mem_free(e.kept);
    text_free(&e.buffer[0]);
    text_free(&e.buffer[1]);
    mem_free(e.reached);
    mem_free(e.symbols);
    mem_free(e.heap);
    text_free(&e.escaped);
}
