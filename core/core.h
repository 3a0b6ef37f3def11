// core: what any program needs and no model knows.
//
// Errors with hints, checked memory, arenas, mapped and atomic files, counter-based random numbers, one thread
// pool, dtypes and block formats, JSON, option tables, terminal progress and plots. Depends on libc only.
//
// The idea of each part in a line; the contract stands at its functions:
//   err     a failed call fills `struct err` with one sentence and returns false or NULL; callers add where it happened
//   mem     host memory never fails softly: mem_alloc ends the program with the size and the purpose
//   file    read by mapping, write by temporary + fsync + rename, so a file exists whole or not at all
//   rng     numbers are a pure function of (seed, stream, counter): nothing to save, nothing to drift
//   pool    work is cut by its size, never by the thread count, so results are equal for 1 and 64 threads
//   dtype   one row per number format, with the block layout of GGUF
#ifndef LEHR_CORE_H
#define LEHR_CORE_H

#include <assert.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#if defined(__GNUC__)
#define MUST_USE __attribute__((warn_unused_result))
#define PRINTF_LIKE(f, a) __attribute__((format(printf, f, a)))
#else
#define MUST_USE
#define PRINTF_LIKE(f, a)
#endif

#define COUNT_OF(a) (sizeof(a) / sizeof((a)[0]))

// ---------------------------------------------------------------------------------------------------------------
// Errors. One sentence: what was expected, what was found, where, what to do.

struct err {
    char text[768];
};

// Fills err (which may be NULL) and returns false, so that `return err_set(err, ...)` reads well.
bool err_set(struct err *err, const char *format, ...) PRINTF_LIKE(2, 3);
// Puts "context: " in front of the sentence already there; returns false.
bool err_in(struct err *err, const char *format, ...) PRINTF_LIKE(2, 3);

// ---------------------------------------------------------------------------------------------------------------
// Checked sizes and memory.

// *out = a * b or a + b; false when the result does not fit.
MUST_USE bool size_mul(size_t a, size_t b, size_t *out);
MUST_USE bool size_add(size_t a, size_t b, size_t *out);

// Zeroed memory, never NULL; on failure prints size and purpose and ends the program with exit code 1.
// `what` is a literal such as "token buffer". bytes may be 0.
void *mem_alloc(size_t bytes, const char *what);
void *mem_array(size_t count, size_t each_bytes, const char *what);
// Grows *p (count *cap of each_bytes) to hold at least need entries, at least doubling; new entries are zeroed.
void mem_grow(void **p, size_t *cap, size_t need, size_t each_bytes, const char *what);
char *mem_text(const char *text); // a copy, owned by the caller
void mem_free(void *p);           // NULL is allowed
// While frozen, every mem_* allocation aborts: the guard behind "nothing is allocated after the first step".
// Calls nest. Only active in builds with -DLEHR_GUARD (all test builds).
void mem_freeze(bool on);
void mem_freeze_elsewhere(void); // the calling thread is no part of what is frozen
// Makes the n-th allocation from now fail (test builds only; 0 switches it off).
void mem_fail_at(long n);
size_t mem_peak_bytes(void);      // peak resident size of the process, 0 when unknown
size_t mem_available_bytes(void); // free memory of the machine and of every cgroup (v1, v2) around us, 0 when unknown
size_t mem_available_under(const char *root); // the same, from the files under root/proc and root/sys/fs/cgroup
// The least that `left` finds in the folders of our cgroup and of those around it, v2 or v1 with that controller; SIZE_MAX
// where none limits. The files are those under root.
typedef size_t cgroup_fn(const char *folder, bool v2);
size_t cgroup_least(const char *root, const char *controller, cgroup_fn *left);

// An arena: one allocation per lifetime (model, session, step). Plan with arena_plan calls, allocate once, then take
// in the same order. Memory is zeroed once and 64-byte aligned.
struct arena {
    unsigned char *base;
    size_t used, size;
    const char *what;
};
void arena_open(struct arena *a, size_t bytes, const char *what);
void *arena_take(struct arena *a, size_t bytes); // asserts that the plan was large enough
void arena_reset(struct arena *a);               // forget what was taken, keep the memory
void arena_close(struct arena *a);
static inline size_t arena_round(size_t bytes) { return (bytes + 63) & ~(size_t)63; }

