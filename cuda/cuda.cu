// cuda.cu: a GPU as a backend: memory, the one stream, and what it says of itself.
//
// Everything goes through one stream in order, so an upload is there for the ops after it and a download waits for the ops before
// it. Launches return at once; an error of a kernel shows at the next call and ends the program with file, line and kernel,
// because nothing after it can be believed.
//
// How weights lie on the GPU: embed.cu. Attention caches lie row after row.
#include "cuda/cuda.cuh"

#include <pthread.h>
#include <stdlib.h>

// A checkpoint is read from the GPU by a thread of its own; while a pass is kept, nobody else may use the stream.
static pthread_mutex_t alone = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;

static struct device {
    bool open, has_bf16, has_wgmma, small; // small: no GPU, so that nothing big is asked of it
    int number, processors, major, minor;
    size_t bytes, shared_most;
    char name[256];
} device;

bool cuda_has_bf16(void) { return device.has_bf16; }
#ifdef CUDA_ON_CPU
bool cuda_has_wgmma(void) { return on_cpu_has_wgmma(); } // as tests choose
#else
bool cuda_has_wgmma(void) { return device.has_wgmma; }
#endif
int cuda_processors(void) { return device.processors; }
size_t cuda_shared_most(void) { return device.shared_most; }

// ---------------------------------------------------------------------------------------------------------------
// The two machines: a GPU, and this processor in its place (tests/cuda_on_cpu.h).

#ifdef CUDA_ON_CPU

static bool device_open(int number, struct err *err) {
    if (number) return err_set(err, "cuda: there is no GPU number %d: here a processor stands in for the one there is", number);
    device = (struct device){true, true, true, true, 0, 4, 9, 0, (size_t)8 << 30, (size_t)227 << 10, "a processor in its place"};
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
static bool take_host_bytes(void **p, size_t bytes) { return take_bytes(p, bytes); }
static bool in_host(const void *p) { return (void)p, false; }
static void give_host_bytes(void *p) { (void)p; }

typedef struct on_cpu_list *kept_pass;
static void keep_begin(void) { on_cpu_keep(); }
static kept_pass keep_end(void) { return on_cpu_kept(); }
static void keep_start(kept_pass pass) { on_cpu_again(pass); }
static void keep_drop(kept_pass pass) { on_cpu_drop(pass); }

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
    int shared = 0;
    cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, number);
    device.open = true, device.has_bf16 = p.major >= 8, device.number = number, device.processors = p.multiProcessorCount;
    device.major = p.major, device.minor = p.minor, device.bytes = p.totalGlobalMem, device.shared_most = (size_t)shared;
    snprintf(device.name, sizeof device.name, "%s", p.name);
    return true;
}
static void wait_for_all(void) { check(cudaStreamSynchronize(stream), "waiting for the GPU"); }
static void copy_bytes(void *to, const void *from, size_t bytes, cudaMemcpyKind kind) {
    check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream), "a copy"); // a weight may lie with the host
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
// Memory of the host that kernels read through the bus.
static bool take_host_bytes(void **p, size_t bytes) {
    if (cudaHostAlloc(p, bytes, cudaHostAllocMapped) == cudaSuccess) return true;
    (void)cudaGetLastError();
    return false;
}
static bool in_host(const void *p) {
    struct cudaPointerAttributes what;
    check(cudaPointerGetAttributes(&what, p), "asking where memory lies");
    return what.type == cudaMemoryTypeHost;
}
static void give_host_bytes(void *p) { check(cudaFreeHost(p), "giving memory back"); }

typedef cudaGraphExec_t kept_pass;
static void keep_begin(void) { check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "keeping a pass"); }
static kept_pass keep_end(void) {
    cudaGraph_t graph;
    kept_pass pass;
    check(cudaStreamEndCapture(stream, &graph), "keeping a pass");
    check(cudaGraphInstantiate(&pass, graph, 0), "keeping a pass");
    check(cudaGraphDestroy(graph), "keeping a pass");
    return pass;
}
static void keep_start(kept_pass pass) { check(cudaGraphLaunch(pass, stream), "a kept pass"); }
static void keep_drop(kept_pass pass) { check(cudaGraphExecDestroy(pass), "forgetting a pass"); }

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
    if (in_host(p)) give_host_bytes(p);
    else check(cudaFree(p), "giving memory back");
}

