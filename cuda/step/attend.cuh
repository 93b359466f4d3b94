// Attention of one step: the estimate of the clusters that are not read, exact attention over the listed token records,
// merged over warps, over the CTAs of a head, and finished. CPU twins: lib/attention/estimate.cc, exact.cc, state.cc.
//
// Scores are a tensor-core product with the queries as rows; outputs are the transposed product, dims by queries, so
// that the scores of a warp are at once its weights. Lane (g, t) of accumulator (i, e) holds dims 64 i + 8 g + 2 e and
// + 1 of queries 2 t and 2 t + 1. The estimate adds int8 rows (mean values) with their coefficients to the same
// accumulators. With at most four queries the other four columns hold ErrorState::cross; with more it has accumulators
// of its own.
#ifndef SWELL_CUDA_STEP_ATTEND_CUH_
#define SWELL_CUDA_STEP_ATTEND_CUH_

#include "cuda/step/select.cuh"

namespace swell::cuda {

constexpr int kAttendWarps = 8;
constexpr int kEstimateWarps = 5;  // of them, where there is something to estimate; the others read tokens meanwhile
constexpr int kTokenTile = 16;     // tokens of a warp's step
constexpr int kColumns = 8;        // queries of a CTA at most
constexpr int kQueueRows = 64;     // a power of two
constexpr int kTurnRows = 32;      // that join the queue at a time, at most
constexpr float kLeastShare = 1.0F / (1 << 12);  // as in lib/attention/estimate.cc

// kBlocks: 1 for up to four queries, 2 for up to eight.
__host__ __device__ constexpr int QueriesOf(int blocks) { return 4 * blocks; }

// Sums over estimated clusters of one query, relative to exp(reference) (quadratic ones to its square).
struct EstimateSums {
  float mass;
  float energy;
  float weight;
};

// State of a warp, later of a CTA, then of a head. Row g belongs to lanes (g, .).
template <int kHeadDim, int kBlocks>
struct AttendState {
  float out[kBlocks][kHeadDim / 16][4];
  float max;               // of row g, in octaves
  float sum;               // of row g
  EstimateSums estimated;  // of row g
};

// What a state of a part is in memory: accumulators lane by lane, then the rows' scalars.
template <int kHeadDim, int kBlocks>
struct PartState {
  float4 out[kBlocks * kHeadDim / 16][32];
  float max[kColumns];
  float sum[kColumns];
  EstimateSums estimated[kColumns];
};

// Rows of mean values that wait for their product, of one warp.
struct RowQueue {
  const int8_t* rows[kQueueRows];
  __nv_bfloat16 coefficients[2 * kColumns][kQueueRows];
};

// Weight of a cluster in the output, size exp(logit + correction), and its term in the error; both 0 unless it is
// estimated.
struct ClusterWeight {
  float weight;
  float term;
};

// What an estimating warp needs beside its registers.
struct EstimateMemory {
  RowQueue queue;
  ClusterWeight own[kClusterTile][32];  // by lane, times the scale of the value: clusters whose own mean value counts
};

struct AttendMemory {
  EstimateMemory estimates[kEstimateWarps];
  float max[kAttendWarps][kColumns];
  float sum[kAttendWarps][kColumns];
  EstimateSums estimated[kAttendWarps][kColumns];
  bool is_last;
};

// The queries of one CTA and what all its warps know of the head.
struct Task {
  const HeadPlan* head;
  int32_t number;       // of the head
  int32_t first_query;  // of the group
  int32_t queries;
  int32_t index;  // of the part
  int32_t parts;
};

// Multiplies columns 2 t and 2 t + 1 of the output by the factors of their rows.
template <int kHeadDim, int kBlocks>
__device__ __forceinline__ void ScaleOutput(float factor, int lane, AttendState<kHeadDim, kBlocks>& state) {
  const float even = __shfl_sync(kAllLanes, factor, lane % 4 * 8);
  const float odd = __shfl_sync(kAllLanes, factor, lane % 4 * 8 + 4);
#pragma unroll
  for (int j = 0; j < kHeadDim / 16; ++j) {
    state.out[0][j][0] *= even;
    state.out[0][j][1] *= odd;
    state.out[0][j][2] *= even;
    state.out[0][j][3] *= odd;
  }
}

// --- estimate -------------------------------------------------------------------------------------------------------

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

// Sixteen rows with their coefficients, as a lane holds them: loaded in one turn, multiplied in the next, so that work
// goes on while they come.
template <int kHeadDim, int kBlocks>
struct LaneRows {
  uint2 values[4][kHeadDim / 64];
  uint32_t weights[kBlocks][2];
};

// Starts to load the sixteen rows of the queue from `first` on.
template <int kHeadDim, int kBlocks>
__device__ __forceinline__ void LoadRows(const RowQueue& queue, int first, int lane,
                                         LaneRows<kHeadDim, kBlocks>& rows) {
  const int g = lane / 4;
  const int t = lane % 4;
  const int slots[4] = {first + 2 * t, first + 2 * t + 1, first + 2 * t + 8, first + 2 * t + 9};
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    const int8_t* row = queue.rows[slots[k]];
#pragma unroll
    for (int i = 0; i < kHeadDim / 64; ++i) {
      rows.values[k][i] = __ldg(reinterpret_cast<const uint2*>(row + 64 * i) + g);
    }
  }
#pragma unroll
  for (int b = 0; b < kBlocks; ++b) {
    rows.weights[b][0] = *reinterpret_cast<const uint32_t*>(&queue.coefficients[kColumns * b + g][slots[0]]);
    rows.weights[b][1] = *reinterpret_cast<const uint32_t*>(&queue.coefficients[kColumns * b + g][slots[2]]);
  }
}

