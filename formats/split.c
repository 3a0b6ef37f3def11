// split.c: a GGUF in several files, name-00001-of-0000N.gguf, behind the one reader.
//
// The first part has all keys of the model and, like every part, split.no (from 0), split.count and
// split.tensors.count. Each part is a whole GGUF with some of the tensors. The parts are read by
// the same reader as any file, then their tensors are listed behind those of the first; the other
// keys of later parts (there should be none) are dropped. Missing parts, parts of something else
// and parts in a wrong place are named.
#include "formats/internal.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define PARTS_MAX 1000

struct split {
    int64_t no, count, tensors;
};

static bool read_split(const struct model_file *f, struct split *s, struct err *err) {
    return meta_int(f, "split.no", true, 0, PARTS_MAX - 1, &s->no, err) &&
           meta_int(f, "split.count", true, 1, PARTS_MAX, &s->count, err) &&
           meta_int(f, "split.tensors.count", true, 0, (int64_t)TENSORS_MAX, &s->tensors, err);
}

// Everything in front of "-00001-of-00003.gguf" when the path ends so, else 0.
static size_t stem_of(const char *path, const struct split *s) {
    char tail[64];
    int n = snprintf(tail, sizeof tail, "-%05" PRId64 "-of-%05" PRId64 ".gguf", s->no + 1, s->count);
    size_t len = strlen(path);
    return len > (size_t)n && !strcmp(path + len - (size_t)n, tail) ? len - (size_t)n : 0;
}

// Moves the tensors of a part, read on its own, and its map over to f.
static void take_part(struct model_file *f, struct model_file *part) {
    for (size_t i = 0; i < part->n_tensors; i++) {
        mem_grow((void **)&f->tensors, &f->cap_tensors, f->n_tensors + 1, sizeof *f->tensors, "table of tensors");
        f->tensors[f->n_tensors++] = part->tensors[i];
    }
    f->parts[f->n_parts++] = part->map;
    part->map = (struct file_map){0};
    part->mapped = false;
}

static bool open_part(struct model_file *f, const struct split *whole, int64_t no, size_t stem, struct err *err) {
    struct text path = {0};
    struct split s = {0};
    struct model_file *part = mem_alloc(sizeof *part, "part of a model");
    text_add(&path, f->map.path, stem);
    text_fmt(&path, "-%05" PRId64 "-of-%05" PRId64 ".gguf", no + 1, whole->count);
    part->mapped = file_map_open(&part->map, path.data, err);
    const unsigned char *p = part->map.data;
    bool good = part->mapped || err_in(err, "part %" PRId64 " of %" PRId64, no + 1, whole->count);
    if (good && (part->map.size < 4 || memcmp(p, "GGUF", 4)))
        good = err_set(err, "part %" PRId64 " of %" PRId64 ", %s, is no GGUF file", no + 1, whole->count, path_end(path.data));
    if (good && !(gguf_read(part, err) && read_split(part, &s, err)))
        good = err_in(err, "part %" PRId64 " of %" PRId64, no + 1, whole->count);
    if (good && (s.no != no || s.count != whole->count || s.tensors != whole->tensors))
        good = err_set(err,
                       "part %" PRId64 " of %" PRId64 " says that it is part %" PRId64 " of %" PRId64 " with %" PRId64
                       " tensors in all, expected %" PRId64 ": it belongs to another model",
                       no + 1, whole->count, s.no + 1, s.count, s.tensors, whole->tensors);
    if (good) take_part(f, part);
    model_file_close(part);
    text_free(&path);
    return good;
}

bool gguf_read_parts(struct model_file *f, struct err *err) {
    struct split s = {0};
    if (meta_kind(f, "split.count") == META_ABSENT) return true;
    if (!read_split(f, &s, err)) return false;
    if (s.count == 1 && s.no == 0) return true;
    if (s.no != 0)
        return err_set(err, "is part %" PRId64 " of %" PRId64 " of a model: name the first part", s.no + 1, s.count);
    size_t stem = stem_of(f->map.path, &s);
    if (!f->mapped || !stem)
        return err_set(err,
                       "is the first of %" PRId64 " parts, but its name does not end in -00001-of-%05" PRId64
                       ".gguf, so the others cannot be found",
                       s.count, s.count);
    f->parts = mem_array((size_t)s.count, sizeof *f->parts, "parts of a model");
    for (int64_t no = 1; no < s.count; no++)
        if (!open_part(f, &s, no, stem, err)) return false;
    size_t twice;
    if (!model_file_index(f, &twice))
        return err_set(err, "tensor '%s' is in two parts", f->tensors[twice].name);
    if ((int64_t)f->n_tensors != s.tensors)
        return err_set(err, "its %" PRId64 " parts have %zu tensors where split.tensors.count says %" PRId64, s.count,
                       f->n_tensors, s.tensors);
    snprintf(f->kind, sizeof f->kind, "GGUF in %" PRId64 " parts", s.count);
    return true;
}
