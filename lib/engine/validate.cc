#include "lib/engine/validate.h"

#include "lib/base/checked.h"

namespace swell {

Status StaleHandle() {
  return Status(StatusCode::kNotFound, "sequence: the id was released or is not of this engine",
                StatusDetail::kStaleHandle);
}

Status ValidateLayer(int32_t layer, const ModelShape& shape) {
  if (layer >= 0 && layer < shape.layers) return OkStatus();
  return InvalidArgument("layer must be 0 to " + std::to_string(shape.layers - 1));
}

Status ValidatePointer(const void* pointer, size_t alignment, const std::string& what) {
  if (pointer == nullptr) return InvalidArgument(what + " is null", StatusDetail::kNullPointer);
  if (reinterpret_cast<uintptr_t>(pointer) % alignment != 0) {
    return InvalidArgument(what + " is not aligned to " + std::to_string(alignment) + " bytes",
                           StatusDetail::kMisaligned);
  }
  return OkStatus();
}

Status ValidateFloatDType(DType dtype, const std::string& what) {
  if (dtype == DType::kFloat32 || dtype == DType::kFloat16 || dtype == DType::kBFloat16) return OkStatus();
  return InvalidArgument(what + " must be float32, float16 or bfloat16", StatusDetail::kUnknownDType);
}

namespace {

Status TooLarge(const std::string& what) {
  return InvalidArgument(what + ": the sizes overflow", StatusDetail::kBadSize);
}

// Elements that a view spans must be addressable.
Status ValidateRows(const RowsView& rows, int64_t tokens, const Context& context, const std::string& what) {
  const ModelShape& shape = context.shape();
  if (DTypeSize(rows.dtype) == 0)
    return InvalidArgument(what + ".dtype is no known dtype", StatusDetail::kUnknownDType);
  if (rows.dtype == DType::kInt8) {
    if (shape.storage != DType::kInt8) {
      return InvalidArgument(what + ".dtype is int8 but the engine does not store int8", StatusDetail::kUnknownDType);
    }
    SWELL_RETURN_IF_ERROR(ValidatePointer(rows.scales, alignof(float), what + ".scales"));
  }
  if (rows.token_stride < 0 || rows.head_stride < 0) {
    return InvalidArgument(what + ": strides must not be negative", StatusDetail::kBadSize);
  }
  if ((rows.token_stride == 0) != (rows.head_stride == 0)) {
    return InvalidArgument(what + ": give both strides or neither", StatusDetail::kBadSize);
  }
  if (rows.head_stride != 0 && rows.head_stride < shape.head_dim) {
    return InvalidArgument(what + ".head_stride is less than head_dim", StatusDetail::kBadSize);
  }
  int64_t token_span = 0;
  int64_t head_span = 0;
  int64_t elements = 0;
  int64_t bytes = 0;
  const int64_t token_stride = rows.token_stride != 0 ? rows.token_stride : int64_t{shape.kv_heads} * shape.head_dim;
  if (!CheckedProduct({tokens, token_stride}, &token_span) ||
      !CheckedProduct({shape.kv_heads, rows.head_stride}, &head_span) ||
      __builtin_add_overflow(token_span, head_span, &elements) ||
      !CheckedProduct({elements, static_cast<int64_t>(DTypeSize(rows.dtype))}, &bytes)) {
    return TooLarge(what);
  }
  return ValidatePointer(rows.data, DTypeSize(rows.dtype), what + ".data");
}

Status ValidateQueries(const void* queries, DType dtype, int64_t count, const Context& context) {
  SWELL_RETURN_IF_ERROR(ValidateFloatDType(dtype, "query_dtype"));
  int64_t bytes = 0;
  if (!CheckedProduct({count, context.query_heads(), context.shape().head_dim, 4}, &bytes)) {
    return TooLarge("n_queries");
  }
  return ValidatePointer(queries, DTypeSize(dtype), "queries");
}

Status ValidateMode(AttendMode mode, const RetrievalOptions* retrieval, const Context& context) {
  if (mode != AttendMode::kRetrieve && mode != AttendMode::kExact) return InvalidArgument("mode is no known mode");
  if (retrieval != nullptr) return ValidateRetrieval(*retrieval, context.shape());
  return OkStatus();
}

}  // namespace

Status ValidatePut(const PutItem& item, const Context& context) {
  if (item.position < 0) return InvalidArgument("position must not be negative", StatusDetail::kOutOfOrder);
  int64_t end = 0;
  if (item.tokens < 1) return InvalidArgument("tokens must be 1 or more", StatusDetail::kBadSize);
  if (__builtin_add_overflow(item.position, item.tokens, &end)) return TooLarge("tokens");
  SWELL_RETURN_IF_ERROR(ValidateRows(item.keys, item.tokens, context, "keys"));
  return ValidateRows(item.values, item.tokens, context, "values");
}

Status ValidateAttend(const AttendItem& item, const Context& context) {
  if (item.n_queries < 1) return InvalidArgument("n_queries must be 1 or more", StatusDetail::kBadSize);
  SWELL_RETURN_IF_ERROR(ValidateMode(item.mode, item.retrieval, context));
  SWELL_RETURN_IF_ERROR(ValidateQueries(item.queries, item.query_dtype, item.n_queries, context));
  SWELL_RETURN_IF_ERROR(ValidateFloatDType(item.output_dtype, "output_dtype"));
  SWELL_RETURN_IF_ERROR(ValidatePointer(item.output, DTypeSize(item.output_dtype), "output"));
  if (item.lse != nullptr) SWELL_RETURN_IF_ERROR(ValidatePointer(item.lse, alignof(float), "lse"));
  if (item.certificates == nullptr) return OkStatus();
  return ValidatePointer(item.certificates, alignof(Certificate), "certificates");
}

Status ValidateSearch(const SearchItem& item, const Context& context) {
  int64_t results = 0;
  if (item.top_k < 1) return InvalidArgument("top_k must be 1 or more", StatusDetail::kBadSize);
  if (!CheckedProduct({item.top_k, context.query_heads(), 8}, &results)) return TooLarge("top_k");
  SWELL_RETURN_IF_ERROR(ValidateMode(item.mode, item.retrieval, context));
  SWELL_RETURN_IF_ERROR(ValidateQueries(item.queries, item.query_dtype, 1, context));
  SWELL_RETURN_IF_ERROR(ValidatePointer(item.tokens, alignof(int64_t), "tokens"));
  if (item.logits == nullptr) return OkStatus();
  return ValidatePointer(item.logits, alignof(float), "logits");
}

Status ValidateFetch(const FetchItem& item, const Context& context) {
  const DType storage = context.shape().storage;
  if (item.dtype != storage && item.dtype != DType::kFloat32) {
    return InvalidArgument("dtype must be the storage dtype or float32", StatusDetail::kUnknownDType);
  }
  if (!item.tokens.empty()) SWELL_RETURN_IF_ERROR(ValidatePointer(item.tokens.data(), alignof(int64_t), "tokens"));
  for (const auto& [rows, scales, name] :
       {std::tuple(item.keys, item.key_scales, "key"), std::tuple(item.values, item.value_scales, "value")}) {
    if (rows == nullptr) continue;
    SWELL_RETURN_IF_ERROR(ValidatePointer(rows, DTypeSize(item.dtype), std::string(name) + "s"));
    if (item.dtype != DType::kInt8) continue;
    SWELL_RETURN_IF_ERROR(ValidatePointer(scales, alignof(float), std::string(name) + "_scales"));
  }
  return OkStatus();
}

}  // namespace swell
