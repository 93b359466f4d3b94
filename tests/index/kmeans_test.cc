// k-means against float64 and against FAISS.
#include "lib/index/wave/kmeans.h"

#include <faiss/Clustering.h>
#include <faiss/IndexFlat.h>
#include <gtest/gtest.h>
#include <omp.h>

#include <cmath>
#include <limits>
#include <map>

#include "lib/index/wave/aligned.h"
#include "lib/index/wave/assign.h"
#include "tests/index/head_rows.h"
#include "tests/support/each_target.h"

namespace swell::wave {
namespace {

constexpr uint32_t kSeed = 77;

AlignedArray<float> Padded(const std::vector<float>& rows, int64_t head_dim) {
  const int64_t tokens = static_cast<int64_t>(rows.size()) / head_dim;
  const int64_t elements = RoundUp(tokens, kTokenBlock) * head_dim;
  auto padded = AllocateAligned<float>(elements);
  std::fill_n(padded.get(), elements, 0.0F);
  std::copy(rows.begin(), rows.end(), padded.get());
  return padded;
}

Clustering Cluster(const std::vector<float>& rows, int32_t head_dim, int64_t clusters, int32_t iterations) {
  const int64_t tokens = static_cast<int64_t>(rows.size()) / head_dim;
  return ClusterKeys(Padded(rows, head_dim).get(), tokens, head_dim, clusters, iterations);
}

std::vector<int64_t> Labels(const Clustering& clustering) {
  std::vector<int64_t> labels(clustering.order.size(), -1);
  for (int64_t cluster = 0; cluster < clustering.clusters(); ++cluster) {
    for (const uint16_t token : clustering.tokens(cluster)) labels[token] = cluster;
  }
  return labels;
}

// Means of the rows with each label, float64.
std::vector<double> Means(const std::vector<float>& rows, int64_t head_dim, const std::vector<int64_t>& labels,
                          int64_t clusters) {
  std::vector<double> means(clusters * head_dim);
  std::vector<double> sizes(clusters);
  for (size_t token = 0; token < labels.size(); ++token) {
    sizes[labels[token]] += 1;
    for (int64_t i = 0; i < head_dim; ++i) means[labels[token] * head_dim + i] += rows[token * head_dim + i];
  }
  for (size_t i = 0; i < means.size(); ++i) means[i] /= std::max(1.0, sizes[i / head_dim]);
  return means;
}

template <typename T>
double SquaredDistance(const float* row, const T* centroid, int64_t head_dim) {
  double sum = 0;
  for (int64_t i = 0; i < head_dim; ++i) sum += std::pow(static_cast<double>(row[i]) - centroid[i], 2);
  return sum;
}

// Sum of squared distances to the means of the clusters.
double Inertia(const std::vector<float>& rows, int64_t head_dim, const std::vector<int64_t>& labels, int64_t clusters) {
  const std::vector<double> means = Means(rows, head_dim, labels, clusters);
  double sum = 0;
  for (size_t token = 0; token < labels.size(); ++token) {
    sum += SquaredDistance(&rows[token * head_dim], &means[labels[token] * head_dim], head_dim);
  }
  return sum;
}

// No centroid is nearer than the chosen one, but for rounding.
template <typename T>
void ExpectNearest(const std::vector<float>& rows, int64_t head_dim, const std::vector<T>& centroids,
                   const std::vector<int64_t>& labels) {
  const int64_t clusters = static_cast<int64_t>(centroids.size()) / head_dim;
  for (size_t token = 0; token < labels.size(); ++token) {
    const float* row = &rows[token * head_dim];
    double nearest = std::numeric_limits<double>::infinity();
    for (int64_t cluster = 0; cluster < clusters; ++cluster) {
      nearest = std::min(nearest, SquaredDistance(row, &centroids[cluster * head_dim], head_dim));
    }
    double norm = 0;
    for (int64_t i = 0; i < head_dim; ++i) norm += row[i] * row[i];
    ASSERT_GE(labels[token], 0);
    ASSERT_LT(labels[token], clusters);
    const double chosen = SquaredDistance(row, &centroids[labels[token] * head_dim], head_dim);
    EXPECT_LE(chosen, nearest + 1e-5 * (norm + nearest)) << "token " << token << ", seed " << kSeed;
  }
}

TEST(AssignTest, FindsTheNearestCentroidOnEveryTarget) {
  ForEachTarget([](int64_t) {
    for (const int32_t head_dim : {16, 64, 80, 96, 128, 256}) {
      for (const int64_t clusters : {1, 15, 16, 33, 600}) {
        SCOPED_TRACE(testing::Message() << "head_dim " << head_dim << ", clusters " << clusters);
        const int64_t tokens = 37;
        const std::vector<float> rows = RandomRows(tokens, head_dim, 0, kSeed);
        const std::vector<float> centroids = RandomRows(clusters, head_dim, 0, kSeed + 1);
        const int64_t padded = RoundUp(clusters, kClusterBlock);
        const auto lanes = AllocateAligned<float>(padded * head_dim);
        const auto norms = AllocateAligned<float>(padded);
        std::fill_n(lanes.get(), padded * head_dim, 0.0F);
        for (int64_t i = 0; i < clusters * head_dim; ++i) {
          const int64_t cluster = i / head_dim;
          lanes[(cluster / kClusterTile * head_dim + i % head_dim) * kClusterTile + cluster % kClusterTile] =
              centroids[i];
        }
        const CentroidTiles tiles{lanes.get(), norms.get(), clusters, head_dim};
        ComputeHalfNorms(tiles);
        const int64_t blocks = RoundUp(tokens, kTokenBlock) / kTokenBlock;
        std::vector<float> scores(blocks * kTokenBlock);
        std::vector<int32_t> nearest(blocks * kTokenBlock);
        AssignNearest(tiles, Padded(rows, head_dim).get(), blocks, scores.data(), nearest.data());
        ExpectNearest(rows, head_dim, centroids, {nearest.begin(), nearest.begin() + tokens});
      }
    }
  });
}

TEST(AssignTest, TiesGoToTheLowerIndexOnEveryTarget) {
  constexpr int32_t kDim = 32;
  constexpr int64_t kClusters = 3000;  // more than one chunk of centroids
  ForEachTarget([](int64_t) {
    for (const int64_t best : {0, 5, 17, 31, 1999, 2600}) {
      const auto lanes = AllocateAligned<float>(RoundUp(kClusters, kClusterBlock) * kDim);
      const auto norms = AllocateAligned<float>(RoundUp(kClusters, kClusterBlock));
      std::fill_n(lanes.get(), RoundUp(kClusters, kClusterBlock) * kDim, 1.0F);
      const auto keys = Padded(std::vector<float>(kDim, 0.5F), kDim);
      for (int64_t cluster = best; cluster < kClusters; cluster += 7) {  // equally near, the first one wins
        for (int32_t i = 0; i < kDim; ++i) {
          lanes[(cluster / kClusterTile * kDim + i) * kClusterTile + cluster % kClusterTile] = 0.5F;
        }
      }
      const CentroidTiles tiles{lanes.get(), norms.get(), kClusters, kDim};
      ComputeHalfNorms(tiles);
      float scores[kTokenBlock];
      int32_t nearest[kTokenBlock];
      AssignNearest(tiles, keys.get(), 1, scores, nearest);
      EXPECT_EQ(nearest[0], best);
    }
  });
}

// With t + 1 iterations every token goes to the nearest of the means that t iterations leave.
TEST(KMeansTest, EveryIterationIsLloyds) {
  constexpr int32_t kDim = 64;
  constexpr int64_t kClusters = 40;
  const std::vector<float> rows = RandomRows(640, kDim, 60, kSeed);
  std::vector<double> centroids(kClusters * kDim);
  for (int64_t cluster = 0; cluster < kClusters; ++cluster) {  // 16 tokens each: token 8 of them begins
    std::copy_n(&rows[(16 * cluster + 8) * kDim], kDim, &centroids[cluster * kDim]);
  }
  ForEachTarget([&](int64_t) {
    std::vector<double> before = centroids;
    for (int32_t iterations = 0; iterations < 5; ++iterations) {
      const Clustering clustering = Cluster(rows, kDim, kClusters, iterations);
      ASSERT_EQ(clustering.clusters(), kClusters);
      const std::vector<int64_t> labels = Labels(clustering);
      ExpectNearest(rows, kDim, before, labels);
      before = Means(rows, kDim, labels, kClusters);
    }
  });
}

TEST(KMeansTest, EmptyClustersAreDropped) {
  constexpr int32_t kDim = 16;
  std::vector<float> rows(100 * kDim);
  for (int64_t token = 0; token < 100; ++token) {
    std::fill_n(&rows[token * kDim], kDim, static_cast<float>(token % 3));
  }
  ForEachTarget([&](int64_t) {
    const Clustering clustering = Cluster(rows, kDim, 25, 5);
    ASSERT_EQ(clustering.clusters(), 3);
    const std::vector<int64_t> labels = Labels(clustering);
    for (int64_t token = 3; token < 100; ++token) EXPECT_EQ(labels[token], labels[token - 3]);
  });
}

TEST(KMeansTest, IsAsGoodAsFaiss) {
  omp_set_num_threads(1);
  constexpr int32_t kDim = 64;
  constexpr int64_t kTokens = 1024;
  constexpr int64_t kClusters = kTokens / 8;
  for (const int64_t centres : {int64_t{0}, kClusters, int64_t{300}}) {
    const std::vector<float> rows = RandomRows(kTokens, kDim, centres, kSeed);
    faiss::Clustering reference(kDim, kClusters);
    reference.niter = 5;
    reference.min_points_per_centroid = 1;
    for (int64_t cluster = 0; cluster < kClusters; ++cluster) {
      const float* row = &rows[(2 * cluster + 1) * kTokens / (2 * kClusters) * kDim];
      reference.centroids.insert(reference.centroids.end(), row, row + kDim);
    }
    faiss::IndexFlatL2 index(kDim);
    reference.train(kTokens, rows.data(), index);
    std::vector<faiss::Index::idx_t> nearest(kTokens);
    index.assign(kTokens, rows.data(), nearest.data());
    const double faiss_inertia = Inertia(rows, kDim, {nearest.begin(), nearest.end()}, kClusters);

    const Clustering clustering = Cluster(rows, kDim, kClusters, 5);
    const double inertia = Inertia(rows, kDim, Labels(clustering), clustering.clusters());
    EXPECT_LE(inertia, 1.01 * faiss_inertia) << "centres " << centres << ", seed " << kSeed;
    RecordProperty("inertia_ratio_" + std::to_string(centres), std::to_string(inertia / faiss_inertia));
  }
}

}  // namespace
}  // namespace swell::wave
