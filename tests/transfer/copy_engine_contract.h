// Goal: what a Scheduler relies on holds for every CopyEngine. Method: the same tests, instantiated per engine.
#ifndef SWELL_TESTS_TRANSFER_COPY_ENGINE_CONTRACT_H_
#define SWELL_TESTS_TRANSFER_COPY_ENGINE_CONTRACT_H_

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <random>
#include <set>
#include <vector>

#include "swell/transfer.h"

namespace swell::transfer {

// Null: the engine cannot run on this machine, and its tests are skipped.
using CopyEngineFactory = std::function<std::unique_ptr<CopyEngine>()>;

class CopyEngineContract : public testing::TestWithParam<CopyEngineFactory> {
 protected:
  void SetUp() override {
    engine_ = GetParam()();
    if (engine_ == nullptr) GTEST_SKIP() << "no such engine on this machine";
  }
  // Waits for `copies` completions; fewer when nothing happens within a minute of the engine's clock.
  std::vector<CopyDone> Await(size_t copies) {
    std::vector<CopyDone> done;
    const Nanoseconds end = engine_->Now() + std::chrono::minutes(1);
    while (engine_->Poll(&done), done.size() < copies && engine_->Now() < end) engine_->Wait(std::chrono::seconds(1));
    return done;
  }
  std::unique_ptr<CopyEngine> engine_;
};

TEST_P(CopyEngineContract, CopiesEveryRangeAndReportsOnce) {
  const uint32_t seed = 77;
  SCOPED_TRACE(seed);
  std::mt19937 random(seed);
  constexpr size_t kBytes = 1 << 16;
  std::vector<uint8_t> source(kBytes);
  for (uint8_t& byte : source) byte = static_cast<uint8_t>(random());
  std::vector<uint8_t> target(kBytes, 0);
  std::vector<uint8_t> expected(kBytes, 0);
  std::set<CopyId> waiting;
  size_t at = 0;
  for (CopyId id = 100; id < 120; ++id) {
    std::vector<CopyRange> ranges;
    for (int i = 0; i < 5; ++i) {
      const size_t bytes = 1 + random() % 500;
      const size_t from = random() % (kBytes - bytes);
      ranges.push_back({&source[from], &target[at], bytes});
      std::copy_n(&source[from], bytes, &expected[at]);
      at += bytes + 3;
    }
    ASSERT_TRUE(engine_->Start(id, ranges).ok());
    waiting.insert(id);
  }
  for (const CopyDone& copy : Await(waiting.size())) {
    EXPECT_TRUE(copy.status.ok()) << copy.status.message();
    EXPECT_EQ(waiting.erase(copy.id), 1U);
  }
  EXPECT_TRUE(waiting.empty());
  EXPECT_EQ(target, expected);
  std::vector<CopyDone> again;
  engine_->Poll(&again);
  EXPECT_TRUE(again.empty());
}

TEST_P(CopyEngineContract, WaitReturnsAtOnceWhenNothingIsCopied) {
  engine_->Wait(std::chrono::hours(1000));
  std::vector<CopyDone> done;
  engine_->Poll(&done);
  EXPECT_TRUE(done.empty());
}

TEST_P(CopyEngineContract, MayBeClosedWithCopiesInFlight) {
  std::vector<uint8_t> source(1 << 20, 1);
  std::vector<uint8_t> target(1 << 20, 0);
  const std::vector<CopyRange> ranges{{source.data(), target.data(), source.size()}};
  ASSERT_TRUE(engine_->Start(1, ranges).ok());
  engine_.reset();  // nothing touches the vectors afterwards, or a sanitizer says so
}

}  // namespace swell::transfer

#endif  // SWELL_TESTS_TRANSFER_COPY_ENGINE_CONTRACT_H_
