#!/usr/bin/env python3
"""Makes tests/golden/model_*.gguf and model_*.logits, which test_model.c holds the forward pass to.

The outside authority is llama.cpp: the model files are written by its Python writer (package `gguf`), with random
weights, and the logits are computed by its engine through a binding (package `cyllama`), everything in f32. Neither
shares a line with this repository. Run once, by hand, with those two packages and numpy installed:

    python3 tests/make_model_goldens.py

A .logits file is: i32 count, i32 vocabulary, count ids (i32), count x vocabulary logits (f32), little-endian.
"""
import os

import gguf
import numpy as np
import cyllama.llama.llama_cpp as engine

FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "golden")
C, L, H, G, D, F, V = 32, 2, 4, 2, 16, 48, 40  # H*D is not C on purpose


def write(arch, path, rng):
    w = gguf.GGUFWriter(path, arch)
    w.add_context_length(64)
    w.add_embedding_length(C)
    w.add_block_count(L)
    w.add_feed_forward_length(F)
    w.add_head_count(H)
    w.add_head_count_kv(G)
    w.add_key_length(D)
    w.add_value_length(D)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_rope_dimension_count(D)
    w.add_rope_freq_base(500.0)
    w.add_vocab_size(V)
    w.add_tokenizer_model("none")
    if arch == "granite":
        w.add_embedding_scale(6.0)
        w.add_attention_scale(0.125)
        w.add_residual_scale(0.35)
        w.add_logit_scale(1.7)

    def tensor(name, *shape):
        norm = len(shape) == 1
        x = rng.normal(1 if norm else 0, 0.2 if norm else 1 / np.sqrt(shape[-1]), shape)
        w.add_tensor(name + ".weight", x.astype(np.float32))

    tensor("token_embd", V, C)
    tensor("output_norm", C)
    if arch == "llama":
        tensor("output", V, C)
    for l in range(L):
        b = f"blk.{l}."
        tensor(b + "attn_norm", C)
        tensor(b + "attn_q", H * D, C)
        tensor(b + "attn_k", G * D, C)
        tensor(b + "attn_v", G * D, C)
        tensor(b + "attn_output", C, H * D)
        tensor(b + "ffn_norm", C)
        tensor(b + "ffn_gate", F, C)
        tensor(b + "ffn_up", F, C)
        tensor(b + "ffn_down", C, F)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


class Model(engine.LlamaModel):
    n_vocab = V  # the binding asks for it and does not have it (version 0.2.18)


def logits(path, ids):
    m = Model(path, engine.LlamaModelParams())
    p = engine.LlamaContextParams()
    p.n_ctx = 64
    p.type_k = p.type_v = 0  # F32
    p.flash_attn_type = 0  # off
    c = engine.LlamaContext(m, p)
    rows = []
    for i, token in enumerate(ids):
        b = engine.LlamaBatch(n_tokens=1, embd=0, n_seq_max=1)
        b.add(int(token), i, [0], True)
        assert c.decode(b) == 0
        rows.append(np.array(c.get_logits(), dtype=np.float32))
    return np.stack(rows)


def main():
    os.makedirs(FOLDER, exist_ok=True)
    engine.llama_backend_init()
    for arch in ("llama", "granite"):
        rng = np.random.default_rng(20240823)
        path = os.path.join(FOLDER, f"model_{arch}.gguf")
        write(arch, path, rng)
        ids = rng.integers(0, V, 20).astype(np.int32)
        z = logits(path, ids)
        with open(path.replace(".gguf", ".logits"), "wb") as f:
            f.write(np.array([len(ids), V], np.int32).tobytes() + ids.tobytes() + z.tobytes())
        print(arch, z.shape, "largest logit", float(np.abs(z).max()))


if __name__ == "__main__":
    main()
