// A matrix of weights, packed for products (strips.h) in the precision of the file.
//
// Q4_1 and Q8_0 keep their codes and scales (0.63 and 1.06 bytes an element), Q4_0 becomes Q8_0 with the same values,
// F16 stays as it is, and other types become float32. Immutable once made: any thread may use it.
#ifndef SWELL_TOOLS_MODEL_MATRIX_H_
#define SWELL_TOOLS_MODEL_MATRIX_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "tools/model/dequantize.h"
#include "tools/model/strips.h"

namespace swell::model {

class Matrix {
 public:
  Matrix() = default;  // no outputs
  // `data`: outputs x inputs elements, row-major, inputs in whole blocks of the type. Throws std::bad_alloc.
  Matrix(TensorType type, std::span<const std::byte> data, int64_t outputs, int64_t inputs);

  int64_t outputs() const { return outputs_; }
  int64_t inputs() const { return inputs_; }
  int64_t strips() const { return (outputs_ + kStripOutputs - 1) / kStripOutputs; }
  uint64_t bytes() const { return data_.size(); }
  bool finite() const { return finite_; }  // false: an element was Inf or NaN, and products mean nothing

  // result[16] = outputs 16 * strip .. of W x, zeros beyond the last one; `sums` as BlockSums makes them of x.
  void Dot(int64_t strip, const float* x, const float* sums, float* result) const {
    DotStrip(kind_, Strip(strip), inputs_, x, sums, result);
  }
  // The transpose of `count` strips from `first` on: to [inputs, count * 16], zeros beyond the last output.
  void Expand(int64_t first, int64_t count, float* to) const;
  // Row `output` of the matrix: to [inputs].
  void Row(int64_t output, float* to) const;

 private:
  const std::byte* Strip(int64_t index) const { return data_.data() + index * StripBytes(kind_, inputs_); }

  StripKind kind_ = StripKind::kFloat32;
  int64_t outputs_ = 0;
  int64_t inputs_ = 0;
  bool finite_ = true;
  std::vector<std::byte> data_;  // strips
};

}  // namespace swell::model

#endif  // SWELL_TOOLS_MODEL_MATRIX_H_
