// What one layer of a sequence gains: rows that come in, and what is sealed of them and of its tail.
//
// A layer is its sinks (the first tokens, a segment without clusters), sealed segments of equal length, and the tail.
// Everything is prepared beside it and enters in one piece, so that what fails leaves the layer as it was.
#ifndef SWELL_CUDA_ENGINE_LAYER_GROWTH_H_
#define SWELL_CUDA_ENGINE_LAYER_GROWTH_H_

#include <driver_types.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "cuda/buffer/wave_buffer.h"
#include "cuda/build/segment_builder.h"
#include "cuda/step/sequences.h"
#include "cuda/step/tail_kernels.h"
#include "swell/status.h"

namespace swell::cuda {

struct GrowthRules {
  HeadShape shape;
  int32_t kv_heads = 1;
  int32_t sink_tokens = 4;
  int32_t window_tokens = 64;  // the latest tokens, which are not sealed
  int32_t segment_tokens = 1024;

  // Of a tail: what a put leaves unsealed, and segment_tokens more.
  int32_t TailTokens() const { return sink_tokens + window_tokens + 2 * segment_tokens; }
};

// What a layer will gain; its kernels are enqueued.
struct LayerGrowth {
  int32_t sequence = 0;
  int32_t layer = 0;
  Tail tail = {};        // as it was found
  SegmentPointer sinks;  // null: they are there, or are none
  std::vector<SegmentBuild> builds;
  int64_t dropped = 0;  // tokens of the tail, what was filled up included, that segments hold now
  DeviceRows rest;      // new rows for the tail
  int64_t rest_tokens = 0;
};

class LayerGrower {
 public:
  // All must outlive the grower; `buffer` may be null. A builder's max_segments bounds its builds.
  LayerGrower(const GrowthRules& rules, Sequences* sequences, const SegmentBuilder* builder, int32_t max_segments,
              WaveBuffer* buffer)
      : rules_(rules), sequences_(sequences), builder_(builder), max_segments_(max_segments), buffer_(buffer) {}

  // Segments that a layer with `tail_tokens` in its tail may seal after `tokens` more.
  int64_t SegmentsDue(int32_t sequence, int32_t layer, int64_t tail_tokens, int64_t tokens) const;

  // Begins to add `tokens` rows (there may be none) to a layer whose tail is `tail`. Rows must stay until Commit. The
  // tail must have room up to the next end of a segment, as it has when it was sealed where segments were due.
  // kResourceExhausted; nothing has changed.
  Result<LayerGrowth> Begin(int32_t sequence, int32_t layer, const Tail& tail, const DeviceRows& rows, int64_t tokens,
                            cudaStream_t stream) const;
  // The segments, once they are built; waits for `stream`. kInvalidArgument with kNonFinite; kResourceExhausted.
  Result<std::vector<SegmentPointer>> Finish(const LayerGrowth& growth, cudaStream_t stream) const;
  // Moves the tail on; the segments are there.
  Status MoveTail(const LayerGrowth& growth, cudaStream_t stream) const;

 private:
  DeviceRows TailRows(const Tail& tail, int64_t first) const;
  DeviceRows Skip(const DeviceRows& rows, int64_t tokens) const;
  Result<SegmentPointer> CopySinks(const DeviceRows& rows, cudaStream_t stream) const;
  Status Build(const DeviceRows& rows, int64_t segments, cudaStream_t stream, std::vector<SegmentBuild>* builds) const;

  const GrowthRules rules_;
  Sequences* const sequences_;
  const SegmentBuilder* const builder_;
  const int32_t max_segments_;
  WaveBuffer* const buffer_;
};

}  // namespace swell::cuda

#endif  // SWELL_CUDA_ENGINE_LAYER_GROWTH_H_
