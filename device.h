// device.h: which machine computes: what --device and --cpu of both programs mean.
#ifndef LEHR_DEVICE_H
#define LEHR_DEVICE_H

#include "backend.h"

// name: "auto" the first GPU where this build and this machine have one, else the processor; "cpu"; "cuda" or "cuda:N", a GPU
// or a refusal. level: as for backend_cpu, NULL the best; with one, auto is cpu. NULL with a reason on failure.
// A GPU is only given after its kernels did on small cases what the plain ones do (device_check.c).
const struct backend *device_open(const char *name, const char *level, struct err *err);
// Whether b computes small cases of every kind as the plain kernels do; false with the first that it does not.
bool device_check(const struct backend *b, struct err *err);
// Whether there is such a name, and a level that goes with it.
bool device_named(const char *name, const char *level, struct err *err);
// What b says of itself and, where auto found no GPU, why: one line.
void device_report(const struct backend *b, struct text *line);

#endif
