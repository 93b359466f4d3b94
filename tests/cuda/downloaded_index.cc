#include "tests/cuda/downloaded_index.h"

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

namespace swell::cuda {
namespace {

// Elements that begin on a cache line.
template <typename T>
class Lines {
 public:
  void Resize(int64_t count) { lines_.resize((static_cast<size_t>(count) * sizeof(T) + 63) / 64); }
  T* data() { return reinterpret_cast<T*>(lines_.data()); }

 private:
  struct alignas(64) Line {
    std::byte bytes[64] = {};
  };
  std::vector<Line> lines_;
};

class DownloadedIndex final : public SegmentIndex {
 public:
  template <int kHeadDim>
  static std::unique_ptr<DownloadedIndex> Read(const SegmentHead& head) {
    auto index = std::make_unique<DownloadedIndex>();
    for (int level = 0; level < kLevels; ++level) index->ReadLevel<kHeadDim>(head, level);
    return index;
  }

  std::span<const uint16_t> order() const override { return {}; }
  const ClusterView& clusters() const override { return levels_[0].view; }
  const ClusterView& super_clusters() const override { return levels_[1].view; }
  size_t bytes() const override { return 0; }

 private:
  struct Level {
    Lines<float> center, scales, profile, spreads, value_scales, energies, tile_scales;
    Lines<int8_t> centroids, value_means, tile_means;
    Lines<uint32_t> first_rows;
    ClusterView view;
  };

  template <int kHeadDim>
  void Place(Level& level, int64_t clusters) {
    const int64_t tiles = TilesOf(clusters), padded = tiles * kClusterTile;
    level.center.Resize(kHeadDim);
    level.profile.Resize(kHeadDim);
    for (Lines<float>* array : {&level.scales, &level.spreads, &level.value_scales, &level.energies}) {
      array->Resize(padded);
    }
    level.tile_scales.Resize(tiles);
    level.centroids.Resize(padded * kHeadDim);
    level.value_means.Resize(padded * kHeadDim);
    level.tile_means.Resize(tiles * kHeadDim);
    level.first_rows.Resize(padded + 1);
    level.view = {.clusters = clusters,
                  .center = level.center.data(),
                  .centroids = level.centroids.data(),
                  .centroid_scales = level.scales.data(),
                  .spread_profile = level.profile.data(),
                  .spreads = level.spreads.data(),
                  .value_means = level.value_means.data(),
                  .value_scales = level.value_scales.data(),
                  .value_energies = level.energies.data(),
                  .tile_means = level.tile_means.data(),
                  .tile_scales = level.tile_scales.data(),
                  .first_rows = level.first_rows.data()};
  }

  template <int kHeadDim>
  void ReadLevel(const SegmentHead& head, int number) {
    using Record = TileRecord<kHeadDim>;
    Level& level = levels_[number];
    const int64_t clusters = head.clusters[number], tiles = TilesOf(clusters);
    Place<kHeadDim>(level, clusters);
    const auto records = DeviceVector<Record>::ReadDevice(reinterpret_cast<const Record*>(head.tiles[number]),
                                                          static_cast<size_t>(tiles));
    const auto frame = DeviceVector<Frame<kHeadDim>>::ReadDevice(records[0].frame, 1);
    std::copy_n(frame[0].center, kHeadDim, level.center.data());
    std::copy_n(frame[0].profile, kHeadDim, level.profile.data());
    uint32_t row = 0;
    for (int64_t tile = 0; tile < tiles; ++tile) {
      const Record& record = records[static_cast<size_t>(tile)];
      const int64_t first = tile * kClusterTile;
      const void* content = number == 0 ? static_cast<const void*>(head.rows.rows + int64_t{row} * 4 * kHeadDim)
                                        : head.tiles[0] + first * static_cast<int64_t>(sizeof(Record));
      EXPECT_EQ(record.content, content);
      EXPECT_EQ(record.frame, records[0].frame);
      std::copy_n(record.scales, kClusterTile, level.scales.data() + first);
      std::copy_n(record.spreads, kClusterTile, level.spreads.data() + first);
      std::copy_n(record.value_scales, kClusterTile, level.value_scales.data() + first);
      std::copy_n(record.energies, kClusterTile, level.energies.data() + first);
      std::copy_n(record.mean, kHeadDim, level.tile_means.data() + tile * kHeadDim);
      level.tile_scales.data()[tile] = record.mean_scale;
      const auto means = DeviceVector<int8_t>::ReadDevice(record.value_means, size_t{kClusterTile} * kHeadDim);
      std::copy(means.begin(), means.end(), level.value_means.data() + first * kHeadDim);
      for (int lane = 0; lane < 32; ++lane) {
        for (int byte = 0; byte < kHeadDim / 2; ++byte) {
          const int step = byte / 16, part = byte % 16 / 4;
          const int dim = 32 * step + 8 * (lane % 4) + 4 * (part / 2) + byte % 4;
          const int64_t cluster = 2 * (lane / 4) + part % 2;
          level.centroids.data()[first * kHeadDim + (dim / 4 * kClusterTile + cluster) * 4 + dim % 4] =
              record.centroids[step][lane][byte % 16];
        }
      }
      for (int j = 0; j < kClusterTile; ++j) {
        row += record.sizes[j];
        level.first_rows.data()[first + j + 1] = row;
        if (first + j < clusters) continue;
        EXPECT_EQ(record.sizes[j], 0U);
        EXPECT_EQ(record.scales[j], 0);
        EXPECT_EQ(record.spreads[j], 0);
        EXPECT_EQ(record.value_scales[j], 0);
        EXPECT_EQ(record.energies[j], 0);
      }
    }
  }

  Level levels_[kLevels];
};

}  // namespace

HostRows DownloadHead(const SegmentHead& head, int32_t head_dim) {
  HostRows rows;
  rows.tokens = head.rows.tokens;
  const auto records = DeviceVector<uint16_t>::ReadDevice(reinterpret_cast<const uint16_t*>(head.rows.rows),
                                                          static_cast<size_t>(2 * rows.tokens * head_dim));
  for (auto record = records.begin(); record != records.end(); record += 2 * head_dim) {
    rows.keys.insert(rows.keys.end(), record, record + head_dim);
    rows.values.insert(rows.values.end(), record + head_dim, record + 2 * head_dim);
  }
  rows.index = head_dim == 64    ? DownloadedIndex::Read<64>(head)
               : head_dim == 128 ? DownloadedIndex::Read<128>(head)
                                 : DownloadedIndex::Read<256>(head);
  return rows;
}

}  // namespace swell::cuda
