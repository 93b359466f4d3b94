// A head's clusters in their order of importance, as the CTAs that choose among them share them out and remember them.
#ifndef SWELL_CUDA_STEP_STRETCH_CUH_
#define SWELL_CUDA_STEP_STRETCH_CUH_

#include "cuda/step/score.cuh"
#include "cuda/step/thread_cluster.cuh"

namespace swell::cuda {

constexpr int kSelectThreads = 512;
constexpr int kMaxCtas = 8;  // of a cluster
constexpr int kBins = 2048;
constexpr int kBinBits = 11;
constexpr int kFewClusters = 512;             // are compared one by one
constexpr int kKeptTurns = 16;                // of a warp: so many clusters a lane stay in shared memory
constexpr int kLikelyTiles = 2 * kKeptTurns;  // of a warp, at most

__device__ __forceinline__ Place PlaceOf(uint32_t key, int64_t number) {
  return key == kNoKey ? kNoPlace : static_cast<Place>(key) << kNumberBits | static_cast<Place>(number);
}

// Nats that importance counts down from: a share of the mass with kappa sigma on top may be above 1.
constexpr float kMostImportance = 16;

__device__ __forceinline__ uint32_t KeyOf(float importance) {
  constexpr float kUnit = 1 << 20;
  constexpr float kLast = (1 << (kPlaceBits - kNumberBits)) - 1;
  return static_cast<uint32_t>(fminf(fmaxf((kMostImportance - importance) * kUnit, 0.0F), kLast));
}

// What clusters weigh together, in the three ways that matter.
struct Tally {
  uint32_t tokens;
  uint32_t clusters;
};

struct Candidate {
  Place place;
  uint32_t tokens;
  int32_t rank;  // of the CTA that has it
};

// A cluster of the stretch after it was ranked.
struct Ranked {
  uint32_t key;
  uint32_t size;
};

struct SelectMemory {
  alignas(16) uint32_t bins[kBins];
  alignas(16) uint32_t totals[kBins];
  Candidate own[kFewClusters];
  Candidate all[kFewClusters];
  int32_t n_own;
  Tally own_better;       // than the candidates
  Tally taken[kMaxCtas];  // by CTA of the cluster
  Place end;              // the place behind the last that is taken
  uint32_t scan[kSelectThreads / 32];
  uint32_t bin;
  uint32_t before;
  uint32_t in_bin;
  int32_t likely[kSelectThreads / 32][kLikelyTiles];
  float shifts[kMaxGroup];  // log of the mass that importance is relative to
};

// Sums of `x` over the threads before this one; `total` over all.
__device__ __forceinline__ uint32_t ScanBlock(uint32_t x, uint32_t* scratch, uint32_t* total) {
  const int lane = threadIdx.x % 32;
  uint32_t inclusive = x;
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const uint32_t other = __shfl_up_sync(kAllLanes, inclusive, step);
    if (lane >= step) inclusive += other;
  }
  __syncthreads();
  if (lane == 31) scratch[threadIdx.x / 32] = inclusive;
  __syncthreads();
  uint32_t before = 0;
  uint32_t all = 0;
#pragma unroll
  for (int w = 0; w < kSelectThreads / 32; ++w) {
    if (w < static_cast<int>(threadIdx.x) / 32) before += scratch[w];
    all += scratch[w];
  }
  *total = all;
  return before + inclusive - x;
}

// The tiles of a head that this warp has: two at a time, a cluster a lane, and several such turns together, so that
// their loads are under way at once.
constexpr int kTurnsAtOnce = 4;

template <int kHeadDim>
struct Stretch {
  const TileRecord<kHeadDim>* const* tiles;  // of the head
  int32_t n_tiles;
  int32_t first;
  int32_t end;
  const int32_t* likely;  // its only tiles that matter, ascending; null: all from `first` to `end` do
  int32_t n_likely;
  LevelScores scores;  // from the head's first tile on
  Ranked* kept;        // [turns, 32] in shared memory; null: there are too many

  __device__ int32_t tiles_of_warp() const { return likely != nullptr ? n_likely : end - first; }
  __device__ int32_t turns() const { return (tiles_of_warp() + 1) / 2; }
  __device__ int32_t Tile(int32_t turn) const {
    const int32_t i = 2 * turn + static_cast<int32_t>(threadIdx.x) % 32 / kClusterTile;
    return likely != nullptr ? likely[min(i, n_likely - 1)] : first + i;
  }
  __device__ uint32_t Number(int32_t turn) const {
    return static_cast<uint32_t>(Tile(turn)) * kClusterTile + threadIdx.x % kClusterTile;
  }
  __device__ bool Has(int32_t turn) const {
    return 2 * turn + static_cast<int32_t>(threadIdx.x) % 32 / kClusterTile < tiles_of_warp();
  }
};

// Calls visit(turn, place, tokens) for every turn, by all lanes; where there is no cluster the place is kNoPlace.
template <int kHeadDim, typename Visit>
__device__ __forceinline__ void ForEachRanked(const Stretch<kHeadDim>& stretch, const Visit& visit) {
  const int32_t turns = stretch.turns();
  for (int32_t first = 0; first < turns; first += kTurnsAtOnce) {
    Ranked ranked[kTurnsAtOnce];
#pragma unroll
    for (int u = 0; u < kTurnsAtOnce; ++u) {
      ranked[u] = {kNoKey, 0};
      if (!stretch.Has(first + u)) continue;
      if (stretch.kept != nullptr) {
        ranked[u] = stretch.kept[(first + u) * 32 + threadIdx.x % 32];
      } else {
        const uint32_t number = stretch.Number(first + u);
        ranked[u] = {stretch.scores.keys[number], stretch.scores.shapes[number].size};
      }
    }
#pragma unroll
    for (int u = 0; u < kTurnsAtOnce; ++u) {
      if (first + u < turns) visit(first + u, PlaceOf(ranked[u].key, stretch.Number(first + u)), ranked[u].size);
    }
  }
}

// Notes what was found of a cluster.
template <int kHeadDim>
__device__ __forceinline__ void Keep(const Stretch<kHeadDim>& stretch, int32_t turn, Ranked ranked) {
  stretch.scores.keys[stretch.Number(turn)] = ranked.key;
  if (stretch.kept != nullptr) stretch.kept[turn * 32 + threadIdx.x % 32] = ranked;
}

}  // namespace swell::cuda

#endif  // SWELL_CUDA_STEP_STRETCH_CUH_
