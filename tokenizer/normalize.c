// normalize.c: what happens to a text before it is cut: the normalizers of tokenizer.json, and SentencePiece's.
//
// A tokenizer has a list of steps, each a function from text to text, worked through between two buffers:
//     nfc nfd nfkc nfkd   the normal forms (unicode.c)
//     strip               white space at the ends of a stretch
//     replace             every occurrence of one string by another; blanks: every run of two or more spaces by a string
//     trim                spaces (U+0020) at both ends
//     charsmap            SentencePiece's precompiled map of strings to strings
//     spaces              SentencePiece's own treatment of spaces as llama.cpp has it: one in front, runs merged, U+2581
//
// The precompiled map is a blob: u32 bytes of the trie | the trie, a double array of u32 (darts-clone) | a pool of strings that
// end in NUL. A unit of the trie has its label in bits 0-7 and 31, bit 8 says that a value hangs below, the offset of its
// children stands from bit 10 on, times 256 with bit 9. Every index that comes out of it is held against the sizes.
// SentencePiece takes the longest match at every position. The package `tokenizers` asks for whole grapheme clusters of less
// than six bytes and takes the *shortest* match for all of one, else goes by characters; both ways are kept.
//
// No step lets a text grow without bound: what one byte can become is added up when the list is made (steps_growth).
#include "tokenizer/internal.h"

#include <string.h>

#define WORD_MARK "\xE2\x96\x81" // U+2581
#define REPLACEMENT_MAX 256      // bytes; the longest of the usual map has 33
#define CLUSTER_MAX 6            // from this many bytes on, clusters are taken apart

// ---- the precompiled map

