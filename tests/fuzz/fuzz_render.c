// Any conversation through every built-in template: what the conversation says never changes which control tokens there are. The
// first byte chooses the template, the second the roles; the rest, cut at bytes 1, are the messages. The same roles with
// plain words must give the same control tokens in the same order.
#include "tests/fuzz/files.h"
#include "tokenizer/chat.h"
#include "tokenizer/internal.h"

#include <string.h>

enum { MESSAGES = 6, TEMPLATES = 64 };
static const char *const spellings[] = {
    "<s>", "</s>", "<|im_start|>", "<|im_end|>", "[INST]", "[/INST]", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>",
    "<start_of_turn>", "<end_of_turn>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>", "<|start_of_role|>", "<|end_of_role|>",
    "<|end_of_text|>", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "<think>", "<\xEF\xBD\x9CUser\xEF\xBD\x9C>",
    "<\xEF\xBD\x9C" "Assistant\xEF\xBD\x9C>", "<\xEF\xBD\x9C" "end\xE2\x96\x81of\xE2\x96\x81sentence\xEF\xBD\x9C>",
    "<|START_OF_TURN_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>", "<|SYSTEM_TOKEN|>", "<|END_OF_TURN_TOKEN|>", "a", "user", "\n"};
static struct tokenizer *tokenizer;
static struct chat_template *templates[TEMPLATES];

// 256 bytes and the control spellings.
static void make(void) {
    struct text bytes = {0};
    struct span token[256 + COUNT_OF(spellings)];
    size_t end[COUNT_OF(token)], n = 0;
    unsigned char type[COUNT_OF(token)];
    for (int i = 0; i < 256; i++, end[n++] = bytes.len) bytes_spell(&(char){(char)i}, 1, &bytes);
    for (size_t i = 0; i < COUNT_OF(spellings) - 3; i++, end[n++] = bytes.len) text_str(&bytes, spellings[i]);
    for (size_t i = 0, from = 0; i < n; from = end[i++]) token[i] = (struct span){bytes.data + from, end[i] - from};
    for (size_t i = 0; i < n; i++) type[i] = i < 256 ? TOKEN_NORMAL : TOKEN_CONTROL;
    struct recipe r = {.kind = TOKENIZER_BPE, .tokens = token, .types = type, .n = n, .bos = 256, .eos = 257, .eot = -1, .eom = -1,
                       .unknown = -1, .adds_bos = true};
    struct err err = {""};
    tokenizer = tokenizer_make(&r, &err);
    must(tokenizer, err.text);
    must(chat_template_count <= TEMPLATES, "there is room for every template");
    for (int i = 0; i < chat_template_count; i++) templates[i] = chat_template_named(chat_templates[i].name, &err);
    text_free(&bytes);
}

static bool control_of(const struct chat_template *t, const struct chat_message *m, size_t n, struct ids *out) {
    static const struct tm now = {.tm_year = 124, .tm_mday = 1};
    struct rendering r = {{0}, {0}};
    struct ids ids = {0};
    struct err err = {""};
    bool good = chat_render(t, tokenizer, m, n, true, &now, &r, &err);
    must_tell(good, &err);
    if (good) chat_encode(tokenizer, &r, &ids);
    for (size_t i = 0; i < ids.count; i++)
        if (tokenizer_type(tokenizer, ids.id[i]) == TOKEN_CONTROL) ids_add(out, ids.id[i]);
    ids_free(&ids);
    rendering_free(&r);
    return good;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    if (!tokenizer) make();
    if (n < 2) return 0;
    static const char *const roles[] = {"user", "assistant", "system", "tool"};
    struct chat_message theirs[MESSAGES], plain[MESSAGES];
    size_t count = 0;
    const char *p = (const char *)bytes + 2, *end = (const char *)bytes + n;
    unsigned role = bytes[1];
    while (count < MESSAGES && p <= end) {
        const char *stop = p < end ? memchr(p, 1, (size_t)(end - p)) : NULL;
        if (!stop) stop = end;
        theirs[count] = (struct chat_message){roles[count ? role % 4 : role % 2 * 2], {p, (size_t)(stop - p)}};
        plain[count] = (struct chat_message){theirs[count].role, {"x", 1}};
        count++;
        role = role / 3 + role * 5;
        p = stop + 1;
    }
    struct ids a = {0}, b = {0};
    const struct chat_template *t = templates[bytes[0] % chat_template_count];
    bool good = control_of(t, theirs, count, &a), plain_good = control_of(t, plain, count, &b);
    must(good == plain_good, "what is said does not decide whether it can be rendered");
    must(a.count == b.count && (!a.count || !memcmp(a.id, b.id, a.count * sizeof *a.id)), "what is said adds no control token");
    ids_free(&a);
    ids_free(&b);
    return 0;
}
