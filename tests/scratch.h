// scratch: a folder of a test's own, and the built programs run in it.
#ifndef LEHR_TESTS_SCRATCH_H
#define LEHR_TESTS_SCRATCH_H

#include "core/core.h"

#ifndef PROGRAMS
#define PROGRAMS "build/test"
#endif

extern char scratch[64], origin[4096]; // the folder, and where the suites were started
void make_scratch(void);               // for a suite's .init and .fini
void drop_scratch(void);
// Runs a shell command in the folder; $TRAIN, $RUN and $STORIES are the programs. Returns the exit code, or 128 + signal.
int shell(const char *format, ...) PRINTF_LIKE(1, 2);
struct text read_file(const char *name); // of the folder; the caller frees

#endif