// Adds the rows, each times its coefficients.
template <int kHeadDim, int kBlocks>
__device__ __forceinline__ void AddRows(const LaneRows<kHeadDim, kBlocks>& rows,
                                        AttendState<kHeadDim, kBlocks>& state) {
#pragma unroll
  for (int i = 0; i < kHeadDim / 64; ++i) {
    const uint32_t low[4] = {rows.values[0][i].x, rows.values[1][i].x, rows.values[2][i].x, rows.values[3][i].x};
    const uint32_t high[4] = {rows.values[0][i].y, rows.values[1][i].y, rows.values[2][i].y, rows.values[3][i].y};
    AddBytePairs<0>(low, rows.weights, 4 * i, state);
    AddBytePairs<2>(low, rows.weights, 4 * i + 1, state);
    AddBytePairs<0>(high, rows.weights, 4 * i + 2, state);
    AddBytePairs<2>(high, rows.weights, 4 * i + 3, state);
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
  float rest;       // weight of the others
  float rest_term;  // and their term
};

template <int kHeadDim>
__device__ __forceinline__ ClusterWeight WeighCluster(const EstimateLevel<kHeadDim>& level, float logit, float sigma,
                                                      uint32_t size) {
  const float variance = sigma * sigma;
  const float corrected = logit + fminf(level.half * variance, 1.0F);
  const float exponential = Exp2(corrected * kLog2E - level.reference);
  const float weight = size > 0 ? static_cast<float>(size) * exponential : 0;
  return {weight, weight * exponential * (Exp2(fminf(variance, 4.0F) * kLog2E) - 1)};
}

template <int kHeadDim>
__device__ __forceinline__ TileShare WeighTile(const EstimateLevel<kHeadDim>& level, int32_t tile, int lane,
                                               EstimateMemory& memory, EstimateSums& sums) {
  const TileRecord<kHeadDim>* record = level.tiles[tile];
  const int64_t row = static_cast<int64_t>(tile) * level.group + level.query;
  const int64_t first = static_cast<int64_t>(tile) * kClusterTile;
  const float width = level.scores.widths[row];
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
      if (cluster.weight > level.least_weight) {
        share.own |= 1U << c;
        memory.own[c][lane] = {cluster.weight * scale_of[i], cluster.term * scale_of[i]};
      } else {
        share.rest += cluster.weight;
        share.rest_term += cluster.term;
      }
    }
  }
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
  LaneRows<kHeadDim, kBlocks> rows;
  bool loaded = false;
  const auto end = static_cast<int32_t>(Cut(level.n_tiles, task.index + 1, task.parts));
  auto base = static_cast<int32_t>(Cut(level.n_tiles, task.index, task.parts)) + warp * in_pass;
  for (; base < end; base += kEstimateWarps * in_pass) {
    const int32_t tile = base + lane / task.queries;
    TileShare share = {};
    if (has_tile && tile < end) share = WeighTile(level, tile, lane, memory, sums);
    const uint32_t items = share.own | (share.rest > 0 ? kMeanOfTile : 0);
    uint32_t pending = 0;  // clusters of the tile, and its mean, that any query takes
    for (int k = 0; k < task.queries; ++k) pending |= __shfl_sync(kAllLanes, items, (first_lane + k) % 32);
    if (!has_tile) pending = 0;
    while (__any_sync(kAllLanes, pending != 0)) {
      const int count = min(__popc(pending), kTurnRows / in_pass);  // rows of the tile in this turn
      const uint32_t before = SumBefore<32>(column == 0 ? count : 0);
      const int place = first + waiting + __shfl_sync(kAllLanes, before, first_lane);
      const TileRecord<kHeadDim>* record = pending != 0 ? level.tiles[tile] : nullptr;
      for (int i = 0; i < count; ++i) {
        const int c = __ffs(static_cast<int>(pending)) - 1;
        pending &= pending - 1;
        ClusterWeight weight = {0, 0};
        if (c == kClusterTile) {
          weight = {share.rest * record->mean_scale, share.rest_term * record->mean_scale};
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
        if (loaded) AddRows(rows, state);
        LoadRows(queue, first, lane, rows);
        loaded = true;
        first = (first + 16) % kQueueRows;
        waiting -= 16;
        __syncwarp();
      }
    }
  }
  if (loaded) AddRows(rows, state);
  if (waiting == 0) return;
  for (int i = waiting + lane; i < 16; i += 32) {  // the first row again, times nothing
    queue.rows[first + i] = queue.rows[first];
    for (int k = 0; k < 2 * QueriesOf(kBlocks); ++k) queue.coefficients[k][first + i] = __float2bfloat16(0);
  }
  __syncwarp();
  LoadRows(queue, first, lane, rows);
  AddRows(rows, state);
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

// --- exact ----------------------------------------------------------------------------------------------------------

// Turns scores into weights relative to the new maximum of row g and rescales the state to it. `left`: tokens of the
// tile. Rows that are no queries get the weight 0.
template <int kHeadDim, int kBlocks>
__device__ __forceinline__ void SoftmaxTile(float scale, int left, int queries, float (&scores)[2][4],
                                            AttendState<kHeadDim, kBlocks>& state) {
  const int lane = threadIdx.x % 32;
  const bool is_query = lane / 4 < queries;
  float max = state.max;
#pragma unroll
  for (int n = 0; n < 2; ++n) {
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      const bool valid = is_query && 8 * n + lane % 4 * 2 + c < left;
      scores[n][c] = valid ? ClampLogit(scores[n][c] * scale) : -INFINITY;
      max = fmaxf(max, scores[n][c]);
    }
  }
  max = fmaxf(max, __shfl_xor_sync(kAllLanes, max, 1));
  max = fmaxf(max, __shfl_xor_sync(kAllLanes, max, 2));
  if (__any_sync(kAllLanes, max > state.max)) {
    const float factor = Exp2(state.max - max);
    state.max = max;
    state.sum *= factor;
    ScaleOutput(factor, lane, state);
  }
#pragma unroll
  for (int n = 0; n < 2; ++n) {
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      scores[n][c] = Exp2(scores[n][c] - max);
      state.sum += scores[n][c];
    }
  }
}

