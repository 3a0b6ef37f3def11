#!/usr/bin/env python3
"""What ./run exports, computed by transformers and by llama.cpp: for every family that transformers has.

A tiny model of each family is made by transformers with all switches on and a small tokenizer; `./run --export hf` and
`./run --export gguf` write it, and the folder is also written once from that GGUF. Then

    run           ./run on the source: ids of a text, and log-probabilities of all tokens at ten greedy steps behind it
    folder        AutoModelForCausalLM and AutoTokenizer on the written folder (and on the one written from the GGUF)
    gguf          libllama on the written GGUF, tokenizer included

and the largest difference of a log-probability is printed. A row fails above 1e-3 for transformers, 1e-2 for libllama
(GELU from a table of f16, repeated products for the angles of rope), and when ids differ. What libllama does not compute
is turned off for its column (UNLIKE), and said. Nothing is kept. Run by hand, or `make check-peers`:

    LLAMA_SOURCE=llama.cpp LLAMA_LIBS=build/bin python3 tests/check_exports.py [name...]

Without LLAMA_SOURCE the last column is left out; without Python's packages the target says so in a line.
"""
import json
import os
import subprocess
import sys
import tempfile

try:
    import gguf  # noqa: F401  (make_family_goldens needs it)
    import numpy as np
    import tokenizers
    import torch
    import transformers as tf
except ImportError as e:
    print(f"check-peers: left out, {e}")
    sys.exit(0)

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import make_family_goldens as engine  # noqa: E402
import make_transformers_goldens as goldens  # noqa: E402
import make_variant_goldens as variants  # noqa: E402

RUN = os.environ.get("RUN", "./run")
TEXT = "It was late; 23 crows sat in the old oak, and nobody's dog barked."
STEPS, V = 10, 300
# What libllama has otherwise: windows of these families, a scale of attention that is not 1/sqrt(D), norms of OLMoE's keys
# when heads share them, a bias on Seed's output.
WIDE = dict(sliding_window=200)
UNLIKE = {
    "mistral": WIDE, "ministral": WIDE, "phi3": WIDE, "phi3_factor": WIDE, "starcoder2": WIDE,
    "qwen2": dict(use_sliding_window=False), "qwen3": dict(use_sliding_window=False, layer_types=None),
    "olmoe": dict(num_key_value_heads=4), "seed_oss": dict(attention_out_bias=False),
    "exaone4": dict(sliding_window=None, layer_types=["full_attention"] * 4),
    "gemma2": dict(query_pre_attn_scalar=12), "gemma3": dict(query_pre_attn_scalar=12),
}


def sources():
    """name -> (config class, values)"""
    out = {name: (m["config"], m["values"]) for name, m in goldens.MODELS.items()}
    for name, m in variants.ROWS.items():
        if name in ("llama_dynamic", "phi3_short"):  # rope by the length at hand: test_variants.c has them
            continue
        out.setdefault(name, (getattr(tf, m["kind"] + "Config"), m["config"]))
    return out


def tokenizer(folder):
    """A byte-level BPE of V tokens with three control tokens."""
    t = tokenizers.Tokenizer(tokenizers.models.BPE())
    t.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=V, special_tokens=["<pad>", "<s>", "</s>"], show_progress=False,
                                             initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet())
    t.train_from_iterator([TEXT, "the cat sat in the old oak and the dog was late, it was old"] * 3, trainer)
    assert t.get_vocab_size() == V, t.get_vocab_size()
    tf.PreTrainedTokenizerFast(tokenizer_object=t, bos_token="<s>", eos_token="</s>", pad_token="<pad>",
                               clean_up_tokenization_spaces=False).save_pretrained(folder)


def make(config, values, off, folder):
    values = dict(values, vocab_size=V)
    values["n_positions" if "n_embd" in values else "max_position_embeddings"] = 128
    values.update(bos_token_id=1, eos_token_id=2, pad_token_id=0)
    values.update(off)
    goldens.build(dict(config=config), {k: v for k, v in values.items() if v is not None or k in off}, folder)
    tokenizer(folder)


def command(*words):
    p = subprocess.run([RUN, *words], capture_output=True, text=True)
    if p.returncode:
        raise RuntimeError(p.stderr.strip().split("\n")[-1][:300])
    return p.stdout


