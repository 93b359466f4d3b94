// Clusters of which some tokens are read: what is left of them is estimated, less what was taken out.
//
// For a cluster of s tokens with mean logit l, mean value v and energy e, of which r tokens with logits l_i and values
// v_i are read, the s - r others have the mean logit (s l - sum l_i) / (s - r), and likewise their value and energy.
#ifndef SWELL_LIB_ENGINE_RESIDUAL_H_
#define SWELL_LIB_ENGINE_RESIDUAL_H_

#include <cstdint>
#include <span>
#include <vector>

#include "swell/attention.h"
#include "swell/types.h"

namespace swell {

class Residuals {
 public:
  int64_t count() const { return static_cast<int64_t>(sizes_.size()); }

  // Cluster `cluster` of `view`, less `read`, rows of `rows` that belong to it; nothing when no others are left.
  // `logits` [group] are those of its centroid, `widths` [group] as ScoreClusters gives them. Throws std::bad_alloc.
  void Add(const HeadShape& shape, const float* queries, const ClusterView& view, int64_t cluster, const KvRun& rows,
           std::span<const int64_t> read, const float* logits, const float* widths);

  // Adds the estimate of all of them to a fresh state and fresh errors, as attention::EstimateClusters would.
  void AddTo(const HeadShape& shape, bool correct, attention::PartialState state, attention::ErrorState errors) const;

 private:
  std::vector<float> sizes_;     // [count]: tokens that are left
  std::vector<float> logits_;    // [count, group]
  std::vector<float> sigmas_;    // [count, group]
  std::vector<float> values_;    // [count, head_dim]: mean
  std::vector<float> energies_;  // [count]: mean |v|^2
};

}  // namespace swell

#endif  // SWELL_LIB_ENGINE_RESIDUAL_H_
