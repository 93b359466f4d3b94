// Estimate of the clusters that are not read, from their scores, sizes and mean values. CPU twin:
// lib/attention/estimate.cc. Lanes are pairs of a tile and a query; the mean values that count are gathered in a queue
// and added sixteen at a time by the tensor cores, in bfloat16 (exact for the 8-bit values, 2^-9 for their weights).
// ErrorState::cross takes the mean value that the output takes, where the twin has one mean for all small clusters.
#ifndef SWELL_CUDA_STEP_ESTIMATE_CUH_
#define SWELL_CUDA_STEP_ESTIMATE_CUH_

#include "cuda/step/attend_state.cuh"

namespace swell::cuda {

// Byte `kByte` of two words, signed, as a pair of bfloat16. Its low seven bits at the end of the mantissa make 128 plus
// them, its sign bit in the same place 128 or 256; the difference is exact.
template <int kByte>
__device__ __forceinline__ uint32_t PairOfBytes(uint32_t low, uint32_t high) {
  constexpr uint32_t k128 = 0x43004300;
  const uint32_t bytes = __byte_perm(low, high, kByte | (4 + kByte) << 8);  // in the low half of each half word
  const uint32_t magnitude = (bytes & 0x007f007fU) | k128;
  const uint32_t sign = (bytes & 0x00800080U) | k128;
  const __nv_bfloat162 pair =
      __hsub2(reinterpret_cast<const __nv_bfloat162&>(magnitude), reinterpret_cast<const __nv_bfloat162&>(sign));
  return reinterpret_cast<const uint32_t&>(pair);
}

template <int kEven, int kHeadDim, int kBlocks>
__device__ __forceinline__ void AddBytePairs(const uint32_t (&words)[4], const uint32_t (&weights)[kBlocks][2], int j,
                                             AttendState<kHeadDim, kBlocks>& state) {
  const uint32_t a0 = PairOfBytes<kEven>(words[0], words[1]);
  const uint32_t a1 = PairOfBytes<kEven + 1>(words[0], words[1]);
  const uint32_t a2 = PairOfBytes<kEven>(words[2], words[3]);
  const uint32_t a3 = PairOfBytes<kEven + 1>(words[2], words[3]);
#pragma unroll
  for (int b = 0; b < kBlocks; ++b) {
    Mma<__nv_bfloat16>::Run(state.out[b][j], a0, a1, a2, a3, weights[b][0], weights[b][1]);
  }
}

// Adds the sixteen rows of the queue from `first` on, each times its coefficients.
template <int kHeadDim, int kBlocks>
__device__ __forceinline__ void AddRows(const RowQueue& queue, int first, int lane,
                                        AttendState<kHeadDim, kBlocks>& state) {
  const int g = lane / 4;
  const int t = lane % 4;
  const int slots[4] = {first + 2 * t, first + 2 * t + 1, first + 2 * t + 8, first + 2 * t + 9};
  uint2 values[4][kHeadDim / 64];
  uint32_t weights[kBlocks][2];
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    const int8_t* row = queue.rows[slots[k]];
#pragma unroll
    for (int i = 0; i < kHeadDim / 64; ++i) {
      values[k][i] = __ldg(reinterpret_cast<const uint2*>(row + 64 * i) + g);
    }
  }
#pragma unroll
  for (int b = 0; b < kBlocks; ++b) {
    weights[b][0] = *reinterpret_cast<const uint32_t*>(&queue.coefficients[kColumns * b + g][slots[0]]);
    weights[b][1] = *reinterpret_cast<const uint32_t*>(&queue.coefficients[kColumns * b + g][slots[2]]);
  }
#pragma unroll
  for (int i = 0; i < kHeadDim / 64; ++i) {
    const uint32_t low[4] = {values[0][i].x, values[1][i].x, values[2][i].x, values[3][i].x};
    const uint32_t high[4] = {values[0][i].y, values[1][i].y, values[2][i].y, values[3][i].y};
    AddBytePairs<0>(low, weights, 4 * i, state);
    AddBytePairs<2>(low, weights, 4 * i + 1, state);
    AddBytePairs<0>(high, weights, 4 * i + 2, state);
    AddBytePairs<2>(high, weights, 4 * i + 3, state);
  }
}