template <typename T, int kHeadDim, int kBlocks>
__device__ __forceinline__ void AddValues(const float (&weights)[2][4], const uint4 (&values)[4][kHeadDim / 64],
                                          AttendState<kHeadDim, kBlocks>& state) {
  const uint32_t b0 = Mma<T>::Pack(weights[0][0], weights[0][1]);
  const uint32_t b1 = Mma<T>::Pack(weights[1][0], weights[1][1]);
#pragma unroll
  for (int i = 0; i < kHeadDim / 64; ++i) {
    uint32_t words[4][4];  // [token, pair of dims]
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      words[k][0] = values[k][i].x;
      words[k][1] = values[k][i].y;
      words[k][2] = values[k][i].z;
      words[k][3] = values[k][i].w;
    }
#pragma unroll
    for (int e = 0; e < 4; ++e) {  // 0x5410: the low halves of two words, 0x7632: the high ones
      Mma<T>::Run(state.out[0][4 * i + e], __byte_perm(words[0][e], words[1][e], 0x5410),
                  __byte_perm(words[0][e], words[1][e], 0x7632), __byte_perm(words[2][e], words[3][e], 0x5410),
                  __byte_perm(words[2][e], words[3][e], 0x7632), b0, b1);
    }
  }
}

__device__ __forceinline__ const std::byte* ShuffleAddress(const std::byte* address, int lane) {
  const auto bits = __shfl_sync(kAllLanes, reinterpret_cast<unsigned long long>(address), lane);
  return reinterpret_cast<const std::byte*>(bits);
}

