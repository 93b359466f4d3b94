#include "lib/index/wave/kmeans.h"

#include <algorithm>

#include "lib/index/wave/aligned.h"
#include "lib/index/wave/assign.h"
#include "lib/index/wave/row_math.h"
#include "swell/types.h"

namespace swell::wave {
namespace {

void SetCentroid(const CentroidTiles& centroids, int64_t cluster, const float* centroid) {
  float* lane = centroids.lanes + cluster / kClusterTile * kClusterTile * centroids.head_dim + cluster % kClusterTile;
  for (int64_t i = 0; i < centroids.head_dim; ++i) lane[i * kClusterTile] = centroid[i];
}

// Sorts the tokens by cluster (stable, so ascending within one); clusters may come out empty.
void GroupTokens(const int32_t* nearest, int64_t tokens, int64_t clusters, Clustering* grouped) {
  grouped->order.resize(tokens);
  grouped->first_rows.assign(clusters + 1, 0);
  uint32_t* first_rows = grouped->first_rows.data();
  for (int64_t token = 0; token < tokens; ++token) ++first_rows[nearest[token]];
  uint32_t end = 0;
  for (int64_t cluster = 0; cluster <= clusters; ++cluster) first_rows[cluster] = end += first_rows[cluster];
  for (int64_t token = tokens; token-- > 0;) {
    grouped->order[--first_rows[nearest[token]]] = static_cast<uint16_t>(token);
  }
}

}  // namespace

Clustering ClusterKeys(const float* keys, int64_t tokens, int32_t head_dim, int64_t clusters, int32_t iterations) {
  const int64_t padded_clusters = RoundUp(clusters, kClusterBlock);
  const int64_t blocks = RoundUp(tokens, kTokenBlock) / kTokenBlock;
  const auto lanes = AllocateAligned<float>(padded_clusters * head_dim);
  const auto norms = AllocateAligned<float>(padded_clusters);
  const auto scores = AllocateAligned<float>(blocks * kTokenBlock);
  const auto nearest = AllocateAligned<int32_t>(blocks * kTokenBlock);
  const CentroidTiles centroids{lanes.get(), norms.get(), clusters, head_dim};

  std::fill_n(lanes.get(), padded_clusters * head_dim, 0.0F);
  for (int64_t cluster = 0; cluster < clusters; ++cluster) {
    SetCentroid(centroids, cluster, keys + (2 * cluster + 1) * tokens / (2 * clusters) * head_dim);
  }
  Clustering grouped;
  for (int32_t iteration = 0;; ++iteration) {
    ComputeHalfNorms(centroids);
    AssignNearest(centroids, keys, blocks, scores.get(), nearest.get());
    GroupTokens(nearest.get(), tokens, clusters, &grouped);
    if (iteration == iterations) break;
    for (int64_t cluster = 0; cluster < clusters; ++cluster) {
      float mean[kMaxHeadDim];
      if (grouped.tokens(cluster).empty()) continue;
      MeanOfRows({keys, grouped.tokens(cluster), head_dim}, mean);
      SetCentroid(centroids, cluster, mean);
    }
  }
  auto& first_rows = grouped.first_rows;  // an empty cluster begins where the next one does
  first_rows.erase(std::unique(first_rows.begin(), first_rows.end()), first_rows.end());
  return grouped;
}

}  // namespace swell::wave
