#!/usr/bin/env python3
"""Makes tests/golden/variants/, which test_variants.c holds further families and kinds of rope to.

The outside authority is transformers: config.json and the table of tensors are what it writes for a tiny model of the
class, the logits are what it computes in f32. The weights are not stored: number i of the data of model.safetensors is a
formula (weight() here and in test_variants.c), so a variant is three small files:

    NAME.json     config.json
    NAME.head     the JSON head of model.safetensors
    NAME.logits   as in make_family_goldens.py: i32 ids, i32 rows, i32 vocabulary, ids, rows, rows x vocabulary f32

Run once, by hand:

    pip install torch transformers safetensors numpy && python3 tests/make_variant_goldens.py [name...]

With RUN=./run and LLAMA_SOURCE, LLAMA_LIBS as in make_family_goldens.py (package gguf too), every variant is also
exported to GGUF by this program and computed by llama.cpp; the largest difference is printed, nothing is kept.
"""
import json
import os
import struct
import subprocess
import sys
import tempfile

import numpy as np

FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "golden", "variants")
V, CTX, PROMPT, STEPS = 32, 64, 40, 10
BASE = dict(vocab_size=V, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=CTX, bos_token_id=None, eos_token_id=None,
            pad_token_id=None, tie_word_embeddings=False)
THETA = {"rope_type": "default", "rope_theta": 500.0}
MIXED = ["sliding_attention", "full_attention"]
EXPERTS = dict(num_experts=5, num_experts_per_tok=2, moe_intermediate_size=12)


def row(kind, prompt=PROMPT, steps=STEPS, rope=THETA, **more):
    return dict(kind=kind, prompt=prompt, steps=steps, config=dict(BASE, rope_parameters=rope, **more))


def part(share):
    return dict(THETA, partial_rotary_factor=share)


def long(**more):
    return dict(rope_type="longrope", rope_theta=500.0, original_max_position_embeddings=16,
                short_factor=[1.0, 1.1], long_factor=[1.5, 4.0], **more)


def yarn(**more):
    return dict(rope_type="yarn", rope_theta=500.0, factor=4.0, original_max_position_embeddings=16, **more)


ROWS = {
    "qwen2moe": row("Qwen2Moe", shared_expert_intermediate_size=20, norm_topk_prob=False, **EXPERTS),
    "granitemoeshared": row("GraniteMoeShared", num_local_experts=5, num_experts_per_tok=2, shared_intermediate_size=12,
                            embedding_multiplier=6.0, residual_multiplier=0.35, attention_multiplier=0.25,
                            logits_scaling=1.7, tie_word_embeddings=True),
    "gpt_oss": row("GptOss", rope=dict(yarn(truncate=False), original_max_position_embeddings=32), num_local_experts=5,
                   num_experts_per_tok=2, head_dim=16, sliding_window=9, layer_types=MIXED),
    "smollm3": row("SmolLM3", num_hidden_layers=4, tie_word_embeddings=True),
    "arcee": row("Arcee", head_dim=4),
    "seed_oss": row("SeedOss", head_dim=8, attention_bias=True, attention_out_bias=True),
    "exaone4": row("Exaone4", num_hidden_layers=4, sliding_window=9, sliding_window_pattern=4),
    "exaone4_whole": row("Exaone4", num_hidden_layers=4, sliding_window=None, sliding_window_pattern=4,
                         layer_types=["full_attention"] * 4),
    "olmo": row("Olmo", clip_qkv=0.5),
    "olmo3": row("Olmo3", num_hidden_layers=4, sliding_window=9, num_key_value_heads=4,
                 rope={"full_attention": yarn(), "sliding_attention": THETA}),
    "phi2": row("Phi", rope=part(0.5), layer_norm_eps=1e-5),
    "gptneox": row("GPTNeoX", rope=part(0.5), num_key_value_heads=None, attention_bias=True),
    "gptneox_serial": row("GPTNeoX", rope=part(1.0), num_key_value_heads=None, use_parallel_residual=False),
    "stablelm": row("StableLm", rope=part(0.5), use_qkv_bias=True),
    "stablelm_parallel": row("StableLm", rope=part(0.5), use_parallel_residual=True),
    "starcoder2": row("Starcoder2", use_bias=True, sliding_window=9, tie_word_embeddings=True),
    "nemotron": row("Nemotron", rope=part(0.5), head_dim=4, attention_bias=True, mlp_bias=True),
    "command_r": row("Cohere", logit_scale=0.25, tie_word_embeddings=True),
    "cohere2": row("Cohere2", num_hidden_layers=4, sliding_window=9, logit_scale=0.25, head_dim=4,
                   tie_word_embeddings=True),
    "phi3_long": row("Phi3", rope=long(), original_max_position_embeddings=16),
    "phi3_short": row("Phi3", 12, 4, long(), original_max_position_embeddings=16),
    "phi3_factor": row("Phi3", rope=long(attention_factor=1.25), original_max_position_embeddings=16, sliding_window=9),
    "llama_dynamic": row("Llama", 40, 0, dict(rope_type="dynamic", rope_theta=500.0, factor=2.0),
                         max_position_embeddings=32),
    "llama_llama3": row("Llama", rope=dict(rope_type="llama3", rope_theta=500.0, factor=8.0, low_freq_factor=1.0,
                                           high_freq_factor=4.0, original_max_position_embeddings=16)),
    "llama_yarn": row("Llama", rope=yarn(mscale=1.5, mscale_all_dim=0.5, beta_fast=16.0, beta_slow=2.0), head_dim=8),
    "qwen2_yarn": row("Qwen2", rope=yarn(attention_factor=1.3)),
    "llama_linear": row("Llama", rope=dict(rope_type="linear", rope_theta=500.0, factor=4.0), attention_bias=True),
    "mistral": row("Mistral", sliding_window=9, head_dim=8),
    "ministral": row("Ministral", sliding_window=9, head_dim=8, layer_types=["sliding_attention"] * 2),
    "mistral3": row("Ministral3", rope=yarn(mscale=1.0, mscale_all_dim=1.0, llama_4_scaling_beta=0.3), head_dim=8),
    "gemma3_layers": row("Gemma3Text", head_dim=8, sliding_window=9, query_pre_attn_scalar=8, layer_types=MIXED,
                         tie_word_embeddings=True,
                         rope={"full_attention": dict(rope_type="linear", rope_theta=500.0, factor=4.0),
                               "sliding_attention": dict(rope_type="default", rope_theta=100.0)}),
}


