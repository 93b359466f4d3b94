#include <cuda_runtime_api.h>

#include "cuda/device/device.h"
#include "cuda/step/tail_kernels.h"

namespace swell::cuda {
namespace {

constexpr int kThreads = 256;

// Words of 16 bytes of a key, of which a token record has twice as many.
__device__ __forceinline__ int KeyWords(int32_t head_dim) { return head_dim / 8; }

// Grid [sequences]; one CTA a sequence, because all its heads have one count.
__global__ void __launch_bounds__(kThreads)
    AppendKernel(const PlanSize* size, const HeadPlan* heads, Tail* tails, int32_t kv_heads, int32_t head_dim,
                 const uint4* keys, const uint4* values, int32_t* overflow) {
  const int64_t sequence = blockIdx.x;
  if (sequence * kv_heads >= size->heads) return;
  Tail& tail = tails[heads[sequence * kv_heads].tail];
  const int32_t count = tail.tokens;
  if (count >= tail.capacity) {
    if (threadIdx.x == 0) *overflow = 1;
    return;
  }
  const int words = KeyWords(head_dim);
  for (int i = threadIdx.x; i < kv_heads * words; i += kThreads) {
    const int64_t record = static_cast<int64_t>(i / words) * tail.capacity + count;
    uint4* to = reinterpret_cast<uint4*>(tail.rows) + record * 2 * words + i % words;
    to[0] = keys[sequence * kv_heads * words + i];
    to[words] = values[sequence * kv_heads * words + i];
  }
  __syncthreads();  // all have read the count
  if (threadIdx.x == 0) tail.tokens = count + 1;
}

// One CTA.
__global__ void __launch_bounds__(kThreads)
    DropTailKernel(Tail* tail, int32_t kv_heads, int32_t head_dim, int32_t tokens) {
  const int words = 2 * KeyWords(head_dim);
  const int32_t dropped = min(tokens, tail->tokens);
  const int32_t left = tail->tokens - dropped;
  for (int h = 0; h < kv_heads; ++h) {
    uint4* rows = reinterpret_cast<uint4*>(tail->rows) + static_cast<int64_t>(h) * tail->capacity * words;
    // Front to back, so that what is overwritten has been read.
    for (int64_t first = 0; first < static_cast<int64_t>(left) * words; first += kThreads) {
      const int64_t i = first + threadIdx.x;
      const bool valid = i < static_cast<int64_t>(left) * words;
      const uint4 word = valid ? rows[i + static_cast<int64_t>(dropped) * words] : make_uint4(0, 0, 0, 0);
      __syncthreads();
      if (valid) rows[i] = word;
      __syncthreads();
    }
  }
  if (threadIdx.x == 0) tail->tokens = left;
}

// Grid [kv_heads].
__global__ void __launch_bounds__(kThreads) CopyTailKernel(const Tail* from, Tail* to, int32_t head_dim) {
  const int64_t words = 2 * KeyWords(head_dim);
  const auto* source = reinterpret_cast<const uint4*>(from->rows) + blockIdx.x * from->capacity * words;
  auto* target = reinterpret_cast<uint4*>(to->rows) + blockIdx.x * to->capacity * words;
  for (int64_t i = threadIdx.x; i < from->tokens * words; i += kThreads) target[i] = source[i];
  if (blockIdx.x == 0 && threadIdx.x == 0) to->tokens = from->tokens;
}

// Grid [CTAs, kv_heads].
__global__ void __launch_bounds__(kThreads)
    CopyRowsKernel(DeviceRows rows, int64_t tokens, int32_t head_dim, uint4* records, int64_t capacity) {
  const int64_t words = KeyWords(head_dim);
  const auto* keys = static_cast<const uint4*>(rows.keys) + blockIdx.y * (rows.head_stride / 8);
  const auto* values = static_cast<const uint4*>(rows.values) + blockIdx.y * (rows.head_stride / 8);
  uint4* to = records + blockIdx.y * capacity * 2 * words;
  const int64_t stride = int64_t{gridDim.x} * kThreads;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < tokens * words; i += stride) {
    const int64_t token = i / words;
    const int64_t from = token * (rows.token_stride / 8) + i % words;
    to[token * 2 * words + i % words] = keys[from];
    to[token * 2 * words + words + i % words] = values[from];
  }
}

}  // namespace

Status LaunchAppend(const PlanSize* size, const HeadPlan* heads, Tail* tails, int32_t max_sequences, int32_t kv_heads,
                    int32_t head_dim, const void* keys, const void* values, int32_t* overflow, cudaStream_t stream) {
  AppendKernel<<<max_sequences, kThreads, 0, stream>>>(size, heads, tails, kv_heads, head_dim,
                                                       static_cast<const uint4*>(keys),
                                                       static_cast<const uint4*>(values), overflow);
  return FromCuda(cudaGetLastError(), "append");
}

Status LaunchDropTail(Tail* tail, int32_t kv_heads, int32_t head_dim, int32_t tokens, cudaStream_t stream) {
  DropTailKernel<<<1, kThreads, 0, stream>>>(tail, kv_heads, head_dim, tokens);
  return FromCuda(cudaGetLastError(), "drop of a tail");
}

Status LaunchCopyTail(const Tail* from, Tail* to, int32_t kv_heads, int32_t head_dim, cudaStream_t stream) {
  CopyTailKernel<<<kv_heads, kThreads, 0, stream>>>(from, to, head_dim);
  return FromCuda(cudaGetLastError(), "copy of a tail");
}

Status LaunchCopyRows(const DeviceRows& rows, int64_t tokens, int32_t kv_heads, int32_t head_dim, void* records,
                      int64_t capacity, cudaStream_t stream) {
  if (tokens == 0) return OkStatus();
  constexpr int64_t kMostCtas = 256;  // of a head
  const int64_t ctas = (tokens * (head_dim / 8) + kThreads - 1) / kThreads;
  const dim3 grid(static_cast<unsigned>(ctas < kMostCtas ? ctas : kMostCtas), static_cast<unsigned>(kv_heads));
  CopyRowsKernel<<<grid, kThreads, 0, stream>>>(rows, tokens, head_dim, static_cast<uint4*>(records), capacity);
  return FromCuda(cudaGetLastError(), "copy of rows");
}

}  // namespace swell::cuda
