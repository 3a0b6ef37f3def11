// pool.c: the one thread pool.
//
// A call to pool_for publishes (fn, n, grain) and a generation number. Every thread has a share of the pieces, an equal run
// of them in order of their number, and takes from it until it is empty; then it takes what is left of the others'. So a
// thread finds again what it left in its own caches, and on its own memory node, when the next call works on the same rows;
// and a stolen or slow core does not hold up the rest. Pieces are cut by size alone, and a piece's result may not depend on
// who computes it, so neither thread count nor chance shows in results. Workers spin for a short while between calls (a
// training step makes hundreds, microseconds apart), then sleep.
//
// Invariants: (1) one pool_for at a time; a nested call runs inline. (2) The caller is thread 0 and works too.
// (3) pool_for returns only when no worker can still touch the job.
#include "core/core.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { MAX_THREADS = 256, SPIN = 4000 };

static struct {
    int threads;
    pthread_t worker[MAX_THREADS];
    pthread_mutex_t mutex;
    pthread_cond_t wake;
    atomic_uint generation; // odd values never occur; a change means a new job or stop
    atomic_int sleeping, busy;
    atomic_bool stop;
    // the job
    pool_fn *fn;
    void *arg;
    int64_t n, grain;
    struct share {
        _Alignas(64) atomic_llong next; // piece; a line for each, as all are written all the time
        int64_t end;
    } share[MAX_THREADS];
} pool = {.threads = 1, .mutex = PTHREAD_MUTEX_INITIALIZER, .wake = PTHREAD_COND_INITIALIZER};
static _Thread_local bool inside;

double time_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void relax(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
}

static void work(int thread) {
    inside = true;
    for (int i = 0; i < pool.threads; i++) {
        struct share *s = &pool.share[(thread + i) % pool.threads];
        while (atomic_load_explicit(&s->next, memory_order_relaxed) < s->end) {
            int64_t piece = atomic_fetch_add_explicit(&s->next, 1, memory_order_relaxed), lo = piece * pool.grain;
            if (piece >= s->end) break;
            pool.fn(pool.arg, lo, lo + pool.grain < pool.n ? lo + pool.grain : pool.n, thread);
        }
    }
    inside = false;
}

static void *worker_main(void *arg) {
    int thread = (int)(intptr_t)arg;
    unsigned seen = 0;
    for (;;) {
        int spins = 0;
        while (atomic_load_explicit(&pool.generation, memory_order_acquire) == seen) {
            if (++spins < SPIN) {
                relax();
                continue;
            }
            pthread_mutex_lock(&pool.mutex);
            atomic_fetch_add(&pool.sleeping, 1);
            while (atomic_load(&pool.generation) == seen) pthread_cond_wait(&pool.wake, &pool.mutex);
            atomic_fetch_sub(&pool.sleeping, 1);
            pthread_mutex_unlock(&pool.mutex);
        }
        seen = atomic_load_explicit(&pool.generation, memory_order_acquire);
        if (atomic_load(&pool.stop)) return NULL;
        work(thread);
        atomic_fetch_sub_explicit(&pool.busy, 1, memory_order_release);
    }
}

// Workers must see a new generation before they sleep: they test it under the mutex, and we signal under it.
static void announce(void) {
    atomic_fetch_add(&pool.generation, 1);
    if (atomic_load(&pool.sleeping) > 0) {
        pthread_mutex_lock(&pool.mutex);
        pthread_cond_broadcast(&pool.wake);
        pthread_mutex_unlock(&pool.mutex);
    }
}

static void pool_stop(void) {
    if (pool.threads > 1) {
        atomic_store(&pool.stop, true);
        pthread_mutex_lock(&pool.mutex);
        atomic_fetch_add(&pool.generation, 1);
        pthread_cond_broadcast(&pool.wake);
        pthread_mutex_unlock(&pool.mutex);
        for (int i = 1; i < pool.threads; i++) pthread_join(pool.worker[i], NULL);
        atomic_store(&pool.stop, false);
    }
    pool.threads = 1;
}

void pool_start(int threads) {
    assert(!inside);
    if (threads <= 0) threads = pool_cores();
    if (threads > MAX_THREADS) threads = MAX_THREADS;
    if (threads == pool.threads) return;
    pool_stop();
    atomic_store(&pool.generation, 0);
    for (int i = 1; i < threads; i++) {
        if (pthread_create(&pool.worker[i], NULL, worker_main, (void *)(intptr_t)i)) break; // fewer is still right
        pool.threads = i + 1;
    }
}

