// tokens: documents as ids, and the order in which training sees them.
//
// Making: every document falls on one side (training, validation), the sides become lists of pieces, groups of pieces
// are encoded in parallel and appended in order. A piece is a document or, for byte-level vocabularies, a part of a
// long one cut between a letter and a following space and letter: there the pre-tokenizer always cuts too, so the ids
// are those of the whole. Ids are held in 16 bits when the vocabulary allows.
//
// A .tok file is these ids behind a header of 64 bytes; it is mapped and used where it lies.
//
// Loading: a training sequence is a pure function of its number and the seed. Nothing is drawn from a generator with
// state, so there is no position to save but the number of tokens done.
#include "learn/distil.h"

#include <math.h>
#include <string.h>

enum {
    GROUP_BYTES = 1 << 16, // text encoded as one unit of work
    WAVE_GROUPS = 256,     // units between two appends: bounds the ids held twice
    PIECE_BYTES = 1 << 16, // long documents are cut after about this many bytes
    CUT_LOOK_BYTES = 1024, // how far a cut by position looks back for a line end
    DOCS_LEAST = 20,       // fewer documents are cut by position
    CHECK_IDS = 1 << 20,   // ids compared with the vocabulary as one unit of work
};

// --- encoding ------------------------------------------------------------------------------------------------------

struct piece {
    const char *p;
    size_t n;
    bool first, last; // of its document
};
struct pieces {
    struct piece *at;
    size_t count, cap;
    double bytes;
    int64_t documents;
};

static void add_piece(struct pieces *s, struct piece piece) {
    mem_grow((void **)&s->at, &s->cap, s->count + 1, sizeof *s->at, "pieces of text");
    s->at[s->count++] = piece;
}

static bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

// Adds a document (n > 0), cut into pieces where that cannot change its ids.
static void add_document(struct pieces *s, const char *p, size_t n, bool cut) {
    const char *end = p + n;
    bool first = true;
    s->bytes += (double)n;
    s->documents++;
    while (cut && end - p > PIECE_BYTES) {
        const char *q = p + PIECE_BYTES;
        while (q + 1 < end && !(is_letter(q[-1]) && q[0] == ' ' && is_letter(q[1]))) q++;
        if (q + 1 >= end) break;
        add_piece(s, (struct piece){p, (size_t)(q - p), first, false});
        first = false;
        p = q;
    }
    add_piece(s, (struct piece){p, (size_t)(end - p), first, true});
}

static bool begins_with_bos(const struct tokenizer *t) {
    return tokenizer_adds_bos(t) && tokenizer_bos(t) >= 0 && tokenizer_bos(t) != tokenizer_eos(t);
}

struct wave {
    const struct pieces *pieces;
    const struct tokenizer *tokenizer;
    size_t first[WAVE_GROUPS + 1]; // first piece of each group
    struct ids ids[WAVE_GROUPS];
    int64_t groups;
};

static void encode_groups(void *arg, int64_t lo, int64_t hi, int thread) {
    struct wave *w = arg;
    bool bos = begins_with_bos(w->tokenizer);
    int32_t eos = tokenizer_eos(w->tokenizer);
    (void)thread;
    for (int64_t g = lo; g < hi; g++) {
        w->ids[g].count = 0;
        for (size_t i = w->first[g]; i < w->first[g + 1]; i++) {
            const struct piece *p = &w->pieces->at[i];
            tokenizer_encode(w->tokenizer, p->p, p->n, bos && p->first ? TOKENIZE_BOS : 0,
                             &w->ids[g]);
            if (p->last && eos >= 0) ids_add(&w->ids[g], eos);
        }
    }
}

