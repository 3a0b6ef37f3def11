// cuda.cu: a GPU as a backend: memory, the one stream, and what it says of itself.
//
// Everything goes through one stream in order, so an upload is there for the ops after it and a download waits for the ops before
// it. Launches return at once; an error of a kernel shows at the next call and ends the program with file, line and kernel,
// because nothing after it can be believed.
//
// How weights lie on the GPU: embed.cu. Attention caches lie row after row.
#include "cuda/cuda.cuh"

#include <stdlib.h>

static struct device {
    bool open, has_bf16;
    int number, processors, major, minor;
    size_t bytes, shared_most;
    char name[256];
    double bytes_per_second; // of its memory, as the maker says
} device;

bool cuda_has_bf16(void) { return device.has_bf16; }
int cuda_processors(void) { return device.processors; }
size_t cuda_shared_most(void) { return device.shared_most; }

// ---------------------------------------------------------------------------------------------------------------
// The two machines: a GPU, and this processor in its place (tests/cuda_on_cpu.h).

#ifdef CUDA_ON_CPU

static bool device_open(int number, struct err *err) {
    if (number) return err_set(err, "cuda: there is no GPU number %d: here a processor stands in for the one there is", number);
    device = (struct device){true, true, 0, 4, 9, 0, (size_t)8 << 30, (size_t)227 << 10, "a processor in its place", 1e10};
    return true;
}
static void check(int result, const char *what) {
    if (result == cudaSuccess) return;
    fprintf(stderr, "cuda: %s failed\n", what);
    abort();
}
static void wait_for_all(void) {}
static void copy_bytes(void *to, const void *from, size_t bytes, cudaMemcpyKind kind) { check(cudaMemcpy(to, from, bytes, kind), "a copy"); }
static void zero_bytes(void *p, size_t bytes) { check(cudaMemset(p, 0, bytes), "zeroing"); }
static size_t free_bytes(void) { return device.bytes; }
static bool take_bytes(void **p, size_t bytes) { return cudaMalloc(p, bytes) == cudaSuccess; }

#else

#include <nvtx3/nvToolsExt.h>

static cudaStream_t stream;
cudaStream_t cuda_stream(void) { return stream; }

// A broken GPU context cannot be mended by this process.
static void check(cudaError_t result, const char *what) {
    if (result == cudaSuccess) return;
    fprintf(stderr, "cuda: %s failed: %s\n", what, cudaGetErrorString(result));
    abort();
}
void cuda_launching(const char *kernel) { nvtxRangePushA(kernel); }
void cuda_launched(const char *kernel, const char *file, int line) {
    nvtxRangePop();
    const cudaError_t result = cudaGetLastError();
    if (result == cudaSuccess) return;
    fprintf(stderr, "cuda: %s, started in %s:%d, failed: %s\n", kernel, file, line, cudaGetErrorString(result));
    abort();
}
void cuda_want_shared(const void *kernel, size_t bytes, size_t *allowed, const char *name) {
    if (bytes <= 48 << 10 || bytes <= *allowed) return;
    *allowed = bytes;
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes), name);
}

static bool device_open(int number, struct err *err) {
    int count = 0;
    cudaError_t result = cudaGetDeviceCount(&count);
    if (result != cudaSuccess || count == 0)
        return err_set(err, "cuda: no GPU can be used here: %s", result == cudaSuccess ? "there is none" : cudaGetErrorString(result));
    if (number < 0 || number >= count)
        return err_set(err, "cuda: there is no GPU number %d; this machine has %d, counted from 0", number, count);
    struct cudaDeviceProp p;
    result = cudaGetDeviceProperties(&p, number);
    if (result == cudaSuccess && p.major * 10 + p.minor < 75)
        return err_set(err, "cuda: %s is of compute capability %d.%d; the kernels need 7.5 (Turing, 2018) or later", p.name, p.major, p.minor);
    if (result == cudaSuccess) result = cudaSetDevice(number);
    if (result == cudaSuccess) result = cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
    if (result != cudaSuccess) return err_set(err, "cuda: GPU %d cannot be used: %s", number, cudaGetErrorString(result));
    int clock_khz = 0, bits = 0, shared = 0;
    cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, number);
    cudaDeviceGetAttribute(&clock_khz, cudaDevAttrMemoryClockRate, number);
    cudaDeviceGetAttribute(&bits, cudaDevAttrGlobalMemoryBusWidth, number);
    device.open = true, device.has_bf16 = p.major >= 8, device.number = number, device.processors = p.multiProcessorCount;
    device.major = p.major, device.minor = p.minor, device.bytes = p.totalGlobalMem, device.shared_most = (size_t)shared;
    device.bytes_per_second = 2e3 * clock_khz * bits / 8;
    snprintf(device.name, sizeof device.name, "%s", p.name);
    return true;
}
static void wait_for_all(void) { check(cudaStreamSynchronize(stream), "waiting for the GPU"); }
static void copy_bytes(void *to, const void *from, size_t bytes, cudaMemcpyKind kind) {
    check(cudaMemcpyAsync(to, from, bytes, kind, stream), "a copy");
    if (kind == cudaMemcpyDeviceToHost) wait_for_all();
}
static void zero_bytes(void *p, size_t bytes) { check(cudaMemsetAsync(p, 0, bytes, stream), "zeroing"); }
static size_t free_bytes(void) {
    size_t left = 0, all = 0;
    check(cudaMemGetInfo(&left, &all), "asking for free memory");
    return left;
}
static bool take_bytes(void **p, size_t bytes) {
    if (cudaMalloc(p, bytes) == cudaSuccess) return true;
    (void)cudaGetLastError(); // is told by the caller
    return false;
}