// Adds the listed tokens of the part; this is warp `warp` of `warps` that do.
template <typename T, int kHeadDim, int kBlocks>
__device__ __forceinline__ void AttendPart(const StepArgs& args, const Task& task, const T* queries, int stride,
                                           int warp, int warps, AttendState<kHeadDim, kBlocks>& state) {
  const int lane = threadIdx.x % 32;
  const int g = lane / 4;
  const int t = lane % 4;
  const int64_t tokens = args.list_tokens[task.number];
  const std::byte* const* addresses = args.addresses + task.head->first_address;
  const int64_t tiles = (tokens + kTokenTile - 1) / kTokenTile;
  const int64_t end = Cut(tiles, task.index + 1, task.parts);
  // Lane i of a tile holds the address of its token i % 16; behind the list the last one stands again.
  const auto address_of = [&](int64_t tile) {
    return tile < end ? addresses[min(tile * kTokenTile + lane % kTokenTile, tokens - 1)] : nullptr;
  };
  int64_t tile = Cut(tiles, task.index, task.parts) + warp;
  const std::byte* next = address_of(tile);
  if (tile >= end) return;
  uint4 keys[2][kHeadDim / 32];
  uint4 values[4][kHeadDim / 64];
  const auto load_keys = [&](const std::byte* address) {
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      const std::byte* record = ShuffleAddress(address, 8 * n + g);
#pragma unroll
      for (int j = 0; j < kHeadDim / 32; ++j) keys[n][j] = LoadOnce(record + 64 * j + 16 * t);
    }
  };
  const auto load_values = [&](const std::byte* address) {
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const std::byte* record = ShuffleAddress(address, 2 * t + k / 2 * 8 + k % 2) + 2 * kHeadDim;
#pragma unroll
      for (int i = 0; i < kHeadDim / 64; ++i) values[k][i] = LoadOnce(record + 128 * i + 16 * g);
    }
  };
  load_keys(next);
  load_values(next);
  next = address_of(tile + warps);
  for (; tile < end; tile += warps) {
    // Keys and values of the next tile are asked for as soon as this one's are used.
    const bool more = tile + warps < end;
    const std::byte* after = address_of(tile + 2 * warps);
    float scores[2][4] = {};
#pragma unroll
    for (int j = 0; j < kHeadDim / 32; ++j) {
      const uint4 query = *reinterpret_cast<const uint4*>(queries + g * stride + 32 * j + 8 * t);
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        Mma<T>::Run(scores[n], query.x, 0, query.y, 0, keys[n][j].x, keys[n][j].y);
        Mma<T>::Run(scores[n], query.z, 0, query.w, 0, keys[n][j].z, keys[n][j].w);
      }
    }
    if (more) load_keys(next);
    const auto left = static_cast<int>(min(int64_t{kTokenTile}, tokens - tile * kTokenTile));
    SoftmaxTile(args.scale * kLog2E, left, task.queries, scores, state);
    AddValues<T>(scores, values, state);
    if (more) load_values(next);
    next = after;
  }
  state.sum += __shfl_xor_sync(kAllLanes, state.sum, 1);
  state.sum += __shfl_xor_sync(kAllLanes, state.sum, 2);
}

