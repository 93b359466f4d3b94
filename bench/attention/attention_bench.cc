// Speed of the attention kernels on one thread, beside what the machine can do: plain reads and OpenBLAS sgemm.
#include <benchmark/benchmark.h>
#include <cblas.h>
#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <random>
#include <vector>

#include "lib/base/convert.h"
#include "swell/attention.h"

extern "C" void openblas_set_num_threads(int threads);

namespace swell::attention {
namespace {

std::vector<float> RandomFloats(int64_t count) {
  std::mt19937 random(7);
  std::uniform_real_distribution<float> uniform(-1.7f, 1.7f);
  std::vector<float> result(count);
  for (float& value : result) value = uniform(random);
  return result;
}

// Memory in huge pages where the system has them: with pages of 4 KiB the kernels wait for address translation, at two
// thirds of the speed.
class HugeBuffer {
 public:
  explicit HugeBuffer(size_t bytes) {
    constexpr size_t kPage = size_t{2} << 20;
    const size_t rounded = (bytes + kPage - 1) / kPage * kPage;
    memory_.reset(static_cast<uint8_t*>(std::aligned_alloc(kPage, rounded)));
    madvise(memory_.get(), rounded, MADV_HUGEPAGE);
  }
  uint8_t* data() const { return memory_.get(); }

 private:
  struct Free {
    void operator()(uint8_t* memory) const { std::free(memory); }
  };
  std::unique_ptr<uint8_t[], Free> memory_;
};

struct State {
  State(int64_t rows, int32_t head_dim) : max(rows), sum(rows), out(rows * head_dim) {
    ResetState(rows, head_dim, view());
  }
  PartialState view() { return {max.data(), sum.data(), out.data()}; }
  std::vector<float> max, sum, out;
};

// K and V of one KV head; rows repeat every 4,096 tokens, which changes nothing in the work.
struct Rows {
  Rows(const HeadShape& shape, int64_t tokens)
      : row_bytes(shape.head_dim * DTypeSize(shape.storage)), keys(tokens * row_bytes), values(tokens * row_bytes) {
    constexpr int64_t kPeriod = 4096;
    const std::vector<float> period = RandomFloats(kPeriod * shape.head_dim);
    scales.assign(tokens, 0.01f);
    for (int64_t t = 0; t < tokens; ++t) {
      const float* from = period.data() + t % kPeriod * shape.head_dim;
      for (uint8_t* to : {keys.data() + t * row_bytes, values.data() + t * row_bytes}) {
        if (shape.storage == DType::kInt8) {
          QuantizeRow(from, shape.head_dim, reinterpret_cast<int8_t*>(to), &scales[t]);
        } else {
          ConvertFromFloat(from, shape.head_dim, shape.storage, to);
        }
      }
    }
  }
  KvRun Run(int64_t first, int64_t tokens) const {
    KvRun run;
    run.keys = keys.data() + first * row_bytes;
    run.values = values.data() + first * row_bytes;
    run.key_scales = run.value_scales = scales.data() + first;
    run.first_token = first;
    run.tokens = tokens;
    return run;
  }

