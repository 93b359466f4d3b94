// Goal: sequences come, fork, are cut and go; memory follows exactly, and nobody sees anybody else's tokens.
#include <malloc.h>

#include "tests/engine/fixture.h"

namespace swell {
namespace {

using testing::Attend;
using testing::MakeRows;
using testing::OpenEngine;
using testing::Put;
using testing::RandomRows;
using testing::Rows;

const ModelShape kShape{2, 2, 2, 32, 0, DType::kFloat32};

SequenceOptions SmallSegments() {
  SequenceOptions options;
  options.seal_tokens = 64;
  options.segment_tokens = 256;
  return options;
}

SequenceOptions FlatIndex() {
  SequenceOptions options;
  options.index.kind = IndexKind::kFlat;
  return options;
}

TEST(Lifecycle, ReleasedMemoryComesBack) {
  std::mt19937_64 random(testing::Seed());
  auto engine = OpenEngine(kShape);
  const Rows rows = MakeRows(random, kShape, 1000);
  const SequenceId a = *engine->CreateSequence(SmallSegments());
  ASSERT_TRUE(Put(*engine, a, 0, rows, 0, 1000).ok());
  ASSERT_TRUE(Put(*engine, a, 1, rows, 0, 500).ok());
  EXPECT_GE(engine->Stats().bytes_in_use, 1500U * 2 * 2 * 32 * 4);
  EXPECT_EQ(engine->Stats().sequences, 1);
  ASSERT_TRUE(engine->Release(a).ok());
  EXPECT_EQ(engine->Stats().bytes_in_use, 0U);
  EXPECT_EQ(engine->Stats().sequences, 0);
  EXPECT_EQ(engine->Release(a).detail(), StatusDetail::kStaleHandle);
}

TEST(Lifecycle, ForksShareUntilTheyWrite) {
  std::mt19937_64 random(testing::Seed());
  auto engine = OpenEngine(kShape);
  const Rows rows = MakeRows(random, kShape, 1000);
  const Rows others = MakeRows(random, kShape, 1000);
  const auto queries = RandomRows(random, 4 * 32);
  const auto expect = [&](SequenceId sequence, const Rows& of, int64_t tokens) {
    const auto answer = Attend(*engine, sequence, 0, queries, AttendMode::kExact);
    EXPECT_LT(testing::LargestError(kShape, of, queries, answer, tokens), 1e-5);
  };
  // Within the sinks, within a block of the tail, and where one ends: 4 sinks and 7 blocks of 128.
  for (const int64_t length : {2, 100, 900, 937}) {
    SCOPED_TRACE(length);
    const SequenceId a = *engine->CreateSequence(SmallSegments());
    ASSERT_TRUE(Put(*engine, a, 0, rows, 0, length).ok());
    const uint64_t before = engine->Stats().bytes_in_use;
    const SequenceId b = *engine->Fork(a);
    EXPECT_EQ(engine->Stats().bytes_in_use, before);
    // Both grow, with different tokens.
    Rows mixed = rows;
    const int64_t offset = length * 2 * 32;
    std::copy(others.keys.begin() + offset, others.keys.end(), mixed.keys.begin() + offset);
    std::copy(others.values.begin() + offset, others.values.end(), mixed.values.begin() + offset);
    for (const int64_t grown : {length + 1, length + 60}) {
      const int64_t from = grown == length + 1 ? length : length + 1;
      ASSERT_TRUE(Put(*engine, a, 0, rows, from, grown).ok());
      ASSERT_TRUE(Put(*engine, b, 0, others, from, grown).ok());
      expect(a, rows, grown);
      expect(b, mixed, grown);
    }
    ASSERT_TRUE(engine->Release(a).ok());
    expect(b, mixed, length + 60);
    ASSERT_TRUE(engine->Release(b).ok());
    EXPECT_EQ(engine->Stats().bytes_in_use, 0U);
  }
}

TEST(Lifecycle, AThousandForksCostLessThanOnePercent) {
  std::mt19937_64 random(testing::Seed());
  const ModelShape shape{4, 2, 4, 64, 0, DType::kFloat16};
  auto engine = OpenEngine(shape);
  const Rows rows = MakeRows(random, shape, 32768);
  const SequenceId prefix = *engine->CreateSequence(FlatIndex());
  for (int32_t layer = 0; layer < 4; ++layer) ASSERT_TRUE(Put(*engine, prefix, layer, rows, 0, 32768).ok());
  const uint64_t before = engine->Stats().bytes_in_use;
  const size_t heap_before = mallinfo2().uordblks;  // a sanitizer's allocator reports 0 here and below
  std::vector<SequenceId> forks;
  for (int i = 0; i < 1000; ++i) forks.push_back(*engine->Fork(prefix));
  EXPECT_EQ(engine->Stats().bytes_in_use, before) << "forks copy no rows";
  const size_t heap_growth = mallinfo2().uordblks - heap_before;
  RecordProperty("heap_bytes_of_1000_forks", std::to_string(heap_growth));
  EXPECT_LT(heap_growth, before / 100);
  const auto queries = RandomRows(random, 8 * 64);
  EXPECT_EQ(Attend(*engine, forks[999], 3, queries).output, Attend(*engine, prefix, 3, queries).output);
  for (const SequenceId fork : forks) ASSERT_TRUE(engine->Release(fork).ok());
  EXPECT_EQ(engine->Stats().bytes_in_use, before);
}

TEST(Lifecycle, LayersMayBeOfDifferentLength) {
  std::mt19937_64 random(testing::Seed());
  auto engine = OpenEngine(kShape);
  const Rows rows = MakeRows(random, kShape, 300);
  const SequenceId a = *engine->CreateSequence(SmallSegments());
  ASSERT_TRUE(Put(*engine, a, 0, rows, 0, 300).ok());
  ASSERT_TRUE(Put(*engine, a, 1, rows, 0, 120).ok());
  ASSERT_TRUE(engine->Truncate(a, 200).ok());
  EXPECT_EQ(*engine->Length(a, 0), 200);
  EXPECT_EQ(*engine->Length(a, 1), 120);
  ASSERT_TRUE(engine->Truncate(a, 0).ok());
  EXPECT_EQ(*engine->Length(a, 0), 0);
  EXPECT_EQ(engine->Stats().bytes_in_use, 0U);
  ASSERT_TRUE(Put(*engine, a, 0, rows, 0, 300).ok());
}

TEST(Lifecycle, TheBudgetIsKeptAndARefusedPutChangesNothing) {
  std::mt19937_64 random(testing::Seed());
  const uint64_t budget = uint64_t{300} * 2 * 2 * 32 * 4;
  auto engine = OpenEngine(kShape, true, 2, budget);
  const Rows rows = MakeRows(random, kShape, 1000);
  const SequenceId a = *engine->CreateSequence(FlatIndex());
  ASSERT_TRUE(Put(*engine, a, 0, rows, 0, 200).ok());
  const uint64_t used = engine->Stats().bytes_in_use;
  const Status refused = Put(*engine, a, 0, rows, 200, 1000);
  EXPECT_EQ(refused.code(), StatusCode::kResourceExhausted);
  EXPECT_EQ(refused.detail(), StatusDetail::kOverBudget);
  EXPECT_EQ(*engine->Length(a, 0), 200);
  EXPECT_EQ(engine->Stats().bytes_in_use, used);
  EXPECT_LE(engine->Stats().bytes_peak, budget);
  const auto queries = RandomRows(random, 4 * 32);
  EXPECT_LT(testing::LargestError(kShape, rows, queries, Attend(*engine, a, 0, queries), 200), 1e-5);
  ASSERT_TRUE(Put(*engine, a, 0, rows, 200, 210).ok()) << "what fits is still taken";
}

TEST(Lifecycle, ClosingWithBuildsUnderWay) {
  std::mt19937_64 random(testing::Seed());
  const Rows rows = MakeRows(random, kShape, 2000);
  auto engine = OpenEngine(kShape, false);
  for (int s = 0; s < 4; ++s) {
    const SequenceId a = *engine->CreateSequence(SmallSegments());
    for (int64_t begin = 0; begin < 2000; begin += 32) {
      ASSERT_TRUE(Put(*engine, a, 0, rows, begin, std::min<int64_t>(2000, begin + 32)).ok());
    }
    if (s % 2 == 0) {
      ASSERT_TRUE(engine->Release(a).ok());
    }
  }
}

}  // namespace
}  // namespace swell
