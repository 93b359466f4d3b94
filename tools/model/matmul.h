// Matrix products in float32 on several threads: OpenBLAS for many rows, an own kernel for few.
#ifndef SWELL_TOOLS_MODEL_MATMUL_H_
#define SWELL_TOOLS_MODEL_MATMUL_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <span>

namespace swell::model {

class MatMul {
 public:
  // `threads` <= 0, or more than there are: all that this process may use.
  explicit MatMul(int32_t threads);
  ~MatMul();

  // result[r, o] = sum_i rows[r, i] * weights[o, i]. All dense and row-major: rows [count, inputs], weights
  // [outputs, inputs], result [count, outputs], which overlaps nothing. Any thread.
  void Multiply(const float* rows, int64_t count, int64_t inputs, std::span<const float> weights, float* result) const;

  // Calls body(0) .. body(count - 1) in any order on the same threads.
  void ParallelFor(int64_t count, const std::function<void(int64_t)>& body) const;

 private:
  struct Arena;
  std::unique_ptr<Arena> arena_;
};

}  // namespace swell::model

#endif  // SWELL_TOOLS_MODEL_MATMUL_H_
