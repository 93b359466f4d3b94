// Ranking of clusters: softmax of the scores per query head, joined over the group.
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

// Scores of one query head; `kappa` is 0 when the spread does not count.
struct HeadScores {
  const float* logits;
  const float* sigmas;
  float kappa;
  int64_t clusters;

  HWY_INLINE FloatVec Logit(int64_t j) const { return LoadUpTo(logits + j, clusters - j, -kInfinity); }
  // l + kappa sigma; -inf behind the last cluster.
  HWY_INLINE FloatVec Rank(int64_t j) const {
    if (kappa == 0) return Logit(j);
    const FloatTag d;
    return hn::Min(hn::MulAdd(hn::Set(d, kappa), LoadUpTo(sigmas + j, clusters - j, 0.0f), Logit(j)),
                   hn::Set(d, kLargest));
  }
};

HWY_INLINE FloatVec LoadSizes(const uint32_t* sizes, int64_t count) {
  const hn::RebindToSigned<FloatTag> di;
  const hn::RebindToUnsigned<FloatTag> du;
  return hn::ConvertTo(FloatTag(), hn::BitCast(di, LoadUpTo(du, sizes, count, 0u)));
}

// Joins one head into `importance`: under kMass `factor` times exp(rank - max_rank) is added; else the larger of the
// ranks less `shift`, their log-softmax, stays.
void JoinMass(const HeadScores& head, float max_rank, float factor, bool first, float* importance) {
  const FloatTag d;
  for (int64_t j = 0; j < head.clusters; j += hn::Lanes(d)) {
    const auto before = first ? hn::Zero(d) : LoadUpTo(importance + j, head.clusters - j, 0.0f);
    const auto share = Exp(hn::Sub(head.Rank(j), hn::Set(d, max_rank)));
    StoreUpTo(hn::MulAdd(share, hn::Set(d, factor), before), importance + j, head.clusters - j);
  }
}

void JoinOptimistic(const HeadScores& head, float shift, bool first, float* importance) {
  const FloatTag d;
  for (int64_t j = 0; j < head.clusters; j += hn::Lanes(d)) {
    const auto share = hn::Sub(head.Rank(j), hn::Set(d, shift));
    const auto before = first ? share : LoadUpTo(importance + j, head.clusters - j, 0.0f);
    StoreUpTo(hn::Max(before, share), importance + j, head.clusters - j);
  }
}

void Rank(int32_t group, int64_t clusters, const ClusterScores& scores, const uint32_t* sizes, Ranking ranking,
          float kappa, float* importance, float* log_mass) {
  const FloatTag d;
  const bool add = ranking == Ranking::kMass;
  for (int32_t g = 0; g < group; ++g) {
    const HeadScores head = {scores.logits + g * scores.stride, scores.sigmas + g * scores.stride, add ? 0 : kappa,
                             clusters};
    auto largest_logit = hn::Set(d, -kInfinity), largest_rank = hn::Set(d, -kInfinity);
    for (int64_t j = 0; j < clusters; j += hn::Lanes(d)) {
      largest_logit = hn::Max(largest_logit, head.Logit(j));
      largest_rank = hn::Max(largest_rank, head.Rank(j));
    }
    // All scores at -inf: no mass at all, and every difference below is taken from a finite number.
    const float max_logit = std::max(Largest(largest_logit), -kLargest);
    const float max_rank = std::max(Largest(largest_rank), -kLargest);
    auto mass = hn::Zero(d), ranks = hn::Zero(d);
    for (int64_t j = 0; j < clusters; j += hn::Lanes(d)) {
      const auto weight = Exp(hn::Sub(head.Logit(j), hn::Set(d, max_logit)));
      mass = hn::MulAdd(weight, LoadSizes(sizes + j, clusters - j), mass);
      ranks = hn::Add(ranks, add ? weight : Exp(hn::Sub(head.Rank(j), hn::Set(d, max_rank))));
    }
    const float total = Sum(ranks);
    log_mass[g] = max_logit + std::log(Sum(mass));
    if (add) {
      JoinMass(head, max_rank, total > 0 ? 1 / (total * static_cast<float>(group)) : 0, g == 0, importance);
    } else {
      JoinOptimistic(head, total > 0 ? max_rank + std::log(total) : max_rank, g == 0, importance);
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace attention
}  // namespace swell
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace swell::attention {

HWY_EXPORT(Rank);

void RankClusters(int32_t group, int64_t clusters, const ClusterScores& scores, const uint32_t* sizes, Ranking ranking,
                  float kappa, float* importance, float* log_mass) {
  HWY_DYNAMIC_DISPATCH(Rank)(group, clusters, scores, sizes, ranking, kappa, importance, log_mass);
}

}  // namespace swell::attention
#endif  // HWY_ONCE
