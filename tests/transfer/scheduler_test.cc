// Goal: requests are ordered, bounded, coalesced and reported on as transfer.h says, whatever the device does.
// Method: a device with a clock and faults; every figure is exact.
#include <gtest/gtest.h>

#include <optional>
#include <random>
#include <vector>

#include "swell/transfer.h"
#include "tests/transfer/simulated_device.h"

namespace swell::transfer {
namespace {

constexpr Nanoseconds kLong = std::chrono::seconds(1);
constexpr size_t kBlock = 1000;  // takes 1000 ns on the link

// A scheduler over a simulated device, and memory to copy between.
struct Rig {
  explicit Rig(SchedulerOptions options, std::map<int64_t, Fault> faults = {}) : device(std::move(faults)) {
    scheduler = std::move(Scheduler::Create(options, &device)).value();
  }
  // Copies one block number `i`, whose bytes are i + 1.
  Result<Ticket> Submit(size_t i, Priority priority = Priority::kDemand) {
    std::fill_n(&source[i * kBlock], kBlock, static_cast<uint8_t>(i + 1));
    const std::vector<CopyRange> ranges{{&source[i * kBlock], &target[i * kBlock], kBlock}};
    return scheduler->Submit(ranges, priority);
  }
  bool Arrived(size_t i) const {
    return std::all_of(&target[i * kBlock], &target[i * kBlock] + kBlock, [&](uint8_t b) { return b == i + 1; });
  }
  SimulatedDevice device;
  std::unique_ptr<Scheduler> scheduler;
  std::vector<uint8_t> source = std::vector<uint8_t>(64 * kBlock, 0);
  std::vector<uint8_t> target = std::vector<uint8_t>(64 * kBlock, 0);
};

TEST(Scheduler, RefusesBadArguments) {
  SimulatedDevice device;
  EXPECT_EQ(Scheduler::Create({}, nullptr).status().detail(), StatusDetail::kNullPointer);
  EXPECT_EQ(Scheduler::Create({0, 1}, &device).status().detail(), StatusDetail::kBadSize);
  EXPECT_EQ(Scheduler::Create({1, 0}, &device).status().detail(), StatusDetail::kBadSize);
  Rig rig({4, 1});
  EXPECT_EQ(rig.scheduler->Submit({}, Priority::kDemand).status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(rig.Submit(0, Priority{2}).status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(rig.scheduler->Wait(Ticket(), kLong).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(rig.scheduler->Cancel(Ticket()).code(), StatusCode::kFailedPrecondition);
  EXPECT_FALSE(Ticket().done());
  EXPECT_EQ(rig.scheduler->Stats().submitted, 0);
}

TEST(Scheduler, ATicketIsDoneWhenItsBytesAreThere) {
  Rig rig({4, 2});
  const Ticket ticket = *rig.Submit(3);
  EXPECT_FALSE(ticket.done());
  EXPECT_EQ(ticket.status().code(), StatusCode::kFailedPrecondition);
  rig.device.Advance(Nanoseconds(1099));
  rig.scheduler->Poll();
  EXPECT_FALSE(ticket.done());
  EXPECT_FALSE(rig.Arrived(3));
  rig.device.Advance(Nanoseconds(1));
  rig.scheduler->Poll();
  EXPECT_TRUE(ticket.done());
  EXPECT_TRUE(ticket.status().ok());
  EXPECT_TRUE(rig.Arrived(3));
}

TEST(Scheduler, CoalescesWhatIsAdjacentOnBothSides) {
  Rig rig({4, 2});
  std::vector<CopyRange> ranges;
  for (const size_t block : {0, 1, 2, 5, 6}) {
    ranges.push_back({&rig.source[block * kBlock], &rig.target[block * kBlock], kBlock});
  }
  const Ticket ticket = *rig.scheduler->Submit(ranges, Priority::kDemand);
  ASSERT_TRUE(rig.scheduler->Wait(ticket, kLong).ok());
  const SchedulerStats stats = rig.scheduler->Stats();
  EXPECT_EQ(stats.ranges_requested, 5);
  EXPECT_EQ(stats.ranges_copied, 2);
  EXPECT_EQ(stats.bytes_copied, 5 * kBlock);
}

TEST(Scheduler, AFullQueueRefusesAndQueuesNothing) {
  Rig rig({2, 1});
  std::vector<Ticket> tickets;
  for (size_t i = 0; i < 3; ++i) tickets.push_back(*rig.Submit(i));  // one in flight, two waiting
  const auto refused = rig.Submit(3);
  EXPECT_EQ(refused.status().code(), StatusCode::kResourceExhausted);
  EXPECT_EQ(rig.scheduler->Stats().refused, 1);
  EXPECT_EQ(rig.scheduler->Stats().queued, 2);
  ASSERT_TRUE(rig.scheduler->Wait(tickets[0], kLong).ok());
  EXPECT_TRUE(rig.Submit(4).ok());  // a completion made room
  while (rig.scheduler->Stats().queued + rig.scheduler->Stats().in_flight > 0) {
    rig.device.Wait(kLong);
    rig.scheduler->Poll();
  }
  EXPECT_FALSE(rig.Arrived(3));
  EXPECT_TRUE(rig.Arrived(2) && rig.Arrived(4));
}

TEST(Scheduler, DemandGoesBeforePrefetch) {
  Rig rig({16, 1});
  std::vector<Ticket> prefetches;
  for (size_t i = 0; i < 4; ++i) prefetches.push_back(*rig.Submit(i, Priority::kPrefetch));
  const Ticket demand = *rig.Submit(9);
  ASSERT_TRUE(rig.scheduler->Wait(demand, kLong).ok());
  EXPECT_TRUE(prefetches[0].done());  // was in flight
  for (size_t i = 1; i < 4; ++i) EXPECT_FALSE(prefetches[i].done());
  for (const Ticket& ticket : prefetches) EXPECT_TRUE(rig.scheduler->Wait(ticket, kLong).ok());
}

TEST(Scheduler, PrefetchLeavesAPlaceForDemand) {
  Rig rig({16, 3});
  for (size_t i = 0; i < 6; ++i) ASSERT_TRUE(rig.Submit(i, Priority::kPrefetch).ok());
  EXPECT_EQ(rig.scheduler->Stats().in_flight, 2);
  ASSERT_TRUE(rig.Submit(9).ok());
  EXPECT_EQ(rig.scheduler->Stats().in_flight, 3);
}

TEST(Scheduler, CancelsWhatWaitsAndNothingElse) {
  Rig rig({16, 1});
  const Ticket running = *rig.Submit(0);
  const Ticket waiting = *rig.Submit(1);
  EXPECT_EQ(rig.scheduler->Cancel(running).code(), StatusCode::kFailedPrecondition);
  EXPECT_TRUE(rig.scheduler->Cancel(waiting).ok());
  EXPECT_EQ(waiting.status().code(), StatusCode::kCancelled);
  EXPECT_EQ(rig.scheduler->Wait(waiting, kLong).code(), StatusCode::kCancelled);
  EXPECT_EQ(rig.scheduler->Cancel(waiting).code(), StatusCode::kFailedPrecondition);
  EXPECT_TRUE(rig.scheduler->Wait(running, kLong).ok());
  EXPECT_EQ(rig.scheduler->Cancel(running).code(), StatusCode::kFailedPrecondition);
  Rig other({16, 1});
  const Ticket first = *other.Submit(0);
  const Ticket foreign = *other.Submit(1);
  EXPECT_EQ(rig.scheduler->Cancel(foreign).code(), StatusCode::kFailedPrecondition);
  EXPECT_TRUE(other.scheduler->Wait(foreign, kLong).ok());
  EXPECT_FALSE(rig.Arrived(1));
  EXPECT_EQ(rig.scheduler->Stats().cancelled, 1);
}

TEST(Scheduler, AFailedCopyFailsItsTicketAlone) {
  Rig rig({16, 2}, {{2, Fault{}}});
  std::vector<Ticket> tickets;
  for (size_t i = 0; i < 5; ++i) tickets.push_back(*rig.Submit(i));
  for (size_t i = 0; i < 5; ++i) {
    EXPECT_EQ(rig.scheduler->Wait(tickets[i], kLong).code(), i == 2 ? StatusCode::kDataLoss : StatusCode::kOk);
    EXPECT_EQ(rig.Arrived(i), i != 2);
  }
  EXPECT_EQ(rig.scheduler->Stats().failed, 1);
  EXPECT_EQ(rig.scheduler->Stats().completed, 4);
}

TEST(Scheduler, ACopyThatNeverCompletesRunsIntoTheLimit) {
  Rig rig({16, 2}, {{0, Fault{Fault::Kind::kNever, OkStatus(), Nanoseconds(0)}}});
  const Ticket lost = *rig.Submit(0);
  const Ticket good = *rig.Submit(1);
  EXPECT_EQ(rig.scheduler->Wait(lost, Nanoseconds(5000)).code(), StatusCode::kDeadlineExceeded);
  EXPECT_EQ(rig.device.Now(), Nanoseconds(5000));
  EXPECT_TRUE(good.done());  // noticed on the way
  EXPECT_FALSE(lost.done());
  EXPECT_TRUE(rig.scheduler->Wait(*rig.Submit(2), kLong).ok());
  const Ticket waiting = *rig.Submit(3);
  const Ticket queued = *rig.Submit(4);
  rig.scheduler.reset();
  EXPECT_EQ(lost.status().code(), StatusCode::kAborted);
  EXPECT_EQ(waiting.status().code(), StatusCode::kAborted);
  EXPECT_EQ(queued.status().code(), StatusCode::kCancelled);
}

TEST(Scheduler, CopiesMayOvertakeEachOther) {
  Rig rig({16, 3}, {{0, Fault{Fault::Kind::kLate, OkStatus(), Nanoseconds(50000)}}});
  const Ticket late = *rig.Submit(0);
  const Ticket early = *rig.Submit(1);
  EXPECT_TRUE(rig.scheduler->Wait(early, kLong).ok());
  EXPECT_TRUE(rig.Arrived(1));
  EXPECT_FALSE(late.done());
  EXPECT_TRUE(rig.scheduler->Wait(late, kLong).ok());
  EXPECT_TRUE(rig.Arrived(0));
}

TEST(Scheduler, AnEngineThatIsFullIsAskedAgain) {
  const Fault full{Fault::Kind::kRefuse, Status(StatusCode::kResourceExhausted, "full"), Nanoseconds(0)};
  Rig rig({16, 4}, {{0, full}, {2, full}, {3, full}});
  // With nothing in flight nothing would ever ask again: the refusal is final.
  EXPECT_EQ(rig.Submit(0)->status().code(), StatusCode::kResourceExhausted);
  const Ticket first = *rig.Submit(1);
  const Ticket second = *rig.Submit(2);
  EXPECT_EQ(rig.scheduler->Stats().queued, 1);
  EXPECT_TRUE(rig.scheduler->Wait(first, kLong).ok());
  EXPECT_TRUE(rig.scheduler->Wait(second, kLong).ok());
  EXPECT_TRUE(rig.Arrived(2));
}

TEST(Scheduler, AnEngineThatIsLostFailsTheTicket) {
  const Fault lost{Fault::Kind::kRefuse, Status(StatusCode::kUnavailable, "lost"), Nanoseconds(0)};
  Rig rig({16, 4}, {{1, lost}});
  const Ticket good = *rig.Submit(0);
  const Ticket bad = *rig.Submit(1);
  EXPECT_EQ(bad.status().code(), StatusCode::kUnavailable);
  EXPECT_TRUE(rig.scheduler->Wait(good, kLong).ok());
}

// Random requests, waits and cancels over a device that fails, delays and loses copies now and then.
TEST(Scheduler, RandomWorkOverAFaultyDevice) {
  const uint32_t seed = 3021;
  SCOPED_TRACE(seed);
  std::mt19937 random(seed);
  std::map<int64_t, Fault> faults;
  for (int64_t n = 0; n < 2000; ++n) {
    const auto kind = static_cast<int>(random() % 12);
    if (kind == 0) faults[n] = Fault{};
    if (kind == 1) faults[n] = Fault{Fault::Kind::kLate, OkStatus(), Nanoseconds(random() % 20000)};
    if (kind == 2) faults[n] = Fault{Fault::Kind::kRefuse, Status(StatusCode::kResourceExhausted, ""), {}};
  }
  for (const int64_t n : {300, 700}) faults[n] = Fault{Fault::Kind::kNever, OkStatus(), {}};
  Rig rig({8, 5}, std::move(faults));
  std::vector<std::optional<Ticket>> tickets(64);
  SchedulerStats expected;
  const auto settle = [&](size_t i) {  // checks how the ticket of block i ended and clears the block
    const Status status = tickets[i]->status();
    if (status.ok()) ++expected.completed;
    if (status.code() == StatusCode::kCancelled) ++expected.cancelled;
    if (status.code() == StatusCode::kDataLoss || status.code() == StatusCode::kResourceExhausted) ++expected.failed;
    EXPECT_EQ(rig.Arrived(i), status.ok());
    std::fill_n(&rig.target[i * kBlock], kBlock, 0);
    tickets[i].reset();
  };
  for (int step = 0; step < 4000; ++step) {
    const size_t i = random() % 64;
    if (!tickets[i].has_value()) {
      const auto ticket = rig.Submit(i, random() % 2 == 0 ? Priority::kDemand : Priority::kPrefetch);
      (ticket.ok() ? expected.submitted : expected.refused) += 1;
      if (ticket.ok()) tickets[i] = *ticket;
    } else if (random() % 4 == 0) {
      if (rig.scheduler->Cancel(*tickets[i]).ok()) settle(i);
    } else if (rig.scheduler->Wait(*tickets[i], Nanoseconds(random() % 4000)).code() != StatusCode::kDeadlineExceeded) {
      settle(i);
    }
  }
  rig.device.Advance(kLong);
  for (int i = 0; i < 10; ++i) {
    rig.scheduler->Poll();
    rig.device.Advance(kLong);
  }
  int lost = 0;
  for (size_t i = 0; i < tickets.size(); ++i) {
    if (!tickets[i].has_value()) continue;
    if (tickets[i]->done()) {
      settle(i);
    } else {
      ++lost;
    }
  }
  const SchedulerStats stats = rig.scheduler->Stats();
  EXPECT_EQ(lost, 2);
  EXPECT_EQ(stats.in_flight, 2);
  EXPECT_EQ(stats.queued, 0);
  EXPECT_EQ(stats.submitted, expected.submitted);
  EXPECT_EQ(stats.completed, expected.completed);
  EXPECT_EQ(stats.failed, expected.failed);
  EXPECT_EQ(stats.cancelled, expected.cancelled);
  EXPECT_EQ(stats.refused, expected.refused);
  EXPECT_EQ(stats.submitted, stats.completed + stats.failed + stats.cancelled + lost);
  EXPECT_GT(stats.completed, 500);
  EXPECT_GT(stats.failed, 20);
  EXPECT_GT(stats.cancelled, 20);
}

}  // namespace
}  // namespace swell::transfer
