#!/usr/bin/env python3
"""Holds ./run against llama.cpp on real model files: the same prompts, the same ids, the same greedy text.

    LLAMA_CPP_LIB_PATH=folder-of-libllama python3 tests/check_llama_cpp.py MODEL.gguf... [--exact] [--dequantized] [--golden FOLDER]

Needs the packages llama-cpp-python (its binding; the library may be another build of the same version), transformers, jinja2,
and with --exact torch and gguf. Twenty prompts per model: chats written by the file's own template where it has one, plain text
where it has not. Compared are the ids of the prompt (template by transformers, ids by llama.cpp with control spellings
counting) and the greedily chosen ids.

llama.cpp rounds the inputs of a product with a quantized matrix to 8 bits, ./run does not, so where the best two tokens are
nearly as likely the two part. Two ways to find out who is right:
    --exact        transformers in f32 on the dequantized file is given the tokens that ./run chose
    --dequantized  llama.cpp reads the same weights as f32 (written by ./run --quantize f32), where it rounds nothing
A first difference is `close` when both programs see the best two tokens nearer than 0.01 to each other, `ours exact` when the exact
choice is that of ./run, `wrong` when it is not, `unknown` when nobody was asked.
--golden writes the exact answers of a few prompts for test_real_models.c, and only those: FOLDER/real_NAME.txt, per prompt a line
of prompt ids and one of chosen ids, which ends before the first choice whose best two are nearer than 0.02.
"""
import argparse
import collections
import json
import os
import shutil
import subprocess
import sys
import tempfile

import llama_cpp.llama_cpp as ll
import numpy as np
from transformers.utils.chat_template_utils import render_jinja_template

PROMPTS = [  # (system, text)
    (None, "What is the capital of France?"),
    (None, "Write a short story about a lighthouse keeper and a whale."),
    ("You are a terse assistant. Answer in one sentence.", "Why is the sky blue?"),
    (None, "def fibonacci(n):\n    \"\"\"Return the n-th Fibonacci number.\"\"\"\n"),
    (None, "Fix this C code:\n\n```c\nint main() {\n    for (int i = 0; i < 10; i++ {\n\tprintf(\"%d\\n\", i)\n    }\n}\n```"),
    (None, "List five fruits, one per line:\n1. apple\n2. banana\n"),
    (None, "1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89,"),
    (None, "12345 + 67890 = "),
    (None, "请用中文介绍一下北京。"),
    (None, "日本の首都はどこですか？"),
    (None, "한국의 전통 음식에 대해 알려 주세요."),
    (None, "Wie heißt die Hauptstadt von Österreich? Bitte kurz."),
    ("Réponds toujours en français.", "Qui a écrit « Les Misérables » ?"),
    (None, "Напиши короткое стихотворение о зиме."),
    (None, "| name | age |\n|------|-----|\n| Ada  | 36  |\n| Alan | 41  |\n\nSummarize this table."),
    (None, "SELECT name, COUNT(*) FROM users WHERE age > 30 GROUP BY name"),
    (None, "Translate to emoji: I love pizza and sunny days 😀🍕"),
    (None, "The quick brown fox jumps over the lazy dog. " * 12 + "How many times did the fox jump?"),
    (None, "{\"name\": \"lehr\", \"tags\": [\"a\", \"b\"], \"size\": 3.5e-2}\nIs this valid JSON?"),
    (None, "   Indented   text \t with tabs\n\n\nand   blank lines   "),
]
GOLDEN = (0, 3, 8, 12)


