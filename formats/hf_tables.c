// hf_tables.c: the words of Hugging Face folders and those of GGUF, side by side.
//
// Three tables, each read in both directions, by hf_config.c and hf_folder.c (folder to GGUF) and by hf_write*.c (back):
//   hf_families  a class of transformers and the GGUF architecture that computes the same
//   hf_numbers   numbers of config.json that GGUF has as they are; what takes arithmetic (rope, windows, heads) is code
//   rules        names of tensors, and what their numbers go through on the way
// A family is a set of traits; a row of the other tables names the traits it belongs to. Where several classes write one
// architecture, the first that fits is what a folder is written as: plain Llama before Mistral, which has a window.
#include "formats/internal.h"

#include <inttypes.h>
#include <string.h>

#define SMOOTH (HF_BLOCKS | HF_EPS_RMS)
#define LLAMA (SMOOTH | HF_ADJACENT | HF_PLAIN | HF_SPLIT)
#define QWEN (SMOOTH | HF_PLAIN | HF_SPLIT | HF_WINDOW | HF_WINDOW_SWITCH)
#define GEMMA (SMOOTH | HF_PLUS_ONE | HF_TIED | HF_SPLIT)
#define GEMMA3 (GEMMA | HF_SANDWICH | HF_CAPS | HF_WINDOW | HF_LOCAL_ROPE)
#define OLMO2 (SMOOTH | HF_SANDWICH | HF_SPLIT | HF_BIAS_SWITCH)
#define OLMOE (SMOOTH | HF_PLAIN | HF_SPLIT | HF_BIAS_SWITCH | HF_QWEN_MOE | HF_NORM_SWITCH)
#define GRANITE (LLAMA | HF_MULTIPLIERS | HF_BIAS_SWITCH)
#define STABLE (HF_BLOCKS | HF_PLAIN | HF_SPLIT | HF_EPS_LAYER | HF_KV_FREE)
#define COHERE (HF_BLOCKS | HF_SPLIT | HF_EPS_LAYER | HF_KV_FREE | HF_TIED | HF_COHERE | HF_BIAS_SWITCH)
#define TANH "gelu_pytorch_tanh"

