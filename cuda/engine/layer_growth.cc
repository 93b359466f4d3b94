#include "cuda/engine/layer_growth.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <utility>

#include "cuda/device/device.h"

namespace swell::cuda {
namespace {

std::byte* RecordOf(const Tail& tail, int64_t token, int32_t head_dim) {
  return static_cast<std::byte*>(tail.rows) + static_cast<size_t>(token) * TokenBytes(head_dim);
}

}  // namespace

DeviceRows LayerGrower::TailRows(const Tail& tail, int64_t first) const {
  const int64_t record = 2 * int64_t{rules_.shape.head_dim};  // elements
  const std::byte* rows = RecordOf(tail, first, rules_.shape.head_dim);
  return {rows, rows + record, record, tail.capacity * record};
}

DeviceRows LayerGrower::Skip(const DeviceRows& rows, int64_t tokens) const {
  const int64_t bytes = 2 * tokens * rows.token_stride;
  DeviceRows later = rows;
  later.keys = static_cast<const std::byte*>(rows.keys) + bytes;
  later.values = static_cast<const std::byte*>(rows.values) + bytes;
  return later;
}

int64_t LayerGrower::SegmentsDue(int32_t sequence, int32_t layer, int64_t tail_tokens, int64_t tokens) const {
  const int64_t sinks = sequences_->segments(sequence, layer).empty() ? rules_.sink_tokens : 0;
  const int64_t sealable = tail_tokens + tokens - sinks - rules_.window_tokens;
  return std::max<int64_t>(0, sealable / rules_.segment_tokens);
}

Result<LayerGrowth> LayerGrower::Begin(int32_t sequence, int32_t layer, const Tail& tail, const DeviceRows& rows,
                                       int64_t tokens, cudaStream_t stream) const {
  LayerGrowth growth;
  growth.sequence = sequence;
  growth.layer = layer;
  growth.tail = tail;
  growth.rest = rows;
  growth.rest_tokens = tokens;
  const int64_t due = SegmentsDue(sequence, layer, tail.tokens, tokens);
  if (due == 0) return growth;
  const int64_t length = rules_.segment_tokens;
  const int64_t sinks = sequences_->segments(sequence, layer).empty() ? rules_.sink_tokens : 0;
  // Segments that begin in the tail are completed there; the others are built where the rows are.
  const int64_t in_tail = tail.tokens == 0 ? 0 : std::max<int64_t>(0, tail.tokens - sinks);
  const int64_t from_tail = std::min(due, (in_tail + length - 1) / length);
  const bool sinks_in_tail = tail.tokens > 0;
  const int64_t sealed_in_tail = sinks_in_tail ? sinks + from_tail * length : 0;
  const int64_t filled = std::clamp<int64_t>(sealed_in_tail - tail.tokens, 0, tokens);
  // Beyond the tail's count, where nobody reads yet.
  SWELL_RETURN_IF_ERROR(LaunchCopyRows(rows, filled, rules_.kv_heads, rules_.shape.head_dim,
                                       RecordOf(tail, tail.tokens, rules_.shape.head_dim), tail.capacity, stream));
  DeviceRows left = Skip(rows, filled);
  if (sinks > 0) {
    auto copied = CopySinks(sinks_in_tail ? TailRows(tail, 0) : left, stream);
    if (!copied.ok()) return copied.status();
    growth.sinks = *std::move(copied);
    if (!sinks_in_tail) left = Skip(left, sinks);
  }
  SWELL_RETURN_IF_ERROR(Build(TailRows(tail, sinks), from_tail, stream, &growth.builds));
  SWELL_RETURN_IF_ERROR(Build(left, due - from_tail, stream, &growth.builds));
  growth.dropped = sealed_in_tail;
  growth.rest = Skip(left, (due - from_tail) * length);
  growth.rest_tokens = tokens - filled - (sinks_in_tail ? 0 : sinks) - (due - from_tail) * length;
  return growth;
}

Result<SegmentPointer> LayerGrower::CopySinks(const DeviceRows& rows, cudaStream_t stream) const {
  const size_t head_bytes = rules_.sink_tokens * TokenBytes(rules_.shape.head_dim);
  auto reserved = ReserveDevice(rules_.kv_heads * head_bytes, "cudaMalloc of sinks");
  if (!reserved.ok()) return reserved.status();
  std::shared_ptr<void> memory = *std::move(reserved);
  SWELL_RETURN_IF_ERROR(LaunchCopyRows(rows, rules_.sink_tokens, rules_.kv_heads, rules_.shape.head_dim, memory.get(),
                                       rules_.sink_tokens, stream));
  std::vector<SegmentHead> heads(static_cast<size_t>(rules_.kv_heads));
  for (size_t h = 0; h < heads.size(); ++h) {
    heads[h].rows = {static_cast<const std::byte*>(memory.get()) + h * head_bytes, rules_.sink_tokens};
  }
  return SegmentPointer(
      std::make_shared<const DeviceSegment>(std::move(memory), rules_.kv_heads * head_bytes, std::move(heads)));
}

Status LayerGrower::Build(const DeviceRows& rows, int64_t segments, cudaStream_t stream,
                          std::vector<SegmentBuild>* builds) const {
  for (int64_t built = 0; built < segments; built += max_segments_) {
    const DeviceRows from = Skip(rows, built * rules_.segment_tokens);
    auto build =
        builder_->Prepare({.keys = from.keys,
                           .values = from.values,
                           .token_stride = from.token_stride,
                           .head_stride = from.head_stride,
                           .segment_tokens = rules_.segment_tokens,
                           .segments = static_cast<int32_t>(std::min<int64_t>(max_segments_, segments - built))});
    if (!build.ok()) return build.status();
    SWELL_RETURN_IF_ERROR(builder_->Enqueue(*build, stream));
    builds->push_back(*std::move(build));
  }
  return OkStatus();
}

Result<std::vector<SegmentPointer>> LayerGrower::Finish(const LayerGrowth& growth, cudaStream_t stream) const {
  std::vector<SegmentPointer> segments;
  if (growth.sinks != nullptr) segments.push_back(growth.sinks);
  for (const SegmentBuild& build : growth.builds) {
    auto built = builder_->Finish(build, stream);
    if (!built.ok()) return built.status();
    for (SegmentPointer& segment : *built) {
      if (buffer_ != nullptr) {
        auto moved = buffer_->MoveHome(*segment, stream);
        if (!moved.ok()) return moved.status();
        segment = *std::move(moved);
      }
      segments.push_back(std::move(segment));
    }
    // What was moved home is read until here.
    if (buffer_ != nullptr) SWELL_RETURN_IF_ERROR(FromCuda(cudaStreamSynchronize(stream), "cudaStreamSynchronize"));
  }
  return segments;
}

Status LayerGrower::MoveTail(const LayerGrowth& growth, cudaStream_t stream) const {
  const int64_t dropped = std::min<int64_t>(growth.dropped, growth.tail.tokens);
  const int64_t kept = growth.tail.tokens - dropped;
  if (dropped > 0) {
    SWELL_RETURN_IF_ERROR(sequences_->DropTail(growth.sequence, growth.layer, static_cast<int32_t>(dropped), stream));
  }
  if (growth.rest_tokens == 0) return OkStatus();
  SWELL_RETURN_IF_ERROR(LaunchCopyRows(growth.rest, growth.rest_tokens, rules_.kv_heads, rules_.shape.head_dim,
                                       RecordOf(growth.tail, kept, rules_.shape.head_dim), growth.tail.capacity,
                                       stream));
  return sequences_->SetTail(growth.sequence, growth.layer, static_cast<int32_t>(kept + growth.rest_tokens), stream);
}

}  // namespace swell::cuda
