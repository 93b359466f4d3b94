// Speed of a decode step of one layer through the engine, beside plain reads by the same number of threads.
//
// The keys are made up (around drifting centres): times depend on the number and size of clusters, not on what a model
// would find in them. Answers on real keys are the business of `swell fidelity`.
#include <benchmark/benchmark.h>
#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#include "bench/retrieved_tokens.h"
#include "lib/base/arena.h"
#include "lib/base/convert.h"
#include "lib/index/wave/aligned.h"
#include "lib/index/wave/assign.h"
#include "lib/index/wave/kmeans.h"
#include "swell/engine.h"

namespace swell {
namespace {

constexpr int kThreads = 2;
constexpr ModelShape kShape{1, 8, 4, 128, 0, DType::kFloat16};
// Rows repeat after this many tokens, which no segment notices.
constexpr int64_t kPeriod = 16384;

// [kPeriod, kv_heads, head_dim] around centres that change every 64 tokens on average.
std::vector<float> ClusteredRows(uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  const int64_t width = int64_t{kShape.kv_heads} * kShape.head_dim;
  std::vector<float> centres(256 * width);
  for (float& x : centres) x = normal(random);
  std::vector<float> rows(kPeriod * width);
  for (int64_t t = 0; t < kPeriod; ++t) {
    const float* centre = centres.data() + static_cast<int64_t>(random() % 256) * width;
    for (int64_t i = 0; i < width; ++i) rows[t * width + i] = centre[i] + 0.7F * normal(random);
  }
  return rows;
}

std::vector<uint16_t> AsFloat16(const std::vector<float>& rows) {
  std::vector<uint16_t> halves(rows.size());
  ConvertFromFloat(rows.data(), static_cast<int64_t>(rows.size()), DType::kFloat16, halves.data());
  return halves;
}

// Sequences of one length, kept while benchmarks ask for the same ones.
class Bench {
 public:
  static Bench& Of(DType storage, int64_t tokens, int64_t batch) {
    static std::unique_ptr<Bench> latest;
    if (latest != nullptr && latest->storage_ == storage && latest->tokens_ == tokens &&
        static_cast<int64_t>(latest->sequences_.size()) == batch) {
      return *latest;
    }
    latest.reset();
    latest = std::make_unique<Bench>(storage, tokens, batch);
    return *latest;
  }

  Bench(DType storage, int64_t tokens, int64_t batch) : storage_(storage), tokens_(tokens) {
    EngineOptions options;
    options.shape = kShape;
    options.shape.storage = storage;
    options.threads = kThreads;
    engine_ = std::move(Engine::Open(options)).value();
    const std::vector<float> keys = ClusteredRows(1), values = ClusteredRows(2);
    const auto start = std::chrono::steady_clock::now();
    for (int64_t b = 0; b < batch; ++b) {
      sequences_.push_back(engine_->CreateSequence({}).value());
      for (int64_t t = 0; t < tokens; t += kPeriod) {
        PutItem item;
        item.sequence = sequences_.back();
        item.position = t;
        item.tokens = std::min(kPeriod, tokens - t);
        item.keys.data = keys.data();
        item.values.data = values.data();
        Status status;
        if (!engine_->Put(0, {&item, 1}, {&status, 1}).ok()) std::abort();
      }
      if (!engine_->WaitSealed(sequences_.back()).ok()) std::abort();
    }
    put_seconds_ = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    const int64_t width = int64_t{kShape.kv_heads} * kShape.group * kShape.head_dim;
    std::mt19937 random(3);
    std::normal_distribution<float> normal;
    queries_.resize(batch * width);
    // Logits of about three nats, so that as on real keys some tenth of the clusters has a share worth its own value.
    for (float& x : queries_) x = 2.5F * normal(random);
    output_.resize(queries_.size());
    certificates_.resize(batch * kShape.kv_heads * kShape.group);
    retrieval_.retrieve_above = bench::ShareAsOnRealTraces([&](float share) {
      retrieval_.retrieve_above = share;
      Step(AttendMode::kRetrieve);
      return TokensRetrieved();
    });
  }