const struct hf_family hf_families[] = {
    {"LlamaForCausalLM", "llama", "llama", LLAMA | HF_BIAS_SWITCH | HF_MLP_SWITCH | HF_KV_FREE, "silu", 1e4, .period = 1},
    {"MistralForCausalLM", "mistral", "llama", LLAMA | HF_WINDOW, "silu", 1e4, .period = 0},
    {"MinistralForCausalLM", "ministral", "llama", LLAMA | HF_WINDOW, "silu", 1e4, .period = 0},
    {"MixtralForCausalLM", "mixtral", "llama", LLAMA | HF_WINDOW | HF_MIXTRAL, "silu", 1e6, .normed = true},
    {"Ministral3ForCausalLM", "ministral3", "mistral3", LLAMA | HF_WINDOW | HF_BY_POSITION | HF_STRETCHED, "silu", 1e6, .period = 0},
    {"SmolLM3ForCausalLM", "smollm3", "smollm3", LLAMA | HF_TIED | HF_BIAS_SWITCH | HF_MLP_SWITCH | HF_NO_ROPE, "silu", 2e6,
     .period = 1},
    {"ArceeForCausalLM", "arcee", "arcee", LLAMA | HF_BIAS_SWITCH | HF_MLP_SWITCH | HF_KV_FREE, "relu2", 1e4, .period = 1},
    {"GraniteForCausalLM", "granite", "granite", GRANITE | HF_MLP_SWITCH, "silu", 1e4, .period = 1},
    {"GraniteMoeForCausalLM", "granitemoe", "granitemoe", GRANITE | HF_GRANITE_MOE, "silu", 1e4, .period = 1, .normed = true},
    {"GraniteMoeSharedForCausalLM", "granitemoeshared", "granitemoe", GRANITE | HF_GRANITE_MOE | HF_GRANITE_SHARED, "silu",
     1e4, .period = 1, .normed = true},
    {"MiniCPMForCausalLM", "minicpm", "minicpm", LLAMA | HF_TIED | HF_MINICPM, "silu", 1e4, .period = 1},
    {"Qwen2ForCausalLM", "qwen2", "qwen2", QWEN | HF_BIAS_QKV, "silu", 1e4, .period = 1},
    {"Qwen3ForCausalLM", "qwen3", "qwen3", QWEN | HF_BIAS_SWITCH, "silu", 1e4, .period = 1},
    {"Qwen2MoeForCausalLM", "qwen2_moe", "qwen2moe", QWEN | HF_BIAS_QKV | HF_QWEN_MOE | HF_SHARED | HF_NORM_SWITCH | HF_MOE_WIDTH,
     "silu", 1e4, .period = 1},
    {"Qwen3MoeForCausalLM", "qwen3_moe", "qwen3moe", QWEN | HF_BIAS_SWITCH | HF_QWEN_MOE | HF_NORM_SWITCH | HF_MOE_WIDTH,
     "silu", 1e4, .period = 1, .normed = true},
    {"GemmaForCausalLM", "gemma", "gemma", GEMMA | HF_PLAIN | HF_BIAS_SWITCH, TANH, 1e4, .period = 1, .act2 = "gelu"},
    {"Gemma2ForCausalLM", "gemma2", "gemma2", GEMMA | HF_SANDWICH | HF_CAPS | HF_WINDOW, TANH, 1e4, .period = 2, .act2 = "gelu"},
    {"Gemma3ForCausalLM", "gemma3_text", "gemma3", GEMMA3, TANH, 1e6, .period = 6, .act2 = "gelu"},
    {"Gemma3ForConditionalGeneration", "gemma3", "gemma3", GEMMA3 | HF_TEXT_PART, TANH, 1e6, .period = 6, .act2 = "gelu"},
    {"OlmoForCausalLM", "olmo", "olmo", HF_BLOCKS | HF_ADJACENT | HF_SPLIT | HF_KV_FREE | HF_CLIP, "silu", 1e4, .period = 1},
    {"Olmo2ForCausalLM", "olmo2", "olmo2", OLMO2, "silu", 1e4, .period = 1},
    {"Olmo3ForCausalLM", "olmo3", "olmo2", OLMO2 | HF_WINDOW | HF_LOCAL_ROPE | HF_KV_FREE, "silu", 5e5, .period = 4},
    {"OlmoeForCausalLM", "olmoe", "olmoe", OLMOE, "silu", 1e4, .period = 1},
    {"SeedOssForCausalLM", "seed_oss", "seed_oss", SMOOTH | HF_SANDWICH | HF_SPLIT | HF_BIAS_OUT, "silu", 1e4, .period = 1},
    {"Exaone4ForCausalLM", "exaone4", "exaone4", SMOOTH | HF_SANDWICH | HF_SPLIT | HF_WINDOW | HF_WINDOW_FREE, "silu", 1e4,
     .period = 4},
    {"Phi3ForCausalLM", "phi3", "phi3", SMOOTH | HF_PLAIN | HF_JOINED | HF_WINDOW, "silu", 1e4, .period = 0},
    {"PhiForCausalLM", "phi", "phi2", HF_BLOCKS | HF_SPLIT | HF_EPS_LAYER | HF_KV_FREE | HF_BIAS_ALL | HF_PHI2, "gelu_new", 1e4,
     .period = 1, .act2 = TANH, .part = .5},
    {"GPTNeoXForCausalLM", "gpt_neox", "gptneox", HF_BLOCKS | HF_PLAIN | HF_EPS_LAYER | HF_KV_FREE | HF_PARALLEL | HF_NEOX, "gelu",
     1e4, .period = 1, .part = .25},
    {"StableLmForCausalLM", "stablelm", "stablelm", STABLE | HF_PARALLEL | HF_BIAS_STABLE, "silu", 1e4, .period = 1, .part = .25},
    {"Starcoder2ForCausalLM", "starcoder2", "starcoder2",
     HF_BLOCKS | HF_PLAIN | HF_SPLIT | HF_EPS_STAR | HF_TIED | HF_WINDOW | HF_BIAS_ALL | HF_STARCODER, TANH, 1e4, .period = 0},
    {"NemotronForCausalLM", "nemotron", "nemotron",
     HF_BLOCKS | HF_PLAIN | HF_SPLIT | HF_EPS_SHORT | HF_PLUS_ONE | HF_KV_FREE | HF_BIAS_SWITCH | HF_MLP_SWITCH, "relu2", 1e4,
     .period = 1, .part = .5},
    {"CohereForCausalLM", "cohere", "command-r", COHERE, "silu", 1e4, .period = 1},
    {"Cohere2ForCausalLM", "cohere2", "cohere2", COHERE | HF_WINDOW, "silu", 1e4, .period = 4},
    {"GptOssForCausalLM", "gpt_oss", "gpt-oss",
     SMOOTH | HF_SANDWICH | HF_SPLIT | HF_BIAS_SWITCH | HF_WINDOW | HF_GPT_OSS | HF_STRETCHED, "silu", 1.5e5, .period = 2,
     .normed = true},
    {"GPT2LMHeadModel", "gpt2", "gpt2", HF_GPT2 | HF_TIED, "gelu_new", 0, .period = 1, .act2 = TANH},
};
const size_t hf_family_count = COUNT_OF(hf_families);

