// Goal: a hit always reads the block that was asked for; a slot handed out is read and leased by nobody; books balance.
// Method: random steps against a model that holds which block each slot's memory really has, for every policy.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <limits>
#include <map>
#include <optional>
#include <random>
#include <set>
#include <thread>
#include <vector>

#include "swell/cache.h"

namespace swell::cache {
namespace {

std::unique_ptr<BlockCache> Make(int64_t slots, int64_t reserve, PolicyKind policy = PolicyKind::kLru) {
  CacheOptions options;
  options.block_bytes = 100;
  options.budget_bytes = static_cast<uint64_t>(slots) * 100 + 99;  // a rest that holds no block
  options.reserve_slots = reserve;
  options.policy = policy;
  return std::move(BlockCache::Create(options)).value();
}

// One whole step.
std::vector<Placement> Step(BlockCache& cache, std::vector<uint64_t> ids) {
  std::vector<BlockKey> keys;
  for (const uint64_t id : ids) keys.push_back(BlockKey{id});
  std::vector<Placement> placements(keys.size());
  EXPECT_TRUE(cache.BeginStep().ok());
  EXPECT_TRUE(cache.Plan(keys, placements).ok());
  EXPECT_TRUE(cache.EndStep().ok());
  return placements;
}

TEST(BlockCache, RefusesOptionsOutOfRange) {
  const CacheOptions good{100, 1000, 2, PolicyKind::kFrequency, 0.9};
  EXPECT_TRUE(BlockCache::Create(good).ok());
  std::vector<CacheOptions> bad(9, good);
  bad[0].block_bytes = 0;
  bad[1].budget_bytes = 99;
  bad[2].budget_bytes = UINT64_MAX;
  bad[3].reserve_slots = -1;
  bad[4].reserve_slots = 11;
  bad[5].policy = PolicyKind{3};
  bad[6].decay = 0;
  bad[7].decay = 1;
  bad[8].decay = std::numeric_limits<double>::quiet_NaN();
  for (size_t i = 0; i < bad.size(); ++i) {
    EXPECT_EQ(BlockCache::Create(bad[i]).status().code(), StatusCode::kInvalidArgument) << i;
  }
}

TEST(BlockCache, RefusesCallsOutOfOrder) {
  const auto cache = Make(4, 1);
  const std::vector<BlockKey> keys(2);
  std::vector<Placement> placements(2);
  EXPECT_EQ(cache->Plan(keys, placements).code(), StatusCode::kFailedPrecondition);
  EXPECT_EQ(cache->EndStep().code(), StatusCode::kFailedPrecondition);
  ASSERT_TRUE(cache->BeginStep().ok());
  EXPECT_EQ(cache->BeginStep().code(), StatusCode::kFailedPrecondition);
  placements.resize(1);
  EXPECT_EQ(cache->Plan(keys, placements).detail(), StatusDetail::kBadSize);
  EXPECT_EQ(cache->Stats().misses, 0);
  EXPECT_TRUE(cache->EndStep().ok());
}

TEST(BlockCache, AMissIsAHitFromTheNextStepOn) {
  const auto cache = Make(4, 1);
  const auto first = Step(*cache, {7, 7, 8});
  EXPECT_FALSE(first[0].hit);
  EXPECT_NE(first[0].slot, kNoSlot);
  EXPECT_FALSE(first[1].hit) << "the block is still being written";
  EXPECT_EQ(first[1].slot, kNoSlot);
  const auto second = Step(*cache, {8, 7, 7});
  EXPECT_TRUE(second[1].hit);
  EXPECT_TRUE(second[2].hit);
  EXPECT_EQ(second[1].slot, first[0].slot);
  const CacheStats stats = cache->Stats();
  EXPECT_EQ(stats.slots, 4);
  EXPECT_EQ(stats.blocks, 2);
  EXPECT_EQ(stats.hits, 3);
  EXPECT_EQ(stats.misses, 3);
  EXPECT_EQ(stats.bytes_hit, 300U);
  EXPECT_EQ(stats.bytes_missed, 300U);
}

TEST(BlockCache, WithoutAFreeSlotABlockIsReadButNotCached) {
  const auto cache = Make(2, 1);
  const auto placements = Step(*cache, {1, 2, 3});
  EXPECT_EQ(placements[2].slot, kNoSlot);
  EXPECT_EQ(cache->Stats().evicted, 1);  // of a full cache one slot is made free for the next step
  EXPECT_FALSE(cache->Contains(BlockKey{3}));
}

TEST(BlockCache, ABlockInTheStepOfItsAdmissionIsNotReadable) {
  const auto cache = Make(2, 1);
  const std::vector<BlockKey> keys{BlockKey{5}};
  std::vector<Placement> placements(1);
  ASSERT_TRUE(cache->BeginStep().ok());
  ASSERT_TRUE(cache->Plan(keys, placements).ok());
  EXPECT_FALSE(cache->Contains(keys[0]));
  EXPECT_EQ(cache->Lease(keys[0]).status().code(), StatusCode::kNotFound);
  ASSERT_TRUE(cache->EndStep().ok());
  EXPECT_TRUE(cache->Contains(keys[0]));
  EXPECT_EQ(cache->Lease(keys[0])->slot(), placements[0].slot);
}

TEST(BlockCache, AForgottenSlotWaitsForItsLease) {
  const auto cache = Make(1, 1);
  // A single slot: with it leased, nothing can be admitted.
  Step(*cache, {1});
  ASSERT_FALSE(cache->Contains(BlockKey{1}));  // evicted at once: the reserve is the whole cache
  const std::vector<BlockKey> keys{BlockKey{1}};
  std::vector<Placement> placements(1);
  ASSERT_TRUE(cache->BeginStep().ok());
  ASSERT_TRUE(cache->Plan(keys, placements).ok());
  EXPECT_TRUE(cache->Forget(keys[0]));
  EXPECT_FALSE(cache->Forget(keys[0]));
  ASSERT_TRUE(cache->Plan(keys, placements).ok());
  EXPECT_EQ(placements[0].slot, kNoSlot) << "the slot was given out in this step already";
  ASSERT_TRUE(cache->EndStep().ok());
  EXPECT_EQ(Step(*cache, {1})[0].slot, 0);
}

TEST(BlockLease, MovesAndReleasesOnce) {
  const auto cache = Make(3, 1);
  Step(*cache, {1, 2});
  BlockLease a = std::move(cache->Lease(BlockKey{1})).value();
  BlockLease b = std::move(cache->Lease(BlockKey{2})).value();
  a = std::move(b);  // 1 is free again
  EXPECT_EQ(b.slot(), kNoSlot);
  Step(*cache, {3});
  EXPECT_FALSE(cache->Contains(BlockKey{1}));
  EXPECT_TRUE(cache->Contains(BlockKey{2}));
  a = BlockLease();
  Step(*cache, {3, 4});
  EXPECT_FALSE(cache->Contains(BlockKey{2}));
}

class BlockCachePolicies : public testing::TestWithParam<PolicyKind> {};

TEST_P(BlockCachePolicies, AgreesWithTheMemoryOfTheSlots) {
  const uint32_t seed = 411;
  SCOPED_TRACE(seed);
  std::mt19937_64 random(seed);
  for (const int64_t slots : {1, 5, 40}) {
    const auto cache = Make(slots, std::max<int64_t>(1, slots / 4), GetParam());
    std::vector<std::optional<uint64_t>> memory(slots);  // block whose bytes the slot really holds
    std::multimap<uint64_t, BlockLease> leases;
    int64_t hits = 0;
    int64_t misses = 0;
    for (int step = 0; step < 1500; ++step) {
      std::set<Slot> leased;
      for (const auto& [id, lease] : leases) leased.insert(lease.slot());
      std::set<Slot> read;
      std::map<Slot, uint64_t> written;
      ASSERT_TRUE(cache->BeginStep().ok());
      for (int call = 0; call < 3; ++call) {
        std::vector<BlockKey> keys(random() % 8);
        for (BlockKey& key : keys) key = BlockKey{std::min(random() % 60, random() % 60)};
        std::vector<bool> known;
        for (const BlockKey key : keys) known.push_back(cache->Contains(key));
        std::vector<Placement> placements(keys.size());
        ASSERT_TRUE(cache->Plan(keys, placements).ok());
        for (size_t i = 0; i < keys.size(); ++i) {
          const auto id = static_cast<uint64_t>(keys[i]);
          ASSERT_EQ(placements[i].hit, known[i]);
          (placements[i].hit ? hits : misses) += 1;
          if (placements[i].hit) {
            ASSERT_EQ(memory.at(placements[i].slot), id);
            read.insert(placements[i].slot);
          } else if (placements[i].slot != kNoSlot) {
            ASSERT_TRUE(written.emplace(placements[i].slot, id).second) << "handed out twice in a step";
            ASSERT_FALSE(leased.contains(placements[i].slot));
          }
        }
        if (random() % 4 == 0) cache->Forget(BlockKey{random() % 60});
      }
      for (const auto& [slot, id] : written) {
        ASSERT_FALSE(read.contains(slot));
        memory.at(slot) = id;
      }
      ASSERT_TRUE(cache->EndStep().ok());
      for (const auto& [id, lease] : leases) ASSERT_EQ(memory.at(lease.slot()), id) << "a leased block was overwritten";
      const uint64_t id = random() % 60;
      auto lease = cache->Lease(BlockKey{id});
      ASSERT_EQ(lease.ok(), cache->Contains(BlockKey{id}));
      if (lease.ok()) leases.emplace(id, std::move(*lease));
      while (static_cast<int64_t>(leases.size()) > slots / 2) leases.erase(leases.begin());
    }
    const CacheStats stats = cache->Stats();
    EXPECT_GT(stats.hits, slots == 1 ? -1 : 100);
    EXPECT_EQ(stats.hits, hits);
    EXPECT_EQ(stats.misses, misses);
    EXPECT_EQ(stats.steps, 1500);
    int64_t cached = 0;
    for (uint64_t id = 0; id < 60; ++id) cached += cache->Contains(BlockKey{id}) ? 1 : 0;
    EXPECT_EQ(stats.blocks, cached);
    EXPECT_LE(stats.blocks, slots);
    EXPECT_GE(stats.admitted, stats.evicted + stats.blocks);  // the rest was forgotten
  }
}

TEST_P(BlockCachePolicies, FullyLeasedCacheAdmitsNothingAndRecovers) {
  const auto cache = Make(4, 2, GetParam());
  Step(*cache, {1, 2});
  std::vector<BlockLease> leases;
  for (const uint64_t id : {1, 2}) leases.push_back(std::move(cache->Lease(BlockKey{id})).value());
  Step(*cache, {3, 4});
  for (int i = 0; i < 5; ++i) Step(*cache, {5, 6, 7, 8});
  EXPECT_TRUE(cache->Contains(BlockKey{1}));
  EXPECT_TRUE(cache->Contains(BlockKey{2}));
  leases.clear();
  for (int i = 0; i < 5; ++i) Step(*cache, {9, 10});
  EXPECT_FALSE(cache->Contains(BlockKey{1}));
}

TEST_P(BlockCachePolicies, StatsAndLeaseDropsComeFromOtherThreads) {
  const auto cache = Make(8, 2, GetParam());
  std::atomic<bool> stop{false};
  std::thread reader([&] {
    int64_t before = 0;
    while (!stop.load()) {
      const CacheStats stats = cache->Stats();
      EXPECT_GE(stats.hits + stats.misses, before);
      before = stats.hits + stats.misses;
    }
  });
  for (uint64_t i = 0; i < 200; ++i) {
    Step(*cache, {i % 12, i % 5});
    auto lease = cache->Lease(BlockKey{i % 5});
    if (!lease.ok()) continue;
    std::thread dropper([held = std::move(*lease)] { EXPECT_NE(held.slot(), kNoSlot); });
    dropper.join();
  }
  stop = true;
  reader.join();
  EXPECT_EQ(cache->Stats().hits + cache->Stats().misses, 400);
}

INSTANTIATE_TEST_SUITE_P(All, BlockCachePolicies,
                         testing::Values(PolicyKind::kLru, PolicyKind::kClock, PolicyKind::kFrequency));

}  // namespace
}  // namespace swell::cache
