#include "bench/gpu/live_sequences.h"

#include <cuda_bf16.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>

namespace swell::bench {
namespace {

constexpr int32_t kLayers = LiveSequence::kLayers, kKvHeads = 2, kGroup = 2, kHeadDim = 64;
constexpr int32_t kMaxBatch = 4, kSegmentTokens = 256;
constexpr size_t kRow = size_t{kKvHeads} * kHeadDim;  // elements of a token in a layer
constexpr int32_t kTopics = 96;                       // of a layer
constexpr size_t kNoise = size_t{1} << 20;

void Die(const char* what, const char* why) {
  std::fprintf(stderr, "long_run: %s: %s\n", what, why);
  std::exit(1);
}

void Check(cudaError_t error, const char* what) {
  if (error != cudaSuccess) Die(what, cudaGetErrorString(error));
}

// Calls a function of the C API whose last argument is an error.
template <typename Function, typename... Args>
void Call(const char* what, Function* function, Args... args) {
  swell_error* error = nullptr;
  if (function(args..., &error) != SWELL_OK) Die(what, swell_error_message(error));
}

// bfloat16, to nearest even.
uint16_t ToBits(float x) { return __bfloat16_as_ushort(__float2bfloat16_rn(x)); }
float FromBits(uint16_t half) { return __bfloat162float(__ushort_as_bfloat16(half)); }

class DeviceCopy {
 public:
  explicit DeviceCopy(const std::vector<uint16_t>& host) {
    Check(cudaMalloc(&data_, 2 * host.size()), "cudaMalloc");
    Check(cudaMemcpy(data_, host.data(), 2 * host.size(), cudaMemcpyHostToDevice), "cudaMemcpy");
  }
  ~DeviceCopy() { cudaFree(data_); }
  DeviceCopy(const DeviceCopy&) = delete;
  DeviceCopy& operator=(const DeviceCopy&) = delete;
  const void* get() const { return data_; }

 private:
  void* data_ = nullptr;
};

}  // namespace

// Of a layer: keys, values [batch, kv_heads, head_dim], queries and outputs of each group.
struct LiveSequences::Inputs {
  struct OfLayer {
    uint16_t keys[kMaxBatch * kRow], values[kMaxBatch * kRow], queries[kMaxBatch * kRow * kGroup];
  };
  OfLayer* pinned = nullptr;  // [layers]
  OfLayer* device = nullptr;
  float* outputs = nullptr;  // device, [layers, batch, heads, head_dim]
  static constexpr size_t kOutputs = kMaxBatch * kRow * kGroup;

  Inputs() {
    Check(cudaMallocHost(reinterpret_cast<void**>(&pinned), kLayers * sizeof(OfLayer)), "cudaMallocHost");
    std::memset(pinned, 0, kLayers * sizeof(OfLayer));
    Check(cudaMalloc(reinterpret_cast<void**>(&device), kLayers * sizeof(OfLayer)), "cudaMalloc");
    Check(cudaMalloc(reinterpret_cast<void**>(&outputs), kLayers * kOutputs * sizeof(float)), "cudaMalloc");
  }
  ~Inputs() {
    cudaFreeHost(pinned);
    cudaFree(device);
    cudaFree(outputs);
  }
  Inputs(const Inputs&) = delete;
  Inputs& operator=(const Inputs&) = delete;
};

LiveSequences::LiveSequences(uint32_t seed) : random_(seed), inputs_(std::make_unique<Inputs>()) {
  std::normal_distribution<float> normal(0, 1);
  noise_.resize(kNoise + kRow);
  key_topics_.resize(kLayers * kTopics * kRow);
  value_topics_.resize(key_topics_.size());
  for (std::vector<float>* floats : {&noise_, &key_topics_, &value_topics_}) {
    for (float& x : *floats) x = normal(random_);
  }
  swell_gpu_options options = SWELL_GPU_OPTIONS_INIT;
  options.layers = kLayers;
  options.kv_heads = kKvHeads;
  options.group = kGroup;
  options.head_dim = kHeadDim;
  options.storage = options.home = SWELL_BFLOAT16;
  options.max_sequences = 6;
  options.window_tokens = 32;
  options.segment_tokens = kSegmentTokens;
  // Little more than what lives at once, so that what is not given back is missed soon; a cache of one twentieth.
  options.home_bytes = uint64_t{16} << 20;
  options.cache_bytes = options.home_bytes / 20;
  Call("open", swell_gpu_open, &options, &gpu_);
  swell_gpu_batch_options limits = SWELL_GPU_BATCH_OPTIONS_INIT;
  limits.max_sequences = kMaxBatch;
  limits.max_tokens = 40000;
  Call("batch", swell_gpu_batch_create, gpu_, &limits, nullptr, &budget_);
  limits.flags = SWELL_GPU_BATCH_EXACT;
  Call("batch", swell_gpu_batch_create, gpu_, &limits, nullptr, &exact_);
  Check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreate");
  Enqueue(budget_, true);  // nothing yet, but kernels are loaded when they are first launched
  Check(cudaStreamSynchronize(stream_), "step");
  cudaGraph_t graph = nullptr;
  Check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), "capture");
  Check(cudaMemcpyAsync(inputs_->device, inputs_->pinned, kLayers * sizeof(Inputs::OfLayer), cudaMemcpyHostToDevice,
                        stream_),
        "copy of inputs");
  Enqueue(budget_, true);
  Check(cudaStreamEndCapture(stream_, &graph), "capture");
  Check(cudaGraphInstantiate(&graph_, graph, 0), "cudaGraphInstantiate");
  Check(cudaGraphDestroy(graph), "cudaGraphDestroy");
}

