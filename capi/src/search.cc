// swell_search.
#include "capi/src/batch.h"

namespace swell::capi {
namespace {

Status CheckArrays(const ModelShape& shape, const swell_search_args& args, const void* queries, const int64_t* tokens,
                   const float* logits) {
  const int64_t heads = static_cast<int64_t>(shape.kv_heads) * shape.group;
  SWELL_RETURN_IF_ERROR(CheckDType("args.query_dtype", args.query_dtype));
  if (static_cast<DType>(args.query_dtype) == DType::kInt8) {
    return InvalidArgument("args.query_dtype is INT8, not FLOAT32, FLOAT16 or BFLOAT16", StatusDetail::kUnknownDType);
  }
  if (args.top_k < 1) return BadSize("args.top_k is " + std::to_string(args.top_k) + ", below 1");
  SWELL_RETURN_IF_ERROR(CheckExtent("queries", {args.n_rows, heads, shape.head_dim, sizeof(float)}));
  SWELL_RETURN_IF_ERROR(CheckExtent("tokens", {args.n_rows, heads, args.top_k, sizeof(int64_t)}));
  SWELL_RETURN_IF_ERROR(CheckOptionalPointer("logits", logits, alignof(float)));
  if (args.n_rows == 0) return OkStatus();
  SWELL_RETURN_IF_ERROR(CheckPointer("queries", queries, DTypeSize(static_cast<DType>(args.query_dtype))));
  return CheckPointer("tokens", tokens, alignof(int64_t));
}

Outcome Search(swell_engine* engine, const swell_search_args* from, const swell_search_item* items, const void* queries,
               int64_t* tokens, float* logits, swell_status* statuses) {
  SWELL_RETURN_IF_ERROR(CheckEngine(engine));
  swell_search_args args = SWELL_SEARCH_ARGS_INIT;
  SWELL_RETURN_IF_ERROR(ReadStruct("args", from, &args));
  SWELL_RETURN_IF_ERROR(CheckBatch(engine, args, items, statuses));
  const ModelShape& shape = engine->engine->shape();
  SWELL_RETURN_IF_ERROR(CheckArrays(shape, args, queries, tokens, logits));

  const auto convert = [&](const swell_search_item& item, SearchItem* target, RowRun* run) -> Status {
    *run = {item.row, 1};
    SWELL_RETURN_IF_ERROR(CheckRun("row", "rows", *run, args.n_rows));
    SWELL_RETURN_IF_ERROR(CheckEnum("mode", item.mode, AttendMode::kExact));
    SWELL_RETURN_IF_ERROR(CheckZero("reserved", item.reserved));
    SWELL_RETURN_IF_ERROR(CheckOptionalPointer("retrieval", item.retrieval, alignof(swell_retrieval)));
    const int64_t head = item.row * shape.kv_heads * shape.group;
    target->sequence = static_cast<SequenceId>(item.sequence);
    target->mode = static_cast<AttendMode>(item.mode);
    target->retrieval = OptionsOf(item.retrieval);
    target->query_dtype = static_cast<DType>(args.query_dtype);
    target->queries = static_cast<const std::byte*>(queries) +
                      head * shape.head_dim * static_cast<int64_t>(DTypeSize(target->query_dtype));
    target->top_k = args.top_k;
    target->tokens = tokens + head * args.top_k;
    if (logits != nullptr) target->logits = logits + head * args.top_k;
    return OkStatus();
  };
  return RunBatch<SearchItem>(args, items, statuses, /*writes_rows=*/true, convert,
                              [&](std::span<const SearchItem> targets, std::span<Status> results) {
                                return engine->engine->Search(args.layer, targets, results);
                              });
}

}  // namespace
}  // namespace swell::capi

swell_code swell_search(swell_engine* engine, const swell_search_args* args, const swell_search_item* items,
                        const void* queries, int64_t* tokens, float* logits, swell_status* statuses,
                        swell_error** error) {
  return swell::capi::Guard(
      error, [&] { return swell::capi::Search(engine, args, items, queries, tokens, logits, statuses); });
}
