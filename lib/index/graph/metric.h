// The metric in which two keys are near each other when the queries score them alike:
//
//   |a - b|^2 = E_q [ (q . (a - b))^2 ],  q the sampled queries, each of length 1,
//
// so that a place L^T k, with L L^T = E[q q^T], makes it the Euclidean distance. Keys are scaled and centred first:
// neither changes which keys a query finds, and the numbers become harmless.
#ifndef SWELL_LIB_INDEX_GRAPH_METRIC_H_
#define SWELL_LIB_INDEX_GRAPH_METRIC_H_

#include <cstdint>
#include <vector>

#include "lib/index/keys/key_rows.h"
#include "swell/types.h"

namespace swell::graph {

class Metric {
 public:
  // Centres `keys` [tokens, head_dim] in place: scale * k - mean. `queries` [n_queries, head_dim] of length 1 or 0;
  // none gives the Euclidean metric. Throws std::bad_alloc.
  Metric(int32_t head_dim, float* keys, int64_t tokens, const float* queries, int64_t n_queries);

  // Centres one decoded key in place.
  void Centre(float* key) const;
  // places = L^T of each centred key; [keys, head_dim] both.
  void Place(const float* centred, int64_t keys, float* places) const;
  // The query w for which w . k - |place of k|^2 orders stored keys k by their distance from `place`, nearest first.
  void Approach(const float* place, float* query) const;
  size_t bytes() const { return (mean_.size() + factor_.size() + transposed_.size()) * sizeof(float); }

 private:
  int32_t head_dim_;
  float scale_ = 1;
  std::vector<float> mean_;        // [head_dim]
  std::vector<float> factor_;      // L [head_dim, head_dim]
  std::vector<float> transposed_;  // L^T
};

}  // namespace swell::graph

#endif  // SWELL_LIB_INDEX_GRAPH_METRIC_H_
