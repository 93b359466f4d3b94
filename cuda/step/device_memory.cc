#include "cuda/step/device_memory.h"

#include <cuda_runtime_api.h>

#include <utility>

#include "cuda/device/device.h"

namespace swell::cuda {

void DeviceFree::operator()(void* memory) const { cudaFree(memory); }

Result<DeviceMemory> ReserveDevice(size_t bytes, const char* what) {
  void* memory = nullptr;
  SWELL_RETURN_IF_ERROR(FromCuda(cudaMalloc(&memory, bytes), what));
  return DeviceMemory(memory);
}

Result<DeviceMemory> AllocateDevice(size_t bytes, const char* what) {
  auto owner = ReserveDevice(bytes, what);
  if (!owner.ok()) return owner;
  SWELL_RETURN_IF_ERROR(FromCuda(cudaMemset(owner->get(), 0, bytes), what));
  SWELL_RETURN_IF_ERROR(FromCuda(cudaStreamSynchronize(nullptr), what));  // streams need not wait for the default one
  return owner;
}

}  // namespace swell::cuda
