// cpu.c: the processor as a backend: which kernels this machine can run, and memory.
//
// Levels, each complete by itself: plain C (ops.c); on x86 AVX2 with FMA and F16C (avx2.c), AVX-512 (avx512.c), and AMX
// for products and attention of bf16 numbers (amx.c, amx_attend.c), which AVX2 and AVX-512 do in f32, and for exact
// products of block formats (amx_whole.c), with the bits of AVX-512; on ARM NEON (neon.c), dots of bytes (dotprod.c), and
// their products of two by two rows (i8mm.c).
// A level is the plain table with the members of the faster files written over it, best last. The choice is made once,
// from what the processor says at run time; nothing is decided inside a step.
//
// Device memory is host memory, so upload and download are copies and nothing is ever pending. Memory is asked with
// calloc: large blocks come lazily zeroed from the kernel, so a cache for a long context costs what is used of it, in
// pages of 2 MiB where the system has them: a cache of 47 MB is read half as fast again as in pages of 4 KiB (11.6 and 7.6
// GB/s, one thread, virtual machine on a two-core Xeon, November 2026).
#include "cpu/cpu.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

// ---------------------------------------------------------------------------------------------------------------
// Memory. The address calloc gave stands in front of the aligned block.

enum { ALIGN = 64 };

void cpu_expect_full(void *p, size_t bytes) {
#ifdef MADV_HUGEPAGE
    const uintptr_t huge = (uintptr_t)1 << 21, from = ((uintptr_t)p + huge - 1) / huge * huge,
                    to = ((uintptr_t)p + bytes) / huge * huge;
    if (from < to) (void)madvise((void *)from, to - from, MADV_HUGEPAGE); // a wish
#else
    (void)p, (void)bytes;
#endif
}

void *cpu_alloc(size_t bytes, const char *what, struct err *err) {
    size_t with_head;
    unsigned char *given = NULL;
    // Objects past half the address space cannot be indexed, so no allocator gives them.
    if (size_add(bytes, 2 * ALIGN, &with_head) && with_head <= PTRDIFF_MAX)
        given = calloc(1, with_head);
    if (!given) {
        err_set(err,
                "cpu: no memory for the %s: %.1f MiB wanted; use a smaller context, batch or model",
                what, (double)bytes / 0x1p20);
        return NULL;
    }
    unsigned char *aligned = given + ALIGN + (ALIGN - (uintptr_t)given % ALIGN) % ALIGN;
    memcpy(aligned - sizeof given, &given, sizeof given);
    cpu_expect_full(aligned, bytes);
    return aligned;
}

// Weights smaller than a page of 2 MiB would lie in pages of 4 KiB each for itself; together in slabs they do not. Products with
// 106 MB of Q8_0, in matrices of .3 to .9 MB, took 7.3 instead of 8.7 ms for one row, 9.0 instead of 11.8 for four (one
// thread, the machine above). A slab lives as long as any weight in it; in front of each stands the slab's address plus
// one, which no address of calloc is.
enum { SLAB_BYTES = 32 << 20, SLAB_SHARE = 2 << 20 };
struct slab {
    size_t used, weights;
};
static struct slab *slab_open; // the one that is filled now
static pthread_mutex_t slab_lock = PTHREAD_MUTEX_INITIALIZER;

void *cpu_weight_alloc(size_t bytes, struct err *err) {
    static const char what[] = "packed weight";
    if (bytes > SLAB_SHARE) return cpu_alloc(bytes, what, err);
    const size_t room = (bytes + 2 * ALIGN - 1) / ALIGN * ALIGN; // and a line for the address
    unsigned char *at = NULL;
    pthread_mutex_lock(&slab_lock);
    if (!slab_open || slab_open->used + room > SLAB_BYTES) {
        slab_open = cpu_alloc(SLAB_BYTES, what, err);
        if (slab_open) slab_open->used = ALIGN;
    }
    if (slab_open) {
        at = (unsigned char *)slab_open + slab_open->used + ALIGN;
        const uintptr_t slab = (uintptr_t)slab_open + 1;
        memcpy(at - sizeof slab, &slab, sizeof slab);
        slab_open->used += room;
        slab_open->weights++;
    }
    pthread_mutex_unlock(&slab_lock);
    return at;
}

static void cpu_free(void *p);
static void slab_leave(struct slab *slab) {
    pthread_mutex_lock(&slab_lock);
    const bool last = --slab->weights == 0;
    if (last && slab == slab_open) slab_open = NULL;
    pthread_mutex_unlock(&slab_lock);
    if (last) cpu_free(slab);
}

static void cpu_free(void *p) {
    if (!p) return;
    uintptr_t given;
    memcpy(&given, (unsigned char *)p - sizeof given, sizeof given);
    if (given % 2) slab_leave((struct slab *)(given - 1));
    else free((void *)given);
}

enum { COPY_PIECE = 1 << 20 };

struct copying {
    char *to;
    const char *from;
    size_t bytes;
};

