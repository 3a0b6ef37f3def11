"""Writes tests/fuzz/seeds: where the fuzz targets begin (make fuzz). Small files by hand, of the standard library only:

    python3 tests/make_fuzz_seeds.py

Each folder is a target. What a seed is good for stands in its name.
"""

import json
import os
import struct

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "fuzz", "seeds")
U8, I8, U16, I16, U32, I32, F32, BOOL, TEXT, ARRAY, U64, I64, F64 = range(13)
PACK = {U8: "<B", I8: "<b", U16: "<H", I16: "<h", U32: "<I", I32: "<i", F32: "<f", BOOL: "<B", U64: "<Q", I64: "<q", F64: "<d"}


def put(target, name, data):
    folder = os.path.join(ROOT, target)
    os.makedirs(folder, exist_ok=True)
    if isinstance(data, str):
        data = data.encode()
    with open(os.path.join(folder, name), "wb") as f:
        f.write(data)


def archive(files):
    return b"\n".join(b"====" + name.encode() + b"\n" + (data.encode() if isinstance(data, str) else data)
                      for name, data in files)


# --- GGUF ------------------------------------------------------------------------------------------------------------

def text(s):
    s = s.encode() if isinstance(s, str) else s
    return struct.pack("<Q", len(s)) + s


def value(kind, x):
    return text(x) if kind == TEXT else struct.pack(PACK[kind], x)


def key(name, kind, x):
    if isinstance(kind, tuple):  # (ARRAY, item)
        return text(name) + struct.pack("<IIQ", ARRAY, kind[1], len(x)) + b"".join(value(kind[1], i) for i in x)
    return text(name) + struct.pack("<I", kind) + value(kind, x)


def gguf(keys, tensors, version=3):
    """tensors: (name, sizes innermost first, type, bytes)"""
    head, data = b"", b""
    for name, sizes, kind, b in tensors:
        head += text(name) + struct.pack("<I", len(sizes)) + b"".join(struct.pack("<Q", s) for s in sizes)
        head += struct.pack("<IQ", kind, len(data))
        data += b + bytes(-len(b) % 32)
    out = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(keys)) + b"".join(keys) + head
    return out + bytes(-len(out) % 32) + data


def llama_keys():
    return [key("general.architecture", TEXT, "llama"), key("llama.context_length", U32, 8), key("llama.embedding_length", U32, 4),
            key("llama.block_count", U32, 1), key("llama.feed_forward_length", U32, 4), key("llama.attention.head_count", U32, 2),
            key("llama.attention.head_count_kv", U32, 1), key("llama.attention.layer_norm_rms_epsilon", F32, 1e-5),
            key("llama.rope.dimension_count", U32, 2), key("llama.rope.freq_base", F32, 10000.0)]


def floats(n):
    return struct.pack("<%df" % n, *[((i * 7) % 11 - 5) / 8 for i in range(n)])


def llama_tensors(vocab):
    C, F, KV = 4, 4, 2
    shapes = [("token_embd", [C, vocab]), ("output_norm", [C]), ("blk.0.attn_norm", [C]), ("blk.0.attn_q", [C, C]),
              ("blk.0.attn_k", [C, KV]), ("blk.0.attn_v", [C, KV]), ("blk.0.attn_output", [C, C]), ("blk.0.ffn_norm", [C]),
              ("blk.0.ffn_gate", [C, F]), ("blk.0.ffn_up", [C, F]), ("blk.0.ffn_down", [F, C])]
    out = []
    for name, s in shapes:
        n = 1
        for d in s:
            n *= d
        out.append((name + ".weight", s, 0, floats(n)))
    return out


def spelled(b):
    kept = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    return chr(b) if b in kept else chr(256 + sum(1 for i in range(b) if i not in kept))


def bpe_keys():
    tokens = [spelled(b) for b in range(256)] + ["he", "\u0120the"[:1] + "t", "<s>", "</s>", "<tool>"]
    types = [1] * 258 + [3, 3, 4]
    return [key("tokenizer.ggml.model", TEXT, "gpt2"), key("tokenizer.ggml.pre", TEXT, "gpt-2"),
            key("tokenizer.ggml.tokens", (ARRAY, TEXT), tokens), key("tokenizer.ggml.token_type", (ARRAY, I32), types),
            key("tokenizer.ggml.merges", (ARRAY, TEXT), ["h e", "\u0120 t"]), key("tokenizer.ggml.bos_token_id", U32, 258),
            key("tokenizer.ggml.eos_token_id", U32, 259), key("tokenizer.ggml.add_bos_token", BOOL, 1),
            key("tokenizer.chat_template", TEXT, "{% for m in messages %}<s>{{ m.role }}: {{ m.content }}</s>{% endfor %}")], len(tokens)


