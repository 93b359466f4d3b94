#include "cuda/step/device_memory.h"

#include <cuda_runtime_api.h>

#include <utility>

#include "cuda/device/device.h"

namespace swell::cuda {

void DeviceFree::operator()(void* memory) const { cudaFree(memory); }

Result<DeviceMemory> AllocateDevice(size_t bytes, const char* what) {
  void* memory = nullptr;
  SWELL_RETURN_IF_ERROR(FromCuda(cudaMalloc(&memory, bytes), what));
  DeviceMemory owner(memory);
  SWELL_RETURN_IF_ERROR(FromCuda(cudaMemset(memory, 0, bytes), what));
  SWELL_RETURN_IF_ERROR(FromCuda(cudaStreamSynchronize(nullptr), what));  // streams need not wait for the default one
  return owner;
}

}  // namespace swell::cuda
