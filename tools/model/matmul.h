// Matrix products on several threads: OpenBLAS over weights expanded piece by piece for many rows, the kernels of
// strips.h for few.
#ifndef SWELL_TOOLS_MODEL_MATMUL_H_
#define SWELL_TOOLS_MODEL_MATMUL_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <span>

#include "tools/model/matrix.h"

namespace swell::model {

// result[r * stride + o] = factor * sum_i rows[r, i] * weights[o, i], or that added to what is there.
struct Product {
  const Matrix* weights = nullptr;
  float* result = nullptr;
  int64_t stride = 0;
  float factor = 1;
  bool add = false;
};

class MatMul {
 public:
  // `threads` <= 0, or more than there are: all that this process may use.
  explicit MatMul(int32_t threads);
  ~MatMul();

  // Several products of the same rows; row r begins at rows + r * row_stride and is as long as the weights have
  // inputs. The results overlap neither the rows nor one another. Any thread. Throws std::bad_alloc.
  void Multiply(const float* rows, int64_t row_stride, int64_t count, std::span<const Product> products) const;

  // Calls body(0) .. body(count - 1) in any order on the same threads.
  void ParallelFor(int64_t count, const std::function<void(int64_t)>& body) const;

 private:
  struct Arena;
  struct Rows;
  struct Piece;
  static void MultiplyFew(const Rows& rows, const Piece& piece);
  void MultiplyMany(const Rows& rows, const Piece& piece) const;

  std::unique_ptr<Arena> arena_;
};

}  // namespace swell::model

#endif  // SWELL_TOOLS_MODEL_MATMUL_H_
