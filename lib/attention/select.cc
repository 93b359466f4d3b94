// Selection of the retrieval and estimation zones by threshold: radix histograms find the importance at which the
// budget ends, then one pass compares with it. O(entries), no sort.
#include "lib/base/float_order.h"
#include "lib/base/simd_targets.h"
#include "swell/attention.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "lib/attention/select.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "lib/attention/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace swell {
namespace attention {
namespace HWY_NAMESPACE {

// Writes the numbers of the entries at or above `threshold`, rising; returns how many. `numbers` [entries].
int64_t ListFrom(int64_t entries, const float* importance, float threshold, uint32_t* numbers) {
  const FloatTag d;
  const hn::RebindToUnsigned<FloatTag> du;
  const int64_t lanes = hn::Lanes(d);
  int64_t count = 0, j = 0;
  for (; j + lanes <= entries; j += lanes) {
    const auto from = hn::Ge(hn::LoadU(d, importance + j), hn::Set(d, threshold));
    if (hn::AllFalse(d, from)) continue;
    const auto number = hn::Iota(du, static_cast<uint32_t>(j));
    hn::StoreU(hn::Compress(number, hn::RebindMask(du, from)), du, numbers + count);
    count += static_cast<int64_t>(hn::CountTrue(d, from));
  }
  for (; j < entries; ++j) {
    if (importance[j] >= threshold) numbers[count++] = static_cast<uint32_t>(j);
  }
  return count;
}

// Retrieves the entries above `least`.
Retrieved MarkAbove(int64_t entries, const float* importance, float least, const uint32_t* sizes, Zone* zones) {
  const FloatTag d;
  const int64_t lanes = hn::Lanes(d);
  Retrieved retrieved;
  const auto mark = [&](int64_t first, int64_t last) {
    for (int64_t j = first; j < last; ++j) {
      if (!(importance[j] > least)) continue;
      zones[j] = Zone::kRetrieved;
      ++retrieved.clusters;
      retrieved.tokens += sizes[j];
    }
  };
  int64_t j = 0;
  for (; j + lanes <= entries; j += lanes) {
    if (!hn::AllFalse(d, hn::Gt(hn::LoadU(d, importance + j), hn::Set(d, least)))) mark(j, j + lanes);
  }
  mark(j, entries);
  return retrieved;
}

// Real clusters and their tokens.
Retrieved CountAll(int64_t entries, const uint32_t* sizes) {
  Retrieved all;
  for (int64_t j = 0; j < entries; ++j) {
    all.clusters += sizes[j] > 0;
    all.tokens += sizes[j];
  }
  return all;
}

}  // namespace HWY_NAMESPACE
}  // namespace attention
}  // namespace swell
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include <functional>
#include <numeric>