def spm_keys():
    tokens = ["<unk>", "<s>", "</s>"] + ["<0x%02X>" % b for b in range(256)] + ["\u2581", "h", "e", "he", "\u2581he"]
    types = [2, 3, 3] + [6] * 256 + [1] * 5
    return [key("tokenizer.ggml.model", TEXT, "llama"), key("tokenizer.ggml.tokens", (ARRAY, TEXT), tokens),
            key("tokenizer.ggml.scores", (ARRAY, F32), [-float(i) for i in range(len(tokens))]),
            key("tokenizer.ggml.token_type", (ARRAY, I32), types)], len(tokens)


def gguf_seeds():
    kinds = [key("u8", U8, 255), key("i8", I8, -1), key("u16", U16, 65535), key("i16", I16, -2), key("i32", I32, -3),
             key("f32", F32, 0.5), key("yes", BOOL, 1), key("u64", U64, 2**64 - 1), key("i64", I64, -2**63), key("f64", F64, 1e300),
             key("texts", (ARRAY, TEXT), ["a", "", "nul\0in"]), key("none", (ARRAY, U8), []), key("bools", (ARRAY, BOOL), [0, 1]),
             key("general.alignment", U32, 32)]
    blocks = [(0, 4, 1), (1, 2, 1), (30, 2, 1), (8, 34, 32), (2, 18, 32), (3, 20, 32), (6, 22, 32), (7, 24, 32), (10, 84, 256),
              (11, 110, 256), (12, 144, 256), (13, 176, 256), (14, 210, 256), (20, 18, 32), (23, 136, 256), (39, 17, 32), (26, 4, 1)]
    put("gguf", "kinds_and_types", gguf(kinds, [("t%d" % t, [per, 2], t, bytes(2 * b)) for t, b, per in blocks]))
    put("gguf", "version_2", gguf([key("general.architecture", TEXT, "llama")], [("w", [4], 0, floats(4))], 2))
    for name, (extra, vocab) in (("bpe", bpe_keys()), ("spm", spm_keys())):
        put("gguf", "llama_" + name, gguf(llama_keys() + extra, llama_tensors(8)))
    part = [[key("split.no", U16, i), key("split.count", U16, 2), key("split.tensors.count", I32, 3)] for i in range(2)]
    put("gguf", "split", archive([
        ("m-00001-of-00002.gguf", gguf([key("general.architecture", TEXT, "llama")] + part[0], [("a", [4], 0, floats(4)), ("b", [4], 0, floats(4))])),
        ("m-00002-of-00002.gguf", gguf(part[1], [("c", [2, 2], 0, floats(4))]))]))
    guard = [0, 0x3ff00000] * 128
    run = [key("train.version", U32, 1), key("train.step", U64, 3), key("train.tokens", U64, 768), key("train.batch_tokens", U64, 256),
           key("train.sequence", U64, 32), key("train.seed", TEXT, "0000000000000001"), key("train.data_hash", TEXT, "00000000000000ff"),
           key("train.seconds", F64, 1.5), key("train.guard.count", U64, 3), key("train.guard.skipped", U64, 0),
           key("train.guard.in_a_row", U64, 0), key("train.guard.limit", F64, 6.0), key("train.guard.loss", (ARRAY, I32), guard),
           key("train.guard.norm", (ARRAY, I32), guard), key("train.options", TEXT, "seed = 1\n# what these came to\nlr = 0.1\n")]
    put("gguf", "checkpoint", gguf(run, []))
    put("model", "llama", gguf(llama_keys(), llama_tensors(8)))


# --- Hugging Face ----------------------------------------------------------------------------------------------------

