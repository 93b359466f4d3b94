// Distribution of durations in memory that does not grow: counts in buckets 2 % wide, and the exact maximum.
#ifndef SWELL_BENCH_SOAK_LATENCY_H_
#define SWELL_BENCH_SOAK_LATENCY_H_

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>

namespace swell::soak {

class Latency {
 public:
  void Add(double microseconds) {
    const double place = std::log(std::max(microseconds, kLowest) / kLowest) / std::log(kRatio);
    ++buckets_[std::min(static_cast<size_t>(place), buckets_.size() - 1)];
    ++count_;
    max_ = std::max(max_, microseconds);
  }
  void Add(const Latency& other) {
    for (size_t i = 0; i < buckets_.size(); ++i) buckets_[i] += other.buckets_[i];
    count_ += other.count_;
    max_ = std::max(max_, other.max_);
  }
  int64_t count() const { return count_; }
  double max() const { return max_; }
  // Microseconds that `share` of the durations do not pass; upper end of a bucket. 0 when there are none.
  double Quantile(double share) const {
    auto left = static_cast<int64_t>(std::ceil(share * static_cast<double>(count_)));
    for (size_t i = 0; i < buckets_.size(); ++i) {
      left -= buckets_[i];
      if (left <= 0 && count_ > 0) return std::min(max_, kLowest * std::pow(kRatio, static_cast<double>(i + 1)));
    }
    return max_;
  }

 private:
  static constexpr double kLowest = 0.1;  // microseconds
  static constexpr double kRatio = 1.02;
  std::array<int64_t, 1024> buckets_{};  // up to 64 s
  int64_t count_ = 0;
  double max_ = 0;
};

}  // namespace swell::soak

#endif  // SWELL_BENCH_SOAK_LATENCY_H_