  int64_t row_bytes;
  HugeBuffer keys, values;
  std::vector<float> scales;
};

HeadShape Shape(int32_t head_dim, int32_t group, DType dtype) {
  return {head_dim, group, 1 / std::sqrt(static_cast<float>(head_dim)), dtype};
}

// The floor of exact attention: every byte read once.
void PlainRead(benchmark::State& state) {
  const HugeBuffer buffer(state.range(0));
  const size_t count = state.range(0) / 8;
  uint64_t* words = reinterpret_cast<uint64_t*>(buffer.data());
  std::fill_n(words, count, 1);
  for (auto _ : state) {
    uint64_t sums[16] = {};
    for (size_t i = 0; i < count; i += 16) {
      for (int j = 0; j < 16; ++j) sums[j] += words[i + j];
    }
    benchmark::DoNotOptimize(sums);
  }
  state.SetBytesProcessed(state.iterations() * state.range(0));
}
BENCHMARK(PlainRead)->Arg(512 << 20)->Unit(benchmark::kMillisecond);

// Arguments: dtype, head_dim, group, tokens of a run (0: one run), tokens of a KV head. 8 KV heads, as in a decode step
// of a layer. With 256 tokens all is in the cache: what the kernel could do if memory were no limit.
void DecodeStep(benchmark::State& state) {
  const HeadShape shape = Shape(state.range(1), state.range(2), static_cast<DType>(state.range(0)));
  constexpr int64_t kHeads = 8;
  const int64_t tokens = state.range(4);
  const Rows rows(shape, kHeads * tokens);
  const std::vector<float> queries = RandomFloats(kHeads * shape.group * shape.head_dim);
  const int64_t run_tokens = state.range(3) > 0 ? state.range(3) : tokens;
  std::vector<std::vector<KvRun>> runs(kHeads);
  std::mt19937 random(3);
  for (int64_t h = 0; h < kHeads; ++h) {
    for (int64_t t = 0; t < tokens; t += run_tokens) runs[h].push_back(rows.Run(h * tokens + t, run_tokens));
    std::shuffle(runs[h].begin(), runs[h].end(), random);
  }
  for (auto _ : state) {
    for (int64_t h = 0; h < kHeads; ++h) {
      State partial(shape.group, shape.head_dim);
      AttendRuns(shape, queries.data() + h * shape.group * shape.head_dim, runs[h], partial.view());
      benchmark::DoNotOptimize(partial.out.data());
    }
  }
  state.SetBytesProcessed(state.iterations() * 2 * kHeads * tokens * rows.row_bytes);
}
BENCHMARK(DecodeStep)
    ->ArgNames({"dtype", "d", "group", "run", "tokens"})
    ->Args({1, 128, 4, 0, 65536})
    ->Args({1, 128, 4, 8, 65536})
    ->Args({1, 128, 4, 0, 256})
    ->Args({1, 128, 4, 8, 256})
    ->Args({1, 128, 1, 0, 65536})
    ->Args({1, 128, 1, 0, 256})
    ->Args({1, 128, 8, 0, 65536})
    ->Args({1, 64, 3, 0, 65536})
    ->Args({1, 64, 3, 8, 65536})
    ->Args({1, 64, 3, 0, 256})
    ->Args({0, 128, 4, 0, 65536})
    ->Args({2, 128, 4, 0, 65536})
    ->Args({3, 128, 4, 0, 65536})
    ->Unit(benchmark::kMillisecond);

// Arguments: head_dim, group, query positions, tokens before them. The FLOPs are those of the visible tokens.
void Prefill(benchmark::State& state) {
  const HeadShape shape = Shape(state.range(0), state.range(1), DType::kFloat16);
  const int64_t n_queries = state.range(2), past = state.range(3);
  const Rows rows(shape, past + n_queries);
  const int64_t stride = shape.group * shape.head_dim;
  const std::vector<float> queries = RandomFloats(n_queries * stride);
  const KvRun run = rows.Run(0, past + n_queries);
  State partial(n_queries * shape.group, shape.head_dim);
  for (auto _ : state) {
    AttendCausal(shape, queries.data(), n_queries, stride, past, {&run, 1}, partial.view());
    benchmark::DoNotOptimize(partial.out.data());
  }
  const double pairs = static_cast<double>(n_queries) * past + 0.5 * n_queries * (n_queries + 1);
  state.counters["FLOPS"] =
      benchmark::Counter(4.0 * shape.group * shape.head_dim * pairs * state.iterations(), benchmark::Counter::kIsRate);
}
BENCHMARK(Prefill)
    ->ArgNames({"d", "group", "queries", "past"})
    ->Args({64, 3, 512, 4096})
    ->Args({64, 3, 64, 4096})
    ->Args({64, 3, 4, 4096})
    ->Args({128, 4, 512, 4096})
    ->Args({128, 4, 512, 0})
    ->Args({80, 1, 512, 4096})
    ->Unit(benchmark::kMillisecond);

void Sgemm(benchmark::State& state) {
  openblas_set_num_threads(1);
  const int n = static_cast<int>(state.range(0));
  const std::vector<float> a = RandomFloats(static_cast<int64_t>(n) * n), b = a;
  std::vector<float> c(a.size());
  for (auto _ : state) {
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, n, n, n, 1, a.data(), n, b.data(), n, 0, c.data(), n);
  }
  state.counters["FLOPS"] = benchmark::Counter(2.0 * n * n * n * state.iterations(), benchmark::Counter::kIsRate);
}
BENCHMARK(Sgemm)->Arg(1024)->Unit(benchmark::kMillisecond);

// A meta index of 131,072 tokens in clusters of 8, and one query group's scores.
struct MetaIndex {
  explicit MetaIndex(const HeadShape& head_shape) : shape(head_shape) {
    const int64_t elements = kClusters * shape.head_dim;
    center = RandomFloats(shape.head_dim);
    for (float& x : center) x = std::abs(x);
    centroids.resize(elements / sizeof(Line));
    value_means.resize(elements);
    for (int64_t i = 0; i < elements; ++i) {
      centroids[i / 64].bytes[i % 64] = value_means[i] = static_cast<int8_t>(i * 37 % 255 - 127);
    }
    scales.assign(kClusters, 0.04f);  // logits of three nats either way, as real ones
    sizes.resize(kClusters);
    for (int64_t j = 0; j <= kClusters; ++j) first_rows.push_back(8 * j);
    queries = RandomFloats(shape.group * shape.head_dim);
    logits.resize(shape.group * kClusters);
    widths.resize(shape.group);
    importance.resize(kClusters);
    log_mass.resize(shape.group);
    log_steady.assign(shape.group, 0.0f);
  }
  ClusterRun Run() {
    view.clusters = kClusters;
    view.center = view.spread_profile = center.data();
    view.centroids = centroids.data()->bytes;
    view.centroid_scales = view.spreads = view.value_scales = view.value_energies = view.tile_scales = scales.data();
    view.value_means = view.tile_means = value_means.data();
    view.first_rows = first_rows.data();
    return {&view, 0, kClusters};
  }
  ClusterScores scores() { return {logits.data(), widths.data(), kClusters}; }
  void Score() {
    const ClusterRun run = Run();
    ScoreClusters(shape, queries.data(), {&run, 1}, scores());
  }
  void Rank() {
    const ClusterRun run = Run();
    RankClusters(shape.group, {&run, 1}, scores(), Ranking::kShare, 1, log_steady.data(), importance.data(),
                 sizes.data(), log_mass.data());
  }

