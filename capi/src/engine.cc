// The engine handle: open, close, shape, stats.
#include <cstring>
#include <string>
#include <utility>

#include "capi/src/guard.h"
#include "capi/src/handles.h"
#include "swell/metrics.h"

namespace swell::capi {
namespace {

Status Open(const swell_engine_options* from, swell_engine** engine) {
  swell_engine_options options = SWELL_ENGINE_OPTIONS_INIT;
  SWELL_RETURN_IF_ERROR(ReadStruct("options", from, &options));
  SWELL_RETURN_IF_ERROR(CheckDType("options.storage", options.storage));
  SWELL_RETURN_IF_ERROR(CheckZero("options.flags: unknown bits", options.flags & ~SWELL_ENGINE_DETERMINISTIC));
  SWELL_RETURN_IF_ERROR(CheckZero("options.reserved", options.reserved));

  EngineOptions target;
  target.shape.layers = options.layers;
  target.shape.kv_heads = options.kv_heads;
  target.shape.group = options.group;
  target.shape.head_dim = options.head_dim;
  target.shape.scale = options.scale;
  target.shape.storage = static_cast<DType>(options.storage);
  target.threads = options.threads;
  target.host_budget_bytes = options.host_budget_bytes;
  target.audit_interval = options.audit_interval;
  target.deterministic = (options.flags & SWELL_ENGINE_DETERMINISTIC) != 0;
  if (options.log != nullptr) {
    target.log = [log = options.log, context = options.log_context](const std::string& message) {
      log(context, message.c_str());
    };
  }
  auto handle = std::make_unique<swell_engine>();
  auto opened = Engine::Open(target);
  if (!opened.ok()) return opened.status();
  handle->engine = std::move(opened).value();
  *engine = handle.release();
  return OkStatus();
}

Status GetShape(const swell_engine* engine, swell_engine_shape* shape) {
  SWELL_RETURN_IF_ERROR(CheckEngine(engine));
  const ModelShape& from = engine->engine->shape();
  swell_engine_shape source = SWELL_ENGINE_SHAPE_INIT;
  source.layers = from.layers;
  source.kv_heads = from.kv_heads;
  source.group = from.group;
  source.head_dim = from.head_dim;
  source.scale = from.scale;
  source.storage = static_cast<swell_dtype>(from.storage);
  return FillStruct("shape", source, shape);
}

Status GetStats(const swell_engine* engine, swell_engine_stats* stats) {
  SWELL_RETURN_IF_ERROR(CheckEngine(engine));
  const EngineStats from = engine->engine->Stats();
  swell_engine_stats source = SWELL_ENGINE_STATS_INIT;
  source.sequences = from.sequences;
  source.bytes_in_use = from.bytes_in_use;
  source.bytes_peak = from.bytes_peak;
  source.budget_bytes = from.budget_bytes;
  source.tokens_put = from.tokens_put;
  source.attend_calls = from.attend_calls;
  source.head_steps = from.head_steps;
  source.tokens_visible = from.tokens_visible;
  source.tokens_read = from.tokens_read;
  source.bytes_read = from.bytes_read;
  source.segments_sealed = from.segments_sealed;
  source.segments_compacted = from.segments_compacted;
  source.builds_failed = from.builds_failed;
  source.audited_answers = from.audited_answers;
  source.audited_within_2 = from.audited_within_2;
  source.audited_within_3 = from.audited_within_3;
  source.audited_factor_sum = from.audited_factor_sum;
  return FillStruct("stats", source, stats);
}

Status WriteMetrics(const swell_engine* engine, char* buffer, int64_t capacity, int64_t* size) {
  SWELL_RETURN_IF_ERROR(CheckEngine(engine));
  SWELL_RETURN_IF_ERROR(CheckPointer("size", size, alignof(int64_t)));
  SWELL_RETURN_IF_ERROR(CheckNotNegative("capacity", capacity));
  if (capacity > 0) SWELL_RETURN_IF_ERROR(CheckPointer("buffer", buffer, 1));
  const Result<std::string> text = MetricsText(engine->engine->Stats());
  if (!text.ok()) return text.status();
  *size = static_cast<int64_t>(text.value().size()) + 1;
  if (capacity == 0) return OkStatus();
  if (capacity < *size) {
    return Status(StatusCode::kOutOfRange,
                  "capacity is " + std::to_string(capacity) + ", the text takes " + std::to_string(*size) + " bytes",
                  StatusDetail::kBadSize);
  }
  std::memcpy(buffer, text.value().c_str(), static_cast<size_t>(*size));
  return OkStatus();
}

}  // namespace
}  // namespace swell::capi

swell_code swell_engine_open(const swell_engine_options* options, swell_engine** engine, swell_error** error) {
  return swell::capi::Guard(error, [&]() -> swell::Status {
    SWELL_RETURN_IF_ERROR(swell::capi::CheckPointer("engine", engine, alignof(swell_engine*)));
    *engine = nullptr;
    return swell::capi::Open(options, engine);
  });
}

void swell_engine_close(swell_engine** engine) {
  if (engine == nullptr) return;
  delete *engine;
  *engine = nullptr;
}

swell_code swell_engine_get_shape(const swell_engine* engine, swell_engine_shape* shape, swell_error** error) {
  return swell::capi::Guard(error, [&] { return swell::capi::GetShape(engine, shape); });
}

swell_code swell_engine_get_stats(const swell_engine* engine, swell_engine_stats* stats, swell_error** error) {
  return swell::capi::Guard(error, [&] { return swell::capi::GetStats(engine, stats); });
}

swell_code swell_engine_metrics(const swell_engine* engine, char* buffer, int64_t capacity, int64_t* size,
                                swell_error** error) {
  return swell::capi::Guard(error, [&] { return swell::capi::WriteMetrics(engine, buffer, capacity, size); });
}
