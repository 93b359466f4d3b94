// Goal: the indexes that find single tokens keep the contract of all: exact when the budget is everything, what is read
// is counted once, and append, fork, truncate and release leave the graph in order. Keys are drawn around centres and
// queries near them, so that a graph has something to be drawn from.
#include <algorithm>
#include <atomic>
#include <set>
#include <thread>

#include "swell/faiss_index.h"
#include "tests/engine/fixture.h"

namespace swell {
namespace {

using testing::Answer;
using testing::Attend;
using testing::LargestError;
using testing::Put;
using testing::RandomRows;
using testing::Rows;

constexpr int64_t kTokens = 1500;
constexpr int64_t kPrompt = 1200;
constexpr int64_t kCentres = 60;
const ModelShape kShape{1, 2, 2, 32, 0, DType::kFloat16};
// Of the errors of answers that are partly estimated.
constexpr double kBound = 0.2;
constexpr int64_t kWidth = int64_t{2} * 32;

std::unique_ptr<Engine> Open(bool deterministic = true, uint64_t budget = 0) {
  EngineOptions options;
  options.shape = kShape;
  options.threads = 2;
  options.deterministic = deterministic;
  options.host_budget_bytes = budget;
  options.faiss = BuildFaissIndexOfKind;
  return testing::OpenEngineWith(options);
}

class TokenIndex : public ::testing::TestWithParam<IndexKind> {
 protected:
  TokenIndex() : centres_(RandomRows(random_, kCentres * kWidth, 1.5F)), rows_(MakeRows(0.4F, kCentres)) {
    options_.index.kind = GetParam();
    options_.seal_tokens = 64;
    options_.segment_tokens = 256;
    options_.retrieval.floor_tokens = 0;
    options_.retrieval.retrieve_share = 0.05F;
  }

  Rows MakeRows(float spread, int64_t centres) {
    Rows rows{RandomRows(random_, kTokens * kWidth), RandomRows(random_, kTokens * kWidth)};
    for (int64_t t = 0; t < kTokens; ++t) {
      const auto centre = static_cast<int64_t>(random_() % centres);
      for (int64_t i = 0; i < kWidth; ++i) {
        float& key = rows.keys[t * kWidth + i];
        key = centres_[centre * kWidth + i] + spread * key;
        rows.values[t * kWidth + i] += 2;  // so that errors are relative to something
      }
    }
    return rows;
  }

  // [n, query heads, head_dim], each near some centre of its KV head.
  std::vector<float> Queries(int64_t n) {
    std::vector<float> queries = RandomRows(random_, n * 4 * 32, 0.7F);
    for (int64_t row = 0; row < n * 4; ++row) {
      const auto centre = static_cast<int64_t>(random_() % kCentres);
      for (int64_t i = 0; i < 32; ++i) {
        queries[row * 32 + i] += 0.5F * centres_[centre * kWidth + row % 4 / 2 * 32 + i];
      }
    }
    return queries;
  }

  // A sequence with kPrompt tokens that were attended to in chunks, as a prefill does.
  SequenceId Prefill(Engine& engine) {
    const SequenceId sequence = *engine.CreateSequence(options_);
    for (int64_t begin = 0; begin < kPrompt; begin += 300) {
      EXPECT_TRUE(Put(engine, sequence, 0, rows_, begin, begin + 300).ok());
      EXPECT_TRUE(Attend(engine, sequence, 0, Queries(300), AttendMode::kExact).status.ok());
    }
    return sequence;
  }

  static int64_t GraphTokens(Engine& engine, SequenceId sequence) { return engine.Inspect(sequence, 0)->graph_tokens; }
  static int64_t SealedTokens(Engine& engine, SequenceId sequence) {
    return engine.Inspect(sequence, 0)->sealed_tokens;
  }
  static bool Builds() { return HasKeyIndex(GetParam()); }
  // Least share of the best tokens that is found. FAISS's lists and graph are not made for such queries.
  static double Recall() {
    switch (GetParam()) {
      case IndexKind::kGraph:
        return 0.9;
      case IndexKind::kFaissIvf:
      case IndexKind::kFaissHnsw:
        return 0.3;
      default:
        return 1;
    }
  }

