// test_plot.c: the terminal (progress line, numbers in few characters) and plots, in the terminal and as SVG.
//
// The terminal is a pseudo terminal of 30 columns; plots are checked for their size, their alphabet and their content.
#include "core/core.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

// Output of a printing function, owned by the caller.
static char *printed(void (*print)(FILE *to, void *arg), void *arg) {
    char *text = NULL;
    size_t n;
    FILE *f = open_memstream(&text, &n);
    print(f, arg);
    fclose(f);
    return text;
}

// ---------------------------------------------------------------------------------------------------------------
// Terminal.

Test(term, numbers_are_short) {
    static const struct {
        double x;
        const char *text;
    } counts[] = {{0, "0"},       {7, "7"},           {999, "999"}, {999.6, "1k"},
                  {1200, "1.2k"}, {3450000, "3.45M"}, {2e9, "2G"},  {-1234, "-1.23k"},
                  {0.5, "0.5"},   {999500, "1M"},     {1e12, "1T"}, {INFINITY, "inf"}};
    static const struct {
        double s;
        const char *text;
    } times[] = {
        {0, "0s"},         {1.25, "1.2s"},  {9.96, "10s"},         {59.4, "59s"},   {59.7, "1m"},
        {60, "1m"},        {725, "12m05s"}, {3600, "1h"},          {7380, "2h03m"}, {86400, "1d"},
        {273600, "3d04h"}, {-90, "-1m30s"}, {INFINITY, "forever"}, {NAN, "unknown"}};
    static const struct {
        double b;
        const char *text;
    } bytes[] = {{0, "0 B"},        {999, "999 B"},       {1000, "1.0 kB"},
                 {12e6, "12.0 MB"}, {999.96e3, "1.0 MB"}, {1.5e9, "1.5 GB"}};
    char buf[32];
    for (size_t i = 0; i < COUNT_OF(counts); i++)
        cr_assert_str_eq(text_count(buf, counts[i].x), counts[i].text);
    for (size_t i = 0; i < COUNT_OF(times); i++)
        cr_assert_str_eq(text_time(buf, times[i].s), times[i].text);
    for (size_t i = 0; i < COUNT_OF(bytes); i++)
        cr_assert_str_eq(text_bytes(buf, bytes[i].b), bytes[i].text);
    text_count(buf, 1e300);
    text_time(buf, 1e13);
    text_bytes(buf, -1e300);
}

// Progress with stderr in a file: whole lines, no escapes, at most one in the interval unless forced.
Test(term, progress_without_a_terminal_is_plain_lines) {
    FILE *f = tmpfile();
    int saved = dup(2);
    dup2(fileno(f), 2);
    struct progress p;
    progress_open(&p, 1000);
    for (int i = 0; i < 100; i++) progress_line(&p, false, "step %d", i);
    progress_note(&p, "saved %s", "a.gguf");
    progress_line(&p, true, "step %d", 100);
    progress_close(&p);
    dup2(saved, 2);
    char text[400] = "";
    rewind(f);
    size_t n = fread(text, 1, sizeof text - 1, f);
    text[n] = 0;
    fclose(f);
    cr_assert_str_eq(text, "step 0\nsaved a.gguf\nstep 100\n");
    cr_assert_not(p.tty);
}

// Runs on a pseudo terminal of 30 columns; what it received goes to text.
static void on_terminal(void (*run)(void), char *text, size_t cap) {
    int host = posix_openpt(O_RDWR | O_NOCTTY);
    cr_assert(host >= 0 && grantpt(host) == 0 && unlockpt(host) == 0);
    int guest = open(ptsname(host), O_RDWR | O_NOCTTY), saved = dup(2);
    struct winsize size = {.ws_row = 24, .ws_col = 30};
    ioctl(guest, TIOCSWINSZ, &size);
    dup2(guest, 2);
    run();
    dup2(saved, 2);
    close(guest);
    size_t n = 0;
    for (ssize_t got; n + 1 < cap && (got = read(host, text + n, cap - 1 - n)) > 0;)
        n += (size_t)got;
    text[n] = 0;
    close(host);
}

