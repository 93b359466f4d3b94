// Goal: segments depend on token positions alone, and in deterministic mode so does every bit of an answer: whatever
// the chunks, the threads, the batch, the forks. Method: the same tokens by different ways, outputs compared bit by
// bit.
#include "tests/engine/fixture.h"

namespace swell {
namespace {

using testing::Attend;
using testing::MakeRows;
using testing::OpenEngine;
using testing::Put;
using testing::RandomRows;
using testing::Rows;

constexpr int64_t kTokens = 1500;
const ModelShape kShape{2, 2, 2, 32, 0, DType::kFloat16};

SequenceOptions Options() {
  SequenceOptions options;
  options.seal_tokens = 64;
  options.segment_tokens = 256;
  options.retrieval.floor_tokens = 0;
  return options;
}

// Tokens and clusters of the segments of a layer.
std::vector<std::pair<int64_t, int64_t>> Segments(Engine& engine, SequenceId sequence) {
  std::vector<std::pair<int64_t, int64_t>> segments;
  const LayerInfo info = *engine.Inspect(sequence, 0);
  for (const SegmentInfo& segment : info.segments) {
    segments.emplace_back(segment.first_token, segment.tokens);
  }
  return segments;
}

SequenceId PutInChunks(Engine& engine, const Rows& rows, int64_t chunk, int64_t end = kTokens) {
  const SequenceId sequence = *engine.CreateSequence(Options());
  for (int64_t begin = 0; begin < end; begin += chunk) {
    EXPECT_TRUE(Put(engine, sequence, 0, rows, begin, std::min(end, begin + chunk)).ok());
  }
  return sequence;
}

TEST(Sealing, SegmentsLieBackToBackAndLeaveTheWindow) {
  std::mt19937_64 random(testing::Seed());
  auto engine = OpenEngine(kShape);
  const Rows rows = MakeRows(random, kShape, kTokens);
  const SequenceId sequence = PutInChunks(*engine, rows, kTokens);
  const LayerInfo info = *engine->Inspect(sequence, 0);
  int64_t end = 4;
  for (const SegmentInfo& segment : info.segments) {
    EXPECT_EQ(segment.first_token, end);
    EXPECT_TRUE(segment.tokens == 64 || segment.tokens == 256);
    EXPECT_GT(segment.clusters, 0);
    end += segment.tokens;
  }
  EXPECT_EQ(info.sealed_tokens, end - 4);
  EXPECT_EQ(info.tail_tokens, kTokens - end);
  EXPECT_GE(info.tail_tokens, 64);
  EXPECT_LT(info.tail_tokens, 64 + 64);
}

TEST(Sealing, AnswersDoNotDependOnChunksThreadsOrForks) {
  std::mt19937_64 random(testing::Seed());
  const Rows rows = MakeRows(random, kShape, kTokens);
  const auto queries = RandomRows(random, 4 * 32);
  auto engine = OpenEngine(kShape, true, 2);
  const SequenceId bulk = PutInChunks(*engine, rows, kTokens);
  const auto expected = Attend(*engine, bulk, 0, queries);
  const auto exact = Attend(*engine, bulk, 0, queries, AttendMode::kExact);
  ASSERT_GT(expected.certificates[0].estimated_share, 0.0F);
  for (const int threads : {1, 2, 4}) {
    auto other = OpenEngine(kShape, true, threads);
    for (const int64_t chunk : {1, 17, 64, 512}) {
      const SequenceId sequence = PutInChunks(*other, rows, chunk);
      EXPECT_EQ(Segments(*other, sequence), Segments(*engine, bulk)) << "chunk " << chunk;
      EXPECT_EQ(Attend(*other, sequence, 0, queries).output, expected.output) << "chunk " << chunk;
      EXPECT_EQ(Attend(*other, sequence, 0, queries, AttendMode::kExact).output, exact.output) << "chunk " << chunk;
      ASSERT_TRUE(other->Release(sequence).ok());
    }
    EXPECT_GT(other->Stats().segments_compacted, 0);
  }
  const SequenceId half = PutInChunks(*engine, rows, 100, 700);
  const SequenceId fork = *engine->Fork(half);
  ASSERT_TRUE(Put(*engine, half, 0, rows, 700, 900).ok());
  ASSERT_TRUE(Put(*engine, fork, 0, rows, 700, kTokens).ok());
  EXPECT_EQ(Attend(*engine, fork, 0, queries).output, expected.output);
}

TEST(Sealing, TheBackgroundReachesTheSameStateWithoutHoldingAppendsUp) {
  std::mt19937_64 random(testing::Seed());
  const Rows rows = MakeRows(random, kShape, kTokens);
  const auto queries = RandomRows(random, 4 * 32);
  auto engine = OpenEngine(kShape, true);
  const auto expected = Attend(*engine, PutInChunks(*engine, rows, kTokens), 0, queries);
  auto background = OpenEngine(kShape, false);
  const SequenceId sequence = PutInChunks(*background, rows, 1);
  ASSERT_TRUE(background->WaitSealed(sequence).ok());
  EXPECT_EQ(Attend(*background, sequence, 0, queries).output, expected.output);
}

TEST(Sealing, ATruncatedSequenceEqualsOneThatNeverGrew) {
  std::mt19937_64 random(testing::Seed());
  const Rows rows = MakeRows(random, kShape, kTokens);
  const auto queries = RandomRows(random, 4 * 32);
  auto engine = OpenEngine(kShape);
  for (const int64_t cut : {1, 3, 4, 5, 100, 260, 261, 511, 700, 1400, 1499}) {
    const SequenceId grown = PutInChunks(*engine, rows, kTokens);
    ASSERT_TRUE(engine->Truncate(grown, cut).ok());
    EXPECT_EQ(*engine->Length(grown, 0), cut);
    const SequenceId fresh = PutInChunks(*engine, rows, cut, cut);
    const auto exact = Attend(*engine, fresh, 0, queries, AttendMode::kExact).output;
    const auto again = Attend(*engine, grown, 0, queries, AttendMode::kExact).output;
    for (size_t i = 0; i < exact.size(); ++i) EXPECT_NEAR(again[i], exact[i], 1e-5) << "cut " << cut;
    // And it grows again to the same answers.
    ASSERT_TRUE(Put(*engine, grown, 0, rows, cut, kTokens).ok());
    const SequenceId bulk = PutInChunks(*engine, rows, kTokens);
    EXPECT_EQ(Attend(*engine, grown, 0, queries).output, Attend(*engine, bulk, 0, queries).output) << "cut " << cut;
    for (const SequenceId sequence : {grown, fresh, bulk}) ASSERT_TRUE(engine->Release(sequence).ok());
  }
  EXPECT_EQ(engine->Stats().bytes_in_use, 0U);
}

TEST(Sealing, ABuildThatATruncationOvertakesIsDropped) {
  std::mt19937_64 random(testing::Seed());
  constexpr int64_t kLong = 2048 + 4 + 64;
  SequenceOptions options = Options();
  options.seal_tokens = options.segment_tokens = 2048;
  const Rows rows = MakeRows(random, kShape, kLong);
  const Rows others = MakeRows(random, kShape, kLong);
  const auto queries = RandomRows(random, 4 * 32);
  auto engine = OpenEngine(kShape, false);
  // The truncation comes later and later, from before the build has begun to after it has ended.
  bool building = true;
  for (int work = 1; building; work *= 2) {
    const SequenceId sequence = *engine->CreateSequence(options);
    ASSERT_TRUE(Put(*engine, sequence, 0, rows, 0, kLong - 1).ok());
    ASSERT_TRUE(Put(*engine, sequence, 0, rows, kLong - 1, kLong).ok());  // completes 2,048 tokens for the background
    for (int i = 0; i < work; ++i) ASSERT_TRUE(Attend(*engine, sequence, 0, queries, AttendMode::kExact).status.ok());
    building = (*engine->Inspect(sequence, 0)).sealing;
    ASSERT_TRUE(engine->Truncate(sequence, 0).ok());
    for (int64_t begin = 0; begin < 200; begin += 20) {  // short puts do not wait for the background
      ASSERT_TRUE(Put(*engine, sequence, 0, others, begin, begin + 20).ok());
    }
    ASSERT_TRUE(engine->WaitSealed(sequence).ok());
    EXPECT_EQ((*engine->Inspect(sequence, 0)).sealed_tokens, 0);
    const auto answer = Attend(*engine, sequence, 0, queries, AttendMode::kExact);
    EXPECT_LT(testing::LargestError(kShape, others, queries, answer, 200), 2e-3);
    ASSERT_TRUE(engine->Release(sequence).ok());
  }
}

TEST(Sealing, RefusedMemoryLeavesTokensExact) {
  std::mt19937_64 random(testing::Seed());
  const Rows rows = MakeRows(random, kShape, kTokens);
  const auto queries = RandomRows(random, 4 * 32);
  // Room for the rows, not for a second copy of them.
  const uint64_t row_bytes = uint64_t{2} * 2 * 32 * 2;
  auto engine = OpenEngine(kShape, true, 2, row_bytes * (kTokens + 140));
  const SequenceId sequence = PutInChunks(*engine, rows, kTokens);
  EXPECT_EQ(*engine->Length(sequence, 0), kTokens);
  EXPECT_GT(engine->Stats().builds_failed, 0);
  EXPECT_LE(engine->Stats().bytes_peak, engine->Stats().budget_bytes);
  const auto answer = Attend(*engine, sequence, 0, queries);
  EXPECT_LT(testing::LargestError(kShape, rows, queries, answer, kTokens), 2e-3);
}

TEST(Sealing, ALongPutIsSealedPartByPartWithinTheBudget) {
  std::mt19937_64 random(testing::Seed());
  const Rows rows = MakeRows(random, kShape, kTokens);
  const uint64_t row_bytes = uint64_t{2} * 2 * 32 * 2;
  auto engine = OpenEngine(kShape, true, 2, row_bytes * kTokens * 16 / 10);  // not twice the rows
  const SequenceId sequence = PutInChunks(*engine, rows, kTokens);
  EXPECT_GT((*engine->Inspect(sequence, 0)).sealed_tokens, kTokens * 8 / 10);
  EXPECT_EQ(engine->Stats().builds_failed, 0);
  EXPECT_LE(engine->Stats().bytes_peak, engine->Stats().budget_bytes);
}

}  // namespace
}  // namespace swell