const struct hf_number hf_numbers[] = {
    {"hidden_size", "embedding_length", HF_BLOCKS, HF_WHOLE, HF_NEEDED, 1, 1 << 17},
    {"num_hidden_layers", "block_count", HF_BLOCKS, HF_WHOLE, HF_NEEDED, 1, 1024},
    {"num_attention_heads", "attention.head_count", HF_BLOCKS, HF_WHOLE, HF_NEEDED, 1, 1024},
    {"intermediate_size", "feed_forward_length", HF_BLOCKS, HF_WHOLE, HF_NEEDED, 1, 1 << 20},
    {"max_position_embeddings", "context_length", HF_BLOCKS, HF_WHOLE, HF_NEEDED, 1, 1 << 24},
    {"rms_norm_eps", "attention.layer_norm_rms_epsilon", HF_EPS_RMS, HF_REAL, HF_NEEDED, 1e-30, 1},
    {"layer_norm_eps", "attention.layer_norm_epsilon", HF_EPS_LAYER, HF_REAL, HF_NEEDED, 1e-30, 1},
    {"norm_eps", "attention.layer_norm_epsilon", HF_EPS_SHORT, HF_REAL, HF_NEEDED, 1e-30, 1},
    {"norm_epsilon", "attention.layer_norm_epsilon", HF_EPS_STAR, HF_REAL, HF_NEEDED, 1e-30, 1},
    {"logit_scale", "logit_scale", HF_COHERE, HF_REAL, HF_NEEDED, 1e-6, 1e6},
    {"clip_qkv", "attention.clamp_kqv", HF_CLIP, HF_REAL, HF_MAYBE, 1e-6, 1e6},
    {"n_embd", "embedding_length", HF_GPT2, HF_WHOLE, HF_NEEDED, 1, 1 << 17},
    {"n_layer", "block_count", HF_GPT2, HF_WHOLE, HF_NEEDED, 1, 1024},
    {"n_head", "attention.head_count", HF_GPT2, HF_WHOLE, HF_NEEDED, 1, 1024},
    {"n_inner", "feed_forward_length", HF_GPT2, HF_WHOLE, HF_MAYBE, 1, 1 << 20},
    {"n_positions", "context_length", HF_GPT2, HF_WHOLE, HF_NEEDED, 1, 1 << 24},
    {"layer_norm_epsilon", "attention.layer_norm_epsilon", HF_GPT2, HF_REAL, HF_NEEDED, 1e-30, 1},
    {"embedding_multiplier", "embedding_scale", HF_MULTIPLIERS, HF_REAL, HF_ONE, 1e-12, 1e6},
    {"attention_multiplier", "attention.scale", HF_MULTIPLIERS, HF_REAL, HF_ONE, 1e-12, 1e6},
    {"residual_multiplier", "residual_scale", HF_MULTIPLIERS, HF_REAL, HF_ONE, 1e-12, 1e6},
    {"logits_scaling", "logit_scale", HF_MULTIPLIERS, HF_REAL, HF_ONE, 1e-12, 1e6},
    {"num_local_experts", "expert_count", HF_MIXTRAL | HF_GRANITE_MOE | HF_GPT_OSS, HF_WHOLE, HF_NEEDED, 1, 4096},
    {"num_experts", "expert_count", HF_QWEN_MOE, HF_WHOLE, HF_NEEDED, 1, 4096},
    {"num_experts_per_tok", "expert_used_count", HF_EXPERTS, HF_WHOLE, HF_NEEDED, 1, 4096},
    {"moe_intermediate_size", "expert_feed_forward_length", HF_MOE_WIDTH, HF_WHOLE, HF_MAYBE, 1, 1 << 20},
    {"shared_expert_intermediate_size", "expert_shared_feed_forward_length", HF_SHARED, HF_WHOLE, HF_NEEDED, 1, 1 << 20},
    {"shared_intermediate_size", "expert_shared_feed_forward_length", HF_GRANITE_SHARED, HF_WHOLE, HF_NEEDED, 1, 1 << 20},
};
const size_t hf_number_count = COUNT_OF(hf_numbers);

