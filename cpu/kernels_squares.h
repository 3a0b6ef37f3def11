// kernels_squares.h: the tile of kernels_pairs.h where one instruction multiplies two columns with two rows of x, eight
// terms each (ARM's i8mm). Part of kernels_pairs.h.
//
//     sum[2 columns][2 rows] += codes[2 columns][8] * x[2 rows][8]       exact: what is added fits 32 bits
//
// Codes of eight terms are two quads; zipped word by word, columns lie in pairs:
//
//     [terms / 8][PANEL / 2][2 columns][2 words]     and x, in the order `pairs` (kernels_wide.h):
//     [terms / 8][high, low][PASS / 2][2 rows][2 words]
//
// Rows of x need no spreading over a vector, and the high bytes come first: their sums times 256 are what those of the low
// ones begin with, so a square has one register, and a pass times eight columns is a tile. Its float sums stay
// squares, too, until all terms are in: the factors are zipped, not the sums.

enum { SQUARES = 2 * TILE_VECTORS };
static_assert(TILE_PASS == (int)PASS, "a tile is a pass");

// Two quads of VW columns, from column `col`.
INLINE void pairs_lay(int32_t *codes, int col, vi even, vi odd) {
    v_store_words(codes + 2 * col, v_zip_low(even, odd));
    v_store_words(codes + 2 * col + VW, v_zip_high(even, odd));
}

// A loop whose turns gcc 12 cannot count: else it takes them all together, loads everything first, and keeps half of it in
// memory.
INLINE void squares_add(int turns, const int32_t *codes, const int32_t *terms, vi dot[SQUARES][PASS / 2]) {
    __asm__("" : "+r"(turns));
    for (; turns > 0; turns--, codes += 2 * LINE, terms += 4 * PASS) {
        vi w[SQUARES];
#pragma GCC unroll 4
        for (int s = 0; s < SQUARES; s++) w[s] = v_load_words(codes + 4 * s);
#pragma GCC unroll 4
        for (int r = 0; r < PASS / 2; r++) {
            const vi two = v_load_words(terms + 4 * r);
#pragma GCC unroll 4
            for (int s = 0; s < SQUARES; s++) dot[s][r] = v_square_dot(dot[s][r], w[s], two);
        }
    }
}

// As pairs_tile of kernels_pairs.h. sums: [TILE_VECTORS][PASS / 2][2][2 columns][2 rows].
INLINE void pairs_tile(const int group, const bool mins, const struct pairs_room *room, int64_t g, int64_t col,
                       const struct pairs_row *x) {
    const int32_t *codes = room->codes + g * (group / 4) * LINE + 2 * col;
    vi dot[SQUARES][PASS / 2];
#pragma GCC unroll 4
    for (int s = 0; s < SQUARES; s++)
#pragma GCC unroll 4
        for (int r = 0; r < PASS / 2; r++) dot[s][r] = v_zero_words();
    squares_add(group / 8, codes, x->terms, dot);
#pragma GCC unroll 4
    for (int r = 0; r < PASS / 2; r++) {
        const vi start = mins ? v_zero_words() : v_two_words(x->start + 2 * r);
#pragma GCC unroll 4
        for (int s = 0; s < SQUARES; s++) {
            dot[s][r] = v_left(dot[s][r], 8);
            if (!mins) dot[s][r] = v_add_words(dot[s][r], start);
        }
    }
    squares_add(group / 8, codes, x->terms + 2 * PASS, dot);
    vf step[PASS / 2], offset[PASS / 2]; // before anything is stored, which could change them for all gcc knows
#pragma GCC unroll 4
    for (int r = 0; r < PASS / 2; r++) {
        step[r] = v_two(x->step + 2 * r);
        offset[r] = mins ? v_two(x->offset + 2 * r) : step[r];
    }
#pragma GCC unroll 4
    for (int s = 0; s < SQUARES; s++) {
        const vf dl = v_each_twice(room->factors[g][0] + col + 2 * s);
        const vf ml = mins ? v_each_twice(room->factors[g][1] + col + 2 * s) : dl;
#pragma GCC unroll 4
        for (int r = 0; r < PASS / 2; r++) {
            float *to = x->sums + (s / 2 * PASS + 2 * r + s % 2) * VW;
            vf sum = v_fma(dl, v_mul(step[r], v_float(dot[s][r])), v_load(to));
            if (mins) sum = v_fma(ml, offset[r], sum);
            v_store(to, sum);
        }
    }
}

// Squares become rows: [PANEL / VW][PASS][VW], as coded_write wants them.
INLINE void pairs_finish(float *sums) {
    for (int i = 0; i < PANEL * PASS; i += 2 * VW) {
        const vf a = v_load(sums + i), b = v_load(sums + i + VW);
        v_store(sums + i, v_even(a, b));
        v_store(sums + i + VW, v_odd(a, b));
    }
}
