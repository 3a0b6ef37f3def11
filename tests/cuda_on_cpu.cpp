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

enum { WARP = 32, GROUP = 4 * WARP, SLOT = 64, STACK = 256 << 10, SHARED_MOST = 227 << 10, STATIC_MOST = 48 << 10, GAP = 64, FILL = 0xff, CANARY = 0xff }; // NaN
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
// Sums that products of its group are to be added to: what they are so far. d itself is NaN.
struct flight {
    float *d;
    int left; // products that were not waited for
    std::vector<float> sums;
};
struct begun {
    size_t product; // number of it in its group
    float *d;
    int group; // of commits
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
    bool group_fence, proxy_fence; // called since the last wait; since the last barrier
    int group_commits;
    size_t products;
    std::vector<begun> under_way;
    std::vector<flight> flights;
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

// A product of a warpgroup: its factors as they were when all had come, numbers (row, k) of 16 terms.
struct product {
    int come, done, columns;
    uint64_t a, b;
    bool across_a, across_b;
    std::vector<uint16_t> rows, cols;
    std::vector<float> of_rows, of_cols;
};
struct group {
    std::deque<product> products;
};

std::vector<fiber *> fibers; // as many as the largest block had
std::vector<warp> warps;
std::vector<group> groups;
bool async_sees; // shared memory as all threads wrote it is what wgmma reads
bool has_wgmma = true;
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

// All who have not ended are at the barrier.
void wake_barrier(void) {
    async_sees = true;
    for (int i = 0; i < count; i++) {
        fiber *f = fibers[i];
        if (f->wait == ENDED) continue;
        async_sees = async_sees && f->proxy_fence;
        f->proxy_fence = false;
        f->wait = READY;
    }
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
    f->commits = f->group_commits = 0;
    f->copies.clear();
    f->group_fence = f->proxy_fence = false;
    f->products = 0;
    f->under_way.clear(), f->flights.clear();
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

uint64_t bits(uint64_t from, int first, int count_) { return from >> first & (((uint64_t)1 << count_) - 1); }
// Number (row, k) of a matrix of wgmma, by the descriptor of the PTX ISA: address, offset of the leading dimension and of the stride,
// all by 16 bytes in bits 0..13, 16..29 and 32..45; base offset in 49..51; swizzle in 62..63.
uint16_t described(uint64_t matrix, bool across, int row, int k) {
    if (bits(matrix, 62, 2) != 1) fault("wgmma: a swizzle other than that of 128 bytes");
    if (bits(matrix, 49, 3)) fault("wgmma: a base offset");
    if (bits(matrix, 14, 2) | bits(matrix, 30, 2) | bits(matrix, 46, 3) | bits(matrix, 52, 10)) fault("wgmma: a descriptor with bits where there are none");
    const size_t start = 16 * bits(matrix, 0, 14), lead = 16 * bits(matrix, 16, 14), stride = 16 * bits(matrix, 32, 14);
    const size_t along_at = (size_t)(row % 8) * 128 + (size_t)(row / 8) * stride + (size_t)k * 2;
    const size_t across_at = (size_t)(row % 64) * 2 + (size_t)(row / 64) * lead + (size_t)(k % 8) * 128 + (size_t)(k / 8) * stride;
    size_t at = start + (across ? across_at : along_at);
    at ^= (at >> 7 & 7) << 4;
    if (at + 2 > shared_used) fault("wgmma: a matrix behind the end of shared memory");
    uint16_t number;
    memcpy(&number, shared_room + at, 2);
    return number;
}
std::vector<uint16_t> described_all(uint64_t matrix, bool across, int rows) {
    std::vector<uint16_t> all;
    all.reserve((size_t)rows * 16);
    for (int r = 0; r < rows; r++)
        for (int k = 0; k < 16; k++) all.push_back(described(matrix, across, r, k));
    return all;
}
std::vector<float> as_floats(const std::vector<uint16_t> &numbers) {
    std::vector<float> all;
    for (uint16_t n : numbers) all.push_back(__uint_as_float((uint32_t)n << 16));
    return all;
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

uint32_t on_cpu_address(const void *shared) {
    const size_t at = (size_t)((const unsigned char *)shared - shared_room);
    if (at >= (size_t)256 << 10) fault("an address that is not of shared memory");
    return (uint32_t)at;
}
void on_cpu_proxy_fence(void) { fibers[now]->proxy_fence = true; }
void on_cpu_group_fence(void) { fibers[now]->group_fence = true; }
void on_cpu_group_commit(void) { fibers[now]->group_commits++; }

// The product that comes next for this thread's group; the last of its threads to come sees what is in shared memory.
static product *group_meet(int columns, uint64_t a, uint64_t b, bool across_a, bool across_b) {
    fiber *f = fibers[now];
    const int first = now / GROUP * GROUP;
    if (first + GROUP > count) fault("wgmma in a block without all the warps of a group");
    group *g = &groups[(size_t)(now / GROUP)];
    const size_t which = f->products++;
    if (which == g->products.size()) g->products.push_back({0, 0, columns, a, b, across_a, across_b, {}, {}, {}, {}});
    product *p = &g->products[which];
    if (p->columns != columns || p->a != a || p->b != b || p->across_a != across_a || p->across_b != across_b)
        fault("wgmma: threads of a group multiply different matrices");
    f->site = __LINE__, f->mask = ~0u;
    if (++p->come < GROUP) {
        f->wait = IN_WARP;
        leave(false);
        return p;
    }
    p->rows = described_all(a, across_a, 64), p->cols = described_all(b, across_b, columns);
    p->of_rows = as_floats(p->rows), p->of_cols = as_floats(p->cols);
    for (int i = first; i < first + GROUP; i++) fibers[i]->wait = READY;
    return p;
}
// Sixteen terms are summed up from zero before they are added: not what mma_bf16 does, as on a GPU it need not be.
void on_cpu_group_multiply(float *d, int columns, uint64_t a, uint64_t b, bool across_a, bool across_b) {
    fiber *f = fibers[now];
    if (!f->group_fence) fault("wgmma without wgmma_fence");
    if (!async_sees) fault("wgmma: not all threads called fence_proxy_async before the last barrier");
    const product *p = group_meet(columns, a, b, across_a, across_b);
    f->under_way.push_back({f->products - 1, d, f->group_commits});
    size_t at = 0;
    while (at < f->flights.size() && f->flights[at].d != d) at++;
    if (at == f->flights.size()) {
        f->flights.push_back({d, 0, std::vector<float>(d, d + columns / 2)});
        for (int i = 0; i < columns / 2; i++) d[i] = NAN;
    }
    flight *to = &f->flights[at];
    to->left++;
    const int lane = now % WARP, row = now % GROUP / WARP * 16 + lane / 4, col = lane % 4 * 2;
    for (int i = 0; i < columns / 2; i++) {
        const float *x = &p->of_rows[(size_t)(row + i / 2 % 2 * 8) * 16], *y = &p->of_cols[(size_t)(col + i / 4 * 8 + i % 2) * 16];
        float sum = 0;
        for (int k = 0; k < 16; k++) sum += x[k] * y[k];
        to->sums[(size_t)i] += sum;
    }
}
void on_cpu_group_wait(int but) {
    fiber *f = fibers[now];
    size_t kept = 0;
    for (const begun &b : f->under_way) {
        if (b.group >= f->group_commits - but) {
            f->under_way[kept++] = b;
            continue;
        }
        product *p = &groups[(size_t)(now / GROUP)].products[b.product];
        if (++p->done == GROUP) {
            if (p->rows != described_all(p->a, p->across_a, 64) || p->cols != described_all(p->b, p->across_b, p->columns))
                fault("wgmma: a matrix was written while it was being read");
            p->rows = {}, p->cols = {}, p->of_rows = {}, p->of_cols = {};
        }
        size_t at = 0;
        while (f->flights[at].d != b.d) at++;
        if (--f->flights[at].left) continue;
        std::copy(f->flights[at].sums.begin(), f->flights[at].sums.end(), b.d);
        f->flights.erase(f->flights.begin() + (long)at);
    }
    f->under_way.resize(kept);
    f->group_fence = false;
}
void on_cpu_wgmma(bool yes) { has_wgmma = yes; }
bool on_cpu_has_wgmma(void) { return has_wgmma; }

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
    groups.resize((size_t)(count + GROUP - 1) / GROUP);
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
                for (group &g : groups) g.products.clear();
                async_sees = false;
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
                    else if (!fibers[i]->under_way.empty()) fault("a product of a warpgroup that nobody waited for");
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
