// Ranking of a head's clusters and choice of those that are read, or of the super-clusters that are opened. CPU twins:
// lib/attention/rank.cc and select.cc; the rule is in include/swell/attention.h.
//
// A thread-block cluster of 1 to 8 CTAs takes a head, each a stretch of its tiles. The budget ends at a place in the
// order of importance; radix histograms over places, summed over the CTAs through their shared memory, find the bin in
// which it ends, and as soon as few clusters are in it they are compared one by one. Where importance has a least value
// and the budget reaches as far, that is the place, no histogram is made, and only tiles that may have a cluster before
// it are looked at. Importance counts in steps of 2^-20 nats down to 64 nats below kMostImportance; what is equal then
// goes by the number of the cluster. The lists do not depend on timing.
#ifndef SWELL_CUDA_STEP_SELECT_CUH_
#define SWELL_CUDA_STEP_SELECT_CUH_

#include "cuda/step/stretch.cuh"

namespace swell::cuda {

// Merges the sums of a head's parts; one warp a query. Writes shifts, and rank 0 the results.
__device__ __forceinline__ void MergeHeadSums(int32_t group, bool by_share, const PartSums* sums, int32_t parts,
                                              bool writes, Selection* to, SelectMemory& memory) {
  const int query = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  if (query < group) {
    PartSums all = kNoSums;
    for (int32_t b = lane; b < parts; b += 32) {
      const float4 raw = *reinterpret_cast<const float4*>(sums + static_cast<int64_t>(b) * group + query);
      MergePartSums({raw.x, raw.y, raw.z, raw.w}, all);
    }
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
      PartSums other;
      other.max_logit = __shfl_xor_sync(kAllLanes, all.max_logit, step);
      other.mass = __shfl_xor_sync(kAllLanes, all.mass, step);
      other.max_rank = __shfl_xor_sync(kAllLanes, all.max_rank, step);
      other.ranks = __shfl_xor_sync(kAllLanes, all.ranks, step);
      MergePartSums(other, all);
    }
    if (lane == 0) {
      PartSums total = all;
      if (by_share) MergeSums(all.max_logit, all.mass, total.max_rank, total.ranks);
      memory.shifts[query] = total.max_rank + logf(total.ranks);
      if (writes) {
        to->max_logit[query] = all.max_logit;
        to->log_mass[query] = all.max_logit + logf(all.mass);
      }
    }
  }
}

// Sum over the lanes before this one, of stretches of `kWidth` lanes.
template <int kWidth>
__device__ __forceinline__ uint32_t SumBefore(uint32_t x) {
  uint32_t sum = x;
#pragma unroll
  for (int step = 1; step < kWidth; step *= 2) {
    const uint32_t other = __shfl_up_sync(kAllLanes, sum, step, kWidth);
    if (threadIdx.x % kWidth >= step) sum += other;
  }
  return sum - x;
}

// Whether this lane's cluster of `size` tokens is to be preferred: its first token needs no bus. All lanes.
template <int kHeadDim>
__device__ __forceinline__ bool IsNear(const BufferView& buffer, const Stretch<kHeadDim>& stretch, int32_t turn,
                                       uint32_t size) {
  const uint32_t row = SumBefore<kClusterTile>(size);
  if (size == 0) return false;
  const auto address = reinterpret_cast<uint64_t>(stretch.scores.contents[stretch.Tile(turn)]);
  if (address < kHomeBase) return true;
  return buffer.places[(address - kHomeBase) / (4 * kHeadDim) + row] >= 0;
}

// Adds the tallies of all threads to *to, in shared memory.
__device__ __forceinline__ void AddTally(Tally tally, Tally* to) {
  tally.tokens = __reduce_add_sync(kAllLanes, tally.tokens);
  tally.clusters = __reduce_add_sync(kAllLanes, tally.clusters);
  if (threadIdx.x % 32 != 0 || tally.clusters == 0) return;
  atomicAdd(&to->tokens, tally.tokens);
  atomicAdd(&to->clusters, tally.clusters);
}

