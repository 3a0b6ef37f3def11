// hostile: see hostile.h. The walk over the good file is written apart from the reader under test
// on purpose: it trusts the file, which the test made itself, and notes where each number stands.
//
// Variants, in this order:
//   1. every noted number set to each value of `extremes`, cut to its width
//   2. every noted number one more and one less
//   3. every noted 4-byte type set to 0..15 (value and element types confuse there), and every
//   noted byte of a name to
//      NUL, escape and 0xff
//   4. the file cut at 16 places, doubled, and with 1, 31 and 4096 bytes added
//   5. n_flips times 1 to 8 random bits flipped
#include "tests/hostile.h"

#include <stdlib.h>
#include <string.h>

static const uint64_t extremes[] = {
    0,
    1,
    2,
    7,
    255,
    65535,
    65536,
    1u << 20,
    (1u << 20) + 1,
    0x7fffffff,
    0x80000000,
    0xffffffff,
    0x100000000,
    0x0fffffffffffffff,
    0x1fffffffffffffff,
    0x2000000000000000,
    0x3fffffffffffffff,
    0x4000000000000000,
    0x7fffffffffffffff,
    0x8000000000000000,
    0x8000000000000001,
    0xffffffffffffffe0,
    0xfffffffffffffff7,
    0xfffffffffffffff8,
    0xffffffffffffffff,
};
#define N_EXTREMES COUNT_OF(extremes)
#define N_STEPS 2
#define N_CUTS 16
#define N_TAILS 4
static const unsigned char bad_letters[] = {0, 0x1b, 0xff};

void hostile_int(struct text *t, uint64_t x, size_t width) {
    for (size_t i = 0; i < width; i++) {
        char byte = (char)(unsigned char)(x >> (8 * i));
        text_add(t, &byte, 1);
    }
}

void hostile_text(struct text *t, const char *s) {
    hostile_int(t, strlen(s), 8);
    text_str(t, s);
}

void hostile_pad(struct text *t, size_t alignment) {
    while (t->len % alignment) hostile_int(t, 0, 1);
}

// ---------------------------------------------------------------------------------------------------------------
// Taking the good file apart.

static void give_up(const char *why) {
    fprintf(stderr, "hostile_open: the good file %s\n", why);
    abort();
}

static uint64_t note(struct hostile *h, size_t *at, size_t width, const char *label,
                     uint64_t number) {
    if (*at + width > h->n) give_up("ends early");
    mem_grow((void **)&h->fields, &h->cap_fields, h->n_fields + 1, sizeof *h->fields,
             "hostile fields");
    struct hostile_field *f = &h->fields[h->n_fields++];
    f->at = *at, f->width = width;
    snprintf(f->label, sizeof f->label, "%s %llu", label, (unsigned long long)number);
    uint64_t x = 0;
    for (size_t i = 0; i < width && i < 8; i++) x |= (uint64_t)h->good[*at + i] << (8 * i);
    *at += width;
    return x;
}

static void note_text(struct hostile *h, size_t *at, const char *label, uint64_t number) {
    char words[64];
    snprintf(words, sizeof words, "%s length", label);
    uint64_t n = note(h, at, 8, words, number);
    if (n) note(h, at, (size_t)n, label, number); // wider than 8: a name
}