// Cuts the pieces from `at` on into at most WAVE_GROUPS groups; returns the first piece that is left.
static size_t wave_fill(struct wave *w, size_t at) {
    w->groups = 0;
    while (w->groups < WAVE_GROUPS && at < w->pieces->count) {
        size_t bytes = 0;
        w->first[w->groups++] = at;
        while (at < w->pieces->count && bytes < GROUP_BYTES) bytes += w->pieces->at[at++].n + 1;
    }
    w->first[w->groups] = at;
    return at;
}

// Ids in the making: 16 or 32 bits each. Room for one id per byte and two marks per document is reserved at once;
// pages that are never written cost nothing. Only vocabularies with more than one id per byte make it grow.
struct id_store {
    void *data;
    size_t count, cap;
    bool wide;
};

static void store_open(struct id_store *s, size_t room, bool wide) {
    *s = (struct id_store){.cap = room, .wide = wide};
    s->data = mem_array(room, wide ? 4 : 2, "token ids");
}

static void store_room(struct id_store *s, size_t more) {
    mem_grow(&s->data, &s->cap, s->count + more, s->wide ? 4 : 2, "token ids");
}

static void store_add(struct id_store *s, const int32_t *id, size_t n) {
    store_room(s, n);
    if (s->wide) {
        for (size_t i = 0; i < n; i++) ((uint32_t *)s->data)[s->count + i] = (uint32_t)id[i];
    } else {
        for (size_t i = 0; i < n; i++) ((uint16_t *)s->data)[s->count + i] = (uint16_t)id[i];
    }
    s->count += n;
}

static void encode_pieces(const struct pieces *pieces, const struct tokenizer *t,
                          struct id_store *out) {
    struct wave *w = mem_alloc(sizeof *w, "encoder");
    w->pieces = pieces;
    w->tokenizer = t;
    for (size_t at = 0; at < pieces->count;) {
        at = wave_fill(w, at);
        pool_for(w->groups, 1, encode_groups, w);
        for (int64_t g = 0; g < w->groups; g++) store_add(out, w->ids[g].id, w->ids[g].count);
    }
    for (size_t g = 0; g < WAVE_GROUPS; g++) ids_free(&w->ids[g]);
    mem_free(w);
}

// --- splitting -----------------------------------------------------------------------------------------------------

static size_t doc_start_of(const struct corpus *c, size_t i) { return i ? c->doc_end[i - 1] : 0; }

static bool falls_to_valid(const struct corpus *c, size_t i, double share) {
    size_t start = doc_start_of(c, i);
    uint64_t hash = hash_bytes(0, c->bytes.data + start, c->doc_end[i] - start);
    return rng_uniform(hash, 0, 0) < share;
}

// Whether a split by document comes out near valid_share on both sides.
static bool split_is_fair(const struct corpus *c, double share) {
    if (c->n_docs < DOCS_LEAST) return false;
    double valid = 0, total = (double)c->bytes.len;
    for (size_t i = 0; i < c->n_docs; i++)
        if (falls_to_valid(c, i, share)) valid += (double)(c->doc_end[i] - doc_start_of(c, i));
    return valid * 3 >= share * total && valid <= 3 * share * total &&
           (total - valid) * 3 >= (1 - share) * total;
}

// Where validation begins inside document [start, end) when `at` was asked for: after a line end, or between
// characters.
static size_t cut_near(const char *p, size_t start, size_t at) {
    for (size_t q = at; q > start && at - q < CUT_LOOK_BYTES; q--)
        if (p[q - 1] == '\n') return q;
    size_t q = at;
    while (q > start && at - q < 4 && ((unsigned char)p[q] & 0xC0) == 0x80) q--;
    return q;
}

static void split_by_position(const struct corpus *c, double share, bool cut, struct pieces *train,
                              struct pieces *valid) {
    const char *p = c->bytes.data;
    size_t place = c->bytes.len - (size_t)(share * (double)c->bytes.len);
    for (size_t i = 0; i < c->n_docs; i++) {
        size_t start = doc_start_of(c, i), end = c->doc_end[i], at;
        if (place >= end) at = end;
        else if (place <= start) at = start;
        else at = cut_near(p, start, place);
        if (at > start) add_document(train, p + start, at - start, cut);
        if (end > at) add_document(valid, p + at, end - at, cut);
    }
}