// A growing text; always NUL-terminated once used. Free with text_free.
struct text {
    char *data;
    size_t len, cap;
};
void text_add(struct text *t, const char *bytes, size_t n);
void text_str(struct text *t, const char *s);
void text_fmt(struct text *t, const char *format, ...) PRINTF_LIKE(2, 3);
void text_clear(struct text *t);
// Bytes of the UTF-8 character at the start of n bytes; 0 when there is none (overlong, surrogate, cut off, n == 0).
size_t utf8_size(const char *bytes, size_t n);
void text_free(struct text *t);

// ---------------------------------------------------------------------------------------------------------------
// Files.

// A file mapped read-only. A folder, FIFO or device is refused; an empty file maps as size 0. While mapped, a
// file that shrinks raises SIGBUS: file_guard_sigbus() turns that into one sentence and exit code 1.
struct file_map {
    const unsigned char *data;
    size_t size;
    char *path; // owned
};
MUST_USE bool file_map_open(struct file_map *m, const char *path, struct err *err);
void file_map_close(struct file_map *m);
// Bytes [p, p + n) of a map need not be resident; they come back when they are read again.
void file_map_forget(const void *p, size_t n);
void file_guard_sigbus(void);

// Reads a whole file or stream ("-" is standard input) of at most limit bytes into *out.
MUST_USE bool file_read_all(const char *path, size_t limit, struct text *out, struct err *err);

// Atomic replacement: bytes go to `path.tmp-<pid>`, commit does fsync, rename, fsync of the folder. After a failed
// write the error is kept and commit fails; whatever stood at `path` before is untouched until the rename.
struct file_out;
struct file_out *file_out_open(const char *path, struct err *err); // NULL on failure
void file_out_write(struct file_out *f, const void *bytes, size_t n);
uint64_t file_out_size(const struct file_out *f);                // bytes written so far
MUST_USE bool file_out_commit(struct file_out *f, struct err *err); // frees f, whatever it returns
void file_out_abort(struct file_out *f);                            // removes the temporary and frees f
// Test hook: the write that would pass byte n of any file_out fails with "no space left"; 0 switches it off.
void file_out_fail_at(uint64_t n);

bool file_exists(const char *path);
// Replaces what stood at `to`; both on one file system.
MUST_USE bool file_rename(const char *from, const char *to, struct err *err);
MUST_USE bool file_make_folder(const char *path, struct err *err); // with parents; existing is fine
uint64_t file_free_bytes(const char *path);                        // on the file system of path, UINT64_MAX unknown
// Sorted names in a folder (without . and ..); free with file_list_free.
struct file_list {
    char **names;
    size_t count;
};
MUST_USE bool file_list_open(struct file_list *list, const char *folder, struct err *err);
void file_list_free(struct file_list *list);

// A 64-bit hash of bytes for checksums and vocabulary fingerprints; not cryptographic. Feed in pieces by passing the
// previous result as seed only at piece boundaries that both sides share.
uint64_t hash_bytes(uint64_t seed, const void *bytes, size_t n);

// ---------------------------------------------------------------------------------------------------------------
// Random numbers: Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3").

// Four 32-bit words that depend only on the arguments.
void rng_block(uint64_t seed, uint64_t stream, uint64_t counter, uint32_t out[4]);
uint64_t rng_u64(uint64_t seed, uint64_t stream, uint64_t counter);
double rng_uniform(uint64_t seed, uint64_t stream, uint64_t counter); // in (0,1), never 0 or 1
double rng_normal(uint64_t seed, uint64_t stream, uint64_t counter);  // Box-Muller, mean 0, variance 1
double rng_gumbel(uint64_t seed, uint64_t stream, uint64_t counter);  // -log(-log(u))
uint64_t rng_below(uint64_t seed, uint64_t stream, uint64_t counter, uint64_t n); // unbiased to 2^-64, n > 0
// A row of numbers of 16 bits, each for the price of two multiplications: its key is a block, the rest is mixed from that.
struct rng_row { uint32_t a, b; };
struct rng_row rng_row(uint64_t seed, uint64_t stream, uint64_t counter);
uint32_t rng_row_at(struct rng_row row, uint32_t i); // below 65536
// A bijection of [0, n): where index goes under the permutation named by (seed, stream). Feistel with cycle walking.
uint64_t rng_permute(uint64_t seed, uint64_t stream, uint64_t index, uint64_t n);