// One level of a head, for the estimate of the lane's query.
template <int kHeadDim>
struct EstimateLevel {
  const TileRecord<kHeadDim>* const* tiles;
  LevelScores scores;  // from the head's first tile on
  int32_t n_tiles;
  int32_t group;
  int32_t query;       // of the group
  float half;          // what multiplies a variance to correct a logit: 1/2, or 0
  float reference;     // octaves
  float least_weight;  // of a cluster whose own mean value counts
};

// What the lane's query takes of a tile.
struct TileShare {
  uint32_t own;     // clusters whose own mean value counts
  float rest;       // weight of the others, times the scale of the tile's mean
  float rest_term;  // and their term, likewise
};

template <int kHeadDim>
__device__ __forceinline__ ClusterWeight WeighCluster(const EstimateLevel<kHeadDim>& level, float logit, float sigma,
                                                      uint32_t size) {
  const float variance = sigma * sigma;
  const float corrected = logit + fminf(level.half * variance, 1.0F);
  const float exponential = Exp2(corrected * kLog2E - level.reference);
  const float weight = size > 0 ? static_cast<float>(size) * exponential : 0;
  return {weight, weight * exponential * (Exp2(fminf(variance, 2.0F) * kLog2E) - 1)};
}

template <int kHeadDim>
__device__ __forceinline__ TileShare WeighTile(const EstimateLevel<kHeadDim>& level, int32_t tile,
                                               const TileRecord<kHeadDim>* record, int lane, EstimateMemory& memory,
                                               EstimateSums& sums) {
  const int64_t row = static_cast<int64_t>(tile) * level.group + level.query;
  const int64_t first = static_cast<int64_t>(tile) * kClusterTile;
  const float width = level.scores.widths[row];
  const float mean_scale = __ldg(&record->mean_scale);
  TileShare share = {};
#pragma unroll
  for (int quarter = 0; quarter < 4; ++quarter) {
    const float4 logits = *(reinterpret_cast<const float4*>(level.scores.logits + row * kClusterTile) + quarter);
    const uint4 low = *(reinterpret_cast<const uint4*>(level.scores.shapes + first) + 2 * quarter);
    const uint4 high = *(reinterpret_cast<const uint4*>(level.scores.shapes + first) + 2 * quarter + 1);
    const float4 energies = __ldg(reinterpret_cast<const float4*>(record->energies) + quarter);
    const float4 scales = __ldg(reinterpret_cast<const float4*>(record->value_scales) + quarter);
    const float logit_of[4] = {logits.x, logits.y, logits.z, logits.w};
    const uint32_t spread_of[4] = {low.x, low.z, high.x, high.z};
    const uint32_t size_of[4] = {low.y, low.w, high.y, high.w};
    const float energy_of[4] = {energies.x, energies.y, energies.z, energies.w};
    const float scale_of[4] = {scales.x, scales.y, scales.z, scales.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int c = 4 * quarter + i;
      const ClusterWeight cluster =
          WeighCluster(level, logit_of[i], fminf(__uint_as_float(spread_of[i]) * width, 1e9F), size_of[i]);
      sums.mass += cluster.weight;
      sums.energy += cluster.term * energy_of[i];
      sums.weight += cluster.term;
      // Without branches, so that the loads of the next quarter need not wait for them.
      const bool own = cluster.weight > level.least_weight;
      share.own |= own ? 1U << c : 0;
      memory.own[c][lane] = {cluster.weight * scale_of[i], cluster.term * scale_of[i]};
      share.rest += own ? 0 : cluster.weight;
      share.rest_term += own ? 0 : cluster.term;
    }
  }
  share.rest *= mean_scale;
  share.rest_term *= mean_scale;
  return share;
}

