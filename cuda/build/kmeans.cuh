// k-means of one head of a segment by one CTA: plain Lloyd in L2, as lib/index/wave/kmeans.h has it, on keys rounded to
// float16 in working units (centred at their mean, magnitudes near 1). Deterministic.
#ifndef SWELL_CUDA_BUILD_KMEANS_CUH_
#define SWELL_CUDA_BUILD_KMEANS_CUH_

#include "cuda/build/cluster_state.cuh"
#include "cuda/kernels/mma.cuh"

namespace swell::cuda {

// Rows of 16 tokens that a warp assigns at once: their fragments take 64 registers at most.
template <int kHeadDim>
constexpr int kRowTiles = kHeadDim == 256 ? 1 : 2;

// Gives a row, as the lanes of a warp hold it, to a cluster, rounded; its norm is that of the rounded row.
template <int kHeadDim>
__device__ __forceinline__ void SetCentroid(ClusterState<kHeadDim>& state, int cluster,
                                            const float (&row)[kLaneDims<kHeadDim>]) {
  const int lane = threadIdx.x % 32;
  LaneWords<kHeadDim> rounded;
  float norm = 0;
#pragma unroll
  for (int i = 0; i < kLaneDims<kHeadDim> / 2; ++i) {
    const __half2 pair = __floats2half2_rn(row[2 * i], row[2 * i + 1]);
    rounded.words[i] = reinterpret_cast<const uint32_t&>(pair);
    const float2 x = __half22float2(pair);
    norm += x.x * x.x + x.y * x.y;
  }
  *reinterpret_cast<LaneWords<kHeadDim>*>(state.Centroid(cluster, lane * kLaneDims<kHeadDim>)) = rounded;
  norm = WarpSum(norm);
  if (lane == 0) state.minus_half_norms[cluster] = -0.5F * norm;
}

// Evenly spaced tokens are the first centroids. The CTA; a barrier before and after.
template <int kHeadDim>
__device__ __forceinline__ void SeedCentroids(ClusterState<kHeadDim>& state, const __half* keys, int tokens,
                                              int clusters) {
  const int lane = threadIdx.x % 32;
  for (int cluster = threadIdx.x / 32; cluster < kMaxBuildClusters; cluster += kBuildWarps) {
    float row[kLaneDims<kHeadDim>] = {};
    if (cluster < clusters) {
      const int token = (2 * cluster + 1) * tokens / (2 * clusters);
      for (int i = 0; i < kLaneDims<kHeadDim>; ++i) {
        row[i] = __half2float(keys[token * kHeadDim + lane * kLaneDims<kHeadDim> + i]);
      }
    }
    SetCentroid(state, cluster, row);
    if (cluster >= clusters && lane == 0) state.minus_half_norms[cluster] = -INFINITY;
  }
}

// nearest[token] = argmax of k . c - |c|^2 / 2, ties to the lower cluster. The CTA; a barrier before and after.
template <int kHeadDim>
__device__ __forceinline__ void AssignNearest(ClusterState<kHeadDim>& state, const __half* keys, int tokens,
                                              int clusters) {
  constexpr int kSteps = kHeadDim / 32, kTiles = kRowTiles<kHeadDim>, kColumns = 2;
  const int lane = threadIdx.x % 32, row_of_lane = lane / 4, quad = lane % 4;
  for (int first = threadIdx.x / 32 * 16 * kTiles; first < tokens; first += kBuildWarps * 16 * kTiles) {
    uint4 rows[kTiles][2][kSteps];  // of tokens row_of_lane and row_of_lane + 8
    float best[kTiles][2];
    int winner[kTiles][2];
#pragma unroll
    for (int r = 0; r < 2 * kTiles; ++r) {
      const int token = first + 8 * r + row_of_lane;
      best[r / 2][r % 2] = -INFINITY;
      winner[r / 2][r % 2] = 0;
#pragma unroll
      for (int s = 0; s < kSteps; ++s) {
        rows[r / 2][r % 2][s] =
            token < tokens ? *reinterpret_cast<const uint4*>(keys + token * kHeadDim + 32 * s + 8 * quad) : uint4{};
      }
    }
    for (int block = 0; block * 8 < clusters; block += kColumns) {
      float scores[kTiles][kColumns][4];
#pragma unroll
      for (int c = 0; c < kColumns; ++c) {
        const float2 norms = *reinterpret_cast<const float2*>(&state.minus_half_norms[8 * (block + c) + 2 * quad]);
#pragma unroll
        for (int tile = 0; tile < kTiles; ++tile) {
          scores[tile][c][0] = scores[tile][c][2] = norms.x;
          scores[tile][c][1] = scores[tile][c][3] = norms.y;
        }
      }
#pragma unroll
      for (int s = 0; s < kSteps; ++s) {
#pragma unroll
        for (int c = 0; c < kColumns; ++c) {
          const uint4 b = state.centroids[block + c][s][lane];
#pragma unroll
          for (int tile = 0; tile < kTiles; ++tile) {
            const uint4 &top = rows[tile][0][s], &bottom = rows[tile][1][s];
            Mma<__half>::Run(scores[tile][c], top.x, bottom.x, top.y, bottom.y, b.x, b.y);
            Mma<__half>::Run(scores[tile][c], top.z, bottom.z, top.w, bottom.w, b.z, b.w);
          }
        }
      }
#pragma unroll
      for (int c = 0; c < kColumns; ++c) {
#pragma unroll
        for (int i = 0; i < 4 * kTiles; ++i) {
          const float score = scores[i / 4][c][i % 4];
          float& highest = best[i / 4][i % 4 / 2];
          if (score > highest) winner[i / 4][i % 4 / 2] = 8 * (block + c) + 2 * quad + i % 2;
          highest = fmaxf(highest, score);
        }
      }
    }
#pragma unroll
    for (int r = 0; r < 2 * kTiles; ++r) {
      float highest = best[r / 2][r % 2];
      int cluster = winner[r / 2][r % 2];
#pragma unroll
      for (int distance = 1; distance < 4; distance *= 2) {
        const float other = __shfl_xor_sync(kWholeWarp, highest, distance);
        const int other_cluster = __shfl_xor_sync(kWholeWarp, cluster, distance);
        if (other > highest || (other == highest && other_cluster < cluster)) cluster = other_cluster;
        highest = fmaxf(highest, other);
      }
      const int token = first + 8 * r + row_of_lane;
      if (quad == 0 && token < tokens) state.nearest[token] = static_cast<uint16_t>(cluster);
    }
  }
}

// Sorts the tokens by cluster, ascending within one. Each warp counts a stretch of tokens. The CTA; a barrier before
// and after.
template <int kHeadDim>
__device__ __forceinline__ void GroupTokens(ClusterState<kHeadDim>& state, int tokens) {
  constexpr int kRounds = kMaxBuildTokens / kBuildThreads;
  const int lane = threadIdx.x % 32;
  uint16_t* places = state.places[threadIdx.x / 32];
  for (int i = lane; i < kMaxBuildClusters; i += 32) places[i] = 0;
  __syncwarp();
  const int first = threadIdx.x / 32 * kRounds * 32;
  int clusters[kRounds], ranks[kRounds];
#pragma unroll
  for (int round = 0; round < kRounds; ++round) {
    const int token = first + 32 * round + lane;
    clusters[round] = token < tokens ? state.nearest[token] : kMaxBuildClusters;
    const unsigned peers = __match_any_sync(kWholeWarp, clusters[round]);
    const int before = __popc(peers & ((1U << lane) - 1));
    ranks[round] = token < tokens ? places[clusters[round]] + before : 0;
    __syncwarp();
    if (token < tokens && before == 0) places[clusters[round]] += static_cast<uint16_t>(__popc(peers));
    __syncwarp();
  }
  __syncthreads();
  const int cluster = threadIdx.x;
  int size = 0;
  for (int warp = 0; warp < kBuildWarps; ++warp) {
    const int count = state.places[warp][cluster];
    state.places[warp][cluster] = static_cast<uint16_t>(size);
    size += count;
  }
  state.first_rows[cluster] = static_cast<uint16_t>(SumBefore(size, state.warp_sums));
  if (cluster == 0) state.first_rows[kMaxBuildClusters] = static_cast<uint16_t>(tokens);
  __syncthreads();
#pragma unroll
  for (int round = 0; round < kRounds; ++round) {
    const int token = first + 32 * round + lane;
    if (token >= tokens) continue;
    state.order[state.first_rows[clusters[round]] + places[clusters[round]] + ranks[round]] =
        static_cast<uint16_t>(token);
  }
}

// Moves the centroids to the means of their tokens; those of empty clusters stay. The CTA; a barrier before and after.
template <int kHeadDim>
__device__ __forceinline__ void MoveCentroids(ClusterState<kHeadDim>& state, const __half* keys, int clusters) {
  constexpr int kDims = kLaneDims<kHeadDim>, kAhead = 4;
  const int lane = threadIdx.x % 32;
  for (int cluster = threadIdx.x / 32; cluster < clusters; cluster += kBuildWarps) {
    const int first = state.first_rows[cluster], last = state.first_rows[cluster + 1];
    if (first == last) continue;
    float sum[kDims] = {};
    for (int row = first; row < last; row += kAhead) {
      LaneWords<kHeadDim> loaded[kAhead];
#pragma unroll
      for (int k = 0; k < kAhead; ++k) {
        loaded[k] = {};
        if (row + k >= last) continue;
        const __half* from = keys + state.order[row + k] * kHeadDim + lane * kDims;
        loaded[k] = *reinterpret_cast<const LaneWords<kHeadDim>*>(from);
      }
#pragma unroll
      for (int k = 0; k < kAhead; ++k) {
#pragma unroll
        for (int i = 0; i < kDims / 2; ++i) {
          const float2 x = ToFloats(loaded[k].words[i], true);
          sum[2 * i] += x.x;
          sum[2 * i + 1] += x.y;
        }
      }
    }
    const float share = 1.0F / static_cast<float>(last - first);
#pragma unroll
    for (int i = 0; i < kDims; ++i) sum[i] *= share;
    SetCentroid(state, cluster, sum);
  }
}

}  // namespace swell::cuda

#endif  // SWELL_CUDA_BUILD_KMEANS_CUH_
