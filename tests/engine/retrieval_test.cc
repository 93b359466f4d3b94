// Goal: retrieval keeps to its budget, finds what matters, and says honestly what it did. Keys are drawn around
// centres, so that there is structure to find; answers on real keys are the business of `swell fidelity`.
#include "tests/engine/fixture.h"

namespace swell {
namespace {

using testing::Answer;
using testing::Attend;
using testing::LargestError;
using testing::OpenEngine;
using testing::Put;
using testing::RandomRows;
using testing::Rows;

constexpr int64_t kTokens = 6000;

Rows ClusteredRows(std::mt19937_64& random, const ModelShape& shape, int64_t tokens) {
  const int64_t width = int64_t{shape.kv_heads} * shape.head_dim;
  const auto centres = RandomRows(random, 300 * width, 2.0F);
  Rows rows{RandomRows(random, tokens * width, 0.5F), RandomRows(random, tokens * width)};
  for (int64_t t = 0; t < tokens; ++t) {
    const auto centre = static_cast<int64_t>(random() % 300);
    for (int64_t i = 0; i < width; ++i) rows.keys[t * width + i] += centres[centre * width + i];
  }
  return rows;
}

class Retrieval : public ::testing::Test {
 protected:
  void SetUp() override {
    engine_ = OpenEngine(shape_);
    rows_ = ClusteredRows(random_, shape_, kTokens);
    options_.seal_tokens = 512;
    options_.segment_tokens = 2048;
    options_.retrieval.floor_tokens = 0;
    options_.retrieval.retrieve_above = 0;
    sequence_ = *engine_->CreateSequence(options_);
    ASSERT_TRUE(Put(*engine_, sequence_, 0, rows_, 0, kTokens).ok());
    queries_ = RandomRows(random_, 6 * 64);
  }
  int64_t SealedTokens() { return (*engine_->Inspect(sequence_, 0)).sealed_tokens; }

