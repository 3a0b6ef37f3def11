#!/usr/bin/env python3
"""Hashes of what the gguf package reads from 1000 blocks per type, and of the blocks that it writes.

  pip install numpy gguf;  python3 tests/make_block_goldens.py > tests/golden/blocks.txt

Blocks and weights come from splitmix64 of a counter, which tests/test_blocks.c repeats. A line: read TYPE and ten
hashes, of 100 blocks each, over the bits of the f32 values (every NaN counts as 0x7fc00000); or write TYPE and ten
hashes over the bytes of 100 blocks each. The hash: the sum over i of mix(i * 2^32 + word i).
"""
import numpy as np
from gguf import quants
from gguf.constants import GGMLQuantizationType as T, GGML_QUANT_SIZES

READ = "Q4_1 Q5_0 Q5_1 Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_NL IQ4_XS MXFP4 Q4_0 Q8_0".split()
WRITE = "Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 MXFP4".split()
BLOCKS, PARTS = 1000, 10


def mix(x):
    x = x.astype(np.uint64)
    with np.errstate(over="ignore"):
        x = (x + np.uint64(0x9E3779B97F4A7C15)) & np.uint64(2**64 - 1)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def hash_words(words):
    i = np.arange(words.size, dtype=np.uint64) << np.uint64(32)
    with np.errstate(over="ignore"):
        return int(np.sum(mix(i + words.astype(np.uint64)), dtype=np.uint64))


def bytes_of(kind, n):
    """Byte i of type number k is the top byte of mix(k * 2^40 + i); the first blocks are 0x00 and 0xff throughout."""
    return (mix(np.arange(n, dtype=np.uint64) + (np.uint64(kind) << np.uint64(40))) >> np.uint64(56)).astype(np.uint8)


def weights_of(kind, blocks, size):
    """Sums of the four 16-bit parts of mix less 131072, times a power of two of the block: exact in f32."""
    i = np.arange(blocks * size, dtype=np.uint64)
    r = mix(i + (np.uint64(kind) << np.uint64(40)) + (np.uint64(1) << np.uint64(60)))
    total = sum(((r >> np.uint64(s)) & np.uint64(65535)).astype(np.int64) for s in (0, 16, 32, 48)) - 131072
    x = total.astype(np.float32).reshape(blocks, size)
    scale = 2.0 ** -(np.arange(blocks) % 24).astype(np.float64)
    x *= scale.astype(np.float32)[:, None]
    x[7], x[8] = 0, np.float32(-3.25)  # all equal
    return x


np.seterr(all="ignore")
print("# made by tests/make_block_goldens.py from the gguf package")
for name in READ:
    t = T[name]
    size, width = GGML_QUANT_SIZES[t]
    raw = bytes_of(int(t), BLOCKS * width).reshape(BLOCKS, width)
    raw[0], raw[1] = 0, 255
    values = quants.dequantize(raw, t).astype(np.float32).reshape(PARTS, -1)
    words = np.where(np.isnan(values), np.uint32(0x7FC00000), values.view(np.uint32))
    print("read", name, *[f"{hash_words(w):016x}" for w in words])
for name in WRITE:
    t = T[name]
    size, width = GGML_QUANT_SIZES[t]
    raw = quants.quantize(weights_of(int(t), BLOCKS, size), t).reshape(PARTS, -1)
    print("write", name, *[f"{hash_words(b):016x}" for b in raw])
