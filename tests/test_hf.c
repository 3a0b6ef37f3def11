// test_hf.c: folders and split files open as the model they hold, and what is written opens again.
//
//   golden    tests/golden/hf_*: written by transformers and safetensors (make_hf_goldens.py); they must open as the
//             tensors of model_*.gguf, whose logits llama.cpp gave
//   config    each family's config.json in GGUF's words; whatever may change the computation is refused by name
//   folder    files, shards, index, templates, hostile names
//   split     GGUF in parts
//   export    GGUF -> folder -> GGUF and back: identical bits where dtypes stay
#include "formats/internal.h"
#include "model/model.h"
#include "tests/hostile.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef PROGRAMS
#define PROGRAMS "build/test"
#endif

static char dir[64];

static void make_dir(void) {
    strcpy(dir, "/tmp/lehr-hf-XXXXXX");
    cr_assert(mkdtemp(dir));
}

static void drop_dir(void) {
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", dir);
    cr_assert(system(command) == 0);
}

TestSuite(hf, .init = make_dir, .fini = drop_dir);

static const char *in_dir(const char *name) {
    static char path[8][256];
    static int turn;
    char *p = path[turn++ % 8];
    snprintf(p, sizeof path[0], "%s/%s", dir, name);
    return p;
}

static void put(const char *name, const char *bytes, size_t n) {
    unlink(in_dir(name)); // an open model keeps its map
    FILE *f = fopen(in_dir(name), "wb");
    cr_assert(f && fwrite(bytes, 1, n, f) == n && !fclose(f));
}
static void put_str(const char *name, const char *s) { put(name, s, strlen(s)); }

static struct model_file *open_file(const char *path) {
    struct err err;
    struct model_file *f = model_file_open(path, &err);
    cr_assert(f, "%s: %s", path, err.text);
    hostile_walk(f);
    return f;
}

static void refused(const char *path, const char *why) {
    struct err err = {""};
    struct model_file *f = model_file_open(path, &err);
    cr_expect(!f, "%s opened, expected '%s'", path, why);
    cr_expect(strstr(err.text, why), "expected '%s' in: %s", why, err.text);
    model_file_close(f);
}

static int64_t int_of(const struct model_file *f, const char *key) {
    struct err err;
    int64_t x = -1;
    cr_assert(meta_int(f, key, true, 0, INT64_MAX, &x, &err), "%s", err.text);
    return x;
}
static double real_of(const struct model_file *f, const char *key) {
    struct err err;
    double x = -1;
    cr_assert(meta_real(f, key, true, -1e30, 1e30, &x, &err), "%s", err.text);
    return x;
}
static bool text_is(const struct model_file *f, const char *key, const char *expected) {
    struct err err;
    struct span s = {0};
    cr_assert(meta_text(f, key, true, &s, &err), "%s", err.text);
    return span_is(s, expected);
}

static void same_tensors(const struct model_file *a, const struct model_file *b) {
    cr_assert_eq(model_file_tensor_count(a), model_file_tensor_count(b));
    for (size_t i = 0; i < model_file_tensor_count(a); i++) {
        const struct file_tensor *t = model_file_tensor_at(a, i), *u = model_file_tensor(b, t->name);
        cr_assert(u, "%s is missing", t->name);
        cr_assert(t->dtype == u->dtype && t->n_dims == u->n_dims && !memcmp(t->size, u->size, sizeof t->size), "%s", t->name);
        cr_assert(t->bytes == u->bytes && !memcmp(t->data, u->data, t->bytes), "%s differs", t->name);
    }
}

static const struct backend *cpu(void) {
    struct err err;
    const struct backend *b = backend_cpu(NULL, &err);
    cr_assert(b, "%s", err.text);
    return b;
}

static struct export_check check(const struct model_file *source, const char *written) {
    struct err err;
    struct export_check c;
    cr_assert(model_export_check(source, written, cpu(), &c, &err), "%s", err.text);
    return c;
}

#define GOLDEN "tests/golden/"
static const char *const archs[] = {"llama", "granite"};
static const char *gguf_of(const char *arch) {
    static char path[2][64];
    char *p = path[arch[0] == 'g'];
    snprintf(p, sizeof path[0], GOLDEN "model_%s.gguf", arch);
    return p;
}

// --- goldens -------------------------------------------------------------------------------------------------------

Test(hf, golden_folders_are_their_gguf_bit_for_bit) {
    for (size_t i = 0; i < COUNT_OF(archs); i++) {
        char path[64];
        snprintf(path, sizeof path, GOLDEN "hf_%s", archs[i]);
        struct model_file *hf = open_file(path), *gguf = open_file(gguf_of(archs[i]));
        cr_assert(text_is(hf, "general.architecture", archs[i]));
        same_tensors(hf, gguf);
        cr_assert(check(gguf, path).identical, "%s: the config says something else than the GGUF", path);
        cr_assert_eq(int_of(hf, "tokenizer.ggml.eos_token_id"), 2);
        cr_assert_eq(model_file_bytes(hf) / 1000, i ? 93 : 98);
        model_file_close(hf);
        model_file_close(gguf);
    }
}

Test(hf, a_folder_opens_by_any_of_its_files) {
    static const char *const paths[] = {
        GOLDEN "hf_granite/", GOLDEN "hf_granite/config.json", GOLDEN "hf_granite/model.safetensors.index.json",
        GOLDEN "hf_granite/model-00002-of-00002.safetensors"};
    struct model_file *whole = open_file(GOLDEN "hf_granite");
    cr_assert_str_eq(model_file_kind(whole), "safetensors");
    for (size_t i = 0; i < COUNT_OF(paths); i++) {
        struct model_file *f = open_file(paths[i]);
        same_tensors(whole, f);
        cr_assert_str_eq(model_file_path(f), paths[i]);
        model_file_close(f);
    }
    model_file_close(whole);
    model_file_close(open_file(GOLDEN "hf_llama/model.safetensors"));
}

// --- config --------------------------------------------------------------------------------------------------------

// Reads a config's text into keys of a model_file that has nothing else.
static struct model_file *keys_of(const char *config, struct hf_model *m, struct err *err) {
    struct hf_config c = {0};
    struct model_file *f = mem_alloc(sizeof *f, "test");
    struct key_text keys = {.to = &f->made_up};
    text_str(&c.bytes, config);
    *err = (struct err){""};
    bool good = hf_config_parse(&c, err) && hf_config_keys(&c, m, &keys, err) && key_text_read(&keys, f, err);
    hf_config_free(&c);
    f->map.path = mem_text("test");
    if (good) return f;
    model_file_close(f);
    return NULL;
}

#define SIZES                                                                                                    \
    "\"hidden_size\":64,\"num_hidden_layers\":6,\"intermediate_size\":96,\"num_attention_heads\":4,"                  \
    "\"num_key_value_heads\":2,\"vocab_size\":100,\"max_position_embeddings\":512,\"rms_norm_eps\":1e-6"
