// The engine on a GPU. Everything but its opening is the same in a library without CUDA, where no handle exists.
#include "swell/gpu.h"

#include "capi/src/guard.h"
#include "capi/src/handles.h"
#include "cuda/engine/gpu_engine.h"

struct swell_gpu {
  std::shared_ptr<swell::cuda::GpuEngine> engine;
};

struct swell_gpu_batch {
  std::unique_ptr<swell::cuda::GpuBatch> batch;
};

namespace swell::capi {
namespace {

cuda::Stream StreamOf(void* stream) { return static_cast<cuda::Stream>(stream); }

Status CheckGpu(const swell_gpu* gpu) { return CheckPointer("gpu", gpu, alignof(swell_gpu)); }

Status CheckBatch(const swell_gpu_batch* batch) { return CheckPointer("batch", batch, alignof(swell_gpu_batch)); }

Result<std::shared_ptr<cuda::GpuEngine>> OpenEngine([[maybe_unused]] const cuda::GpuEngineOptions& options) {
#ifdef SWELL_WITH_CUDA
  return cuda::GpuEngine::Open(options);
#else
  return Status(StatusCode::kUnimplemented, "this library was built without CUDA");
#endif
}

Status Open(const swell_gpu_options* from, swell_gpu** gpu) {
  swell_gpu_options options = SWELL_GPU_OPTIONS_INIT;
  SWELL_RETURN_IF_ERROR(ReadStruct("options", from, &options));
  SWELL_RETURN_IF_ERROR(CheckDType("options.storage", options.storage));
  SWELL_RETURN_IF_ERROR(CheckDType("options.home", options.home));
  SWELL_RETURN_IF_ERROR(CheckZero("options.flags", options.flags));
  cuda::GpuEngineOptions target;
  target.device = options.device;
  target.shape = {.layers = options.layers,
                  .kv_heads = options.kv_heads,
                  .group = options.group,
                  .head_dim = options.head_dim,
                  .scale = options.scale,
                  .storage = static_cast<DType>(options.storage)};
  target.max_sequences = options.max_sequences;
  target.sink_tokens = options.sink_tokens;
  target.window_tokens = options.window_tokens;
  if (options.segment_tokens != 0) target.segment_tokens = options.segment_tokens;
  if (options.cluster_tokens != 0) target.cluster_tokens = options.cluster_tokens;
  if (options.iterations != 0) target.iterations = options.iterations;
  target.home = static_cast<DType>(options.home);
  target.home_bytes = options.home_bytes;
  target.cache_bytes = options.cache_bytes;
  auto handle = std::make_unique<swell_gpu>();
  auto opened = OpenEngine(target);
  if (!opened.ok()) return opened.status();
  handle->engine = *std::move(opened);
  *gpu = handle.release();
  return OkStatus();
}

Status GetStats(const swell_gpu* gpu, swell_gpu_stats* stats) {
  SWELL_RETURN_IF_ERROR(CheckGpu(gpu));
  const auto from = gpu->engine->Stats();
  if (!from.ok()) return from.status();
  swell_gpu_stats source = SWELL_GPU_STATS_INIT;
  source.sequences = from->sequences;
  source.batches = from->batches;
  source.sealed_tokens = from->sealed_tokens;
  source.segment_bytes = from->segment_bytes;
  source.tail_bytes = from->tail_bytes;
  source.batch_bytes = from->batch_bytes;
  source.cache_bytes = from->cache_bytes;
  source.home_bytes = from->home_bytes;
  return FillStruct("stats", source, stats);
}

// Stores a new value in the caller's place, which is 0 until then.
template <typename T, typename Make>
Status Give(const char* name, T* place, const swell_gpu* gpu, Make&& make) {
  SWELL_RETURN_IF_ERROR(CheckPointer(name, place, alignof(T)));
  *place = 0;
  SWELL_RETURN_IF_ERROR(CheckGpu(gpu));
  const Result<T> made = make(*gpu->engine);
  if (!made.ok()) return made.status();
  *place = *made;
  return OkStatus();
}

Status Put(swell_gpu* gpu, const swell_gpu_put_args* from, const void* keys, const void* values, void* stream) {
  SWELL_RETURN_IF_ERROR(CheckGpu(gpu));
  swell_gpu_put_args args = SWELL_GPU_PUT_ARGS_INIT;
  SWELL_RETURN_IF_ERROR(ReadStruct("args", from, &args));
  return gpu->engine->Put({.sequence = args.sequence,
                           .layer = args.layer,
                           .position = args.position,
                           .tokens = args.tokens,
                           .keys = keys,
                           .values = values,
                           .token_stride = args.token_stride,
                           .head_stride = args.head_stride},
                          StreamOf(stream));
}

Status CreateBatch(swell_gpu* gpu, const swell_gpu_batch_options* from, const swell_retrieval* retrieval,
                   swell_gpu_batch** batch) {
  SWELL_RETURN_IF_ERROR(CheckGpu(gpu));
  swell_gpu_batch_options options = SWELL_GPU_BATCH_OPTIONS_INIT;
  SWELL_RETURN_IF_ERROR(ReadStruct("options", from, &options));
  SWELL_RETURN_IF_ERROR(CheckZero("options.flags: unknown bits", options.flags & ~SWELL_GPU_BATCH_EXACT));
  SWELL_RETURN_IF_ERROR(CheckZero("options.reserved", options.reserved));
  const bool exact = (options.flags & SWELL_GPU_BATCH_EXACT) != 0;
  if (exact) SWELL_RETURN_IF_ERROR(CheckNull("retrieval", retrieval, "the batch is not exact"));
  cuda::GpuBatchOptions target;
  target.max_sequences = options.max_sequences;
  target.max_tokens = options.max_tokens;
  target.max_sequence_tokens = options.max_sequence_tokens;
  if (exact) target.retrieval = cuda::Everything();
  if (retrieval != nullptr) target.retrieval = *OptionsOf(retrieval);
  auto handle = std::make_unique<swell_gpu_batch>();
  auto made = gpu->engine->MakeBatch(target);
  if (!made.ok()) return made.status();
  handle->batch = *std::move(made);
  *batch = handle.release();
  return OkStatus();
}

Status SetBatch(swell_gpu_batch* batch, const swell_sequence* sequences, int64_t n_sequences, void* stream) {
  SWELL_RETURN_IF_ERROR(CheckBatch(batch));
  if (n_sequences < 0 || n_sequences > 4096) return BadSize("n_sequences is " + std::to_string(n_sequences));
  if (n_sequences > 0) SWELL_RETURN_IF_ERROR(CheckPointer("sequences", sequences, alignof(swell_sequence)));
  return batch->batch->Set({sequences, static_cast<size_t>(n_sequences)}, StreamOf(stream));
}

}  // namespace
}  // namespace swell::capi

