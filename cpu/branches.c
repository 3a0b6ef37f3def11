// branches.c: project and feed_forward out of the ops that they stand for. What a level gains by them is in how it does
// several products of one x, and where it holds what is in between; see amx_branches.h.
#include "cpu/cpu.h"

// What the products read: x, or what its norm gives, in the room that the caller has for it.
static struct tensor entering(struct tensor x, struct tensor norm, struct tensor room, float eps,
                              const struct branch_parts *parts) {
    if (!tensor_present(&norm)) return x;
    parts->rmsnorm(&(struct rmsnorm_args){room, x, norm, eps});
    return room;
}

void cpu_project(const struct project_args *a, const struct branch_parts *parts) {
    assert(a->count >= 1 && a->count <= PROJECT_MOST);
    const struct tensor x = entering(a->x, a->norm, a->normed, a->eps, parts);
    struct matmul_args list[PROJECT_MOST];
    for (int j = 0; j < a->count; j++)
        list[j] = (struct matmul_args){.out = a->to[j].out, .x = x, .w = a->to[j].w, .precision = a->precision};
    parts->products(list, a->count);
}

void cpu_feed_forward(const struct feed_forward_args *a, const struct branch_parts *parts) {
    const struct tensor x = entering(a->x, a->norm, a->normed, a->eps, parts);
    struct matmul_args list[2];
    int count = 0;
    list[count++] = (struct matmul_args){.out = a->ups, .x = x, .w = a->up, .precision = a->precision};
    if (tensor_present(&a->gate))
        list[count++] = (struct matmul_args){.out = a->gates, .x = x, .w = a->gate, .precision = a->precision};
    parts->products(list, count);
    if (tensor_present(&a->up_bias)) parts->bias(&(struct bias_args){a->ups, a->up_bias, 1});
    if (count == 2) parts->glu(&(struct glu_args){a->product, a->gates, a->ups, a->kind});
    else parts->glu(&(struct glu_args){a->product, a->ups, {0}, a->kind});
    if (!tensor_present(&a->down)) return;
    list[0] = (struct matmul_args){a->out, a->product, a->down, a->scale, a->accumulate, a->precision};
    parts->products(list, 1);
}
