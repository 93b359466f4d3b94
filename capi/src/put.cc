// swell_put.
#include "capi/src/batch.h"

namespace swell::capi {
namespace {

// The caller's strides with 0 resolved to dense, and the extent of the array checked.
struct Strides {
  int64_t token = 0;
  int64_t head = 0;
};

Status ResolveStrides(const char* name, const ModelShape& shape, const swell_put_args& args, Strides* strides) {
  const std::string prefix = std::string("args.") + name;
  SWELL_RETURN_IF_ERROR(CheckNotNegative((prefix + "_token_stride").c_str(), strides->token));
  SWELL_RETURN_IF_ERROR(CheckNotNegative((prefix + "_head_stride").c_str(), strides->head));
  if (strides->token == 0) strides->token = static_cast<int64_t>(shape.kv_heads) * shape.head_dim;
  if (strides->head == 0) strides->head = shape.head_dim;
  // A generous bound, so that the engine's sums of the two products cannot overflow either.
  const auto element_bytes = static_cast<int64_t>(DTypeSize(static_cast<DType>(args.dtype)));
  SWELL_RETURN_IF_ERROR(CheckExtent(name, {args.n_rows, strides->token, element_bytes, 4}));
  return CheckExtent(name, {shape.kv_heads, strides->head, element_bytes, 4});
}

Status CheckArrays(const ModelShape& shape, const swell_put_args& args, const void* keys, const void* values,
                   const float* key_scales, const float* value_scales) {
  SWELL_RETURN_IF_ERROR(CheckDType("args.dtype", args.dtype));
  const auto dtype = static_cast<DType>(args.dtype);
  if (dtype == DType::kInt8) {
    SWELL_RETURN_IF_ERROR(CheckExtent("key_scales", {args.n_rows, shape.kv_heads, sizeof(float)}));
    if (args.n_rows > 0) SWELL_RETURN_IF_ERROR(CheckPointer("key_scales", key_scales, alignof(float)));
    if (args.n_rows > 0) SWELL_RETURN_IF_ERROR(CheckPointer("value_scales", value_scales, alignof(float)));
  } else {
    SWELL_RETURN_IF_ERROR(CheckNull("key_scales", key_scales, "args.dtype is INT8"));
    SWELL_RETURN_IF_ERROR(CheckNull("value_scales", value_scales, "args.dtype is INT8"));
  }
  if (args.n_rows == 0) return OkStatus();
  SWELL_RETURN_IF_ERROR(CheckPointer("keys", keys, DTypeSize(dtype)));
  return CheckPointer("values", values, DTypeSize(dtype));
}

RowsView View(const void* data, const float* scales, const ModelShape& shape, const swell_put_args& args,
              const Strides& strides, int64_t first_row) {
  RowsView view;
  view.dtype = static_cast<DType>(args.dtype);
  const auto element_bytes = static_cast<int64_t>(DTypeSize(view.dtype));
  if (data != nullptr) view.data = static_cast<const std::byte*>(data) + first_row * strides.token * element_bytes;
  view.token_stride = strides.token;
  view.head_stride = strides.head;
  if (scales != nullptr) view.scales = scales + first_row * shape.kv_heads;
  return view;
}

Outcome Put(swell_engine* engine, const swell_put_args* from, const swell_put_item* items, const void* keys,
            const void* values, const float* key_scales, const float* value_scales, swell_status* statuses) {
  SWELL_RETURN_IF_ERROR(CheckEngine(engine));
  swell_put_args args = SWELL_PUT_ARGS_INIT;
  SWELL_RETURN_IF_ERROR(ReadStruct("args", from, &args));
  SWELL_RETURN_IF_ERROR(CheckBatch(engine, args, items, statuses));
  const ModelShape& shape = engine->engine->shape();
  SWELL_RETURN_IF_ERROR(CheckArrays(shape, args, keys, values, key_scales, value_scales));
  Strides key_strides{args.key_token_stride, args.key_head_stride};
  Strides value_strides{args.value_token_stride, args.value_head_stride};
  SWELL_RETURN_IF_ERROR(ResolveStrides("key", shape, args, &key_strides));
  SWELL_RETURN_IF_ERROR(ResolveStrides("value", shape, args, &value_strides));

  const auto convert = [&](const swell_put_item& item, PutItem* target, RowRun* run) -> Status {
    *run = {item.first_row, item.tokens};
    SWELL_RETURN_IF_ERROR(CheckRun("first_row", "tokens", *run, args.n_rows));
    target->sequence = static_cast<SequenceId>(item.sequence);
    target->position = item.position;
    target->tokens = item.tokens;
    target->keys = View(keys, key_scales, shape, args, key_strides, item.first_row);
    target->values = View(values, value_scales, shape, args, value_strides, item.first_row);
    return OkStatus();
  };
  return RunBatch<PutItem>(args, items, statuses, /*writes_rows=*/false, convert,
                           [&](std::span<const PutItem> targets, std::span<Status> results) {
                             return engine->engine->Put(args.layer, targets, results);
                           });
}

}  // namespace
}  // namespace swell::capi

swell_code swell_put(swell_engine* engine, const swell_put_args* args, const swell_put_item* items, const void* keys,
                     const void* values, const float* key_scales, const float* value_scales, swell_status* statuses,
                     swell_error** error) {
  return swell::capi::Guard(
      error, [&] { return swell::capi::Put(engine, args, items, keys, values, key_scales, value_scales, statuses); });
}
