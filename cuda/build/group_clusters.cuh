// Super-clusters: an order of the clusters in which every 16 are near each other, by balanced k-means of their
// centroids, as lib/index/wave/super_clusters.cc has it. By one CTA, deterministic.
#ifndef SWELL_CUDA_BUILD_GROUP_CLUSTERS_CUH_
#define SWELL_CUDA_BUILD_GROUP_CLUSTERS_CUH_

#include <cfloat>

#include "cuda/build/cluster_state.cuh"

namespace swell::cuda {

constexpr int kGroupRounds = 3;  // of assignment

__device__ __forceinline__ int TilesOfClusters(int clusters) { return (clusters + kClusterTile - 1) / kClusterTile; }

// Members of a super-cluster: all but the last are full.
__device__ __forceinline__ int RoomOf(int super, int clusters) {
  return min(kClusterTile, clusters - super * kClusterTile);
}

// Fills `live` with the clusters that are not empty, ascending; returns how many there are.
template <int kHeadDim>
__device__ __forceinline__ int ListLive(ClusterState<kHeadDim>& state) {
  const int cluster = threadIdx.x;
  const bool lives = state.first_rows[cluster] < state.first_rows[cluster + 1];
  const int place = SumBefore(lives ? 1 : 0, state.warp_sums);
  if (lives) state.live[place] = static_cast<uint16_t>(cluster);
  return __syncthreads_count(lives ? 1 : 0);
}

// Evenly spaced clusters, or the means of the members that the round before chose.
template <int kHeadDim>
__device__ __forceinline__ void MoveSupers(ClusterState<kHeadDim>& state, int clusters, bool seed) {
  const int supers = TilesOfClusters(clusters);
  for (int i = threadIdx.x; i < supers * kHeadDim; i += kBuildThreads) {
    const int super = i / kHeadDim, dim = i % kHeadDim;
    const int members = seed ? 1 : RoomOf(super, clusters);
    float sum = 0;
    for (int k = 0; k < members; ++k) {
      const int place = seed ? (2 * super + 1) * clusters / (2 * supers) : state.members[super][k];
      sum += __half2float(*state.Centroid(state.live[place], dim));
    }
    state.supers[super][dim] = sum / static_cast<float>(members);
  }
}

// Distances of every cluster, and what it loses at least by going elsewhere than to its nearest super-cluster.
template <int kHeadDim>
__device__ __forceinline__ void MeasureSupers(ClusterState<kHeadDim>& state, int clusters) {
  const int supers = TilesOfClusters(clusters), lane = threadIdx.x % 32, place = threadIdx.x;
  for (int super = threadIdx.x / 32; super < supers; super += kBuildWarps) {
    float norm = 0;
    for (int dim = lane; dim < kHeadDim; dim += 32) norm += state.supers[super][dim] * state.supers[super][dim];
    norm = WarpSum(norm);
    if (lane == 0) state.half_norms[super] = 0.5F * norm;
  }
  __syncthreads();
  if (place >= clusters) return;
  float dots[kClusterTile] = {};
  for (int dim = 0; dim < kHeadDim; dim += 8) {
    const uint4 chunk = *reinterpret_cast<const uint4*>(state.Centroid(state.live[place], dim));
    const uint32_t words[4] = {chunk.x, chunk.y, chunk.z, chunk.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 x = ToFloats(words[i], true);
#pragma unroll
      for (int super = 0; super < kClusterTile; ++super) {
        const float2 c = *reinterpret_cast<const float2*>(&state.supers[super][dim + 2 * i]);
        dots[super] += x.x * c.x + x.y * c.y;
      }
    }
  }
  float best = FLT_MAX, second = FLT_MAX;
#pragma unroll
  for (int super = 0; super < kClusterTile; ++super) {
    const float distance = super < supers ? state.half_norms[super] - dots[super] : FLT_MAX;
    state.distances[place][super] = distance;
    second = fminf(second, fmaxf(best, distance));
    best = fminf(best, distance);
  }
  state.regrets[place] = second - best;
}

// Orders the clusters by what they lose, most first, ties to the lower one.
template <int kHeadDim>
__device__ __forceinline__ void RankRegrets(ClusterState<kHeadDim>& state, int clusters) {
  const int place = threadIdx.x;
  if (place >= clusters) return;
  const float mine = state.regrets[place];
  int rank = 0;
  for (int other = 0; other < clusters; ++other) {
    const float regret = state.regrets[other];
    rank += regret > mine || (regret == mine && other < place) ? 1 : 0;
  }
  state.by_regret[rank] = static_cast<uint16_t>(place);
}

// Floats as integers of the same order.
__device__ __forceinline__ uint32_t OrderedBits(float x) {
  const uint32_t bits = __float_as_uint(x);
  return (bits & 0x80000000U) != 0 ? ~bits : bits | 0x80000000U;
}

// Every cluster in turn goes to the nearest super-cluster that has room. One warp, a lane for each super-cluster.
template <int kHeadDim>
__device__ __forceinline__ void ChooseSupers(ClusterState<kHeadDim>& state, int clusters) {
  const int lane = threadIdx.x % 32, column = min(lane, kClusterTile - 1);
  const int room = lane < TilesOfClusters(clusters) ? RoomOf(lane, clusters) : 0;
  int chosen = 0;
  int next = state.by_regret[0];
  float next_distance = state.distances[next][column];
  for (int i = 0; i < clusters; ++i) {
    const int place = next;
    const uint32_t distance = chosen < room ? OrderedBits(next_distance) : UINT32_MAX;
    next = state.by_regret[min(i + 1, clusters - 1)];
    next_distance = state.distances[next][column];
    const uint32_t least = __reduce_min_sync(kWholeWarp, distance);
    const int nearest = __ffs(static_cast<int>(__ballot_sync(kWholeWarp, distance == least && chosen < room))) - 1;
    if (lane == nearest) state.members[lane][chosen++] = static_cast<uint16_t>(place);
  }
}

// Fills `grouped`. Returns the number of clusters. Expects the grouped tokens of k-means; the CTA, a barrier before and
// after.
template <int kHeadDim>
__device__ __forceinline__ int GroupClusters(ClusterState<kHeadDim>& state) {
  const int clusters = ListLive(state);
  for (int i = threadIdx.x; i < kClusterTile * kHeadDim; i += kBuildThreads) (&state.supers[0][0])[i] = 0;
  __syncthreads();
  for (int round = 0; round < kGroupRounds; ++round) {
    MoveSupers(state, clusters, round == 0);
    __syncthreads();
    MeasureSupers(state, clusters);
    __syncthreads();
    RankRegrets(state, clusters);
    __syncthreads();
    if (threadIdx.x < 32) ChooseSupers(state, clusters);
    __syncthreads();
  }
  const int super = threadIdx.x / kClusterTile, member = threadIdx.x % kClusterTile;
  const int members = RoomOf(super, clusters);
  if (member < members) {
    const int place = state.members[super][member];
    int before = 0;
    for (int k = 0; k < members; ++k) before += state.members[super][k] < place ? 1 : 0;
    state.grouped[super * kClusterTile + before] = state.live[place];
  }
  return clusters;
}

}  // namespace swell::cuda

#endif  // SWELL_CUDA_BUILD_GROUP_CLUSTERS_CUH_