// --- merge ----------------------------------------------------------------------------------------------------------

// Adds the outputs of all warps into warp 0, pair by pair, so that the result does not depend on timing.
template <int kHeadDim, int kBlocks>
__device__ __forceinline__ void AddWarps(float4* shared, AttendState<kHeadDim, kBlocks>& state) {
  constexpr int kCells = kBlocks * kHeadDim / 16 * 32;
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int half = kAttendWarps / 2; half > 0; half /= 2) {
    float4* cells = shared + warp % half * kCells + lane;
    if (warp >= half && warp < 2 * half) {
#pragma unroll
      for (int j = 0; j < kCells / 32; ++j) {
        const float(&x)[4] = state.out[j / (kHeadDim / 16)][j % (kHeadDim / 16)];
        cells[32 * j] = make_float4(x[0], x[1], x[2], x[3]);
      }
    }
    __syncthreads();
    if (warp < half) {
#pragma unroll
      for (int j = 0; j < kCells / 32; ++j) {
        float(&x)[4] = state.out[j / (kHeadDim / 16)][j % (kHeadDim / 16)];
        const float4 other = cells[32 * j];
        x[0] += other.x;
        x[1] += other.y;
        x[2] += other.z;
        x[3] += other.w;
      }
    }
    __syncthreads();
  }
}

// Merges the scalars of rows: `state` gets those of all warps, relative to their largest maximum.
template <int kHeadDim, int kBlocks>
__device__ __forceinline__ void MergeRows(AttendMemory& memory, AttendState<kHeadDim, kBlocks>& state) {
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  const int row = lane / 4;
  if (lane % 4 == 0) {
    memory.max[warp][row] = state.max;
    memory.sum[warp][row] = state.sum;
    memory.estimated[warp][row] = state.estimated;
  }
  __syncthreads();
  float max = memory.max[0][row];
  for (int w = 1; w < kAttendWarps; ++w) max = fmaxf(max, memory.max[w][row]);
  const float factor = state.max == -INFINITY ? 0 : exp2f(state.max - max);
  if (__any_sync(kAllLanes, factor != 1)) ScaleOutput(factor, lane, state);
  state.max = max;
  state.sum = 0;
  state.estimated = {0, 0, 0};
  for (int w = 0; w < kAttendWarps; ++w) {
    const float of_warp = memory.max[w][row];
    state.sum += of_warp == -INFINITY ? 0 : exp2f(of_warp - max) * memory.sum[w][row];
    state.estimated.mass += memory.estimated[w][row].mass;
    state.estimated.energy += memory.estimated[w][row].energy;
    state.estimated.weight += memory.estimated[w][row].weight;
  }
}

template <int kHeadDim, int kBlocks>
__device__ __forceinline__ void WritePart(const AttendState<kHeadDim, kBlocks>& state,
                                          PartState<kHeadDim, kBlocks>& to) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int j = 0; j < kBlocks * kHeadDim / 16; ++j) {
    const float(&x)[4] = state.out[j / (kHeadDim / 16)][j % (kHeadDim / 16)];
    to.out[j][lane] = make_float4(x[0], x[1], x[2], x[3]);
  }
  if (lane % 4 == 0) {
    to.max[lane / 4] = state.max;
    to.sum[lane / 4] = state.sum;
    to.estimated[lane / 4] = state.estimated;
  }
}