const struct hf_number *hf_number_of(const struct hf_family *family, struct span gguf) {
    for (size_t i = 0; i < hf_number_count; i++)
        if ((hf_numbers[i].in & family->traits) && span_is(gguf, hf_numbers[i].gguf)) return &hf_numbers[i];
    return NULL;
}

const struct hf_family *hf_family_of(struct span arch, bool experts, bool shared, bool window) {
    const struct hf_family *found = NULL;
    for (size_t i = 0; i < hf_family_count; i++) {
        const struct hf_family *f = &hf_families[i];
        bool fits = span_is(arch, f->arch) && !(f->traits & HF_TEXT_PART) && experts == ((f->traits & HF_EXPERTS) != 0) &&
                    shared == ((f->traits & (HF_SHARED | HF_GRANITE_SHARED)) != 0);
        if (fits && (!found || (window && !(found->traits & HF_WINDOW)))) found = f;
    }
    return found;
}

void hf_up_beside(const char *gate, char up[65]) {
    const char *at = strstr(gate, "gate_");
    assert(at);
    snprintf(up, 65, "%.*sup_%s", (int)(at - gate), gate, at + 5);
}

// ---------------------------------------------------------------------------------------------------------------
// Names of tensors.

#define BIASES (HF_BIAS_QKV | HF_BIAS_SWITCH | HF_BIAS_OUT | HF_BIAS_STABLE | HF_BIAS_ALL)

#define NORM_BIAS (HF_LAYER_NORM & ~HF_GPT2)

