// Ranking of clusters: shares of the mass or softmax of the scores per query head, joined over the group.
#include "lib/attention/tiles_ahead.h"
#include "lib/base/simd_targets.h"
#include "swell/attention.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "lib/attention/rank.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "lib/attention/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace swell {
namespace attention {
namespace HWY_NAMESPACE {

// What joins the group's scores of one run.
struct RunScores {
  const float* logits;  // of the run's first entry, query heads `stride` floats apart
  int64_t stride;
  const float* spreads;  // of the run's first cluster
  int64_t clusters;
  float optimism[kMaxGroup];  // kappa times the width; 0 when the spread does not count

  // Spreads of clusters j, ...; 0 for padding, which may hold anything.
  HWY_INLINE FloatVec Spread(int64_t j) const {
    const FloatTag d;
    const auto valid = hn::FirstN(d, std::max<int64_t>(clusters - j, 0));
    return hn::IfThenElseZero(valid, hn::LoadU(d, spreads + j));
  }
  // l + kappa sigma of query head `g`; -inf for padding.
  HWY_INLINE FloatVec Rank(int64_t j, int32_t g, FloatVec spread) const {
    const FloatTag d;
    const auto bonus = hn::Min(hn::Mul(hn::Set(d, optimism[g]), spread), hn::Set(d, kLargest));
    return hn::Min(hn::Add(hn::LoadU(d, logits + g * stride + j), bonus), hn::Set(d, kLargest));
  }
};

// Sum of exponentials that is kept relative to the largest exponent so far.
struct RunningSum {
  float max = -kLargest;  // finite, so that no difference is NaN
  float sum = 0;

