// head_loss.c: the head and its loss out of the ops it is made of: the meaning of head_loss, and the way of all levels that
// have nothing better.
//
// Rows are worked off in blocks whose logits fit the caller's room. Where blocks end shows in no bit: a weight's gradient
// is one partial sum per segment, or per HEAD_ROWS rows of a longer one, and blocks are made of these.
#include "cpu/cpu.h"

bool cpu_head_next(const struct head_loss_args *a, int64_t fits, struct head_block *b) {
    b->at += b->rows;
    const int64_t left = a->x.rows - b->at;
    if (left <= 0) return false;
    if (a->segment <= HEAD_ROWS) {
        assert(fits >= a->segment);
        const int64_t most = fits / a->segment * a->segment;
        b->rows = left < most ? left : most;
        b->segment = a->segment;
    } else {
        const int64_t end = a->segment - b->at % a->segment;
        b->rows = b->segment = end < HEAD_ROWS ? end : HEAD_ROWS;
        assert(fits >= b->rows);
    }
    return true;
}

void cpu_head_loss(const struct head_loss_args *a, const struct head_parts *parts) {
    const int64_t V = a->w.rows;
    assert(a->x.cols == a->w.cols && a->segment > 0 && a->x.rows % a->segment == 0);
    assert(a->room_bytes >= head_loss_room(head_loss_least(a->segment), V));
    struct head_block b = {0};
    while (cpu_head_next(a, (int64_t)(a->room_bytes / sizeof(float)) / V, &b)) {
        struct tensor logits = tensor_f32(a->room, b.rows, V), x = tensor_rows(a->x, b.at, b.rows);
        parts->matmul(&(struct matmul_args){logits, x, a->w, 1, false, a->precision});
        parts->cross_entropy(&(struct cross_entropy_args){a->loss + b.at, logits, a->targets + b.at, a->logit_scale,
                                                          a->grad_scale, a->z_loss});
        if (a->grad_scale == 0) continue;
        struct tensor dx = tensor_rows(a->dx, b.at, b.rows);
        parts->matmul_dx(&(struct matmul_dx_args){dx, logits, a->w, 1, false, a->precision});
        parts->matmul_dw(&(struct matmul_dw_args){a->dw, logits, x, 1, b.segment, a->precision,
                                                     a->fresh && b.at == 0});
    }
}
