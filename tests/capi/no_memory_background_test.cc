// Goal: when memory is refused to the thread that seals in the background, nobody who appends or asks notices, and
// sealing catches up. Method: a sequence grows token by token while every allocation of that thread is refused, one at
// a time, then all of them for as long as the sequence grows.
#include <gtest/gtest.h>

#include <cstdio>
#include <thread>

#include "tests/capi/no_memory/world.h"
#include "tests/support/allocations.h"

namespace swell_test {
namespace {

using swell::testing::RefusalPlan;
using swell::testing::Refusals;
using swell::testing::Threads;

constexpr WorldOptions kOptions = {.name = "background", .deterministic = false};
constexpr int64_t kGrowth = 100;

bool IsSealing(World& world) {
  swell_layer_info info = SWELL_LAYER_INFO_INIT;
  EXPECT_EQ(swell_sequence_inspect(world.engine, world.other, 0, &info, nullptr, 0, nullptr), SWELL_OK);
  return info.sealing != 0;
}

// Makes a third sequence and lets it grow. What completes a run is sealed before the next token comes, so that the
// allocations of the background thread have the same order every time.
void Grow(World& world, const RefusalPlan& plan) {
  ASSERT_EQ(swell_sequence_create(world.engine, &world.sequence_options, world.retrieval, &world.other, nullptr),
            SWELL_OK);
  const Refusals refusals(plan);
  for (int64_t token = 0; token < kGrowth; ++token) {
    ASSERT_EQ(world.Put(world.other, 0, token, 1, token, nullptr), SWELL_OK) << token;
    while (IsSealing(world)) std::this_thread::yield();
  }
}

struct Grown {
  Digest digest, extended;
  int64_t builds_failed = 0;
  int64_t sealed = 0;
};

Grown GrowAndLook(const RefusalPlan& plan) {
  World world(kOptions);
  Grown grown;
  Grow(world, plan);
  grown.digest = world.Look();
  grown.builds_failed = world.Stats().builds_failed;
  grown.sealed = world.Stats().segments_sealed;
  grown.extended = world.Extend();
  return grown;
}

TEST(NoMemoryInTheBackground, EveryAllocation) {
  RefusalPlan plan;
  plan.threads = Threads::kOthers;
  const Grown reference = GrowAndLook(plan);
  const int64_t allocations = swell::testing::AllocationsSeen();
  ASSERT_GT(allocations, 0);
  int64_t failed = 0;
  for (plan.first = 0;; ++plan.first) {
    SCOPED_TRACE("refused: " + std::to_string(plan.first));
    const swell::testing::LiveMemory live = swell::testing::Live();
    {
      const Grown grown = GrowAndLook(plan);
      if (swell::testing::AllocationsRefused() == 0) break;
      EXPECT_TRUE(grown.digest.content == reference.digest.content);
      EXPECT_TRUE(Near(grown.digest.exact, reference.digest.exact));
      EXPECT_TRUE(grown.extended.content == reference.extended.content);
      EXPECT_TRUE(grown.extended.state == reference.extended.state);
      failed += grown.builds_failed;
    }
    EXPECT_EQ(swell::testing::Live().blocks, live.blocks);
    EXPECT_EQ(swell::testing::Live().bytes, live.bytes);
    if (HasFailure()) return;
  }
  EXPECT_EQ(plan.first, allocations);
  EXPECT_EQ(failed, allocations) << "the builds that were given up";
  std::printf("%lld allocations in the background, each refused once, seed %llu\n", static_cast<long long>(allocations),
              static_cast<unsigned long long>(kSeed));
}

TEST(NoMemoryInTheBackground, NoneForAWhile) {
  RefusalPlan plan;
  plan.threads = Threads::kOthers;
  const Grown reference = GrowAndLook(plan);
  plan.first = 0;
  plan.ever_after = true;
  const Grown starved = GrowAndLook(plan);
  EXPECT_GT(starved.builds_failed, 1) << "it tries again";
  EXPECT_LT(starved.sealed, reference.sealed);
  EXPECT_TRUE(starved.digest.content == reference.digest.content);
  EXPECT_TRUE(Near(starved.digest.exact, reference.digest.exact));
  EXPECT_TRUE(starved.extended.state == reference.extended.state) << "sealing has caught up";
}

}  // namespace
}  // namespace swell_test
