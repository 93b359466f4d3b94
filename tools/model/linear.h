// A linear layer: a matrix, and the low-rank adapter beside it.
#ifndef SWELL_TOOLS_MODEL_LINEAR_H_
#define SWELL_TOOLS_MODEL_LINEAR_H_

#include <cstdint>
#include <span>

#include "tools/model/matmul.h"
#include "tools/model/matrix.h"

namespace swell::model {

// y = W x + factor * B (A x)
struct Linear {
  Matrix weights;    // W [outputs, inputs]
  Matrix into_rank;  // A [rank, inputs]; no outputs: there is no adapter
  Matrix from_rank;  // B [outputs, rank]
  float factor = 0;  // alpha / rank

  uint64_t bytes() const { return weights.bytes() + into_rank.bytes() + from_rank.bytes(); }
};

// Layers that read the same rows; result [count, sum of their outputs], one layer's outputs after the other's. rows
// [count, inputs]. Throws std::bad_alloc.
void Apply(const MatMul& matmul, std::span<const Linear> layers, const float* rows, int64_t count, float* result);

}  // namespace swell::model

#endif  // SWELL_TOOLS_MODEL_LINEAR_H_