static void run_progress(void) {
    struct progress p;
    progress_open(&p, 1000);
    progress_line(&p, true, "one");
    progress_line(&p, false, "too soon");
    progress_note(&p, "a note");
    progress_line(&p, true, "caf\xc3\xa9 0123456789 0123456789 0123456789\nsecond");
    progress_close(&p);
    progress_close(&p);
    fprintf(stderr, "%d %d %d", term_is_tty(stderr), term_color(stderr), term_width());
}

Test(term, progress_on_a_terminal_redraws_one_line) {
    char text[600];
    setenv("TERM", "xterm", 1);
    unsetenv("NO_COLOR");
    on_terminal(run_progress, text, sizeof text);
    cr_assert_str_eq(
        text,
        "\rone\x1b[K\r\x1b[Ka note\r\n\rcaf\xc3\xa9 0123456789 0123456789 01\x1b[K\r\n1 1 30");
    setenv("NO_COLOR", "1", 1);
    on_terminal(run_progress, text, sizeof text);
    cr_assert_str_eq(text + strlen(text) - 6, "1 0 30");
    setenv("TERM", "dumb", 1);
    on_terminal(run_progress, text, sizeof text);
    cr_assert_null(strchr(text, '\x1b'), "%s", text);
}

// ---------------------------------------------------------------------------------------------------------------
// Plots.

struct drawing {
    struct plot plot;
    int width, height;
};

static void print_plot(FILE *to, void *arg) {
    struct drawing *d = arg;
    plot_terminal(&d->plot, d->width, d->height, to);
}

static char *drawn(const char *locale, struct plot plot, int width, int height) {
    setenv("LC_ALL", locale, 1);
    return printed(print_plot, &(struct drawing){plot, width, height});
}

static size_t times_in(const char *text, const char *word) {
    size_t n = 0;
    for (const char *at = text; (at = strstr(at, word)); at += strlen(word)) n++;
    return n;
}

// A falling curve with a gap in the middle, some evaluations and a floor.
enum { POINTS = 2000 };
static double curve_x[POINTS], curve_y[POINTS], eval_x[5], eval_y[5], floor_x[2] = {0, POINTS},
                                                                      floor_y[2] = {1, 1};

static void curve_make(void) {
    for (int i = 0; i < POINTS; i++) {
        curve_x[i] = i;
        curve_y[i] = i >= 900 && i < 1100 ? NAN : 1.2 + 8 * exp(-i / 300.0);
    }
    for (int i = 0; i < 5; i++) {
        eval_x[i] = i * 400;
        eval_y[i] = 3 + 8 * exp(-i / 2.0);
    }
}

#define CURVE                                                                                      \
    { "train", curve_x, curve_y, POINTS, LOOK_LINE }
#define EVALS                                                                                      \
    { "valid & <new>", eval_x, eval_y, 5, LOOK_POINTS }
#define FLOOR                                                                                      \
    { "floor", floor_x, floor_y, 2, LOOK_DASHED }

// Width in characters of every line, and that it is UTF-8.
static int lines_within(const char *text, int width) {
    int lines = 0, column = 0;
    for (size_t at = 0, n = strlen(text); at < n;
         lines += text[at] == '\n', at += utf8_size(text + at, n - at)) {
        cr_assert_neq(utf8_size(text + at, n - at), 0, "no UTF-8 at byte %zu of\n%s", at, text);
        column = text[at] == '\n' ? 0 : column + 1;
        cr_assert_leq(column, width, "%s", text);
    }
    return lines;
}

