// random_model.c: a model file of any shape with random weights, for measuring speed, which does not depend on their values.
//
//     random_model OUT.gguf MIX SHAPE      MIX      a name of `./run --list`: F16, BF16, Q8_0, Q4_0, Q4_K_M, ...
//                                          SHAPE    a size of ./train (10M ... 3B), or C,L,H,G,D,F,V: channels, layers, heads,
//                                                   kv heads, head size, ffn, vocabulary: 576,30,9,3,64,1536,49152 is SmolLM2-135M
//
// The family is llama, the head tied, the context 32768. A matrix repeats its first rows, so that 3B in four bits takes
// seconds; the tokenizer has the bytes and made-up words, enough for every program that reads GGUF.
#include "model/model.h"

#include <stdlib.h>
#include <string.h>

enum { ROWS_DRAWN = 64, CONTEXT = 32768, SPELT_BYTES = 24 };

static void refuse(const char *sentence) {
    fprintf(stderr, "random_model: %s\n", sentence);
    exit(2);
}

static bool shape_read(struct model_config *c, const char *shape, struct err *err) {
    const struct family *llama = family_find("llama");
    if (!strchr(shape, ',')) return config_from_size(c, llama, shape, 32768, CONTEXT, err);
    long long n[7];
    if (sscanf(shape, "%lld,%lld,%lld,%lld,%lld,%lld,%lld", n, n + 1, n + 2, n + 3, n + 4, n + 5, n + 6) != 7)
        return err_set(err, "the shape '%s' is not seven numbers C,L,H,G,D,F,V", shape);
    *c = (struct model_config){.family = llama, .C = n[0], .L = n[1], .H = n[2], .G = n[3], .D = n[4], .F = n[5], .V = n[6],
                               .ctx = CONTEXT, .tied = true};
    config_derive(c);
    return config_check(c, err);
}

// The 256 bytes as byte-level BPE spells them, then words; no merges.
static void tokenizer_write(struct gguf_out *out, int64_t V) {
    struct span *texts = mem_array((size_t)V, sizeof *texts, "tokens");
    int32_t *types = mem_array((size_t)V, sizeof *types, "token types");
    char *spelt = mem_array((size_t)V, SPELT_BYTES, "spellings");
    for (int64_t i = 0, shifted = 256; i < V; i++) {
        char *to = spelt + SPELT_BYTES * i;
        bool shown = (i >= 33 && i <= 126) || (i >= 161 && i <= 172) || i >= 174;
        int64_t point = i > 255 || shown ? i : shifted++;
        if (i > 255) snprintf(to, SPELT_BYTES, "w%lld", (long long)i);
        else if (point < 128) to[0] = (char)point, to[1] = 0;
        else to[0] = (char)(0xC0 | point >> 6), to[1] = (char)(0x80 | (point & 63)), to[2] = 0;
        texts[i] = (struct span){to, strlen(to)};
        types[i] = 1;
    }
    gguf_out_text(out, "tokenizer.ggml.model", "gpt2", 4);
    gguf_out_text(out, "tokenizer.ggml.pre", "gpt-2", 5);
    gguf_out_texts(out, "tokenizer.ggml.tokens", texts, (size_t)V);
    gguf_out_i32s(out, "tokenizer.ggml.token_type", types, (size_t)V);
    gguf_out_texts(out, "tokenizer.ggml.merges", texts, 0);
    gguf_out_u32(out, "tokenizer.ggml.bos_token_id", (uint32_t)(V - 2));
    gguf_out_u32(out, "tokenizer.ggml.eos_token_id", (uint32_t)(V - 1));
    mem_free(texts), mem_free(types), mem_free(spelt);
}

static void tensor_write(struct gguf_out *out, const struct param *p, enum dtype to, uint64_t number) {
    int64_t drawn = p->rows < ROWS_DRAWN ? p->rows : ROWS_DRAWN;
    size_t row_bytes;
    if (!dtype_row_bytes(to, p->cols, &row_bytes)) refuse("a row does not divide into blocks");
    float *row = mem_array((size_t)p->cols, sizeof *row, "a row");
    char *rows = mem_array((size_t)drawn, row_bytes, "rows");
    for (int64_t r = 0; r < drawn; r++) {
        for (int64_t i = 0; i < p->cols; i++)
            row[i] = p->rows == 1 ? 1 : .02f * (float)rng_normal(1, number, (uint64_t)(r * p->cols + i));
        dtype_row(to)->from_f32(row, rows + (size_t)r * row_bytes, p->cols);
    }
    for (int64_t r = 0; r < p->rows; r++) gguf_out_data(out, rows + (size_t)(r % drawn) * row_bytes, row_bytes);
    mem_free(row), mem_free(rows);
}

int main(int argc, char **argv) {
    struct err err;
    struct model_config c;
    if (argc != 4) refuse("usage: random_model OUT.gguf MIX SHAPE");
    const struct mix *mix = mix_find(argv[2]);
    if (!mix) refuse("MIX is not a name that ./run --list prints");
    if (!shape_read(&c, argv[3], &err)) refuse(err.text);
    int n;
    struct param *params = config_params_table(&c, &n);
    struct file_tensor *tensors = mem_array((size_t)n, sizeof *tensors, "tensors");
    const struct file_tensor **list = mem_array((size_t)n, sizeof *list, "list of tensors");
    enum dtype *to = mem_array((size_t)n, sizeof *to, "dtypes");
    for (int i = 0; i < n; i++) {
        bool norm = params[i].rows == 1;
        tensors[i] = (struct file_tensor){.dtype = norm ? DTYPE_F32 : mix->base, .n_dims = norm ? 1 : 2, .size = {norm ? params[i].cols : params[i].rows, norm ? 0 : params[i].cols}};
        snprintf(tensors[i].name, sizeof tensors[i].name, "%s", params[i].name);
        list[i] = &tensors[i];
    }
    mix_choose(mix, &c, false, list, (size_t)n, to);
    struct gguf_out *out = gguf_out_open(argv[1], &err);
    if (!out) refuse(err.text);
    config_write(&c, out);
    gguf_out_u32(out, "general.file_type", (uint32_t)mix->file_type);
    tokenizer_write(out, c.V);
    for (int i = 0; i < n; i++) gguf_out_tensor(out, params[i].name, to[i], tensors[i].n_dims, tensors[i].size);
    for (int i = 0; i < n; i++) tensor_write(out, &params[i], to[i], (uint64_t)i);
    if (!gguf_out_commit(out, &err)) refuse(err.text);
    mem_free(params), mem_free(tensors), mem_free(list), mem_free(to);
    return 0;
}
