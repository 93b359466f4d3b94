// k-means of the keys of one head: plain Lloyd in L2, sizes never balanced, deterministic.
#ifndef SWELL_LIB_INDEX_WAVE_KMEANS_H_
#define SWELL_LIB_INDEX_WAVE_KMEANS_H_

#include <cstdint>
#include <span>
#include <vector>

namespace swell::wave {

// A partition of the tokens; no cluster is empty.
struct Clustering {
  std::vector<uint16_t> order;       // [tokens]: grouped by cluster, ascending within one
  std::vector<uint32_t> first_rows;  // [clusters + 1]: cluster j is order[first_rows[j]] .. order[first_rows[j + 1]]

  int64_t clusters() const { return static_cast<int64_t>(first_rows.size()) - 1; }
  std::span<const uint16_t> tokens(int64_t cluster) const {
    return std::span(order).subspan(first_rows[cluster], first_rows[cluster + 1] - first_rows[cluster]);
  }
};

// Clusters to begin with: tokens / cluster_tokens rounded to nearest, at least 1.
constexpr int64_t InitialClusters(int64_t tokens, int64_t cluster_tokens) {
  const int64_t rounded = (tokens + cluster_tokens / 2) / cluster_tokens;
  return rounded < 1 ? 1 : rounded;
}

// Starts from `clusters` (1..tokens) evenly spaced tokens, moves the centroids to the means of their tokens
// `iterations` times (empty clusters keep theirs), then assigns every token to its nearest centroid, ties to the lower
// index, and drops the empty clusters. `keys` [RoundUp(tokens, kTokenBlock), head_dim], cache-line aligned, padded with
// zeros, of moderate size: squared distances must fit float32. Throws std::bad_alloc.
Clustering ClusterKeys(const float* keys, int64_t tokens, int32_t head_dim, int64_t clusters, int32_t iterations);

}  // namespace swell::wave

#endif  // SWELL_LIB_INDEX_WAVE_KMEANS_H_
