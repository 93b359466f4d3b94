// What the kernels of an index build are given. One task is one KV head of one segment; all segments of a build have as
// many tokens, and task = segment * kv_heads + head. Pointers are device addresses.
#ifndef SWELL_CUDA_BUILD_BUILD_ARGS_H_
#define SWELL_CUDA_BUILD_BUILD_ARGS_H_

#include <driver_types.h>

#include <cstddef>
#include <cstdint>

#include "cuda/step/segment_places.h"
#include "swell/status.h"

namespace swell::cuda {

// Of one KV head of one segment; its super-clusters are one tile at most.
constexpr int kMaxBuildTokens = 2048;
constexpr int kMaxBuildClusters = kClusterTile * kClusterTile;
constexpr int kBuildThreads = 256;
static_assert(kBuildThreads == kMaxBuildClusters, "some loops give each thread one cluster");

// What a task gave: read by later kernels, then by the host.
struct BuiltHead {
  int32_t clusters;       // none is empty; 0: the keys are not finite
  int32_t largest;        // tokens of the largest cluster
  int32_t finite_values;  // 0: a value is NaN or Inf
  float unit;             // keys are clustered as key / unit - mean; a power of two
};

// What a tile contributes to the means over all tokens of its head: variance inside clusters, inside super-clusters,
// values; [head_dim] each.
enum TileSum { kClusterVariance = 0, kSuperVariance = 1, kValues = 2, kTileSums = 3 };

struct BuildArgs {
  const uint16_t* keys;  // element of token, head: token * token_stride + head * head_stride
  const uint16_t* values;
  int64_t token_stride;
  int64_t head_stride;
  int32_t kv_heads;
  int32_t tokens;    // of a segment
  int32_t clusters;  // to begin with
  int32_t iterations;
  int32_t is_half;
  std::byte* memory;  // of task t: HeadPlaces from memory + t * head_bytes
  size_t head_bytes;
  HeadPlaces places;
  BuiltHead* built;      // [tasks]
  uint32_t* first_rows;  // [tasks, kMaxBuildClusters + 1]
  float* tile_sums;      // [tasks, kClusterTile, kTileSums, head_dim]
};

// The kernels, in this order. Includable without nvcc; they enqueue on `stream`, can be captured, and return a launch's
// error. head_dim 64, 128 or 256.
Status LaunchCluster(int32_t head_dim, const BuildArgs& args, int32_t tasks, cudaStream_t stream);
Status LaunchRecords(int32_t head_dim, const BuildArgs& args, int32_t tasks, cudaStream_t stream);

// To be called once on a device before the first launch: the shared memory that the kernels need.
Status PrepareCluster(int32_t head_dim);
Status PrepareRecords(int32_t head_dim);

}  // namespace swell::cuda

#endif  // SWELL_CUDA_BUILD_BUILD_ARGS_H_
