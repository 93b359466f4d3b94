#include "tools/model/sampler.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace swell::model {

TokenId Sampler::Next(std::span<const float> logits) {
  if (logits.empty()) return -1;
  const auto best = std::max_element(logits.begin(), logits.end());
  if (!(temperature_ > 0)) return static_cast<TokenId>(best - logits.begin());
  std::vector<double> cumulated(logits.size());
  double sum = 0;
  for (size_t i = 0; i < logits.size(); ++i) {
    sum += std::exp((static_cast<double>(logits[i]) - *best) / temperature_);
    cumulated[i] = sum;
  }
  // 53 random bits; std::uniform_real_distribution may differ between standard libraries.
  const double point = static_cast<double>(random_() >> 11) * 0x1p-53 * sum;
  const auto chosen = std::upper_bound(cumulated.begin(), cumulated.end(), point);
  return static_cast<TokenId>(std::min<int64_t>(chosen - cumulated.begin(), static_cast<int64_t>(logits.size()) - 1));
}

}  // namespace swell::model
