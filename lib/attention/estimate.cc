// Estimation zone: clusters answered from their scores, sizes and mean values, with the terms of the predicted error.
#include "lib/attention/byte_dots.h"
#include "lib/attention/byte_sums.h"
#include "lib/attention/tiles_ahead.h"
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

// Tiles whose weights are summed over lanes together.
constexpr int64_t kBlockTiles = 4;
// Share of the mass below which the mean value of a cluster's tile stands for its own, and below which its own value
// does not count in the predicted error (docs/measurements.md).
constexpr float kLeastShare = 1.0f / (1 << 12);
constexpr float kLeastErrorShare = 1.0f / (1 << 8);
// What a weight relative to log_mass cannot exceed but by rounding: e for the correction.
constexpr float kMostNats = 8;

constexpr int64_t kBlock = kBlockTiles * kClusterTile;

// What up to kBlockTiles tiles, of one run or several, are without the queries; zeros behind the last cluster of a run.
struct ClusterBlock {
  int64_t tiles = 0;
  alignas(64) float sizes[kBlock];  // 0 unless the cluster is estimated
  alignas(64) float spreads[kBlock];
  alignas(64) float value_scales[kBlock];
  alignas(64) float energies[kBlock];
  const float* widths[kBlockTiles];  // [group], of the tile's run
  const int8_t* means[kBlockTiles];  // of the tile's clusters
  const int8_t* tile_means[kBlockTiles];
  float tile_scales[kBlockTiles];

  // Adds the tile that begins with cluster `first` of `view`, of which `count` clusters belong to the run; `zones` are
  // theirs.
  void AddTile(const ClusterView& view, int64_t first, int64_t count, const Zone* zones, const float* run_widths,
               int64_t head_dim) {
    const FloatTag d;
    const hn::RebindToSigned<FloatTag> di;
    const hn::Rebind<uint8_t, FloatTag> d8;
    const auto* rows = reinterpret_cast<const int32_t*>(view.first_rows) + first;
    const int64_t to = tiles * kClusterTile;
    for (int64_t j = 0; j < kClusterTile; j += hn::Lanes(d)) {
      const int64_t left = count - j;
      const auto size = hn::Sub(LoadUpTo(di, rows + j + 1, left, 0), LoadUpTo(di, rows + j, left, 0));
      const auto zone = hn::PromoteTo(di, hn::LoadU(d8, reinterpret_cast<const uint8_t*>(zones) + j));
      const auto estimated = hn::RebindMask(d, hn::Eq(zone, hn::Set(di, static_cast<int32_t>(Zone::kEstimated))));
      hn::Store(hn::IfThenElseZero(estimated, hn::ConvertTo(d, size)), d, sizes + to + j);
      hn::Store(LoadUpTo(view.spreads + first + j, left, 0.0f), d, spreads + to + j);
      hn::Store(LoadUpTo(view.value_scales + first + j, left, 0.0f), d, value_scales + to + j);
      hn::Store(LoadUpTo(view.value_energies + first + j, left, 0.0f), d, energies + to + j);
    }
    const int64_t tile = first / kClusterTile;
    widths[tiles] = run_widths;
    means[tiles] = view.value_means + first * head_dim;
    tile_means[tiles] = view.tile_means + tile * head_dim;
    tile_scales[tiles] = view.tile_scales[tile];
    ++tiles;
  }
};

// exp(x) - 1 for x in [0, 1] within 4e-6 relative (Remez).
HWY_INLINE FloatVec ExpMinusOne(FloatVec x) {
  const FloatTag d;
  auto series = hn::MulAdd(x, hn::Set(d, 0.01266136859f), hn::Set(d, 0.03770469129f));
  series = hn::MulAdd(series, x, hn::Set(d, 0.1680777371f));
  series = hn::MulAdd(series, x, hn::Set(d, 0.4998293221f));
  return hn::Mul(hn::MulAdd(series, x, hn::Set(d, 1.000003219f)), x);
}

// Sums of one query head over all clusters, a lane each.
struct LaneSums {
  FloatVec mass, energy, weight;
  FloatVec own_weight;  // of the clusters whose own value counts in the error
};

// Weights of one query head for a vector of clusters.
struct Weights {
  FloatVec weight, term;  // w_j and c_j of ErrorState
};

