// Sequences on a device beside what they hold on the host: what is put and appended through the C API, and how far
// answers are from float64 attention over it.
#ifndef SWELL_TESTS_CUDA_GPU_WORLD_H_
#define SWELL_TESTS_CUDA_GPU_WORLD_H_

#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <random>
#include <vector>

#include "lib/base/convert.h"
#include "swell/gpu.h"
#include "tests/cuda/device_vector.h"

namespace swell::cuda {

inline constexpr uint32_t kSeed = 77003;
inline constexpr int32_t kLayers = 2;
inline constexpr int32_t kKvHeads = 2;
inline constexpr int32_t kSegment = 128;

inline bool NoDevice() {
  int count = 0;
  return cudaGetDeviceCount(&count) != cudaSuccess || count == 0;
}

struct Setting {
  int32_t head_dim = 64;
  int32_t group = 3;
  DType dtype = DType::kBFloat16;
  uint64_t home_bytes = 0;
  bool int8_home = false;
};

// What a sequence holds, by layer: rows [tokens, kv_heads, head_dim].
struct Mirror {
  swell_sequence id = 0;
  std::vector<float> keys[kLayers], values[kLayers];
};

class World {
 public:
  World(const Setting& setting, uint32_t flags) : setting_(setting), random_(kSeed) {
    swell_gpu_options options = SWELL_GPU_OPTIONS_INIT;
    options.layers = kLayers;
    options.kv_heads = kKvHeads;
    options.group = setting.group;
    options.head_dim = setting.head_dim;
    options.storage = options.home = static_cast<swell_dtype>(setting.dtype);
    options.max_sequences = 5;
    options.window_tokens = 32;
    options.segment_tokens = kSegment;
    if (setting.int8_home) options.home = SWELL_INT8;
    options.home_bytes = setting.home_bytes;
    options.cache_bytes = setting.home_bytes / 16;
    Check(swell_gpu_open(&options, &gpu, &error));
    MakeBatch(flags, 30000);
    EXPECT_EQ(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
    const size_t rows = 3 * kKvHeads * static_cast<size_t>(setting.head_dim);
    const std::vector<uint16_t> zeros(rows * setting.group);
    for (int32_t layer = 0; layer < kLayers; ++layer) {
      keys_.push_back(std::make_unique<DeviceVector<uint16_t>>(zeros));
      values_.push_back(std::make_unique<DeviceVector<uint16_t>>(zeros));
      queries_.push_back(std::make_unique<DeviceVector<uint16_t>>(zeros));
      outputs_.push_back(std::make_unique<DeviceVector<float>>(std::vector<float>(rows * setting.group)));
      errors_.push_back(std::make_unique<DeviceVector<float>>(std::vector<float>(rows)));
    }
  }
  ~World() {
    cudaStreamSynchronize(stream);
    if (graph_ != nullptr) cudaGraphExecDestroy(graph_);
    cudaStreamDestroy(stream);
    swell_gpu_close(&gpu);  // the batch outlives it
    swell_gpu_batch_destroy(&batch);
    swell_error_destroy(&error);
  }

  void Check(swell_code code) {
    EXPECT_EQ(code, SWELL_OK) << swell_error_message(error);
    swell_error_destroy(&error);
  }
  // Expects a refusal.
  void Refused(swell_code code, swell_code expected, swell_detail detail = SWELL_DETAIL_NONE) {
    EXPECT_EQ(code, expected) << swell_error_message(error);
    EXPECT_EQ(swell_error_detail(error), detail) << swell_error_message(error);
    swell_error_destroy(&error);
  }

  void MakeBatch(uint32_t flags, int64_t max_tokens) {
    swell_gpu_batch_destroy(&batch);
    swell_gpu_batch_options options = SWELL_GPU_BATCH_OPTIONS_INIT;
    options.max_sequences = 3;
    options.max_tokens = max_tokens;
    options.flags = flags;
    Check(swell_gpu_batch_create(gpu, &options, nullptr, &batch, &error));
  }

  std::vector<uint16_t> Random(size_t rows) {
    std::normal_distribution<float> normal(0, 1);
    std::vector<float> floats(rows * static_cast<size_t>(setting_.head_dim));
    for (float& x : floats) x = normal(random_);
    std::vector<uint16_t> halves(floats.size());
    EXPECT_TRUE(ConvertFromFloat(floats.data(), static_cast<int64_t>(floats.size()), setting_.dtype, halves.data()));
    return halves;
  }
  std::vector<float> Floats(const std::vector<uint16_t>& halves) const {
    std::vector<float> floats(halves.size());
    ConvertToFloat(setting_.dtype, halves.data(), static_cast<int64_t>(halves.size()), floats.data());
    return floats;
  }

  Mirror Create() {
    Mirror mirror;
    Check(swell_gpu_sequence_create(gpu, &mirror.id, &error));
    return mirror;
  }

  // The second layer's rows are put head by head.
  swell_code Put(Mirror& to, int32_t layer, int64_t tokens, bool finite = true) {
    const auto d = static_cast<int64_t>(setting_.head_dim);
    const int64_t row = kKvHeads * d;
    std::vector<uint16_t> keys = Random(static_cast<size_t>(tokens * kKvHeads));
    const std::vector<uint16_t> values = Random(static_cast<size_t>(tokens * kKvHeads));
    if (!finite) keys[0] = 0x7fff;
    std::vector<uint16_t> sent[2] = {keys, values};
    swell_gpu_put_args args = SWELL_GPU_PUT_ARGS_INIT;
    if (layer == 1) {
      for (int64_t i = 0; i < tokens * row; ++i) {
        const int64_t at = (i % row / d * tokens + i / row) * d + i % d;
        sent[0][static_cast<size_t>(at)] = keys[static_cast<size_t>(i)];
        sent[1][static_cast<size_t>(at)] = values[static_cast<size_t>(i)];
      }
      args.token_stride = d;
      args.head_stride = tokens * d;
    }
    args.layer = layer;
    args.sequence = to.id;
    args.position = static_cast<int64_t>(to.keys[layer].size()) / row;
    args.tokens = tokens;
    DeviceVector<uint16_t> device_keys(sent[0]), device_values(sent[1]);
    const swell_code code = swell_gpu_put(gpu, &args, device_keys.data(), device_values.data(), stream, &error);
    if (code != SWELL_OK) return code;
    const std::vector<float> rows[2] = {Floats(keys), Floats(values)};
    to.keys[layer].insert(to.keys[layer].end(), rows[0].begin(), rows[0].end());
    to.values[layer].insert(to.values[layer].end(), rows[1].begin(), rows[1].end());
    return code;
  }
  void PutAll(Mirror& to, int64_t tokens) {
    for (int32_t layer = 0; layer < kLayers; ++layer) Check(Put(to, layer, tokens));
  }

  Mirror Fork(const Mirror& from) {
    Mirror fork = from;
    Check(swell_gpu_sequence_fork(gpu, from.id, stream, &fork.id, &error));
    return fork;
  }

  void Truncate(Mirror& mirror, int64_t tokens) {
    Check(swell_gpu_sequence_truncate(gpu, mirror.id, tokens, stream, &error));
    const size_t kept = static_cast<size_t>(tokens) * kKvHeads * static_cast<size_t>(setting_.head_dim);
    for (int32_t layer = 0; layer < kLayers; ++layer) {
      for (std::vector<float>* rows : {&mirror.keys[layer], &mirror.values[layer]}) {
        rows->resize(std::min(rows->size(), kept));
      }
    }
  }

  void SetBatch(const std::vector<Mirror*>& sequences) {
    batched_ = sequences;
    std::vector<swell_sequence> ids;
    for (const Mirror* mirror : sequences) ids.push_back(mirror->id);
    Check(swell_gpu_batch_set(batch, ids.data(), static_cast<int64_t>(ids.size()), stream, &error));
  }

  void Enqueue() {
    for (int32_t layer = 0; layer < kLayers; ++layer) {
      Check(swell_gpu_append(batch, layer, keys_[layer]->data(), values_[layer]->data(), stream, &error));
      Check(swell_gpu_attend(batch, layer, queries_[layer]->data(), outputs_[layer]->data(), nullptr,
                             errors_[layer]->data(), stream, &error));
    }
  }
  void Capture() {
    cudaGraph_t graph;
    ASSERT_EQ(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), cudaSuccess);
    Enqueue();
    Refused(swell_gpu_seal(gpu, stream, &error), SWELL_FAILED_PRECONDITION);
    ASSERT_EQ(cudaStreamEndCapture(stream, &graph), cudaSuccess);
    ASSERT_EQ(cudaGraphInstantiate(&graph_, graph, 0), cudaSuccess);
    cudaGraphDestroy(graph);
  }

