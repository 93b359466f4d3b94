// Kernels of decode_attention.h.
//
// One CTA attends one split of one KV head; its warps take tiles of tokens in turn and merge at the end. Scores and
// outputs are tensor-core products whose 16 rows are the queries of the group, padded with zeros. K and V go straight
// from global memory to registers in 16-byte loads, without shared memory or transposition, because a product does not
// care in which order its inner dimension runs:
//   S = Q K^T   lane (g, t) holds dims 32 j + 8 t .. + 8 of token g: both products of step j, with Q in the same order
//   O = P V     lane (g, t) holds dims 64 i + 8 g .. + 8 of the four tokens whose P it holds; output tile 8 i + e has
//   the
//               dims 64 i + 8 n + e, n = 0 .. 7
#ifndef SWELL_CUDA_KERNELS_DECODE_ATTENTION_CUH_
#define SWELL_CUDA_KERNELS_DECODE_ATTENTION_CUH_

#include "cuda/kernels/decode_attention.h"
#include "cuda/kernels/mma.cuh"

namespace swell::cuda {

constexpr int kDecodeWarps = 4;
constexpr int kDecodeTile = 32;  // tokens of a warp's step
constexpr int kRows = 16;        // kMaxGroup, the rows of a product
constexpr float kLog2E = 1.4426950408889634F;
constexpr float kLn2 = 0.6931471805599453F;

// Partial state of one split in the workspace: max [group] (of log2-scaled scores), sum [group], out [group, head_dim].
__device__ __forceinline__ float* SplitState(const DecodeAttentionArgs& args, float* workspace, int64_t head,
                                             int64_t split) {
  return workspace + (head * args.splits + split) * args.group * (args.head_dim + 2);
}

// State of one warp: rows g and g + 8 of lane (g, t).
template <int kHeadDim>
struct WarpState {
  float max[2] = {-INFINITY, -INFINITY};
  float sum[2] = {0, 0};  // of this lane's columns only
  float out[kHeadDim / 8][4] = {};
};

__device__ __forceinline__ uint4 LoadOrZero(const uint4* at, bool valid) {
  return valid ? __ldg(at) : make_uint4(0, 0, 0, 0);
}

// scores[n] = Q K^T of tokens 8 n .. 8 n + 8 of the tile, rows past `count` read as zeros.
template <typename T, int kHeadDim, int kStride>
__device__ __forceinline__ void ScoreTile(const T* shared_queries, const T* keys, int count, int g, int t,
                                          float (&scores)[kDecodeTile / 8][4]) {
#pragma unroll
  for (int n = 0; n < kDecodeTile / 8; ++n) {
    const bool valid = 8 * n + g < count;
    const uint4* row = reinterpret_cast<const uint4*>(keys + (8 * n + g) * kHeadDim + 8 * t);
    uint4 key[kHeadDim / 32];
#pragma unroll
    for (int j = 0; j < kHeadDim / 32; ++j) key[j] = LoadOrZero(row + 4 * j, valid);
#pragma unroll
    for (int j = 0; j < kHeadDim / 32; ++j) {
      const uint4 low = *reinterpret_cast<const uint4*>(shared_queries + g * kStride + 32 * j + 8 * t);
      const uint4 high = *reinterpret_cast<const uint4*>(shared_queries + (g + 8) * kStride + 32 * j + 8 * t);
      Mma<T>::Run(scores[n], low.x, high.x, low.y, high.y, key[j].x, key[j].y);
      Mma<T>::Run(scores[n], low.z, high.z, low.w, high.w, key[j].z, key[j].w);
    }
  }
}

// Turns scores into weights relative to the new maximum and rescales the state to it.
template <int kHeadDim>
__device__ __forceinline__ void Softmax(float scale, int count, int t, float (&scores)[kDecodeTile / 8][4],
                                        WarpState<kHeadDim>& state) {
  float max[2] = {state.max[0], state.max[1]};
#pragma unroll
  for (int n = 0; n < kDecodeTile / 8; ++n) {
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      scores[n][c] = 8 * n + 2 * t + c % 2 < count ? scores[n][c] * scale : -INFINITY;
      max[c / 2] = fmaxf(max[c / 2], scores[n][c]);
    }
  }
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    max[r] = fmaxf(max[r], __shfl_xor_sync(0xffffffffU, max[r], 1));
    max[r] = fmaxf(max[r], __shfl_xor_sync(0xffffffffU, max[r], 2));
    const float factor = exp2f(state.max[r] - max[r]);  // the maximum is finite: a tile has at least one token
    state.max[r] = max[r];
    state.sum[r] *= factor;
#pragma unroll
    for (int j = 0; j < kHeadDim / 8; ++j) {
      state.out[j][2 * r] *= factor;
      state.out[j][2 * r + 1] *= factor;
    }
  }
