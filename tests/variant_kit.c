// variant_kit: see variant_kit.h.
#include "tests/variant_kit.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

const struct variant variants[] = {
    {"mistral3", 0},      {"gpt_oss", 0},          {"exaone4_whole", 0},
    {"qwen2moe", 0},      {"granitemoeshared", 0}, {"smollm3", 0},        {"arcee", 0},
    {"seed_oss", 0},      {"exaone4", 0},          {"olmo", 0},           {"olmo3", 0},
    {"phi2", 0},          {"gptneox", 0},          {"gptneox_serial", 0}, {"stablelm", 0},
    {"starcoder2", 0},    {"stablelm_parallel", 0}, {"nemotron", 0},      {"command_r", 0},
    {"cohere2", 0},       {"phi3_long", 0},        {"phi3_short", 16},    {"phi3_factor", 0},
    {"llama_dynamic", 40}, {"llama_llama3", 0},    {"llama_yarn", 0},     {"qwen2_yarn", 0},
    {"llama_linear", 0},  {"mistral", 0},          {"ministral", 0},      {"gemma3_layers", 0},
};
const int variant_count = COUNT_OF(variants);

struct text variant_golden(const char *name, const char *end) {
    char path[96];
    struct err e = {{0}};
    struct text t = {0};
    snprintf(path, sizeof path, "tests/golden/variants/%s.%s", name, end);
    cr_assert(file_read_all(path, 1 << 20, &t, &e), "%s", e.text);
    return t;
}

static void put(const char *folder, const char *name, const struct text *t) {
    char path[160];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "wb");
    cr_assert(f && fwrite(t->data, 1, t->len, f) == t->len && !fclose(f));
}

// Multiples of 1/64 from -1 to 1.
static float weight(uint32_t i) {
    uint32_t h = i * UINT32_C(2654435761);
    h ^= h >> 15;
    h *= UINT32_C(2246822519);
    h ^= h >> 13;
    return (float)((int)((h >> 16) % 129) - 64) / 64;
}

struct model_file *variant_open(const char *folder, const char *name) {
    struct text config = variant_golden(name, "json"), head = variant_golden(name, "head"), file = {0};
    struct err e = {{0}};
    uint64_t n = head.len, end = 0;
    for (const char *at = head.data; (at = strstr(at, "\"data_offsets\":[")) != NULL;) {
        at = strchr(at, ',') + 1;
        uint64_t to = strtoull(at, NULL, 10);
        if (to > end) end = to;
    }
    text_add(&file, (const char *)&n, sizeof n);
    text_add(&file, head.data, head.len);
    for (uint64_t i = 0; i < end / 4; i++) {
        float x = weight((uint32_t)i);
        text_add(&file, (const char *)&x, sizeof x);
    }
    put(folder, "config.json", &config);
    put(folder, "model.safetensors", &file);
    text_free(&config), text_free(&head), text_free(&file);
    struct model_file *f = model_file_open(folder, &e);
    cr_assert(f, "%s: %s", name, e.text);
    return f;
}
