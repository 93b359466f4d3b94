// Goal: an engine used from many threads gives each what it would get alone, and TSan has nothing to say. Method:
// threads with own sequences beside threads that read, fork, cut and release a shared one; answers are compared, not
// timed.
#include <atomic>
#include <thread>

#include "tests/engine/fixture.h"

namespace swell {
namespace {

using testing::Attend;
using testing::MakeRows;
using testing::OpenEngine;
using testing::Put;
using testing::RandomRows;
using testing::Rows;

const ModelShape kShape{2, 2, 2, 32, 0, DType::kFloat16};

SequenceOptions SmallSegments() {
  SequenceOptions options;
  options.seal_tokens = 32;
  options.segment_tokens = 128;
  options.retrieval.floor_tokens = 0;
  return options;
}

TEST(Concurrency, ThreadsWithOwnSequences) {
  std::mt19937_64 random(testing::Seed());
  const Rows rows = MakeRows(random, kShape, 600);
  const auto queries = RandomRows(random, 4 * 32);
  auto engine = OpenEngine(kShape, true);
  const SequenceId alone = *engine->CreateSequence(SmallSegments());
  ASSERT_TRUE(Put(*engine, alone, 0, rows, 0, 600).ok());
  const auto expected = Attend(*engine, alone, 0, queries).output;
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int round = 0; round < 3; ++round) {
        const SequenceId own = *engine->CreateSequence(SmallSegments());
        for (int64_t begin = 0; begin < 600; begin += 50 + t) {
          if (!Put(*engine, own, 0, rows, begin, std::min<int64_t>(600, begin + 50 + t)).ok()) wrong.fetch_add(1);
        }
        if (Attend(*engine, own, 0, queries).output != expected) wrong.fetch_add(1);
        if (!engine->Release(own).ok()) wrong.fetch_add(1);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong.load(), 0);
}

TEST(Concurrency, ReadersOfASequenceThatGrows) {
  std::mt19937_64 random(testing::Seed());
  const Rows rows = MakeRows(random, kShape, 1200);
  const auto queries = RandomRows(random, 4 * 32);
  auto engine = OpenEngine(kShape, false);
  const SequenceId shared = *engine->CreateSequence(SmallSegments());
  ASSERT_TRUE(Put(*engine, shared, 0, rows, 0, 100).ok());
  std::atomic<bool> done{false};
  std::atomic<int> wrong{0};
  std::vector<std::thread> readers;
  for (int t = 0; t < 2; ++t) {
    readers.emplace_back([&] {
      while (!done.load()) {
        const auto answer = Attend(*engine, shared, 0, queries, AttendMode::kExact);
        const int64_t length = answer.certificates[0].tokens_visible;
        if (!answer.status.ok() || testing::LargestError(kShape, rows, queries, answer, length) > 2e-3)
          wrong.fetch_add(1);
        const SequenceId fork = *engine->Fork(shared);
        if (!engine->Truncate(fork, 50).ok() || !Put(*engine, fork, 0, rows, 50, 90).ok()) wrong.fetch_add(1);
        if (!engine->Release(fork).ok()) wrong.fetch_add(1);
      }
    });
  }
  for (int64_t t = 100; t < 1200; ++t) {
    if (!Put(*engine, shared, 0, rows, t, t + 1).ok()) wrong.fetch_add(1);
  }
  done.store(true);
  for (std::thread& reader : readers) reader.join();
  EXPECT_EQ(wrong.load(), 0);
}

// Batches that name the same sequences in different orders, each put long enough to seal before it returns.
TEST(Concurrency, BatchesOverTheSameSequences) {
  std::mt19937_64 random(testing::Seed());
  const Rows rows = MakeRows(random, kShape, 2000);
  auto engine = OpenEngine(kShape, true);
  std::vector<SequenceId> sequences;
  for (int s = 0; s < 3; ++s) sequences.push_back(*engine->CreateSequence(SmallSegments()));
  std::atomic<int64_t> put{0};
  std::vector<std::thread> threads;
  for (size_t t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int round = 0; round < 20; ++round) {
        std::vector<PutItem> items(3);
        std::vector<Status> statuses(3);
        for (size_t i = 0; i < 3; ++i) {
          items[i].sequence = sequences[(i + t) % 3];
          const auto length = engine->Length(items[i].sequence, 0);
          items[i].position = *length;  // another thread may be faster: then the item is refused
          items[i].tokens = 40;
          items[i].keys.data = rows.keys.data();
          items[i].values.data = rows.values.data();
        }
        static_cast<void>(engine->Put(0, items, statuses));
        for (const Status& status : statuses) put.fetch_add(status.ok() ? 40 : 0);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  int64_t held = 0;
  for (const SequenceId sequence : sequences) held += *engine->Length(sequence, 0);
  EXPECT_EQ(held, put.load());
}

TEST(Concurrency, ReleaseDuringUse) {
  std::mt19937_64 random(testing::Seed());
  const Rows rows = MakeRows(random, kShape, 300);
  const auto queries = RandomRows(random, 4 * 32);
  auto engine = OpenEngine(kShape, false);
  std::atomic<int> wrong{0};
  for (int round = 0; round < 10; ++round) {
    const SequenceId shared = *engine->CreateSequence(SmallSegments());
    ASSERT_TRUE(Put(*engine, shared, 0, rows, 0, 100).ok());
    std::thread writer([&] {
      for (int64_t t = 100; t < 300; ++t) {
        if (!Put(*engine, shared, 0, rows, t, t + 1).ok()) return;  // released meanwhile
      }
    });
    std::thread reader([&] {
      for (int i = 0; i < 20; ++i) {
        const auto answer = Attend(*engine, shared, 0, queries);
        if (!answer.status.ok() && answer.status.detail() != StatusDetail::kStaleHandle) wrong.fetch_add(1);
      }
    });
    if (!engine->Truncate(shared, 60).ok()) wrong.fetch_add(1);
    if (!engine->Release(shared).ok()) wrong.fetch_add(1);
    writer.join();
    reader.join();
  }
  EXPECT_EQ(wrong.load(), 0);
}

}  // namespace
}  // namespace swell
