// kernels_pack.h: weights from the file's blocks and numbers into panels, at load. Part of kernels.h.
//
// A panel (kernels_codes.h; numbers: [k][32 rows]) is made in stretches: 256 terms of block formats, 256
// bytes of numbers. Of every row the stretch becomes words, 32 bytes of the file at a time and in
// the order that costs least; the words of 32 rows lie side by side in the first cache. Then eight
// words of VW rows at a time are turned and go to their places as whole vectors: pack_place() says
// where a word belongs. Factors and scales, few, go byte by byte. So a weight is touched twice, and
// loading a model goes as fast as memory gives and takes it.
//
// A stretch has eight chunks of 32 terms: of one block, or eight blocks. The last stretch of a row
// may have fewer blocks; then the last one stands in for those that are missing, and goes to a place
// that nobody reads. Rows that are missing in the last panel are zero, as is fresh memory.

enum { STRETCH_WORDS = 64, STRETCH_CHUNKS = 8 };

INLINE int pack_words(const enum dtype t) { // of a stretch
    return !is_coded(t) ? STRETCH_WORDS
                        : (coded_octets(t) ? 64 : coded_nibbles(t) ? 32 : 0) +
                              (coded_pairs(t) ? 16 : 0) + (coded_singles(t) ? 8 : 0);
}

// The nibbles of two chunks share 32 bytes in formats of 256 terms, but in IQ4_XS.
INLINE bool pack_planes(const enum dtype t) { return coded_scales(t) && t != DTYPE_IQ4_XS; }

// ---------------------------------------------------------------------------------------------------------------
// Words. Names of planes are those of kernels_codes.h.

// The low nibbles of every half make two words, the high ones the two words after them.
INLINE vb pack_nibbles(vb x) {
    const vb mask = b_set1(15);
    const vb low = b_and(x, mask), high = b_and(b_right_16(x, 4), mask);
    const vb byte = b_set1_words(0x00ff00ff);
    return b_narrow(b_and(b_or(low, b_right_16(low, 4)), byte),
                    b_and(b_or(high, b_right_16(high, 4)), byte));
}

// Two bits of each of four chunks: the first words of the four, then the second ones.
INLINE vb pack_pairs(vb x) {
    vb nibbles[4];
    for (int c = 0; c < 4; c++) {
        const vb code = b_and(b_right_16(x, 2 * c), b_set1(3));
        nibbles[c] = b_and(b_or(code, b_right_16(code, 6)), b_set1_words(0x000f000f));
    }
    const vb a = b_narrow(nibbles[0], nibbles[1]), b = b_narrow(nibbles[2], nibbles[3]);
    return b_even_words(b_or(a, b_right_64(a, 28)), b_or(b, b_right_64(b, 28)));
}

// Eight words of a bit for each term in order: bit 8g + 2j + b moves to 8j + 2g + b.
INLINE vb pack_singles(vb x) {
    const vb near = b_and(b_xor(x, b_right_32(x, 6)), b_set1_words(0x00cc00cc));
    x = b_xor(x, b_or(near, b_left_32(near, 6)));
    const vb far = b_and(b_xor(x, b_right_32(x, 12)), b_set1_words(0x0000f0f0));
    return b_xor(x, b_or(far, b_left_32(far, 12)));
}

// Where word w of a stretch belongs: its chunk, and the byte offset of its line there.
INLINE int pack_place(const enum dtype t, int w, int *chunk) {
    const int i = w % 8, g = w / 8;
    if (coded_octets(t)) {
        *chunk = g;
        return coded_at_nibbles(t) + i * 4 * PANEL;
    }
    if (coded_nibbles(t) && w < 32) {
        int word = i % 4;
        *chunk = 2 * g + i / 4;
        if (pack_planes(t)) {
            word = i / 4 * 2 + i % 2;
            *chunk = t == DTYPE_Q6_K ? g / 2 * 4 + g % 2 + i % 4 / 2 * 2 : 2 * g + i % 4 / 2;
        }
        return coded_at_nibbles(t) + word * 4 * PANEL;
    }
    if (coded_nibbles(t)) w -= 32;
    if (coded_pairs(t) && w < 16) {
        *chunk = w / 8 * 4 + i % 4;
        return coded_at_pairs(t) + i / 4 * 4 * PANEL;
    }
    *chunk = i;
    return coded_at_singles(t);
}

// ---------------------------------------------------------------------------------------------------------------
// Formats of 256 terms.

