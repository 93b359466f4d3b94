// What one layer of a sequence loses when it is cut to its first tokens. Twin of lib/engine/truncate.h.
#ifndef SWELL_CUDA_ENGINE_LAYER_CUT_H_
#define SWELL_CUDA_ENGINE_LAYER_CUT_H_

#include <driver_types.h>

#include <cstdint>
#include <vector>

#include "cuda/buffer/wave_buffer.h"
#include "cuda/step/sequences.h"
#include "swell/status.h"
#include "swell/types.h"

namespace swell::cuda {

struct LayerCut {
  std::vector<SegmentPointer> dropped;  // the layer's last, in order; of the first, tail_tokens return to the tail
  int32_t tail_tokens = 0;              // of the tail from now on
};

// Cuts a layer of `segments` and `tail` to its first `tokens`; one that has no more stays as it is.
LayerCut CutLayer(const std::vector<SegmentPointer>& segments, const Tail& tail, int64_t tokens);

// Writes what returns to the tail to its beginning; enqueued. `buffer` may be null.
Status Reopen(const LayerCut& cut, const HeadShape& shape, const WaveBuffer* buffer, const Tail& tail,
              cudaStream_t stream);

}  // namespace swell::cuda

#endif  // SWELL_CUDA_ENGINE_LAYER_CUT_H_
