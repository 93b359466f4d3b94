// Goal: a head's predictions follow its audits, whatever line they lie on, and do not jump at the first of them.
#include "lib/engine/calibration.h"

#include <cmath>
#include <limits>

#include "tests/engine/fixture.h"

namespace swell {
namespace {

TEST(CalibrationTest, BeforeAnyAuditInProportion) {
  const Calibration calibration;
  EXPECT_NEAR(calibration.Predict(0.02F) / calibration.Predict(0.01F), 2, 1e-4);
  EXPECT_GT(calibration.Predict(0.01F), 0.01F);
}

TEST(CalibrationTest, NothingIsPredictedBelowRounding) {
  const Calibration calibration;
  EXPECT_EQ(calibration.Predict(0), kLeastPredictedError);
  EXPECT_EQ(calibration.Predict(1e-12F), kLeastPredictedError);
}

TEST(CalibrationTest, RawErrorGrowsWithDeviationAndShare) {
  EXPECT_EQ(RawError(0, 0), 0);
  EXPECT_EQ(RawError(0, 0.5F), 0);
  EXPECT_LT(RawError(0.01F, 0.1F), RawError(0.02F, 0.1F));
  EXPECT_LT(RawError(0.01F, 0.1F), RawError(0.01F, 0.2F));
  EXPECT_TRUE(std::isfinite(RawError(std::numeric_limits<float>::max(), 1)));
}

TEST(CalibrationTest, LearnsALineThroughScatteredAudits) {
  std::mt19937_64 random(testing::Seed());
  // It remembers about six audits, so their scatter is small.
  std::normal_distribution<double> logs(-3.5, 1), scatter(0, 0.1);
  Calibration calibration;
  const auto truth = [](double raw) { return 0.3 * std::pow(raw, 0.6); };
  for (int audit = 0; audit < 200; ++audit) {
    const double raw = std::exp(logs(random));
    calibration.Learn(static_cast<float>(raw), static_cast<float>(truth(raw) * std::exp(scatter(random))));
  }
  for (const double raw : {0.01, 0.03, 0.1}) {
    EXPECT_NEAR(std::log(calibration.Predict(static_cast<float>(raw)) / truth(raw)), 0, 0.4) << raw;
  }
}

TEST(CalibrationTest, OneAuditMovesHalfOfTheWay) {
  Calibration calibration;
  const float before = calibration.Predict(0.03F);
  calibration.Learn(0.03F, before * 4);
  EXPECT_GT(calibration.Predict(0.03F), before * 1.8F);
  EXPECT_LT(calibration.Predict(0.03F), before * 2.2F);
}

TEST(CalibrationTest, OldAuditsFade) {
  Calibration calibration;
  for (int audit = 0; audit < 300; ++audit) calibration.Learn(0.01F, 0.5F);
  for (int audit = 0; audit < 300; ++audit) calibration.Learn(0.01F, 0.02F);
  EXPECT_NEAR(calibration.Predict(0.01F), 0.02, 0.002);
}

TEST(CalibrationTest, HugeAndVanishingErrorsAreLearnedToo) {
  Calibration calibration;
  calibration.Learn(0, 0);
  calibration.Learn(1e30F, 1e30F);
  EXPECT_TRUE(std::isfinite(calibration.Predict(0.01F)));
}

}  // namespace
}  // namespace swell
