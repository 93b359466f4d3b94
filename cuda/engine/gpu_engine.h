// The engine on one GPU: sequences whose keys and values arrive in device memory, and decode steps of batches of them
// by the wave index. Twin of swell::Engine. Includable without CUDA.
//
// Any thread; calls take turns. A call that takes a stream enqueues on it and is ordered with nothing else: use one
// stream for everything that touches a sequence, or order streams by events. GpuBatch's Append and Attend can be
// captured in a CUDA graph; every other call refuses a stream that is being captured (kFailedPrecondition).
//
// Errors of every call: kInvalidArgument names the argument, a pointer that is not device memory included; kNotFound
// with kStaleHandle for a sequence that is not there; kResourceExhausted with kNoMemory; kUnavailable once the device
// was lost (a kernel failed): the engine answers nothing more and is to be closed. What fails changes nothing.
#ifndef SWELL_CUDA_ENGINE_GPU_ENGINE_H_
#define SWELL_CUDA_ENGINE_GPU_ENGINE_H_

#include <cstdint>
#include <memory>
#include <span>

#include "swell/engine.h"
#include "swell/status.h"

struct CUstream_st;

namespace swell::cuda {

using Stream = CUstream_st*;  // cudaStream_t

struct GpuEngineOptions {
  int32_t device = 0;
  ModelShape shape;               // head_dim 64, 128 or 256; storage kFloat16 or kBFloat16
  int32_t max_sequences = 1;      // 1..4096
  int32_t sink_tokens = 4;        // first tokens, always exact; 0..1024
  int32_t window_tokens = 64;     // latest tokens, always exact; 0..65536
  int32_t segment_tokens = 1024;  // what lies before the window is sealed in runs of this many; 16..2048
  int32_t cluster_tokens = 8;     // mean tokens of a cluster; segment_tokens / 256 .. 4096
  int32_t iterations = 5;         // of k-means, 1..100
  // Host tier: sealed rows live in pinned host memory, and a cache of them in device memory. 0: all in device memory.
  // With it, steps of all batches are to be enqueued on one stream.
  uint64_t home_bytes = 0;
  uint64_t cache_bytes = 0;
  DType home = DType::kBFloat16;  // of rows in host memory: the storage dtype, or kInt8
};

// Rows of one layer of a sequence: element of a token and a KV head at token * token_stride + head * head_stride.
struct GpuRows {
  uint64_t sequence = 0;
  int32_t layer = 0;
  int64_t position = 0;  // the present length of the layer
  int64_t tokens = 0;
  const void* keys = nullptr;  // device memory, storage dtype, 16-byte aligned
  const void* values = nullptr;
  int64_t token_stride = 0;  // multiple of 8; 0: kv_heads * head_dim
  int64_t head_stride = 0;   // multiple of 8; 0: head_dim
};

// Every token is read.
inline RetrievalOptions Everything() {
  RetrievalOptions options;
  options.ranking = Ranking::kOptimistic;
  options.retrieve_above = 0;
  options.retrieve_share = 1;
  options.max_retrieve_tokens = 0;
  return options;
}

struct GpuBatchOptions {
  int32_t max_sequences = 1;
  int64_t max_tokens = 0;           // of all sequences of the batch, in one layer
  int64_t max_sequence_tokens = 0;  // of one; 0: max_tokens
  RetrievalOptions retrieval;
};

// Device memory, 16-byte aligned; heads are ordered [batch, kv_heads, group].
struct GpuAttend {
  const void* queries = nullptr;     // [heads, head_dim], storage dtype
  float* output = nullptr;           // [heads, head_dim]
  float* lse = nullptr;              // [heads], natural log of the softmax denominator; may be null
  float* predicted_error = nullptr;  // [heads], as a certificate's; may be null
};

struct GpuStats {
  int64_t sequences = 0;
  int64_t batches = 0;
  int64_t sealed_tokens = 0;   // of all layers; what forks share once
  uint64_t segment_bytes = 0;  // of device memory, as the next three: sealed rows (not those at home) and indexes
  uint64_t tail_bytes = 0;     // reserved, with what is not sealed yet
  uint64_t batch_bytes = 0;    // plans and workspaces
  uint64_t cache_bytes = 0;    // of the host tier's cache
  uint64_t home_bytes = 0;     // pinned host memory
};

// Which sequences a step answers, and its workspace. One step at a time. Keeps its engine alive.
class GpuBatch {
 public:
  virtual ~GpuBatch() = default;
  // The sequences that steps answer from now on, in this order; a graph of Append and Attend stays valid. Not while a
  // capture is under way. kResourceExhausted also when a limit of the options is exceeded.
  virtual Status Set(std::span<const uint64_t> sequences, Stream stream) = 0;
  // Adds one token to `layer` of each sequence: keys, values [batch, kv_heads, head_dim] as GpuRows has them.
  virtual Status Append(int32_t layer, const void* keys, const void* values, Stream stream) = 0;
  // The attention of each sequence's latest position.
  virtual Status Attend(int32_t layer, const GpuAttend& call, Stream stream) = 0;
};

class GpuEngine {
 public:
  // kUnavailable without a device, a driver, or one that serves this build.
  static Result<std::shared_ptr<GpuEngine>> Open(const GpuEngineOptions& options);
  virtual ~GpuEngine() = default;

  virtual Result<uint64_t> Create() = 0;
  // Sealed segments are shared, tails copied.
  virtual Result<uint64_t> Fork(uint64_t sequence, Stream stream) = 0;
  // Keeps the first `tokens` of every layer that has more; waits for `stream`. A segment that is cut returns to the
  // tail; sequences that share it keep it.
  virtual Status Truncate(uint64_t sequence, int64_t tokens, Stream stream) = 0;
  // kFailedPrecondition while a batch names the sequence. Steps that are under way keep what they read.
  virtual Status Release(uint64_t sequence) = 0;
  // Tokens of `layer`; waits for `stream`.
  virtual Result<int64_t> Length(uint64_t sequence, int32_t layer, Stream stream) const = 0;

  // Adds rows behind those that are there, and seals; waits for `stream`. kFailedPrecondition with kOutOfOrder;
  // kInvalidArgument with kNonFinite when rows that are sealed hold NaN or Inf.
  virtual Status Put(const GpuRows& rows, Stream stream) = 0;
  // Seals what tails hold beyond the window, in all sequences, and brings batches up to date; waits for `stream`. To be
  // called at least every segment_tokens steps. kDataLoss when it was not, and a step found a tail full: that token is
  // missing. Tokens that could not be sealed for want of memory stay in their tails, and are tried again.
  virtual Status Seal(Stream stream) = 0;

  virtual Result<std::unique_ptr<GpuBatch>> MakeBatch(const GpuBatchOptions& options) = 0;
  virtual Result<GpuStats> Stats() const = 0;
  virtual const GpuEngineOptions& options() const = 0;
};

}  // namespace swell::cuda

#endif  // SWELL_CUDA_ENGINE_GPU_ENGINE_H_
