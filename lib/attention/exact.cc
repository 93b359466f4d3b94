// Exact decode attention: K and V of a tile are read once for the whole group of query heads.
#include "lib/base/simd_targets.h"
#include "swell/attention.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "lib/attention/exact.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "lib/attention/rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace swell {
namespace attention {
namespace HWY_NAMESPACE {

// Makes logits [kTileTokens] of the products of a query with a tile: scaled, -inf behind the last token. Returns the
// largest.
template <class Rows>
HWY_INLINE float ScaleProducts(const RowTile& tile, float scale, float* logits) {
  const FloatTag d;
  const auto none = hn::Set(d, -kInfinity);
  auto largest = none;
  for (int64_t t = 0; t < kTileTokens; t += hn::Lanes(d)) {
    auto logit = hn::Mul(hn::LoadU(d, logits + t), hn::Set(d, scale));
    if constexpr (std::is_same_v<Rows, Int8Rows>) logit = hn::Mul(logit, hn::LoadU(d, tile.key_scales + t));
    const int64_t left = std::max<int64_t>(tile.tokens - t, 0);
    logit = hn::IfThenElse(hn::FirstN(d, left), ClampLogit(logit), none);
    largest = hn::Max(largest, logit);
    hn::StoreU(logit, d, logits + t);
  }
  return Largest(largest);
}

template <class Rows>
void AttendRows(const HeadShape& shape, const float* queries, std::span<const KvRun> runs, PartialState state) {
  const FloatTag d;
  const int64_t head_dim = shape.head_dim;
  RowReader reader(shape, runs);
  RowTile tiles[2] = {};
  alignas(64) float weights[kMaxGroup * kTileTokens] = {};
  bool more = reader.Next<false>(&tiles[0]);
  for (int current = 0; more; current ^= 1) {
    const RowTile& tile = tiles[current];
    const RowTile& next = tiles[current ^ 1];
    more = reader.Next<false>(&tiles[current ^ 1]);
    DotRows<Rows>(tile.keys, more ? next.keys : nullptr, tile.tokens, queries, shape.group, head_dim, weights);
    for (int64_t g = 0; g < shape.group; ++g) {
      float* row = weights + g * kTileTokens;
      const float largest = ScaleProducts<Rows>(tile, shape.scale, row);
      const float factor = SoftmaxStep(largest, row, state.max + g, state.sum + g);
      if (factor != 1.0f) ScaleRow(factor, head_dim, state.out + g * head_dim);
      if constexpr (std::is_same_v<Rows, Int8Rows>) {
        for (int64_t t = 0; t < tile.tokens; t += hn::Lanes(d)) {
          hn::StoreU(hn::Mul(hn::LoadU(d, row + t), hn::LoadU(d, tile.value_scales + t)), d, row + t);
        }
      }
    }
    SumRows<Rows>(tile.values, more ? next.values : nullptr, tile.tokens, weights, shape.group, head_dim, state.out);
  }
}

void Attend(const HeadShape& shape, const float* queries, std::span<const KvRun> runs, PartialState state) {
  switch (shape.storage) {
    case DType::kFloat32:
      AttendRows<Float32Rows>(shape, queries, runs, state);
      break;
    case DType::kFloat16:
      AttendRows<Float16Rows>(shape, queries, runs, state);
      break;
    case DType::kBFloat16:
      AttendRows<BFloat16Rows>(shape, queries, runs, state);
      break;
    case DType::kInt8:
      AttendRows<Int8Rows>(shape, queries, runs, state);
      break;
  }
}

template <class Rows>
void ScoreRowsOf(const HeadShape& shape, const float* queries, const KvRun& run, float* logits, int64_t stride) {
  RowReader reader(shape, {&run, 1});
  RowTile tile = {};
  alignas(64) float scores[kMaxGroup * kTileTokens] = {};
  for (int64_t first = 0; reader.Next<false>(&tile); first += tile.tokens) {
    DotRows<Rows>(tile.keys, nullptr, tile.tokens, queries, shape.group, shape.head_dim, scores);
    for (int64_t g = 0; g < shape.group; ++g) {
      ScaleProducts<Rows>(tile, shape.scale, scores + g * kTileTokens);
      std::copy_n(scores + g * kTileTokens, tile.tokens, logits + g * stride + first);
    }
  }
}

void Score(const HeadShape& shape, const float* queries, const KvRun& run, float* logits, int64_t stride) {
  switch (shape.storage) {
    case DType::kFloat32:
      ScoreRowsOf<Float32Rows>(shape, queries, run, logits, stride);
      break;
    case DType::kFloat16:
      ScoreRowsOf<Float16Rows>(shape, queries, run, logits, stride);
      break;
    case DType::kBFloat16:
      ScoreRowsOf<BFloat16Rows>(shape, queries, run, logits, stride);
      break;
    case DType::kInt8:
      ScoreRowsOf<Int8Rows>(shape, queries, run, logits, stride);
      break;
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace attention
}  // namespace swell
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace swell::attention {

HWY_EXPORT(Attend);
HWY_EXPORT(Score);

void AttendRuns(const HeadShape& shape, const float* queries, std::span<const KvRun> runs, PartialState state) {
  HWY_DYNAMIC_DISPATCH(Attend)(shape, queries, runs, state);
}

void ScoreRows(const HeadShape& shape, const float* queries, const KvRun& run, float* logits, int64_t stride) {
  HWY_DYNAMIC_DISPATCH(Score)(shape, queries, run, logits, stride);
}

}  // namespace swell::attention
#endif  // HWY_ONCE
