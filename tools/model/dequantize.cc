#include "tools/model/dequantize.h"

#include <bit>
#include <cmath>
#include <cstring>

namespace swell::model {
namespace {

constexpr int kBlock = 32;        // elements of a Q4_0, Q4_1 and Q8_0 block
constexpr int kSuperBlock = 256;  // elements of a Q6_K block

uint8_t Byte(const std::byte* from, int64_t index) { return std::to_integer<uint8_t>(from[index]); }
int8_t SignedByte(const std::byte* from, int64_t index) { return static_cast<int8_t>(Byte(from, index)); }

template <typename T>
T Load(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

float HalfToFloat(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000U) << 16;
  const uint32_t exponent = (half >> 10) & 0x1FU;
  const uint32_t fraction = half & 0x3FFU;
  if (exponent == 0) {  // zero and subnormals: fraction * 2^-24
    const float magnitude = static_cast<float>(fraction) * 0x1p-24F;
    return sign != 0 ? -magnitude : magnitude;
  }
  const uint32_t wide = exponent == 31 ? 255 : exponent + 127 - 15;
  return std::bit_cast<float>(sign | (wide << 23) | (fraction << 13));
}

float LoadHalf(const std::byte* from) { return HalfToFloat(Load<uint16_t>(from)); }

// scale f16, then 16 bytes: low nibbles are elements 0..15, high nibbles 16..31, both minus 8.
void ExpandQ4_0(const std::byte* block, float* to) {
  const float scale = LoadHalf(block);
  for (int i = 0; i < kBlock / 2; ++i) {
    const int pair = Byte(block, 2 + i);
    to[i] = scale * static_cast<float>((pair & 15) - 8);
    to[i + kBlock / 2] = scale * static_cast<float>((pair >> 4) - 8);
  }
}

// scale f16, minimum f16, nibbles as in Q4_0 without the offset.
void ExpandQ4_1(const std::byte* block, float* to) {
  const float scale = LoadHalf(block);
  const float minimum = LoadHalf(block + 2);
  for (int i = 0; i < kBlock / 2; ++i) {
    const int pair = Byte(block, 4 + i);
    to[i] = scale * static_cast<float>(pair & 15) + minimum;
    to[i + kBlock / 2] = scale * static_cast<float>(pair >> 4) + minimum;
  }
}

// scale f16, 32 signed bytes.
void ExpandQ8_0(const std::byte* block, float* to) {
  const float scale = LoadHalf(block);
  for (int i = 0; i < kBlock; ++i) to[i] = scale * static_cast<float>(SignedByte(block, 2 + i));
}

// 128 bytes of low nibbles, 64 bytes of two high bits, 16 signed scales of 16 elements each, scale f16. Each half of
// 128 elements takes 64 low bytes, 32 high bytes and 8 scales; element = scale * scales[.] * (six bits - 32).
void ExpandQ6_K(const std::byte* block, float* to) {
  const float scale = LoadHalf(block + 208);
  for (int half = 0; half < 2; ++half) {
    const std::byte* low = block + 64 * half;
    const std::byte* high = block + 128 + 32 * half;
    const std::byte* scales = block + 192 + 8 * half;
    float* out = to + 128 * half;
    for (int quarter = 0; quarter < 4; ++quarter) {
      for (int i = 0; i < 32; ++i) {
        const int nibbles = Byte(low, i + 32 * (quarter & 1));
        const int bits = (quarter < 2 ? nibbles & 15 : nibbles >> 4) | (((Byte(high, i) >> (2 * quarter)) & 3) << 4);
        const float factor = scale * static_cast<float>(SignedByte(scales, 2 * quarter + i / 16));
        out[32 * quarter + i] = factor * static_cast<float>(bits - 32);
      }
    }
  }
}

void ExpandBlock(TensorType type, const std::byte* block, float* to) {
  switch (type) {
    case TensorType::kF32:
      *to = Load<float>(block);
      return;
    case TensorType::kF16:
      *to = LoadHalf(block);
      return;
    case TensorType::kBF16:
      *to = std::bit_cast<float>(static_cast<uint32_t>(Load<uint16_t>(block)) << 16);
      return;
    case TensorType::kQ4_0:
      ExpandQ4_0(block, to);
      return;
    case TensorType::kQ4_1:
      ExpandQ4_1(block, to);
      return;
    case TensorType::kQ8_0:
      ExpandQ8_0(block, to);
      return;
    case TensorType::kQ6_K:
      ExpandQ6_K(block, to);
      return;
  }
}

}  // namespace

BlockShape BlockShapeOf(TensorType type) {
  switch (type) {
    case TensorType::kF32:
      return {1, 4};
    case TensorType::kF16:
    case TensorType::kBF16:
      return {1, 2};
    case TensorType::kQ4_0:
      return {kBlock, 18};
    case TensorType::kQ4_1:
      return {kBlock, 20};
    case TensorType::kQ8_0:
      return {kBlock, 34};
    case TensorType::kQ6_K:
      return {kSuperBlock, 210};
  }
  return {};
}

bool Dequantize(TensorType type, std::span<const std::byte> data, float* to) {
  const BlockShape shape = BlockShapeOf(type);
  if (shape.bytes == 0) return false;
  const int64_t blocks = static_cast<int64_t>(data.size()) / shape.bytes;
  bool finite = true;
  for (int64_t block = 0; block < blocks; ++block) {
    float* out = to + block * shape.elements;
    ExpandBlock(type, data.data() + block * shape.bytes, out);
    for (int64_t i = 0; i < shape.elements; ++i) finite &= std::isfinite(out[i]);
  }
  return finite;
}

}  // namespace swell::model