LiveSequences::~LiveSequences() {
  cudaGraphExecDestroy(graph_);
  cudaStreamDestroy(stream_);
  swell_gpu_batch_destroy(&budget_);
  swell_gpu_batch_destroy(&exact_);
  swell_gpu_close(&gpu_);
}

std::unique_ptr<LiveSequence> LiveSequences::Create() {
  auto sequence = std::make_unique<LiveSequence>();
  Call("create", swell_gpu_sequence_create, gpu_, &sequence->id);
  return sequence;
}

std::unique_ptr<LiveSequence> LiveSequences::Fork(const LiveSequence& from) {
  auto fork = std::make_unique<LiveSequence>(from);
  Call("fork", swell_gpu_sequence_fork, gpu_, from.id, static_cast<void*>(stream_), &fork->id);
  return fork;
}

// One token, behind `keys` and `values`.
void LiveSequences::AddRows(LiveSequence& to, int32_t layer, std::vector<uint16_t>* keys,
                            std::vector<uint16_t>* values) {
  if (layer == 0 && random_() % 6 == 0) to.topic = static_cast<int32_t>(random_() % kTopics);
  const size_t topic = (static_cast<size_t>(layer) * kTopics + static_cast<size_t>(to.topic)) * kRow;
  const float* key_noise = noise_.data() + random_() % kNoise;
  const float* value_noise = noise_.data() + random_() % kNoise;
  for (size_t i = 0; i < kRow; ++i) {
    keys->push_back(ToBits(key_topics_[topic + i] + 0.4F * key_noise[i]));
    values->push_back(ToBits(value_topics_[topic + i] + 0.4F * value_noise[i]));
  }
}

void LiveSequences::Put(LiveSequence& to, int64_t tokens) {
  for (int32_t layer = 0; layer < kLayers; ++layer) {
    std::vector<uint16_t> keys, values;
    for (int64_t token = 0; token < tokens; ++token) AddRows(to, layer, &keys, &values);
    const DeviceCopy device_keys(keys), device_values(values);
    swell_gpu_put_args args = SWELL_GPU_PUT_ARGS_INIT;
    args.layer = layer;
    args.sequence = to.id;
    args.position = static_cast<int64_t>(to.keys[layer].size() / kRow);
    args.tokens = tokens;
    Call("put", swell_gpu_put, gpu_, &args, device_keys.get(), device_values.get(), static_cast<void*>(stream_));
    to.keys[layer].insert(to.keys[layer].end(), keys.begin(), keys.end());
    to.values[layer].insert(to.values[layer].end(), values.begin(), values.end());
  }
}

void LiveSequences::Truncate(LiveSequence& sequence, int64_t tokens) {
  Call("truncate", swell_gpu_sequence_truncate, gpu_, sequence.id, tokens, static_cast<void*>(stream_));
  for (int32_t layer = 0; layer < kLayers; ++layer) {
    sequence.keys[layer].resize(static_cast<size_t>(tokens) * kRow);
    sequence.values[layer].resize(static_cast<size_t>(tokens) * kRow);
  }
}

void LiveSequences::Release(std::unique_ptr<LiveSequence> sequence) {
  Call("release", swell_gpu_sequence_release, gpu_, sequence->id);
}

void LiveSequences::SetBatch(std::vector<LiveSequence*> sequences) {
  batch_ = std::move(sequences);
  std::vector<swell_sequence> ids;
  for (const LiveSequence* sequence : batch_) ids.push_back(sequence->id);
  for (swell_gpu_batch* batch : {budget_, exact_}) {
    Call("set", swell_gpu_batch_set, batch, static_cast<const swell_sequence*>(ids.data()),
         static_cast<int64_t>(ids.size()), static_cast<void*>(stream_));
  }
}