class Peer:
    """libllama on the CPU, weights as they stand in the file, attention and cache in f32."""

    def __init__(self, path, threads):
        ll.llama_log_set(QUIET, None)
        p = ll.llama_model_default_params()
        p.use_extra_bufts = False  # repacked weights need instructions that not every machine has
        p.n_gpu_layers = 0
        self.model = ll.llama_model_load_from_file(path.encode(), p)
        c = ll.llama_context_default_params()
        c.n_ctx = c.n_batch = 1024
        c.n_threads = c.n_threads_batch = threads
        c.flash_attn_type = 0
        c.type_k = c.type_v = 0  # f32
        self.context = ll.llama_init_from_model(self.model, c)
        self.vocab = ll.llama_model_get_vocab(self.model)
        self.V = ll.llama_vocab_n_tokens(self.vocab)

    def meta(self, key):
        import ctypes
        buf = ctypes.create_string_buffer(1 << 20)
        n = ll.llama_model_meta_val_str(self.model, key.encode(), buf, len(buf))
        return buf.value.decode() if n >= 0 else None

    def token_text(self, id):
        return (ll.llama_vocab_get_text(self.vocab, id) or b"").decode() if id >= 0 else ""

    def tokenize(self, text, special):
        raw = text.encode()
        buf = (ll.llama_token * (len(raw) + 8))()
        n = ll.llama_tokenize(self.vocab, raw, len(raw), buf, len(buf), True, special)
        return list(buf[:n])

    def feed(self, ids):
        array = (ll.llama_token * len(ids))(*ids)  # the batch borrows it
        if ll.llama_decode(self.context, ll.llama_batch_get_one(array, len(ids))):
            sys.exit("llama_decode failed")
        return np.ctypeslib.as_array(ll.llama_get_logits_ith(self.context, -1), (self.V,)).copy()

    def follow(self, ids, chosen):
        """Where its greedy choice is another than chosen: position, id, distance of its best two. None: nowhere."""
        ll.llama_memory_clear(ll.llama_get_memory(self.context), True)
        logits = self.feed(ids)
        for i, want in enumerate(chosen):
            best = int(logits.argmax())
            if best != want:
                top = logits[best]
                logits[best] = -np.inf
                return i, best, float(top - logits.max())
            if i + 1 < len(chosen):
                logits = self.feed([best])
        return None


@ll.llama_log_callback
def QUIET(level, text, data):
    if level == 4:  # errors only
        sys.stderr.write(text.decode())


def ours(run, path, chat, system, text, n):
    command = [run, "-m", path, "-p", text, "--temp", "0", "-n", str(n), "-c", "1024", "--logprobs", "2"]
    if chat:
        command += ["--chat", "--show-prompt"] + (["--system", system] if system else [])
    r = subprocess.run(command, capture_output=True, text=True, check=True)
    rows = [json.loads(line) for line in r.stdout.splitlines()]
    rows = [row for row in rows if "id" in row]
    if chat:
        said = r.stderr[r.stderr.rindex(" ids:") + 5 :].splitlines()[0]
        ids = [int(word.split("=")[0]) for word in said.split(" ") if word.split("=")[0].isdigit()]
    else:
        out = subprocess.run(command[:5] + ["--tokenize"], capture_output=True, text=True, check=True).stdout
        ids = [int(word) for word in out.split()]
    gaps = [row["top"][0]["logprob"] - row["top"][1]["logprob"] for row in rows]
    return ids, [row["id"] for row in rows], gaps


def as_f32(run, path, folder):
    out = os.path.join(folder, "f32.gguf")
    subprocess.run([run, "-m", path, "--quantize", "f32", "-o", out], capture_output=True, check=True)
    return out


class Exact:
    """The dequantized file through transformers in f32."""

    def __init__(self, path):
        import torch
        from transformers import AutoModelForCausalLM
        from transformers.utils import logging

        self.torch = torch
        logging.disable_progress_bar()
        self.model = AutoModelForCausalLM.from_pretrained(
            os.path.dirname(path) or ".", gguf_file=os.path.basename(path), dtype=torch.float32, attn_implementation="eager"
        ).eval()

    def judge(self, prompt, chosen):
        """For every position of chosen: the exact choice, the distance of its best two, and how far chosen lies behind the best."""
        with self.torch.no_grad():
            logits = self.model(self.torch.tensor([prompt + chosen[:-1]])).logits[0, len(prompt) - 1 :]
        two = logits.topk(2, dim=-1)
        behind = two.values[:, 0] - logits.gather(1, self.torch.tensor(chosen)[:, None])[:, 0]
        return two.indices[:, 0].tolist(), (two.values[:, 0] - two.values[:, 1]).tolist(), behind.tolist()


