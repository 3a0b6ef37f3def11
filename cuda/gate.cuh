// gate.cuh: the activations of gated units, for the op and for products that end in one. Every caller has the same bits.
#ifndef LEHR_CUDA_GATE_CUH
#define LEHR_CUDA_GATE_CUH

#include "cuda/exp.cuh"

// NaN stays.
static __device__ __forceinline__ float held(float x, float least, float most) { return x > most ? most : x < least ? least : x; }

template <int KIND> static __device__ __forceinline__ float gate_f32(float gate, float up) {
    if (KIND == GLU_SILU) return silu_f32(gate) * up;
    if (KIND == GLU_GELU) return gelu_f32(gate) * up;
    if (KIND == GLU_GELU_ERF) return 0.5f * gate * erfcf(gate * -0.70710678118654752440f) * up;
    if (KIND == GLU_RELU2) return (gate <= 0 ? 0 : gate * gate) * up; // NaN stays
    if (KIND == GLU_SIGMOID) return sigmoid_f32(gate) * up;
    const float g = held(gate, -INFINITY, 7);
    return g * sigmoid_f32(1.702f * g) * (held(up, -7, 7) + 1);
}
// The same, the kind known when it runs.
static __device__ __forceinline__ float gated(enum glu_kind kind, float gate, float up) {
    switch (kind) {
    case GLU_SILU: return gate_f32<GLU_SILU>(gate, up);
    case GLU_GELU: return gate_f32<GLU_GELU>(gate, up);
    case GLU_GELU_ERF: return gate_f32<GLU_GELU_ERF>(gate, up);
    case GLU_RELU2: return gate_f32<GLU_RELU2>(gate, up);
    case GLU_SIGMOID: return gate_f32<GLU_SIGMOID>(gate, up);
    default: return gate_f32<GLU_CLAMPED>(gate, up);
    }
}
#endif
