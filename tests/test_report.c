// test_report.c: the step log and the report page.
//
// The log's promise: a run that was killed anywhere and resumed leaves the same bytes as one that was not, but for
// the two members that measure time. So most tests cut, damage or resume a log and compare bytes.
#include "learn/learn.h"

#include <criterion/criterion.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

static char folder[32], path[64];

static void setup(void) {
    strcpy(folder, "/tmp/lehr-report-XXXXXX");
    cr_assert_not_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/log.jsonl", folder);
}

static void teardown(void) {
    struct file_list list;
    if (file_list_open(&list, folder, NULL)) {
        for (size_t i = 0; i < list.count; i++) {
            char name[400];
            snprintf(name, sizeof name, "%s/%s", folder, list.names[i]);
            if (remove(name)) {
            }
        }
        file_list_free(&list);
    }
    rmdir(folder);
}

static struct text file_text(const char *name) {
    struct text t = {0};
    struct err err = {""};
    cr_assert(file_read_all(name, 1 << 26, &t, &err), "%s", err.text);
    return t;
}

static void put_file(const char *bytes, size_t n) {
    FILE *f = fopen(path, "wb");
    cr_assert_eq(fwrite(bytes, 1, n, f), n);
    fclose(f);
}

static struct log_row step_row(int64_t step) {
    struct log_row row = log_row_at(step, step * 512);
    row.loss = 9.0 / (double)step + 0.1 * rng_normal(1, 0, (uint64_t)step);
    row.lr = 1e-3 / 3, row.grad_norm = 1.0 / 3, row.dt_ms = 1.5, row.tok_per_s = 1000;
    row.skipped = step == 7 ? "loss far \"outside\"" : NULL;
    row.batch = 512, row.noise = step == 7 ? 0 : 1e5 / 3;
    if (step == 7) row.aux_loss = 0.03125, row.imbalance = 1.25;
    return row;
}

static struct log_row eval_row(int64_t step) {
    struct log_row row = log_row_at(step, step * 512);
    row.val_loss = 5.0 / (double)step + 1, row.val_nats_per_byte = 2.0 / 3, row.val_loss_replay = 1.0 / 7;
    return row;
}

static struct log_file *open_log(int64_t keep_tokens) {
    struct err err = {""};
    struct log_file *l = log_open(path, keep_tokens, 0, &err);
    cr_assert_not_null(l, "%s", err.text);
    return l;
}

// Steps from..to with an evaluation after every fifth.
static void write_steps(int64_t keep_tokens, int64_t from, int64_t to) {
    struct log_file *l = open_log(keep_tokens);
    struct err err = {""};
    for (int64_t step = from; step <= to; step++) {
        struct log_row row = step_row(step), eval = eval_row(step);
        log_add(l, &row);
        if (step % 5 == 0) log_add(l, &eval);
    }
    cr_assert(log_close(l, &err), "%s", err.text);
}

TestSuite(log, .init = setup, .fini = teardown);
TestSuite(report, .init = setup, .fini = teardown);

static bool same(double a, double b) {
    return memcmp(&a, &b, sizeof a) == 0 || (isnan(a) && isnan(b));
}

Test(log, rows_come_back_bit_for_bit) {
    struct log_rows rows;
    struct err err = {""};
    write_steps(-1, 1, 10);
    cr_assert(log_read(path, &rows, &err), "%s", err.text);
    cr_assert_eq(rows.count, 12);
    for (size_t i = 0; i < rows.count; i++) {
        const struct log_row *row = &rows.row[i];
        bool eval = i == 5 || i == 11;
        struct log_row wanted = eval ? eval_row(row->step) : step_row(row->step);
        cr_assert(row->step == wanted.step && row->tokens == wanted.tokens, "row %zu", i);
        cr_assert(same(row->loss, wanted.loss) && same(row->lr, wanted.lr) &&
                      same(row->grad_norm, wanted.grad_norm),
                  "row %zu", i);
        cr_assert(same(row->dt_ms, wanted.dt_ms) && same(row->tok_per_s, wanted.tok_per_s),
                  "row %zu", i);
        cr_assert(same(row->val_loss, wanted.val_loss) &&
                      same(row->val_nats_per_byte, wanted.val_nats_per_byte) && same(row->val_loss_replay, wanted.val_loss_replay),
                  "row %zu", i);
        cr_assert(same(row->batch, wanted.batch) && same(row->noise, wanted.noise), "row %zu", i);
        cr_assert(same(row->aux_loss, wanted.aux_loss) && same(row->imbalance, wanted.imbalance), "row %zu", i);
        cr_assert_eq(row->skipped == NULL, wanted.skipped == NULL, "row %zu", i);
        if (wanted.skipped) cr_assert_str_eq(row->skipped, wanted.skipped);
    }
    log_rows_free(&rows);
    log_rows_free(&rows);
}