// ---------------------------------------------------------------------------------------------------------------
// The thread pool. One per process, started once. Kernels get [lo, hi) and touch nothing else.

int pool_quota_under(const char *root); // cores that the cgroups grant by the files under root, rounded up; 0: no limit
int pool_cores(void);          // physical cores inside the affinity mask and the cgroup quota; OMP_NUM_THREADS lowers it
void pool_start(int threads);  // 0: pool_cores(). May be called again to change the count (joins and restarts).
int pool_threads(void);        // 1 before pool_start
int pool_cpu(int thread);      // the number of a processor for that thread, physical cores first; -1 unknown
// Calls fn(arg, lo, hi, thread) over [0, n) in pieces of `grain` (the last one shorter), pieces handed out in order by
// an atomic counter; returns when all are done. Results must not depend on `thread`, which is only for scratch.
typedef void pool_fn(void *arg, int64_t lo, int64_t hi, int thread);
void pool_for(int64_t n, int64_t grain, pool_fn *fn, void *arg);
void pool_leave(void); // pool_for of the calling thread runs inline from now on
double time_now(void); // seconds, monotonic

// Work beside the steps, by one thread that takes less than a sixtieth of the time until somebody waits for it.
struct aside;
typedef void aside_fn(void *arg);
struct aside *aside_new(void);
void aside_free(struct aside *a);                           // waits; NULL is fine
void aside_start(struct aside *a, aside_fn *fn, void *arg); // waits for the work before; works at once where no thread can be had
bool aside_busy(struct aside *a);
void aside_wait(struct aside *a); // until the work is done, at full speed from here
void aside_breathe(void);         // what may run aside calls this once in a while; elsewhere it does nothing

// ---------------------------------------------------------------------------------------------------------------
// Dtypes: number formats of tensors. Layout of the block formats as in GGUF (methods: "block layouts").

enum dtype {
    DTYPE_F32, DTYPE_F16, DTYPE_BF16, DTYPE_Q8_0, DTYPE_Q4_0, DTYPE_I32,
    DTYPE_Q4_1, DTYPE_Q5_0, DTYPE_Q5_1, DTYPE_Q2_K, DTYPE_Q3_K, DTYPE_Q4_K, DTYPE_Q5_K, DTYPE_Q6_K, // core/blocks.h
    DTYPE_IQ4_NL, DTYPE_IQ4_XS, DTYPE_MXFP4, DTYPE_COUNT
};

#define QK 32 // weights in a Q8_0 or Q4_0 block
struct block_q8_0 { // w[j] = d * q[j]
    uint16_t d;     // f16
    int8_t q[QK];
};
struct block_q4_0 { // w[j] = d * (q[j] - 8); byte j: low nibble = weight j, high nibble = weight j + 16
    uint16_t d;
    uint8_t q[QK / 2];
};
static_assert(sizeof(struct block_q8_0) == 34, "Q8_0 block is 34 bytes on disk");
static_assert(sizeof(struct block_q4_0) == 18, "Q4_0 block is 18 bytes on disk");

struct dtype_row {
    const char *name;      // "Q8_0"
    uint32_t gguf_type;    // ggml type id on disk
    int32_t gguf_file_type; // general.file_type when most tensors have this dtype
    int32_t block_weights; // weights per block: row lengths must be a multiple
    int32_t block_bytes;
    // n weights, a multiple of block_weights. Both directions; NULL where it has no meaning (I32).
    void (*to_f32)(const void *src, float *dst, int64_t n);
    void (*from_f32)(const float *src, void *dst, int64_t n);
};
const struct dtype_row *dtype_row(enum dtype d);
// DTYPE_COUNT when unknown. Names are case-insensitive.
enum dtype dtype_from_name(const char *name);
enum dtype dtype_from_gguf(uint32_t gguf_type);
// Bytes of `cols` weights; false when cols is not a multiple of the block or the size does not fit.
MUST_USE bool dtype_row_bytes(enum dtype d, int64_t cols, size_t *bytes);

