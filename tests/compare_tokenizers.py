#!/usr/bin/env python3
"""Holds our ids against those of the package `tokenizers`, for tokenizers built as the families build theirs.

    pip install tokenizers==0.23.3 sentencepiece
    make build/release/tokenize_texts && python3 tests/compare_tokenizers.py build/release/tokenize_texts [-n 10000] [--golden DIR]

Every family below is trained on texts of this repository, with its own normalizer, pre-tokenizer, decoder, post-processor and
added tokens. Compared are N random strings each, with control spellings as text and as tokens, and 1 MB of mixed text.
A Unigram model may have two ways of equal probability. The package reads the numbers of a JSON file with an error in the last
digit, which then decides; such ties are counted apart. Two more differences are meant, and taken into account: a text that brings its own BOS or EOS gets no second one; and a
Unigram model never reads a control, unknown or byte token out of text (there the reference is not asked about such texts).
Invalid UTF-8, which the package cannot be given: for vocabularies of characters a bad byte counts as a character of its own that
no vocabulary has, so ours is compared with U+10FFFE in its place, spelled as that byte where bytes are the fallback.

--golden DIR writes small tokenizers and their ids for the suites instead: unigram_*.json and .ids as make_pretokenize_golden.py has
them, and unigram_sp.gguf with unigram_sp.ids (texts and ids in turn) from the library sentencepiece itself.
"""
import argparse
import io
import json
import os
import random
import struct
import subprocess
import sys
import tempfile

import sentencepiece
from sentencepiece import sentencepiece_model_pb2 as sp_model
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

BOS, SPECIAL, EOS = 1, 2, 4
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
rng = random.Random(11)