#define CLASS(c) "{\"architectures\":[\"" c "\"],\"model_type\":\"x\"," SIZES
#define MOE CLASS("Qwen2MoeForCausalLM") ",\"num_experts\":8,\"num_experts_per_tok\":2,\"shared_expert_intermediate_size\":48"
#define FULL "\"full_attention\""
#define OSS CLASS("GptOssForCausalLM") ",\"num_local_experts\":8,\"num_experts_per_tok\":2,\"sliding_window\":9"
#define OSS_ROPE ",\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":32.0,\"original_max_position_embeddings\":128"

static struct model_file *keys_fine(const char *config, struct hf_model *m) {
    struct err err;
    struct model_file *f = keys_of(config, m, &err);
    cr_assert(f, "%s: %s", config, err.text);
    return f;
}

Test(hf, config_of_each_family_in_the_words_of_gguf) {
    struct hf_model m;
    struct model_file *f = keys_fine(CLASS("LlamaForCausalLM") ",\"rope_theta\":500000.0,\"rope_scaling\":null,\"torch_dtype\":\"bfloat16\"}", &m);
    cr_assert(int_of(f, "llama.attention.head_count_kv") == 2 && int_of(f, "llama.attention.key_length") == 16);
    cr_assert(real_of(f, "llama.rope.freq_base") == 500000 && real_of(f, "llama.attention.layer_norm_rms_epsilon") == (double)1e-6f);
    cr_assert(!m.tied && (m.family->traits & HF_ADJACENT) && meta_kind(f, "llama.rope.scaling.type") == META_ABSENT);
    model_file_close(f);
    f = keys_fine(CLASS("MistralForCausalLM") ",\"sliding_window\":128,\"head_dim\":32}", &m);
    cr_assert(text_is(f, "general.architecture", "llama") && int_of(f, "llama.attention.sliding_window") == 128 &&
              int_of(f, "llama.rope.dimension_count") == 32);
    model_file_close(f);
    f = keys_fine(CLASS("GraniteForCausalLM") ",\"embedding_multiplier\":12.0,\"attention_multiplier\":0.015625,"
                  "\"residual_multiplier\":0.22,\"logits_scaling\":8.0,\"tie_word_embeddings\":true}", &m);
    cr_assert(real_of(f, "granite.embedding_scale") == 12 && real_of(f, "granite.attention.scale") == .015625 &&
              real_of(f, "granite.residual_scale") == (double).22f && real_of(f, "granite.logit_scale") == 8 && m.tied);
    model_file_close(f);
    f = keys_fine(CLASS("Qwen2ForCausalLM") ",\"use_sliding_window\":false,\"sliding_window\":4096,\"max_window_layers\":21}", &m);
    cr_assert(meta_kind(f, "qwen2.attention.sliding_window") == META_ABSENT && !(m.family->traits & HF_ADJACENT));
    model_file_close(f);
    f = keys_fine(CLASS("Qwen3ForCausalLM") ",\"head_dim\":128,\"layer_types\":[\"full_attention\",\"full_attention\",\"full_attention\","
                  "\"full_attention\",\"full_attention\",\"full_attention\"]}", &m);
    cr_assert(int_of(f, "qwen3.attention.key_length") == 128);
    model_file_close(f);
    f = keys_fine(CLASS("Gemma3ForCausalLM") ",\"head_dim\":256,\"sliding_window\":512,\"query_pre_attn_scalar\":168,"
                  "\"rope_theta\":1000000.0,\"rope_local_base_freq\":10000,\"attn_logit_softcapping\":null,"
                  "\"rope_scaling\":{\"factor\":8.0,\"rope_type\":\"linear\"},\"hidden_activation\":\"gelu_pytorch_tanh\"}", &m);
    cr_assert(int_of(f, "gemma3.attention.sliding_window") == 512 && real_of(f, "gemma3.rope.freq_base_swa") == 10000 &&
              real_of(f, "gemma3.rope.freq_base") == 1e6 && real_of(f, "gemma3.rope.scaling.factor") == 8 && m.tied &&
              text_is(f, "gemma3.rope.scaling.type", "linear") &&
              fabs(real_of(f, "gemma3.attention.scale") - 1 / sqrt(168)) < 1e-8);
    model_file_close(f);
    f = keys_fine(CLASS("Gemma3ForCausalLM") ",\"head_dim\":256,\"sliding_window\":512,\"query_pre_attn_scalar\":256,"
                  "\"rope_parameters\":{\"full_attention\":{\"rope_theta\":2e6,\"rope_type\":\"default\"},"
                  "\"sliding_attention\":{\"rope_theta\":3e4,\"rope_type\":\"default\"}}}", &m);
    cr_assert(real_of(f, "gemma3.rope.freq_base") == 2e6 && real_of(f, "gemma3.rope.freq_base_swa") == 3e4 &&
              meta_kind(f, "gemma3.attention.scale") == META_ABSENT);
    model_file_close(f);
    f = keys_fine(CLASS("Gemma2ForCausalLM") ",\"head_dim\":16,\"sliding_window\":64,\"attn_logit_softcapping\":50.0,"
                  "\"final_logit_softcapping\":30.0,\"query_pre_attn_scalar\":16}", &m);
    cr_assert(real_of(f, "gemma2.attn_logit_softcapping") == 50 && real_of(f, "gemma2.final_logit_softcapping") == 30);
    model_file_close(f);
    f = keys_fine(CLASS("MiniCPMForCausalLM") ",\"scale_emb\":12,\"scale_depth\":1.4,\"dim_model_base\":16}", &m);
    cr_assert(real_of(f, "minicpm.embedding_scale") == 12 && real_of(f, "minicpm.logit_scale") == 4 && m.tied &&
              fabs(real_of(f, "minicpm.residual_scale") - 1.4 / sqrt(6)) < 1e-7);
    model_file_close(f);
    f = keys_fine(CLASS("Phi3ForCausalLM") ",\"partial_rotary_factor\":0.75,\"sliding_window\":64,\"rope_scaling\":null}", &m);
    cr_assert(int_of(f, "phi3.rope.dimension_count") == 12 && int_of(f, "phi3.attention.sliding_window") == 64);
    model_file_close(f);
    f = keys_fine(CLASS("Qwen2MoeForCausalLM") ",\"num_experts\":8,\"num_experts_per_tok\":2,\"moe_intermediate_size\":24,"
                  "\"shared_expert_intermediate_size\":48,\"norm_topk_prob\":false,\"mlp_only_layers\":[],\"decoder_sparse_step\":1}", &m);
    cr_assert(int_of(f, "qwen2moe.expert_feed_forward_length") == 24 && int_of(f, "qwen2moe.expert_shared_feed_forward_length") == 48);
    model_file_close(f);
    f = keys_fine(CLASS("LlamaForCausalLM") ",\"rope_scaling\":{\"type\":\"yarn\",\"factor\":4.0,"
                  "\"original_max_position_embeddings\":128}}", &m);
    cr_assert(text_is(f, "llama.rope.scaling.type", "yarn") && int_of(f, "llama.rope.scaling.original_context_length") == 128);
    model_file_close(f);
    f = keys_fine(OSS ",\"experts_per_token\":2,\"initial_context_length\":128,\"swiglu_limit\":7.0,\"attention_bias\":true"
                  OSS_ROPE ",\"truncate\":false}}", &m);
    cr_assert(text_is(f, "general.architecture", "gpt-oss") && int_of(f, "gpt-oss.expert_feed_forward_length") == 96 &&
              int_of(f, "gpt-oss.attention.sliding_window") == 9 && m.E == 8);
    model_file_close(f);
    f = keys_fine(CLASS("Exaone4ForCausalLM") ",\"sliding_window\":9,\"sliding_window_pattern\":\"LLLG\",\"layer_types\":["
                  FULL "," FULL "," FULL "," FULL "," FULL "," FULL "]}", &m);
    cr_assert(int_of(f, "exaone4.attention.sliding_window") == 9 &&
              meta_kind(f, "exaone4.attention.sliding_window_pattern") == META_ARRAY); // without rope, though no layer slides
    model_file_close(f);
}