// Adds what the part estimates of one level. Lanes are pairs of a tile and a query.
template <int kHeadDim, int kBlocks>
__device__ __forceinline__ void EstimatePart(const Task& task, const EstimateLevel<kHeadDim>& level,
                                             EstimateMemory& memory, EstimateSums& sums,
                                             AttendState<kHeadDim, kBlocks>& state) {
  constexpr uint32_t kMeanOfTile = 1U << kClusterTile;
  RowQueue& queue = memory.queue;
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  const int in_pass = 32 / task.queries;  // tiles
  const int column = lane % task.queries;
  const int first_lane = lane - column;  // of the tile
  const bool has_tile = lane < in_pass * task.queries;
  int first = 0;  // of the queue, a multiple of 16
  int waiting = 0;
  const auto end = static_cast<int32_t>(Cut(level.n_tiles, task.index + 1, task.parts));
  auto base = static_cast<int32_t>(Cut(level.n_tiles, task.index, task.parts)) + warp * in_pass;
  const auto record_of = [&](int32_t tile) { return has_tile && tile < end ? level.tiles[tile] : nullptr; };
  const TileRecord<kHeadDim>* next = record_of(base + lane / task.queries);
  for (; base < end; base += task.estimating * in_pass) {
    const int32_t tile = base + lane / task.queries;
    const TileRecord<kHeadDim>* record = next;
    next = record_of(tile + task.estimating * in_pass);
    if (next != nullptr && column < 2) PrefetchLine(column == 0 ? next->value_scales : next->energies);
    TileShare share = {};
    if (record != nullptr) share = WeighTile(level, tile, record, lane, memory, sums);
    const uint32_t items = share.own | (share.rest > 0 ? kMeanOfTile : 0);
    uint32_t pending = 0;  // clusters of the tile, and its mean, that any query takes
    for (int k = 0; k < task.queries; ++k) pending |= __shfl_sync(kAllLanes, items, (first_lane + k) % 32);
    if (!has_tile) pending = 0;
    while (__any_sync(kAllLanes, pending != 0)) {
      const int count = min(__popc(pending), kTurnRows / in_pass);  // rows of the tile in this turn
      const uint32_t before = SumBefore<32>(column == 0 ? count : 0);
      const int place = first + waiting + __shfl_sync(kAllLanes, before, first_lane);
      for (int i = 0; i < count; ++i) {
        const int c = __ffs(static_cast<int>(pending)) - 1;
        pending &= pending - 1;
        ClusterWeight weight = {0, 0};
        if (c == kClusterTile) {
          weight = {share.rest, share.rest_term};
        } else if ((share.own >> c & 1) != 0) {
          weight = memory.own[c][lane];
        }
        const int slot = (place + i) % kQueueRows;
        queue.coefficients[column][slot] = __float2bfloat16(weight.weight);
        queue.coefficients[QueriesOf(kBlocks) + column][slot] = __float2bfloat16(weight.term);
        if (column == 0) queue.rows[slot] = c < kClusterTile ? record->value_means + c * kHeadDim : record->mean;
      }
      waiting +=
          static_cast<int>(__shfl_sync(kAllLanes, before, 31)) + __shfl_sync(kAllLanes, column == 0 ? count : 0, 31);
      __syncwarp();
      while (waiting >= 16) {
        AddRows(queue, first, lane, state);
        first = (first + 16) % kQueueRows;
        waiting -= 16;
        __syncwarp();
      }
    }
  }
  if (waiting == 0) return;
  for (int i = waiting + lane; i < 16; i += 32) {  // the first row again, times nothing
    queue.rows[first + i] = queue.rows[first];
    for (int k = 0; k < 2 * QueriesOf(kBlocks); ++k) queue.coefficients[k][first + i] = __float2bfloat16(0);
  }
  __syncwarp();
  AddRows(queue, first, lane, state);
  __syncwarp();
}

