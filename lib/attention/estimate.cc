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
// Share of the mass below which a value is not worth reading.
constexpr float kLeastShare = 1.0f / (1 << 20);
// Share of the mean error term, summed so far, below which a cluster is left out of `cross`.
constexpr float kLeastTerm = 1.0f / (1 << 12);

// What the block needs of its clusters; lanes behind the last one hold zeros.
struct ClusterBlock {
  int64_t clusters = 0;
  alignas(64) float sizes[kBlock];  // 0 unless the cluster is estimated
  alignas(64) float value_scales[kBlock];
  alignas(64) float energies[kBlock];
  const int8_t* value_means[kBlock];
};

// Walks the clusters of runs, a block at a time.
class BlockReader {
 public:
  BlockReader(int64_t head_dim, std::span<const ClusterRun> runs) : runs_(runs), head_dim_(head_dim) {}

  // Fills the next block; false when there are no clusters left. Blocks in which nothing is estimated have sizes of 0.
  bool Next(const Zone* zones, ClusterBlock* block) {
    int64_t filled = 0;
    while (filled < kBlock && next_run_ < runs_.size()) {
      const ClusterRun& run = runs_[next_run_];
      const int64_t count = std::min(kBlock - filled, run.clusters - next_cluster_);
      Take(*run.view, run.first + next_cluster_, count, filled, block);
      filled += count;
      next_cluster_ += count;
      if (next_cluster_ < run.clusters) continue;
      next_cluster_ = 0;
      ++next_run_;
    }
    block->clusters = filled;
    for (int64_t j = 0; j < filled; ++j) {
      if (zones[j] != Zone::kEstimated) block->sizes[j] = 0;
    }
    for (int64_t j = filled; j < kBlock; ++j) block->sizes[j] = block->value_scales[j] = block->energies[j] = 0;
    return filled > 0;
  }

 private:
  void Take(const ClusterView& view, int64_t first, int64_t count, int64_t at, ClusterBlock* block) const {
    const uint32_t* rows = view.first_rows + first;
    for (int64_t j = 0; j < count; ++j) {
      block->sizes[at + j] = static_cast<float>(static_cast<int32_t>(rows[j + 1] - rows[j]));
      block->value_means[at + j] = view.value_means + (first + j) * head_dim_;
    }
    std::copy_n(view.value_scales + first, count, block->value_scales + at);
    std::copy_n(view.value_energies + first, count, block->energies + at);
  }

  std::span<const ClusterRun> runs_;
  int64_t head_dim_;
  size_t next_run_ = 0;
  int64_t next_cluster_ = 0;
};

// Jensen's correction in nats, clipped: exp(s^2 / 2) is the mean of exp of a normal deviate with deviation s.
HWY_INLINE FloatVec Correction(FloatVec sigma, bool correct) {
  const FloatTag d;
  if (!correct) return hn::Zero(d);
  return hn::Min(hn::Mul(hn::Set(d, 0.5f), hn::Mul(sigma, sigma)), hn::Set(d, 1.0f));
}

