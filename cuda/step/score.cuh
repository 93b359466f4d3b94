// Scores of clusters: logit and sigma of every cluster under every query of the group, and what the softmaxes over them
// need. CPU twin: lib/attention/score.cc.
//
// Queries are taken in 15 bits as two signed bytes, 128 high + low, which are two columns of an 8-bit tensor-core
// product with sixteen centroids: the sums are exact integers, the same as those of the CPU twin with byte products.
#ifndef SWELL_CUDA_STEP_SCORE_CUH_
#define SWELL_CUDA_STEP_SCORE_CUH_

#include "cuda/step/step_device.cuh"

namespace swell::cuda {

constexpr int kScoreWarps = 4;
constexpr int kStages = 4;  // tiles of a warp that are under way

// The part of a record that scoring reads, in shared memory.
template <int kHeadDim>
struct alignas(16) ScoredRecord {
  int8_t centroids[kHeadDim / 32][32][16];
  float scales[kClusterTile];
  float spreads[kClusterTile];
  uint32_t sizes[kClusterTile];
  const Frame<kHeadDim>* frame;
  const void* content;
};
static_assert(offsetof(TileRecord<64>, content) == offsetof(ScoredRecord<64>, content));
static_assert(offsetof(TileRecord<256>, content) == offsetof(ScoredRecord<256>, content));

// D += A B of m16n8k32, signed bytes. A's rows g and g + 8 and B's column g of lane (g, t) are four bytes at 4 t and
// four at 16 + 4 t; D: d0, d1 (g; 2t, 2t+1), d2, d3 (g+8; 2t, 2t+1).
__device__ __forceinline__ void MmaBytes(int (&d)[4], const uint4& a, uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
      : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b0), "r"(b1));
}

// The queries of a group as columns: column 2 i of quad q is the high, 2 i + 1 the low byte of query 4 q + i.
template <int kHeadDim, int kQuads>
struct QueryColumns {
  uint32_t bytes[kQuads][kHeadDim / 32][2];  // of this lane's column g
  float steps[kQuads];                       // of query 4 q + t
};

// Queries as bytes, [high, low]; queries that the group has not are zeros.
template <int kHeadDim, int kQuads>
struct QueryBytes {
  uint32_t bytes[4 * kQuads][2][kHeadDim / 4];
  float steps[4 * kQuads];
};

// One warp a query in turn; for all warps of the CTA.
template <int kHeadDim, int kQuads>
__device__ __forceinline__ void QuantizeQueries(const StepArgs& args, int head, QueryBytes<kHeadDim, kQuads>& to) {
  const int lane = threadIdx.x % 32;
  for (int query = threadIdx.x / 32; query < 4 * kQuads; query += kScoreWarps) {
    const int dim = 8 * lane;
    float x[8] = {};
    if (dim < kHeadDim && query < args.group) {
      LoadEight(args.queries, (static_cast<int64_t>(head) * args.group + query) * kHeadDim + dim, args.is_half != 0, x);
    }
    float largest = 0;
#pragma unroll
    for (int e = 0; e < 8; ++e) largest = fmaxf(largest, fabsf(x[e]));
#pragma unroll
    for (int step = 1; step < 32; step *= 2) largest = fmaxf(largest, __shfl_xor_sync(kAllLanes, largest, step));
    const float step = largest / 16256 < FLT_MIN ? 0 : largest / 16256;
    const float inverse = step > 0 ? 1 / step : 0;
    if (lane == 0) to.steps[query] = step;
    if (dim >= kHeadDim) continue;
    uint32_t words[2][2] = {};
#pragma unroll
    for (int e = 0; e < 8; ++e) {
      const float scaled = x[e] * inverse;
      const int rounded = static_cast<int>(scaled + (scaled < 0 ? -0.5F : 0.5F));
      const int high = (rounded + 64) >> 7;
      words[0][e / 4] |= (static_cast<uint32_t>(high) & 0xffU) << (8 * (e % 4));
      words[1][e / 4] |= (static_cast<uint32_t>(rounded - high * 128) & 0xffU) << (8 * (e % 4));
    }
#pragma unroll
    for (int part = 0; part < 2; ++part) {
      to.bytes[query][part][dim / 4] = words[part][0];
      to.bytes[query][part][dim / 4 + 1] = words[part][1];
    }
  }
}

