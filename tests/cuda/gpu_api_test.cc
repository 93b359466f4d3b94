// Goal: through the C API, what was put and appended, in chunks of awkward sizes, is what is attended to, no token
// twice or missing, while one CUDA graph is replayed and sequences are sealed, forked, cut, released and batched anew;
// what is refused changes nothing. Method: exact batches against float64; batches by budget against a loose bound.
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <random>
#include <vector>

#include "lib/base/convert.h"
#include "swell/gpu.h"
#include "tests/cuda/device_vector.h"

namespace swell::cuda {
namespace {

constexpr uint32_t kSeed = 77003;
constexpr int32_t kLayers = 2;
constexpr int32_t kKvHeads = 2;
constexpr int32_t kSegment = 128;

bool NoDevice() {
  int count = 0;
  return cudaGetDeviceCount(&count) != cudaSuccess || count == 0;
}

struct Setting {
  int32_t head_dim = 64;
  int32_t group = 3;
  DType dtype = DType::kBFloat16;
  uint64_t home_bytes = 0;
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

// Everything that happens to sequences under one graph.
void Live(World& world, double tolerance) {
  Mirror first = world.Create(), second = world.Create(), third = world.Create();
  for (const int64_t tokens : {3, 700, 1, 130, 1500, 64}) world.PutAll(first, tokens);
  world.PutAll(second, 90);
  world.SetBatch({&first, &second, &third});
  EXPECT_LT(world.Step(true), tolerance);
  world.Capture();
  for (int step = 0; step < 400; ++step) {
    if (step % 90 == 0) world.Seal();
    EXPECT_LT(world.Step(step % 45 == 44 || step % 90 == 0), tolerance) << "step " << step;
  }
  for (const Mirror* mirror : {&first, &second, &third}) world.CheckLength(*mirror);
  world.Seal();

  Mirror fork = third;
  world.Check(swell_gpu_sequence_fork(world.gpu, third.id, world.stream, &fork.id, &world.error));
  world.SetBatch({&fork, &first});
  for (int step = 0; step < 130; ++step) {
    if (step == 100) world.Seal();
    EXPECT_LT(world.Step(step % 40 == 9), tolerance) << "step after fork " << step;
  }
  world.Check(swell_gpu_sequence_release(world.gpu, second.id, &world.error));
  world.SetBatch({&third, &fork});
  EXPECT_LT(world.Step(true), tolerance);
  world.PutAll(third, 300);  // while a batch names it
  EXPECT_LT(world.Step(true), tolerance);
  swell_gpu_stats stats = SWELL_GPU_STATS_INIT;
  world.Check(swell_gpu_get_stats(world.gpu, &stats, &world.error));
  EXPECT_EQ(stats.sequences, 3);
  EXPECT_EQ(stats.batches, 1);
  EXPECT_GT(stats.sealed_tokens, 2 * 2000);
  EXPECT_GT(stats.segment_bytes, 0U);
}

TEST(GpuApiTest, ExactAnswersAreThoseOfEveryToken) {
  if (NoDevice()) GTEST_SKIP() << "no CUDA device";
  for (const Setting& setting : {Setting{64, 3, DType::kBFloat16, 0}, Setting{128, 4, DType::kFloat16, 0},
                                 Setting{128, 4, DType::kBFloat16, uint64_t{64} << 20}}) {
    World world(setting, SWELL_GPU_BATCH_EXACT);
    Live(world, 0.02);
  }
}

// Random keys are the worst case of an index: bounds of what it drops, no measure of its quality.
TEST(GpuApiTest, AnswersByBudgetAreNear) {
  if (NoDevice()) GTEST_SKIP() << "no CUDA device";
  World world({64, 3, DType::kBFloat16, 0}, 0);
  Live(world, 0.8);
}

TEST(GpuApiTest, RefusalsChangeNothing) {
  if (NoDevice()) GTEST_SKIP() << "no CUDA device";
  World world({64, 3, DType::kFloat16, 0}, SWELL_GPU_BATCH_EXACT);
  world.MakeBatch(SWELL_GPU_BATCH_EXACT, 2000);
  Mirror sequence = world.Create();
  world.PutAll(sequence, 500);
  world.SetBatch({&sequence});
  std::vector<uint16_t> host(4096);
  swell_gpu_put_args put = SWELL_GPU_PUT_ARGS_INIT;
  put.sequence = sequence.id;
  put.position = 500;
  put.tokens = 5;
  const auto try_put = [&] {
    return swell_gpu_put(world.gpu, &put, host.data(), host.data(), world.stream, &world.error);
  };
  world.Refused(try_put(), SWELL_INVALID_ARGUMENT);  // host memory
  put.token_stride = 12;
  world.Refused(try_put(), SWELL_INVALID_ARGUMENT, SWELL_DETAIL_BAD_SIZE);
  put.sequence = 4711;
  put.token_stride = 0;
  world.Refused(try_put(), SWELL_NOT_FOUND, SWELL_DETAIL_STALE_HANDLE);
  Mirror wrong = sequence;
  wrong.keys[0].resize(wrong.keys[0].size() - 128);
  world.Refused(world.Put(wrong, 0, 10), SWELL_FAILED_PRECONDITION, SWELL_DETAIL_OUT_OF_ORDER);
  world.Refused(world.Put(sequence, 0, 300, false), SWELL_INVALID_ARGUMENT, SWELL_DETAIL_NON_FINITE);
  world.Refused(world.Put(sequence, 0, 40000), SWELL_RESOURCE_EXHAUSTED);  // more than the batch has room for
  world.Refused(swell_gpu_sequence_release(world.gpu, sequence.id, &world.error), SWELL_FAILED_PRECONDITION);
  world.Refused(swell_gpu_sequence_truncate(world.gpu, sequence.id, 10, world.stream, &world.error),
                SWELL_UNIMPLEMENTED);
  world.Refused(swell_gpu_append(world.batch, 0, host.data(), host.data(), world.stream, &world.error),
                SWELL_INVALID_ARGUMENT);
  world.Refused(swell_gpu_attend(world.batch, 9, nullptr, nullptr, nullptr, nullptr, world.stream, &world.error),
                SWELL_INVALID_ARGUMENT, SWELL_DETAIL_NULL_POINTER);
  swell_gpu_batch_options options = SWELL_GPU_BATCH_OPTIONS_INIT;
  options.max_tokens = int64_t{1} << 36;
  swell_gpu_batch* huge = nullptr;
  world.Refused(swell_gpu_batch_create(world.gpu, &options, nullptr, &huge, &world.error), SWELL_RESOURCE_EXHAUSTED,
                SWELL_DETAIL_NO_MEMORY);
  world.CheckLength(sequence);
  EXPECT_LT(world.Step(true), 0.02);
}

TEST(GpuApiTest, FullMemoryChangesNothing) {
  if (NoDevice()) GTEST_SKIP() << "no CUDA device";
  World world({64, 3, DType::kFloat16, 0}, SWELL_GPU_BATCH_EXACT);
  Mirror sequence = world.Create();
  world.PutAll(sequence, 500);
  world.SetBatch({&sequence});
  world.Step(false);  // kernels are loaded when they are first launched
  swell_gpu_put_args put = SWELL_GPU_PUT_ARGS_INIT;
  put.sequence = sequence.id;
  put.position = 501;
  put.tokens = 20000;
  DeviceVector<uint16_t> rows(world.Random(static_cast<size_t>(put.tokens) * kKvHeads));
  std::vector<void*> taken;
  for (size_t bytes = size_t{1} << 36; bytes >= size_t{1} << 16; bytes /= 2) {
    void* memory = nullptr;
    while (cudaMalloc(&memory, bytes) == cudaSuccess) taken.push_back(memory);
  }
  cudaGetLastError();
  world.Refused(swell_gpu_put(world.gpu, &put, rows.data(), rows.data(), world.stream, &world.error),
                SWELL_RESOURCE_EXHAUSTED, SWELL_DETAIL_NO_MEMORY);
  swell_sequence another = 1;
  world.Refused(swell_gpu_sequence_create(world.gpu, &another, &world.error), SWELL_RESOURCE_EXHAUSTED,
                SWELL_DETAIL_NO_MEMORY);
  EXPECT_EQ(another, 0U);
  world.CheckLength(sequence);
  EXPECT_LT(world.Step(true), 0.02);
  for (void* memory : taken) cudaFree(memory);
  world.PutAll(sequence, 3000);
  EXPECT_LT(world.Step(true), 0.02);
}

TEST(GpuApiTest, TruncatesWhatIsNotSealed) {
  if (NoDevice()) GTEST_SKIP() << "no CUDA device";
  World world({64, 3, DType::kFloat16, 0}, SWELL_GPU_BATCH_EXACT);
  Mirror sequence = world.Create();
  world.PutAll(sequence, 500);
  world.Check(swell_gpu_sequence_truncate(world.gpu, sequence.id, 450, world.stream, &world.error));
  for (int32_t layer = 0; layer < kLayers; ++layer) {
    sequence.keys[layer].resize(450 * kKvHeads * 64);
    sequence.values[layer].resize(450 * kKvHeads * 64);
  }
  world.CheckLength(sequence);
  world.SetBatch({&sequence});
  EXPECT_LT(world.Step(true), 0.02);
}

TEST(GpuApiTest, StepsWithoutSealingAreReported) {
  if (NoDevice()) GTEST_SKIP() << "no CUDA device";
  World world({64, 3, DType::kFloat16, 0}, SWELL_GPU_BATCH_EXACT);
  Mirror sequence = world.Create();
  world.SetBatch({&sequence});
  for (int step = 0; step < 4 + 32 + 2 * kSegment; ++step) world.Step(false);
  EXPECT_LT(world.Step(false), 1);  // has no room
  world.Refused(swell_gpu_seal(world.gpu, world.stream, &world.error), SWELL_DATA_LOSS);
}

}  // namespace
}  // namespace swell::cuda