using swell::Status;
using swell::capi::Give;
using swell::capi::Guard;
using swell::capi::StreamOf;
using swell::cuda::GpuEngine;

swell_code swell_gpu_open(const swell_gpu_options* options, swell_gpu** gpu, swell_error** error) {
  return Guard(error, [&]() -> Status {
    SWELL_RETURN_IF_ERROR(swell::capi::CheckPointer("gpu", gpu, alignof(swell_gpu*)));
    *gpu = nullptr;
    return swell::capi::Open(options, gpu);
  });
}

void swell_gpu_close(swell_gpu** gpu) {
  if (gpu == nullptr) return;
  delete *gpu;
  *gpu = nullptr;
}

swell_code swell_gpu_get_stats(const swell_gpu* gpu, swell_gpu_stats* stats, swell_error** error) {
  return Guard(error, [&] { return swell::capi::GetStats(gpu, stats); });
}

swell_code swell_gpu_sequence_create(swell_gpu* gpu, swell_sequence* sequence, swell_error** error) {
  return Guard(error,
               [&] { return Give("sequence", sequence, gpu, [](GpuEngine& engine) { return engine.Create(); }); });
}

swell_code swell_gpu_sequence_fork(swell_gpu* gpu, swell_sequence sequence, void* stream, swell_sequence* fork,
                                   swell_error** error) {
  return Guard(error, [&] {
    return Give("fork", fork, gpu, [&](GpuEngine& engine) { return engine.Fork(sequence, StreamOf(stream)); });
  });
}

