#include "tools/model/strips.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "tools/model/strips.cc"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace swell::model::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;
using Tag = hn::CappedTag<float, kStripOutputs>;
using Vec = hn::Vec<Tag>;
using WordTag = hn::RebindToUnsigned<Tag>;
using Words = hn::Vec<WordTag>;

// Finite float16 numbers as float32. Without an instruction for it, exponent and fraction move into their places, and a
// product corrects the exponent's bias and normalises subnormal numbers.
HWY_INLINE Vec LoadHalf(const uint16_t* from) {
  const Tag d;
  const auto halves = hn::LoadU(hn::Rebind<uint16_t, Tag>(), from);
#if (HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX2) || (HWY_ARCH_ARM_A64 && HWY_TARGET == HWY_NEON)
  return hn::PromoteTo(d, hn::BitCast(hn::Rebind<hwy::float16_t, Tag>(), halves));
#else
  const WordTag du;
  const Words bits = hn::PromoteTo(du, halves);
  const Words sign = hn::ShiftLeft<16>(hn::And(bits, hn::Set(du, 0x8000U)));
  const Words magnitude = hn::ShiftLeft<13>(hn::And(bits, hn::Set(du, 0x7FFFU)));
  const Vec value = hn::Mul(hn::BitCast(d, magnitude), hn::Set(d, 0x1p112F));
  return hn::BitCast(d, hn::Or(hn::BitCast(du, value), sign));
#endif
}

struct Float32Strip {
  using Element = float;
  static HWY_INLINE Vec Load(const Element* from) { return hn::LoadU(Tag(), from); }
};

struct Float16Strip {
  using Element = uint16_t;
  static HWY_INLINE Vec Load(const Element* from) { return LoadHalf(from); }
};

template <class Strip>
void DotFloats(const std::byte* strip, int64_t inputs, const float* x, float* result) {
  const Tag d;
  for (int64_t lane = 0; lane < kStripOutputs; lane += static_cast<int64_t>(hn::Lanes(d))) {
    const auto* w = reinterpret_cast<const typename Strip::Element*>(strip) + lane;
    Vec sum0 = hn::Zero(d);  // four chains hide the latency of the multiply-add
    Vec sum1 = sum0;
    Vec sum2 = sum0;
    Vec sum3 = sum0;
    int64_t i = 0;
    for (; i + 4 <= inputs; i += 4, w += 4 * kStripOutputs) {
      sum0 = hn::MulAdd(Strip::Load(w), hn::Set(d, x[i]), sum0);
      sum1 = hn::MulAdd(Strip::Load(w + kStripOutputs), hn::Set(d, x[i + 1]), sum1);
      sum2 = hn::MulAdd(Strip::Load(w + 2 * kStripOutputs), hn::Set(d, x[i + 2]), sum2);
      sum3 = hn::MulAdd(Strip::Load(w + 3 * kStripOutputs), hn::Set(d, x[i + 3]), sum3);
    }
    for (; i < inputs; ++i, w += kStripOutputs) sum0 = hn::MulAdd(Strip::Load(w), hn::Set(d, x[i]), sum0);
    hn::StoreU(hn::Add(hn::Add(sum0, sum1), hn::Add(sum2, sum3)), d, result + lane);
  }
}

template <class Strip>
void ExpandFloats(const std::byte* strip, int64_t inputs, float* to, int64_t stride) {
  const Tag d;
  const auto* w = reinterpret_cast<const typename Strip::Element*>(strip);
  for (int64_t i = 0; i < inputs; ++i, w += kStripOutputs, to += stride) {
    for (int64_t lane = 0; lane < kStripOutputs; lane += static_cast<int64_t>(hn::Lanes(d))) {
      hn::StoreU(Strip::Load(w + lane), d, to + lane);
    }
  }
}

// 1 + code / 2^kBits for code kIndex of each word: the code becomes the top bits of a fraction, which saves converting
// integers. A block's sum of x takes the ones out again.
template <int kBits, int kIndex>
HWY_INLINE Vec Fraction(Words words) {
  constexpr int kShift = 23 - kBits - kBits * kIndex;
  constexpr uint32_t kMask = ((1U << kBits) - 1) << (23 - kBits);
  const WordTag du;
  Words moved;
  if constexpr (kShift >= 0) {
    moved = hn::ShiftLeft<kShift>(words);
  } else {
    moved = hn::ShiftRight<-kShift>(words);
  }
  return hn::BitCast(Tag(), hn::OrAnd(hn::Set(du, 0x3F800000U), moved, hn::Set(du, kMask)));
}

