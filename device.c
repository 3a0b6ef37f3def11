// device.c: a GPU or the processor.
//
// A build has GPUs when nvcc was there to compile cuda/ (LEHR_CUDA, set by the Makefile). "auto" never fails for want of one: it
// says why in the line that both programs begin with, and computes on the processor.
#include "device.h"

#include <stdlib.h>
#include <string.h>

static struct err no_gpu; // why auto chose the processor; empty: it was not asked, or there is a GPU

static const struct backend *open_gpu(int number, struct err *err) {
#ifdef LEHR_CUDA
    const struct backend *b = backend_cuda(number, err);
    return b && device_check(b, err) ? b : NULL;
#else
    (void)number;
    err_set(err, "no GPU in this build; make CUDA=1 with the CUDA Toolkit compiles for all of them");
    return NULL;
#endif
}

// The number of the GPU that is named, 0 where none is; -1: that is no name of one.
static int gpu_named(const char *name) {
    if (strncmp(name, "cuda", 4) || (name[4] && name[4] != ':')) return -1;
    if (!name[4]) return 0;
    char *end;
    const long number = strtol(name + 5, &end, 10);
    return end == name + 5 || *end || number < 0 || number > 1023 ? -1 : (int)number;
}

bool device_named(const char *name, const char *level, struct err *err) {
    if (strcmp(name, "auto") == 0 || strcmp(name, "cpu") == 0) return true;
    if (gpu_named(name) < 0) return err_set(err, "--device %s: expected auto, cpu, cuda or cuda:N, N the number of a GPU from 0 on", name);
    if (level) return err_set(err, "--cpu %s chooses kernels of the processor: leave it out with --device %s", level, name);
    return true;
}

const struct backend *device_open(const char *name, const char *level, struct err *err) {
    no_gpu = (struct err){{0}};
    if (!device_named(name, level, err)) return NULL;
    if (gpu_named(name) >= 0) return open_gpu(gpu_named(name), err);
    const struct backend *gpu = strcmp(name, "auto") == 0 && !level ? open_gpu(0, &no_gpu) : NULL;
    return gpu ? gpu : backend_cpu(level, err);
}

void device_report(const struct backend *b, struct text *line) {
    b->report(line);
    if (*no_gpu.text) text_fmt(line, " (%.*s)", (int)strcspn(no_gpu.text, ";"), no_gpu.text); // without what to do about it
}
