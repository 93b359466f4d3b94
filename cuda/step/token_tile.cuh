// Sixteen listed token records on their way from memory to the tensor-core products: loads into registers in the order
// of fragments, and what records that come from host memory need besides.
#ifndef SWELL_CUDA_STEP_TOKEN_TILE_CUH_
#define SWELL_CUDA_STEP_TOKEN_TILE_CUH_

#include "cuda/step/step_device.cuh"

namespace swell::cuda {

__device__ __forceinline__ uint2 LoadOnceHalf(const void* from) {
  uint2 value;
  asm volatile("ld.global.nc.L1::no_allocate.v2.u32 {%0,%1}, [%2];" : "=r"(value.x), "=r"(value.y) : "l"(from));
  return value;
}

// Eight signed bytes times `scale`, rounded to T.
template <typename T>
__device__ __forceinline__ uint4 Dequantise(uint32_t low, uint32_t high, float scale) {
  uint32_t words[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const auto pair = static_cast<int32_t>(i < 2 ? low : high) >> (i % 2 * 16);
    words[i] = Mma<T>::Pack(scale * static_cast<float>(static_cast<int8_t>(pair)),
                            scale * static_cast<float>(static_cast<int8_t>(pair >> 8)));
  }
  return make_uint4(words[0], words[1], words[2], words[3]);
}

// kBuffered: the list holds entries of a wave buffer (buffer_view.h), else addresses.
template <bool kBuffered, typename T, int kHeadDim>
struct TokenTile {
  // Of lane (g, t): tokens 8 n + g, dims 32 j + 8 t .. + 8; tokens 2 t + k / 2 * 8 + k % 2, dims 64 i + 8 g .. + 8.
  uint4 keys[2][kHeadDim / 32];
  uint4 values[4][kHeadDim / 64];

  // `entry`: of token lane % 16. The whole warp, as everywhere here.
  __device__ __forceinline__ void LoadKeys(const BufferView& buffer, uint64_t entry) {
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      Load<32>(buffer, __shfl_sync(kAllLanes, entry, 8 * n + g), 0, 8 * t, keys[n]);
    }
  }
  __device__ __forceinline__ void LoadValues(const BufferView& buffer, uint64_t entry) {
    const int g = threadIdx.x % 32 / 4;
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      Load<64>(buffer, __shfl_sync(kAllLanes, entry, TokenOf(k)), kHeadDim, 8 * g, values[k]);
    }
  }

  // True when Finish has something to do.
  static __device__ __forceinline__ bool AnyAtHome(uint64_t entry) {
    return kBuffered && __any_sync(kAllLanes, IsAtHome(entry)) != 0;
  }
  // Makes of what came from home what a record in device memory has, and writes it to its slot.
  __device__ __forceinline__ void FinishKeys(const BufferView& buffer, uint64_t entry) {
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      Finish<32>(buffer, __shfl_sync(kAllLanes, entry, 8 * n + g), 0, 8 * t, keys[n]);
    }
  }
  __device__ __forceinline__ void FinishValues(const BufferView& buffer, uint64_t entry) {
    const int g = threadIdx.x % 32 / 4;
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      Finish<64>(buffer, __shfl_sync(kAllLanes, entry, TokenOf(k)), kHeadDim, 8 * g, values[k]);
    }
  }

 private:
  static __device__ __forceinline__ int TokenOf(int k) { return threadIdx.x % 4 * 2 + k / 2 * 8 + k % 2; }

  // Chunks of eight elements, kStep apart, from element `first` of the half of the record that begins at `half`.
  template <int kStep, int kChunks>
  static __device__ __forceinline__ void Load(const BufferView& buffer, uint64_t entry, int half, int first,
                                              uint4 (&to)[kChunks]) {
    const auto* record = reinterpret_cast<const std::byte*>(entry);
    if constexpr (kBuffered) {
      if (IsAtHome(entry)) record = buffer.home + RecordOfEntry(entry) * buffer.home_record_bytes;
      if (IsAtHome(entry) && buffer.scales != nullptr) {
#pragma unroll
        for (int i = 0; i < kChunks; ++i) {
          const uint2 bytes = LoadOnceHalf(record + half + first + kStep * i);
          to[i].x = bytes.x;
          to[i].y = bytes.y;
        }
        return;
      }
    }
#pragma unroll
    for (int i = 0; i < kChunks; ++i) to[i] = LoadOnce(record + 2 * (half + first + kStep * i));
  }

  template <int kStep, int kChunks>
  static __device__ __forceinline__ void Finish(const BufferView& buffer, uint64_t entry, int half, int first,
                                                uint4 (&chunks)[kChunks]) {
    if (!IsAtHome(entry)) return;
    if (buffer.scales != nullptr) {
      const RowScales scales = buffer.scales[RecordOfEntry(entry)];
#pragma unroll
      for (int i = 0; i < kChunks; ++i) {
        chunks[i] = Dequantise<T>(chunks[i].x, chunks[i].y, half == 0 ? scales.key : scales.value);
      }
    }
    const int32_t slot = SlotOfEntry(entry);
    if (slot < 0) return;
    std::byte* target = buffer.cache + static_cast<int64_t>(slot) * buffer.record_bytes;
#pragma unroll
    for (int i = 0; i < kChunks; ++i) {
      *reinterpret_cast<uint4*>(target + 2 * (half + first + kStep * i)) = chunks[i];
    }
  }
};

}  // namespace swell::cuda

#endif  // SWELL_CUDA_STEP_TOKEN_TILE_CUH_
