// The packed weights against float64, on every SIMD target of the machine.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <span>
#include <vector>

#include "tests/support/each_target.h"
#include "tools/model/matmul.h"
#include "tools/model/matrix.h"

namespace swell::model {
namespace {

struct Weights {
  TensorType type;
  int64_t outputs, inputs;
  std::vector<std::byte> data;
  std::vector<float> values;  // [outputs, inputs], as Dequantize has them

  Matrix Pack() const { return Matrix(type, data, outputs, inputs); }
};

class Strips : public testing::Test {
 protected:
  Strips() : seed_(std::random_device{}()), random_(seed_) { std::printf("seed %u\n", seed_); }

  std::vector<float> Random(int64_t count) {
    std::normal_distribution<float> normal(0, 1);
    std::vector<float> values(static_cast<size_t>(count));
    for (float& value : values) value = normal(random_);
    return values;
  }

  // Random bytes; every float16 among them is made finite and of moderate size, now and then zero or subnormal.
  Weights RandomWeights(TensorType type, int64_t outputs, int64_t inputs) {
    const BlockShape shape = BlockShapeOf(type);
    Weights weights{type, outputs, inputs, {}, std::vector<float>(static_cast<size_t>(outputs * inputs))};
    weights.data.resize(static_cast<size_t>(outputs * inputs / shape.elements * shape.bytes));
    for (std::byte& byte : weights.data) byte = static_cast<std::byte>(random_());
    const int64_t halves = type == TensorType::kF16 ? 1 : type == TensorType::kQ4_1 ? 2 : 1;
    for (size_t at = 0; at < weights.data.size(); at += static_cast<size_t>(shape.bytes)) {
      for (int64_t i = 0; i < halves && type != TensorType::kF32; ++i) PlaceHalf(&weights.data[at + 2 * i]);
      if (type == TensorType::kF32) std::memcpy(&weights.data[at], Random(1).data(), 4);
    }
    EXPECT_TRUE(Dequantize(type, weights.data, weights.values.data()));
    return weights;
  }

  void ExpectProducts(const Weights& weights, int64_t count);

  const uint32_t seed_;
  std::mt19937 random_;

