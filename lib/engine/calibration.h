// What the predicted error of one query head is taken to mean: a line from the kernels' prediction to the true error.
//
// The kernels' prediction takes the tokens of a cluster as independent draws. How far that is wrong, and how much less
// than in proportion the true error grows, differs from head to head and little from query to query
// (docs/measurements.md). So each query head fits log(error) = a + b log(prediction) to its audits by least squares,
// drawn towards what holds for all heads while audits are few; older audits fade.
#ifndef SWELL_LIB_ENGINE_CALIBRATION_H_
#define SWELL_LIB_ENGINE_CALIBRATION_H_

#include <atomic>

namespace swell {

// Predict from any thread; Learn from one at a time.
class Calibration {
 public:
  // Relative error of an output, at least kLeastPredictedError, from what the kernels say of it.
  float Predict(float raw) const;
  // Enters an audit: what the kernels said and the true relative error.
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
