#!/usr/bin/env python3
"""Writes tests/golden/tokenizer_bpe.txt with the ids that the package `tokenizers` (Hugging Face) gives.

    pip install tokenizers==0.23.3 && python3 tests/make_tokenizer_golden.py > tests/golden/tokenizer_bpe.txt

Its trainer makes a small byte-level BPE from the text below, its encoder then encodes samples: the corners of the GPT-2
pattern and random Unicode. Lines: `train HEX` the text; `vocab N`; `merge HEX HEX`, in order; `text HEX` with `ids ...` behind.
HEX is the UTF-8 of what is meant, for merges of the spelled tokens; `-` is the empty text.
"""
import json
import random

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

TEXT = """The oven is warm before the glass goes in. It's not hot; it'll be hot when they've stoked it, and we're waiting.
The glass waits, the glowing glass waits longer, and the longest wait is the cooling. 12 plates, 120 cups, 1200 beads!
I'd have said: don't open the door. You'd open it anyway, wouldn't you? She's seen 3 doors open, 33 doors closing.
    while (warm > 20) {
        warm -= 1;    // slowly
    }

\tÜber die Brücke gehen größere Öfen; l'été où naît la lumière. Стекло остывает, стекло ждёт. 玻璃冷却,玻璃等待。
""" * 2
VOCAB = 400

rng = random.Random(20)
tok = Tokenizer(models.BPE())
tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
tok.train_from_iterator([TEXT], trainers.BpeTrainer(
    vocab_size=VOCAB - 1, min_frequency=2, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))

merges = json.loads(tok.to_str())["model"]["merges"]

SPACES = [" ", "  ", "\n", "\n\n", "\t", "\r\n", "\x0b", "\x0c", "\x85", "\xa0", "\u1680", "\u180e", "\u2003", "\u200b",
          "\u2028", "\u202f", "\u205f", "\u3000", "\ufeff", "\x1c", "\x1f"]
PARTS = ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d", "'S", "'", "''", "'l", "'r", "'v", " '", "a", "the", " glass", "12",
         " 3", "½", "Ⅷ", "²", "!", "...", "é", "e\u0301", "ß", "玻", "Стекло", "ｱ", "\U0001f600", "\U0001f3fd", "\u0915\u093f",
         "\U0001d7d8", "\u0e33", "_", "-", "\x00", "\x7f", "\U0010ffff", "\ue000", "ʼ", "’s"]


def scalar():
    while True:
        c = rng.randrange(rng.choice([0x80, 0x800, 0x3000, 0x20000, 0x110000]))
        if not 0xD800 <= c < 0xE000:
            return chr(c)


samples = ["", *SPACES, *PARTS, *(s + "a" for s in SPACES), *("a" + s for s in SPACES), *(s + s + "!" for s in SPACES)]
samples += ["".join(rng.choice(SPACES + PARTS) for _ in range(rng.randrange(2, 12))) for _ in range(150)]
samples += ["".join(scalar() for _ in range(rng.randrange(1, 12))) for _ in range(60)]
samples += [TEXT[a:a + 80] for a in rng.sample(range(len(TEXT) // 2), 20)]


def hexed(s):
    return s.encode().hex() or "-"


print("train", hexed(TEXT))
print("vocab", VOCAB)
for a, b in merges:
    print("merge", hexed(a), hexed(b))
for s in samples:
    print("text", hexed(s))
    print("ids", *tok.encode(s, add_special_tokens=False).ids)
