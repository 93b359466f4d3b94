// Device code that the kernels of an index build share. A warp holds a row of head_dim elements as kHeadDim / 32
// successive ones a lane.
#ifndef SWELL_CUDA_BUILD_BUILD_DEVICE_CUH_
#define SWELL_CUDA_BUILD_BUILD_DEVICE_CUH_

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "cuda/build/build_args.h"
#include "cuda/kernels/mma.cuh"

namespace swell::cuda {

constexpr unsigned kWholeWarp = 0xffffffffU;

template <int kHeadDim>
constexpr int kLaneDims = kHeadDim / 32;

// Two-byte elements of a lane, as many words of two as it holds.
template <int kHeadDim>
struct alignas(kHeadDim / 16) LaneWords {
  uint32_t words[kHeadDim / 64];
};

__device__ __forceinline__ float2 ToFloats(uint32_t word, bool is_half) {
  return is_half ? __half22float2(reinterpret_cast<const __half2&>(word))
                 : __bfloat1622float2(reinterpret_cast<const __nv_bfloat162&>(word));
}

__device__ __forceinline__ uint32_t ToHalves(float low, float high, bool is_half) {
  return is_half ? Mma<__half>::Pack(low, high) : Mma<__nv_bfloat16>::Pack(low, high);
}

// The bits of the larger magnitude of each half of two words; NaN and Inf have larger ones than numbers.
__device__ __forceinline__ uint32_t MaxMagnitude(uint32_t a, uint32_t b) { return __vmaxu2(a, b & 0x7fff7fffU); }
__device__ __forceinline__ bool IsFinite(uint32_t magnitude, bool is_half) {
  return magnitude < (is_half ? 0x7c00U : 0x7f80U);
}

__device__ __forceinline__ float WarpSum(float x) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) x += __shfl_xor_sync(kWholeWarp, x, distance);
  return x;
}
__device__ __forceinline__ float WarpMax(float x) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) x = fmaxf(x, __shfl_xor_sync(kWholeWarp, x, distance));
  return x;
}

// Rows of one task in the caller's memory.
__device__ __forceinline__ const uint16_t* SourceRows(const BuildArgs& args, const uint16_t* rows, int task) {
  const int64_t segment = task / args.kv_heads;
  return rows + segment * args.tokens * args.token_stride + task % args.kv_heads * args.head_stride;
}

__device__ __forceinline__ std::byte* MemoryOf(const BuildArgs& args, int task) {
  return args.memory + task * args.head_bytes;
}

// [tokens] of one task: its tokens cluster by cluster, as its rows are stored.
__device__ __forceinline__ uint16_t* OrderOf(const BuildArgs& args, int task) {
  return reinterpret_cast<uint16_t*>(MemoryOf(args, task) + args.places.offsets);
}

}  // namespace swell::cuda

#endif  // SWELL_CUDA_BUILD_BUILD_DEVICE_CUH_
