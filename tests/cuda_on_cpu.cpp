// cuda_on_cpu.cpp: the machine behind cuda_on_cpu.h: fibers, shared memory, device memory.
//
// Fibers switch by a few lines of assembler, which keep what a call keeps. A block's fibers are run by turns, those that can go on, in a
// drawn order, until all have ended; when none can go on, they wait for each other for ever, which ends the program with a
// list of who waits where.
#include "tests/cuda_on_cpu.h"

#include <cassert>
#include <cstdio>
#include <deque>
#include <mutex>
#include <sys/mman.h>
#include <unistd.h>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#define POISON(p, n) ASAN_POISON_MEMORY_REGION(p, n)
#define UNPOISON(p, n) ASAN_UNPOISON_MEMORY_REGION(p, n)
#else
#define POISON(p, n) ((void)(p), (void)(n))
#define UNPOISON(p, n) ((void)(p), (void)(n))
#endif

struct on_cpu_thread on_cpu_now;
extern "C" void on_cpu_switch(void **from, void *to); // keeps what a call keeps on the stack that it leaves

namespace {

enum { WARP = 32, SLOT = 64, STACK = 256 << 10, SHARED_MOST = 227 << 10, STATIC_MOST = 48 << 10, GAP = 64, FILL = 0xff, CANARY = 0xff }; // NaN
enum wait { READY, AT_BARRIER, IN_WARP, ENDED };

// ---- random orders: xorshift, which is enough to shuffle

uint64_t state, launches;
uint32_t draw(uint32_t below) {
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return (uint32_t)(state >> 32) % below;
}
void shuffle(std::vector<int> &order) {
    for (size_t i = order.size(); state && i > 1; i--) std::swap(order[i - 1], order[draw((uint32_t)i)]);
}

// ---- fibers

struct copy {
    unsigned char *to;
    unsigned char bytes[16];
    int group; // number of the commit it belongs to
};
struct fiber {
    void *sp;
    unsigned char *stack;
    void *fake_stack; // of ASan
    dim3 thread;
    enum wait wait;
    int site; // where it waits
    unsigned mask;
    int commits;
    std::vector<copy> copies;
};
// Lanes of one mask meet again and again, even and odd meetings by turns: who has left one cannot come to the one after the next
// before all others have left it, too.
struct meeting {
    unsigned mask, odd; // odd: lanes whose next is an odd one
    unsigned come[2];
    int site[2];
    unsigned char slot[2][WARP * SLOT];
};
struct warp {
    std::deque<meeting> meetings; // one for each mask
};

std::vector<fiber *> fibers; // as many as the largest block had
std::vector<warp> warps;
int now = -1, live, count;
const char *kernel_name = "";
const std::function<void()> *body;
void *scheduler_sp;
#if defined(__SANITIZE_ADDRESS__)
void *scheduler_fake;
const void *scheduler_bottom;
size_t scheduler_size;
#endif

#if defined(__x86_64__)
asm(".text\n.p2align 4\n.globl on_cpu_switch\n.type on_cpu_switch,@function\non_cpu_switch:\n"
    "pushq %rbp\npushq %rbx\npushq %r12\npushq %r13\npushq %r14\npushq %r15\n"
    "movq %rsp, (%rdi)\nmovq %rsi, %rsp\n"
    "popq %r15\npopq %r14\npopq %r13\npopq %r12\npopq %rbx\npopq %rbp\nret\n.size on_cpu_switch, .-on_cpu_switch\n");
enum { KEPT = 6 };
#elif defined(__aarch64__)
asm(".text\n.p2align 4\n.globl on_cpu_switch\n.type on_cpu_switch,%function\non_cpu_switch:\n"
    "sub sp, sp, #160\nstp x19, x20, [sp]\nstp x21, x22, [sp, #16]\nstp x23, x24, [sp, #32]\nstp x25, x26, [sp, #48]\n"
    "stp x27, x28, [sp, #64]\nstp x29, x30, [sp, #80]\nstp d8, d9, [sp, #96]\nstp d10, d11, [sp, #112]\n"
    "stp d12, d13, [sp, #128]\nstp d14, d15, [sp, #144]\nmov x9, sp\nstr x9, [x0]\nmov sp, x1\n"
    "ldp x19, x20, [sp]\nldp x21, x22, [sp, #16]\nldp x23, x24, [sp, #32]\nldp x25, x26, [sp, #48]\n"
    "ldp x27, x28, [sp, #64]\nldp x29, x30, [sp, #80]\nldp d8, d9, [sp, #96]\nldp d10, d11, [sp, #112]\n"
    "ldp d12, d13, [sp, #128]\nldp d14, d15, [sp, #144]\nadd sp, sp, #160\nret\n.size on_cpu_switch, .-on_cpu_switch\n");
#else
#error "cuda_on_cpu: a switch of fibers for this processor is missing"
#endif

// From the fiber that runs back to the scheduler. last: it will not run again.
void leave(bool last) {
    fiber *f = fibers[now];
    (void)last;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(last ? nullptr : &f->fake_stack, scheduler_bottom, scheduler_size);
#endif
    on_cpu_switch(&f->sp, scheduler_sp);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(f->fake_stack, &scheduler_bottom, &scheduler_size);
#endif
}

void wake_barrier(void) {
    for (int i = 0; i < count; i++)
        if (fibers[i]->wait == AT_BARRIER) fibers[i]->wait = READY;
}
int waiting_at_barrier;

void fiber_main(void) {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(nullptr, &scheduler_bottom, &scheduler_size);
#endif
    (*body)();
    fibers[now]->wait = ENDED;
    live--;
    if (live && waiting_at_barrier == live) waiting_at_barrier = 0, wake_barrier();
    leave(true);
    abort();
}

void prepare(fiber *f) {
    if (!f->stack) {
        f->stack = (unsigned char *)mmap(nullptr, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (f->stack == MAP_FAILED || mprotect(f->stack, 4096, PROT_NONE)) abort();
    }
    UNPOISON(f->stack + 4096, STACK - 4096); // what the last thread on it left behind
    void **top = (void **)(void *)(f->stack + STACK);
#if defined(__x86_64__)
    *--top = nullptr; // where a caller's address would be: keeps the alignment of a call
    *--top = (void *)fiber_main;
    for (int i = 0; i < KEPT; i++) *--top = nullptr;
#else
    top -= 20;
    memset(top, 0, 160);
    top[11] = (void *)fiber_main; // x30
#endif
    f->sp = top;
    f->wait = READY;
    f->commits = 0;
    f->copies.clear();
}

void run(int i) {
    fiber *f = fibers[i];
    now = i;
    on_cpu_now.thread = f->thread;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&scheduler_fake, f->stack, STACK);
#endif
    on_cpu_switch(&scheduler_sp, f->sp);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(scheduler_fake, nullptr, nullptr);
#endif
    now = -1;
}

[[noreturn]] void fault(const char *what) {
    fprintf(stderr, "cuda on cpu: %s, block %u %u %u", kernel_name, on_cpu_now.block.x, on_cpu_now.block.y, on_cpu_now.block.z);
    if (now >= 0) fprintf(stderr, ", thread %u %u %u", on_cpu_now.thread.x, on_cpu_now.thread.y, on_cpu_now.thread.z);
    fprintf(stderr, ": %s\n", what);
    abort();
}

[[noreturn]] void deadlock(void) {
    char text[400];
    size_t at = (size_t)snprintf(text, sizeof text, "deadlock:");
    int told = 0;
    for (int i = 0; i < count && at < sizeof text; i++) {
        fiber *f = fibers[i];
        if (f->wait == ENDED) continue;
        const bool like_before = i && fibers[i - 1]->wait == f->wait && fibers[i - 1]->site == f->site && fibers[i - 1]->mask == f->mask;
        if (like_before || told++ > 6) continue;
        if (f->wait == AT_BARRIER) at += (size_t)snprintf(text + at, sizeof text - at, " from thread %d on at the barrier of line %d;", i, f->site);
        else at += (size_t)snprintf(text + at, sizeof text - at, " from thread %d on in line %d for the lanes %08x of its warp;", i, f->site, f->mask);
    }
    fault(text);
}

// ---- shared memory of the block that runs

struct array {
    const void *key;
    const char *name;
    size_t at, bytes;
};
std::vector<array> arrays;
alignas(1024) unsigned char shared_room[SHARED_MOST + (64 << 10)];
size_t shared_used, static_used, rest_bytes;

void shared_begin(void) {
    UNPOISON(shared_room, sizeof shared_room);
    const size_t used = shared_used ? shared_used : sizeof shared_room;
    memset(shared_room, CANARY, used);
    arrays.clear();
    static_used = 0;
    shared_used = 0;
    POISON(shared_room, sizeof shared_room);
    if (rest_bytes) on_cpu_shared(&rest_bytes, rest_bytes, "the rest");
}

void shared_end(void) {
    UNPOISON(shared_room, sizeof shared_room);
    for (const array &a : arrays)
        for (int side = 0; side < 2; side++) {
            const unsigned char *gap = side ? shared_room + a.at + a.bytes : shared_room + a.at - GAP;
            for (int i = 0; i < GAP; i++) {
                char text[200];
                if (gap[i] == CANARY) continue;
                snprintf(text, sizeof text, "something was written %s the shared array %s", side ? "behind" : "before", a.name);
                fault(text);
            }
        }
}

// ---- device memory: one range of addresses, of which pages are had in turn

enum : size_t { DEVICE_MOST = (size_t)64 << 30 };
struct block {
    unsigned char *at;
    size_t bytes, room;
};
unsigned char *device_range;
size_t device_used;
std::vector<block> blocks;
bool device_open;
size_t page(void) { return (size_t)sysconf(_SC_PAGESIZE); }

void device_allow(bool open) {
    if (open == device_open) return;
    device_open = open;
    for (const block &b : blocks)
        if (b.at && mprotect(b.at, b.room, open ? PROT_READ | PROT_WRITE : PROT_NONE)) abort();
}

} // namespace