template <int kHeadDim, int kQuads>
__device__ __forceinline__ void LoadColumns(const QueryBytes<kHeadDim, kQuads>& from, int lane,
                                            QueryColumns<kHeadDim, kQuads>& columns) {
  const int g = lane / 4;
  const int t = lane % 4;
#pragma unroll
  for (int q = 0; q < kQuads; ++q) {
    columns.steps[q] = from.steps[4 * q + t];
#pragma unroll
    for (int s = 0; s < kHeadDim / 32; ++s) {
      columns.bytes[q][s][0] = from.bytes[4 * q + g / 2][g % 2][8 * s + 2 * t];
      columns.bytes[q][s][1] = from.bytes[4 * q + g / 2][g % 2][8 * s + 2 * t + 1];
    }
  }
}

// What the scores of a frame's clusters have in common, for query 4 q + t.
template <int kQuads>
struct FrameTerms {
  float centers[kQuads];  // q . center
  float widths[kQuads];   // scale sqrt(sum q^2 profile)
};

template <int kHeadDim, int kQuads>
__device__ __forceinline__ void FillTerms(const StepArgs& args, int head, const Frame<kHeadDim>& frame, int lane,
                                          FrameTerms<kQuads>& terms) {
  const int g = lane / 4;
  const int t = lane % 4;
#pragma unroll
  for (int q = 0; q < kQuads; ++q) {
    const int query = min(4 * q + t, args.group - 1);
    float center = 0;
    float width = 0;
#pragma unroll
    for (int i = 8 * g; i < kHeadDim; i += 64) {
      float x[8];
      LoadEight(args.queries, (static_cast<int64_t>(head) * args.group + query) * kHeadDim + i, args.is_half != 0, x);
#pragma unroll
      for (int e = 0; e < 8; e += 4) {
        const float4 c = *reinterpret_cast<const float4*>(frame.center + i + e);
        const float4 p = *reinterpret_cast<const float4*>(frame.profile + i + e);
        center += x[e] * c.x + x[e + 1] * c.y + x[e + 2] * c.z + x[e + 3] * c.w;
        width += x[e] * x[e] * p.x + x[e + 1] * x[e + 1] * p.y + x[e + 2] * x[e + 2] * p.z + x[e + 3] * x[e + 3] * p.w;
      }
    }
#pragma unroll
    for (int step = 4; step < 32; step *= 2) {
      center += __shfl_xor_sync(kAllLanes, center, step);
      width += __shfl_xor_sync(kAllLanes, width, step);
    }
    terms.centers[q] = center;
    terms.widths[q] = args.scale * sqrtf(width);
  }
}

// Adds weight_x exp(x) + weight_y exp(y) to sum exp(max); x and y may be -inf.
__device__ __forceinline__ void AddPair(float x, float weight_x, float y, float weight_y, float& max, float& sum) {
  const float larger = fmaxf(max, fmaxf(x, y));
  sum = sum * ExpBelow(max, larger) + weight_x * ExpBelow(x, larger) + weight_y * ExpBelow(y, larger);
  max = larger;
}

__device__ __forceinline__ void MergeSums(float from_max, float from_sum, float& max, float& sum) {
  const float larger = fmaxf(max, from_max);
  sum = sum * ExpBelow(max, larger) + from_sum * ExpBelow(from_max, larger);
  max = larger;
}

__device__ __forceinline__ void MergePartSums(const PartSums& from, PartSums& into) {
  MergeSums(from.max_logit, from.mass, into.max_logit, into.mass);
  MergeSums(from.max_rank, from.ranks, into.max_rank, into.ranks);
}

