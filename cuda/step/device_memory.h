// Owner of one allocation in the memory of the current device.
#ifndef SWELL_CUDA_STEP_DEVICE_MEMORY_H_
#define SWELL_CUDA_STEP_DEVICE_MEMORY_H_

#include <cstddef>
#include <memory>

#include "swell/status.h"

namespace swell::cuda {

struct DeviceFree {
  void operator()(void* memory) const;  // waits for the work that uses it
};
using DeviceMemory = std::unique_ptr<void, DeviceFree>;

// Content is undefined; `what` names the allocation in the error. kResourceExhausted; kUnavailable.
Result<DeviceMemory> ReserveDevice(size_t bytes, const char* what);
// The same, zeros.
Result<DeviceMemory> AllocateDevice(size_t bytes, const char* what);

}  // namespace swell::cuda

#endif  // SWELL_CUDA_STEP_DEVICE_MEMORY_H_
