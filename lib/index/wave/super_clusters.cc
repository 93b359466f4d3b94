#include "lib/index/wave/super_clusters.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "lib/index/wave/row_math.h"
#include "swell/types.h"

namespace swell::wave {
namespace {

// Rounds of assignment; more than two change the inertia by less than a percent.
constexpr int kRounds = 3;

// Centroids of the clusters and of the super-clusters, [count, head_dim] each.
struct Grouping {
  int64_t clusters = 0;
  int64_t supers = 0;
  int32_t head_dim = 0;
  std::vector<float> centroids;
  std::vector<float> lanes;          // [head_dim, supers]: one lane is one super-cluster
  std::vector<float> distances;      // [clusters, supers]: |s|^2 / 2 - c . s
  std::vector<uint32_t> membership;  // [clusters]: super-cluster
};

void Measure(Grouping& grouping) {
  const int64_t supers = grouping.supers;
  std::vector<float> half_norms(static_cast<size_t>(supers));
  for (int64_t i = 0; i < grouping.head_dim; ++i) {
    const float* lane = grouping.lanes.data() + i * supers;
    for (int64_t s = 0; s < supers; ++s) half_norms[s] += 0.5F * lane[s] * lane[s];
  }
  for (int64_t c = 0; c < grouping.clusters; ++c) {
    float* distances = grouping.distances.data() + c * supers;
    std::copy(half_norms.begin(), half_norms.end(), distances);
    for (int64_t i = 0; i < grouping.head_dim; ++i) {
      const float x = grouping.centroids[c * grouping.head_dim + i];
      const float* lane = grouping.lanes.data() + i * supers;
      for (int64_t s = 0; s < supers; ++s) distances[s] -= x * lane[s];
    }
  }
}

// Every cluster goes to the nearest super-cluster that has room; those that lose most by going elsewhere choose first.
void Assign(Grouping& grouping) {
  const int64_t supers = grouping.supers;
  std::vector<float> regrets(static_cast<size_t>(grouping.clusters));
  for (int64_t c = 0; c < grouping.clusters; ++c) {
    float best = std::numeric_limits<float>::max();
    float second = best;
    for (int64_t s = 0; s < supers; ++s) {
      const float distance = grouping.distances[c * supers + s];
      second = std::min(second, std::max(best, distance));
      best = std::min(best, distance);
    }
    regrets[c] = second - best;
  }
  std::vector<uint32_t> order(static_cast<size_t>(grouping.clusters));
  std::iota(order.begin(), order.end(), 0U);
  std::stable_sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) { return regrets[a] > regrets[b]; });
  // All tiles but the last are full.
  std::vector<int64_t> room(static_cast<size_t>(supers), kClusterTile);
  room.back() = grouping.clusters - (supers - 1) * kClusterTile;
  for (const uint32_t c : order) {
    int64_t nearest = -1;
    for (int64_t s = 0; s < supers; ++s) {
      const float* distances = grouping.distances.data() + c * supers;
      if (room[s] > 0 && (nearest < 0 || distances[s] < distances[nearest])) nearest = s;
    }
    --room[nearest];
    grouping.membership[c] = static_cast<uint32_t>(nearest);
  }
}

void MoveCentroids(Grouping& grouping) {
  std::fill(grouping.lanes.begin(), grouping.lanes.end(), 0.0F);
  for (int64_t c = 0; c < grouping.clusters; ++c) {
    const int64_t s = grouping.membership[c];
    const auto members = static_cast<float>(
        s + 1 < grouping.supers ? int64_t{kClusterTile} : grouping.clusters - (grouping.supers - 1) * kClusterTile);
    for (int64_t i = 0; i < grouping.head_dim; ++i) {
      grouping.lanes[i * grouping.supers + s] += grouping.centroids[c * grouping.head_dim + i] / members;
    }
  }
}

}  // namespace

Clustering GroupClusters(const Clustering& clustering, const float* keys, int32_t head_dim) {
  const int64_t clusters = clustering.clusters();
  if (clusters <= kClusterTile) return clustering;
  Grouping grouping;
  grouping.clusters = clusters;
  grouping.supers = (clusters + kClusterTile - 1) / kClusterTile;
  grouping.head_dim = head_dim;
  grouping.centroids.resize(static_cast<size_t>(clusters * head_dim));
  grouping.lanes.resize(static_cast<size_t>(grouping.supers * head_dim));
  grouping.distances.resize(static_cast<size_t>(clusters * grouping.supers));
  grouping.membership.resize(static_cast<size_t>(clusters));
  for (int64_t c = 0; c < clusters; ++c) {
    MeanOfRows({keys, clustering.tokens(c), head_dim}, grouping.centroids.data() + c * head_dim);
  }
  for (int64_t s = 0; s < grouping.supers; ++s) {
    const int64_t seed = (2 * s + 1) * clusters / (2 * grouping.supers);
    for (int64_t i = 0; i < head_dim; ++i) {
      grouping.lanes[i * grouping.supers + s] = grouping.centroids[seed * head_dim + i];
    }
  }
  for (int round = 0; round < kRounds; ++round) {
    if (round > 0) MoveCentroids(grouping);
    Measure(grouping);
    Assign(grouping);
  }
  std::vector<uint32_t> order(static_cast<size_t>(clusters));
  std::iota(order.begin(), order.end(), 0U);
  std::stable_sort(order.begin(), order.end(),
                   [&](uint32_t a, uint32_t b) { return grouping.membership[a] < grouping.membership[b]; });
  Clustering grouped;
  grouped.order.reserve(clustering.order.size());
  grouped.first_rows.reserve(clustering.first_rows.size());
  for (const uint32_t c : order) {
    grouped.first_rows.push_back(static_cast<uint32_t>(grouped.order.size()));
    const auto tokens = clustering.tokens(c);
    grouped.order.insert(grouped.order.end(), tokens.begin(), tokens.end());
  }
  grouped.first_rows.push_back(static_cast<uint32_t>(grouped.order.size()));
  return grouped;
}

std::vector<uint32_t> SuperRows(const Clustering& grouped) {
  std::vector<uint32_t> rows;
  for (int64_t c = 0; c < grouped.clusters(); c += kClusterTile) rows.push_back(grouped.first_rows[c]);
  rows.push_back(grouped.first_rows.back());
  return rows;
}

}  // namespace swell::wave
