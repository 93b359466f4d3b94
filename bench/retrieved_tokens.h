// How much a step of a benchmark retrieves. Made-up keys are spread otherwise than real ones, so the share of the mass
// above which clusters are read is set so that a head retrieves as many tokens as it does on real traces.
#ifndef SWELL_BENCH_RETRIEVED_TOKENS_H_
#define SWELL_BENCH_RETRIEVED_TOKENS_H_

#include <cmath>

namespace swell::bench {

// Of 128K tokens, by a KV head: the most of four traces (docs/measurements.md, "Caches on real traces"). It hardly
// grows with the context.
inline constexpr double kRetrievedTokens = 640;

// The share for which retrieved(share), the tokens of a head, comes near kRetrievedTokens.
template <typename Retrieved>
float ShareAsOnRealTraces(const Retrieved& retrieved) {
  float low = 1e-7F, high = 0.9F;
  for (int i = 0; i < 12; ++i) {
    const float share = std::sqrt(low * high);
    (retrieved(share) > kRetrievedTokens ? low : high) = share;
  }
  return high;
}

}  // namespace swell::bench

#endif  // SWELL_BENCH_RETRIEVED_TOKENS_H_
