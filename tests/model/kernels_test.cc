#include "tools/model/kernels.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

#include "tools/model/sampler.h"

namespace swell::model {
namespace {

class Kernels : public testing::Test {
 protected:
  Kernels() : seed_(std::random_device{}()), random_(seed_) { std::printf("seed %u\n", seed_); }

  std::vector<float> Random(int64_t count, float spread = 1) {
    std::normal_distribution<float> normal(0, spread);
    std::vector<float> values(static_cast<size_t>(count));
    for (float& value : values) value = normal(random_);
    return values;
  }

  const uint32_t seed_;
  std::mt19937 random_;
};

constexpr int64_t kCounts[] = {1, 2, 7, 15, 16, 17, 31, 33, 64, 100, 576, 1537};

TEST_F(Kernels, RmsNormMatchesDouble) {
  for (const int64_t count : kCounts) {
    const std::vector<float> x = Random(count, 3);
    const std::vector<float> weight = Random(count);
    std::vector<float> out(x.size());
    RmsNorm(x.data(), weight.data(), count, 1e-5F, out.data());
    double squares = 0;
    for (const float value : x) squares += double{value} * value;
    for (size_t i = 0; i < x.size(); ++i) {
      const double expected = x[i] / std::sqrt(squares / static_cast<double>(count) + 1e-5) * weight[i];
      EXPECT_NEAR(out[i], expected, 1e-5 * (1 + std::abs(expected))) << count;
    }
  }
  const std::vector<float> zeros(32);
  std::vector<float> out(32, 1);
  RmsNorm(zeros.data(), zeros.data(), 32, 1e-5F, out.data());
  EXPECT_EQ(out, zeros);
}

TEST_F(Kernels, RotationMatchesDouble) {
  for (const int64_t pairs : kCounts) {
    const std::vector<float> x = Random(2 * pairs);
    std::vector<float> cosines, sines;
    for (int64_t i = 0; i < pairs; ++i) {
      const double angle = 131071.0 * std::pow(4e6, -static_cast<double>(i) / static_cast<double>(pairs));
      cosines.push_back(static_cast<float>(std::cos(angle)));
      sines.push_back(static_cast<float>(std::sin(angle)));
    }
    std::vector<float> out(x.size());
    RotatePairs(x.data(), cosines.data(), sines.data(), pairs, out.data());
    for (size_t i = 0; i < static_cast<size_t>(pairs); ++i) {
      const double first = double{x[2 * i]} * cosines[i] - double{x[2 * i + 1]} * sines[i];
      const double second = double{x[2 * i]} * sines[i] + double{x[2 * i + 1]} * cosines[i];
      EXPECT_NEAR(out[2 * i], first, 1e-6 * (1 + std::abs(first)));
      EXPECT_NEAR(out[2 * i + 1], second, 1e-6 * (1 + std::abs(second)));
    }
    std::vector<float> in_place = x;
    RotatePairs(in_place.data(), cosines.data(), sines.data(), pairs, in_place.data());
    EXPECT_EQ(in_place, out);
  }
}

TEST_F(Kernels, GatedSiluMatchesDouble) {
  for (const int64_t count : kCounts) {
    std::vector<float> gate = Random(count, 10);
    gate[0] = -200;  // exp(200) is infinite in float32
    if (count > 20) gate[16] = 200;
    const std::vector<float> up = Random(count);
    std::vector<float> out(gate.size());
    GatedSilu(gate.data(), up.data(), count, out.data());
    for (size_t i = 0; i < gate.size(); ++i) {
      const double expected = gate[i] / (1 + std::exp(-double{gate[i]})) * up[i];
      EXPECT_NEAR(out[i], expected, 2e-6 * (1 + std::abs(expected))) << gate[i];
    }
  }
}

TEST_F(Kernels, LogSumExpMatchesDouble) {
  for (const int64_t count : kCounts) {
    std::vector<float> x = Random(count, 20);
    x[0] += 500;
    double sum = 0;
    for (const float value : x) sum += std::exp(double{value} - x[0]);
    EXPECT_NEAR(LogSumExp(x.data(), count), x[0] + std::log(sum), 1e-4);
  }
}

TEST_F(Kernels, SamplerFollowsTheTemperature) {
  const std::vector<float> logits = {0, 2, 2, -5};
  EXPECT_EQ(Sampler().Next(logits), 1);
  EXPECT_EQ(Sampler().Next({}), -1);
  Sampler first(1, seed_);
  Sampler second(1, seed_);
  std::vector<int> counts(4);
  constexpr int kDraws = 20000;
  for (int i = 0; i < kDraws; ++i) {
    const TokenId id = first.Next(logits);
    EXPECT_EQ(second.Next(logits), id);
    ++counts[static_cast<size_t>(id)];
  }
  const double sum = 1 + 2 * std::exp(2) + std::exp(-5);
  EXPECT_NEAR(counts[0] / double{kDraws}, 1 / sum, 0.02);
  EXPECT_NEAR(counts[1] / double{kDraws}, std::exp(2) / sum, 0.02);
  EXPECT_NEAR(counts[2] / double{kDraws}, std::exp(2) / sum, 0.02);
}

}  // namespace
}  // namespace swell::model
