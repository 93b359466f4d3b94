// Sequences in device memory: for each layer the sealed segments, shared with forks, and a tail of its own that kernels
// extend. A table of all tails lies in device memory, so that what was captured in a graph sees them grow.
//
// Not thread-safe. Calls that take a stream enqueue on it and are ordered with steps on that stream alone.
#ifndef SWELL_CUDA_STEP_SEQUENCES_H_
#define SWELL_CUDA_STEP_SEQUENCES_H_

#include <driver_types.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "cuda/step/device_memory.h"
#include "cuda/step/segment.h"
#include "swell/status.h"

namespace swell::cuda {

using SegmentPointer = std::shared_ptr<const DeviceSegment>;

struct SequencesOptions {
  int32_t layers = 1;
  int32_t kv_heads = 1;
  int32_t head_dim = 128;
  int32_t max_sequences = 1;
  int32_t tail_tokens = 1024;  // of a layer: what is not sealed yet, the window included
};

class Sequences {
 public:
  // kInvalidArgument; kResourceExhausted; kUnavailable.
  static Result<std::unique_ptr<Sequences>> Make(const SequencesOptions& options);
  ~Sequences();
  Sequences(const Sequences&) = delete;
  Sequences& operator=(const Sequences&) = delete;

  // An empty sequence: a number below max_sequences that is used again after Release. kResourceExhausted.
  Result<int32_t> Create();
  // A sequence of the same content: segments are shared, tails copied on `stream`. As Create, and kNotFound.
  Result<int32_t> Fork(int32_t sequence, cudaStream_t stream);
  // Steps that are under way keep what they read: its memory is given back once the device has passed them. Plans that
  // name the sequence must be made anew before the next step. kNotFound.
  Status Release(int32_t sequence);
  // Adds a segment behind those that are there. kNotFound; kInvalidArgument when it has other heads.
  Status AddSegment(int32_t sequence, int32_t layer, SegmentPointer segment);
  // The same with several, or none of them.
  Status AddSegments(int32_t sequence, int32_t layer, const std::vector<SegmentPointer>& segments);
  // Takes the last `count` segments, which there are, away again.
  void RemoveSegments(int32_t sequence, int32_t layer, size_t count);
  // Takes the first `tokens` of a tail off, which a segment now holds. kNotFound.
  Status DropTail(int32_t sequence, int32_t layer, int32_t tokens, cudaStream_t stream);

  // Says how many tokens a tail has, at most as many as were written to it. kNotFound.
  Status SetTail(int32_t sequence, int32_t layer, int32_t tokens, cudaStream_t stream);
  // The tails of all layers, as `stream` leaves them; waits for it. kNotFound.
  Result<std::vector<Tail>> ReadTails(int32_t sequence, cudaStream_t stream) const;

  size_t TailBytes() const;  // of one layer of a sequence
  bool Has(int32_t sequence) const;
  const SequencesOptions& options() const { return options_; }
  // Of a sequence that there is.
  const std::vector<SegmentPointer>& segments(int32_t sequence, int32_t layer) const {
    return slots_[sequence].layers[layer];
  }
  // Number of a tail in the table.
  int32_t TailNumber(int32_t sequence, int32_t layer) const { return sequence * options_.layers + layer; }
  Tail* tails() const { return static_cast<Tail*>(table_.get()); }  // device memory

 private:
  struct Slot {
    bool used = false;
    std::vector<std::vector<SegmentPointer>> layers;
    DeviceMemory tails;  // token records [layers, kv_heads, tail_tokens]
  };
  explicit Sequences(const SequencesOptions& options) : options_(options) {}
  Status CheckLayer(int32_t sequence, int32_t layer) const;

  const SequencesOptions options_;
  std::vector<Slot> slots_;
  DeviceMemory table_;
};

}  // namespace swell::cuda

#endif  // SWELL_CUDA_STEP_SEQUENCES_H_