namespace swell::attention {
namespace {

HWY_EXPORT(CountAll);
HWY_EXPORT(ListFrom);
HWY_EXPORT(MarkAbove);

// Where the budget ends in falling order: all clusters above `key` weigh less than the budget, and with those at `key`
// they reach it.
struct Cut {
  uint32_t key;
  int64_t ties;       // clusters whose key is `key`; their numbers are in `candidates`, rising
  int64_t remaining;  // budget that is left for the ties, > 0
};

// Needs 0 < budget <= the weight of all candidates; `candidates` [count] are numbers of clusters, rising, and nothing
// else is as important. `sizes` are the weights; null: every cluster weighs 1.
Cut FindCut(uint32_t* candidates, int64_t count, const float* importance, const uint32_t* sizes, int64_t budget) {
  constexpr int kBits = 11;
  constexpr int kShifts[] = {21, 10, 0};
  constexpr uint32_t kDigits = 1u << kBits;
  Cut cut = {0, count, budget};
  for (int level = 0; level < 3; ++level) {
    const int shift = kShifts[level];
    const uint32_t mask = level == 2 ? (1u << 10) - 1 : kDigits - 1;
    int64_t weights[kDigits] = {};
    for (int64_t i = 0; i < cut.ties; ++i) {
      const uint32_t cluster = candidates[i];
      weights[OrderedBits(importance[cluster]) >> shift & mask] += sizes != nullptr ? sizes[cluster] : 1;
    }
    uint32_t digit = mask;
    while (digit > 0 && weights[digit] < cut.remaining) cut.remaining -= weights[digit--];
    cut.key |= digit << shift;
    int64_t kept = 0;
    for (int64_t i = 0; i < cut.ties; ++i) {
      const uint32_t cluster = candidates[i];
      if ((OrderedBits(importance[cluster]) >> shift & mask) == digit) candidates[kept++] = cluster;
    }
    cut.ties = kept;
  }
  return cut;
}

// Clusters, by number and rising, that hold all above a threshold.
struct Candidates {
  int64_t count;
  int64_t weight;
};

// Those at or above `least`; `sizes` are the weights, null: every cluster weighs 1.
Candidates ListCandidates(int64_t entries, const float* importance, const uint32_t* sizes, float least,
                          uint32_t* numbers) {
  const int64_t count = HWY_DYNAMIC_DISPATCH(ListFrom)(entries, importance, least, numbers);
  if (sizes == nullptr) return {count, count};
  return {count, std::accumulate(numbers, numbers + count, int64_t{0},
                                 [&](int64_t sum, uint32_t cluster) { return sum + sizes[cluster]; })};
}

// A threshold that about twice `share` of the entries reach, as a sample says; -inf when it says too little.
float GuessThreshold(int64_t entries, const float* importance, double share) {
  constexpr int64_t kStride = 16, kSample = 1024, kSpare = 16;
  const int64_t sampled = std::min(entries / kStride, kSample);
  const int64_t rank = static_cast<int64_t>(2 * share * static_cast<double>(sampled)) + kSpare;
  if (rank >= sampled / 2) return kLeastImportance;
  float sample[kSample];
  for (int64_t i = 0; i < sampled; ++i) sample[i] = importance[i * (entries / sampled)];
  std::nth_element(sample, sample + rank, sample + sampled, std::greater<float>());
  return sample[rank];
}

// Chooses the retrieval zone among `all` clusters; of the other entries it leaves the zones alone.
Retrieved Retrieve(int64_t entries, const Retrieved& all, const float* importance, const uint32_t* sizes,
                   BudgetUnit unit, int64_t budget, float least, Zone* zones, uint32_t* scratch) {
  const bool by_tokens = unit == BudgetUnit::kTokens;
  const int64_t weight_of_all = by_tokens ? all.tokens : all.clusters;
  const bool any = least == kLeastImportance;
  if (budget >= weight_of_all && any) {
    std::fill_n(zones, entries, Zone::kRetrieved);
    return all;
  }
  if (budget <= 0) return {};
  const uint32_t* weights = by_tokens ? sizes : nullptr;
  const double share = static_cast<double>(budget) / static_cast<double>(weight_of_all);
  // Where importance decides, it leaves few; where the budget does, a sample finds most of what cannot be chosen.
  const float guess = any ? GuessThreshold(entries, importance, share) : least;
  Candidates candidates = ListCandidates(entries, importance, weights, guess, scratch);
  if (candidates.weight <= budget && !any) {
    Retrieved retrieved;
    for (int64_t i = 0; i < candidates.count; ++i) {
      zones[scratch[i]] = Zone::kRetrieved;
      ++retrieved.clusters;
      retrieved.tokens += sizes[scratch[i]];
    }
    return retrieved;
  }
  if (candidates.weight < budget) {
    std::iota(scratch, scratch + entries, 0u);
    candidates.count = entries;
  }
  Cut cut = FindCut(scratch, candidates.count, importance, weights, budget);
  Retrieved retrieved = HWY_DYNAMIC_DISPATCH(MarkAbove)(entries, importance, FloatOfOrderedBits(cut.key), sizes, zones);
  for (int64_t i = 0; i < cut.ties && cut.remaining > 0; ++i) {
    const uint32_t cluster = scratch[i];
    const int64_t weight = by_tokens ? sizes[cluster] : 1;
    if (weight <= cut.remaining || 2 * cut.remaining >= weight || retrieved.clusters == 0) {
      zones[cluster] = Zone::kRetrieved;
      ++retrieved.clusters;
      retrieved.tokens += sizes[cluster];
    }
    cut.remaining -= weight;  // the cluster that crosses the budget is the last one looked at
  }
  return retrieved;
}

}  // namespace

Retrieved SelectClusters(int64_t entries, const float* importance, const uint32_t* sizes, BudgetUnit unit,
                         int64_t retrieve_budget, float least, int64_t estimate_clusters, Zone* zones,
                         uint32_t* scratch) {
  const Retrieved all = HWY_DYNAMIC_DISPATCH(CountAll)(entries, sizes);
  std::fill_n(zones, entries, Zone::kEstimated);
  const Retrieved retrieved = Retrieve(entries, all, importance, sizes, unit, retrieve_budget, least, zones, scratch);
  if (estimate_clusters >= all.clusters - retrieved.clusters) return retrieved;
  const auto set = [&](int64_t cluster, Zone zone) {
    if (zones[cluster] != Zone::kRetrieved) zones[cluster] = zone;
  };
  for (int64_t j = 0; j < entries; ++j) set(j, Zone::kDropped);
  if (estimate_clusters <= 0) return retrieved;
  // The retrieved clusters are the first of the order, so the estimated ones end at this rank.
  std::iota(scratch, scratch + entries, 0u);
  const Cut cut = FindCut(scratch, entries, importance, nullptr, retrieved.clusters + estimate_clusters);
  for (int64_t j = 0; j < entries; ++j) {
    if (OrderedBits(importance[j]) > cut.key) set(j, Zone::kEstimated);
  }
  for (int64_t i = 0; i < cut.remaining; ++i) set(scratch[i], Zone::kEstimated);
  return retrieved;
}

}  // namespace swell::attention
#endif  // HWY_ONCE