swell_code swell_gpu_sequence_truncate(swell_gpu* gpu, swell_sequence sequence, int64_t tokens, void* stream,
                                       swell_error** error) {
  return Guard(error, [&]() -> Status {
    SWELL_RETURN_IF_ERROR(swell::capi::CheckGpu(gpu));
    return gpu->engine->Truncate(sequence, tokens, StreamOf(stream));
  });
}

swell_code swell_gpu_sequence_release(swell_gpu* gpu, swell_sequence sequence, swell_error** error) {
  return Guard(error, [&]() -> Status {
    SWELL_RETURN_IF_ERROR(swell::capi::CheckGpu(gpu));
    return gpu->engine->Release(sequence);
  });
}

swell_code swell_gpu_sequence_length(const swell_gpu* gpu, swell_sequence sequence, int32_t layer, void* stream,
                                     int64_t* tokens, swell_error** error) {
  return Guard(error, [&] {
    return Give("tokens", tokens, gpu,
                [&](const GpuEngine& engine) { return engine.Length(sequence, layer, StreamOf(stream)); });
  });
}

swell_code swell_gpu_put(swell_gpu* gpu, const swell_gpu_put_args* args, const void* keys, const void* values,
                         void* stream, swell_error** error) {
  return Guard(error, [&] { return swell::capi::Put(gpu, args, keys, values, stream); });
}

swell_code swell_gpu_seal(swell_gpu* gpu, void* stream, swell_error** error) {
  return Guard(error, [&]() -> Status {
    SWELL_RETURN_IF_ERROR(swell::capi::CheckGpu(gpu));
    return gpu->engine->Seal(StreamOf(stream));
  });
}

swell_code swell_gpu_batch_create(swell_gpu* gpu, const swell_gpu_batch_options* options,
                                  const swell_retrieval* retrieval, swell_gpu_batch** batch, swell_error** error) {
  return Guard(error, [&]() -> Status {
    SWELL_RETURN_IF_ERROR(swell::capi::CheckPointer("batch", batch, alignof(swell_gpu_batch*)));
    *batch = nullptr;
    return swell::capi::CreateBatch(gpu, options, retrieval, batch);
  });
}

void swell_gpu_batch_destroy(swell_gpu_batch** batch) {
  if (batch == nullptr) return;
  delete *batch;
  *batch = nullptr;
}

swell_code swell_gpu_batch_set(swell_gpu_batch* batch, const swell_sequence* sequences, int64_t n_sequences,
                               void* stream, swell_error** error) {
  return Guard(error, [&] { return swell::capi::SetBatch(batch, sequences, n_sequences, stream); });
}

swell_code swell_gpu_append(swell_gpu_batch* batch, int32_t layer, const void* keys, const void* values, void* stream,
                            swell_error** error) {
  return Guard(error, [&]() -> Status {
    SWELL_RETURN_IF_ERROR(swell::capi::CheckBatch(batch));
    return batch->batch->Append(layer, keys, values, StreamOf(stream));
  });
}

swell_code swell_gpu_attend(swell_gpu_batch* batch, int32_t layer, const void* queries, float* output, float* lse,
                            float* predicted_error, void* stream, swell_error** error) {
  return Guard(error, [&]() -> Status {
    SWELL_RETURN_IF_ERROR(swell::capi::CheckBatch(batch));
    return batch->batch->Attend(layer, {queries, output, lse, predicted_error}, StreamOf(stream));
  });
}
