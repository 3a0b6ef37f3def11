#!/usr/bin/env python3
"""Writes tokenizer/unicode.h: which code points are letters (L*), numbers (N*) and white space (White_Space).

    python3 tests/make_unicode.py > tokenizer/unicode.h

Wants a `unicodedata` of Unicode 16 (Python 3.14, or the package unicodedata2 == 16.0.0 on older ones): the version that
the reference implementation of the GPT-2 pre-tokenizer uses today. Another version is refused, because new letters
would silently change the ids of a text.
"""
import sys

try:
    import unicodedata2 as unicodedata
except ImportError:
    import unicodedata

WANTED = "16.0.0"
if unicodedata.unidata_version != WANTED:
    sys.exit(f"expected Unicode {WANTED}, this Python knows {unicodedata.unidata_version}; pip install unicodedata2=={WANTED}")

# White_Space of PropList.txt; Python's str.isspace() differs (it counts U+001C..U+001F).
SPACE = {*range(0x09, 0x0E), 0x20, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F, 0x205F, 0x3000}


def kind(cp):
    if cp in SPACE:
        return 3
    return {"L": 1, "N": 2}.get(unicodedata.category(chr(cp))[0], 0)


starts, last = [], -1
for cp in range(0x110000):
    k = kind(cp)
    if k != last:
        starts.append(cp << 2 | k)
        last = k

print(f"""// Made by tests/make_unicode.py from Unicode {WANTED}; not written by hand.
//
// Classes of code points as boundaries: entry = first code point << 2 | class, and the class holds until the next
// entry. Classes as enum char_class: 0 other, 1 letter (L*), 2 number (N*), 3 white space.
static const uint32_t unicode_starts[{len(starts)}] = {{""")
line = "   "
for s in starts:
    word = f" {s:#x},"
    if len(line) + len(word) > 100:
        print(line)
        line = "   "
    line += word
print(line)
print("};")