static void copy_pieces(void *arg, int64_t lo, int64_t hi, int thread) {
    const struct copying *c = arg;
    (void)thread;
    size_t at = (size_t)lo * COPY_PIECE, end = (size_t)hi * COPY_PIECE;
    memcpy(c->to + at, c->from + at, (end < c->bytes ? end : c->bytes) - at);
}

// Zero bytes may come with a null address (an empty tensor), which memcpy does not allow. Large blocks are copied by all
// threads: one alone does not reach the memory's speed.
static void cpu_copy(void *to, const void *from, size_t bytes) {
    struct copying c = {to, from, bytes};
    const bool apart = c.to + bytes <= c.from || c.from + bytes <= c.to;
    if (bytes > COPY_PIECE && apart) pool_for((int64_t)((bytes + COPY_PIECE - 1) / COPY_PIECE), 1, copy_pieces, &c);
    else if (bytes) memmove(to, from, bytes);
}

static void cpu_zero(void *p, size_t bytes) {
    if (bytes) memset(p, 0, bytes);
}

static void cpu_nothing(void) {}
static bool cpu_begin(uint64_t key) { return (void)key, false; }

// ---------------------------------------------------------------------------------------------------------------
// What is read in which dtype, and weights as they lie in the file.

static bool plain_weight_load(struct tensor *device, const struct tensor *host, bool *owned,
                              struct err *err) {
    assert(host->layout == LAYOUT_ROWS && host->data);
    if (!op_reads(OP_MATMUL, host->dtype)) {
        const char *name =
            host->dtype < DTYPE_COUNT ? dtype_row(host->dtype)->name : "an unknown type";
        return err_set(err, "cpu: expected weights of numbers or a block format, found %s",
                       name);
    }
    size_t need;
    if (host->mats != 1 || host->rows < 1 || host->cols < 1 ||
        !dtype_row_bytes(host->dtype, host->cols, &need) || host->row_bytes < need)
        return err_set(err,
                       "cpu: expected one matrix of whole %s rows, found %lld of %lld x %lld in "
                       "rows of %zu bytes",
                       dtype_row(host->dtype)->name, (long long)host->mats, (long long)host->rows,
                       (long long)host->cols, host->row_bytes);
    *device = *host;
    *owned = false;
    return true;
}

// ---------------------------------------------------------------------------------------------------------------
// Scratch. The one state of this file besides the tables: it belongs to the threads of the pool, of which a process
// has one. Thread t touches only scratch[t] inside pieces; cpu_scratch_reserve runs while the pool rests.

enum { SCRATCH_THREADS = 1024, SCRATCH_SLOTS = 5 };
static struct scratch {
    void *given, *aligned;
    size_t bytes;
} scratch[SCRATCH_THREADS][SCRATCH_SLOTS];

void *cpu_scratch(int thread, int slot, size_t bytes) {
    assert(thread >= 0 && thread < SCRATCH_THREADS);
    assert(slot >= 0 && slot < SCRATCH_SLOTS);
    struct scratch *s = &scratch[thread][slot];
    if (s->bytes < bytes || !s->aligned) {
        mem_free(s->given);
        s->bytes = (bytes + 4095) & ~(size_t)4095;
        s->given = mem_alloc(s->bytes + ALIGN, "scratch of a thread");
        s->aligned = (unsigned char *)s->given + (ALIGN - (uintptr_t)s->given % ALIGN) % ALIGN;
    }
    return s->aligned;
}

void cpu_scratch_reserve(int slot, size_t bytes) {
    int threads = pool_threads();
    for (int t = 0; t < threads; t++) cpu_scratch(t, slot, bytes);
}

// ---------------------------------------------------------------------------------------------------------------
// Levels. report has no argument that says which table it came from, hence one function for each.

static void report(struct text *line, const char *kernels) {
    int threads = pool_threads();
    text_fmt(line, "cpu: %d thread%s, %s", threads, threads == 1 ? "" : "s", kernels);
}
static void plain_report(struct text *line) { report(line, "plain kernels"); }
static void neon_report(struct text *line) { report(line, "neon kernels, all products in f32"); }
static void dotprod_report(struct text *line) { report(line, "dotprod kernels, all products in f32"); }
static void i8mm_report(struct text *line) { report(line, "i8mm kernels, all products in f32"); }
static void avx2_report(struct text *line) { report(line, "avx2 kernels, all products in f32"); }
static void avx512_report(struct text *line) { report(line, "avx512 kernels, all products in f32"); }
static void amx_report(struct text *line) { report(line, "avx512 kernels, amx for bf16 products"); }