ANY_CASE = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
SPACES = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
OTHERS = r"| ?[^\s\p{L}\p{N}]+[\r\n]*"
WORD = r"|[^\r\n\p{L}\p{N}]?\p{L}+"
HEADS, TAILS = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
FRONT = r"[^\r\n\p{L}\p{N}]?"
SLASHED = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*" + SPACES
SIGNS = r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]"""
WORDS = """Стекло остывает, стекло ждёт. 玻璃冷却，玻璃等待。日本語のガラスはゆっくり冷える。한국어 유리는 천천히 식는다.
Über die Brücke gehen größere Öfen; l'été où naît la lumière. नमस्ते दुनिया। สวัสดีชาวโลก مرحبا بالعالم שלום עולם
e\u0301 a\u0301\u0323 o\u0308 \U0001f600\U0001f3fd \U0001f468\u200d\U0001f469\u200d\U0001f467 \u2167 \xbd ﬁne ＡＢＣ １２３ ㍿ ㎏ ⅷ ｶﾞﾗｽ
"""


def corpus():
    out = [WORDS * 40]
    for base, _, names in os.walk(ROOT):
        if "/build" in base or "/.git" in base:
            continue
        for name in sorted(names):
            if name.endswith((".c", ".h", ".md", ".txt", ".py")) and "golden" not in base:
                with open(os.path.join(base, name), encoding="utf-8", errors="ignore") as f:
                    out.append(f.read(60000).replace("<|", "<"))  # or end tokens would be learned as words
    rng.shuffle(out)
    return out


TEXTS = corpus()
SMALL = "".join(TEXTS)[:1500000]


def split(pattern):
    return pre_tokenizers.Split(Regex(pattern), "isolated")


def sp_train(kind, **more):
    buffer = io.BytesIO()
    lines = [line for line in SMALL.split("\n") if line.strip()][:12000]
    more = {"vocab_size": 3000, "character_coverage": 0.995, **more}
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(lines), model_writer=buffer, model_type=kind, num_threads=1,
                                             minloglevel=2, **more)
    proto = sp_model.ModelProto()
    proto.ParseFromString(buffer.getvalue())
    return proto


def byte_level(stages, specials, more=(), normalizer=None, post=None, ignore_merges=False, use_regex=False, size=1500):
    tok = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    if normalizer:
        tok.normalizer = normalizer
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)
    tok.pre_tokenizer = pre_tokenizers.Sequence([*stages, level]) if stages else level
    tok.decoder = decoders.ByteLevel()
    tok.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=size, show_progress=False, special_tokens=list(specials),
                                                       initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    tok.add_tokens(list(more))
    if post:
        tok.post_processor = processors.TemplateProcessing(single=post, special_tokens=[(s, tok.token_to_id(s)) for s in specials])
    else:
        tok.post_processor = processors.ByteLevel(trim_offsets=False)
    return tok


BYTES = [f"<0x{b:02X}>" for b in range(256)]


def characters(normalizer, pre, more, post, specials=("<unk>", "<s>", "</s>"), metaspace=None):
    tok = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    if normalizer:
        tok.normalizer = normalizer
    tok.pre_tokenizer = pre_tokenizers.Metaspace()  # for the training: merges stay inside words
    tok.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=2500, show_progress=False, limit_alphabet=400,
                                                       special_tokens=[*specials, *BYTES]))
    js = json.loads(tok.to_str())
    js["pre_tokenizer"] = json.loads(pre.__getstate__()) if pre else None
    js["added_tokens"] = [a for a in js["added_tokens"] if not a["content"].startswith("<0x")]
    tok = Tokenizer.from_str(json.dumps(js))
    tok.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tok.add_tokens(list(more))
    tok.post_processor = processors.TemplateProcessing(single=post, special_tokens=[(s, tok.token_to_id(s)) for s in specials])
    return tok


def unigram(normalizer, pre, post, specials, more=(), byte_fallback=False, **train):
    proto = sp_train("unigram", byte_fallback=byte_fallback, **train)
    vocab = [(p.piece, p.score) for p in proto.pieces]
    unk = next(i for i, p in enumerate(proto.pieces) if p.type == 2)
    tok = Tokenizer(models.Unigram(vocab, unk, byte_fallback))
    charsmap = proto.normalizer_spec.precompiled_charsmap
    tok.normalizer = normalizer(charsmap)
    tok.pre_tokenizer = pre
    tok.decoder = decoders.Metaspace()
    tok.add_special_tokens([AddedToken(s, normalized=False) for s in specials])
    tok.add_tokens(list(more))
    tok.post_processor = processors.TemplateProcessing(single=post, special_tokens=[(s, tok.token_to_id(s)) for s in specials])
    return tok


def unigram_f64():  # log probabilities that are no floats
    tok = Tokenizer(models.Unigram())
    tok.pre_tokenizer = pre_tokenizers.Metaspace()
    tok.train_from_iterator(TEXTS, trainers.UnigramTrainer(vocab_size=2000, show_progress=False, unk_token="<unk>", special_tokens=["<unk>", "</s>"]))
    tok.decoder = decoders.Metaspace()
    tok.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return tok


def odd(prefix):  # added tokens with every flag
    return [AddedToken(prefix + "tool>", lstrip=True, rstrip=True, normalized=False), AddedToken(prefix + ":>", rstrip=True, normalized=True),
            AddedToken("single", single_word=True, normalized=False), AddedToken("Élan", single_word=True, normalized=True),
            AddedToken("  ", normalized=False), AddedToken("singled", lstrip=True, normalized=True), AddedToken("tool> <", normalized=False),
            AddedToken(prefix + "ctl>", special=True, single_word=True, lstrip=True, normalized=False),
            AddedToken(prefix + "cte\u0301>", special=True, normalized=True)]


def families():
    case3 = ANY_CASE + WORD + r"|\p{N}{1,3}" + OTHERS + SPACES
    case1 = ANY_CASE + WORD + r"|\p{N}" + OTHERS + SPACES
    gpt4o = FRONT + HEADS + "*" + TAILS + "+" + ANY_CASE + "?|" + FRONT + HEADS + "+" + TAILS + "*" + ANY_CASE + r"?|\p{N}{1,3}" + SLASHED
    digits = pre_tokenizers.Digits(True)
    llama = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    meta = pre_tokenizers.Metaspace
    t5_norm = lambda m: normalizers.Sequence([normalizers.Precompiled(m), normalizers.Strip(False, True), normalizers.Replace(Regex(" {2,}"), "▁")])
    yield "gpt2", lambda: byte_level([], ["<|endoftext|>"], use_regex=True)
    yield "gpt2-odd", lambda: byte_level([], ["<|endoftext|>"], odd("<"), use_regex=True)
    yield "llama3", lambda: byte_level([split(case3)], ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"], post="<|begin_of_text|> $A", ignore_merges=True)
    yield "qwen2", lambda: byte_level([split(case1)], ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], odd("<|"), normalizer=normalizers.NFC())
    yield "gpt-4o", lambda: byte_level([split(gpt4o)], ["<|endoftext|>"])
    yield "deepseek-coder", lambda: byte_level([split("[\r\n]"), split(r"\s?\p{L}+"), split(r"\s?\p{P}+"), split("[一-龥ࠀ-一가-퟿]+"), digits],
                                       ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"], post="<｜begin▁of▁sentence｜> $A")
    yield "deepseek-v3", lambda: byte_level([split(r"\p{N}{1,3}"), split("[一-龥぀-ゟ゠-ヿ]+"),
                                     split(SIGNS + r"[A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*" + SPACES)],
                                    ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"], post="<｜begin▁of▁sentence｜> $A")
    yield "olmo", lambda: byte_level([], ["<|endoftext|>", "<|padding|>"], [AddedToken("|||IP_ADDRESS|||", normalized=True), AddedToken("  "), AddedToken("    ")],
                             normalizer=normalizers.NFC(), use_regex=True)
    yield "starcoder", lambda: byte_level([digits], ["<|endoftext|>", "<fim_prefix>"], use_regex=True)
    yield "smollm", lambda: byte_level([digits], ["<|im_start|>", "<|im_end|>"], post="<|im_start|> $A", use_regex=True)
    yield "nfkc", lambda: byte_level([], ["<|endoftext|>"], odd("<"), normalizer=normalizers.Sequence([normalizers.NFKC(), normalizers.Strip()]), use_regex=True)
    yield "nfkd", lambda: byte_level([], ["<|endoftext|>"], normalizer=normalizers.Sequence([normalizers.NFKD(), normalizers.Replace("aa", "b")]), use_regex=True)
    yield "gemma", lambda: characters(normalizers.Replace(" ", "▁"), pre_tokenizers.Split(" ", "merged_with_previous"),
                       [AddedToken("\n\n", normalized=False), AddedToken("▁▁", normalized=False), AddedToken("<h1>", normalized=False)], "<bos> $A",
                       specials=("<unk>", "<bos>", "<eos>"))
    yield "llama2", lambda: characters(llama, None, [], "<s> $A")
    yield "phi3", lambda: characters(llama, None, [AddedToken("<|user|>", special=True, rstrip=True, normalized=False),
                                           AddedToken("<|end|>", special=True, rstrip=True, normalized=False)], "<s> $A")
    yield "spm-odd", lambda: characters(llama, None, odd("<"), "<s> $A </s>")
    yield "spm-first", lambda: characters(None, meta(prepend_scheme="first", split=False), odd("<"), "<s> $A")
    yield "t5", lambda: unigram(t5_norm, meta(), "$A </s>", ["</s>", "<unk>", "<extra_id_0>", "<extra_id_1>"], normalization_rule_name="nmt_nfkc")
    yield "t5-odd", lambda: unigram(t5_norm, meta(), "$A </s>", ["</s>", "<unk>"], odd("<"), normalization_rule_name="nmt_nfkc_cf")
    yield "xlm-r", lambda: unigram(lambda m: normalizers.Precompiled(m), pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), meta()]),
                           "<s> $A </s>", ["<s>", "</s>", "<unk>"], [AddedToken("<mask>", lstrip=True, special=True, normalized=False)], normalization_rule_name="nfkc")
    yield "unigram-bytes", lambda: unigram(lambda m: normalizers.Sequence([normalizers.NFKC()]), meta(prepend_scheme="first", split=False), "<s> $A",
                                   ["<s>", "</s>", "<unk>"], byte_fallback=True, normalization_rule_name="identity")
    yield "unigram-llama", lambda: unigram(lambda m: llama, None, "<s> $A", ["<s>", "</s>", "<unk>"], byte_fallback=True, normalization_rule_name="identity")
    yield "unigram-f64", unigram_f64


# ---- texts

BLANKS = [" ", "  ", "   ", "\n", "\n\n", "\t", "\r\n", "\x85", "\xa0", "\u3000", " \n ", "\u2028", "\u200b", "\ufeff", "\u1680"]
PARTS = ["'s", "'T", "'re", "'VE", "'LL", "'d", "'ſ", "'", "/", "//", "!", "...", "(x)", "foo_bar", "x=1;", "1", "12", "123", "1234567", "½",
         "Ⅷ", "a", "the", " Glass", "HTTPServer", "iPhone", "ÀÉ", "e\u0301", "\u0301", "\u0323\u0307", "ß", "玻璃", "日本語カナ", "かな", "한국어",
         "\u1100\u1161\u11a8", "Стекло", "ǅ", "ʰ", "Ａ", "！", "。", "‘", "\U0001f600", "\u200d", "\u0915\u093f", "\x00", "\x7f", "’s", "$", "+",
         "<=>", "`", "|", "~", "#", "…", "\u0378", "\u212b", "▁", "▁▁", "aa", "Ａ\u0301", "\xa9\u200d", "\xa9\u200d\xa9", "\u0600a", "ﬁ", "㍿",
         "ｶﾞ", "\u1161\u0301", "\u1100\u1161\u0301", "\xad", "\x01", "\u0e33", "a\u0e33", "1\ufe0f\u20e3", "\u0344", "ﷺ", "ΐ", "\u0958\u0301"]


def scalar():
    while True:
        c = rng.randrange(rng.choice([0x80, 0x250, 0x3000, 0x20000, 0x110000]))
        if not 0xD800 <= c < 0xE000:
            return chr(c)


def word():
    at = rng.randrange(len(SMALL) - 40)
    return SMALL[at:at + rng.randrange(1, 40)]


def strings(n, spellings):
    makers = [lambda: rng.choice(BLANKS), lambda: rng.choice(PARTS), scalar, word, lambda: rng.choice(spellings)]
    out = ["", " ", "  ", *spellings, *PARTS, *BLANKS]
    while len(out) < n:
        some = rng.sample(makers, rng.randrange(1, len(makers) + 1))
        out.append("".join(rng.choice(some)() for _ in range(rng.randrange(1, 12))))
    return out[:n]


def mixed(n):
    out, size = [], 0
    while size < n:
        s = rng.choice([word, lambda: rng.choice(PARTS), lambda: rng.choice(BLANKS), scalar, lambda: SMALL[rng.randrange(len(SMALL)):][:2000]])()
        out.append(s)
        size += len(s.encode())
    return "".join(out)


def damaged(data):  # bytes, and the same with a stand-in for each bad byte
    data = bytearray(data)
    for _ in range(len(data) // 50):
        data[rng.randrange(len(data))] = rng.choice([0x80, 0xBF, 0xC3, 0xE2, 0xF0, 0xFF, 0xC0])
    bad, clean, at = [], [], 0
    while at < len(data):  # a bad byte is a unit of its own
        for size in (1, 2, 3, 4):
            try:
                clean.append(bytes(data[at:at + size]).decode())
                at += size
                break
            except UnicodeDecodeError:
                pass
        else:
            bad.append(data[at])
            clean.append("\U0010fffe")
            at += 1
    return bytes(data), "".join(clean).encode().decode(), bad


# ---- comparing

def ours(driver, path, cases):
    data = b"".join(struct.pack("<II", len(t), flags) + t for t, flags in cases)
    run = subprocess.run([driver, path], input=data, capture_output=True)
    if run.returncode:
        sys.exit(f"{path}: {run.stderr.decode()}")
    return [[int(x) for x in line.split()] for line in run.stdout.decode().split("\n")[:-1]]


def theirs(tok, texts, special):
    tok.encode_special_tokens = not special
    return [e.ids for e in tok.encode_batch(texts, add_special_tokens=special)]


def logp(js, ids):
    vocab = js["model"]["vocab"]
    return sum(vocab[i][1] for i in ids if i < len(vocab))


def once(ids, bos, eos):  # a text that brings its own
    if bos is not None and len(ids) > 1 and ids[0] == ids[1] == bos:
        ids = ids[1:]
    if eos is not None and len(ids) > 1 and ids[-1] == ids[-2] == eos:
        ids = ids[:-1]
    return ids


RULES = [("41", "61 61"), ("FF21", "41"), ("FB01", "66 69"), ("61 308", "E4"), ("75 308", "FC"), ("A", "20"), ("9", "20"), ("D A", "20"), ("D", "20"),
         ("AD", ""), ("1", ""), ("3000", "20"), ("A0", "20"), ("2167", "56 49 49 49"), ("FDFA", "635 644 649 20 627 644 644 647"), ("2026", "2E 2E 2E")]


def golden(folder):
    import gguf
    tsv = os.path.join(tempfile.mkdtemp(), "rules.tsv")
    with open(tsv, "w") as f:
        f.writelines(f"{a}\t{b}\n" for a, b in RULES)
    sample = [s for s in strings(900, ["<s>", "</s>", "<tool>", "single", "singled", "\xc9lan", "<ctl>", "<:>", "<ct\xe9>"]) if len(s.encode()) < 200]
    sample = sample[:30] + rng.sample(sample, 60)
    t5 = lambda m: normalizers.Sequence([normalizers.Precompiled(m), normalizers.Strip(False, True), normalizers.Replace(Regex(" {2,}"), "▁")])
    small = {"normalization_rule_tsv": tsv, "vocab_size": 420}
    made = {
        "unigram_t5": unigram(t5, pre_tokenizers.Metaspace(), "$A </s>", ["</s>", "<unk>"], odd("<"), **small),
        "unigram_words": unigram(lambda m: normalizers.Precompiled(m), pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]),
                                 "<s> $A </s>", ["<s>", "</s>", "<unk>"], [AddedToken("<tool>", lstrip=True, special=True, normalized=False)], **small),
        "unigram_bytes": unigram(lambda m: normalizers.NFKC(), pre_tokenizers.Metaspace(prepend_scheme="first", split=False), "<s> $A",
                                 ["<s>", "</s>", "<unk>"], byte_fallback=True, vocab_size=600, normalization_rule_name="identity"),
        "bpe_odd": byte_level([], ["<s>"], odd("<"), normalizer=normalizers.Sequence([normalizers.NFKC(), normalizers.Strip()]), use_regex=True, size=300),
    }
    for name, tok in made.items():
        js = json.loads(tok.to_str())
        with open(f"{folder}/{name}.json", "w") as f:
            json.dump(js, f, ensure_ascii=False, separators=(",", ":"))
        tok = Tokenizer.from_file(f"{folder}/{name}.json")
        controls = [t["content"] for t in js["added_tokens"] if t["special"]] if js["model"]["type"] == "Unigram" else []
        with open(f"{folder}/{name}.ids", "w") as f:
            for t in sample:
                if any(c in t for c in controls):
                    continue
                print(t.encode().hex(), file=f)
                for special in (False, True):
                    print(*theirs(tok, [t], special)[0], file=f)
    proto = sp_train("unigram", pad_id=0, eos_id=1, unk_id=2, bos_id=-1, **small)
    w = gguf.GGUFWriter(f"{folder}/unigram_sp.gguf", "llama")
    w.add_tokenizer_model("t5")
    w.add_token_list([p.piece.encode() for p in proto.pieces])
    w.add_token_scores([p.score for p in proto.pieces])
    w.add_token_types([p.type for p in proto.pieces])
    w.add_add_space_prefix(proto.normalizer_spec.add_dummy_prefix)
    w.add_remove_extra_whitespaces(proto.normalizer_spec.remove_extra_whitespaces)
    w.add_precompiled_charsmap(proto.normalizer_spec.precompiled_charsmap)
    w.add_eos_token_id(1)
    w.add_unk_token_id(2)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.close()
    sp = sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())
    with open(f"{folder}/unigram_sp.ids", "w") as f:
        for t in sample:
            print(t.encode().hex(), file=f)
            print(*sp.encode(t), file=f)


def main():
    arg = argparse.ArgumentParser()
    arg.add_argument("driver")
    arg.add_argument("-n", type=int, default=10000)
    arg.add_argument("--golden")
    arg.add_argument("--only")
    arg.add_argument("--keep", help="folder for the tokenizers")
    a = arg.parse_args()
    if a.golden:
        golden(a.golden)
        return 0
    folder = a.keep or tempfile.mkdtemp()
    total = 0
    for name, make in families():
        if a.only and name not in a.only.split(","):
            continue
        path = os.path.join(folder, name + ".json")
        if not os.path.exists(path):
            make().save(path)
        tok = Tokenizer.from_file(path)
        js = json.loads(tok.to_str())
        is_unigram = js["model"]["type"] == "Unigram"
        spellings = [t["content"] for t in js["added_tokens"]] or ["x"]
        controls = [t["content"] for t in js["added_tokens"] if t["special"]]
        if is_unigram and js["model"]["byte_fallback"]:
            controls += BYTES
        template = (js["post_processor"] or {}).get("single") or []
        order = [next(iter(t.items())) for t in template]
        seq = [k for k, _ in order].index("Sequence") if order else 0
        bos = next((tok.token_to_id(v["id"]) for k, v in order[:seq] if k == "SpecialToken"), None)
        eos = next((tok.token_to_id(v["id"]) for k, v in order[seq:] if k == "SpecialToken"), None)
        texts = strings(a.n, spellings) + [mixed(1 << 20)]
        wanted_special = [once(i, bos, eos) for i in theirs(tok, texts, True)]
        wanted_plain = theirs(tok, texts, False)
        got = ours(a.driver, path, [(t.encode(), f) for f in (BOS | SPECIAL | EOS, 0) for t in texts])
        bad, ties = [], 0
        for k, wanted in enumerate((wanted_special, wanted_plain)):
            for t, w, g in zip(texts, wanted, got[k * len(texts):]):
                normal = tok.normalizer.normalize_str(t) if tok.normalizer else t
                unspeakable = is_unigram and any(c in normal for c in controls if k or c in BYTES)
                if w == g or unspeakable:
                    continue
                if is_unigram and abs(logp(js, w) - logp(js, g)) < 1e-8:
                    ties += 1
                else:
                    bad.append((k, t, w, g))
        if "bytes" in name or is_unigram or name in ("llama2", "gemma"):
            raw, clean, bytes_bad = damaged(texts[-1].encode())
            want = theirs(tok, [clean], False)[0]
            stand_in = [tok.token_to_id(f"<0x{b:02X}>") for b in "\U0010fffe".encode()]
            if stand_in[0] is not None and js["model"]["byte_fallback"]:
                fixed, at = [], 0
                while at < len(want):
                    if want[at:at + 4] == stand_in and bytes_bad:
                        fixed.append(tok.token_to_id(f"<0x{bytes_bad.pop(0):02X}>"))
                        at += 4
                    else:
                        fixed.append(want[at])
                        at += 1
                want = fixed
            g = ours(a.driver, path, [(raw, 0)])[0]
            if g != want and not any(c in clean for c in controls):
                bad.append((2, "damaged text", want, g))
        total += len(bad)
        print(f"{name}: {len(texts)} texts twice, {len(bad)} differ" + (f", {ties} ties" if ties else ""), flush=True)
        for k, t, w, g in sorted(bad, key=lambda b: len(b[1]))[:4]:
            at = next((i for i, (x, y) in enumerate(zip(w, g)) if x != y), min(len(w), len(g)))
            print("   ", ("special", "plain", "damaged")[k], ascii(t[:80]), "at", at, "wanted", w[max(0, at - 2):at + 6], "got", g[max(0, at - 2):at + 6],
                  [tok.id_to_token(i) for i in w[at:at + 3]], [tok.id_to_token(i) for i in g[at:at + 3]])
    print(total, "differences")
    return total > 0


if __name__ == "__main__":
    sys.exit(main())
