// small.c: runs the tests that were compiled with criterion/criterion.h of this folder, in the order of their names.
//   small_suites [WORD ...]     only tests whose suite/name has one of the words
#include "criterion/criterion.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static struct small_test *first;
static int failures;

static int order(const struct small_test *a, const struct small_test *b) {
    const int by_suite = strcmp(a->suite, b->suite);
    return by_suite ? by_suite : strcmp(a->name, b->name);
}

void small_add(struct small_test *test) {
    struct small_test **at = &first;
    while (*at && order(*at, test) < 0) at = &(*at)->next;
    test->next = *at;
    *at = test;
}

static void say(const char *format, va_list list) {
    vprintf(format, list);
    putchar('\n');
    fflush(stdout);
}

void small_log(const char *format, ...) {
    va_list list;
    va_start(list, format);
    printf("    ");
    say(format, list);
    va_end(list);
}

void small_failed(bool final, const char *file, int line, const char *what, const char *format, ...) {
    va_list list;
    va_start(list, format);
    printf("%s:%d: failed: %s ", file, line, what);
    say(format, list);
    va_end(list);
    failures++;
    if (final) exit(1);
}

static bool wanted(const char *name, char *const *words) {
    bool found = !*words;
    for (; *words; words++) found = found || strstr(name, *words);
    return found;
}

int main(int argc, char **argv) {
    (void)argc;
    int count = 0, left_out = 0;
    for (struct small_test *t = first; t; t = t->next) {
        char name[200];
        snprintf(name, sizeof name, "%s/%s", t->suite, t->name);
        if (!wanted(name, argv + 1)) continue;
        if (t->signal || t->exit_code) {
            left_out++;
            continue;
        }
        const time_t from = time(NULL);
        printf("%s\n", name);
        fflush(stdout);
        const pid_t child = fork();
        if (child == 0) {
            t->run();
            exit(failures > 0);
        }
        int status = 1;
        if (child < 0 || waitpid(child, &status, 0) != child || status) {
            printf("%s: FAILED%s\n", name, WIFSIGNALED(status) ? " by a signal" : "");
            failures++;
        }
        count++;
        const long seconds = (long)(time(NULL) - from);
        if (seconds > 1) small_log("%ld s", seconds);
    }
    printf("%d tests, %d failed, %d that expect a signal or the end left out\n", count, failures, left_out);
    return failures || !count;
}
