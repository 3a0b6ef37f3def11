#!/usr/bin/env python3
"""Makes tests/golden/hf/*, which test_hf_families.c holds the reading of folders and every family to.

The outside authority is transformers: its classes make tiny models with all switches of their family on, its
save_pretrained says how config.json and the tensors of such a folder look, and its logits are the expected ones.

Weights are not stored. Element i of a tensor is mean + scale * u(name, i), where u is a hash of the tensor's name and
the counter i spread over [-1, 1) (function `noise`; test_hf_families.c has the same in C). A golden is three files:

    NAME.json     config.json as transformers wrote it
    NAME.tensors  a line per tensor of the folder: name, mean, scale, sizes; "*" stands for every layer
    NAME.logits   i32 count of ids, count of the prompt's, samples; the ids (i32); then for each position the logits of
                  `samples` tokens, (7 * position + 5 * k) mod V for k = 0, 1, ..., the log of the sum of all
                  exponentials (f32) and the largest logit's token (i32); little-endian

The prompt goes through the model in one piece, the ids behind it one by one through its cache. Every switch listed for
a model is also turned off once: logits that do not move then would mean a golden that tests nothing.

    python3 tests/make_transformers_goldens.py [name...]      (packages torch, transformers, safetensors, numpy)
"""
import json
import os
import re
import sys
import tempfile

import numpy as np
import torch
import transformers as tf
from safetensors import safe_open
from safetensors.numpy import save_file

FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "golden", "hf")
PROMPT, STEPS, SAMPLES = 40, 10, 10
V, C, CTX = 64, 32, 64
PLAIN = dict(vocab_size=V, hidden_size=C, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=CTX, bos_token_id=1, eos_token_id=[2, 5], pad_token_id=0)
LONG = dict(rope_type="longrope", rope_theta=100.0, short_factor=[1.0, 1.25, 1.5], long_factor=[1.5, 3.0, 6.0])


def rope(kind="default", theta=100.0, **more):
    return dict(rope_parameters=dict(rope_type=kind, rope_theta=theta, **more))


def model(config, off=(), **values):
    """off: for each switch, the values that turn it off."""
    merged = {k: v for k, v in dict(PLAIN, **values).items() if v is not None}
    return dict(config=config, values=merged, off=off)


