// Goal: the budget never passes its limit and comes back to zero. Method: boundary values, and many threads at once.
#include <gtest/gtest.h>

#include <atomic>
#include <thread>
#include <vector>

#include "swell/store.h"

namespace swell {
namespace {

TEST(ByteBudget, RefusesWhatWouldPassTheLimit) {
  ByteBudget budget(100);
  EXPECT_TRUE(budget.TryCharge(60));
  EXPECT_FALSE(budget.TryCharge(41));
  EXPECT_EQ(budget.used(), 60U);
  EXPECT_TRUE(budget.TryCharge(40));
  budget.Refund(100);
  EXPECT_EQ(budget.used(), 0U);
  EXPECT_EQ(budget.peak(), 100U);
}

TEST(ByteBudget, RefusesASumThatOverflows) {
  ByteBudget budget(0);
  EXPECT_TRUE(budget.TryCharge(UINT64_MAX));
  EXPECT_FALSE(budget.TryCharge(1));
}

TEST(ByteBudget, ThreadsTogetherStayBelowTheLimit) {
  ByteBudget budget(1000);
  std::atomic<int> passed{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 5000; ++i) {
        if (!budget.TryCharge(300)) continue;
        if (budget.used() > 1000) passed.fetch_add(1);
        budget.Refund(300);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(passed.load(), 0);
  EXPECT_EQ(budget.used(), 0U);
  EXPECT_LE(budget.peak(), 1000U);
}

}  // namespace
}  // namespace swell
