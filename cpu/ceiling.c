// ceiling.c: how fast this machine is at most, measured: memory read by one to many threads, and every unit present.
//
// A speed says little without the speed that was possible. One table of burns (name, present or not, function, measure)
// is walked in rounds of samples, two milliseconds each on all threads at once, and the best sample of each name counts:
// other work on the machine only ever takes away. A sample is shorter than a turn of the scheduler, so that on a busy
// machine some have all their cores to themselves, and there are rounds, so that a quiet moment serves all.
//
// Memory: one stream of addresses per thread does not fill the pipe, so 1, 4 and 8 rows are walked side by side, each with
// a prefetch ahead. The memory is twice the last-level cache, up to 512 MiB. What is read is summed with plain vectors of 16
// bytes: at some 8 bytes a cycle and core, reading is not what bounds. Not measured: writing, caches, other sockets.
#include "cpu/ceiling.h"

#include <sched.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

// ---------------------------------------------------------------------------------------------------------------
// What needs no special processor.

#define INLINE static inline __attribute__((always_inline))
typedef uint64_t words __attribute__((vector_size(16)));
typedef float floats __attribute__((vector_size(16)));
enum { LINE = 64, ROW = 4096 + LINE, AHEAD = 1024, READ_ONCE = 32 }; // rows of one call

// Rows are not a power of two apart: side by side they would fall into the same sets of the caches.
INLINE double read_rows(struct burn_room *room, int streams) {
    if (room->next + (size_t)READ_ONCE * ROW + AHEAD > room->bytes) room->next = 0;
    const unsigned char *at = room->at + room->next;
    words sum = {0, 0};
    for (int r = 0; r < READ_ONCE; r += streams, at += streams * ROW)
        for (int i = 0; i < ROW; i += LINE)
            for (int s = 0; s < streams; s++) {
                const words *w = (const words *)(const void *)(at + s * ROW + i);
                __builtin_prefetch(at + s * ROW + i + AHEAD);
                sum ^= (w[0] ^ w[1]) ^ (w[2] ^ w[3]);
            }
    room->next += (size_t)READ_ONCE * ROW;
    room->sum += sum[0] + sum[1];
    return READ_ONCE * ROW;
}
static double read_1(struct burn_room *room) { return read_rows(room, 1); }
static double read_4(struct burn_room *room) { return read_rows(room, 4); }
static double read_8(struct burn_room *room) { return read_rows(room, 8); }

// Multiply and add in the vectors that every processor of this kind has, in eight chains that do not wait for each other.
static double plain_f32(struct burn_room *room) {
    enum { ROUNDS = 4096, CHAINS = 8 };
    floats chain[CHAINS];
    const floats factor = {.5f, .5f, .5f, .5f}, term = {1, 2, 3, 4};
    for (int i = 0; i < CHAINS; i++) chain[i] = term * (float)(i + 1);
    for (int r = 0; r < ROUNDS; r++)
#pragma GCC unroll 8
        for (int i = 0; i < CHAINS; i++) chain[i] = chain[i] * factor + term;
    for (int i = 0; i < CHAINS; i++) room->sum += (uint64_t)chain[i][i % 4];
    return 2.0 * 4 * ROUNDS * CHAINS;
}

static bool anywhere(void) { return true; }

static const struct burn plain_burns[] = {
    {"memory read", "GB/s", anywhere, read_1},
    {"memory read", "GB/s", anywhere, read_4},
    {"memory read", "GB/s", anywhere, read_8},
    {"f32 plain", "GFLOP/s", anywhere, plain_f32},
};

// ---------------------------------------------------------------------------------------------------------------
// A sample: every thread of the pool begins together and burns until the time is over.

// A thread holds to a core of its own meanwhile: on a busy machine two may else stay on one, turn by turn.
struct cpus {
#ifdef __linux__
    cpu_set_t set;
#endif
    bool known;
};
static struct cpus cpus_hold(int cpu) {
    struct cpus before = {.known = false};
#ifdef __linux__
    before.known = cpu >= 0 && sched_getaffinity(0, sizeof before.set, &before.set) == 0;
    if (before.known) {
        cpu_set_t one;
        CPU_ZERO(&one);
        CPU_SET(cpu, &one);
        before.known = sched_setaffinity(0, sizeof one, &one) == 0;
    }
#else
    (void)cpu;
#endif
    return before;
}
static void cpus_release(struct cpus before) {
#ifdef __linux__
    if (before.known) sched_setaffinity(0, sizeof before.set, &before.set);
#else
    (void)before;
#endif
}

enum { THREADS_MOST = 256, SPIN = 100000 };
static const double sample_seconds = .002;
struct sample {
    const struct burn *burn;
    struct burn_room *rooms;
    int threads;
    atomic_int here; // threads that have come
    int cpu[THREADS_MOST];
    struct {
        double done, from, to;
    } part[THREADS_MOST];
};

