#!/usr/bin/env python3
"""Which type llama.cpp's quantizer gives every tensor of seven models, in every mix that we write.

  pip install numpy gguf;  LLAMA_LIB=.../libllama.so python3 tests/make_mix_goldens.py > tests/golden/mixes.txt

The models are skeletons: names and numbers of columns are all that the choice depends on. A line `mixes ...` names the
columns; a model is a line `model NAME ARCH layers heads kv_heads experts` and a line per tensor: its name, its sizes
(innermost first), one letter per mix without an importance matrix ("." where the quantizer refuses), one letter per mix
with. `letters` says which type a letter is.
"""
import ctypes as C, os, sys, tempfile
import numpy as np
from gguf import GGUFReader, GGUFWriter

MIXES = {"F32": 0, "F16": 1, "BF16": 32, "Q8_0": 7, "Q6_K": 18, "Q5_K_M": 17, "Q5_K_S": 16, "Q4_K_M": 15, "Q4_K_S": 14,
         "IQ4_NL": 25, "IQ4_XS": 30, "Q3_K_L": 13, "Q3_K_M": 12, "Q3_K_S": 11, "Q2_K": 10, "Q2_K_S": 21, "Q5_1": 9,
         "Q5_0": 8, "Q4_1": 3, "Q4_0": 2, "MXFP4_MOE": 38}
LETTERS = {"F32": "f", "F16": "h", "BF16": "b", "Q8_0": "8", "Q6_K": "6", "Q5_K": "5", "Q4_K": "4", "Q3_K": "3",
           "Q2_K": "2", "Q4_0": "q", "Q4_1": "r", "Q5_0": "s", "Q5_1": "t", "IQ4_NL": "n", "IQ4_XS": "x", "MXFP4": "m"}


class Params(C.Structure):
    _fields_ = [("nthread", C.c_int32), ("ftype", C.c_int), ("output_type", C.c_int), ("embedding_type", C.c_int),
                ("allow_requantize", C.c_bool), ("quantize_output", C.c_bool), ("only_copy", C.c_bool), ("pure", C.c_bool),
                ("keep_split", C.c_bool), ("dry_run", C.c_bool), ("imatrix", C.c_void_p), ("kv", C.c_void_p),
                ("tt", C.c_void_p), ("prune", C.c_void_p), ("max_buf", C.c_size_t)]


class Importance(C.Structure):
    _fields_ = [("name", C.c_char_p), ("data", C.POINTER(C.c_float)), ("size", C.c_size_t)]


lib = C.CDLL(os.environ["LLAMA_LIB"])
lib.llama_model_quantize_default_params.restype = Params
lib.llama_model_quantize.argtypes = [C.c_char_p, C.c_char_p, C.POINTER(Params)]
LOG = C.CFUNCTYPE(None, C.c_int, C.c_char_p, C.c_void_p)
quiet = LOG(lambda level, text, data: None)
lib.llama_log_set(quiet, None)
lib.llama_backend_init()


def layers(n, cols, ffn, experts=0, joined=False, biases=False, only=None):
    for l in range(n):
        b = f"blk.{l}."
        t = {b + "attn_norm.weight": [cols]}
        if joined:
            t[b + "attn_qkv.weight"] = [cols, 6]
        else:
            t.update({b + f"attn_{x}.weight": [cols, 2] for x in "qkv"})
        t[b + "attn_output.weight"] = [cols, 2]
        if biases:
            t[b + "attn_output.bias"] = [cols]
        if experts:
            t[b + "ffn_gate_inp.weight"] = [cols, experts]
            t.update({b + f"ffn_{x}_exps.weight": [cols, 2, experts] for x in ("gate", "up")})
            t[b + "ffn_down_exps.weight"] = [ffn, 2, experts]
        else:
            t.update({b + f"ffn_{x}.weight": [cols, 2] for x in (("up",) if joined else ("gate", "up"))})
            t[b + "ffn_down.weight"] = [ffn, 2]
        yield from ((k, v) for k, v in t.items() if not only or any(x in k for x in only))


def model(name, arch, L, H, G, E, cols, tied, **more):
    t = {"token_embd.weight": [cols, 4], "output_norm.weight": [cols]}
    if not tied:
        t["output.weight"] = [cols, 4]
    if arch == "gpt2":
        t["position_embd.weight"] = [cols, 4]
    t.update(layers(L, cols, more.pop("ffn", cols), experts=E, **more))
    return name, arch, L, H, G, E, cols, t


MODELS = [
    model("grouped", "llama", 10, 8, 2, 0, 256, False, ffn=512),
    model("narrow", "llama", 17, 4, 2, 0, 96, True, ffn=160),
    model("eight-experts", "llama", 9, 8, 8, 8, 256, False),
    model("experts", "qwen3moe", 16, 8, 2, 4, 256, True, ffn=96),
    model("seventy", "llama", 80, 8, 1, 0, 256, False, only=("attn_v", "attn_output", "ffn_down")),
    model("joined", "gpt2", 12, 4, 4, 0, 256, True, joined=True, biases=True),
    model("odd", "llama", 4, 4, 4, 0, 100, False, ffn=288),
]


def write(path, arch, L, H, G, E, cols, tensors):
    w = GGUFWriter(path, arch)
    w.add_context_length(64), w.add_embedding_length(cols), w.add_block_count(L), w.add_feed_forward_length(cols)
    w.add_head_count(H), w.add_head_count_kv(G), w.add_vocab_size(4)
    w.add_layer_norm_rms_eps(1e-5), w.add_layer_norm_eps(1e-5)
    if E:
        w.add_expert_count(E), w.add_expert_used_count(2), w.add_expert_feed_forward_length(cols)
    rng = np.random.default_rng(1)
    for name, size in tensors.items():
        w.add_tensor(name, rng.standard_normal(size[::-1]).astype(np.float32))
    w.write_header_to_file(), w.write_kv_data_to_file(), w.write_tensors_to_file(), w.close()


def types(path, out, ftype, tensors, weighed):
    p = lib.llama_model_quantize_default_params()
    p.ftype, p.nthread = ftype, 1
    if weighed:
        rows = []
        for name, size in tensors.items():
            n = size[0] * (size[2] if len(size) > 2 else 1)
            rows.append(Importance(name.encode(), (C.c_float * n)(*[1.0] * n), n))
        rows.append(Importance(None, None, 0))
        array = (Importance * len(rows))(*rows)
        p.imatrix = C.cast(array, C.c_void_p)
    if lib.llama_model_quantize(path.encode(), out.encode(), C.byref(p)) != 0:
        return {name: "." for name in tensors}
    r = GGUFReader(out)
    assert int(r.get_field("general.file_type").parts[-1][0]) == ftype
    return {t.name: LETTERS[t.tensor_type.name] for t in r.tensors}


print("# made by tests/make_mix_goldens.py from llama.cpp's quantizer")
print("mixes", *[f"{k}={v}" for k, v in MIXES.items()])
print("letters", *[f"{v}={k}" for k, v in LETTERS.items()])
with tempfile.TemporaryDirectory() as folder:
    path, out = folder + "/in.gguf", folder + "/out.gguf"
    for name, arch, L, H, G, E, cols, tensors in MODELS:
        write(path, arch, L, H, G, E, cols, tensors)
        got = [[types(path, out, f, tensors, weighed) for f in MIXES.values()] for weighed in (False, True)]
        print("model", name, arch, L, H, G, E)
        for t, size in tensors.items():
            print(t, "x".join(map(str, size)), *["".join(x[t] for x in g) for g in got])
