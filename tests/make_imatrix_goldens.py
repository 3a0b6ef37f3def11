#!/usr/bin/env python3
"""Importance matrices as llama.cpp computes and writes them, and its errors when it quantizes by one.

  LLAMA_SOURCE=llama.cpp LLAMA_LIBS=build/bin python3 tests/make_imatrix_goldens.py        (packages gguf, numpy; ./run built)

Writes tests/golden/imatrix_{mixtral,phi3,qwen3}.gguf and imatrix_mixtral.dat: the sums over two chunks of 24 ids of
family_*.logits, collected through the engine's evaluation callback from the family's model as F32 (./run --quantize F32;
the engine would round activations to the weights' format otherwise). The two files are of the layouts that its
imatrix tool writes.

Writes tests/golden/weighted.txt: a line per type and data set, `normal` or `stories` (tensors of data/stories-1m.gguf):
the relative weighted error sum w (x - x')^2 / sum w x^2 of ggml_quantize_chunk. tests/test_quantize.c repeats data and
importance, which are made of splitmix64 by steps that are exact or rounded once.
"""
import ctypes, os, struct, subprocess, sys, tempfile
import gguf
import numpy as np
from gguf import quants
from gguf.constants import GGMLQuantizationType as T, GGML_QUANT_SIZES

FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "golden")
CHUNK, CHUNKS = 24, 2

ENGINE = r"""
#include "llama.h"
#include "ggml-backend.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
// For each product with a weight of a layer: name, columns, matrices, then per row the matrix and the squares are summed.
static struct entry { char name[64]; int cols, mats; double sum[8192]; int count[64]; } entries[256];
static int n_entries;
static struct entry *find(const char *name, int cols, int mats) {
    for (int i = 0; i < n_entries; i++) if (!strcmp(entries[i].name, name)) return &entries[i];
    struct entry *e = &entries[n_entries++];
    snprintf(e->name, sizeof e->name, "%s", name);
    e->cols = cols, e->mats = mats;
    return e;
}
static bool look(struct ggml_tensor *t, bool ask, void *arg) {
    (void)arg;
    bool experts = t->op == GGML_OP_MUL_MAT_ID;
    if ((!experts && t->op != GGML_OP_MUL_MAT) || strncmp(t->src[0]->name, "blk.", 4)) return !ask;
    if (ask) return true;
    const struct ggml_tensor *w = t->src[0], *x = t->src[1], *ids = t->src[2];
    struct entry *e = find(w->name, (int)w->ne[0], experts ? (int)w->ne[2] : 1);
    int tokens = (int)(experts ? x->ne[2] : x->ne[1]), used = experts ? (int)ids->ne[0] : 1;
    for (int r = 0; r < tokens; r++)
        for (int k = 0; k < used; k++) {
            int mat = experts ? *(const int *)((const char *)ids->data + r * ids->nb[1] + k * ids->nb[0]) : 0;
            const char *row = (const char *)x->data + (experts ? r * x->nb[2] + k % x->ne[1] * x->nb[1] : r * x->nb[1]);
            e->count[mat]++;
            for (int j = 0; j < e->cols; j++) { double v = ((const float *)row)[j]; e->sum[mat * e->cols + j] += v * v; }
        }
    return true;
}
static void quiet(enum ggml_log_level level, const char *text, void *data) { (void)level; (void)text; (void)data; }
int main(int argc, char **argv) { // model, rows of a chunk, ids...
    llama_log_set(quiet, NULL);
    struct llama_model_params mp = llama_model_default_params();
    mp.use_extra_bufts = false;
    struct llama_model *m = llama_model_load_from_file(argv[1], mp);
    struct llama_context_params cp = llama_context_default_params();
    cp.n_ctx = 64, cp.n_batch = cp.n_ubatch = 64, cp.n_threads = cp.n_threads_batch = 1, cp.cb_eval = look;
    cp.type_k = cp.type_v = GGML_TYPE_F32, cp.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
    struct llama_context *c = llama_init_from_model(m, cp);
    int rows = atoi(argv[2]);
    memset(entries, 0, sizeof entries), n_entries = 0; // what a warm-up added
    for (int at = 3; at + rows <= argc; at += rows) {
        struct llama_batch b = llama_batch_init(rows, 0, 1);
        llama_memory_clear(llama_get_memory(c), true);
        for (int i = 0; i < rows; i++)
            b.token[i] = atoi(argv[at + i]), b.pos[i] = i, b.n_seq_id[i] = 1, b.seq_id[i][0] = 0, b.logits[i] = 1;
        b.n_tokens = rows;
        if (llama_decode(c, b)) return 1;
    }
    for (int i = 0; i < n_entries; i++) {
        printf("%s %d %d", entries[i].name, entries[i].cols, entries[i].mats);
        for (int k = 0; k < entries[i].mats; k++) printf(" %d", entries[i].count[k]);
        for (int k = 0; k < entries[i].mats * entries[i].cols; k++) printf(" %.17g", entries[i].sum[k]);
        printf("\n");
    }
    return 0;
}
"""