Test(plot, the_terminal_gets_its_size_and_its_alphabet) {
    curve_make();
    const struct series series[] = {CURVE, EVALS, FLOOR};
    struct plot plot = {"Loss", "tokens", "nats", series, 3, false, 0};
    static const int sizes[][2] = {{80, 20}, {120, 40}, {50, 12}, {60, 8}};
    for (size_t i = 0; i < COUNT_OF(sizes); i++) {
        char *plain = drawn("C", plot, sizes[i][0], sizes[i][1]),
             *fine = drawn("en_US.UTF-8", plot, sizes[i][0], sizes[i][1]);
        cr_assert_eq(lines_within(plain, sizes[i][0]), sizes[i][1], "%s", plain);
        cr_assert_eq(lines_within(fine, sizes[i][0]), sizes[i][1], "%s", fine);
        for (const char *c = plain; *c; c++) cr_assert_lt((unsigned char)*c, 0x7f, "%s", plain);
        cr_assert(strstr(fine, "\xe2\xa0") || strstr(fine, "\xe2\xa1"), "no braille in\n%s", fine);
        cr_assert_null(strchr(fine, '\x1b'));
        static const char *const says[] = {"Loss",  "nats", "train",    "valid & <new>",
                                           "floor", "o ",   "x: tokens"};
        for (size_t k = 0; k < COUNT_OF(says) - (sizes[i][0] < 60);
             k++) { // no room for the last one in 50 columns
            cr_assert(strstr(plain, says[k]) && strstr(fine, says[k]), "%s is missing in\n%s",
                      says[k], plain);
        }
        free(plain);
        free(fine);
    }
}

// In ASCII: column of the gap empty, the first column's mark at the top, the last one's near the bottom.
Test(plot, the_terminal_shows_the_curve) {
    curve_make();
    const struct series series[] = {CURVE};
    char *text = drawn("C", (struct plot){"Loss", "", "", series, 1, false, 0}, 87, 24), *line[24];
    int n = 0;
    for (char *at = strtok(text, "\n"); at && n < 24; at = strtok(NULL, "\n")) line[n++] = at;
    int first = -1, last = -1, gap = 0;
    for (int row = 1; row < 21; row++) {
        const char *area = strpbrk(line[row], "|+");
        cr_assert_not_null(area);
        size_t width = strlen(++area);
        if (width > 0 && area[0] == '*') first = row;
        if (width > 79 && area[79] == '*') last = row;
        for (size_t c = 37; c < 43 && c < width; c++) gap += area[c] == '*';
    }
    cr_assert(first == 1 || first == 2, "first %d", first);
    cr_assert(last >= 17 && last <= 20, "last %d", last);
    cr_assert_eq(gap, 0, "the gap is drawn over");
    free(text);
}

static size_t svg_points(const char *svg) { // coordinates in polylines
    size_t n = 0;
    for (const char *at = svg; (at = strstr(at, "points=\"")); at++) {
        for (const char *c = at + 8; *c != '"'; c++) n += *c == ',';
    }
    return n;
}

// Every tag is closed, attributes are quoted, no entity is open.
static void expect_xml(const char *svg) {
    int depth = 0;
    for (const char *at = svg; (at = strchr(at, '<')); at++) {
        const char *end = strchr(at, '>');
        cr_assert_not_null(end);
        if (at[1] == '/')
            depth--;
        else if (end[-1] != '/')
            depth++;
        cr_assert_geq(depth, 0);
        cr_assert_eq(memchr(at + 1, '<', (size_t)(end - at - 1)), NULL);
    }
    cr_assert_eq(depth, 0, "%s", svg);
    for (const char *at = svg; (at = strchr(at, '&')); at++) {
        cr_assert(!strncmp(at, "&amp;", 5) || !strncmp(at, "&lt;", 4) || !strncmp(at, "&gt;", 4),
                  "%.20s", at);
    }
    cr_assert_null(strstr(svg, "nan"), "%s", svg);
    cr_assert_null(strstr(svg, "inf"));
}

Test(plot, svg_is_whole_and_small) {
    curve_make();
    const struct series series[] = {CURVE, EVALS, FLOOR};
    struct text t = {0};
    plot_svg(&(struct plot){"Loss <1>", "tokens", "nats", series, 3, false, 0}, 480, 280, &t);
    expect_xml(t.data);
    cr_assert_eq(times_in(t.data, "<svg"), 1);
    cr_assert_not_null(strstr(t.data, "viewBox=\"0 0 480 280\""));
    cr_assert_not_null(strstr(t.data, "valid &amp; &lt;new&gt;"));
    cr_assert_not_null(strstr(t.data, "Loss &lt;1&gt;"));
    cr_assert_not_null(strstr(t.data, "var(--series-1,"));
    cr_assert_eq(times_in(t.data, "<circle"),
                 5 + 1); // the evaluations, and their mark in the legend
    cr_assert_eq(times_in(t.data, "<polyline"), 2 + 1 + 1); // the gap cuts the curve
    cr_assert_leq(svg_points(t.data), 2 * 480 + 10);
    cr_assert_null(strstr(t.data, "href"));
    text_free(&t);
}