static void note_value(struct hostile *h, size_t *at, uint64_t number) {
    static const size_t width[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    uint64_t type = note(h, at, 4, "value type of key", number);
    if (type == 8)
        note_text(h, at, "text of key", number);
    else if (type != 9)
        note(h, at, width[type], "value of key", number);
    else {
        uint64_t item = note(h, at, 4, "element type of key", number),
                 n = note(h, at, 8, "array length of key", number);
        for (uint64_t i = 0; i < n; i++) {
            if (item == 8)
                note_text(h, at, "array text of key", number);
            else
                note(h, at, width[item], "array element of key", number);
        }
    }
}

static void note_gguf(struct hostile *h) {
    size_t at = 4;
    note(h, &at, 4, "version", 0);
    uint64_t n_tensors = note(h, &at, 8, "tensor count", 0),
             n_keys = note(h, &at, 8, "key count", 0);
    for (uint64_t i = 0; i < n_keys; i++) {
        note_text(h, &at, "name of key", i);
        note_value(h, &at, i);
    }
    for (uint64_t i = 0; i < n_tensors; i++) {
        note_text(h, &at, "name of tensor", i);
        uint64_t dims = note(h, &at, 4, "dims of tensor", i);
        while (dims--) note(h, &at, 8, "size of tensor", i);
        note(h, &at, 4, "type of tensor", i);
        note(h, &at, 8, "offset of tensor", i);
    }
    h->header_bytes = at;
}

void hostile_open(struct hostile *h, const void *good, size_t n, uint64_t seed, size_t n_flips) {
    *h = (struct hostile){.good = good, .n = n, .seed = seed, .n_flips = n_flips};
    if (n < 28) give_up("is too short");
    if (!memcmp(good, "GGUF", 4)) {
        note_gguf(h);
        return;
    }
    static const char *const words[] = {"dim",      "hidden",     "layers", "heads",
                                        "kv heads", "vocabulary", "context"};
    size_t at = 0;
    for (size_t i = 0; i < COUNT_OF(words); i++) note(h, &at, 4, words[i], i);
    h->header_bytes = at;
}

void hostile_close(struct hostile *h) {
    mem_free(h->fields);
    *h = (struct hostile){0};
}

// ---------------------------------------------------------------------------------------------------------------
// Making variants.

static size_t variants_of(const struct hostile_field *f) {
    if (f->width > 8) return COUNT_OF(bad_letters);
    return N_EXTREMES + N_STEPS + (f->width == 4 ? 16 : 0);
}

size_t hostile_count(const struct hostile *h) {
    size_t n = N_CUTS + N_TAILS + h->n_flips;
    for (size_t i = 0; i < h->n_fields; i++) n += variants_of(&h->fields[i]);
    return n;
}

static void overwrite(struct text *t, const struct hostile_field *f, uint64_t x) {
    for (size_t i = 0; i < f->width; i++) t->data[f->at + i] = (char)(unsigned char)(x >> (8 * i));
}

static void spoil_field(const struct hostile_field *f, size_t k, struct text *t, char label[160]) {
    uint64_t was = 0;
    for (size_t i = 0; i < f->width && i < 8; i++)
        was |= (uint64_t)(unsigned char)t->data[f->at + i] << (8 * i);
    uint64_t x = k < N_EXTREMES        ? extremes[k]
                 : k == N_EXTREMES     ? was + 1
                 : k == N_EXTREMES + 1 ? was - 1
                                       : k - N_EXTREMES - N_STEPS;
    if (f->width > 8) {
        t->data[f->at + f->width / 2] = (char)bad_letters[k];
        snprintf(label, 160, "%s: a byte becomes 0x%02x", f->label, bad_letters[k]);
        return;
    }
    overwrite(t, f, x);
    snprintf(label, 160, "%s (%zu bytes at %zu): %llu becomes %llu", f->label, f->width, f->at,
             (unsigned long long)was, (unsigned long long)x);
}

static void spoil_length(const struct hostile *h, size_t k, struct text *t, char label[160]) {
    static const size_t tails[] = {1, 31, 4096};
    if (k < N_CUTS) {
        t->len = h->n * k / N_CUTS;
        snprintf(label, 160, "cut after %zu of %zu bytes", t->len, h->n);
    } else if (k < N_CUTS + COUNT_OF(tails)) {
        for (size_t i = 0; i < tails[k - N_CUTS]; i++) hostile_int(t, 0xa5, 1);
        snprintf(label, 160, "%zu bytes added", tails[k - N_CUTS]);
    } else {
        text_add(t, (const char *)h->good, h->n);
        snprintf(label, 160, "the file twice");
    }
}

static void spoil_bits(const struct hostile *h, size_t k, struct text *t, char label[160]) {
    uint64_t draw = 0, flips = 1 + rng_below(h->seed, k, draw++, 8);
    size_t within = k % 2 ? h->header_bytes : h->n;
    for (uint64_t i = 0; i < flips; i++) {
        size_t bit = rng_below(h->seed, k, draw++, within * 8);
        t->data[bit / 8] = (char)((unsigned char)t->data[bit / 8] ^ (1u << bit % 8));
    }
    snprintf(label, 160, "flip %zu of seed %llu: %llu bits", k, (unsigned long long)h->seed,
             (unsigned long long)flips);
}

void hostile_make(const struct hostile *h, size_t i, struct text *bytes, char label[160]) {
    text_clear(bytes);
    text_add(bytes, (const char *)h->good, h->n);
    for (size_t k = 0; k < h->n_fields; k++) {
        size_t n = variants_of(&h->fields[k]);
        if (i < n) {
            spoil_field(&h->fields[k], i, bytes, label);
            return;
        }
        i -= n;
    }
    if (i < N_CUTS + N_TAILS)
        spoil_length(h, i, bytes, label);
    else
        spoil_bits(h, i - N_CUTS - N_TAILS, bytes, label);
}

// ---------------------------------------------------------------------------------------------------------------
// The walk.

struct walk {
    const struct model_file *f;
    uint64_t sum;
};

static void walk_bytes(struct walk *w, const void *p, size_t n) {
    w->sum = hash_bytes(w->sum, p, n);
}

static void walk_array(struct walk *w, const char *key) {
    static const enum meta_kind kinds[] = {META_TEXT, META_REAL, META_INT, META_BOOL};
    for (size_t i = 0; i < COUNT_OF(kinds); i++) {
        struct meta_array a;
        struct err err;
        struct span s;
        double d;
        int64_t x;
        if (!meta_array_open(w->f, key, kinds[i], &a, &err)) continue;
        if (kinds[i] == META_TEXT)
            while (meta_next_text(&a, &s)) walk_bytes(w, s.p, s.n);
        else if (kinds[i] == META_REAL)
            while (meta_next_real(&a, &d)) walk_bytes(w, &d, sizeof d);
        else
            while (meta_next_int(&a, &x)) walk_bytes(w, &x, sizeof x);
    }
}

static void walk_key(void *arg, const char *key, const char *value) {
    struct walk *w = arg;
    struct err err;
    struct span s;
    double d = 0;
    int64_t x = 0;
    bool b = false;
    walk_bytes(w, value, strlen(value));
    if (meta_int(w->f, key, true, INT64_MIN, INT64_MAX, &x, &err)) walk_bytes(w, &x, sizeof x);
    if (meta_real(w->f, key, true, -1e300, 1e300, &d, &err)) walk_bytes(w, &d, sizeof d);
    if (meta_bool(w->f, key, true, &b, &err)) w->sum += b;
    if (meta_text(w->f, key, true, &s, &err)) walk_bytes(w, s.p, s.n);
    if (meta_kind(w->f, key) == META_ARRAY) walk_array(w, key);
}

uint64_t hostile_walk(const struct model_file *f) {
    struct walk w = {.f = f, .sum = model_file_bytes(f)};
    meta_each(f, walk_key, &w);
    for (size_t i = 0; i < model_file_tensor_count(f); i++) {
        const struct file_tensor *t = model_file_tensor_at(f, i);
        if (model_file_tensor(f, t->name) != t)
            give_up("has a tensor that its own name does not find");
        walk_bytes(&w, t->data, t->bytes);
        walk_bytes(&w, t->type_name, strlen(t->type_name));
    }
    struct err err;
    if (model_file_seal(f, &err)) w.sum++;
    return w.sum;
}