Test(hf, what_may_change_the_computation_is_refused_by_name) {
    static const struct {
        const char *config, *why;
    } cases[] = {
        {"{\"architectures\":[\"FancyForCausalLM\"]}", "'FancyForCausalLM' is not known; known are LlamaForCausalLM"},
        {"{}", "'architectures' names no class"},
        {"{\"architectures\":[]}", "'architectures' names no class"},
        {"{\"architectures\":\"LlamaForCausalLM\"}", "'architectures' names no class"},
        {CLASS("LlamaForCausalLM") ",\"use_alibi\":true}", "'use_alibi' is true"},
        {CLASS("LlamaForCausalLM") ",\"quantization_config\":{\"bits\":4}}", "quantized for other programs"},
        {CLASS("LlamaForCausalLM") ",\"hidden_act\":\"relu\"}", "'hidden_act' is 'relu', expected 'silu'"},
        {CLASS("LlamaForCausalLM") ",\"rope_scaling\":{\"type\":\"spiral\",\"factor\":2.0}}", "type 'spiral'"},
        {CLASS("LlamaForCausalLM") ",\"rope_scaling\":{\"rope_type\":\"longrope\",\"original_max_position_embeddings\":9}}",
         "'rope_scaling.short_factor' is missing"},
        {CLASS("LlamaForCausalLM") ",\"rope_scaling\":{\"type\":\"linear\"}}", "'rope_scaling.factor' is missing"},
        {CLASS("LlamaForCausalLM") ",\"rope_scaling\":{\"type\":\"linear\",\"factor\":2,\"mscale\":0.7}}", "'rope_scaling.mscale' is 0.7"},
        {CLASS("LlamaForCausalLM") ",\"rope_scaling\":{\"type\":\"yarn\",\"factor\":2,\"original_max_position_embeddings\":9,"
                                   "\"truncate\":false}}", "truncate' is false"},
        {CLASS("LlamaForCausalLM") ",\"rope_scaling\":{\"type\":\"linear\",\"factor\":2},\"rope_parameters\":{\"rope_type\":\"default\"}}",
         "one is expected"},
        {CLASS("LlamaForCausalLM") ",\"partial_rotary_factor\":0.5}", "'partial_rotary_factor' is 0.5"},
        {CLASS("LlamaForCausalLM") ",\"clip_qkv\":8.0}", "'clip_qkv' is 8.0"},
        {CLASS("LlamaForCausalLM") ",\"logit_scale\":0.5}", "'logit_scale' is 0.5"},
        {CLASS("LlamaForCausalLM") ",\"use_parallel_residual\":true}", "'use_parallel_residual' is true"},
        {CLASS("LlamaForCausalLM") ",\"no_rope_layers\":[1,0]}", "'no_rope_layers' is [1,0]"},
        {CLASS("LlamaForCausalLM") ",\"attention_chunk_size\":64}", "'attention_chunk_size' is 64"},
        {CLASS("LlamaForCausalLM") ",\"kv_lora_rank\":64}", "'kv_lora_rank' is 64"},
        {CLASS("LlamaForCausalLM") ",\"num_nextn_predict_layers\":1}", "'num_nextn_predict_layers' is 1"},
        {CLASS("LlamaForCausalLM") ",\"layer_types\":[\"linear_attention\",1]}", "'layer_types'"},
        {CLASS("LlamaForCausalLM") ",\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":2,\"original_max_position_embeddings\":9,"
                                   "\"llama_4_scaling_beta\":0.1}}", "llama_4_scaling_beta' is 0.1"},
        {CLASS("Phi3ForCausalLM") ",\"original_max_position_embeddings\":9,\"rope_scaling\":{\"type\":\"longrope\","
                                  "\"short_factor\":[1],\"long_factor\":[1],\"short_mscale\":1.2}}", "short_mscale' is 1.2"},
        {CLASS("SmolLM3ForCausalLM") ",\"no_rope_layers\":[1,1,0,1,1,0]}", "'no_rope_layers' (entry 3) is not every fourth"},
        {CLASS("SmolLM3ForCausalLM") ",\"no_rope_layer_interval\":3}", "'no_rope_layer_interval' is 3"},
        {CLASS("PhiForCausalLM") ",\"layer_norm_eps\":1e-5,\"hidden_act\":\"relu\"}", "'hidden_act' is 'relu'"},
        {CLASS("GPTNeoXForCausalLM") ",\"layer_norm_eps\":1e-5,\"hidden_act\":\"gelu_fast\"}", "'hidden_act' is 'gelu_fast'"},
        {OSS "}", "'rope_parameters' is missing"},
        {OSS OSS_ROPE ",\"truncate\":true}}", "truncate' is true"},
        {OSS OSS_ROPE "}}", "truncate' is true"},
        {OSS OSS_ROPE ",\"truncate\":false},\"swiglu_limit\":6.0}", "'swiglu_limit' is 6, expected 7"},
        {OSS OSS_ROPE ",\"truncate\":false},\"swiglu_alpha\":1.5}", "'swiglu_alpha' is 1.5"},
        {OSS OSS_ROPE ",\"truncate\":false},\"norm_topk_prob\":false}", "'norm_topk_prob' is false"},
        {CLASS("Ministral3ForCausalLM") "}", "'rope_parameters' is missing"},
        {MOE ",\"norm_topk_prob\":true}",
         "'norm_topk_prob' is true"},
        {MOE ",\"mlp_only_layers\":[0]}",
         "'mlp_only_layers' is [0]"},
        {MOE ",\"decoder_sparse_step\":2}",
         "'decoder_sparse_step' is 2"},
        {MOE ",\"scoring_func\":\"sigmoid\"}",
         "'scoring_func' is \"sigmoid\""},
        {CLASS("LlamaForCausalLM") ",\"vocab_size\":7}", "'vocab_size' is there twice"},
        {CLASS("LlamaForCausalLM") ",\"rope_theta\":1e309}", "'rope_theta' is no number"},
        {CLASS("LlamaForCausalLM") ",\"head_dim\":7}", "expected an even number"},
        {CLASS("LlamaForCausalLM") ",\"rope_theta\":\"x\"}", "'rope_theta' is no number"},
        {CLASS("LlamaForCausalLM") ",\"num_experts\":8}", "'num_experts' is 8"},
        {CLASS("LlamaForCausalLM") ",\"layer_types\":[\"full_attention\",\"sliding_attention\"]}", "'layer_types'"},
        {CLASS("LlamaForCausalLM") ",\"use_sliding_window\":true,\"sliding_window\":9}", "'use_sliding_window' is true"},
        {CLASS("SmolLM3ForCausalLM") ",\"no_rope_layers\":[1,1,1,0,1,0]}", "'no_rope_layers' (entry 6)"},
        {CLASS("Qwen3ForCausalLM") ",\"layer_types\":[\"full_attention\",\"chunked_attention\"]}", "'layer_types' is not a list of"},
        {CLASS("Gemma3ForCausalLM") ",\"head_dim\":16}", "'sliding_window' is missing"},
        {CLASS("Gemma3ForCausalLM") ",\"sliding_window\":16}", "'head_dim' is missing"},
        {CLASS("Gemma3ForCausalLM") ",\"head_dim\":16,\"sliding_window\":8,\"use_bidirectional_attention\":true}", "bidirectional"},
        {CLASS("GraniteForCausalLM") ",\"position_embedding_type\":\"nope\"}", "'position_embedding_type' is 'nope'"},
        {"{\"architectures\":[\"LlamaForCausalLM\"]}", "'hidden_size' is missing"},
        {"{\"architectures\":[\"LlamaForCausalLM\"],\"hidden_size\":1e400}", "'hidden_size' is no integer"},
        {"{\"a\":[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[1]", "nesting deeper"},
        {"[]", "expected an object"},
        {"", "expected"},
        {"{\"a\":1} x", "more text"},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct err err;
        struct hf_model m;
        struct model_file *f = keys_of(cases[i].config, &m, &err);
        cr_expect(!f, "accepted: %s", cases[i].config);
        cr_expect(strstr(err.text, cases[i].why), "expected '%s' for %s, got: %s", cases[i].why, cases[i].config, err.text);
        model_file_close(f);
    }
}