// Scales and mins of six bits in twelve bytes, as eight and eight bytes.
INLINE void pack_six_bits(const uint8_t from[12], uint8_t scale[8], uint8_t min[8]) {
    uint32_t u[3], to[4];
    memcpy(u, from, sizeof u);
    to[0] = u[0] & 0x3f3f3f3f;
    to[1] = (u[2] & 0x0f0f0f0f) | (u[0] >> 2 & 0x30303030);
    to[2] = u[1] & 0x3f3f3f3f;
    to[3] = (u[2] >> 4 & 0x0f0f0f0f) | (u[1] >> 2 & 0x30303030);
    memcpy(scale, to, 8);
    memcpy(min, to + 2, 8);
}

// Sixteen of six bits less 32: low nibbles in eight bytes, two bits of every fourth in four bytes.
INLINE void pack_signed_sixteen(const uint8_t from[12], uint8_t scale[16]) {
    uint64_t low, to[2];
    uint32_t high;
    memcpy(&low, from, sizeof low);
    memcpy(&high, from + 8, sizeof high);
    for (int half = 0; half < 2; half++) {
        const uint64_t a = high >> 4 * half & 0x03030303, b = high >> (4 * half + 2) & 0x03030303;
        const uint64_t s = (low >> 4 * half & 0x0f0f0f0f0f0f0f0f) | a << 4 | b << 36;
        to[half] = (s + 0x6060606060606060) ^ 0x8080808080808080;
    }
    memcpy(scale, to, sizeof to);
}

INLINE void pack_scales_iq4_xs(const struct block_iq4_xs *b, uint8_t scale[8]) {
    for (int g = 0; g < 8; g++) {
        const int low = b->scales_low[g / 2] >> (g % 2 * 4) & 15, high = b->scales_high >> 2 * g & 3;
        scale[g] = (uint8_t)((low | high << 4) - 32);
    }
}

// The members of a block of 256: factors, and pointers to the planes it has.
struct pack_block {
    uint16_t d, dmin;
    const uint8_t *nibbles, *pairs, *singles;
    uint8_t scale[16], min[8];
};
INLINE void pack_take(const enum dtype t, const unsigned char *from, struct pack_block *p) {
    union {
        const unsigned char *bytes;
        const struct block_q2_k *q2;
        const struct block_q3_k *q3;
        const struct block_q4_k *q4;
        const struct block_q5_k *q5;
        const struct block_q6_k *q6;
        const struct block_iq4_xs *xs;
    } b = {from};
#define HALF(to, at) memcpy(&p->to, from + (at), sizeof p->to)
    if (t == DTYPE_Q2_K) { // scale and min share a byte in the panel, too
        HALF(d, offsetof(struct block_q2_k, d));
        HALF(dmin, offsetof(struct block_q2_k, dmin));
        p->pairs = b.q2->q;
        memcpy(p->scale, b.q2->scales, 16);
    } else if (t == DTYPE_Q3_K) {
        HALF(d, offsetof(struct block_q3_k, d));
        p->pairs = b.q3->q;
        p->singles = b.q3->high;
        pack_signed_sixteen(b.q3->scales, p->scale);
    } else if (t == DTYPE_Q4_K || t == DTYPE_Q5_K) { // Q5_K: `high` between scales and nibbles
        HALF(d, offsetof(struct block_q4_k, d));
        HALF(dmin, offsetof(struct block_q4_k, dmin));
        p->nibbles = t == DTYPE_Q4_K ? b.q4->q : b.q5->q;
        p->singles = b.q5->high;
        pack_six_bits(b.q4->scales, p->scale, p->min);
    } else if (t == DTYPE_Q6_K) {
        HALF(d, offsetof(struct block_q6_k, d));
        p->nibbles = b.q6->low;
        p->pairs = b.q6->high;
        memcpy(p->scale, b.q6->scales, 16);
    } else {
        HALF(d, offsetof(struct block_iq4_xs, d));
        p->nibbles = b.xs->q;
        pack_scales_iq4_xs(b.xs, p->scale);
    }
}