// Clusters j, ... of `block`; `logits` are relative to what weights are relative to.
template <bool kCorrect>
HWY_INLINE Weights Weigh(const ClusterBlock& block, int64_t j, FloatVec logits, float width) {
  const FloatTag d;
  const auto sigma = hn::Mul(hn::Load(d, block.spreads + j), hn::Set(d, width));
  // Jensen's correction: exp(s^2 / 2) is the mean of exp of a normal deviate with deviation s, exp(s^2) - 1 its
  // relative variance.
  const auto half = hn::Mul(hn::Mul(sigma, hn::Set(d, 0.5f)), sigma);
  const auto gain = ExpMinusOne(hn::Min(half, hn::Set(d, 1.0f)));
  auto exponential = ExpOfCluster(hn::Min(logits, hn::Set(d, kMostNats)));
  if (kCorrect) exponential = hn::MulAdd(exponential, gain, exponential);
  const auto variance = hn::MulAdd(gain, gain, hn::Add(gain, gain));
  const auto weight = hn::Mul(hn::Load(d, block.sizes + j), exponential);
  return {weight, hn::Mul(hn::Mul(weight, exponential), variance)};
}

// Sums of mean values with a coefficient for each query head, gathered so that a product is worth its start.
class MeanSum {
 public:
  MeanSum(int64_t group, int64_t head_dim) : group_(group), head_dim_(head_dim) {
    std::fill_n(sums_, group * head_dim, 0.0f);
  }

  // Adds a vector's worth of the rows of `means` [.., head_dim], those with a coefficient that is not 0; the
  // coefficients of a query head lie kBlock floats behind those of the one before.
  HWY_INLINE void Add(const int8_t* means, const float* coefficients) {
    const FloatTag d;
    const hn::RebindToSigned<FloatTag> di;
    auto chosen = hn::FirstN(d, 0);
    for (int64_t g = 0; g < group_; ++g) {
      chosen = hn::Or(chosen, hn::Ne(hn::Load(d, coefficients + g * kBlock), hn::Zero(d)));
    }
    if (hn::AllFalse(d, chosen)) return;
    if (count_ + static_cast<int64_t>(hn::Lanes(d)) > kTileTokens) Flush();
    for (int64_t g = 0; g < group_; ++g) {
      const auto coefficient = hn::Load(d, coefficients + g * kBlock);
      hn::StoreU(hn::Compress(coefficient, chosen), d, weights_ + g * kTileTokens + count_);
    }
    alignas(64) int32_t numbers[kClusterTile];
    hn::Store(hn::Compress(hn::Iota(di, 0), hn::RebindMask(di, chosen)), di, numbers);
    const auto count = static_cast<int64_t>(hn::CountTrue(d, chosen));
    for (int64_t i = 0; i < count; ++i) AddRow(means + numbers[i] * head_dim_);
  }

  // Adds rows [head_dim] with coefficients [group, kBlockTiles] times `scales`.
  HWY_INLINE void AddTiles(const int8_t* const* means, int64_t tiles, const float* coefficients, const float* scales) {
    if (count_ + kBlockTiles > kTileTokens) Flush();
    for (int64_t g = 0; g < group_; ++g) {
      for (int64_t tile = 0; tile < tiles; ++tile) {
        weights_[g * kTileTokens + count_ + tile] = coefficients[g * kBlockTiles + tile] * scales[tile];
      }
    }
    for (int64_t tile = 0; tile < tiles; ++tile) AddRow(means[tile]);
  }

  // [group, head_dim]; nothing may be added after it.
  const float* Finish() {
    Flush();
    return sums_;
  }

 private:
  HWY_INLINE void AddRow(const int8_t* row) {
    PrefetchRow(row, 0, head_dim_);
    rows_[count_++] = row;
  }

  void Flush() {
    if (count_ > 0) Sum();
    count_ = 0;
  }

  void Sum() {
#if HWY_TARGET == HWY_AVX3
    if (HasByteDots()) return SumByteRows(rows_, count_, weights_, group_, head_dim_, sums_);
#endif
    SumRows<Int8Rows>(rows_, nullptr, count_, weights_, group_, head_dim_, sums_);
  }

  const int64_t group_, head_dim_;
  int64_t count_ = 0;
  const void* rows_[kTileTokens];
  alignas(64) float weights_[kMaxGroup * kTileTokens];
  alignas(64) float sums_[kMaxGroup * kMaxHeadDim];
};

