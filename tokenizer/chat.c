// chat.c: templates by name, rendering a conversation, and its ids.
//
// The sources below are ours; what they write is what the models of that name were trained on. They go through the same
// interpreter as a template out of a file, where a newline behind a %} does not count.
#include "tokenizer/chat.h"
#include "tokenizer/template.h"

#include <string.h>

#define EACH "{% for m in messages %}"
#define ASK "{% endfor %}{% if add_generation_prompt %}"
#define END "{% endif %}"
#define CONTENT "{{ m.content | trim }}"
// A system text that has no place of its own stands in front of the first user message.
#define SYSTEM_FIRST \
    "{% set ns = namespace(system='') %}" EACH "{% if m.role == 'system' %}{% set ns.system = (m.content | trim) ~ '\\n\\n' %}{% continue %}{% endif %}"
#define TAKE_SYSTEM "{{ ns.system }}{% set ns.system = '' %}"

// With fullwidth bars, and U+2581 between words.
#define DEEPSEEK \
    "{{ bos_token }}" EACH "{% if m.role == 'user' %}<\xEF\xBD\x9CUser\xEF\xBD\x9C>{{ m.content }}" \
    "{% elif m.role == 'assistant' %}<\xEF\xBD\x9C" "Assistant\xEF\xBD\x9C>{{ m.content }}<\xEF\xBD\x9C" "end\xE2\x96\x81of\xE2\x96\x81sentence\xEF\xBD\x9C>" \
    "{% else %}{{ m.content }}{% endif %}" ASK "<\xEF\xBD\x9C" "Assistant\xEF\xBD\x9C>"

