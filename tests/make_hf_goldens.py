#!/usr/bin/env python3
"""Makes tests/golden/hf_llama/ and tests/golden/hf_granite/, which test_hf.c holds the folder reader to.

The outside authorities are Hugging Face's packages: config.json is written by `transformers`, the weights by
`safetensors`. The weights are those of tests/golden/model_*.gguf (read by the package `gguf`, made by llama.cpp's
writer, with logits by its engine), their Q and K rows put back from adjacent pairs to halves; so the folder must open as
the very tensors of that file. llama is one file, granite two shards with an index. Run once, by hand:

    pip install gguf numpy safetensors transformers && python3 tests/make_hf_goldens.py
"""
import json
import os

import gguf
import numpy as np
from safetensors.numpy import save_file
from transformers import GraniteConfig, LlamaConfig

FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "golden")
NAMES = {
    "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}
GLOBAL = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight",
          "output.weight": "lm_head.weight"}


def to_halves(w, heads):
    """Rows h, 2i+j (adjacent pairs) to rows h, j D/2 + i (halves)."""
    return np.ascontiguousarray(w.reshape(heads, -1, 2, w.shape[1]).swapaxes(1, 2).reshape(w.shape))


for arch, config_class in (("llama", LlamaConfig), ("granite", GraniteConfig)):
    reader = gguf.GGUFReader(os.path.join(FOLDER, f"model_{arch}.gguf"))
    key = lambda name, default=None: reader.fields[f"{arch}.{name}"].contents() if f"{arch}.{name}" in reader.fields else default
    plain = lambda x: float(f"{x:.6g}")
    heads = {"attn_q": key("attention.head_count"), "attn_k": key("attention.head_count_kv")}
    weights = {}
    for t in reader.tensors:
        parts = t.name.split(".")
        w = np.array(t.data)
        if parts[0] == "blk":
            weights[f"model.layers.{parts[1]}.{NAMES[parts[2]]}.weight"] = to_halves(w, heads[parts[2]]) if parts[2] in heads else w
        else:
            weights[GLOBAL[t.name]] = w
    more = {}
    if arch == "granite":
        more = dict(embedding_multiplier=plain(key("embedding_scale")), attention_multiplier=plain(key("attention.scale")),
                    residual_multiplier=plain(key("residual_scale")), logits_scaling=plain(key("logit_scale")))
    config = config_class(
        architectures=[config_class.__name__.replace("Config", "ForCausalLM")], vocab_size=weights["model.embed_tokens.weight"].shape[0],
        hidden_size=key("embedding_length"), num_hidden_layers=key("block_count"), intermediate_size=key("feed_forward_length"),
        num_attention_heads=heads["attn_q"], num_key_value_heads=heads["attn_k"], max_position_embeddings=key("context_length"),
        rms_norm_eps=plain(key("attention.layer_norm_rms_epsilon")), tie_word_embeddings="lm_head.weight" not in weights,
        head_dim=key("attention.key_length"), rope_parameters={"rope_type": "default", "rope_theta": key("rope.freq_base")},
        bos_token_id=1, eos_token_id=2, **more)
    out = os.path.join(FOLDER, f"hf_{arch}")
    config.save_pretrained(out)
    if arch == "llama":
        save_file(weights, os.path.join(out, "model.safetensors"), {"format": "pt"})
        continue
    index = {name: f"model-0000{1 + (i % 2)}-of-00002.safetensors" for i, name in enumerate(sorted(weights))}
    for shard in sorted(set(index.values())):
        save_file({n: w for n, w in weights.items() if index[n] == shard}, os.path.join(out, shard), {"format": "pt"})
    with open(os.path.join(out, "model.safetensors.index.json"), "w") as f:
        json.dump({"metadata": {"total_size": sum(w.nbytes for w in weights.values())}, "weight_map": index}, f, indent=1)
