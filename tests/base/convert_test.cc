// Element conversion against plain scalar references, on every SIMD target that this machine has.
#include "lib/base/convert.h"

#include "lib/base/simd_targets.h"
// After the choice of targets.
#include <gtest/gtest.h>
#include <hwy/targets.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <iostream>
#include <limits>
#include <random>
#include <string>
#include <vector>

namespace swell {
namespace {

constexpr uint32_t kSeed = 20240917;

float FloatFromHalf(uint16_t bits) {
  const int exponent = (bits >> 10) & 31;
  const int mantissa = bits & 1023;
  const float sign = bits & 0x8000 ? -1.0f : 1.0f;
  if (exponent == 31) return mantissa ? std::numeric_limits<float>::quiet_NaN() : sign * INFINITY;
  if (exponent == 0) return sign * std::ldexp(static_cast<float>(mantissa), -24);
  return sign * std::ldexp(static_cast<float>(mantissa + 1024), exponent - 25);
}

float FloatFromBrain(uint16_t bits) { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }

// Rounds to nearest even by the definition: the closer of the two neighbours among all finite patterns of that sign.
template <class Decode>
bool Round(float value, uint16_t infinity, Decode decode, uint16_t* bits) {
  if (!std::isfinite(value)) return false;
  const double magnitude = std::abs(static_cast<double>(value));
  uint16_t low = 0, high = infinity - 1;
  while (low < high) {  // largest pattern whose value is <= magnitude
    const uint16_t middle = (low + high + 1) / 2;
    if (decode(middle) <= magnitude) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  const double below = decode(low);
  // The step above the largest finite value is as long as the one before it.
  const double above = low + 1 < infinity ? decode(low + 1) : 2 * below - decode(low - 1);
  const bool up = magnitude - below > above - magnitude || (magnitude - below == above - magnitude && (low & 1));
  const uint16_t result = low + (up ? 1 : 0);
  *bits = result | (std::signbit(value) ? 0x8000 : 0);
  return result < infinity;
}

std::string TargetName(const testing::TestParamInfo<int64_t>& info) { return hwy::TargetName(info.param); }

class ConvertTest : public testing::TestWithParam<int64_t> {
 protected:
  void SetUp() override {
    hwy::SetSupportedTargetsForTest(GetParam());
    std::cout << "seed " << kSeed << "\n";
  }
  void TearDown() override { hwy::SetSupportedTargetsForTest(0); }

  std::vector<float> Samples() {
    std::mt19937 random(kSeed);
    std::vector<float> samples = {0.0f,     -0.0f,     65504.0f, 65519.99f,     65520.0f, -65520.0f, 5.96e-8f,
                                  2.98e-8f, 2.981e-8f, 6.1e-5f,  3.3895314e38f, 3.4e38f,  1e-40f,    -1e-45f};
    for (int i = 0; i < 20000; ++i) samples.push_back(std::bit_cast<float>(static_cast<uint32_t>(random())));
    // Around the range of float16, and exact ties of both formats.
    for (int i = 0; i < 20000; ++i) samples.push_back(std::ldexp(1.0f + random() % 4096 / 4096.0f, i % 48 - 28));
    for (int i = 0; i < 20000; ++i)
      samples.push_back(-std::bit_cast<float>(static_cast<uint32_t>(random()) & 0xFFFF8000u));
    return samples;
  }
};

TEST_P(ConvertTest, DecodesEveryPattern) {
  std::vector<uint16_t> bits(65536);
  for (int i = 0; i < 65536; ++i) bits[i] = i;
  std::vector<float> half(65536), brain(65536);
  ConvertToFloat(DType::kFloat16, bits.data(), 65536, half.data());
  ConvertToFloat(DType::kBFloat16, bits.data(), 65536, brain.data());
  for (int i = 0; i < 65536; ++i) {
    const float expected = FloatFromHalf(i);
    if (std::isnan(expected)) {
      // Quiet, payload and sign kept, as F16C does it.
      const uint32_t pattern = (i & 0x8000u) << 16 | 0x7FC00000u | (i & 1023u) << 13;
      ASSERT_EQ(std::bit_cast<uint32_t>(half[i]), pattern) << i;
    } else {
      ASSERT_EQ(std::bit_cast<uint32_t>(half[i]), std::bit_cast<uint32_t>(expected)) << i;
    }
    ASSERT_EQ(std::bit_cast<uint32_t>(brain[i]), static_cast<uint32_t>(i) << 16) << i;
  }
}

TEST_P(ConvertTest, RoundTripsEveryFinitePattern) {
  for (DType dtype : {DType::kFloat16, DType::kBFloat16}) {
    std::vector<uint16_t> bits;
    for (int i = 0; i < 65536; ++i) {
      const float value = dtype == DType::kFloat16 ? FloatFromHalf(i) : FloatFromBrain(i);
      if (std::isfinite(value)) bits.push_back(i);
    }
    std::vector<float> values(bits.size());
    std::vector<uint16_t> back(bits.size());
    ConvertToFloat(dtype, bits.data(), bits.size(), values.data());
    ASSERT_TRUE(ConvertFromFloat(values.data(), values.size(), dtype, back.data()));
    ASSERT_EQ(back, bits);
  }
}

TEST_P(ConvertTest, RoundsToNearestEvenAndReportsOverflow) {
  for (float sample : Samples()) {
    uint16_t half = 0, brain = 0, expected_half = 0, expected_brain = 0;
    const bool half_fits = Round(sample, 0x7C00, FloatFromHalf, &expected_half);
    const bool brain_fits = Round(sample, 0x7F80, FloatFromBrain, &expected_brain);
    ASSERT_EQ(ConvertFromFloat(&sample, 1, DType::kFloat16, &half), half_fits) << sample;
    ASSERT_EQ(ConvertFromFloat(&sample, 1, DType::kBFloat16, &brain), brain_fits) << sample;
    if (half_fits) {
      ASSERT_EQ(half, expected_half) << sample;
    }
    if (brain_fits) {
      ASSERT_EQ(brain, expected_brain) << sample;
    }
  }
}

// Every count up to two vectors, unaligned, with guards behind; one bad element anywhere is found.
TEST_P(ConvertTest, TailsAndBadElements) {
  std::mt19937 random(kSeed);
  for (DType dtype : {DType::kFloat32, DType::kFloat16, DType::kBFloat16}) {
    const size_t size = DTypeSize(dtype);
    for (int64_t count = 0; count <= 67; ++count) {
      std::vector<float> values(count + 1, NAN);
      for (int64_t i = 0; i < count; ++i) values[i] = static_cast<int>(random() % 255) - 127;
      std::vector<uint8_t> stored((count + 2) * size, 0xAB);
      ASSERT_TRUE(ConvertFromFloat(values.data(), count, dtype, stored.data() + size));
      for (size_t i = 0; i < size; ++i) ASSERT_EQ(stored[(count + 1) * size + i], 0xAB);
      std::memset(stored.data(), 0xFF, size);
      std::memset(stored.data() + (count + 1) * size, 0xFF, size);
      ASSERT_TRUE(AllFinite(dtype, stored.data() + size, count));
      ASSERT_FALSE(AllFinite(dtype, stored.data() + size, count + 1));
      std::vector<float> decoded(count + 1, 7.0f);
      ConvertToFloat(dtype, stored.data() + size, count, decoded.data());
      ASSERT_EQ(decoded[count], 7.0f);
      for (int64_t i = 0; i < count; ++i) ASSERT_EQ(decoded[i], values[i]);
      for (float bad : {NAN, INFINITY, -INFINITY, -std::nanf("0x3fffff")}) {
        if (count == 0) continue;
        const int64_t at = random() % count;
        const float good = values[at];
        values[at] = bad;
        ASSERT_FALSE(ConvertFromFloat(values.data(), count, dtype, stored.data() + size)) << at;
        values[at] = good;
      }
    }
  }
}

TEST_P(ConvertTest, QuantizesRows) {
  std::mt19937 random(kSeed);
  std::normal_distribution<float> normal;
  for (int64_t count = 1; count <= 130; ++count) {
    std::vector<float> row(count + 1, NAN);
    for (int64_t i = 0; i < count; ++i) row[i] = normal(random);
    std::vector<int8_t> stored(count + 1, 99);
    float scale = -1;
    ASSERT_TRUE(QuantizeRow(row.data(), count, stored.data(), &scale));
    ASSERT_EQ(stored[count], 99);
    float largest = 0;
    for (int64_t i = 0; i < count; ++i) largest = std::max(largest, std::abs(row[i]));
    ASSERT_EQ(scale, largest / 127.0f);
    std::vector<float> decoded(count);
    DecodeRow(DType::kInt8, stored.data(), scale, count, decoded.data());
    for (int64_t i = 0; i < count; ++i) {
      ASSERT_EQ(stored[i], std::nearbyint(row[i] / scale)) << i;
      ASSERT_EQ(decoded[i], scale * stored[i]);
    }
    row[count / 2] = count % 2 ? NAN : INFINITY;
    ASSERT_FALSE(QuantizeRow(row.data(), count, stored.data(), &scale));
  }
}

TEST_P(ConvertTest, QuantizesZeroTinyAndHugeRows) {
  std::vector<int8_t> stored(20, 5);
  float scale = -1;
  ASSERT_TRUE(QuantizeRow(std::vector<float>(20, 0.0f).data(), 20, stored.data(), &scale));
  EXPECT_EQ(scale, 0.0f);
  EXPECT_EQ(stored, std::vector<int8_t>(20, 0));
  for (float magnitude : {std::numeric_limits<float>::denorm_min(), 1e-42f, std::numeric_limits<float>::max()}) {
    std::vector<float> row(20, magnitude);
    row[3] = -magnitude;
    ASSERT_TRUE(QuantizeRow(row.data(), 20, stored.data(), &scale));
    std::vector<float> decoded(20);
    DecodeRow(DType::kInt8, stored.data(), scale, 20, decoded.data());
    for (int i = 0; i < 20; ++i) {
      ASSERT_TRUE(std::isfinite(decoded[i]));
      ASSERT_LE(std::abs(decoded[i]), magnitude * 1.0001f);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Targets, ConvertTest, testing::ValuesIn(hwy::SupportedAndGeneratedTargets()), TargetName);

}  // namespace
}  // namespace swell