static std::recursive_mutex one; // launches and copies come from several threads of a program

void on_cpu_seed(uint64_t seed) { state = seed ? seed * 0x9e3779b97f4a7c15u | 1 : 0; }
uint64_t on_cpu_launches(void) { return launches; }
int on_cpu_lane(void) { return now % WARP; }

void on_cpu_barrier(int site) {
    fiber *f = fibers[now];
    for (int i = 0; waiting_at_barrier && i < count; i++)
        if (fibers[i]->wait == AT_BARRIER) {
            if (fibers[i]->site != site) f->wait = AT_BARRIER, f->site = site, deadlock();
            break;
        }
    f->wait = AT_BARRIER;
    f->site = site;
    if (++waiting_at_barrier == live) waiting_at_barrier = 0, wake_barrier();
    else leave(false);
}

const unsigned char *on_cpu_meet(int site, unsigned mask, const void *bring, size_t bytes) {
    fiber *f = fibers[now];
    warp *w = &warps[(size_t)now / WARP];
    const int lane = now % WARP, first = now - lane;
    if (!(mask >> lane & 1)) fault("a lane that is not in its own mask");
    size_t at = 0;
    while (at < w->meetings.size() && w->meetings[at].mask != mask) at++;
    if (at == w->meetings.size()) w->meetings.emplace_back(), w->meetings[at].mask = mask;
    meeting *m = &w->meetings[at];
    const int which = (int)(m->odd >> lane & 1);
    m->odd ^= 1u << lane;
    f->site = site, f->mask = mask;
    if (m->come[which] && m->site[which] != site) f->wait = IN_WARP, deadlock();
    m->site[which] = site;
    memcpy(m->slot[which] + lane * SLOT, bring, bytes);
    m->come[which] |= 1u << lane;
    if (m->come[which] == mask) {
        m->come[which] = 0;
        for (int l = 0; l < WARP && first + l < count; l++)
            if (mask >> l & 1 && l != lane) fibers[first + l]->wait = READY;
        return m->slot[which];
    }
    f->wait = IN_WARP;
    leave(false);
    return m->slot[which];
}