// A million points with one peak: the file stays small and the peak stays.
Test(plot, svg_keeps_the_extremes_of_many_points) {
    enum { MANY = 1000000 };
    double *x = mem_array(MANY, sizeof *x, "test"), *y = mem_array(MANY, sizeof *y, "test");
    for (int i = 0; i < MANY; i++) {
        x[i] = i;
        y[i] = i == 654321 ? 100 : sin(i);
    }
    const struct series series[] = {{"many", x, y, MANY, LOOK_LINE}};
    struct text t = {0};
    plot_svg(&(struct plot){"", "", "", series, 1, false, 0}, 480, 280, &t);
    cr_assert_leq(svg_points(t.data), 2 * 410);
    cr_assert_lt(t.len, 30000);
    double top = 1e9;
    for (const char *at = strstr(t.data, "points=\"") + 8; *at != '"';) {
        char *end;
        strtod(at, &end);
        double v = strtod(end + 1, &end);
        top = fmin(top, v);
        at = end + (*end == ' ');
    }
    cr_assert_lt(top, 62, "the peak is cut: %g", top); // the frame begins at 52
    mem_free(x);
    mem_free(y);
    text_free(&t);
}

Test(plot, odd_data_is_drawn_or_left_out_but_never_breaks, .timeout = 10) {
    static const double odd[][4] = {
        {1, 1, 1, 1},           {0, 0, 0, 0},
        {NAN, NAN, NAN, NAN},   {INFINITY, 1, -INFINITY, 2},
        {1e308, -1e308, 1, 2},  {1e-320, 2e-320, 0, 0},
        {-1, -2, -3, -4},       {1e15, 1e15 + 1, 1e15, 1e15},
        {1e-9, 1e9, 1e-9, 1e9}, {NAN, 5, NAN, 5},
        {1, 1 + 1e-15, 1, 1},   {1e299, 1, 0, -1e299},
        {5e-324, 1e299, 1, 2},  {-0.0, 0.0, -0.0, 0.0},
    };
    for (size_t a = 0; a < COUNT_OF(odd); a++) {
        for (size_t b = 0; b < COUNT_OF(odd); b++) {
            for (size_t n = 0; n <= 4; n++) {
                const struct series series[] = {
                    {"odd", odd[b], odd[a], n, (enum series_look)(n % 4)},
                    {NULL, odd[a], odd[b], n, LOOK_LINE}};
                struct plot plot = {NULL, NULL, NULL, series, 2, (a + n) % 2 == 0, 0};
                struct text t = {0};
                plot_svg(&plot, 480, 280, &t);
                expect_xml(t.data);
                cr_assert_lt(t.len, 10000);
                char *text = drawn(n % 2 ? "C" : "C.UTF-8", plot, 60, 10);
                cr_assert_eq(lines_within(text, 60), 10, "y %zu, x %zu, n %zu\n%s", a, b, n, text);
                text_free(&t);
                free(text);
            }
        }
    }
    struct text t = {0};
    plot_svg(&(struct plot){"empty", "x", "y", NULL, 0, true, 0}, 480, 280, &t);
    cr_assert_not_null(strstr(t.data, "no data"));
    plot_svg(&(struct plot){"tiny", "x", "y", NULL, 0, true, 0}, 1, 1, &t);
    free(drawn("C", (struct plot){"empty", "x", "y", NULL, 0, true, 0}, 0, 0));
    text_free(&t);
}

