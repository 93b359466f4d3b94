// Attention of one step: exact over the listed token records, beside it the estimate of the rest, merged over warps,
// over the CTAs of a head, and finished. CPU twins: lib/attention/exact.cc and state.cc.
//
// Scores are a tensor-core product with the queries as rows, outputs the transposed product, dims by queries, so that
// the scores of a warp are at once its weights; K and V go from memory to registers in the order of the fragments.
#ifndef SWELL_CUDA_STEP_ATTEND_CUH_
#define SWELL_CUDA_STEP_ATTEND_CUH_

#include "cuda/step/estimate.cuh"
#include "cuda/step/token_tile.cuh"

namespace swell::cuda {

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

// Adds the listed tokens of the part; this is warp `warp` of `warps` that do. kBuffered is a kernel of its own, because
// telling entries apart costs registers that the loop has not.
template <bool kBuffered, typename T, int kHeadDim, int kBlocks>
__device__ __forceinline__ void AttendPart(const StepArgs& args, const Task& task, const T* queries, int stride,
                                           int warp, int warps, AttendState<kHeadDim, kBlocks>& state) {
  const int lane = threadIdx.x % 32;
  const int g = lane / 4;
  const int t = lane % 4;
  const int64_t tokens = args.list_tokens[task.number];
  const auto* entries = reinterpret_cast<const uint64_t*>(args.addresses + task.head->first_address);
  const int64_t tiles = (tokens + kTokenTile - 1) / kTokenTile;
  const int64_t end = Cut(tiles, task.index + 1, task.parts);
  // Lane i of a tile holds the entry of its token i % 16; behind the list the last one stands again.
  const auto entry_of = [&](int64_t tile) {
    return tile < end ? entries[min(tile * kTokenTile + lane % kTokenTile, tokens - 1)] : 0;
  };
  int64_t tile = Cut(tiles, task.index, task.parts) + warp;
  uint64_t next = entry_of(tile);
  if (tile >= end) return;
  TokenTile<kBuffered, T, kHeadDim> loaded;
  loaded.LoadKeys(args.buffer, next);
  loaded.LoadValues(args.buffer, next);
  bool at_home = loaded.AnyAtHome(next);
  next = entry_of(tile + warps);
  for (; tile < end; tile += warps) {
    // Keys and values of the next tile are asked for as soon as this one's are used.
    const bool more = tile + warps < end;
    const uint64_t after = entry_of(tile + 2 * warps);
    if (at_home) loaded.FinishKeys(args.buffer, entry_of(tile));
    float scores[2][4] = {};
#pragma unroll
    for (int j = 0; j < kHeadDim / 32; ++j) {
      const uint4 query = *reinterpret_cast<const uint4*>(queries + g * stride + 32 * j + 8 * t);
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        const uint4& key = loaded.keys[n][j];
        Mma<T>::Run(scores[n], query.x, 0, query.y, 0, key.x, key.y);
        Mma<T>::Run(scores[n], query.z, 0, query.w, 0, key.z, key.w);
      }
    }
    if (more) loaded.LoadKeys(args.buffer, next);
    const auto left = static_cast<int>(min(int64_t{kTokenTile}, tokens - tile * kTokenTile));
    SoftmaxTile(args.scale * kLog2E, left, task.queries, scores, state);
    if (at_home) loaded.FinishValues(args.buffer, entry_of(tile));
    AddValues<T>(scores, loaded.values, state);
    if (more) loaded.LoadValues(args.buffer, next);
    at_home = loaded.AnyAtHome(next);
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

// How many warps of a CTA estimate: so many that they end when the others have read their tokens. `passes` of
// estimating warps and `tiles` of tokens are the CTA's; a pass takes about as long as three tiles, or as one that
// crosses the bus.
template <bool kBuffered>
__device__ __forceinline__ int EstimatingWarps(int64_t passes, int64_t tiles) {
  constexpr unsigned kPassTime = kBuffered ? 1 : 3;
  const int lane = threadIdx.x % 32;  // stands for a number of warps
  const auto turns = [](int64_t things, int warps) {
    return static_cast<unsigned>(min(things, int64_t{1} << 24) + warps - 1) / static_cast<unsigned>(warps);
  };
  unsigned cost = 0xffffffffU;
  if (lane >= 1 && lane <= kMostEstimating) {
    cost = max(kPassTime * turns(passes, lane), turns(tiles, kAttendWarps - lane)) * 8 + lane;
  }
  return static_cast<int>(__reduce_min_sync(kAllLanes, cost) % 8);
}

// Grid [parts, blocks of queries]; dynamic shared memory: AttendSharedBytes.
template <bool kBuffered, typename T, int kHeadDim, int kBlocks>
__global__ void __launch_bounds__(32 * kAttendWarps, kHeadDim* kBlocks > 128 ? 1 : 2)
    AttendKernel(const StepArgs args) {
  constexpr int kStride = kHeadDim + 32;  // two rows in one 8-lane load lie in different banks
  extern __shared__ float4 outputs[];
  auto* estimates = reinterpret_cast<EstimateMemory*>(outputs);  // until these are needed
  __shared__ AttendMemory memory;
  __shared__ __align__(16) T queries[kColumns * kStride];
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
  WaitForInputs();
  LetNextKernelStart();
  const int64_t estimated = args.scores[0].selected[part.head].tiles;
  const int64_t read = (args.list_tokens[part.head] + kTokenTile - 1) / kTokenTile;
  task.estimating = estimated == 0 ? 0
                                   : EstimatingWarps<kBuffered>(estimated * task.queries / 32 / part.count + 1,
                                                                read / part.count + 1);
  const float reference = is_query ? ReferenceOf(args, part.head, task.first_query + row).largest * kLog2E : -INFINITY;
  AttendState<kHeadDim, kBlocks> state;
  ClearState(state);
  state.max = is_query ? reference : 0;
  __syncthreads();
  if (warp < task.estimating) {
    Estimate(args, task, estimates[warp], state);
  } else {
    AttendPart<kBuffered>(args, task, queries, kStride, warp - task.estimating, kAttendWarps - task.estimating, state);
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
