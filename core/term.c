// term.c: one progress line on stderr, and numbers as people say them.
//
// On a terminal the line is redrawn in place, at most 20 times a second, and cut to the width so that it never wraps
// (a wrapped line cannot be redrawn). Elsewhere (a file, a pipe, TERM=dumb) there are no escape codes and no
// carriage returns: whole lines, at most one every `every_s` seconds. Each line is one fwrite, so lines of several
// programs in one log do not mix.
#include "core/core.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define REDRAW_S 0.05
#define LINE_CAP 1024

bool term_is_tty(FILE *f) {
    const char *term = getenv("TERM");
    return isatty(fileno(f)) && term && *term && strcmp(term, "dumb") != 0;
}

// An empty NO_COLOR counts as unset (no-color.org).
bool term_color(FILE *f) {
    const char *no = getenv("NO_COLOR");
    return term_is_tty(f) && !(no && *no);
}

int term_width(void) {
    struct winsize size;
    for (int fd = 2; fd >= 1; fd--) {
        if (ioctl(fd, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
    }
    const char *columns = getenv("COLUMNS");
    int width = columns ? atoi(columns) : 0;
    return width > 0 && width < 10000 ? width : 80;
}

// ---------------------------------------------------------------------------------------------------------------
// Progress.

void progress_open(struct progress *p, double every_s) {
    *p = (struct progress){.every_s = every_s, .last_s = -INFINITY, .tty = term_is_tty(stderr)};
}

// Bytes of line that fill at most `columns` columns, one per character, up to the first control character.
static size_t fitting(const char *line, int columns) {
    size_t at = 0, n = strlen(line);
    while (at < n && columns-- > 0 && (unsigned char)line[at] >= 0x20) {
        size_t size = utf8_size(line + at, n - at);
        at += size ? size : 1;
    }
    return at;
}

static void put_line(const char *before, const char *line, size_t n, const char *after) {
    char whole[LINE_CAP + 32];
    int used = snprintf(whole, sizeof whole, "%s%.*s%s", before, (int)n, line, after);
    fwrite(whole, 1, (size_t)used, stderr);
    fflush(stderr);
}

void progress_line(struct progress *p, bool force, const char *format, ...) {
    double now = time_now();
    if (!force && now - p->last_s < (p->tty ? REDRAW_S : p->every_s)) return;
    p->last_s = now;
    char line[LINE_CAP];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    if (p->tty) {
        put_line("\r", line, fitting(line, term_width() - 1), "\x1b[K");
        p->open = true;
    } else {
        put_line("", line, strlen(line), "\n");
    }
}

void progress_note(struct progress *p, const char *format, ...) {
    char line[LINE_CAP];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    put_line(p->tty && p->open ? "\r\x1b[K" : "", line, strlen(line), "\n");
    p->open = false;
}

void progress_close(struct progress *p) {
    if (p->tty && p->open) put_line("", "", 0, "\n");
    p->open = false;
}

// ---------------------------------------------------------------------------------------------------------------
// Numbers in few characters.

char *text_count(char buf[32], double x) {
    static const char *const units[] = {"", "k", "M", "G", "T", "P", "E"};
    double size = fabs(x);
    size_t u = 0;
    while (size >= 999.5 && u + 1 < COUNT_OF(units)) { // 999.5 would print as 1000
        size /= 1000;
        u++;
    }
    snprintf(buf, 32, "%s%.3g%s", x < 0 ? "-" : "", size, isfinite(x) ? units[u] : "");
    return buf;
}

// Two parts, the second left out when it is zero; opt.c reads all of these back.
char *text_time(char buf[32], double seconds) {
    const char *sign = seconds < 0 ? "-" : "";
    double size = fabs(seconds);
    if (!(size < 1e14)) {
        snprintf(buf, 32, "%s%s", sign, isnan(seconds) ? "unknown" : "forever");
        return buf;
    }
    long long s = llround(size);
    if (size < 9.95) {
        snprintf(buf, 32, "%s%.2gs", sign, size);
    } else if (s < 60) {
        snprintf(buf, 32, "%s%llds", sign, s);
    } else {
        static const struct {
            long long seconds, part;
            char unit, part_unit;
        } units[] = {{86400, 3600, 'd', 'h'}, {3600, 60, 'h', 'm'}, {60, 1, 'm', 's'}};
        size_t u = 0;
        while (s < units[u].seconds) u++;
        long long whole = s / units[u].seconds, part = s % units[u].seconds / units[u].part;
        int n = snprintf(buf, 32, "%s%lld%c", sign, whole, units[u].unit);
        if (part) snprintf(buf + n, 32 - (size_t)n, "%02lld%c", part, units[u].part_unit);
    }
    return buf;
}

char *text_bytes(char buf[32], double bytes) {
    static const char *const units[] = {"B", "kB", "MB", "GB", "TB", "PB", "EB"};
    double size = fabs(bytes);
    size_t u = 0;
    while (size >= 999.95 && u + 1 < COUNT_OF(units)) {
        size /= 1000;
        u++;
    }
    snprintf(buf, 32, "%s%.*f %s", bytes < 0 ? "-" : "", u ? 1 : 0, size, units[u]);
    return buf;
}
