// The index as the device reads it, and the plan of one decode step. Plain structs of device memory, shared by the host
// that writes them and the kernels that read them; see docs/architecture.md, "One step on the device".
//
// Pointers are device addresses. A token record is K [head_dim] and V [head_dim] of one token, side by side: what is
// read together lies together, and a run of tokens is one run of bytes on any tier.
#ifndef SWELL_CUDA_STEP_LAYOUT_H_
#define SWELL_CUDA_STEP_LAYOUT_H_

#include <cstddef>
#include <cstdint>

#include "swell/types.h"

namespace swell::cuda {

constexpr int kLevels = 2;  // clusters, super-clusters
// Clusters of a KV head, padding included: their numbers have 22 bits in the order of selection.
constexpr int64_t kMaxHeadTiles = (int64_t{1} << 22) / kClusterTile;

// What a segment's clusters have in common: ClusterView::center and spread_profile.
template <int kHeadDim>
struct alignas(16) Frame {
  float center[kHeadDim];
  float profile[kHeadDim];
};

// Sixteen clusters. All that scoring reads comes first. The centroids are in the order of the fragments of the product
// m16n8k32 whose 16 rows are the tile: lane (g, t) = 4 g + t of step s holds dims 32 s + 8 t .. + 8 of clusters 2 g and
// 2 g + 1 as {2g: first 4, 2g + 1: first 4, 2g: last 4, 2g + 1: last 4}.
template <int kHeadDim>
struct alignas(128) TileRecord {
  int8_t centroids[kHeadDim / 32][32][16];
  float scales[kClusterTile];  // of the centroids
  float spreads[kClusterTile];
  uint32_t sizes[kClusterTile];  // tokens; 0: padding
  const Frame<kHeadDim>* frame;
  // What is chosen: the token record of the first token of the first cluster; of super-clusters the first of the tiles
  // that they are, one after the other.
  const void* content;
  const int8_t* value_means;  // [16, head_dim], of the clusters
  float mean_scale;           // mean value of all tokens of the tile = mean_scale * mean
  alignas(16) float value_scales[kClusterTile];
  float energies[kClusterTile];
  int8_t mean[kHeadDim];
};

// Tokens that are read whatever the query is, of one KV head.
struct TokenRun {
  const std::byte* rows;
  int64_t tokens;
};

// The end of a layer of a sequence: the only thing that grows without the host.
struct Tail {
  std::byte* rows;   // token records [kv_heads, capacity]
  int32_t capacity;  // tokens
  int32_t tokens;
};

// One KV head of one sequence of the batch. Budgets are those of PlanBudget in lib/engine/retrieve.cc, as far as they
// do not depend on the tail.
struct HeadPlan {
  const void* const* tiles[kLevels];  // its tile records, in the order of the sequence
  int32_t n_tiles[kLevels];
  int64_t first_tile[kLevels];  // place of its tiles in the score arrays
  int64_t estimate[kLevels];    // clusters to estimate, besides those that are read
  int64_t clustered_tokens;
  int64_t clusters;
  int64_t share_tokens;    // tokens to read, before the floor
  int64_t share_clusters;  // clusters to read, before the floor
  int64_t open_tokens;     // of super-clusters to open, at least
  int64_t first_address;   // of its list of token records
  int64_t fixed_tokens;    // of its runs
  int32_t first_score_part[kLevels];
  int32_t n_score_parts[kLevels];
  int32_t first_run;
  int32_t tail;  // number of its Tail
  int32_t kv_head;
};

// Share of a head's tiles that one CTA scores: part `index` of `count`.
struct ScorePart {
  const void* const* tiles;  // HeadPlan's of the level
  int64_t first_tile;
  int32_t n_tiles;
  int32_t head;
  int32_t index;
  int32_t count;
};

// Share of a head that one CTA attends: part `index` of `count`, for one block of queries.
struct Part {
  int32_t head;
  int32_t index;
  int32_t count;
};

// What the arrays of a plan hold at present; they stay where they are.
struct PlanSize {
  int32_t heads;
  int32_t score_parts[kLevels];
  int32_t parts;
};

}  // namespace swell::cuda

#endif  // SWELL_CUDA_STEP_LAYOUT_H_
