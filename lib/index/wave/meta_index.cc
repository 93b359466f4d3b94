#include "lib/index/wave/meta_index.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <new>

#include "lib/index/wave/aligned.h"
#include "lib/index/wave/assign.h"
#include "lib/index/wave/row_math.h"
#include "lib/index/wave/super_clusters.h"

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

// Dimensions that lie side by side in a tile (ClusterView::centroids).
constexpr int64_t kQuad = 4;

// Writes one cluster's elements into its lane of the tiles.
void Scatter(const int8_t* elements, int32_t head_dim, int64_t cluster, int8_t* tiles) {
  int8_t* lane = tiles + cluster / kClusterTile * kClusterTile * head_dim + cluster % kClusterTile * kQuad;
  for (int64_t i = 0; i < head_dim; ++i) lane[i / kQuad * kClusterTile * kQuad + i % kQuad] = elements[i];
}

float ToFiniteFloat(double x) {
  return static_cast<float>(std::min(x, static_cast<double>(std::numeric_limits<float>::max())));
}

}  // namespace

size_t MetaIndex::Place(std::byte* block, int64_t tokens, int64_t clusters, int32_t head_dim) {
  Carver carver(block);
  center_ = carver.Take<float>(head_dim);
  const auto place_level = [&](int64_t count, Level& level) {
    const int64_t padded = RoundUp(count, kClusterTile);
    level.centroids = carver.Take<int8_t>(padded * head_dim);
    level.centroid_scales = carver.Take<float>(padded);
    level.spread_profile = carver.Take<float>(head_dim);
    level.spreads = carver.Take<float>(padded);
    level.value_means = carver.Take<int8_t>(count * head_dim);
    level.value_scales = carver.Take<float>(count);
    level.value_energies = carver.Take<float>(count);
    level.tile_means = carver.Take<int8_t>(padded / kClusterTile * head_dim);
    level.tile_scales = carver.Take<float>(padded / kClusterTile);
    level.first_rows = carver.Take<uint32_t>(count + 1);
  };
  place_level(clusters, clusters_);
  place_level(RoundUp(clusters, kClusterTile) / kClusterTile, supers_);
  order_ = {carver.Take<uint16_t>(tokens), static_cast<size_t>(tokens)};
  return carver.bytes();
}

size_t MetaIndex::BlockBytes(int64_t tokens, int64_t clusters, int32_t head_dim) {
  return MetaIndex().Place(nullptr, tokens, clusters, head_dim);
}

MetaIndex::MetaIndex(const Clustering& grouped, const KeyFrame& frame, int32_t head_dim) : head_dim_(head_dim) {
  const int64_t tokens = static_cast<int64_t>(grouped.order.size());
  block_bytes_ = BlockBytes(tokens, grouped.clusters(), head_dim);
  block_ = {static_cast<std::byte*>(AllocatePages(block_bytes_)), PagesDelete{block_bytes_}};
  if (block_ == nullptr) throw std::bad_alloc();
  std::memset(block_.get(), 0, block_bytes_);
  Place(block_.get(), tokens, grouped.clusters(), head_dim);
  std::copy_n(frame.center, head_dim, center_);
  std::copy(grouped.order.begin(), grouped.order.end(), order_.begin());
  ShowLevel(clusters_, grouped.first_rows);
  ShowLevel(supers_, SuperRows(grouped));
}

void MetaIndex::ShowLevel(Level& level, std::span<const uint32_t> first_rows) {
  std::copy(first_rows.begin(), first_rows.end(), level.first_rows);
  level.view = {.clusters = static_cast<int64_t>(first_rows.size()) - 1,
                .center = center_,
                .centroids = level.centroids,
                .centroid_scales = level.centroid_scales,
                .spread_profile = level.spread_profile,
                .spreads = level.spreads,
                .value_means = level.value_means,
                .value_scales = level.value_scales,
                .value_energies = level.value_energies,
                .tile_means = level.tile_means,
                .tile_scales = level.tile_scales,
                .first_rows = level.first_rows};
}

std::span<const uint16_t> MetaIndex::TokensOf(const Level& level, int64_t first, int64_t last) const {
  return order_.subspan(level.first_rows[first], level.first_rows[last] - level.first_rows[first]);
}

void MetaIndex::SetKeys(const KeyFrame& frame, const float* working_keys) {
  for (const Level* level : {&clusters_, &supers_}) SetLevelKeys(*level, frame, working_keys);
}

void MetaIndex::SetValues(const float* values) {
  for (const Level* level : {&clusters_, &supers_}) SetLevelValues(*level, values);
}

void MetaIndex::SetLevelKeys(const Level& level, const KeyFrame& frame, const float* working_keys) {
  double profile[kMaxHeadDim] = {};
  double total = 0;
  for (int64_t cluster = 0; cluster < level.view.clusters; ++cluster) {
    float mean[kMaxHeadDim];
    float variance[kMaxHeadDim];
    int8_t centroid[kMaxHeadDim];
    const ClusterRows rows{working_keys, TokensOf(level, cluster, cluster + 1), head_dim_};
    MeanOfRows(rows, mean);
    VarianceOfRows(rows, mean, variance);
    level.centroid_scales[cluster] = QuantizeSigned(mean, head_dim_, frame.unit, centroid);
    Scatter(centroid, head_dim_, cluster, level.centroids);
    double sum = 0;
    for (int64_t i = 0; i < head_dim_; ++i) {
      sum += variance[i];
      profile[i] += variance[i] * static_cast<double>(rows.tokens.size());
    }
    level.spreads[cluster] = ToFiniteFloat(frame.unit * std::sqrt(sum / head_dim_));
    total += sum * static_cast<double>(rows.tokens.size());
  }
  for (int64_t i = 0; i < head_dim_; ++i) {
    level.spread_profile[i] = total > 0 ? static_cast<float>(profile[i] * head_dim_ / total) : 1.0F;
  }
}

void MetaIndex::SetLevelValues(const Level& level, const float* values) {
  float mean[kMaxHeadDim];
  for (int64_t cluster = 0; cluster < level.view.clusters; ++cluster) {
    const ClusterRows rows{values, TokensOf(level, cluster, cluster + 1), head_dim_};
    MeanOfRows(rows, mean);
    level.value_scales[cluster] = QuantizeSigned(mean, head_dim_, 1, level.value_means + cluster * head_dim_);
    level.value_energies[cluster] = ToFiniteFloat(EnergyOfRows(rows));
  }
  for (int64_t first = 0; first < level.view.clusters; first += kClusterTile) {
    const int64_t tile = first / kClusterTile;
    const int64_t last = std::min<int64_t>(first + kClusterTile, level.view.clusters);
    MeanOfRows({values, TokensOf(level, first, last), head_dim_}, mean);
    level.tile_scales[tile] = QuantizeSigned(mean, head_dim_, 1, level.tile_means + tile * head_dim_);
  }
}

}  // namespace swell::wave
