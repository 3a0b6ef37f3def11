// mem.c: errors, checked sizes, host memory, arenas, texts.
//
// Host memory is the one resource whose lack ends the program: a half-made object is harder to get right than a
// sentence and exit code 1. Everything else that fails is told through struct err. In test builds (LEHR_GUARD)
// allocations can be frozen, which is how "nothing is allocated after the first step" is held.
#include "core/core.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

// ---- errors

bool err_set(struct err *err, const char *format, ...) {
    if (!err) return false;
    va_list args;
    va_start(args, format);
    vsnprintf(err->text, sizeof err->text, format, args);
    va_end(args);
    return false;
}

bool err_in(struct err *err, const char *format, ...) {
    if (!err) return false;
    char before[sizeof err->text];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(before, sizeof before, format, args);
    va_end(args);
    size_t used = n < 0 ? 0 : (size_t)n >= sizeof before ? sizeof before - 1 : (size_t)n;
    size_t room = sizeof err->text - 1;
    if (used + 2 > room) used = room - 2;
    size_t keep = strlen(err->text);
    if (used + 2 + keep > room) keep = room - used - 2;
    memmove(err->text + used + 2, err->text, keep);
    memcpy(err->text, before, used);
    memcpy(err->text + used, ": ", 2);
    err->text[used + 2 + keep] = '\0';
    return false;
}

// ---- sizes

bool size_mul(size_t a, size_t b, size_t *out) { return !__builtin_mul_overflow(a, b, out); }
bool size_add(size_t a, size_t b, size_t *out) { return !__builtin_add_overflow(a, b, out); }

// ---- memory

#ifdef LEHR_GUARD
static int frozen;
static _Thread_local bool exempt;
static long fail_at;
#endif

void mem_freeze(bool on) {
#ifdef LEHR_GUARD
    frozen += on ? 1 : -1;
    assert(frozen >= 0);
#else
    (void)on;
#endif
}

void mem_freeze_elsewhere(void) {
#ifdef LEHR_GUARD
    exempt = true;
#endif
}

void mem_fail_at(long n) {
#ifdef LEHR_GUARD
    fail_at = n;
#else
    (void)n;
#endif
}

static _Noreturn void out_of_memory(size_t bytes, const char *what) {
    char size[32];
    fprintf(stderr, "out of memory: %s for the %s could not be had; use a smaller model, context or batch\n",
            text_bytes(size, (double)bytes), what);
    exit(1);
}

static void allocation_due(size_t bytes, const char *what) {
#ifdef LEHR_GUARD
    if (!exempt && frozen) {
        fprintf(stderr, "allocation of %zu bytes for the %s while allocations are frozen\n", bytes, what);
        abort();
    }
    if (fail_at > 0 && --fail_at == 0) out_of_memory(bytes, what);
#else
    (void)bytes, (void)what;
#endif
}

void *mem_alloc(size_t bytes, const char *what) {
    allocation_due(bytes, what);
    void *p = calloc(bytes ? bytes : 1, 1);
    if (!p) out_of_memory(bytes, what);
    return p;
}

void *mem_array(size_t count, size_t each_bytes, const char *what) {
    size_t bytes;
    if (!size_mul(count, each_bytes, &bytes)) out_of_memory(SIZE_MAX, what);
    return mem_alloc(bytes, what);
}

void mem_grow(void **p, size_t *cap, size_t need, size_t each_bytes, const char *what) {
    if (need <= *cap) return;
    allocation_due(need, what);
    size_t to = *cap ? *cap : 16, bytes;
    while (to < need && size_mul(to, 2, &to)) {}
    if (to < need) to = need;
    if (!size_mul(to, each_bytes, &bytes)) out_of_memory(SIZE_MAX, what);
    void *grown = realloc(*p, bytes);
    if (!grown) out_of_memory(bytes, what);
    memset((char *)grown + *cap * each_bytes, 0, bytes - *cap * each_bytes);
    *p = grown;
    *cap = to;
}

char *mem_text(const char *text) {
    size_t n = strlen(text) + 1;
    return memcpy(mem_alloc(n, "text"), text, n);
}

void mem_free(void *p) { free(p); }

size_t mem_peak_bytes(void) {
    struct rusage use;
    return getrusage(RUSAGE_SELF, &use) ? 0 : (size_t)use.ru_maxrss * 1024;
}

// The number behind `key` in a small file, or the first when key is empty; SIZE_MAX for "max" or when there is none.
static size_t number_in(const char *path, const char *key) {
    FILE *f = fopen(path, "r");
    char line[256];
    size_t value = SIZE_MAX, n = strlen(key);
    if (!f) return value;
    while (value == SIZE_MAX && fgets(line, sizeof line, f)) {
        unsigned long long x;
        if (strncmp(line, key, n) == 0 && sscanf(line + n, "%llu", &x) == 1) value = (size_t)x;
    }
    fclose(f);
    return value;
}

