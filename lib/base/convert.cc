#include "lib/base/convert.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>

#include "lib/base/simd_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "lib/base/convert.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "lib/base/convert-inl.h"

HWY_BEFORE_NAMESPACE();
namespace swell {
namespace HWY_NAMESPACE {

using BitsTag = hn::RebindToUnsigned<FloatTag>;
using BitsVec = hn::Vec<BitsTag>;

// Storing policies: Encode gives the element's bits in each lane; kInfinity is the smallest magnitude that is not
// finite.
struct Float32Target {
  using Element = uint32_t;
  static constexpr uint32_t kMagnitude = 0x7FFFFFFFu;
  static constexpr uint32_t kInfinity = 0x7F800000u;
  static HWY_INLINE BitsVec Encode(FloatVec v) { return hn::BitCast(BitsTag(), v); }
  static HWY_INLINE void Store(BitsVec bits, Element* to) { hn::StoreU(bits, BitsTag(), to); }
};

struct Half {
  using Element = uint16_t;
  static constexpr uint32_t kMagnitude = 0x7FFFu;
  static HWY_INLINE void Store(BitsVec bits, Element* to) {
    const hn::Rebind<uint16_t, FloatTag> d16;
    const hn::RebindToSigned<FloatTag> di;
    hn::StoreU(hn::DemoteTo(d16, hn::BitCast(di, bits)), d16, to);
  }
};

struct Float16Target : Half {
  static constexpr uint32_t kInfinity = 0x7C00u;
  static HWY_INLINE BitsVec Encode(FloatVec v) {
#if SWELL_NATIVE_FLOAT16
    const hn::Rebind<hwy::float16_t, FloatTag> half;
    const hn::Rebind<uint16_t, FloatTag> d16;
    return hn::PromoteTo(BitsTag(), hn::BitCast(d16, hn::DemoteTo(half, v)));
#else
    return FloatToFloat16Bits(v);
#endif
  }
};

struct BFloat16Target : Half {
  static constexpr uint32_t kInfinity = 0x7F80u;
  static HWY_INLINE BitsVec Encode(FloatVec v) {
    const BitsTag du;
    const auto bits = hn::BitCast(du, v);
    const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 1u));
    // NaN mantissas may round to Inf, never to a finite value: 0x7FFFFFFF + 0x8000 would wrap, so it is masked off.
    const auto rounded = hn::ShiftRight<16>(hn::Add(bits, hn::Add(odd, hn::Set(du, 0x7FFFu))));
    const auto magnitude = hn::And(bits, hn::Set(du, 0x7FFFFFFFu));
    const auto finite = hn::Lt(hn::BitCast(hn::RebindToSigned<FloatTag>(), magnitude),
                               hn::Set(hn::RebindToSigned<FloatTag>(), 0x7F800000));
    return hn::IfThenElse(hn::RebindMask(du, finite), rounded, hn::Set(du, kInfinity));
  }
};

// One vector; `scale` is for int8 alone: a product would change the bits of a signalling NaN.
template <class Rows>
HWY_INLINE FloatVec DecodeVector(const typename Rows::Element* from, float scale) {
  const FloatTag d;
  const auto value = Rows::Load(d, from);
  if constexpr (std::is_same_v<Rows, Int8Rows>) return hn::Mul(value, hn::Set(d, scale));
  return value;
}

template <class Rows>
void ConvertRows(const typename Rows::Element* from, int64_t count, float scale, float* to) {
  const FloatTag d;
  const int64_t lanes = hn::Lanes(d);
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) hn::StoreU(DecodeVector<Rows>(from + i, scale), d, to + i);
  if (i < count) {
    typename Rows::Element head[16] = {};
    float tail[16];
    std::memcpy(head, from + i, (count - i) * sizeof(head[0]));
    hn::StoreU(DecodeVector<Rows>(head, scale), d, tail);
    std::memcpy(to + i, tail, (count - i) * sizeof(float));
  }
}

void Decode(DType dtype, const void* from, float scale, int64_t count, float* to) {
  switch (dtype) {
    case DType::kFloat32:
      std::memcpy(to, from, count * sizeof(float));
      break;
    case DType::kFloat16:
      ConvertRows<Float16Rows>(static_cast<const uint16_t*>(from), count, 1.0f, to);
      break;
    case DType::kBFloat16:
      ConvertRows<BFloat16Rows>(static_cast<const uint16_t*>(from), count, 1.0f, to);
      break;
    case DType::kInt8:
      ConvertRows<Int8Rows>(static_cast<const int8_t*>(from), count, scale, to);
      break;
  }
}

// Largest lane of `largest`, which holds magnitudes below 2^31.
HWY_INLINE uint32_t Largest(BitsVec largest) {
  uint32_t lanes[16] = {};
  hn::StoreU(largest, BitsTag(), lanes);
  uint32_t result = 0;
  for (uint32_t lane : lanes) result = lane > result ? lane : result;
  return result;
}

template <class Target>
bool Encode(const float* from, int64_t count, typename Target::Element* to) {
  const FloatTag d;
  const BitsTag du;
  const int64_t lanes = hn::Lanes(d);
  auto largest = hn::Zero(du);
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    const auto bits = Target::Encode(hn::LoadU(d, from + i));
    largest = hn::Max(largest, hn::And(bits, hn::Set(du, Target::kMagnitude)));
    Target::Store(bits, to + i);
  }
  if (i < count) {
    float head[16] = {};
    typename Target::Element tail[16];
    std::memcpy(head, from + i, (count - i) * sizeof(float));
    const auto bits = Target::Encode(hn::LoadU(d, head));
    largest = hn::Max(largest, hn::And(bits, hn::Set(du, Target::kMagnitude)));
    Target::Store(bits, tail);
    std::memcpy(to + i, tail, (count - i) * sizeof(tail[0]));
  }
  return Largest(largest) < Target::kInfinity;
}