// A model that is larger than the GPU runs all the same: the weights that come when its memory is nearly full stay with the host and
// are read through the bus in every pass. What is left free is for the cache and the activations of a session.
enum { SHARE_LEFT = 10 }; // one part in so many
static size_t bytes_with_host;
void *cuda_weight_alloc(size_t bytes, struct err *err) {
    void *p = NULL;
    const size_t left = free_bytes();
    if (left > bytes && left - bytes > device.bytes / SHARE_LEFT) return cuda_alloc(bytes, "weight", err);
    if (bytes > mem_available_bytes() / 2 || !take_host_bytes(&p, bytes)) {
        err_set(err, "cuda: no memory for a weight of %.1f MiB: %s has %.1f MiB free, of which a part is kept for the context, and the host too little for it; "
                     "use a smaller model or --device cpu", (double)bytes / 0x1p20, device.name, (double)left / 0x1p20);
        return NULL;
    }
    bytes_with_host += bytes;
    return p;
}
static void copy_alone(void *to, const void *from, size_t bytes, cudaMemcpyKind kind) {
    if (!bytes) return;
    pthread_mutex_lock(&alone);
    copy_bytes(to, from, bytes, kind);
    pthread_mutex_unlock(&alone);
}
static void cuda_upload(void *to, const void *from, size_t bytes) { copy_alone(to, from, bytes, cudaMemcpyHostToDevice); }
static void cuda_download(void *to, const void *from, size_t bytes) { copy_alone(to, from, bytes, cudaMemcpyDeviceToHost); }
static void cuda_copy(void *to, const void *from, size_t bytes) { copy_alone(to, from, bytes, cudaMemcpyDeviceToDevice); }
static void cuda_zero(void *p, size_t bytes) {
    if (bytes) zero_bytes(p, bytes);
}

static struct scratch {
    void *data;
    size_t bytes;
} scratch[CUDA_SLOTS];

static void cuda_forget(void);
void *cuda_scratch(enum cuda_slot slot, size_t bytes) {
    struct scratch *s = &scratch[slot];
    if (s->bytes >= bytes) return s->data;
    struct err err;
    cuda_forget(); // kept passes write to the old one
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
// Passes that are kept: CUDA graphs. The first pass with a key is only done, so that all scratch has its size; the second is kept
// and done; from the third on the graph of it is started, one call for some hundred launches. Scratch that grows makes them void.

enum { PASSES = 64 };
static struct pass_kept {
    uint64_t key;
    bool kept;
    kept_pass pass;
} passes[PASSES];
static int pass_count, pass_now = -1; // pass_now: which is being kept

static void cuda_forget(void) {
    if (pass_count == 0) return;
    assert(pass_now < 0);
    wait_for_all();
    for (int i = 0; i < pass_count; i++)
        if (passes[i].kept) keep_drop(passes[i].pass);
    pass_count = 0;
}

static bool cuda_begin(uint64_t key) {
    if (key == 0) return false;
    int i = 0;
    while (i < pass_count && passes[i].key != key) i++;
    if (i == PASSES) {
        cuda_forget();
        i = 0;
    }
    if (i == pass_count) {
        passes[pass_count++] = (struct pass_kept){key, false, {}};
        return false;
    }
    if (passes[i].kept) {
        keep_start(passes[i].pass);
        return true;
    }
    pthread_mutex_lock(&alone);
    keep_begin();
    pass_now = i;
    return false;
}

static void cuda_end(void) {
    if (pass_now < 0) return;
    struct pass_kept *p = &passes[pass_now];
    pass_now = -1;
    p->pass = keep_end();
    p->kept = true;
    pthread_mutex_unlock(&alone);
    keep_start(p->pass);
}

// ---------------------------------------------------------------------------------------------------------------
// Reports.


static void cuda_report(struct text *line) {
    text_fmt(line, "cuda: %s, %d multiprocessors, compute capability %d.%d, %.1f GiB%s", device.name, device.processors, device.major, device.minor,
             (double)device.bytes / 0x1p30, device.has_bf16 ? "" : ", all products in f32");
    if (device.has_bf16) text_fmt(line, ", bf16 products by %s", cuda_has_wgmma() ? "wgmma" : "mma");
    if (bytes_with_host) text_fmt(line, "; %.1f GiB of weights did not fit and are read from the host's memory, slowly", (double)bytes_with_host / 0x1p30);
}

static struct backend table;

// Enough to be past every cache: the L2 of a GPU has some dozen MiB.
static int ceilings(struct ceiling to[CEILINGS_MOST], double seconds, struct err *err) {
    return cuda_ceilings(&table, to, seconds, device.small ? 1 << 16 : (size_t)1 << 30, err);
}

const struct backend *backend_cuda(int number, struct err *err) {
    if (device.open) return &table;
    if (!device_open(number, err)) return NULL;
    table.name = "cuda";
    table.alloc = cuda_alloc;
    table.free = cuda_free;
    table.upload = cuda_upload;
    table.download = cuda_download;
    table.copy = cuda_copy;
    table.zero = cuda_zero;
    table.begin = cuda_begin;
    table.end = cuda_end;
    table.forget = cuda_forget;
    table.sync = wait_for_all;
    table.report = cuda_report;
    table.ceilings = ceilings;
    table.unit = cuda_unit;
    table.supports = op_reads;
    cuda_fill_ops(&table);
    cuda_fill_updates(&table);
    cuda_fill_matmul(&table);
    cuda_fill_attend(&table);
    cuda_fill_experts(&table);
    cuda_fill_branches(&table);
    cuda_fill_embed(&table);
    if (!device.small) device.has_wgmma = device.major == 9 && cuda_wgmma_agrees(&table);
    return &table;
}