#pragma unroll
  for (int n = 0; n < kDecodeTile / 8; ++n) {
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      scores[n][c] = exp2f(scores[n][c] - max[c / 2]);
      state.sum[c / 2] += scores[n][c];
    }
  }
}

// out += P V.
template <typename T, int kHeadDim>
__device__ __forceinline__ void AddValues(const float (&weights)[kDecodeTile / 8][4], const T* values, int count, int g,
                                          int t, WarpState<kHeadDim>& state) {
#pragma unroll
  for (int u = 0; u < kDecodeTile / 16; ++u) {
    const float(&first)[4] = weights[2 * u];
    const float(&second)[4] = weights[2 * u + 1];
    const uint32_t a0 = Mma<T>::Pack(first[0], first[1]);
    const uint32_t a1 = Mma<T>::Pack(first[2], first[3]);
    const uint32_t a2 = Mma<T>::Pack(second[0], second[1]);
    const uint32_t a3 = Mma<T>::Pack(second[2], second[3]);
#pragma unroll
    for (int i = 0; i < kHeadDim / 64; ++i) {
      uint32_t value[4][4];  // [token, pair of dims]
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const int token = 16 * u + 2 * t + (k / 2) * 8 + k % 2;
        const uint4* row = reinterpret_cast<const uint4*>(values + token * kHeadDim + 64 * i + 8 * g);
        const uint4 loaded = LoadOrZero(row, token < count);
        value[k][0] = loaded.x;
        value[k][1] = loaded.y;
        value[k][2] = loaded.z;
        value[k][3] = loaded.w;
      }
#pragma unroll
      for (int e = 0; e < 8; ++e) {
        const uint32_t select = e % 2 == 0 ? 0x5410 : 0x7632;  // the same half of two tokens' pairs
        Mma<T>::Run(state.out[8 * i + e], a0, a1, a2, a3, __byte_perm(value[0][e / 2], value[1][e / 2], select),
                    __byte_perm(value[2][e / 2], value[3][e / 2], select));
      }
    }
  }
}

// Merges the warps of the CTA, one after the other so that the result does not depend on timing, into `to`.
template <int kHeadDim>
__device__ __forceinline__ void MergeWarps(WarpState<kHeadDim>& state, int group, float* to) {
  __shared__ float max[kDecodeWarps][kRows];
  __shared__ float sum[kRows];
  // Cell [row][8 j + n] is dim 64 (j / 8) + 8 n + j % 8, as the lanes hold it; the padding keeps their rows in
  // different banks.
  __shared__ __align__(8) float out[kRows][kHeadDim + 8];
  const int warp = threadIdx.x / 32;
  const int g = threadIdx.x % 32 / 4;
  const int t = threadIdx.x % 4;
  float factor[2];
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    state.sum[r] += __shfl_xor_sync(0xffffffffU, state.sum[r], 1);
    state.sum[r] += __shfl_xor_sync(0xffffffffU, state.sum[r], 2);
    if (t == 0) max[warp][g + 8 * r] = state.max[r];
  }
  __syncthreads();
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float all = max[0][g + 8 * r];  // warp 0 has the first tile, so this is finite
    for (int w = 1; w < kDecodeWarps; ++w) all = fmaxf(all, max[w][g + 8 * r]);
    factor[r] = exp2f(state.max[r] - all);
    if (warp == 0 && t == 0 && g + 8 * r < group) to[g + 8 * r] = all;
  }
  for (int turn = 0; turn < kDecodeWarps; ++turn) {
    if (turn == warp) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const int row = g + 8 * r;
        if (t == 0) sum[row] = (turn == 0 ? 0 : sum[row]) + factor[r] * state.sum[r];
#pragma unroll
        for (int j = 0; j < kHeadDim / 8; ++j) {
          float2& cell = reinterpret_cast<float2&>(out[row][8 * j + 2 * t]);
          float2 merged = turn == 0 ? make_float2(0, 0) : cell;
          merged.x += factor[r] * state.out[j][2 * r];
          merged.y += factor[r] * state.out[j][2 * r + 1];
          cell = merged;
        }
      }
    }
    __syncthreads();
  }
  for (int row = threadIdx.x; row < group; row += blockDim.x) to[group + row] = sum[row];
  for (int i = threadIdx.x; i < group * kHeadDim; i += blockDim.x) {
    const int dim = i % kHeadDim;
    to[2 * group + i] = out[i / kHeadDim][dim / 64 * 64 + dim % 8 * 8 + dim % 64 / 8];
  }
}

