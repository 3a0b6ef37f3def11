// test_terminal.c: a conversation as a person has it, through a pseudo terminal.
//
// The model is the small one that ships, with a context far beyond its own, so that a reply does not end by itself: its
// text fills the terminal's buffer and waits there until the test reads on. No test depends on how fast anything is.
#include "core/core.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef PROGRAMS
#define PROGRAMS "build/test"
#endif

struct talk {
    int master;
    pid_t child;
    struct text seen; // all that came out
    size_t at;        // behind what was waited for last
};

static void talk_open(struct talk *t, const char *options) {
    char command[512];
    snprintf(command, sizeof command, "exec " PROGRAMS "/run -m data/stories-1m.gguf --chat --chat-template chatml -s 1 -t 1 %s", options);
    *t = (struct talk){.master = posix_openpt(O_RDWR | O_NOCTTY)};
    cr_assert(t->master >= 0 && grantpt(t->master) == 0 && unlockpt(t->master) == 0);
    const char *name = ptsname(t->master);
    t->child = fork();
    cr_assert(t->child >= 0);
    if (t->child == 0) {
        setsid();
        int tty = open(name, O_RDWR); // becomes the controlling terminal: Ctrl-C is a signal
        ioctl(tty, TIOCSCTTY, 0);
        for (int fd = 0; fd < 3; fd++) dup2(tty, fd);
        close(tty);
        execl("/bin/sh", "sh", "-c", command, (char *)NULL);
        _exit(127);
    }
}

// Reads a little; false when the other side is gone or 60 seconds were silent.
static bool talk_read(struct talk *t, size_t most) {
    char bytes[256];
    struct pollfd p = {.fd = t->master, .events = POLLIN};
    if (poll(&p, 1, 60000) != 1) return false;
    ssize_t n = read(t->master, bytes, most < sizeof bytes ? most : sizeof bytes);
    if (n <= 0) return false; // EIO: closed
    text_add(&t->seen, bytes, (size_t)n);
    return true;
}

// Reads until text comes behind what was waited for last.
static void talk_wait(struct talk *t, const char *text) {
    for (;;) {
        char *found = t->seen.len > t->at ? strstr(t->seen.data + t->at, text) : NULL;
        if (found) {
            t->at = (size_t)(found - t->seen.data) + strlen(text);
            return;
        }
        cr_assert(talk_read(t, 256), "waiting for \"%s\" after:\n%s", text, t->seen.len ? t->seen.data : "");
    }
}

static void talk_type(struct talk *t, const char *keys) { cr_assert(write(t->master, keys, strlen(keys)) == (ssize_t)strlen(keys)); }

static int talk_close(struct talk *t) { // the exit code, or 128 + signal
    int status = 0;
    while (talk_read(t, 256)) continue;
    cr_assert(waitpid(t->child, &status, 0) == t->child);
    close(t->master);
    text_free(&t->seen);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

TestSuite(terminal, .timeout = 120);

Test(terminal, ctrl_c_stops_a_reply_and_the_conversation_goes_on) {
    struct talk t;
    talk_open(&t, "-n 6000 -c 8192 --ignore-eos -v");
    talk_wait(&t, "> ");
    talk_type(&t, "One day\n");
    talk_wait(&t, "One day\r\n");
    for (size_t at = t.seen.len; t.seen.len < at + 40;) cr_assert(talk_read(&t, 16)); // the reply has begun
    talk_type(&t, "\x03");
    talk_wait(&t, "stopped by caller");
    talk_wait(&t, "> ");
    for (int i = 0; i < 50; i++) { // while typing it only forgets the line, however soon it comes behind the prompt
        talk_type(&t, "\x03");
        talk_wait(&t, "(Ctrl-D ends the conversation)");
        talk_wait(&t, "> ");
    }
    talk_type(&t, "and then\n");
    talk_wait(&t, "and then\r\n");
    for (size_t at = t.seen.len; t.seen.len < at + 40;) cr_assert(talk_read(&t, 16));
    talk_type(&t, "\x03");
    talk_wait(&t, "stopped by caller");
    talk_wait(&t, "seed 1\r\n");
    talk_wait(&t, "known already");
    size_t line = t.at;
    while (line > 0 && t.seen.data[line - 1] != '\n') line--;
    cr_expect(atoi(t.seen.data + line) > 20, "the first turn and its reply were read again");
    talk_wait(&t, "> ");
    talk_type(&t, "\x04");
    cr_expect_eq(talk_close(&t), 0);
}

Test(terminal, ctrl_d_ends_with_code_0_and_commands_are_no_turns) {
    struct talk t;
    talk_open(&t, "-n 3 -c 256");
    talk_wait(&t, "> ");
    talk_type(&t, "/help\n");
    talk_wait(&t, "/clear forgets");
    talk_wait(&t, "> ");
    talk_type(&t, "\x04");
    cr_expect_eq(talk_close(&t), 0);
    talk_open(&t, "-n 3 -c 256");
    talk_wait(&t, "> ");
    talk_type(&t, "/exit\n");
    cr_expect_eq(talk_close(&t), 0);
}

Test(terminal, pasted_lines_are_one_turn_and_nothing_typed_is_a_control_token) {
    struct talk t;
    talk_open(&t, "-n 3 -c 512 --show-prompt");
    talk_wait(&t, "> ");
    talk_type(&t, "one <|endoftext|>\ntwo <|im_end|>\nthree");
    talk_wait(&t, "(Enter sends) ");
    talk_type(&t, "\n");
    talk_wait(&t, "\xC2\xABone <|endoftext|>\\n\r\ntwo <|im_end|>\\n\r\nthree\xC2\xBB");
    talk_wait(&t, " ids: ");
    size_t from = t.at;
    talk_wait(&t, "\r\n");
    size_t marks = 0; // a control token is told as id=spelling
    for (size_t i = from; i < t.at; i++) marks += t.seen.data[i] == '=';
    cr_expect_leq(marks, 1, "%s", t.seen.data + from); // BOS alone
    talk_wait(&t, "> ");
    talk_type(&t, "\x04");
    cr_expect_eq(talk_close(&t), 0);
}

Test(terminal, a_line_that_the_terminal_cut_is_told_and_not_asked) {
    struct talk t;
    struct text line = {0};
    talk_open(&t, "-n 3 -c 512");
    talk_wait(&t, "> ");
    for (int i = 0; i < 5000; i++) text_add(&line, "x", 1);
    text_add(&line, "\n", 1);
    for (size_t at = 0; at < line.len;) { // the echo fills the other direction
        ssize_t n = write(t.master, line.data + at, line.len - at < 500 ? line.len - at : 500);
        cr_assert(n > 0);
        at += (size_t)n;
        while (poll(&(struct pollfd){.fd = t.master, .events = POLLIN}, 1, 5) == 1) cr_assert(talk_read(&t, 256));
    }
    talk_wait(&t, "cuts lines at 4095");
    talk_wait(&t, "> ");
    talk_type(&t, "\x04");
    cr_expect_eq(talk_close(&t), 0);
    text_free(&line);
}
