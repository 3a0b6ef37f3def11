#!/usr/bin/env python3
"""Holds the tokenizer.json that we write against the package `tokenizers` and against the tokenizer it was written from.

    make build/release/tokenize_texts && python3 tests/check_written_tokenizers.py build/release/tokenize_texts [-n 2000] FILE...

Every FILE (a GGUF with a tokenizer, or a tokenizer.json) is written as a tokenizer.json; the package loads it, and so do we. Compared
are the ids of N random strings with every special spelling among them, once with control spellings as text and once as tokens with
BOS and EOS: those of FILE, those of the package, and those that we give when we read what was written. A Unigram model never reads a
control or byte token out of text, so there such strings count only as tokens; two ways of equal probability are counted apart.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile

from tokenizers import Tokenizer

import compare_tokenizers as c


def template(js):
    """BOS and EOS of the written file, as spelled."""
    post = js["post_processor"] or {}
    words = [next(iter(w.items())) for w in post.get("single", [])]
    at = [k for k, _ in words].index("Sequence") if words else 0
    name = lambda part: next((w["id"] for k, w in part if k == "SpecialToken"), None)
    return name(words[:at]), name(words[at:])


def check(driver, path, n, folder):
    p = subprocess.run([driver, path, "json"], capture_output=True)
    if p.returncode:
        print(f"{path}: not written: {p.stderr.decode()}")
        return 0
    out = os.path.join(folder, "tokenizer.json")
    with open(out, "wb") as f:
        f.write(p.stdout)
    js = json.loads(p.stdout)
    tok = Tokenizer.from_file(out)
    unigram = js["model"]["type"] == "Unigram"
    spellings = [t["content"] for t in js["added_tokens"]]
    controls = [t["content"] for t in js["added_tokens"] if t["special"]] + (c.BYTES if unigram else [])
    texts = c.strings(n, spellings[:300] or ["x"]) + spellings + [c.mixed(1 << 16)]
    bos, eos = (s and tok.token_to_id(s) for s in template(js))
    bad, ties = {"package": 0, "reread": 0}, 0
    for special in (False, True):
        cases = [(t.encode(), (c.BOS | c.SPECIAL | c.EOS) if special else 0) for t in texts]
        mine = c.ours(driver, path, cases)
        for who, got in (("reread", c.ours(driver, out, cases)),
                         ("package", [c.once(i, bos, eos) if special else i for i in c.theirs(tok, texts, special)])):
            for t, g, m in zip(texts, got, mine):
                if g == m or (unigram and not special and any(x in t for x in controls)):
                    continue
                if unigram and abs(c.logp(js, g) - c.logp(js, m)) < 1e-8:
                    ties += 1
                    continue
                bad[who] += 1
                if bad[who] <= 3:
                    at = next((i for i, (x, y) in enumerate(zip(g, m)) if x != y), min(len(g), len(m)))
                    print("   ", who, "special" if special else "plain", ascii(t[:80]), "at", at, "file", m[max(0, at - 2):at + 6], "got",
                          g[max(0, at - 2):at + 6], [tok.id_to_token(i) for i in m[at:at + 3]], [tok.id_to_token(i) for i in g[at:at + 3]])
    print(f"{os.path.basename(path)}: {len(texts)} texts twice; package differs {bad['package']}, reread differs {bad['reread']}"
          + (f", {ties} ties" if ties else "") + (f"; {p.stderr.decode().strip()}" if p.stderr else ""), flush=True)
    return bad["package"] + bad["reread"]


def main():
    arg = argparse.ArgumentParser()
    arg.add_argument("driver")
    arg.add_argument("files", nargs="+")
    arg.add_argument("-n", type=int, default=2000)
    a = arg.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        return sum(check(a.driver, path, a.n, folder) for path in a.files) > 0


if __name__ == "__main__":
    sys.exit(main())
