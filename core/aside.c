// aside.c: one thread of work beside the steps.
//
// Writing a checkpoint costs processor time (hashing, copying into the page cache) that the threads of the pool would miss:
// one of them held up holds up all, as pool_for ends with the last piece. So the thread works for about a millisecond at a
// time and then rests RESTS times as long: it takes at most 1 / (1 + RESTS) of the time. A low priority would do the same
// but cannot be taken back, and whoever waits for the end wants it soon: waiting ends all rests.
//
// Invariants: (1) one piece of work at a time, in the order of the calls. (2) On that thread pool_for runs inline and
// memory may be had while steps must not ask for any. (3) It takes no signals.
#include "core/core.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <time.h>

enum { RESTS = 63 };
static const double least_s = 1e-3;

struct aside {
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t change;
    bool started;         // there is a thread to join
    bool working, hurried; // under the mutex
    double worked;        // processor seconds of the thread up to its last rest
    aside_fn *fn;
    void *arg;
};
static _Thread_local struct aside *here;

static double thread_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static struct timespec after(double seconds) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    double nanos = (double)t.tv_nsec + seconds * 1e9;
    t.tv_sec += (time_t)(nanos / 1e9);
    t.tv_nsec = (long)(nanos - 1e9 * (double)(time_t)(nanos / 1e9));
    return t;
}

void aside_breathe(void) {
    struct aside *a = here;
    double now = a ? thread_seconds() : 0;
    if (!a || now - a->worked < least_s) return;
    struct timespec end = after(RESTS * (now - a->worked));
    pthread_mutex_lock(&a->mutex);
    while (!a->hurried && pthread_cond_timedwait(&a->change, &a->mutex, &end) != ETIMEDOUT) {}
    pthread_mutex_unlock(&a->mutex);
    a->worked = thread_seconds();
}

static void *aside_main(void *arg) {
    struct aside *a = arg;
    here = a;
    pool_leave();
    mem_freeze_elsewhere();
    a->worked = thread_seconds();
    a->fn(a->arg);
    pthread_mutex_lock(&a->mutex);
    a->working = false;
    pthread_mutex_unlock(&a->mutex);
    return NULL;
}

struct aside *aside_new(void) {
    struct aside *a = mem_alloc(sizeof *a, "thread beside the steps");
    pthread_mutex_init(&a->mutex, NULL);
    pthread_cond_init(&a->change, NULL);
    return a;
}

void aside_free(struct aside *a) {
    if (!a) return;
    aside_wait(a);
    pthread_mutex_destroy(&a->mutex);
    pthread_cond_destroy(&a->change);
    mem_free(a);
}

void aside_start(struct aside *a, aside_fn *fn, void *arg) {
    sigset_t all, before;
    aside_wait(a);
    a->fn = fn, a->arg = arg, a->working = true, a->hurried = false;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    a->started = pthread_create(&a->thread, NULL, aside_main, a) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (a->started) return;
    fn(arg); // no thread to be had: at once, then
    a->working = false;
}

bool aside_busy(struct aside *a) {
    pthread_mutex_lock(&a->mutex);
    bool busy = a->working;
    pthread_mutex_unlock(&a->mutex);
    return busy;
}

void aside_wait(struct aside *a) {
    if (!a->started) return;
    pthread_mutex_lock(&a->mutex);
    a->hurried = true;
    pthread_cond_signal(&a->change);
    pthread_mutex_unlock(&a->mutex);
    pthread_join(a->thread, NULL);
    a->started = false;
}