#endif

// ---------------------------------------------------------------------------------------------------------------
// Memory.

static void *cuda_alloc(size_t bytes, const char *what, struct err *err) {
    void *p = NULL;
    const size_t some = bytes ? bytes : 1; // an address even for nothing
    if (some <= (size_t)PTRDIFF_MAX && take_bytes(&p, some)) {
        zero_bytes(p, some);
        return p;
    }
    err_set(err, "cuda: no memory for the %s: %.1f MiB wanted, %.1f MiB free on %s; use a smaller context, batch or model, or --device cpu", what,
            (double)bytes / 0x1p20, (double)free_bytes() / 0x1p20, device.name);
    return NULL;
}
static void cuda_free(void *p) {
    if (!p) return;
    wait_for_all();
    check(cudaFree(p), "giving memory back");
}
static void cuda_upload(void *to, const void *from, size_t bytes) {
    if (bytes) copy_bytes(to, from, bytes, cudaMemcpyHostToDevice);
}
static void cuda_download(void *to, const void *from, size_t bytes) {
    if (bytes) copy_bytes(to, from, bytes, cudaMemcpyDeviceToHost);
}
static void cuda_copy(void *to, const void *from, size_t bytes) {
    if (bytes) copy_bytes(to, from, bytes, cudaMemcpyDeviceToDevice);
}
static void cuda_zero(void *p, size_t bytes) {
    if (bytes) zero_bytes(p, bytes);
}

static struct scratch {
    void *data;
    size_t bytes;
} scratch[CUDA_SLOTS];

void *cuda_scratch(enum cuda_slot slot, size_t bytes) {
    struct scratch *s = &scratch[slot];
    if (s->bytes >= bytes) return s->data;
    struct err err;
    cuda_free(s->data);
    s->bytes = (bytes + 65535) & ~(size_t)65535;
    s->data = cuda_alloc(s->bytes, "scratch of an op", &err);
    if (!s->data) {
        fprintf(stderr, "%s\n", err.text);
        abort();
    }
    return s->data;
}

// ---------------------------------------------------------------------------------------------------------------
// Weights and what is supported: as on the processor, but that weights in host memory are not read.

static bool cuda_supports(enum op op, enum dtype dtype) {
    const bool f32 = dtype == DTYPE_F32, half = dtype == DTYPE_F16 || dtype == DTYPE_BF16;
    switch (op) {
    case OP_EMBED:
    case OP_MATMUL:
    case OP_MATMUL_EXPERTS:
    case OP_PROJECT:
    case OP_FEED_FORWARD:
    case OP_CAST:
        return dtype < DTYPE_COUNT && dtype_row(dtype)->to_f32;
    case OP_MATMUL_DX:
    case OP_MATMUL_EXPERTS_DX:
    case OP_HEAD_LOSS:
        return f32 || dtype == DTYPE_BF16;
    case OP_STORE_ROWS:
    case OP_ATTEND:
        return f32 || half || dtype == DTYPE_Q8_0 || dtype == DTYPE_Q4_0;
    case OP_COUNT:
        return false;
    default:
        return f32;
    }
}

// ---------------------------------------------------------------------------------------------------------------
// Flow and reports.

static void cuda_nothing(void) {}

static void cuda_report(struct text *line) {
    text_fmt(line, "cuda: %s, %d multiprocessors, compute capability %d.%d, %.1f GiB%s", device.name, device.processors, device.major, device.minor,
             (double)device.bytes / 0x1p30, device.has_bf16 ? "" : ", all products in f32");
}

const struct backend *backend_cuda(int number, struct err *err) {
    static struct backend table;
    if (device.open) return &table;
    if (!device_open(number, err)) return NULL;
    table.name = "cuda";
    table.alloc = cuda_alloc;
    table.free = cuda_free;
    table.upload = cuda_upload;
    table.download = cuda_download;
    table.copy = cuda_copy;
    table.zero = cuda_zero;
    table.begin = cuda_nothing;
    table.end = cuda_nothing;
    table.sync = wait_for_all;
    table.report = cuda_report;
    table.supports = cuda_supports;
    cuda_fill_ops(&table);
    cuda_fill_updates(&table);
    cuda_fill_matmul(&table);
    cuda_fill_attend(&table);
    cuda_fill_experts(&table);
    cuda_fill_branches(&table);
    cuda_fill_embed(&table);
    return &table;
}