  static constexpr int64_t kClusters = 16384;
  HeadShape shape;
  ClusterView view;
  std::vector<float> center, scales, queries, logits, widths, importance, log_mass, log_steady;
  // ClusterView's alignment.
  struct alignas(64) Line {
    int8_t bytes[64];
  };
  std::vector<Line> centroids;
  std::vector<int8_t> value_means;
  std::vector<uint32_t> sizes, first_rows;
};

void ScoreStep(benchmark::State& state) {
  MetaIndex index(Shape(state.range(0), state.range(1), DType::kFloat16));
  for (auto _ : state) {
    index.Score();
    benchmark::ClobberMemory();
  }
  state.SetBytesProcessed(state.iterations() * MetaIndex::kClusters * state.range(0));
}
BENCHMARK(ScoreStep)->Args({128, 4})->Args({64, 3})->Unit(benchmark::kMicrosecond);

void RankStep(benchmark::State& state) {
  MetaIndex index(Shape(state.range(0), state.range(1), DType::kFloat16));
  index.Score();
  for (auto _ : state) {
    index.Rank();
    benchmark::ClobberMemory();
  }
  state.SetItemsProcessed(state.iterations() * MetaIndex::kClusters);
}
BENCHMARK(RankStep)->Args({128, 4})->Args({64, 3})->Unit(benchmark::kMicrosecond);

void SelectStep(benchmark::State& state) {
  MetaIndex index(Shape(64, 3, DType::kFloat16));
  index.Score();
  index.Rank();
  std::vector<Zone> zones(MetaIndex::kClusters);
  std::vector<uint32_t> scratch(MetaIndex::kClusters);
  for (auto _ : state) {
    benchmark::DoNotOptimize(SelectClusters(MetaIndex::kClusters, index.importance.data(), index.sizes.data(),
                                            BudgetUnit::kTokens, MetaIndex::kClusters * 8 / 50, kLeastImportance,
                                            MetaIndex::kClusters, zones.data(), scratch.data()));
  }
  state.SetItemsProcessed(state.iterations() * MetaIndex::kClusters);
}
BENCHMARK(SelectStep)->Unit(benchmark::kMicrosecond);

void EstimateStep(benchmark::State& state) {
  MetaIndex index(Shape(state.range(0), state.range(1), DType::kFloat16));
  index.Score();
  index.Rank();
  const std::vector<Zone> zones(MetaIndex::kClusters, Zone::kEstimated);
  const int64_t group = state.range(1);
  std::vector<float> energy(group), weight(group), mass(group), cross(group * state.range(0));
  const ErrorState errors = {energy.data(), weight.data(), cross.data(), mass.data()};
  for (auto _ : state) {
    State partial(group, static_cast<int32_t>(state.range(0)));
    ResetErrors(index.shape, errors);
    const ClusterRun run = index.Run();
    EstimateClusters(index.shape, {&run, 1}, index.scores(), zones.data(), index.log_mass.data(), true, partial.view(),
                     errors);
    benchmark::DoNotOptimize(partial.out.data());
  }
  state.SetBytesProcessed(state.iterations() * MetaIndex::kClusters * state.range(0));
}
BENCHMARK(EstimateStep)->Args({128, 4})->Args({64, 3})->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace swell::attention