const struct chat_template_row chat_templates[] = {
    {"chatml", "<|im_start|>role ... <|im_end|>: Qwen, SmolLM, Hermes, Yi",
     EACH "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n" ASK "<|im_start|>assistant\n" END},
    {"llama2", "[INST] <<SYS>> ... [/INST]: Llama 2 chat",
     "{% set ns = namespace(system='') %}" EACH
     "{% if m.role == 'system' %}{% set ns.system = '<<SYS>>\\n' ~ m.content ~ '\\n<</SYS>>\\n\\n' %}"
     "{% elif m.role == 'user' %}{{ bos_token }}[INST] " TAKE_SYSTEM CONTENT " [/INST]"
     "{% else %} " CONTENT " {{ eos_token }}{% endif %}{% endfor %}"},
    {"llama3", "<|start_header_id|>role<|end_header_id|> ... <|eot_id|>: Llama 3 to 3.3",
     "{{ bos_token }}" EACH "<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n" CONTENT "<|eot_id|>" ASK
     "<|start_header_id|>assistant<|end_header_id|>\n\n" END},
    {"mistral-v1", " [INST] ... [/INST]: Mistral 7B v0.1 and v0.2, Mixtral",
     "{{ bos_token }}" SYSTEM_FIRST "{% if m.role == 'user' %} [INST] " TAKE_SYSTEM "{{ m.content }} [/INST]"
     "{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"},
    {"mistral-v3", "[INST] ...[/INST]: Mistral 7B v0.3",
     "{{ bos_token }}" SYSTEM_FIRST "{% if m.role == 'user' %}[INST] " TAKE_SYSTEM "{{ m.content }}[/INST]"
     "{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"},
    {"mistral-v3-tekken", "[INST]...[/INST]: Mistral Nemo, Ministral",
     "{{ bos_token }}" SYSTEM_FIRST "{% if m.role == 'user' %}[INST]" TAKE_SYSTEM "{{ m.content }}[/INST]"
     "{% else %}{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"},
    {"mistral-v7", "[SYSTEM_PROMPT] ...[/SYSTEM_PROMPT][INST] ...[/INST]: Mistral Large and Small of 2024 and 2025",
     "{{ bos_token }}" EACH "{% if m.role == 'system' %}[SYSTEM_PROMPT] {{ m.content }}[/SYSTEM_PROMPT]"
     "{% elif m.role == 'user' %}[INST] {{ m.content }}[/INST]{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"},
    {"gemma", "<start_of_turn>user ... <end_of_turn>: Gemma 1 to 3",
     "{{ bos_token }}" SYSTEM_FIRST "<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n" TAKE_SYSTEM CONTENT
     "<end_of_turn>\n" ASK "<start_of_turn>model\n" END},
    {"phi3", "<|user|> ... <|end|>: Phi 3 and 3.5", EACH "<|{{ m.role }}|>\n{{ m.content }}<|end|>\n" ASK "<|assistant|>\n" END},
    {"zephyr", "<|user|> ... </s>: Zephyr, TinyLlama chat",
     EACH "<|{{ m.role }}|>\n{{ m.content }}{{ eos_token }}\n" ASK "<|assistant|>\n" END},
    {"granite", "<|start_of_role|>role<|end_of_role|> ... <|end_of_text|>: Granite 3",
     EACH "<|start_of_role|>{{ m.role }}<|end_of_role|>{{ m.content }}<|end_of_text|>\n" ASK
          "<|start_of_role|>assistant<|end_of_role|>" END},
    {"olmo2", "<|user|> ... <|assistant|>: OLMo 2, OLMoE",
     "{{ bos_token }}" EACH "<|{{ m.role }}|>\n{{ m.content }}{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{{ '\\n' }}" ASK
     "<|assistant|>\n" END},
    {"deepseek-r1", "the same, a reply begins with <think>: DeepSeek R1 and its distillations", DEEPSEEK "<think>\n" END},
    {"deepseek", "<\xEF\xBD\x9CUser\xEF\xBD\x9C> ... <\xEF\xBD\x9C" "Assistant\xEF\xBD\x9C>: DeepSeek V3",
     DEEPSEEK END},
    {"deepseek-v2", "User: ... Assistant: ...: DeepSeek LLM and V2",
     "{{ bos_token }}" EACH "{% if m.role == 'user' %}User: {{ m.content }}\n\n{% elif m.role == 'assistant' %}Assistant: {{ m.content }}{{ eos_token }}"
     "{% else %}{{ m.content }}\n\n{% endif %}" ASK "Assistant:" END},
    {"command-r", "<|START_OF_TURN_TOKEN|><|USER_TOKEN|> ... <|END_OF_TURN_TOKEN|>: Command R",
     "{{ bos_token }}" EACH "<|START_OF_TURN_TOKEN|><|{{ 'CHATBOT' if m.role == 'assistant' else m.role | upper }}_TOKEN|>" CONTENT
     "<|END_OF_TURN_TOKEN|>" ASK "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>" END},
    {"vicuna", "USER: ... ASSISTANT: ...: Vicuna 1.1",
     "{{ bos_token }}" EACH "{% if m.role == 'user' %}USER: {{ m.content }}\n{% elif m.role == 'assistant' %}ASSISTANT: {{ m.content }}{{ eos_token }}\n"
     "{% else %}{{ m.content }}\n\n{% endif %}" ASK "ASSISTANT:" END},
    {"alpaca", "### Instruction: ... ### Response: ...",
     EACH "{% if m.role == 'user' %}### Instruction:\n{{ m.content }}\n\n{% elif m.role == 'assistant' %}### Response:\n{{ m.content }}\n\n"
          "{% else %}{{ m.content }}\n\n{% endif %}" ASK "### Response:\n" END},
};
const int chat_template_count = COUNT_OF(chat_templates);

struct chat_template {
    struct template *program;
    char *name;
};

static bool names_told(struct err *err, const char *what) {
    struct text names = {0};
    for (int i = 0; i < chat_template_count; i++) text_fmt(&names, i ? ", %s" : "%s", chat_templates[i].name);
    err_set(err, "%s: give one by --chat-template, a file or one of %s", what, names.data);
    text_free(&names);
    return false;
}

struct chat_template *chat_template_from_text(const char *source, size_t n, const char *name, struct err *err) {
    struct template *program = template_open(source, n, err);
    if (!program) return NULL;
    struct chat_template *t = mem_alloc(sizeof *t, "chat template");
    *t = (struct chat_template){program, mem_text(name)};
    return t;
}

struct chat_template *chat_template_from_model(const struct model_file *f, struct err *err) {
    struct span source = {NULL, 0};
    if (!meta_text(f, "tokenizer.chat_template", false, &source, err)) return NULL;
    if (!source.p || !source.n) {
        names_told(err, "the model carries no chat template");
        return NULL;
    }
    return chat_template_from_text(source.p, source.n, "the model's own", err);
}

