#include "cuda/step/sequences.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <new>
#include <string>
#include <utility>

#include "cuda/device/device.h"
#include "cuda/step/tail_kernels.h"

namespace swell::cuda {
namespace {

Status NoMemory() {
  return Status(StatusCode::kResourceExhausted, "sequences: out of host memory", StatusDetail::kNoMemory);
}

}  // namespace

Result<std::unique_ptr<Sequences>> Sequences::Make(const SequencesOptions& options) try {
  if (options.layers < 1 || options.kv_heads < 1 || options.max_sequences < 1 || options.tail_tokens < 1) {
    return InvalidArgument("options: counts must be at least 1", StatusDetail::kBadSize);
  }
  if (options.head_dim != 64 && options.head_dim != 128 && options.head_dim != 256) {
    return InvalidArgument("head_dim: must be 64, 128 or 256", StatusDetail::kBadSize);
  }
  std::unique_ptr<Sequences> sequences(new Sequences(options));
  auto table =
      AllocateDevice(sizeof(Tail) * static_cast<size_t>(options.max_sequences) * options.layers, "table of tails");
  if (!table.ok()) return table.status();
  sequences->table_ = *std::move(table);
  sequences->slots_.resize(static_cast<size_t>(options.max_sequences));
  return sequences;
} catch (const std::bad_alloc&) {
  return NoMemory();
}

Sequences::~Sequences() = default;

size_t Sequences::TailBytes() const {
  return static_cast<size_t>(options_.kv_heads) * options_.tail_tokens * TokenBytes(options_.head_dim);
}

bool Sequences::Has(int32_t sequence) const {
  return sequence >= 0 && sequence < options_.max_sequences && slots_[sequence].used;
}

Status Sequences::CheckLayer(int32_t sequence, int32_t layer) const {
  if (!Has(sequence)) return Status(StatusCode::kNotFound, "sequence: there is none", StatusDetail::kStaleHandle);
  if (layer < 0 || layer >= options_.layers) return InvalidArgument("layer: out of range", StatusDetail::kBadSize);
  return OkStatus();
}

Result<int32_t> Sequences::Create() try {
  const auto slot = std::find_if(slots_.begin(), slots_.end(), [](const Slot& s) { return !s.used; });
  if (slot == slots_.end()) return Status(StatusCode::kResourceExhausted, "max_sequences are there already");
  const auto sequence = static_cast<int32_t>(slot - slots_.begin());
  auto memory = AllocateDevice(TailBytes() * options_.layers, "tails of a sequence");
  if (!memory.ok()) return memory.status();
  std::vector<std::vector<SegmentPointer>> layers(static_cast<size_t>(options_.layers));
  std::vector<Tail> tails;
  for (int32_t layer = 0; layer < options_.layers; ++layer) {
    tails.push_back({static_cast<std::byte*>(memory->get()) + layer * TailBytes(), options_.tail_tokens, 0});
  }
  SWELL_RETURN_IF_ERROR(FromCuda(cudaMemcpy(this->tails() + TailNumber(sequence, 0), tails.data(),
                                            tails.size() * sizeof(Tail), cudaMemcpyHostToDevice),
                                 "copy of tails"));
  // A copy from pageable memory may return before it has arrived, and streams need not wait for the default one.
  SWELL_RETURN_IF_ERROR(FromCuda(cudaStreamSynchronize(nullptr), "copy of tails"));
  slot->used = true;
  slot->layers = std::move(layers);
  slot->tails = *std::move(memory);
  return sequence;
} catch (const std::bad_alloc&) {
  return NoMemory();
}

Result<int32_t> Sequences::Fork(int32_t sequence, cudaStream_t stream) try {
  SWELL_RETURN_IF_ERROR(CheckLayer(sequence, 0));
  std::vector<std::vector<SegmentPointer>> layers = slots_[sequence].layers;
  auto fork = Create();
  if (!fork.ok()) return fork.status();
  slots_[*fork].layers = std::move(layers);
  for (int32_t layer = 0; layer < options_.layers; ++layer) {
    const Status copied = LaunchCopyTail(tails() + TailNumber(sequence, layer), tails() + TailNumber(*fork, layer),
                                         options_.kv_heads, options_.head_dim, stream);
    if (copied.ok()) continue;
    slots_[*fork] = {};
    return copied;
  }
  return fork;
} catch (const std::bad_alloc&) {
  return NoMemory();
}

Status Sequences::Release(int32_t sequence) {
  SWELL_RETURN_IF_ERROR(CheckLayer(sequence, 0));
  slots_[sequence] = {};
  return OkStatus();
}

Status Sequences::AddSegment(int32_t sequence, int32_t layer, SegmentPointer segment) try {
  return AddSegments(sequence, layer, {std::move(segment)});
} catch (const std::bad_alloc&) {
  return NoMemory();
}

Status Sequences::AddSegments(int32_t sequence, int32_t layer, const std::vector<SegmentPointer>& segments) try {
  SWELL_RETURN_IF_ERROR(CheckLayer(sequence, layer));
  for (const SegmentPointer& segment : segments) {
    if (segment == nullptr) return InvalidArgument("segment: null", StatusDetail::kNullPointer);
    if (segment->heads().size() != static_cast<size_t>(options_.kv_heads)) {
      return InvalidArgument("segment: has other KV heads", StatusDetail::kBadSize);
    }
  }
  std::vector<SegmentPointer>& to = slots_[sequence].layers[layer];
  to.insert(to.end(), segments.begin(), segments.end());
  return OkStatus();
} catch (const std::bad_alloc&) {
  return NoMemory();
}

void Sequences::RemoveSegments(int32_t sequence, int32_t layer, size_t count) {
  std::vector<SegmentPointer>& segments = slots_[sequence].layers[layer];
  segments.resize(segments.size() - count);
}

Status Sequences::DropTail(int32_t sequence, int32_t layer, int32_t tokens, cudaStream_t stream) {
  SWELL_RETURN_IF_ERROR(CheckLayer(sequence, layer));
  if (tokens < 0) return InvalidArgument("tokens: negative", StatusDetail::kBadSize);
  return LaunchDropTail(tails() + TailNumber(sequence, layer), options_.kv_heads, options_.head_dim, tokens, stream);
}

Status Sequences::SetTail(int32_t sequence, int32_t layer, int32_t tokens, cudaStream_t stream) {
  SWELL_RETURN_IF_ERROR(CheckLayer(sequence, layer));
  if (tokens < 0 || tokens > options_.tail_tokens) {
    return InvalidArgument("tokens: out of range", StatusDetail::kBadSize);
  }
  // From pageable memory: the call returns when it no longer needs `tokens`.
  return FromCuda(cudaMemcpyAsync(&(tails() + TailNumber(sequence, layer))->tokens, &tokens, sizeof(tokens),
                                  cudaMemcpyHostToDevice, stream),
                  "copy of a tail's length");
}

Result<std::vector<Tail>> Sequences::ReadTails(int32_t sequence, cudaStream_t stream) const try {
  SWELL_RETURN_IF_ERROR(CheckLayer(sequence, 0));
  std::vector<Tail> tails_now(static_cast<size_t>(options_.layers));
  SWELL_RETURN_IF_ERROR(FromCuda(cudaMemcpyAsync(tails_now.data(), tails() + TailNumber(sequence, 0),
                                                 tails_now.size() * sizeof(Tail), cudaMemcpyDeviceToHost, stream),
                                 "copy of tails"));
  SWELL_RETURN_IF_ERROR(FromCuda(cudaStreamSynchronize(stream), "cudaStreamSynchronize"));
  return tails_now;
} catch (const std::bad_alloc&) {
  return NoMemory();
}

}  // namespace swell::cuda