static const struct rule {
    const char *hf, *gguf; // behind "model.layers.N." and "blk.N." when per_layer, else behind "model."
    bool per_layer;
    uint64_t in;
    enum hf_change change;
} rules[] = { // the first that fits names a tensor, so what few families have stands first
    {"final_layernorm.weight", "output_norm.weight", false, HF_PHI2, HF_AS_IS},
    {"final_layernorm.bias", "output_norm.bias", false, HF_PHI2, HF_AS_IS},
    {"lm_head.bias", "output.bias", false, HF_PHI2, HF_AS_IS},
    {"self_attn.dense.weight", "attn_output.weight", true, HF_PHI2, HF_AS_IS},
    {"self_attn.dense.bias", "attn_output.bias", true, HF_PHI2, HF_AS_IS},
    {"mlp.fc1.weight", "ffn_up.weight", true, HF_PHI2, HF_AS_IS},
    {"mlp.fc1.bias", "ffn_up.bias", true, HF_PHI2, HF_AS_IS},
    {"mlp.fc2.weight", "ffn_down.weight", true, HF_PHI2, HF_AS_IS},
    {"mlp.fc2.bias", "ffn_down.bias", true, HF_PHI2, HF_AS_IS},
    {"mlp.c_fc.weight", "ffn_up.weight", true, HF_STARCODER, HF_AS_IS},
    {"mlp.c_fc.bias", "ffn_up.bias", true, HF_STARCODER, HF_AS_IS},
    {"mlp.c_proj.weight", "ffn_down.weight", true, HF_STARCODER, HF_AS_IS},
    {"mlp.c_proj.bias", "ffn_down.bias", true, HF_STARCODER, HF_AS_IS},
    {"embed_in.weight", "token_embd.weight", false, HF_NEOX, HF_AS_IS},
    {"embed_out.weight", "output.weight", false, HF_NEOX, HF_AS_IS},
    {"final_layer_norm.weight", "output_norm.weight", false, HF_NEOX, HF_AS_IS},
    {"final_layer_norm.bias", "output_norm.bias", false, HF_NEOX, HF_AS_IS},
    {"attention.query_key_value.weight", "attn_qkv.weight", true, HF_NEOX, HF_HEADS},
    {"attention.query_key_value.bias", "attn_qkv.bias", true, HF_NEOX, HF_HEADS},
    {"attention.dense.weight", "attn_output.weight", true, HF_NEOX, HF_AS_IS},
    {"attention.dense.bias", "attn_output.bias", true, HF_NEOX, HF_AS_IS},
    {"attention.rotary_emb.inv_freq", "", true, HF_NEOX, HF_SKIP},
    {"attention.bias", "", true, HF_NEOX, HF_SKIP}, // the causal mask
    {"attention.masked_bias", "", true, HF_NEOX, HF_SKIP},
    {"mlp.dense_h_to_4h.weight", "ffn_up.weight", true, HF_NEOX, HF_AS_IS},
    {"mlp.dense_h_to_4h.bias", "ffn_up.bias", true, HF_NEOX, HF_AS_IS},
    {"mlp.dense_4h_to_h.weight", "ffn_down.weight", true, HF_NEOX, HF_AS_IS},
    {"mlp.dense_4h_to_h.bias", "ffn_down.bias", true, HF_NEOX, HF_AS_IS},
    {"shared_mlp.input_linear.weight", "ffn_gate_shexp.weight", true, HF_GRANITE_SHARED, HF_HALVES},
    {"shared_mlp.output_linear.weight", "ffn_down_shexp.weight", true, HF_GRANITE_SHARED, HF_AS_IS},
    {"mlp.router.weight", "ffn_gate_inp.weight", true, HF_GPT_OSS, HF_AS_IS},
    {"mlp.router.bias", "ffn_gate_inp.bias", true, HF_GPT_OSS, HF_AS_IS},
    {"mlp.experts.gate_up_proj", "ffn_gate_exps.weight", true, HF_GPT_OSS, HF_INTERLEAVED},
    {"mlp.experts.gate_up_proj_bias", "ffn_gate_exps.bias", true, HF_GPT_OSS, HF_INTERLEAVED},
    {"mlp.experts.down_proj", "ffn_down_exps.weight", true, HF_GPT_OSS, HF_TURNED},
    {"mlp.experts.down_proj_bias", "ffn_down_exps.bias", true, HF_GPT_OSS, HF_AS_IS},
    {"self_attn.sinks", "attn_sinks.weight", true, HF_GPT_OSS, HF_AS_IS},
    {"norm.bias", "output_norm.bias", false, NORM_BIAS, HF_AS_IS},
    {"input_layernorm.bias", "attn_norm.bias", true, NORM_BIAS, HF_AS_IS},
    {"post_attention_layernorm.bias", "ffn_norm.bias", true, NORM_BIAS, HF_AS_IS},
    {"embed_tokens.weight", "token_embd.weight", false, HF_BLOCKS, HF_AS_IS},
    {"norm.weight", "output_norm.weight", false, HF_BLOCKS, HF_NORM},
    {"lm_head.weight", "output.weight", false, HF_BLOCKS | HF_GPT2, HF_AS_IS},
    {"input_layernorm.weight", "attn_norm.weight", true, HF_BLOCKS, HF_NORM},
    {"self_attn.q_proj.weight", "attn_q.weight", true, HF_SPLIT, HF_ROWS_Q},
    {"self_attn.k_proj.weight", "attn_k.weight", true, HF_SPLIT, HF_ROWS_K},
    {"self_attn.v_proj.weight", "attn_v.weight", true, HF_SPLIT, HF_AS_IS},
    {"self_attn.o_proj.weight", "attn_output.weight", true, HF_BLOCKS, HF_AS_IS},
    {"self_attn.q_proj.bias", "attn_q.bias", true, BIASES, HF_ROWS_Q},
    {"self_attn.k_proj.bias", "attn_k.bias", true, BIASES, HF_ROWS_K},
    {"self_attn.v_proj.bias", "attn_v.bias", true, BIASES, HF_AS_IS},
    {"self_attn.o_proj.bias", "attn_output.bias", true, HF_BIAS_SWITCH | HF_BIAS_OUT | HF_BIAS_ALL, HF_AS_IS},
    {"self_attn.q_norm.weight", "attn_q_norm.weight", true, HF_BLOCKS, HF_NORM},
    {"self_attn.k_norm.weight", "attn_k_norm.weight", true, HF_BLOCKS, HF_NORM},
    {"self_attn.rotary_emb.inv_freq", "", true, HF_BLOCKS, HF_SKIP},
    {"post_attention_layernorm.weight", "ffn_norm.weight", true, HF_PLAIN, HF_NORM},
    {"post_attention_layernorm.weight", "post_attention_norm.weight", true, HF_SANDWICH, HF_NORM},
    {"pre_feedforward_layernorm.weight", "ffn_norm.weight", true, HF_SANDWICH, HF_NORM},
    {"post_feedforward_layernorm.weight", "post_ffw_norm.weight", true, HF_SANDWICH, HF_NORM},
    {"mlp.gate_proj.weight", "ffn_gate.weight", true, HF_SPLIT, HF_AS_IS},
    {"mlp.up_proj.weight", "ffn_up.weight", true, HF_SPLIT, HF_AS_IS},
    {"mlp.down_proj.weight", "ffn_down.weight", true, HF_BLOCKS, HF_AS_IS},
    {"mlp.gate_proj.bias", "ffn_gate.bias", true, HF_MLP_SWITCH, HF_AS_IS},
    {"mlp.up_proj.bias", "ffn_up.bias", true, HF_MLP_SWITCH, HF_AS_IS},
    {"mlp.down_proj.bias", "ffn_down.bias", true, HF_MLP_SWITCH, HF_AS_IS},
    {"self_attn.qkv_proj.weight", "attn_qkv.weight", true, HF_JOINED, HF_AS_IS}, // queries, keys, values
    {"mlp.gate_up_proj.weight", "ffn_up.weight", true, HF_JOINED, HF_AS_IS},
    {"mlp.gate.weight", "ffn_gate_inp.weight", true, HF_QWEN_MOE, HF_AS_IS},
    {"mlp.experts.*.gate_proj.weight", "ffn_gate_exps.weight", true, HF_QWEN_MOE, HF_EXPERT},
    {"mlp.experts.*.up_proj.weight", "ffn_up_exps.weight", true, HF_QWEN_MOE, HF_EXPERT},
    {"mlp.experts.*.down_proj.weight", "ffn_down_exps.weight", true, HF_QWEN_MOE, HF_EXPERT},
    {"mlp.shared_expert.gate_proj.weight", "ffn_gate_shexp.weight", true, HF_SHARED, HF_AS_IS},
    {"mlp.shared_expert.up_proj.weight", "ffn_up_shexp.weight", true, HF_SHARED, HF_AS_IS},
    {"mlp.shared_expert.down_proj.weight", "ffn_down_shexp.weight", true, HF_SHARED, HF_AS_IS},
    {"mlp.shared_expert_gate.weight", "ffn_gate_inp_shexp.weight", true, HF_SHARED, HF_VECTOR},
    {"block_sparse_moe.gate.weight", "ffn_gate_inp.weight", true, HF_MIXTRAL, HF_AS_IS},
    {"block_sparse_moe.experts.*.w1.weight", "ffn_gate_exps.weight", true, HF_MIXTRAL, HF_EXPERT},
    {"block_sparse_moe.experts.*.w3.weight", "ffn_up_exps.weight", true, HF_MIXTRAL, HF_EXPERT},
    {"block_sparse_moe.experts.*.w2.weight", "ffn_down_exps.weight", true, HF_MIXTRAL, HF_EXPERT},
    {"block_sparse_moe.router.layer.weight", "ffn_gate_inp.weight", true, HF_GRANITE_MOE, HF_AS_IS},
    {"block_sparse_moe.input_linear.weight", "ffn_gate_exps.weight", true, HF_GRANITE_MOE, HF_HALVES},
    {"block_sparse_moe.output_linear.weight", "ffn_down_exps.weight", true, HF_GRANITE_MOE, HF_AS_IS},
    {"wte.weight", "token_embd.weight", false, HF_GPT2, HF_AS_IS},
    {"wpe.weight", "position_embd.weight", false, HF_GPT2, HF_AS_IS},
    {"ln_f.weight", "output_norm.weight", false, HF_GPT2, HF_AS_IS},
    {"ln_f.bias", "output_norm.bias", false, HF_GPT2, HF_AS_IS},
    {"ln_1.weight", "attn_norm.weight", true, HF_GPT2, HF_AS_IS},
    {"ln_1.bias", "attn_norm.bias", true, HF_GPT2, HF_AS_IS},
    {"attn.c_attn.weight", "attn_qkv.weight", true, HF_GPT2, HF_TRANSPOSE},
    {"attn.c_attn.bias", "attn_qkv.bias", true, HF_GPT2, HF_AS_IS},
    {"attn.c_proj.weight", "attn_output.weight", true, HF_GPT2, HF_TRANSPOSE},
    {"attn.c_proj.bias", "attn_output.bias", true, HF_GPT2, HF_AS_IS},
    {"attn.bias", "", true, HF_GPT2, HF_SKIP}, // the causal mask
    {"attn.masked_bias", "", true, HF_GPT2, HF_SKIP},
    {"ln_2.weight", "ffn_norm.weight", true, HF_GPT2, HF_AS_IS},
    {"ln_2.bias", "ffn_norm.bias", true, HF_GPT2, HF_AS_IS},
    {"mlp.c_fc.weight", "ffn_up.weight", true, HF_GPT2, HF_TRANSPOSE},
    {"mlp.c_fc.bias", "ffn_up.bias", true, HF_GPT2, HF_AS_IS},
    {"mlp.c_proj.weight", "ffn_down.weight", true, HF_GPT2, HF_TRANSPOSE},
    {"mlp.c_proj.bias", "ffn_down.bias", true, HF_GPT2, HF_AS_IS},
};