// from_f32 with an importance: errors of weight j count importance[j] times (NULL, or all zero: alike). With one, the
// formats of core/blocks.h search for the scales of least weighted error; the other dtypes take no notice of it.
void dtype_quantize(enum dtype d, const float *src, void *dst, int64_t n, const float *importance);
// d where rows of cols weights are whole blocks of it, else the format of at least as many bits per weight that takes
// their place: Q5_0 for Q4_K, Q8_0 for Q6_K and so on, F16 where not even 32 divides the row.
enum dtype dtype_that_divides(enum dtype d, int64_t cols);

float f16_to_f32(uint16_t h);
uint16_t f16_from_f32(float x); // round to nearest even
static inline float bf16_to_f32(uint16_t h) {
    union { uint32_t u; float f; } v = {.u = (uint32_t)h << 16};
    return v.f;
}
uint16_t bf16_from_f32(float x); // round to nearest even; NaN stays NaN

// ---------------------------------------------------------------------------------------------------------------
// JSON: a bounded pull reader (sticky error, depth <= 32, no allocation) and a writer.

enum json_kind { JSON_END, JSON_OBJECT, JSON_ARRAY, JSON_STRING, JSON_NUMBER, JSON_TRUE, JSON_FALSE, JSON_NULL, JSON_BAD };
struct json {
    const char *start, *at, *end;
    int depth;
    unsigned char stack[32]; // '{' or '[', and whether a member was already read
    const char *bad;         // first problem, NULL while all is well
};
void json_open(struct json *j, const char *bytes, size_t n);
enum json_kind json_peek(struct json *j); // kind of the value at the cursor
// Iteration:  if (json_object(j)) while (json_key(j, key, sizeof key)) { ...read or skip the value... }
bool json_object(struct json *j);
bool json_key(struct json *j, char *key, size_t cap); // false at the closing brace; keys longer than cap are an error
bool json_key_bytes(struct json *j, char *key, size_t cap, size_t *n); // a key that may have NULs in it, and its length
bool json_array(struct json *j);
bool json_item(struct json *j); // false at the closing bracket
// Values; false (and the sticky error) when it is not one. Strings replace what was in out; they are UTF-8, \u escapes
// decoded, surrogates joined, whatever is no character replaced by U+FFFD.
bool json_string(struct json *j, struct text *out);
bool json_number(struct json *j, double *out);
bool json_integer(struct json *j, int64_t *out); // no fraction, fits
bool json_bool(struct json *j, bool *out);
bool json_skip(struct json *j);
bool json_done(struct json *j, struct err *err); // true when the whole text was one good value; else says where not

// Writer: appends to a text, commas and escapes are its business. Non-finite numbers are written as null.
struct json_out {
    struct text *to;
    int depth;
    bool comma[32];
};
void json_out_open(struct json_out *o, struct text *to);
void json_out_object(struct json_out *o, const char *key); // key NULL inside arrays and at the top
void json_out_array(struct json_out *o, const char *key);
void json_out_close(struct json_out *o, char bracket); // '}' or ']'
void json_out_string(struct json_out *o, const char *key, const char *bytes, size_t n); // invalid UTF-8 becomes U+FFFD
void json_out_number(struct json_out *o, const char *key, double x);  // shortest text that reads back the same
void json_out_integer(struct json_out *o, const char *key, int64_t x);
void json_out_bool(struct json_out *o, const char *key, bool x);
void json_out_null(struct json_out *o, const char *key);

// ---------------------------------------------------------------------------------------------------------------
// Option tables. One row per option serves parsing, help, range checks, the config file and --list.

