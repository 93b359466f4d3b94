// The tensor-core product m16n8k16 with float32 accumulators (PTX mma.sync, sm_80 and later), for f16 and bf16.
// Fragments of lane (g, t), g = lane / 4, t = lane % 4, as the PTX manual has them:
//   A [16, 16]: a0 (g; 2t, 2t+1)  a1 (g+8; 2t, 2t+1)  a2 (g; 2t+8, 2t+9)  a3 (g+8; 2t+8, 2t+9)
//   B [16, 8]:  b0 (2t, 2t+1; g)  b1 (2t+8, 2t+9; g)
//   D [16, 8]:  d0, d1 (g; 2t, 2t+1)  d2, d3 (g+8; 2t, 2t+1)
#ifndef SWELL_CUDA_KERNELS_MMA_CUH_
#define SWELL_CUDA_KERNELS_MMA_CUH_

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

namespace swell::cuda {

template <typename T>
struct Mma;

template <>
struct Mma<__half> {
  static __device__ __forceinline__ void Run(float (&d)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                                             uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
  }
  static __device__ __forceinline__ uint32_t Pack(float low, float high) {
    const __half2 pair = __floats2half2_rn(low, high);
    return reinterpret_cast<const uint32_t&>(pair);
  }
};

template <>
struct Mma<__nv_bfloat16> {
  static __device__ __forceinline__ void Run(float (&d)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                                             uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
  }
  static __device__ __forceinline__ uint32_t Pack(float low, float high) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return reinterpret_cast<const uint32_t&>(pair);
  }
};

}  // namespace swell::cuda

#endif  // SWELL_CUDA_KERNELS_MMA_CUH_
