#include "lib/index/validate.h"

#include <string>

namespace swell {
namespace {

// Names are put together only for an error, so that valid runs cost no allocation.
std::string FieldName(size_t run, const char* field) { return "tokens[" + std::to_string(run) + "]." + field; }

Status CheckPointer(size_t run, const char* field, const void* pointer, size_t alignment) {
  if (pointer == nullptr) return InvalidArgument(FieldName(run, field) + " is null", StatusDetail::kNullPointer);
  if (reinterpret_cast<uintptr_t>(pointer) % alignment != 0) {
    return InvalidArgument(FieldName(run, field) + " is not aligned to its element", StatusDetail::kMisaligned);
  }
  return OkStatus();
}

Status CheckRun(size_t index, DType storage, const KvRun& run) {
  if (run.tokens < 0 || run.tokens > kMaxSegmentTokens) {
    return InvalidArgument(FieldName(index, "tokens") + " is " + std::to_string(run.tokens), StatusDetail::kBadSize);
  }
  if (run.offsets != nullptr) {
    return InvalidArgument(FieldName(index, "offsets") + " must be null: rows come in token order");
  }
  if (run.tokens == 0) return OkStatus();
  SWELL_RETURN_IF_ERROR(CheckPointer(index, "keys", run.keys, DTypeSize(storage)));
  SWELL_RETURN_IF_ERROR(CheckPointer(index, "values", run.values, DTypeSize(storage)));
  if (storage != DType::kInt8) return OkStatus();
  SWELL_RETURN_IF_ERROR(CheckPointer(index, "key_scales", run.key_scales, alignof(float)));
  return CheckPointer(index, "value_scales", run.value_scales, alignof(float));
}

}  // namespace

Status ValidateShape(const HeadShape& shape) {
  if (shape.head_dim < 16 || shape.head_dim > kMaxHeadDim || shape.head_dim % 16 != 0) {
    return InvalidArgument("shape.head_dim is " + std::to_string(shape.head_dim) + ", not a multiple of 16 in 16.." +
                           std::to_string(kMaxHeadDim));
  }
  if (shape.group < 1 || shape.group > kMaxGroup) {
    return InvalidArgument("shape.group is " + std::to_string(shape.group) + ", not 1.." + std::to_string(kMaxGroup));
  }
  if (DTypeSize(shape.storage) == 0) {
    return InvalidArgument(
        "shape.storage is " + std::to_string(static_cast<int32_t>(shape.storage)) + ", which is no DType",
        StatusDetail::kUnknownDType);
  }
  return OkStatus();
}

Result<int64_t> ValidateBuild(const HeadShape& shape, std::span<const KvRun> runs) {
  SWELL_RETURN_IF_ERROR(ValidateShape(shape));
  int64_t tokens = 0;
  for (size_t i = 0; i < runs.size(); ++i) {
    SWELL_RETURN_IF_ERROR(CheckRun(i, shape.storage, runs[i]));
    tokens += runs[i].tokens;
    if (tokens > kMaxSegmentTokens) break;
  }
  if (tokens < 1 || tokens > kMaxSegmentTokens) {
    return InvalidArgument("tokens: not 1.." + std::to_string(kMaxSegmentTokens) + " in total", StatusDetail::kBadSize);
  }
  return tokens;
}

}  // namespace swell
