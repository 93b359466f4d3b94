// CUDA devices: what there is, and CUDA's errors as Status. Any thread.
#ifndef SWELL_CUDA_DEVICE_DEVICE_H_
#define SWELL_CUDA_DEVICE_DEVICE_H_

#include <driver_types.h>

#include <cstdint>
#include <string>

#include "swell/status.h"

namespace swell::cuda {

// Ok for cudaSuccess. kUnavailable: no driver, one too old (error 35), no device, or a device that this build has no
// code for; kResourceExhausted with kNoMemory; kFailedPrecondition where a capture forbids the call; else kInternal.
// The message names `call`, CUDA's name and number of the error.
Status FromCuda(cudaError_t error, const char* call);

struct DeviceInfo {
  std::string name;
  int32_t compute_major = 0;
  int32_t compute_minor = 0;
  int32_t multiprocessors = 0;
  uint64_t memory_bytes = 0;
  uint64_t l2_bytes = 0;
};

// At least 1; kUnavailable when there is no device or no driver that serves this build.
Result<int32_t> DeviceCount();

// kInvalidArgument for a device that does not exist; else as DeviceCount.
Result<DeviceInfo> GetDeviceInfo(int32_t device);

// Makes `device` the calling thread's current one while it lives, then the former one again.
class DeviceScope {
 public:
  explicit DeviceScope(int32_t device);
  ~DeviceScope();
  DeviceScope(const DeviceScope&) = delete;
  DeviceScope& operator=(const DeviceScope&) = delete;
  const Status& status() const { return status_; }

 private:
  int former_ = -1;
  Status status_;
};

}  // namespace swell::cuda

#endif  // SWELL_CUDA_DEVICE_DEVICE_H_
