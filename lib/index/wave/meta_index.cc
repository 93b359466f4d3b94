#include "lib/index/wave/meta_index.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "lib/index/wave/assign.h"
#include "lib/index/wave/row_math.h"

namespace swell::wave {
namespace {

// Hands out arrays of a block.
class Carver {
 public:
  explicit Carver(std::byte* block) : block_(block) {}

  template <typename T>
  T* Take(int64_t count) {
    std::byte* place = block_ == nullptr ? nullptr : block_ + bytes_;
    bytes_ += static_cast<size_t>(RoundUp(count * static_cast<int64_t>(sizeof(T)), kCacheLineBytes));
    return reinterpret_cast<T*>(place);
  }
  size_t bytes() const { return bytes_; }

 private:
  std::byte* block_;
  size_t bytes_ = 0;
};

// Writes one cluster's elements into its lane of the tiles.
template <typename T>
void Scatter(const T* elements, int32_t head_dim, int64_t cluster, T* tiles) {
  T* lane = tiles + cluster / kClusterTile * kClusterTile * head_dim + cluster % kClusterTile;
  for (int64_t i = 0; i < head_dim; ++i) lane[i * kClusterTile] = elements[i];
}

float ToFiniteFloat(double x) {
  return static_cast<float>(std::min(x, static_cast<double>(std::numeric_limits<float>::max())));
}

}  // namespace

size_t MetaIndex::Place(std::byte* block, int64_t tokens, int64_t clusters, int32_t head_dim) {
  const int64_t padded = RoundUp(clusters, kClusterTile);
  Carver carver(block);
  center_ = carver.Take<float>(head_dim);
  centroids_ = carver.Take<int8_t>(padded * head_dim);
  centroid_scales_ = carver.Take<float>(padded);
  spreads_ = carver.Take<uint8_t>(padded * head_dim);
  spread_scales_ = carver.Take<float>(padded);
  value_means_ = carver.Take<int8_t>(clusters * head_dim);
  value_scales_ = carver.Take<float>(clusters);
  value_energies_ = carver.Take<float>(clusters);
  first_rows_ = carver.Take<uint32_t>(clusters + 1);
  order_ = {carver.Take<uint16_t>(tokens), static_cast<size_t>(tokens)};
  return carver.bytes();
}

size_t MetaIndex::BlockBytes(int64_t tokens, int64_t clusters, int32_t head_dim) {
  return MetaIndex().Place(nullptr, tokens, clusters, head_dim);
}

MetaIndex::MetaIndex(const Clustering& clustering, const KeyFrame& frame, int32_t head_dim) : head_dim_(head_dim) {
  const int64_t tokens = static_cast<int64_t>(clustering.order.size());
  block_bytes_ = BlockBytes(tokens, clustering.clusters(), head_dim);
  block_ = AllocateAligned<std::byte>(static_cast<int64_t>(block_bytes_));
  std::memset(block_.get(), 0, block_bytes_);
  Place(block_.get(), tokens, clustering.clusters(), head_dim);
  std::copy_n(frame.center, head_dim, center_);
  std::copy(clustering.first_rows.begin(), clustering.first_rows.end(), first_rows_);
  std::copy(clustering.order.begin(), clustering.order.end(), order_.begin());
  view_ = {.clusters = clustering.clusters(),
           .center = center_,
           .centroids = centroids_,
           .centroid_scales = centroid_scales_,
           .spreads = spreads_,
           .spread_scales = spread_scales_,
           .value_means = value_means_,
           .value_scales = value_scales_,
           .value_energies = value_energies_,
           .first_rows = first_rows_};
}

void MetaIndex::SetKeys(const Clustering& clustering, const KeyFrame& frame, const float* working_keys) {
  for (int64_t cluster = 0; cluster < clustering.clusters(); ++cluster) {
    float mean[kMaxHeadDim];
    float variance[kMaxHeadDim];
    int8_t centroid[kMaxHeadDim];
    uint8_t spread[kMaxHeadDim];
    const ClusterRows rows{working_keys, clustering.tokens(cluster), head_dim_};
    MeanOfRows(rows, mean);
    VarianceOfRows(rows, mean, variance);
    centroid_scales_[cluster] = QuantizeSigned(mean, head_dim_, frame.unit, centroid);
    spread_scales_[cluster] = QuantizeUnsigned(variance, head_dim_, frame.unit * frame.unit, spread);
    Scatter(centroid, head_dim_, cluster, centroids_);
    Scatter(spread, head_dim_, cluster, spreads_);
  }
}

void MetaIndex::SetValues(const Clustering& clustering, const float* values) {
  for (int64_t cluster = 0; cluster < clustering.clusters(); ++cluster) {
    float mean[kMaxHeadDim];
    const ClusterRows rows{values, clustering.tokens(cluster), head_dim_};
    MeanOfRows(rows, mean);
    value_scales_[cluster] = QuantizeSigned(mean, head_dim_, 1, value_means_ + cluster * head_dim_);
    value_energies_[cluster] = ToFiniteFloat(EnergyOfRows(rows));
  }
}

}  // namespace swell::wave
