#include "cuda/engine/gpu_engine.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <limits>
#include <mutex>
#include <new>
#include <string>
#include <unordered_set>
#include <utility>
#include <vector>

#include "cuda/device/device.h"
#include "cuda/engine/layer_cut.h"
#include "cuda/engine/layer_growth.h"
#include "cuda/step/decode_step.h"

namespace swell::cuda {
namespace {

constexpr int32_t kBuildSegments = 32;  // of one build; bounds its scratch memory

Status BadRange(const char* name) {
  return InvalidArgument(std::string(name) + ": out of range", StatusDetail::kBadSize);
}

Status NoMemory() {
  return Status(StatusCode::kResourceExhausted, "GPU engine: out of host memory", StatusDetail::kNoMemory);
}

// The rest is checked by the parts.
Status CheckOptions(const GpuEngineOptions& options) {
  if (options.shape.layers < 1 || options.shape.layers > 4096) return BadRange("layers");
  if (options.shape.kv_heads < 1 || options.shape.kv_heads > 1024) return BadRange("kv_heads");
  if (options.shape.group < 1 || options.shape.group > kMaxGroup) return BadRange("group");
  if (options.max_sequences < 1 || options.max_sequences > 4096) return BadRange("max_sequences");
  if (options.sink_tokens < 0 || options.sink_tokens > 1024) return BadRange("sink_tokens");
  if (options.window_tokens < 0 || options.window_tokens > 65536) return BadRange("window_tokens");
  if (options.segment_tokens < 16 || options.segment_tokens > 2048) return BadRange("segment_tokens");
  if (options.cluster_tokens < (options.segment_tokens + 255) / 256) return BadRange("cluster_tokens");
  if (options.home_bytes == 0 && options.cache_bytes != 0) {
    return InvalidArgument("cache_bytes: must be 0 without home_bytes");
  }
  return OkStatus();
}

HeadShape HeadOf(const ModelShape& shape) {
  return {.head_dim = shape.head_dim, .group = shape.group, .scale = shape.scale, .storage = shape.storage};
}

GrowthRules RulesOf(const GpuEngineOptions& options) {
  return {.shape = HeadOf(options.shape),
          .kv_heads = options.shape.kv_heads,
          .sink_tokens = options.sink_tokens,
          .window_tokens = options.window_tokens,
          .segment_tokens = options.segment_tokens};
}

Status CheckDevicePointer(const char* name, const void* pointer, int32_t device) {
  if (pointer == nullptr) return InvalidArgument(std::string(name) + ": null", StatusDetail::kNullPointer);
  if (reinterpret_cast<uintptr_t>(pointer) % 16 != 0) {
    return InvalidArgument(std::string(name) + ": not 16-byte aligned", StatusDetail::kMisaligned);
  }
  cudaPointerAttributes attributes;
  SWELL_RETURN_IF_ERROR(FromCuda(cudaPointerGetAttributes(&attributes, pointer), "cudaPointerGetAttributes"));
  if (attributes.type == cudaMemoryTypeManaged) return OkStatus();
  if (attributes.type == cudaMemoryTypeDevice && attributes.device == device) return OkStatus();
  return InvalidArgument(std::string(name) + ": not in the memory of device " + std::to_string(device));
}

Status CheckOptionalPointer(const char* name, const void* pointer, int32_t device) {
  return pointer == nullptr ? OkStatus() : CheckDevicePointer(name, pointer, device);
}

Status CheckNotCaptured(Stream stream) {
  cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
  SWELL_RETURN_IF_ERROR(FromCuda(cudaStreamIsCapturing(stream, &capture), "cudaStreamIsCapturing"));
  if (capture == cudaStreamCaptureStatusNone) return OkStatus();
  return Status(StatusCode::kFailedPrecondition, "stream: is being captured, and this call cannot be");
}

class DeviceBatch;

class DeviceEngine final : public GpuEngine, public std::enable_shared_from_this<DeviceEngine> {
 public:
  explicit DeviceEngine(const GpuEngineOptions& options) : options_(options) {}
  ~DeviceEngine() override {
    const DeviceScope scope(options_.device);
    grower_.reset();
    builder_.reset();
    sequences_.reset();
    buffer_.reset();
  }
  Status Start();