// --- a small folder, bent in every way -----------------------------------------------------------------------------

struct build { // of a .safetensors
    struct text head, data;
};

// A tensor of n_dims (1 or 2) whose numbers follow from its stream.
static void add(struct build *b, const char *name, enum dtype d, int64_t rows, int64_t cols, uint64_t stream) {
    struct text bytes = {0};
    size_t width = (size_t)dtype_row(d)->block_bytes, at = b->data.len;
    for (int64_t i = 0; i < (rows ? rows : 1) * cols; i++) {
        float x = (float)(.1 * rng_normal(5, stream, (uint64_t)i));
        unsigned char raw[4];
        dtype_row(d)->from_f32(&x, raw, 1);
        text_add(&bytes, (const char *)raw, width);
    }
    text_add(&b->data, bytes.data, bytes.len);
    text_fmt(&b->head, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[", b->head.len ? "," : "", name, dtype_row(d)->name);
    if (rows) text_fmt(&b->head, "%lld,", (long long)rows);
    text_fmt(&b->head, "%lld],\"data_offsets\":[%zu,%zu]}", (long long)cols, at, b->data.len);
    text_free(&bytes);
}

// odd: how far the data lie from a multiple of 8.
static void write_build(struct build *b, const char *name, int odd) {
    struct text t = {0};
    int pad = (int)((8 - (b->head.len + 2) % 8) % 8) + odd;
    hostile_int(&t, b->head.len + 2 + (size_t)pad, 8);
    text_fmt(&t, "{%s}%*s", b->head.data, pad, "");
    text_add(&t, b->data.data, b->data.len);
    put(name, t.data, t.len);
    text_free(&t);
    text_free(&b->head);
    text_free(&b->data);
}

static struct build tiny(enum dtype d) { // C 8, 1 layer, 2 heads of 8, 1 kv head, F 12, V 10
    struct build b = {{0}, {0}};
#define L0 "model.layers.0."
    add(&b, "model.embed_tokens.weight", d, 10, 8, 1);
    add(&b, L0 "input_layernorm.weight", d, 0, 8, 2);
    add(&b, L0 "self_attn.q_proj.weight", d, 16, 8, 3);
    add(&b, L0 "self_attn.k_proj.weight", d, 8, 8, 4);
    add(&b, L0 "self_attn.v_proj.weight", d, 8, 8, 5);
    add(&b, L0 "self_attn.o_proj.weight", d, 8, 16, 6);
    add(&b, L0 "post_attention_layernorm.weight", d, 0, 8, 7);
    add(&b, L0 "mlp.gate_proj.weight", d, 12, 8, 8);
    add(&b, L0 "mlp.up_proj.weight", d, 12, 8, 9);
    add(&b, L0 "mlp.down_proj.weight", d, 8, 12, 10);
    add(&b, "model.norm.weight", d, 0, 8, 11);
    add(&b, "lm_head.weight", d, 10, 8, 12);
    return b;
}

#define TINY(class, more)                                                                                        \
    "{\"architectures\":[\"" class "\"],\"hidden_size\":8,\"num_hidden_layers\":1,\"intermediate_size\":12,"          \
    "\"num_attention_heads\":2,\"num_key_value_heads\":1,\"head_dim\":8,\"vocab_size\":10,"                         \
    "\"max_position_embeddings\":64,\"rms_norm_eps\":1e-5" more "}"

static void put_tiny(enum dtype d) {
    struct build b = tiny(d);
    write_build(&b, "model.safetensors", 0);
    put_str("config.json", TINY("LlamaForCausalLM", ""));
}

Test(hf, rows_pair_norms_count_from_one_and_odd_addresses_are_copied) {
    put_tiny(DTYPE_F32);
    struct model_file *llama = open_file(dir);
    put_str("config.json", TINY("Qwen2ForCausalLM", ""));
    struct model_file *qwen = open_file(dir);
    const float *pairs = model_file_tensor(llama, "blk.0.attn_q.weight")->data, *halves = model_file_tensor(qwen, "blk.0.attn_q.weight")->data;
    for (int r = 0; r < 16; r++) // row h, 2i+j is row h, j D/2 + i
        cr_assert(!memcmp(pairs + r * 8, halves + (r / 8 * 8 + r % 2 * 4 + r % 8 / 2) * 8, 32), "row %d", r);
    cr_assert((const unsigned char *)halves >= qwen->parts[0].data && (const unsigned char *)halves < qwen->parts[0].data + qwen->parts[0].size,
              "what needs no change stays in the map");
    put_str("config.json", TINY("GemmaForCausalLM", ",\"tie_word_embeddings\":true,\"hidden_act\":\"gelu\""));
    struct model_file *gemma = open_file(dir);
    const float *w = model_file_tensor(qwen, "output_norm.weight")->data, *w1 = model_file_tensor(gemma, "output_norm.weight")->data;
    for (int i = 0; i < 8; i++) cr_assert_eq(w1[i], w[i] + 1);
    cr_assert(model_file_tensor(qwen, "output.weight") && !model_file_tensor(gemma, "output.weight"), "a tied head is the embedding");
    for (int odd_by = 1; odd_by < 4; odd_by++) {
        struct build b = tiny(DTYPE_F32);
        write_build(&b, "model.safetensors", odd_by);
        put_str("config.json", TINY("LlamaForCausalLM", ""));
        struct model_file *odd = open_file(dir);
        same_tensors(llama, odd);
        for (size_t i = 0; i < odd->n_tensors; i++) cr_assert((uintptr_t)odd->tensors[i].data % 4 == 0);
        model_file_close(odd);
    }
    model_file_close(llama), model_file_close(qwen), model_file_close(gemma);
}

Test(hf, llama3_rope_becomes_the_divisors_that_are_known) {
    struct build b = tiny(DTYPE_BF16);
    write_build(&b, "model.safetensors", 0);
    // Llama 3.2 1B: head size 64; expected values as published for it.
    put_str("config.json",
            "{\"architectures\":[\"LlamaForCausalLM\"],\"hidden_size\":8,\"num_hidden_layers\":1,\"intermediate_size\":12,"
            "\"num_attention_heads\":2,\"num_key_value_heads\":1,\"head_dim\":64,\"vocab_size\":10,\"max_position_embeddings\":131072,"
            "\"rms_norm_eps\":1e-5,\"rope_theta\":500000.0,\"rope_scaling\":{\"factor\":32.0,\"high_freq_factor\":4.0,"
            "\"low_freq_factor\":1.0,\"original_max_position_embeddings\":8192,\"rope_type\":\"llama3\"}}");
    struct model_file *f = open_file(dir);
    const struct file_tensor *t = model_file_tensor(f, "rope_freqs.weight");
    cr_assert(t && t->n_dims == 1 && t->size[0] == 32 && t->dtype == DTYPE_F32);
    const float *x = t->data;
    const double middle[] = {1.651, 3.292, 9.667};
    for (int i = 0; i < 15; i++) cr_assert_eq(x[i], 1);
    for (int i = 15; i < 18; i++) cr_assert(fabs((double)x[i] - middle[i - 15]) < 1e-3, "%d: %g", i, (double)x[i]);
    for (int i = 18; i < 32; i++) cr_assert_eq(x[i], 32);
    model_file_close(f);
}

Test(hf, what_lies_beside_the_weights_becomes_keys) {
    put_tiny(DTYPE_F32);
    put_str("config.json", TINY("LlamaForCausalLM", ",\"bos_token_id\":1,\"eos_token_id\":[3,4],\"pad_token_id\":-1"));
    put_str("tokenizer.json", "{}");
    put_str("tokenizer_config.json", "{\"chat_template\":[{\"name\":\"tool_use\",\"template\":\"T\"},{\"template\":\"D\","
                                     "\"name\":\"default\"}],\"add_bos_token\":true,\"added_tokens_decoder\":{\"1\":{}}}");
    struct model_file *f = open_file(dir);
    struct meta_array a;
    struct err err;
    int64_t id = 0;
    cr_assert(text_is(f, "tokenizer.chat_template", "D") && int_of(f, "tokenizer.ggml.bos_token_id") == 1);
    cr_assert(text_is(f, "lehr.tokenizer_json", in_dir("tokenizer.json")) && int_of(f, "tokenizer.ggml.eos_token_id") == 3);
    cr_assert(meta_array_open(f, "lehr.eos_token_ids", META_INT, &a, &err) && a.count == 2 && meta_next_int(&a, &id) && id == 3);
    model_file_close(f);
    put_str("generation_config.json", "{\"eos_token_id\":7,\"bos_token_id\":2,\"temperature\":0.6}");
    put_str("chat_template.jinja", "{{ 'J' }}");
    f = open_file(dir);
    cr_assert(text_is(f, "tokenizer.chat_template", "{{ 'J' }}") && int_of(f, "tokenizer.ggml.bos_token_id") == 2);
    cr_assert(int_of(f, "tokenizer.ggml.eos_token_id") == 7 && meta_kind(f, "lehr.eos_token_ids") == META_ABSENT);
    model_file_close(f);
    put_str("generation_config.json", "{\"eos_token_id\":\"x\"}");
    refused(dir, "generation_config.json: 'eos_token_id' is neither");
    put_str("generation_config.json", "{");
    refused(dir, "generation_config.json: JSON");
    put_str("generation_config.json", "{}");
    put_str("tokenizer_config.json", "{\"chat_template\":");
    refused(dir, "tokenizer_config.json: JSON");
}

// Numbers of a tensor of f (f32) as add() made them for a stream, from a place on.
static bool is_stream(const struct model_file *f, const char *name, size_t from, size_t n, uint64_t stream, size_t stream_from) {
    const struct file_tensor *t = model_file_tensor(f, name);
    cr_assert(t && t->dtype == DTYPE_F32 && t->bytes >= (from + n) * 4, "%s", name);
    for (size_t i = 0; i < n; i++)
        if (((const float *)t->data)[from + i] != (float)(.1 * rng_normal(5, stream, stream_from + i))) return false;
    return true;
}

Test(hf, experts_become_one_tensor) {
    struct build b = {{0}, {0}};
    add(&b, L0 "block_sparse_moe.gate.weight", DTYPE_F32, 2, 8, 1);
    for (int e = 1; e >= 0; e--) {
        static const char *const parts[] = {"w1", "w3", "w2"};
        for (int k = 0; k < 3; k++) {
            char name[96];
            snprintf(name, sizeof name, L0 "block_sparse_moe.experts.%d.%s.weight", e, parts[k]);
            add(&b, name, DTYPE_F32, k == 2 ? 8 : 12, k == 2 ? 12 : 8, (uint64_t)(10 * e + k));
        }
    }
    write_build(&b, "model.safetensors", 0);
    put_str("config.json", TINY("MixtralForCausalLM", ",\"num_local_experts\":2,\"num_experts_per_tok\":1,\"sliding_window\":null"));
    struct model_file *f = open_file(dir);
    cr_assert(int_of(f, "llama.expert_count") == 2 && int_of(f, "llama.expert_used_count") == 1);
    const struct file_tensor *down = model_file_tensor(f, "blk.0.ffn_down_exps.weight");
    cr_assert(down && down->n_dims == 3 && down->size[0] == 2 && down->size[1] == 8 && down->size[2] == 12);
    for (size_t e = 0; e < 2; e++)
        cr_assert(is_stream(f, "blk.0.ffn_gate_exps.weight", e * 96, 96, 10 * e, 0) &&
                  is_stream(f, "blk.0.ffn_up_exps.weight", e * 96, 96, 10 * e + 1, 0) &&
                  is_stream(f, "blk.0.ffn_down_exps.weight", e * 96, 96, 10 * e + 2, 0));
    model_file_close(f);
    put_str("config.json", TINY("MixtralForCausalLM", ",\"num_local_experts\":3,\"num_experts_per_tok\":1"));
    refused(dir, "has 2 experts in the folder, config.json says 3");
    put_str("config.json", TINY("MixtralForCausalLM", ",\"num_local_experts\":4096,\"num_experts_per_tok\":1"));
    refused(dir, "there cannot be 4096 experts of this size");
    put_str("config.json", TINY("MixtralForCausalLM", ",\"num_local_experts\":1,\"num_experts_per_tok\":1"));
    refused(dir, "is of expert 1, but config.json says 1 experts");
    put_str("config.json", TINY("Qwen3MoeForCausalLM", ",\"num_experts\":2,\"num_experts_per_tok\":1"));
    refused(dir, "'norm_topk_prob' is false");
    // GraniteMoe: [E, 2 F, C], written as F rows of gate, then F of up; here as one matrix per expert in a row.
    struct text t = {0};
    for (int i = 0; i < 2 * 24 * 8; i++) {
        float x = (float)(.1 * rng_normal(5, 3, (uint64_t)i));
        text_add(&t, (const char *)&x, 4);
    }
    b = (struct build){{0}, {0}};
    add(&b, L0 "block_sparse_moe.router.layer.weight", DTYPE_F32, 2, 8, 1);
    text_fmt(&b.head, ",\"" L0 "block_sparse_moe.input_linear.weight\":{\"dtype\":\"F32\",\"shape\":[2,24,8],\"data_offsets\":[%zu,%zu]}",
             b.data.len, b.data.len + t.len);
    text_add(&b.data, t.data, t.len);
    text_free(&t);
    write_build(&b, "model.safetensors", 0);
    put_str("config.json", TINY("GraniteMoeForCausalLM", ",\"num_local_experts\":2,\"num_experts_per_tok\":1"));
    f = open_file(dir);
    cr_assert(is_stream(f, "blk.0.ffn_gate_exps.weight", 0, 96, 3, 0) && is_stream(f, "blk.0.ffn_up_exps.weight", 0, 96, 3, 96) &&
              is_stream(f, "blk.0.ffn_gate_exps.weight", 96, 96, 3, 192) && is_stream(f, "blk.0.ffn_up_exps.weight", 96, 96, 3, 288));
    model_file_close(f);
}

Test(hf, folders_without_what_they_need_say_what_is_missing) {
    refused(dir, "is a folder without weights");
    put_str("x.gguf", "GGUF");
    refused(dir, "it holds GGUF files");
    unlink(in_dir("x.gguf"));
    put_str("pytorch_model.bin", "x");
    refused(dir, "PyTorch pickle");
    put_tiny(DTYPE_F32);
    unlink(in_dir("config.json"));
    refused(dir, "has no config.json beside model.safetensors");
    refused(in_dir("model.safetensors"), "has no config.json");
    put_str("config.json", TINY("LlamaForCausalLM", ""));
    put_str("model.safetensors", "version https://git-lfs.github.com/spec/v1\n");
    refused(dir, "git-LFS pointer");
    put_str("model.safetensors", "");
    refused(dir, "too few for a safetensors");
    struct build b = tiny(DTYPE_F32);
    add(&b, "model.layers.0.self_attn.q_proj.lora_A", DTYPE_F32, 2, 2, 3);
    write_build(&b, "model.safetensors", 0);
    refused(dir, "'model.layers.0.self_attn.q_proj.lora_A' is not part of a LlamaForCausalLM");
    b = tiny(DTYPE_F32);
    add(&b, "model.layers.1.mlp.up_proj.weight", DTYPE_F32, 2, 2, 3);
    write_build(&b, "model.safetensors", 0);
    refused(dir, "is of layer 1, but config.json says 1 layers");
    b = tiny(DTYPE_F32);
    add(&b, "norm.weight", DTYPE_F32, 0, 8, 3);
    write_build(&b, "model.safetensors", 0);
    refused(dir, "are both output_norm.weight");
    b = (struct build){{0}, {0}};
    add(&b, "model.layers.0.self_attn.q_proj.weight", DTYPE_F32, 15, 8, 3);
    write_build(&b, "model.safetensors", 0);
    refused(dir, "no 2 heads of an even size");
}

Test(hf, an_index_names_files_of_its_folder_only_and_agrees_with_them) {
    static const struct {
        const char *index, *why;
    } cases[] = {
        {"{\"weight_map\":{\"a\":\"../s.safetensors\"}}", "'../s.safetensors' is no plain name"},
        {"{\"weight_map\":{\"a\":\"/etc/s.safetensors\"}}", "is no plain name"},
        {"{\"weight_map\":{\"a\":\"d\\\\s.safetensors\"}}", "is no plain name"},
        {"{\"weight_map\":{\"a\":\"..\"}}", "is no plain name"},
        {"{\"weight_map\":{\"a\":\".safetensors\"}}", "is no plain name"},
        {"{\"weight_map\":{\"a\":\"\"}}", "is no plain name"},
        {"{\"weight_map\":{\"a\":\"s.safetensors\\u0000\"}}", "is no plain name"},
        {"{\"weight_map\":{\"a\":\"model.bin\"}}", "is no plain name"},
        {"{\"weight_map\":{\"a\":1}}", "expected a string"},
        {"{\"weight_map\":[]}", "expected an object"},
        {"{\"metadata\":{}}", "has no 'weight_map'"},
        {"{\"weight_map\":{\"a\":\"gone.safetensors\"}}", "gone.safetensors: cannot be opened"},
        {"{\"weight_map\":{\"a\":\"s.safetensors\"}}", "puts tensor 'a' into s.safetensors, which does not have it"},
        {"{\"weight_map\":{\"model.norm.weight\":\"s.safetensors\"}}", "does not list"},
        {"{\"weight_map\":{\"a\":\"s.safetensors\",\"a\":\"s.safetensors\"}}", "tensor 'a' is there twice"},
        {"{\"weight_map\":{},\"weight_map\":{}}", "'weight_map' is there twice"},
        {"{\"weight_map\":{\"a\":\"s.safetensors\"}", "JSON"},
    };
    put_str("config.json", TINY("LlamaForCausalLM", ""));
    struct build b = tiny(DTYPE_F32);
    write_build(&b, "s.safetensors", 0);
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        put_str("model.safetensors.index.json", cases[i].index);
        refused(dir, cases[i].why);
    }
}

Test(hf, bent_files_end_in_a_sentence) {
    put_tiny(DTYPE_BF16);
    static const char *const names[] = {"config.json", "model.safetensors"};
    put_str("config.json", TINY("LlamaForCausalLM", ",\"rope_scaling\":{\"type\":\"yarn\",\"factor\":4.0,"
                                "\"original_max_position_embeddings\":128},\"eos_token_id\":[1,2]"));
    for (size_t k = 0; k < COUNT_OF(names); k++) {
        struct text good = {0};
        struct err err;
        size_t opened = 0;
        cr_assert(file_read_all(in_dir(names[k]), 1 << 20, &good, &err));
        for (uint64_t i = 0; i < 1500; i++) {
            struct text bad = {0};
            size_t head = good.len < 1400 ? good.len : 1400;
            text_add(&bad, good.data, good.len);
            if (i < 300) bad.len = good.len * i / 300;
            else
                for (uint64_t n = 1 + rng_below(9, i, 0, 3), j = 0; j < n; j++)
                    bad.data[rng_below(9, i, 2 * j + 1, head)] ^= (char)(1u << rng_below(9, i, 2 * j + 2, 8));
            put(names[k], bad.data, bad.len);
            struct model_file *f = model_file_open(dir, &err);
            cr_assert(f || strlen(err.text) > 20);
            if (f) hostile_walk(f), opened++;
            model_file_close(f);
            text_free(&bad);
        }
        cr_assert(opened > 0 && opened < 1200, "%zu opened", opened);
        put(names[k], good.data, good.len);
        text_free(&good);
    }
}

// --- split GGUF ----------------------------------------------------------------------------------------------------

static void write_part(const char *name, int no, int count, int tensors, const char *const *names, size_t n) {
    struct err err;
    struct gguf_out *o = gguf_out_open(in_dir(name), &err);
    cr_assert(o, "%s", err.text);
    if (!no) gguf_out_text(o, "general.architecture", "llama", 5);
    gguf_out_u32(o, "split.no", (uint32_t)no);
    gguf_out_u32(o, "split.count", (uint32_t)count);
    gguf_out_i32(o, "split.tensors.count", tensors);
    for (size_t i = 0; i < n; i++) gguf_out_tensor(o, names[i], DTYPE_F32, 1, (const int64_t[4]){4});
    for (size_t i = 0; i < n; i++) gguf_out_data(o, (const float[4]){(float)no, (float)i, 2, 3}, 16);
    cr_assert(gguf_out_commit(o, &err), "%s", err.text);
}

Test(hf, a_split_gguf_opens_from_its_first_part) {
    static const char *const ab[] = {"a", "b"}, *const c[] = {"c"};
    write_part("m-00001-of-00003.gguf", 0, 3, 3, NULL, 0);
    write_part("m-00002-of-00003.gguf", 1, 3, 3, ab, 2);
    write_part("m-00003-of-00003.gguf", 2, 3, 3, c, 1);
    struct model_file *f = open_file(in_dir("m-00001-of-00003.gguf"));
    cr_assert_str_eq(model_file_kind(f), "GGUF in 3 parts");
    cr_assert(model_file_tensor_count(f) == 3 && ((const float *)model_file_tensor(f, "c")->data)[0] == 2);
    cr_assert(((const float *)model_file_tensor(f, "b")->data)[1] == 1);
    model_file_close(f);
    refused(in_dir("m-00002-of-00003.gguf"), "is part 2 of 3 of a model: name the first part");
    write_part("m-00003-of-00003.gguf", 2, 3, 3, ab, 1);
    refused(in_dir("m-00001-of-00003.gguf"), "tensor 'a' is in two parts");
    write_part("m-00003-of-00003.gguf", 2, 3, 4, c, 1);
    refused(in_dir("m-00001-of-00003.gguf"), "part 3 of 3 says that it is part 3 of 3 with 4 tensors");
    write_part("m-00003-of-00003.gguf", 1, 3, 3, c, 1);
    refused(in_dir("m-00001-of-00003.gguf"), "says that it is part 2 of 3");
    write_part("m-00003-of-00003.gguf", 2, 3, 3, NULL, 0);
    refused(in_dir("m-00001-of-00003.gguf"), "have 2 tensors where split.tensors.count says 3");
    put_str("m-00003-of-00003.gguf", "<html>");
    refused(in_dir("m-00001-of-00003.gguf"), "is no GGUF file");
    unlink(in_dir("m-00003-of-00003.gguf"));
    refused(in_dir("m-00001-of-00003.gguf"), "part 3 of 3: ");
    write_part("other.gguf", 0, 3, 3, NULL, 0);
    refused(in_dir("other.gguf"), "its name does not end in -00001-of-00003.gguf");
    write_part("one.gguf", 0, 1, 1, c, 1);
    model_file_close(open_file(in_dir("one.gguf")));
}

// --- export --------------------------------------------------------------------------------------------------------

static struct model_file *export_gguf(const struct model_file *f, const char *name, enum dtype d) {
    struct err err;
    struct mix mix = {.name = "", .base = d, .pure = true};
    struct export_options o = {.mix = d == DTYPE_COUNT ? NULL : &mix};
    cr_assert(model_export_gguf(f, in_dir(name), &o, NULL, &err), "%s", err.text);
    return open_file(in_dir(name));
}

Test(hf, gguf_to_folder_and_back_changes_no_bit) {
    for (size_t i = 0; i < COUNT_OF(archs); i++) {
        struct model_file *source = open_file(gguf_of(archs[i]));
        struct err err;
        cr_assert(hf_write(source, in_dir("hf"), DTYPE_F32, NULL, NULL, &err), "%s", err.text);
        struct model_file *hf = open_file(in_dir("hf"));
        same_tensors(source, hf);
        cr_assert(check(source, in_dir("hf")).identical);
        struct model_file *back = export_gguf(hf, "back.gguf", DTYPE_COUNT);
        same_tensors(source, back);
        cr_assert(check(hf, in_dir("back.gguf")).identical);
        cr_assert(meta_kind(back, "lehr.tokenizer_json") == META_ABSENT && int_of(back, "general.file_type") == 0);
        model_file_close(source), model_file_close(hf), model_file_close(back);
    }
}

Test(hf, narrower_folders_compute_nearly_the_same) {
    static const enum dtype dtypes[] = {DTYPE_F16, DTYPE_BF16};
    struct model_file *source = open_file(gguf_of("granite"));
    for (size_t i = 0; i < COUNT_OF(dtypes); i++) {
        struct err err;
        cr_assert(hf_write(source, in_dir("hf"), dtypes[i], NULL, NULL, &err), "%s", err.text);
        struct export_check c = check(source, in_dir("hf"));
        cr_assert(!c.identical && c.kl >= 0 && c.kl < 1e-3 && c.same_top == c.positions, "KL %g", c.kl);
        struct model_file *hf = open_file(in_dir("hf"));
        cr_assert(model_file_tensor(hf, "blk.0.attn_q.weight")->dtype == dtypes[i]);
        cr_assert(model_file_tensor(hf, "output_norm.weight")->dtype == DTYPE_F32);
        model_file_close(hf);
    }
    model_file_close(source);
}

Test(hf, quantizing_goes_by_the_table_of_dtypes) {
    struct model_file *source = open_file(gguf_of("llama"));
    for (int d = 0; d < DTYPE_COUNT; d++) {
        if (!dtype_row((enum dtype)d)->from_f32 || !cpu()->supports(OP_MATMUL, (enum dtype)d)) continue;
        struct text notes = {0};
        struct err err;
        struct mix mix = {.name = dtype_row((enum dtype)d)->name, .base = (enum dtype)d, .pure = true};
        struct export_options o = {.mix = &mix};
        cr_assert(model_export_gguf(source, in_dir("q.gguf"), &o, &notes, &err), "%s", err.text);
        struct model_file *q = open_file(in_dir("q.gguf"));
        cr_assert(model_file_tensor(q, "token_embd.weight")->dtype == dtype_that_divides((enum dtype)d, 32));
        cr_assert(model_file_tensor(q, "blk.1.ffn_norm.weight")->dtype == DTYPE_F32);
        bool narrow = dtype_row((enum dtype)d)->block_weights > 1; // ffn_down has rows of 48
        cr_assert(narrow == (notes.len > 0), "%s: %s", dtype_row((enum dtype)d)->name, notes.data ? notes.data : "");
        struct export_check c = check(source, in_dir("q.gguf"));
        cr_assert(c.kl < .2 && (d == DTYPE_F32) == c.identical, "%s: KL %g", dtype_row((enum dtype)d)->name, c.kl);
        model_file_close(q);
        text_free(&notes);
    }
    model_file_close(source);
}

// Runs ./run with the rest of a command line; 128 + signal or the exit code.
static int run(const char *arguments) {
    char command[1024];
    snprintf(command, sizeof command, PROGRAMS "/run %s >'%s/out' 2>'%s/err'", arguments, dir, dir);
    int status = system(command);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static bool said(const char *words) {
    struct text t = {0};
    struct err err;
    cr_assert(file_read_all(in_dir("err"), 1 << 20, &t, &err));
    bool found = t.data && strstr(t.data, words);
    if (!found) fprintf(stderr, "expected '%s' in: %s\n", words, t.data);
    text_free(&t);
    return found;
}

Test(hf, the_program_exports_compares_and_tells) {
    char line[512];
    snprintf(line, sizeof line, "-m " GOLDEN "hf_granite --export gguf -o %s/g.gguf", dir);
    cr_assert(run(line) == 0 && said("logits of 24 positions are identical") && said("g.gguf: written") && said("carries no tokenizer"));
    snprintf(line, sizeof line, "-m %s/g.gguf --export hf --dtype bf16 -o %s/sub/hf", dir, dir);
    cr_assert(run(line) == 0 && said("KL") && said("tokenizer.json is not written"));
    snprintf(line, sizeof line, "-m %s/g.gguf --quantize q8_0 -o %s/q.gguf", dir, dir);
    cr_assert(run(line) == 0 && said("KL") && said("no multiple of 32") && said("that one F16"));
    cr_assert(run("-m " GOLDEN "model_llama.gguf --quantize q8_0") == 2 && said("needs -o PATH"));
    cr_assert(run("-m " GOLDEN "model_llama.gguf --quantize q9 -o x") == 2 && said("--quantize q9"));
    cr_assert(run("-m " GOLDEN "model_llama.gguf --export onnx -o x") == 2 && said("expected gguf or hf"));
    cr_assert(run("-m " GOLDEN "model_llama.gguf --export hf -o /dev/null/x") == 1);
    cr_assert(run("-m " GOLDEN "model_llama.gguf --export gguf -o /nowhere/x.gguf") == 1 && said("cannot be created"));
}

// --- tokenizer.json ------------------------------------------------------------------------------------------------

// A GGUF with nothing but tokenizer keys.
static struct model_file *with_tokenizer(void) {
    struct err err;
    struct gguf_out *o = gguf_out_open(in_dir("t.gguf"), &err);
    const struct span tokens[] = {{"<s>\"\n", 5}, {"a", 1}, {"<unk>", 5}, {"</s>", 4}, {"<eot>", 5}, {"b", 1}};
    cr_assert(o);
    gguf_out_text(o, "general.architecture", "llama", 5);
    gguf_out_text(o, "tokenizer.ggml.model", "llama", 5);
    gguf_out_texts(o, "tokenizer.ggml.tokens", tokens, 6);
    gguf_out_i32s(o, "tokenizer.ggml.token_type", (const int32_t[]){3, 1, 2, 3, 3, 1}, 6);
    gguf_out_u32(o, "tokenizer.ggml.bos_token_id", 0);
    gguf_out_u32(o, "tokenizer.ggml.eos_token_id", 3);
    gguf_out_u32(o, "tokenizer.ggml.eot_token_id", 4);
    gguf_out_u32(o, "tokenizer.ggml.unknown_token_id", 2);
    gguf_out_u32(o, "tokenizer.ggml.padding_token_id", 5);
    gguf_out_text(o, "tokenizer.chat_template", "{{ x }}\n", 8);
    cr_assert(gguf_out_commit(o, &err), "%s", err.text);
    return open_file(in_dir("t.gguf"));
}

static struct text written(const char *name) {
    struct text t = {0};
    struct err err;
    struct json j;
    cr_assert(file_read_all(in_dir(name), 1 << 20, &t, &err), "%s", err.text);
    json_open(&j, t.data, t.len);
    cr_assert(json_skip(&j) && json_done(&j, &err), "%s: %s", name, err.text);
    return t;
}

Test(hf, files_beside_the_tokenizer_name_its_tokens) {
    struct model_file *f = with_tokenizer();
    struct err err;
    struct text json = {0};
    text_str(&json, "{}\n");
    cr_assert(hf_write_tokenizer(f, dir, &json, &err), "%s", err.text);
    struct text t = written("tokenizer.json"), c = written("tokenizer_config.json"), g = written("generation_config.json");
    cr_expect_str_eq(t.data, "{}\n");
    cr_expect(strstr(c.data, "\"chat_template\":\"{{ x }}\\n\"") && strstr(c.data, "\"eos_token\":\"</s>\""));
    cr_expect(strstr(c.data, "\"bos_token\":\"<s>\\\"\\n\"") && strstr(c.data, "\"unk_token\":\"<unk>\""));
    cr_expect(!strstr(c.data, "pad_token"), "a token of text would be split out");
    cr_expect(strstr(g.data, "\"eos_token_id\":[3,4]"));
    text_free(&t), text_free(&c), text_free(&g), text_free(&json);
    model_file_close(f);
}