// Finite, so that differences are numbers.
constexpr PartSums kNoSums = {-FLT_MAX, 0, -FLT_MAX, 0};

// Starts the copy of a record by the warp; a null one makes an empty group of copies.
template <int kHeadDim>
__device__ __forceinline__ void StartCopy(const void* record, int lane, ScoredRecord<kHeadDim>* to) {
  if (record != nullptr) {
    const auto shared = static_cast<uint32_t>(__cvta_generic_to_shared(to));
    const auto* from = static_cast<const std::byte*>(record);
#pragma unroll
    for (uint32_t i = 16 * lane; i < sizeof(ScoredRecord<kHeadDim>); i += 16 * 32) {
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared + i), "l"(from + i) : "memory");
    }
  }
  asm volatile("cp.async.commit_group;" ::: "memory");
}

// Waits for all but the latest `kLeft` groups of copies.
template <int kLeft>
__device__ __forceinline__ void WaitForCopies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kLeft) : "memory");
  __syncwarp();
}

// Writes the scores of one tile, at place `to` of the score arrays, and adds them to `sums`.
template <int kHeadDim, int kQuads>
__device__ __forceinline__ void ScoreTile(const StepArgs& args, int level, const ScoredRecord<kHeadDim>& tile,
                                          const QueryColumns<kHeadDim, kQuads>& columns,
                                          const FrameTerms<kQuads>& terms, int64_t to, int lane,
                                          PartSums (&sums)[kQuads]) {
  const LevelScores& scores = args.scores[level];
  const int g = lane / 4;
  const int t = lane % 4;
  const float kappa = args.rules.by_mass != 0 ? 0 : args.rules.kappa;
  // Of clusters 2 g and 2 g + 1.
  const float2 scales = reinterpret_cast<const float2*>(tile.scales)[g];
  const float2 spreads = reinterpret_cast<const float2*>(tile.spreads)[g];
  const uint2 sizes = reinterpret_cast<const uint2*>(tile.sizes)[g];
#pragma unroll
  for (int q = 0; q < kQuads; ++q) {
    int dots[4] = {};
#pragma unroll
    for (int s = 0; s < kHeadDim / 32; ++s) {
      MmaBytes(dots, *reinterpret_cast<const uint4*>(tile.centroids[s][lane]), columns.bytes[q][s][0],
               columns.bytes[q][s][1]);
    }
    const int query = 4 * q + t;
    float2 logits;
    logits.x = static_cast<float>(128 * dots[0] + dots[1]);
    logits.y = static_cast<float>(128 * dots[2] + dots[3]);
    logits.x = ClampLogit(args.scale * (scales.x * (columns.steps[q] * logits.x) + terms.centers[q]));
    logits.y = ClampLogit(args.scale * (scales.y * (columns.steps[q] * logits.y) + terms.centers[q]));
    if (query < args.group) {
      *reinterpret_cast<float2*>(scores.logits + (to * args.group + query) * kClusterTile + 2 * g) = logits;
      if (g == 0) scores.widths[to * args.group + query] = terms.widths[q];
    }
    const float x = sizes.x > 0 ? logits.x : -INFINITY;
    const float y = sizes.y > 0 ? logits.y : -INFINITY;
    if (level == 0 && args.rules.least > -INFINITY) {
      float top = fmaxf(RankOf(x, kappa, spreads.x, terms.widths[q]), RankOf(y, kappa, spreads.y, terms.widths[q]));
#pragma unroll
      for (int step = 4; step < 32; step *= 2) top = fmaxf(top, __shfl_xor_sync(kAllLanes, top, step));
      if (g == 0 && query < args.group) scores.tops[to * args.group + query] = top;
    }
    AddPair(x, static_cast<float>(sizes.x), y, static_cast<float>(sizes.y), sums[q].max_logit, sums[q].mass);
    if (args.rules.by_share != 0) continue;
    AddPair(fminf(x + kappa * ClampLogit(spreads.x * terms.widths[q]), FLT_MAX), 1,
            fminf(y + kappa * ClampLogit(spreads.y * terms.widths[q]), FLT_MAX), 1, sums[q].max_rank, sums[q].ranks);
  }
  if (t == 0) {
    *reinterpret_cast<uint4*>(scores.shapes + to * kClusterTile + 2 * g) =
        make_uint4(__float_as_uint(spreads.x), sizes.x, __float_as_uint(spreads.y), sizes.y);
  }
  if (lane == 0) scores.contents[to] = tile.content;
}

