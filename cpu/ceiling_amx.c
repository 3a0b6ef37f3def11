// ceiling_amx.c: what --ceiling (ceiling.c) burns of the matrix units: products of bf16 and of int8 tiles.
//
// Two tiles of A, two of B and four accumulators, as amx.c multiplies: out of registers, which is what the unit can do,
// and with all four tiles loaded anew from BURN_L2 bytes that stay in the second-level cache, which is what a product
// gets whose factors both come from there. One instruction is 16 x 16 sums of 32 (bf16) or 64 (int8) products.
#include "cpu/ceiling.h"

#if defined(__AMX_TILE__) && defined(__AMX_BF16__) && defined(__AMX_INT8__) && defined(__AVX512BF16__) && defined(__linux__)
#include <cpuid.h>
#include <immintrin.h>

enum { TILE_BYTES = 1024, STEP_BYTES = 4 * TILE_BYTES, STEPS = BURN_L2 / STEP_BYTES };
#define OPERATIONS(terms) (2.0 * 16 * 16 * (terms) * 4 * STEPS)

static bool present_bf16(void) {
    static int known; // 1 yes, -1 no: the answer is a call of the system
    if (!known) known = cpu_tiles_allowed() ? 1 : -1;
    return known > 0;
}
static bool present_int8(void) {
    enum { AMX_INT8 = 25 };
    unsigned a, b, c, d;
    return present_bf16() && __get_cpuid_count(7, 0, &a, &b, &c, &d) && d >> AMX_INT8 & 1;
}

static void tiles_load(const unsigned char *at) {
    _tile_loadd(4, at, 64);
    _tile_loadd(5, at + TILE_BYTES, 64);
    _tile_loadd(6, at + 2 * TILE_BYTES, 64);
    _tile_loadd(7, at + 3 * TILE_BYTES, 64);
}
static void tiles_begin(const unsigned char *at) {
    cpu_tiles_open();
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    tiles_load(at);
}
static void multiply_bf16(void) {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
}
static void multiply_int8(void) {
    _tile_dpbssd(0, 4, 6);
    _tile_dpbssd(1, 4, 7);
    _tile_dpbssd(2, 5, 6);
    _tile_dpbssd(3, 5, 7);
}

static double burn_bf16(struct burn_room *room) {
    tiles_begin(room->at);
    for (int i = 0; i < STEPS; i++) multiply_bf16();
    _tile_release();
    return OPERATIONS(32);
}
static double burn_int8(struct burn_room *room) {
    tiles_begin(room->at);
    for (int i = 0; i < STEPS; i++) multiply_int8();
    _tile_release();
    return OPERATIONS(64);
}
static double burn_bf16_l2(struct burn_room *room) {
    tiles_begin(room->at);
    for (int i = 0; i < STEPS; i++) {
        tiles_load(room->at + i * STEP_BYTES);
        multiply_bf16();
    }
    _tile_release();
    return OPERATIONS(32);
}
static double burn_int8_l2(struct burn_room *room) {
    tiles_begin(room->at);
    for (int i = 0; i < STEPS; i++) {
        tiles_load(room->at + i * STEP_BYTES);
        multiply_int8();
    }
    _tile_release();
    return OPERATIONS(64);
}

static const struct burn rows[] = {
    {"bf16 amx", "GFLOP/s", present_bf16, burn_bf16},
    {"bf16 amx from L2", "GFLOP/s", present_bf16, burn_bf16_l2},
    {"int8 amx", "GOP/s", present_int8, burn_int8},
    {"int8 amx from L2", "GOP/s", present_int8, burn_int8_l2},
};
struct burns cpu_burns_amx(void) { return (struct burns){rows, COUNT_OF(rows)}; }

#else
struct burns cpu_burns_amx(void) { return (struct burns){0}; }
#endif
