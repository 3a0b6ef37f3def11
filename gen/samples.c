// samples.c: see samples.h.
//
// All texts take one step at a time: tokens that are given (a template's, the user's) and tokens that are drawn are fed alike,
// so that what the model would have said is known behind all of them. One number is drawn for each token, and the token is where
// that number falls in the sums of the probabilities: noise for every token of the vocabulary, as the sampler of a text
// has it, would cost as much as the pass.
#include "gen/samples.h"

#include <math.h>
#include <string.h>

enum { PIECE_LEAST = 32, PIECE_MOST = 256, LINE_LOOK = 200 }; // bytes
static const double cool = 0.7;
static const uint64_t stream_draw = 0x6472617700000000u, stream_piece = 0x7069656300000000u; // + number of the window

struct writer { // of one text of those at once
    int64_t number, texts;
    struct ids given; // what is fed next, from `at` on
    size_t at;
    bool asks, chats; // the model writes the user's words; it is a chat
    int32_t next;     // drawn
};

struct writing {
    const struct sampling *s;
    struct streams *streams;
    struct writer *writer;
    struct ids before, behind; // of a chat, around the user's words
    int32_t *ids, *top;        // [at_once][length], [at_once][length][SAMPLE_TOP]
    float *p;
    int32_t *now;              // [at_once] fed in this step
    bool *drawn;               // [at_once] and not given
    const float *chances;      // [at_once,V]
    int64_t at;
};

// ---- how a text begins

// A piece of the user's text, from the start of a line or a word to the end of a word.
static struct span piece(const struct sampling *s, uint64_t stream, uint64_t counter) {
    const char *p = s->text;
    const size_t place = (size_t)rng_below(s->seed, stream, 2 * counter, s->ends[s->n_ends - 1]);
    size_t lo = 0, hi = s->n_ends - 1;
    while (lo < hi) {
        size_t middle = (lo + hi) / 2;
        if (s->ends[middle] <= place) lo = middle + 1;
        else hi = middle;
    }
    const size_t first = lo ? s->ends[lo - 1] : 0, last = s->ends[lo];
    size_t from = place, most = PIECE_LEAST + (size_t)rng_below(s->seed, stream, 2 * counter + 1, PIECE_MOST - PIECE_LEAST);
    while (from > first && place - from < LINE_LOOK && p[from - 1] != '\n') from--;
    if (from > first && p[from - 1] != '\n')
        for (from = place; from < last && p[from - 1] != ' ';) from++;
    size_t to = last - from < most ? last : from + most;
    while (to < last && to > from + 1 && p[to] != ' ' && p[to] != '\n') to--;
    return (struct span){p + from, to - from};
}

static void add_ids(struct ids *to, const struct ids *from) {
    for (size_t i = 0; i < from->count; i++) ids_add(to, from->id[i]);
}

static const struct tm day = {.tm_year = 126, .tm_mday = 1}; // what templates take for today: the same in every run

static bool render_turn(const struct sampling *s, struct span words, struct rendering *r, struct err *err) {
    const struct chat_message message = {"user", words};
    return chat_render(s->chat, s->tokenizer, &message, 1, true, &day, r, err);
}

// What the template writes around the user's words.
static bool split_turn(struct writing *w, struct err *err) {
    const struct sampling *s = w->s;
    struct rendering r = {{0}, {0}};
    bool good = render_turn(s, (struct span){"x", 1}, &r, err);
    size_t from = 0, to = r.text.len;
    while (from < to && !r.marks.data[from]) from++;
    while (to > from && !r.marks.data[to - 1]) to--;
    if (good && from == to) good = err_set(err, "the chat template leaves out what the user says");
    if (good) {
        const struct rendering head = {{r.text.data, from, 0}, {r.marks.data, from, 0}};
        chat_encode(s->tokenizer, &head, &w->before);
        tokenizer_encode_marked(s->tokenizer, r.text.data + to, r.marks.data + to, r.text.len - to, 0, &w->behind);
    }
    rendering_free(&r);
    return good;
}