// One block of inputs. Weight = scale * Fraction + offset.
template <int kBits>
struct Block {
  static constexpr int64_t kWords = kBits;                // of an output
  static constexpr int64_t kCodes = 32 / kBits;           // in a word
  static constexpr int64_t kHalves = kBits == 4 ? 2 : 1;  // float16 numbers of an output
  static constexpr int64_t kBytes = kStripOutputs * (2 * kHalves + 4 * kWords);

  static HWY_INLINE void LoadScale(const std::byte* block, int64_t lane, Vec* scale, Vec* offset) {
    const Tag d;
    const auto* halves = reinterpret_cast<const uint16_t*>(block) + lane;
    const Vec step = LoadHalf(halves);
    *scale = hn::Mul(step, hn::Set(d, static_cast<float>(1 << kBits)));
    if constexpr (kBits == 4) {
      *offset = hn::Sub(LoadHalf(halves + kStripOutputs), *scale);
    } else {
      *offset = hn::Mul(step, hn::Set(d, -256.0F - 128.0F));
    }
  }
  static HWY_INLINE Words Load(const std::byte* block, int64_t word, int64_t lane) {
    const auto* words = reinterpret_cast<const uint32_t*>(block + 2 * kHalves * kStripOutputs);
    return hn::LoadU(WordTag(), words + word * kStripOutputs + lane);
  }
};

template <int kBits>
HWY_INLINE void AddWords(Words words, const float* x, Vec* sum0, Vec* sum1) {
  const Tag d;
  *sum0 = hn::MulAdd(Fraction<kBits, 0>(words), hn::Set(d, x[0]), *sum0);
  *sum1 = hn::MulAdd(Fraction<kBits, 1>(words), hn::Set(d, x[1]), *sum1);
  *sum0 = hn::MulAdd(Fraction<kBits, 2>(words), hn::Set(d, x[2]), *sum0);
  *sum1 = hn::MulAdd(Fraction<kBits, 3>(words), hn::Set(d, x[3]), *sum1);
  if constexpr (kBits == 4) {
    *sum0 = hn::MulAdd(Fraction<kBits, 4>(words), hn::Set(d, x[4]), *sum0);
    *sum1 = hn::MulAdd(Fraction<kBits, 5>(words), hn::Set(d, x[5]), *sum1);
    *sum0 = hn::MulAdd(Fraction<kBits, 6>(words), hn::Set(d, x[6]), *sum0);
    *sum1 = hn::MulAdd(Fraction<kBits, 7>(words), hn::Set(d, x[7]), *sum1);
  }
}

template <int kBits>
void DotCodes(const std::byte* strip, int64_t inputs, const float* x, const float* sums, float* result) {
  using B = Block<kBits>;
  const Tag d;
  for (int64_t lane = 0; lane < kStripOutputs; lane += static_cast<int64_t>(hn::Lanes(d))) {
    const std::byte* block = strip;
    Vec total = hn::Zero(d);
    for (int64_t b = 0; b < inputs / kStripBlock; ++b, block += B::kBytes) {
      const float* from = x + b * kStripBlock;
      Vec sum0 = hn::Zero(d);
      Vec sum1 = sum0;
      Vec sum2 = sum0;
      Vec sum3 = sum0;
      for (int64_t word = 0; word < B::kWords; word += 2, from += 2 * B::kCodes) {
        AddWords<kBits>(B::Load(block, word, lane), from, &sum0, &sum1);
        AddWords<kBits>(B::Load(block, word + 1, lane), from + B::kCodes, &sum2, &sum3);
      }
      Vec scale;
      Vec offset;
      B::LoadScale(block, lane, &scale, &offset);
      total = hn::MulAdd(scale, hn::Add(hn::Add(sum0, sum1), hn::Add(sum2, sum3)), total);
      total = hn::MulAdd(offset, hn::Set(d, sums[b]), total);
    }
    hn::StoreU(total, d, result + lane);
  }
}

template <int kBits, int kIndex>
HWY_INLINE void StoreWeight(Words words, Vec scale, Vec offset, float* to, int64_t stride) {
  hn::StoreU(hn::MulAdd(scale, Fraction<kBits, kIndex>(words), offset), Tag(), to + kIndex * stride);
}