Test(log, fields_are_those_documented) {
    static const int32_t use[] = {1, 2, 3, 0, 6, 0};
    struct log_file *l = open_log(-1);
    static const float norms[] = {0.5f, 0.1234567f};
    struct log_row a = {.step = 3, .tokens = 1536, .loss = 2.5, .lr = 0.001, .grad_norm = 0.5, .dt_ms = 12.5, .tok_per_s = 4096, .val_loss = NAN,
                        .val_nats_per_byte = NAN, .val_loss_replay = NAN, .acceptance = NAN, .agreement = NAN, .batch = 512, .layer_norms = {norms, 2}};
    struct log_row b = log_row_at(3, 1536), c = a, d = log_row_at(2, 1024);
    a.aux_loss = 0.5, a.imbalance = 1.5;
    b.use = use, b.layers = 2, b.experts = 3;
    b.val_loss = 2.25, b.val_nats_per_byte = 0.75, b.val_loss_replay = 3.5, b.acceptance = 0.5, b.agreement = 0.625, b.cooled_tokens = 4096, b.cooled_loss = 2.125, b.cooled_nats_per_byte = 0.5;
    c.step = 4, c.tokens = 2048, c.loss = INFINITY, c.grad_norm = NAN, c.skipped = "not finite", c.noise = 777.25, c.layer_norms.n = 0;
    c.aux_loss = c.imbalance = 0;
    d.rollback = 1, d.back_from = 2048, d.passed_from = 8, d.passed_to = 16, d.why = "the loss rose";
    log_add(l, &a);
    log_add(l, &b);
    log_add(l, &c);
    log_add(l, &d);
    cr_assert(log_close(l, NULL));
    struct text t = file_text(path);
    cr_assert_str_eq(t.data,
                     "{\"step\":3,\"tokens\":1536,\"loss\":2.5,\"lr\":0.001,\"grad_norm\":0.5,\"dt_"
                     "ms\":12.5,\"tok_per_s\":4096,\"batch\":512,\"layer_norms\":[0.5,0.1235],\"aux_loss\":0.5,\"imbalance\":1.5}\n"
                     "{\"step\":3,\"tokens\":1536,\"val_loss\":2.25,\"val_nats_per_byte\":0.75,\"val_loss_replay\":3.5,\"acceptance\":0.5,\"agreement\":0.625,\"cooled_tokens\":4096,\"cooled_loss\":2.125,\"cooled_nats_per_byte\":0.5,\"experts\":[[1,2,3],[0,6,0]]}\n"
                     "{\"step\":4,\"tokens\":2048,\"lr\":0.001,\"dt_ms\":12.5,\"tok_per_s\":4096,\"batch\":512,\"noise\":777.25,"
                     "\"skipped\":\"not finite\"}\n"
                     "{\"step\":2,\"tokens\":1024,\"rollback\":1,\"back_from\":2048,\"passed_from\":8,\"passed_to\":16,\"why\":\"the loss rose\"}\n");
    text_free(&t);
    struct log_rows rows;
    cr_assert(log_read(path, &rows, NULL) && rows.count == 4);
    cr_assert(rows.row[1].use && rows.row[1].layers == 2 && rows.row[1].experts == 3 && !rows.row[0].use);
    cr_assert_arr_eq(rows.row[1].use, use, sizeof use);
    log_rows_free(&rows);
}

Test(log, every_row_is_on_disk_before_the_next_step) {
    struct log_file *l = open_log(-1);
    for (int64_t step = 1; step < 20; step++) {
        struct log_row row = step_row(step);
        log_add(l, &row);
        struct text t = file_text(path);
        cr_assert_eq(t.data[t.len - 1], '\n');
        size_t lines = 0;
        for (size_t i = 0; i < t.len; i++) lines += t.data[i] == '\n';
        cr_assert_eq((int64_t)lines, step);
        text_free(&t);
    }
    cr_assert(log_close(l, NULL));
    cr_assert(log_close(NULL, NULL));
}

