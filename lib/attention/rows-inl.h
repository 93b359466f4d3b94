// Dot products with, and weighted sums of, stored rows: what exact attention and the estimate share.
// Included once per Highway target.
#if defined(SWELL_LIB_ATTENTION_ROWS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef SWELL_LIB_ATTENTION_ROWS_INL_H_
#undef SWELL_LIB_ATTENTION_ROWS_INL_H_
#else
#define SWELL_LIB_ATTENTION_ROWS_INL_H_
#endif

#include "lib/attention/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace swell {
namespace attention {
namespace HWY_NAMESPACE {

// Queries that share the load of a row.
constexpr int kQueryBlock = kManyRegisters ? 4 : 2;

#if HWY_TARGET == HWY_SCALAR
// to[i] = sum of the lanes of the i-th argument
HWY_INLINE void StoreSums(FloatVec a, FloatVec b, FloatVec c, FloatVec e, float* to) {
  to[0] = hn::GetLane(a);
  to[1] = hn::GetLane(b);
  to[2] = hn::GetLane(c);
  to[3] = hn::GetLane(e);
}
#else
template <class D>
HWY_INLINE hn::Vec<hn::Full128<float> > AddBlocks(D d, hn::Vec<D> v) {
  if constexpr (hn::MaxLanes(d) == 4) {
    return v;
  } else {
    const hn::Half<D> half;
    return AddBlocks(half, hn::Add(hn::LowerHalf(half, v), hn::UpperHalf(half, v)));
  }
}

// to[i] = sum of the lanes of the i-th argument: a 4x4 transpose in every block of 128 bits while adding.
HWY_INLINE void StoreSums(FloatVec a, FloatVec b, FloatVec c, FloatVec e, float* to) {
  const FloatTag d;
  const hn::Repartition<double, FloatTag> dd;
  const auto ab = hn::BitCast(dd, hn::Add(hn::InterleaveLower(d, a, b), hn::InterleaveUpper(d, a, b)));
  const auto ce = hn::BitCast(dd, hn::Add(hn::InterleaveLower(d, c, e), hn::InterleaveUpper(d, c, e)));
  const auto lower = hn::BitCast(d, hn::InterleaveLower(dd, ab, ce));
  const auto upper = hn::BitCast(d, hn::InterleaveUpper(dd, ab, ce));
  hn::StoreU(AddBlocks(d, hn::Add(lower, upper)), hn::Full128<float>(), to);
}
#endif

// Asks for bytes [first, first + bytes) of a row that the next tile reads. Into the second-level cache: the next tile
// does not fit the first level beside the current one, and its few miss buffers would be the limit (measured: 9 GB/s
// into the first level, 19 GB/s into the second, 9 GB/s without).
HWY_INLINE void PrefetchRow(const void* row, int64_t first, int64_t bytes) {
  const char* at = static_cast<const char*>(row) + first;
  for (int64_t line = 0; line < bytes; line += 64) __builtin_prefetch(at + line, 0, 2);
}

// products[q * kTileTokens + t] = query q . row t, for 4 rows.
template <class Rows, int kQueries>
HWY_INLINE void DotBlock(const void* const* rows, const float* queries, int64_t head_dim, float* products) {
  using Element = typename Rows::Element;
  const FloatTag d;
  const Element* row0 = static_cast<const Element*>(rows[0]);
  const Element* row1 = static_cast<const Element*>(rows[1]);
  const Element* row2 = static_cast<const Element*>(rows[2]);
  const Element* row3 = static_cast<const Element*>(rows[3]);
  FloatVec sums[kQueries][4];
  for (auto& sum : sums) sum[0] = sum[1] = sum[2] = sum[3] = hn::Zero(d);
  for (int64_t i = 0; i < head_dim; i += hn::Lanes(d)) {
    const auto k0 = Rows::Load(d, row0 + i);
    const auto k1 = Rows::Load(d, row1 + i);
    const auto k2 = Rows::Load(d, row2 + i);
    const auto k3 = Rows::Load(d, row3 + i);
    for (int q = 0; q < kQueries; ++q) {
      const auto query = hn::LoadU(d, queries + q * head_dim + i);
      sums[q][0] = hn::MulAdd(query, k0, sums[q][0]);
      sums[q][1] = hn::MulAdd(query, k1, sums[q][1]);
      sums[q][2] = hn::MulAdd(query, k2, sums[q][2]);
      sums[q][3] = hn::MulAdd(query, k3, sums[q][3]);
    }
  }
  for (int q = 0; q < kQueries; ++q) {
    StoreSums(sums[q][0], sums[q][1], sums[q][2], sums[q][3], products + q * kTileTokens);
  }
}

template <class Rows, int kQueries>
void DotRowsFor(const void* const* rows, const void* const* ahead, int64_t tokens, const float* queries,
                int64_t head_dim, float* products) {
  for (int64_t t = 0; t < tokens; t += 4) {
    for (int64_t i = 0; ahead != nullptr && i < 4; ++i) {
      PrefetchRow(ahead[t + i], 0, head_dim * sizeof(typename Rows::Element));
    }
    DotBlock<Rows, kQueries>(rows + t, queries, head_dim, products + t);
  }
}

// products [n_queries, kTileTokens] of `tokens` rows; `rows` is padded to a multiple of 4 with valid addresses. `ahead`
// are the rows of the next tile, to be prefetched; may be null.
template <class Rows>
HWY_INLINE void DotRows(const void* const* rows, const void* const* ahead, int64_t tokens, const float* queries,
                        int64_t n_queries, int64_t head_dim, float* products) {
  for (; n_queries > 0; n_queries -= kQueryBlock) {
    switch (std::min<int64_t>(n_queries, kQueryBlock)) {
      case 1:
        DotRowsFor<Rows, 1>(rows, ahead, tokens, queries, head_dim, products);
        break;
      case 2:
        DotRowsFor<Rows, 2>(rows, ahead, tokens, queries, head_dim, products);
        break;
      case 3:
        DotRowsFor<Rows, std::min(3, kQueryBlock)>(rows, ahead, tokens, queries, head_dim, products);
        break;
      default:
        DotRowsFor<Rows, kQueryBlock>(rows, ahead, tokens, queries, head_dim, products);
        break;
    }
    ahead = nullptr;
    queries += kQueryBlock * head_dim;
    products += kQueryBlock * kTileTokens;
  }
}

// out[q * head_dim ..] += sum_t weights[q * kTileTokens + t] * row t, for kVectors vectors from `column` on.
template <class Rows, int kQueries, int kVectors>
HWY_INLINE void SumBlock(const void* const* rows, const void* const* ahead, int64_t tokens, const float* weights,
                         int64_t head_dim, int64_t column, float* out) {
  const FloatTag d;
  const int64_t lanes = hn::Lanes(d);
  constexpr int64_t kSize = sizeof(typename Rows::Element);
  FloatVec sums[kQueries][kVectors];
  for (auto& row_sums : sums) {
    for (auto& sum : row_sums) sum = hn::Zero(d);
  }
  for (int64_t t = 0; t < tokens; ++t) {
    const auto* row = static_cast<const typename Rows::Element*>(rows[t]) + column;
    if (ahead != nullptr) PrefetchRow(ahead[t], column * kSize, kVectors * lanes * kSize);
    FloatVec values[kVectors];
    for (int v = 0; v < kVectors; ++v) values[v] = Rows::Load(d, row + v * lanes);
    for (int q = 0; q < kQueries; ++q) {
      const auto weight = hn::Set(d, weights[q * kTileTokens + t]);
      for (int v = 0; v < kVectors; ++v) sums[q][v] = hn::MulAdd(weight, values[v], sums[q][v]);
    }
  }
  // Adding tile by tile keeps the rounding of long sums small.
  for (int q = 0; q < kQueries; ++q) {
    for (int v = 0; v < kVectors; ++v) {
      float* to = out + q * head_dim + column + v * lanes;
      hn::StoreU(hn::Add(hn::LoadU(d, to), sums[q][v]), d, to);
    }
  }
}

template <class Rows, int kQueries>
void SumRowsFor(const void* const* rows, const void* const* ahead, int64_t tokens, const float* weights,
                int64_t head_dim, float* out) {
  const int64_t lanes = hn::Lanes(FloatTag());
  int64_t column = 0;
  for (; column + 4 * lanes <= head_dim; column += 4 * lanes) {
    SumBlock<Rows, kQueries, 4>(rows, ahead, tokens, weights, head_dim, column, out);
  }
  if (column + 2 * lanes <= head_dim) {
    SumBlock<Rows, kQueries, 2>(rows, ahead, tokens, weights, head_dim, column, out);
    column += 2 * lanes;
  }
  if (column < head_dim) SumBlock<Rows, kQueries, 1>(rows, ahead, tokens, weights, head_dim, column, out);
}

// out [n_queries, head_dim] += weights [n_queries, kTileTokens] x rows; `ahead` as above.
template <class Rows>
HWY_INLINE void SumRows(const void* const* rows, const void* const* ahead, int64_t tokens, const float* weights,
                        int64_t n_queries, int64_t head_dim, float* out) {
  for (; n_queries > 0; n_queries -= kQueryBlock) {
    switch (std::min<int64_t>(n_queries, kQueryBlock)) {
      case 1:
        SumRowsFor<Rows, 1>(rows, ahead, tokens, weights, head_dim, out);
        break;
      case 2:
        SumRowsFor<Rows, 2>(rows, ahead, tokens, weights, head_dim, out);
        break;
      case 3:
        SumRowsFor<Rows, std::min(3, kQueryBlock)>(rows, ahead, tokens, weights, head_dim, out);
        break;
      default:
        SumRowsFor<Rows, kQueryBlock>(rows, ahead, tokens, weights, head_dim, out);
        break;
    }
    ahead = nullptr;
    weights += kQueryBlock * kTileTokens;
    out += kQueryBlock * head_dim;
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace attention
}  // namespace swell
HWY_AFTER_NAMESPACE();

#endif  // SWELL_LIB_ATTENTION_ROWS_INL_H_
