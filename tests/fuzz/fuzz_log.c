// log.jsonl as --plot and the report read it, and the curves drawn of what it says.
#include "learn/learn.h"
#include "tests/fuzz/files.h"

#include <string.h>

static void draw(const struct log_rows *rows) {
    double *x = mem_array(rows->count, sizeof *x, "tokens"), *y = mem_array(rows->count, sizeof *y, "losses");
    for (size_t i = 0; i < rows->count; i++) x[i] = (double)rows->row[i].tokens, y[i] = rows->row[i].loss;
    const struct series series[] = {{"loss", x, y, rows->count, LOOK_LINE}, {"points", x, y, rows->count, LOOK_POINTS}};
    struct plot plot = {"fuzz", "tokens", "loss", series, COUNT_OF(series), rows->count % 2};
    struct text svg = {0};
    static FILE *nowhere;
    if (!nowhere) nowhere = fopen("/dev/null", "w");
    must(nowhere, "/dev/null is there");
    plot_terminal(&plot, 60, 12, nowhere);
    plot_svg(&plot, 300, 200, &svg);
    must(svg.len > 10 && !strstr(svg.data, "nan") && !strstr(svg.data, "inf"), "a drawing has numbers only");
    text_free(&svg);
    mem_free(x);
    mem_free(y);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    struct err err = {""};
    struct log_rows rows;
    files_add("log.jsonl", bytes, n);
    bool good = log_read("m/log.jsonl", &rows, &err);
    must_tell(good, &err);
    if (good) {
        for (size_t i = 0; i < rows.count; i++) must(rows.row[i].step >= 0 && rows.row[i].tokens >= 0, "rows have a place");
        draw(&rows);
        log_rows_free(&rows);
    }
    files_drop();
    return 0;
}
