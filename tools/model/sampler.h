// Choice of the next token.
#ifndef SWELL_TOOLS_MODEL_SAMPLER_H_
#define SWELL_TOOLS_MODEL_SAMPLER_H_

#include <cstdint>
#include <random>
#include <span>

#include "tools/model/tokenizer.h"

namespace swell::model {

class Sampler {
 public:
  // Temperature 0 takes the best token (the first of equals); above, p is proportional to exp(logit / temperature). The
  // choices depend on the logits and the seed alone.
  explicit Sampler(float temperature = 0, uint64_t seed = 0) : temperature_(temperature), random_(seed) {}
  // -1 when `logits` are empty.
  TokenId Next(std::span<const float> logits);

 private:
  float temperature_;
  std::mt19937_64 random_;
};

}  // namespace swell::model

#endif  // SWELL_TOOLS_MODEL_SAMPLER_H_
