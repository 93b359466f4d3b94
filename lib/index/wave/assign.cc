#include "lib/index/wave/assign.h"

#include <algorithm>
#include <cstddef>
#include <limits>
#include <utility>

#include "lib/base/simd_targets.h"
#include "swell/types.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "lib/index/wave/assign.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace swell::wave {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

const hn::CappedTag<float, kClusterTile> kFloats;
const hn::RebindToSigned<decltype(kFloats)> kInts;
using Floats = hn::Vec<decltype(kFloats)>;
using Ints = hn::Vec<decltype(kInts)>;
constexpr size_t kLanes = HWY_MIN(HWY_LANES(float), kClusterTile);

// Tokens x vectors of accumulators in registers: 24 of 32 with AVX-512 and NEON, 12 of 16 with AVX2, 8 of 16 below.
#if HWY_TARGET <= HWY_AVX3
constexpr size_t kTokens = 12, kVectors = 2;
#elif HWY_TARGET == HWY_AVX2
constexpr size_t kTokens = 6, kVectors = 2;
#elif HWY_TARGET == HWY_NEON
constexpr size_t kTokens = 6, kVectors = 4;
#else
constexpr size_t kTokens = 2, kVectors = 4;
#endif
constexpr int64_t kPanel = kVectors * kLanes;
static_assert(kTokenBlock % kTokens == 0 && kClusterBlock % kPanel == 0);

// Best score and its cluster, lane by lane, of each token of a block.
struct Best {
  Floats score[kTokens];
  Ints cluster[kTokens];
};

// Scores clusters first .. first + kPanel under kTokens rows of keys and keeps the better ones. kIndex counts
// accumulators: token kIndex / kVectors, vector kIndex % kVectors.
template <size_t... kIndex>
HWY_INLINE void ScorePanel(const CentroidTiles& centroids, const float* HWY_RESTRICT keys, int64_t first, Best& best,
                           std::index_sequence<kIndex...>) {
  const int64_t head_dim = centroids.head_dim;
  const float* panel[kVectors];
  for (size_t v = 0; v < kVectors; ++v) {
    const int64_t cluster = first + static_cast<int64_t>(v * kLanes);
    panel[v] = centroids.lanes + cluster / kClusterTile * kClusterTile * head_dim + cluster % kClusterTile;
  }
  const float* norms = centroids.minus_half_norms + first;
  Floats sums[] = {hn::Load(kFloats, norms + kIndex % kVectors * kLanes)...};
  for (int64_t i = 0; i < head_dim; ++i) {
    ((sums[kIndex] = hn::MulAdd(hn::Set(kFloats, keys[static_cast<int64_t>(kIndex / kVectors) * head_dim + i]),
                                hn::Load(kFloats, panel[kIndex % kVectors] + i * kClusterTile), sums[kIndex])),
     ...);
  }
  const Ints clusters = hn::Iota(kInts, static_cast<int32_t>(first));
  const auto keep_better = [&](size_t token, size_t vector, Floats sum) HWY_ATTR {
    const auto better = hn::Gt(sum, best.score[token]);
    const Ints candidate = hn::Add(clusters, hn::Set(kInts, static_cast<int32_t>(vector * kLanes)));
    best.score[token] = hn::IfThenElse(better, sum, best.score[token]);
    best.cluster[token] = hn::IfThenElse(hn::RebindMask(kInts, better), candidate, best.cluster[token]);
  };
  (keep_better(kIndex / kVectors, kIndex % kVectors, sums[kIndex]), ...);
}

// Clusters first .. last of all tokens, against the best of the clusters before them.
void AssignChunk(const CentroidTiles& centroids, const float* keys, int64_t tokens, int64_t first, int64_t last,
                 float* scores, int32_t* nearest) {
  Best best;
  for (int64_t token = 0; token < tokens; token += kTokens) {
    for (size_t t = 0; t < kTokens; ++t) {
      best.score[t] = hn::Set(kFloats, -std::numeric_limits<float>::infinity());
      best.cluster[t] = hn::Set(kInts, static_cast<int32_t>(first));
    }
    for (int64_t panel = first; panel < last; panel += kPanel) {
      ScorePanel(centroids, keys + token * centroids.head_dim, panel, best,
                 std::make_index_sequence<kTokens * kVectors>());
    }
    for (size_t t = 0; t < kTokens; ++t) {
      const Floats maximum = hn::MaxOfLanes(kFloats, best.score[t]);
      const float score = hn::GetLane(maximum);
      if (first != 0 && !(score > scores[token + t])) continue;
      const auto ties = hn::RebindMask(kInts, hn::Eq(best.score[t], maximum));
      const Ints none = hn::Set(kInts, std::numeric_limits<int32_t>::max());
      scores[token + t] = score;
      nearest[token + t] = hn::GetLane(hn::MinOfLanes(kInts, hn::IfThenElse(ties, best.cluster[t], none)));
    }
  }
}

void AssignNearest(const CentroidTiles& centroids, const float* keys, int64_t blocks, float* scores, int32_t* nearest) {
  // Centroids that stay in the second-level cache while all tokens pass by.
  constexpr int64_t kChunkBytes = 256 << 10;
  const int64_t cluster_bytes = centroids.head_dim * static_cast<int64_t>(sizeof(float));
  const int64_t chunk = kChunkBytes / cluster_bytes / kClusterBlock * kClusterBlock;
  const int64_t clusters = RoundUp(centroids.clusters, kPanel);
  for (int64_t first = 0; first < clusters; first += chunk) {
    AssignChunk(centroids, keys, blocks * kTokenBlock, first, std::min(first + chunk, clusters), scores, nearest);
  }
}

void ComputeHalfNorms(const CentroidTiles& centroids) {
  const int64_t head_dim = centroids.head_dim;
  const int64_t padded = RoundUp(centroids.clusters, kClusterBlock);
  for (int64_t cluster = 0; cluster < padded; cluster += kLanes) {
    const float* lanes = centroids.lanes + cluster / kClusterTile * kClusterTile * head_dim + cluster % kClusterTile;
    Floats sum = hn::Zero(kFloats);
    for (int64_t i = 0; i < head_dim; ++i) {
      const Floats x = hn::Load(kFloats, lanes + i * kClusterTile);
      sum = hn::MulAdd(x, x, sum);
    }
    hn::Store(hn::Mul(sum, hn::Set(kFloats, -0.5F)), kFloats, centroids.minus_half_norms + cluster);
  }
  std::fill(centroids.minus_half_norms + centroids.clusters, centroids.minus_half_norms + padded,
            -std::numeric_limits<float>::infinity());
}

}  // namespace HWY_NAMESPACE
}  // namespace swell::wave
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace swell::wave {

HWY_EXPORT(AssignNearest);
HWY_EXPORT(ComputeHalfNorms);

void AssignNearest(const CentroidTiles& centroids, const float* keys, int64_t blocks, float* scores, int32_t* nearest) {
  HWY_DYNAMIC_DISPATCH(AssignNearest)(centroids, keys, blocks, scores, nearest);
}

void ComputeHalfNorms(const CentroidTiles& centroids) { HWY_DYNAMIC_DISPATCH(ComputeHalfNorms)(centroids); }

}  // namespace swell::wave
#endif  // HWY_ONCE
