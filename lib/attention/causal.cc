// Causal attention of many query positions: a tile of K and V is decoded to float32 once and multiplied with blocks of
// query rows, with an online softmax per row (Dao et al., FlashAttention, arXiv 2205.14135).
#include <cstring>

#include "lib/base/simd_targets.h"
#include "swell/attention.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "lib/attention/causal.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "lib/attention/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace swell {
namespace attention {
namespace HWY_NAMESPACE {

// Query rows of a register block, and vectors of its columns.
constexpr int kBlockRows = 6;
constexpr int kBlockVectors = kManyRegisters ? 4 : 2;

// K and V of a tile as float32, K transposed so that lanes are tokens.
struct DecodedTile {
  alignas(64) float keys[kMaxHeadDim * kTileTokens];    // [head_dim, kTileTokens]
  alignas(64) float values[kTileTokens * kMaxHeadDim];  // [kTileTokens, head_dim]
  float steps[kTileTokens];                             // position - first_position, +inf behind the last token
  int64_t tokens;
  int64_t head_dim;
};

// One block of query rows; short blocks repeat the last row and write to a spare one.
struct QueryBlock {
  const float* queries[kBlockRows];
  float* outs[kBlockRows];
  float factors[kBlockRows];
};

// to[r][..] = factors[r] * to[r][..] + sum_k from[r][k] * matrix[k][..] for kVectors vectors of columns; without
// `factors` the old values are ignored.
template <int kVectors>
HWY_INLINE void MultiplyBlock(const float* const* from, int64_t depth, const float* matrix, int64_t stride,
                              const float* factors, float* const* to, int64_t column) {
  const FloatTag d;
  const int64_t lanes = hn::Lanes(d);
  FloatVec sums[kBlockRows][kVectors];
  for (auto& row : sums) {
    for (auto& sum : row) sum = hn::Zero(d);
  }
  const float* line = matrix + column;
  for (int64_t k = 0; k < depth; ++k, line += stride) {
    FloatVec columns[kVectors];
    for (int v = 0; v < kVectors; ++v) columns[v] = hn::LoadU(d, line + v * lanes);
    for (int r = 0; r < kBlockRows; ++r) {
      const auto factor = hn::Set(d, from[r][k]);
      for (int v = 0; v < kVectors; ++v) sums[r][v] = hn::MulAdd(factor, columns[v], sums[r][v]);
    }
  }
  for (int r = 0; r < kBlockRows; ++r) {
    float* row = to[r] + column;
    for (int v = 0; v < kVectors; ++v) {
      auto sum = sums[r][v];
      if (factors != nullptr) sum = hn::MulAdd(hn::LoadU(d, row + v * lanes), hn::Set(d, factors[r]), sum);
      hn::StoreU(sum, d, row + v * lanes);
    }
  }
}

// All columns of the product above; `columns` is a multiple of 16.
void Multiply(const float* const* from, int64_t depth, const float* matrix, int64_t stride, const float* factors,
              float* const* to, int64_t columns) {
  const int64_t lanes = hn::Lanes(FloatTag());
  int64_t column = 0;
  for (; column + kBlockVectors * lanes <= columns; column += kBlockVectors * lanes) {
    MultiplyBlock<kBlockVectors>(from, depth, matrix, stride, factors, to, column);
  }
  if (column + 2 * lanes <= columns) {
    MultiplyBlock<2>(from, depth, matrix, stride, factors, to, column);
    column += 2 * lanes;
  }
  if (column < columns) MultiplyBlock<1>(from, depth, matrix, stride, factors, to, column);
}

#if HWY_TARGET != HWY_SCALAR
// to[(4 b + 0) * stride ..] = block b of `v`, blocks of 4 floats.
template <class D>
HWY_INLINE void StoreBlocks(D d, hn::Vec<D> v, int64_t stride, float* to) {
  if constexpr (hn::MaxLanes(d) == 4) {
    hn::StoreU(v, d, to);
  } else {
    const hn::Half<D> half;
    StoreBlocks(half, hn::LowerHalf(half, v), stride, to);
    StoreBlocks(half, hn::UpperHalf(half, v), stride, to + stride * hn::MaxLanes(half));
  }
}
#endif

// Writes 4 keys as 4 columns of to [head_dim, kTileTokens].
template <class Rows>
HWY_INLINE void TransposeKeys(const void* const* rows, const float* scales, int64_t head_dim, float* to) {
  const FloatTag d;
  const auto load = [&](int r, int64_t i) HWY_ATTR {
    const auto key = Rows::Load(d, static_cast<const typename Rows::Element*>(rows[r]) + i);
    return std::is_same_v<Rows, Int8Rows> ? hn::Mul(key, hn::Set(d, scales[r])) : key;
  };
  for (int64_t i = 0; i < head_dim; i += hn::Lanes(d)) {
    const auto k0 = load(0, i), k1 = load(1, i), k2 = load(2, i), k3 = load(3, i);
    float* column = to + i * kTileTokens;
#if HWY_TARGET == HWY_SCALAR
    column[0] = hn::GetLane(k0);
    column[1] = hn::GetLane(k1);
    column[2] = hn::GetLane(k2);
    column[3] = hn::GetLane(k3);
#else
    const hn::Repartition<double, FloatTag> dd;
    const auto lower01 = hn::BitCast(dd, hn::InterleaveLower(d, k0, k1));
    const auto upper01 = hn::BitCast(dd, hn::InterleaveUpper(d, k0, k1));
    const auto lower23 = hn::BitCast(dd, hn::InterleaveLower(d, k2, k3));
    const auto upper23 = hn::BitCast(dd, hn::InterleaveUpper(d, k2, k3));
    const int64_t stride = kTileTokens;
    StoreBlocks(d, hn::BitCast(d, hn::InterleaveLower(dd, lower01, lower23)), stride, column);
    StoreBlocks(d, hn::BitCast(d, hn::InterleaveUpper(dd, lower01, lower23)), stride, column + stride);
    StoreBlocks(d, hn::BitCast(d, hn::InterleaveLower(dd, upper01, upper23)), stride, column + 2 * stride);
    StoreBlocks(d, hn::BitCast(d, hn::InterleaveUpper(dd, upper01, upper23)), stride, column + 3 * stride);
#endif
  }
}

template <class Rows>
void DecodeTile(const RowTile& tile, int64_t first_position, DecodedTile* decoded) {
  const FloatTag d;
  const int64_t head_dim = decoded->head_dim;
  decoded->tokens = tile.tokens;
  for (int64_t t = 0; t < tile.tokens; t += 4) {
    TransposeKeys<Rows>(tile.keys + t, tile.key_scales + t, head_dim, decoded->keys + t);
  }
  for (int64_t t = 0; t < tile.tokens; ++t) {
    const auto* row = static_cast<const typename Rows::Element*>(tile.values[t]);
    for (int64_t i = 0; i < head_dim; i += hn::Lanes(d)) {
      auto value = Rows::Load(d, row + i);
      if constexpr (std::is_same_v<Rows, Int8Rows>) value = hn::Mul(value, hn::Set(d, tile.value_scales[t]));
      hn::StoreU(value, d, decoded->values + t * head_dim + i);
    }
  }
  for (int64_t t = 0; t < kTileTokens; ++t) {
    // Steps are compared as floats; those that are clipped are visible to all queries or to none.
    constexpr int64_t kReach = 1 << 24;
    const int64_t step = t < tile.tokens ? std::clamp(tile.positions[t] - first_position, -kReach, kReach) : 0;
    decoded->steps[t] = t < tile.tokens ? static_cast<float>(step) : kInfinity;
  }
}

// Makes logits [kTileTokens] of the products of a query: scaled, -inf where the token is later than the query's `step`.
// Returns the largest.
HWY_INLINE float MaskRow(const DecodedTile& tile, float scale, float step, float* logits) {
  const FloatTag d;
  auto largest = hn::Set(d, -kInfinity);
  for (int64_t t = 0; t < kTileTokens; t += hn::Lanes(d)) {
    const auto logit = ClampLogit(hn::Mul(hn::LoadU(d, logits + t), hn::Set(d, scale)));
    const auto visible = hn::Le(hn::LoadU(d, tile.steps + t), hn::Set(d, step));
    const auto masked = hn::IfThenElse(visible, logit, hn::Set(d, -kInfinity));
    largest = hn::Max(largest, masked);
    hn::StoreU(masked, d, logits + t);
  }
  return Largest(largest);
}

// Adds a tile to the state of rows first_row .. last_row (exclusive) of [n_queries, group].
void AttendTile(const HeadShape& shape, const float* queries, int64_t query_stride, const DecodedTile& tile,
                int64_t first_row, int64_t last_row, PartialState state) {
  const int64_t head_dim = shape.head_dim;
  // Whole vectors of columns that hold tokens; the others keep what the mask ignores.
  const int64_t columns = (tile.tokens + 15) / 16 * 16;
  alignas(64) float logits[kBlockRows * kTileTokens] = {};
  alignas(64) float spare[kMaxHeadDim] = {};
  float* logit_rows[kBlockRows];
  for (int r = 0; r < kBlockRows; ++r) logit_rows[r] = logits + r * kTileTokens;
  QueryBlock block = {};
  for (int64_t row = first_row; row < last_row; row += kBlockRows) {
    const int64_t count = std::min<int64_t>(kBlockRows, last_row - row);
    for (int64_t r = 0; r < kBlockRows; ++r) {
      const int64_t index = row + std::min(r, count - 1);
      block.queries[r] = queries + index / shape.group * query_stride + index % shape.group * head_dim;
      block.outs[r] = r < count ? state.out + index * head_dim : spare;
      block.factors[r] = 0;
    }
    Multiply(block.queries, head_dim, tile.keys, kTileTokens, nullptr, logit_rows, columns);
    for (int64_t r = 0; r < count; ++r) {
      const int64_t index = row + r;
      const int64_t step = index / shape.group;
      const float largest = MaskRow(tile, shape.scale, static_cast<float>(step), logit_rows[r]);
      block.factors[r] = SoftmaxStep(largest, logit_rows[r], state.max + index, state.sum + index);
    }
    Multiply(logit_rows, tile.tokens, tile.values, head_dim, block.factors, block.outs, head_dim);
  }
}

template <class Rows>
void AttendCausalRows(const HeadShape& shape, const float* queries, int64_t n_queries, int64_t query_stride,
                      int64_t first_position, std::span<const KvRun> runs, PartialState state) {
  RowReader reader(shape, runs);
  RowTile tile = {};
  DecodedTile decoded;
  decoded.head_dim = shape.head_dim;
  std::memset(decoded.keys, 0, shape.head_dim * kTileTokens * sizeof(float));
  while (reader.Next<true>(&tile)) {
    const int64_t* positions = tile.positions;
    const int64_t first = *std::min_element(positions, positions + tile.tokens) - first_position;
    if (first >= n_queries) continue;
    DecodeTile<Rows>(tile, first_position, &decoded);
    const int64_t first_row = std::max<int64_t>(first, 0) * shape.group;
    AttendTile(shape, queries, query_stride, decoded, first_row, n_queries * shape.group, state);
  }
}

void AttendPositions(const HeadShape& shape, const float* queries, int64_t n_queries, int64_t query_stride,
                     int64_t first_position, std::span<const KvRun> runs, PartialState state) {
  const auto attend = [&](auto rows) {
    AttendCausalRows<decltype(rows)>(shape, queries, n_queries, query_stride, first_position, runs, state);
  };
  switch (shape.storage) {
    case DType::kFloat32:
      attend(Float32Rows());
      break;
    case DType::kFloat16:
      attend(Float16Rows());
      break;
    case DType::kBFloat16:
      attend(BFloat16Rows());
      break;
    case DType::kInt8:
      attend(Int8Rows());
      break;
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace attention
}  // namespace swell
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace swell::attention {

HWY_EXPORT(AttendPositions);

void AttendCausal(const HeadShape& shape, const float* queries, int64_t n_queries, int64_t query_stride,
                  int64_t first_position, std::span<const KvRun> runs, PartialState state) {
  HWY_DYNAMIC_DISPATCH(AttendPositions)(shape, queries, n_queries, query_stride, first_position, runs, state);
}

}  // namespace swell::attention
#endif  // HWY_ONCE