// Queries of one sequence, [kv_heads, group, head_dim]: near the key of some token.
void LiveSequences::Ask(const LiveSequence& about, int32_t layer, uint16_t* queries) {
  const std::vector<uint16_t>& keys = about.keys[layer];
  for (size_t head = 0; head < size_t{kKvHeads} * kGroup; ++head) {
    const size_t token = random_() % (keys.size() / kRow);
    const uint16_t* key = keys.data() + token * kRow + head / kGroup * kHeadDim;
    const float* noise = noise_.data() + random_() % kNoise;
    for (int32_t i = 0; i < kHeadDim; ++i) *queries++ = ToBits(1.2F * FromBits(key[i]) + 0.3F * noise[i]);
  }
}

void LiveSequences::Enqueue(swell_gpu_batch* batch, bool append) {
  for (int32_t layer = 0; layer < kLayers; ++layer) {
    const Inputs::OfLayer& inputs = inputs_->device[layer];
    const auto* keys = static_cast<const void*>(inputs.keys);
    const auto* values = static_cast<const void*>(inputs.values);
    if (append) Call("append", swell_gpu_append, batch, layer, keys, values, static_cast<void*>(stream_));
    Call("attend", swell_gpu_attend, batch, layer, static_cast<const void*>(inputs.queries),
         inputs_->outputs + static_cast<size_t>(layer) * Inputs::kOutputs, static_cast<float*>(nullptr),
         static_cast<float*>(nullptr), static_cast<void*>(stream_));
  }
}

void LiveSequences::Step() {
  std::vector<uint16_t> key, value;
  for (size_t s = 0; s < batch_.size(); ++s) {
    LiveSequence& to = *batch_[s];
    for (int32_t layer = 0; layer < kLayers; ++layer) {
      key.clear();
      value.clear();
      AddRows(to, layer, &key, &value);
      to.keys[layer].insert(to.keys[layer].end(), key.begin(), key.end());
      to.values[layer].insert(to.values[layer].end(), value.begin(), value.end());
      Inputs::OfLayer& inputs = inputs_->pinned[layer];
      std::copy(key.begin(), key.end(), inputs.keys + s * kRow);
      std::copy(value.begin(), value.end(), inputs.values + s * kRow);
      Ask(to, layer, inputs.queries + s * kRow * kGroup);
    }
  }
  Check(cudaGraphLaunch(graph_, stream_), "cudaGraphLaunch");
  Check(cudaStreamSynchronize(stream_), "step");
}

void LiveSequences::Seal() { Call("seal", swell_gpu_seal, gpu_, static_cast<void*>(stream_)); }

// Of the outputs that lie on the device: the largest or the mean |output - exact| / |exact| of a head.
double LiveSequences::Error(int32_t layer, bool largest) {
  std::vector<float> outputs(batch_.size() * kRow * kGroup);
  Check(cudaMemcpy(outputs.data(), inputs_->outputs + static_cast<size_t>(layer) * Inputs::kOutputs,
                   outputs.size() * sizeof(float), cudaMemcpyDeviceToHost),
        "copy of outputs");
  double worst = 0, all = 0;
  const size_t heads = outputs.size() / kHeadDim;
  for (size_t head = 0; head < heads; ++head) {
    const LiveSequence& sequence = *batch_[head / (kKvHeads * kGroup)];
    const size_t first = head / kGroup % kKvHeads * kHeadDim;
    const uint16_t* query = inputs_->pinned[layer].queries + head * kHeadDim;
    double mass = 0, sum[kHeadDim] = {}, difference = 0, size = 0;
    for (size_t at = first; at < sequence.keys[layer].size(); at += kRow) {
      double dot = 0;
      for (size_t i = 0; i < kHeadDim; ++i) dot += double{FromBits(query[i])} * FromBits(sequence.keys[layer][at + i]);
      const double weight = std::exp(dot / std::sqrt(double{kHeadDim}));
      mass += weight;
      for (size_t i = 0; i < kHeadDim; ++i) sum[i] += weight * FromBits(sequence.values[layer][at + i]);
    }
    for (size_t i = 0; i < kHeadDim; ++i) {
      difference += std::pow(outputs[head * kHeadDim + i] - sum[i] / mass, 2);
      size += std::pow(sum[i] / mass, 2);
    }
    const double error = std::isfinite(difference) ? std::sqrt(difference / size) : HUGE_VAL;
    worst = std::max(worst, error);
    all += error / static_cast<double>(heads);
  }
  return largest ? worst : all;
}

AnswerErrors LiveSequences::Compare() {
  AnswerErrors errors;
  for (int32_t layer = 0; layer < kLayers; ++layer) errors.budget += Error(layer, false) / kLayers;
  Enqueue(exact_, false);
  Check(cudaStreamSynchronize(stream_), "exact step");
  for (int32_t layer = 0; layer < kLayers; ++layer) errors.exact = std::max(errors.exact, Error(layer, true));
  return errors;
}

swell_gpu_stats LiveSequences::Stats() {
  swell_gpu_stats stats = SWELL_GPU_STATS_INIT;
  Call("stats", swell_gpu_get_stats, static_cast<const swell_gpu*>(gpu_), &stats);
  return stats;
}

}  // namespace swell::bench