// What a cgroup leaves: its limit less what is used, without files that could be dropped. SIZE_MAX: no limit.
static size_t cgroup_left(const char *folder, bool v2) {
    char path[1024];
    static const char *const names[2][4] = {
        {"memory.limit_in_bytes", "memory.usage_in_bytes", "memory.stat", "total_inactive_file "},
        {"memory.max", "memory.current", "memory.stat", "inactive_file "}};
    size_t value[3];
    for (int i = 0; i < 3; i++) {
        if (snprintf(path, sizeof path, "%s/%s", folder, names[v2][i]) >= (int)sizeof path) return SIZE_MAX;
        value[i] = number_in(path, i == 2 ? names[v2][3] : "");
    }
    if (value[0] == SIZE_MAX || value[1] == SIZE_MAX) return SIZE_MAX;
    size_t used = value[2] < value[1] ? value[1] - value[2] : value[1];
    return value[0] > used ? value[0] - used : 0;
}

// The least that `left` finds for the cgroup at top/inner and those around it.
static size_t cgroups_left(const char *top, const char *inner, bool v2, cgroup_fn *left) {
    char folder[768];
    size_t least = SIZE_MAX;
    if (strstr(inner, "..")) inner = ""; // outside of what we are shown
    if (snprintf(folder, sizeof folder, "%s%s", top, inner) >= (int)sizeof folder) return least;
    for (size_t n = strlen(folder); n >= strlen(top); n--) {
        if (folder[n] && folder[n] != '/') continue;
        folder[n] = '\0';
        size_t here = left(folder, v2);
        if (here < least) least = here;
    }
    return least;
}

static bool has_word(const char *list, const char *word) {
    size_t n = strlen(word);
    for (; *list; list += strcspn(list, ","), list += *list == ',')
        if (strcspn(list, ",") == n && strncmp(list, word, n) == 0) return true;
    return false;
}

size_t cgroup_least(const char *root, const char *controller, cgroup_fn *left) {
    char path[512], line[512], top[512];
    size_t least = SIZE_MAX;
    snprintf(path, sizeof path, "%s/proc/self/cgroup", root);
    FILE *f = fopen(path, "r");
    // Lines are number:controllers:path; v2 has no controllers there.
    for (bool more = true; more;) {
        more = f && fgets(line, sizeof line, f);
        if (!more) strcpy(line, "0::"); // the top is looked at in any case
        line[strcspn(line, "\n")] = '\0';
        char *controllers = strchr(line, ':'), *inner = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!inner) continue;
        *inner++ = '\0';
        bool v2 = controllers[1] == '\0';
        if (!v2 && !has_word(controllers + 1, controller)) continue;
        snprintf(top, sizeof top, "%s/sys/fs/cgroup%s%s", root, v2 ? "" : "/", v2 ? "" : controller);
        size_t here = cgroups_left(top, strcmp(inner, "/") ? inner : "", v2, left);
        if (here < least) least = here;
    }
    if (f) fclose(f);
    return least;
}

size_t mem_available_under(const char *root) {
    char path[512];
    snprintf(path, sizeof path, "%s/proc/meminfo", root);
    size_t kib = number_in(path, "MemAvailable:"), available = kib == SIZE_MAX ? SIZE_MAX : kib * 1024;
    size_t left = cgroup_least(root, "memory", cgroup_left);
    if (left < available) available = left;
    return available == SIZE_MAX ? 0 : available ? available : 1; // 0 means unknown
}

size_t mem_available_bytes(void) { return mem_available_under(""); }

// ---- arenas

void arena_open(struct arena *a, size_t bytes, const char *what) {
    size_t size = arena_round(bytes ? bytes : 1);
    allocation_due(size, what);
    void *base = NULL;
    if (posix_memalign(&base, 64, size)) out_of_memory(size, what);
    memset(base, 0, size);
    *a = (struct arena){base, 0, size, what};
}

void *arena_take(struct arena *a, size_t bytes) {
    size_t n = arena_round(bytes);
    assert(n <= a->size - a->used);
    void *p = a->base + a->used;
    a->used += n;
    return p;
}

void arena_reset(struct arena *a) { a->used = 0; }

void arena_close(struct arena *a) {
    free(a->base);
    *a = (struct arena){0};
}

// ---- texts

void text_add(struct text *t, const char *bytes, size_t n) {
    mem_grow((void **)&t->data, &t->cap, t->len + n + 1, 1, "text");
    if (n) memcpy(t->data + t->len, bytes, n);
    t->len += n;
    t->data[t->len] = '\0';
}

void text_str(struct text *t, const char *s) { text_add(t, s, strlen(s)); }

void text_fmt(struct text *t, const char *format, ...) {
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, format, args);
    va_end(args);
    assert(n >= 0);
    mem_grow((void **)&t->data, &t->cap, t->len + (size_t)n + 1, 1, "text");
    vsnprintf(t->data + t->len, (size_t)n + 1, format, again);
    va_end(again);
    t->len += (size_t)n;
}

void text_clear(struct text *t) {
    t->len = 0;
    if (t->data) t->data[0] = '\0';
}

void text_free(struct text *t) {
    mem_free(t->data);
    *t = (struct text){0};
}