// A loss that begins at 100 and ends at 2: the frame is that of what comes after the first twentieth, over the whole x axis.
Test(plot, a_high_beginning_leaves_room_for_the_rest) {
    double x[200], y[200];
    for (int i = 0; i < 200; i++) x[i] = i, y[i] = i < 5 ? 100 - i : 4 - i / 100.;
    const double top = plot_top(y, 200);
    cr_expect_float_eq(top, 3.9, 1e-12, "%g", top);
    cr_expect(plot_top(y, 39) == 0);
    struct series s = {"loss", x, y, 200, LOOK_LINE};
    struct plot cut = {"t", "x", "y", &s, 1, false, top};
    struct text svg = {0};
    plot_svg(&cut, 300, 200, &svg);
    cr_expect(strstr(svg.data, ">0<") && strstr(svg.data, ">2<") && !strstr(svg.data, "end\">100<") && !strstr(svg.data, "nan"), "%s", svg.data);
    text_clear(&svg);
    cut.top = 0;
    plot_svg(&cut, 300, 200, &svg);
    cr_expect(strstr(svg.data, "end\">100<"), "%s", svg.data);
    text_clear(&svg);
    cut.top = 1; // everything is above
    plot_svg(&cut, 300, 200, &svg);
    cr_expect(strstr(svg.data, "no data"));
    text_free(&svg);
}

Test(plot, ticks_are_round_numbers) {
    static const struct {
        double lo, hi;
        bool log;
        const char *labels[3];
    } known[] = {
        {0, 10, false, {">0<", ">5<", ">10<"}},
        {0, 20000, false, {">5k<", ">10k<", ">20k<"}},
        {0, 3e6, false, {">1M<", ">2M<", ">3M<"}},
        {0, 0.004, false, {">1e-3<", ">2e-3<", ">4e-3<"}},
        {1, 10000, true, {">1<", ">100<", ">10k<"}},
        {2, 4, true, {">2<", ">3<", ">4<"}},
        {-1, 1, false, {">-1<", ">0<", ">1<"}},
        {0, 0.5, false, {">0<", ">0.2<", ">0.4<"}},
        {1e-4, 1, true, {">1e-4<", ">1e-3<", ">1<"}},
    };
    for (size_t i = 0; i < COUNT_OF(known); i++) {
        double x[2] = {0.1, 0.2}, y[2] = {known[i].lo, known[i].hi};
        const struct series series[] = {{"s", x, y, 2, LOOK_LINE}};
        struct text t = {0};
        plot_svg(&(struct plot){"", "", "", series, 1, known[i].log, 0}, 480, 280, &t);
        for (int k = 0; k < 3; k++)
            cr_assert(strstr(t.data, known[i].labels[k]), "%s is missing in\n%s",
                      known[i].labels[k], t.data);
        text_free(&t);
    }
}

Test(plot, html_is_escaped) {
    struct text t = {0};
    text_html(&t, "<a href=\"x\">&'\r\n\x01\xff\xc3\xa9\0!", 22);
    cr_assert_str_eq(
        t.data,
        "&lt;a href=&quot;x&quot;&gt;&amp;&#39;\n\xef\xbf\xbd\xef\xbf\xbd\xc3\xa9\xef\xbf\xbd!");
    text_free(&t);
}

Test(plot, a_map_has_a_cell_for_every_value_and_thins_what_is_too_much) {
    enum { N = 1000 };
    static const float low[] = {1e-3f, 1, 1e3f}, odd[] = {NAN, 0, 10};
    static const float *column[N];
    static double x[N];
    struct text t = {0};
    for (int i = 0; i < N; i++) x[i] = i, column[i] = i == 1 ? odd : low;
    heat_svg(&(struct heat){"<norm>", "tokens", "first", "last", x, column, 2, 3, true}, 480, 280, &t);
    int cells = 0;
    for (const char *at = t.data; (at = strstr(at, "<rect")); at++) cells++;
    cr_expect_eq(cells, 4, "what has no logarithm is left out");
    cr_expect(strstr(t.data, "&lt;norm&gt;") && strstr(t.data, "fill-opacity=\"0.06\"") && strstr(t.data, "fill-opacity=\"1.00\""));
    cr_expect(!strstr(t.data, "nan") && !strstr(t.data, "inf"));
    text_clear(&t);
    heat_svg(&(struct heat){"norm", "tokens", "first", "last", x, column, N, 3, true}, 480, 280, &t);
    cr_expect_lt(t.len, 100000);
    text_free(&t);
}