  // One step with fresh inputs; with `check`, the largest relative error of an answer.
  double Step(bool check) {
    const size_t rows = batched_.size() * kKvHeads;
    std::vector<float> queries[kLayers];
    for (int32_t layer = 0; layer < kLayers; ++layer) {
      const std::vector<uint16_t> keys = Random(rows), values = Random(rows), asked = Random(rows * setting_.group);
      keys_[layer]->Set(keys);
      values_[layer]->Set(values);
      queries_[layer]->Set(asked);
      queries[layer] = Floats(asked);
      const std::vector<float> key_rows = Floats(keys), value_rows = Floats(values);
      const size_t row = kKvHeads * static_cast<size_t>(setting_.head_dim);
      for (size_t s = 0; s < batched_.size(); ++s) {
        Mirror& to = *batched_[s];
        to.keys[layer].insert(to.keys[layer].end(), key_rows.begin() + s * row, key_rows.begin() + (s + 1) * row);
        to.values[layer].insert(to.values[layer].end(), value_rows.begin() + s * row,
                                value_rows.begin() + (s + 1) * row);
      }
    }
    if (graph_ != nullptr) {
      EXPECT_EQ(cudaGraphLaunch(graph_, stream), cudaSuccess);
    } else {
      Enqueue();
    }
    EXPECT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
    double worst = 0;
    for (int32_t layer = 0; check && layer < kLayers; ++layer) worst = std::max(worst, Error(layer, queries[layer]));
    return worst;
  }

