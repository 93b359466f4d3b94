// Products of tiles of int8 centroids with queries in integers, where the processor multiplies bytes (AVX-512 VNNI).
// Elsewhere score.cc multiplies floats.
#ifndef SWELL_LIB_ATTENTION_BYTE_DOTS_H_
#define SWELL_LIB_ATTENTION_BYTE_DOTS_H_

#include <cstdint>

#include "swell/types.h"

namespace swell::attention {

// Dimensions whose bytes lie side by side in a tile: [head_dim / kQuad, kClusterTile, kQuad].
constexpr int32_t kQuad = 4;

// Queries in 15 bits: q = step * (128 * high + low), within step / 2; step = max|q| / 16256 (0
// where that is no normal float).
struct QuantizedQueries {
  // `queries` [group, head_dim], finite.
  QuantizedQueries(int32_t group, int32_t head_dim, const float* queries);

  int32_t head_dim;
  float steps[kMaxGroup];
  int32_t sums[kMaxGroup];  // of 128 * high + low over the dimensions
  alignas(64) int8_t high[kMaxGroup * kMaxHeadDim];
  alignas(64) int8_t low[kMaxGroup * kMaxHeadDim];
};

constexpr int kDotTiles = 2;
constexpr int kDotQueries = 4;

// Whether DotBytes may be called.
bool HasByteDots();

// dots[q][t][j] = (128 high + low of query head + q) . cluster j of tile t, exactly; n_tiles 1..kDotTiles (64-byte
// aligned), n_queries 1..kDotQueries; dots 64-byte aligned. ahead[t] is a tile that will be wanted a few calls later.
void DotBytes(const QuantizedQueries& queries, int32_t head, int32_t n_queries, const int8_t* const* tiles,
              const int8_t* const* ahead, int32_t n_tiles, int32_t dots[kDotQueries][kDotTiles][kClusterTile]);

}  // namespace swell::attention

#endif  // SWELL_LIB_ATTENTION_BYTE_DOTS_H_
