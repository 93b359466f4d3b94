// Goal: the table agrees with a map. Method: random inserts and erases of few keys, so that runs collide and close up.
#include "lib/cache/block_table.h"

#include <gtest/gtest.h>

#include <random>
#include <unordered_map>

namespace swell::cache {
namespace {

TEST(BlockTable, AgreesWithAMap) {
  const uint32_t seed = 20260;
  SCOPED_TRACE(seed);
  std::mt19937_64 random(seed);
  for (const int64_t room : {1, 2, 7, 64}) {
    BlockTable table(room);
    std::unordered_map<uint64_t, Slot> model;
    for (int i = 0; i < 20000; ++i) {
      const uint64_t key = random() % (3 * room);
      if (random() % 2 == 0 && static_cast<int64_t>(model.size()) < room && !model.contains(key)) {
        table.Insert(BlockKey{key}, i);
        model[key] = i;
      } else {
        const auto entry = model.find(key);
        ASSERT_EQ(table.Erase(BlockKey{key}), entry == model.end() ? kNoSlot : entry->second);
        model.erase(key);
      }
      ASSERT_EQ(table.size(), static_cast<int64_t>(model.size()));
      for (uint64_t probe = 0; probe < 3 * static_cast<uint64_t>(room); ++probe) {
        const auto entry = model.find(probe);
        ASSERT_EQ(table.Find(BlockKey{probe}), entry == model.end() ? kNoSlot : entry->second) << "step " << i;
      }
    }
  }
}

TEST(BlockTable, EveryKeyIsAllowed) {
  BlockTable table(4);
  for (const uint64_t key : {uint64_t{0}, UINT64_MAX, uint64_t{1} << 63}) {
    table.Insert(BlockKey{key}, 3);
    EXPECT_EQ(table.Find(BlockKey{key}), 3);
  }
  EXPECT_EQ(table.size(), 3);
}

}  // namespace
}  // namespace swell::cache
