// Nearest centroid of every token: a blocked matrix product with an argmin, vectorised with run-time dispatch.
#ifndef SWELL_LIB_INDEX_WAVE_ASSIGN_H_
#define SWELL_LIB_INDEX_WAVE_ASSIGN_H_

#include <cstdint>

namespace swell::wave {

// Key rows are padded with rows of zeros to a multiple of this many, clusters (with zeros) to a multiple of the other.
constexpr int64_t kTokenBlock = 12;
constexpr int64_t kClusterBlock = 32;

constexpr int64_t RoundUp(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

// Centroids of k-means in float32. Tiles of kClusterTile as in ClusterView; `clusters` counts without padding, both
// arrays are allocated for RoundUp(clusters, kClusterBlock).
struct CentroidTiles {
  float* lanes = nullptr;             // [tiles, head_dim, kClusterTile]
  float* minus_half_norms = nullptr;  // [tiles * kClusterTile]: -|c|^2 / 2; -inf in the padding, which never wins
  int64_t clusters = 0;
  int32_t head_dim = 0;
};

// Fills minus_half_norms from lanes.
void ComputeHalfNorms(const CentroidTiles& centroids);

// nearest[t] = argmin over c of |c|^2 / 2 - k_t . c, ties to the lower index. `keys` [blocks * kTokenBlock, head_dim],
// cache-line aligned; `scores` (scratch) and `nearest` [blocks * kTokenBlock].
// Every product is summed dimension by dimension in one lane, so that all targets with a fused multiply-add agree bit
// for bit.
void AssignNearest(const CentroidTiles& centroids, const float* keys, int64_t blocks, float* scores, int32_t* nearest);

}  // namespace swell::wave

#endif  // SWELL_LIB_INDEX_WAVE_ASSIGN_H_
