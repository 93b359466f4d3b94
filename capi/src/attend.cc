// swell_attend.
#include "capi/src/batch.h"

namespace swell::capi {
namespace {

// The caller's arrays, checked.
struct AttendArrays {
  const void* queries;
  void* output;
  float* lse;
  swell_certificate* certificates;
};

int64_t Heads(const ModelShape& shape) { return static_cast<int64_t>(shape.kv_heads) * shape.group; }

// Queries and outputs are float32, float16 or bfloat16.
Status CheckFloat(const char* name, int32_t dtype) {
  SWELL_RETURN_IF_ERROR(CheckDType(name, dtype));
  if (static_cast<DType>(dtype) != DType::kInt8) return OkStatus();
  return InvalidArgument(std::string(name) + " is INT8, not FLOAT32, FLOAT16 or BFLOAT16", StatusDetail::kUnknownDType);
}

Status CheckArrays(const ModelShape& shape, const swell_attend_args& args, const AttendArrays& arrays) {
  SWELL_RETURN_IF_ERROR(CheckFloat("args.query_dtype", args.query_dtype));
  SWELL_RETURN_IF_ERROR(CheckFloat("args.output_dtype", args.output_dtype));
  const int64_t rows = args.n_rows;
  const int64_t stride = args.certificate_size;
  SWELL_RETURN_IF_ERROR(CheckExtent("queries", {rows, Heads(shape), shape.head_dim, sizeof(float)}));
  if (arrays.certificates != nullptr) {
    SWELL_RETURN_IF_ERROR(CheckStride<swell_certificate>("args.certificate_size", args.certificate_size));
    SWELL_RETURN_IF_ERROR(CheckPointer("certificates", arrays.certificates, alignof(swell_certificate)));
    SWELL_RETURN_IF_ERROR(CheckExtent("certificates", {rows, Heads(shape), stride}));
  }
  SWELL_RETURN_IF_ERROR(CheckOptionalPointer("lse", arrays.lse, alignof(float)));
  if (rows == 0) return OkStatus();
  SWELL_RETURN_IF_ERROR(CheckPointer("queries", arrays.queries, DTypeSize(static_cast<DType>(args.query_dtype))));
  return CheckPointer("output", arrays.output, DTypeSize(static_cast<DType>(args.output_dtype)));
}

// Places for the engine's certificates, written to the caller's array when the call has ended.
class Certificates {
 public:
  Certificates(const ModelShape& shape, const swell_attend_args& args, swell_certificate* out)
      : heads_(Heads(shape)), stride_(args.certificate_size), out_(reinterpret_cast<unsigned char*>(out)) {
    if (out != nullptr) rows_.resize(static_cast<size_t>(args.n_rows * heads_));
  }

  Certificate* At(int64_t row) { return out_ == nullptr ? nullptr : rows_.data() + row * heads_; }

  void Write(RowRun run) const {
    if (out_ == nullptr) return;
    for (int64_t i = run.first * heads_; i < (run.first + run.count) * heads_; ++i) {
      const Certificate& from = rows_[static_cast<size_t>(i)];
      const swell_certificate target = {from.tokens_visible, from.tokens_read, from.bytes_read, from.estimated_share,
                                        from.predicted_error};
      WriteStruct(target, static_cast<size_t>(stride_), out_ + i * stride_);
    }
  }

 private:
  int64_t heads_;
  int64_t stride_;
  unsigned char* out_;
  std::vector<Certificate> rows_;
};

Outcome Attend(swell_engine* engine, const swell_attend_args* from, const swell_attend_item* items,
               const AttendArrays& arrays, swell_status* statuses) {
  SWELL_RETURN_IF_ERROR(CheckEngine(engine));
  swell_attend_args args = SWELL_ATTEND_ARGS_INIT;
  SWELL_RETURN_IF_ERROR(ReadStruct("args", from, &args));
  SWELL_RETURN_IF_ERROR(CheckBatch(engine, args, items, statuses));
  const ModelShape& shape = engine->engine->shape();
  SWELL_RETURN_IF_ERROR(CheckArrays(shape, args, arrays));
  Certificates certificates(shape, args, arrays.certificates);

  const auto convert = [&](const swell_attend_item& item, AttendItem* target, RowRun* run) -> Status {
    *run = {item.first_row, item.n_queries};
    SWELL_RETURN_IF_ERROR(CheckRun("first_row", "n_queries", *run, args.n_rows));
    SWELL_RETURN_IF_ERROR(CheckEnum("mode", item.mode, AttendMode::kExact));
    SWELL_RETURN_IF_ERROR(CheckZero("reserved", item.reserved));
    SWELL_RETURN_IF_ERROR(CheckOptionalPointer("retrieval", item.retrieval, alignof(swell_retrieval)));
    target->sequence = static_cast<SequenceId>(item.sequence);
    target->n_queries = item.n_queries;
    target->mode = static_cast<AttendMode>(item.mode);
    target->retrieval = OptionsOf(item.retrieval);
    target->query_dtype = static_cast<DType>(args.query_dtype);
    target->output_dtype = static_cast<DType>(args.output_dtype);
    if (item.n_queries == 0) return OkStatus();
    const int64_t first = item.first_row * Heads(shape) * shape.head_dim;
    target->queries =
        static_cast<const std::byte*>(arrays.queries) + first * static_cast<int64_t>(DTypeSize(target->query_dtype));
    target->output =
        static_cast<std::byte*>(arrays.output) + first * static_cast<int64_t>(DTypeSize(target->output_dtype));
    if (arrays.lse != nullptr) target->lse = arrays.lse + item.first_row * Heads(shape);
    target->certificates = certificates.At(item.first_row);
    return OkStatus();
  };
  return RunBatch<AttendItem>(
      args, items, statuses, /*writes_rows=*/true, convert,
      [&](std::span<const AttendItem> targets, std::span<Status> results) {
        Status overall = engine->engine->Attend(args.layer, targets, results);
        for (size_t i = 0; i < targets.size(); ++i) {
          if (!results[i].ok() || targets[i].certificates == nullptr) continue;
          certificates.Write({(targets[i].certificates - certificates.At(0)) / Heads(shape), targets[i].n_queries});
        }
        return overall;
      });
}

}  // namespace
}  // namespace swell::capi

swell_code swell_attend(swell_engine* engine, const swell_attend_args* args, const swell_attend_item* items,
                        const void* queries, void* output, float* lse, swell_certificate* certificates,
                        swell_status* statuses, swell_error** error) {
  return swell::capi::Guard(error, [&] {
    return swell::capi::Attend(engine, args, items, {queries, output, lse, certificates}, statuses);
  });
}
