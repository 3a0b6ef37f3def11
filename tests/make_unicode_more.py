#!/usr/bin/env python3
"""Writes tokenizer/unicode_more.h: words, the script Han, grapheme clusters, and compatibility decompositions.

    pip install regex tokenizers==0.23.3 && python3 tests/make_unicode_more.py > tokenizer/unicode_more.h

What is a word character is asked of the reference itself: whether a single_word token is found before it. Likewise what NFKD
makes of a character where NFD makes something else. The classes of grapheme clusters are those of the package `regex`.
"""
import regex
from tokenizers import AddedToken, Tokenizer, models, normalizers

scalars = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]

tok = Tokenizer(models.WordLevel({"u": 0}, unk_token="u"))
tok.add_tokens([AddedToken("QqQ", single_word=True, normalized=False)])
word = set()
for from_ in range(0, len(scalars), 4096):
    part = scalars[from_:from_ + 4096]
    for c, e in zip(part, tok.encode_batch(["QqQ" + chr(c) for c in part])):
        if 1 not in e.ids:
            word.add(c)

CLUSTER = [("Control", r"\p{GCB=Control}|\r|\n"), ("Extend", r"\p{GCB=Extend}|\p{GCB=ZWJ}"), ("SpacingMark", r"\p{GCB=SpacingMark}"),
           ("Prepend", r"\p{GCB=Prepend}"), ("Pictographic", r"\p{Extended_Pictographic}")]
kinds = [regex.compile(pattern) for _, pattern in CLUSTER]


def cluster(c):
    if 0xD800 <= c < 0xE000:
        return 0
    return next((i + 1 for i, k in enumerate(kinds) if k.match(chr(c))), 0)


nfkd, nfd = normalizers.NFKD().normalize_str, normalizers.NFD().normalize_str
compat, pool = [], []
for c in scalars:
    wide = nfkd(chr(c))
    if wide != nfd(chr(c)):
        compat.append((c, len(pool)))
        pool += [ord(x) for x in wide]


def boundaries(of):
    out, last = [], 0  # nothing holds at 0 but what the first entry says
    for c in range(0x110000):
        k = of(c)
        if k != last:
            out.append((c, k))
            last = k
    return out


def table(declaration, words):
    print(f"{declaration} = {{")
    line = "   "
    for w in words:
        if len(line) + len(w) + 2 > 100:
            print(line)
            line = "   "
        line += f" {w},"
    print(line)
    print("};")


is_han = regex.compile(r"\p{Han}").match
han = boundaries(lambda c: not 0xD800 <= c < 0xE000 and bool(is_han(chr(c))))
words, clusters = boundaries(lambda c: c in word), boundaries(cluster)
print("""// Made by tests/make_unicode_more.py; not written by hand.
//
// Where it begins and ends that a code point is part of a word (\\w).""")
table(f"static const uint32_t word_quick[{len(words)}]", [f"{c:#x}" for c, _ in words])
print("// The same for the script Han.")
table(f"static const uint32_t han_quick[{len(han)}]", [f"{c:#x}" for c, _ in han])
print("// Grapheme clusters: first code point << 4 | enum cluster_class, which holds until the next entry.")
table(f"static const uint32_t cluster_starts[{len(clusters)}]", [f"{c << 4 | k:#x}" for c, k in clusters])
print("// Compatibility decompositions, complete, where they differ from canonical ones: code point << 16 | where in the pool it")
print("// begins; it ends where the next begins.")
table(f"static const uint64_t compat_starts[{len(compat)}]", [f"{c << 16 | at:#x}" for c, at in compat])
table(f"static const uint32_t compat_pool[{len(pool)}]", [f"{c:#x}" for c in pool])