static int32_t begin_token(const struct tokenizer *t) {
    return tokenizer_bos(t) >= 0 ? tokenizer_bos(t) : tokenizer_eos(t) >= 0 ? tokenizer_eos(t) : 0;
}

static bool begin_text(struct writing *w, struct writer *x, struct err *err) {
    const struct sampling *s = w->s;
    struct span words = {"", 0};
    x->given.count = x->at = 0;
    x->asks = x->chats && !s->n_ends;
    if (s->n_ends) words = piece(s, stream_piece + (uint64_t)x->number, (uint64_t)x->texts++);
    if (x->asks) add_ids(&x->given, &w->before);
    if (x->asks) return true;
    if (!x->chats) {
        ids_add(&x->given, begin_token(s->tokenizer));
        tokenizer_encode(s->tokenizer, words.p, words.n, 0, &x->given);
        return true;
    }
    struct rendering r = {{0}, {0}};
    bool good = render_turn(s, words, &r, err);
    if (good) chat_encode(s->tokenizer, &r, &x->given);
    rendering_free(&r);
    return good && (x->given.count || err_set(err, "the chat template writes nothing"));
}

// ---- what comes next

static void top_of(const float *p, int64_t n, int32_t *id, float *top) {
    int kept = 0;
    for (int64_t v = 0; v < n; v++) {
        if (kept == SAMPLE_TOP && p[v] <= top[SAMPLE_TOP - 1]) continue;
        int at = kept < SAMPLE_TOP ? kept++ : SAMPLE_TOP - 1;
        for (; at > 0 && top[at - 1] < p[v]; at--) top[at] = top[at - 1], id[at] = id[at - 1];
        top[at] = p[v], id[at] = (int32_t)v;
    }
    for (; kept < SAMPLE_TOP; kept++) top[kept] = 0, id[kept] = 0;
}

// Where u of the sum lies; -1 when there is no sum.
static int32_t draw_all(const float *p, int64_t n, double u) {
    enum { BLOCK = 64 };
    double sum = 0, below = 0;
    for (int64_t v = 0; v < n; v++) sum += (double)p[v];
    if (!(sum > 0)) return -1;
    int64_t at = 0;
    for (; at + BLOCK < n; at += BLOCK) {
        double block = 0;
        for (int64_t v = at; v < at + BLOCK; v++) block += (double)p[v];
        if (below + block > u * sum) break;
        below += block;
    }
    int32_t last = -1; // that can be: rounding may leave u behind the last one
    for (; at < n; at++) {
        if (p[at] > 0) last = (int32_t)at;
        below += (double)p[at];
        if (below > u * sum && p[at] > 0) break;
    }
    return last;
}

static int32_t draw_cool(const int32_t *id, const float *p, double u) {
    double weight[SAMPLE_TOP], sum = 0;
    for (int k = 0; k < SAMPLE_TOP; k++) sum += weight[k] = p[k] > 0 ? pow((double)p[k], 1 / cool) : 0;
    if (!(sum > 0)) return -1;
    double below = 0;
    for (int k = 0; k < SAMPLE_TOP; k++)
        if ((below += weight[k]) > u * sum) return id[k];
    return id[0];
}

static void look(void *arg, int64_t lo, int64_t hi, int thread) {
    struct writing *w = arg;
    const struct sampling *s = w->s;
    const int64_t V = s->model->config.V, n = tokenizer_vocab(s->tokenizer) < V ? tokenizer_vocab(s->tokenizer) : V; // padding is no text
    (void)thread;
    for (int64_t i = lo; i < hi; i++) {
        struct writer *x = &w->writer[i];
        const float *p = w->chances + i * V;
        const size_t row = (size_t)(i * s->length + w->at) * SAMPLE_TOP;
        const double u = rng_uniform(s->seed, stream_draw + (uint64_t)x->number, (uint64_t)w->at);
        top_of(p, n, w->top + row, w->p + row);
        x->next = x->number / 2 % 2 ? draw_cool(w->top + row, w->p + row, u) : draw_all(p, n, u);
    }
}

