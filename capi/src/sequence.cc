// Sequences: create, fork, truncate, release, length, waiting, inspection.
#include <algorithm>

#include "capi/src/guard.h"
#include "capi/src/handles.h"
#include "capi/src/settings.h"

namespace swell::capi {
namespace {

constexpr SequenceId Id(swell_sequence sequence) { return static_cast<SequenceId>(sequence); }

// Checks the out-parameter of a call that makes a sequence, and sets it to none.
Status ClearSequence(const char* name, swell_sequence* sequence) {
  SWELL_RETURN_IF_ERROR(CheckPointer(name, sequence, alignof(swell_sequence)));
  *sequence = 0;
  return OkStatus();
}

Status Create(swell_engine* engine, const swell_sequence_options* from, const swell_retrieval* retrieval,
              swell_sequence* sequence) {
  SWELL_RETURN_IF_ERROR(ClearSequence("sequence", sequence));
  SWELL_RETURN_IF_ERROR(CheckEngine(engine));
  SWELL_RETURN_IF_ERROR(CheckOptionalPointer("retrieval", retrieval, alignof(swell_retrieval)));
  SequenceOptions options;
  if (from != nullptr) SWELL_RETURN_IF_ERROR(ReadSequenceOptions(from, &options));
  if (retrieval != nullptr) options.retrieval = retrieval->options;
  auto created = engine->engine->CreateSequence(options);
  if (!created.ok()) return created.status();
  *sequence = static_cast<swell_sequence>(*created);
  return OkStatus();
}

Status Fork(swell_engine* engine, swell_sequence sequence, swell_sequence* fork) {
  SWELL_RETURN_IF_ERROR(ClearSequence("fork", fork));
  SWELL_RETURN_IF_ERROR(CheckEngine(engine));
  auto forked = engine->engine->Fork(Id(sequence));
  if (!forked.ok()) return forked.status();
  *fork = static_cast<swell_sequence>(*forked);
  return OkStatus();
}

Status Length(const swell_engine* engine, swell_sequence sequence, int32_t layer, int64_t* tokens) {
  SWELL_RETURN_IF_ERROR(CheckEngine(engine));
  SWELL_RETURN_IF_ERROR(CheckPointer("tokens", tokens, alignof(int64_t)));
  auto length = engine->engine->Length(Id(sequence), layer);
  if (!length.ok()) return length.status();
  *tokens = *length;
  return OkStatus();
}

swell_segment_info ToC(const SegmentInfo& from) {
  return {from.first_token, from.tokens, from.clusters, from.row_bytes, from.index_bytes, from.owners};
}

Status Inspect(const swell_engine* engine, swell_sequence sequence, int32_t layer, swell_layer_info* info,
               swell_segment_info* segments, int64_t capacity) {
  SWELL_RETURN_IF_ERROR(CheckEngine(engine));
  swell_layer_info target = SWELL_LAYER_INFO_INIT;
  SWELL_RETURN_IF_ERROR(CheckPointer("info", info, alignof(swell_layer_info)));
  SWELL_RETURN_IF_ERROR(CheckStructSize<swell_layer_info>("info.struct_size", info->struct_size));
  const size_t stride = info->segment_size;
  SWELL_RETURN_IF_ERROR(CheckStride<swell_segment_info>("info.segment_size", stride));
  SWELL_RETURN_IF_ERROR(CheckNotNegative("capacity", capacity));
  SWELL_RETURN_IF_ERROR(CheckExtent("segments", {capacity, static_cast<int64_t>(stride)}));
  if (capacity > 0) SWELL_RETURN_IF_ERROR(CheckPointer("segments", segments, alignof(swell_segment_info)));

  auto layer_info = engine->engine->Inspect(Id(sequence), layer);
  if (!layer_info.ok()) return layer_info.status();
  const auto n_segments = static_cast<int64_t>(layer_info->segments.size());
  for (int64_t i = 0; i < std::min(n_segments, capacity); ++i) {
    WriteStruct(ToC(layer_info->segments[static_cast<size_t>(i)]), stride,
                reinterpret_cast<unsigned char*>(segments) + i * static_cast<int64_t>(stride));
  }
  target.segment_size = info->segment_size;
  target.tokens = layer_info->tokens;
  target.sealed_tokens = layer_info->sealed_tokens;
  target.tail_tokens = layer_info->tail_tokens;
  target.n_segments = n_segments;
  target.sealing = layer_info->sealing ? 1 : 0;
  return FillStruct("info", target, info);
}

}  // namespace
}  // namespace swell::capi

using swell::capi::CheckEngine;
using swell::capi::Guard;
using swell::capi::Id;

swell_code swell_sequence_create(swell_engine* engine, const swell_sequence_options* options,
                                 const swell_retrieval* retrieval, swell_sequence* sequence, swell_error** error) {
  return Guard(error, [&] { return swell::capi::Create(engine, options, retrieval, sequence); });
}

swell_code swell_sequence_fork(swell_engine* engine, swell_sequence sequence, swell_sequence* fork,
                               swell_error** error) {
  return Guard(error, [&] { return swell::capi::Fork(engine, sequence, fork); });
}

swell_code swell_sequence_truncate(swell_engine* engine, swell_sequence sequence, int64_t tokens, swell_error** error) {
  return Guard(error, [&]() -> swell::Status {
    SWELL_RETURN_IF_ERROR(CheckEngine(engine));
    return engine->engine->Truncate(Id(sequence), tokens);
  });
}

swell_code swell_sequence_release(swell_engine* engine, swell_sequence sequence, swell_error** error) {
  return Guard(error, [&]() -> swell::Status {
    SWELL_RETURN_IF_ERROR(CheckEngine(engine));
    return engine->engine->Release(Id(sequence));
  });
}

swell_code swell_sequence_length(const swell_engine* engine, swell_sequence sequence, int32_t layer, int64_t* tokens,
                                 swell_error** error) {
  return Guard(error, [&] { return swell::capi::Length(engine, sequence, layer, tokens); });
}

swell_code swell_sequence_wait_sealed(swell_engine* engine, swell_sequence sequence, swell_error** error) {
  return Guard(error, [&]() -> swell::Status {
    SWELL_RETURN_IF_ERROR(CheckEngine(engine));
    return engine->engine->WaitSealed(Id(sequence));
  });
}

swell_code swell_sequence_inspect(const swell_engine* engine, swell_sequence sequence, int32_t layer,
                                  swell_layer_info* info, swell_segment_info* segments, int64_t capacity,
                                  swell_error** error) {
  return Guard(error, [&] { return swell::capi::Inspect(engine, sequence, layer, info, segments, capacity); });
}