static bool begins(struct span *s, const char *head) {
    size_t n = strlen(head);
    if (s->n <= n || memcmp(s->p, head, n)) return false;
    *s = (struct span){s->p + n, s->n - n};
    return true;
}

// "layers.12.rest": the number and what follows; -1 when it does not begin so.
static int64_t layer_number(struct span *s, const char *head) {
    struct span rest = *s;
    int64_t l = 0;
    size_t at = 0;
    if (!begins(&rest, head)) return -1;
    for (; at < rest.n && rest.p[at] >= '0' && rest.p[at] <= '9' && at < 6; at++) l = l * 10 + (rest.p[at] - '0');
    bool odd = at == 0 || (rest.p[0] == '0' && at > 1); // "layers.007" names no layer
    if (odd || at == rest.n || rest.p[at] != '.') return -1;
    *s = (struct span){rest.p + at + 1, rest.n - at - 1};
    return l;
}

// A '*' in the pattern stands for a number without leading zeros.
static bool matches(struct span s, const char *pattern, int64_t *number) {
    size_t at = 0;
    for (; *pattern; pattern++) {
        if (*pattern != '*') {
            if (at == s.n || s.p[at++] != *pattern) return false;
            continue;
        }
        size_t from = at;
        for (*number = 0; at < s.n && s.p[at] >= '0' && s.p[at] <= '9' && at - from < 6; at++)
            *number = *number * 10 + (s.p[at] - '0');
        if (at == from || (s.p[from] == '0' && at - from > 1)) return false;
    }
    return at == s.n;
}

