// Ranking of clusters: shares of the mass or softmax of the scores per query head, joined over the group.
#include "lib/attention/run_ahead.h"
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

// Scores of one query head for one run.
struct HeadScores {
  const float* logits;   // of the run's first entry
  const float* spreads;  // of the run's first cluster
  int64_t clusters;
  float optimism;  // kappa times the width; 0 when the spread does not count

  HWY_INLINE FloatVec Logit(int64_t j) const { return hn::LoadU(FloatTag(), logits + j); }
  // l + kappa sigma; -inf for padding, whose spread may be anything.
  HWY_INLINE FloatVec Rank(int64_t j) const {
    const FloatTag d;
    const auto spread =
        hn::IfThenElseZero(hn::FirstN(d, std::max<int64_t>(clusters - j, 0)), hn::LoadU(d, spreads + j));
    const auto bonus = hn::Min(hn::Mul(hn::Set(d, optimism), spread), hn::Set(d, kLargest));
    return hn::Min(hn::Add(Logit(j), bonus), hn::Set(d, kLargest));
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

// What is summed over all clusters for one query head.
struct HeadSums {
  RunningSum mass;   // of sizes x exp(l)
  RunningSum ranks;  // of exp(rank)
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

template <bool kRanks>
void AddRun(const HeadScores& head, const uint32_t* sizes, HeadSums* sums) {
  const FloatTag d;
  const hn::RebindToSigned<FloatTag> di;
  auto largest_logit = hn::Set(d, -kLargest), largest_rank = largest_logit;
  for (int64_t j = 0; j < head.clusters; j += hn::Lanes(d)) {
    largest_logit = hn::Max(largest_logit, head.Logit(j));
    if (kRanks) largest_rank = hn::Max(largest_rank, head.Rank(j));
  }
  sums->mass.RaiseTo(Largest(largest_logit));
  if (kRanks) sums->ranks.RaiseTo(Largest(largest_rank));
  const auto max_logit = hn::Set(d, sums->mass.max), max_rank = hn::Set(d, sums->ranks.max);
  auto mass = hn::Zero(d), ranks = hn::Zero(d);
  for (int64_t j = 0; j < head.clusters; j += hn::Lanes(d)) {
    const auto size = hn::ConvertTo(d, hn::LoadU(di, reinterpret_cast<const int32_t*>(sizes) + j));
    mass = hn::MulAdd(ExpOfCluster(hn::Sub(head.Logit(j), max_logit)), size, mass);
    if (kRanks) ranks = hn::Add(ranks, ExpOfCluster(hn::Sub(head.Rank(j), max_rank)));
  }
  sums->mass.sum += Sum(mass);
  sums->ranks.sum += Sum(ranks);
}

// log(exp(a) + exp(b)), at least -kLargest, so that differences with it are never NaN.
float LogOfSum(float a, float b) {
  const float most = std::max({a, b, -kLargest});
  return most + std::log(std::exp(a - most) + std::exp(b - most));
}

// Joins the heads of one run into `importance`: under kMass the mean of exp(rank - log_sum), else the largest rank -
// log_sum.
void JoinRun(const HeadScores* heads, const float* log_sums, Ranking ranking, int32_t group, float* importance) {
  const FloatTag d;
  const auto share = hn::Set(d, 1.0f / static_cast<float>(group));
  const int64_t clusters = heads[0].clusters;
  for (int64_t j = 0; j < clusters; j += hn::Lanes(d)) {
    const auto log_share = [&](int32_t g) HWY_ATTR { return hn::Sub(heads[g].Rank(j), hn::Set(d, log_sums[g])); };
    auto joined = log_share(0);
    if (ranking == Ranking::kMass) joined = hn::Mul(Exp(joined), share);
    for (int32_t g = 1; g < group; ++g) {
      joined = ranking == Ranking::kMass ? hn::MulAdd(Exp(log_share(g)), share, joined) : hn::Max(joined, log_share(g));
    }
    hn::StoreU(joined, d, importance + j);
  }
  std::fill(importance + clusters, importance + TileEntries(clusters), -kInfinity);
}

void Rank(int32_t group, std::span<const ClusterRun> runs, const ClusterScores& scores, Ranking ranking, float kappa,
          const float* log_steady, float* importance, uint32_t* sizes, float* log_mass) {
  const float optimism = ranking == Ranking::kMass ? 0 : kappa;
  const auto head_scores = [&](size_t r, int64_t entry, int32_t g) {
    return HeadScores{scores.logits + g * scores.stride + entry, runs[r].view->spreads + runs[r].first,
                      runs[r].clusters, optimism * scores.widths[static_cast<int64_t>(r) * group + g]};
  };
  HeadSums sums[kMaxGroup];
  int64_t entry = 0;
  for (size_t r = 0; r < runs.size(); entry += TileEntries(runs[r++].clusters)) {
    AskAhead(runs, r, [](const ClusterRun& run) {
      AskFor(run.view->first_rows + run.first, run.clusters);
      AskFor(run.view->spreads + run.first, run.clusters);
    });
    StoreSizes(runs[r], sizes + entry);
    for (int32_t g = 0; g < group; ++g) {
      const HeadScores head = head_scores(r, entry, g);
      ranking == Ranking::kShare ? AddRun<false>(head, sizes + entry, &sums[g])
                                 : AddRun<true>(head, sizes + entry, &sums[g]);
    }
  }
  float log_sums[kMaxGroup];
  for (int32_t g = 0; g < group; ++g) {
    log_mass[g] = sums[g].mass.Log();
    log_sums[g] =
        ranking == Ranking::kShare ? LogOfSum(log_mass[g], log_steady[g]) : std::max(sums[g].ranks.Log(), -kLargest);
  }
  entry = 0;
  HeadScores heads[kMaxGroup];
  for (size_t r = 0; r < runs.size(); entry += TileEntries(runs[r++].clusters)) {
    for (int32_t g = 0; g < group; ++g) heads[g] = head_scores(r, entry, g);
    JoinRun(heads, log_sums, ranking, group, importance + entry);
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