// What the estimate of a query is relative to, and the mass that all its clusters have by their centroids.
struct Reference {
  float largest;  // logit of any cluster of the head; -inf where none was scored
  float log_mass;
};

__device__ __forceinline__ Reference ReferenceOf(const StepArgs& args, int head, int query) {
  const Selection& lower = args.scores[0].selected[head];
  if (lower.tiles == 0) return {-INFINITY, -INFINITY};
  Reference reference = {lower.max_logit[query], lower.log_mass[query]};
  if (args.rules.two_level == 0) return reference;
  const Selection& upper = args.scores[1].selected[head];
  if (upper.tiles == 0) return reference;
  return {fmaxf(reference.largest, upper.max_logit[query]), fmaxf(reference.log_mass, upper.log_mass[query])};
}

template <int kHeadDim, int kBlocks>
__device__ __forceinline__ void ClearState(AttendState<kHeadDim, kBlocks>& state) {
#pragma unroll
  for (int b = 0; b < kBlocks; ++b) {
#pragma unroll
    for (int j = 0; j < kHeadDim / 16; ++j) {
#pragma unroll
      for (int i = 0; i < 4; ++i) state.out[b][j][i] = 0;
    }
  }
  state.sum = 0;
  state.estimated = {0, 0, 0};
}

// Adds the part's estimate of both levels to a fresh state, whose max is the reference.
template <int kHeadDim, int kBlocks>
__device__ __forceinline__ void Estimate(const StepArgs& args, const Task& task, EstimateMemory& memory,
                                         AttendState<kHeadDim, kBlocks>& state) {
  const int lane = threadIdx.x % 32;
  const int column = lane % task.queries;
  for (int i = lane; i < 2 * kColumns * kQueueRows; i += 32) {  // columns that no query has stay zero
    memory.queue.coefficients[i / kQueueRows][i % kQueueRows] = __float2bfloat16(0);
  }
  __syncwarp();
  const int query = task.first_query + column;
  const Reference reference = ReferenceOf(args, task.number, query);
  const bool upper = args.rules.two_level != 0 && args.scores[1].selected[task.number].tiles > 0;
  EstimateSums sums = {0, 0, 0};
  for (int l = 0; l < (upper ? 2 : 1); ++l) {
    const Selection& selected = args.scores[l].selected[task.number];
    EstimateLevel<kHeadDim> level;
    level.tiles = TilesOf<kHeadDim>(args, *task.head, l, upper);
    level.scores = ScoresFrom(args.scores[l], task.head->first_tile[l], args.group);
    level.n_tiles = selected.tiles;
    level.group = args.group;
    level.query = query;
    level.half = args.rules.correct != 0 ? 0.5F : 0.0F;
    level.reference = reference.largest * kLog2E;
    level.least_weight = kLeastShare * ExpBelow(reference.log_mass, reference.largest);
    EstimatePart(task, level, memory, sums, state);
  }
  EstimateSums all = {0, 0, 0};  // of the lane's column
  for (int k = column; k < 32 / task.queries * task.queries; k += task.queries) {
    all.mass += __shfl_sync(kAllLanes, sums.mass, k);
    all.energy += __shfl_sync(kAllLanes, sums.energy, k);
    all.weight += __shfl_sync(kAllLanes, sums.weight, k);
  }
  const int row = lane / 4;
  all.mass = __shfl_sync(kAllLanes, all.mass, row % task.queries);
  all.energy = __shfl_sync(kAllLanes, all.energy, row % task.queries);
  all.weight = __shfl_sync(kAllLanes, all.weight, row % task.queries);
  if (row >= task.queries) return;
  state.estimated = all;
  state.sum = all.mass;
}

}  // namespace swell::cuda

#endif  // SWELL_CUDA_STEP_ESTIMATE_CUH_
