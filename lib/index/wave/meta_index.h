// Meta index of one KV head of one segment, quantised to 8 bits, in one block of memory.
#ifndef SWELL_LIB_INDEX_WAVE_META_INDEX_H_
#define SWELL_LIB_INDEX_WAVE_META_INDEX_H_

#include <cstddef>
#include <cstdint>
#include <span>

#include "lib/base/pages.h"
#include "lib/index/wave/kmeans.h"
#include "swell/types.h"

namespace swell::wave {

// Keys in the space of the clustering: working key = key / unit - origin, so that magnitudes are near 1 whatever the
// keys are (a unit is a power of two, hence exact) and the mean key of the segment is the origin.
struct KeyFrame {
  double unit = 1;
  float center[kMaxHeadDim] = {};  // the mean key, as stored in ClusterView::center
};

// Owner of what the two ClusterViews and SegmentIndex::order show. Immutable once both keys and values are set.
class MetaIndex {
 public:
  // Copies the clustering (grouped by GroupClusters) and the centre; all else is zero. Throws std::bad_alloc.
  MetaIndex(const Clustering& grouped, const KeyFrame& frame, int32_t head_dim);

  // Centroids and spreads from the working keys; [tokens, head_dim], cache-line aligned.
  void SetKeys(const KeyFrame& frame, const float* working_keys);
  // Value means and energies from the values; [tokens, head_dim], cache-line aligned.
  void SetValues(const float* values);

  const ClusterView& clusters() const { return clusters_.view; }
  const ClusterView& super_clusters() const { return supers_.view; }
  std::span<const uint16_t> order() const { return order_; }
  // Of the block; the object itself is counted by its owner.
  size_t block_bytes() const { return block_bytes_; }
  static size_t BlockBytes(int64_t tokens, int64_t clusters, int32_t head_dim);

 private:
  // Writable arrays of one ClusterView.
  struct Level {
    int8_t* centroids = nullptr;
    float* centroid_scales = nullptr;
    float* spread_profile = nullptr;
    float* spreads = nullptr;
    int8_t* value_means = nullptr;
    float* value_scales = nullptr;
    float* value_energies = nullptr;
    int8_t* tile_means = nullptr;
    float* tile_scales = nullptr;
    uint32_t* first_rows = nullptr;
    ClusterView view;
  };

  MetaIndex() = default;
  // Takes the arrays from `block` one after the other, each on a cache line; returns the bytes they need. With a null
  // block it only counts.
  size_t Place(std::byte* block, int64_t tokens, int64_t clusters, int32_t head_dim);
  void ShowLevel(Level& level, std::span<const uint32_t> first_rows);
  void SetLevelKeys(const Level& level, const KeyFrame& frame, const float* working_keys);
  void SetLevelValues(const Level& level, const float* values);
  std::span<const uint16_t> TokensOf(const Level& level, int64_t first, int64_t last) const;

  Pages block_;
  size_t block_bytes_ = 0;
  int32_t head_dim_ = 0;
  float* center_ = nullptr;
  Level clusters_;
  Level supers_;
  std::span<uint16_t> order_;
};

}  // namespace swell::wave

#endif  // SWELL_LIB_INDEX_WAVE_META_INDEX_H_
