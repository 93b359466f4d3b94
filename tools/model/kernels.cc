#include "tools/model/kernels.h"

#include <algorithm>
#include <cmath>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "tools/model/kernels.cc"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/highway.h>
//
#include <hwy/contrib/math/math-inl.h>

HWY_BEFORE_NAMESPACE();
namespace swell::model::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;
using Tag = hn::ScalableTag<float>;
using Vec = hn::Vec<Tag>;

float Sum(Vec value) { return hn::GetLane(hn::SumOfLanes(Tag(), value)); }

void RmsNormTarget(const float* x, const float* weight, int64_t count, float epsilon, float* out) {
  const Tag d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  Vec squares = hn::Zero(d);
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    const Vec value = hn::LoadU(d, x + i);
    squares = hn::MulAdd(value, value, squares);
  }
  float sum = Sum(squares);
  for (; i < count; ++i) sum += x[i] * x[i];
  const float factor = 1.0F / std::sqrt(sum / static_cast<float>(count) + epsilon);
  for (i = 0; i + lanes <= count; i += lanes) {
    const Vec scaled = hn::Mul(hn::LoadU(d, x + i), hn::Set(d, factor));
    hn::StoreU(hn::Mul(scaled, hn::LoadU(d, weight + i)), d, out + i);
  }
  for (; i < count; ++i) out[i] = x[i] * factor * weight[i];
}

void GatedSiluTarget(const float* gate, const float* up, int64_t count, float* out) {
  const Tag d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const Vec one = hn::Set(d, 1.0F);
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    const Vec g = hn::LoadU(d, gate + i);
    // hn::Exp is defined up to 104; beyond 88 the quotient is 0 to float32's precision anyway.
    const Vec exponent = hn::Min(hn::Neg(g), hn::Set(d, 88.0F));
    const Vec silu = hn::Div(g, hn::Add(one, hn::Exp(d, exponent)));
    hn::StoreU(hn::Mul(silu, hn::LoadU(d, up + i)), d, out + i);
  }
  for (; i < count; ++i) out[i] = gate[i] / (1.0F + std::exp(-gate[i])) * up[i];
}

void AddToTarget(const float* from, int64_t count, float* to) {
  const Tag d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) hn::StoreU(hn::Add(hn::LoadU(d, to + i), hn::LoadU(d, from + i)), d, to + i);
  for (; i < count; ++i) to[i] += from[i];
}

void RotatePairsTarget(const float* x, const float* cosines, const float* sines, int64_t pairs, float* out) {
  const Tag d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t i = 0;
  for (; i + lanes <= pairs; i += lanes) {
    Vec first;
    Vec second;
    hn::LoadInterleaved2(d, x + 2 * i, first, second);
    const Vec c = hn::LoadU(d, cosines + i);
    const Vec s = hn::LoadU(d, sines + i);
    hn::StoreInterleaved2(hn::Sub(hn::Mul(first, c), hn::Mul(second, s)), hn::MulAdd(first, s, hn::Mul(second, c)), d,
                          out + 2 * i);
  }
  for (; i < pairs; ++i) {
    const float first = x[2 * i];
    const float second = x[2 * i + 1];
    out[2 * i] = first * cosines[i] - second * sines[i];
    out[2 * i + 1] = first * sines[i] + second * cosines[i];
  }
}

double LogSumExpTarget(const float* x, int64_t count) {
  const Tag d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const float max = *std::max_element(x, x + count);
  Vec sums = hn::Zero(d);
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    sums = hn::Add(sums, hn::Exp(d, hn::Sub(hn::LoadU(d, x + i), hn::Set(d, max))));
  }
  double sum = Sum(sums);
  for (; i < count; ++i) sum += std::exp(x[i] - max);
  return max + std::log(sum);
}

}  // namespace swell::model::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace swell::model {

HWY_EXPORT(RmsNormTarget);
HWY_EXPORT(GatedSiluTarget);
HWY_EXPORT(AddToTarget);
HWY_EXPORT(RotatePairsTarget);
HWY_EXPORT(LogSumExpTarget);

void RmsNorm(const float* x, const float* weight, int64_t count, float epsilon, float* out) {
  HWY_DYNAMIC_DISPATCH(RmsNormTarget)(x, weight, count, epsilon, out);
}

void GatedSilu(const float* gate, const float* up, int64_t count, float* out) {
  HWY_DYNAMIC_DISPATCH(GatedSiluTarget)(gate, up, count, out);
}

void AddTo(const float* from, int64_t count, float* to) { HWY_DYNAMIC_DISPATCH(AddToTarget)(from, count, to); }

void RotatePairs(const float* x, const float* cosines, const float* sines, int64_t pairs, float* out) {
  HWY_DYNAMIC_DISPATCH(RotatePairsTarget)(x, cosines, sines, pairs, out);
}

double LogSumExp(const float* x, int64_t count) { return HWY_DYNAMIC_DISPATCH(LogSumExpTarget)(x, count); }

}  // namespace swell::model
#endif  // HWY_ONCE
