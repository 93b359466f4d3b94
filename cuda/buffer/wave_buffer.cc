#include "cuda/buffer/wave_buffer.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <new>
#include <utility>
#include <vector>

#include "cuda/buffer/buffer_kernels.h"
#include "cuda/device/device.h"

namespace swell::cuda {
namespace {

Status NoMemory(const char* what) { return Status(StatusCode::kResourceExhausted, what, StatusDetail::kNoMemory); }

uint64_t HomeRecordBytes(const WaveBufferOptions& options) {
  return 2 * static_cast<uint64_t>(options.head_dim) * DTypeSize(options.home);
}

size_t RoundUp(size_t bytes) { return (bytes + 255) / 256 * 256; }

}  // namespace

// What a moved segment owns: its index in device memory and its stretch of home.
struct WaveBuffer::Moved {
  std::shared_ptr<WaveBuffer> buffer;
  DeviceMemory index;
  int64_t first = 0;
  int64_t records = 0;

  Moved(std::shared_ptr<WaveBuffer> owner, DeviceMemory memory, int64_t first_record, int64_t count)
      : buffer(std::move(owner)), index(std::move(memory)), first(first_record), records(count) {}
  ~Moved() {
    // A step that is under way may still read or claim its records.
    cudaDeviceSynchronize();
    if (LaunchForget(buffer->view_, first, records, nullptr).ok()) cudaDeviceSynchronize();
    buffer->GiveHome(first, records);
  }
  Moved(const Moved&) = delete;
  Moved& operator=(const Moved&) = delete;
};

Result<std::shared_ptr<WaveBuffer>> WaveBuffer::Make(const WaveBufferOptions& options) try {
  if (options.head_dim != 64 && options.head_dim != 128 && options.head_dim != 256) {
    return InvalidArgument("head_dim: must be 64, 128 or 256", StatusDetail::kBadSize);
  }
  if (options.storage != DType::kFloat16 && options.storage != DType::kBFloat16) {
    return InvalidArgument("storage: must be float16 or bfloat16", StatusDetail::kUnknownDType);
  }
  if (options.home != options.storage && options.home != DType::kInt8) {
    return InvalidArgument("home: must be the storage dtype or int8", StatusDetail::kUnknownDType);
  }
  const uint64_t record = TokenBytes(options.head_dim), home_record = HomeRecordBytes(options);
  if (options.home_bytes < home_record || options.home_bytes / home_record > std::numeric_limits<int32_t>::max()) {
    return InvalidArgument("home_bytes: must hold 1 .. 2^31 - 1 token records", StatusDetail::kBadSize);
  }
  if (options.cache_bytes < record || options.cache_bytes / record >= std::numeric_limits<int32_t>::max()) {
    return InvalidArgument("cache_bytes: must hold 1 .. 2^31 - 2 token records", StatusDetail::kBadSize);
  }
  if (options.reserve_slots < 0 || static_cast<uint64_t>(options.reserve_slots) > options.cache_bytes / record) {
    return InvalidArgument("reserve_slots: must be 0 .. slots", StatusDetail::kBadSize);
  }
  if (!(options.preference >= 0) || std::isinf(options.preference)) {
    return InvalidArgument("preference: must be 0 or more nats", StatusDetail::kBadSize);
  }
  std::shared_ptr<WaveBuffer> buffer(new WaveBuffer(options));
  SWELL_RETURN_IF_ERROR(buffer->Allocate());
  return buffer;
} catch (const std::bad_alloc&) {
  return NoMemory("buffer: out of host memory");
}

Status WaveBuffer::Allocate() {
  view_.record_bytes = static_cast<int32_t>(TokenBytes(options_.head_dim));
  view_.home_record_bytes = static_cast<int32_t>(HomeRecordBytes(options_));
  view_.preference = options_.preference;
  view_.home_records = static_cast<int64_t>(options_.home_bytes / view_.home_record_bytes);
  view_.slots = static_cast<int32_t>(options_.cache_bytes / view_.record_bytes);
  view_.reserve = static_cast<int32_t>(options_.reserve_slots != 0 ? options_.reserve_slots
                                                                   : std::max<int64_t>(view_.slots / 16, 1));
  const auto home_bytes = static_cast<size_t>(view_.home_records) * view_.home_record_bytes;
  SWELL_RETURN_IF_ERROR(
      FromCuda(cudaHostAlloc(reinterpret_cast<void**>(&home_), home_bytes, cudaHostAllocPortable | cudaHostAllocMapped),
               "pinned memory of a buffer"));
  void* home = nullptr;
  SWELL_RETURN_IF_ERROR(FromCuda(cudaHostGetDevicePointer(&home, home_, 0), "cudaHostGetDevicePointer"));
  view_.home = static_cast<const std::byte*>(home);
  auto cache = ReserveDevice(static_cast<size_t>(view_.slots) * view_.record_bytes, "cache of a buffer");
  if (!cache.ok()) return cache.status();
  cache_ = *std::move(cache);
  view_.cache = static_cast<std::byte*>(cache_.get());
  const auto records = static_cast<size_t>(view_.home_records);
  const size_t of_slots = RoundUp((static_cast<size_t>(view_.slots) + kChunk) * sizeof(int32_t));
  const size_t of_records = RoundUp(records * sizeof(int32_t));
  const size_t of_scales = options_.home == DType::kInt8 ? RoundUp(records * sizeof(RowScales)) : 0;
  auto books =
      AllocateDevice(of_records + of_scales + 3 * of_slots + RoundUp(sizeof(BufferCounters)), "books of a buffer");
  if (!books.ok()) return books.status();
  books_ = *std::move(books);
  auto* place = static_cast<std::byte*>(books_.get());
  view_.places = reinterpret_cast<int32_t*>(place);
  if (of_scales > 0) view_.scales = reinterpret_cast<const RowScales*>(place + of_records);
  view_.owners = reinterpret_cast<int32_t*>(place += of_records + of_scales);
  view_.free_slots = reinterpret_cast<int32_t*>(place += of_slots);
  view_.states = reinterpret_cast<SlotState*>(place += of_slots);
  view_.counters = reinterpret_cast<BufferCounters*>(place + of_slots);
  room_.emplace(0, view_.home_records);
  SWELL_RETURN_IF_ERROR(LaunchClear(view_, nullptr));
  return FromCuda(cudaStreamSynchronize(nullptr), "clearing of a buffer");
}

WaveBuffer::~WaveBuffer() { cudaFreeHost(home_); }

int64_t WaveBuffer::TakeHome(int64_t records) {
  const std::lock_guard lock(mutex_);
  const auto fits = [&](const auto& stretch) { return stretch.second >= records; };
  const auto stretch = std::find_if(room_.begin(), room_.end(), fits);
  if (stretch == room_.end()) return -1;
  const auto [first, count] = *stretch;
  if (count > records) room_.emplace(first + records, count - records);
  room_.erase(stretch);
  return first;
}

void WaveBuffer::GiveHome(int64_t first, int64_t records) {
  const std::lock_guard lock(mutex_);
  const auto after = room_.find(first + records);
  if (after != room_.end()) {
    records += after->second;
    room_.erase(after);
  }
  const auto next = room_.lower_bound(first);
  if (next != room_.begin() && std::prev(next)->first + std::prev(next)->second == first) {
    std::prev(next)->second += records;
    return;
  }
  room_.emplace(first, records);
}

// Rows of one head to the records from `record` on.
Status WaveBuffer::CopyRows(const SegmentHead& head, int64_t record, cudaStream_t stream) {
  if (options_.home == DType::kInt8) {
    return LaunchQuantise(view_, head, options_.head_dim, options_.storage == DType::kFloat16, record, stream);
  }
  return FromCuda(
      cudaMemcpyAsync(home_ + record * view_.record_bytes, head.rows.rows,
                      static_cast<size_t>(head.rows.tokens) * view_.record_bytes, cudaMemcpyDeviceToHost, stream),
      "copy of rows to their home");
}

Result<std::shared_ptr<const DeviceSegment>> WaveBuffer::MoveHome(const DeviceSegment& segment,
                                                                  cudaStream_t stream) try {
  size_t index_bytes = 0;
  for (const SegmentHead& head : segment.heads()) {
    if (head.clusters[0] == 0) return InvalidArgument("segment: has no clusters", StatusDetail::kBadSize);
    index_bytes += head.index_bytes;
  }
  auto index = ReserveDevice(index_bytes, "index of a segment");
  if (!index.ok()) return index.status();
  auto* to = static_cast<std::byte*>(index->get());
  const int64_t records = segment.tokens() * static_cast<int64_t>(segment.heads().size());
  const int64_t first = TakeHome(records);
  if (first < 0) return NoMemory("segment: home_bytes are used up");
  const auto moved = std::make_shared<Moved>(shared_from_this(), *std::move(index), first, records);
  std::vector<SegmentHead> heads;
  int64_t record = first;
  for (const SegmentHead& from : segment.heads()) {
    SWELL_RETURN_IF_ERROR(CopyRows(from, record, stream));
    SWELL_RETURN_IF_ERROR(FromCuda(
        cudaMemcpyAsync(to, from.tiles[0], from.index_bytes, cudaMemcpyDeviceToDevice, stream), "copy of an index"));
    SegmentHead head = from;
    head.rows.rows = reinterpret_cast<const std::byte*>(kHomeBase + static_cast<uint64_t>(record * view_.record_bytes));
    const std::ptrdiff_t index_by = to - from.tiles[0];
    for (int level = 0; level < kLevels; ++level) head.tiles[level] = from.tiles[level] + index_by;
    if (from.offsets != nullptr) head.offsets = from.offsets + index_by / std::ptrdiff_t{sizeof(uint16_t)};
    SWELL_RETURN_IF_ERROR(LaunchRelocate(head, options_.head_dim, head.rows.rows - from.rows.rows, index_by, stream));
    heads.push_back(head);
    to += from.index_bytes;
    record += segment.tokens();
  }
  return std::make_shared<const DeviceSegment>(moved, index_bytes, std::move(heads));
} catch (const std::bad_alloc&) {
  return NoMemory("segment: out of host memory");
}

Result<BufferCounters> WaveBuffer::Counters(cudaStream_t stream) const {
  BufferCounters counters = {};
  SWELL_RETURN_IF_ERROR(FromCuda(
      cudaMemcpyAsync(&counters, view_.counters, sizeof(counters), cudaMemcpyDeviceToHost, stream), "cudaMemcpyAsync"));
  SWELL_RETURN_IF_ERROR(FromCuda(cudaStreamSynchronize(stream), "cudaStreamSynchronize"));
  return counters;
}

}  // namespace swell::cuda
