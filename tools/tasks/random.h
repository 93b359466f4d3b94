// Deterministic random numbers: the same on every machine and compiler, unlike the distributions of <random>.
#ifndef SWELL_TOOLS_TASKS_RANDOM_H_
#define SWELL_TOOLS_TASKS_RANDOM_H_

#include <cstdint>

namespace swell::tasks {

// SplitMix64 (Steele, Lea, Flood 2014). Not thread-safe.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}

  uint64_t Next() {
    uint64_t z = (state_ += 0x9E3779B97F4A7C15ULL);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
    return z ^ (z >> 31);
  }

  // Uniform in [0, limit), limit >= 1; unbiased by rejection.
  int64_t Below(int64_t limit) {
    const auto range = static_cast<uint64_t>(limit);
    const uint64_t tail = (0 - range) % range;  // 2^64 mod range
    uint64_t draw = Next();
    while (draw < tail) draw = Next();
    return static_cast<int64_t>(draw % range);
  }

  // Uniform in [0, 1), 24 bits.
  float Unit() { return static_cast<float>(Next() >> 40) * 0x1p-24F; }

 private:
  uint64_t state_;
};

}  // namespace swell::tasks

#endif  // SWELL_TOOLS_TASKS_RANDOM_H_