  void Seal() { Check(swell_gpu_seal(gpu, stream, &error)); }

  void CheckLength(const Mirror& mirror) {
    for (int32_t layer = 0; layer < kLayers; ++layer) {
      int64_t tokens = 0;
      Check(swell_gpu_sequence_length(gpu, mirror.id, layer, stream, &tokens, &error));
      EXPECT_EQ(tokens * kKvHeads * setting_.head_dim, static_cast<int64_t>(mirror.keys[layer].size()));
    }
  }

  swell_gpu* gpu = nullptr;
  swell_gpu_batch* batch = nullptr;
  swell_error* error = nullptr;
  cudaStream_t stream = nullptr;

 private:
  // Largest |output - exact| / |exact| of a row, over all heads of the batch.
  double Error(int32_t layer, const std::vector<float>& queries) const {
    const auto d = static_cast<size_t>(setting_.head_dim);
    const size_t row = kKvHeads * d;
    const std::vector<float> output = outputs_[layer]->Get();
    double worst = 0;
    for (size_t head = 0; head < batched_.size() * kKvHeads * setting_.group; ++head) {
      const Mirror& mirror = *batched_[head / (kKvHeads * setting_.group)];
      const size_t kv = head / setting_.group % kKvHeads;
      double mass = 0;
      std::vector<double> sum(d);
      for (size_t at = kv * d; at < mirror.keys[layer].size(); at += row) {
        double dot = 0;
        for (size_t i = 0; i < d; ++i) dot += static_cast<double>(queries[head * d + i]) * mirror.keys[layer][at + i];
        const double weight = std::exp(dot / std::sqrt(static_cast<double>(d)));
        mass += weight;
        for (size_t i = 0; i < d; ++i) sum[i] += weight * mirror.values[layer][at + i];
      }
      double difference = 0, size = 0;
      for (size_t i = 0; i < d; ++i) {
        difference += std::pow(output[head * d + i] - sum[i] / mass, 2);
        size += std::pow(sum[i] / mass, 2);
      }
      if (!(difference <= worst * worst * size)) worst = std::sqrt(difference / size);
    }
    return worst;
  }

  const Setting setting_;
  std::mt19937 random_;
  std::vector<std::unique_ptr<DeviceVector<uint16_t>>> keys_, values_, queries_;
  std::vector<std::unique_ptr<DeviceVector<float>>> outputs_, errors_;
  std::vector<Mirror*> batched_;
  cudaGraphExec_t graph_ = nullptr;
};

}  // namespace swell::cuda

#endif  // SWELL_TESTS_CUDA_GPU_WORLD_H_