// There are as many pieces as threads and nobody leaves before all have come, so each thread has one.
static void sample_piece(void *arg, int64_t lo, int64_t hi, int thread) {
    struct sample *s = arg;
    (void)hi, (void)thread;
    struct cpus before = cpus_hold(s->cpu[lo]);
    atomic_fetch_add(&s->here, 1);
    for (int spins = 0; atomic_load(&s->here) < s->threads; spins++) // who sleeps begins late
        if (spins > SPIN) sched_yield();
    const double from = time_now();
    double done = 0, to;
    do {
        done += s->burn->run(&s->rooms[lo]);
        to = time_now();
    } while (to - from < sample_seconds);
    s->part[lo].done = done, s->part[lo].from = from, s->part[lo].to = to;
    cpus_release(before);
}

// From the first beginning to the last end: threads that had to share a core did not do twice as much.
static double sample_rate(struct sample *s) {
    atomic_store(&s->here, 0);
    pool_for(s->threads, 1, sample_piece, s);
    double done = 0, from = s->part[0].from, to = s->part[0].to;
    for (int t = 0; t < s->threads; t++) {
        done += s->part[t].done;
        if (s->part[t].from < from) from = s->part[t].from;
        if (s->part[t].to > to) to = s->part[t].to;
    }
    return done / (to - from);
}

// ---------------------------------------------------------------------------------------------------------------
// Memory.

// Twice the last-level cache, where that is known; little of what is free, and soon filled.
static size_t memory_bytes(int threads) {
    const size_t least = (size_t)256 << 20, most = (size_t)512 << 20, free_bytes = mem_available_bytes();
    size_t bytes = least, each = (size_t)16 << 20;
#ifdef _SC_LEVEL3_CACHE_SIZE
    const long cache = sysconf(_SC_LEVEL3_CACHE_SIZE);
    if (cache > 0 && (size_t)cache * 2 > bytes) bytes = (size_t)cache * 2 < most ? (size_t)cache * 2 : most;
#endif
    if (bytes < each * (size_t)threads) bytes = each * (size_t)threads;
    if (free_bytes && bytes > free_bytes / 4) bytes = free_bytes / 4;
    return bytes > (size_t)threads * 2 * BURN_L2 ? bytes : (size_t)threads * 2 * BURN_L2;
}

// Pages that were never written are all the same page of zeros. The bytes are small numbers in every format.
enum { FILL = 4 << 20 };
struct fill {
    unsigned char *at;
    size_t bytes;
};
static void fill_piece(void *arg, int64_t lo, int64_t hi, int thread) {
    const struct fill *f = arg;
    (void)thread;
    const size_t from = (size_t)lo * FILL, to = (size_t)hi * FILL < f->bytes ? (size_t)hi * FILL : f->bytes;
    memset(f->at + from, 0x3c, to - from);
}

static unsigned char *memory_take(size_t bytes, struct err *err) {
    unsigned char *at = cpu_alloc(bytes, "memory to read from", err);
    if (!at) return NULL;
#ifdef MADV_HUGEPAGE // only for the filling: a quarter of the time; reading is as fast from small pages
    const size_t page = 4096, skip = (page - (uintptr_t)at % page) % page;
    madvise(at + skip, (bytes - skip) / page * page, MADV_HUGEPAGE);
#endif
    struct fill fill = {at, bytes};
    pool_for((int64_t)((bytes + FILL - 1) / FILL), 1, fill_piece, &fill);
    return at;
}

// ---------------------------------------------------------------------------------------------------------------

static int ceiling_find(const struct ceiling *to, int count, const char *name) {
    int i = 0;
    while (i < count && strcmp(to[i].name, name) != 0) i++;
    return i;
}

// One round over the table; rows of one name share an entry, which keeps the best.
static int ceilings_round(struct sample *s, struct ceiling *to, int count) {
    const struct burns all[] = {{plain_burns, COUNT_OF(plain_burns)}, cpu_burns_neon(), cpu_burns_dotprod(), cpu_burns_i8mm(),
                                cpu_burns_avx2(), cpu_burns_avx512(), cpu_burns_amx()};
    for (size_t g = 0; g < COUNT_OF(all); g++)
        for (int r = 0; r < all[g].count; r++) {
            s->burn = &all[g].row[r];
            if (!s->burn->present()) continue;
            const double rate = sample_rate(s);
            const int i = ceiling_find(to, count, s->burn->name);
            assert(i < CEILINGS_MOST);
            if (i == count) to[count++] = (struct ceiling){s->burn->name, s->burn->measure, 0};
            if (rate > to[i].per_second) to[i].per_second = rate;
        }
    return count;
}

enum { ROUNDS_LEAST = 3 };
int cpu_ceilings(struct ceiling *to, double seconds, void (*release)(void *), struct err *err) {
    const double start = time_now();
    struct sample s = {.threads = pool_threads()};
    assert(s.threads <= THREADS_MOST);
    struct burn_room rooms[THREADS_MOST];
    const size_t bytes = memory_bytes(s.threads), each = bytes / (size_t)s.threads / LINE * LINE;
    unsigned char *memory = memory_take(bytes, err);
    if (!memory) return 0;
    for (int t = 0; t < s.threads; t++) {
        rooms[t] = (struct burn_room){.at = memory + (size_t)t * each, .bytes = each};
        s.cpu[t] = pool_cpu(t);
    }
    s.rooms = rooms;
    int count = 0;
    for (int r = 0; r < ROUNDS_LEAST || time_now() - start < seconds; r++) count = ceilings_round(&s, to, count);
    release(memory);
    return count;
}