int pool_threads(void) { return pool.threads; }

void pool_leave(void) { inside = true; }

void pool_for(int64_t n, int64_t grain, pool_fn *fn, void *arg) {
    if (n <= 0) return;
    if (grain < 1) grain = 1;
    if (inside || pool.threads == 1 || n <= grain) {
        bool was = inside;
        inside = true;
        for (int64_t lo = 0; lo < n; lo += grain) fn(arg, lo, lo + grain < n ? lo + grain : n, 0);
        inside = was;
        return;
    }
    pool.fn = fn, pool.arg = arg, pool.n = n, pool.grain = grain;
    const int64_t pieces = (n - 1) / grain + 1;
    for (int t = 0; t < pool.threads; t++) {
        atomic_store_explicit(&pool.share[t].next, pieces * t / pool.threads, memory_order_relaxed);
        pool.share[t].end = pieces * (t + 1) / pool.threads;
    }
    atomic_store_explicit(&pool.busy, pool.threads - 1, memory_order_release);
    announce();
    work(0);
    for (int spins = 0; atomic_load_explicit(&pool.busy, memory_order_acquire) > 0;) {
        if (++spins < SPIN) relax();
        else sched_yield();
    }
}

// ---- how many cores

// Quota of one cgroup (v2 cpu.max, v1 cfs files) in whole cores, rounded up. SIZE_MAX: no limit.
static size_t quota_cores(const char *folder, bool v2) {
    static const char *const names[2][2] = {{"cpu.cfs_quota_us", "cpu.cfs_period_us"}, {"cpu.max", NULL}};
    long long value[2] = {-1, -1}; // quota, period
    for (int i = 0; i < 2 && names[v2][i]; i++) {
        char path[1024];
        if (snprintf(path, sizeof path, "%s/%s", folder, names[v2][i]) >= (int)sizeof path) return SIZE_MAX;
        FILE *f = fopen(path, "r");
        if (!f) return SIZE_MAX;
        int found = v2 ? fscanf(f, "%lld %lld", &value[0], &value[1]) : fscanf(f, "%lld", &value[i]);
        fclose(f);
        if (found != 1 + v2) return SIZE_MAX; // "max", too
    }
    if (value[0] <= 0 || value[1] <= 0) return SIZE_MAX;
    return (size_t)(value[0] / value[1]) + (value[0] % value[1] != 0);
}

int pool_quota_under(const char *root) {
    size_t cores = cgroup_least(root, "cpu", quota_cores);
    return cores == SIZE_MAX ? 0 : cores > MAX_THREADS ? MAX_THREADS : (int)cores;
}

#ifdef __linux__
// First sibling of a hyperthread pair counts, the others do not.
static bool first_sibling(int cpu) {
    char path[96];
    int first = cpu;
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", cpu);
    FILE *f = fopen(path, "r");
    if (!f) return true;
    if (fscanf(f, "%d", &first) != 1) first = cpu;
    fclose(f);
    return first == cpu;
}
#endif

int pool_cpu(int thread) {
#ifdef __linux__
    cpu_set_t mask;
    if (sched_getaffinity(0, sizeof mask, &mask) != 0 || thread >= CPU_COUNT(&mask)) return -1;
    for (int second = 0; second < 2; second++) // of hyperthread pairs the first ones, then the others
        for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
            if (CPU_ISSET(cpu, &mask) && first_sibling(cpu) != second && thread-- == 0) return cpu;
#else
    (void)thread;
#endif
    return -1;
}

int pool_cores(void) {
    int cores = 0;
#ifdef __linux__
    cpu_set_t mask;
    if (sched_getaffinity(0, sizeof mask, &mask) == 0) {
        int allowed = CPU_COUNT(&mask);
        for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
            if (CPU_ISSET(cpu, &mask) && first_sibling(cpu)) cores++;
        if (cores == 0) cores = allowed; // only second siblings are ours
    }
#endif
    if (cores < 1) cores = (int)sysconf(_SC_NPROCESSORS_ONLN);
    int quota = pool_quota_under("");
    if (quota > 0 && quota < cores) cores = quota;
    const char *omp = getenv("OMP_NUM_THREADS");
    int wanted = omp ? atoi(omp) : 0;
    if (wanted > 0 && wanted < cores) cores = wanted;
    return cores < 1 ? 1 : cores > MAX_THREADS ? MAX_THREADS : cores;
}
