// The engines of this layer and of its tests, under the contract; and many threads on one scheduler.
#include <numeric>
#include <thread>

#include "tests/transfer/copy_engine_contract.h"
#include "tests/transfer/simulated_device.h"

namespace swell::transfer {
namespace {

INSTANTIATE_TEST_SUITE_P(Memcpy, CopyEngineContract,
                         testing::Values([] { return std::move(MakeMemcpyEngine()).value(); }));
INSTANTIATE_TEST_SUITE_P(Simulated, CopyEngineContract, testing::Values([] {
                           return std::unique_ptr<CopyEngine>(std::make_unique<SimulatedDevice>());
                         }));

// Goal: threads that submit and wait at once all get their bytes and nobody misses a completion.
TEST(MemcpyScheduler, ServesManyThreads) {
  const auto engine = std::move(MakeMemcpyEngine()).value();
  const auto scheduler = std::move(Scheduler::Create({64, 2}, engine.get())).value();
  constexpr int kThreads = 6;
  constexpr int kRounds = 100;
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      std::vector<int> source(500);
      std::vector<int> target(500);
      for (int round = 0; round < kRounds; ++round) {
        std::iota(source.begin(), source.end(), t * 1000 + round);
        std::vector<CopyRange> ranges;
        for (size_t i = 0; i < 500; i += 50) ranges.push_back({&source[i], &target[450 - i], 50 * sizeof(int)});
        const auto ticket = scheduler->Submit(ranges, t % 2 == 0 ? Priority::kDemand : Priority::kPrefetch);
        ASSERT_TRUE(ticket.ok());
        ASSERT_TRUE(scheduler->Wait(*ticket, std::chrono::minutes(5)).ok());
        for (size_t i = 0; i < 500; ++i) ASSERT_EQ(target[450 - i / 50 * 50 + i % 50], source[i]);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  const SchedulerStats stats = scheduler->Stats();
  EXPECT_EQ(stats.completed, kThreads * kRounds);
  EXPECT_EQ(stats.bytes_copied, kThreads * kRounds * 500 * sizeof(int));
  EXPECT_EQ(stats.queued + stats.in_flight, 0);
}

}  // namespace
}  // namespace swell::transfer
