// file.c: files are read by mapping and written whole or not at all.
//
// Writing goes to `path.tmp-<pid>` beside the target, then fsync, rename, fsync of the folder: after a crash at any
// moment the name holds the old bytes or the new ones, never a mixture (the order SQLite and others settled on). A write
// error sticks in the file_out, so writers need no check per call; commit tells it and removes the temporary.
#include "core/core.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

// ---- reading

static bool regular_size(int fd, const char *path, size_t *size, struct err *err) {
    struct stat st;
    if (fstat(fd, &st)) return err_set(err, "%s: cannot be examined: %s", path, strerror(errno));
    if (S_ISDIR(st.st_mode)) return err_set(err, "%s: is a folder, expected a file", path);
    if (!S_ISREG(st.st_mode)) return err_set(err, "%s: is a pipe or a device, expected a regular file", path);
    *size = (size_t)st.st_size;
    return true;
}

bool file_map_open(struct file_map *m, const char *path, struct err *err) {
    *m = (struct file_map){0};
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); // a FIFO must not block before it is refused
    if (fd < 0) return err_set(err, "%s: cannot be opened: %s", path, strerror(errno));
    size_t size = 0;
    bool fine = regular_size(fd, path, &size, err);
    if (fine && size > 0) {
        void *data = mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (data == MAP_FAILED) fine = err_set(err, "%s: cannot be mapped: %s", path, strerror(errno));
        else m->data = data;
    }
    close(fd);
    if (!fine) return false;
    m->size = size;
    m->path = mem_text(path);
    return true;
}

void file_map_close(struct file_map *m) {
    if (m->data) munmap((void *)m->data, m->size);
    mem_free(m->path);
    *m = (struct file_map){0};
}

void file_map_forget(const void *p, size_t n) {
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    const uintptr_t from = ((uintptr_t)p + page - 1) / page * page, to = ((uintptr_t)p + n) / page * page;
    if (from < to) (void)madvise((void *)from, to - from, MADV_DONTNEED); // a wish
}

static void on_sigbus(int signal_number) {
    static const char text[] = "a file became shorter while it was in use, or its disk failed; the program stops here\n";
    (void)signal_number;
    if (write(2, text, sizeof text - 1) < 0) _exit(1);
    _exit(1);
}

void file_guard_sigbus(void) {
    struct sigaction action = {.sa_handler = on_sigbus};
    sigaction(SIGBUS, &action, NULL);
}

bool file_read_all(const char *path, size_t limit, struct text *out, struct err *err) {
    bool standard = strcmp(path, "-") == 0;
    int fd = standard ? 0 : open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return err_set(err, "%s: cannot be opened: %s", path, strerror(errno));
    const char *name = standard ? "standard input" : path;
    bool fine = true;
    size_t start = out->len;
    for (;;) {
        mem_grow((void **)&out->data, &out->cap, out->len + 65536, 1, "text of a file");
        ssize_t n = read(fd, out->data + out->len, out->cap - out->len - 1);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) fine = err_set(err, "%s: cannot be read: %s", name, strerror(errno));
        if (n <= 0) break;
        out->len += (size_t)n;
        if (out->len - start > limit) {
            fine = err_set(err, "%s: is larger than the limit of %zu bytes", name, limit);
            break;
        }
    }
    out->data[out->len] = '\0';
    if (!standard) close(fd);
    return fine;
}

// ---- writing

struct file_out {
    int fd, error; // errno of the first failure
    char *path, *temporary;
    uint64_t written;
    size_t held;
    unsigned char buffer[1 << 16];
};

static uint64_t fail_past; // test hook; 0: off

void file_out_fail_at(uint64_t n) { fail_past = n; }

struct file_out *file_out_open(const char *path, struct err *err) {
    struct text temporary = {0};
    text_fmt(&temporary, "%s.tmp-%ld", path, (long)getpid());
    int fd = open(temporary.data, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0) {
        err_set(err, "%s: cannot be created: %s", temporary.data, strerror(errno));
        text_free(&temporary);
        return NULL;
    }
    struct file_out *f = mem_alloc(sizeof *f, "file writer");
    f->fd = fd;
    f->path = mem_text(path);
    f->temporary = temporary.data;
    return f;
}

static void put(struct file_out *f, const unsigned char *p, size_t n) {
    while (n > 0 && !f->error) {
        ssize_t done = write(f->fd, p, n);
        if (done < 0 && errno != EINTR) f->error = errno;
        if (done > 0) p += done, n -= (size_t)done;
    }
}

