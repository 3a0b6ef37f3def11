// attend_back.cuh: what both precisions of attend_back share.
#ifndef LEHR_ATTEND_BACK_CUH
#define LEHR_ATTEND_BACK_CUH

#include "cuda/attend.cuh"
#include "cuda/rng.cuh"

enum { BACK_STEP = 32 }; // pairs that a block of keys takes at a time on tensor cores

struct back_job {
    struct attend_back_args a;
    int group;      // query heads of a kv head
    int64_t pairs;  // of a segment and kv head
    int64_t segments, steps;
    float *delta;   // [n,H]
    int2 *seen;     // [segment][step] rows
    struct tensor q, dout, k, v; // in bf16, heads padded to the width of a tile
};
bool attend_back_bf16_takes(const struct attend_back_args *a);
size_t attend_back_bf16_bytes(const struct attend_back_args *a); // of the room
void attend_back_bf16(struct back_job *j, void *room);

// What dropout makes of the probability of the key that is number `at` of the row.
INLINE float drop_factor_of(const struct back_job &j, int64_t row, int head, int64_t at) {
    if (j.a.drop.below == 0) return 1;
    const bool dropped = device_rng_row_at(device_dropout_row(j.a.drop, row, head), (uint32_t)at) < j.a.drop.below;
    return dropped ? 0 : device_dropout_factor(j.a.drop);
}
#endif
