#include "tools/model/matrix.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace swell::model {
namespace {

constexpr uint32_t kHalfInfinity = 0x7C00;  // bits of the exponent

// A block of one row, taken apart: weight = scale * code + minimum, or scale * (code - 128) in kCode8.
struct Codes {
  uint16_t scale = 0;    // float16
  uint16_t minimum = 0;  // float16; kCode4 alone
  uint32_t codes[kStripBlock] = {};
};

StripKind KindOf(TensorType type) {
  switch (type) {
    case TensorType::kQ4_1:
      return StripKind::kCode4;
    case TensorType::kQ4_0:
    case TensorType::kQ8_0:
      return StripKind::kCode8;
    case TensorType::kF16:
      return StripKind::kFloat16;
    default:
      return StripKind::kFloat32;
  }
}

// The layouts are described in dequantize.cc.
Codes TakeApart(TensorType type, const std::byte* block) {
  Codes result;
  std::memcpy(&result.scale, block, 2);
  block += 2;
  if (type == TensorType::kQ4_1) {
    std::memcpy(&result.minimum, block, 2);
    block += 2;
  }
  for (int64_t i = 0; i < kStripBlock; ++i) {
    if (type == TensorType::kQ8_0) {
      result.codes[i] = std::to_integer<uint32_t>(block[i]) ^ 0x80U;  // plus 128, modulo 256
      continue;
    }
    const uint32_t pair = std::to_integer<uint32_t>(block[i % (kStripBlock / 2)]);
    result.codes[i] = i < kStripBlock / 2 ? pair & 15U : pair >> 4;
    if (type == TensorType::kQ4_0) result.codes[i] += 128 - 8;
  }
  return result;
}

bool IsFinite(uint16_t half) { return (half & kHalfInfinity) != kHalfInfinity; }

// Writes the block as output `lane` of the strip's block at `to`.
void PlaceCodes(StripKind kind, const Codes& codes, int64_t lane, std::byte* to) {
  const int64_t bits = kind == StripKind::kCode4 ? 4 : 8;
  std::memcpy(to + 2 * lane, &codes.scale, 2);
  to += 2 * kStripOutputs;
  if (kind == StripKind::kCode4) {
    std::memcpy(to + 2 * lane, &codes.minimum, 2);
    to += 2 * kStripOutputs;
  }
  const int64_t per_word = 32 / bits;
  for (int64_t word = 0; word < bits; ++word) {
    uint32_t packed = 0;
    for (int64_t i = 0; i < per_word; ++i) packed |= codes.codes[word * per_word + i] << (bits * i);
    std::memcpy(to + 4 * (word * kStripOutputs + lane), &packed, 4);
  }
}

// Element i of the row goes to input i of output `lane`.
template <typename Element>
void PlaceRow(const Element* row, int64_t inputs, int64_t lane, std::byte* strip) {
  for (int64_t i = 0; i < inputs; ++i) {
    std::memcpy(strip + sizeof(Element) * (i * kStripOutputs + lane), row + i, sizeof(Element));
  }
}

bool PackCodes(TensorType type, const std::byte* row, int64_t inputs, int64_t lane, std::byte* strip) {
  const StripKind kind = KindOf(type);
  bool finite = true;
  for (int64_t block = 0; block < inputs / kStripBlock; ++block) {
    const Codes codes = TakeApart(type, row + block * BlockShapeOf(type).bytes);
    finite &= IsFinite(codes.scale) && IsFinite(codes.minimum);
    PlaceCodes(kind, codes, lane, strip + StripBytes(kind, block * kStripBlock));
  }
  return finite;
}

bool PackHalves(const std::byte* row, int64_t inputs, int64_t lane, std::byte* strip) {
  std::vector<uint16_t> halves(static_cast<size_t>(inputs));
  std::memcpy(halves.data(), row, halves.size() * sizeof(uint16_t));
  PlaceRow(halves.data(), inputs, lane, strip);
  return std::all_of(halves.begin(), halves.end(), IsFinite);
}

}  // namespace

Matrix::Matrix(TensorType type, std::span<const std::byte> data, int64_t outputs, int64_t inputs)
    : kind_(KindOf(type)), outputs_(outputs), inputs_(inputs) {
  data_.resize(static_cast<size_t>(strips() * StripBytes(kind_, inputs)));
  const size_t row_bytes = data.size() / static_cast<size_t>(outputs);
  std::vector<float> floats(kind_ == StripKind::kFloat32 ? static_cast<size_t>(inputs) : 0);
  for (int64_t output = 0; output < outputs; ++output) {
    const std::span<const std::byte> row = data.subspan(static_cast<size_t>(output) * row_bytes, row_bytes);
    const int64_t lane = output % kStripOutputs;
    std::byte* strip = data_.data() + output / kStripOutputs * StripBytes(kind_, inputs);
    if (kind_ == StripKind::kFloat32) {
      finite_ &= Dequantize(type, row, floats.data());
      PlaceRow(floats.data(), inputs, lane, strip);
    } else if (kind_ == StripKind::kFloat16) {
      finite_ &= PackHalves(row.data(), inputs, lane, strip);
    } else {
      finite_ &= PackCodes(type, row.data(), inputs, lane, strip);
    }
  }
}

void Matrix::Expand(int64_t first, int64_t count, float* to) const {
  for (int64_t i = 0; i < count; ++i) {
    ExpandStrip(kind_, Strip(first + i), inputs_, to + i * kStripOutputs, count * kStripOutputs);
  }
}

void Matrix::Row(int64_t output, float* to) const {
  std::vector<float> strip(static_cast<size_t>(inputs_ * kStripOutputs));
  Expand(output / kStripOutputs, 1, strip.data());
  for (int64_t i = 0; i < inputs_; ++i) to[i] = strip[static_cast<size_t>(i * kStripOutputs + output % kStripOutputs)];
}

}  // namespace swell::model
