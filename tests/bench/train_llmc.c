// train_llmc.c: llm.c's side of `make bench-train-peers`: its train_gpt2.c, unchanged, on random tokens from random weights.
//
//     cc -Ofast -march=native -fopenmp -DOMP -I path/of/llm.c -o train_llmc tests/bench/train_llmc.c -lm
//     train_llmc BATCH SEQ STEPS THREADS [CHECKPOINT]       the checkpoint of the GPT-2 124M shape is written when there is none
//
// Not part of the build: it needs the folder of llm.c, whose Makefile has these flags. Prints a line for every step.
#define TESTING
#include "train_gpt2.c"
#include <omp.h>

static uint64_t state = 88172645463325252u;
static float uniform(void) {
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return (float)(state >> 40) / 16777216.f;
}

static void checkpoint_write(const char *path) {
    int header[256] = {20240326, 3, 1024, 50257, 12, 12, 768, 50304};
    GPT2Config config = {1024, 50257, 50304, 12, 12, 768};
    size_t sizes[NUM_PARAMETER_TENSORS];
    fill_in_parameter_sizes(sizes, config);
    FILE *f = fopenCheck(path, "wb");
    fwrite(header, sizeof *header, 256, f);
    for (int i = 0; i < NUM_PARAMETER_TENSORS; i++) { // its order: wte wpe, then a gain (2, 8, 14) or a matrix, each before its bias
        int gain = i == 2 || i == 8 || i == 14, matrix = i < 2 || (i % 2 == 0 && !gain);
        for (size_t k = 0; k < sizes[i]; k++) {
            float x = gain ? 1 : matrix ? .04f * (uniform() + uniform() + uniform() - 1.5f) : 0;
            fwrite(&x, sizeof x, 1, f);
        }
    }
    fclose(f);
}

int main(int argc, char **argv) {
    if (argc < 5) return fprintf(stderr, "usage: train_llmc BATCH SEQ STEPS THREADS [CHECKPOINT]\n"), 2;
    int B = atoi(argv[1]), T = atoi(argv[2]), steps = atoi(argv[3]);
    const char *path = argc > 5 ? argv[5] : "/tmp/gpt2_124M.bin";
    omp_set_num_threads(atoi(argv[4]));
    if (access(path, F_OK) != 0) checkpoint_write(path);
    GPT2 model;
    gpt2_build_from_checkpoint(&model, path);
    int *ids = mallocCheck((size_t)(B * T + 1) * sizeof *ids);
    for (int step = 1; step <= steps; step++) {
        struct timespec start, end;
        for (int i = 0; i <= B * T; i++) ids[i] = (int)(uniform() * 50256);
        clock_gettime(CLOCK_MONOTONIC, &start);
        gpt2_forward(&model, ids, ids + 1, B, T);
        gpt2_zero_grad(&model);
        gpt2_backward(&model);
        gpt2_update(&model, 1e-4f, .9f, .999f, 1e-8f, 0, step);
        clock_gettime(CLOCK_MONOTONIC, &end);
        double seconds = (double)(end.tv_sec - start.tv_sec) + (double)(end.tv_nsec - start.tv_nsec) / 1e9;
        printf("step %d loss %.4f: %.1f tokens/s\n", step, model.mean_loss, B * T / seconds);
        fflush(stdout);
    }
    return 0;
}