def collect(engine, name):
    raw = open(f"{FOLDER}/family_{name}.logits", "rb").read()
    n = struct.unpack_from("<i", raw)[0]
    ids = struct.unpack_from(f"<{n}i", raw, 12)[:CHUNK * CHUNKS]
    with tempfile.TemporaryDirectory() as folder:
        f32 = folder + "/f32.gguf"
        subprocess.run(["./run", "-m", f"{FOLDER}/family_{name}.gguf", "--quantize", "F32", "-o", f32], check=True, stderr=subprocess.DEVNULL)
        lines = subprocess.run([engine, f32, str(CHUNK), *map(str, ids)], check=True, capture_output=True, text=True).stdout
    for line in lines.splitlines():
        key, cols, mats, *numbers = line.split()
        cols, mats = int(cols), int(mats)
        yield key, np.array(numbers[:mats], np.float32), np.array(numbers[mats:], np.float64).astype(np.float32).reshape(mats, cols)


def write_matrices():
    source, libs = os.environ["LLAMA_SOURCE"], os.environ["LLAMA_LIBS"]
    with tempfile.TemporaryDirectory() as folder:
        engine = folder + "/engine"
        open(engine + ".c", "w").write(ENGINE)
        subprocess.run(["cc", "-O1", f"-I{source}/include", f"-I{source}/ggml/include", engine + ".c", "-o", engine, f"-L{libs}",
                        f"-Wl,-rpath,{libs}", "-lllama", "-lggml", "-lggml-base"], check=True)
        for name in ("mixtral", "phi3", "qwen3"):
            entries = sorted(collect(engine, name))
            w = gguf.GGUFWriter(f"{FOLDER}/imatrix_{name}.gguf", "")
            w.add_type("imatrix")
            w.add_array("imatrix.datasets", ["ids of the family"])
            w.add_uint32("imatrix.chunk_count", CHUNKS), w.add_uint32("imatrix.chunk_size", CHUNK)
            for key, counts, sums in entries:
                w.add_tensor(key + ".in_sum2", sums if len(counts) > 1 else sums[0])
                w.add_tensor(key + ".counts", counts[:, None] if len(counts) > 1 else counts)
            w.write_header_to_file(), w.write_kv_data_to_file(), w.write_tensors_to_file(), w.close()
            if name != "mixtral":
                continue
            with open(f"{FOLDER}/imatrix_{name}.dat", "wb") as f:
                f.write(struct.pack("<i", len(entries)))
                for key, counts, sums in entries:
                    calls = -(-int(counts.max()) // CHUNK)
                    mean = np.where(counts[:, None] > 0, sums / np.maximum(counts[:, None], 1), 1).astype(np.float32)
                    values = (mean * np.float32(calls)).astype(np.float32).reshape(-1)
                    f.write(struct.pack("<i", len(key)) + key.encode() + struct.pack("<ii", calls, values.size) + values.tobytes())
                text = b"ids of the family"
                f.write(struct.pack("<ii", CHUNKS, len(text)) + text)


def mix(x):
    with np.errstate(over="ignore"):
        x = x.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def write_errors():
    lib = ctypes.CDLL(os.environ["LLAMA_LIBS"] + "/libggml-base.so")
    lib.ggml_quantize_chunk.restype = ctypes.c_size_t
    lib.ggml_quantize_chunk.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64,
                                        ctypes.c_int64, ctypes.c_void_p]
    r = mix(np.arange(64 * 1024))
    total = sum(((r >> np.uint64(s)) & np.uint64(65535)).astype(np.int64) for s in (0, 16, 32, 48)) - 131072
    normal = (total.astype(np.float32) * np.float32(2.0**-15)).reshape(64, 1024)
    k = (mix(np.arange(1024) + (1 << 40)) & np.uint64(65535)).astype(np.float64) + 1
    weight = (k * k * 2.0**-32 * np.where(np.arange(1024) % 64 == 5, 100, 1)).astype(np.float32)
    reader = gguf.GGUFReader("data/stories-1m.gguf")
    parts = [quants.dequantize(t.data, t.tensor_type).reshape(-1) for t in reader.tensors
             if t.name in ("blk.0.ffn_down.weight", "blk.1.attn_v.weight", "blk.2.ffn_up.weight", "blk.3.attn_output.weight")]
    stories = np.concatenate(parts).astype(np.float32)
    stories = stories[:stories.size // 1024 * 1024].reshape(-1, 1024)
    with open(f"{FOLDER}/weighted.txt", "w") as f:
        f.write("# made by tests/make_imatrix_goldens.py with ggml_quantize_chunk\n")
        for data, x in (("normal", normal), ("stories", stories)):
            for name in "Q2_K Q3_K Q4_K Q5_K Q6_K Q4_0 Q4_1 Q5_0 Q5_1 IQ4_NL IQ4_XS".split():
                t = T[name]
                size, width = GGML_QUANT_SIZES[t]
                x = np.ascontiguousarray(x)
                raw = np.zeros(x.size // size * width, np.uint8)
                lib.ggml_quantize_chunk(int(t), x.ctypes.data, raw.ctypes.data, 0, x.shape[0], 1024, weight.ctypes.data)
                y = quants.dequantize(raw.reshape(x.shape[0], -1), t).reshape(x.shape).astype(np.float64)
                w = weight.astype(np.float64)
                f.write(f"{data} {name} {np.sum(w * (x - y)**2) / np.sum(w * x.astype(np.float64)**2):.9e}\n")


if "errors" not in sys.argv:
    write_matrices()
write_errors()