void *on_cpu_shared(const void *key, size_t bytes, const char *name) {
    for (const array &a : arrays)
        if (a.key == key) {
            if (a.bytes < bytes) fault("a shared array grew");
            return shared_room + a.at;
        }
    const size_t at = (shared_used + GAP + 127) / 128 * 128, end = at + bytes + GAP;
    if (key != &rest_bytes) static_used += bytes;
    if (static_used > STATIC_MOST || static_used + rest_bytes > SHARED_MOST || end > sizeof shared_room) fault("more shared memory than there is");
    shared_used = end;
    UNPOISON(shared_room + at, bytes);
    memset(shared_room + at, FILL, bytes);
    arrays.push_back({key, name, at, bytes});
    return shared_room + at;
}
void *on_cpu_rest(void) { return on_cpu_shared(&rest_bytes, rest_bytes, "the rest"); }

void on_cpu_copy(void *shared, const void *global, bool present) {
    fiber *f = fibers[now];
    if ((uintptr_t)shared % 16 || (present && (uintptr_t)global % 16)) fault("a copy of 16 bytes that are not aligned");
    copy c;
    c.to = (unsigned char *)shared;
    c.group = f->commits;
    if (present) memcpy(c.bytes, global, 16);
    else memset(c.bytes, 0, 16);
    memset(shared, FILL, 16);
    f->copies.push_back(c);
}
void on_cpu_commit(void) { fibers[now]->commits++; }
void on_cpu_wait(int but) {
    fiber *f = fibers[now];
    size_t kept = 0;
    for (const copy &c : f->copies) {
        if (c.group < f->commits - but) memcpy(c.to, c.bytes, 16);
        else f->copies[kept++] = c;
    }
    f->copies.resize(kept);
}

struct on_cpu_list {
    std::vector<std::function<void()>> steps;
};
static struct on_cpu_list *keeping;
void on_cpu_keep(void) { keeping = new on_cpu_list(); }
struct on_cpu_list *on_cpu_kept(void) {
    struct on_cpu_list *list = keeping;
    keeping = nullptr;
    return list;
}
void on_cpu_again(const struct on_cpu_list *list) {
    for (const auto &step : list->steps) step();
}
void on_cpu_drop(struct on_cpu_list *list) { delete list; }