// Leaves in the warp's stretch only the tiles that have a cluster before `limit`, by their tops; all, where there are
// too many to note.
template <int kHeadDim>
__device__ __forceinline__ void KeepLikely(int32_t group, Place limit, SelectMemory& memory, Ranked* kept,
                                           Stretch<kHeadDim>& stretch) {
  const int lane = threadIdx.x % 32;
  int32_t* likely = memory.likely[threadIdx.x / 32];
  int32_t count = 0;
  for (int32_t first = stretch.first; first < stretch.end; first += 32) {
    const int32_t tile = min(first + lane, stretch.end - 1);
    float best = -INFINITY;
#pragma unroll 4
    for (int g = 0; g < group; ++g) {
      best = fmaxf(best, stretch.scores.tops[static_cast<int64_t>(tile) * group + g] - memory.shifts[g]);
    }
    const bool is_likely = first + lane < stretch.end && PlaceOf(KeyOf(best), 0) < limit;
    const unsigned all = __ballot_sync(kAllLanes, is_likely);
    const int32_t at = count + __popc(all & ((1U << lane) - 1));
    if (is_likely && at < kLikelyTiles) likely[at] = tile;
    count += __popc(all);
  }
  __syncwarp();
  if (count > kLikelyTiles) return;
  stretch.likely = likely;
  stretch.n_likely = count;
  stretch.kept = kept + threadIdx.x / 32 * kKeptTurns * 32;
}

// Finds the key of every cluster of the stretch. With a `limit` it adds up those before it, else it counts the weight
// of each in the bin of the first digit. With `preference` clusters that are not near lose so many nats.
template <int kHeadDim>
__device__ __forceinline__ void RankStretch(const StepArgs& args, const Stretch<kHeadDim>& stretch, bool by_clusters,
                                            Place limit, float preference, SelectMemory& memory) {
  Tally before = {0, 0};
  const bool by_mass = args.rules.by_mass != 0;
  const int c = threadIdx.x % kClusterTile;
  const int32_t turns = stretch.turns();
  for (int32_t first = 0; first < turns; first += kTurnsAtOnce) {
    ClusterShape shapes[kTurnsAtOnce];
    float best[kTurnsAtOnce];  // by mass the sum
    const float* logits[kTurnsAtOnce];
    const float* widths[kTurnsAtOnce];
#pragma unroll
    for (int u = 0; u < kTurnsAtOnce; ++u) {
      const int64_t row = static_cast<int64_t>(min(stretch.Tile(first + u), stretch.n_tiles - 1)) * args.group;
      logits[u] = stretch.scores.logits + row * kClusterTile + c;
      widths[u] = stretch.scores.widths + row;
      shapes[u] = stretch.Has(first + u) ? stretch.scores.shapes[stretch.Number(first + u)] : ClusterShape{0, 0};
      best[u] = by_mass ? 0 : -INFINITY;
    }
#pragma unroll 4
    for (int g = 0; g < args.group; ++g) {
      const float shift = memory.shifts[g];
#pragma unroll
      for (int u = 0; u < kTurnsAtOnce; ++u) {
        const float logit = logits[u][g * kClusterTile];
        const float rank = RankOf(logit, args.rules.kappa, shapes[u].spread, widths[u][g]);
        best[u] = by_mass ? best[u] + ExpBelow(logit, shift) : fmaxf(best[u], rank - shift);
      }
    }
#pragma unroll
    for (int u = 0; u < kTurnsAtOnce; ++u) {
      const bool loses = preference > 0 && !IsNear(args.buffer, stretch, first + u, shapes[u].size);
      if (!stretch.Has(first + u)) continue;
      const float importance =
          (by_mass ? logf(best[u] / static_cast<float>(args.group)) : best[u]) - (loses ? preference : 0);
      const uint32_t key = shapes[u].size == 0 ? kNoKey : KeyOf(importance);
      Keep(stretch, first + u, {key, shapes[u].size});
      if (shapes[u].size == 0) continue;
      if (limit == kAllPlaces) {
        atomicAdd(&memory.bins[PlaceOf(key, 0) >> (kPlaceBits - kBinBits)], by_clusters ? 1 : shapes[u].size);
      } else if (PlaceOf(key, 0) < limit) {
        before.tokens += shapes[u].size;
        ++before.clusters;
      }
    }
  }
  if (limit != kAllPlaces) AddTally(before, &memory.own_better);
}

