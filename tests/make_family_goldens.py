#!/usr/bin/env python3
"""Makes tests/golden/family_*.gguf and family_*.logits, which test_families.c holds the families to.

The outside authority is llama.cpp: the model files are written by its Python writer (package `gguf`), with random
weights, and the logits are computed by its library through the small C program below. Neither shares a line with this
repository. Run once, by hand, with packages gguf and numpy, and a llama.cpp built without the line
`#define GGML_GELU_FP16` in ggml-cpu/vec.h (GELU from a table of f16 is off by 2e-3 in these logits):

    LLAMA_SOURCE=llama.cpp LLAMA_LIBS=build/bin python3 tests/make_family_goldens.py [name...]

All weights are numbers that bf16 holds exactly. The engine gets them as F32 (it would round activations to the
weights' format otherwise); the file that is kept has them as BF16, which is half the size and the same model.

A .logits file is: i32 ids, i32 rows, i32 vocabulary, the ids (i32), the rows' numbers (i32), rows x vocabulary logits
(f32), little-endian. The prompt is the first 40 ids in one batch; the other 10 are decoded one by one.
"""
import os
import subprocess
import sys
import tempfile

import gguf
import numpy as np

FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "golden")
C, L, H, G, D, F, V = 16, 2, 4, 2, 8, 24, 32  # H*D is not C on purpose
E, FE = 5, 12  # experts and their width
PROMPT, STEPS, CTX = 40, 10, 64
ROWS = [0, 7, 21] + list(range(PROMPT - 1, PROMPT + STEPS))

ENGINE = r"""
#include "llama.h"
#include <stdio.h>
#include <stdlib.h>
static void quiet(enum ggml_log_level level, const char *text, void *data) {
    (void)data;
    if (level == GGML_LOG_LEVEL_ERROR) fputs(text, stderr);
}
int main(int argc, char **argv) { // model, prompt ids, ids...; writes all logits to standard output
    llama_log_set(quiet, NULL);
    struct llama_model_params mp = llama_model_default_params();
    mp.use_extra_bufts = false; // weights as they are
    struct llama_model *m = llama_model_load_from_file(argv[1], mp);
    if (!m) return 1;
    struct llama_context_params cp = llama_context_default_params();
    cp.n_ctx = 128, cp.n_batch = cp.n_ubatch = 128, cp.n_threads = cp.n_threads_batch = 1;
    cp.type_k = cp.type_v = GGML_TYPE_F32, cp.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
    struct llama_context *c = llama_init_from_model(m, cp);
    if (!c) return 1;
    int prompt = atoi(argv[2]), n = argc - 3, V = llama_vocab_n_tokens(llama_model_get_vocab(m));
    for (int at = 0; at < n;) {
        int rows = at ? 1 : prompt;
        struct llama_batch b = llama_batch_init(rows, 0, 1);
        for (int i = 0; i < rows; i++)
            b.token[i] = atoi(argv[3 + at + i]), b.pos[i] = at + i, b.n_seq_id[i] = 1, b.seq_id[i][0] = 0, b.logits[i] = 1;
        b.n_tokens = rows;
        if (llama_decode(c, b)) return 1;
        for (int i = 0; i < rows; i++) fwrite(llama_get_logits_ith(c, i), sizeof(float), V, stdout);
        llama_batch_free(b);
        at += rows;
    }
    return 0;
}
"""


