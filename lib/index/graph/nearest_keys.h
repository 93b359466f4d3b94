// The keys with the largest inner products with each of many queries, exactly: the knowledge that the graph is drawn
// from (RetrievalAttention, section 3; RoarGraph, step 1).
#ifndef SWELL_LIB_INDEX_GRAPH_NEAREST_KEYS_H_
#define SWELL_LIB_INDEX_GRAPH_NEAREST_KEYS_H_

#include <cstdint>
#include <span>
#include <vector>

namespace swell::graph {

// Keys of each query, best first, ties by key.
struct KeyLists {
  int64_t width = 0;           // most keys of a list
  std::vector<uint32_t> keys;  // [lists, width]; kNoKey behind the end of a list

  int64_t lists() const { return width == 0 ? 0 : static_cast<int64_t>(keys.size()) / width; }
  std::span<const uint32_t> List(int64_t list) const;  // without what is unused
};

// Keys as dense float rows [tokens, head_dim], queries [n_queries, head_dim]; visible[q] (1 or more) is how many keys
// query q sees, from the first on. Throws std::bad_alloc.
KeyLists FindNearestKeys(int32_t head_dim, const float* keys, const float* queries, std::span<const int64_t> visible,
                         int64_t width);

}  // namespace swell::graph

#endif  // SWELL_LIB_INDEX_GRAPH_NEAREST_KEYS_H_