// Killed after any byte, then resumed from the checkpoint of step 6: the same file as without the kill.
Test(log, a_kill_at_any_byte_and_a_resume_leave_the_same_bytes) {
    write_steps(-1, 1, 20);
    struct text whole = file_text(path);
    const char *at = strstr(whole.data, "{\"step\":7,");
    cr_assert_not_null(at);
    for (size_t n = (size_t)(at - whole.data); n <= whole.len; n += n % 90 == 0 ? 1 : 7) {
        put_file(whole.data, n);
        write_steps(6 * 512, 7, 20);
        struct text again = file_text(path);
        cr_assert(again.len == whole.len && memcmp(again.data, whole.data, whole.len) == 0,
                  "cut at byte %zu", n);
        text_free(&again);
    }
    struct file_list list;
    cr_assert(file_list_open(&list, folder, NULL));
    cr_assert_eq(list.count, 1, "a temporary file is left");
    file_list_free(&list);
    text_free(&whole);
}

Test(log, opening_keeps_what_the_checkpoint_has_seen) {
    for (int64_t keep = -1; keep <= 11; keep++) {
        write_steps(-1, 1, 10);
        struct log_rows rows;
        cr_assert(log_close(open_log(keep < 0 ? -1 : keep * 512), NULL));
        cr_assert(log_read(path, &rows, NULL));
        int64_t steps = keep < 0 ? 0 : keep > 10 ? 10 : keep;
        cr_assert_eq((int64_t)rows.count, steps + steps / 5, "keep %d", (int)keep);
        log_rows_free(&rows);
    }
}

Test(log, nothing_to_drop_does_not_touch_the_file) {
    write_steps(-1, 1, 5);
    struct stat before, after;
    stat(path, &before);
    cr_assert(log_close(open_log(INT64_MAX), NULL));
    stat(path, &after);
    cr_assert_eq(before.st_ino, after.st_ino);
    cr_assert_eq(before.st_size, after.st_size);
}

Test(log, unknown_members_nulls_and_blank_lines_are_passed_over) {
    static const char text[] = "{\"tokens\":512,\"new\":{\"a\":[1,2]},\"step\":1,\"loss\":null,"
                               "\"lr\":2}\r\n\n  \n{\"step\":2,\"tokens\":1024}\n";
    struct log_rows rows;
    struct err err = {""};
    put_file(text, sizeof text - 1);
    cr_assert(log_read(path, &rows, &err), "%s", err.text);
    cr_assert_eq(rows.count, 2);
    cr_assert(isnan(rows.row[0].loss) && rows.row[0].lr == 2 && isnan(rows.row[1].lr) &&
              rows.row[0].skipped == NULL);
    log_rows_free(&rows);
    cr_assert(log_close(open_log(512), NULL)); // kept lines stay as they were
    struct text t = file_text(path);
    cr_assert_eq(strncmp(t.data, text, strlen("{\"tokens\":512,\"new\"")), 0);
    text_free(&t);
}

Test(log, a_bad_line_in_the_middle_is_named_and_nothing_is_lost) {
    static const char *const bad[] = {"{\"step\":2,\"tok",
                                      "[]",
                                      "{\"step\":2}",
                                      "{\"step\":-1,\"tokens\":5}",
                                      "{\"step\":\"2\",\"tokens\":5}",
                                      "nonsense",
                                      "{\"step\":2,\"tokens\":1024,\"loss\":\"x\"}",
                                      "{\"step\":2,\"tokens\":1e30}"};
    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        struct text t = {0};
        text_fmt(&t, "{\"step\":1,\"tokens\":512}\n%s\n{\"step\":3,\"tokens\":1536}\n", bad[i]);
        put_file(t.data, t.len);
        struct log_rows rows;
        struct err err = {""};
        cr_assert_not(log_read(path, &rows, &err), "%s", bad[i]);
        cr_assert(strstr(err.text, path) && strstr(err.text, "line 2"), "%s", err.text);
        cr_assert_null(log_open(path, 512, 0, &err));
        cr_assert(strstr(err.text, "line 2"), "%s", err.text);
        struct text after = file_text(path);
        cr_assert_str_eq(after.data, t.data);
        text_free(&after);
        text_free(&t);
    }
}

