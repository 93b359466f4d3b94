// Goal: the optimum is one, and the policies stand below it as theory says. Method: exhaustive search on small traces;
// traces whose hit count is known.
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <set>
#include <vector>

#include "swell/cache.h"

namespace swell::cache {
namespace {

using Blocks = std::set<uint64_t>;

// Most hits of steps t.. when `cached` is held: tries every content of at most `slots` blocks after each step.
int64_t BestHits(const std::vector<Blocks>& trace, size_t t, const Blocks& cached, size_t slots) {
  if (t == trace.size()) return 0;
  int64_t hits = 0;
  std::vector<uint64_t> choice(cached.begin(), cached.end());
  for (const uint64_t block : trace[t]) {
    if (cached.contains(block)) {
      ++hits;
    } else {
      choice.push_back(block);
    }
  }
  int64_t best = 0;
  for (uint32_t mask = 0; mask < (1U << choice.size()); ++mask) {
    Blocks kept;
    for (size_t i = 0; i < choice.size(); ++i) {
      if ((mask >> i & 1U) != 0) kept.insert(choice[i]);
    }
    if (kept.size() == std::min(slots, choice.size())) best = std::max(best, BestHits(trace, t + 1, kept, slots));
  }
  return hits + best;
}

Trace RandomTrace(std::mt19937_64& random, int steps, int reads, int blocks) {
  Trace trace(steps);
  for (auto& step : trace) {
    for (int i = 0; i < reads; ++i) step.push_back(BlockKey{std::min(random() % blocks, random() % blocks)});
  }
  return trace;
}

CacheOptions Options(int64_t slots, int64_t reserve, PolicyKind policy) {
  return {1, static_cast<uint64_t>(slots), reserve, policy, 0.9};
}

TEST(SimulateOptimum, EqualsExhaustiveSearch) {
  const uint32_t seed = 97;
  SCOPED_TRACE(seed);
  std::mt19937_64 random(seed);
  for (int round = 0; round < 60; ++round) {
    const int64_t slots = 1 + round % 3;
    const Trace trace = RandomTrace(random, 5, 3, 7);
    std::vector<Blocks> steps;
    for (const auto& step : trace) {
      steps.emplace_back();
      for (const BlockKey key : step) steps.back().insert(static_cast<uint64_t>(key));
    }
    const auto result = SimulateOptimum(slots, trace);
    ASSERT_TRUE(result.ok());
    ASSERT_EQ(result->hits, BestHits(steps, 0, {}, slots)) << "round " << round;
  }
}

TEST(SimulateTrace, NoPolicyBeatsTheOptimum) {
  const uint32_t seed = 5;
  SCOPED_TRACE(seed);
  std::mt19937_64 random(seed);
  const Trace trace = RandomTrace(random, 300, 40, 500);
  for (const int64_t slots : {60, 150, 400}) {
    const auto optimum = SimulateOptimum(slots, trace, 50);
    for (const PolicyKind policy : {PolicyKind::kLru, PolicyKind::kClock, PolicyKind::kFrequency}) {
      const auto result = SimulateTrace(Options(slots, slots / 8, policy), trace, 50);
      ASSERT_TRUE(result.ok());
      EXPECT_EQ(result->hits + result->misses, optimum->hits + optimum->misses);
      EXPECT_LE(result->hits, optimum->hits);
      EXPECT_GT(result->hits, optimum->hits / 3);
    }
  }
}

TEST(SimulateTrace, EverythingHitsWhenEverythingFits) {
  Trace trace(10);
  for (auto& step : trace) {
    for (uint64_t id = 0; id < 20; ++id) step.push_back(BlockKey{id % 10});  // each block twice: counts once
  }
  const auto result = SimulateTrace(Options(11, 1, PolicyKind::kLru), trace, 1);
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(result->hits, 90);
  EXPECT_EQ(result->hit_ratio(), 1.0);
  EXPECT_EQ(SimulateOptimum(10, trace)->misses, 10);
}

TEST(SimulateTrace, ALoopOverMoreThanFitsDefeatsLruButNotTheOptimum) {
  Trace trace;
  for (int i = 0; i < 400; ++i) trace.push_back({BlockKey{static_cast<uint64_t>(i % 8)}});
  EXPECT_EQ(SimulateTrace(Options(7, 1, PolicyKind::kLru), trace)->hits, 0);
  EXPECT_GT(SimulateOptimum(7, trace)->hit_ratio(), 0.8);
}

TEST(SimulateTrace, FrequencyOutlastsAScanThatFlushesLru) {
  Trace trace;
  uint64_t fresh = 1000;
  for (int i = 0; i < 200; ++i) {
    // Eight hot blocks, after a while every other step; in between a scan of blocks that never come back.
    trace.emplace_back();
    for (uint64_t j = 0; j < 8; ++j) trace.back().push_back(BlockKey{i < 6 || i % 2 == 0 ? j : fresh++});
  }
  const auto lru = SimulateTrace(Options(16, 8, PolicyKind::kLru), trace, 20);
  const auto frequency = SimulateTrace(Options(16, 8, PolicyKind::kFrequency), trace, 20);
  EXPECT_LT(lru->hit_ratio(), 0.01);
  EXPECT_GT(frequency->hit_ratio(), 0.45);
}

TEST(Simulate, ErrorsAndEmptyTraces) {
  EXPECT_EQ(SimulateOptimum(0, {}).status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(SimulateTrace({}, {}).status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(SimulateOptimum(1, {})->hit_ratio(), 0);
  EXPECT_EQ(SimulateTrace(Options(1, 1, PolicyKind::kLru), {{}, {}})->misses, 0);
}

}  // namespace
}  // namespace swell::cache
