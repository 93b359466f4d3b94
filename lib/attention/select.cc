// Selection of the retrieval and estimation zones by threshold: radix histograms find the importance at which the
// budget ends, then one pass compares with it. O(clusters), no sort.
#include <algorithm>
#include <bit>
#include <functional>
#include <numeric>

#include "swell/attention.h"

namespace swell::attention {
namespace {

// Unsigned keys in the order of the floats.
uint32_t KeyOf(float importance) {
  const uint32_t bits = std::bit_cast<uint32_t>(importance + 0.0f);  // -0 becomes 0
  return (bits & 0x80000000u) ? ~bits : (bits | 0x80000000u);
}

float ImportanceOf(uint32_t key) { return std::bit_cast<float>((key & 0x80000000u) ? key & 0x7FFFFFFFu : ~key); }

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
      weights[KeyOf(importance[cluster]) >> shift & mask] += sizes != nullptr ? sizes[cluster] : 1;
    }
    uint32_t digit = mask;
    while (digit > 0 && weights[digit] < cut.remaining) cut.remaining -= weights[digit--];
    cut.key |= digit << shift;
    int64_t kept = 0;
    for (int64_t i = 0; i < cut.ties; ++i) {
      const uint32_t cluster = candidates[i];
      if ((KeyOf(importance[cluster]) >> shift & mask) == digit) candidates[kept++] = cluster;
    }
    cut.ties = kept;
  }
  return cut;
}

// Numbers of the clusters that a budget can reach, rising: those above a threshold that a sample suggests, if they
// weigh enough, else all. `share` is the part of the weight that the budget is.
int64_t FindCandidates(int64_t clusters, const float* importance, const uint32_t* sizes, int64_t budget, double share,
                       uint32_t* candidates) {
  constexpr int64_t kStride = 16, kSample = 1024, kSpare = 16;
  const int64_t sampled = std::min(clusters / kStride, kSample);
  const int64_t rank = static_cast<int64_t>(2 * share * static_cast<double>(sampled)) + kSpare;
  if (rank < sampled / 2) {
    float sample[kSample];
    for (int64_t i = 0; i < sampled; ++i) sample[i] = importance[i * (clusters / sampled)];
    std::nth_element(sample, sample + rank, sample + sampled, std::greater<float>());
    const float threshold = sample[rank];
    int64_t count = 0, weight = 0;
    for (int64_t j = 0; j < clusters; ++j) {
      const bool above = importance[j] >= threshold;
      candidates[count] = static_cast<uint32_t>(j);
      count += above;
      weight += above ? (sizes != nullptr ? sizes[j] : 1) : 0;
    }
    if (weight >= budget) return count;
  }
  std::iota(candidates, candidates + clusters, 0u);
  return clusters;
}

// Clusters and tokens of the retrieval zone.
struct Retrieved {
  int64_t clusters = 0;
  int64_t tokens = 0;
};

Retrieved Retrieve(int64_t clusters, const float* importance, const uint32_t* sizes, BudgetUnit unit, int64_t budget,
                   Zone* zones, uint32_t* scratch) {
  const bool by_tokens = unit == BudgetUnit::kTokens;
  int64_t tokens = 0;
  for (int64_t j = 0; j < clusters; ++j) tokens += sizes[j];
  const int64_t all = by_tokens ? tokens : clusters;
  std::fill_n(zones, clusters, budget >= all ? Zone::kRetrieved : Zone::kDropped);
  if (budget >= all) return {clusters, tokens};
  if (budget <= 0) return {};
  const uint32_t* weights = by_tokens ? sizes : nullptr;
  const double share = static_cast<double>(budget) / static_cast<double>(all);
  const int64_t candidates = FindCandidates(clusters, importance, weights, budget, share, scratch);
  Cut cut = FindCut(scratch, candidates, importance, weights, budget);
  const float least = ImportanceOf(cut.key);
  Retrieved retrieved;
  for (int64_t j = 0; j < clusters; ++j) {
    const bool above = importance[j] > least;
    zones[j] = above ? Zone::kRetrieved : Zone::kDropped;
    retrieved.clusters += above;
    retrieved.tokens += above ? sizes[j] : 0;
  }
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

int64_t SelectClusters(int64_t clusters, const float* importance, const uint32_t* sizes, BudgetUnit unit,
                       int64_t retrieve_budget, int64_t estimate_clusters, Zone* zones, uint32_t* scratch) {
  const Retrieved retrieved = Retrieve(clusters, importance, sizes, unit, retrieve_budget, zones, scratch);
  const int64_t left = clusters - retrieved.clusters;
  if (estimate_clusters >= left) {
    std::replace(zones, zones + clusters, Zone::kDropped, Zone::kEstimated);
  } else if (estimate_clusters > 0) {
    // The retrieved clusters are the first of the order, so the estimated ones end at this rank.
    std::iota(scratch, scratch + clusters, 0u);
    const Cut cut = FindCut(scratch, clusters, importance, nullptr, retrieved.clusters + estimate_clusters);
    const auto estimate = [&](int64_t cluster) {
      if (zones[cluster] == Zone::kDropped) zones[cluster] = Zone::kEstimated;
    };
    for (int64_t j = 0; j < clusters; ++j) {
      if (KeyOf(importance[j]) > cut.key) estimate(j);
    }
    for (int64_t i = 0; i < cut.remaining; ++i) estimate(scratch[i]);
  }
  return retrieved.tokens;
}

}  // namespace swell::attention