// One row of a stretch that is one block: words to `words`, factors and scales into the panel.
INLINE void pack_row_256(const enum dtype t, const unsigned char *from, int64_t l, uint32_t *words,
                         unsigned char *to) {
    struct pack_block p;
    pack_take(t, from, &p);
    memcpy(to + 2 * l, &p.d, sizeof p.d);
    if (coded_mins(t)) memcpy(to + 2 * PANEL + 2 * l, &p.dmin, sizeof p.dmin);
    const int per_chunk = 32 / coded_group(t);
#pragma GCC unroll 16
    for (int g = 0; g < 256 / coded_group(t); g++) {
        unsigned char *scale = to + coded_head(t) + g / per_chunk * coded_chunk_bytes(t) +
                               g % per_chunk * PANEL + l;
        scale[0] = p.scale[g];
        if (coded_mins(t) && t != DTYPE_Q2_K) scale[coded_at_mins(t)] = p.min[g];
    }
    if (coded_nibbles(t))
        for (int g = 0; g < 4; g++, words += 8) b_store(words, pack_nibbles(b_load(p.nibbles + 32 * g)));
    if (coded_pairs(t))
        for (int g = 0; g < 2; g++, words += 8) b_store(words, pack_pairs(b_load(p.pairs + 32 * g)));
    if (!coded_singles(t)) return;
    const vb x = b_load(p.singles);
    for (int c = 0; c < 8; c++) words[c] = b_top_bits(b_left_16(x, 7 - c));
    b_store(words, pack_singles(b_load(words)));
}

// ---------------------------------------------------------------------------------------------------------------
// Formats of 32 terms.

// The factors of one block; its bits in order, where the format has single ones.
INLINE void pack_factors(const enum dtype t, const unsigned char *block, int64_t l,
                         unsigned char *to) {
    uint16_t d, m;
    memcpy(&d, block, sizeof d);
    if (t == DTYPE_MXFP4) // 2^(e - 128) as bf16; the two smallest are subnormal
        d = (uint16_t)(block[0] < 2 ? 0x20 << block[0] : (block[0] - 1) << 7);
    memcpy(to + 2 * l, &d, sizeof d);
    if (!coded_mins(t)) return;
    memcpy(&m, block + 2, sizeof m);
    m ^= 0x8000; // the formats add it, the panel has what is subtracted
    memcpy(to + 2 * PANEL + 2 * l, &m, sizeof m);
}

// One row of a stretch that is `blocks` blocks, up to eight.
INLINE void pack_row_32(const enum dtype t, const unsigned char *from, int64_t blocks, int64_t l,
                        uint32_t *words, unsigned char *to) {
    const int bytes = t == DTYPE_Q8_0   ? (int)sizeof(struct block_q8_0)
                      : t == DTYPE_Q4_1 ? (int)sizeof(struct block_q4_1)
                      : t == DTYPE_Q5_0 ? (int)sizeof(struct block_q5_0)
                      : t == DTYPE_Q5_1 ? (int)sizeof(struct block_q5_1)
                      : t == DTYPE_MXFP4 ? (int)sizeof(struct block_mxfp4)
                                         : (int)sizeof(struct block_q4_0);
    const int codes = coded_octets(t) ? 32 : 16; // at the end of a block
    for (int64_t b = 0; b < blocks; b++)
        pack_factors(t, from + b * bytes, l, to + b * coded_block_bytes(t));
    const unsigned char *block[STRETCH_CHUNKS];
#pragma GCC unroll 8
    for (int b = 0; b < STRETCH_CHUNKS; b++) block[b] = from + min_i64(b, blocks - 1) * bytes;
#pragma GCC unroll 8
    for (int b = 0; b < STRETCH_CHUNKS; b += 32 / codes, words += 8) {
        const unsigned char *q = block[b] + bytes - codes;
        if (coded_octets(t))
            b_store(words, b_unzip_8(b_xor(b_load(q), b_set1(128))));
        else
            b_store(words, pack_nibbles(b_load_halves(q, block[b + 1] + bytes - codes)));
    }
    if (!coded_singles(t)) return;
    for (int b = 0; b < STRETCH_CHUNKS; b++) memcpy(words + b, block[b] + bytes - codes - 4, 4);
    b_store(words, pack_singles(b_load(words)));
}

// ---------------------------------------------------------------------------------------------------------------
// Panels.

// Eight words of every row, turned, to their places; `chunks` of the stretch exist.
INLINE void pack_turn(const enum dtype t, const uint32_t *words, int64_t chunks, unsigned char *to) {
    unsigned char nowhere[4 * PANEL];
    const int step = coded_terms(t) == 32 ? coded_block_bytes(t) : coded_chunk_bytes(t);
    for (int g = 0; g < pack_words(t); g += 8) {
        unsigned char *at[8];
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++) {
            int chunk;
            const int place = pack_place(t, g + i, &chunk);
            at[i] = chunk < chunks ? to + coded_head(t) + chunk * step + place : nowhere;
        }
        for (int row = 0; row < PANEL; row += VW) {
            vi r[8];
            v_rows(words + row * pack_words(t) + g, pack_words(t) * 4, r);
#pragma GCC unroll 8
            for (int i = 0; i < 8; i++) v_store_words(at[i] + 4 * row, r[i]);
        }
    }
}