// What a crash of the machine may leave: zeros and halves of lines at the end.
Test(log, a_torn_end_is_dropped) {
    static const char text[] =
        "{\"step\":1,\"tokens\":512}\n{\"step\":2,\"tokens\":1024}\n\0\0\0\0\n{\"st";
    struct log_rows rows;
    put_file(text, sizeof text - 1);
    cr_assert(log_read(path, &rows, NULL));
    cr_assert_eq(rows.count, 2);
    log_rows_free(&rows);
    cr_assert(log_close(open_log(INT64_MAX), NULL));
    struct text t = file_text(path);
    cr_assert_str_eq(t.data, "{\"step\":1,\"tokens\":512}\n{\"step\":2,\"tokens\":1024}\n");
    text_free(&t);
}

Test(log, an_empty_file_is_a_log_without_rows) {
    struct log_rows rows;
    put_file("", 0); // is mapped at no address
    cr_assert(log_read(path, &rows, NULL));
    cr_assert_eq(rows.count, 0);
    log_rows_free(&rows);
    cr_assert(log_close(open_log(INT64_MAX), NULL));
}

Test(log, damaged_logs_are_safe, .timeout = 10) {
    write_steps(-1, 1, 6);
    struct text whole = file_text(path), damaged = {0};
    for (uint64_t seed = 0; seed < 2000; seed++) {
        text_clear(&damaged);
        text_add(&damaged, whole.data, whole.len);
        for (uint64_t k = 0; k < 1 + seed % 3; k++) {
            damaged.data[rng_below(1, seed, k, damaged.len)] = (char)rng_below(2, seed, k, 256);
        }
        put_file(damaged.data, rng_below(3, seed, 0, damaged.len) + 1);
        struct log_rows rows;
        struct err err = {""};
        bool read = log_read(path, &rows, &err);
        cr_assert(read || strstr(err.text, "line"), "seed %d: %s", (int)seed, err.text);
        if (read) log_rows_free(&rows);
    }
    text_free(&whole);
    text_free(&damaged);
}

Test(log, what_cannot_be_opened_is_told) {
    struct log_rows rows;
    struct err err = {""};
    cr_assert_not(log_read(path, &rows, &err));
    cr_assert(strstr(err.text, path), "%s", err.text);
    cr_assert_not(log_read(folder, &rows, &err));
    cr_assert_null(log_open(folder, 0, 0, &err));
    cr_assert_null(log_open("/no/such/folder/log.jsonl", 0, 0, &err));
    cr_assert(strstr(err.text, "/no/such/folder/log.jsonl"), "%s", err.text);
}

Test(log, a_full_disk_while_shortening_leaves_the_log) {
    write_steps(-1, 1, 10);
    struct text before = file_text(path);
    struct err err = {""};
    file_out_fail_at(100);
    cr_assert_null(log_open(path, 5 * 512, 0, &err));
    file_out_fail_at(0);
    cr_assert(strstr(err.text, "space"), "%s", err.text);
    struct text after = file_text(path);
    cr_assert_str_eq(before.data, after.data);
    text_free(&before);
    text_free(&after);
}

// A file size limit stands for the full disk: the failing write is cut in half, and no row may follow it.
Test(log, a_failed_write_sticks_and_is_told) {
    struct err err = {""};
    struct log_file *l = open_log(-1);
    struct rlimit limit, small = {.rlim_cur = 1000, .rlim_max = RLIM_INFINITY};
    getrlimit(RLIMIT_FSIZE, &limit);
    small.rlim_max = limit.rlim_max;
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &small);
    for (int64_t step = 1; step <= 20; step++) {
        struct log_row row = step_row(step);
        log_add(l, &row);
        if (step == 15)
            setrlimit(RLIMIT_FSIZE, &limit); // space again, but the torn line stays the last
    }
    cr_assert_not(log_close(l, &err));
    cr_assert(strstr(err.text, path) && strstr(err.text, "could not be written"), "%s", err.text);
    struct text t = file_text(path);
    cr_assert_eq(t.len, 1000);
    text_free(&t);
    struct log_rows rows;
    cr_assert(log_read(path, &rows, &err), "%s", err.text);
    cr_assert(rows.count > 3 && rows.count < 10, "%zu", rows.count);
    log_rows_free(&rows);
}

