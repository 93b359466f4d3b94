// Super-clusters: near clusters share a tile, so that a whole tile is opened or left closed.
#ifndef SWELL_LIB_INDEX_WAVE_SUPER_CLUSTERS_H_
#define SWELL_LIB_INDEX_WAVE_SUPER_CLUSTERS_H_

#include <cstdint>
#include <vector>

#include "lib/index/wave/kmeans.h"

namespace swell::wave {

// The same clusters in an order in which every kClusterTile of them are near each other: balanced k-means of their
// centroids. `keys` as in ClusterKeys. Throws std::bad_alloc.
Clustering GroupClusters(const Clustering& clustering, const float* keys, int32_t head_dim);

// Clustering::first_rows of the super-clusters of grouped clusters. Throws std::bad_alloc.
std::vector<uint32_t> SuperRows(const Clustering& grouped);

}  // namespace swell::wave

#endif  // SWELL_LIB_INDEX_WAVE_SUPER_CLUSTERS_H_
