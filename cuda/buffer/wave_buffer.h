// The wave buffer: sealed segments whose token records live in pinned host memory, with their index in device memory
// and a cache of single token records there (RetroInfer, arXiv 2505.02922, section 4.3).
//
// One cache for all heads, layers and sequences under a byte budget. A step's list of tokens is looked up; what is
// cached is read from its slot, what is not is read in place from host memory by the attention kernel, which writes it
// to a free slot on the way. Slots become free by second chance (CLOCK) in a kernel that runs beside the scores of the
// next step. Twin: cache::BlockCache with PolicyKind::kClock, a block being a token record.
//
// Steps that use a buffer are to be enqueued on one stream. Everything else from one thread at a time, but segments may
// be dropped on any. Dropping one waits for the device.
#ifndef SWELL_CUDA_BUFFER_WAVE_BUFFER_H_
#define SWELL_CUDA_BUFFER_WAVE_BUFFER_H_

#include <driver_types.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>

#include "cuda/buffer/buffer_view.h"
#include "cuda/step/device_memory.h"
#include "cuda/step/segment.h"
#include "swell/status.h"
#include "swell/types.h"

namespace swell::cuda {

struct WaveBufferOptions {
  int32_t head_dim = 128;            // 64, 128 or 256
  DType storage = DType::kBFloat16;  // of rows in device memory; kFloat16 or kBFloat16
  DType home = DType::kBFloat16;     // of rows in host memory: the same, or kInt8 with a scale a row
  uint64_t home_bytes = 0;           // of token records in host memory, pinned at once
  uint64_t cache_bytes = 0;          // of token records in device memory
  int64_t reserve_slots = 0;         // free slots for the misses of a step; 0: a sixteenth of the slots, at least one
  // Nats, 0 or more, by which selection prefers clusters whose first token is cached, or lives in device memory, to the
  // others. Above 0 fewer tokens are missed, and what a step reads depends on the steps before it.
  float preference = 0;
};

class WaveBuffer : public std::enable_shared_from_this<WaveBuffer> {
 public:
  // kInvalidArgument names what is out of range; kResourceExhausted; kUnavailable.
  static Result<std::shared_ptr<WaveBuffer>> Make(const WaveBufferOptions& options);
  ~WaveBuffer();
  WaveBuffer(const WaveBuffer&) = delete;
  WaveBuffer& operator=(const WaveBuffer&) = delete;

  // A copy of `segment` with its rows at home; enqueued, so the copy is for steps on `stream`, and `segment` must live
  // until the stream has passed. The copy keeps the buffer alive. kInvalidArgument when a head has no clusters;
  // kResourceExhausted when host or device memory is full.
  Result<std::shared_ptr<const DeviceSegment>> MoveHome(const DeviceSegment& segment, cudaStream_t stream);

  const WaveBufferOptions& options() const { return options_; }
  const BufferView& view() const { return view_; }
  // Counts since the buffer was made. Waits for `stream`.
  Result<BufferCounters> Counters(cudaStream_t stream) const;

 private:
  struct Moved;
  explicit WaveBuffer(const WaveBufferOptions& options) : options_(options) {}
  Status Allocate();
  Status CopyRows(const SegmentHead& head, int64_t record, cudaStream_t stream);
  int64_t TakeHome(int64_t records);  // -1: there is no room
  void GiveHome(int64_t first, int64_t records);

  const WaveBufferOptions options_;
  BufferView view_ = {};
  DeviceMemory books_, cache_;
  std::byte* home_ = nullptr;  // pinned
  std::mutex mutex_;
  std::map<int64_t, int64_t> room_;  // free stretches of home: first record, records; guarded by mutex_
};

}  // namespace swell::cuda

#endif  // SWELL_CUDA_BUFFER_WAVE_BUFFER_H_