static const char *split(const struct corpus *c, double share, bool cut, struct pieces *train,
                         struct pieces *valid) {
    if (share > 0 && !split_is_fair(c, share)) {
        split_by_position(c, share, cut, train, valid);
        return "by position";
    }
    for (size_t i = 0; i < c->n_docs; i++) {
        size_t start = doc_start_of(c, i);
        add_document(share > 0 && falls_to_valid(c, i, share) ? valid : train,
                     c->bytes.data + start, c->doc_end[i] - start, cut);
    }
    return share > 0 ? "by document" : "whole";
}

// --- token shards --------------------------------------------------------------------------------------------------

// Bytes of text behind ids [lo, hi), end marks counted as one each, and documents ended there.
static void range_bytes(const struct tokens *t, const struct tokenizer *tokenizer, int64_t lo,
                        int64_t hi, double *bytes, int64_t *documents) {
    int64_t vocab = tokenizer_vocab(tokenizer), sum = 0;
    int64_t *size = mem_array((size_t)vocab, sizeof *size, "token sizes");
    for (int64_t i = 0; i < vocab; i++) size[i] = (int64_t)tokenizer_piece(tokenizer, (int32_t)i).n;
    *documents = 0;
    for (int64_t i = lo; i < hi; i++) {
        int32_t id = tokens_at(t, i);
        if (id == t->eos) ++*documents, sum++;
        else sum += size[id];
    }
    *bytes = (double)sum;
    mem_free(size);
}

// Where validation begins: after the last end mark before the place, else at the place.
static int64_t shard_cut(const struct tokens *t, double share) {
    int64_t place = t->count - (int64_t)(share * (double)t->count);
    if (share <= 0 || t->eos < 0) return place;
    for (int64_t i = place; i > 0; i--)
        if (tokens_at(t, i - 1) == t->eos) return i;
    return place;
}

static uint64_t ids_hash(const struct tokens *t) {
    return t->t16 ? hash_bytes(0, t->t16, (size_t)t->count * 2)
                  : hash_bytes(0, t->t32, (size_t)t->count * 4);
}

// One shard and nothing else: both sides look into its map.
static bool make_from_shard(const char *path, const struct tokenizer *t, double share,
                            struct tokens *train, struct tokens *valid, struct err *err) {
    if (!tokens_open(train, path, tokenizer_hash(t), tokenizer_vocab(t), err)) return false;
    if (share <= 0) return true;
    int64_t cut = shard_cut(train, share);
    *valid = *train;
    valid->map = (struct file_map){0};
    valid->split = train->split = "by position";
    valid->count = train->count - cut;
    if (valid->t16) valid->t16 += cut;
    else valid->t32 += cut;
    range_bytes(valid, t, 0, valid->count, &valid->bytes, &valid->documents);
    train->bytes -= valid->bytes;
    train->documents -= valid->documents;
    train->count = cut;
    train->hash = ids_hash(train);
    valid->hash = ids_hash(valid);
    return true;
}

static void store_range(struct id_store *s, const struct tokens *t, int64_t lo, int64_t hi) {
    store_room(s, (size_t)(hi - lo));
    for (int64_t i = lo; i < hi; i++) {
        int32_t id = tokens_at(t, i);
        store_add(s, &id, 1);
    }
}

struct side {
    struct id_store ids;
    struct pieces pieces;
    struct tokens *to; // NULL: not wanted
};