// Behind the token at w->at, which was drawn: the model's turn in a chat, or another text, where it was an end.
static bool behind_end(struct writing *w, int64_t i, int32_t end, struct err *err) {
    struct writer *x = &w->writer[i];
    if (x->asks) {
        const bool there = w->behind.count && w->behind.id[0] == end;
        x->asks = false;
        x->given.count = x->at = 0;
        for (size_t k = there; k < w->behind.count; k++) ids_add(&x->given, w->behind.id[k]);
        return true;
    }
    memset(w->p + (size_t)(i * w->s->length + w->at) * SAMPLE_TOP, 0, SAMPLE_TOP * sizeof *w->p);
    streams_begin(w->streams, i);
    return begin_text(w, x, err);
}

// One token of every text.
static bool step(struct writing *w, struct err *err) {
    const struct sampling *s = w->s;
    bool good = true;
    for (int64_t i = 0; i < s->at_once; i++) {
        struct writer *x = &w->writer[i];
        w->drawn[i] = x->at == x->given.count;
        w->now[i] = w->ids[i * s->length + w->at] = w->drawn[i] ? x->next : x->given.id[x->at++];
    }
    w->chances = streams_feed(w->streams, w->now, true);
    pool_for(s->at_once, 1, look, w);
    for (int64_t i = 0; good && i < s->at_once; i++) {
        if (w->writer[i].next < 0) good = err_set(err, "the model gives no probabilities: its logits are not finite");
        else if (w->drawn[i] && tokenizer_is_end(s->tokenizer, w->now[i])) good = behind_end(w, i, w->now[i], err);
    }
    return good;
}

// Windows first .. first + at_once, of which those below `end` are wanted.
static bool write_round(struct writing *w, int64_t first, int64_t end, bool *go_on, struct err *err) {
    const struct sampling *s = w->s;
    const size_t rows = (size_t)s->length * SAMPLE_TOP;
    streams_clear(w->streams);
    for (int64_t i = 0; i < s->at_once; i++) {
        struct writer *x = &w->writer[i];
        x->number = first + i, x->texts = 0;
        x->chats = s->chat && x->number % 2;
        if (!begin_text(w, x, err)) return false;
    }
    for (w->at = 0; *go_on && w->at < s->length; w->at++) {
        if (!step(w, err)) return false;
        *go_on = s->take(s->arg, NULL);
    }
    for (int64_t i = 0; *go_on && i < s->at_once && first + i < end; i++)
        *go_on = s->take(s->arg, &(struct sample){first + i, w->ids + i * s->length, w->top + (size_t)i * rows, w->p + (size_t)i * rows});
    return true;
}

bool sample_windows(const struct sampling *s, struct err *err) {
    const size_t n = (size_t)(s->at_once * s->length);
    struct writing w = {.s = s, .streams = streams_new(s->model, s->at_once, s->length, err)};
    if (!w.streams) return false;
    w.writer = mem_array((size_t)s->at_once, sizeof *w.writer, "texts being written");
    w.ids = mem_array(n, sizeof *w.ids, "texts being written");
    w.top = mem_array(n * SAMPLE_TOP, sizeof *w.top, "texts being written");
    w.p = mem_array(n * SAMPLE_TOP, sizeof *w.p, "texts being written");
    w.now = mem_array((size_t)s->at_once, sizeof *w.now, "texts being written");
    w.drawn = mem_array((size_t)s->at_once, sizeof *w.drawn, "texts being written");
    bool good = !s->chat || split_turn(&w, err), go_on = true;
    for (int64_t at = s->first; good && go_on && at < s->first + s->count; at += s->at_once)
        good = write_round(&w, at, s->first + s->count, &go_on, err);
    for (int64_t i = 0; i < s->at_once; i++) ids_free(&w.writer[i].given);
    ids_free(&w.before);
    ids_free(&w.behind);
    mem_free(w.writer);
    mem_free(w.ids);
    mem_free(w.top);
    mem_free(w.p);
    mem_free(w.now);
    mem_free(w.drawn);
    streams_free(w.streams);
    return good;
}