  void Step(AttendMode mode) {
    const int64_t heads = int64_t{kShape.kv_heads} * kShape.group;
    std::vector<AttendItem> items(sequences_.size());
    for (size_t b = 0; b < items.size(); ++b) {
      items[b].sequence = sequences_[b];
      items[b].mode = mode;
      items[b].retrieval = &retrieval_;
      items[b].queries = queries_.data() + static_cast<int64_t>(b) * heads * kShape.head_dim;
      items[b].output = output_.data() + static_cast<int64_t>(b) * heads * kShape.head_dim;
      items[b].certificates = certificates_.data() + static_cast<int64_t>(b) * heads;
    }
    std::vector<Status> statuses(items.size());
    if (!engine_->Attend(0, items, statuses).ok()) std::abort();
  }
  // Keys, values and meta index that the latest step read.
  int64_t BytesRead() const {
    int64_t bytes = 0;
    for (size_t i = 0; i < certificates_.size(); i += kShape.group) bytes += certificates_[i].bytes_read;
    return bytes;
  }
  // Without the steady zone, by a KV head.
  double TokensRetrieved() const {
    const auto info = engine_->Inspect(sequences_[0], 0).value();
    double read = 0;
    for (const Certificate& certificate : certificates_) read += static_cast<double>(certificate.tokens_read);
    return read / static_cast<double>(certificates_.size()) - static_cast<double>(tokens_ - info.sealed_tokens);
  }
  const Engine& engine() const { return *engine_; }
  // What putting all sequences took, index included.
  double put_seconds() const { return put_seconds_; }

