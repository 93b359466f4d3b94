// Ranking of a head's clusters and choice of those that are read, or of the super-clusters that are opened. CPU twins:
// lib/attention/rank.cc and select.cc; the rule is in include/swell/attention.h.
//
// A thread-block cluster of 1 to 8 CTAs takes a head, each a stretch of its tiles. The budget ends at a place in the
// order of importance; radix histograms over places, summed over the CTAs through their shared memory, find the bin in
// which it ends, and as soon as few clusters are in it they are compared one by one. Importance counts in steps of
// 2^-20 nats down to 64 nats below the highest possible; what is equal then goes by the number of the cluster. The
// lists do not depend on timing.
#ifndef SWELL_CUDA_STEP_SELECT_CUH_
#define SWELL_CUDA_STEP_SELECT_CUH_

#include "cuda/step/score.cuh"
#include "cuda/step/thread_cluster.cuh"

namespace swell::cuda {

constexpr int kSelectThreads = 512;
constexpr int kPassTiles = kSelectThreads / kClusterTile;
constexpr int kBins = 2048;
constexpr int kBinBits = 11;
constexpr int kFewClusters = 512;  // are compared one by one

__device__ __forceinline__ Place PlaceOf(uint32_t key, int64_t number) {
  return key == kNoKey ? kNoPlace : static_cast<Place>(key) << kNumberBits | static_cast<Place>(number);
}

// `importance` in nats, at most 0 but for rounding.
__device__ __forceinline__ uint32_t KeyOf(float importance) {
  constexpr float kUnit = 1 << 20;
  constexpr float kLast = (1 << (kPlaceBits - kNumberBits)) - 1;
  return static_cast<uint32_t>(fminf(fmaxf(-importance * kUnit, 0.0F), kLast));
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

struct SelectMemory {
  alignas(16) uint32_t bins[kBins];
  alignas(16) uint32_t totals[kBins];
  Candidate own[kFewClusters];
  Candidate all[kFewClusters];
  int32_t n_own;
  Tally own_better;  // than the candidates
  Tally taken[8];    // by CTA of the cluster
  Place end;         // the place behind the last that is taken
  uint32_t scan[kSelectThreads / 32];
  uint32_t bin;
  uint32_t before;
  uint32_t in_bin;
  float shifts[kMaxGroup];  // log of the sum of exp(rank)
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

// The stretch of a head's tiles that this CTA has, and its threads' way over it: one cluster a thread and pass.
template <int kHeadDim>
struct Stretch {
  const TileRecord<kHeadDim>* const* tiles;
  int32_t n_tiles;  // of the head
  int32_t first_pass;
  int32_t end_pass;
  uint32_t* keys;  // of the head

  __device__ int32_t Tile(int32_t pass) const {
    return pass * kPassTiles + static_cast<int32_t>(threadIdx.x) / kClusterTile;
  }
  __device__ int64_t Number(int32_t pass) const { return static_cast<int64_t>(pass) * kSelectThreads + threadIdx.x; }
  __device__ uint32_t Key(int32_t pass) const { return Tile(pass) < n_tiles ? keys[Number(pass)] : kNoKey; }
  __device__ uint32_t Size(int32_t pass) const {
    return Tile(pass) < n_tiles ? __ldg(&tiles[Tile(pass)]->sizes[threadIdx.x % kClusterTile]) : 0;
  }
};

// Merges the sums of a head's blocks; one warp a query. Writes shifts, and rank 0 the results.
__device__ __forceinline__ void MergeHeadSums(const StepArgs& args, const LevelScores& scores, int64_t first_tile,
                                              int32_t n_tiles, bool writes, Selection* to, SelectMemory& memory) {
  const int query = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  if (query < args.group) {
    BlockSums all = kNoSums;
    const int32_t blocks = (n_tiles + kBlockTiles - 1) / kBlockTiles;
    for (int32_t b = lane; b < blocks; b += 32) {
      const float4 raw =
          *reinterpret_cast<const float4*>(scores.sums + (first_tile / kBlockTiles + b) * args.group + query);
      MergeBlockSums({raw.x, raw.y, raw.z, raw.w}, all);
    }
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
      BlockSums other;
      other.max_logit = __shfl_xor_sync(kAllLanes, all.max_logit, step);
      other.mass = __shfl_xor_sync(kAllLanes, all.mass, step);
      other.max_rank = __shfl_xor_sync(kAllLanes, all.max_rank, step);
      other.ranks = __shfl_xor_sync(kAllLanes, all.ranks, step);
      MergeBlockSums(other, all);
    }
    if (lane == 0) {
      memory.shifts[query] = all.max_rank + logf(all.ranks);
      if (writes) {
        to->max_logit[query] = all.max_logit;
        to->log_mass[query] = all.max_logit + logf(all.mass);
      }
    }
  }
  __syncthreads();
}

// Finds the key of every cluster of the stretch and counts its weight in the bin of the first digit.
template <int kHeadDim>
__device__ __forceinline__ void RankStretch(const StepArgs& args, const LevelScores& scores, int64_t first_tile,
                                            const Stretch<kHeadDim>& stretch, bool by_clusters, SelectMemory& memory) {
  for (int i = threadIdx.x; i < kBins; i += kSelectThreads) memory.bins[i] = 0;
  __syncthreads();
  const int c = threadIdx.x % kClusterTile;
  for (int32_t pass = stretch.first_pass; pass < stretch.end_pass; ++pass) {
    const int32_t tile = stretch.Tile(pass);
    if (tile >= stretch.n_tiles) continue;
    const TileRecord<kHeadDim>* record = stretch.tiles[tile];
    const uint32_t size = __ldg(&record->sizes[c]);
    const float spread = __ldg(&record->spreads[c]);
    const int64_t row = (first_tile + tile) * args.group;
    float best = -INFINITY;
    float mass = 0;
    for (int g = 0; g < args.group; ++g) {
      const float logit = scores.logits[(row + g) * kClusterTile + c];
      if (args.budget.by_mass != 0) {
        mass += ExpBelow(logit, memory.shifts[g]);
      } else {
        const float rank = fminf(logit + args.budget.kappa * ClampLogit(spread * scores.widths[row + g]), FLT_MAX);
        best = fmaxf(best, rank - memory.shifts[g]);
      }
    }
    if (args.budget.by_mass != 0) best = logf(mass / static_cast<float>(args.group));
    const uint32_t key = size == 0 ? kNoKey : KeyOf(best);
    stretch.keys[stretch.Number(pass)] = key;
    if (size > 0) atomicAdd(&memory.bins[PlaceOf(key, 0) >> (kPlaceBits - kBinBits)], by_clusters ? 1 : size);
  }
}

// totals = the bins of all CTAs of the cluster.
__device__ __forceinline__ void SumBins(SelectMemory& memory) {
  const int rank = ClusterRank();
  const int ctas = ClusterSize();
  ClusterSync();
  const int share = kBins / ctas;
  for (int i = rank * share + threadIdx.x; i < (rank + 1) * share; i += kSelectThreads) {
    uint32_t sum = 0;
    for (int r = 0; r < ctas; ++r) sum += *RemoteShared(&memory.bins[i], r);
    for (int r = 0; r < ctas; ++r) *RemoteShared(&memory.totals[i], r) = sum;
  }
  ClusterSync();
}

// Finds the bin in which `budget` ends: bin, before and in_bin of `memory`; with too little weight the last one.
__device__ __forceinline__ void FindBin(uint32_t budget, SelectMemory& memory) {
  constexpr int kPerThread = kBins / kSelectThreads;
  uint32_t weights[kPerThread];
  uint32_t sum = 0;
#pragma unroll
  for (int i = 0; i < kPerThread; ++i) sum += weights[i] = memory.totals[threadIdx.x * kPerThread + i];
  uint32_t total;
  uint32_t before = ScanBlock(sum, memory.scan, &total);
#pragma unroll
  for (int i = 0; i < kPerThread; ++i) {
    const uint32_t bin = threadIdx.x * kPerThread + i;
    if (before < budget && (budget <= before + weights[i] || bin == kBins - 1)) {
      memory.bin = bin;
      memory.before = before;
      memory.in_bin = weights[i];
    }
    before += weights[i];
  }
  __syncthreads();
}

// Adds up what is better than the candidates and collects these, of this CTA.
template <int kHeadDim>
__device__ __forceinline__ void CollectCandidates(const Stretch<kHeadDim>& stretch, Place prefix, int shift,
                                                  SelectMemory& memory) {
  if (threadIdx.x == 0) {
    memory.n_own = 0;
    memory.own_better = {0, 0};
  }
  __syncthreads();
  Tally better = {0, 0};
  for (int32_t pass = stretch.first_pass; pass < stretch.end_pass; ++pass) {
    const Place place = PlaceOf(stretch.Key(pass), stretch.Number(pass));
    if (place >= kAllPlaces || place >> shift > prefix) continue;
    const uint32_t size = stretch.Size(pass);
    if (place >> shift < prefix) {
      better.tokens += size;
      ++better.clusters;
    } else if (const int at = atomicAdd(&memory.n_own, 1); at < kFewClusters) {
      memory.own[at] = {place, size, ClusterRank()};
    }
  }
  better.tokens = __reduce_add_sync(kAllLanes, better.tokens);
  better.clusters = __reduce_add_sync(kAllLanes, better.clusters);
  if (threadIdx.x % 32 == 0 && better.clusters > 0) {
    atomicAdd(&memory.own_better.tokens, better.tokens);
    atomicAdd(&memory.own_better.clusters, better.clusters);
  }
}

// Takes candidates, best first, while the budget lasts: fills end and taken. `before` is the weight of what is better.
__device__ __forceinline__ void TakeCandidates(Place first_place, uint32_t before, uint32_t budget, bool by_clusters,
                                               SelectMemory& memory) {
  ClusterSync();
  int n = 0;
  for (int r = 0; r < ClusterSize(); ++r) {
    const int count = min(*RemoteShared(&memory.n_own, r), kFewClusters - n);
    for (int i = threadIdx.x; i < count; i += kSelectThreads) memory.all[n + i] = *RemoteShared(&memory.own[i], r);
    if (threadIdx.x == 0) memory.taken[r] = *RemoteShared(&memory.own_better, r);
    n += count;
  }
  if (threadIdx.x == 0) memory.end = first_place;
  ClusterArrive();
  __syncthreads();
  if (const int i = threadIdx.x; i < n) {
    const Candidate candidate = memory.all[i];
    uint32_t better = before;
    for (int j = 0; j < n; ++j) {
      if (memory.all[j].place < candidate.place) better += by_clusters ? 1 : memory.all[j].tokens;
    }
    const uint32_t weight = by_clusters ? 1 : candidate.tokens;
    // The one that crosses the budget is taken if at least half of it fits, or if it is the very first.
    if (better < budget && (weight <= 2 * (budget - better) || better == 0)) {
      atomicAdd(&memory.taken[candidate.rank].tokens, candidate.tokens);
      atomicAdd(&memory.taken[candidate.rank].clusters, 1);
      atomicMax(&memory.end, candidate.place + 1);
    }
  }
  __syncthreads();
}

// Finds where `budget` (tokens or clusters, above 0 and below the weight of all) ends in the order of places: end and
// taken of `memory`. With `counted` the bins hold the first digit already. Ends between the halves of a cluster
// barrier.
template <int kHeadDim>
__device__ __forceinline__ void FindEnd(const Stretch<kHeadDim>& stretch, uint32_t budget, bool by_clusters,
                                        bool counted, SelectMemory& memory) {
  Place prefix = 0;
  uint32_t before = 0;
  int shift = kPlaceBits;
  while (true) {
    const int bits = min(kBinBits, shift);
    shift -= bits;
    if (!counted) {
      __syncthreads();
      for (int i = threadIdx.x; i < kBins; i += kSelectThreads) memory.bins[i] = 0;
      __syncthreads();
      for (int32_t pass = stretch.first_pass; pass < stretch.end_pass; ++pass) {
        const Place place = PlaceOf(stretch.Key(pass), stretch.Number(pass));
        if (place >= kAllPlaces || place >> (shift + bits) != prefix) continue;
        atomicAdd(&memory.bins[(place >> shift) & ((1U << bits) - 1)], by_clusters ? 1 : stretch.Size(pass));
      }
    }
    counted = false;
    SumBins(memory);
    FindBin(budget - before, memory);
    prefix = prefix << bits | memory.bin;
    before += memory.before;
    if (memory.in_bin <= kFewClusters || shift == 0) break;
  }
  CollectCandidates(stretch, prefix, shift, memory);
  TakeCandidates(prefix << shift, before, budget, by_clusters, memory);
}

// Writes the addresses of all token records of the clusters before memory.end, from `to` on, in the order of numbers.
template <int kHeadDim>
__device__ __forceinline__ void ListTokens(const Stretch<kHeadDim>& stretch, bool everything, const std::byte** to,
                                           SelectMemory& memory) {
  constexpr int64_t kRecordBytes = 4 * kHeadDim;
  const int c = threadIdx.x % kClusterTile;
  for (int32_t pass = stretch.first_pass; pass < stretch.end_pass; ++pass) {
    const int32_t tile = stretch.Tile(pass);
    const bool listed =
        tile < stretch.n_tiles && (everything || PlaceOf(stretch.Key(pass), stretch.Number(pass)) < memory.end);
    const bool tile_counts = (__ballot_sync(kAllLanes, listed) >> (threadIdx.x & 16) & 0xffffU) != 0;
    const uint32_t size = tile_counts ? stretch.Size(pass) : 0;
    uint32_t row = size;  // of the first token, in the tile
#pragma unroll
    for (int step = 1; step < kClusterTile; step *= 2) {
      const uint32_t other = __shfl_up_sync(kAllLanes, row, step, kClusterTile);
      if (c >= step) row += other;
    }
    row -= size;
    uint32_t total;
    const uint32_t at = ScanBlock(listed ? size : 0, memory.scan, &total);
    if (listed && size > 0) {
      const std::byte* record = stretch.tiles[tile]->rows + row * kRecordBytes;
      for (uint32_t i = 0; i < size; ++i) to[at + i] = record + i * kRecordBytes;
    }
    to += total;
  }
}

// Writes the records of the tiles that the super-clusters before memory.end are, from `to` on.
template <int kHeadDim>
__device__ __forceinline__ void ListTiles(const Stretch<kHeadDim>& stretch, const void** to, SelectMemory& memory) {
  for (int32_t pass = stretch.first_pass; pass < stretch.end_pass; ++pass) {
    const Place place = PlaceOf(stretch.Key(pass), stretch.Number(pass));
    const bool listed = place < memory.end;
    uint32_t total;
    const uint32_t at = ScanBlock(listed ? 1 : 0, memory.scan, &total);
    if (listed) to[at] = stretch.tiles[stretch.Tile(pass)]->opened + threadIdx.x % kClusterTile;
    to += total;
  }
}

// Writes the addresses of the token records that are read whatever the query is; the CTAs of the cluster share them.
template <int kHeadDim>
__device__ __forceinline__ void ListSteadyTokens(const StepArgs& args, const HeadPlan& head, const std::byte** to) {
  constexpr int64_t kRecordBytes = 4 * kHeadDim;
  const Tail tail = args.tails[head.tail];
  const int64_t count = head.fixed_tokens + tail.tokens;
  const int64_t stride = static_cast<int64_t>(ClusterSize()) * kSelectThreads;
  for (int64_t i = static_cast<int64_t>(ClusterRank()) * kSelectThreads + threadIdx.x; i < count; i += stride) {
    if (i >= head.fixed_tokens) {
      to[i] = tail.rows + (static_cast<int64_t>(head.kv_head) * tail.capacity + i - head.fixed_tokens) * kRecordBytes;
      continue;
    }
    int64_t left = i;
    int run = head.first_run;
    while (left >= args.runs[run].tokens) left -= args.runs[run++].tokens;
    to[i] = args.runs[run].rows + left * kRecordBytes;
  }
}

// Weight of everything in the stretch, where nothing is ranked: fills taken.
template <int kHeadDim>
__device__ __forceinline__ void TakeEverything(const Stretch<kHeadDim>& stretch, SelectMemory& memory) {
  if (threadIdx.x == 0) memory.own_better = {0, 0};
  __syncthreads();
  uint32_t tokens = 0;
  for (int32_t pass = stretch.first_pass; pass < stretch.end_pass; ++pass) tokens += stretch.Size(pass);
  tokens = __reduce_add_sync(kAllLanes, tokens);
  if (threadIdx.x % 32 == 0) atomicAdd(&memory.own_better.tokens, tokens);
  ClusterSync();
  if (threadIdx.x < ClusterSize()) memory.taken[threadIdx.x] = *RemoteShared(&memory.own_better, threadIdx.x);
  __syncthreads();
  ClusterArrive();
}

// Grid [heads * CTAs of a thread-block cluster].
template <int kHeadDim>
__global__ void __launch_bounds__(kSelectThreads) SelectKernel(const StepArgs args, int level) {
  __shared__ SelectMemory memory;
  const int rank = ClusterRank();
  const int ctas = ClusterSize();
  const int h = blockIdx.x / ctas;
  WaitForInputs();
  LetNextKernelStart();
  if (h >= args.size->heads) return;  // the whole cluster
  const HeadPlan& head = args.heads[h];
  const LevelScores& scores = args.scores[level];
  const HeadBudget budget = PlanBudget(args, head);
  Selection* to = scores.selected + h;
  if (level == 1 && !budget.upper) {
    if (rank == 0 && threadIdx.x == 0) {
      to->tiles = 0;
      to->opened = -1;
    }
    return;
  }
  const int64_t first_tile = head.first_tile[level];
  Stretch<kHeadDim> stretch;
  stretch.tiles = TilesOf<kHeadDim>(args, head, level, budget.upper);
  stretch.n_tiles = level == 0 && budget.upper ? args.scores[1].selected[h].opened : head.n_tiles[level];
  const int32_t passes = (stretch.n_tiles + kPassTiles - 1) / kPassTiles;
  stretch.first_pass = passes * rank / ctas;
  stretch.end_pass = passes * (rank + 1) / ctas;
  stretch.keys = scores.keys + first_tile * kClusterTile;

  const std::byte** addresses = args.addresses + head.first_address;
  if (level == 0) ListSteadyTokens<kHeadDim>(args, head, addresses);
  const bool everything = level == 0 && budget.everything;
  Place estimated_end = kAllPlaces;
  if (everything) {
    TakeEverything(stretch, memory);
  } else {
    const bool by_clusters = level == 0 && args.budget.by_clusters != 0;
    MergeHeadSums(args, scores, first_tile, stretch.n_tiles, rank == 0, to, memory);
    RankStretch(args, scores, first_tile, stretch, by_clusters, memory);
    FindEnd(stretch, static_cast<uint32_t>(level == 0 ? budget.retrieve : budget.open_tokens), by_clusters, true,
            memory);
  }
  int64_t before = 0;
  Tally all = {0, 0};
  for (int r = 0; r < ctas; ++r) {
    if (r < rank) before += level == 0 ? memory.taken[r].tokens : memory.taken[r].clusters;
    all.tokens += memory.taken[r].tokens;
    all.clusters += memory.taken[r].clusters;
  }
  const Place end = memory.end;
  if (level == 0) {
    ListTokens(stretch, everything, addresses + budget.steady_tokens + before, memory);
  } else {
    ListTiles(stretch, args.opened + head.first_tile[0] + before, memory);
  }
  ClusterWait();
  if (!everything && args.budget.estimate_share < 1) {
    // The retrieved clusters are the first of the order, so the estimated ones end at this rank.
    const int64_t last = all.clusters + EstimateBudget(args, head, level);
    if (last < stretch.n_tiles * int64_t{kClusterTile}) {
      FindEnd(stretch, static_cast<uint32_t>(last), true, false, memory);
      estimated_end = memory.end;
      ClusterWait();
    }
  }
  if (rank == 0 && threadIdx.x == 0) {
    to->retrieved_end = end;
    to->estimated_end = estimated_end;
    to->tiles = everything ? 0 : stretch.n_tiles;
    to->opened = level == 1 ? static_cast<int32_t>(all.clusters) : -1;
    if (level == 0) args.list_tokens[h] = budget.steady_tokens + all.tokens;
  }
}

}  // namespace swell::cuda

#endif  // SWELL_CUDA_STEP_SELECT_CUH_