// Adds this part's share of the steady tokens to the second softmax of `sums`: eight lanes a token. Tokens in host
// memory, of a segment that has no clusters, are left out.
template <int kHeadDim, int kQuads>
__device__ __forceinline__ void AddSteadyTokens(const StepArgs& args, const ScorePart& part, PartSums (&sums)[kQuads]) {
  constexpr int kLanes = 8;
  constexpr int kTeams = 32 / kLanes;             // of a warp
  constexpr int kChunks = kHeadDim / 8 / kLanes;  // of eight elements, of a lane
  const HeadPlan& head = args.heads[part.head];
  const Tail tail = args.tails[head.tail];
  const int64_t count = head.fixed_tokens + tail.tokens;
  const int lane = threadIdx.x % kLanes;
  const int warp = part.index * kScoreWarps + static_cast<int>(threadIdx.x) / 32;
  const int team = warp * kTeams + static_cast<int>(threadIdx.x) % 32 / kLanes;
  const int teams = part.count * kScoreWarps * kTeams;
  for (int64_t first = static_cast<int64_t>(warp) * kTeams; first < count; first += teams) {
    const int64_t token = first - static_cast<int64_t>(warp) * kTeams + team;
    const std::byte* record = token < count ? SteadyRecord<kHeadDim>(args, head, tail, token) : nullptr;
    const bool counts = record != nullptr && reinterpret_cast<uint64_t>(record) < kHomeBase;
    float key[kChunks][8] = {};
#pragma unroll
    for (int c = 0; counts && c < kChunks; ++c) {
      LoadEight(record, 8 * (lane + kLanes * c), args.is_half != 0, key[c]);
    }
#pragma unroll
    for (int query = 0; query < 4 * kQuads; ++query) {
      if (query >= args.group) break;
      float dot = 0;
#pragma unroll
      for (int c = 0; c < kChunks; ++c) {
        float x[8];
        LoadEight(args.queries,
                  (static_cast<int64_t>(part.head) * args.group + query) * kHeadDim + 8 * (lane + kLanes * c),
                  args.is_half != 0, x);
#pragma unroll
        for (int e = 0; e < 8; ++e) dot += x[e] * key[c][e];
      }
#pragma unroll
      for (int step = 1; step < kLanes; step *= 2) dot += __shfl_xor_sync(kAllLanes, dot, step);
      if (!counts || lane != query % 4) continue;
      AddPair(ClampLogit(args.scale * dot), 1, -INFINITY, 0, sums[query / 4].max_rank, sums[query / 4].ranks);
    }
  }
}

// Reduces the sums of a warp over its clusters, then those of the CTA's warps, and writes them at `to` [group].
template <int kQuads>
__device__ __forceinline__ void WriteSums(int group, PartSums (&sums)[kQuads], PartSums* to) {
  __shared__ PartSums of_warps[kScoreWarps][4 * kQuads];
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int q = 0; q < kQuads; ++q) {
#pragma unroll
    for (int step = 4; step < 32; step *= 2) {
      PartSums other;
      other.max_logit = __shfl_xor_sync(kAllLanes, sums[q].max_logit, step);
      other.mass = __shfl_xor_sync(kAllLanes, sums[q].mass, step);
      other.max_rank = __shfl_xor_sync(kAllLanes, sums[q].max_rank, step);
      other.ranks = __shfl_xor_sync(kAllLanes, sums[q].ranks, step);
      MergePartSums(other, sums[q]);
    }
    if (lane < 4) of_warps[threadIdx.x / 32][4 * q + lane] = sums[q];
  }
  __syncthreads();
  if (threadIdx.x < group) {
    PartSums all = of_warps[0][threadIdx.x];
    for (int w = 1; w < kScoreWarps; ++w) MergePartSums(of_warps[w][threadIdx.x], all);
    to[threadIdx.x] = all;
  }
}