void file_out_write(struct file_out *f, const void *bytes, size_t n) {
    aside_breathe();
    if (fail_past && f->written + n >= fail_past && !f->error) f->error = ENOSPC;
    f->written += n;
    if (f->held + n > sizeof f->buffer) {
        put(f, f->buffer, f->held);
        f->held = 0;
    }
    if (n > sizeof f->buffer) {
        put(f, bytes, n);
    } else if (n > 0) {
        memcpy(f->buffer + f->held, bytes, n);
        f->held += n;
    }
}

uint64_t file_out_size(const struct file_out *f) { return f->written; }

static void file_out_free(struct file_out *f) {
    mem_free(f->path);
    mem_free(f->temporary);
    mem_free(f);
}

void file_out_abort(struct file_out *f) {
    if (!f) return;
    close(f->fd);
    unlink(f->temporary);
    file_out_free(f);
}

// The rename is on disk only when its folder is.
static int sync_folder_of(const char *path) {
    struct text folder = {0};
    const char *slash = strrchr(path, '/');
    if (slash == path) text_str(&folder, "/");
    else if (slash) text_add(&folder, path, (size_t)(slash - path));
    else text_str(&folder, ".");
    int fd = open(folder.data, O_RDONLY | O_DIRECTORY | O_CLOEXEC), error = 0;
    text_free(&folder);
    if (fd < 0) return errno;
    if (fsync(fd) && errno != EINVAL && errno != ENOTSUP) error = errno; // some file systems cannot, and need not
    close(fd);
    return error;
}

bool file_out_commit(struct file_out *f, struct err *err) {
    put(f, f->buffer, f->held);
    f->held = 0;
    if (!f->error && fsync(f->fd)) f->error = errno;
    if (close(f->fd) && !f->error) f->error = errno;
    if (!f->error && rename(f->temporary, f->path)) f->error = errno;
    if (f->error) {
        unlink(f->temporary);
        err_set(err, "%s: could not be written (%s); %s", f->path, strerror(f->error),
                f->error == ENOSPC || f->error == EDQUOT ? "free some space, what stood there before is untouched"
                                                         : "what stood there before is untouched");
        file_out_free(f);
        return false;
    }
    int folder_error = sync_folder_of(f->path);
    bool fine = !folder_error ||
                err_set(err, "%s: written, but its folder could not be synchronised: %s", f->path, strerror(folder_error));
    file_out_free(f);
    return fine;
}

bool file_rename(const char *from, const char *to, struct err *err) {
    if (rename(from, to)) return err_set(err, "%s: could not be renamed to %s: %s", from, to, strerror(errno));
    int error = sync_folder_of(to);
    return !error || err_set(err, "%s: written, but its folder could not be synchronised: %s", to, strerror(error));
}

// ---- folders

bool file_exists(const char *path) { return access(path, F_OK) == 0; }

bool file_make_folder(const char *path, struct err *err) {
    struct stat st;
    char *part = mem_text(path);
    bool fine = true;
    for (char *p = part + 1; fine && *path; p++) {
        if (*p != '/' && *p != '\0') continue;
        char kept = *p;
        *p = '\0';
        if (mkdir(part, 0777) && errno != EEXIST)
            fine = err_set(err, "%s: cannot be made: %s", part, strerror(errno));
        *p = kept;
        if (!kept) break;
    }
    mem_free(part);
    if (fine && (stat(path, &st) || !S_ISDIR(st.st_mode)))
        fine = err_set(err, "%s: is not a folder and cannot become one", path);
    return fine;
}

uint64_t file_free_bytes(const char *path) {
    struct statvfs s;
    return statvfs(path, &s) ? UINT64_MAX : (uint64_t)s.f_bavail * s.f_frsize;
}

static int by_name(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

bool file_list_open(struct file_list *list, const char *folder, struct err *err) {
    *list = (struct file_list){0};
    DIR *d = opendir(folder);
    if (!d) return err_set(err, "%s: cannot be listed: %s", folder, strerror(errno));
    size_t cap = 0;
    for (struct dirent *e; (e = readdir(d));) {
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..")) continue;
        mem_grow((void **)&list->names, &cap, list->count + 1, sizeof *list->names, "list of files");
        list->names[list->count++] = mem_text(e->d_name);
    }
    closedir(d);
    if (list->count) qsort(list->names, list->count, sizeof *list->names, by_name);
    return true;
}

void file_list_free(struct file_list *list) {
    for (size_t i = 0; i < list->count; i++) mem_free(list->names[i]);
    mem_free(list->names);
    *list = (struct file_list){0};
}
