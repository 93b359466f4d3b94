// From lists of keys to neighbours of keys.
//
// RoarGraph links a query's nearest key with all others of its list. On real queries and keys of attention the lists of
// one head begin with the same few keys, so that most keys are never linked at all; here a key is linked with those
// that stand near it in the lists, and of these are kept, by the occlusion rule, the ones that no kept neighbour is
// nearer to.
#ifndef SWELL_LIB_INDEX_GRAPH_PROJECT_H_
#define SWELL_LIB_INDEX_GRAPH_PROJECT_H_

#include <cstdint>
#include <vector>

#include "lib/index/graph/adjacency.h"
#include "lib/index/graph/nearest_keys.h"
#include "lib/index/keys/products.h"

namespace swell::graph {

struct Near {
  float distance = 0;  // squared
  uint32_t key = 0;
  bool operator<(const Near& other) const {
    return distance != other.distance ? distance < other.distance : key < other.key;
  }
};

// Keeps at most `limit` of `candidates`, nearest first: each that is nearer to the key than to any kept one.
// place(key) gives a pointer to its place [head_dim]. `candidates` are sorted and without repeats.
template <typename Place>
void Occlude(const Place& place, int32_t head_dim, int64_t limit, std::vector<Near>& candidates) {
  size_t kept = 0;
  for (const Near candidate : candidates) {
    if (static_cast<int64_t>(kept) == limit) break;
    const float* from = place(candidate.key);
    bool free = true;
    for (size_t i = 0; i < kept && free; ++i) {
      free = SquaredDistance(head_dim, from, place(candidates[i].key)) >= candidate.distance;
    }
    if (free) candidates[kept++] = candidate;
  }
  candidates.resize(kept);
}

// Links every key that stands in a list, both ways as far as there are free slots; adoption slots stay free.
// `places` [tokens, head_dim] (Metric::Place). Throws std::bad_alloc.
void LinkLists(const KeyLists& lists, int64_t reach, int32_t head_dim, const float* places, int64_t tokens,
               int32_t degree, Adjacency& adjacency);

}  // namespace swell::graph

#endif  // SWELL_LIB_INDEX_GRAPH_PROJECT_H_