// Grid [heads, splits].
template <typename T, int kHeadDim>
__global__ void __launch_bounds__(32 * kDecodeWarps)
    DecodeSplitKernel(const DecodeAttentionArgs args, float* __restrict__ workspace) {
  constexpr int kStride = kHeadDim + 32;  // two rows in one 8-lane load lie in different banks
  __shared__ __align__(16) T queries[kRows * kStride];
  const int64_t head = blockIdx.x;
  const DeviceRun run = args.runs[head];
  float* to = SplitState(args, workspace, head, blockIdx.y);

  constexpr int64_t kStep = kDecodeTile * kDecodeWarps;
  const int64_t steps = run.tokens <= 0 ? 0 : (run.tokens + kStep - 1) / kStep;
  const int64_t share = (steps + args.splits - 1) / args.splits * kStep;
  const int64_t begin = blockIdx.y * share;
  const int64_t end = min(begin + share, run.tokens);
  if (begin >= end) {
    for (int row = threadIdx.x; row < args.group; row += blockDim.x) to[row] = -INFINITY;
    return;
  }

  const uint4* from = static_cast<const uint4*>(args.queries) + head * args.group * (kHeadDim / 8);
  for (int i = threadIdx.x; i < kRows * (kHeadDim / 8); i += blockDim.x) {
    const int row = i / (kHeadDim / 8);
    *reinterpret_cast<uint4*>(&queries[row * kStride + i % (kHeadDim / 8) * 8]) =
        LoadOrZero(from + i, row < args.group);
  }
  __syncthreads();

  const int warp = threadIdx.x / 32;
  const int g = threadIdx.x % 32 / 4;
  const int t = threadIdx.x % 4;
  WarpState<kHeadDim> state;
  for (int64_t first = begin + warp * kDecodeTile; first < end; first += kStep) {
    const int count = static_cast<int>(min(static_cast<int64_t>(kDecodeTile), end - first));
    float scores[kDecodeTile / 8][4] = {};
    ScoreTile<T, kHeadDim, kStride>(queries, static_cast<const T*>(run.keys) + first * kHeadDim, count, g, t, scores);
    Softmax<kHeadDim>(args.scale * kLog2E, count, t, scores, state);
    AddValues<T, kHeadDim>(scores, static_cast<const T*>(run.values) + first * kHeadDim, count, g, t, state);
  }
  MergeWarps<kHeadDim>(state, args.group, to);
}

// Grid [heads, group], one thread a dim: merges the splits and finishes the state.
__global__ void DecodeMergeKernel(const DecodeAttentionArgs args, const float* __restrict__ workspace) {
  __shared__ float factors[kMaxDecodeSplits];
  const int64_t head = blockIdx.x;
  const int row = blockIdx.y;
  const int dim = threadIdx.x;
  const int64_t stride = static_cast<int64_t>(args.group) * (args.head_dim + 2);
  const float* states = workspace + head * args.splits * stride;
  for (int split = dim; split < args.splits; split += blockDim.x) factors[split] = states[split * stride + row];
  __syncthreads();
  float max = -INFINITY;
  for (int split = 0; split < args.splits; ++split) max = fmaxf(max, factors[split]);
  __syncthreads();
  // An empty split has the factor 0 and has written nothing but its maximum.
  for (int split = dim; split < args.splits; split += blockDim.x) {
    factors[split] = factors[split] == -INFINITY ? 0 : exp2f(factors[split] - max);
  }
  __syncthreads();
  float sum = 0;
  float out = 0;
#pragma unroll 8
  for (int split = 0; split < args.splits; ++split) {
    const float* state = states + split * stride + args.group;
    const float factor = factors[split];
    sum += factor > 0 ? factor * state[row] : 0;
    out += factor > 0 ? factor * state[args.group + row * args.head_dim + dim] : 0;
  }
  const int64_t query = head * args.group + row;
  args.output[query * args.head_dim + dim] = sum > 0 ? out / sum : 0;
  if (args.lse != nullptr && dim == 0) args.lse[query] = sum > 0 ? (max + log2f(sum)) * kLn2 : -INFINITY;
}

}  // namespace swell::cuda

#endif  // SWELL_CUDA_KERNELS_DECODE_ATTENTION_CUH_
