// chat.c: a conversation over one session.
//
// The session holds the keys and values of `fed`. A turn renders the whole conversation anew, because a template may write the
// past differently once it is past (trimmed, without its thoughts), takes the longest common prefix with `fed`, rewinds to it
// and feeds the rest. The sampler is made anew and shown every id of the prompt, so that a reply depends on the conversation
// and the seed, never on what the session happened to remember.
#include "gen/gen.h"

#include <stdlib.h>
#include <string.h>

struct message {
    const char *role;
    struct text text;
};

struct chat {
    struct chat_options o;
    struct message *messages;
    size_t n, cap;
    struct ids fed;
    struct opt_words stop; // those of the options, and the template's
    struct text turn_end;
    int32_t end;
    struct text reply; // of the turn under way
    size_t reply_at;   // where its ids begin in fed
    struct chat_stats *stats;
    token_fn *fn;
    void *arg;
};

static void add_message(struct chat *c, const char *role, const char *text, size_t n) {
    if (c->n == c->cap) mem_grow((void **)&c->messages, &c->cap, c->n + 1, sizeof *c->messages, "messages");
    c->messages[c->n] = (struct message){role, {0}};
    text_add(&c->messages[c->n++].text, text, n);
}

static void drop_messages(struct chat *c, size_t at, size_t count) {
    if (!count) return; // there may be none at all
    for (size_t i = at; i < at + count; i++) text_free(&c->messages[i].text);
    memmove(c->messages + at, c->messages + at + count, (c->n - at - count) * sizeof *c->messages);
    c->n -= count;
}

struct chat *chat_new(const struct chat_options *o, struct err *err) {
    assert(o->template && o->tokenizer && o->session && o->sampler);
    struct chat *c = mem_alloc(sizeof *c, "chat");
    c->o = *o;
    if (!chat_turn_end(o->template, o->tokenizer, &c->end, &c->turn_end, err)) {
        chat_free(c);
        return NULL;
    }
    size_t n = o->generate.stop ? o->generate.stop->count : 0;
    c->stop.word = mem_array(n + 1, sizeof *c->stop.word, "stop texts");
    for (size_t i = 0; i < n; i++) c->stop.word[c->stop.count++] = o->generate.stop->word[i];
    if (c->turn_end.len) c->stop.word[c->stop.count++] = c->turn_end.data;
    if (o->system) add_message(c, "system", o->system, strlen(o->system));
    return c;
}

void chat_clear(struct chat *c) {
    size_t first = c->o.system != NULL;
    if (c->n > first) drop_messages(c, first, c->n - first);
}

void chat_free(struct chat *c) {
    if (!c) return;
    drop_messages(c, 0, c->n);
    mem_free(c->messages);
    mem_free(c->stop.word);
    ids_free(&c->fed);
    text_free(&c->turn_end);
    text_free(&c->reply);
    mem_free(c);
}

// The conversation as it stands, which ends with the user's words.
static bool render(struct chat *c, struct rendering *r, struct ids *ids, struct err *err) {
    struct chat_message *list = mem_array(c->n, sizeof *list, "messages");
    for (size_t i = 0; i < c->n; i++)
        list[i] = (struct chat_message){c->messages[i].role, {c->messages[i].text.data, c->messages[i].text.len}};
    bool good = chat_render(c->o.template, c->o.tokenizer, list, c->n, true, &c->o.now, r, err);
    mem_free(list);
    ids->count = 0;
    if (good) chat_encode(c->o.tokenizer, r, ids);
    if (good && !ids->count) good = err_set(err, "the chat template writes nothing for this conversation");
    return good;
}

bool chat_prompt(struct chat *c, const char *text, size_t n, struct rendering *r, struct ids *ids, struct err *err) {
    add_message(c, "user", text, n);
    bool good = render(c, r, ids, err);
    drop_messages(c, c->n - 1, 1);
    return good;
}

// Drops the oldest question and answer, the system text stays; false when only the new question is left.
static bool drop_turn(struct chat *c, int64_t *dropped) {
    size_t first = c->o.system != NULL;
    if (c->n - first < 3) return false;
    drop_messages(c, first, 2);
    *dropped += 2;
    return true;
}