// Grid [parts of the level]; dynamic shared memory: kStages records a warp.
template <int kHeadDim, int kQuads>
__global__ void __launch_bounds__(32 * kScoreWarps, kHeadDim* kQuads > 256 ? 2 : 4)
    ScoreKernel(const StepArgs args, int level) {
  extern __shared__ uint4 stages[];
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  const ScorePart part = args.score_parts[level][blockIdx.x];  // behind the last there is room to read
  if (blockIdx.x >= args.size->score_parts[level]) return;
  __shared__ QueryBytes<kHeadDim, kQuads> bytes;
  QuantizeQueries(args, part.head, bytes);
  WaitForInputs();
  LetNextKernelStart();
  const void* const* tiles = part.tiles;
  int32_t n_tiles = part.n_tiles;
  if (args.rules.two_level != 0) {
    const HeadPlan& head = args.heads[part.head];
    if (level == 1) {
      if (!PlanBudget(args, head).upper) return;
    } else if (const int32_t opened = args.scores[1].selected[part.head].opened; opened >= 0) {
      tiles = args.opened + head.first_tile[0];
      n_tiles = opened;
    }
  }
  const int32_t shares = part.count * kScoreWarps;
  const auto first = static_cast<int32_t>(Cut(n_tiles, part.index * kScoreWarps + warp, shares));
  const auto end = static_cast<int32_t>(Cut(n_tiles, part.index * kScoreWarps + warp + 1, shares));
  auto* ring = reinterpret_cast<ScoredRecord<kHeadDim>*>(stages) + warp * kStages;
  // Lane i knows the record of tile `first` + i, later those of the next 32.
  const void* record = first + lane < end ? tiles[first + lane] : nullptr;
  const auto start = [&](int32_t tile) {
    const int32_t i = (tile - first) % 32;
    if (i == 0 && tile > first) record = tile + lane < end ? tiles[tile + lane] : nullptr;
    const auto bits = __shfl_sync(kAllLanes, reinterpret_cast<unsigned long long>(record), i);
    StartCopy(tile < end ? reinterpret_cast<const void*>(bits) : nullptr, lane, ring + (tile - first) % kStages);
  };
  for (int32_t i = 0; i < kStages - 1; ++i) start(first + i);
  __syncthreads();
  QueryColumns<kHeadDim, kQuads> columns;
  LoadColumns(bytes, lane, columns);
  PartSums sums[kQuads];
#pragma unroll
  for (int q = 0; q < kQuads; ++q) sums[q] = kNoSums;
  if (args.rules.by_share != 0) AddSteadyTokens<kHeadDim>(args, part, sums);
  const Frame<kHeadDim>* frame = nullptr;
  FrameTerms<kQuads> terms;
  for (int32_t tile = first; tile < end; ++tile) {
    start(tile + kStages - 1);
    WaitForCopies<kStages - 1>();
    const ScoredRecord<kHeadDim>& scored = ring[(tile - first) % kStages];
    if (scored.frame != frame) {
      frame = scored.frame;
      FillTerms(args, part.head, *frame, lane, terms);
    }
    ScoreTile(args, level, scored, columns, terms, part.first_tile + tile, lane, sums);
    __syncwarp();  // before the place is written again
  }
  WriteSums(args.group, sums, args.scores[level].sums + static_cast<int64_t>(blockIdx.x) * args.group);
}

}  // namespace swell::cuda

#endif  // SWELL_CUDA_STEP_SCORE_CUH_
