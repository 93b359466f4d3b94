#include "tools/model/matmul.h"

#include <cblas.h>
#include <tbb/enumerable_thread_specific.h>
#include <tbb/info.h>
#include <tbb/parallel_for.h>
#include <tbb/task_arena.h>

#include <algorithm>
#include <vector>

namespace swell::model {
namespace {

constexpr int64_t kMaxFewRows = 6;       // rows up to which the own kernel is the faster one
constexpr int64_t kFewStrips = 4;        // strips of a task
constexpr int64_t kManyStrips = 6;       // the same with OpenBLAS: enough for it to reach its speed
constexpr int64_t kAloneWork = 1 << 17;  // multiplications below which other threads are not worth waking

}  // namespace

struct MatMul::Arena {
  // More than the machine has would not run, and oneTBB would print a warning.
  explicit Arena(int32_t threads)
      : tasks(threads > 0 ? std::min(threads, tbb::info::default_concurrency()) : tbb::task_arena::automatic) {}
  tbb::task_arena tasks;
  tbb::enumerable_thread_specific<std::vector<float>> panels;  // expanded weights
};

// result[r * stride + o] = factor * sum_i rows[r * row_stride + i] * weights[o, i], or that added to what is there.
struct MatMul::Product {
  const Matrix* weights;
  const float* rows;
  int64_t row_stride;
  float* result;
  int64_t stride;
  float factor = 1;
  bool add = false;
  std::vector<float> sums;  // [count, inputs / kStripBlock], of the blocks of each row, for few rows

  void SumBlocks(int64_t count) {
    const int64_t blocks = weights->inputs() / kStripBlock;
    sums.resize(static_cast<size_t>(count * blocks));
    for (int64_t row = 0; row < count; ++row) {
      BlockSums(rows + row * row_stride, weights->inputs(), sums.data() + row * blocks);
    }
  }

  void RunFew(int64_t strip, int64_t count) const {
    const int64_t blocks = weights->inputs() / kStripBlock;
    const int64_t outputs = std::min(kStripOutputs, weights->outputs() - strip * kStripOutputs);
    for (int64_t row = 0; row < count; ++row) {  // the strip stays in the L1 cache
      float dots[kStripOutputs];
      weights->Dot(strip, rows + row * row_stride, sums.data() + row * blocks, dots);
      float* to = result + row * stride + strip * kStripOutputs;
      for (int64_t o = 0; o < outputs; ++o) to[o] = factor * dots[o] + (add ? to[o] : 0.0F);
    }
  }

  void RunMany(int64_t first, int64_t strips, int64_t count, std::vector<float>* panel) const {
    const int64_t columns = strips * kStripOutputs;
    const int64_t outputs = std::min(columns, weights->outputs() - first * kStripOutputs);
    const size_t needed = static_cast<size_t>(weights->inputs() * columns);
    if (panel->size() < needed) panel->resize(needed);
    weights->Expand(first, strips, panel->data());
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, static_cast<blasint>(count), static_cast<blasint>(outputs),
                static_cast<blasint>(weights->inputs()), factor, rows, static_cast<blasint>(row_stride), panel->data(),
                static_cast<blasint>(columns), add ? 1.0F : 0.0F, result + first * kStripOutputs,
                static_cast<blasint>(stride));
  }
};

// A run of strips of a product.
struct MatMul::Piece {
  const Product* product;
  int64_t first;
  int64_t strips;
};

MatMul::MatMul(int32_t threads) : arena_(std::make_unique<Arena>(threads)) { openblas_set_num_threads(1); }

MatMul::~MatMul() = default;

void MatMul::ParallelFor(int64_t count, const std::function<void(int64_t)>& body) const {
  arena_->tasks.execute([&] { tbb::parallel_for(int64_t{0}, count, body); });
}

void MatMul::Apply(std::span<const Linear> layers, const float* rows, int64_t count, float* result) const {
  int64_t stride = 0;
  int64_t ranks = 0;
  for (const Linear& layer : layers) {
    stride += layer.outputs();
    ranks += layer.rank();
  }
  std::vector<float> low(static_cast<size_t>(count * ranks));  // factor * A x of all layers: [count, ranks]
  std::vector<Product> first;
  std::vector<Product> second;
  float* low_column = low.data();
  for (const Linear& layer : layers) {
    first.push_back({&layer.weights, rows, layer.inputs(), result, stride, 1, false, {}});
    if (layer.rank() > 0) {
      first.push_back({&layer.into_rank, rows, layer.inputs(), low_column, ranks, layer.factor, false, {}});
      second.push_back({&layer.from_rank, low_column, ranks, result, stride, 1, true, {}});
    }
    result += layer.outputs();
    low_column += layer.rank();
  }
  Multiply(first, count);
  Multiply(second, count);
}

void MatMul::Multiply(std::span<Product> products, int64_t count) const {
  const bool few = count <= kMaxFewRows;
  std::vector<Piece> pieces;
  int64_t work = 0;
  for (Product& product : products) {
    if (few) product.SumBlocks(count);
    const int64_t strips = product.weights->strips();
    const int64_t most = few ? kFewStrips : kManyStrips;
    for (int64_t at = 0; at < strips; at += most) pieces.push_back({&product, at, std::min(most, strips - at)});
    work += count * product.weights->outputs() * product.weights->inputs();
  }
  const auto run = [&](int64_t index) {
    const Piece& piece = pieces[static_cast<size_t>(index)];
    if (!few) return piece.product->RunMany(piece.first, piece.strips, count, &arena_->panels.local());
    for (int64_t i = 0; i < piece.strips; ++i) piece.product->RunFew(piece.first + i, count);
  };
  if (work >= kAloneWork) return ParallelFor(static_cast<int64_t>(pieces.size()), run);
  for (size_t i = 0; i < pieces.size(); ++i) run(static_cast<int64_t>(i));
}

}  // namespace swell::model
