#!/usr/bin/env python3
"""Writes tests/golden/pretok_*: where the package `tokenizers` (Hugging Face) cuts, and what its tokenizers give.

    pip install tokenizers==0.23.3 && python3 tests/make_pretokenize_golden.py tests/golden

pretok_pieces.txt   `text HEX` (UTF-8) lines, then `pre NAME` with a line of piece ends in bytes for every text; NFC names are
                    followed by ends in the normalized text
pretok_bpe.json, pretok_spm.json   small trained tokenizers; pretok_bpe.ids, pretok_spm.ids: their ids for the same texts, with
                    special tokens as text, then `special` and the ids with them as tokens
"""
import json
import random
import sys
import unicodedata  # noqa: F401 (normalization is the package's own)

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

OUT = sys.argv[1]
ANY_CASE = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
SPACES = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
OTHERS = r"| ?[^\s\p{L}\p{N}]+[\r\n]*"
WORD = r"|[^\r\n\p{L}\p{N}]?\p{L}+"
HEADS, TAILS = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
FRONT = r"[^\r\n\p{L}\p{N}]?"
SLASHED = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*" + SPACES
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
ASCII_SIGNS = r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]"""


def split(pattern):
    return pre_tokenizers.Split(Regex(pattern), "isolated")


DIGITS = pre_tokenizers.Digits(True)
PRE = {
    "gpt-2": [split(GPT2)],
    "llama-bpe": [split(ANY_CASE + WORD + r"|\p{N}{1,3}" + OTHERS + SPACES)],
    "qwen2": [split(ANY_CASE + WORD + r"|\p{N}" + OTHERS + SPACES)],
    "qwen35": [split(ANY_CASE + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*" + SPACES)],
    "minicpm5": [split(r"\p{N}{1,3}"), split(ANY_CASE + WORD + r"|\p{N}+" + OTHERS + SPACES)],
    "seed-coder": [split(ANY_CASE + WORD + r"|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+" + SPACES)],
    "tekken": [split(FRONT + HEADS + "*" + TAILS + "+|" + FRONT + HEADS + "+" + TAILS + r"*|\p{N}" + SLASHED)],
    "gpt-4o": [split(FRONT + HEADS + "*" + TAILS + "+" + ANY_CASE + "?|" + FRONT + HEADS + "+" + TAILS + "*" + ANY_CASE + r"?|\p{N}{1,3}" + SLASHED)],
    "smollm": [DIGITS, split(GPT2)],
    "deepseek-coder": [split("[\r\n]"), split(r"\s?\p{L}+"), split(r"\s?\p{P}+"), split("[一-龥ࠀ-一가-퟿]+"), DIGITS],
    "deepseek-v3": [split(r"\p{N}{1,3}"), split("[一-龥぀-ゟ゠-ヿ]+"),
                    split(ASCII_SIGNS + r"[A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*" + SPACES)],
    "falcon": [pre_tokenizers.Punctuation("contiguous"), split(GPT2), split("[0-9][0-9][0-9]")],
    "default": [split(r"[\p{P}\$\+<=>\^~\|]+"), split(GPT2), split(r"\p{N}+"), split("[0-9][0-9][0-9]")],
    "kimi-k2": [split(r"[\p{Han}]+|" + FRONT + HEADS[:-1] + r"&&[^\p{Han}]]*" + TAILS[:-1] + r"&&[^\p{Han}]]+" + ANY_CASE + "?|" + FRONT
                      + HEADS[:-1] + r"&&[^\p{Han}]]+" + TAILS[:-1] + r"&&[^\p{Han}]]*" + ANY_CASE + r"?|\p{N}{1,3}" + OTHERS + SPACES)],
    "ufakzeka": [split(WORD[1:] + r"|\p{N}" + OTHERS + SPACES)],
    "laguna": [split(r"[^\n]+|[\n]+"), split(ANY_CASE + WORD + r"|\p{N}" + OTHERS + SPACES)],
    "bloom": [split(r" ?[^(\s|[.,!?…。，、।۔،])]+")],
}
NFC = {"qwen2"}

rng = random.Random(3)
BLANKS = [" ", "  ", "   ", "\n", "\n\n", "\t", "\r\n", "\x85", "\xa0", "\u3000", " \n ", " \n"]
PARTS = ["'s", "'T", "'re", "'VE", "'LL", "'d", "'ſ", "'", "/", "//", "!", "...", "(x)", "foo_bar", "x=1;", "1", "12", "123", "1234567", "½",
         "Ⅷ", "a", "the", " Glass", "HTTPServer", "iPhone", "ÀÉ", "e\u0301", "\u0301", "\u0323\u0307", "ß", "玻璃", "日本語カナ", "かな", "한국어",
         "\u1100\u1161\u11a8", "Стекло", "ǅ", "ʰ", "Ａ", "！", "。", "‘", "\U0001f600", "\u200d", "\u0915\u093f", "\x00", "\x7f", "’s", "$", "+",
         "<=>", "`", "|", "~", "#", "…", "\u0378", "\u212b"]


def scalar():
    while True:
        c = rng.randrange(rng.choice([0x80, 0x250, 0x3000, 0x20000, 0x110000]))
        if not 0xD800 <= c < 0xE000:
            return chr(c)


def some(low, high, *makers):
    return "".join(rng.choice(makers)() for _ in range(rng.randrange(low, high)))


def blank():
    return rng.choice(BLANKS)


def part():
    return rng.choice(PARTS)


texts = [some(2, 12, blank, part) for _ in range(90)] + [some(2, 12, blank, part, scalar) for _ in range(40)]
with open(f"{OUT}/pretok_pieces.txt", "w") as f:
    for t in texts:
        print("text", t.encode().hex(), file=f)
    for name, stages in PRE.items():
        print("pre", name, file=f)
        pre = pre_tokenizers.Sequence(stages)
        for t in texts:
            if name in NFC:
                t = normalizers.NFC().normalize_str(t)
            print(*[len(t[:b].encode()) for _, (_, b) in pre.pre_tokenize_str(t)], file=f)

CORPUS = ["The oven is warm before the glass goes in. It's not hot; it'll be hot when they've stoked it, and we're waiting.",
          "while (warm > 20) {\n        warm -= 1;    // slowly\n    }\n", "Über die Brücke gehen größere Öfen; l'été où naît la lumière.",
          "Стекло остывает, стекло ждёт. 玻璃冷却,玻璃等待。 12 plates, 120 cups, 1200 beads!"] * 4


def save(tok, name, edit):
    js = json.loads(tok.to_str())
    edit(js)
    with open(f"{OUT}/{name}.json", "w") as f:
        json.dump(js, f, ensure_ascii=False, separators=(",", ":"))
    tok = Tokenizer.from_file(f"{OUT}/{name}.json")
    cases = texts[:100] + ["<s>a <tool>  b", "x<:>y", " <tool>", "a<s> b</s>", "<tool><tool> c", "<:> <:>", "The <s>", "  glass  waits "]
    with open(f"{OUT}/{name}.ids", "w") as f:
        for t in cases:
            print(t.encode().hex(), file=f)
            tok.encode_special_tokens = True
            print(*tok.encode(t, add_special_tokens=False).ids, file=f)
            tok.encode_special_tokens = False
            print(*tok.encode(t, add_special_tokens=True).ids, file=f)


ADDED = [AddedToken("<tool>", lstrip=True, rstrip=True, normalized=False), AddedToken("<:>", rstrip=True, normalized=True)]
tok = Tokenizer(models.BPE(ignore_merges=True))
tok.normalizer = normalizers.NFC()
tok.pre_tokenizer = pre_tokenizers.Sequence([PRE["llama-bpe"][0], pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
tok.decoder = decoders.ByteLevel()
tok.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=420, show_progress=False, special_tokens=["<s>", "</s>"],
                                                    initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
tok.add_tokens(ADDED)
tok.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
save(tok, "pretok_bpe", lambda js: None)

BYTES = [f"<0x{b:02X}>" for b in range(256)]
tok = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
tok.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
tok.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
words = pre_tokenizers.Metaspace()  # for the training alone: merges stay inside words
tok.pre_tokenizer = words
tok.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=520, show_progress=False, special_tokens=["<unk>", "<s>", "</s>", *BYTES]))
tok.add_tokens(ADDED)
tok.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])


def plain(js):
    js["pre_tokenizer"] = None
    js["added_tokens"] = [a for a in js["added_tokens"] if not a["content"].startswith("<0x")]
    js["model"]["merges"] = [" ".join(m) for m in js["model"]["merges"]]  # the older spelling


save(tok, "pretok_spm", plain)
