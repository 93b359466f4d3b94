#include "lib/attention/byte_dots.h"

#include <algorithm>
#include <cmath>
#include <limits>

#if defined(__x86_64__)
#include "lib/attention/vnni.h"
#endif

namespace swell::attention {

QuantizedQueries::QuantizedQueries(int32_t group, int32_t dims, const float* queries) : head_dim(dims) {
  for (int64_t g = 0; g < group; ++g) {
    const float* query = queries + g * head_dim;
    float largest = 0;
    for (int64_t i = 0; i < head_dim; ++i) largest = std::max(largest, std::abs(query[i]));
    steps[g] = largest / 16256;
    if (steps[g] < std::numeric_limits<float>::min()) steps[g] = 0;  // its reciprocal would not be finite
    const float inverse = steps[g] > 0 ? 1 / steps[g] : 0;
    sums[g] = 0;
    for (int64_t i = 0; i < head_dim; ++i) {
      const float scaled = query[i] * inverse;
      const auto rounded = static_cast<int32_t>(scaled + (scaled < 0 ? -0.5F : 0.5F));
      const int32_t upper = (rounded + 64) >> 7;
      high[g * head_dim + i] = static_cast<int8_t>(upper);
      low[g * head_dim + i] = static_cast<int8_t>(rounded - upper * 128);
      sums[g] += rounded;
    }
  }
}

#if defined(__x86_64__)

namespace {

// The instruction multiplies unsigned by signed bytes: centroids go in with 128 added, and 128 times the sum of the
// query is taken off again.
template <int kTiles, int kQueries>
SWELL_VNNI void DotBlock(const QuantizedQueries& queries, int32_t head, const int8_t* const* tiles,
                         const int8_t* const* ahead, int32_t dots[kDotQueries][kDotTiles][kClusterTile]) {
  const int64_t head_dim = queries.head_dim;
  const int8_t* high = queries.high + head * head_dim;
  const int8_t* low = queries.low + head * head_dim;
  const __m512i offset = _mm512_set1_epi8(static_cast<char>(0x80));
  __m512i highs[kQueries][kTiles], lows[kQueries][kTiles];
  for (int q = 0; q < kQueries; ++q) {
    for (int t = 0; t < kTiles; ++t) highs[q][t] = lows[q][t] = _mm512_setzero_si512();
  }
  for (int64_t i = 0; i < head_dim; i += kQuad) {
    __m512i centroids[kTiles];
    for (int t = 0; t < kTiles; ++t) {
      centroids[t] = _mm512_xor_si512(_mm512_load_si512(tiles[t] + i * kClusterTile), offset);
      _mm_prefetch(reinterpret_cast<const char*>(ahead[t]) + i * kClusterTile, _MM_HINT_T1);
    }
    for (int q = 0; q < kQueries; ++q) {
      const __m512i upper = BroadcastQuad(high + q * head_dim + i);
      const __m512i lower = BroadcastQuad(low + q * head_dim + i);
      for (int t = 0; t < kTiles; ++t) {
        highs[q][t] = AddByteProducts(highs[q][t], centroids[t], upper);
        lows[q][t] = AddByteProducts(lows[q][t], centroids[t], lower);
      }
    }
  }
  // Unrolled, or GCC keeps the sums in memory.
#pragma GCC unroll 4
  for (int q = 0; q < kQueries; ++q) {
    const __m512i correction = _mm512_set1_epi32(128 * queries.sums[head + q]);
#pragma GCC unroll 2
    for (int t = 0; t < kTiles; ++t) {
      const __m512i sum = _mm512_add_epi32(_mm512_slli_epi32(highs[q][t], 7), lows[q][t]);
      _mm512_store_si512(dots[q][t], _mm512_sub_epi32(sum, correction));
    }
  }
}

template <int kTiles>
void DotTiles(const QuantizedQueries& queries, int32_t head, int32_t n_queries, const int8_t* const* tiles,
              const int8_t* const* ahead, int32_t dots[kDotQueries][kDotTiles][kClusterTile]) {
  switch (n_queries) {
    case 1:
      return DotBlock<kTiles, 1>(queries, head, tiles, ahead, dots);
    case 2:
      return DotBlock<kTiles, 2>(queries, head, tiles, ahead, dots);
    case 3:
      return DotBlock<kTiles, 3>(queries, head, tiles, ahead, dots);
    default:
      return DotBlock<kTiles, 4>(queries, head, tiles, ahead, dots);
  }
}

}  // namespace

bool HasByteDots() {
  static const bool has = __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bw");
  return has;
}

void DotBytes(const QuantizedQueries& queries, int32_t head, int32_t n_queries, const int8_t* const* tiles,
              const int8_t* const* ahead, int32_t n_tiles, int32_t dots[kDotQueries][kDotTiles][kClusterTile]) {
  if (n_tiles == 1) return DotTiles<1>(queries, head, n_queries, tiles, ahead, dots);
  DotTiles<2>(queries, head, n_queries, tiles, ahead, dots);
}

#else

bool HasByteDots() { return false; }

void DotBytes(const QuantizedQueries&, int32_t, int32_t, const int8_t* const*, const int8_t* const*, int32_t,
              int32_t[kDotQueries][kDotTiles][kClusterTile]) {}

#endif

}  // namespace swell::attention
