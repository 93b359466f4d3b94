// Plain types that the layers share: element types, the shape of a model's attention, views of rows and of clusters.
// Nothing here owns memory; every view is valid as long as the object that gave it.
#ifndef SWELL_TYPES_H_
#define SWELL_TYPES_H_

#include <cstddef>
#include <cstdint>

namespace swell {

// Element type of stored rows. Values are part of the C ABI.
enum class DType : int32_t {
  kFloat32 = 0,
  kFloat16 = 1,
  kBFloat16 = 2,
  kInt8 = 3,  // one float32 scale per row (token, KV head, tensor): value = scale * element
};

// Bytes of one element; 0 for a value that is no DType.
constexpr size_t DTypeSize(DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
      return 4;
    case DType::kFloat16:
    case DType::kBFloat16:
      return 2;
    case DType::kInt8:
      return 1;
  }
  return 0;
}

constexpr int32_t kMaxHeadDim = 256;
constexpr int32_t kMaxGroup = 16;
// Tokens of one segment; row offsets are 16 bit.
constexpr int64_t kMaxSegmentTokens = 65536;

// Attention of one KV head: `group` query heads share it.
struct HeadShape {
  int32_t head_dim = 0;  // 1..kMaxHeadDim, multiple of 16
  int32_t group = 1;     // 1..kMaxGroup
  float scale = 0;       // multiplies q . k; the engine resolves 0 to 1/sqrt(head_dim) before a kernel sees it
  DType storage = DType::kFloat16;
};

// Consecutive rows of K and V of one KV head.
struct KvRun {
  const void* keys = nullptr;           // [tokens, head_dim], storage dtype, dense
  const void* values = nullptr;         // same shape
  const float* key_scales = nullptr;    // [tokens], only for kInt8
  const float* value_scales = nullptr;  // [tokens], only for kInt8
  const uint16_t* offsets = nullptr;    // [tokens]: row r holds token first_token + offsets[r]; null: first_token + r
  int64_t first_token = 0;              // position in the sequence
  int64_t tokens = 0;
};

// Position in the sequence of the token that a row of `run` holds.
inline int64_t TokenOfRow(const KvRun& run, int64_t row) {
  return run.first_token + (run.offsets != nullptr ? run.offsets[row] : row);
}

// Clusters are stored in tiles of this many, dimension by dimension, so that one vector lane is one cluster.
constexpr int32_t kClusterTile = 16;

// Meta index of one KV head of one segment: what is known of each cluster without reading its tokens.
// Padding clusters of the last tile hold zeros and must never reach a result. Arrays are 64-byte aligned.
struct ClusterView {
  int64_t clusters = 0;                    // 0: nothing is clustered, every row is read exactly
  const float* center = nullptr;           // [head_dim]: centroid j = center + centroid_scales[j] * centroids[.., j, .]
  const int8_t* centroids = nullptr;       // [tiles, head_dim / 4, kClusterTile, 4]
  const float* centroid_scales = nullptr;  // [tiles * kClusterTile]
  const float* spread_profile =
      nullptr;                          // [head_dim]: how the variance of keys in a cluster falls to dimensions, mean 1
  const float* spreads = nullptr;       // [tiles * kClusterTile]: variance in dimension d = spread^2 * profile[d]
  const int8_t* value_means = nullptr;  // [clusters, head_dim]; value sum = size * scale * element
  const float* value_scales = nullptr;  // [clusters]
  const float* value_energies = nullptr;  // [clusters]: mean over the tokens of |v|^2
  const int8_t* tile_means = nullptr;     // [tiles, head_dim]: mean value of all tokens of a tile = scale * element
  const float* tile_scales = nullptr;     // [tiles]
  const uint32_t* first_rows = nullptr;   // [clusters + 1]: cluster j holds rows first_rows[j] .. first_rows[j + 1]
};

// Clusters [first, first + clusters) of a view; `first` is a multiple of kClusterTile.
struct ClusterRun {
  const ClusterView* view = nullptr;
  int64_t first = 0;
  int64_t clusters = 0;
};

// How clusters are ranked for reading.
enum class Ranking : int32_t {
  kOptimistic = 0,  // softmax of l + kappa * sigma per query head, then the maximum over the group
  kMass = 1,        // softmax of l per query head, summed over the group (RetroInfer, arXiv 2505.02922)
  kShare = 2,       // exp(l + kappa * sigma) over the mass of all tokens, the steady zone's too; maximum over the group
};

// What the budget of exactly read clusters counts.
enum class BudgetUnit : int32_t {
  kTokens = 0,    // whole clusters, best first, until the share of the tokens is spent
  kClusters = 1,  // a share of the clusters, whatever their sizes (RetroInfer)
};

// Version 1 of the handle: generation in the upper, slot in the lower 32 bits; 0 is never a valid id.
enum class SequenceId : uint64_t { kNone = 0 };

}  // namespace swell

#endif  // SWELL_TYPES_H_