static bool on_token(void *arg, const struct token_event *e) {
    struct chat *c = arg;
    if (e->id >= 0) ids_add(&c->fed, e->id); // the last one is not in the session yet: cut off below
    text_add(&c->reply, e->bytes, e->n);
    return c->fn ? c->fn(c->arg, e) : true;
}

// Shortens the session to the ids it has in common with these, which it takes for fed from now on; tells how many those are.
static size_t keep_common(struct chat *c, const struct ids *ids) {
    size_t same = 0, held = (size_t)session_length(c->o.session);
    if (c->fed.count > held) c->fed.count = held; // somebody rewound the session
    while (same + 1 < ids->count && same < c->fed.count && ids->id[same] == c->fed.id[same]) same++;
    session_rewind(c->o.session, (int64_t)same);
    c->fed.count = same;
    for (size_t i = same; i < ids->count; i++) ids_add(&c->fed, ids->id[i]);
    return same;
}

// The context is full in the midst of a reply: the oldest turns go until a quarter of it is free, and the reply goes on behind
// what is left as if the conversation had begun there.
static bool make_room(void *arg, struct ids *next) {
    struct chat *c = arg;
    struct rendering r = {{0}, {0}};
    struct err err;
    size_t capacity = (size_t)session_capacity(c->o.session), said = c->fed.count - c->reply_at;
    bool good = true, shorter = false;
    while (good && (!shorter || next->count + said > capacity - capacity / 4) && drop_turn(c, &c->stats->dropped)) {
        good = render(c, &r, next, &err);
        shorter = good;
    }
    rendering_free(&r);
    if (!shorter || next->count + said >= capacity) return false;
    size_t at = next->count;
    for (size_t i = 0; i < said; i++) ids_add(next, c->fed.id[c->reply_at + i]);
    size_t same = keep_common(c, next);
    c->reply_at = at;
    next->count -= same;
    memmove(next->id, next->id + same, next->count * sizeof *next->id);
    return true;
}

// Generates the reply to ids, feeding only what the session has not.
static bool reply(struct chat *c, const struct ids *ids, struct err *err) {
    struct session *s = c->o.session;
    size_t same = keep_common(c, ids);
    c->stats->reused = (int64_t)same;
    c->reply_at = ids->count;
    struct sampler *sampler = sampler_new(c->o.sampler, tokenizer_vocab(c->o.tokenizer));
    for (size_t i = 0; i < same; i++) sampler_accept(sampler, ids->id[i]);
    struct generate_options g = c->o.generate;
    g.stop = &c->stop;
    g.ends = &c->end;
    g.n_ends = c->end >= 0;
    if (c->o.shift) g.make_room = make_room;
    text_clear(&c->reply);
    bool good = generate(s, c->o.tokenizer, sampler, ids->id + same, ids->count - same, &g, on_token, c, &c->stats->generate, err);
    sampler_free(sampler);
    c->fed.count = (size_t)session_length(s);
    return good;
}

bool chat_say(struct chat *c, const char *text, size_t n, token_fn *fn, void *arg, struct chat_stats *stats, struct err *err) {
    struct rendering r = {{0}, {0}};
    struct ids ids = {0};
    size_t capacity = (size_t)session_capacity(c->o.session);
    *stats = (struct chat_stats){.reused = 0};
    c->fn = fn;
    c->arg = arg;
    c->stats = stats;
    add_message(c, "user", text, n);
    bool good = render(c, &r, &ids, err);
    // A shifted conversation leaves a quarter of the context to the reply, so that not every turn shifts again.
    size_t most = c->o.shift ? capacity - capacity / 4 : capacity;
    if (good && ids.count >= capacity && c->o.shift)
        while (good && ids.count > most && drop_turn(c, &stats->dropped)) good = render(c, &r, &ids, err);
    if (good && ids.count >= capacity)
        good = err_set(err, "the conversation has %zu tokens, the context holds %zu: begin anew, give a larger -c%s", ids.count, capacity,
                       c->o.shift ? " or say less at once" : ", or let the oldest turns go with --context-shift");
    good = good && reply(c, &ids, err);
    if (good) add_message(c, "assistant", c->reply.data ? c->reply.data : "", c->reply.len);
    else drop_messages(c, c->n - 1, 1);
    rendering_free(&r);
    ids_free(&ids);
    return good;
}