def log_softmax(z):
    z = np.asarray(z, np.float64)
    z = z - z.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def by_run(path):
    """Prompt ids, the ids behind it, log-probabilities [STEPS, V]."""
    ids = [int(x) for x in command("-m", path, "--tokenize", "-p", TEXT).replace(",", " ").replace("[", " ").replace("]", " ").split()
           if x.lstrip("-").isdigit()]
    out = command("-m", path, "-p", TEXT, "-n", str(STEPS), "--temp", "0", "--ignore-eos", "--logprobs", str(V), "--cpu",
                  os.environ.get("CPU", "plain"))
    rows, more = [], []
    for line in out.splitlines():
        x = json.loads(line)
        top = x.get("top") or x.get("logprobs")
        if not top:
            continue
        row = np.full(V, np.nan)
        for c in top:
            row[c["id"]] = c["logprob"]
        rows.append(row)
        more.append(x["id"])
    return ids, more, np.array(rows)


def tokenizer_class(folder):
    """AutoTokenizer, unless the class that it takes by model_type (Qwen2) has a pre-tokenizer of its own."""
    plain = tokenizers.Tokenizer.from_file(os.path.join(folder, "tokenizer.json")).encode(TEXT).ids
    return tf.AutoTokenizer if tf.AutoTokenizer.from_pretrained(folder)(TEXT)["input_ids"] == plain else tf.PreTrainedTokenizerFast


@torch.no_grad()
def by_transformers(folder, more, tokenizer_of):
    ids = tokenizer_of.from_pretrained(folder)(TEXT)["input_ids"]
    m = tf.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    out = m(torch.tensor([ids]), use_cache=True)
    rows, cache = [out.logits[0, -1].numpy()], out.past_key_values
    for id in more[:-1]:
        out = m(torch.tensor([[id]]), use_cache=True, past_key_values=cache)
        cache = out.past_key_values
        rows.append(out.logits[0, -1].numpy())
    return ids, log_softmax(rows)


def by_llama(program, path, ids, more):
    out = subprocess.run([program, path, str(len(ids))] + [str(i) for i in ids + more[:-1]], capture_output=True,
                         env=dict(os.environ, LD_LIBRARY_PATH=os.environ["LLAMA_LIBS"]))
    if out.returncode or not out.stdout:
        raise RuntimeError("libllama: " + (out.stderr.decode(errors="replace").strip().split("\n")[0][:200] or f"exit {out.returncode}"))
    z = np.frombuffer(out.stdout, np.float32).reshape(-1, V)
    return log_softmax(z[len(ids) - 1:])


def check(name, config, values, program, folder):
    """The columns of one row, and whether all is well."""
    path = lambda *p: os.path.join(folder, *p)
    cells, good = [], True

    def cell(what, limit, fn):
        nonlocal good
        try:
            worst = fn()
            good &= bool(worst <= limit)
            cells.append(f"{what} {worst:.1e}{'' if worst <= limit else ' FAIL'}")
        except Exception as e:
            good = False
            cells.append(f"{what} FAIL: {type(e).__name__} {str(e)[:300]}")

    make(config, values, {}, path("source"))
    command("-m", path("source"), "--export", "hf", "-o", path("hf"))
    command("-m", path("source"), "--export", "gguf", "-o", path("a.gguf"))
    command("-m", path("a.gguf"), "--export", "hf", "-o", path("hf2"))
    ids, more, mine = by_run(path("source"))
    tokenizer_of = tokenizer_class(path("source"))

    def folder_of(which):
        theirs, z = by_transformers(path(which), more, tokenizer_of)
        assert theirs == ids, f"ids {theirs[:8]} for {ids[:8]}"
        return np.abs(z - mine).max()

    cell("source", 1e-3, lambda: folder_of("source"))
    cell("folder", 1e-3, lambda: folder_of("hf"))
    cell("folder from gguf", 1e-3, lambda: folder_of("hf2"))
    if program:
        off = UNLIKE.get(name, {})
        if off:
            make(config, values, off, path("plain"))
            command("-m", path("plain"), "--export", "gguf", "-o", path("a.gguf"))
        ids, more, mine = by_run(path("a.gguf"))
        cell("gguf" + (" (" + ", ".join(off) + " changed)" if off else ""), 1e-2,
             lambda: np.abs(by_llama(program, path("a.gguf"), ids, more) - mine).max())
    return cells, good


def main():
    tf.logging.set_verbosity_error()
    tf.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    failed = []
    with tempfile.TemporaryDirectory() as folder:
        program = engine.build_engine(folder) if "LLAMA_SOURCE" in os.environ else None
        for name, (config, values) in sources().items():
            if sys.argv[1:] and name not in sys.argv[1:]:
                continue
            with tempfile.TemporaryDirectory() as inner:
                try:
                    cells, good = check(name, config, values, program, inner)
                except Exception as e:
                    cells, good = [f"FAIL: {type(e).__name__} {str(e)[:400]}"], False
            print(f"{name:18} " + "; ".join(cells), flush=True)
            if not good:
                failed.append(name)
    print(f"{len(failed)} rows fail: {' '.join(failed)}" if failed else "every row agrees")
    return 3 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