 private:
  DType storage_;
  int64_t tokens_;
  double put_seconds_ = 0;
  std::unique_ptr<Engine> engine_;
  std::vector<SequenceId> sequences_;
  std::vector<float> queries_, output_;
  std::vector<Certificate> certificates_;
  RetrievalOptions retrieval_;
};

// The floor: every byte read once, by as many threads.
void PlainRead(benchmark::State& state) {
  constexpr int64_t kBytes = int64_t{1} << 30;
  constexpr int64_t kPart = int64_t{4} << 20;
  static const std::unique_ptr<uint64_t[], void (*)(void*)> buffer = [] {
    void* memory = std::aligned_alloc(size_t{2} << 20, kBytes);
    madvise(memory, kBytes, MADV_HUGEPAGE);
    std::fill_n(static_cast<uint64_t*>(memory), kBytes / 8, 1);
    return std::unique_ptr<uint64_t[], void (*)(void*)>(static_cast<uint64_t*>(memory), std::free);
  }();
  Arena arena(kThreads);
  for (auto _ : state) {
    arena.ParallelFor(kBytes / kPart, [&](int64_t part) {
      const uint64_t* words = buffer.get() + part * kPart / 8;
      uint64_t sums[16] = {};
      for (int64_t i = 0; i < kPart / 8; i += 16) {
        for (int64_t j = 0; j < 16; ++j) sums[j] += words[i + j];
      }
      benchmark::DoNotOptimize(sums);
    });
  }
  state.SetBytesProcessed(state.iterations() * kBytes);
}
BENCHMARK(PlainRead)->Unit(benchmark::kMillisecond)->UseRealTime();

// Arguments: dtype, tokens, batch, mode (AttendMode).
void DecodeStep(benchmark::State& state) {
  Bench& bench = Bench::Of(static_cast<DType>(state.range(0)), state.range(1), state.range(2));
  const auto mode = static_cast<AttendMode>(state.range(3));
  for (auto _ : state) bench.Step(mode);
  state.SetBytesProcessed(state.iterations() * bench.BytesRead());
  if (mode == AttendMode::kRetrieve) state.counters["retrieved"] = bench.TokensRetrieved();
  state.counters["put_s"] = bench.put_seconds();
  state.counters["memory"] = static_cast<double>(bench.engine().Stats().bytes_in_use);
}
void DecodeSteps(benchmark::internal::Benchmark* benchmark) {
  benchmark->ArgNames({"dtype", "tokens", "batch", "exact"})->Unit(benchmark::kMillisecond)->UseRealTime();
  for (const int64_t tokens : {2048, 4096, 16384, 65536, 131072, 262144}) {
    for (const int64_t mode : {1, 0}) benchmark->Args({1, tokens, 1, mode});
  }
  for (const int64_t mode : {1, 0}) benchmark->Args({1, 131072, 4, mode});
  for (const int64_t mode : {1, 0}) benchmark->Args({1, 1048576, 1, mode});
  for (const int64_t mode : {1, 0}) benchmark->Args({3, 131072, 1, mode});
  for (const int64_t tokens : {262144, 4194304}) benchmark->Args({3, tokens, 1, 0});
}
BENCHMARK(DecodeStep)->Apply(DecodeSteps);

// Putting 131,072 tokens: 0: rows alone (flat index), 1: with the wave index.
void PutLayer(benchmark::State& state) {
  constexpr int64_t kTokens = 131072;
  const std::vector<uint16_t> keys = AsFloat16(ClusteredRows(1)), values = AsFloat16(ClusteredRows(2));
  EngineOptions options;
  options.shape = kShape;
  options.threads = kThreads;
  const auto engine = std::move(Engine::Open(options)).value();
  SequenceOptions sequence_options;
  sequence_options.index.kind = static_cast<IndexKind>(state.range(0));
  for (auto _ : state) {
    const SequenceId sequence = engine->CreateSequence(sequence_options).value();
    for (int64_t t = 0; t < kTokens; t += kPeriod) {
      PutItem item;
      item.sequence = sequence;
      item.position = t;
      item.tokens = kPeriod;
      item.keys = {keys.data(), DType::kFloat16};
      item.values = {values.data(), DType::kFloat16};
      Status status;
      if (!engine->Put(0, {&item, 1}, {&status, 1}).ok()) std::abort();
    }
    if (!engine->WaitSealed(sequence).ok() || !engine->Release(sequence).ok()) std::abort();
  }
}
BENCHMARK(PutLayer)->ArgName("wave")->Arg(0)->Arg(1)->Unit(benchmark::kMillisecond)->UseRealTime()->Iterations(1);

// What PutLayer's clustering costs by itself: 64 segments of 2,048 tokens of 8 KV heads, from float32 rows.
void ClusterLayer(benchmark::State& state) {
  constexpr int64_t kSegment = 2048, kPadded = 2052;
  const std::vector<float> rows = ClusteredRows(1);
  const int64_t width = int64_t{kShape.kv_heads} * kShape.head_dim;
  Arena arena(kThreads);
  for (auto _ : state) {
    arena.ParallelFor(64 * kShape.kv_heads, [&](int64_t i) {
      const int64_t head = i % kShape.kv_heads, first = i / kShape.kv_heads * kSegment % kPeriod;
      const auto keys = wave::AllocateAligned<float>(kPadded * kShape.head_dim);
      std::fill_n(keys.get(), kPadded * kShape.head_dim, 0.0F);
      for (int64_t t = 0; t < kSegment; ++t) {
        std::copy_n(rows.data() + (first + t) * width + head * kShape.head_dim, kShape.head_dim,
                    keys.get() + t * kShape.head_dim);
      }
      benchmark::DoNotOptimize(wave::ClusterKeys(keys.get(), kSegment, kShape.head_dim, kSegment / 8, 5));
    });
  }
}
BENCHMARK(ClusterLayer)->Unit(benchmark::kMillisecond)->UseRealTime()->Iterations(1);

}  // namespace
}  // namespace swell