// Makes `state` of each warp the sum of every kAttendWarps-th part, relative to the maximum of all.
template <int kHeadDim, int kBlocks>
__device__ __forceinline__ void ReadParts(const PartState<kHeadDim, kBlocks>* parts, int32_t n_parts,
                                          AttendState<kHeadDim, kBlocks>& state) {
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  const int row = lane / 4;
  float max = -INFINITY;
  for (int32_t p = lane % 4; p < n_parts; p += 4) max = fmaxf(max, __ldcg(&parts[p].max[row]));
  max = fmaxf(max, __shfl_xor_sync(kAllLanes, max, 1));
  max = fmaxf(max, __shfl_xor_sync(kAllLanes, max, 2));
  state = {};
  state.max = max;
#pragma unroll 2
  for (int32_t p = warp; p < n_parts; p += kAttendWarps) {
    const PartState<kHeadDim, kBlocks>& part = parts[p];
    const float of_part = __ldcg(&part.max[row]);
    const float factor = of_part == -INFINITY ? 0 : exp2f(of_part - max);
    state.sum += factor * __ldcg(&part.sum[row]);
    state.estimated.mass += __ldcg(&part.estimated[row].mass);
    state.estimated.energy += __ldcg(&part.estimated[row].energy);
    state.estimated.weight += __ldcg(&part.estimated[row].weight);
    const float even = __shfl_sync(kAllLanes, factor, lane % 4 * 8);
    const float odd = __shfl_sync(kAllLanes, factor, lane % 4 * 8 + 4);
#pragma unroll
    for (int j = 0; j < kBlocks * kHeadDim / 16; ++j) {
      const float4 x = __ldcg(&part.out[j][lane]);
      const bool is_output = j < kHeadDim / 16;  // ErrorState::cross has the same reference everywhere
      float(&to)[4] = state.out[j / (kHeadDim / 16)][j % (kHeadDim / 16)];
      to[0] += (is_output ? even : 1) * x.x;
      to[1] += (is_output ? odd : 1) * x.y;
      to[2] += (is_output ? even : 1) * x.z;
      to[3] += (is_output ? odd : 1) * x.w;
    }
  }
}

// Writes what warp 0 holds of the whole head. Twin of FinishState and PredictError.
template <int kHeadDim, int kBlocks>
__device__ __forceinline__ void FinishHead(const StepArgs& args, const Task& task, float reference,
                                           const AttendState<kHeadDim, kBlocks>& state) {
  const int lane = threadIdx.x % 32;
  const int g = lane / 4;
#pragma unroll
  for (int parity = 0; parity < 2; ++parity) {
    const int column = lane % 4 * 2 + parity;
    const int row_lane = column * 4;
    const float sum = __shfl_sync(kAllLanes, state.sum, row_lane);
    const float max = __shfl_sync(kAllLanes, state.max, row_lane);
    const float mass = __shfl_sync(kAllLanes, state.estimated.mass, row_lane);
    const float energy = __shfl_sync(kAllLanes, state.estimated.energy, row_lane);
    const float weight = __shfl_sync(kAllLanes, state.estimated.weight, row_lane);
    const float lowest = __shfl_sync(kAllLanes, reference, row_lane);
    const bool valid = column < task.queries;
    const float inverse = sum > 0 ? 1 / sum : 0;
    const int64_t query = static_cast<int64_t>(task.number) * args.group + task.first_query + column;
    float cross = 0;
    float square = 0;
#pragma unroll
    for (int i = 0; i < kHeadDim / 64; ++i) {
      float x[8];
#pragma unroll
      for (int e = 0; e < 8; ++e) {
        const int j = 4 * i + e / 2;
        const int c = e % 2 * 2 + parity;
        x[e] = state.out[0][j][c] * inverse;
        float error;
        if constexpr (kBlocks == 1) {
          error = __shfl_xor_sync(kAllLanes, state.out[0][j][c], 2);  // four columns on
        } else {
          error = state.out[1][j][c];
        }
        cross += x[e] * error;
        square += x[e] * x[e];
      }
      if (valid) {
        auto* to = reinterpret_cast<float4*>(args.output + query * kHeadDim + 64 * i + 8 * g);
        to[0] = make_float4(x[0], x[1], x[2], x[3]);
        to[1] = make_float4(x[4], x[5], x[6], x[7]);
      }
    }
#pragma unroll
    for (int step = 4; step < 32; step *= 2) {
      cross += __shfl_xor_sync(kAllLanes, cross, step);
      square += __shfl_xor_sync(kAllLanes, square, step);
    }
    if (!valid || g != 0) continue;
    const float factor = lowest == -INFINITY ? 0 : exp2f(lowest - max) * inverse;  // from the estimate's scale
    const float variance = fmaxf(energy - 2 * cross + square * weight, 0) * factor * factor;
    const float ratio = variance > 0 ? sqrtf(variance / fmaxf(square, FLT_MIN)) : 0;
    if (args.lse != nullptr) args.lse[query] = sum > 0 ? (max + log2f(sum)) * kLn2 : -INFINITY;
    if (args.error != nullptr) args.error[query] = fminf(ratio, FLT_MAX);
    if (args.share != nullptr) args.share[query] = fminf(mass * factor, 1.0F);
  }
}

