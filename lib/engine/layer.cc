#include "lib/engine/layer.h"

#include <algorithm>

namespace swell {

Segment::~Segment() {
  if (budget != nullptr) budget->Refund(index_bytes);
}

KvRun Segment::Run(int32_t head) const {
  KvRun run = rows->Run(head, 0, tokens);
  run.first_token = first_token;
  const auto order = heads[head]->order();
  run.offsets = order.empty() ? nullptr : order.data();
  return run;
}

void AppendUnsealedRuns(const Layer& layer, int32_t head, int64_t begin, int64_t end, std::vector<KvRun>* runs) {
  const int64_t sinks_end = layer.sinks == nullptr ? 0 : std::min(end, layer.sinks->capacity());
  if (begin < sinks_end) {
    KvRun run = layer.sinks->Run(head, begin, sinks_end - begin);
    run.first_token = begin;
    runs->push_back(run);
  }
  for (int64_t token = std::max(begin, layer.sealed_end); token < end;) {
    const int64_t index = (token - layer.tail_origin) / kTailBlockTokens;
    const int64_t row = (token - layer.tail_origin) % kTailBlockTokens;
    const int64_t tokens = std::min(end - token, kTailBlockTokens - row);
    KvRun run = (*layer.tail)[index]->Run(head, row, tokens);
    run.first_token = token;
    runs->push_back(run);
    token += tokens;
  }
}

std::vector<KvRun> AllRuns(const Layer& layer, int32_t head, int64_t end) {
  std::vector<KvRun> runs;
  for (const auto& segment : *layer.segments) {
    if (segment->first_token < end) runs.push_back(segment->Run(head));
  }
  AppendUnsealedRuns(layer, head, 0, end, &runs);
  return runs;
}

KvRun SubRun(const KvRun& run, int64_t row, int64_t tokens, const HeadShape& shape) {
  const int64_t offset_bytes = row * shape.head_dim * static_cast<int64_t>(DTypeSize(shape.storage));
  KvRun part = run;
  part.keys = static_cast<const std::byte*>(run.keys) + offset_bytes;
  part.values = static_cast<const std::byte*>(run.values) + offset_bytes;
  if (run.key_scales != nullptr) {
    part.key_scales = run.key_scales + row;
    part.value_scales = run.value_scales + row;
  }
  if (run.offsets != nullptr) {
    part.offsets = run.offsets + row;
  } else {
    part.first_token = run.first_token + row;
  }
  part.tokens = tokens;
  return part;
}

}  // namespace swell