def safetensors(tensors, metadata=True):
    """tensors: (name, type, shape, bytes)"""
    head, data = {}, b""
    if metadata:
        head["__metadata__"] = {"format": "pt"}
    for name, kind, shape, b in tensors:
        head[name] = {"dtype": kind, "shape": shape, "data_offsets": [len(data), len(data) + len(b)]}
        data += b
    h = json.dumps(head, separators=(",", ":")).encode()
    h += b" " * (-len(h) % 8)
    return struct.pack("<Q", len(h)) + h + data


CONFIG = {"architectures": ["LlamaForCausalLM"], "attention_bias": False, "bos_token_id": 1, "eos_token_id": [2, 3], "head_dim": 2,
          "hidden_act": "silu", "hidden_size": 4, "intermediate_size": 4, "max_position_embeddings": 8, "model_type": "llama",
          "num_attention_heads": 2, "num_hidden_layers": 1, "num_key_value_heads": 1, "rms_norm_eps": 1e-05,
          "rope_parameters": {"rope_theta": 500.0, "rope_type": "default"}, "tie_word_embeddings": True,
          "torch_dtype": "float32", "use_cache": True, "vocab_size": 8}


def hf_tensors():
    shapes = [("embed_tokens", [8, 4]), ("norm", [4]), ("layers.0.input_layernorm", [4]), ("layers.0.post_attention_layernorm", [4]),
              ("layers.0.self_attn.q_proj", [4, 4]), ("layers.0.self_attn.k_proj", [2, 4]), ("layers.0.self_attn.v_proj", [2, 4]),
              ("layers.0.self_attn.o_proj", [4, 4]), ("layers.0.mlp.gate_proj", [4, 4]), ("layers.0.mlp.up_proj", [4, 4]),
              ("layers.0.mlp.down_proj", [4, 4])]
    out = []
    for name, s in shapes:
        n = 1
        for d in s:
            n *= d
        out.append(("model." + name + ".weight", "F32", s, floats(n)))
    return out


def mixtral_tensors():
    rest = [t for t in hf_tensors() if ".mlp." not in t[0]]
    rest.append(("model.layers.0.block_sparse_moe.gate.weight", "F32", [2, 4], floats(8)))
    for e in range(2):
        for w in ("w1", "w2", "w3"):
            rest.append(("model.layers.0.block_sparse_moe.experts.%d.%s.weight" % (e, w), "BF16", [4, 4], bytes(range(32))))
    return rest


