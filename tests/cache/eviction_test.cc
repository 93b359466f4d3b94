// Goal: each policy gives up the block that its rule names. Method: hand-made histories with the victim worked out.
#include "lib/cache/eviction.h"

#include <gtest/gtest.h>

#include <vector>

namespace swell::cache {
namespace {

bool Any(Slot) { return true; }

// Victims in order until none is left.
std::vector<Slot> Drain(EvictionPolicy& policy) {
  std::vector<Slot> victims;
  for (Slot slot = policy.Victim(Any); slot != kNoSlot; slot = policy.Victim(Any)) {
    victims.push_back(slot);
    policy.Remove(slot);
  }
  return victims;
}

TEST(Lru, GivesUpTheLeastRecentlyUsed) {
  const auto policy = MakeEvictionPolicy(PolicyKind::kLru, 4, 0);
  for (const Slot slot : {2, 0, 3, 1}) policy->Admit(slot);
  policy->Touch(0);
  policy->Touch(2);
  EXPECT_EQ(Drain(*policy), (std::vector<Slot>{3, 1, 0, 2}));
}

TEST(Clock, GivesASecondChance) {
  const auto policy = MakeEvictionPolicy(PolicyKind::kClock, 4, 0);
  for (const Slot slot : {0, 1, 2, 3}) policy->Admit(slot);
  EXPECT_EQ(policy->Victim(Any), 0);  // all bits were set: one round clears them
  policy->Remove(0);
  policy->Touch(1);
  EXPECT_EQ(policy->Victim(Any), 2);
  policy->Remove(2);
  EXPECT_EQ(Drain(*policy), (std::vector<Slot>{3, 1}));
}

TEST(Frequency, GivesUpTheLeastUsedAndForgetsOldUses) {
  const auto policy = MakeEvictionPolicy(PolicyKind::kFrequency, 3, 0.5);
  for (const Slot slot : {0, 1, 2}) policy->Admit(slot);
  policy->Touch(0);
  policy->Touch(0);  // 0 counts 3, the others 1
  policy->Step();
  policy->Touch(1);  // 1.5, 1.5, 0.5
  policy->Step();
  policy->Touch(1);  // 0.75, 1.75, 0.25
  EXPECT_EQ(policy->Victim(Any), 2);
  policy->Touch(2);  // 0.75, 1.75, 1.25
  EXPECT_EQ(Drain(*policy), (std::vector<Slot>{0, 2, 1}));
}

TEST(Frequency, StaysFiniteOverManySteps) {
  const auto policy = MakeEvictionPolicy(PolicyKind::kFrequency, 2, 0.01);
  policy->Admit(0);
  for (int i = 0; i < 100000; ++i) policy->Step();
  policy->Admit(1);
  EXPECT_EQ(policy->Victim(Any), 0);
  policy->Touch(0);  // a little more than one use: the old one has not quite gone, or ties by slot
  policy->Touch(0);
  EXPECT_EQ(policy->Victim(Any), 1);
}

class EvictionPolicies : public testing::TestWithParam<PolicyKind> {};

TEST_P(EvictionPolicies, TakesOnlyWhatIsEvictable) {
  const auto policy = MakeEvictionPolicy(GetParam(), 5, 0.9);
  EXPECT_EQ(policy->Victim(Any), kNoSlot);
  for (const Slot slot : {0, 1, 3, 4}) policy->Admit(slot);
  policy->Touch(3);
  EXPECT_EQ(policy->Victim([](Slot) { return false; }), kNoSlot);
  EXPECT_EQ(policy->Victim([](Slot slot) { return slot == 3; }), 3);
  EXPECT_EQ(policy->Victim([](Slot slot) { return slot == 2; }), kNoSlot);  // holds no block
  policy->Remove(3);
  EXPECT_EQ(policy->Victim([](Slot slot) { return slot == 3; }), kNoSlot);
  EXPECT_EQ(Drain(*policy).size(), 3U);
  policy->Admit(2);
  EXPECT_EQ(Drain(*policy), std::vector<Slot>{2});
}

INSTANTIATE_TEST_SUITE_P(All, EvictionPolicies,
                         testing::Values(PolicyKind::kLru, PolicyKind::kClock, PolicyKind::kFrequency));

}  // namespace
}  // namespace swell::cache
