// Linear layers on several threads. For few rows the weights are multiplied as they are stored (strips.h); for many, a
// piece of them at a time is expanded to float32 and given to OpenBLAS.
#ifndef SWELL_TOOLS_MODEL_MATMUL_H_
#define SWELL_TOOLS_MODEL_MATMUL_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <span>

#include "tools/model/linear.h"

namespace swell::model {

class MatMul {
 public:
  // `threads` <= 0, or more than there are: all that this process may use.
  explicit MatMul(int32_t threads);
  ~MatMul();

  // The layers read the same rows; their outputs stand one after the other. rows [count, inputs], result [count, sum of
  // the layers' outputs], which overlaps nothing. Any thread. Throws std::bad_alloc.
  void Apply(std::span<const Linear> layers, const float* rows, int64_t count, float* result) const;

  // Calls body(0) .. body(count - 1) in any order on the same threads.
  void ParallelFor(int64_t count, const std::function<void(int64_t)>& body) const;

 private:
  struct Arena;
  struct Product;
  struct Piece;
  void Multiply(std::span<Product> products, int64_t count) const;  // in any order

  std::unique_ptr<Arena> arena_;
};

}  // namespace swell::model

#endif  // SWELL_TOOLS_MODEL_MATMUL_H_