  void RaiseTo(float exponent) {
    if (exponent <= max) return;
    sum *= std::exp(max - exponent);
    max = exponent;
  }
  float Log() const { return sum > 0 ? max + std::log(sum) : -kInfinity; }
};

HWY_INLINE void StoreSizes(const ClusterRun& run, uint32_t* sizes) {
  const hn::RebindToUnsigned<FloatTag> du;
  const uint32_t* rows = run.view->first_rows + run.first;
  int64_t j = 0;
  for (; j + static_cast<int64_t>(hn::Lanes(du)) <= run.clusters; j += hn::Lanes(du)) {
    hn::StoreU(hn::Sub(hn::LoadU(du, rows + j + 1), hn::LoadU(du, rows + j)), du, sizes + j);
  }
  for (; j < run.clusters; ++j) sizes[j] = rows[j + 1] - rows[j];
  std::fill(sizes + run.clusters, sizes + TileEntries(run.clusters), 0u);
}

// log sum_j sizes[j] exp(logits[j]) over all entries; padding has size 0.
float LogMass(int64_t entries, const float* logits, const uint32_t* sizes) {
  const FloatTag d;
  const hn::RebindToSigned<FloatTag> di;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  auto largest = hn::Set(d, -kLargest);
  for (int64_t j = 0; j < entries; j += lanes) largest = hn::Max(largest, hn::LoadU(d, logits + j));
  RunningSum total{Largest(largest)};
  const auto shift = hn::Set(d, total.max);
  auto mass = hn::Zero(d);
  for (int64_t j = 0; j < entries; j += lanes) {
    const auto size = hn::ConvertTo(d, hn::LoadU(di, reinterpret_cast<const int32_t*>(sizes) + j));
    mass = hn::MulAdd(ExpOfCluster(hn::Sub(hn::LoadU(d, logits + j), shift)), size, mass);
  }
  total.sum = Sum(mass);
  return total.Log();
}

// Adds exp(rank) of one query head for a run.
void AddRanks(const RunScores& run, int32_t g, RunningSum* sum) {
  const FloatTag d;
  auto largest = hn::Set(d, -kLargest);
  for (int64_t j = 0; j < run.clusters; j += hn::Lanes(d)) largest = hn::Max(largest, run.Rank(j, g, run.Spread(j)));
  sum->RaiseTo(Largest(largest));
  const auto max = hn::Set(d, sum->max);
  auto ranks = hn::Zero(d);
  for (int64_t j = 0; j < run.clusters; j += hn::Lanes(d)) {
    ranks = hn::Add(ranks, ExpOfCluster(hn::Sub(run.Rank(j, g, run.Spread(j)), max)));
  }
  sum->sum += Sum(ranks);
}

// log(exp(a) + exp(b)), at least -kLargest, so that differences with it are never NaN.
float LogOfSum(float a, float b) {
  const float most = std::max({a, b, -kLargest});
  return most + std::log(std::exp(a - most) + std::exp(b - most));
}

// Joins the heads of one run into `importance`: under kMass the mean of exp(rank - log_sum), else the largest rank -
// log_sum.
void JoinRun(const RunScores& run, const float* log_sums, Ranking ranking, int32_t group, float* importance) {
  const FloatTag d;
  const auto share = hn::Set(d, 1.0f / static_cast<float>(group));
  for (int64_t j = 0; j < run.clusters; j += hn::Lanes(d)) {
    const auto spread = run.Spread(j);
    const auto log_share = [&](int32_t g) HWY_ATTR { return hn::Sub(run.Rank(j, g, spread), hn::Set(d, log_sums[g])); };
    auto joined = log_share(0);
    if (ranking == Ranking::kMass) joined = hn::Mul(Exp(joined), share);
    for (int32_t g = 1; g < group; ++g) {
      joined = ranking == Ranking::kMass ? hn::MulAdd(Exp(log_share(g)), share, joined) : hn::Max(joined, log_share(g));
    }
    hn::StoreU(joined, d, importance + j);
  }
  std::fill(importance + run.clusters, importance + TileEntries(run.clusters), -kInfinity);
}

void Rank(int32_t group, std::span<const ClusterRun> runs, const ClusterScores& scores, Ranking ranking, float kappa,
          const float* log_steady, float* importance, uint32_t* sizes, float* log_mass) {
  const float optimism = ranking == Ranking::kMass ? 0 : kappa;
  const auto run_scores = [&](size_t r, int64_t entry) {
    RunScores run = {scores.logits + entry, scores.stride, runs[r].view->spreads + runs[r].first, runs[r].clusters, {}};
    const float* widths = scores.widths + static_cast<int64_t>(r) * group;
    for (int32_t g = 0; g < group; ++g) run.optimism[g] = optimism * widths[g];
    return run;
  };
  RunningSum ranks[kMaxGroup];
  TilesAhead ahead(runs, [](const ClusterRun& tile) {
    AskFor(tile.view->first_rows + tile.first, kClusterTile);
    AskFor(tile.view->spreads + tile.first, kClusterTile);
  });
  int64_t entries = 0;
  for (size_t r = 0; r < runs.size(); entries += TileEntries(runs[r++].clusters)) {
    for (int64_t j = 0; j < runs[r].clusters; j += kClusterTile) ahead.Advance();
    StoreSizes(runs[r], sizes + entries);
    if (ranking == Ranking::kShare) continue;
    const RunScores run = run_scores(r, entries);
    for (int32_t g = 0; g < group; ++g) AddRanks(run, g, &ranks[g]);
  }
  float log_sums[kMaxGroup];
  for (int32_t g = 0; g < group; ++g) {
    log_mass[g] = LogMass(entries, scores.logits + g * scores.stride, sizes);
    log_sums[g] =
        ranking == Ranking::kShare ? LogOfSum(log_mass[g], log_steady[g]) : std::max(ranks[g].Log(), -kLargest);
  }
  int64_t entry = 0;
  for (size_t r = 0; r < runs.size(); entry += TileEntries(runs[r++].clusters)) {
    JoinRun(run_scores(r, entry), log_sums, ranking, group, importance + entry);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace attention
}  // namespace swell
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace swell::attention {

HWY_EXPORT(Rank);

void RankClusters(int32_t group, std::span<const ClusterRun> runs, const ClusterScores& scores, Ranking ranking,
                  float kappa, const float* log_steady, float* importance, uint32_t* sizes, float* log_mass) {
  HWY_DYNAMIC_DISPATCH(Rank)(group, runs, scores, ranking, kappa, log_steady, importance, sizes, log_mass);
}

}  // namespace swell::attention
#endif  // HWY_ONCE
