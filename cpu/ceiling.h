// ceiling.h: what ceiling.c and the files with burn functions share. A burn function keeps one unit of the processor busy for
// some microseconds and says how much it did: one table row each, in the file that is compiled for that unit.
#ifndef LEHR_CPU_CEILING_H
#define LEHR_CPU_CEILING_H

#include "cpu/cpu.h"

// Memory of one thread; its first BURN_L2 bytes also serve what is fed from the second-level cache.
enum { BURN_L2 = 768 << 10 };
struct burn_room {
    unsigned char *at;
    size_t bytes, next; // next: where the reading goes on
    uint64_t sum;       // of what was read, so that no compiler leaves it out
};

struct burn {
    const char *name, *measure; // rows of one name are ways to the same end: the best of them is told
    bool (*present)(void);
    double (*run)(struct burn_room *room); // returns bytes read or operations done (a multiply-add is two)
};

struct burns {
    const struct burn *row;
    int count; // 0 where this build has no such unit
};
struct burns cpu_burns_neon(void);
struct burns cpu_burns_dotprod(void);
struct burns cpu_burns_i8mm(void);
struct burns cpu_burns_avx2(void);
struct burns cpu_burns_avx512(void);
struct burns cpu_burns_amx(void);

#endif