template <int kBits>
void ExpandCodes(const std::byte* strip, int64_t inputs, float* to, int64_t stride) {
  using B = Block<kBits>;
  for (int64_t lane = 0; lane < kStripOutputs; lane += static_cast<int64_t>(hn::Lanes(Tag()))) {
    const std::byte* block = strip;
    float* out = to + lane;
    for (int64_t b = 0; b < inputs / kStripBlock; ++b, block += B::kBytes) {
      Vec scale;
      Vec offset;
      B::LoadScale(block, lane, &scale, &offset);
      for (int64_t word = 0; word < B::kWords; ++word, out += B::kCodes * stride) {
        const Words words = B::Load(block, word, lane);
        StoreWeight<kBits, 0>(words, scale, offset, out, stride);
        StoreWeight<kBits, 1>(words, scale, offset, out, stride);
        StoreWeight<kBits, 2>(words, scale, offset, out, stride);
        StoreWeight<kBits, 3>(words, scale, offset, out, stride);
        if constexpr (kBits == 4) {
          StoreWeight<kBits, 4>(words, scale, offset, out, stride);
          StoreWeight<kBits, 5>(words, scale, offset, out, stride);
          StoreWeight<kBits, 6>(words, scale, offset, out, stride);
          StoreWeight<kBits, 7>(words, scale, offset, out, stride);
        }
      }
    }
  }
}

void BlockSumsTarget(const float* x, int64_t inputs, float* sums) {
  const Tag d;
  for (int64_t b = 0; b < inputs / kStripBlock; ++b, x += kStripBlock) {
    Vec sum = hn::Zero(d);
    for (int64_t i = 0; i < kStripBlock; i += static_cast<int64_t>(hn::Lanes(d))) {
      sum = hn::Add(sum, hn::LoadU(d, x + i));
    }
    sums[b] = hn::GetLane(hn::SumOfLanes(d, sum));
  }
}

void DotStripTarget(StripKind kind, const std::byte* strip, int64_t inputs, const float* x, const float* sums,
                    float* result) {
  switch (kind) {
    case StripKind::kFloat32:
      return DotFloats<Float32Strip>(strip, inputs, x, result);
    case StripKind::kFloat16:
      return DotFloats<Float16Strip>(strip, inputs, x, result);
    case StripKind::kCode4:
      return DotCodes<4>(strip, inputs, x, sums, result);
    case StripKind::kCode8:
      return DotCodes<8>(strip, inputs, x, sums, result);
  }
}

void ExpandStripTarget(StripKind kind, const std::byte* strip, int64_t inputs, float* to, int64_t stride) {
  switch (kind) {
    case StripKind::kFloat32:
      return ExpandFloats<Float32Strip>(strip, inputs, to, stride);
    case StripKind::kFloat16:
      return ExpandFloats<Float16Strip>(strip, inputs, to, stride);
    case StripKind::kCode4:
      return ExpandCodes<4>(strip, inputs, to, stride);
    case StripKind::kCode8:
      return ExpandCodes<8>(strip, inputs, to, stride);
  }
}

}  // namespace swell::model::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace swell::model {

HWY_EXPORT(BlockSumsTarget);
HWY_EXPORT(DotStripTarget);
HWY_EXPORT(ExpandStripTarget);

int64_t StripBytes(StripKind kind, int64_t inputs) {
  switch (kind) {
    case StripKind::kFloat32:
      return inputs * kStripOutputs * 4;
    case StripKind::kFloat16:
      return inputs * kStripOutputs * 2;
    case StripKind::kCode4:
      return inputs / kStripBlock * kStripOutputs * (2 * 2 + 4 * 4);
    case StripKind::kCode8:
      return inputs / kStripBlock * kStripOutputs * (2 + 8 * 4);
  }
  return 0;
}

void BlockSums(const float* x, int64_t inputs, float* sums) { HWY_DYNAMIC_DISPATCH(BlockSumsTarget)(x, inputs, sums); }

void DotStrip(StripKind kind, const std::byte* strip, int64_t inputs, const float* x, const float* sums,
              float* result) {
  HWY_DYNAMIC_DISPATCH(DotStripTarget)(kind, strip, inputs, x, sums, result);
}

void ExpandStrip(StripKind kind, const std::byte* strip, int64_t inputs, float* to, int64_t stride) {
  HWY_DYNAMIC_DISPATCH(ExpandStripTarget)(kind, strip, inputs, to, stride);
}

}  // namespace swell::model
#endif  // HWY_ONCE
