// Characters: decoding, the streaming hold, Normalization Form C, and texts made fit for a page or a terminal.
#include "formats/internal.h"
#include "tests/fuzz/files.h"
#include "tokenizer/internal.h"

#include <string.h>

static void characters(const char *p, size_t n) {
    for (size_t at = 0, step; at < n; at += step) {
        uint32_t code;
        char again[4];
        size_t size = utf8_size(p + at, n - at);
        step = utf8_decode(p + at, n - at, &code);
        must(step >= 1 && step <= n - at, "a step stays in the text");
        must((size == 0) == (code == UTF8_BAD) && (size == 0 || size == step), "both decoders agree");
        if (code == UTF8_BAD) continue;
        must(utf8_encode(code, again) == step && !memcmp(again, p + at, step), "a character is spelled one way");
        must((unsigned)char_kind(code) <= KIND_SPACE && (unsigned)char_class(code) <= CHAR_SPACE, "every character has a kind");
    }
}

// In pieces as by the bytes in front, nothing but what cannot complete differs from the whole.
static void stream(const char *p, size_t n) {
    struct utf8_hold whole = {0}, pieces = {0};
    struct text a = {0}, b = {0};
    utf8_hold_feed(&whole, p, n, &a);
    utf8_hold_flush(&whole, &a);
    for (size_t at = 0, step; at < n; at += step) {
        step = 1 + (unsigned char)p[at] % 3;
        if (step > n - at) step = n - at;
        utf8_hold_feed(&pieces, p + at, step, &b);
    }
    utf8_hold_flush(&pieces, &b);
    must(a.len == b.len && (!a.len || !memcmp(a.data, b.data, a.len)), "the pieces of a stream make the whole");
    text_free(&a);
    text_free(&b);
}

static void normal(const char *p, size_t n) {
    struct text once = {0}, twice = {0}, tail = {0};
    text_add(&once, "", 0);
    text_add(&twice, "", 0);
    nfc_add(p, n, &once);
    nfc_add(once.data, once.len, &twice);
    must(once.len == twice.len && !memcmp(once.data, twice.data, once.len), "form C of form C is itself");
    size_t same = nfc_prefix(p, n);
    must(same <= n, "the prefix in form C is a prefix");
    text_add(&tail, p, same);
    nfc_add(p + same, n - same, &tail);
    must(tail.len == once.len && !memcmp(tail.data, once.data, once.len), "what follows does not change that prefix");
    text_free(&once);
    text_free(&twice);
    text_free(&tail);
}

static void shown(const char *p, size_t n) {
    struct text page = {0}, spelled = {0};
    char line[SHOWN];
    span_shown((struct span){p, n}, line, sizeof line);
    must(!*line || !name_problem((struct span){line, strlen(line)}), "what is shown can be shown");
    text_html(&page, p, n);
    for (size_t i = 0; i < page.len; i++) must(page.data[i] != '<' && page.data[i] != '"', "a page has no markup of others");
    bytes_spell(p, n, &spelled);
    char *back = mem_alloc(spelled.len, "bytes");
    size_t n_back;
    must(bytes_unspell(spelled.data ? spelled.data : "", spelled.len, back, &n_back) && n_back == n && (!n || !memcmp(back, p, n)),
         "bytes are spelled and read back");
    mem_free(back);
    text_free(&page);
    text_free(&spelled);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    const char *p = (const char *)bytes;
    characters(p, n);
    stream(p, n);
    normal(p, n);
    shown(p, n);
    return 0;
}
