// Goal: audits happen when they are due, are counted, and make the predicted error of a head honest.
#include "lib/engine/audit.h"

#include "tests/engine/fixture.h"

namespace swell {
namespace {

using testing::Answer;
using testing::Attend;
using testing::Put;
using testing::RandomRows;
using testing::Rows;

constexpr int64_t kTokens = 4000;

class AuditTest : public ::testing::Test {
 protected:
  void Open(bool deterministic, int64_t interval) {
    EngineOptions options;
    options.shape = shape_;
    options.threads = 2;
    options.deterministic = deterministic;
    options.audit_interval = interval;
    engine_ = std::move(Engine::Open(options)).value();
    SequenceOptions sequence_options;
    sequence_options.retrieval.floor_tokens = 0;
    sequence_ = *engine_->CreateSequence(sequence_options);
    const int64_t width = int64_t{shape_.kv_heads} * shape_.head_dim;
    rows_ = {RandomRows(random_, kTokens * width), RandomRows(random_, kTokens * width)};
    ASSERT_TRUE(Put(*engine_, sequence_, 0, rows_, 0, kTokens).ok());
  }
  Answer Ask() { return Attend(*engine_, sequence_, 0, RandomRows(random_, 6 * 64)); }

  const ModelShape shape_{1, 2, 3, 64, 0, DType::kFloat16};
  std::mt19937_64 random_{testing::Seed()};
  std::unique_ptr<Engine> engine_;
  SequenceId sequence_ = SequenceId::kNone;
  Rows rows_;
};

TEST_F(AuditTest, CallsOneTwoFourAndThenEveryInterval) {
  Open(true, 8);
  for (int call = 1; call <= 24; ++call) ASSERT_TRUE(Ask().status.ok());
  // 1, 2, 4, 8, 16, 24 of each of two KV heads with three query heads.
  EXPECT_EQ(engine_->Stats().audited_answers, 6 * 2 * 3);
}

TEST_F(AuditTest, AHeadThatIsPassedOverStaysDue) {
  AuditBook book(shape_, 8);
  book.busy = true;
  for (int call = 1; call <= 4; ++call) EXPECT_FALSE(book.IsDue(0, 1)) << call;
  book.busy = false;
  EXPECT_TRUE(book.IsDue(0, 1));
  EXPECT_TRUE(book.IsDue(0, 0));
  for (int call = 6; call <= 24; ++call) EXPECT_EQ(book.IsDue(0, 1), call % 8 == 0) << call;
  book.Postpone(0, 1);
  EXPECT_TRUE(book.IsDue(0, 1));
  EXPECT_FALSE(book.IsDue(0, 1));
}

TEST_F(AuditTest, NoneWithoutAnInterval) {
  Open(true, 0);
  for (int call = 0; call < 4; ++call) ASSERT_TRUE(Ask().status.ok());
  EXPECT_EQ(engine_->Stats().audited_answers, 0);
}

TEST_F(AuditTest, ExactCallsAreNotAudited) {
  Open(true, 1);
  const std::vector<float> queries = RandomRows(random_, 6 * 64);
  ASSERT_TRUE(Attend(*engine_, sequence_, 0, queries, AttendMode::kExact).status.ok());
  EXPECT_EQ(engine_->Stats().audited_answers, 0);
}

// These keys are independent draws, for which the kernels' prediction needs no factor: the first certificates are off
// by the factor that real keys need, later ones are not.
TEST_F(AuditTest, PredictionsOfAHeadBecomeHonest) {
  Open(true, 1);
  const auto off = [&](const Answer& answer, const std::vector<float>& queries) {
    double sum = 0;
    for (int32_t head = 0; head < 6; ++head) {
      std::vector<double> expected;
      testing::Reference(shape_, rows_, queries.data() + head * 64, head, kTokens, expected);
      double norm = 0;
      double error = 0;
      for (int64_t i = 0; i < 64; ++i) {
        norm += expected[i] * expected[i];
        error += std::pow(expected[i] - answer.output[head * 64 + i], 2);
      }
      sum += std::log(answer.certificates[head].predicted_error / std::sqrt(error / norm));
    }
    return std::abs(sum / 6);
  };
  std::vector<float> queries = RandomRows(random_, 6 * 64);
  const double first = off(Attend(*engine_, sequence_, 0, queries), queries);
  for (int call = 0; call < 40; ++call) ASSERT_TRUE(Ask().status.ok());
  double later = 0;
  for (int call = 0; call < 8; ++call) {
    queries = RandomRows(random_, 6 * 64);
    later += off(Attend(*engine_, sequence_, 0, queries), queries) / 8;
  }
  EXPECT_GT(first, 0.25);
  EXPECT_LT(later, 0.3);
  EXPECT_LT(later, 0.5 * first);
  const EngineStats stats = engine_->Stats();
  EXPECT_GT(stats.audited_within_3, stats.audited_answers * 8 / 10);
  EXPECT_LE(stats.audited_within_2, stats.audited_within_3);
}

TEST_F(AuditTest, InTheBackgroundWhileTheSequenceGoes) {
  Open(false, 1);
  for (int call = 0; call < 5; ++call) ASSERT_TRUE(Ask().status.ok());
  ASSERT_TRUE(engine_->Release(sequence_).ok());
  engine_.reset();  // waits for an audit under way
}

}  // namespace
}  // namespace swell
