// What the predicted error of one query head is taken to mean: a line from what the kernels say to the true error.
//
// The kernels' deviation takes the tokens of a cluster as independent draws. How far that is wrong, and how much less
// than in proportion the true error grows, differs from head to head, little from query to query, and more from text to
// text (docs/measurements.md). So each query head fits log(error) = a + b log(raw error) to its audits by least
// squares, drawn towards what holds for all heads while audits are few; older audits fade, soon enough to follow the
// text.
#ifndef SWELL_LIB_ENGINE_CALIBRATION_H_
#define SWELL_LIB_ENGINE_CALIBRATION_H_

#include <atomic>

namespace swell {

// What both sides of a calibration call raw: of the relative `deviation` of an output and the `share` of the mass that
// was estimated (attention::PredictError), the powers that follow the true error best.
float RawError(float deviation, float share);

// Predict from any thread; Learn from one at a time.
class Calibration {
 public:
  // Relative error of an output, at least kLeastPredictedError, from its raw error.
  float Predict(float raw) const;
  // Enters an audit: the raw error and the true relative error.
  void Learn(float raw, float actual);

 private:
  // Of the line from that of all heads: log(error) = log(first factor) + x + offset + slope * (x - centre).
  struct Line {
    float offset = 0, slope = 0;
  };
  std::atomic<Line> line_{Line()};
  // Weighted sums over the audits: 1, x - centre, its square, the residual of the line of all heads, their product.
  double count_ = 0, x_ = 0, xx_ = 0, y_ = 0, xy_ = 0;
};

}  // namespace swell

#endif  // SWELL_LIB_ENGINE_CALIBRATION_H_
