// Kernels over strips of weights: 16 outputs side by side, so that products need no sum across lanes. Dispatched at run
// time to the best SIMD target of the machine; reentrant, no allocation.
#ifndef SWELL_TOOLS_MODEL_STRIPS_H_
#define SWELL_TOOLS_MODEL_STRIPS_H_

#include <cstddef>
#include <cstdint>

namespace swell::model {

constexpr int64_t kStripOutputs = 16;
constexpr int64_t kStripBlock = 32;  // inputs that share a scale in the kinds with codes

// What a strip consists of:
//   kFloat32, kFloat16: per input, its 16 weights.
//   kCode4: per block of inputs, 16 scales and 16 minimums in float16, then 4 x 16 words of 32 bits: bits 4j .. 4j + 3
//           of word k of an output are the code of input 8k + j. Weight = scale * code + minimum.
//   kCode8: per block of inputs, 16 scales in float16, then 8 x 16 words: byte j of word k is the code of input 4k + j.
//           Weight = scale * (code - 128).
enum class StripKind { kFloat32, kFloat16, kCode4, kCode8 };

// `inputs` is a multiple of kStripBlock for the kinds with codes, here and below.
int64_t StripBytes(StripKind kind, int64_t inputs);

// sums[b] = the sum of block b of x; a part of a block at the end is left out.
void BlockSums(const float* x, int64_t inputs, float* sums);

// result[o] = sum_i weight[o, i] * x[i] for the 16 outputs; `sums` as BlockSums makes them.
void DotStrip(StripKind kind, const std::byte* strip, int64_t inputs, const float* x, const float* sums, float* result);

// to[i * stride + o] = weight[o, i].
void ExpandStrip(StripKind kind, const std::byte* strip, int64_t inputs, float* to, int64_t stride);

}  // namespace swell::model

#endif  // SWELL_TOOLS_MODEL_STRIPS_H_
