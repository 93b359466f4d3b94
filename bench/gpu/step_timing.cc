#include "bench/gpu/step_timing.h"

#include <cmath>
#include <memory>
#include <utility>
#include <vector>

#include "bench/gpu/timing.h"
#include "bench/retrieved_tokens.h"
#include "cuda/step/decode_step.h"

namespace swell::bench {
namespace {

constexpr int32_t kTailTokens = 640;  // SequenceOptions: a window and what waits to be sealed
constexpr int32_t kTailNow = 320;
constexpr int32_t kStepsOfGraph = 16;

template <typename T>
std::vector<T> Read(const T* from, size_t count) {
  std::vector<T> host(count);
  Check(cudaMemcpy(host.data(), from, count * sizeof(T), cudaMemcpyDeviceToHost), "cudaMemcpy");
  return host;
}

class Buffer {
 public:
  explicit Buffer(size_t bytes) { Check(cudaMalloc(&data_, bytes), "cudaMalloc"); }
  explicit Buffer(const std::vector<uint16_t>& host) : Buffer(2 * host.size()) {
    Check(cudaMemcpy(data_, host.data(), 2 * host.size(), cudaMemcpyHostToDevice), "cudaMemcpy");
  }
  ~Buffer() { cudaFree(data_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  void* get() const { return data_; }

 private:
  void* data_ = nullptr;
};

// Layers with the same content at different addresses, and a query for each step of the graph.
class Rig {
 public:
  // Without a share for the cache all rows are in device memory.
  Rig(const SyntheticLayer& content, int64_t tokens, int32_t batch, int32_t layers, const BufferSetting& setting = {})
      : tokens_(tokens), batch_(batch), layers_(layers) {
    if (setting.cache_share > 0) {
      const auto rows = static_cast<double>(tokens * batch * kKvHeads * layers);
      const double bytes = rows * static_cast<double>(cuda::TokenBytes(kHeadDim));
      auto buffer =
          cuda::WaveBuffer::Make({.head_dim = kHeadDim,
                                  .home = setting.home,
                                  .home_bytes = static_cast<uint64_t>(bytes) / (setting.home == DType::kInt8 ? 2 : 1),
                                  .cache_bytes = static_cast<uint64_t>(setting.cache_share * bytes),
                                  .preference = setting.preference});
      Check(buffer.status());
      buffer_ = *std::move(buffer);
    }
    auto sequences = cuda::Sequences::Make({.layers = layers,
                                            .kv_heads = kKvHeads,
                                            .head_dim = kHeadDim,
                                            .max_sequences = batch,
                                            .tail_tokens = kTailTokens});
    Check(sequences.status());
    sequences_ = *std::move(sequences);
    for (int32_t s = 0; s < batch; ++s) {
      Check(sequences_->Create().status());
      ids_.push_back(s);
      for (int32_t layer = 0; layer < layers; ++layer) {
        for (auto& segment : content.Upload()) Check(sequences_->AddSegment(s, layer, Home(std::move(segment))));
      }
    }
    step_ = MakeStep(RetrievalOptions());
    const int64_t rows = int64_t{batch} * kKvHeads;
    const Buffer keys(SyntheticLayer::Queries(rows, 7)), values(SyntheticLayer::Queries(rows, 8));
    for (int32_t layer = 0; layer < layers; ++layer) {
      for (int i = 0; i < kTailNow; ++i) Check(step_->Append(layer, keys.get(), values.get(), nullptr));
    }
    for (int i = 0; i < kStepsOfGraph; ++i) {
      queries_.push_back(std::make_unique<Buffer>(SyntheticLayer::Queries(rows * kGroup, 100 + i)));
    }
    outputs_ = std::make_unique<Buffer>(4 * static_cast<size_t>(rows * kGroup * kHeadDim));
    scalars_ = std::make_unique<Buffer>(4 * static_cast<size_t>(3 * rows * kGroup));
    Check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
    step_ = MakeStep(AsOnRealTraces());
  }

  std::unique_ptr<cuda::DecodeStep> MakeStep(const RetrievalOptions& retrieval) const {
    cuda::DecodeStepOptions options;
    options.shape = SyntheticLayer::Shape();
    options.max_batch = batch_;
    options.max_tokens = tokens_ * batch_;
    options.max_sequence_tokens = tokens_;
    options.retrieval = retrieval;
    options.buffer = buffer_;
    auto step = cuda::DecodeStep::Make(options, sequences_.get());
    Check(step.status());
    for (int32_t layer = 0; layer < layers_; ++layer) Check((*step)->SetBatch(layer, ids_, nullptr));
    return *std::move(step);
  }

  RetrievalOptions AsOnRealTraces() const {
    RetrievalOptions options;
    options.retrieve_above = ShareAsOnRealTraces([&](float share) {
      options.retrieve_above = share;
      const auto step = MakeStep(options);
      Check(step->Launch(0, Call(0), nullptr));
      Check(cudaDeviceSynchronize(), "step");
      double retrieved = 0;
      const size_t heads = static_cast<size_t>(batch_) * kKvHeads;
      for (const int64_t count : Read(step->Args(0).list_tokens, heads)) {
        retrieved += static_cast<double>(count - kTailNow) / static_cast<double>(heads);
      }
      return retrieved;
    });
    return options;
  }

  cuda::DecodeCall Call(int query) const {
    const int64_t rows = int64_t{batch_} * kKvHeads * kGroup;
    auto* scalars = static_cast<float*>(scalars_->get());
    return {queries_[static_cast<size_t>(query)]->get(), static_cast<float*>(outputs_->get()), scalars, scalars + rows,
            scalars + 2 * rows};
  }

  // us of one step; only the first `stages` kernels of each.
  double Time(int stages) const {
    return TimeGraph([&](cudaStream_t stream) {
             for (int i = 0; i < kStepsOfGraph; ++i) Check(step_->LaunchStages(i % layers_, Call(i), stages, stream));
           }) /
           kStepsOfGraph;
  }

  std::vector<float> Answer(cuda::DecodeStep& step) const {
    Check(step.Launch(0, Call(0), nullptr));
    Check(cudaDeviceSynchronize(), "step");
    return Read(static_cast<const float*>(outputs_->get()), static_cast<size_t>(batch_) * kKvHeads * kGroup * kHeadDim);
  }

  // Of the last answer.
  double PredictedError() const {
    const size_t rows = static_cast<size_t>(batch_) * kKvHeads * kGroup;
    double sum = 0;
    for (const float error : Read(Call(0).predicted_error, rows)) sum += error;
    return sum / static_cast<double>(rows);
  }

  // Bytes that the last step of layer 0 had to read, and the tokens of a head.
  void Count(StepTimes* times) const {
    const cuda::StepArgs args = step_->Args(0);
    const size_t heads = static_cast<size_t>(batch_) * kKvHeads;
    constexpr double kScored = kClusterTile * (kHeadDim + 3 * 4), kEstimated = kHeadDim + 4 + kClusterTile * 4;
    for (const int64_t count : Read(args.list_tokens, heads)) {
      times->tokens_read += static_cast<double>(count) / static_cast<double>(heads);
      times->bytes += static_cast<double>(count) * static_cast<double>(cuda::TokenBytes(kHeadDim));
    }
    for (int level = 0; level <= args.rules.two_level; ++level) {
      for (const cuda::Selection& selected : Read(args.scores[level].selected, heads)) {
        times->bytes += selected.tiles * (kScored + kEstimated);
      }
    }
  }

  // Queries of successive steps of a layer have the correlation `walk`.
  BufferedTimes TimeWalk(double walk) const {
    constexpr int kWarmUp = 40, kRuns = 15;
    const int64_t elements = int64_t{batch_} * kKvHeads * kGroup * kHeadDim;
    std::vector<std::vector<float>> of_layer;
    uint32_t seed = 1000;
    for (int32_t layer = 0; layer < layers_; ++layer) {
      of_layer.push_back(SyntheticLayer::QueryFloats(elements / kHeadDim, ++seed));
    }
    cuda::BufferCounters before = {};
    const auto advance = [&](int run) {
      if (run == 0) before = Counters();
      for (int i = 0; i < kStepsOfGraph; ++i) {
        std::vector<float>& query = of_layer[static_cast<size_t>(i % layers_)];
        const std::vector<float> step = SyntheticLayer::QueryFloats(elements / kHeadDim, ++seed);
        const auto keep = static_cast<float>(walk), add = static_cast<float>(std::sqrt(1 - walk * walk));
        for (size_t e = 0; e < query.size(); ++e) query[e] = keep * query[e] + add * step[e];
        const std::vector<uint16_t> rows = SyntheticLayer::ToRows(query);
        Check(cudaMemcpy(queries_[static_cast<size_t>(i)]->get(), rows.data(), 2 * rows.size(), cudaMemcpyHostToDevice),
              "copy of queries");
      }
    };
    const auto launch = [&](cudaStream_t stream) {
      for (int i = 0; i < kStepsOfGraph; ++i) Check(step_->Launch(i % layers_, Call(i), stream));
    };
    BufferedTimes times;
    times.walk = walk;
    times.step_us = TimeGraph(launch, advance, kWarmUp, kRuns) / kStepsOfGraph;
    const cuda::BufferCounters after = Counters();
    const auto hits = static_cast<double>(after.hits - before.hits);
    const auto misses = static_cast<double>(after.misses - before.misses);
    times.hit_ratio = hits / (hits + misses);
    times.host_bytes = misses * buffer_->view().home_record_bytes / (kRuns * kStepsOfGraph);
    return times;
  }

  cuda::DecodeStep& step() const { return *step_; }

 private:
  cuda::SegmentPointer Home(cuda::SegmentPointer segment) const {
    if (buffer_ == nullptr) return segment;
    auto moved = buffer_->MoveHome(*segment, nullptr);
    Check(moved.status());
    Check(cudaStreamSynchronize(nullptr), "copy of a segment");
    return *std::move(moved);
  }

  cuda::BufferCounters Counters() const {
    const auto counters = buffer_->Counters(nullptr);
    Check(counters.status());
    return *counters;
  }

  const int64_t tokens_;
  const int32_t batch_;
  const int32_t layers_;
  std::shared_ptr<cuda::WaveBuffer> buffer_;
  std::unique_ptr<cuda::Sequences> sequences_;
  std::unique_ptr<cuda::DecodeStep> step_;
  std::vector<int32_t> ids_;
  std::vector<std::unique_ptr<Buffer>> queries_;
  std::unique_ptr<Buffer> outputs_, scalars_;
};

double MeanError(const std::vector<float>& actual, const std::vector<float>& expected) {
  double sum = 0;
  for (size_t row = 0; row < actual.size(); row += kHeadDim) {
    double difference = 0, norm = 0;
    for (size_t i = row; i < row + kHeadDim; ++i) {
      difference += std::pow(static_cast<double>(actual[i]) - expected[i], 2);
      norm += std::pow(static_cast<double>(expected[i]), 2);
    }
    sum += std::sqrt(difference / norm);
  }
  return sum * kHeadDim / static_cast<double>(actual.size());
}

// Layers that a round must visit to read four times the L2 cache.
int32_t LayersOf(int64_t tokens, int32_t batch) {
  // A step reads about a quarter of a kilobyte a token of a layer with eight heads.
  cudaDeviceProp properties;
  Check(cudaGetDeviceProperties(&properties, 0), "cudaGetDeviceProperties");
  const double touched = 256.0 * static_cast<double>(tokens) * batch;
  return static_cast<int32_t>(std::ceil(4.0 * properties.l2CacheSize / touched));
}

}  // namespace

std::vector<BufferedTimes> TimeBufferedStep(const SyntheticLayer& content, int64_t tokens, int32_t batch,
                                            const BufferSetting& setting, const std::vector<double>& walks) {
  const Rig rig(content, tokens, batch, LayersOf(tokens, batch), setting);
  std::vector<BufferedTimes> times;
  for (const double walk : walks) times.push_back(rig.TimeWalk(walk));
  return times;
}

StepTimes TimeStep(const SyntheticLayer& content, int64_t tokens, int32_t batch) {
  const Rig rig(content, tokens, batch, LayersOf(tokens, batch));
  StepTimes times;
  RetrievalOptions everything;
  everything.retrieve_above = 0;
  everything.retrieve_share = 1;
  everything.max_retrieve_tokens = 0;
  const std::vector<float> expected = rig.Answer(*rig.MakeStep(everything));
  times.error = MeanError(rig.Answer(rig.step()), expected);
  times.predicted_error = rig.PredictedError();
  rig.Count(&times);
  times.stages = rig.step().Args(0).rules.two_level != 0 ? 4 : 2;
  for (int stage = 0; stage < times.stages; ++stage) times.stages_us[stage] = rig.Time(stage + 1);
  times.step_us = rig.Time(times.stages + 1);
  return times;
}

}  // namespace swell::bench
