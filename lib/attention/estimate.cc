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

// Tiles of one block: with a row for each cluster and one for each tile it is no larger than a tile of rows.
constexpr int64_t kBlockTiles = 3;
constexpr int64_t kBlock = kBlockTiles * kClusterTile;
constexpr int64_t kBlockRows = kBlock + kBlockTiles;
static_assert(kBlockRows <= kTileTokens);
// Share of the mass below which the mean value of a cluster's tile stands for its own (docs/measurements.md).
constexpr float kLeastShare = 1.0f / (1 << 12);

// What a block needs of its clusters: kClusterTile places for each tile, zeros behind its last cluster.
struct ClusterBlock {
  int64_t tiles = 0;
  int64_t entries[kBlockTiles];   // of the scores: where a tile begins
  int64_t clusters[kBlockTiles];  // of a tile, without padding
  const ClusterView* views[kBlockTiles];
  int64_t first[kBlockTiles];       // cluster of the view
  alignas(64) float sizes[kBlock];  // 0 unless the cluster is estimated
  alignas(64) float value_scales[kBlock];
  alignas(64) float energies[kBlock];
};

// Walks the tiles of runs, a block at a time.
class BlockReader {
 public:
  BlockReader(std::span<const ClusterRun> runs, const Zone* zones) : runs_(runs), zones_(zones) {}

  // Fills the next block with tiles of which something is estimated; false when there are none left.
  bool Next(ClusterBlock* block) {
    block->tiles = 0;
    while (block->tiles < kBlockTiles && next_run_ < runs_.size()) {
      const ClusterRun& run = runs_[next_run_];
      const int64_t clusters = std::min<int64_t>(kClusterTile, run.clusters - next_cluster_);
      const Zone* zones = zones_ + entry_;
      if (std::find(zones, zones + clusters, Zone::kEstimated) != zones + clusters) Take(run, clusters, block);
      entry_ += std::max<int64_t>(clusters, 0);
      next_cluster_ += kClusterTile;
      if (next_cluster_ < run.clusters) continue;
      next_cluster_ = 0;
      ++next_run_;
    }
    return block->tiles > 0;
  }

 private:
  void Take(const ClusterRun& run, int64_t clusters, ClusterBlock* block) const {
    const ClusterView& view = *run.view;
    const int64_t tile = block->tiles++, at = tile * kClusterTile, first = run.first + next_cluster_;
    block->entries[tile] = entry_;
    block->clusters[tile] = clusters;
    block->views[tile] = &view;
    block->first[tile] = first;
    for (int64_t j = 0; j < clusters; ++j) {
      const uint32_t size = view.first_rows[first + j + 1] - view.first_rows[first + j];
      const bool estimated = zones_[entry_ + j] == Zone::kEstimated;
      block->sizes[at + j] = estimated ? static_cast<float>(static_cast<int32_t>(size)) : 0;
      block->value_scales[at + j] = view.value_scales[first + j];
      block->energies[at + j] = view.value_energies[first + j];
    }
    for (int64_t j = clusters; j < kClusterTile; ++j) {
      block->sizes[at + j] = block->value_scales[at + j] = block->energies[at + j] = 0;
    }
  }

  std::span<const ClusterRun> runs_;
  const Zone* zones_;
  size_t next_run_ = 0;
  int64_t next_cluster_ = 0;
  int64_t entry_ = 0;
};

// Jensen's correction in nats, clipped: exp(s^2 / 2) is the mean of exp of a normal deviate with deviation s.
HWY_INLINE FloatVec Correction(FloatVec sigma, bool correct) {
  const FloatTag d;
  if (!correct) return hn::Zero(d);
  return hn::Min(hn::Mul(hn::Set(d, 0.5f), hn::Mul(sigma, sigma)), hn::Set(d, 1.0f));
}