INLINE void pack_coded(const enum dtype t, const struct tensor *w, int64_t first, int64_t count,
                       unsigned char *to) {
    uint32_t words[PANEL * STRETCH_WORDS];
    const struct dtype_row *d = dtype_row(t);
    assert(d->block_weights == coded_terms(t));
    if (count < PANEL) memset(words, 0, sizeof words);
    for (int64_t k = 0; k < w->cols; k += 256) {
        const int64_t chunks = min_i64(STRETCH_CHUNKS, (w->cols - k) / 32);
        const size_t at = (size_t)(k / coded_terms(t));
        const unsigned char *from = (const unsigned char *)w->data + (size_t)first * w->row_bytes +
                                    at * (size_t)d->block_bytes;
        unsigned char *block = to + at * (size_t)coded_block_bytes(t);
        const size_t stretch = (size_t)(256 / coded_terms(t)) * (size_t)d->block_bytes;
        for (int64_t l = 0; l < count; l++, from += w->row_bytes) {
            for (size_t i = 0; i < stretch; i += 64) __builtin_prefetch(from + 2 * stretch + i);
            if (coded_terms(t) == 256)
                pack_row_256(t, from, l, words + l * pack_words(t), block);
            else
                pack_row_32(t, from, chunks, l, words + l * pack_words(t), block);
        }
        pack_turn(t, words, chunks, block);
    }
}

// Numbers of 4 or 2 bytes. A word is one term, or two side by side.
INLINE void pack_numbers(const int bytes, const struct tensor *w, int64_t first, int64_t count,
                         unsigned char *to) {
    enum { STRETCH_BYTES = STRETCH_WORDS * 4 };
    uint32_t words[PANEL * STRETCH_WORDS];
    const int64_t row_bytes = w->cols * bytes;
    memset(words, 0, sizeof words);
    for (int64_t k = 0; k < row_bytes; k += STRETCH_BYTES) {
        const int64_t n = min_i64(STRETCH_BYTES, row_bytes - k);
        const unsigned char *from = (const unsigned char *)w->data + (size_t)first * w->row_bytes + k;
        for (int64_t l = 0; l < count; l++, from += w->row_bytes)
            memcpy(words + l * STRETCH_WORDS, from, (size_t)n);
        for (int64_t g = 0; 4 * g < n; g += 8)
            for (int row = 0; row < PANEL; row += VW) {
                vi r[8];
                v_rows(words + row * STRETCH_WORDS + g, STRETCH_BYTES, r);
#pragma GCC unroll 8
                for (int i = 0; i < 8; i++) {
                    unsigned char *line = to + (k + 4 * (g + i)) * PANEL + row * bytes;
                    if (4 * (g + i) >= n) continue;
                    if (bytes == 4) {
                        v_store_words(line, r[i]);
                        continue;
                    }
                    v_store_halves(line, r[i]);
                    if (4 * (g + i) + 2 < n) v_store_halves(line + 2 * PANEL, v_right(r[i], 16));
                }
            }
    }
}

// Rows [first, first + count) of w, up to 32, as the panel at `to`, which is zero.
typedef void panel_pack_fn(const struct tensor *w, int64_t first, int64_t count, unsigned char *to);
#define PANEL_PACK(upper, lower)                                                                   \
    static void panel_pack_##lower(const struct tensor *w, int64_t first, int64_t count,           \
                                   unsigned char *to) {                                            \
        pack_coded(DTYPE_##upper, w, first, count, to);                                            \
    }
CODED_DTYPES(PANEL_PACK)
static void panel_pack_words(const struct tensor *w, int64_t first, int64_t count,
                             unsigned char *to) {
    pack_numbers(4, w, first, count, to);
}
static void panel_pack_halves(const struct tensor *w, int64_t first, int64_t count,
                              unsigned char *to) {
    pack_numbers(2, w, first, count, to);
}
static panel_pack_fn *const panel_packs[DTYPE_COUNT] = {
#define PANEL_PACK_ROW(upper, lower) [DTYPE_##upper] = panel_pack_##lower,
    CODED_DTYPES(PANEL_PACK_ROW)[DTYPE_F32] = panel_pack_words,
    [DTYPE_F16] = panel_pack_halves,
    [DTYPE_BF16] = panel_pack_halves};

// Panel i of w, whose rows lie as in the file, at `to`, whatever was there.
static void panel_make(const struct tensor *w, int64_t i, unsigned char *to) {
    const int64_t count = min_i64(PANEL, w->rows - i * PANEL);
    if (count < PANEL) memset(to, 0, panel_bytes(w));
    panel_packs[w->dtype](w, i * PANEL, count, to);
}
