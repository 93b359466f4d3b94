// Presets, sequence options and the retrieval handle.
#include "capi/src/settings.h"

#include <memory>
#include <string>
#include <utility>

#include "capi/src/guard.h"
#include "capi/src/handles.h"

namespace swell::capi {
namespace {

swell_sequence_options ToC(const SequenceOptions& from) {
  swell_sequence_options target = SWELL_SEQUENCE_OPTIONS_INIT;
  target.index = static_cast<swell_index_kind>(from.index.kind);
  target.cluster_tokens = from.index.cluster_tokens;
  target.iterations = from.index.iterations;
  target.sink_tokens = from.sink_tokens;
  target.window_tokens = from.window_tokens;
  target.seal_tokens = from.seal_tokens;
  target.segment_tokens = from.segment_tokens;
  return target;
}

swell_retrieval_options ToC(const RetrievalOptions& from) {
  swell_retrieval_options target = SWELL_RETRIEVAL_OPTIONS_INIT;
  target.unit = static_cast<swell_budget_unit>(from.unit);
  target.ranking = static_cast<swell_ranking>(from.ranking);
  target.flags = from.correct ? SWELL_RETRIEVAL_CORRECT : 0U;
  target.retrieve_share = from.retrieve_share;
  target.estimate_share = from.estimate_share;
  target.kappa = from.kappa;
  target.retrieve_above = from.retrieve_above;
  target.retrieve_tokens = from.retrieve_tokens;
  target.max_retrieve_tokens = from.max_retrieve_tokens;
  target.floor_tokens = from.floor_tokens;
  target.open_share = from.open_share;
  target.max_open_tokens = from.max_open_tokens;
  return target;
}

Status Preset(const char* name, swell_sequence_options* sequence, swell_retrieval_options* retrieval) {
  SWELL_RETURN_IF_ERROR(CheckPointer("name", name, 1));
  auto preset = SequencePreset(name);
  if (!preset.ok()) return preset.status();
  // Both are checked before either is written.
  if (retrieval != nullptr) {
    SWELL_RETURN_IF_ERROR(CheckPointer("retrieval", retrieval, alignof(swell_retrieval_options)));
    SWELL_RETURN_IF_ERROR(CheckStructSize<swell_retrieval_options>("retrieval.struct_size", retrieval->struct_size));
  }
  if (sequence != nullptr) {
    SWELL_RETURN_IF_ERROR(FillStruct("sequence", ToC(*preset), sequence));
  }
  if (retrieval == nullptr) return OkStatus();
  return FillStruct("retrieval", ToC(preset->retrieval), retrieval);
}

Status ReadRetrievalOptions(const swell_retrieval_options* from, RetrievalOptions* target) {
  swell_retrieval_options options = ToC(*target);
  SWELL_RETURN_IF_ERROR(ReadStruct("options", from, &options));
  SWELL_RETURN_IF_ERROR(CheckEnum("options.unit", options.unit, BudgetUnit::kClusters));
  SWELL_RETURN_IF_ERROR(CheckEnum("options.ranking", options.ranking, Ranking::kShare));
  SWELL_RETURN_IF_ERROR(CheckZero("options.flags: unknown bits", options.flags & ~SWELL_RETRIEVAL_CORRECT));
  SWELL_RETURN_IF_ERROR(CheckZero("options.reserved", options.reserved_2));
  target->unit = static_cast<BudgetUnit>(options.unit);
  target->ranking = static_cast<Ranking>(options.ranking);
  target->correct = (options.flags & SWELL_RETRIEVAL_CORRECT) != 0;
  target->retrieve_share = options.retrieve_share;
  target->estimate_share = options.estimate_share;
  target->kappa = options.kappa;
  target->retrieve_above = options.retrieve_above;
  target->retrieve_tokens = options.retrieve_tokens;
  target->max_retrieve_tokens = options.max_retrieve_tokens;
  target->floor_tokens = options.floor_tokens;
  target->open_share = options.open_share;
  target->max_open_tokens = options.max_open_tokens;
  return OkStatus();
}

Status CreateRetrieval(const swell_retrieval_options* options, const swell_budget_override* overrides,
                       int64_t n_overrides, swell_retrieval** retrieval) {
  auto handle = std::make_unique<swell_retrieval>();
  SWELL_RETURN_IF_ERROR(ReadRetrievalOptions(options, &handle->options));
  SWELL_RETURN_IF_ERROR(CheckNotNegative("n_overrides", n_overrides));
  SWELL_RETURN_IF_ERROR(CheckExtent("overrides", {n_overrides, sizeof(swell_budget_override)}));
  if (n_overrides > 0) {
    SWELL_RETURN_IF_ERROR(CheckPointer("overrides", overrides, alignof(swell_budget_override)));
  }
  for (int64_t i = 0; i < n_overrides; ++i) {
    handle->options.overrides.push_back({overrides[i].layer, overrides[i].kv_head, overrides[i].retrieve_share});
  }
  *retrieval = handle.release();
  return OkStatus();
}

}  // namespace

Status ReadSequenceOptions(const swell_sequence_options* from, SequenceOptions* target) {
  swell_sequence_options options = ToC(*target);
  SWELL_RETURN_IF_ERROR(ReadStruct("options", from, &options));
  SWELL_RETURN_IF_ERROR(CheckEnum("options.index", options.index, IndexKind::kScan));
  target->index.kind = static_cast<IndexKind>(options.index);
  target->index.cluster_tokens = options.cluster_tokens;
  target->index.iterations = options.iterations;
  target->sink_tokens = options.sink_tokens;
  target->window_tokens = options.window_tokens;
  target->seal_tokens = options.seal_tokens;
  target->segment_tokens = options.segment_tokens;
  return OkStatus();
}

}  // namespace swell::capi

swell_code swell_preset(const char* name, swell_sequence_options* sequence, swell_retrieval_options* retrieval,
                        swell_error** error) {
  return swell::capi::Guard(error, [&] { return swell::capi::Preset(name, sequence, retrieval); });
}

swell_code swell_retrieval_create(const swell_retrieval_options* options, const swell_budget_override* overrides,
                                  int64_t n_overrides, swell_retrieval** retrieval, swell_error** error) {
  return swell::capi::Guard(error, [&]() -> swell::Status {
    SWELL_RETURN_IF_ERROR(swell::capi::CheckPointer("retrieval", retrieval, alignof(swell_retrieval*)));
    *retrieval = nullptr;
    return swell::capi::CreateRetrieval(options, overrides, n_overrides, retrieval);
  });
}

void swell_retrieval_destroy(swell_retrieval** retrieval) {
  if (retrieval == nullptr) return;
  delete *retrieval;
  *retrieval = nullptr;
}
