// Device code that the kernels of a step share.
#ifndef SWELL_CUDA_STEP_STEP_DEVICE_CUH_
#define SWELL_CUDA_STEP_STEP_DEVICE_CUH_

#include <cuda_runtime.h>

#include <cfloat>

#include "cuda/device/device.h"
#include "cuda/kernels/mma.cuh"
#include "cuda/step/step_args.h"

namespace swell::cuda {

constexpr float kLog2E = 1.4426950408889634F;
constexpr float kLn2 = 0.6931471805599453F;
constexpr unsigned kAllLanes = 0xffffffffU;

__device__ __forceinline__ float ClampLogit(float x) { return fminf(fmaxf(x, -FLT_MAX), FLT_MAX); }

// 2^x within 2 ulp; 0 for what is no normal number.
__device__ __forceinline__ float Exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// exp(x - reference), 0 where x is -inf; the reference is finite.
__device__ __forceinline__ float ExpBelow(float x, float reference) { return Exp2((x - reference) * kLog2E); }

// Programmatic dependent launch: a kernel starts while the one before it ends, and waits here before it reads anything
// that was written on the device in this step.
__device__ __forceinline__ void WaitForInputs() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
__device__ __forceinline__ void LetNextKernelStart() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// Bytes that are read once in a step stay out of the first cache.
__device__ __forceinline__ uint4 LoadOnce(const void* from) {
  uint4 value;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
               : "l"(from));
  return value;
}

// Asks for the bytes that lie there, for the second cache.
__device__ __forceinline__ void PrefetchLine(const void* from) { asm volatile("prefetch.global.L2 [%0];" ::"l"(from)); }

// Eight elements of a query, as floats.
__device__ __forceinline__ void LoadEight(const void* queries, int64_t element, bool is_half, float (&to)[8]) {
  const uint4 raw = *reinterpret_cast<const uint4*>(static_cast<const uint16_t*>(queries) + element);
  const uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 pair = is_half ? __half22float2(reinterpret_cast<const __half2&>(words[i]))
                                : __bfloat1622float2(reinterpret_cast<const __nv_bfloat162&>(words[i]));
    to[2 * i] = pair.x;
    to[2 * i + 1] = pair.y;
  }
}

// What one head reads in this step.
struct HeadBudget {
  int64_t steady_tokens;
  int64_t retrieve;  // tokens or clusters
  int64_t open_tokens;
  bool everything;
  bool upper;  // super-clusters are ranked first
};

__device__ __forceinline__ HeadBudget PlanBudget(const StepArgs& args, const HeadPlan& head) {
  HeadBudget budget = {};
  budget.steady_tokens = head.fixed_tokens + args.tails[head.tail].tokens;
  const int64_t floor = max(int64_t{0}, args.rules.floor_tokens - budget.steady_tokens);
  const int64_t tokens = max(head.share_tokens, floor);
  budget.everything = tokens >= head.clustered_tokens;
  if (budget.everything) return budget;
  budget.open_tokens = max(head.open_tokens, min(head.clustered_tokens, 4 * tokens));
  budget.upper = args.rules.two_level != 0 && budget.open_tokens < head.clustered_tokens;
  budget.retrieve = tokens;
  if (args.rules.by_clusters != 0) {
    const int64_t by_floor = (floor * head.clusters + head.clustered_tokens - 1) / head.clustered_tokens;
    budget.retrieve = max(int64_t{1}, max(head.share_clusters, by_floor));
  }
  return budget;
}

// The record of token `i` of those that are read whatever the query is: fixed runs, then the tail.
template <int kHeadDim>
__device__ __forceinline__ const std::byte* SteadyRecord(const StepArgs& args, const HeadPlan& head, const Tail& tail,
                                                         int64_t i) {
  constexpr int64_t kRecordBytes = 4 * kHeadDim;
  if (i >= head.fixed_tokens) {
    return tail.rows + (static_cast<int64_t>(head.kv_head) * tail.capacity + i - head.fixed_tokens) * kRecordBytes;
  }
  int run = head.first_run;
  while (i >= args.runs[run].tokens) i -= args.runs[run++].tokens;
  return args.runs[run].rows + i * kRecordBytes;
}

// The records that the lower or upper level of a head ranks.
template <int kHeadDim>
__device__ __forceinline__ const TileRecord<kHeadDim>* const* TilesOf(const StepArgs& args, const HeadPlan& head,
                                                                      int level, bool upper) {
  const void* const* tiles = level == 0 && upper ? args.opened + head.first_tile[0] : head.tiles[level];
  return reinterpret_cast<const TileRecord<kHeadDim>* const*>(tiles);
}

// What a cluster ranks by, except under kMass. The same bits wherever it is computed.
__device__ __forceinline__ float RankOf(float logit, float kappa, float spread, float width) {
  return __fmaf_rn(kappa, __fmul_rn(spread, width), logit);
}

// The arrays of tiles from `tile` on.
__device__ __forceinline__ LevelScores ScoresFrom(LevelScores scores, int64_t tile, int32_t group) {
  scores.logits += tile * group * kClusterTile;
  scores.widths += tile * group;
  scores.tops += tile * group;
  scores.shapes += tile * kClusterTile;
  scores.contents += tile;
  scores.keys += tile * kClusterTile;
  return scores;
}

// Where part `index` of `parts` of `count` things begins.
__device__ __forceinline__ int64_t Cut(int64_t count, int32_t index, int32_t parts) { return count * index / parts; }

// Launches with leave to start before its predecessor on the stream has ended, unless it is the `first` of a step.
template <typename... Parameters>
Status LaunchStep(const char* name, dim3 grid, unsigned threads, size_t shared_bytes, unsigned cluster, bool first,
                  cudaStream_t stream, void (*kernel)(Parameters...), Parameters... parameters) {
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  cudaLaunchAttribute attributes[2];
  if (!first) {
    attributes[config.numAttrs].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[config.numAttrs++].val.programmaticStreamSerializationAllowed = 1;
  }
  if (cluster > 1) {
    attributes[config.numAttrs].id = cudaLaunchAttributeClusterDimension;
    attributes[config.numAttrs].val.clusterDim.x = cluster;
    attributes[config.numAttrs].val.clusterDim.y = 1;
    attributes[config.numAttrs++].val.clusterDim.z = 1;
  }
  config.attrs = attributes;
  return FromCuda(cudaLaunchKernelEx(&config, kernel, parameters...), name);
}

}  // namespace swell::cuda

#endif  // SWELL_CUDA_STEP_STEP_DEVICE_CUH_