#ifdef LEHR_GUARD
Test(log, adding_a_row_allocates_nothing) {
    struct log_file *l = open_log(-1);
    struct log_row row = step_row(7), eval = eval_row(8);
    mem_freeze(true);
    for (int i = 0; i < 100; i++) {
        log_add(l, &row);
        log_add(l, &eval);
    }
    mem_freeze(false);
    cr_assert(log_close(l, NULL));
}
#endif

// ---------------------------------------------------------------------------------------------------------------
// Report.

static struct text report_of(const struct log_rows *rows, double floor) {
    static const char *const facts[] = {"model", "granite <3M>", "data & seed", "stories \"42\""};
    static const char *const samples[] = {"\nOnce <b>upon</b> a time &c.\n",
                                          "bytes \xff\xfe end </pre><script>alert(1)</script>"};
    struct report r = {"A <run> & more", rows, facts, 2, samples, 2, floor};
    char page[80];
    struct err err = {""};
    snprintf(page, sizeof page, "%s/report.html", folder);
    cr_assert(report_write(page, &r, &err), "%s", err.text);
    return file_text(page);
}

static size_t times_in(const char *text, const char *word) {
    size_t n = 0;
    for (const char *at = text; (at = strstr(at, word)); at += strlen(word)) n++;
    return n;
}

Test(report, has_everything_on_one_page) {
    struct log_rows rows;
    write_steps(-1, 1, 200);
    cr_assert(log_read(path, &rows, NULL));
    struct text t = report_of(&rows, 0.5);
    cr_assert_eq(strncmp(t.data, "<!doctype html>", 15), 0);
    cr_assert_eq(times_in(t.data, "<svg"), 10);
    static const char *const says[] = {
        ">Loss (nats per token)<",
        ">Validation (nats per byte)<",
        ">Learning rate<",
        ">Gradient norm<",
        ">Tokens per second<",
        ">training<",
        ">validation<",
        ">entropy of the source<",
        "stroke-dasharray",
        "prefers-color-scheme: dark",
        "name=\"viewport\"",
        "<td>model</td><td>granite &lt;3M&gt;</td>",
        "<td>data &amp; seed</td>",
        "102k",
        ">200<",
        ">updates skipped</dt><dd>1<",
        "<title>A &lt;run&gt; &amp; more</title>",
        "<pre>\n\nOnce &lt;b&gt;upon&lt;/b&gt; a time &amp;c.\n</pre>",
    };
    for (size_t i = 0; i < COUNT_OF(says); i++)
        cr_assert(strstr(t.data, says[i]), "%s is missing", says[i]);
    text_free(&t);
    log_rows_free(&rows);
}

Test(report, asks_the_network_for_nothing_and_runs_nothing) {
    struct log_rows rows;
    write_steps(-1, 1, 20);
    cr_assert(log_read(path, &rows, NULL));
    struct text t = report_of(&rows, NAN);
    cr_assert_null(strstr(t.data, "<script"));
    cr_assert_null(strstr(t.data, "src="));
    cr_assert_null(strstr(t.data, "href"));
    cr_assert_null(strstr(t.data, "url("));
    cr_assert_null(strstr(t.data, "@import"));
    cr_assert_eq(times_in(t.data, "http"),
                 times_in(t.data, "xmlns=\"http://www.w3.org/2000/svg\"") + 1); // http-equiv
    cr_assert_null(strstr(t.data, "entropy of the source")); // unknown, so not there
    for (size_t at = 0; at < t.len;) {
        size_t size = utf8_size(t.data + at, t.len - at);
        cr_assert_neq(size, 0, "no UTF-8 at byte %zu", at);
        at += size;
    }
    text_free(&t);
    log_rows_free(&rows);
}

Test(report, a_cell_for_every_expert_of_every_layer) {
    static const int32_t use[] = {4, 0, 8, 2, 2, 2};
    struct log_row rows_of[] = {step_row(1), eval_row(1)};
    rows_of[1].use = use, rows_of[1].layers = 2, rows_of[1].experts = 3;
    struct log_rows rows = {rows_of, 2, 2};
    struct text t = report_of(&rows, NAN);
    int cells = 0;
    for (const char *at = t.data; (at = strstr(at, "<title>expert ")); at++) cells++;
    cr_assert_eq(cells, 6);
    cr_assert(strstr(t.data, "fill-opacity:1.00\"><title>expert 2: 2.00 of the mean"));
    cr_assert(strstr(t.data, "fill-opacity:0.05\"><title>expert 1: 0.00 of the mean"));
    text_free(&t);
}

