// A random meta index, and float64 values of what it stands for.
#ifndef SWELL_TESTS_ATTENTION_CLUSTERS_H_
#define SWELL_TESTS_ATTENTION_CLUSTERS_H_

#include "tests/attention/support.h"

namespace swell::attention {

struct Clusters {
  Clusters(const HeadShape& shape, int64_t count_in, Random* random) : count(count_in), head_dim(shape.head_dim) {
    const int64_t tiles = (count + kClusterTile - 1) / kClusterTile;
    center = random->Normals(head_dim, 0.5f);
    // Lanes of padding hold poison here: whatever is in them must never reach a result.
    centroids.assign(tiles * head_dim * kClusterTile / sizeof(Line), Line{});
    std::fill_n(Bytes(), tiles * head_dim * kClusterTile, int8_t{127});
    centroid_scales.assign(tiles * kClusterTile, kNan);
    spreads.assign(tiles * kClusterTile, kNan);
    value_means.resize(count * head_dim);
    first_rows.push_back(random->Below(100));
    for (int64_t i = 0; i < head_dim; ++i) profile.push_back(0.01f * random->Below(200));
    for (int64_t j = 0; j < count; ++j) {
      centroid_scales[j] = 0.02f * (0.5f + 0.01f * random->Below(100));
      spreads[j] = 0.01f * random->Below(100);
      value_scales.push_back(0.001f * (1 + random->Below(30)));
      value_energies.push_back(0.1f * (1 + random->Below(50)));
      first_rows.push_back(first_rows.back() + 1 + random->Below(20));
      for (int64_t i = 0; i < head_dim; ++i) {
        Bytes()[At(j, i)] = static_cast<int8_t>(random->Below(255) - 127);
        value_means[j * head_dim + i] = static_cast<int8_t>(random->Below(255) - 127);
      }
    }
    for (int64_t tile = 0; tile < tiles; ++tile) {
      tile_scales.push_back(0.001f * (1 + random->Below(30)));
      for (int64_t i = 0; i < head_dim; ++i) tile_means.push_back(static_cast<int8_t>(random->Below(255) - 127));
    }
  }

  ClusterView view() const {
    ClusterView result;
    result.clusters = count;
    result.center = center.data();
    result.centroids = Bytes();
    result.centroid_scales = centroid_scales.data();
    result.spread_profile = profile.data();
    result.spreads = spreads.data();
    result.value_means = value_means.data();
    result.value_scales = value_scales.data();
    result.value_energies = value_energies.data();
    result.tile_means = tile_means.data();
    result.tile_scales = tile_scales.data();
    result.first_rows = first_rows.data();
    return result;
  }

  int64_t At(int64_t cluster, int64_t dimension) const {
    return (cluster / kClusterTile * head_dim / 4 + dimension / 4) * kClusterTile * 4 + cluster % kClusterTile * 4 +
           dimension % 4;
  }
  double Logit(const HeadShape& shape, const float* query, int64_t j) const {
    double dot = 0;
    for (int64_t i = 0; i < head_dim; ++i) {
      dot += query[i] * (center[i] + static_cast<double>(centroid_scales[j]) * Bytes()[At(j, i)]);
    }
    return shape.scale * dot;
  }
  // What rounding the query to 15 bits may change in Logit.
  double LogitRounding(const HeadShape& shape, const float* query, int64_t j) const {
    double largest = 0, sum = 0;
    for (int64_t i = 0; i < head_dim; ++i) {
      largest = std::max(largest, std::abs(static_cast<double>(query[i])));
      sum += std::abs(static_cast<double>(Bytes()[At(j, i)]));
    }
    return shape.scale * centroid_scales[j] * sum * largest / 16256 / 2;
  }
  double Sigma(const HeadShape& shape, const float* query, int64_t j) const {
    double variance = 0;
    for (int64_t i = 0; i < head_dim; ++i) {
      variance += static_cast<double>(query[i]) * query[i] * spreads[j] * spreads[j] * profile[i];
    }
    return shape.scale * std::sqrt(variance);
  }
  double Size(int64_t j) const { return first_rows[j + 1] - first_rows[j]; }
  // ClusterView's alignment.
  struct alignas(64) Line {
    int8_t bytes[64];
  };
  const int8_t* Bytes() const { return centroids.data()->bytes; }
  int8_t* Bytes() { return centroids.data()->bytes; }

  int64_t count;
  int64_t head_dim;
  std::vector<float> center, centroid_scales, profile, spreads, value_scales, value_energies, tile_scales;
  std::vector<Line> centroids;
  std::vector<int8_t> value_means, tile_means;
  std::vector<uint32_t> first_rows;
};

// All clusters of `view`, cut into runs of a few tiles.
inline std::vector<ClusterRun> CutRuns(const ClusterView& view, Random* random) {
  std::vector<ClusterRun> runs;
  for (int64_t first = 0; first < view.clusters;) {
    const int64_t clusters = std::min(view.clusters - first, (1 + random->Below(4)) * int64_t{kClusterTile});
    runs.push_back({&view, first, clusters});
    first += clusters;
  }
  return runs;
}

inline int64_t EntriesOf(std::span<const ClusterRun> runs) {
  int64_t entries = 0;
  for (const ClusterRun& run : runs) entries += TileEntries(run.clusters);
  return entries;
}

// Calls visit(run, cluster, entry) for every cluster of `runs`, with the number of its run.
template <typename Visit>
void ForEachCluster(std::span<const ClusterRun> runs, const Visit& visit) {
  int64_t entry = 0;
  for (size_t r = 0; r < runs.size(); entry += TileEntries(runs[r++].clusters)) {
    for (int64_t j = 0; j < runs[r].clusters; ++j) visit(static_cast<int64_t>(r), runs[r].first + j, entry + j);
  }
}

// Scores of `runs`, NaN where nothing was written, with `spare` entries behind each head's.
struct ScoreBuffer {
  ScoreBuffer(int64_t group_in, std::span<const ClusterRun> runs, int64_t spare = 0)
      : group(group_in),
        stride(EntriesOf(runs) + spare),
        logits(group * stride, kNan),
        widths(group * static_cast<int64_t>(runs.size()), kNan) {}
  ClusterScores view() { return {logits.data(), widths.data(), stride}; }
  float& logit(int64_t g, int64_t entry) { return logits[g * stride + entry]; }
  float& width(int64_t run, int64_t g) { return widths[run * group + g]; }

  int64_t group;
  int64_t stride;
  std::vector<float> logits, widths;
};

}  // namespace swell::attention

#endif  // SWELL_TESTS_ATTENTION_CLUSTERS_H_
