#include "tools/model/linear.h"

#include <vector>

namespace swell::model {

void Apply(const MatMul& matmul, std::span<const Linear> layers, const float* rows, int64_t count, float* result) {
  int64_t outputs = 0;
  int64_t ranks = 0;
  for (const Linear& layer : layers) {
    outputs += layer.weights.outputs();
    ranks += layer.into_rank.outputs();
  }
  std::vector<float> low(static_cast<size_t>(count * ranks));  // A x of all layers: [count, ranks]
  std::vector<Product> first;
  std::vector<Product> second;
  int64_t column = 0;
  int64_t low_column = 0;
  for (const Linear& layer : layers) {
    first.push_back({&layer.weights, result + column, outputs});
    if (const int64_t rank = layer.into_rank.outputs(); rank > 0) {
      first.push_back({&layer.into_rank, low.data() + low_column, ranks, layer.factor});
      second.push_back({&layer.from_rank, result + column, outputs, 1, true});
      low_column += rank;
    }
    column += layer.weights.outputs();
  }
  matmul.Multiply(rows, layers[0].weights.inputs(), count, first);
  low_column = 0;
  for (const Product& product : second) {
    matmul.Multiply(low.data() + low_column, ranks, count, std::span(&product, 1));
    low_column += product.weights->inputs();
  }
}

}  // namespace swell::model