// Eyes and ears of a model whose text part is read; the part's own names stand behind "language_model".
static bool beside_text(struct span *s) {
    static const char *const others[] = {"vision_tower.", "multi_modal_projector.", "audio_tower.", "vision_model."};
    struct span rest = *s;
    begins(&rest, "model.");
    for (size_t i = 0; i < COUNT_OF(others); i++)
        if (begins(&rest, others[i])) return true;
    if (begins(&rest, "language_model.")) *s = rest;
    return false;
}

static enum hf_change change_of(const struct rule *r, const struct hf_family *f) {
    if (!(f->traits & HF_ADJACENT) && (r->change == HF_ROWS_Q || r->change == HF_ROWS_K)) return HF_AS_IS;
    if (!(f->traits & HF_PLUS_ONE) && r->change == HF_NORM) return HF_AS_IS;
    return r->change;
}

static const char *prefix_of(const struct hf_family *f) {
    return f->traits & HF_GPT2 ? "transformer." : f->traits & HF_NEOX ? "gpt_neox." : "model.";
}
static bool is_head(const struct rule *r) { return !strncmp(r->gguf, "output.", 7); }

bool hf_tensor_name(const struct hf_model *m, struct span hf, struct hf_place *place, struct err *err) {
    bool gpt2 = m->family->traits & HF_GPT2;
    struct span rest = hf;
    char shown[SHOWN];
    *place = (struct hf_place){.change = HF_SKIP};
    if ((m->family->traits & HF_TEXT_PART) && beside_text(&rest)) return true;
    begins(&rest, prefix_of(m->family));
    int64_t layer = layer_number(&rest, gpt2 ? "h." : "layers.");
    for (size_t i = 0; i < COUNT_OF(rules); i++) {
        const struct rule *r = &rules[i];
        if (r->per_layer != (layer >= 0) || !(r->in & m->family->traits) || !matches(rest, r->hf, &place->expert)) continue;
        if (layer >= m->L)
            return err_set(err, "tensor '%s' is of layer %" PRId64 ", but config.json says %" PRId64 " layers",
                           span_shown(hf, shown, sizeof shown), layer, m->L);
        if (r->change == HF_EXPERT && place->expert >= m->E)
            return err_set(err, "tensor '%s' is of expert %" PRId64 ", but config.json says %" PRId64 " experts",
                           span_shown(hf, shown, sizeof shown), place->expert, m->E);
        place->change = change_of(r, m->family);
        // A tied head is the embedding, whatever the file repeats under the head's name.
        if (m->tied && is_head(r) && strstr(r->hf, ".weight")) place->change = HF_SKIP;
        if (r->per_layer)
            snprintf(place->gguf, sizeof place->gguf, "blk.%" PRId64 ".%s", layer, r->gguf);
        else
            snprintf(place->gguf, sizeof place->gguf, "%s", r->gguf);
        return true;
    }
    return err_set(err, "tensor '%s' is not part of a %s as this program knows it",
                   span_shown(hf, shown, sizeof shown), m->family->class);
}

bool hf_name_of(const struct hf_family *family, const char *gguf, char hf[128], enum hf_change *change) {
    static const char block[] = "blk.";
    bool gpt2 = family->traits & HF_GPT2, per_layer = !strncmp(gguf, block, sizeof block - 1);
    const char *number = gguf + sizeof block - 1, *rest = per_layer ? strchr(number, '.') : gguf;
    const char *prefix = prefix_of(family);
    if (!rest) return false;
    if (per_layer) rest++;
    for (size_t i = 0; i < COUNT_OF(rules); i++) {
        const struct rule *r = &rules[i];
        if (r->per_layer != per_layer || !(r->in & family->traits) || r->change == HF_SKIP || strcmp(rest, r->gguf)) continue;
        *change = change_of(r, family);
        if (per_layer)
            snprintf(hf, 128, "%s%s.%.*s.%s", prefix, gpt2 ? "h" : "layers", (int)(rest - 1 - number), number, r->hf);
        else
            snprintf(hf, 128, "%s%s", is_head(r) ? "" : prefix, r->hf);
        return true;
    }
    return false;
}
