// cpu.h: what the files of cpu/ share. Nothing outside includes it; the folder's one external symbol is backend_cpu().
//
// The plain ops (ops.c) fill every member of the table; a faster file overwrites the members it has. So each level is complete by
// construction, and a member that a fast file lacks falls to the level below when the table is made, never in a step.
#ifndef LEHR_CPU_H
#define LEHR_CPU_H

#include "backend.h"

void cpu_fill_plain(struct backend *b);
void cpu_fill_families(struct backend *b); // what ops_families.c has of them; cpu_fill_plain calls it
void cpu_fill_experts(struct backend *b);  // what experts.c has of them, which is all but products
void cpu_fill_updates(struct backend *b);  // and what ops_update.c has: the optimizers' rules
// What every piece of an update needs: 1 / (1 - beta1^t), the same of t + 1, and of beta2. Checks the arguments.
struct cpu_update {
    const struct update_args *a;
    float mean, ahead, square;
};
struct cpu_update cpu_update_begin(const struct update_args *a);
void cpu_bias(const struct bias_args *a); // of every level
void cpu_rare_glu(const struct glu_args *a); // the kinds behind GLU_GELU, for the glu of every level
// Products of experts on top of a level's own.
void cpu_matmul_experts(const struct matmul_experts_args *a, void (*matmul)(const struct matmul_args *a));
void cpu_matmul_experts_dx(const struct matmul_experts_dx_args *a, void (*matmul_dx)(const struct matmul_dx_args *a));
void cpu_matmul_experts_dw(const struct matmul_experts_dw_args *a, void (*matmul_dw)(const struct matmul_dw_args *a));
// Panel i of a weight of a block format, whose rows lie as in the file, as weight_load makes it (avx512.c).
void cpu_panel_make(const struct tensor *w, int64_t i, unsigned char *to);
// head_loss out of a level's own ops, and how it is cut: the block behind *b, of some whole segments that are at most
// `fits` rows or of a part of a longer segment; false behind the last. b begins as zeros.
struct head_parts {
    void (*matmul)(const struct matmul_args *a);
    void (*cross_entropy)(const struct cross_entropy_args *a);
    void (*matmul_dx)(const struct matmul_dx_args *a);
    void (*matmul_dw)(const struct matmul_dw_args *a);
};
void cpu_head_loss(const struct head_loss_args *a, const struct head_parts *parts);
// project and feed_forward out of a level's own ops; products does some that have x in common.
struct branch_parts {
    void (*rmsnorm)(const struct rmsnorm_args *a);
    void (*products)(const struct matmul_args *a, int count);
    void (*bias)(const struct bias_args *a);
    void (*glu)(const struct glu_args *a);
};
void cpu_project(const struct project_args *a, const struct branch_parts *parts);
void cpu_feed_forward(const struct feed_forward_args *a, const struct branch_parts *parts);
struct head_block { int64_t at, rows, segment; };
bool cpu_head_next(const struct head_loss_args *a, int64_t fits, struct head_block *b);
// False when this build or this processor lacks the instructions; then b is untouched.
bool cpu_fill_neon(struct backend *b);
bool cpu_fill_dotprod(struct backend *b);
bool cpu_fill_i8mm(struct backend *b);
bool cpu_fill_avx2(struct backend *b);
bool cpu_fill_avx512(struct backend *b);
bool cpu_fill_amx(struct backend *b); // on top of avx512: products of PRECISION_BF16
bool cpu_fill_amx_attend(struct backend *b); // on top of amx: attention of PRECISION_BF16
// Where amx.c has matrix units: whether the system lets this process use them, and eight whole tiles for this thread, until
// it releases them.
bool cpu_tiles_allowed(void);
void cpu_tiles_open(void);
// The backend's ceilings member (ceiling.c); release frees what cpu_alloc gave.
int cpu_ceilings(struct ceiling *to, double seconds, void (*release)(void *), struct err *err);
bool cpu_fill_amx_whole(struct backend *b); // on top of amx: products with block formats, PRECISION_F32, bits as avx512
// 64-byte aligned scratch of one thread, at least `bytes`; grows on first use, contents undefined, valid until the
// next call with the same thread and slot. slot < 5.
void *cpu_scratch(int thread, int slot, size_t bytes);
// Grows the slot of every thread of the pool to at least `bytes`. Called by an op before pool_for: which threads get a
// piece is chance, so growing inside a piece could allocate long after the first step.
void cpu_scratch_reserve(int slot, size_t bytes);
// The backend's alloc member, for what weight_load makes; the free member releases it.
void *cpu_alloc(size_t bytes, const char *what, struct err *err);
void *cpu_weight_alloc(size_t bytes, struct err *err); // the same for packed weights, of which small ones share pages
// Fresh memory that will be written all over, or in long runs: the system may give it in pages of 2 MiB, hundreds of
// page faults at once.
void cpu_expect_full(void *p, size_t bytes);

#endif
