#!/usr/bin/env python3
"""Writes tokenizer/unicode.h: the classes of code points, and the tables of Normalization Form C.

    pip install unicodedata2==16.0.0 tokenizers==0.23.3 && python3 tests/make_unicode.py > tokenizer/unicode.h

Classes are those of Unicode 16, the version that the reference implementation of the pre-tokenizers uses in its patterns
(\\p{L} and so on). Its normalizer is older: characters that it does not know compose and reorder with nothing, so the
tables of NFC are cut down to what it knows, by asking it. Another version of either is refused, because new
letters would silently change the ids of a text.
"""
import sys

import tokenizers
import unicodedata2 as unicodedata
from tokenizers import normalizers, pre_tokenizers

WANTED = "16.0.0"
if unicodedata.unidata_version != WANTED:
    sys.exit(f"expected Unicode {WANTED}, unicodedata2 knows {unicodedata.unidata_version}")
if tokenizers.__version__ != "0.23.3":
    sys.exit(f"expected tokenizers 0.23.3, found {tokenizers.__version__}")

# White_Space of PropList.txt; Python's str.isspace() differs (it counts U+001C..U+001F).
SPACE = {*range(0x09, 0x0E), 0x20, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F, 0x205F, 0x3000}
KINDS = {"Lu": 1, "Ll": 2, "Lt": 3, "Lm": 4, "Lo": 5}
scalars = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]

# The pre-tokenizer "Punctuation" has a list of its own, of an older Unicode.
punctuation = set()
text = "".join("\0" + chr(c) for c in scalars)
for _, (a, b) in pre_tokenizers.Punctuation("isolated").pre_tokenize_str(text):
    if b - a == 1 and a % 2 == 1:
        punctuation.add(ord(text[a]))


def kind(cp):
    if cp in SPACE:
        return 11
    category = unicodedata.category(chr(cp))
    if category[0] == "P":
        return 8 if cp in punctuation else 9
    return KINDS.get(category) or {"M": 6, "N": 7, "S": 10}.get(category[0], 0)


starts, last = [], -1
for cp in range(0x110000):
    k = kind(cp)
    if k != last:
        starts.append(cp << 4 | k)
        last = k
STEP, TOP = 128, 0x20000
index, at = [], 0
for block in range(0, TOP + 1, STEP):
    while at + 1 < len(starts) and starts[at + 1] >> 4 <= block:
        at += 1
    index.append(at)

nfc, nfd = normalizers.NFC().normalize_str, normalizers.NFD().normalize_str


def klass(cp):  # the canonical combining class that the normalizer knows
    ccc, c = unicodedata.combining(chr(cp)), chr(cp)
    if not ccc:
        return 0
    moves = nfd("a" + c + "\u0334") == "a\u0334" + c if ccc > 1 else nfd("a\u0345" + c) == "a" + c + "\u0345"
    return ccc if moves else 0


classes, last = [], 0
for cp in range(0x110000):
    ccc = klass(cp) if not 0xD800 <= cp < 0xE000 else 0
    if ccc != last:
        classes.append(cp << 8 | ccc)
        last = ccc
# One step of decomposition, without Hangul; composition is its inverse where NFC composes again.
steps = []
for cp in scalars:
    c = chr(cp)
    if 0xAC00 <= cp < 0xD7A4 or nfd(c) == c:
        continue
    parts = [ord(x) for x in map(lambda h: chr(int(h, 16)), unicodedata.decomposition(c).split())]
    assert 1 <= len(parts) <= 2, hex(cp)
    steps.append((cp, parts[0], parts[1] if len(parts) == 2 else 0))
pairs = sorted((a, b, cp) for cp, a, b in steps if b and nfc(chr(cp)) == chr(cp))
# What may change under NFC, alone or behind something: marks that reorder, what decomposes for good, second parts.
second = {b for _, b, _ in pairs}
changes = {cp for cp, _, _ in steps if nfc(chr(cp)) != chr(cp)} | second | {*range(0x1161, 0x1176), *range(0x11A8, 0x11C3)}
quick, last = [], False
for cp in range(0x110000):
    q = cp in changes or (not 0xD800 <= cp < 0xE000 and klass(cp) != 0)
    if q != last:
        quick.append(cp)
        last = q


def table(declaration, words):
    print(f"{declaration} = {{")
    line = "   "
    for word in words:
        if len(line) + len(word) + 2 > 100:
            print(line)
            line = "   "
        line += f" {word},"
    print(line)
    print("};")


print(f"""// Made by tests/make_unicode.py from Unicode {WANTED}; not written by hand.
//
// Classes of code points as boundaries: entry = first code point << 4 | class, and the class holds until the next
// entry; classes as enum char_kind. unicode_index[c / {STEP}] is the entry that holds the first code point of the block.""")
table(f"static const uint32_t unicode_starts[{len(starts)}]", [f"{s:#x}" for s in starts])
print(f"#define UNICODE_STEP {STEP}u\n#define UNICODE_TOP {TOP:#x}u")
table(f"static const uint16_t unicode_index[{len(index)}]", [str(i) for i in index])
print("// Canonical combining classes the same way: first code point << 8 | class.")
table(f"static const uint32_t nfc_classes[{len(classes)}]", [f"{c:#x}" for c in classes])
print("// Where it begins and ends that a code point may change under NFC or take part in a composition as the second.")
table(f"static const uint32_t nfc_quick[{len(quick)}]", [f"{c:#x}" for c in quick])
print("// One step of canonical decomposition: code point, first, second (0: none).")
table(f"static const uint32_t nfc_steps[{len(steps)}][3]", [f"{{{a:#x}, {b:#x}, {c:#x}}}" for a, b, c in steps])
print("// Composition: first, second, code point; sorted.")
table(f"static const uint32_t nfc_pairs[{len(pairs)}][3]", [f"{{{a:#x}, {b:#x}, {c:#x}}}" for a, b, c in pairs])
