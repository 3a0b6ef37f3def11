// corpus: text from files, folders and streams, as documents back to back.
//
// Reading has two passes. The first walks the paths (folders sorted, recursive) into a flat list of files with their
// kinds and sizes; the second reads them in that order into one block reserved by the sum of the sizes. So the order
// is that of the command line and of names, never that of a disk, and the text lies in memory once.
//
// What counts as a document is stated in learn.h. Files named by the user must be text (a NUL byte in the first 4 KB
// is an error, with the usual suspects named); files found in folders that do not look like text are skipped and
// noted. Links to folders inside folders are not followed, so a walk ends.
#include "learn/learn.h"

#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char marker[] = "<|endoftext|>";

enum { LOOK_BYTES = 4096, DEPTH_MAX = 64, KEY_MAX = 1024 };

enum source_kind { SOURCE_TEXT, SOURCE_JSONL, SOURCE_SHARD, SOURCE_STREAM, SOURCE_OTHER };

struct source {
    char *path; // owned
    enum source_kind kind;
    bool found; // in a folder, not named by the user
    size_t size;
};
struct sources {
    struct source *at;
    size_t count, cap;
};

// --- documents -----------------------------------------------------------------------------------------------------

static void add_document(struct corpus *c, const char *bytes, size_t n) {
    if (n == 0) return;
    text_add(&c->bytes, bytes, n);
    mem_grow((void **)&c->doc_end, &c->cap_docs, c->n_docs + 1, sizeof *c->doc_end,
             "document list");
    c->doc_end[c->n_docs++] = c->bytes.len;
}

// Length of the line end at p (0, 1 for LF, 2 for CRLF), and of the one that ends at `end`.
static size_t line_end_at(const char *p, const char *end) {
    if (p < end && *p == '\n') return 1;
    return end - p >= 2 && p[0] == '\r' && p[1] == '\n' ? 2 : 0;
}
static size_t line_end_before(const char *start, const char *end) {
    if (end == start || end[-1] != '\n') return 0;
    return end - start >= 2 && end[-2] == '\r' ? 2 : 1;
}

// A document that a marker line (or the end of a file with markers) follows, and maybe one precedes: without the line
// end that belongs to the marker and without one blank line on either side.
static void add_between(struct corpus *c, const char *start, const char *end, bool after_marker) {
    if (after_marker) start += line_end_at(start, end);
    end -= line_end_before(start, end);
    end -= line_end_before(start, end); // what still ends in a line end had a blank last line
    add_document(c, start, (size_t)(end - start));
}

static bool is_marker(const char *line, const char *end) {
    size_t n = (size_t)(end - line);
    if (n && line[n - 1] == '\r') n--;
    return n == sizeof marker - 1 && memcmp(line, marker, n) == 0;
}

static void add_text(struct corpus *c, const char *p, size_t n) {
    const char *end = p + n, *start = p;
    bool marked = false;
    for (const char *line = p; line < end;) {
        const char *stop = memchr(line, '\n', (size_t)(end - line));
        const char *next = stop ? stop + 1 : end;
        if (*line == '<' && is_marker(line, stop ? stop : end)) {
            add_between(c, start, line, marked);
            marked = true;
            start = next;
        }
        line = next;
    }
    if (marked) add_between(c, start, end, true);
    else add_document(c, start, (size_t)(end - start));
}

// One line of a .jsonl file: an object with a text member.
static bool add_json_line(struct corpus *c, const char *line, size_t n, struct text *scratch,
                          struct err *err) {
    struct json j;
    char key[KEY_MAX];
    bool found = false;
    json_open(&j, line, n);
    if (json_peek(&j) != JSON_OBJECT)
        return err_set(err, "expected an object like {\"text\": \"...\"}");
    if (json_object(&j)) {
        while (json_key(&j, key, sizeof key)) {
            if (strcmp(key, "text") != 0) {
                if (!json_skip(&j)) break;
                continue;
            }
            if (found) return err_set(err, "the object has two members \"text\"");
            if (json_peek(&j) != JSON_STRING)
                return err_set(err, "the member \"text\" is not a string");
            text_clear(scratch);
            if (!json_string(&j, scratch)) break;
            found = true;
        }
    }
    if (!json_done(&j, err)) return false;
    if (!found) return err_set(err, "the object has no member \"text\"");
    add_document(c, scratch->data, scratch->len);
    return true;
}

static bool add_jsonl(struct corpus *c, const char *path, const char *p, size_t n,
                      struct err *err) {
    const char *end = p + n;
    struct text scratch = {0};
    bool fine = true;
    for (size_t number = 1; fine && p < end; number++) {
        const char *stop = memchr(p, '\n', (size_t)(end - p));
        if (!stop) stop = end;
        size_t length = (size_t)(stop - p);
        size_t blank = 0;
        while (blank < length && (p[blank] == ' ' || p[blank] == '\t' || p[blank] == '\r')) blank++;
        if (blank < length && !add_json_line(c, p, length, &scratch, err))
            fine = err_in(err, "%s line %zu", path, number);
        p = stop < end ? stop + 1 : end;
    }
    text_free(&scratch);
    return fine;
}

