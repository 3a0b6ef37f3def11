// files: see files.h.
#include "tests/fuzz/files.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define FOLDER "m"
#define FILES_MAX 16

static struct part {
    char path[128];
    unsigned char *bytes; // NULL when empty, as a map has it
    size_t n;
} parts[FILES_MAX];
static size_t n_parts;

void must(bool holds, const char *what) {
    if (holds) return;
    fprintf(stderr, "does not hold: %s\n", what);
    abort();
}

void must_tell(bool good, const struct err *err) { must(good || strlen(err->text) > 8, "a failure has a sentence"); }

static unsigned char *exact_copy(const void *bytes, size_t n) {
    void *copy = NULL;
    if (n && posix_memalign(&copy, 64, n)) abort();
    if (n) memcpy(copy, bytes, n);
    return copy;
}

static void add(const char *name, size_t n_name, const void *bytes, size_t n) {
    struct part p = {.n = n};
    if (n_parts == FILES_MAX || !n_name || n_name > 100 || memchr(name, '/', n_name) || memchr(name, 0, n_name)) return;
    snprintf(p.path, sizeof p.path, FOLDER "/%.*s", (int)n_name, name);
    for (size_t i = 0; i < n_parts; i++)
        if (!strcmp(parts[i].path, p.path)) return;
    p.bytes = exact_copy(bytes, n);
    parts[n_parts++] = p;
}

void files_add(const char *name, const void *bytes, size_t n) { add(name, strlen(name), bytes, n); }

// The next mark at or behind at, n when there is none.
static size_t next_mark(const uint8_t *bytes, size_t at, size_t n) {
    for (; at + 4 <= n; at++)
        if (!memcmp(bytes + at, "====", 4) && (at == 0 || bytes[at - 1] == '\n')) return at;
    return n;
}

void files_split(const uint8_t *bytes, size_t n) {
    for (size_t at = next_mark(bytes, 0, n); at < n;) {
        const uint8_t *name = bytes + at + 4, *line = memchr(name, '\n', n - at - 4);
        if (!line) return;
        size_t from = (size_t)(line + 1 - bytes), end = next_mark(bytes, from, n);
        size_t to = end < n && end > from ? end - 1 : end; // the newline is the mark's
        add((const char *)name, (size_t)(line - name), bytes + from, to - from);
        at = end;
    }
}

void files_load(const char *name, const char *path) {
    FILE *f = fopen(path, "rb");
    if (!f) {
        fprintf(stderr, "%s cannot be opened: fuzz targets run in the root of the project\n", path);
        exit(1);
    }
    struct text all = {0};
    char buffer[4096];
    for (size_t n; (n = fread(buffer, 1, sizeof buffer, f)) > 0;) text_add(&all, buffer, n);
    fclose(f);
    files_add(name, all.data, all.len);
    text_free(&all);
}

void files_drop(void) {
    for (size_t i = 0; i < n_parts; i++) free(parts[i].bytes);
    n_parts = 0;
}

const char *files_name(size_t i) { return i < n_parts ? parts[i].path : NULL; }

// ---- core/file.c, as the linker sees it

bool __wrap_file_map_open(struct file_map *m, const char *path, struct err *err);
void __wrap_file_map_close(struct file_map *m);
void __wrap_file_map_forget(const void *p, size_t n);
bool __wrap_file_read_all(const char *path, size_t limit, struct text *out, struct err *err);
bool __wrap_file_exists(const char *path);
bool __wrap_file_list_open(struct file_list *list, const char *folder, struct err *err);
bool __wrap_path_is_folder(const char *path);
int __wrap_stat(const char *path, struct stat *st);
int __real_stat(const char *path, struct stat *st);

static const struct part *find(const char *path) {
    must(!strncmp(path, FOLDER "/", 2) && path[2] && !strchr(path + 2, '/'), "only files of the folder are named");
    for (size_t i = 0; i < n_parts; i++)
        if (!strcmp(parts[i].path, path)) return &parts[i];
    return NULL;
}

bool __wrap_file_map_open(struct file_map *m, const char *path, struct err *err) {
    const struct part *p = find(path);
    *m = (struct file_map){0};
    if (!p) return err_set(err, "%s: cannot be opened: there is no such file", path);
    *m = (struct file_map){exact_copy(p->bytes, p->n), p->n, mem_text(path)};
    return true;
}

void __wrap_file_map_close(struct file_map *m) {
    free((void *)m->data);
    mem_free(m->path);
    *m = (struct file_map){0};
}

// Forgetting pages of memory would be losing them, and their neighbours with them.
void __wrap_file_map_forget(const void *p, size_t n) { (void)p, (void)n; }

bool __wrap_file_read_all(const char *path, size_t limit, struct text *out, struct err *err) {
    const struct part *p = find(path);
    if (!p) return err_set(err, "%s: cannot be opened: there is no such file", path);
    text_add(out, (const char *)p->bytes, p->n);
    return p->n <= limit || err_set(err, "%s: is larger than the limit of %zu bytes", path, limit);
}

bool __wrap_file_exists(const char *path) { return !strcmp(path, FOLDER) || find(path); }

static int by_name(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

bool __wrap_file_list_open(struct file_list *list, const char *folder, struct err *err) {
    (void)err;
    must(!strcmp(folder, FOLDER) || !strcmp(folder, FOLDER "/"), "only the folder is listed");
    list->names = mem_array(n_parts + 1, sizeof *list->names, "file names");
    list->count = n_parts;
    for (size_t i = 0; i < n_parts; i++) list->names[i] = mem_text(parts[i].path + 2);
    qsort(list->names, n_parts, sizeof *list->names, by_name);
    return true;
}

bool __wrap_path_is_folder(const char *path) { return !strcmp(path, FOLDER); }

// The corpus looks at sizes and kinds first; the fuzzer itself asks for real files.
int __wrap_stat(const char *path, struct stat *st) {
    bool folder = !strcmp(path, FOLDER);
    if (!folder && strncmp(path, FOLDER "/", 2) != 0) return __real_stat(path, st);
    const struct part *p = folder ? NULL : find(path);
    if (!folder && !p) return -1;
    memset(st, 0, sizeof *st);
    st->st_mode = folder ? S_IFDIR | 0755 : S_IFREG | 0644;
    st->st_size = p ? (off_t)p->n : 0;
    return 0;
}