def bf16(x):
    """Rounds to what bf16 holds, to nearest even."""
    u = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return ((u + 0x7FFF + (u >> 16 & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)


def row(arch, tensors, keys=None, **switches):
    return dict(arch=arch, tensors=tensors, keys=keys or (lambda w: None), **switches)


QKV = "attn_q attn_k attn_v"
GATED = "ffn_gate ffn_up ffn_down"
EXPERTS = "ffn_gate_inp ffn_gate_exps ffn_up_exps ffn_down_exps"
PLAIN = f"attn_norm {QKV} attn_output ffn_norm {GATED}"
SHAPES = {
    "attn_norm": (C,), "ffn_norm": (C,), "post_attention_norm": (C,), "post_ffw_norm": (C,),
    "attn_q": (H * D, C), "attn_k": (G * D, C), "attn_v": (G * D, C), "attn_output": (C, H * D),
    "attn_qkv": (H * D + 2 * G * D, C), "ffn_gate": (F, C), "ffn_up": (F, C), "ffn_down": (C, F),
    "attn_q_norm": (D,), "attn_k_norm": (D,), "ffn_gate_inp": (E, C), "ffn_gate_exps": (E, FE, C),
    "ffn_up_exps": (E, FE, C), "ffn_down_exps": (E, C, FE),
}


def experts(w):
    w.add_expert_count(E)
    w.add_expert_used_count(2)


def multipliers(w):
    w.add_embedding_scale(6.0)
    w.add_residual_scale(0.35)
    w.add_logit_scale(1.7)


def granite_moe(w):
    multipliers(w)
    w.add_attention_scale(0.25)
    experts(w)


def yarn(w):
    w.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    w.add_rope_scaling_factor(4.0)
    w.add_rope_scaling_orig_ctx_len(16)


def linear(w):
    w.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
    w.add_rope_scaling_factor(4.0)


def gemma2(w):
    w.add_attn_logit_softcapping(2.0)
    w.add_final_logit_softcapping(3.0)
    w.add_sliding_window(9)


def gemma3(w):
    linear(w)
    w.add_sliding_window(9)
    w.add_sliding_window_pattern([True, False])


MODELS = {
    "llama_divisors": row("llama", PLAIN, divisors=True),
    "llama_biases": row("llama", PLAIN + " attn_q.bias attn_k.bias attn_v.bias attn_output.bias", linear, tied=False),
    "qwen2": row("qwen2", PLAIN + " attn_q.bias attn_k.bias attn_v.bias", yarn, square=True),
    "qwen3": row("qwen3", PLAIN + " attn_q_norm attn_k_norm", tied=False),
    "gemma3": row("gemma3", PLAIN + " attn_q_norm attn_k_norm post_attention_norm post_ffw_norm", gemma3),
    "gpt2": row("gpt2", "attn_norm attn_norm.bias attn_qkv attn_qkv.bias attn_output attn_output.bias ffn_norm "
                "ffn_norm.bias ffn_up ffn_up.bias ffn_down ffn_down.bias", layer_norm=True, square=True, G=4),
    "phi3": row("phi3", "attn_norm attn_qkv attn_output ffn_norm ffn_up ffn_down", double_up=True, tied=False,
                rotated=4, square=True),
    "olmo2": row("olmo2", f"{QKV} attn_output attn_q_norm attn_k_norm post_attention_norm {GATED} post_ffw_norm",
                 wide_norm=True, tied=False, square=True),
    "gemma": row("gemma", PLAIN),
    "gemma2": row("gemma2", PLAIN + " post_attention_norm post_ffw_norm", gemma2),
    "minicpm": row("minicpm", PLAIN, multipliers),
    "granitemoe": row("granitemoe", f"attn_norm {QKV} attn_output ffn_norm {EXPERTS}", granite_moe),
    "mixtral": row("llama", f"attn_norm {QKV} attn_output ffn_norm {EXPERTS}", experts, tied=False),
    "olmoe": row("olmoe", f"attn_norm {QKV} attn_output attn_q_norm attn_k_norm ffn_norm {EXPERTS}", experts,
                 wide_norm=True, tied=False, square=True, G=4),
    "qwen3moe": row("qwen3moe", f"attn_norm {QKV} attn_output attn_q_norm attn_k_norm ffn_norm {EXPERTS}",
                    lambda w: (experts(w), w.add_expert_feed_forward_length(FE))),
}


def shape_of(m, name):
    size = D if not m.get("square") else C // H
    kv = m.get("G", G) * size
    base, _, part = name.partition(".")
    shapes = dict(SHAPES, attn_q=(H * size, C), attn_k=(kv, C), attn_v=(kv, C), attn_output=(C, H * size),
                  attn_qkv=(H * size + 2 * kv, C))
    if m.get("wide_norm"):
        shapes.update(attn_q_norm=(H * size,), attn_k_norm=(kv,))
    if m.get("double_up"):
        shapes["ffn_up"] = (2 * F, C)
    return shapes[base][:1] if part == "bias" else shapes[base]


def write(m, path, half):
    rng = np.random.default_rng(20241122)
    w = gguf.GGUFWriter(path, m["arch"])
    size = D if not m.get("square") else C // H
    w.add_context_length(CTX)
    w.add_embedding_length(C)
    w.add_block_count(L)
    w.add_feed_forward_length(FE if "exps" in m["tensors"] else F)
    w.add_head_count(H)
    w.add_head_count_kv(m.get("G", G))
    w.add_vocab_size(V)
    w.add_tokenizer_model("none")
    if not m.get("square"):
        w.add_key_length(size)
        w.add_value_length(size)
    if m.get("layer_norm"):
        w.add_layer_norm_eps(1e-5)
    else:
        w.add_layer_norm_rms_eps(1e-5)
        w.add_rope_dimension_count(m.get("rotated", size))
        w.add_rope_freq_base(500.0)
    m["keys"](w)

    def tensor(name, shape, mean, std):
        x = bf16(rng.normal(mean, std, shape))
        if half and len(shape) > 1 and "ffn_gate_inp" not in name:
            w.add_tensor(name, (x.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8).reshape(*shape[:-1], -1),
                         raw_dtype=gguf.GGMLQuantizationType.BF16)
        else:
            w.add_tensor(name, x)

    tensor("token_embd.weight", (V, C), 0, 0.5)
    if m.get("layer_norm"):
        tensor("position_embd.weight", (CTX, C), 0, 0.3)
        tensor("output_norm.bias", (C,), 0, 0.2)
    tensor("output_norm.weight", (C,), 1, 0.2)
    if not m.get("tied", True):
        tensor("output.weight", (V, C), 0, 1 / np.sqrt(C))
    if m.get("divisors"):
        w.add_tensor("rope_freqs.weight", np.array([1, 1.5, 4, 8], np.float32)[:size // 2])
    for l in range(L):
        for name in m["tensors"].split():
            full = f"blk.{l}.{name}" + ("" if name.endswith(".bias") else ".weight")
            shape = shape_of(m, name)
            norm = len(shape) == 1 and not name.endswith("bias")
            tensor(full, shape, 1 if norm else 0, 0.2 if len(shape) == 1 else 1.5 / np.sqrt(shape[-1]))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def build_engine(folder):
    source, libs = os.environ["LLAMA_SOURCE"], os.path.abspath(os.environ["LLAMA_LIBS"])
    path = os.path.join(folder, "engine")
    with open(path + ".c", "w") as f:
        f.write(ENGINE)
    subprocess.check_call(["cc", "-o", path, path + ".c", f"-I{source}/include", f"-I{source}/ggml/include",
                           f"-L{libs}", "-lllama", "-lggml", "-lggml-base", f"-Wl,-rpath,{libs}",
                           "-Wl,--allow-shlib-undefined"])
    return path


def main():
    with tempfile.TemporaryDirectory() as folder:
        engine = build_engine(folder)
        for name in sys.argv[1:] or MODELS:
            m, path = MODELS[name], os.path.join(FOLDER, f"family_{name}.gguf")
            exact = os.path.join(folder, name + ".gguf")
            write(m, path, True)
            write(m, exact, False)
            ids = np.random.default_rng(7).integers(0, V, PROMPT + STEPS).astype(np.int32)
            out = subprocess.check_output([engine, exact, str(PROMPT)] + [str(i) for i in ids],
                                          env=dict(os.environ, LD_LIBRARY_PATH=os.environ["LLAMA_LIBS"]))
            z = np.frombuffer(out, np.float32).reshape(len(ids), V)[ROWS]
            with open(path.replace(".gguf", ".logits"), "wb") as f:
                f.write(np.array([len(ids), len(ROWS), V], np.int32).tobytes() + ids.tobytes() +
                        np.array(ROWS, np.int32).tobytes() + z.tobytes())
            print(name, os.path.getsize(path), "bytes, logits of", float(z.std()), "at most", float(np.abs(z).max()))


if __name__ == "__main__":
    main()