// --- the walk ------------------------------------------------------------------------------------------------------

static bool ends_in(const char *path, const char *ending) {
    size_t n = strlen(path), m = strlen(ending);
    return n > m && strcmp(path + n - m, ending) == 0;
}

static enum source_kind kind_of(const char *path) {
    static const char *const texts[] = {".txt", ".md", ".text"};
    if (ends_in(path, ".tok")) return SOURCE_SHARD;
    if (ends_in(path, ".jsonl")) return SOURCE_JSONL;
    for (size_t i = 0; i < COUNT_OF(texts); i++)
        if (ends_in(path, texts[i])) return SOURCE_TEXT;
    return SOURCE_OTHER;
}

static void add_source(struct sources *s, const char *path, enum source_kind kind, bool found,
                       size_t size) {
    mem_grow((void **)&s->at, &s->cap, s->count + 1, sizeof *s->at, "list of data files");
    s->at[s->count++] = (struct source){mem_text(path), kind, found, size};
}

static void sources_free(struct sources *s) {
    for (size_t i = 0; i < s->count; i++) mem_free(s->at[i].path);
    mem_free(s->at);
}

static bool walk(struct corpus *c, struct sources *s, const char *folder, int depth,
                 struct err *err);

// One entry of a folder. What is no data is counted or noted, never an error.
static bool walk_entry(struct corpus *c, struct sources *s, const char *path, const char *name,
                       int depth, size_t *others, struct err *err) {
    struct stat st;
    if (stat(path, &st)) {
        text_fmt(&c->notes, "skipped %s: cannot be examined (a link to nowhere?)\n", path);
        return true;
    }
    if (S_ISDIR(st.st_mode)) {
        struct stat own;
        if (name[0] == '.') {
            text_fmt(&c->notes, "skipped %s: a hidden folder\n", path);
        } else if (!lstat(path, &own) && S_ISLNK(own.st_mode)) {
            text_fmt(&c->notes, "skipped %s: a link to a folder\n", path);
        } else if (depth >= DEPTH_MAX) {
            text_fmt(&c->notes, "skipped %s: more than %d folders deep\n", path, DEPTH_MAX);
        } else {
            return walk(c, s, path, depth + 1, err);
        }
        return true;
    }
    enum source_kind kind = kind_of(name);
    if (!S_ISREG(st.st_mode) || kind == SOURCE_OTHER || name[0] == '.') ++*others;
    else add_source(s, path, kind, true, (size_t)st.st_size);
    return true;
}

static bool walk(struct corpus *c, struct sources *s, const char *folder, int depth,
                 struct err *err) {
    struct file_list list;
    if (!file_list_open(&list, folder, err)) return false;
    bool fine = true;
    size_t others = 0;
    struct text path = {0};
    for (size_t i = 0; fine && i < list.count; i++) {
        text_clear(&path);
        text_fmt(&path, "%s%s%s", folder, ends_in(folder, "/") ? "" : "/", list.names[i]);
        fine = walk_entry(c, s, path.data, list.names[i], depth, &others, err);
    }
    if (others)
        text_fmt(
            &c->notes,
            "skipped %zu file%s in %s: not .txt, .md, .text, .jsonl or .tok (name %s to read %s anyway)\n",
            others, others == 1 ? "" : "s", folder, others == 1 ? "it" : "them",
            others == 1 ? "it" : "them");
    text_free(&path);
    file_list_free(&list);
    return fine;
}

static bool list_sources(struct corpus *c, struct sources *s, const char *const *paths, size_t n,
                         struct err *err) {
    for (size_t i = 0; i < n; i++) {
        struct stat st;
        if (strcmp(paths[i], "-") == 0) {
            add_source(s, paths[i], SOURCE_STREAM, false, 0);
        } else if (stat(paths[i], &st)) {
            return err_set(err,
                           "expected a text file or a folder, found nothing at %s; check the path",
                           paths[i]);
        } else if (S_ISDIR(st.st_mode)) {
            if (!walk(c, s, paths[i], 0, err)) return false;
        } else if (S_ISREG(st.st_mode)) {
            enum source_kind kind = kind_of(paths[i]);
            add_source(s, paths[i], kind == SOURCE_OTHER ? SOURCE_TEXT : kind, false,
                       (size_t)st.st_size);
        } else if (S_ISFIFO(st.st_mode)) {
            add_source(s, paths[i], SOURCE_STREAM, false, 0);
        } else {
            return err_set(err,
                           "%s is a device or a socket, expected a text file, a folder or a pipe",
                           paths[i]);
        }
    }
    return true;
}

