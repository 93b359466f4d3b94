#include "cuda/device/copy_engine.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <array>
#include <mutex>
#include <new>
#include <thread>
#include <vector>

#include "cuda/device/device.h"

namespace swell::cuda {
namespace {

using transfer::CopyDone;
using transfer::CopyId;
using transfer::CopyRange;
using transfer::Nanoseconds;

// Two streams in turn, so that the copy engines of both directions can work at once.
class CudaCopyEngine final : public transfer::CopyEngine {
 public:
  explicit CudaCopyEngine(int32_t device) : device_(device) {}

  Status Open() {
    const DeviceScope scope(device_);
    SWELL_RETURN_IF_ERROR(scope.status());
    for (cudaStream_t& stream : streams_) {
      SWELL_RETURN_IF_ERROR(
          FromCuda(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags"));
    }
    return OkStatus();
  }

  ~CudaCopyEngine() override {
    const DeviceScope scope(device_);
    for (cudaStream_t stream : streams_) {
      if (stream == nullptr) continue;
      cudaStreamSynchronize(stream);
      cudaStreamDestroy(stream);
    }
    for (const Copy& copy : in_flight_) cudaEventDestroy(copy.event);
    for (cudaEvent_t event : idle_events_) cudaEventDestroy(event);
  }

  Status Start(CopyId id, std::span<const CopyRange> ranges) override {
    const std::lock_guard lock(mutex_);
    const DeviceScope scope(device_);
    SWELL_RETURN_IF_ERROR(scope.status());
    try {
      in_flight_.reserve(in_flight_.size() + 1);
      idle_events_.reserve(idle_events_.size() + in_flight_.size() + 1);  // so that Poll can give every event back
    } catch (const std::bad_alloc&) {
      return Status(StatusCode::kResourceExhausted, "out of memory for a copy", StatusDetail::kNoMemory);
    }
    cudaEvent_t event = nullptr;
    if (!idle_events_.empty()) {
      event = idle_events_.back();
      idle_events_.pop_back();
    } else {
      SWELL_RETURN_IF_ERROR(
          FromCuda(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "cudaEventCreateWithFlags"));
    }
    cudaStream_t stream = streams_[++starts_ % streams_.size()];
    Status status = Enqueue(ranges, event, stream);
    if (!status.ok()) {
      cudaStreamSynchronize(stream);  // ranges that were under way
      cudaEventDestroy(event);
      return status;
    }
    in_flight_.push_back({id, event});
    return OkStatus();
  }

  void Poll(std::vector<CopyDone>* done) override {
    const std::lock_guard lock(mutex_);
    std::erase_if(in_flight_, [&](const Copy& copy) {
      const cudaError_t error = Query(copy.event);
      if (error == cudaErrorNotReady) return false;
      done->push_back({copy.id, FromCuda(error, "copy")});
      idle_events_.push_back(copy.event);
      return true;
    });
  }

  // Events cannot be waited for with a limit; they are asked every few microseconds, far below the time of a copy that
  // is worth waiting for.
  void Wait(Nanoseconds limit) override {
    const Nanoseconds end = Now() + limit;
    while (!Reportable() && Now() < end) std::this_thread::sleep_for(std::chrono::microseconds(5));
  }

  Nanoseconds Now() const override { return std::chrono::steady_clock::now().time_since_epoch(); }

 private:
  struct Copy {
    CopyId id = 0;
    cudaEvent_t event = nullptr;
  };

  static cudaError_t Query(cudaEvent_t event) {
    const cudaError_t error = cudaEventQuery(event);
    if (error == cudaErrorNotReady) cudaGetLastError();  // no error, but it would stay for the caller to find
    return error;
  }

  static Status Enqueue(std::span<const CopyRange> ranges, cudaEvent_t event, cudaStream_t stream) {
    for (const CopyRange& range : ranges) {
      SWELL_RETURN_IF_ERROR(FromCuda(
          cudaMemcpyAsync(range.target, range.source, range.bytes, cudaMemcpyDefault, stream), "cudaMemcpyAsync"));
    }
    return FromCuda(cudaEventRecord(event, stream), "cudaEventRecord");
  }

  bool Reportable() {
    const std::lock_guard lock(mutex_);
    return in_flight_.empty() || std::any_of(in_flight_.begin(), in_flight_.end(),
                                             [](const Copy& copy) { return Query(copy.event) != cudaErrorNotReady; });
  }

  const int32_t device_;
  std::mutex mutex_;
  std::array<cudaStream_t, 2> streams_{};
  uint64_t starts_ = 0;
  std::vector<Copy> in_flight_;
  std::vector<cudaEvent_t> idle_events_;
};

}  // namespace

Result<std::unique_ptr<transfer::CopyEngine>> MakeCopyEngine(int32_t device) {
  const auto info = GetDeviceInfo(device);
  if (!info.ok()) return info.status();
  try {
    auto engine = std::make_unique<CudaCopyEngine>(device);
    SWELL_RETURN_IF_ERROR(engine->Open());
    return std::unique_ptr<transfer::CopyEngine>(std::move(engine));
  } catch (const std::bad_alloc&) {
    return Status(StatusCode::kResourceExhausted, "out of memory for a copy engine", StatusDetail::kNoMemory);
  }
}

}  // namespace swell::cuda