// Fills `to` [kBlock] with the corrected logits of a query head, -inf where nothing is estimated; returns the largest.
float CorrectLogits(const ClusterBlock& block, const float* logits, const float* sigmas, bool correct, float* to) {
  const FloatTag d;
  const auto none = hn::Set(d, -kInfinity);
  auto largest = none;
  for (int64_t j = 0; j < kBlock; j += hn::Lanes(d)) {
    const int64_t count = std::max<int64_t>(block.clusters - j, 0);
    auto logit = LoadUpTo(logits + j, count, -kInfinity);
    logit = hn::Add(logit, Correction(LoadUpTo(sigmas + j, count, 0.0f), correct));
    logit = hn::IfThenElse(hn::Gt(hn::LoadU(d, block.sizes + j), hn::Zero(d)), logit, none);
    largest = hn::Max(largest, logit);
    hn::StoreU(logit, d, to + j);
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

// Coefficients of the mean values of a block for a group of query heads, and where they are large enough to matter.
struct Coefficients {
  // Keeps `value` for head `g` and the clusters from `j` on where `weight` is above `limit`.
  HWY_INLINE void Keep(int64_t g, int64_t j, FloatVec weight, FloatVec limit, FloatVec value) {
    const FloatTag d;
    const auto counts = hn::Gt(weight, limit);
    hn::StoreU(hn::IfThenElseZero(counts, value), d, values + g * kBlock + j);
    hn::StoreU(hn::IfThenElse(counts, hn::Set(d, 1.0f), hn::LoadU(d, used + j)), d, used + j);
  }

  alignas(64) float values[kMaxGroup * kBlock];
  alignas(64) float used[kBlock];  // 1 where any head has a coefficient
};

// Adds the scalar sums of head `g`. `means` gets what multiplies the mean values in the output, `crosses` in the error;
// means.values holds the corrected logits before.
void WeighBlock(const ClusterBlock& block, const float* sigmas, float log_mass, int64_t clusters, int64_t g,
                const PartialState& state, const ErrorState& errors, Coefficients* means, Coefficients* crosses) {
  const FloatTag d;
  const float finite_max = std::max(state.max[g], -kLargest);
  const auto max = hn::Set(d, finite_max);
  const auto least_weight = hn::Set(d, kLeastShare * std::exp(log_mass - finite_max));
  auto mass = hn::Zero(d), energy = hn::Zero(d), weight_sum = hn::Zero(d);
  for (int64_t j = 0; j < kBlock; j += hn::Lanes(d)) {
    const auto sigma = LoadUpTo(sigmas + j, std::max<int64_t>(block.clusters - j, 0), 0.0f);
    const auto exponential = Exp(hn::Sub(hn::LoadU(d, means->values + g * kBlock + j), max));
    const auto weight = hn::Mul(hn::LoadU(d, block.sizes + j), exponential);
    const auto spread = ExpMinusOne(hn::Min(hn::Mul(sigma, sigma), hn::Set(d, 4.0f)));
    const auto term = hn::Mul(hn::Mul(weight, exponential), spread);
    mass = hn::Add(mass, weight);
    energy = hn::MulAdd(term, hn::LoadU(d, block.energies + j), energy);
    weight_sum = hn::Add(weight_sum, term);
    hn::StoreU(term, d, crosses->values + g * kBlock + j);
    means->Keep(g, j, weight, least_weight, hn::Mul(weight, hn::LoadU(d, block.value_scales + j)));
  }
  state.sum[g] += Sum(mass);
  errors.mass[g] += Sum(mass);
  errors.energy[g] += Sum(energy);
  errors.weight[g] += Sum(weight_sum);
  const auto least_term = hn::Set(d, kLeastTerm * errors.weight[g] / static_cast<float>(clusters));
  for (int64_t j = 0; j < kBlock; j += hn::Lanes(d)) {
    const auto term = hn::LoadU(d, crosses->values + g * kBlock + j);
    crosses->Keep(g, j, term, least_term, hn::Mul(term, hn::LoadU(d, block.value_scales + j)));
  }
}

// to [group, head_dim] += coefficients x the mean values of the clusters that any head uses.
void AddMeans(const HeadShape& shape, const ClusterBlock& block, Coefficients* coefficients, float* to) {
  const FloatTag d;
  const hn::RebindToSigned<FloatTag> di;
  int32_t numbers[kBlock];
  int64_t kept = 0;
  // Compressed in place: a store ends where the next load begins, at the latest. (Compressing stores are slow on
  // Zen 4.)
  for (int64_t j = 0; j < kBlock; j += hn::Lanes(d)) {
    const auto used = hn::Gt(hn::LoadU(d, coefficients->used + j), hn::Zero(d));
    for (int64_t g = 0; g < shape.group; ++g) {
      float* row = coefficients->values + g * kBlock;
      hn::StoreU(hn::Compress(hn::LoadU(d, row + j), used), d, row + kept);
    }
    const auto number = hn::Iota(di, static_cast<int32_t>(j));
    hn::StoreU(hn::Compress(number, hn::RebindMask(di, used)), di, numbers + kept);
    kept += hn::CountTrue(d, used);
  }
  const void* rows[kBlock];
  for (int64_t i = 0; i < kept; ++i) rows[i] = block.value_means[numbers[i]];
  SumRows<Int8Rows>(rows, nullptr, kept, coefficients->values, shape.group, shape.head_dim, to);
}

void Estimate(const HeadShape& shape, std::span<const ClusterRun> runs, const ClusterScores& scores, const Zone* zones,
              const float* log_mass, bool correct, PartialState state, ErrorState errors) {
  int64_t clusters = 0;
  for (const ClusterRun& run : runs) clusters += run.clusters;
  BlockReader reader(shape.head_dim, runs);
  ClusterBlock block;
  Coefficients means, crosses;
  for (int64_t first = 0; reader.Next(zones + first, &block); first += block.clusters) {
    if (std::all_of(block.sizes, block.sizes + kBlock, [](float size) { return size == 0; })) continue;
    std::fill_n(means.used, kBlock, 0.0f);
    std::fill_n(crosses.used, kBlock, 0.0f);
    for (int64_t g = 0; g < shape.group; ++g) {
      const float* sigmas = scores.sigmas + g * scores.stride + first;
      const float* logits = scores.logits + g * scores.stride + first;
      const float max = CorrectLogits(block, logits, sigmas, correct, means.values + g * kBlock);
      RaiseMax(g, shape.head_dim, max, state, errors);
      WeighBlock(block, sigmas, log_mass[g], clusters, g, state, errors, &means, &crosses);
    }
    AddMeans(shape, block, &means, state.out);
    AddMeans(shape, block, &crosses, errors.cross);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace attention
}  // namespace swell
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace swell::attention {

HWY_EXPORT(Estimate);

void EstimateClusters(const HeadShape& shape, std::span<const ClusterRun> runs, const ClusterScores& scores,
                      const Zone* zones, const float* log_mass, bool correct, PartialState state, ErrorState errors) {
  HWY_DYNAMIC_DISPATCH(Estimate)(shape, runs, scores, zones, log_mass, correct, state, errors);
}

}  // namespace swell::attention
#endif  // HWY_ONCE