static bool append_shard(const char *path, const struct tokenizer *t, double share,
                         struct side *train, struct side *valid, struct err *err) {
    struct tokens shard;
    if (!tokens_open(&shard, path, tokenizer_hash(t), tokenizer_vocab(t), err)) return false;
    int64_t cut = share > 0 ? shard_cut(&shard, share) : shard.count, documents;
    double bytes;
    store_range(&train->ids, &shard, 0, cut);
    store_range(&valid->ids, &shard, cut, shard.count);
    range_bytes(&shard, t, cut, shard.count, &bytes, &documents);
    valid->to->bytes += bytes;
    valid->to->documents += documents;
    train->to->bytes += shard.bytes - bytes;
    train->to->documents += shard.documents - documents;
    tokens_free(&shard);
    return true;
}

static void side_open(struct side *s, const struct tokenizer *t) {
    size_t room, marks;
    if (!size_mul((size_t)s->pieces.documents, 2, &marks) ||
        !size_add((size_t)s->pieces.bytes, marks, &room))
        room = 0;
    store_open(&s->ids, room + 16, tokenizer_vocab(t) > 65536);
    encode_pieces(&s->pieces, t, &s->ids);
    s->to->bytes = s->pieces.bytes + (tokenizer_eos(t) >= 0 ? (double)s->pieces.documents : 0);
    s->to->documents = s->pieces.documents;
}

static void side_close(struct side *s, const struct tokenizer *t, const char *how) {
    s->to->owned = s->ids.data;
    if (s->ids.wide) s->to->t32 = s->ids.data;
    else s->to->t16 = s->ids.data;
    s->to->count = (int64_t)s->ids.count;
    s->to->eos = tokenizer_eos(t);
    s->to->start = begins_with_bos(t) ? tokenizer_bos(t) : tokenizer_eos(t);
    s->to->split = how;
    s->to->hash = ids_hash(s->to);
    mem_free(s->pieces.at);
}

bool tokens_make(const struct corpus *c, const struct tokenizer *t, double valid_share,
                 struct tokens *train, struct tokens *valid, struct err *err) {
    assert(valid_share >= 0 && valid_share < 1 && (valid || valid_share == 0));
    struct tokens none;
    if (!valid) valid = &none;
    *train = *valid = (struct tokens){0};
    if (c->n_docs == 0 && c->shards.count == 1)
        return make_from_shard(c->shards.word[0], t, valid_share, train, valid, err);
    struct side sides[2] = {{.to = train}, {.to = valid}};
    bool cut = tokenizer_kind(t) != TOKENIZER_SPM && tokenizer_kind(t) != TOKENIZER_UNIGRAM;
    const char *how = split(c, valid_share, cut, &sides[0].pieces, &sides[1].pieces);
    bool fine = true;
    for (int i = 0; i < 2; i++) side_open(&sides[i], t);
    for (size_t i = 0; fine && i < c->shards.count; i++)
        fine = append_shard(c->shards.word[i], t, valid_share, &sides[0], &sides[1], err);
    for (int i = 0; i < 2; i++) side_close(&sides[i], t, how);
    if (!fine || valid == &none) tokens_free(valid);
    if (!fine) tokens_free(train);
    return fine;
}

void tokens_free(struct tokens *t) {
    mem_free(t->owned);
    soft_free(t->soft);
    file_map_close(&t->map);
    *t = (struct tokens){0};
}

// --- token files ---------------------------------------------------------------------------------------------------

struct tok_header {
    char magic[8];
    uint64_t tokenizer_hash;
    uint32_t id_bytes;
    int32_t eos;
    uint64_t count;
    double bytes;
    uint64_t documents;
    int32_t start;
    uint8_t zero[12];
};
static_assert(sizeof(struct tok_header) == 64, "the header of a token file is 64 bytes");
static const char tok_magic[8] = {'L', 'E', 'H', 'R', 'T', 'O', 'K', '1'};

