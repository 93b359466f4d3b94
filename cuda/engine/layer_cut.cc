#include "cuda/engine/layer_cut.h"

#include <algorithm>

#include "cuda/buffer/buffer_kernels.h"

namespace swell::cuda {

LayerCut CutLayer(const std::vector<SegmentPointer>& segments, const Tail& tail, int64_t tokens) {
  LayerCut cut;
  int64_t left = tokens;  // for what comes from here on
  for (const SegmentPointer& segment : segments) {
    if (cut.dropped.empty() && segment->tokens() <= left) {
      left -= segment->tokens();
    } else {
      cut.dropped.push_back(segment);
    }
  }
  cut.tail_tokens = static_cast<int32_t>(cut.dropped.empty() ? std::min<int64_t>(left, tail.tokens) : left);
  return cut;
}

Status Reopen(const LayerCut& cut, const HeadShape& shape, const WaveBuffer* buffer, const Tail& tail,
              cudaStream_t stream) {
  if (cut.dropped.empty() || cut.tail_tokens == 0) return OkStatus();
  const BufferView view = buffer != nullptr ? buffer->view() : BufferView();
  std::byte* records = tail.rows;
  for (const SegmentHead& head : cut.dropped[0]->heads()) {
    SWELL_RETURN_IF_ERROR(
        LaunchReopen(view, head, shape.head_dim, shape.storage == DType::kFloat16, cut.tail_tokens, records, stream));
    records += static_cast<size_t>(tail.capacity) * TokenBytes(shape.head_dim);
  }
  return OkStatus();
}

}  // namespace swell::cuda
