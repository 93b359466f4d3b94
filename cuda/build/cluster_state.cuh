// Shared memory of a CTA that clusters one head of a segment, and what its phases have in common.
#ifndef SWELL_CUDA_BUILD_CLUSTER_STATE_CUH_
#define SWELL_CUDA_BUILD_CLUSTER_STATE_CUH_

#include "cuda/build/build_device.cuh"

namespace swell::cuda {

constexpr int kBuildWarps = kBuildThreads / 32;

template <int kHeadDim>
struct ClusterState {
  // float16, in the order of fragments of m16n8k16: lane (g, t) = 4 g + t of step s holds dims 32 s + 8 t .. + 8 of
  // cluster 8 n + g, which is two products' worth.
  uint4 centroids[kMaxBuildClusters / 8][kHeadDim / 32][32];
  float minus_half_norms[kMaxBuildClusters];  // -|c|^2 / 2; -inf: no cluster
  uint16_t nearest[kMaxBuildTokens];
  uint16_t order[kMaxBuildTokens];  // cluster by cluster, ascending within one
  uint16_t first_rows[kMaxBuildClusters + 1];
  uint16_t places[kBuildWarps][kMaxBuildClusters];  // where a warp's tokens go in their cluster
  union {
    float sums[kBuildThreads * 8];  // of columns
    struct {
      alignas(16) float supers[kClusterTile][kHeadDim];
      float distances[kMaxBuildClusters][kClusterTile + 1];  // |s|^2 / 2 - c . s, by place in `live`
      float half_norms[kClusterTile];
      float regrets[kMaxBuildClusters];
      uint16_t by_regret[kMaxBuildClusters];         // places in `live`
      uint16_t members[kClusterTile][kClusterTile];  // places in `live`, as they chose
      uint16_t live[kMaxBuildClusters];              // clusters that are not empty
      uint16_t grouped[kMaxBuildClusters];           // clusters, super-cluster by super-cluster
    };
  };
  float shift[kHeadDim];  // the mean key, in working units
  int32_t warp_sums[kBuildWarps];
  uint32_t magnitude;
  int32_t largest;

  __device__ __half* Centroid(int cluster, int dim) {
    return reinterpret_cast<__half*>(&centroids[cluster / 8][dim / 32][cluster % 8 * 4 + dim % 32 / 8]) + dim % 8;
  }
};

// Sum of `value` over the threads before this one; all threads call it. `warp_sums` is free after the next barrier.
__device__ __forceinline__ int SumBefore(int value, int32_t* warp_sums) {
  const int lane = threadIdx.x % 32;
  int sum = value;
#pragma unroll
  for (int distance = 1; distance < 32; distance *= 2) {
    const int other = __shfl_up_sync(kWholeWarp, sum, distance);
    if (lane >= distance) sum += other;
  }
  if (lane == 31) warp_sums[threadIdx.x / 32] = sum;
  __syncthreads();
  int before = 0;
  for (unsigned warp = 0; warp < threadIdx.x / 32; ++warp) before += warp_sums[warp];
  return before + sum - value;
}

}  // namespace swell::cuda

#endif  // SWELL_CUDA_BUILD_CLUSTER_STATE_CUH_
