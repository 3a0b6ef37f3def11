// context.c: how long a context is when nobody says, and whether the one somebody wants fits.
//
// Without a wish the context is the length the model was made for, unless memory is shorter: then what nine tenths of
// the free memory hold. A cache is taken as it fills, so a long context costs nothing until it is used; but memory
// promised and not there would end the program in the middle of a text, so what cannot fit is refused before anything
// is allocated.
#include "model/internal.h"

#include <ctype.h>

// Bytes grow with the context, so the largest is found by halving.
static int64_t largest_context(const struct model *m, struct session_options o, int64_t most, size_t bytes) {
    int64_t fits = 0, over = most + 1;
    while (over - fits > 1) {
        o.ctx = fits + (over - fits) / 2;
        if (session_bytes(m, &o) <= bytes) fits = o.ctx;
        else over = o.ctx;
    }
    return fits < most && fits > CACHE_ROWS ? fits / CACHE_ROWS * CACHE_ROWS : fits;
}

static void dtype_words(const struct session_options *o, char to[32]) {
    const char *k = dtype_row(o->kv)->name, *v = o->values ? dtype_row(*o->values)->name : k;
    snprintf(to, 32, k == v ? "%s" : "%s and %s", k, v);
    for (; *to; to++) *to = (char)tolower((unsigned char)*to);
}

bool session_choose_context(const struct model *m, struct session_options *o, size_t free_bytes, struct text *line,
                            struct err *err) {
    enum { ALWAYS = 4096 }; // when the free memory is unknown
    size_t weights = model_unsettled_bytes(m);
    if (free_bytes) free_bytes = free_bytes > weights ? free_bytes - weights : 1;
    int64_t made_for = m->config.ctx, asked = o->ctx;
    size_t usable = free_bytes - free_bytes / 10;
    char need[32], have[32], cache[32];
    text_bytes(have, (double)free_bytes);
    if (asked) {
        size_t bytes = session_bytes(m, o);
        if (free_bytes && bytes > free_bytes)
            return err_set(err,
                           "a context of %lld tokens needs %s, but %s are free: the largest that fits is %lld; give a smaller -c,"
                           " or a cache of fewer bits by --kv q8_0",
                           (long long)asked, text_bytes(need, (double)bytes), have,
                           (long long)largest_context(m, *o, asked, usable));
        text_fmt(line, "context %lld tokens", (long long)asked);
        if (asked > made_for)
            text_fmt(line, ", longer than the %lld the model was made for: expect worse text behind them", (long long)made_for);
    } else {
        o->ctx = free_bytes ? largest_context(m, *o, made_for, usable) : made_for < ALWAYS ? made_for : ALWAYS;
        if (!o->ctx) {
            o->ctx = 1;
            return err_set(err, "not one token of context fits: it needs %s, and %s are free",
                           text_bytes(need, (double)session_bytes(m, o)), have);
        }
        text_fmt(line, "context %lld tokens", (long long)o->ctx);
        if (o->ctx == made_for) text_str(line, ", what the model was made for");
        else if (free_bytes) text_fmt(line, " of the model's %lld: %s of memory are free", (long long)made_for, have);
        else text_fmt(line, " of the model's %lld, as the free memory is unknown: -c gives more", (long long)made_for);
    }
    dtype_words(o, cache);
    text_fmt(line, "; cache %s, %s when full", cache, text_bytes(need, (double)session_cache_bytes(m, o)));
    return true;
}