// Grid [parts, blocks of queries]; dynamic shared memory: half the warps' outputs.
template <typename T, int kHeadDim, int kBlocks>
__global__ void __launch_bounds__(32 * kAttendWarps, kHeadDim* kBlocks > 128 ? 1 : 2)
    AttendKernel(const StepArgs args) {
  constexpr int kStride = kHeadDim + 32;  // two rows in one 8-lane load lie in different banks
  extern __shared__ float4 outputs[];
  __shared__ AttendMemory memory;
  __shared__ __align__(16) T queries[kColumns * kStride];
  WaitForInputs();
  LetNextKernelStart();
  const Part part = args.parts[blockIdx.x];
  if (blockIdx.x >= args.size->parts) return;
  Task task;
  task.head = args.heads + part.head;
  task.number = part.head;
  task.first_query = blockIdx.y * QueriesOf(kBlocks);
  task.queries = min(args.group - task.first_query, QueriesOf(kBlocks));
  task.index = part.index;
  task.parts = part.count;
  const int64_t first_row = static_cast<int64_t>(part.head) * args.group + task.first_query;
  for (int i = threadIdx.x; i < kColumns * (kHeadDim / 8); i += blockDim.x) {
    const int row = i / (kHeadDim / 8);
    *reinterpret_cast<uint4*>(&queries[row * kStride + i % (kHeadDim / 8) * 8]) =
        row < task.queries ? static_cast<const uint4*>(args.queries)[first_row * (kHeadDim / 8) + i]
                           : make_uint4(0, 0, 0, 0);
  }
  const int warp = threadIdx.x / 32;
  const int row = threadIdx.x % 32 / 4;
  const bool is_query = row < task.queries;
  const int estimating = args.scores[0].selected[part.head].tiles > 0 ? kEstimateWarps : 0;
  const float reference = is_query ? ReferenceOf(args, part.head, task.first_query + row).largest * kLog2E : -INFINITY;
  AttendState<kHeadDim, kBlocks> state;
  ClearState(state);
  state.max = is_query ? reference : 0;
  __syncthreads();
  if (warp < estimating) {
    Estimate(args, task, memory.estimates[warp], state);
  } else {
    AttendPart(args, task, queries, kStride, warp - estimating, kAttendWarps - estimating, state);
  }
  MergeRows(memory, state);
  AddWarps(outputs, state);
  if (task.parts > 1) {
    auto* states = reinterpret_cast<PartState<kHeadDim, kBlocks>*>(args.states);
    PartState<kHeadDim, kBlocks>* of_head =
        states + static_cast<int64_t>(blockIdx.x - part.index) * gridDim.y + blockIdx.y * task.parts;
    if (warp == 0) {
      WritePart(state, of_head[part.index]);
      __threadfence();
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      uint32_t* arrivals = args.arrivals + static_cast<int64_t>(part.head) * gridDim.y + blockIdx.y;
      memory.is_last = atomicAdd(arrivals, 1) == static_cast<uint32_t>(task.parts) - 1;
      if (memory.is_last) *arrivals = 0;
      __threadfence();
    }
    __syncthreads();
    if (!memory.is_last) return;
    ReadParts(of_head, task.parts, state);
    MergeRows(memory, state);
    AddWarps(outputs, state);
  }
  if (warp == 0) FinishHead(args, task, reference, state);
}

}  // namespace swell::cuda

#endif  // SWELL_CUDA_STEP_ATTEND_CUH_
