// samples.c: the file of a target's samples (distil.h): appended to while they are written, mapped when they are read.
#include "learn/distil.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static_assert(sizeof(struct samples_head) == 64, "the head of a file of samples is 64 bytes");
static const char magic[8] = {'L', 'E', 'H', 'R', 'S', 'M', 'P', '1'};
enum { HASH_BYTES = 8, TOKEN_BYTES = 4 + SOFT_TOP * 6, LENGTH_MOST = 1 << 20 };

static size_t window_bytes(const struct samples_head *h) { return (size_t)h->length * TOKEN_BYTES + HASH_BYTES; }

struct samples_out {
    int fd;
    char *path;
    struct samples_head head;
    unsigned char *window;
    int failed; // errno of the first write that failed
};

static void put(struct samples_out *o, const void *bytes, size_t n) {
    for (const char *p = bytes; n && !o->failed;) {
        ssize_t done = write(o->fd, p, n);
        if (done < 0 && errno == EINTR) continue;
        if (done <= 0) o->failed = done ? errno : EIO;
        else p += done, n -= (size_t)done;
    }
}

static bool head_good(const struct samples_head *h, struct err *err) {
    if (memcmp(h->magic, magic, sizeof magic) != 0) return err_set(err, "expected a file of samples, which begins with LEHRSMP1, found other bytes");
    if (h->length < 1 || h->length > LENGTH_MOST || h->vocab < 2 || h->goal < 0)
        return err_set(err, "its head has windows of %d tokens of a vocabulary of %d, which cannot be; the file is damaged", h->length, h->vocab);
    return true;
}

static bool head_is(const struct samples_head *there, const struct samples_head *ours, struct err *err) {
    if (!head_good(there, err)) return false;
    if (there->source != ours->source || there->vocab != ours->vocab)
        return err_set(err, "it holds samples of another model, or that begin with another text: use another --out");
    if (there->seed != ours->seed || there->length != ours->length)
        return err_set(err, "it holds windows of %d tokens with seed %llu, now %d and %llu are asked for: use another --out", there->length,
                       (unsigned long long)there->seed, ours->length, (unsigned long long)ours->seed);
    return true;
}

struct samples_out *samples_append(const char *path, struct samples_head *head, int64_t *windows, struct err *err) {
    struct samples_head there = {0};
    memcpy(head->magic, magic, sizeof magic);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    struct stat st;
    if (fd < 0 || fstat(fd, &st) != 0) {
        err_set(err, "%s: cannot be written: %s", path, strerror(errno));
        if (fd >= 0) close(fd);
        return NULL;
    }
    struct samples_out *o = mem_alloc(sizeof *o, "file of samples");
    *o = (struct samples_out){.fd = fd, .path = mem_text(path)};
    bool good = true;
    *windows = 0;
    if (st.st_size < (off_t)sizeof there) { // new, or ended in the first write
        if (ftruncate(fd, 0) != 0) o->failed = errno;
        put(o, head, sizeof *head);
    } else {
        good = pread(fd, &there, sizeof there, 0) == (ssize_t)sizeof there ? head_is(&there, head, err) : err_set(err, "cannot be read: %s", strerror(errno));
        if (good) {
            head->goal = there.goal;
            *windows = (int64_t)(((size_t)st.st_size - sizeof there) / window_bytes(head));
            const off_t end = (off_t)(sizeof there + (size_t)*windows * window_bytes(head));
            if (ftruncate(fd, end) != 0 || lseek(fd, end, SEEK_SET) < 0) o->failed = errno;
        }
    }
    o->head = *head;
    o->window = mem_alloc(window_bytes(head), "window of samples");
    if (good) return o;
    err_in(err, "%s", path);
    (void)!samples_done(o, NULL);
    return NULL;
}

void samples_goal(struct samples_out *o, int64_t goal) {
    o->head.goal = goal;
    if (!o->failed && pwrite(o->fd, &o->head, sizeof o->head, 0) != (ssize_t)sizeof o->head) o->failed = errno ? errno : EIO;
}