  Result<uint64_t> Create() override;
  Result<uint64_t> Fork(uint64_t sequence, Stream stream) override;
  Status Truncate(uint64_t sequence, int64_t tokens, Stream stream) override;
  Status Release(uint64_t sequence) override;
  Result<int64_t> Length(uint64_t sequence, int32_t layer, Stream stream) const override;
  Status Put(const GpuRows& rows, Stream stream) override;
  Status Seal(Stream stream) override;
  Result<std::unique_ptr<GpuBatch>> MakeBatch(const GpuBatchOptions& options) override;
  Result<GpuStats> Stats() const override;
  const GpuEngineOptions& options() const override { return options_; }

 private:
  friend class DeviceBatch;

  // Runs `call` in turn, on the device, with what every call refuses. `call` returns Status or a Result.
  template <typename Call>
  auto Run(Call&& call) const -> decltype(call()) try {
    const std::scoped_lock lock(mutex_);
    if (lost_) return Status(StatusCode::kUnavailable, "device lost: a kernel failed before; close this engine");
    const DeviceScope scope(options_.device);
    auto outcome = scope.status().ok() ? call() : decltype(call())(scope.status());
    if (StatusOf(outcome).code() != StatusCode::kInternal) return outcome;
    // An error that another call repeats is one that the device does not recover from.
    cudaGetLastError();
    const Status again = FromCuda(cudaFree(nullptr), "cudaFree");
    if (again.ok() || again.code() == StatusCode::kFailedPrecondition) return outcome;  // or a capture forbade to ask
    lost_ = true;
    return Status(StatusCode::kUnavailable, "device lost: " + std::string(StatusOf(outcome).message()));
  } catch (const std::bad_alloc&) {
    return NoMemory();
  }
  static Status StatusOf(const Status& status) { return status; }
  template <typename T>
  static Status StatusOf(const Result<T>& result) {
    return result.status();
  }

  Result<int32_t> SlotOf(uint64_t sequence) const;
  Status CheckLayer(int32_t layer) const;
  Result<uint64_t> Name(const Result<int32_t>& slot);
  int64_t SealedTokens(int32_t slot, int32_t layer) const;
  Status PutRows(const GpuRows& rows, Stream stream);
  Status CheckRows(const GpuRows& rows, DeviceRows* checked) const;
  Status SealAll(Stream stream);
  Status Commit(const LayerGrowth& growth, Stream stream);
  Status Replan(int32_t slot, int32_t layer, Stream stream);
  Status DropSegments(int32_t slot, const std::vector<LayerCut>& cuts, Stream stream);

  const GpuEngineOptions options_;
  mutable std::mutex mutex_;
  mutable bool lost_ = false;
  std::shared_ptr<WaveBuffer> buffer_;
  std::unique_ptr<Sequences> sequences_;
  std::unique_ptr<SegmentBuilder> builder_;
  std::unique_ptr<LayerGrower> grower_;
  std::vector<uint32_t> generations_;  // of slots
  std::vector<DeviceBatch*> batches_;
};

class DeviceBatch final : public GpuBatch {
 public:
  DeviceBatch(std::shared_ptr<DeviceEngine> engine, std::unique_ptr<DecodeStep> step)
      : engine_(std::move(engine)), step_(std::move(step)) {}
  ~DeviceBatch() override {
    const std::scoped_lock lock(engine_->mutex_);
    std::erase(engine_->batches_, this);
    const DeviceScope scope(engine_->options_.device);
    step_.reset();
  }

  Status Set(std::span<const uint64_t> sequences, Stream stream) override;
  Status Append(int32_t layer, const void* keys, const void* values, Stream stream) override;
  Status Attend(int32_t layer, const GpuAttend& call, Stream stream) override;

 private:
  friend class DeviceEngine;
  bool Names(int32_t slot) const { return std::count(slots_.begin(), slots_.end(), slot) != 0; }

