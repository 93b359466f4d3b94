// swell_fetch.
#include "capi/src/batch.h"

namespace swell::capi {
namespace {

// The caller's arrays, checked.
struct FetchArrays {
  const int64_t* tokens;
  void* keys;
  void* values;
  float* key_scales;
  float* value_scales;
};

Status CheckScales(const char* name, const void* rows, const float* scales, DType dtype) {
  if (dtype != DType::kInt8) return CheckNull(name, scales, "args.dtype is INT8");
  return rows == nullptr ? OkStatus() : CheckPointer(name, scales, alignof(float));
}

Status CheckArrays(const ModelShape& shape, const swell_fetch_args& args, const FetchArrays& arrays) {
  SWELL_RETURN_IF_ERROR(CheckDType("args.dtype", args.dtype));
  const auto dtype = static_cast<DType>(args.dtype);
  if (dtype != shape.storage && dtype != DType::kFloat32) {
    return InvalidArgument("args.dtype is neither the storage dtype nor FLOAT32", StatusDetail::kUnknownDType);
  }
  SWELL_RETURN_IF_ERROR(CheckExtent("keys", {args.n_rows, shape.kv_heads, shape.head_dim, sizeof(float)}));
  SWELL_RETURN_IF_ERROR(CheckOptionalPointer("keys", arrays.keys, DTypeSize(dtype)));
  SWELL_RETURN_IF_ERROR(CheckOptionalPointer("values", arrays.values, DTypeSize(dtype)));
  SWELL_RETURN_IF_ERROR(CheckScales("key_scales", arrays.keys, arrays.key_scales, dtype));
  SWELL_RETURN_IF_ERROR(CheckScales("value_scales", arrays.values, arrays.value_scales, dtype));
  return args.n_rows == 0 ? OkStatus() : CheckPointer("tokens", arrays.tokens, alignof(int64_t));
}

Outcome Fetch(swell_engine* engine, const swell_fetch_args* from, const swell_fetch_item* items,
              const FetchArrays& arrays, swell_status* statuses) {
  SWELL_RETURN_IF_ERROR(CheckEngine(engine));
  swell_fetch_args args = SWELL_FETCH_ARGS_INIT;
  SWELL_RETURN_IF_ERROR(ReadStruct("args", from, &args));
  SWELL_RETURN_IF_ERROR(CheckBatch(engine, args, items, statuses));
  const ModelShape& shape = engine->engine->shape();
  SWELL_RETURN_IF_ERROR(CheckArrays(shape, args, arrays));

  const auto convert = [&](const swell_fetch_item& item, FetchItem* target, RowRun* run) -> Status {
    *run = {item.first_row, item.n_tokens};
    SWELL_RETURN_IF_ERROR(CheckRun("first_row", "n_tokens", *run, args.n_rows));
    target->sequence = static_cast<SequenceId>(item.sequence);
    target->dtype = static_cast<DType>(args.dtype);
    if (item.n_tokens == 0) return OkStatus();
    const int64_t row = item.first_row * shape.kv_heads;
    const int64_t first = row * shape.head_dim * static_cast<int64_t>(DTypeSize(target->dtype));
    target->tokens = std::span(arrays.tokens + item.first_row, static_cast<size_t>(item.n_tokens));
    if (arrays.keys != nullptr) target->keys = static_cast<std::byte*>(arrays.keys) + first;
    if (arrays.values != nullptr) target->values = static_cast<std::byte*>(arrays.values) + first;
    if (arrays.key_scales != nullptr) target->key_scales = arrays.key_scales + row;
    if (arrays.value_scales != nullptr) target->value_scales = arrays.value_scales + row;
    return OkStatus();
  };
  return RunBatch<FetchItem>(args, items, statuses, /*writes_rows=*/true, convert,
                             [&](std::span<const FetchItem> targets, std::span<Status> results) {
                               return engine->engine->Fetch(args.layer, targets, results);
                             });
}

}  // namespace
}  // namespace swell::capi

swell_code swell_fetch(swell_engine* engine, const swell_fetch_args* args, const swell_fetch_item* items,
                       const int64_t* tokens, void* keys, void* values, float* key_scales, float* value_scales,
                       swell_status* statuses, swell_error** error) {
  return swell::capi::Guard(error, [&] {
    return swell::capi::Fetch(engine, args, items, {tokens, keys, values, key_scales, value_scales}, statuses);
  });
}