// The unit that multiplies, as the rows of ceiling*.c name it; by level too.
static const char *plain_unit(enum dtype weight, enum precision precision) {
    (void)weight, (void)precision;
    return "f32 plain";
}
static const char *neon_unit(enum dtype weight, enum precision precision) {
    (void)weight, (void)precision;
    return "f32 neon";
}
static const char *dotprod_unit(enum dtype weight, enum precision precision) {
    return dtype_row(weight)->block_weights > 1 ? "int8 dotprod" : neon_unit(weight, precision);
}
static const char *i8mm_unit(enum dtype weight, enum precision precision) {
    return dtype_row(weight)->block_weights > 1 ? "int8 i8mm" : neon_unit(weight, precision);
}
static const char *avx2_unit(enum dtype weight, enum precision precision) {
    (void)weight, (void)precision;
    return "f32 avx2";
}
static const char *avx512_unit(enum dtype weight, enum precision precision) {
    (void)precision;
    return dtype_row(weight)->block_weights > 1 ? "int8 vnni" : "f32 avx512";
}
static const char *amx_unit(enum dtype weight, enum precision precision) {
    return precision == PRECISION_BF16 ? "bf16 amx" : avx512_unit(weight, precision);
}

static int ceilings(struct ceiling *to, double seconds, struct err *err) {
    return cpu_ceilings(to, seconds, cpu_free, err);
}

// No level for AVX512-BF16: where it was measured (the Xeon of amx.c) its dot of bf16 has half the rate of multiply-adds in
// f32, which are exact besides.
enum level { LEVEL_PLAIN, LEVEL_NEON, LEVEL_DOTPROD, LEVEL_I8MM, LEVEL_AVX2, LEVEL_AVX512, LEVEL_AMX, LEVEL_COUNT };
static const struct level_row {
    const char *name, *needs;
    void (*report)(struct text *line);
    const char *(*unit)(enum dtype weight, enum precision precision);
} level_rows[LEVEL_COUNT] = {
    [LEVEL_PLAIN] = {"plain", "any processor", plain_report, plain_unit},
    [LEVEL_NEON] = {"neon", "a 64-bit ARM", neon_report, neon_unit},
    [LEVEL_DOTPROD] = {"dotprod", "a 64-bit ARM with dots of bytes (ARMv8.2)", dotprod_report, dotprod_unit},
    [LEVEL_I8MM] = {"i8mm", "a 64-bit ARM with products of rows of bytes (ARMv8.6)", i8mm_report, i8mm_unit},
    [LEVEL_AVX2] = {"avx2", "AVX2, FMA and F16C", avx2_report, avx2_unit},
    [LEVEL_AVX512] = {"avx512", "AVX-512 F, BW, DQ, VL and VNNI", avx512_report, avx512_unit},
    [LEVEL_AMX] = {"amx", "AVX-512, AMX-BF16 and the system's leave to use it", amx_report, amx_unit},
};

static bool level_fill(struct backend *b, enum level level) {
    *b = (struct backend){
        .name = "cpu",
        .reads_host = true,
        .alloc = cpu_alloc,
        .free = cpu_free,
        .upload = cpu_copy,
        .download = cpu_copy,
        .copy = cpu_copy,
        .zero = cpu_zero,
        .weight_load = plain_weight_load,
        .begin = cpu_begin,
        .end = cpu_nothing,
        .forget = cpu_nothing,
        .sync = cpu_nothing,
        .report = level_rows[level].report,
        .ceilings = ceilings,
        .unit = level_rows[level].unit,
        .supports = op_reads,
    };
    cpu_fill_plain(b);
    if (level == LEVEL_PLAIN) return true;
    if (level == LEVEL_NEON) return cpu_fill_neon(b);
    if (level == LEVEL_DOTPROD) return cpu_fill_dotprod(b);
    if (level == LEVEL_I8MM) return cpu_fill_i8mm(b);
    bool have_avx2 = cpu_fill_avx2(b);
    if (level == LEVEL_AVX2) return have_avx2;
    bool have_avx512 = cpu_fill_avx512(b);
    if (level == LEVEL_AVX512) return have_avx512;
    bool have_amx = have_avx512 && cpu_fill_amx(b);
    if (have_amx) cpu_fill_amx_attend(b);
    if (have_amx) cpu_fill_amx_whole(b); // a processor without AMX-INT8 keeps the products of AVX-512
    return have_amx;
}

const struct backend *backend_cpu(const char *level, struct err *err) {
    // Written again with the same values by every call, constant to everybody else.
    static struct backend tables[LEVEL_COUNT];
    struct backend made;
    for (int l = LEVEL_COUNT - 1; l >= 0; l--) {
        if (level && strcmp(level, level_rows[l].name) != 0) continue;
        if (level_fill(&made, (enum level)l)) {
            tables[l] = made;
            return &tables[l];
        }
        if (level) {
            err_set(err,
                    "cpu: the level %s needs %s, which this processor or this build lacks; leave "
                    "the level out"
                    " to get the best there is",
                    level, level_rows[l].needs);
            return NULL;
        }
    }
    err_set(err, "cpu: expected the level plain, avx2, avx512 or amx, or on ARM neon, dotprod or i8mm, found \"%s\"", level);
    return NULL;
}