def weight(i):
    """Multiples of 1/64 from -1 to 1: exact in bf16 and f16."""
    h = (i.astype(np.uint64) * 2654435761) & 0xFFFFFFFF
    h ^= h >> np.uint64(15)
    h = (h * 2246822519) & 0xFFFFFFFF
    h ^= h >> np.uint64(13)
    return (((h >> np.uint64(16)) % np.uint64(129)).astype(np.float32) - 64) / 64


def make(name, m, out):
    import torch
    import transformers
    cls = m["kind"].replace("Gemma3Text", "Gemma3")
    config = getattr(transformers, m["kind"] + "Config")(**m["config"])
    model_class = getattr(transformers, cls + "ForCausalLM")
    torch.manual_seed(1)
    model_class(config).float().save_pretrained(out)
    path = os.path.join(out, "model.safetensors")
    raw = open(path, "rb").read()
    n = struct.unpack("<Q", raw[:8])[0]
    head = raw[8:8 + n].rstrip()
    data = weight(np.arange((len(raw) - 8 - n) // 4))
    open(path, "wb").write(struct.pack("<Q", len(head)) + head + data.tobytes())
    ids = np.random.default_rng(7).integers(0, V, m["prompt"] + m["steps"]).astype(np.int32)
    model = model_class.from_pretrained(out, dtype=torch.float32, attn_implementation="eager").eval()
    z, cache = [], None
    with torch.no_grad():
        for lo, hi in [(0, m["prompt"])] + [(t, t + 1) for t in range(m["prompt"], len(ids))]:
            y = model(torch.tensor(ids[None, lo:hi].astype(np.int64)), past_key_values=cache, use_cache=True)
            cache = y.past_key_values
            z.append(y.logits[0].float().numpy())
    z = np.concatenate(z)
    rows = sorted({0, 7} | ({21} & set(range(m["prompt"]))) | set(range(m["prompt"] - 1, len(ids))))
    for f in os.listdir(out):
        if f not in ("config.json", "model.safetensors"):
            os.remove(os.path.join(out, f))
    with open(os.path.join(FOLDER, name + ".json"), "w") as f:
        json.dump(json.load(open(os.path.join(out, "config.json"))), f, separators=(",", ":"))
    open(os.path.join(FOLDER, name + ".head"), "wb").write(head)
    with open(os.path.join(FOLDER, name + ".logits"), "wb") as f:
        f.write(np.array([len(ids), len(rows), V], np.int32).tobytes() + ids.tobytes() +
                np.array(rows, np.int32).tobytes() + z[rows].astype(np.float32).tobytes())
    return ids, z


def with_tokenizer(path, to):
    """The same GGUF with the key that says it has none."""
    import gguf
    reader = gguf.GGUFReader(path)
    arch = reader.fields["general.architecture"].contents()
    w = gguf.GGUFWriter(to, arch)
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key == "general.architecture":
            continue
        kind, *inner = field.types
        w.add_key_value(key, field.contents(), kind, inner[0] if inner else None)
    w.add_tokenizer_model("none")
    for t in reader.tensors:
        w.add_tensor(t.name, np.array(t.data))
    w.write_header_to_file(), w.write_kv_data_to_file(), w.write_tensors_to_file(), w.close()


def by_llama(folder, m, ids, engine):
    path = os.path.join(folder, "out.gguf")
    subprocess.run([os.environ["RUN"], "-m", folder, "--export", "gguf", "-o", path], stderr=subprocess.PIPE, check=False)
    with_tokenizer(path, path + "2")
    out = subprocess.run([engine, path + "2", str(m["prompt"])] + [str(i) for i in ids], stdout=subprocess.PIPE,
                         env=dict(os.environ, LD_LIBRARY_PATH=os.environ["LLAMA_LIBS"]))
    return np.frombuffer(out.stdout, np.float32).reshape(len(ids), V) if out.returncode == 0 else None


def main():
    engine = None
    os.makedirs(FOLDER, exist_ok=True)
    with tempfile.TemporaryDirectory() as base:
        if "RUN" in os.environ:
            import make_family_goldens
            engine = make_family_goldens.build_engine(base)
        for name in sys.argv[1:] or ROWS:
            out = os.path.join(base, name)
            ids, z = make(name, ROWS[name], out)
            told = f"{name}: logits of {z.std():.3g}, at most {np.abs(z).max():.3g}"
            if engine:
                other = by_llama(out, ROWS[name], ids, engine)
                told += "; llama.cpp refuses" if other is None else f"; llama.cpp differs by {np.abs(other - z).max():.2g}"
            print(told, flush=True)


if __name__ == "__main__":
    main()
