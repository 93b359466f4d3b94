// Exact decode attention on the device: one query position of each sequence over all its tokens, split over the tokens
// (split-KV, as FlashDecoding), the whole group of a KV head at once. CPU twin: attention::AttendRuns and FinishState.
//
// Includable without nvcc. Launching allocates nothing, waits for nothing, and can be captured in a CUDA graph, which
// stays valid while sequences grow: lengths and addresses are read from device memory when the kernel runs.
#ifndef SWELL_CUDA_KERNELS_DECODE_ATTENTION_H_
#define SWELL_CUDA_KERNELS_DECODE_ATTENTION_H_

#include <driver_types.h>

#include <cstddef>
#include <cstdint>

#include "swell/status.h"
#include "swell/types.h"

namespace swell::cuda {

// Rows of one KV head of one sequence. Addresses are those of the device and multiples of 16 bytes.
struct DeviceRun {
  const void* keys = nullptr;    // [tokens, head_dim], dense
  const void* values = nullptr;  // same
  int64_t tokens = 0;            // 0 or less: none
};

// Every pointer is a device pointer. "heads" are KV heads of all sequences of the batch.
struct DecodeAttentionArgs {
  const void* queries = nullptr;    // [heads, group, head_dim], dtype, 16-byte aligned
  const DeviceRun* runs = nullptr;  // [heads]
  float* output = nullptr;          // [heads, group, head_dim]; zeros where there is no token
  float* lse = nullptr;             // [heads, group], natural log, -inf where there is no token; may be null
  int32_t heads = 0;                // 1 ..
  int32_t group = 1;                // 1 .. kMaxGroup
  int32_t head_dim = 0;             // 64, 128 or 256
  DType dtype = DType::kFloat16;    // of queries, keys and values: kFloat16 or kBFloat16
  int32_t splits = 1;               // 1 .. kMaxDecodeSplits: parts into which each run is cut
  float scale = 0;                  // of q . k, finite
};

constexpr int32_t kMaxDecodeSplits = 1024;

// Splits that fill a device of so many multiprocessors when runs have about `tokens` tokens.
int32_t DecodeAttentionSplits(int32_t heads, int64_t tokens, int32_t multiprocessors);

// kInvalidArgument names the field that is out of range.
Status CheckDecodeAttention(const DecodeAttentionArgs& args);

// Bytes of device memory for the partial states of the splits; 0 when CheckDecodeAttention refuses `args`.
size_t DecodeAttentionWorkspaceBytes(const DecodeAttentionArgs& args);

// Enqueues the work on `stream`. `workspace` is used until the stream has passed it, is 16-byte aligned, and may be
// shared by launches on the same stream. kInvalidArgument; kUnavailable when the device has no code in this build;
// kInternal.
Status LaunchDecodeAttention(const DecodeAttentionArgs& args, void* workspace, size_t workspace_bytes,
                             cudaStream_t stream);

}  // namespace swell::cuda

#endif  // SWELL_CUDA_KERNELS_DECODE_ATTENTION_H_
