// hostile: bad model files made from a good one, and a walk that touches everything a reader can
// reach.
//
// For readers:        for (i < hostile_count(h)) { hostile_make(h, i, &bytes, label); open; if it
// opened, hostile_walk } For whole programs: write the bytes to a file and run the program on it;
// label names the variant in a report. Variant i of a good file depends only on (file, seed, i), so
// a label is enough to make it again.
#ifndef LEHR_TESTS_HOSTILE_H
#define LEHR_TESTS_HOSTILE_H

#include "formats/formats.h"

struct hostile_field { // a number or a name of the good file
    size_t at, width;
    char label[80];
};
struct hostile {
    const unsigned char *good; // the caller's
    size_t n;
    struct hostile_field *fields;
    size_t n_fields, cap_fields;
    uint64_t seed;
    size_t n_flips;      // variants with 1 to 8 flipped bits
    size_t header_bytes; // where the bytes that are parsed end: half of the flips hit there
};
// good: a valid GGUF or llama2.c .bin. Ends the test with a message when it is not.
void hostile_open(struct hostile *h, const void *good, size_t n, uint64_t seed, size_t n_flips);
void hostile_close(struct hostile *h);
size_t hostile_count(const struct hostile *h);
void hostile_make(const struct hostile *h, size_t i, struct text *bytes, char label[160]);

// Walks every key, array element, tensor and tensor byte; returns a sum, so that nothing is
// optimised away.
uint64_t hostile_walk(const struct model_file *f);

// For building files by hand: little-endian numbers, GGUF texts.
void hostile_int(struct text *t, uint64_t x, size_t width);
void hostile_text(struct text *t, const char *s);
void hostile_pad(struct text *t, size_t alignment);

#endif