struct chat_template *chat_template_named(const char *name, struct err *err) {
    for (int i = 0; i < chat_template_count; i++)
        if (!strcmp(name, chat_templates[i].name))
            return chat_template_from_text(chat_templates[i].source, strlen(chat_templates[i].source), name, err);
    char what[300];
    snprintf(what, sizeof what, "%.250s is no known chat template and no file", name);
    if (!file_exists(name)) return names_told(err, what) ? NULL : NULL;
    struct text source = {0};
    struct chat_template *t = NULL;
    if (file_read_all(name, (size_t)1 << 24, &source, err)) {
        t = chat_template_from_text(source.data ? source.data : "", source.len, name, err);
        if (!t) err_in(err, "%s", name);
    }
    text_free(&source);
    return t;
}

void chat_template_free(struct chat_template *t) {
    if (!t) return;
    template_free(t->program);
    mem_free(t->name);
    mem_free(t);
}

const char *chat_template_name(const struct chat_template *t) { return t->name; }

// ---- rendering

void rendering_free(struct rendering *r) {
    text_free(&r->text);
    text_free(&r->marks);
}

static bool role_good(const char *role) {
    size_t n = strspn(role, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-");
    return n > 0 && !role[n];
}

bool chat_render(const struct chat_template *t, const struct tokenizer *tokenizer, const struct chat_message *messages, size_t n,
                 bool add_generation_prompt, const struct tm *now, struct rendering *r, struct err *err) {
    assert(t && tokenizer && (messages || !n) && now && r);
    struct template_message *list = mem_array(n + 1, sizeof *list, "messages");
    bool good = true;
    for (size_t i = 0; i < n && good; i++) {
        list[i] = (struct template_message){{messages[i].role, strlen(messages[i].role)}, messages[i].text};
        if (!role_good(messages[i].role)) good = err_set(err, "\"%.60s\" is no role: expected a word such as user", messages[i].role);
    }
    struct template_variable variables[] = {
        {"bos_token", tokenizer_token(tokenizer, tokenizer_bos(tokenizer)), false, true},
        {"eos_token", tokenizer_token(tokenizer, tokenizer_eos(tokenizer)), false, true},
    };
    struct template_input in = {.variables = variables, .n_variables = COUNT_OF(variables), .messages = list, .n_messages = n,
                                .add_generation_prompt = add_generation_prompt, .now = *now};
    text_clear(&r->text);
    text_clear(&r->marks);
    good = good && template_render(t->program, &in, &r->text, &r->marks, err);
    mem_free(list);
    return good;
}

void chat_encode(const struct tokenizer *tokenizer, const struct rendering *r, struct ids *ids) {
    struct ids found = {0};
    int32_t bos = tokenizer_bos(tokenizer);
    if (r->text.len) tokenizer_encode_marked(tokenizer, r->text.data, r->marks.data, r->text.len, 0, &found);
    if (tokenizer_adds_bos(tokenizer) && bos >= 0 && !(found.count && found.id[0] == bos)) ids_add(ids, bos);
    for (size_t i = 0; i < found.count; i++) ids_add(ids, found.id[i]);
    ids_free(&found);
}

bool chat_turn_end(const struct chat_template *t, const struct tokenizer *tokenizer, int32_t *id, struct text *stop, struct err *err) {
    const struct chat_message probe[] = {{"user", {"a", 1}}, {"assistant", {"b", 1}}};
    struct tm now = {.tm_mday = 1, .tm_year = 100};
    struct rendering r = {{0}, {0}};
    struct ids ids = {0};
    *id = -1;
    text_clear(stop);
    bool good = chat_render(t, tokenizer, probe, 2, false, &now, &r, err);
    size_t at = r.text.len;
    while (good && at > 0 && !r.marks.data[at - 1]) at--;
    while (good && at < r.text.len && strchr(" \n\t", r.text.data[at])) at++;
    if (good && at > 0 && at < r.text.len) {
        tokenizer_encode_marked(tokenizer, r.text.data + at, r.marks.data + at, r.text.len - at, 0, &ids);
        if (ids.count && tokenizer_type(tokenizer, ids.id[0]) == TOKEN_CONTROL) *id = ids.id[0];
        size_t line = strcspn(r.text.data + at, "\n");
        if (*id < 0) text_add(stop, r.text.data + at, line);
    }
    ids_free(&ids);
    rendering_free(&r);
    return good;
}
