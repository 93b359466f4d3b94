// SIMD loads and stores of every storage dtype as float32 vectors. Included once per Highway target.
//
// Each dtype is a policy with `Element` and Load(d, from); `from` needs element alignment only. float16 without
// hardware conversion goes through integers (after F. Giesen, "half to float done quick"), bit for bit like the
// hardware.
#if defined(SWELL_LIB_BASE_CONVERT_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef SWELL_LIB_BASE_CONVERT_INL_H_
#undef SWELL_LIB_BASE_CONVERT_INL_H_
#else
#define SWELL_LIB_BASE_CONVERT_INL_H_
#endif

#include <hwy/highway.h>

#include <cstdint>

#undef SWELL_NATIVE_FLOAT16
#if (HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX2) || (HWY_ARCH_ARM_A64 && HWY_TARGET == HWY_NEON)
#define SWELL_NATIVE_FLOAT16 1
#else
#define SWELL_NATIVE_FLOAT16 0
#endif

HWY_BEFORE_NAMESPACE();
namespace swell {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// head_dim is a multiple of 16, so rows are whole vectors of this tag.
using FloatTag = hn::CappedTag<float, 16>;
using FloatVec = hn::Vec<FloatTag>;

// bits: float16 patterns in the low half of each lane.
template <class V32>
HWY_INLINE FloatVec Float16BitsToFloat(V32 bits) {
  const FloatTag d;
  const hn::RebindToUnsigned<FloatTag> du;
  const auto sign = hn::ShiftLeft<16>(hn::And(bits, hn::Set(du, 0x8000u)));
  const auto magnitude = hn::ShiftLeft<13>(hn::And(bits, hn::Set(du, 0x7FFFu)));
  const auto exponent_mask = hn::Set(du, 0x7C00u << 13);
  const auto exponent = hn::And(magnitude, exponent_mask);
  const auto rebias = hn::Set(du, (127u - 15) << 23);
  const auto normal = hn::Add(magnitude, rebias);
  // Subnormal: let the float unit renormalise. Inf and NaN: exponent all ones; NaNs turn quiet as in hardware.
  const auto magic = hn::Set(du, 113u << 23);
  const auto tiny =
      hn::BitCast(du, hn::Sub(hn::BitCast(d, hn::Add(normal, hn::Set(du, 1u << 23))), hn::BitCast(d, magic)));
  const auto infinite = hn::Add(normal, hn::Set(du, (128u - 16) << 23));
  const auto quiet = hn::Or(infinite, hn::Set(du, 1u << 22));
  const auto special = hn::IfThenElse(hn::Eq(magnitude, exponent_mask), infinite, quiet);
  auto result = hn::IfThenElse(hn::Eq(exponent, hn::Zero(du)), tiny, normal);
  result = hn::IfThenElse(hn::Eq(exponent, exponent_mask), special, result);
  return hn::BitCast(d, hn::Or(result, sign));
}

// Nearest even; the result is in the low half of each lane. NaN and overflow give an exponent of all ones.
HWY_INLINE hn::Vec<hn::RebindToUnsigned<FloatTag>> FloatToFloat16Bits(FloatVec v) {
  const FloatTag d;
  const hn::RebindToUnsigned<FloatTag> du;
  const hn::RebindToSigned<FloatTag> di;
  const auto bits = hn::BitCast(du, v);
  const auto sign = hn::ShiftRight<16>(hn::And(bits, hn::Set(du, 0x80000000u)));
  const auto magnitude = hn::And(bits, hn::Set(du, 0x7FFFFFFFu));
  const auto signed_magnitude = hn::BitCast(di, magnitude);
  // Subnormal: adding 0.5 aligns the mantissa so that the float unit rounds at the right place.
  const auto magic = hn::Set(du, ((127u - 15) + (23 - 10) + 1) << 23);
  const auto tiny = hn::Sub(hn::BitCast(du, hn::Add(hn::BitCast(d, magnitude), hn::BitCast(d, magic))), magic);
  const auto odd = hn::And(hn::ShiftRight<13>(magnitude), hn::Set(du, 1u));
  const auto rounding = hn::Add(odd, hn::Set(du, 0xFFFu - ((127u - 15) << 23)));
  const auto normal = hn::ShiftRight<13>(hn::Add(magnitude, rounding));
  const auto is_tiny = hn::Lt(signed_magnitude, hn::Set(di, 113 << 23));
  const auto is_huge = hn::Gt(signed_magnitude, hn::Set(di, ((127 + 16) << 23) - 1));
  auto result = hn::IfThenElse(hn::RebindMask(du, is_tiny), tiny, normal);
  result = hn::IfThenElse(hn::RebindMask(du, is_huge), hn::Set(du, 0x7C00u), result);
  return hn::Or(result, sign);
}

struct Float32Rows {
  using Element = float;
  static HWY_INLINE FloatVec Load(FloatTag d, const Element* from) { return hn::LoadU(d, from); }
};

struct Float16Rows {
  using Element = uint16_t;
  static HWY_INLINE FloatVec Load(FloatTag d, const Element* from) {
    const hn::Rebind<uint16_t, FloatTag> d16;
#if SWELL_NATIVE_FLOAT16
    const hn::Rebind<hwy::float16_t, FloatTag> half;
    return hn::PromoteTo(d, hn::BitCast(half, hn::LoadU(d16, from)));
#else
    (void)d;
    return Float16BitsToFloat(hn::PromoteTo(hn::RebindToUnsigned<FloatTag>(), hn::LoadU(d16, from)));
#endif
  }
};

struct BFloat16Rows {
  using Element = uint16_t;
  static HWY_INLINE FloatVec Load(FloatTag d, const Element* from) {
    const hn::Rebind<uint16_t, FloatTag> d16;
    const hn::RebindToUnsigned<FloatTag> du;
    return hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(du, hn::LoadU(d16, from))));
  }
};

// The row's scale is not applied.
struct Int8Rows {
  using Element = int8_t;
  static HWY_INLINE FloatVec Load(FloatTag d, const Element* from) {
    const hn::Rebind<int8_t, FloatTag> d8;
    const hn::RebindToSigned<FloatTag> di;
    return hn::ConvertTo(d, hn::PromoteTo(di, hn::LoadU(d8, from)));
  }
};

}  // namespace HWY_NAMESPACE
}  // namespace swell
HWY_AFTER_NAMESPACE();

#endif  // SWELL_LIB_BASE_CONVERT_INL_H_
