// Vector helpers of the kernels. Included once per Highway target.
#if defined(SWELL_LIB_ATTENTION_SIMD_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef SWELL_LIB_ATTENTION_SIMD_INL_H_
#undef SWELL_LIB_ATTENTION_SIMD_INL_H_
#else
#define SWELL_LIB_ATTENTION_SIMD_INL_H_
#endif

#include <hwy/highway.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <span>
#include <type_traits>

#include "lib/attention/row_tile.h"
#include "lib/base/convert-inl.h"

HWY_BEFORE_NAMESPACE();
namespace swell {
namespace attention {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
using swell::HWY_NAMESPACE::BFloat16Rows;
using swell::HWY_NAMESPACE::Float16Rows;
using swell::HWY_NAMESPACE::Float32Rows;
using swell::HWY_NAMESPACE::FloatTag;
using swell::HWY_NAMESPACE::FloatVec;
using swell::HWY_NAMESPACE::Int8Rows;

// Blocks must fit the register file: 32 vectors on AVX-512 and NEON, 16 elsewhere.
#if (HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX3) || HWY_ARCH_ARM_A64
constexpr bool kManyRegisters = true;
#else
constexpr bool kManyRegisters = false;
#endif

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kLargest = std::numeric_limits<float>::max();

// exp(x) within 2 ulp for x in [-87.3, 88]; 0 below, exp(88) above. Cephes' expf.
HWY_INLINE FloatVec Exp(FloatVec x) {
  const FloatTag d;
  const hn::RebindToSigned<FloatTag> di;
  const auto lowest = hn::Set(d, -87.3f);
  const auto clamped = hn::Min(hn::Max(x, lowest), hn::Set(d, 88.0f));
  const auto octaves = hn::Round(hn::Mul(clamped, hn::Set(d, 1.44269504088896341f)));
  auto r = hn::NegMulAdd(octaves, hn::Set(d, 0.693359375f), clamped);
  r = hn::NegMulAdd(octaves, hn::Set(d, -2.12194440e-4f), r);
  auto series = hn::MulAdd(r, hn::Set(d, 1.9875691500e-4f), hn::Set(d, 1.3981999507e-3f));
  series = hn::MulAdd(series, r, hn::Set(d, 8.3334519073e-3f));
  series = hn::MulAdd(series, r, hn::Set(d, 4.1665795894e-2f));
  series = hn::MulAdd(series, r, hn::Set(d, 1.6666665459e-1f));
  series = hn::MulAdd(series, r, hn::Set(d, 5.0000001201e-1f));
  const auto exponent = hn::ShiftLeft<23>(hn::Add(hn::ConvertTo(di, octaves), hn::Set(di, 127)));
  const auto rest = hn::Add(hn::MulAdd(series, hn::Mul(r, r), r), hn::Set(d, 1.0f));
  return hn::IfThenZeroElse(hn::Lt(x, lowest), hn::Mul(hn::BitCast(d, exponent), rest));
}

// exp(x) for weights of clusters, in half the operations of Exp: x in [-86, 88], exp(-86) below; within 2e-7 + 3e-8 |x|
// relative; exp(0) is 1 exactly. x log2(e) is cut into an integer, which lands in the low bits of a sum with 1.5 *
// 2^23, and a rest in [-1/2, 1/2], of which a polynomial (Remez) gives the power of two.
HWY_INLINE FloatVec ExpOfCluster(FloatVec x) {
  const FloatTag d;
  const hn::RebindToSigned<FloatTag> di;
  const auto log2_e = hn::Set(d, 1.44269504088896341f);
  const auto magic = hn::Set(d, 12582912.0f);
  x = hn::Max(x, hn::Set(d, -86.0f));
  const auto shifted = hn::MulAdd(x, log2_e, magic);
  const auto r = hn::MulSub(x, log2_e, hn::Sub(shifted, magic));
  auto power = hn::MulAdd(r, hn::Set(d, 0.001326472731f), hn::Set(d, 0.009671512991f));
  power = hn::MulAdd(power, r, hn::Set(d, 0.05550733581f));
  power = hn::MulAdd(power, r, hn::Set(d, 0.2402224243f));
  power = hn::MulAdd(power, r, hn::Set(d, 0.6931470037f));
  power = hn::MulAdd(power, r, hn::Set(d, 1.0f));
  const auto exponent = hn::ShiftLeft<23>(hn::BitCast(di, shifted));
  return hn::BitCast(d, hn::Add(hn::BitCast(di, power), exponent));
}

// Logits that overflowed stay finite, so that differences of logits are never NaN.
HWY_INLINE FloatVec ClampLogit(FloatVec logit) {
  const FloatTag d;
  return hn::Min(hn::Max(logit, hn::Set(d, -kLargest)), hn::Set(d, kLargest));
}

HWY_INLINE float Sum(FloatVec v) { return hn::GetLane(hn::SumOfLanes(FloatTag(), v)); }
HWY_INLINE float Largest(FloatVec v) { return hn::GetLane(hn::MaxOfLanes(FloatTag(), v)); }

// The first `count` elements of `from`, `fill` in the other lanes.
template <class D, class T>
HWY_INLINE hn::Vec<D> LoadUpTo(D d, const T* from, int64_t count, T fill) {
  if (count >= static_cast<int64_t>(hn::Lanes(d))) return hn::LoadU(d, from);
  T lanes[16];
  for (int64_t i = 0; i < 16; ++i) lanes[i] = i < count ? from[i] : fill;
  return hn::LoadU(d, lanes);
}

HWY_INLINE FloatVec LoadUpTo(const float* from, int64_t count, float fill) {
  return LoadUpTo(FloatTag(), from, count, fill);
}

HWY_INLINE void StoreUpTo(FloatVec v, float* to, int64_t count) {
  const FloatTag d;
  if (count >= static_cast<int64_t>(hn::Lanes(d))) {
    hn::StoreU(v, d, to);
    return;
  }
  float lanes[16];
  hn::StoreU(v, d, lanes);
  std::copy_n(lanes, count, to);
}

// row *= factor
HWY_INLINE void ScaleRow(float factor, int64_t count, float* row) {
  const FloatTag d;
  const auto scale = hn::Set(d, factor);
  for (int64_t i = 0; i < count; i += hn::Lanes(d)) hn::StoreU(hn::Mul(hn::LoadU(d, row + i), scale), d, row + i);
}

// One step of the online softmax over a tile: logits [kTileTokens], -inf where there is no token, become weights
// relative to the new maximum; `largest` is the maximum of the logits. Returns what the older sums must be multiplied
// by.
HWY_INLINE float SoftmaxStep(float largest, float* logits, float* max, float* sum) {
  const FloatTag d;
  const float new_max = std::max(*max, largest);
  if (new_max == -kInfinity) {
    std::fill_n(logits, kTileTokens, 0.0f);
    return 1.0f;
  }
  const auto shift = hn::Set(d, new_max);
  auto total = hn::Zero(d);
  for (int64_t t = 0; t < kTileTokens; t += hn::Lanes(d)) {
    const auto weight = Exp(hn::Sub(hn::LoadU(d, logits + t), shift));
    hn::StoreU(weight, d, logits + t);
    total = hn::Add(total, weight);
  }
  const float factor = new_max > *max ? std::exp(*max - new_max) : 1.0f;
  *max = new_max;
  *sum = *sum * factor + Sum(total);
  return factor;
}

}  // namespace HWY_NAMESPACE
}  // namespace attention
}  // namespace swell
HWY_AFTER_NAMESPACE();

#endif  // SWELL_LIB_ATTENTION_SIMD_INL_H_
