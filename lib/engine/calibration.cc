#include "lib/engine/calibration.h"

#include <algorithm>
#include <cmath>

#include "swell/engine.h"

namespace swell {
namespace {

// Powers of deviation and share in the raw error, and the true error over it before any audit: needles, lines and
// recall at 8K tokens of a real model (docs/measurements.md).
constexpr float kDeviationPower = 0.7F;
constexpr float kSharePower = 0.2F;
constexpr double kFirstFactor = 1.2;
// The middle of the raw errors seen there, log, and the least that is told from nothing.
constexpr double kCentre = -3.5;
constexpr double kLeastRaw = 1e-5;
// Audits that the line of all heads counts as, in its offset and, with their squared distance from the centre, slope.
constexpr double kPriorOffset = 1, kPriorSlope = 3;
// Older audits fade: the line is one through about this many.
constexpr double kMemory = 6;

double LogRaw(float raw) { return std::log(std::max(static_cast<double>(raw), kLeastRaw)); }

}  // namespace

float RawError(float deviation, float share) {
  return std::pow(deviation, kDeviationPower) * std::pow(share, kSharePower);
}

float Calibration::Predict(float raw) const {
  const Line line = line_.load(std::memory_order_relaxed);
  const double x = LogRaw(raw);
  const double log_error = std::log(kFirstFactor) + x + line.offset + line.slope * (x - kCentre);
  return std::max(static_cast<float>(std::exp(log_error)), kLeastPredictedError);
}

void Calibration::Learn(float raw, float actual) {
  const double x = LogRaw(raw) - kCentre;
  const double y = std::log(std::max(actual, kLeastPredictedError)) - (std::log(kFirstFactor) + LogRaw(raw));
  for (double* sum : {&count_, &x_, &xx_, &y_, &xy_}) *sum *= 1 - 1 / kMemory;
  count_ += 1;
  x_ += x;
  xx_ += x * x;
  y_ += y;
  xy_ += x * y;
  const double count = count_ + kPriorOffset, squares = xx_ + kPriorSlope;
  const double determinant = count * squares - x_ * x_;  // positive: by Cauchy-Schwarz, and the priors
  line_.store({static_cast<float>((squares * y_ - x_ * xy_) / determinant),
               static_cast<float>((count * xy_ - x_ * y_) / determinant)},
              std::memory_order_relaxed);
}

}  // namespace swell
