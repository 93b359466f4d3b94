// Goal: exact attention, and retrieval with an unlimited budget, equal float64 attention for every shape and dtype.
#include "tests/engine/fixture.h"

namespace swell {
namespace {

using testing::Answer;
using testing::Attend;
using testing::LargestError;
using testing::MakeRows;
using testing::OpenEngine;
using testing::Put;
using testing::RandomRows;
using testing::Rows;

struct Case {
  int32_t head_dim;
  int32_t group;
  int32_t kv_heads;
  int64_t tokens;
  DType storage;
};

class AttendEquals : public ::testing::TestWithParam<Case> {};

TEST_P(AttendEquals, Float64Attention) {
  const Case c = GetParam();
  SCOPED_TRACE("seed " + std::to_string(testing::Seed()));
  std::mt19937_64 random(testing::Seed());
  ModelShape shape{1, c.kv_heads, c.group, c.head_dim, 0, c.storage};
  auto engine = OpenEngine(shape);
  SequenceOptions options;
  options.seal_tokens = 64;
  options.segment_tokens = 256;
  const SequenceId sequence = *engine->CreateSequence(options);
  const Rows rows = MakeRows(random, shape, c.tokens);
  ASSERT_TRUE(Put(*engine, sequence, 0, rows, 0, c.tokens).ok());
  RetrievalOptions unlimited;
  unlimited.retrieve_share = 1.0F;
  unlimited.max_retrieve_tokens = 0;
  const int64_t most = c.tokens > 100000 ? 2 : 77;
  for (const int64_t n : {int64_t{1}, std::min<int64_t>(c.tokens, 2), std::min<int64_t>(c.tokens, most)}) {
    const auto queries = RandomRows(random, n * c.kv_heads * c.group * c.head_dim);
    for (const AttendMode mode : {AttendMode::kExact, AttendMode::kRetrieve}) {
      const Answer answer = Attend(*engine, sequence, 0, queries, mode, &unlimited);
      ASSERT_TRUE(answer.status.ok()) << answer.status.message();
      EXPECT_LT(LargestError(shape, rows, queries, answer, c.tokens), testing::Tolerance(c.storage))
          << "n_queries " << n << " mode " << static_cast<int>(mode);
      for (const Certificate& certificate : answer.certificates) {
        EXPECT_EQ(certificate.tokens_read, certificate.tokens_visible);
        EXPECT_EQ(certificate.estimated_share, 0.0F);
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, AttendEquals,
                         ::testing::Values(Case{64, 3, 3, 1500, DType::kFloat32}, Case{64, 1, 2, 1, DType::kFloat32},
                                           Case{80, 4, 1, 333, DType::kFloat32}, Case{96, 16, 1, 700, DType::kFloat16},
                                           Case{128, 4, 2, 1025, DType::kFloat16},
                                           Case{256, 7, 1, 515, DType::kFloat16},
                                           Case{64, 3, 3, 2000, DType::kBFloat16}, Case{16, 5, 2, 3, DType::kBFloat16},
                                           Case{128, 2, 2, 900, DType::kInt8}, Case{64, 3, 1, 65, DType::kInt8},
                                           Case{64, 1, 1, 200000, DType::kFloat16}));

TEST(Attend, ReadsAndWritesHalfPrecision) {
  std::mt19937_64 random(testing::Seed());
  const ModelShape shape{1, 2, 3, 64, 0, DType::kFloat32};
  auto engine = OpenEngine(shape);
  const SequenceId sequence = *engine->CreateSequence({});
  const Rows rows = MakeRows(random, shape, 300);
  ASSERT_TRUE(Put(*engine, sequence, 0, rows, 0, 300).ok());
  std::vector<float> queries = RandomRows(random, 6 * 64);
  for (const DType dtype : {DType::kFloat16, DType::kBFloat16}) {
    std::vector<uint16_t> raw(queries.size());
    ASSERT_TRUE(ConvertFromFloat(queries.data(), static_cast<int64_t>(queries.size()), dtype, raw.data()));
    ConvertToFloat(dtype, raw.data(), static_cast<int64_t>(queries.size()), queries.data());
    Answer answer = Attend(*engine, sequence, 0, queries, AttendMode::kExact);
    std::vector<uint16_t> output(queries.size());
    AttendItem item;
    item.sequence = sequence;
    item.queries = raw.data();
    item.query_dtype = dtype;
    item.output = output.data();
    item.output_dtype = dtype;
    Status status;
    ASSERT_TRUE(engine->Attend(0, {&item, 1}, {&status, 1}).ok()) << status.message();
    std::vector<float> widened(queries.size());
    ConvertToFloat(dtype, output.data(), static_cast<int64_t>(output.size()), widened.data());
    for (size_t i = 0; i < widened.size(); ++i) {
      EXPECT_NEAR(widened[i], answer.output[i], 1e-2 * std::max(0.1F, std::abs(answer.output[i])));
    }
  }
}

TEST(Attend, ABatchGivesWhatSingleCallsGive) {
  std::mt19937_64 random(testing::Seed());
  const ModelShape shape{1, 2, 2, 32, 0, DType::kFloat16};
  auto engine = OpenEngine(shape);
  SequenceOptions options;
  options.seal_tokens = 64;
  options.segment_tokens = 128;
  options.retrieval.floor_tokens = 0;
  std::vector<SequenceId> sequences;
  std::vector<std::vector<float>> queries;
  for (const int64_t tokens : {1, 70, 500, 1333}) {
    sequences.push_back(*engine->CreateSequence(options));
    const Rows rows = MakeRows(random, shape, tokens);
    ASSERT_TRUE(Put(*engine, sequences.back(), 0, rows, 0, tokens).ok());
    queries.push_back(RandomRows(random, std::min<int64_t>(tokens, 3) * 4 * 32));
  }
  std::vector<AttendItem> items(sequences.size());
  std::vector<std::vector<float>> outputs(sequences.size());
  std::vector<Status> statuses(sequences.size());
  for (size_t i = 0; i < items.size(); ++i) {
    outputs[i].resize(queries[i].size());
    items[i].sequence = sequences[i];
    items[i].n_queries = static_cast<int64_t>(queries[i].size()) / (4 * 32);
    items[i].mode = i % 2 == 0 ? AttendMode::kRetrieve : AttendMode::kExact;
    items[i].queries = queries[i].data();
    items[i].output = outputs[i].data();
  }
  ASSERT_TRUE(engine->Attend(0, items, statuses).ok());
  for (size_t i = 0; i < items.size(); ++i) {
    EXPECT_EQ(Attend(*engine, sequences[i], 0, queries[i], items[i].mode).output, outputs[i]) << "item " << i;
  }
}

TEST(Attend, ShortContextsAreExact) {
  std::mt19937_64 random(testing::Seed());
  const ModelShape shape{1, 1, 2, 64, 0, DType::kFloat32};
  auto engine = OpenEngine(shape);
  SequenceOptions options;
  options.seal_tokens = 64;
  options.segment_tokens = 256;
  const SequenceId sequence = *engine->CreateSequence(options);
  const Rows rows = MakeRows(random, shape, 1024);
  ASSERT_TRUE(Put(*engine, sequence, 0, rows, 0, 1024).ok());
  ASSERT_GT((*engine->Inspect(sequence, 0)).sealed_tokens, 0);
  const auto queries = RandomRows(random, 128);
  const Answer answer = Attend(*engine, sequence, 0, queries);
  EXPECT_LT(LargestError(shape, rows, queries, answer, 1024), 1e-5);
  EXPECT_EQ(answer.certificates[0].tokens_read, 1024);
}

}  // namespace
}  // namespace swell
