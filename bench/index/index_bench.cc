// Time to index one head, beside FAISS's k-means of the same settings (same start, 5 iterations, one thread).
//
// GFLOP/s counts the multiply-adds of the products of tokens and clusters alone: 2 n m d for each of the iterations and
// for the last assignment. For the wave index the time is that of the whole build, decoding and meta index included.
#include <benchmark/benchmark.h>
#include <faiss/Clustering.h>
#include <faiss/IndexFlat.h>
#include <omp.h>

#include <cstdint>
#include <random>
#include <vector>

#include "lib/base/convert.h"
#include "swell/index.h"

namespace swell {
namespace {

constexpr int32_t kClusterTokens = 8;
constexpr int32_t kIterations = 5;

// Rows around tokens / 8 centres.
std::vector<float> MakeRows(int64_t tokens, int64_t head_dim) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<float> centres(tokens / kClusterTokens * head_dim);
  for (float& x : centres) x = normal(random);
  std::vector<float> rows(tokens * head_dim);
  for (int64_t token = 0; token < tokens; ++token) {
    const float* centre = centres.data() + random() % (tokens / kClusterTokens) * head_dim;
    for (int64_t i = 0; i < head_dim; ++i) rows[token * head_dim + i] = centre[i] + 0.7F * normal(random);
  }
  return rows;
}

void CountWork(benchmark::State& state, int64_t tokens, int64_t head_dim) {
  const double products = 2.0 * static_cast<double>(tokens) * static_cast<double>(tokens / kClusterTokens) *
                          static_cast<double>(head_dim) * (kIterations + 1);
  state.counters["GFLOP/s"] =
      benchmark::Counter(products * 1e-9, benchmark::Counter::kIsIterationInvariantRate, benchmark::Counter::kIs1000);
  state.SetItemsProcessed(state.iterations() * tokens);
}

void BM_WaveIndex(benchmark::State& state) {
  const int64_t tokens = state.range(0);
  const HeadShape shape{static_cast<int32_t>(state.range(1)), 1, 0, static_cast<DType>(state.range(2))};
  const std::vector<float> rows = MakeRows(tokens, shape.head_dim);
  std::vector<std::byte> stored(rows.size() * sizeof(float));
  if (!ConvertFromFloat(rows.data(), static_cast<int64_t>(rows.size()), shape.storage, stored.data())) {
    state.SkipWithError("conversion failed");
    return;
  }
  const auto builder = MakeIndexBuilder({IndexKind::kWave, kClusterTokens, kIterations});
  const KvRun run{stored.data(), stored.data(), nullptr, nullptr, nullptr, 0, tokens};
  while (state.KeepRunning()) {
    auto index = builder.value()->Build(shape, {&run, 1});
    if (!index.ok()) state.SkipWithError("build failed");
    benchmark::DoNotOptimize(index);
  }
  CountWork(state, tokens, shape.head_dim);
}

void BM_FaissClustering(benchmark::State& state) {
  omp_set_num_threads(1);
  const int64_t tokens = state.range(0);
  const int64_t head_dim = state.range(1);
  const int64_t clusters = tokens / kClusterTokens;
  const std::vector<float> rows = MakeRows(tokens, head_dim);
  std::vector<faiss::Index::idx_t> nearest(tokens);
  while (state.KeepRunning()) {
    faiss::Clustering clustering(static_cast<int>(head_dim), static_cast<int>(clusters));
    clustering.niter = kIterations;
    clustering.min_points_per_centroid = 1;
    clustering.max_points_per_centroid = static_cast<int>(tokens);
    for (int64_t cluster = 0; cluster < clusters; ++cluster) {
      const float* row = rows.data() + (2 * cluster + 1) * tokens / (2 * clusters) * head_dim;
      clustering.centroids.insert(clustering.centroids.end(), row, row + head_dim);
    }
    faiss::IndexFlatL2 index(static_cast<int>(head_dim));
    clustering.train(tokens, rows.data(), index);
    index.assign(tokens, rows.data(), nearest.data());
    benchmark::DoNotOptimize(nearest.data());
  }
  CountWork(state, tokens, head_dim);
}

BENCHMARK(BM_WaveIndex)
    ->ArgNames({"tokens", "head_dim", "dtype"})
    ->ArgsProduct({{512, 2048, 8192}, {64, 128}, {static_cast<int64_t>(DType::kFloat16)}})
    ->Unit(benchmark::kMillisecond);
BENCHMARK(BM_FaissClustering)
    ->ArgNames({"tokens", "head_dim"})
    ->ArgsProduct({{512, 2048, 8192}, {64, 128}})
    ->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace swell
