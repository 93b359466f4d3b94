#include "lib/engine/truncate.h"

#include <algorithm>
#include <utility>

#include "lib/engine/build.h"
#include "lib/engine/validate.h"

namespace swell {
namespace {

// `layer` with the tokens from `length` on cut off. A segment that is cut returns to the tail, in token order.
Result<Layer> CutLayer(const Context& context, const SequenceOptions& options, const Layer& layer, int64_t length) {
  Layer cut = layer;
  cut.length = length;
  cut.epoch = layer.epoch + 1;
  cut.retry_at = 0;
  auto segments = std::make_shared<SegmentList>();
  for (const auto& segment : *layer.segments) {
    if (segment->end() <= length) segments->push_back(segment);
  }
  const int64_t sealed_end = segments->empty() ? options.sink_tokens : segments->back()->end();
  auto tail = std::make_shared<BlockList>();
  if (sealed_end == layer.sealed_end) {
    const int64_t rows = std::max<int64_t>(0, length - layer.tail_origin);
    const int64_t blocks = (rows + kTailBlockTokens - 1) / kTailBlockTokens;
    tail->assign(layer.tail->begin(), layer.tail->begin() + blocks);
  } else {
    cut.tail_origin = sealed_end;
    for (int64_t begin = sealed_end; begin < length; begin += kTailBlockTokens) {
      auto block = KvBlock::Allocate(context.budget, context.shape().kv_heads, context.head_shape(), kTailBlockTokens);
      if (!block.ok()) return block.status();
      const int64_t end = std::min(length, begin + kTailBlockTokens);
      (*block)->TryClaim(0, end - begin);
      for (int32_t head = 0; head < context.shape().kv_heads; ++head) {
        CopyTokenRows(layer, head, begin, end, context.head_shape(), **block, head, 0);
      }
      tail->push_back(std::move(block).value());
    }
  }
  if (length == 0) cut.sinks = nullptr;
  cut.sealed_end = sealed_end;
  cut.segments = std::move(segments);
  cut.tail = std::move(tail);
  return cut;
}

}  // namespace

Status TruncateSequence(Context& context, Sequence& sequence, int64_t tokens) {
  std::unique_lock lock(sequence.mutex);
  if (sequence.released) return StaleHandle();
  std::vector<Layer> cut;
  cut.reserve(sequence.layers.size());
  for (const Layer& layer : sequence.layers) {
    if (layer.length <= tokens) {
      cut.push_back(layer);
      continue;
    }
    auto result = CutLayer(context, sequence.config->options, layer, tokens);
    if (!result.ok()) return result.status();
    cut.push_back(std::move(result).value());
  }
  sequence.layers.swap(cut);
  lock.unlock();  // what was cut is freed outside the lock
  return OkStatus();
}

}  // namespace swell