  const std::shared_ptr<DeviceEngine> engine_;
  std::unique_ptr<DecodeStep> step_;
  std::vector<int32_t> slots_;
};

Status DeviceEngine::Start() {
  SWELL_RETURN_IF_ERROR(CheckOptions(options_));
  const auto info = GetDeviceInfo(options_.device);
  if (!info.ok()) return info.status();
  return Run([&]() -> Status {
    const GrowthRules rules = RulesOf(options_);
    auto sequences = Sequences::Make({.layers = options_.shape.layers,
                                      .kv_heads = options_.shape.kv_heads,
                                      .head_dim = options_.shape.head_dim,
                                      .max_sequences = options_.max_sequences,
                                      .tail_tokens = rules.TailTokens()});
    if (!sequences.ok()) return sequences.status();
    auto builder = SegmentBuilder::Make({.shape = rules.shape,
                                         .kv_heads = rules.kv_heads,
                                         .max_segments = kBuildSegments,
                                         .cluster_tokens = options_.cluster_tokens,
                                         .iterations = options_.iterations});
    if (!builder.ok()) return builder.status();
    if (options_.home_bytes > 0) {
      auto buffer = WaveBuffer::Make({.head_dim = options_.shape.head_dim,
                                      .storage = options_.shape.storage,
                                      .home = options_.home,
                                      .home_bytes = options_.home_bytes,
                                      .cache_bytes = options_.cache_bytes});
      if (!buffer.ok()) return buffer.status();
      buffer_ = *std::move(buffer);
    }
    sequences_ = *std::move(sequences);
    builder_ = *std::move(builder);
    grower_ = std::make_unique<LayerGrower>(rules, sequences_.get(), builder_.get(), kBuildSegments, buffer_.get());
    generations_.assign(static_cast<size_t>(options_.max_sequences), 0);
    return OkStatus();
  });
}

// A name is the slot in the lower half, counted from 1, and how often it was used before in the upper.
Result<int32_t> DeviceEngine::SlotOf(uint64_t sequence) const {
  const uint64_t slot = (sequence & 0xffffffffU) - 1;
  if (slot < generations_.size() && sequences_->Has(static_cast<int32_t>(slot)) &&
      generations_[slot] == sequence >> 32) {
    return static_cast<int32_t>(slot);
  }
  return Status(StatusCode::kNotFound, "sequence: there is none of this number", StatusDetail::kStaleHandle);
}

Result<uint64_t> DeviceEngine::Name(const Result<int32_t>& slot) {
  if (!slot.ok()) return slot.status();
  const auto place = static_cast<size_t>(*slot);
  return uint64_t{++generations_[place]} << 32 | (place + 1);
}

Status DeviceEngine::CheckLayer(int32_t layer) const {
  return layer >= 0 && layer < options_.shape.layers ? OkStatus() : BadRange("layer");
}

int64_t DeviceEngine::SealedTokens(int32_t slot, int32_t layer) const {
  int64_t tokens = 0;
  for (const SegmentPointer& segment : sequences_->segments(slot, layer)) tokens += segment->tokens();
  return tokens;
}

Result<uint64_t> DeviceEngine::Create() {
  return Run([&]() -> Result<uint64_t> { return Name(sequences_->Create()); });
}

Result<uint64_t> DeviceEngine::Fork(uint64_t sequence, Stream stream) {
  return Run([&]() -> Result<uint64_t> {
    const auto slot = SlotOf(sequence);
    if (!slot.ok()) return slot.status();
    SWELL_RETURN_IF_ERROR(CheckNotCaptured(stream));
    return Name(sequences_->Fork(*slot, stream));
  });
}

Status DeviceEngine::Truncate(uint64_t sequence, int64_t tokens, Stream stream) {
  return Run([&]() -> Status {
    const auto slot = SlotOf(sequence);
    if (!slot.ok()) return slot.status();
    if (tokens < 0) return BadRange("tokens");
    SWELL_RETURN_IF_ERROR(CheckNotCaptured(stream));
    const auto tails = sequences_->ReadTails(*slot, stream);
    if (!tails.ok()) return tails.status();
    // Segments go first, because batches may refuse; what follows fails only with the device.
    std::vector<LayerCut> cuts;
    for (int32_t layer = 0; layer < options_.shape.layers; ++layer) {
      cuts.push_back(CutLayer(sequences_->segments(*slot, layer), (*tails)[static_cast<size_t>(layer)], tokens));
    }
    SWELL_RETURN_IF_ERROR(DropSegments(*slot, cuts, stream));
    for (int32_t layer = 0; layer < options_.shape.layers; ++layer) {
      const LayerCut& cut = cuts[static_cast<size_t>(layer)];
      const Tail& tail = (*tails)[static_cast<size_t>(layer)];
      if (cut.dropped.empty() && cut.tail_tokens == tail.tokens) continue;
      SWELL_RETURN_IF_ERROR(Reopen(cut, HeadOf(options_.shape), buffer_.get(), tail, stream));
      SWELL_RETURN_IF_ERROR(sequences_->SetTail(*slot, layer, cut.tail_tokens, stream));
    }
    return FromCuda(cudaStreamSynchronize(stream), "truncate");  // what was dropped is freed now
  });
}

Status DeviceEngine::DropSegments(int32_t slot, const std::vector<LayerCut>& cuts, Stream stream) {
  Status planned;
  for (int32_t layer = 0; planned.ok() && layer < options_.shape.layers; ++layer) {
    const std::vector<SegmentPointer>& dropped = cuts[static_cast<size_t>(layer)].dropped;
    if (dropped.empty()) continue;
    sequences_->RemoveSegments(slot, layer, dropped.size());
    planned = Replan(slot, layer, stream);
    if (planned.ok()) continue;
    for (int32_t undone = layer; undone >= 0; --undone) {
      SWELL_RETURN_IF_ERROR(sequences_->AddSegments(slot, undone, cuts[static_cast<size_t>(undone)].dropped));
      SWELL_RETURN_IF_ERROR(Replan(slot, undone, stream));
    }
  }
  return planned;
}

Status DeviceEngine::Release(uint64_t sequence) {
  return Run([&]() -> Status {
    const auto slot = SlotOf(sequence);
    if (!slot.ok()) return slot.status();
    for (const DeviceBatch* batch : batches_) {
      if (!batch->Names(*slot)) continue;
      return Status(StatusCode::kFailedPrecondition, "sequence: a batch names it; set the batch without it first");
    }
    return sequences_->Release(*slot);
  });
}

Result<int64_t> DeviceEngine::Length(uint64_t sequence, int32_t layer, Stream stream) const {
  return Run([&]() -> Result<int64_t> {
    const auto slot = SlotOf(sequence);
    if (!slot.ok()) return slot.status();
    SWELL_RETURN_IF_ERROR(CheckLayer(layer));
    SWELL_RETURN_IF_ERROR(CheckNotCaptured(stream));
    const auto tails = sequences_->ReadTails(*slot, stream);
    if (!tails.ok()) return tails.status();
    return SealedTokens(*slot, layer) + (*tails)[static_cast<size_t>(layer)].tokens;
  });
}

Status DeviceEngine::CheckRows(const GpuRows& rows, DeviceRows* checked) const {
  constexpr int64_t kMaxStride = std::numeric_limits<int64_t>::max() >> 32;
  constexpr int64_t kMaxTokens = int64_t{1} << 30;
  SWELL_RETURN_IF_ERROR(CheckLayer(rows.layer));
  if (rows.tokens < 0 || rows.tokens > kMaxTokens) return BadRange("tokens");
  const ModelShape& shape = options_.shape;
  *checked = {rows.keys, rows.values, rows.token_stride, rows.head_stride};
  if (checked->token_stride == 0) checked->token_stride = int64_t{shape.kv_heads} * shape.head_dim;
  if (checked->head_stride == 0) checked->head_stride = shape.head_dim;
  for (const int64_t stride : {checked->token_stride, checked->head_stride}) {
    if (stride < shape.head_dim || stride > kMaxStride) return BadRange("token_stride, head_stride");
    if (stride % 8 != 0) {
      return InvalidArgument("token_stride, head_stride: no multiple of 8", StatusDetail::kMisaligned);
    }
  }
  if (rows.tokens == 0) return OkStatus();
  SWELL_RETURN_IF_ERROR(CheckDevicePointer("keys", rows.keys, options_.device));
  return CheckDevicePointer("values", rows.values, options_.device);
}

Status DeviceEngine::Put(const GpuRows& rows, Stream stream) {
  return Run([&]() -> Status { return PutRows(rows, stream); });
}

Status DeviceEngine::PutRows(const GpuRows& rows, Stream stream) {
  const auto slot = SlotOf(rows.sequence);
  if (!slot.ok()) return slot.status();
  DeviceRows from;
  SWELL_RETURN_IF_ERROR(CheckRows(rows, &from));
  SWELL_RETURN_IF_ERROR(CheckNotCaptured(stream));
  // Where the tail has segments to seal already they are first, so that there is room to fill up the next.
  for (const bool first : {true, false}) {
    const auto tails = sequences_->ReadTails(*slot, stream);
    if (!tails.ok()) return tails.status();
    const Tail& tail = (*tails)[static_cast<size_t>(rows.layer)];
    if (first && rows.position != SealedTokens(*slot, rows.layer) + tail.tokens) {
      return Status(StatusCode::kFailedPrecondition, "position: is not the length of the layer",
                    StatusDetail::kOutOfOrder);
    }
    const bool due = grower_->SegmentsDue(*slot, rows.layer, tail.tokens, 0) > 0;
    if (first && !due) continue;
    const auto growth = grower_->Begin(*slot, rows.layer, tail, from, first ? 0 : rows.tokens, stream);
    if (!growth.ok()) return growth.status();
    SWELL_RETURN_IF_ERROR(Commit(*growth, stream));
  }
  return FromCuda(cudaStreamSynchronize(stream), "put");  // the rows are the caller's again
}

Status DeviceEngine::Replan(int32_t slot, int32_t layer, Stream stream) {
  for (const DeviceBatch* batch : batches_) {
    if (batch->Names(slot)) SWELL_RETURN_IF_ERROR(batch->step_->SetBatch(layer, batch->slots_, stream));
  }
  return OkStatus();
}

Status DeviceEngine::Commit(const LayerGrowth& growth, Stream stream) {
  const auto segments = grower_->Finish(growth, stream);
  if (!segments.ok()) return segments.status();
  SWELL_RETURN_IF_ERROR(sequences_->AddSegments(growth.sequence, growth.layer, *segments));
  const Status planned = segments->empty() ? OkStatus() : Replan(growth.sequence, growth.layer, stream);
  if (planned.ok()) return grower_->MoveTail(growth, stream);
  sequences_->RemoveSegments(growth.sequence, growth.layer, segments->size());
  SWELL_RETURN_IF_ERROR(Replan(growth.sequence, growth.layer, stream));
  SWELL_RETURN_IF_ERROR(FromCuda(cudaStreamSynchronize(stream), "cudaStreamSynchronize"));
  return planned;
}

Status DeviceEngine::Seal(Stream stream) {
  return Run([&]() -> Status { return SealAll(stream); });
}

Status DeviceEngine::SealAll(Stream stream) {
  SWELL_RETURN_IF_ERROR(CheckNotCaptured(stream));
  Status failed;
  std::vector<LayerGrowth> growths;
  for (int32_t slot = 0; slot < options_.max_sequences; ++slot) {
    if (!sequences_->Has(slot)) continue;
    const auto tails = sequences_->ReadTails(slot, stream);
    if (!tails.ok()) return tails.status();
    for (int32_t layer = 0; layer < options_.shape.layers; ++layer) {
      const Tail& tail = (*tails)[static_cast<size_t>(layer)];
      if (grower_->SegmentsDue(slot, layer, tail.tokens, 0) == 0) continue;
      auto growth = grower_->Begin(slot, layer, tail, {}, 0, stream);
      if (growth.ok()) {
        growths.push_back(*std::move(growth));
      } else if (failed.ok()) {
        failed = growth.status();
      }
    }
  }
  for (const LayerGrowth& growth : growths) {
    const Status committed = Commit(growth, stream);
    if (failed.ok()) failed = committed;
  }
  for (const DeviceBatch* batch : batches_) {
    const auto overflowed = batch->step_->HasOverflowed(stream);
    if (!overflowed.ok()) return overflowed.status();
    if (*overflowed) return Status(StatusCode::kDataLoss, "a step found a tail full: too many steps without sealing");
  }
  return failed;
}

Result<std::unique_ptr<GpuBatch>> DeviceEngine::MakeBatch(const GpuBatchOptions& options) {
  return Run([&]() -> Result<std::unique_ptr<GpuBatch>> {
    auto step = DecodeStep::Make(
        {.shape = HeadOf(options_.shape),
         .max_batch = options.max_sequences,
         .max_tokens = options.max_tokens,
         .max_sequence_tokens = options.max_sequence_tokens > 0 ? options.max_sequence_tokens : options.max_tokens,
         .cluster_tokens = options_.cluster_tokens,
         .retrieval = options.retrieval,
         .buffer = buffer_},
        sequences_.get());
    if (!step.ok()) return step.status();
    batches_.reserve(batches_.size() + 1);
    auto batch = std::make_unique<DeviceBatch>(shared_from_this(), *std::move(step));
    batches_.push_back(batch.get());
    return std::unique_ptr<GpuBatch>(std::move(batch));
  });
}

Result<GpuStats> DeviceEngine::Stats() const {
  return Run([&]() -> Result<GpuStats> {
    GpuStats stats;
    std::unordered_set<const DeviceSegment*> seen;
    for (int32_t slot = 0; slot < options_.max_sequences; ++slot) {
      if (!sequences_->Has(slot)) continue;
      ++stats.sequences;
      stats.tail_bytes += sequences_->TailBytes() * static_cast<uint64_t>(options_.shape.layers);
      for (int32_t layer = 0; layer < options_.shape.layers; ++layer) {
        for (const SegmentPointer& segment : sequences_->segments(slot, layer)) {
          if (!seen.insert(segment.get()).second) continue;
          stats.sealed_tokens += segment->tokens();
          stats.segment_bytes += segment->bytes();
        }
      }
    }
    for (const DeviceBatch* batch : batches_) stats.batch_bytes += batch->step_->bytes();
    stats.batches = static_cast<int64_t>(batches_.size());
    stats.cache_bytes = options_.cache_bytes;
    stats.home_bytes = options_.home_bytes;
    return stats;
  });
}

Status DeviceBatch::Set(std::span<const uint64_t> sequences, Stream stream) {
  return engine_->Run([&]() -> Status {
    SWELL_RETURN_IF_ERROR(CheckNotCaptured(stream));
    std::vector<int32_t> slots;
    for (const uint64_t sequence : sequences) {
      const auto slot = engine_->SlotOf(sequence);
      if (!slot.ok()) return slot.status();
      slots.push_back(*slot);
    }
    for (int32_t layer = 0; layer < engine_->options_.shape.layers; ++layer) {
      const Status set = step_->SetBatch(layer, slots, stream);
      if (set.ok()) continue;
      for (int32_t done = 0; done <= layer; ++done) SWELL_RETURN_IF_ERROR(step_->SetBatch(done, slots_, stream));
      return set;
    }
    slots_ = std::move(slots);
    return OkStatus();
  });
}

Status DeviceBatch::Append(int32_t layer, const void* keys, const void* values, Stream stream) {
  return engine_->Run([&]() -> Status {
    SWELL_RETURN_IF_ERROR(CheckDevicePointer("keys", keys, engine_->options_.device));
    SWELL_RETURN_IF_ERROR(CheckDevicePointer("values", values, engine_->options_.device));
    return step_->Append(layer, keys, values, stream);
  });
}

Status DeviceBatch::Attend(int32_t layer, const GpuAttend& call, Stream stream) {
  return engine_->Run([&]() -> Status {
    const int32_t device = engine_->options_.device;
    SWELL_RETURN_IF_ERROR(CheckDevicePointer("queries", call.queries, device));
    SWELL_RETURN_IF_ERROR(CheckDevicePointer("output", call.output, device));
    SWELL_RETURN_IF_ERROR(CheckOptionalPointer("lse", call.lse, device));
    SWELL_RETURN_IF_ERROR(CheckOptionalPointer("predicted_error", call.predicted_error, device));
    return step_->Launch(layer, {call.queries, call.output, call.lse, call.predicted_error}, stream);
  });
}

}  // namespace

Result<std::shared_ptr<GpuEngine>> GpuEngine::Open(const GpuEngineOptions& options) try {
  auto engine = std::make_shared<DeviceEngine>(options);
  SWELL_RETURN_IF_ERROR(engine->Start());
  return std::shared_ptr<GpuEngine>(std::move(engine));
} catch (const std::bad_alloc&) {
  return NoMemory();
}

}  // namespace swell::cuda
