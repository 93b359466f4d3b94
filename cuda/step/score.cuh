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
constexpr int kWarpTiles = kBlockTiles / kScoreWarps;

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

template <int kHeadDim, int kQuads>
__device__ __forceinline__ void QuantizeQueries(const StepArgs& args, int head, int lane,
                                                QueryColumns<kHeadDim, kQuads>& columns) {
  const int g = lane / 4;
  const int t = lane % 4;
#pragma unroll
  for (int q = 0; q < kQuads; ++q) {
    const int query = 4 * q + g / 2;
    const int64_t row = (static_cast<int64_t>(head) * args.group + query) * kHeadDim + 8 * t;
    const bool valid = query < args.group;
    float largest = 0;
#pragma unroll
    for (int s = 0; s < kHeadDim / 32; ++s) {
      float x[8] = {};
      if (valid) LoadEight(args.queries, row + 32 * s, args.is_half != 0, x);
#pragma unroll
      for (int i = 0; i < 8; ++i) largest = fmaxf(largest, fabsf(x[i]));
    }
    largest = fmaxf(largest, __shfl_xor_sync(kAllLanes, largest, 1));
    largest = fmaxf(largest, __shfl_xor_sync(kAllLanes, largest, 2));
    const float step = largest / 16256 < FLT_MIN ? 0 : largest / 16256;
    const float inverse = step > 0 ? 1 / step : 0;
#pragma unroll
    for (int s = 0; s < kHeadDim / 32; ++s) {
      float x[8] = {};
      if (valid) LoadEight(args.queries, row + 32 * s, args.is_half != 0, x);
      uint32_t words[2] = {};
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const float scaled = x[i] * inverse;
        const int rounded = static_cast<int>(scaled + (scaled < 0 ? -0.5F : 0.5F));
        const int high = (rounded + 64) >> 7;
        const int part = g % 2 == 0 ? high : rounded - high * 128;
        words[i / 4] |= (static_cast<uint32_t>(part) & 0xffU) << (8 * (i % 4));
      }
      columns.bytes[q][s][0] = words[0];
      columns.bytes[q][s][1] = words[1];
    }
    columns.steps[q] = __shfl_sync(kAllLanes, step, 8 * t);  // the lane of column 2 t
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

__device__ __forceinline__ void MergeBlockSums(const BlockSums& from, BlockSums& into) {
  MergeSums(from.max_logit, from.mass, into.max_logit, into.mass);
  MergeSums(from.max_rank, from.ranks, into.max_rank, into.ranks);
}

// Finite, so that differences are numbers.
constexpr BlockSums kNoSums = {-FLT_MAX, 0, -FLT_MAX, 0};

// What a lane holds of a tile: its part of the centroids and clusters 2 g and 2 g + 1.
template <int kHeadDim>
struct LaneTile {
  uint4 centroids[kHeadDim / 32];
  float2 scales, spreads;
  uint2 sizes;
  const Frame<kHeadDim>* frame;
  const void* content;
};

template <int kHeadDim>
__device__ __forceinline__ void LoadTile(const TileRecord<kHeadDim>* record, int lane, LaneTile<kHeadDim>& tile) {
#pragma unroll
  for (int s = 0; s < kHeadDim / 32; ++s) tile.centroids[s] = LoadOnce(record->centroids[s][lane]);
  tile.scales = __ldg(reinterpret_cast<const float2*>(record->scales) + lane / 4);
  tile.spreads = __ldg(reinterpret_cast<const float2*>(record->spreads) + lane / 4);
  tile.sizes = __ldg(reinterpret_cast<const uint2*>(record->sizes) + lane / 4);
  tile.frame = record->frame;
  tile.content = record->content;
}

// Writes the scores of one tile, at place `to` of the score arrays, and adds them to `sums`.
template <int kHeadDim, int kQuads>
__device__ __forceinline__ void ScoreTile(const StepArgs& args, int level, const LaneTile<kHeadDim>& tile,
                                          const QueryColumns<kHeadDim, kQuads>& columns,
                                          const FrameTerms<kQuads>& terms, int64_t to, int lane,
                                          BlockSums (&sums)[kQuads]) {
  const LevelScores& scores = args.scores[level];
  const int g = lane / 4;
  const int t = lane % 4;
  const float kappa = args.rules.by_mass != 0 ? 0 : args.rules.kappa;
  const bool has_x = tile.sizes.x > 0;
  const bool has_y = tile.sizes.y > 0;
#pragma unroll
  for (int q = 0; q < kQuads; ++q) {
    int dots[4] = {};
#pragma unroll
    for (int s = 0; s < kHeadDim / 32; ++s) {
      MmaBytes(dots, tile.centroids[s], columns.bytes[q][s][0], columns.bytes[q][s][1]);
    }
    const int query = 4 * q + t;
    float2 logits;
    logits.x = static_cast<float>(128 * dots[0] + dots[1]);
    logits.y = static_cast<float>(128 * dots[2] + dots[3]);
    logits.x = ClampLogit(args.scale * (tile.scales.x * (columns.steps[q] * logits.x) + terms.centers[q]));
    logits.y = ClampLogit(args.scale * (tile.scales.y * (columns.steps[q] * logits.y) + terms.centers[q]));
    if (query < args.group) {
      *reinterpret_cast<float2*>(scores.logits + (to * args.group + query) * kClusterTile + 2 * g) = logits;
      if (g == 0) scores.widths[to * args.group + query] = terms.widths[q];
    }
    const float x = has_x ? logits.x : -INFINITY;
    const float y = has_y ? logits.y : -INFINITY;
    AddPair(x, static_cast<float>(tile.sizes.x), y, static_cast<float>(tile.sizes.y), sums[q].max_logit, sums[q].mass);
    AddPair(fminf(x + kappa * ClampLogit(tile.spreads.x * terms.widths[q]), FLT_MAX), 1,
            fminf(y + kappa * ClampLogit(tile.spreads.y * terms.widths[q]), FLT_MAX), 1, sums[q].max_rank,
            sums[q].ranks);
  }
  if (t == 0) {
    *reinterpret_cast<uint4*>(scores.shapes + to * kClusterTile + 2 * g) =
        make_uint4(__float_as_uint(tile.spreads.x), tile.sizes.x, __float_as_uint(tile.spreads.y), tile.sizes.y);
  }
  if (lane == 0) scores.contents[to] = tile.content;
}

// Reduces the sums of a warp over its clusters, then those of the CTA's warps, and writes them at `to` [group].
template <int kQuads>
__device__ __forceinline__ void WriteBlockSums(int group, BlockSums (&sums)[kQuads], BlockSums* to) {
  __shared__ BlockSums of_warps[kScoreWarps][4 * kQuads];
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int q = 0; q < kQuads; ++q) {
#pragma unroll
    for (int step = 4; step < 32; step *= 2) {
      BlockSums other;
      other.max_logit = __shfl_xor_sync(kAllLanes, sums[q].max_logit, step);
      other.mass = __shfl_xor_sync(kAllLanes, sums[q].mass, step);
      other.max_rank = __shfl_xor_sync(kAllLanes, sums[q].max_rank, step);
      other.ranks = __shfl_xor_sync(kAllLanes, sums[q].ranks, step);
      MergeBlockSums(other, sums[q]);
    }
    if (lane < 4) of_warps[threadIdx.x / 32][4 * q + lane] = sums[q];
  }
  __syncthreads();
  if (threadIdx.x < group) {
    BlockSums all = of_warps[0][threadIdx.x];
    for (int w = 1; w < kScoreWarps; ++w) MergeBlockSums(of_warps[w][threadIdx.x], all);
    to[threadIdx.x] = all;
  }
  __syncthreads();
}