bool tokens_write(const struct tokens *t, uint64_t hash, const char *path, struct err *err) {
    struct tok_header h = {.tokenizer_hash = hash,
                           .id_bytes = t->t16 ? 2 : 4,
                           .eos = t->eos,
                           .start = t->start,
                           .count = (uint64_t)t->count,
                           .bytes = t->bytes,
                           .documents = (uint64_t)t->documents};
    memcpy(h.magic, tok_magic, sizeof h.magic);
    struct file_out *f = file_out_open(path, err);
    if (!f) return false;
    file_out_write(f, &h, sizeof h);
    file_out_write(f, t->t16 ? (const void *)t->t16 : t->t32, (size_t)t->count * h.id_bytes);
    return file_out_commit(f, err);
}

struct id_check {
    const struct tokens *t;
    int64_t vocab;
    int64_t *bad; // per unit: position of its first id outside the vocabulary, -1
};

static void check_ids(void *arg, int64_t lo, int64_t hi, int thread) {
    struct id_check *k = arg;
    int64_t *bad = &k->bad[lo / CHECK_IDS];
    (void)thread;
    *bad = -1;
    for (int64_t i = lo; i < hi && *bad < 0; i++) {
        int64_t id = k->t->t16 ? (int64_t)k->t->t16[i] : (int64_t)k->t->t32[i];
        if (id >= k->vocab) *bad = i;
    }
}

// Position of the first id that is none of the vocabulary; -1 when all are.
static int64_t first_bad_id(const struct tokens *t, int64_t vocab) {
    int64_t units = (t->count + CHECK_IDS - 1) / CHECK_IDS, found = -1;
    struct id_check k = {t, vocab, mem_array((size_t)units, sizeof *k.bad, "check of token ids")};
    pool_for(t->count, CHECK_IDS, check_ids, &k);
    for (int64_t u = 0; found < 0 && u < units; u++) found = k.bad[u];
    mem_free(k.bad);
    return found;
}

static bool header_check(const struct tok_header *h, size_t file_bytes, uint64_t hash,
                         int64_t vocab, struct err *err) {
    uint64_t room = file_bytes - sizeof *h;
    if (memcmp(h->magic, tok_magic, sizeof h->magic) != 0)
        return err_set(
            err,
            "expected a token file that begins with LEHRTOK1, found other bytes; give text, or make the "
            "tokens anew");
    if (h->id_bytes != 2 && h->id_bytes != 4)
        return err_set(err, "expected ids of 2 or 4 bytes, found %u; the file is damaged",
                       h->id_bytes);
    if (room % h->id_bytes != 0 || h->count != room / h->id_bytes)
        return err_set(
            err,
            "expected %llu ids of %u bytes, found %llu bytes after the header; the file is cut short or "
            "damaged",
            (unsigned long long)h->count, h->id_bytes, (unsigned long long)room);
    if (h->tokenizer_hash != hash)
        return err_set(
            err,
            "the tokens were made with another tokenizer (its hash %016llx, ours %016llx); make them anew "
            "or give the tokenizer they were made with",
            (unsigned long long)h->tokenizer_hash, (unsigned long long)hash);
    if (h->eos < -1 || h->eos >= vocab || h->start < -1 || h->start >= vocab)
        return err_set(
            err, "expected end and start marks below %lld, found %d and %d; the file is damaged",
            (long long)vocab, h->eos, h->start);
    if (!(h->bytes >= 0) || !isfinite(h->bytes) || h->documents > h->count)
        return err_set(
            err,
            "the header counts %g bytes and %llu documents, which cannot be; the file is damaged",
            h->bytes, (unsigned long long)h->documents);
    return true;
}

