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
  tbb::enumerable_thread_specific<std::vector<float>> panels;  // expanded weights of a task
};

struct MatMul::Rows {
  const float* data;
  int64_t stride;
  int64_t count;
  const float* sums;  // [count, inputs / kStripBlock], for few rows alone
};

// A run of strips of one product.
struct MatMul::Piece {
  const Product* product;
  int64_t first;
  int64_t strips;

  int64_t outputs() const {
    return std::min(strips * kStripOutputs, product->weights->outputs() - first * kStripOutputs);
  }
};

MatMul::MatMul(int32_t threads) : arena_(std::make_unique<Arena>(threads)) { openblas_set_num_threads(1); }

MatMul::~MatMul() = default;

void MatMul::ParallelFor(int64_t count, const std::function<void(int64_t)>& body) const {
  arena_->tasks.execute([&] { tbb::parallel_for(int64_t{0}, count, body); });
}

void MatMul::MultiplyFew(const Rows& rows, const Piece& piece) {
  const Product& product = *piece.product;
  const Matrix& weights = *product.weights;
  for (int64_t strip = piece.first; strip < piece.first + piece.strips; ++strip) {
    const int64_t outputs = std::min(kStripOutputs, weights.outputs() - strip * kStripOutputs);
    for (int64_t row = 0; row < rows.count; ++row) {  // the strip stays in the L1 cache
      float sums[kStripOutputs];
      weights.Dot(strip, rows.data + row * rows.stride, rows.sums + row * (weights.inputs() / kStripBlock), sums);
      float* result = product.result + row * product.stride + strip * kStripOutputs;
      for (int64_t o = 0; o < outputs; ++o) result[o] = product.factor * sums[o] + (product.add ? result[o] : 0.0F);
    }
  }
}

void MatMul::MultiplyMany(const Rows& rows, const Piece& piece) const {
  const Product& product = *piece.product;
  const int64_t inputs = product.weights->inputs();
  const int64_t columns = piece.strips * kStripOutputs;
  std::vector<float>& panel = arena_->panels.local();
  panel.resize(std::max(panel.size(), static_cast<size_t>(inputs * columns)));
  product.weights->Expand(piece.first, piece.strips, panel.data());
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, static_cast<blasint>(rows.count),
              static_cast<blasint>(piece.outputs()), static_cast<blasint>(inputs), product.factor, rows.data,
              static_cast<blasint>(rows.stride), panel.data(), static_cast<blasint>(columns), product.add ? 1.0F : 0.0F,
              product.result + piece.first * kStripOutputs, static_cast<blasint>(product.stride));
}

void MatMul::Multiply(const float* rows, int64_t row_stride, int64_t count, std::span<const Product> products) const {
  const bool few = count <= kMaxFewRows;
  const int64_t inputs = products[0].weights->inputs();
  std::vector<Piece> pieces;
  int64_t work = 0;
  for (const Product& product : products) {
    const int64_t strips = product.weights->strips();
    const int64_t most = few ? kFewStrips : kManyStrips;
    for (int64_t at = 0; at < strips; at += most) pieces.push_back({&product, at, std::min(most, strips - at)});
    work += count * product.weights->outputs() * inputs;
  }
  std::vector<float> sums;
  if (few) {
    const int64_t blocks = inputs / kStripBlock;
    sums.resize(static_cast<size_t>(count * blocks));
    for (int64_t row = 0; row < count; ++row) BlockSums(rows + row * row_stride, inputs, sums.data() + row * blocks);
  }
  const Rows all{rows, row_stride, count, sums.data()};
  const auto run = [&](int64_t index) {
    const Piece& piece = pieces[static_cast<size_t>(index)];
    if (few) {
      MultiplyFew(all, piece);
    } else {
      MultiplyMany(all, piece);
    }
  };
  if (work >= kAloneWork) return ParallelFor(static_cast<int64_t>(pieces.size()), run);
  for (size_t i = 0; i < pieces.size(); ++i) run(static_cast<int64_t>(i));
}

}  // namespace swell::model