// Raises state.max of head `g` to `max` and rescales all that is relative to it.
void RaiseMax(int64_t g, int64_t head_dim, float max, const PartialState& state, const ErrorState& errors) {
  if (max <= state.max[g]) return;
  const float factor = std::exp(state.max[g] - max);
  state.max[g] = max;
  state.sum[g] *= factor;
  errors.mass[g] *= factor;
  errors.energy[g] *= factor * factor;
  errors.weight[g] *= factor * factor;
  ScaleRow(factor, head_dim, state.out + g * head_dim);
  ScaleRow(factor * factor, head_dim, errors.cross + g * head_dim);
}

// into += factor * row
HWY_INLINE void AddRow(float factor, const float* row, int64_t count, float* into) {
  const FloatTag d;
  for (int64_t i = 0; i < count; i += hn::Lanes(d)) {
    hn::StoreU(hn::MulAdd(hn::Set(d, factor), hn::LoadU(d, row + i), hn::LoadU(d, into + i)), d, into + i);
  }
}

// The estimate of one call.
template <bool kCorrect>
class Estimator {
 public:
  // `max` [group]: what weights are relative to.
  Estimator(const HeadShape& shape, const ClusterScores& scores, const float* max, const float* log_mass)
      : shape_(shape), scores_(scores), means_(shape.group, shape.head_dim), crosses_(shape.group, shape.head_dim) {
    const FloatTag d;
    for (int64_t g = 0; g < shape.group; ++g) {
      max_[g] = max[g];
      const float mass = std::exp(log_mass[g] - max[g]);
      least_[g] = kLeastShare * mass;
      least_error_[g] = kLeastErrorShare * mass;
      sums_[g] = {hn::Zero(d), hn::Zero(d), hn::Zero(d), hn::Zero(d)};
    }
  }

  // Adds what is estimated of the tile that begins with cluster `j` of a run and whose entries are behind those of the
  // tile before; `zones` are those of all entries, `widths` [group] the run's, which must last until AddTo.
  void AddTile(const ClusterRun& run, int64_t j, const Zone* zones, const float* widths) {
    block_.AddTile(*run.view, run.first + j, run.clusters - j, zones + end_, widths, shape_.head_dim);
    end_ += kClusterTile;
    if (block_.tiles == kBlockTiles) AddBlock();
  }

  void AddTo(PartialState state, ErrorState errors) {
    AddBlock();
    const float* means = means_.Finish();
    const float* crosses = crosses_.Finish();
    for (int64_t g = 0; g < shape_.group; ++g) {
      const int64_t at = g * shape_.head_dim;
      const float mass = Sum(sums_[g].mass);
      state.sum[g] += mass;
      errors.mass[g] += mass;
      errors.energy[g] += Sum(sums_[g].energy);
      const float weight = Sum(sums_[g].weight);
      errors.weight[g] += weight;
      AddRow(1, means + at, shape_.head_dim, state.out + at);
      AddRow(1, crosses + at, shape_.head_dim, errors.cross + at);
      if (mass > 0) AddRow((weight - Sum(sums_[g].own_weight)) / mass, means + at, shape_.head_dim, errors.cross + at);
    }
  }

 private:
  // Adds the block and empties it.
  void AddBlock() {
    const FloatTag d;
    counts_in_error_ = false;
    for (int64_t g = 0; g < shape_.group; ++g) AddHead(g, end_ - block_.tiles * kClusterTile);
    means_.AddTiles(block_.tile_means, block_.tiles, rest_, block_.tile_scales);
    for (int64_t tile = 0; tile < block_.tiles; ++tile) {
      for (int64_t i = 0; i < kClusterTile; i += hn::Lanes(d)) {
        const int8_t* means = block_.means[tile] + i * shape_.head_dim;
        means_.Add(means, own_ + tile * kClusterTile + i);
        if (counts_in_error_) crosses_.Add(means, own_terms_ + tile * kClusterTile + i);
      }
    }
    block_.tiles = 0;
  }

