// One decode step of a batch on the device: for each query head the attention of one position over everything its
// sequence holds, by the wave index. Twin of AttendMode::kRetrieve in lib/engine, for all KV in device memory.
//
// Set a plan for every layer, capture Append and Launch of all layers in a CUDA graph if you like, and replay it:
// neither waits for the device nor allocates, and sizes and addresses are read from device memory, so the graph stays
// valid while tails grow and when a plan is set again. Not thread-safe; everything is ordered on the stream it is
// given.
#ifndef SWELL_CUDA_STEP_DECODE_STEP_H_
#define SWELL_CUDA_STEP_DECODE_STEP_H_

#include <driver_types.h>

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "cuda/buffer/wave_buffer.h"
#include "cuda/step/device_memory.h"
#include "cuda/step/plan.h"
#include "cuda/step/sequences.h"
#include "cuda/step/step_args.h"
#include "swell/engine.h"
#include "swell/status.h"

namespace swell::cuda {

struct DecodeStepOptions {
  HeadShape shape;                  // head_dim 64, 128 or 256; kFloat16 or kBFloat16; scale 0: 1 / sqrt(head_dim)
  int32_t max_batch = 1;            // sequences
  int64_t max_tokens = 0;           // of all sequences of a batch, in one layer
  int64_t max_sequence_tokens = 0;  // of one
  int32_t cluster_tokens = 8;       // mean, as in IndexOptions
  RetrievalOptions retrieval;
  std::shared_ptr<WaveBuffer> buffer;  // for segments whose rows are in host memory; may be null
};

// Device memory, 16-byte aligned. Heads are ordered [batch, kv_heads, group]; what the plan does not name is left
// alone.
struct DecodeCall {
  const void* queries = nullptr;  // [heads, head_dim], storage dtype
  float* output = nullptr;        // [heads, head_dim]
  float* lse = nullptr;           // [heads]; may be null, as the next two
  float* predicted_error = nullptr;
  float* estimated_share = nullptr;
};

class DecodeStep {
 public:
  // `sequences` must outlive the step. kInvalidArgument; kResourceExhausted; kUnavailable.
  static Result<std::unique_ptr<DecodeStep>> Make(const DecodeStepOptions& options, const Sequences* sequences);
  ~DecodeStep();
  DecodeStep(const DecodeStep&) = delete;
  DecodeStep& operator=(const DecodeStep&) = delete;

  // Says which sequences the steps of `layer` answer from now on, in which order. To be called again when one of them
  // gained a segment. Cannot be captured. kNotFound; kResourceExhausted when a limit of the options is exceeded.
  Status SetBatch(int32_t layer, std::span<const int32_t> batch, cudaStream_t stream);

  // Adds one token to each sequence of the batch: `keys`, `values` [batch, kv_heads, head_dim] in device memory,
  // storage dtype, 16-byte aligned. kInvalidArgument; kInternal.
  Status Append(int32_t layer, const void* keys, const void* values, cudaStream_t stream);
  // True when an Append found a tail full and left it alone. Waits for `stream`.
  Result<bool> HasOverflowed(cudaStream_t stream) const;

  Status Launch(int32_t layer, const DecodeCall& call, cudaStream_t stream);
  // The first `stages` kernels of a step alone, to time them.
  Status LaunchStages(int32_t layer, const DecodeCall& call, int stages, cudaStream_t stream);

  size_t bytes() const { return bytes_; }  // of device memory

  // What the kernels are given for `layer`; for tests.
  StepArgs Args(int32_t layer) const;

 private:
  struct LayerPlan {
    DeviceMemory memory;
    StepArgs places = {};  // only the arrays of the plan are set
    void** directory = nullptr;
  };
  DecodeStep(const DecodeStepOptions& options, const Sequences* sequences) : options_(options), sequences_(sequences) {}
  Status ForkMaintenance(cudaStream_t stream);
  Status AwaitMaintenance(cudaStream_t stream);
  Status AllocatePlans();
  Status AllocateWorkspace();
  Status CheckLayer(int32_t layer) const;

  const DecodeStepOptions options_;
  const Sequences* const sequences_;
  PlanOptions planning_;  // all but the layer
  StepLaunch launch_ = {};
  std::vector<LayerPlan> plans_;
  DeviceMemory workspace_;
  size_t bytes_ = 0;
  StepArgs scratch_ = {};  // all but the plan and the call
  int32_t* overflow_ = nullptr;
  // The buffer is maintained beside scores and selection. Only with a buffer.
  cudaStream_t side_ = nullptr;
  cudaEvent_t begun_ = nullptr, maintained_ = nullptr;
};

}  // namespace swell::cuda

#endif  // SWELL_CUDA_STEP_DECODE_STEP_H_