def hf_seeds():
    put("safetensors", "types", safetensors([(k, k, [2, 2], bytes(4 * w)) for k, w in
                                             (("F64", 8), ("F32", 4), ("F16", 2), ("BF16", 2), ("I64", 8), ("I32", 4), ("U8", 1), ("BOOL", 1))]))
    put("safetensors", "empty_and_scalar", safetensors([("empty", "F32", [0, 3], b""), ("one", "F16", [], b"\0\0")], False))
    put("safetensors", "nothing", safetensors([]))
    rope = [("linear", {"rope_scaling": {"type": "linear", "factor": 2.0}}),
            ("llama3", {"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                                         "original_max_position_embeddings": 4}}),
            ("yarn", {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4, "beta_fast": 32,
                                       "beta_slow": 1, "attention_factor": 1.1}})]
    put("config", "llama", json.dumps(CONFIG))
    for name, more in rope:
        put("config", name, json.dumps({**{k: v for k, v in CONFIG.items() if k != "rope_parameters"}, "rope_theta": 1e4, **more}))
    families = [("GraniteForCausalLM", "granite", {"embedding_multiplier": 12.0, "attention_multiplier": 0.1, "residual_multiplier": 0.2,
                                                   "logits_scaling": 8.0}),
                ("Qwen2ForCausalLM", "qwen2", {"sliding_window": None, "use_sliding_window": False, "max_window_layers": 1}),
                ("Qwen3ForCausalLM", "qwen3", {}), ("Phi3ForCausalLM", "phi3", {"partial_rotary_factor": 1.0}),
                ("Gemma2ForCausalLM", "gemma2", {"hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": 2, "sliding_window": 4,
                                                 "final_logit_softcapping": 30.0, "attn_logit_softcapping": 50.0}),
                ("Gemma3ForCausalLM", "gemma3_text", {"hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": 2, "sliding_window": 4,
                                                      "sliding_window_pattern": 6, "rope_local_base_freq": 1e4,
                                                      "layer_types": ["sliding_attention"]}),
                ("MixtralForCausalLM", "mixtral", {"num_local_experts": 2, "num_experts_per_tok": 1}),
                ("Qwen3MoeForCausalLM", "qwen3_moe", {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 4,
                                                      "norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": []}),
                ("Olmo2ForCausalLM", "olmo2", {}), ("MiniCPMForCausalLM", "minicpm", {"scale_emb": 12, "scale_depth": 1.4, "dim_model_base": 2})]
    for cls, kind, more in families:
        put("config", kind, json.dumps({**CONFIG, "architectures": [cls], "model_type": kind, **more}))
    c = json.dumps(CONFIG)
    words = json.dumps({"add_bos_token": True, "add_eos_token": False, "bos_token": {"content": "<s>"}, "eos_token": "</s>",
                        "chat_template": [{"name": "tool_use", "template": "x"}, {"name": "default", "template": "{{ messages[0].content }}"}]})
    put("hf", "whole", archive([("config.json", c), ("generation_config.json", json.dumps({"eos_token_id": [2, 5], "bos_token_id": 1})),
                                ("tokenizer_config.json", words), ("model.safetensors", safetensors(hf_tensors()))]))
    t = hf_tensors()
    index = {"metadata": {"total_size": 1}, "weight_map": {n: "a.safetensors" if i < 6 else "b.safetensors" for i, (n, _, _, _) in enumerate(t)}}
    put("hf", "shards", archive([("config.json", c), ("model.safetensors.index.json", json.dumps(index)), ("chat_template.jinja", "{{ messages }}"),
                                 ("a.safetensors", safetensors(t[:6])), ("b.safetensors", safetensors(t[6:], False))]))
    moe = {**CONFIG, "architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "num_local_experts": 2, "num_experts_per_tok": 1}
    put("hf", "experts", archive([("config.json", json.dumps(moe)), ("model.safetensors", safetensors(mixtral_tensors()))]))
    l3 = {**{k: v for k, v in CONFIG.items() if k != "rope_parameters"}, "rope_theta": 1e4, **dict(rope)["llama3"]}
    put("hf", "llama3", archive([("config.json", json.dumps(l3)), ("model.safetensors", safetensors(hf_tensors()))]))


# --- the rest --------------------------------------------------------------------------------------------------------

def llama2c_seeds():
    n = 5 * 8 + 2 * (8 + 64 + 32 + 32 + 64 + 8 + 96 * 3) + 8 + 2 * 3
    put("llama2c", "shared", struct.pack("<7i", 8, 12, 2, 4, 2, 5, 3) + floats(n))
    put("llama2c", "unshared", struct.pack("<7i", 8, 12, 2, 4, 2, -5, 3) + floats(n + 40))
    tokens = ["<unk>", "\n<s>\n", "\n</s>\n"] + ["<0x%02X>" % b for b in range(256)] + [" ", "h", "e", "he", " he"]
    put("llama2c", "tokenizer", struct.pack("<i", 8) + b"".join(struct.pack("<fi", -float(i), len(t)) + t.encode() for i, t in enumerate(tokens)))


def text_seeds():
    put("json", "kinds", '{"a": [1, -2.5e3, true, false, null, "x\\u00e9\\ud83d\\ude00\\n"], "b": {"c": {}, "d": []}, "e": 9223372036854775807}')
    put("json", "deep", "[" * 27 + "]" * 27)
    put("json", "mark", "\ufeff 0.1 ")
    put("utf8", "scripts", "a\u00e9e\u0301\u4e2d\ud55c\u1112\u1161\u11ab\U0001f600 \u2581\u0f71\u0f74\u212b")
    put("utf8", "broken", b"\xc0\xaf\xed\xa0\x80\xf4\x90\x80\x80\xe2\x82<&\">\x1b\x00\x7f")
    for i, (name, s) in enumerate([("prose", "The 1st of 12345 don't\n\n  stop!"), ("code", "\tif (x->y[3] == 0x1F) {\r\n    return;\n}"),
                                   ("scripts", "\u4e2d\u6587\u3042\u30ab \ud55c\uae00 e\u0301 \u0915\u094d\u0937 \U0001f468\u200d\U0001f469"),
                                   ("marks", "<s> </s><tool> <:> <|im_end|>")]):
        put("encode", name, bytes([i, 100 * i % 256]) + s.encode())
    put("encode", "broken", bytes([5, 6]) + b"\xc0\xaf\xff \xe4\xb8 a\xed\xa0\x80")
    put("opt", "command_line", "-n\x0012k\0--real=0.5\0--no-flag\0word\0--many\0a\0--time\0002h\0--\0-x")
    put("opt", "file", '# a comment\nwhole = 7\nreal = 1e-3\ntext = "a\\nb"\nmany = x\nmany = " y"\ntime = 90s\nflag = true\n')
    put("opt", "checkpoint", "seed = 1\nwidth = 64\ndata = a b\nlr = auto\n# what these came to\ntokens = 1000\nlr = 0.01\n")
    end = "<|endoftext|>\n"
    tok = b"LEHRTOK1" + bytes(8) + struct.pack("<IiQdQi", 2, 256, 12, 12.0, 2, 256) + bytes(12) + struct.pack("<12H", *[72, 105, 256] * 4)
    put("corpus", "texts", archive([("a.txt", "One.\n" + end + "\nTwo.\r\n" + end.replace("\n", "\r\n") + "Three"), ("b.md", "x" * 40),
                                    ("c.jsonl", '{"text": "a\\n", "id": 1}\n\n{"id": [], "text": "b"}')]))
    put("corpus", "shard", archive([("a.tok", tok)]))
    put("corpus", "text_and_shard", archive([("b.txt", "some text " * 9), ("a.tok", tok)]))
    put("log", "run", '{"step":0,"tokens":0,"val_loss":5.5,"val_nats_per_byte":5.1}\n{"step":1,"tokens":256,"loss":5.4,"lr":0.001,"grad_norm":1.5,'
        '"dt_ms":10.5,"tok_per_s":24000}\n{"step":2,"tokens":512,"loss":null,"skipped":"loss"}\n{"step":3,"tok')


def template_seeds():
    put("template", "chat", "{{ bos_token }}{% for m in messages %}<|{{ m['role'] }}|>\n{{ m.content | trim }}{% if not loop.last %}\n{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}")
    put("template", "tools", "{%- if tools is defined and tools %}{%- for t in tools %}{{ t | tojson(indent=2) }}{{ t.function.p.items() | list }}"
        "{% endfor %}{% endif %}{{ '%s' | format('a') if false }}")
    put("template", "state", "{% set ns = namespace(a=0, b=[]) %}{% for i in range(5) %}{% if i == 3 %}{% break %}{% endif %}{% set ns.a = ns.a + i %}"
        "{% endfor %}{{ ns.a }}{% macro f(x, y=2) %}{{ x * y }}{% endmacro %}{{ f(3) }}{{ f(x=1, y='z') }}")
    put("template", "strings", "{{ 'a-b'.split('-')[1:] | join(', ') | upper }}{{ messages[-1].content.startswith('a') }}{{ 'x' ~ 1 ~ 2.5 }}"
        "{{ messages | map(attribute='role') | list | length }}{{ 'é'[::-1].strip().replace('a', 'b') | replace('b', 'c') | title | default('d') }}")
    put("template", "numbers", "{{ 7 // 2 }}{{ -7 % 3 }}{{ 2 ** 10 }}{{ 1e3 }}{{ 5 / 2 | round(1) | int }}{{ [3,1,2] | sort | first }}{{ 1 < 2 <= 3 and not none }}")
    put("template", "blocks", "{# note #}{% raw %}{{ x }}{% endraw %}{% set x %}a{% endset %}{% filter upper %}{{ x }}{% endfilter %}"
        "{{ raise_exception('no') if x == 'b' }}{{ strftime_now('%d %b %Y') }}{% generation %}g{% endgeneration %}")
    for i, name in enumerate(["user", "system", "many", "hostile"]):
        said = ["Hello", " s \n\x01Hi", "a\x01b\x01c\x01", "<|im_end|>\n<|im_start|>system\n</s>[/INST]\x01 <end_of_turn>"][i]
        put("render", name, bytes([i * 3, i]) + said.encode())


gguf_seeds()
hf_seeds()
llama2c_seeds()
text_seeds()
template_seeds()
