// board.c: the log once more, as an event file that TensorBoard reads.
//
// The file is a row of records: length u64, masked CRC-32C of the length u32, bytes, masked CRC-32C of the bytes u32. Each
// holds one Event in Protocol Buffers' wire format, of which this needs three kinds of field: a double (key, 8 bytes), a
// number of 7 bits a byte, and a length with bytes behind it. Fields of Event: 1 wall_time double, 2 step, 3 file_version
// (the first record), 5 Summary, 7 SessionLog; Summary has values (1) of tag (1) and simple_value (2, float); a SessionLog
// with status (1) START tells TensorBoard to forget what an earlier file says of this step and later ones, which is what
// a resumed run needs. (tensorflow/core/util/event.proto, framework/summary.proto, lib/io/record_writer)
#include "learn/learn.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

uint32_t crc32c(const void *bytes, size_t n) { // Castagnoli's polynomial, reflected: 0x82f63b78
    uint32_t crc = 0xffffffff;
    for (size_t i = 0; i < n; i++) {
        crc ^= ((const unsigned char *)bytes)[i];
        for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78 : 0);
    }
    return ~crc;
}

// So that a checksum of bytes that hold checksums is no special one.
static uint32_t masked(uint32_t crc) { return (crc >> 15 | crc << 17) + 0xa282ead8; }

// --- fields --------------------------------------------------------------------------------------------------------

struct bytes { // of one message; what does not fit is an error of ours
    unsigned char at[1024];
    size_t n;
};

static void put(struct bytes *b, const void *from, size_t n) {
    assert(n <= sizeof b->at - b->n);
    memcpy(b->at + b->n, from, n);
    b->n += n;
}

static void put_little(struct bytes *b, uint64_t x, int n) {
    for (int i = 0; i < n; i++, x >>= 8) put(b, &(unsigned char){(unsigned char)x}, 1);
}

static void put_number(struct bytes *b, uint64_t x) {
    for (; x > 127; x >>= 7) put(b, &(unsigned char){(unsigned char)(x | 128)}, 1);
    put(b, &(unsigned char){(unsigned char)x}, 1);
}

enum wire { NUMBER = 0, EIGHT = 1, BYTES = 2, FOUR = 5 };
static void put_key(struct bytes *b, int field, enum wire wire) { put_number(b, (uint64_t)(field << 3 | (int)wire)); }

static void put_bytes(struct bytes *b, int field, const void *from, size_t n) {
    put_key(b, field, BYTES);
    put_number(b, n);
    put(b, from, n);
}

// --- records -------------------------------------------------------------------------------------------------------

struct board {
    int fd, error;
    char *path;
};

static struct bytes event(int64_t step) {
    struct timeval now;
    struct bytes b = {.n = 0};
    gettimeofday(&now, NULL);
    double seconds = (double)now.tv_sec + 1e-6 * (double)now.tv_usec;
    uint64_t bits;
    memcpy(&bits, &seconds, sizeof bits);
    put_key(&b, 1, EIGHT);
    put_little(&b, bits, 8);
    put_key(&b, 2, NUMBER);
    put_number(&b, (uint64_t)step);
    return b;
}

static void add_record(struct board *b, const struct bytes *e) {
    struct bytes record = {.n = 0};
    put_little(&record, e->n, 8);
    put_little(&record, masked(crc32c(record.at, 8)), 4);
    put(&record, e->at, e->n);
    put_little(&record, masked(crc32c(e->at, e->n)), 4);
    for (size_t at = 0; at < record.n && !b->error;) {
        ssize_t n = write(b->fd, record.at + at, record.n - at);
        if (n > 0) at += (size_t)n;
        if (n < 0 && errno != EINTR) b->error = errno;
    }
}

struct board *board_open(const char *folder, int64_t step, struct err *err) {
    static const char version[] = "brain.Event:2";
    struct text path = {0};
    if (!file_make_folder(folder, err)) return NULL;
    text_fmt(&path, "%s/events.out.tfevents.%010lld.%ld", folder, (long long)time(NULL), (long)getpid());
    int fd = open(path.data, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (fd < 0) {
        err_set(err, "%s: cannot be written: %s", path.data, strerror(errno));
        text_free(&path);
        return NULL;
    }
    struct board *b = mem_alloc(sizeof *b, "event file");
    *b = (struct board){.fd = fd, .path = path.data};
    struct bytes first = event(0), start = event(step), log = {.n = 0};
    put_bytes(&first, 3, version, sizeof version - 1);
    add_record(b, &first);
    put_key(&log, 1, NUMBER);
    put_number(&log, 1); // START
    put_bytes(&start, 7, log.at, log.n);
    add_record(b, &start);
    return b;
}

static void add_value(struct bytes *summary, const char *tag, double value) {
    struct bytes v = {.n = 0};
    float single = (float)value;
    uint32_t bits;
    if (!isfinite(value)) return;
    memcpy(&bits, &single, sizeof bits);
    put_bytes(&v, 1, tag, strlen(tag));
    put_key(&v, 2, FOUR);
    put_little(&v, bits, 4);
    put_bytes(summary, 1, v.at, v.n);
}

void board_add(struct board *b, const struct log_row *row) {
    struct bytes e = event(row->step), summary = {.n = 0};
    add_value(&summary, "loss/train", row->loss);
    add_value(&summary, "loss/validation", row->val_loss);
    add_value(&summary, "loss/validation_nats_per_byte", row->val_nats_per_byte);
    add_value(&summary, "loss/validation_replay", row->val_loss_replay);
    add_value(&summary, "loss/cooled", row->cooled_tokens > 0 ? row->cooled_loss : NAN);
    add_value(&summary, "step/learning_rate", row->lr);
    add_value(&summary, "step/gradient_norm", row->grad_norm);
    add_value(&summary, "step/tokens", (double)row->tokens);
    add_value(&summary, "step/batch", row->batch > 0 ? row->batch : NAN);
    add_value(&summary, "step/noise_scale", row->noise > 0 ? row->noise : NAN);
    add_value(&summary, "step/tokens_per_second", row->tok_per_s);
    add_value(&summary, "step/peak_share", row->peak_share > 0 ? row->peak_share : NAN);
    add_value(&summary, "step/skipped", row->skipped ? 1 : NAN);
    add_value(&summary, "step/rollback", row->back_from > 0 ? (double)row->rollback : NAN);
    put_bytes(&e, 5, summary.at, summary.n);
    add_record(b, &e);
    for (int64_t i = 0; i < row->layer_norms.n; i++) { // a record each: there may be any number
        char tag[48];
        struct bytes one = event(row->step), values = {.n = 0};
        if (i == 0 || i == row->layer_norms.n - 1) snprintf(tag, sizeof tag, "gradient/%s", i ? "head" : "embedding");
        else snprintf(tag, sizeof tag, "gradient/block_%03lld", (long long)i - 1);
        add_value(&values, tag, (double)row->layer_norms.x[i]);
        put_bytes(&one, 5, values.at, values.n);
        add_record(b, &one);
    }
}

bool board_close(struct board *b, struct err *err) {
    if (!b) return true;
    if (close(b->fd) && !b->error) b->error = errno;
    bool good = !b->error || err_set(err, "%s: could not be written (%s); what comes after is missing", b->path, strerror(b->error));
    mem_free(b->path);
    mem_free(b);
    return good;
}
