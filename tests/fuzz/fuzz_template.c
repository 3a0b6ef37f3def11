// A libFuzzer target for the interpreter of chat templates:
//     clang -g -O1 -fsanitize=fuzzer,address,undefined -I. -D_GNU_SOURCE tests/fuzz/fuzz_template.c
//           tokenizer/template*.c core/*.c -lm -pthread -o fuzz_template
//     ./fuzz_template -max_len=4096 CORPUS
// A template renders a conversation with one mark per byte, or is refused with a sentence that names a line.
#include "tokenizer/template.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    static const char tools[] = "[{\"function\": {\"name\": \"f\", \"p\": {\"a\": [1, 2.5, null, true]}}}]";
    const struct template_limits limits = {.steps = 200000, .memory = 8 << 20, .output = 1 << 20, .depth = 100};
    const struct template_message messages[] = {{{"system", 6}, {" s\n", 3}}, {{"user", 4}, {"u \xC3\xA4 <s>", 8}}, {{"assistant", 9}, {"", 0}}};
    const struct template_variable variables[] = {{"bos_token", {"<s>", 3}, false, true}, {"tools", {tools, strlen(tools)}, true, false}};
    const struct template_input in = {.variables = variables, .n_variables = COUNT_OF(variables), .messages = messages,
                                      .n_messages = COUNT_OF(messages), .add_generation_prompt = true, .limits = &limits,
                                      .now = {.tm_year = 124, .tm_mday = 1}};
    struct err err = {""};
    struct text text = {0}, marks = {0};
    struct template *t = template_open((const char *)bytes, n, &err);
    bool good = t && template_render(t, &in, &text, &marks, &err);
    if (good ? text.len != marks.len : !strstr(err.text, "line ")) abort();
    template_free(t);
    text_free(&text);
    text_free(&marks);
    return 0;
}
