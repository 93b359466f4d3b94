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

// exp(x - reference), 0 where x is -inf.
__device__ __forceinline__ float ExpBelow(float x, float reference) {
  return x == -INFINITY ? 0 : exp2f((x - reference) * kLog2E);
}

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

// What one head reads. Twin of PlanBudget in lib/engine/retrieve.cc.
struct HeadBudget {
  int64_t steady_tokens;
  int64_t retrieve;  // tokens or clusters
  int64_t open_tokens;
  bool everything;
  bool upper;  // super-clusters are ranked first
};

__device__ __forceinline__ int64_t CeilShare(float share, int64_t count) {
  return min(count, static_cast<int64_t>(ceil(static_cast<double>(share) * static_cast<double>(count))));
}

__device__ __forceinline__ HeadBudget PlanBudget(const StepArgs& args, const HeadPlan& head) {
  const StepBudget& options = args.budget;
  HeadBudget budget = {};
  budget.steady_tokens = head.fixed_tokens + args.tails[head.tail].tokens;
  const int64_t floor = max(int64_t{0}, options.floor_tokens - budget.steady_tokens);
  int64_t tokens =
      options.retrieve_tokens > 0 ? options.retrieve_tokens : CeilShare(head.retrieve_share, head.clustered_tokens);
  if (options.max_retrieve_tokens > 0) tokens = min(tokens, options.max_retrieve_tokens);
  const int64_t wanted = max(tokens, floor);
  budget.everything = wanted >= head.clustered_tokens;
  if (budget.everything) return budget;
  budget.retrieve = wanted;
  budget.open_tokens = CeilShare(options.open_share, head.clustered_tokens);
  if (options.max_open_tokens > 0) budget.open_tokens = min(budget.open_tokens, options.max_open_tokens);
  budget.open_tokens = max(budget.open_tokens, min(head.clustered_tokens, 4 * wanted));
  budget.upper = args.two_level != 0 && budget.open_tokens < head.clustered_tokens;
  if (options.by_clusters == 0) return budget;
  const double per_token =
      static_cast<double>(head.clusters[0]) / static_cast<double>(max(int64_t{1}, head.clustered_tokens));
  const int64_t by_share =
      options.retrieve_tokens > 0 || options.max_retrieve_tokens > 0
          ? llround(static_cast<double>(tokens) * per_token)
          : llround(static_cast<double>(head.retrieve_share) * static_cast<double>(head.clusters[0]));
  const auto by_floor = static_cast<int64_t>(ceil(static_cast<double>(floor) * per_token));
  budget.retrieve = max(int64_t{1}, max(by_share, by_floor));
  return budget;
}

// Clusters of a level that are estimated, besides those that are read.
__device__ __forceinline__ int64_t EstimateBudget(const StepArgs& args, const HeadPlan& head, int level) {
  return llround(static_cast<double>(args.budget.estimate_share) * static_cast<double>(head.clusters[level]));
}

// The records that the lower or upper level of a head ranks.
template <int kHeadDim>
__device__ __forceinline__ const TileRecord<kHeadDim>* const* TilesOf(const StepArgs& args, const HeadPlan& head,
                                                                      int level, bool upper) {
  const void* const* tiles = level == 0 && upper ? args.opened + head.first_tile[0] : head.tiles[level];
  return reinterpret_cast<const TileRecord<kHeadDim>* const*>(tiles);
}

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