bool charsmap_make(struct charsmap *m, struct span blob, struct err *err) {
    const unsigned char *p = (const unsigned char *)blob.p;
    uint32_t trie = blob.n >= 4 ? (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24 : 0;
    if (blob.n < 8 || trie < 4 || trie % 4 || trie > blob.n - 4)
        return err_set(err, "the precompiled map of characters has %zu bytes, and its trie should have %u of them", blob.n, trie);
    m->n_units = trie / 4;
    m->unit = mem_array(m->n_units, sizeof *m->unit, "map of characters");
    for (size_t i = 0; i < m->n_units; i++) {
        const unsigned char *u = p + 4 + 4 * i;
        m->unit[i] = (uint32_t)u[0] | (uint32_t)u[1] << 8 | (uint32_t)u[2] << 16 | (uint32_t)u[3] << 24;
    }
    m->pool_bytes = blob.n - 4 - trie;
    m->pool = mem_alloc(m->pool_bytes + 1, "map of characters");
    memcpy(m->pool, blob.p + 4 + trie, m->pool_bytes);
    for (size_t at = 0; at < m->pool_bytes;) {
        size_t n = strlen(m->pool + at);
        if (n > m->longest) m->longest = n;
        at += n + 1;
    }
    return m->longest <= REPLACEMENT_MAX ||
           err_set(err, "the precompiled map of characters replaces one by %zu bytes, at most %d make sense", m->longest,
                   REPLACEMENT_MAX);
}

void charsmap_free(struct charsmap *m) {
    mem_free(m->unit);
    mem_free(m->pool);
    *m = (struct charsmap){0};
}

static size_t unit_offset(uint32_t unit) { return (size_t)(unit >> 10) << ((unit & 1u << 9) >> 6); }

// Bytes of text that the map replaces, 0 for none.
static size_t charsmap_match(const struct charsmap *m, const char *text, size_t n, bool shortest, struct span *to) {
    size_t node = m->n_units ? unit_offset(m->unit[0]) : 0, matched = 0;
    for (size_t i = 0; m->n_units && i < n && text[i] && !(matched && shortest); i++) {
        unsigned char c = (unsigned char)text[i];
        node ^= c;
        if (node >= m->n_units || (m->unit[node] & (1u << 31 | 0xFF)) != c) break;
        bool leaf = m->unit[node] >> 8 & 1;
        node ^= unit_offset(m->unit[node]);
        if (!leaf) continue;
        size_t value = node < m->n_units ? m->unit[node] & ~(1u << 31) : SIZE_MAX;
        if (value >= m->pool_bytes) continue;
        matched = i + 1;
        *to = (struct span){m->pool + value, strlen(m->pool + value)};
    }
    return matched;
}

static void charsmap_longest(const struct charsmap *m, const char *text, size_t n, struct text *out) {
    for (size_t at = 0; at < n;) {
        struct span to;
        size_t length = charsmap_match(m, text + at, n - at, false, &to);
        if (!length) {
            uint32_t code;
            length = utf8_decode(text + at, n - at, &code);
            to = code == UTF8_BAD ? (struct span){"\xEF\xBF\xBD", 3} : (struct span){text + at, length};
        }
        text_add(out, to.p, to.n);
        at += length;
    }
}

static void charsmap_clusters(const struct charsmap *m, const char *text, size_t n, struct text *out) {
    struct span to;
    for (size_t at = 0, end; at < n; at = end) {
        end = at + cluster_length(text + at, n - at);
        if (end - at < CLUSTER_MAX && charsmap_match(m, text + at, end - at, true, &to)) {
            text_add(out, to.p, to.n);
            continue;
        }
        for (size_t length, from = at; from < end; from += length) {
            uint32_t code;
            length = utf8_decode(text + from, end - from, &code);
            if (!charsmap_match(m, text + from, length, true, &to)) to = (struct span){text + from, length};
            text_add(out, to.p, to.n);
        }
    }
}

// ---- the other steps

static bool is_space_at(const char *text, size_t n, size_t *length) {
    uint32_t code;
    *length = utf8_decode(text, n, &code);
    return char_class(code) == CHAR_SPACE;
}

static bool strip(const char *text, size_t n, unsigned sides, struct text *out) {
    size_t from = 0, to = 0;
    if (sides & STRIP_LEFT)
        for (size_t length; from < n && is_space_at(text + from, n - from, &length);) from += length;
    for (size_t at = from, length; at < n; at += length)
        if (!is_space_at(text + at, n - at, &length) || !(sides & STRIP_RIGHT)) to = at + length;
    if (to > from) text_add(out, text + from, to - from);
    return from > 0;
}

static bool trim(const char *text, size_t n, struct text *out) {
    size_t from = 0;
    while (from < n && text[from] == ' ') from++;
    while (n > from && text[n - 1] == ' ') n--;
    text_add(out, text + from, n - from);
    return from > 0;
}

static bool replace(const char *text, size_t n, struct span from, struct span to, struct text *out) {
    bool front = false;
    for (size_t at = 0; at < n;) {
        const char *found = memchr(text + at, from.p[0], n - at);
        size_t plain = found ? (size_t)(found - text) - at : n - at;
        text_add(out, text + at, plain);
        at += plain;
        if (!found) break;
        bool same = n - at >= from.n && !memcmp(found, from.p, from.n);
        text_add(out, same ? to.p : found, same ? to.n : 1);
        front |= same && !to.n && at == 0;
        at += same ? from.n : 1;
    }
    return front;
}

static bool blanks(const char *text, size_t n, struct span to, struct text *out) {
    bool front = false;
    for (size_t at = 0; at < n;) {
        size_t end = at;
        while (end < n && text[end] == ' ') end++;
        bool run = end - at >= 2;
        if (!run && end == at) end++;
        text_add(out, run ? to.p : text + at, run ? to.n : end - at);
        front |= run && !to.n && at == 0;
        at = end;
    }
    return front;
}

static void spaces(const char *text, size_t n, unsigned flags, bool inside, struct text *out) {
    bool in_word = inside, prefixed = inside, merge = flags & SPACES_MERGE;
    for (size_t at = 0; at < n; at++) {
        if (text[at] == ' ') {
            in_word = false;
            if (!merge) text_add(out, WORD_MARK, 3);
            continue;
        }
        if (!in_word && (merge || (!prefixed && (flags & SPACES_PREFIX)))) {
            text_add(out, WORD_MARK, 3);
            prefixed = true;
        }
        in_word = true;
        text_add(out, text + at, 1);
    }
}

// ---- the list

static const char *const names[] = {"nfc", "nfd", "nfkc", "nfkd", "strip", "replace", "blanks", "charsmap", "longest", "spaces", "trim"};
static_assert(COUNT_OF(names) == NORMALIZE_COUNT, "a name for every step");

const char *normalize_name(enum normalize_kind kind) { return names[kind]; }

bool normalize_find(struct span name, enum normalize_kind *kind) {
    for (size_t i = 0; i < COUNT_OF(names); i++)
        if (span_is(name, names[i])) {
            *kind = (enum normalize_kind)i;
            return true;
        }
    return false;
}

bool steps_growth(const struct normalize_step *step, size_t n, const struct charsmap *map, struct err *err) {
    size_t growth = 1;
    for (size_t i = 0; i < n && growth <= GROWTH_MAX; i++) {
        size_t to = step[i].to.n, from = step[i].kind == NORMALIZE_REPLACE ? step[i].from.n : 2, most = 1;
        if (step[i].kind <= NORMALIZE_NFD) most = 3;
        if (step[i].kind == NORMALIZE_NFKC || step[i].kind == NORMALIZE_NFKD) most = 12;
        if (step[i].kind == NORMALIZE_CHARSMAP || step[i].kind == NORMALIZE_LONGEST) most = map->longest > 3 ? map->longest : 3;
        if (step[i].kind == NORMALIZE_SPACES) most = 4;
        if ((step[i].kind == NORMALIZE_REPLACE && !from) || to > REPLACEMENT_MAX)
            return err_set(err, "a normalizer replaces %zu bytes by %zu, which makes no sense", from, to);
        if (to > from) most = (to + from - 1) / from;
        growth *= most;
    }
    return growth <= GROWTH_MAX || err_set(err, "the normalizers would make a text more than %d times as long", GROWTH_MAX);
}

bool normalize_all(const struct tokenizer *t, const char *text, size_t n, bool inside, struct text buffer[2], struct span *out) {
    bool front_lost = false;
    *out = (struct span){text, n};
    for (size_t i = 0; i < t->n_steps; i++) {
        const struct normalize_step *s = &t->step[i];
        struct text *to = &buffer[i % 2];
        text_clear(to);
        text_add(to, "", 0);
        if (s->kind <= NORMALIZE_NFKD)
            form_add(out->p, out->n, (enum normal_form)s->kind, to);
        else if (s->kind == NORMALIZE_STRIP)
            front_lost |= strip(out->p, out->n, s->flags, to);
        else if (s->kind == NORMALIZE_TRIM)
            front_lost |= trim(out->p, out->n, to);
        else if (s->kind == NORMALIZE_REPLACE)
            front_lost |= replace(out->p, out->n, s->from, s->to, to);
        else if (s->kind == NORMALIZE_BLANKS)
            front_lost |= blanks(out->p, out->n, s->to, to);
        else if (s->kind == NORMALIZE_CHARSMAP)
            charsmap_clusters(&t->map, out->p, out->n, to);
        else if (s->kind == NORMALIZE_LONGEST)
            charsmap_longest(&t->map, out->p, out->n, to);
        else
            spaces(out->p, out->n, s->flags, inside && !front_lost, to);
        *out = (struct span){to->data, to->len};
    }
    return front_lost;
}