  std::mt19937_64 random_{testing::Seed()};
  std::vector<float> centres_;
  Rows rows_;
  SequenceOptions options_;
};

// ThreadSanitizer does not know what GCC's OpenMP, which FAISS uses, waits for.
#ifdef __SANITIZE_THREAD__
constexpr IndexKind kLast = IndexKind::kScan;
#else
constexpr IndexKind kLast = IndexKind::kFaissHnsw;
#endif

std::vector<IndexKind> AllKinds() {
  std::vector<IndexKind> kinds;
  for (auto kind = static_cast<int32_t>(IndexKind::kGraph); kind <= static_cast<int32_t>(kLast); ++kind) {
    kinds.push_back(static_cast<IndexKind>(kind));
  }
  return kinds;
}

std::string NameOf(const ::testing::TestParamInfo<IndexKind>& test) {
  const char* const names[] = {"Graph", "Scan", "FaissFlat", "FaissIvf", "FaissHnsw"};
  return names[static_cast<int32_t>(test.param) - static_cast<int32_t>(IndexKind::kGraph)];
}

INSTANTIATE_TEST_SUITE_P(All, TokenIndex, ::testing::ValuesIn(AllKinds()), NameOf);

TEST_P(TokenIndex, ExactWithTheWholeBudget) {
  auto engine = Open();
  const SequenceId sequence = Prefill(*engine);
  RetrievalOptions everything = options_.retrieval;
  everything.retrieve_above = 0;
  everything.retrieve_share = 1;
  for (const int64_t n : {1, 3}) {
    const auto queries = Queries(n);
    const Answer answer = Attend(*engine, sequence, 0, queries, AttendMode::kRetrieve, &everything);
    EXPECT_LT(LargestError(kShape, rows_, queries, answer, kPrompt), 2e-3);
  }
}

TEST_P(TokenIndex, ReadsTheBudgetAndEstimatesTheRest) {
  auto engine = Open();
  const SequenceId sequence = Prefill(*engine);
  RetrievalOptions dropping = options_.retrieval;
  dropping.estimate_share = 0;
  double with = 0, without = 0;
  for (int round = 0; round < 8; ++round) {
    const auto queries = Queries(1);
    const Answer answer = Attend(*engine, sequence, 0, queries);
    const Answer dropped = Attend(*engine, sequence, 0, queries, AttendMode::kRetrieve, &dropping);
    with += LargestError(kShape, rows_, queries, answer, kPrompt);
    without += LargestError(kShape, rows_, queries, dropped, kPrompt);
    const int64_t sealed = SealedTokens(*engine, sequence);
    for (size_t i = 0; i < answer.certificates.size(); ++i) {
      const int64_t found = answer.certificates[i].tokens_read - (kPrompt - sealed);
      EXPECT_LE(found, sealed / 20 + 1);
      EXPECT_GT(found, sealed / 40);
      EXPECT_GT(answer.certificates[i].estimated_share, 0.0F);
      EXPECT_GT(answer.certificates[i].predicted_error, 0.0F);
      EXPECT_EQ(dropped.certificates[i].tokens_read, answer.certificates[i].tokens_read);
      EXPECT_EQ(dropped.certificates[i].estimated_share, 0.0F);
    }
  }
  EXPECT_LT(2 * with, without);
}

// Keys of a centre are alike, so the estimate is right but for rounding, whatever part of a cluster is read.
TEST_P(TokenIndex, TokensThatAreReadAreNotEstimatedAsWell) {
  rows_ = MakeRows(0, 8);
  auto engine = Open();
  const SequenceId sequence = Prefill(*engine);
  for (const float share : {0.01F, 0.1F, 0.5F}) {
    RetrievalOptions retrieval = options_.retrieval;
    retrieval.retrieve_share = share;
    const auto queries = Queries(1);
    const Answer answer = Attend(*engine, sequence, 0, queries, AttendMode::kRetrieve, &retrieval);
    EXPECT_LT(LargestError(kShape, rows_, queries, answer, kPrompt), 0.02) << "share " << share;
  }
}

TEST_P(TokenIndex, FindsTheBestTokens) {
  auto engine = Open();
  const SequenceId sequence = Prefill(*engine);
  constexpr int64_t kTop = 20;
  int64_t common = 0, all = 0;
  for (int round = 0; round < 10; ++round) {
    const auto queries = Queries(1);
    EXPECT_TRUE(Attend(*engine, sequence, 0, queries).status.ok());
    std::vector<int64_t> found(4 * kTop), best(4 * kTop);
    for (auto* tokens : {&found, &best}) {
      SearchItem item;
      item.sequence = sequence;
      item.mode = tokens == &best ? AttendMode::kExact : AttendMode::kRetrieve;
      item.queries = queries.data();
      item.top_k = kTop;
      item.tokens = tokens->data();
      Status status;
      ASSERT_TRUE(engine->Search(0, {&item, 1}, {&status, 1}).ok());
    }
    for (int64_t head = 0; head < 4; ++head) {
      const std::set<int64_t> known(best.begin() + head * kTop, best.begin() + (head + 1) * kTop);
      for (int64_t k = 0; k < kTop; ++k) common += static_cast<int64_t>(known.count(found[head * kTop + k]));
      all += kTop;
    }
  }
  EXPECT_GE(static_cast<double>(common), Recall() * static_cast<double>(all));
}

TEST_P(TokenIndex, GraphGrowsAndIsShared) {
  if (!Builds()) GTEST_SKIP() << "nothing is built";
  auto engine = Open();
  const SequenceId sequence = Prefill(*engine);
  EXPECT_EQ(GraphTokens(*engine, sequence), 0);
  const auto queries = Queries(1);
  EXPECT_TRUE(Attend(*engine, sequence, 0, queries).status.ok());
  const int64_t built = GraphTokens(*engine, sequence);
  EXPECT_EQ(built, SealedTokens(*engine, sequence));

  const uint64_t before = engine->Stats().bytes_in_use;
  const SequenceId fork = *engine->Fork(sequence);
  EXPECT_EQ(GraphTokens(*engine, fork), built);
  EXPECT_EQ(engine->Stats().bytes_in_use, before);
  EXPECT_EQ(Attend(*engine, fork, 0, queries).output, Attend(*engine, sequence, 0, queries).output);

  // One side adds to the graph; the other goes on with the part that it knows.
  for (const SequenceId grown : {sequence, fork}) {
    ASSERT_TRUE(Put(*engine, grown, 0, rows_, kPrompt, kTokens).ok());
    const Answer answer = Attend(*engine, grown, 0, queries);
    EXPECT_TRUE(answer.status.ok());
    EXPECT_EQ(GraphTokens(*engine, grown), grown == sequence ? SealedTokens(*engine, grown) : built);
  }
  ASSERT_TRUE(engine->Release(sequence).ok());
  ASSERT_TRUE(engine->Truncate(fork, kPrompt).ok());
  EXPECT_EQ(GraphTokens(*engine, fork), built);
  EXPECT_EQ(Attend(*engine, fork, 0, queries).certificates[0].tokens_visible, kPrompt);
  ASSERT_TRUE(engine->Release(fork).ok());
  EXPECT_EQ(engine->Stats().bytes_in_use, 0U);
}

TEST_P(TokenIndex, TruncationLetsTheGraphGoAndANewOneIsDrawn) {
  auto engine = Open();
  const SequenceId sequence = Prefill(*engine);
  const auto queries = Queries(1);
  EXPECT_TRUE(Attend(*engine, sequence, 0, queries).status.ok());
  ASSERT_TRUE(engine->Truncate(sequence, 500).ok());
  EXPECT_EQ(GraphTokens(*engine, sequence), 0);
  EXPECT_LT(LargestError(kShape, rows_, queries, Attend(*engine, sequence, 0, queries), 500), kBound);
  ASSERT_TRUE(Put(*engine, sequence, 0, rows_, 500, 1000).ok());
  ASSERT_TRUE(Attend(*engine, sequence, 0, Queries(500), AttendMode::kExact).status.ok());
  EXPECT_LT(LargestError(kShape, rows_, queries, Attend(*engine, sequence, 0, queries), 1000), kBound);
  EXPECT_EQ(GraphTokens(*engine, sequence), Builds() ? SealedTokens(*engine, sequence) : 0);
}

TEST_P(TokenIndex, ABudgetWithoutRoomForTheGraph) {
  if (!Builds()) GTEST_SKIP() << "nothing is built";
  auto roomy = Open();
  const uint64_t enough = [&] {
    Prefill(*roomy);
    return roomy->Stats().bytes_peak;
  }();
  auto engine = Open(true, enough + 1024);
  const SequenceId sequence = Prefill(*engine);
  const auto queries = Queries(1);
  EXPECT_LT(LargestError(kShape, rows_, queries, Attend(*engine, sequence, 0, queries), kPrompt), kBound);
  EXPECT_EQ(GraphTokens(*engine, sequence), 0);
  EXPECT_EQ(engine->Stats().builds_failed, 1);
}

TEST_P(TokenIndex, ReadersWhileTheGraphIsDrawnAndGrows) {
  auto engine = Open(false);
  const SequenceId sequence = Prefill(*engine);
  const auto queries = Queries(1);
  std::atomic<bool> done{false};
  std::atomic<int> wrong{0};
  std::vector<std::thread> readers;
  for (int t = 0; t < 2; ++t) {
    readers.emplace_back([&] {
      while (!done.load()) {
        const Answer answer = Attend(*engine, sequence, 0, queries);
        const int64_t length = answer.certificates[0].tokens_visible;
        if (!answer.status.ok() || LargestError(kShape, rows_, queries, answer, length) > kBound) wrong.fetch_add(1);
        const SequenceId fork = *engine->Fork(sequence);
        if (!engine->Truncate(fork, kPrompt).ok() || !Put(*engine, fork, 0, rows_, kPrompt, kPrompt + 90).ok() ||
            !Attend(*engine, fork, 0, queries).status.ok() || !engine->Release(fork).ok()) {
          wrong.fetch_add(1);
        }
      }
    });
  }
  for (int64_t t = kPrompt; t < kTokens; t += 20) {
    if (!Put(*engine, sequence, 0, rows_, t, t + 20).ok()) wrong.fetch_add(1);
  }
  if (!engine->WaitSealed(sequence).ok()) wrong.fetch_add(1);
  done.store(true);
  for (std::thread& reader : readers) reader.join();
  EXPECT_EQ(wrong.load(), 0);
  ASSERT_TRUE(engine->Release(sequence).ok());
}

TEST(TokenIndexOptions, UnknownKindIsRefused) {
  auto engine = Open();
  SequenceOptions options;
  options.index.kind = static_cast<IndexKind>(7);
  EXPECT_EQ(engine->CreateSequence(options).status().code(), StatusCode::kInvalidArgument);
}

TEST(TokenIndexOptions, KindsOfFaissNeedFaiss) {
  auto engine = testing::OpenEngine(kShape);
  SequenceOptions options;
  for (const IndexKind kind : {IndexKind::kFaissFlat, IndexKind::kFaissIvf, IndexKind::kFaissHnsw}) {
    options.index.kind = kind;
    const Status status = engine->CreateSequence(options).status();
    EXPECT_EQ(status.code(), StatusCode::kUnimplemented);
    EXPECT_NE(status.message().find("FAISS"), std::string::npos);
  }
}

}  // namespace
}  // namespace swell
