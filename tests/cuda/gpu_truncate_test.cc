// Goal: a sequence that is cut anywhere (in its tail, between and inside sealed segments, in its sinks) holds its first
// tokens, in their order, and lives on; forks and batches that share what was cut keep it. Method: exact batches
// against float64, one captured graph throughout, rows in device memory and at home as they are and as int8.
#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "tests/cuda/gpu_world.h"

namespace swell::cuda {
namespace {

int64_t TokensOf(const Mirror& mirror, int32_t head_dim) {
  return static_cast<int64_t>(mirror.keys[0].size()) / (kKvHeads * head_dim);
}

uint64_t SegmentBytes(World& world) {
  swell_gpu_stats stats = SWELL_GPU_STATS_INIT;
  world.Check(swell_gpu_get_stats(world.gpu, &stats, &world.error));
  return stats.segment_bytes;
}

TEST(GpuTruncateTest, KeepsTheFirstTokens) {
  if (NoDevice()) GTEST_SKIP() << "no CUDA device";
  constexpr uint64_t kHome = uint64_t{64} << 20;
  for (const Setting& setting :
       {Setting{64, 3, DType::kFloat16, 0}, Setting{128, 4, DType::kBFloat16, kHome},
        Setting{256, 2, DType::kFloat16, kHome, true}, Setting{64, 1, DType::kBFloat16, kHome, true}}) {
    World world(setting, SWELL_GPU_BATCH_EXACT);
    const double tolerance = setting.int8_home ? 0.05 : 0.02;
    Mirror cut = world.Create(), fork = world.Create();
    world.SetBatch({&cut, &fork});
    world.Step(false);
    world.Capture();
    // 4 sinks, segments of 128, a window of 32: the first seals up to 1412 of 1501 tokens.
    std::mt19937 random(kSeed);
    for (const int64_t kept : {1450, 1412, 1411, 1003, 132, 5, 4, 3, 0, -1, -1}) {
      world.PutAll(cut, std::max<int64_t>(0, 1500 - TokensOf(cut, setting.head_dim)));
      world.SetBatch({&cut});
      world.Check(swell_gpu_sequence_release(world.gpu, fork.id, &world.error));
      fork = world.Fork(cut);
      world.SetBatch({&cut, &fork});
      const int64_t tokens = kept >= 0 ? kept : static_cast<int64_t>(random() % 1500);
      world.Truncate(cut, tokens);
      world.CheckLength(cut);
      world.CheckLength(fork);
      EXPECT_LT(world.Step(true), tolerance) << "cut to " << tokens;
      // What returned to the tail is sealed again.
      for (const int64_t put : {1, 200, 77}) world.PutAll(cut, put);
      world.Seal();
      EXPECT_LT(world.Step(true), tolerance) << "cut to " << tokens << ", then put";
      world.CheckLength(cut);
    }
  }
}

TEST(GpuTruncateTest, GivesMemoryBack) {
  if (NoDevice()) GTEST_SKIP() << "no CUDA device";
  World world({64, 3, DType::kBFloat16, 0}, SWELL_GPU_BATCH_EXACT);
  Mirror sequence = world.Create();
  world.PutAll(sequence, 300);
  const uint64_t before = SegmentBytes(world);
  world.PutAll(sequence, 5000);
  EXPECT_GT(SegmentBytes(world), 2 * before);
  world.Truncate(sequence, 300);
  EXPECT_LE(SegmentBytes(world), before);
  world.Truncate(sequence, 4000);  // has no more
  world.CheckLength(sequence);
}

}  // namespace
}  // namespace swell::cuda