bool tokens_open(struct tokens *t, const char *path, uint64_t hash, int64_t vocab,
                 struct err *err) {
    struct tok_header h;
    *t = (struct tokens){0};
    if (!file_map_open(&t->map, path, err)) return false;
    bool fine = true;
    if (t->map.size < sizeof h) {
        fine = err_set(err, "expected a token file of at least 64 bytes, found %zu", t->map.size);
    } else {
        memcpy(&h, t->map.data, sizeof h);
        fine = header_check(&h, t->map.size, hash, vocab, err);
    }
    if (fine) {
        const void *ids = t->map.data + sizeof h;
        if (h.id_bytes == 2) t->t16 = ids;
        else t->t32 = ids;
        t->count = (int64_t)h.count;
        t->eos = h.eos;
        t->start = h.start;
        t->bytes = h.bytes;
        t->documents = (int64_t)h.documents;
        t->split = "whole";
        int64_t bad = first_bad_id(t, vocab);
        if (bad >= 0)
            fine = err_set(
                err, "expected ids below %lld, found %u at position %lld; the file is damaged",
                (long long)vocab, (unsigned)tokens_at(t, bad), (long long)bad);
    }
    if (!fine) {
        tokens_free(t);
        return err_in(err, "%s", path);
    }
    t->hash = ids_hash(t);
    return true;
}

// --- loading -------------------------------------------------------------------------------------------------------

// Streams of random numbers, apart from those of the parameters (small numbers).
static const uint64_t stream_place = 0x6c6f616400000000u, stream_order = 0x6c6f616500000000u;

// An id as a target: a separate BOS is given, never predicted.
static int32_t as_target(const struct tokens *t, int32_t id) {
    return id == t->start && id != t->eos ? -1 : id;
}

// Whether a document begins with the token at that place.
static bool begins(const struct tokens *t, int64_t at) {
    if (t->soft) return t->soft->begins[at];
    return t->start < 0 ? at == 0 : tokens_at(t, at) == t->start;
}

int64_t loader_epoch(const struct tokens *t, int64_t T) { return t->count / T; }

void loader_sequence(const struct tokens *t, int64_t T, uint64_t seed, int64_t s, int32_t base,
                     int32_t *ids, int32_t *targets, int32_t *doc_start) {
    assert(T > 0 && s >= 0 && t->count > T);
    int64_t windows = loader_epoch(t, T);
    uint64_t epoch = (uint64_t)(s / windows), index = (uint64_t)(s % windows);
    int64_t place = (int64_t)rng_below(seed, stream_place, epoch, (uint64_t)t->count);
    int64_t window = (int64_t)rng_permute(seed, stream_order + epoch, index, (uint64_t)windows);
    int64_t at = (place + window * T) % t->count;
    int32_t doc = 0;
    for (int64_t i = 0; i < T; i++) {
        ids[i] = tokens_at(t, at);
        // Without start marks only the seam of the ring is known to part documents.
        if (begins(t, at)) doc = (int32_t)i;
        doc_start[i] = base + doc;
        const int64_t next = at + 1 == t->count ? 0 : at + 1;
        if (t->soft) targets[i] = soft_draw(t->soft, at, seed, epoch);
        else targets[i] = t->start < 0 && next == 0 ? -1 : as_target(t, tokens_at(t, next));
        at = next;
    }
}

int64_t loader_windows(const struct tokens *t, int64_t T) { return (t->count + T - 1) / T; }

void loader_window(const struct tokens *t, int64_t T, int64_t w, int32_t base, int32_t *ids,
                   int32_t *targets, int32_t *doc_start) {
    assert(T > 0 && w >= 0 && w < loader_windows(t, T));
    int32_t doc = 0;
    for (int64_t i = 0; i < T; i++) {
        int64_t at = w * T + i; // the token this row predicts
        int32_t before = at == 0 ? t->start : at < t->count ? tokens_at(t, at - 1) : -1;
        if (before < 0 || at == 0 || begins(t, at - 1)) doc = (int32_t)i;
        ids[i] = before < 0 ? 0 : before; // rows that are not scored are documents of their own
        if (t->soft) targets[i] = before < 0 ? -1 : soft_draw(t->soft, at - 1, 0, 0);
        else targets[i] = before < 0 ? -1 : as_target(t, tokens_at(t, at));
        doc_start[i] = base + doc;
    }
}
