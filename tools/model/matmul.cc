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

// C [m, n] = factor * A [m, k] B [k, n] + keep * C, row-major.
void Gemm(int64_t m, int64_t n, int64_t k, float factor, const float* a, int64_t a_stride, const float* b,
          int64_t b_stride, float keep, float* c, int64_t c_stride) {
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, static_cast<blasint>(m), static_cast<blasint>(n),
              static_cast<blasint>(k), factor, a, static_cast<blasint>(a_stride), b, static_cast<blasint>(b_stride),
              keep, c, static_cast<blasint>(c_stride));
}

// to [inputs, strips * 16]: the transposed weights, adapter included, of the layer's strips from `first` on.
// `scratch` is resized as needed; the result points into it.
const float* ExpandPiece(const Linear& layer, int64_t first, int64_t strips, std::vector<float>* scratch) {
  const int64_t columns = strips * kStripOutputs;
  const int64_t panel = layer.inputs() * columns;
  const int64_t into_columns = layer.into_rank.strips() * kStripOutputs;
  const int64_t into = layer.inputs() * into_columns;
  const size_t needed = static_cast<size_t>(panel + into + layer.rank() * columns);
  if (scratch->size() < needed) scratch->resize(needed);
  float* to = scratch->data();
  layer.weights.Expand(first, strips, to);
  if (layer.rank() == 0) return to;
  layer.into_rank.Expand(0, layer.into_rank.strips(), to + panel);
  layer.from_rank.Expand(first, strips, to + panel + into);
  Gemm(layer.inputs(), columns, layer.rank(), layer.factor, to + panel, into_columns, to + panel + into, columns, 1, to,
       columns);
  return to;
}

// A run of strips of the entry `index` of a list.
struct Piece {
  size_t index;
  int64_t first;
  int64_t strips;
};

void AddPieces(size_t index, int64_t strips, int64_t most, std::vector<Piece>* pieces) {
  for (int64_t at = 0; at < strips; at += most) pieces->push_back({index, at, std::min(most, strips - at)});
}

}  // namespace

struct MatMul::Arena {
  // More than the machine has would not run, and oneTBB would print a warning.
  explicit Arena(int32_t threads)
      : tasks(threads > 0 ? std::min(threads, tbb::info::default_concurrency()) : tbb::task_arena::automatic) {}
  tbb::task_arena tasks;
  tbb::enumerable_thread_specific<std::vector<float>> scratch;  // expanded weights
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

  // `sums` [count, inputs / kStripBlock]
  void Run(int64_t strip, int64_t count, const float* sums) const {
    const int64_t outputs = std::min(kStripOutputs, weights->outputs() - strip * kStripOutputs);
    for (int64_t row = 0; row < count; ++row) {  // the strip stays in the L1 cache
      float dots[kStripOutputs];
      weights->Dot(strip, rows + row * row_stride, sums + row * (weights->inputs() / kStripBlock), dots);
      float* to = result + row * stride + strip * kStripOutputs;
      for (int64_t o = 0; o < outputs; ++o) to[o] = factor * dots[o] + (add ? to[o] : 0.0F);
    }
  }
};

MatMul::MatMul(int32_t threads) : arena_(std::make_unique<Arena>(threads)) { openblas_set_num_threads(1); }

MatMul::~MatMul() = default;

void MatMul::ParallelFor(int64_t count, const std::function<void(int64_t)>& body) const {
  arena_->tasks.execute([&] { tbb::parallel_for(int64_t{0}, count, body); });
}

void MatMul::Apply(std::span<const Linear> layers, const float* rows, int64_t count, float* result) const {
  int64_t stride = 0;
  for (const Linear& layer : layers) stride += layer.outputs();
  if (count <= kMaxFewRows) {
    ApplyFew(layers, rows, count, result, stride);
  } else {
    ApplyMany(layers, rows, count, result, stride);
  }
}

void MatMul::ApplyMany(std::span<const Linear> layers, const float* rows, int64_t count, float* result,
                       int64_t stride) const {
  std::vector<Piece> pieces;
  std::vector<int64_t> columns(layers.size());
  for (size_t i = 0; i < layers.size(); ++i) {
    AddPieces(i, layers[i].weights.strips(), kManyStrips, &pieces);
    if (i > 0) columns[i] = columns[i - 1] + layers[i - 1].outputs();
  }
  ParallelFor(static_cast<int64_t>(pieces.size()), [&](int64_t index) {
    const Piece& piece = pieces[static_cast<size_t>(index)];
    const Linear& layer = layers[piece.index];
    const int64_t first = piece.first * kStripOutputs;
    const int64_t outputs = std::min(piece.strips * kStripOutputs, layer.outputs() - first);
    const float* weights = ExpandPiece(layer, piece.first, piece.strips, &arena_->scratch.local());
    Gemm(count, outputs, layer.inputs(), 1, rows, layer.inputs(), weights, piece.strips * kStripOutputs, 0,
         result + columns[piece.index] + first, stride);
  });
}

void MatMul::ApplyFew(std::span<const Linear> layers, const float* rows, int64_t count, float* result,
                      int64_t stride) const {
  int64_t ranks = 0;
  for (const Linear& layer : layers) ranks += layer.rank();
  std::vector<float> low(static_cast<size_t>(count * ranks));  // factor * A x of all layers: [count, ranks]
  std::vector<Product> first;
  std::vector<Product> second;
  float* low_column = low.data();
  for (const Linear& layer : layers) {
    first.push_back({&layer.weights, rows, layer.inputs(), result, stride});
    if (layer.rank() > 0) {
      first.push_back({&layer.into_rank, rows, layer.inputs(), low_column, ranks, layer.factor});
      second.push_back({&layer.from_rank, low_column, ranks, result, stride, 1, true});
    }
    result += layer.outputs();
    low_column += layer.rank();
  }
  MultiplyFew(first, count);
  for (const Product& product : second) MultiplyFew(std::span(&product, 1), count);
}

// The products read the same rows.
void MatMul::MultiplyFew(std::span<const Product> products, int64_t count) const {
  const int64_t inputs = products[0].weights->inputs();
  const int64_t blocks = inputs / kStripBlock;
  std::vector<float> sums(static_cast<size_t>(count * blocks));
  for (int64_t row = 0; row < count; ++row) {
    BlockSums(products[0].rows + row * products[0].row_stride, inputs, sums.data() + row * blocks);
  }
  std::vector<Piece> pieces;
  int64_t strips = 0;
  for (size_t i = 0; i < products.size(); ++i) {
    AddPieces(i, products[i].weights->strips(), kFewStrips, &pieces);
    strips += products[i].weights->strips();
  }
  const auto run = [&](int64_t index) {
    const Piece& piece = pieces[static_cast<size_t>(index)];
    for (int64_t strip = piece.first; strip < piece.first + piece.strips; ++strip) {
      products[piece.index].Run(strip, count, sums.data());
    }
  };
  if (count * strips * kStripOutputs * inputs >= kAloneWork) {
    return ParallelFor(static_cast<int64_t>(pieces.size()), run);
  }
  for (size_t i = 0; i < pieces.size(); ++i) run(static_cast<int64_t>(i));
}

}  // namespace swell::model
