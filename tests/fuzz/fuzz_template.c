// Chat templates from strangers: a template renders a conversation with one mark per byte, or is refused with a sentence that
// names a line.
#include "tests/fuzz/files.h"
#include "tokenizer/template.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    static const char tools[] = "[{\"function\": {\"name\": \"f\", \"p\": {\"a\": [1, 2.5, null, true]}}}]";
    const struct template_limits limits = {.steps = 50000, .memory = 4 << 20, .output = 1 << 18, .depth = 100};
    const struct template_message messages[] = {{{"system", 6}, {" s\n", 3}}, {{"user", 4}, {"u \xC3\xA4 <s>", 8}}, {{"assistant", 9}, {"", 0}}};
    const struct template_variable variables[] = {{"bos_token", {"<s>", 3}, false, true}, {"tools", {tools, strlen(tools)}, true, false}};
    const struct template_input in = {.variables = variables, .n_variables = COUNT_OF(variables), .messages = messages,
                                      .n_messages = COUNT_OF(messages), .add_generation_prompt = true, .limits = &limits,
                                      .now = {.tm_year = 124, .tm_mday = 1}};
    struct err err = {""};
    struct text text = {0}, marks = {0};
    struct template *t = template_open((const char *)bytes, n, &err);
    bool good = t && template_render(t, &in, &text, &marks, &err);
    if (good) must(text.len == marks.len && text.len <= limits.output, "a rendering has a mark per byte and keeps its bounds");
    else must(strstr(err.text, "line ") && !text.len, "a refusal names the line");
    template_free(t);
    text_free(&text);
    text_free(&marks);
    return 0;
}