// Takes what is before `limit`, which RankStretch added up, if that is within the budget: fills end and taken, and ends
// between the halves of a cluster barrier. False if it is not.
__device__ __forceinline__ bool TakeBefore(Place limit, uint32_t budget, bool by_clusters, SelectMemory& memory) {
  ClusterSync();
  uint32_t weight = 0;
#pragma unroll
  for (int r = 0; r < kMaxCtas; ++r) {
    if (r >= ClusterSize()) continue;
    const Tally* tally = RemoteShared(&memory.own_better, r);
    weight += by_clusters ? tally->clusters : tally->tokens;
  }
  if (weight > budget) return false;
  if (threadIdx.x < ClusterSize()) memory.taken[threadIdx.x] = *RemoteShared(&memory.own_better, threadIdx.x);
  if (threadIdx.x == 0) memory.end = limit;
  __syncthreads();
  ClusterArrive();
  return true;
}

// totals = the bins of all CTAs of the cluster.
__device__ __forceinline__ void SumBins(SelectMemory& memory) {
  const int rank = ClusterRank();
  const int ctas = ClusterSize();
  ClusterSync();
  const int share = kBins / ctas;
  for (int i = rank * share + threadIdx.x; i < (rank + 1) * share; i += kSelectThreads) {
    uint32_t sum = 0;
#pragma unroll
    for (int r = 0; r < kMaxCtas; ++r) sum += r < ctas ? *RemoteShared(&memory.bins[i], r) : 0;
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
  ForEachRanked(stretch, [&](int32_t, Place place, uint32_t tokens) {
    if (place >= kAllPlaces || place >> shift > prefix) return;
    if (place >> shift < prefix) {
      better.tokens += tokens;
      ++better.clusters;
    } else if (const int at = atomicAdd(&memory.n_own, 1); at < kFewClusters) {
      memory.own[at] = {place, tokens, ClusterRank()};
    }
  });
  AddTally(better, &memory.own_better);
}

// Takes candidates, best first, while the budget lasts: fills end and taken. `before` is the weight of what is better.
__device__ __forceinline__ void TakeCandidates(Place first_place, uint32_t before, uint32_t budget, bool by_clusters,
                                               SelectMemory& memory) {
  ClusterSync();
  int firsts[kMaxCtas + 1] = {};  // of each CTA's candidates
#pragma unroll
  for (int r = 0; r < kMaxCtas; ++r) {
    firsts[r + 1] = r < ClusterSize() ? *RemoteShared(&memory.n_own, r) : 0;
  }
#pragma unroll
  for (int r = 0; r < kMaxCtas; ++r) firsts[r + 1] = min(firsts[r] + firsts[r + 1], kFewClusters);
  const int n = firsts[kMaxCtas];
#pragma unroll
  for (int r = 0; r < kMaxCtas; ++r) {
    const int i = static_cast<int>(threadIdx.x) - firsts[r];
    if (i >= 0 && threadIdx.x < firsts[r + 1]) memory.all[threadIdx.x] = *RemoteShared(&memory.own[i], r);
  }
  if (threadIdx.x < ClusterSize()) memory.taken[threadIdx.x] = *RemoteShared(&memory.own_better, threadIdx.x);
  if (threadIdx.x == 0) memory.end = first_place;
  ClusterArrive();
  __syncthreads();
  constexpr int kLanes = 8;  // that compare a candidate with the others
  const int lane = threadIdx.x % kLanes;
  for (int i = threadIdx.x / kLanes; i < n; i += kSelectThreads / kLanes) {
    const Candidate candidate = memory.all[i];
    uint32_t better = 0;
    for (int j = lane; j < n; j += kLanes) {
      if (memory.all[j].place < candidate.place) better += by_clusters ? 1 : memory.all[j].tokens;
    }
    const unsigned together = ((1U << kLanes) - 1) << (threadIdx.x % 32 / kLanes * kLanes);
#pragma unroll
    for (int step = 1; step < kLanes; step *= 2) better += __shfl_xor_sync(together, better, step);
    if (lane != 0) continue;
    better += before;
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
      ForEachRanked(stretch, [&](int32_t, Place place, uint32_t tokens) {
        if (place >= kAllPlaces || place >> (shift + bits) != prefix) return;
        atomicAdd(&memory.bins[(place >> shift) & ((1U << bits) - 1)], by_clusters ? 1 : tokens);
      });
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

// What the warps before this one list; `weigh` is what a listed cluster adds to the list.
template <int kHeadDim, typename Weigh>
__device__ __forceinline__ uint32_t ListedBefore(const Stretch<kHeadDim>& stretch, const Weigh& weigh,
                                                 SelectMemory& memory) {
  uint32_t listed = 0;
  ForEachRanked(stretch, [&](int32_t, Place place, uint32_t tokens) {
    if (place < memory.end) listed += weigh(tokens);
  });
  listed = __reduce_add_sync(kAllLanes, listed);
  if (threadIdx.x % 32 == 0) memory.scan[threadIdx.x / 32] = listed;
  __syncthreads();
  uint32_t before = 0;
  for (uint32_t w = 0; w < threadIdx.x / 32; ++w) before += memory.scan[w];
  return before;
}

// Writes the addresses of all token records of the clusters before memory.end, from `to` on, in the order of numbers,
// and leaves them without size, so that they are not estimated.
template <int kHeadDim>
__device__ __forceinline__ void ListTokens(const Stretch<kHeadDim>& stretch, const std::byte** to,
                                           SelectMemory& memory) {
  constexpr int64_t kRecordBytes = 4 * kHeadDim;
  to += ListedBefore(
      stretch, [](uint32_t tokens) { return tokens; }, memory);
  ForEachRanked(stretch, [&](int32_t turn, Place place, uint32_t tokens) {
    const bool listed = place < memory.end;
    if (!__any_sync(kAllLanes, listed)) return;
    const auto* rows = listed ? static_cast<const std::byte*>(stretch.scores.contents[stretch.Tile(turn)]) : nullptr;
    const uint32_t row = SumBefore<kClusterTile>(tokens);
    const uint32_t taken = listed ? tokens : 0;
    const uint32_t at = SumBefore<32>(taken);
    for (uint32_t i = 0; i < taken; ++i) to[at + i] = rows + (row + i) * kRecordBytes;
    if (listed) stretch.scores.shapes[stretch.Number(turn)].size = 0;
    to += __reduce_add_sync(kAllLanes, taken);
  });
}

// Writes the records of the tiles that the super-clusters before memory.end are, from `to` on; they, too, lose their
// size.
template <int kHeadDim>
__device__ __forceinline__ void ListTiles(const Stretch<kHeadDim>& stretch, const void** to, SelectMemory& memory) {
  to += ListedBefore(
      stretch, [](uint32_t) { return 1U; }, memory);
  ForEachRanked(stretch, [&](int32_t turn, Place place, uint32_t) {
    const bool listed = place < memory.end;
    const unsigned all = __ballot_sync(kAllLanes, listed);
    if (listed) {
      const void* tiles = stretch.scores.contents[stretch.Tile(turn)];
      to[__popc(all & ((1U << threadIdx.x % 32) - 1))] =
          static_cast<const TileRecord<kHeadDim>*>(tiles) + threadIdx.x % kClusterTile;
      stretch.scores.shapes[stretch.Number(turn)].size = 0;
    }
    to += __popc(all);
  });
}

// Leaves the clusters from place `end` on without size.
template <int kHeadDim>
__device__ __forceinline__ void DropFrom(const Stretch<kHeadDim>& stretch, Place end) {
  ForEachRanked(stretch, [&](int32_t turn, Place place, uint32_t) {
    if (place >= end && place < kAllPlaces) stretch.scores.shapes[stretch.Number(turn)].size = 0;
  });
}

// Writes the addresses of the token records that are read whatever the query is; the CTAs of the cluster share them. By
// the upper half of the threads, while the lower merges sums.
template <int kHeadDim>
__device__ __forceinline__ void ListSteadyTokens(const StepArgs& args, const HeadPlan& head, const std::byte** to) {
  constexpr int kThreads = kSelectThreads / 2;
  if (threadIdx.x < kThreads) return;
  const Tail tail = args.tails[head.tail];
  const int64_t count = head.fixed_tokens + tail.tokens;
  const int64_t stride = static_cast<int64_t>(ClusterSize()) * kThreads;
  for (int64_t i = static_cast<int64_t>(ClusterRank()) * kThreads + threadIdx.x - kThreads; i < count; i += stride) {
    to[i] = SteadyRecord<kHeadDim>(args, head, tail, i);
  }
}

// Takes every cluster, where none was scored: fills what scoring and ranking would, end and taken.
template <int kHeadDim>
__device__ __forceinline__ void TakeEverything(const Stretch<kHeadDim>& stretch, SelectMemory& memory) {
  if (threadIdx.x == 0) {
    memory.own_better = {0, 0};
    memory.end = kAllPlaces;
  }
  __syncthreads();
  uint32_t tokens = 0;
  for (int32_t turn = 0; turn < stretch.turns(); ++turn) {
    if (!stretch.Has(turn)) continue;
    const TileRecord<kHeadDim>* record = stretch.tiles[stretch.Tile(turn)];
    const uint32_t size = record->sizes[threadIdx.x % kClusterTile];
    tokens += size;
    Keep(stretch, turn, {size == 0 ? kNoKey : 0, size});
    stretch.scores.shapes[stretch.Number(turn)].size = size;
    stretch.scores.contents[stretch.Tile(turn)] = record->content;
  }
  tokens = __reduce_add_sync(kAllLanes, tokens);
  if (threadIdx.x % 32 == 0) atomicAdd(&memory.own_better.tokens, tokens);
  ClusterSync();
  if (threadIdx.x < ClusterSize()) memory.taken[threadIdx.x] = *RemoteShared(&memory.own_better, threadIdx.x);
  __syncthreads();
  ClusterArrive();
}

template <int kHeadDim>
__device__ __forceinline__ Stretch<kHeadDim> StretchOf(const StepArgs& args, const HeadPlan& head, int h, int level,
                                                       bool upper, Ranked* kept) {
  const int64_t first_tile = head.first_tile[level];
  Stretch<kHeadDim> stretch;
  stretch.tiles = TilesOf<kHeadDim>(args, head, level, upper);
  stretch.n_tiles = level == 0 && upper ? args.scores[1].selected[h].opened : head.n_tiles[level];
  constexpr int kWarps = kSelectThreads / 32;
  const int warp = threadIdx.x / 32;
  const int warps = ClusterSize() * kWarps;
  stretch.first = static_cast<int32_t>(Cut(stretch.n_tiles, ClusterRank() * kWarps + warp, warps));
  stretch.end = static_cast<int32_t>(Cut(stretch.n_tiles, ClusterRank() * kWarps + warp + 1, warps));
  stretch.likely = nullptr;
  stretch.n_likely = 0;
  stretch.scores = ScoresFrom(args.scores[level], first_tile, args.group);
  // All warps or none: the shape of the code that reads them is the same.
  const bool fits = stretch.n_tiles <= int64_t{2} * kKeptTurns * warps;
  stretch.kept = fits ? kept + warp * kKeptTurns * 32 : nullptr;
  return stretch;
}

// Grid [heads * CTAs of a thread-block cluster]; dynamic shared memory: kKeptTurns clusters a thread.
template <int kHeadDim>
__global__ void __launch_bounds__(kSelectThreads, 1) SelectKernel(const StepArgs args, int level) {
  __shared__ SelectMemory memory;
  extern __shared__ Ranked kept[];
  const int rank = ClusterRank();
  const int h = blockIdx.x / ClusterSize();
  for (int i = threadIdx.x; i < kBins; i += kSelectThreads) memory.bins[i] = 0;
  if (threadIdx.x == 0) memory.own_better = {0, 0};
  if (h >= args.size->heads) return;  // the whole cluster
  const HeadPlan& head = args.heads[h];
  const HeadBudget budget = PlanBudget(args, head);
  const std::byte** addresses = args.addresses + head.first_address;
  if (level == 0) ListSteadyTokens<kHeadDim>(args, head, addresses);
  WaitForInputs();
  LetNextKernelStart();
  Selection* to = args.scores[level].selected + h;
  if (level == 1 && !budget.upper) {
    if (rank == 0 && threadIdx.x == 0) {
      to->tiles = 0;
      to->opened = -1;
    }
    return;
  }
  const Stretch<kHeadDim> all_tiles = StretchOf<kHeadDim>(args, head, h, level, budget.upper, kept);
  Stretch<kHeadDim> stretch = all_tiles;
  const bool everything = level == 0 && budget.everything;
  if (everything) {
    TakeEverything(stretch, memory);
  } else {
    const bool by_clusters = level == 0 && args.rules.by_clusters != 0;
    MergeHeadSums(args.group, args.rules.by_share != 0,
                  args.scores[level].sums + int64_t{head.first_score_part[level]} * args.group,
                  head.n_score_parts[level], rank == 0, to, memory);
    __syncthreads();
    const bool any = level == 1 || args.rules.least == -INFINITY;
    const Place limit = any ? kAllPlaces : PlaceOf(KeyOf(args.rules.least) + 1, 0);
    const float preference = level == 0 ? args.buffer.preference : 0;
    const auto most = static_cast<uint32_t>(level == 0 ? budget.retrieve : budget.open_tokens);
    // What is estimated of the rest may end at a rank, which needs the order of all.
    if (!any && head.estimate[0] >= stretch.n_tiles * int64_t{kClusterTile}) {
      KeepLikely(args.group, limit, memory, kept, stretch);
    }
    if (!any) RankStretch(args, stretch, by_clusters, limit, preference, memory);
    if (any || !TakeBefore(limit, most, by_clusters, memory)) {
      stretch = all_tiles;
      RankStretch(args, stretch, by_clusters, kAllPlaces, preference, memory);
      FindEnd(stretch, most, by_clusters, true, memory);
    }
  }
  int64_t before = 0;
  Tally all = {0, 0};
  for (int r = 0; r < ClusterSize(); ++r) {
    if (r < rank) before += level == 0 ? memory.taken[r].tokens : memory.taken[r].clusters;
    all.tokens += memory.taken[r].tokens;
    all.clusters += memory.taken[r].clusters;
  }
  if (level == 0) {
    ListTokens(stretch, addresses + budget.steady_tokens + before, memory);
  } else {
    ListTiles(stretch, args.opened + head.first_tile[0] + before, memory);
  }
  ClusterWait();
  const int64_t last = all.clusters + head.estimate[level];
  if (!everything && last < stretch.n_tiles * int64_t{kClusterTile}) {
    // The retrieved clusters are the first of the order, so the estimated ones end at this rank.
    if (last > 0) {
      FindEnd(stretch, static_cast<uint32_t>(last), true, false, memory);
    } else {  // nothing is above the least share
      if (threadIdx.x == 0) memory.end = 0;
      __syncthreads();
      ClusterArrive();
    }
    DropFrom(stretch, memory.end);
    ClusterWait();
  }
  if (rank == 0 && threadIdx.x == 0) {
    to->tiles = everything ? 0 : stretch.n_tiles;
    to->opened = level == 1 ? static_cast<int32_t>(all.clusters) : -1;
    if (level == 0) args.list_tokens[h] = budget.steady_tokens + all.tokens;
  }
}

}  // namespace swell::cuda

#endif  // SWELL_CUDA_STEP_SELECT_CUH_
