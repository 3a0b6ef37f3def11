// op_cases.h: one table of op cases, and the checks that every row goes through.
//
// A row of `op_specs` is an op (or a way to call it): the dtypes and shapes to try, and functions that declare its
// buffers, call it, and compute it in double by the formula in backend.h. The checks know nothing of any op:
//   reference   a level's result against the double formula, within a tolerance from epsilon and the number of terms
//   equal       a fast level against the plain one
//   gradient    a _back op against central differences of the double formula
//   rows        a batch against the same rows in parts (a row alone; a segment alone), bit for bit
//   threads     1, 2 and 3 threads, bit for bit
//   nan         a NaN in a row comes out of that row and of no other
// Every run also checks that inputs stay, that nothing outside the outputs is written (canaries before the buffer and
// between rows, an unmapped page right behind it, which catches reads too) and that outputs, filled with NaN
// before, are all written. Values are a function of the seed, which a failure prints.
//
// A new op: one row and its three functions in op_cases.c.
#ifndef LEHR_TESTS_OP_CASES_H
#define LEHR_TESTS_OP_CASES_H

#include "backend.h"

enum role {
    IN = 1,
    OUT = 2,
    BOTH = 3,       // read and written
    BY_ROW = 4,     // row i belongs to row i of the batch
    FLAT = 8,       // never with gaps between rows
    WEIGHT = 16,    // goes through weight_load when the shape says `loaded`
    ROW_INDEX = 32, // holds row numbers of the batch
    UNREAD = 64,    // the op does not read it; the loss may
};

enum { OP_BUFS = 12, OP_PAIRS = 3 };
struct op_buf {
    const char *name;
    unsigned role;
    enum dtype dtype;
    int64_t rows, cols;
    size_t row_bytes, bytes;
    unsigned char *data, *map; // map: pages around data
    size_t map_bytes;
    unsigned char *before; // the bytes before the op ran
    unsigned char *device; // the same in the memory of a backend that does not work in the host's, while the op runs
    double *v; // [rows, cols] the values before the op ran; the reference writes outputs here
    struct tensor loaded; // what weight_load made of it
};

// Letters as in backend.h. amplify: how much larger than its own rounding an error may grow by the op's conditioning.
struct op_shape {
    int64_t n, C, M, K, H, G, D, segment;
    float scale;
    int mode;
    bool accumulate, loaded;
    double amplify;
    float softcap, z_loss;
    int64_t drop; // of 65536
};

struct op_run {
    const struct op_spec *spec;
    struct op_shape s;
    enum dtype dtype;
    uint64_t seed;
    bool padded; // rows with gaps between them
    struct op_buf buf[OP_BUFS];
    int n_bufs;
};

struct op_spec {
    enum op op;
    const char *name;
    unsigned dtypes; // bit d: run with dtype d
    const struct op_shape *shapes;
    int n_shapes;
    void (*declare)(struct op_run *r); // buffers and their values
    void (*call)(const struct op_run *r, const struct backend *b);
    void (*reference)(const struct op_run *r); // NULL: only gradients are known
    double (*loss)(const struct op_run *r);    // what the _back op differentiates
    struct op_pair {
        int grad, of;    // buffers: gradient, and what it is the gradient of
        bool overwrites; // grad holds something else before, which does not add
    } pairs[OP_PAIRS];
    int n_pairs;
    int64_t (*terms)(const struct op_run *r); // numbers that meet in one sum
    bool rounds; // products of PRECISION_BF16; levels without units for it multiply in f32, far from what is expected
    double inner;                             // rounds: what numbers rounded on the way add to the error, relative
    int unit;                                 // rows: 0 has none, 1 row by row, -1 by segments
};
extern const struct op_spec op_specs[];
extern const int op_spec_count;
const struct op_spec *op_spec_find(const char *name);

// One case: a row of the table with one of its shapes and dtypes.
struct op_case {
    const struct op_spec *spec;
    int shape;
    enum dtype dtype;
    bool padded;
};
// False with where and by how much. worst (may be NULL) receives the largest error found over the tolerance allowed.
bool op_check_reference(const struct op_case *c, const struct backend *b, double *worst,
                        struct err *err);
bool op_check_equal(const struct op_case *c, const struct backend *b, const struct backend *plain,
                    double *worst, struct err *err);
bool op_check_gradient(const struct op_case *c, const struct backend *b, double *worst,
                       struct err *err);
bool op_check_rows(const struct op_case *c, const struct backend *b, struct err *err);
extern bool op_check_quick; // rows: one cut into parts of several sizes instead of one for each size; for slow backends
bool op_check_threads(const struct op_case *c, const struct backend *b, struct err *err);
bool op_check_nan(const struct op_case *c, const struct backend *b, struct err *err);
// "matmul Q8_0 n 5 K 257 M 33 padded"
void op_case_name(const struct op_case *c, char *to, size_t size);

#endif