enum opt_kind {
    OPT_FLAG,   // bool: --x, --no-x, x = true in a file
    OPT_INT,    // int64_t, with optional k/m/g suffix (powers of 1000: 2m = 2000000)
    OPT_REAL,   // double
    OPT_TEXT,   // const char *
    OPT_TIME,   // double seconds: 90, 90s, 10m, 8h, 2d
    OPT_MANY,   // struct opt_words: may be given several times
};
struct opt_words {
    const char **word;
    size_t count, cap;
};
struct opt {
    const char *names;  // "-m --model --old-name": the first long one is the name in help and files
    enum opt_kind kind;
    void *to;           // where the value goes; holds the default before parsing
    double min, max;    // for numbers; both 0: any
    const char *value;  // "FILE", "N" in help
    const char *help;   // one sentence; a line that begins a new group starts with "[Group name] "
    bool given;         // set by the parser
};
// argv[1..] into the table; words that are no options go to rest (may be NULL: then they are an error).
// "--" ends options; "-" is a word; -5 is a number where a value is due. False with one sentence (unknown option: the
// nearest name). --help is the caller's row.
MUST_USE bool opt_parse(struct opt *table, size_t n, int argc, char **argv, struct opt_words *rest, struct err *err);
// A file of `name = value` lines, # comment lines. Options already given on the command line win; what the file sets
// counts as given afterwards. Values that begin with a quote are JSON strings. Texts are copied and never freed.
MUST_USE bool opt_read_file(struct opt *table, size_t n, const char *path, struct err *err);
// The same for such lines in memory; where names them in errors ("options of ckpt-1000.gguf").
MUST_USE bool opt_read_text(struct opt *table, size_t n, const char *bytes, size_t n_bytes, const char *where,
                            struct err *err);
void opt_write(const struct opt *table, size_t n, struct text *to); // every value as such lines
void opt_help(const struct opt *table, size_t n, FILE *to);
// The candidate nearest to word by edit distance, NULL when none is near.
const char *text_nearest(const char *word, const char *const *candidates, size_t n);

// ---------------------------------------------------------------------------------------------------------------
// Terminal and plots.

bool term_is_tty(FILE *f);   // and TERM is not dumb
bool term_color(FILE *f);    // tty and NO_COLOR is unset
int term_width(void);        // 80 when unknown

// One progress line on stderr: redrawn on a terminal, else printed at most every `every_s` seconds, no escapes.
struct progress {
    double every_s, last_s;
    bool tty, open;
};
void progress_open(struct progress *p, double every_s);
void progress_line(struct progress *p, bool force, const char *format, ...) PRINTF_LIKE(3, 4);
void progress_note(struct progress *p, const char *format, ...) PRINTF_LIKE(2, 3); // a line that stays
void progress_close(struct progress *p);
// "1.2k", "3.45M", "2h03m", "12.0 MB" into buf; return buf.
char *text_count(char buf[32], double x);
char *text_time(char buf[32], double seconds);
char *text_bytes(char buf[32], double bytes);

// One series drawn in both places. NaN and infinite values are gaps. n may be any size: the terminal draws column
// means, the SVG the extremes of each pixel column. A faint series has the color of the next one and no legend.
enum series_look { LOOK_LINE, LOOK_FAINT, LOOK_POINTS, LOOK_DASHED };
struct series {
    const char *name;
    const double *x, *y;
    size_t n;
    enum series_look look;
};
struct plot {
    const char *title, *x_label, *y_label;
    const struct series *series;
    size_t n_series;
    bool y_log;
    double top; // what lies above it is left out, though not its place on the x axis; 0: nothing is
};
// A top for a loss, which begins so high that the rest of its curve would be flat: the highest after the first twentieth
// (n is 40 and more; else 0). Takes NaN as it is.
double plot_top(const double *y, size_t n);
void plot_terminal(const struct plot *p, int width, int height, FILE *to); // braille or ASCII by locale; legend below
void plot_svg(const struct plot *p, int width, int height, struct text *to); // a self-contained <svg>, CSS variables for color
// A map of values over x: one column for each x, rows from below; lighter is less. Columns beyond the room are thinned.
struct heat {
    const char *title, *x_label, *first, *last; // names of the lowest row and of the highest
    const double *x;
    const float *const *column; // [n] of [rows]
    size_t n, rows;
    bool log;
};
void heat_svg(const struct heat *h, int width, int height, struct text *to);
// Adds text escaped for HTML and SVG, also inside quoted attributes; what is no character becomes U+FFFD.
void text_html(struct text *t, const char *bytes, size_t n);

#endif
