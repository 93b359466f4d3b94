// Kernels that change tails. Includable without nvcc; they enqueue on `stream`, can be captured, and return a launch's
// error.
#ifndef SWELL_CUDA_STEP_TAIL_KERNELS_H_
#define SWELL_CUDA_STEP_TAIL_KERNELS_H_

#include <driver_types.h>

#include <cstdint>

#include "cuda/step/layout.h"
#include "swell/status.h"

namespace swell::cuda {

// Adds one token to the tail of each sequence that the plan names; `keys`, `values` [sequences, kv_heads, head_dim]
// 2-byte elements. A tail that is full stays as it is, and *overflow becomes 1.
Status LaunchAppend(const PlanSize* size, const HeadPlan* heads, Tail* tails, int32_t max_sequences, int32_t kv_heads,
                    int32_t head_dim, const void* keys, const void* values, int32_t* overflow, cudaStream_t stream);

// Takes the first `tokens` off a tail.
Status LaunchDropTail(Tail* tail, int32_t kv_heads, int32_t head_dim, int32_t tokens, cudaStream_t stream);

// Copies the first tokens of `from`, as many as it has, to `to`, whose capacity is no smaller.
Status LaunchCopyTail(const Tail* from, Tail* to, int32_t kv_heads, int32_t head_dim, cudaStream_t stream);

// Rows of keys and values in device memory, 2-byte elements, 16-byte aligned: element of a token and a head is at
// token * token_stride + head * head_stride; strides are multiples of 8.
struct DeviceRows {
  const void* keys = nullptr;
  const void* values = nullptr;
  int64_t token_stride = 0;
  int64_t head_stride = 0;
};

// Writes the first `tokens` rows of each head as token records: head h from records + h * capacity records on.
Status LaunchCopyRows(const DeviceRows& rows, int64_t tokens, int32_t kv_heads, int32_t head_dim, void* records,
                      int64_t capacity, cudaStream_t stream);

}  // namespace swell::cuda

#endif  // SWELL_CUDA_STEP_TAIL_KERNELS_H_