// Logits and sigmas of one query head for the places of a block; zeros where there is no cluster.
struct BlockScores {
  BlockScores(const ClusterBlock& block, const float* logits_of_head, const float* sigmas_of_head) {
    const FloatTag d;
    for (int64_t tile = 0; tile < block.tiles; ++tile) {
      for (int64_t j = 0; j < kClusterTile; j += hn::Lanes(d)) {
        const int64_t at = block.entries[tile] + j, count = std::max<int64_t>(block.clusters[tile] - j, 0);
        hn::Store(LoadUpTo(logits_of_head + at, count, 0.0f), d, logits + tile * kClusterTile + j);
        hn::Store(LoadUpTo(sigmas_of_head + at, count, 0.0f), d, sigmas + tile * kClusterTile + j);
      }
    }
  }

  // Corrects the logits, -inf where nothing is estimated; returns the largest.
  float Correct(const ClusterBlock& block, bool correct) {
    const FloatTag d;
    const auto none = hn::Set(d, -kInfinity);
    auto largest = none;
    for (int64_t j = 0; j < block.tiles * kClusterTile; j += hn::Lanes(d)) {
      auto logit = hn::Add(hn::Load(d, logits + j), Correction(hn::Load(d, sigmas + j), correct));
      logit = hn::IfThenElse(hn::Gt(hn::Load(d, block.sizes + j), hn::Zero(d)), logit, none);
      largest = hn::Max(largest, logit);
      hn::Store(logit, d, logits + j);
    }
    return Largest(largest);
  }

  alignas(64) float logits[kBlock];
  alignas(64) float sigmas[kBlock];
};

// Raises state.max of head `g` to `max` and rescales all that is relative to it.
void RaiseMax(int64_t g, int64_t head_dim, float max, const PartialState& state, const ErrorState& errors) {
  const float factor = std::exp(state.max[g] - max);
  state.max[g] = max;
  state.sum[g] *= factor;
  errors.mass[g] *= factor;
  errors.energy[g] *= factor * factor;
  errors.weight[g] *= factor * factor;
  ScaleRow(factor, head_dim, state.out + g * head_dim);
  ScaleRow(factor * factor, head_dim, errors.cross + g * head_dim);
}

// What multiplies the mean values of a block, [group, kBlockRows]: clusters in their places, then tiles.
struct Coefficients {
  alignas(64) float means[kMaxGroup * kTileTokens];    // of the output
  alignas(64) float crosses[kMaxGroup * kTileTokens];  // of the error
  alignas(64) float used[kBlock];                      // 1 where any head reads the cluster's own value
};

// Adds the scalar sums of head `g` and finds its coefficients.
void WeighBlock(const ClusterBlock& block, const BlockScores& scores, float log_mass, int64_t g,
                const PartialState& state, const ErrorState& errors, Coefficients* coefficients) {
  const FloatTag d;
  const float finite_max = std::max(state.max[g], -kLargest);
  const auto max = hn::Set(d, finite_max);
  const auto least_weight = hn::Set(d, kLeastShare * std::exp(log_mass - finite_max));
  float* mean = coefficients->means + g * kTileTokens;
  float* cross = coefficients->crosses + g * kTileTokens;
  float* used = coefficients->used;
  auto mass = hn::Zero(d), energy = hn::Zero(d), weight_sum = hn::Zero(d);
  for (int64_t tile = 0; tile < block.tiles; ++tile) {
    auto rest = hn::Zero(d), rest_terms = hn::Zero(d);
    for (int64_t j = tile * kClusterTile; j < (tile + 1) * kClusterTile; j += hn::Lanes(d)) {
      const auto sigma = hn::Load(d, scores.sigmas + j);
      const auto exponential = Exp(hn::Sub(hn::Load(d, scores.logits + j), max));
      const auto weight = hn::Mul(hn::Load(d, block.sizes + j), exponential);
      const auto spread = ExpMinusOne(hn::Min(hn::Mul(sigma, sigma), hn::Set(d, 4.0f)));
      const auto term = hn::Mul(hn::Mul(weight, exponential), spread);
      mass = hn::Add(mass, weight);
      energy = hn::MulAdd(term, hn::Load(d, block.energies + j), energy);
      weight_sum = hn::Add(weight_sum, term);
      const auto counts = hn::Gt(weight, least_weight);
      const auto scale = hn::IfThenElseZero(counts, hn::Load(d, block.value_scales + j));
      hn::Store(hn::Mul(weight, scale), d, mean + j);
      hn::Store(hn::Mul(term, scale), d, cross + j);
      hn::Store(hn::IfThenElse(counts, hn::Set(d, 1.0f), hn::Load(d, used + j)), d, used + j);
      rest = hn::Add(rest, hn::IfThenZeroElse(counts, weight));
      rest_terms = hn::Add(rest_terms, hn::IfThenZeroElse(counts, term));
    }
    const float tile_scale = block.views[tile]->tile_scales[block.first[tile] / kClusterTile];
    mean[kBlock + tile] = Sum(rest) * tile_scale;
    cross[kBlock + tile] = Sum(rest_terms) * tile_scale;
  }
  state.sum[g] += Sum(mass);
  errors.mass[g] += Sum(mass);
  errors.energy[g] += Sum(energy);
  errors.weight[g] += Sum(weight_sum);
}

