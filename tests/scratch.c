// scratch.c: see scratch.h.
#include "tests/scratch.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

char scratch[64], origin[4096];

void make_scratch(void) {
    strcpy(scratch, "/tmp/lehr-test-XXXXXX");
    cr_assert(mkdtemp(scratch) != NULL);
    cr_assert(getcwd(origin, sizeof origin) != NULL);
}

void drop_scratch(void) { cr_assert(shell("rm -rf '%s'", scratch) == 0); }

int shell(const char *format, ...) {
    struct text command = {0};
    char body[4096];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(body, sizeof body, format, args);
    va_end(args);
    cr_assert(n >= 0 && (size_t)n < sizeof body, "a command of %d bytes", n);
    text_fmt(&command, "cd '%s' && TRAIN='%s/" PROGRAMS "/train' RUN='%s/" PROGRAMS "/run' STORIES='%s/" PROGRAMS "/stories'; %s",
             scratch, origin, origin, origin, body);
    int status = system(command.data);
    text_free(&command);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

struct text read_file(const char *name) {
    struct text path = {0}, t = {0};
    struct err err = {""};
    text_fmt(&path, "%s/%s", scratch, name);
    cr_assert(file_read_all(path.data, (size_t)1 << 30, &t, &err), "%s", err.text);
    text_free(&path);
    return t;
}
