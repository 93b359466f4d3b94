// Goal: through the C API, what was put and appended, in chunks of awkward sizes, is what is attended to, no token
// twice or missing, while one CUDA graph is replayed and sequences are sealed, forked, cut, released and batched anew;
// what is refused changes nothing. Method: exact batches against float64; batches by budget against a loose bound.
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <vector>

#include "swell/gpu.h"
#include "tests/cuda/gpu_world.h"

namespace swell::cuda {
namespace {

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

  Mirror fork = world.Fork(third);
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
  world.Refused(swell_gpu_sequence_truncate(world.gpu, sequence.id, -1, world.stream, &world.error),
                SWELL_INVALID_ARGUMENT, SWELL_DETAIL_BAD_SIZE);
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
