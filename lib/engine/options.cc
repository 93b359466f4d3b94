#include <cmath>

#include "lib/engine/validate.h"

namespace swell {
namespace {

Status OutOfRange(const std::string& name, const std::string& range) {
  return InvalidArgument(name + " must be " + range);
}

// A share in (0, 1]; false for NaN as well.
bool IsShare(float share) { return share > 0.0F && share <= 1.0F; }

}  // namespace

Status ValidateShape(const ModelShape& shape) {
  if (shape.layers < 1 || shape.layers > 4096) return OutOfRange("shape.layers", "1 to 4096");
  if (shape.kv_heads < 1 || shape.kv_heads > 1024) return OutOfRange("shape.kv_heads", "1 to 1024");
  if (shape.group < 1 || shape.group > kMaxGroup) return OutOfRange("shape.group", "1 to 16");
  if (shape.head_dim < 16 || shape.head_dim > kMaxHeadDim || shape.head_dim % 16 != 0) {
    return OutOfRange("shape.head_dim", "a multiple of 16 from 16 to 256");
  }
  if (!(shape.scale >= 0.0F) || std::isinf(shape.scale)) return OutOfRange("shape.scale", "finite and not negative");
  if (DTypeSize(shape.storage) == 0) {
    return InvalidArgument("shape.storage is no known dtype", StatusDetail::kUnknownDType);
  }
  return OkStatus();
}

Status ValidateEngineOptions(const EngineOptions& options) {
  SWELL_RETURN_IF_ERROR(ValidateShape(options.shape));
  if (options.audit_interval < 0) return OutOfRange("audit_interval", "0 or more");
  if (options.threads < 0 || options.threads > 1024) return OutOfRange("threads", "0 to 1024");
  return OkStatus();
}

Status ValidateRetrieval(const RetrievalOptions& options, const ModelShape& shape) {
  if (options.unit != BudgetUnit::kTokens && options.unit != BudgetUnit::kClusters) {
    return InvalidArgument("retrieval.unit is no known budget unit");
  }
  if (options.ranking != Ranking::kOptimistic && options.ranking != Ranking::kMass &&
      options.ranking != Ranking::kShare) {
    return InvalidArgument("retrieval.ranking is no known ranking");
  }
  if (!(options.retrieve_above >= 0.0F && options.retrieve_above < 1.0F)) {
    return OutOfRange("retrieval.retrieve_above", "at least 0 and below 1");
  }
  if (options.retrieve_above > 0.0F && options.ranking != Ranking::kShare) {
    return InvalidArgument("retrieval.retrieve_above needs the ranking by shares of the mass");
  }
  if (!IsShare(options.retrieve_share)) return OutOfRange("retrieval.retrieve_share", "above 0 and at most 1");
  if (options.retrieve_tokens < 0) return OutOfRange("retrieval.retrieve_tokens", "0 or more");
  if (options.max_retrieve_tokens < 0) return OutOfRange("retrieval.max_retrieve_tokens", "0 or more");
  if (!IsShare(options.open_share)) return OutOfRange("retrieval.open_share", "above 0 and at most 1");
  if (options.max_open_tokens < 0) return OutOfRange("retrieval.max_open_tokens", "0 or more");
  if (!(options.estimate_share >= 0.0F && options.estimate_share <= 1.0F)) {
    return OutOfRange("retrieval.estimate_share", "0 to 1");
  }
  if (!(options.kappa >= 0.0F) || std::isinf(options.kappa)) {
    return OutOfRange("retrieval.kappa", "finite and not negative");
  }
  if (options.floor_tokens < 0) return OutOfRange("retrieval.floor_tokens", "0 or more");
  for (const BudgetOverride& entry : options.overrides) {
    if (entry.layer < -1 || entry.layer >= shape.layers) {
      return OutOfRange("retrieval.overrides.layer", "-1 or a layer of the model");
    }
    if (entry.kv_head < -1 || entry.kv_head >= shape.kv_heads) {
      return OutOfRange("retrieval.overrides.kv_head", "-1 or a KV head of the model");
    }
    if (!IsShare(entry.retrieve_share)) {
      return OutOfRange("retrieval.overrides.retrieve_share", "above 0 and at most 1");
    }
  }
  return OkStatus();
}

Status ValidateSequenceOptions(const SequenceOptions& options, const ModelShape& shape) {
  SWELL_RETURN_IF_ERROR(ValidateRetrieval(options.retrieval, shape));
  if (options.sink_tokens < 0 || options.sink_tokens > 1024) return OutOfRange("sink_tokens", "0 to 1024");
  if (options.window_tokens < 0 || options.window_tokens > 65536) return OutOfRange("window_tokens", "0 to 65536");
  if (options.seal_tokens < 16 || options.seal_tokens > kMaxSegmentTokens) {
    return OutOfRange("seal_tokens", "16 to 65536");
  }
  if (options.segment_tokens < options.seal_tokens || options.segment_tokens > kMaxSegmentTokens ||
      options.segment_tokens % options.seal_tokens != 0) {
    return OutOfRange("segment_tokens", "a multiple of seal_tokens and at most 65536");
  }
  return OkStatus();
}

Result<SequenceOptions> SequencePreset(const std::string& name) {
  SequenceOptions options;
  if (name == "swell") return options;
  if (name == "retroinfer") {
    options.index.cluster_tokens = 16;
    options.index.iterations = 10;
    options.retrieval.unit = BudgetUnit::kClusters;
    options.retrieval.retrieve_above = 0.0F;
    options.retrieval.retrieve_share = 0.018F;
    options.retrieval.max_retrieve_tokens = 0;
    options.retrieval.max_open_tokens = 0;
    options.retrieval.estimate_share = 0.232F;
    options.retrieval.ranking = Ranking::kMass;
    options.retrieval.kappa = 0.0F;
    options.retrieval.correct = false;
    options.retrieval.floor_tokens = 0;
    return options;
  }
  return Status(StatusCode::kNotFound, "preset: there is no preset '" + name + "'; known are swell and retroinfer");
}

}  // namespace swell