MODELS = {
    "llama": model(tf.LlamaConfig, head_dim=12, attention_bias=True, tie_word_embeddings=True,
                   **rope("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                          original_max_position_embeddings=32), off=[rope()]),
    "llama_linear": model(tf.LlamaConfig, **rope("linear", factor=4.0), off=[rope()]),
    "llama_yarn": model(tf.LlamaConfig, **rope("yarn", factor=4.0, original_max_position_embeddings=16), off=[rope()]),
    "mistral": model(tf.MistralConfig, head_dim=12, sliding_window=9, **rope(), off=[dict(sliding_window=None)]),
    "smollm3": model(tf.SmolLM3Config, num_hidden_layers=4, **rope(), off=[dict(no_rope_layers=[1, 1, 1, 1])]),
    "qwen2": model(tf.Qwen2Config, num_hidden_layers=3, use_sliding_window=True, sliding_window=9, max_window_layers=1,
                   **rope("yarn", factor=4.0, original_max_position_embeddings=16),
                   off=[rope(), dict(use_sliding_window=False)]),
    "qwen3": model(tf.Qwen3Config, head_dim=12, attention_bias=False, num_hidden_layers=3, use_sliding_window=True,
                   sliding_window=9, layer_types=["sliding_attention", "full_attention", "sliding_attention"],
                   **rope("linear", factor=2.0), off=[rope(), dict(use_sliding_window=False, layer_types=None)]),
    "qwen3moe": model(tf.Qwen3MoeConfig, head_dim=12, num_experts=6, num_experts_per_tok=2, moe_intermediate_size=20,
                      norm_topk_prob=True, decoder_sparse_step=1, mlp_only_layers=[], **rope(),
                      off=[dict(num_experts_per_tok=3)]),
    "gemma": model(tf.GemmaConfig, head_dim=12, **rope()),
    "gemma2": model(tf.Gemma2Config, head_dim=12, sliding_window=9, query_pre_attn_scalar=20, attn_logit_softcapping=2.0,
                    final_logit_softcapping=3.0, num_hidden_layers=3, **rope(),
                    off=[dict(sliding_window=64), dict(query_pre_attn_scalar=12), dict(attn_logit_softcapping=None),
                         dict(final_logit_softcapping=None)]),
    "gemma3": model(tf.Gemma3TextConfig, head_dim=12, sliding_window=9, query_pre_attn_scalar=20, num_hidden_layers=4,
                    layer_types=["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"],
                    rope_parameters=dict(sliding_attention=dict(rope_type="default", rope_theta=50.0),
                                         full_attention=dict(rope_type="linear", factor=4.0, rope_theta=200.0)),
                    off=[dict(sliding_window=64), dict(query_pre_attn_scalar=12)]),
    "granite": model(tf.GraniteConfig, embedding_multiplier=6.0, attention_multiplier=0.5, residual_multiplier=0.35,
                     logits_scaling=1.7, attention_bias=False, tie_word_embeddings=True, **rope(),
                     off=[dict(embedding_multiplier=1.0), dict(attention_multiplier=0.125),
                          dict(residual_multiplier=1.0), dict(logits_scaling=1.0)]),
    "granitemoe": model(tf.GraniteMoeConfig, embedding_multiplier=6.0, attention_multiplier=0.5,
                        residual_multiplier=0.35, logits_scaling=1.7, num_local_experts=6, num_experts_per_tok=2,
                        intermediate_size=20, tie_word_embeddings=True, **rope(),
                        off=[dict(embedding_multiplier=1.0), dict(attention_multiplier=0.125),
                             dict(residual_multiplier=1.0), dict(logits_scaling=1.0), dict(num_experts_per_tok=3)]),
    "olmo2": model(tf.Olmo2Config, **rope()),
    "olmoe": model(tf.OlmoeConfig, num_experts=6, num_experts_per_tok=2, intermediate_size=20, norm_topk_prob=False,
                   **rope(), off=[dict(norm_topk_prob=True)]),
    "mixtral": model(tf.MixtralConfig, num_local_experts=6, num_experts_per_tok=2, intermediate_size=20, head_dim=12,
                     **rope(), off=[dict(num_experts_per_tok=3)]),
    "phi3": model(tf.Phi3Config, sliding_window=9, **rope(partial_rotary_factor=0.75),
                  off=[dict(sliding_window=None), rope(partial_rotary_factor=1.0)]),
    "gpt2": dict(config=tf.GPT2Config, off=[], values=dict(vocab_size=V, n_embd=C, n_layer=2, n_head=4, n_positions=CTX,
                 n_inner=40, bos_token_id=1, eos_token_id=2)),
}


def noise(name, count):
    """SplitMix64 (Steele, Lea and Flood 2014) of FNV-1a(name) + counter, its upper 24 bits as a number in [-1, 1)."""
    h = 0xCBF29CE484222325
    for byte in name.encode():
        h = (h ^ byte) * 0x100000001B3 % 2**64
    with np.errstate(over="ignore"):
        x = (np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(h))
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x ^= x >> np.uint64(31)
    return (x >> np.uint64(40)).astype(np.float64) / 2**23 - 1


def spread(name, shape, arch):
    """Mean and scale: norms vary around what multiplies by one, products have a standard deviation near 1.3."""
    if "norm" in name or re.search(r"\bln_", name):
        return (0.0 if name.endswith("bias") or arch.startswith("gemma") else 1.0), 0.5
    if len(shape) == 1:
        return 0.0, 0.4
    if re.search(r"embed|wte|lm_head", name):
        return 0.0, 0.25 if arch.startswith("gemma") else 0.9
    if "wpe" in name:
        return 0.0, 0.5
    inputs = shape[0] if arch == "gpt2" else shape[-1]
    return 0.0, round(2.2 / inputs**0.5, 4)


def build(spec, values, folder):
    """A folder of the model, its weights made by rule; returns the class that loads it and the tensors' lines."""
    config = spec["config"](**values)
    config._attn_implementation = "eager"
    first = tf.AutoModelForCausalLM.from_config(config)
    first.save_pretrained(folder)
    path = os.path.join(folder, "model.safetensors")
    lines, weights = {}, {}
    with safe_open(path, "np") as f:
        for name in f.keys():
            shape = f.get_slice(name).get_shape()
            mean, scale = spread(name, shape, config.model_type)
            line = f"{mean} {scale} {' '.join(map(str, shape))}"
            lines[re.sub(r"(layers|\bh)\.\d+\.", r"\1.*.", name)] = line
            weights[name] = (mean + scale * noise(name, int(np.prod(shape)))).astype(np.float32).reshape(shape)
    save_file(weights, path, {"format": "pt"})
    return lines


@torch.no_grad()
def logits_of(folder, ids):
    m = tf.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    out = m(torch.tensor([ids[:PROMPT]]), use_cache=True)
    rows, cache = [out.logits[0]], out.past_key_values
    for t in range(PROMPT, len(ids)):
        out = m(torch.tensor([[ids[t]]]), use_cache=True, past_key_values=cache)
        rows.append(out.logits[0])
        cache = out.past_key_values
    return torch.cat(rows).float().numpy()


def write(name, spec):
    ids = [int(x) for x in np.random.default_rng(7).integers(0, V, PROMPT + STEPS)]
    with tempfile.TemporaryDirectory() as folder:
        lines = build(spec, spec["values"], folder)
        z = logits_of(folder, ids)
        base = os.path.join(FOLDER, name)
        with open(os.path.join(folder, "config.json")) as f, open(base + ".json", "w") as g:
            g.write(f.read())
    with open(base + ".tensors", "w") as f:
        f.writelines(f"{tensor} {line}\n" for tensor, line in lines.items())
    with open(base + ".logits", "wb") as f:
        f.write(np.array([len(ids), PROMPT, SAMPLES] + ids, np.int32).tobytes())
        for t, row in enumerate(z):
            at = (7 * t + 5 * np.arange(SAMPLES)) % V
            total = np.log(np.exp(row.astype(np.float64) - row.max()).sum()) + row.max()
            f.write(row[at].tobytes() + np.float32(total).tobytes() + np.int32(row.argmax()).tobytes())
    moved = []
    for off in spec["off"]:
        values = {k: v for k, v in dict(spec["values"], **off).items() if v is not None}
        for k, v in off.items():
            if v is None and k in ("sliding_window", "attn_logit_softcapping", "final_logit_softcapping"):
                values[k] = None
        with tempfile.TemporaryDirectory() as folder:
            build(spec, values, folder)
            moved.append(float(np.abs(logits_of(folder, ids) - z).max()))
    print(f"{name:14} logits of {z.std():.2f}, at most {np.abs(z).max():.2f}; without a switch they move by",
          " ".join(f"{x:.2g}" for x in moved), flush=True)
    assert all(x > 0.05 for x in moved), "a switch that does not matter"


def main():
    os.makedirs(FOLDER, exist_ok=True)
    tf.logging.set_verbosity_error()
    torch.set_num_threads(1)
    for name in sys.argv[1:] or MODELS:
        write(name, MODELS[name])


if __name__ == "__main__":
    main()