Test(report, of_next_to_nothing_is_a_page) {
    struct log_row nothing[] = {
        step_row(1), log_row_at(2, 1024), eval_row(2)};
    nothing[1].skipped = "not finite";
    for (size_t n = 0; n <= COUNT_OF(nothing); n++) {
        struct log_rows rows = {nothing, n, n};
        struct text t = report_of(&rows, NAN);
        cr_assert_not_null(strstr(t.data, "</html>"));
        cr_assert_null(strstr(t.data, ">nan<"));
        cr_assert_eq(strstr(t.data, "no data") != NULL, n == 0, "%zu rows", n);
        text_free(&t);
    }
}

Test(report, of_a_long_run_stays_small, .timeout = 10) {
    enum { STEPS = 100000 };
    struct log_rows rows = {mem_array(STEPS, sizeof *rows.row, "test"), STEPS, STEPS};
    for (int64_t i = 0; i < STEPS; i++) rows.row[i] = step_row(i + 1);
    struct text t = report_of(&rows, NAN);
    cr_assert_lt(t.len, 200000);
    text_free(&t);
    mem_free(rows.row);
}

Test(report, that_cannot_be_written_is_told_and_leaves_the_old_one) {
    struct log_rows rows = {0};
    struct report r = {.rows = &rows, .floor_nats_per_byte = NAN};
    struct err err = {""};
    cr_assert_not(report_write("/no/such/folder/report.html", &r, &err));
    cr_assert(strstr(err.text, "/no/such/folder/report.html"), "%s", err.text);
    put_file("old", 3);
    file_out_fail_at(50);
    cr_assert_not(report_write(path, &r, &err));
    file_out_fail_at(0);
    struct text t = file_text(path);
    cr_assert_str_eq(t.data, "old");
    text_free(&t);
    cr_assert(report_write(path, &r, &err), "%s", err.text);
}

// --- the event file ------------------------------------------------------------------------------------------------

static uint64_t little(const unsigned char *p, int n) {
    uint64_t x = 0;
    for (int i = n; i-- > 0;) x = x << 8 | p[i];
    return x;
}

Test(board, records_are_whole_and_carry_their_checksums) {
    struct err err;
    cr_expect_eq(crc32c("123456789", 9), 0xe3069283u, "the check value of CRC-32C");
    char events[] = "/tmp/lehr-board-XXXXXX", command[128];
    cr_assert_not_null(mkdtemp(events));
    struct board *b = board_open(events, 3, &err);
    cr_assert_not_null(b, "%s", err.text);
    struct log_row step = step_row(3), eval = eval_row(3);
    board_add(b, &step), board_add(b, &eval);
    cr_assert(board_close(b, &err), "%s", err.text);
    struct file_list list;
    cr_assert(file_list_open(&list, events, &err) && list.count == 1, "%s", err.text);
    struct text bytes = {0};
    char file[256];
    snprintf(file, sizeof file, "%s/%s", events, list.names[0]);
    cr_assert(file_read_all(file, 1 << 20, &bytes, &err), "%s", err.text);
    const unsigned char *p = (const unsigned char *)bytes.data, *end = p + bytes.len;
    int records = 0;
    for (size_t n; p < end; p += n + 4, records++) {
        cr_assert_geq(end - p, 16);
        n = (size_t)little(p, 8);
        uint32_t crc = crc32c(p, 8);
        cr_assert_eq(little(p + 8, 4), (uint32_t)((crc >> 15 | crc << 17) + 0xa282ead8u));
        p += 12;
        cr_assert_geq((size_t)(end - p), n + 4);
        crc = crc32c(p, n);
        cr_assert_eq(little(p + n, 4), (uint32_t)((crc >> 15 | crc << 17) + 0xa282ead8u));
        cr_assert_eq(p[0], 1 << 3 | 1, "an event begins with its time");
    }
    cr_expect_eq(p, end);
    cr_expect_eq(records, 4, "version, start, a step, an evaluation");
    cr_expect_null(board_open("/proc/nothing/here", 0, &err));
    file_list_free(&list);
    text_free(&bytes);
    snprintf(command, sizeof command, "rm -rf '%s'", events);
    cr_assert_eq(system(command), 0);
}
