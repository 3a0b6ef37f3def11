// A GGUF file all the way to logits: what loads computes, whatever shapes, types and switches the file claims.
#include "model/model.h"
#include "tests/fuzz/files.h"

static const struct backend *cpu(void) {
    static const struct backend *b;
    struct err err;
    if (!b) b = backend_cpu("plain", &err);
    must(b, "there is a CPU");
    return b;
}

static void feed(const struct model *m) {
    struct err err = {""};
    struct session *s = session_new(m, &(struct session_options){.ctx = 4, .chunk = 2, .all_logits = 3}, &err);
    must_tell(s, &err);
    if (!s) return;
    int32_t last = (int32_t)(session_vocab(s) - 1), ids[3] = {0, last, last / 2};
    err.text[0] = 0;
    must_tell(session_feed(s, ids, 3, FEED_PROMPT, LOGITS_ALL, &err), &err);
    err.text[0] = 0;
    must(!session_feed(s, ids, 3, FEED_PROMPT, LOGITS_ALL, &err) && err.text[0], "a full context is refused");
    session_free(s);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    struct err err = {""};
    struct model_file *f = model_file_open_bytes(bytes, n, "m.gguf", &err);
    must_tell(f, &err);
    err.text[0] = 0;
    struct model *m = f ? model_load(f, cpu(), &err) : NULL;
    if (f) must_tell(m, &err);
    if (m) feed(m);
    model_free(m);
    model_file_close(f);
    return 0;
}