void on_cpu_launch(const char *kernel, dim3 grid, dim3 block, size_t rest, const std::function<void()> &thread) {
    std::lock_guard<std::recursive_mutex> alone(one);
    if (keeping) {
        keeping->steps.push_back([=]() { on_cpu_launch(kernel, grid, block, rest, thread); });
        return;
    }
    kernel_name = kernel;
    count = (int)(block.x * block.y * block.z);
    launches++;
    on_cpu_now.blocks = grid, on_cpu_now.threads = block;
    if (count < 1 || count > 1024 || grid.x < 1 || grid.y < 1 || grid.z < 1 || grid.y > 65535 || grid.z > 65535) fault("a launch of a size that no GPU has");
    while ((int)fibers.size() < count) fibers.push_back(new fiber());
    if (warps.size() < (size_t)(count + WARP - 1) / WARP) warps.resize((size_t)(count + WARP - 1) / WARP);
    body = &thread;
    rest_bytes = rest;
    device_allow(true);
    std::vector<int> order((size_t)count), turns(grid.x <= 4096 ? grid.x : 0);
    for (int i = 0; i < count; i++) {
        order[(size_t)i] = i;
        fibers[i]->thread = dim3(i % block.x, i / block.x % block.y, i / (block.x * block.y));
    }
    for (size_t i = 0; i < turns.size(); i++) turns[i] = (int)i;
    shuffle(turns);
    for (unsigned z = 0; z < grid.z; z++)
        for (unsigned y = 0; y < grid.y; y++)
            for (unsigned x = 0; x < grid.x; x++) {
                on_cpu_now.block = dim3(turns.empty() ? x : (unsigned)turns[x], y, z);
                shared_begin();
                for (warp &w : warps) w.meetings.clear();
                for (int i = 0; i < count; i++) prepare(fibers[i]);
                live = count;
                waiting_at_barrier = 0;
                while (live) {
                    bool ran = false;
                    shuffle(order);
                    for (int i : order)
                        if (fibers[i]->wait == READY) run(i), ran = true;
                    if (!ran) deadlock();
                }
                for (int i = 0; i < count; i++)
                    if (!fibers[i]->copies.empty()) fault("a copy into shared memory that nobody waited for");
                shared_end();
            }
    device_allow(false);
}

cudaError_t cudaMalloc(void **p, size_t bytes) {
    std::lock_guard<std::recursive_mutex> alone(one);
    if (!device_range) {
        device_range = (unsigned char *)mmap(nullptr, DEVICE_MOST, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (device_range == MAP_FAILED) abort();
    }
    // It ends where an unmapped page begins, but for the 256 bytes to which the real one aligns.
    const size_t room = (bytes + page() - 1) / page() * page();
    if (bytes > DEVICE_MOST || device_used + room + page() > DEVICE_MOST) return cudaErrorMemoryAllocation;
    unsigned char *at = device_range + device_used;
    device_used += room + page();
    if (mprotect(at, room, PROT_READ | PROT_WRITE)) return cudaErrorMemoryAllocation;
    memset(at, FILL, room);
    blocks.push_back({at, bytes, room});
    unsigned char *given = at + (room - bytes) / 256 * 256;
    if (!device_open && mprotect(at, room, PROT_NONE)) abort();
    *p = given;
    return cudaSuccess;
}
cudaError_t cudaFree(void *p) {
    if (!p) return cudaSuccess;
    std::lock_guard<std::recursive_mutex> alone(one);
    for (size_t i = 0; i < blocks.size(); i++)
        if ((unsigned char *)p >= blocks[i].at && (unsigned char *)p < blocks[i].at + blocks[i].room) {
            munmap(blocks[i].at, blocks[i].room); // addresses are not used again
            mmap(blocks[i].at, blocks[i].room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
            blocks.erase(blocks.begin() + (long)i);
            return cudaSuccess;
        }
    fault("memory is freed that was never had");
}
cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, cudaMemcpyKind kind) {
    std::lock_guard<std::recursive_mutex> alone(one);
    if (keeping) {
        if (kind != cudaMemcpyDeviceToDevice) fault("a copy from or to the host inside a pass that is kept");
        keeping->steps.push_back([=]() { cudaMemcpy(to, from, bytes, kind); });
        return cudaSuccess;
    }
    device_allow(true);
    memmove(to, from, bytes);
    device_allow(false);
    return cudaSuccess;
}
cudaError_t cudaMemset(void *to, int value, size_t bytes) {
    std::lock_guard<std::recursive_mutex> alone(one);
    if (keeping) {
        keeping->steps.push_back([=]() { cudaMemset(to, value, bytes); });
        return cudaSuccess;
    }
    device_allow(true);
    memset(to, value, bytes);
    device_allow(false);
    return cudaSuccess;
}
