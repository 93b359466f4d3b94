// Estimation zone: clusters answered from their scores, sizes and mean values, with the terms of the predicted error.
#include "lib/base/simd_targets.h"
#include "swell/attention.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "lib/attention/estimate.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "lib/attention/rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace swell {
namespace attention {
namespace HWY_NAMESPACE {

// Clusters are taken in blocks of this many.
constexpr int64_t kBlock = kTileTokens;
// exp(-20 log 2): the share of the mass below which a value is not worth reading.
constexpr float kLeastShare = 1.0f / (1 << 20);

// What the block needs of its clusters, lanes behind the last one zero.
struct ClusterBlock {
  int64_t first;
  int64_t clusters;
  alignas(64) float sizes[kBlock];  // 0 unless the cluster is estimated
  alignas(64) float value_scales[kBlock];
  alignas(64) float energies[kBlock];
};

// False when nothing in the block is estimated.
bool LoadBlock(const ClusterView& view, const Zone* zones, int64_t first, ClusterBlock* block) {
  block->first = first;
  block->clusters = std::min(kBlock, view.clusters - first);
  bool any = false;
  for (int64_t j = 0; j < kBlock; ++j) {
    const bool estimated = j < block->clusters && zones[first + j] == Zone::kEstimated;
    block->sizes[j] = estimated ? static_cast<float>(view.first_rows[first + j + 1] - view.first_rows[first + j]) : 0;
    block->value_scales[j] = estimated ? view.value_scales[first + j] : 0;
    block->energies[j] = estimated ? view.value_energies[first + j] : 0;
    any = any || block->sizes[j] > 0;
  }
  return any;
}

// Jensen's correction in nats, clipped: exp(s^2 / 2) is the mean of exp of a normal deviate with deviation s.
HWY_INLINE FloatVec Correction(FloatVec sigma, bool correct) {
  const FloatTag d;
  if (!correct) return hn::Zero(d);
  return hn::Min(hn::Mul(hn::Set(d, 0.5f), hn::Mul(sigma, sigma)), hn::Set(d, 1.0f));
}

// Largest corrected logit of a query head among the estimated clusters; -inf when there are none.
float LargestLogit(const float* logits, const float* sigmas, const Zone* zones, int64_t clusters, bool correct) {
  const FloatTag d;
  const hn::RebindToSigned<FloatTag> di;
  const hn::Rebind<uint8_t, FloatTag> d8;
  const auto none = hn::Set(d, -kInfinity);
  const auto estimated = hn::Set(di, static_cast<int32_t>(Zone::kEstimated));
  auto largest = none;
  for (int64_t j = 0; j < clusters; j += hn::Lanes(d)) {
    uint8_t zone[16] = {};
    const int64_t count = std::min<int64_t>(clusters - j, hn::Lanes(d));
    for (int64_t i = 0; i < count; ++i) zone[i] = static_cast<uint8_t>(zones[j + i]);
    const auto counts = hn::RebindMask(d, hn::Eq(hn::PromoteTo(di, hn::LoadU(d8, zone)), estimated));
    const auto correction = Correction(LoadUpTo(sigmas + j, count, 0.0f), correct);
    const auto logit = hn::Add(LoadUpTo(logits + j, count, -kInfinity), correction);
    largest = hn::Max(largest, hn::IfThenElse(counts, logit, none));
  }
  return Largest(largest);
}

// Raises state.max of head `g` to `max` and rescales all that is relative to it.
void RaiseMax(int64_t g, int64_t head_dim, float max, const PartialState& state, const ErrorState& errors) {
  if (!(max > state.max[g])) return;
  const float factor = std::exp(state.max[g] - max);
  state.max[g] = max;
  state.sum[g] *= factor;
  errors.mass[g] *= factor;
  errors.energy[g] *= factor * factor;
  errors.weight[g] *= factor * factor;
  ScaleRow(factor, head_dim, state.out + g * head_dim);
  ScaleRow(factor * factor, head_dim, errors.cross + g * head_dim);
}

// Adds the scalar sums of head `g` and fills its coefficients of the mean values: `values` [kBlock] for the output,
// `crosses` [kBlock] for the error. `read` [kBlock] becomes positive where the value counts.
void WeighBlock(const ClusterBlock& block, const float* logits, const float* sigmas, float log_mass, bool correct,
                int64_t g, const PartialState& state, const ErrorState& errors, float* values, float* crosses,
                float* read) {
  const FloatTag d;
  const auto max = hn::Set(d, std::max(state.max[g], -kLargest));
  auto mass = hn::Zero(d), energy = hn::Zero(d), weight_sum = hn::Zero(d);
  for (int64_t j = 0; j < kBlock; j += hn::Lanes(d)) {
    const int64_t count = std::max<int64_t>(block.clusters - j, 0);
    const auto logit = LoadUpTo(logits + j, count, -kInfinity);
    const auto sigma = LoadUpTo(sigmas + j, count, 0.0f);
    const auto size = hn::LoadU(d, block.sizes + j);
    const auto weight = hn::Mul(size, Exp(hn::Sub(hn::Add(logit, Correction(sigma, correct)), max)));
    const auto spread = ExpMinusOne(hn::Min(hn::Mul(sigma, sigma), hn::Set(d, 4.0f)));
    // Clusters that are not estimated have size 0.
    const auto divisor = hn::Max(size, hn::Set(d, 1.0f));
    const auto variance = hn::Mul(hn::Mul(weight, hn::Div(weight, divisor)), spread);
    mass = hn::Add(mass, weight);
    energy = hn::MulAdd(variance, hn::LoadU(d, block.energies + j), energy);
    weight_sum = hn::Add(weight_sum, variance);
    const auto share = hn::Mul(size, Exp(hn::Sub(logit, hn::Set(d, log_mass))));
    const auto counts = hn::Gt(share, hn::Set(d, kLeastShare));
    const auto scale = hn::IfThenElseZero(counts, hn::LoadU(d, block.value_scales + j));
    hn::StoreU(hn::Mul(weight, scale), d, values + j);
    hn::StoreU(hn::Mul(variance, scale), d, crosses + j);
    hn::StoreU(hn::Max(hn::LoadU(d, read + j), hn::IfThenElseZero(counts, share)), d, read + j);
  }
  state.sum[g] += Sum(mass);
  errors.mass[g] += Sum(mass);
  errors.energy[g] += Sum(energy);
  errors.weight[g] += Sum(weight_sum);
}

void Estimate(const HeadShape& shape, const ClusterView& view, const ClusterScores& scores, const Zone* zones,
              const float* log_mass, bool correct, PartialState state, ErrorState errors) {
  const int64_t head_dim = shape.head_dim;
  for (int64_t g = 0; g < shape.group; ++g) {
    const float* logits = scores.logits + g * scores.stride;
    const float* sigmas = scores.sigmas + g * scores.stride;
    RaiseMax(g, head_dim, LargestLogit(logits, sigmas, zones, view.clusters, correct), state, errors);
  }
  ClusterBlock block;
  alignas(64) float values[kMaxGroup * kBlock], crosses[kMaxGroup * kBlock], read[kBlock];
  const void* rows[kBlock];
  for (int64_t first = 0; first < view.clusters; first += kBlock) {
    if (!LoadBlock(view, zones, first, &block)) continue;
    std::fill_n(read, kBlock, 0.0f);
    for (int64_t g = 0; g < shape.group; ++g) {
      const int64_t at = g * scores.stride + first;
      WeighBlock(block, scores.logits + at, scores.sigmas + at, log_mass[g], correct, g, state, errors,
                 values + g * kBlock, crosses + g * kBlock, read);
    }
    int64_t kept = 0;
    for (int64_t j = 0; j < block.clusters; ++j) {
      if (!(read[j] > 0)) continue;
      rows[kept] = view.value_means + (first + j) * head_dim;
      for (int64_t g = 0; g < shape.group; ++g) {
        values[g * kBlock + kept] = values[g * kBlock + j];
        crosses[g * kBlock + kept] = crosses[g * kBlock + j];
      }
      ++kept;
    }
    SumRows<Int8Rows>(rows, nullptr, kept, values, shape.group, head_dim, state.out);
    SumRows<Int8Rows>(rows, nullptr, kept, crosses, shape.group, head_dim, errors.cross);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace attention
}  // namespace swell
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace swell::attention {

HWY_EXPORT(Estimate);

void EstimateClusters(const HeadShape& shape, const ClusterView& view, const ClusterScores& scores, const Zone* zones,
                      const float* log_mass, bool correct, PartialState state, ErrorState errors) {
  HWY_DYNAMIC_DISPATCH(Estimate)(shape, view, scores, zones, log_mass, correct, state, errors);
}

}  // namespace swell::attention
#endif  // HWY_ONCE