bool EncodeAs(const float* from, int64_t count, DType dtype, void* to) {
  switch (dtype) {
    case DType::kFloat32:
      return Encode<Float32Target>(from, count, static_cast<uint32_t*>(to));
    case DType::kFloat16:
      return Encode<Float16Target>(from, count, static_cast<uint16_t*>(to));
    case DType::kBFloat16:
      return Encode<BFloat16Target>(from, count, static_cast<uint16_t*>(to));
    case DType::kInt8:
      break;
  }
  return false;
}

// True when no element has an exponent of all ones: every magnitude is below `infinity`.
template <class Element>
bool Finite(const Element* from, int64_t count, Element magnitude, Element infinity) {
  const hn::CappedTag<Element, 64 / sizeof(Element)> d;
  const int64_t lanes = hn::Lanes(d);
  const auto mask = hn::Set(d, magnitude);
  auto largest = hn::Zero(d);
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) largest = hn::Max(largest, hn::And(hn::LoadU(d, from + i), mask));
  Element last[64 / sizeof(Element)] = {};
  std::memcpy(last, from + i, (count - i) * sizeof(Element));
  largest = hn::Max(largest, hn::And(hn::LoadU(d, last), mask));
  hn::StoreU(largest, d, last);
  for (int64_t lane = 0; lane < lanes; ++lane) {
    if (last[lane] >= infinity) return false;
  }
  return true;
}

bool FiniteAs(DType dtype, const void* from, int64_t count) {
  switch (dtype) {
    case DType::kFloat32:
      return Finite<uint32_t>(static_cast<const uint32_t*>(from), count, 0x7FFFFFFFu, 0x7F800000u);
    case DType::kFloat16:
      return Finite<uint16_t>(static_cast<const uint16_t*>(from), count, 0x7FFFu, 0x7C00u);
    case DType::kBFloat16:
      return Finite<uint16_t>(static_cast<const uint16_t*>(from), count, 0x7FFFu, 0x7F80u);
    case DType::kInt8:
      return true;
  }
  return false;
}

HWY_INLINE void QuantizeVector(FloatVec v, FloatVec scale, int8_t* to) {
  const FloatTag d;
  const hn::Rebind<int8_t, FloatTag> d8;
  const auto limit = hn::Set(d, 127.0f);
  const auto quotient = hn::Max(hn::Min(hn::Div(v, scale), limit), hn::Neg(limit));
  hn::StoreU(hn::DemoteTo(d8, hn::NearestInt(quotient)), d8, to);
}

bool Quantize(const float* from, int64_t count, int8_t* to, float* scale) {
  const FloatTag d;
  const int64_t lanes = hn::Lanes(d);
  const int64_t whole = count / lanes * lanes;
  float tail[16] = {};
  std::memcpy(tail, from + whole, (count - whole) * sizeof(float));
  auto magnitude = [](FloatVec v)
                       HWY_ATTR { return hn::And(hn::BitCast(BitsTag(), v), hn::Set(BitsTag(), 0x7FFFFFFFu)); };
  BitsVec largest_bits = magnitude(hn::LoadU(d, tail));
  for (int64_t i = 0; i < whole; i += lanes) largest_bits = hn::Max(largest_bits, magnitude(hn::LoadU(d, from + i)));
  const uint32_t bits = Largest(largest_bits);
  if (bits >= 0x7F800000u) return false;
  float largest;
  std::memcpy(&largest, &bits, sizeof(largest));
  *scale = largest / 127.0f;
  // Rounded up at the very top of the range, 127 * scale would be Inf.
  if (*scale * 127.0f > std::numeric_limits<float>::max()) *scale = std::nextafter(*scale, 0.0f);
  if (*scale == 0.0f) {
    std::memset(to, 0, count);
    return true;
  }
  const auto divisor = hn::Set(d, *scale);
  for (int64_t i = 0; i < whole; i += lanes) QuantizeVector(hn::LoadU(d, from + i), divisor, to + i);
  int8_t last[16];
  QuantizeVector(hn::LoadU(d, tail), divisor, last);
  std::memcpy(to + whole, last, count - whole);
  return true;
}

}  // namespace HWY_NAMESPACE
}  // namespace swell
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace swell {

HWY_EXPORT(Decode);
HWY_EXPORT(EncodeAs);
HWY_EXPORT(FiniteAs);
HWY_EXPORT(Quantize);

void ConvertToFloat(DType from_dtype, const void* from, int64_t count, float* to) {
  DecodeRow(from_dtype, from, 1.0f, count, to);
}

bool ConvertFromFloat(const float* from, int64_t count, DType to_dtype, void* to) {
  return HWY_DYNAMIC_DISPATCH(EncodeAs)(from, count, to_dtype, to);
}

bool AllFinite(DType dtype, const void* from, int64_t count) {
  return HWY_DYNAMIC_DISPATCH(FiniteAs)(dtype, from, count);
}

bool QuantizeRow(const float* from, int64_t count, int8_t* to, float* scale) {
  return HWY_DYNAMIC_DISPATCH(Quantize)(from, count, to, scale);
}

void DecodeRow(DType dtype, const void* from, float scale, int64_t count, float* to) {
  if (count > 0) HWY_DYNAMIC_DISPATCH(Decode)(dtype, from, scale, count, to);
}

}  // namespace swell
#endif  // HWY_ONCE