def prompt_ids(peer, template, system, text):
    if not template:
        return peer.tokenize(text, False)
    talk = ([{"role": "system", "content": system}] if system else []) + [{"role": "user", "content": text}]
    bos, eos = (peer.token_text(f(peer.vocab)) for f in (ll.llama_vocab_bos, ll.llama_vocab_eos))
    rendered, _ = render_jinja_template([talk], chat_template=template, add_generation_prompt=True, bos_token=bos, eos_token=eos)
    return peer.tokenize(rendered[0], True)


def verdict_of(parting, a_ids, a_gaps, judged):
    """A word for the table, and what was seen."""
    if parting is None:
        return "equal", ""
    first, id, gap = parting
    said = f"token {first}: ours {a_ids[first]} (gap {a_gaps[first]:.4f}), llama.cpp {id} (gap {gap:.4f})"
    if judged:
        said += f", exact {judged[0][first]} (gap {judged[1][first]:.4f})"
    if a_gaps[first] < 0.01 and gap < 0.01:
        return "close", said
    if not judged:
        return "unknown", said
    return "ours exact" if judged[0][first] == a_ids[first] else "wrong", said


def check_model(path, o, folder):
    peers = {"the file": Peer(path, o.threads)}
    if o.dequantized:
        peers["as f32"] = Peer(as_f32(o.run, path, folder), o.threads)
    peer = peers["the file"]
    template = peer.meta("tokenizer.chat_template")
    exact = Exact(path) if o.exact or o.golden else None
    verdicts = {name: collections.Counter() for name in peers}
    choices = right = bad = 0
    most_behind = 0.0
    golden = []
    for at, (system, text) in enumerate(PROMPTS):
        if o.golden and at not in GOLDEN:
            continue
        ids, a_ids, a_gaps = ours(o.run, path, bool(template), system, text, o.tokens)
        wanted = prompt_ids(peer, template, system, text)
        if ids != wanted:
            bad += 1
            print(f"  prompt {at}: ids differ\n    ours      {ids}\n    llama.cpp {wanted}", flush=True)
            continue
        judged = exact.judge(ids, a_ids) if exact else None
        if exact:
            choices += len(a_ids)
            right += sum(x == y for x, y in zip(judged[0], a_ids))
            most_behind = max([most_behind] + judged[2])
        for name, p in peers.items():
            verdict, said = verdict_of(p.follow(ids, a_ids), a_ids, a_gaps, judged)
            verdicts[name][verdict] += 1
            bad += verdict in ("wrong", "unknown")
            if said:
                print(f"  prompt {at}, {name}: {verdict}, {said}", flush=True)
        if o.golden:
            end = next((i for i, g in enumerate(judged[1]) if g < 0.02 or judged[0][i] != a_ids[i]), len(a_ids))
            golden.append((ids, judged[0][:end]))
    model = os.path.basename(path).removesuffix(".gguf")
    for name in peers:
        print(f"{model}, llama.cpp reads {name}: " + ", ".join(f"{n} {what}" for what, n in verdicts[name].items()), flush=True)
    if exact:
        print(f"{model}: {right} of {choices} choices are the exact ones, the others at most {most_behind:.4f} behind", flush=True)
    if o.golden:
        with open(os.path.join(o.golden, f"real_{model}.txt"), "w") as f:
            for ids, chosen in golden:
                f.write(" ".join(map(str, ids)) + "\n" + " ".join(map(str, chosen)) + "\n")
    return bad


def main():
    a = argparse.ArgumentParser()
    a.add_argument("models", nargs="+")
    a.add_argument("--run", default=os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "run"))
    a.add_argument("--tokens", type=int, default=64)
    a.add_argument("--threads", type=int, default=1)
    a.add_argument("--exact", action="store_true")
    a.add_argument("--dequantized", action="store_true")
    a.add_argument("--golden")
    o = a.parse_args()
    if o.golden:
        o.tokens = 24
    ll.llama_backend_init()
    bad, folder = 0, tempfile.mkdtemp()
    for path in o.models:
        bad += check_model(path, o, folder)
    shutil.rmtree(folder)
    return bad > 0


if __name__ == "__main__":
    sys.exit(main())