void samples_add(struct samples_out *o, const int32_t *ids, const int32_t *top, const float *p) {
    const size_t n = (size_t)o->head.length, rows = n * SOFT_TOP;
    unsigned char *at = o->window;
    memcpy(at, ids, n * 4);
    memcpy(at + n * 4, top, rows * 4);
    for (size_t i = 0; i < rows; i++) {
        const uint16_t half = f16_from_f32(p[i]);
        memcpy(at + n * 4 + rows * 4 + 2 * i, &half, 2);
    }
    const uint64_t hash = hash_bytes(0, at, n * TOKEN_BYTES);
    memcpy(at + n * TOKEN_BYTES, &hash, HASH_BYTES);
    put(o, at, window_bytes(&o->head));
}

bool samples_done(struct samples_out *o, struct err *err) {
    if (!o->failed && fsync(o->fd) != 0 && errno != EINVAL) o->failed = errno;
    close(o->fd);
    const bool good = !o->failed;
    if (!good) err_set(err, "%s: could not be written: %s", o->path, strerror(o->failed));
    mem_free(o->path);
    mem_free(o->window);
    mem_free(o);
    return good;
}

// ---- reading

static const unsigned char *window_at(const struct samples *s, int64_t w) {
    return s->map.data + sizeof s->head + (size_t)w * window_bytes(&s->head);
}

// Every window by its hash, every id by the vocabulary.
static bool windows_good(struct samples *s, struct err *err) {
    const size_t n = (size_t)s->head.length;
    for (int64_t w = 0; w < s->windows; w++) {
        uint64_t hash;
        const unsigned char *at = window_at(s, w);
        memcpy(&hash, at + n * TOKEN_BYTES, HASH_BYTES);
        if (hash_bytes(0, at, n * TOKEN_BYTES) != hash) return err_set(err, "window %lld is damaged; remove the file to write it anew", (long long)w);
        for (size_t i = 0; i < n * (1 + SOFT_TOP); i++) {
            int32_t id;
            memcpy(&id, at + 4 * i, 4);
            if (id < 0 || id >= s->head.vocab) return err_set(err, "window %lld has a token %d, outside the vocabulary of %d", (long long)w, id, s->head.vocab);
        }
        s->hash = hash_bytes(s->hash, &hash, sizeof hash);
    }
    return true;
}

bool samples_open(struct samples *s, const char *path, int64_t most, struct err *err) {
    *s = (struct samples){0};
    if (!file_map_open(&s->map, path, err)) return false;
    bool good = s->map.size >= sizeof s->head || err_set(err, "expected a file of samples of at least 64 bytes, found %zu", s->map.size);
    if (good) {
        memcpy(&s->head, s->map.data, sizeof s->head);
        good = head_good(&s->head, err);
    }
    if (good) {
        s->windows = (int64_t)((s->map.size - sizeof s->head) / window_bytes(&s->head));
        if (most && s->windows > most) s->windows = most;
        good = windows_good(s, err);
    }
    if (good) return true;
    samples_close(s);
    return err_in(err, "%s", path);
}

void samples_close(struct samples *s) {
    file_map_close(&s->map);
    *s = (struct samples){0};
}

int32_t samples_id(const struct samples *s, int64_t window, int64_t i) {
    assert(window >= 0 && window < s->windows && i >= 0 && i < s->head.length);
    return ((const int32_t *)(const void *)window_at(s, window))[i];
}

struct soft_row samples_row(const struct samples *s, int64_t window, int64_t i) {
    assert(window >= 0 && window < s->windows && i >= 0 && i < s->head.length);
    const unsigned char *at = window_at(s, window);
    const size_t n = (size_t)s->head.length, row = (size_t)i * SOFT_TOP;
    return (struct soft_row){(const int32_t *)(const void *)(at + n * 4) + row, (const uint16_t *)(const void *)(at + n * (4 + 4 * SOFT_TOP)) + row};
}