// Value rows with their coefficients, gathered over blocks so that a product is worth its start.
class ValueRows {
 public:
  ValueRows(const HeadShape& shape, const PartialState& state, const ErrorState& errors)
      : shape_(shape), state_(state), errors_(errors) {}

  // Adds the rows that `block` uses.
  void Add(const ClusterBlock& block, const Coefficients& coefficients) {
    if (count_ + kBlockRows > kTileTokens) Flush();
    for (int64_t tile = 0; tile < block.tiles; ++tile) {
      const ClusterView& view = *block.views[tile];
      const int8_t* rows = view.value_means + block.first[tile] * shape_.head_dim;
      for (int64_t j = 0; j < kClusterTile; ++j) {
        const int64_t place = tile * kClusterTile + j;
        if (coefficients.used[place] != 0) AddRow(rows + j * shape_.head_dim, place, coefficients);
      }
      AddRow(view.tile_means + block.first[tile] / kClusterTile * shape_.head_dim, kBlock + tile, coefficients);
    }
  }

  // Adds coefficients x rows to state.out and errors.cross. To be called before state.max changes.
  void Flush() {
    if (count_ == 0) return;
    SumRows<Int8Rows>(rows_, nullptr, count_, means_, shape_.group, shape_.head_dim, state_.out);
    SumRows<Int8Rows>(rows_, nullptr, count_, crosses_, shape_.group, shape_.head_dim, errors_.cross);
    count_ = 0;
  }

 private:
  HWY_INLINE void AddRow(const int8_t* row, int64_t place, const Coefficients& coefficients) {
    PrefetchRow(row, 0, shape_.head_dim);
    rows_[count_] = row;
    for (int64_t g = 0; g < shape_.group; ++g) {
      means_[g * kTileTokens + count_] = coefficients.means[g * kTileTokens + place];
      crosses_[g * kTileTokens + count_] = coefficients.crosses[g * kTileTokens + place];
    }
    ++count_;
  }

  const HeadShape shape_;
  const PartialState state_;
  const ErrorState errors_;
  int64_t count_ = 0;
  const void* rows_[kTileTokens];
  alignas(64) float means_[kMaxGroup * kTileTokens];
  alignas(64) float crosses_[kMaxGroup * kTileTokens];
};

void Estimate(const HeadShape& shape, std::span<const ClusterRun> runs, const ClusterScores& scores, const Zone* zones,
              const float* log_mass, bool correct, PartialState state, ErrorState errors) {
  BlockReader reader(runs, zones);
  ClusterBlock block;
  Coefficients coefficients;
  ValueRows rows(shape, state, errors);
  while (reader.Next(&block)) {
    std::fill_n(coefficients.used, kBlock, 0.0f);
    for (int64_t g = 0; g < shape.group; ++g) {
      BlockScores of_head(block, scores.logits + g * scores.stride, scores.sigmas + g * scores.stride);
      const float max = of_head.Correct(block, correct);
      if (max > state.max[g]) {
        rows.Flush();
        RaiseMax(g, shape.head_dim, max, state, errors);
      }
      WeighBlock(block, of_head, log_mass[g], g, state, errors, &coefficients);
    }
    rows.Add(block, coefficients);
  }
  rows.Flush();
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