  const ModelShape shape_{1, 2, 3, 64, 0, DType::kFloat16};
  std::mt19937_64 random_{testing::Seed()};
  std::unique_ptr<Engine> engine_;
  SequenceOptions options_;
  SequenceId sequence_ = SequenceId::kNone;
  Rows rows_;
  std::vector<float> queries_;
};

TEST_F(Retrieval, ReadsTheBudgetAndNoMore) {
  const int64_t steady = kTokens - SealedTokens();
  for (const float share : {0.005F, 0.02F, 0.1F, 0.5F}) {
    RetrievalOptions retrieval = options_.retrieval;
    retrieval.retrieve_share = share;
    const Answer answer = Attend(*engine_, sequence_, 0, queries_, AttendMode::kRetrieve, &retrieval);
    ASSERT_TRUE(answer.status.ok());
    for (const Certificate& certificate : answer.certificates) {
      EXPECT_EQ(certificate.tokens_visible, kTokens);
      EXPECT_GT(certificate.tokens_read, steady);
      EXPECT_NEAR(certificate.tokens_read, steady + share * SealedTokens(), 40) << "share " << share;
    }
  }
}

TEST_F(Retrieval, ErrorFallsWithTheBudgetToZero) {
  double last = 1e9;
  for (const float share : {0.01F, 0.1F, 0.4F, 1.0F}) {
    RetrievalOptions retrieval = options_.retrieval;
    retrieval.retrieve_share = share;
    const Answer answer = Attend(*engine_, sequence_, 0, queries_, AttendMode::kRetrieve, &retrieval);
    const double error = LargestError(shape_, rows_, queries_, answer, kTokens);
    EXPECT_LT(error, last) << "share " << share;
    last = error;
  }
  EXPECT_LT(last, 2e-3);
}

// By shares of the mass: the smaller the share above which clusters are read, the more is read and the less is wrong;
// the budget stays a ceiling.
TEST_F(Retrieval, ReadsWhatMayMatter) {
  const int64_t steady = kTokens - SealedTokens();
  int64_t last_read = 0;
  double last_error = 1e9;
  for (const float above : {0.1F, 0.01F, 0.001F}) {
    RetrievalOptions retrieval = options_.retrieval;
    retrieval.retrieve_above = above;
    retrieval.retrieve_share = 0.5F;
    const Answer answer = Attend(*engine_, sequence_, 0, queries_, AttendMode::kRetrieve, &retrieval);
    ASSERT_TRUE(answer.status.ok());
    int64_t read = 0;
    for (const Certificate& certificate : answer.certificates) {
      EXPECT_LE(certificate.tokens_read, steady + SealedTokens() / 2 + 40);
      read += certificate.tokens_read;
    }
    read /= static_cast<int64_t>(answer.certificates.size());
    const double error = LargestError(shape_, rows_, queries_, answer, kTokens);
    EXPECT_GT(read, last_read) << "above " << above;
    EXPECT_LT(error, last_error) << "above " << above;
    last_read = read;
    last_error = error;
  }
}

TEST_F(Retrieval, EstimatingTheRestBeatsDroppingIt) {
  RetrievalOptions dropped = options_.retrieval;
  dropped.estimate_share = 0.0F;
  const Answer with = Attend(*engine_, sequence_, 0, queries_);
  const Answer without = Attend(*engine_, sequence_, 0, queries_, AttendMode::kRetrieve, &dropped);
  EXPECT_LT(2 * LargestError(shape_, rows_, queries_, with, kTokens),
            LargestError(shape_, rows_, queries_, without, kTokens));
  for (const Certificate& certificate : without.certificates) EXPECT_EQ(certificate.estimated_share, 0.0F);
}

TEST_F(Retrieval, ClosedSuperClustersAreEstimated) {
  RetrievalOptions retrieval = options_.retrieval;
  retrieval.retrieve_share = 0.005F;  // so that a small share may be opened
  const Answer one_level = Attend(*engine_, sequence_, 0, queries_, AttendMode::kRetrieve, &retrieval);
  retrieval.open_share = 0.1F;
  const Answer estimated = Attend(*engine_, sequence_, 0, queries_, AttendMode::kRetrieve, &retrieval);
  retrieval.estimate_share = 0;
  const Answer dropped = Attend(*engine_, sequence_, 0, queries_, AttendMode::kRetrieve, &retrieval);
  EXPECT_LT(estimated.certificates[0].bytes_read, one_level.certificates[0].bytes_read);
  EXPECT_GT(estimated.certificates[0].estimated_share, 0.5F);
  EXPECT_LT(2 * LargestError(shape_, rows_, queries_, estimated, kTokens),
            LargestError(shape_, rows_, queries_, dropped, kTokens));
}

TEST_F(Retrieval, FindsANeedle) {
  // One key that a query singles out, far from every centre, deep inside a sealed segment.
  Rows rows = rows_;
  const int64_t needle = 3333;
  for (int64_t i = 0; i < 64; ++i) {
    rows.keys[needle * 128 + i] = 4.0F * queries_[i];
    rows.values[needle * 128 + i] = 10.0F;
  }
  const SequenceId sequence = *engine_->CreateSequence(options_);
  ASSERT_TRUE(Put(*engine_, sequence, 0, rows, 0, kTokens).ok());
  RetrievalOptions retrieval = options_.retrieval;
  for (const float above : {0.0F, 0.0025F, 0.2F}) {
    retrieval.retrieve_above = above;
    const Answer answer = Attend(*engine_, sequence, 0, queries_, AttendMode::kRetrieve, &retrieval);
    for (int64_t i = 0; i < 64; ++i) EXPECT_NEAR(answer.output[i], 10.0F, 0.1F);
    // What singles out one token needs no other.
    EXPECT_TRUE(above < 0.2F || answer.certificates[0].tokens_read < kTokens - SealedTokens() + 100);
  }
}

TEST_F(Retrieval, TheCertificateTellsShareAndError) {
  const Answer answer = Attend(*engine_, sequence_, 0, queries_);
  std::vector<double> expected;
  for (int32_t head = 0; head < 6; ++head) {
    const Certificate& certificate = answer.certificates[head];
    testing::Reference(shape_, rows_, queries_.data() + head * 64, head, kTokens, expected);
    double norm = 0;
    double error = 0;
    for (int64_t i = 0; i < 64; ++i) {
      norm += expected[i] * expected[i];
      error += std::pow(expected[i] - answer.output[head * 64 + i], 2);
    }
    const double actual = std::sqrt(error / norm);
    EXPECT_GT(certificate.estimated_share, 0.0F);
    EXPECT_LT(certificate.estimated_share, 1.0F);
    // Before any audit: 2.7 times what it would be for independent draws, as these here are (calibration.cc).
    const double predicted = certificate.predicted_error / 2.7;
    EXPECT_GT(predicted, actual / 6) << "head " << head;
    EXPECT_LT(predicted, actual * 6) << "head " << head;
  }
}

TEST_F(Retrieval, OverridesAndFixedTokensAndCeilings) {
  const int64_t steady = kTokens - SealedTokens();
  RetrievalOptions retrieval = options_.retrieval;
  retrieval.retrieve_share = 0.02F;
  retrieval.overrides = {{-1, 1, 0.3F}};
  Answer answer = Attend(*engine_, sequence_, 0, queries_, AttendMode::kRetrieve, &retrieval);
  EXPECT_NEAR(answer.certificates[0].tokens_read, steady + 0.02 * SealedTokens(), 40);
  EXPECT_NEAR(answer.certificates[3].tokens_read, steady + 0.3 * SealedTokens(), 40);
  retrieval.max_retrieve_tokens = 500;
  answer = Attend(*engine_, sequence_, 0, queries_, AttendMode::kRetrieve, &retrieval);
  EXPECT_NEAR(answer.certificates[3].tokens_read, steady + 500, 40);
  retrieval = options_.retrieval;
  retrieval.retrieve_tokens = 777;
  answer = Attend(*engine_, sequence_, 0, queries_, AttendMode::kRetrieve, &retrieval);
  EXPECT_NEAR(answer.certificates[0].tokens_read, steady + 777, 40);
}

TEST_F(Retrieval, ThePapersSettingsReadAShareOfTheClusters) {
  SequenceOptions options = *SequencePreset("retroinfer");
  const SequenceId sequence = *engine_->CreateSequence(options);
  ASSERT_TRUE(Put(*engine_, sequence, 0, rows_, 0, kTokens).ok());
  const Answer answer = Attend(*engine_, sequence, 0, queries_);
  ASSERT_TRUE(answer.status.ok());
  EXPECT_LT(answer.certificates[0].tokens_read, kTokens - SealedTokens() + 400);
  EXPECT_LT(answer.certificates[0].estimated_share, 1.0F);
  EXPECT_EQ(SequencePreset("unknown").status().code(), StatusCode::kNotFound);
}

TEST_F(Retrieval, AFlatIndexReadsEverything) {
  SequenceOptions options = options_;
  options.index.kind = IndexKind::kFlat;
  const SequenceId sequence = *engine_->CreateSequence(options);
  ASSERT_TRUE(Put(*engine_, sequence, 0, rows_, 0, kTokens).ok());
  const Answer answer = Attend(*engine_, sequence, 0, queries_);
  EXPECT_LT(LargestError(shape_, rows_, queries_, answer, kTokens), 2e-3);
  EXPECT_EQ(answer.certificates[0].tokens_read, kTokens);
}

}  // namespace
}  // namespace swell