// Grid [parts of the level].
template <int kHeadDim, int kQuads>
__global__ void __launch_bounds__(32 * kScoreWarps, kHeadDim* kQuads > 256 ? 2 : 4)
    ScoreKernel(const StepArgs args, int level) {
  constexpr int kInFlight = kHeadDim > 128 ? 2 : kWarpTiles;
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  WaitForInputs();
  LetNextKernelStart();
  const ScorePart part = args.score_parts[level][blockIdx.x];  // behind the last there is room to read
  if (blockIdx.x >= args.size->score_parts[level]) return;
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
  const int32_t blocks = (n_tiles + kBlockTiles - 1) / kBlockTiles;
  const auto first_block = static_cast<int32_t>(Cut(blocks, part.index, part.count));
  const auto end_block = static_cast<int32_t>(Cut(blocks, part.index + 1, part.count));
  QueryColumns<kHeadDim, kQuads> columns;
  bool quantized = false;
  const Frame<kHeadDim>* frame = nullptr;
  FrameTerms<kQuads> terms;
  for (int32_t block = first_block; block < end_block; ++block) {
    BlockSums sums[kQuads];
    for (BlockSums& sum : sums) sum = kNoSums;
    const int32_t begin = block * kBlockTiles + warp * kWarpTiles;
#pragma unroll
    for (int group = 0; group < kWarpTiles; group += kInFlight) {
      const int32_t first = begin + group;
      LaneTile<kHeadDim> loaded[kInFlight];
#pragma unroll
      for (int i = 0; i < kInFlight; ++i) {
        if (first + i < n_tiles) LoadTile(static_cast<const TileRecord<kHeadDim>*>(tiles[first + i]), lane, loaded[i]);
      }
      if (!quantized) QuantizeQueries(args, part.head, lane, columns);  // while the tiles come
      quantized = true;
#pragma unroll
      for (int i = 0; i < kInFlight; ++i) {
        if (first + i >= n_tiles) continue;
        if (loaded[i].frame != frame) {
          frame = loaded[i].frame;
          FillTerms(args, part.head, *frame, lane, terms);
        }
        ScoreTile(args, level, loaded[i], columns, terms, part.first_tile + first + i, lane, sums);
      }
    }
    WriteBlockSums(args.group, sums, args.scores[level].sums + (part.first_tile / kBlockTiles + block) * args.group);
  }
}

}  // namespace swell::cuda

#endif  // SWELL_CUDA_STEP_SCORE_CUH_