// --- reading -------------------------------------------------------------------------------------------------------

// Offset of the first NUL byte in the first 4 KB, n when there is none.
static size_t find_nul(const char *p, size_t n) {
    size_t look = n < LOOK_BYTES ? n : LOOK_BYTES;
    const char *nul = look ? memchr(p, 0, look) : NULL;
    return nul ? (size_t)(nul - p) : n;
}

static bool refuse_binary(const char *name, const char *p, size_t at, size_t n, struct err *err) {
    const char *hint = "give text";
    if (n >= 4 && memcmp(p, "GGUF", 4) == 0)
        hint = "it is a GGUF model; its vocabulary can be used with --tokenizer";
    else if (n >= 2 && (memcmp(p, "\xff\xfe", 2) == 0 || memcmp(p, "\xfe\xff", 2) == 0))
        hint = "it looks like UTF-16: convert it to UTF-8 first";
    return err_set(err, "%s: expected text, found a NUL byte at offset %zu; %s", name, at, hint);
}

static bool read_stream(struct corpus *c, const char *path, struct err *err) {
    struct text all = {0};
    const char *name = strcmp(path, "-") == 0 ? "standard input" : path;
    size_t free_bytes = mem_available_bytes();
    bool fine = file_read_all(path, free_bytes ? free_bytes / 3 : SIZE_MAX / 4, &all, err);
    if (fine) {
        size_t nul = find_nul(all.data, all.len);
        if (nul < all.len) fine = refuse_binary(name, all.data, nul, all.len, err);
        else add_text(c, all.data, all.len);
    }
    text_free(&all);
    return fine;
}

static bool read_source(struct corpus *c, const struct source *s, struct err *err) {
    if (s->kind == SOURCE_STREAM) return read_stream(c, s->path, err);
    if (s->kind == SOURCE_SHARD) {
        mem_grow((void **)&c->shards.word, &c->shards.cap, c->shards.count + 1,
                 sizeof *c->shards.word, "shard list");
        c->shards.word[c->shards.count++] = mem_text(s->path);
        return true;
    }
    struct file_map map;
    if (!file_map_open(&map, s->path, err)) return false;
    const char *p = map.data ? (const char *)map.data : ""; // an empty file has no address
    size_t nul = find_nul(p, map.size);
    bool fine = true;
    if (nul < map.size && s->found)
        text_fmt(&c->notes, "skipped %s: not text, it has a NUL byte at offset %zu\n", s->path,
                 nul);
    else if (nul < map.size) fine = refuse_binary(s->path, p, nul, map.size, err);
    else if (s->kind == SOURCE_JSONL) fine = add_jsonl(c, s->path, p, map.size, err);
    else if (map.size) add_text(c, p, map.size);
    file_map_close(&map);
    return fine;
}

// Memory for the text of all files at once; JSON text never grows by decoding. A stream grows it by itself.
static bool reserve(struct corpus *c, const struct sources *s, struct err *err) {
    size_t sum = 1;
    for (size_t i = 0; i < s->count; i++)
        if (s->at[i].kind != SOURCE_SHARD && !size_add(sum, s->at[i].size, &sum))
            return err_set(err, "the data files are together larger than the address space");
    size_t free_bytes = mem_available_bytes();
    if (free_bytes && sum > free_bytes) {
        char need[32], have[32];
        return err_set(
            err,
            "the data files hold %s but only %s of memory are free; train on fewer files, or on a .tok file",
            text_bytes(need, (double)sum), text_bytes(have, (double)free_bytes));
    }
    c->bytes.data = mem_alloc(sum, "text of the corpus");
    c->bytes.cap = sum;
    return true;
}

bool corpus_read(struct corpus *c, const char *const *paths, size_t n, struct err *err) {
    *c = (struct corpus){0};
    struct sources s = {0};
    bool fine = list_sources(c, &s, paths, n, err) && reserve(c, &s, err);
    for (size_t i = 0; fine && i < s.count; i++) fine = read_source(c, &s.at[i], err);
    if (fine && c->n_docs == 0 && c->shards.count == 0)
        fine = err_set(err, "expected text, found none in %s%s: %zu file%s, nothing to train on",
                       n ? paths[0] : "no path", n > 1 ? " and what follows" : "", s.count,
                       s.count == 1 ? "" : "s");
    sources_free(&s);
    if (!fine) corpus_free(c);
    return fine;
}

void corpus_free(struct corpus *c) {
    text_free(&c->bytes);
    mem_free(c->doc_end);
    for (size_t i = 0; i < c->shards.count; i++) mem_free((void *)c->shards.word[i]);
    mem_free(c->shards.word);
    text_free(&c->notes);
    *c = (struct corpus){0};
}
