#include "lib/engine/truncate.h"

#include <algorithm>
#include <utility>

#include "lib/engine/build.h"
#include "lib/engine/key_graph.h"
#include "lib/engine/sealer.h"
#include "lib/engine/validate.h"

namespace swell {
namespace {

// Tokens [begin, end), which lie in one sealed segment of `layer`, as blocks of a tail.
Result<BlockList> Reopen(const Context& context, const Layer& layer, int64_t begin, int64_t end) {
  BlockList blocks;
  for (int64_t token = begin; token < end; token += kTailBlockTokens) {
    auto block = KvBlock::Allocate(context.budget, context.shape().kv_heads, context.head_shape(), kTailBlockTokens);
    if (!block.ok()) return block.status();
    (*block)->TryClaim(0, std::min(kTailBlockTokens, end - token));
    blocks.push_back(std::move(block).value());
  }
  for (const auto& segment : *layer.segments) {
    if (segment->end() <= begin || segment->first_token >= end) continue;
    for (int32_t head = 0; head < context.shape().kv_heads; ++head) {
      const KvRun run = segment->Run(head);
      for (int64_t row = 0; row < run.tokens; ++row) {
        const int64_t token = TokenOfRow(run, row);
        if (token >= end) continue;
        KvBlock& to = *blocks[static_cast<size_t>((token - begin) / kTailBlockTokens)];
        CopyRow(context.head_shape(), run, row, to, head, (token - begin) % kTailBlockTokens);
      }
    }
  }
  return blocks;
}

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
    auto reopened = Reopen(context, layer, sealed_end, length);
    if (!reopened.ok()) return reopened.status();
    *tail = std::move(reopened).value();
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
  std::vector<LayerGraph> graphs;
  for (size_t i = 0; sequence.graphs != nullptr && i < cut.size(); ++i) {
    graphs.push_back(sequence.graphs[i]);
    CutGraph(context, sequence.config->options, cut[i].length, graphs.back());
  }
  sequence.layers.swap(cut);
  std::swap_ranges(graphs.begin(), graphs.end(), sequence.graphs.get());
  lock.unlock();  // what was cut is freed outside the lock
  if (!context.options.deterministic) return OkStatus();
  for (int32_t layer = 0; layer < context.shape().layers; ++layer) SealNow(context, sequence, layer);
  return OkStatus();
}

}  // namespace swell
