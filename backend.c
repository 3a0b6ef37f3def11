// backend.c: the names of the ops and what they read: what all backends share in code.
//
// The names stand in reports, refusals ("matmul does not read Q4_0") and the op-case tables of the tests.
#include "backend.h"

const char *op_name(enum op op) {
    static const char *const names[] = {
        [OP_EMBED] = "embed",
        [OP_EMBED_BACK] = "embed_back",
        [OP_RMSNORM] = "rmsnorm",
        [OP_RMSNORM_BACK] = "rmsnorm_back",
        [OP_MATMUL] = "matmul",
        [OP_MATMUL_DX] = "matmul_dx",
        [OP_MATMUL_DW] = "matmul_dw",
        [OP_ROPE] = "rope",
        [OP_STORE_ROWS] = "store_rows",
        [OP_ATTEND] = "attend",
        [OP_ATTEND_BACK] = "attend_back",
        [OP_GLU] = "glu",
        [OP_GLU_BACK] = "glu_back",
        [OP_ADD] = "add",
        [OP_CROSS_ENTROPY] = "cross_entropy",
        [OP_SUM_SQUARES] = "sum_squares",
        [OP_UPDATE] = "update",
        [OP_ADAFACTOR] = "adafactor",
        [OP_CAST] = "cast",
        [OP_LAYERNORM] = "layernorm",
        [OP_BIAS] = "bias",
        [OP_SOFTCAP] = "softcap",
        [OP_ROUTE] = "route",
        [OP_ROUTE_BACK] = "route_back",
        [OP_GROUP] = "group",
        [OP_MATMUL_EXPERTS] = "matmul_experts",
        [OP_MATMUL_EXPERTS_DX] = "matmul_experts_dx",
        [OP_MATMUL_EXPERTS_DW] = "matmul_experts_dw",
        [OP_MIX] = "mix",
        [OP_MIX_BACK] = "mix_back",
        [OP_CLAMP] = "clamp",
        [OP_SINK] = "sink",
        [OP_HEAD_LOSS] = "head_loss",
        [OP_PROJECT] = "project",
        [OP_FEED_FORWARD] = "feed_forward",
        [OP_DROPOUT] = "dropout",
    };
    static_assert(COUNT_OF(names) == OP_COUNT, "every op has a name");
    assert(op >= 0 && op < OP_COUNT);
    return names[op];
}

bool op_reads(enum op op, enum dtype dtype) {
    bool f32 = dtype == DTYPE_F32;
    bool half = dtype == DTYPE_F16 || dtype == DTYPE_BF16;
    bool number_or_block = dtype < DTYPE_COUNT && dtype_row(dtype)->to_f32;
    switch (op) {
    case OP_EMBED:
    case OP_MATMUL:
    case OP_MATMUL_EXPERTS:
    case OP_PROJECT:
    case OP_FEED_FORWARD:
    case OP_CAST:
        return number_or_block;
    case OP_MATMUL_DX:
    case OP_MATMUL_EXPERTS_DX:
    case OP_HEAD_LOSS:
        return f32 || dtype == DTYPE_BF16;
    case OP_STORE_ROWS:
    case OP_ATTEND:
        return f32 || half || dtype == DTYPE_Q8_0 || dtype == DTYPE_Q4_0;
    case OP_COUNT:
        return false;
    default:
        return f32;
    }
}
