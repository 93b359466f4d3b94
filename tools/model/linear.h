// A linear layer: a matrix, and the low-rank adapter beside it.
#ifndef SWELL_TOOLS_MODEL_LINEAR_H_
#define SWELL_TOOLS_MODEL_LINEAR_H_

#include <cstdint>

#include "tools/model/matrix.h"

namespace swell::model {

// y = W x + factor * B (A x)
struct Linear {
  Matrix weights;    // W [outputs, inputs]
  Matrix into_rank;  // A [rank, inputs]; no outputs: there is no adapter
  Matrix from_rank;  // B [outputs, rank]
  float factor = 0;  // alpha / rank

  int64_t outputs() const { return weights.outputs(); }
  int64_t inputs() const { return weights.inputs(); }
  int64_t rank() const { return into_rank.outputs(); }
  uint64_t bytes() const { return weights.bytes() + into_rank.bytes() + from_rank.bytes(); }
};

}  // namespace swell::model

#endif  // SWELL_TOOLS_MODEL_LINEAR_H_