 private:
  void PlaceHalf(std::byte* to) {
    const uint16_t sign = static_cast<uint16_t>(random_() % 2 << 15);
    const uint16_t kinds[] = {0, static_cast<uint16_t>(random_() % 1024),
                              static_cast<uint16_t>(0x2C00 + random_() % 0x1000)};
    const uint16_t half = sign | kinds[random_() % 8 < 6 ? 2 : random_() % 2];
    std::memcpy(to, &half, 2);
  }
};

constexpr TensorType kTypes[] = {TensorType::kF32, TensorType::kF16, TensorType::kQ4_0, TensorType::kQ4_1,
                                 TensorType::kQ8_0};

// The sums of products and of their magnitudes, which bound what rounding may do.
struct Expected {
  double sum = 0;
  double magnitude = 0;
};

Expected Dot(const Weights& weights, int64_t output, const float* x) {
  Expected expected;
  for (int64_t i = 0; i < weights.inputs; ++i) {
    const double product = double{weights.values[static_cast<size_t>(output * weights.inputs + i)]} * x[i];
    expected.sum += product;
    expected.magnitude += std::abs(product);
    // Codes are multiplied as fractions of a scale 16 or 256 times as large; scales are below 1 here.
    const double scale = weights.type == TensorType::kQ4_1 ? 24 : BlockShapeOf(weights.type).elements > 1 ? 384 : 0;
    expected.magnitude += scale * std::abs(x[i]);
  }
  return expected;
}

TEST_F(Strips, ExpandingGivesTheWeights) {
  for (const TensorType type : kTypes) {
    const int64_t inputs = BlockShapeOf(type).elements == 1 ? 37 : 96;
    for (const int64_t outputs : {1, 15, 16, 17, 50}) {
      const Weights weights = RandomWeights(type, outputs, inputs);
      ForEachTarget([&](int64_t) {
        const Matrix matrix = weights.Pack();
        ASSERT_TRUE(matrix.finite());
        const int64_t columns = matrix.strips() * kStripOutputs;
        std::vector<float> panel(static_cast<size_t>(inputs * columns), NAN);
        matrix.Expand(0, matrix.strips(), panel.data());
        std::vector<float> row(static_cast<size_t>(inputs), NAN);
        matrix.Row(outputs - 1, row.data());
        for (int64_t i = 0; i < inputs; ++i) {
          for (int64_t o = 0; o < columns; ++o) {
            const float expected = o < outputs ? weights.values[static_cast<size_t>(o * inputs + i)] : 0.0F;
            ASSERT_NEAR(panel[static_cast<size_t>(i * columns + o)], expected, 3e-6 * (1 + std::abs(expected)))
                << static_cast<uint32_t>(type) << " " << o << " " << i;
          }
          ASSERT_EQ(row[static_cast<size_t>(i)], panel[static_cast<size_t>(i * columns + outputs - 1)]);
        }
      });
    }
  }
}

void Strips::ExpectProducts(const Weights& weights, int64_t count) {
  const std::vector<float> rows = Random(count * weights.inputs);
  Linear layer;
  layer.weights = weights.Pack();
  for (const int32_t threads : {1, 3}) {
    std::vector<float> result(static_cast<size_t>(count * weights.outputs), NAN);
    MatMul(threads).Apply(std::span(&layer, 1), rows.data(), count, result.data());
    for (int64_t r = 0; r < count; ++r) {
      for (int64_t o = 0; o < weights.outputs; ++o) {
        const Expected expected = Dot(weights, o, rows.data() + r * weights.inputs);
        ASSERT_NEAR(result[static_cast<size_t>(r * weights.outputs + o)], expected.sum, 1e-6 * (1 + expected.magnitude))
            << static_cast<uint32_t>(weights.type) << " " << count << " " << weights.inputs << " " << weights.outputs;
      }
    }
  }
}

TEST_F(Strips, ProductsMatchDouble) {
  for (const TensorType type : kTypes) {
    const int64_t block = BlockShapeOf(type).elements;
    for (const int64_t inputs : {int64_t{1}, int64_t{3}, int64_t{18}}) {
      for (const int64_t outputs : {1, 16, 63, 65, 200}) {
        const Weights weights = RandomWeights(type, outputs, block == 1 ? 4 * inputs - 3 : block * inputs);
        ForEachTarget([&](int64_t) {
          for (const int64_t count : {1, 2, 6, 7, 40}) ExpectProducts(weights, count);
        });
      }
    }
  }
}

// Sizes above the work that is done without other threads.
TEST_F(Strips, LargeProductsMatchDouble) {
  for (const TensorType type : kTypes) {
    const Weights weights = RandomWeights(type, 500, 320);
    ForEachTarget([&](int64_t) { ExpectProducts(weights, 1); });
  }
}

TEST_F(Strips, AdaptersAreAdded) {
  constexpr int64_t kInputs = 64, kRank = 5, kOutputs[] = {33, 16};
  constexpr int64_t kColumns = kOutputs[0] + kOutputs[1];
  for (const int64_t count : {1, 3, 20}) {
    const MatMul matmul(2);
    const std::vector<float> rows = Random(count * kInputs);
    std::vector<Linear> layers(2);
    std::vector<double> expected(static_cast<size_t>(count * kColumns));
    int64_t column = 0;
    for (size_t i = 0; i < 2; ++i) {
      const Weights weights = RandomWeights(TensorType::kQ4_1, kOutputs[i], kInputs);
      const Weights into = RandomWeights(TensorType::kF16, kRank, kInputs);
      const Weights from = RandomWeights(TensorType::kF16, kOutputs[i], kRank);
      layers[i].weights = weights.Pack();
      if (i == 0) {  // the other one has no adapter
        layers[i].into_rank = into.Pack();
        layers[i].from_rank = from.Pack();
        layers[i].factor = 2;
      }
      for (int64_t r = 0; r < count; ++r) {
        const float* x = rows.data() + r * kInputs;
        for (int64_t o = 0; o < kOutputs[i]; ++o) {
          double sum = Dot(weights, o, x).sum;
          for (int64_t k = 0; k < kRank && i == 0; ++k) {
            sum += 2 * double{from.values[static_cast<size_t>(o * kRank + k)]} * Dot(into, k, x).sum;
          }
          expected[static_cast<size_t>(r * kColumns + column + o)] = sum;
        }
      }
      column += kOutputs[i];
    }
    std::vector<float> result(expected.size(), NAN);
    matmul.Apply(layers, rows.data(), count, result.data());
    for (size_t i = 0; i < expected.size(); ++i) ASSERT_NEAR(result[i], expected[i], 2e-3) << count << " " << i;
  }
}

TEST_F(Strips, InfiniteWeightsAreSeen) {
  for (const TensorType type : kTypes) {
    Weights weights = RandomWeights(type, 20, 64);
    ASSERT_TRUE(weights.Pack().finite());
    const uint16_t infinity = 0x7C00;
    const float wide = INFINITY;
    if (type == TensorType::kF32) {
      std::memcpy(weights.data.data() + 4 * 700, &wide, 4);
    } else {
      const size_t block_bytes = static_cast<size_t>(BlockShapeOf(type).bytes);
      std::memcpy(weights.data.data() + weights.data.size() - block_bytes, &infinity, 2);
    }
    EXPECT_FALSE(weights.Pack().finite()) << static_cast<uint32_t>(type);
  }
}

}  // namespace
}  // namespace swell::model