  // Adds the block's scalar sums for query head `g` and finds the coefficients of mean values. The block's first entry
  // is `entry`.
  HWY_INLINE void AddHead(int64_t g, int64_t entry) {
    const FloatTag d;
    const float* logits = scores_.logits + g * scores_.stride + entry;
    const auto max = hn::Set(d, max_[g]), least = hn::Set(d, least_[g]), least_error = hn::Set(d, least_error_[g]);
    LaneSums sums = sums_[g];
    FloatVec rest[kBlockTiles];
    for (int64_t tile = 0; tile < kBlockTiles; ++tile) rest[tile] = hn::Zero(d);
    for (int64_t tile = 0; tile < block_.tiles; ++tile) {
      const float width = block_.widths[tile][g];
      for (int64_t j = tile * kClusterTile; j < (tile + 1) * kClusterTile; j += hn::Lanes(d)) {
        const Weights w = Weigh<kCorrect>(block_, j, hn::Sub(hn::LoadU(d, logits + j), max), width);
        sums.mass = hn::Add(sums.mass, w.weight);
        sums.energy = hn::MulAdd(w.term, hn::Load(d, block_.energies + j), sums.energy);
        sums.weight = hn::Add(sums.weight, w.term);
        const auto counts = hn::Gt(w.weight, least);
        rest[tile] = hn::Add(rest[tile], hn::IfThenZeroElse(counts, w.weight));
        const auto scales = hn::Load(d, block_.value_scales + j);
        hn::Store(hn::IfThenElseZero(counts, hn::Mul(w.weight, scales)), d, own_ + g * kBlock + j);
        const auto counts_in_error = hn::Gt(w.weight, least_error);
        if (hn::AllFalse(d, counts_in_error)) continue;
        sums.own_weight = hn::Add(sums.own_weight, hn::IfThenElseZero(counts_in_error, w.term));
        if (!counts_in_error_) std::fill_n(own_terms_, shape_.group * kBlock, 0.0f);
        counts_in_error_ = true;
        hn::Store(hn::IfThenElseZero(counts_in_error, hn::Mul(w.term, scales)), d, own_terms_ + g * kBlock + j);
      }
    }
    sums_[g] = sums;
    StoreSums(rest[0], rest[1], rest[2], rest[3], rest_ + g * kBlockTiles);
  }

  const HeadShape shape_;
  const ClusterScores scores_;
  float max_[kMaxGroup], least_[kMaxGroup], least_error_[kMaxGroup];
  LaneSums sums_[kMaxGroup];
  ClusterBlock block_;
  // Coefficients of the block's mean values: of single clusters in the output and, if there are any, in the error, 0
  // where they do not count; and of tiles.
  alignas(64) float own_[kMaxGroup * kBlock];
  alignas(64) float own_terms_[kMaxGroup * kBlock];
  bool counts_in_error_ = false;
  int64_t end_ = 0;  // entry behind the last one that was added
  float rest_[kMaxGroup * kBlockTiles];
  MeanSum means_, crosses_;
};

template <bool kCorrect>
void EstimateRuns(const HeadShape& shape, std::span<const ClusterRun> runs, const ClusterScores& scores,
                  const Zone* zones, const float* log_mass, PartialState state, ErrorState errors) {
  for (int64_t g = 0; g < shape.group; ++g) {
    RaiseMax(g, shape.head_dim, std::max(log_mass[g], -kLargest), state, errors);
  }
  Estimator<kCorrect> estimator(shape, scores, state.max, log_mass);
  const float* widths = scores.widths;
  TilesAhead ahead(runs, [&](const ClusterRun& tile) {
    const ClusterView& view = *tile.view;
    AskFor(view.first_rows + tile.first, kClusterTile);
    AskFor(view.spreads + tile.first, kClusterTile);
    AskFor(view.value_scales + tile.first, kClusterTile);
    AskFor(view.value_energies + tile.first, kClusterTile);
    AskFor(view.tile_scales + tile.first / kClusterTile, 1);
    AskFor(view.tile_means + tile.first / kClusterTile * shape.head_dim, shape.head_dim);
  });
  for (const ClusterRun& run : runs) {
    for (int64_t j = 0; j < run.clusters; j += kClusterTile) {
      ahead.Advance();
      estimator.AddTile(run, j, zones, widths);
    }
    widths += shape.group;
  }
  estimator.AddTo(state, errors);
}

// Whether any cluster of `runs` is estimated.
bool IsNeeded(std::span<const ClusterRun> runs, const Zone* zones) {
  for (const ClusterRun& run : runs) {
    if (std::find(zones, zones + run.clusters, Zone::kEstimated) != zones + run.clusters) return true;
    zones += TileEntries(run.clusters);
  }
  return false;
}

void Estimate(const HeadShape& shape, std::span<const ClusterRun> runs, const ClusterScores& scores, const Zone* zones,
              const float* log_mass, bool correct, PartialState state, ErrorState errors) {
  if (!IsNeeded(runs, zones)) return;
  (correct ? EstimateRuns<true> : EstimateRuns<false>)(shape, runs, scores, zones, log_mass, state, errors);
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
