#include "cuda/device/device.h"

#include <cuda_runtime_api.h>

namespace swell::cuda {

Status FromCuda(cudaError_t error, const char* call) {
  if (error == cudaSuccess) return OkStatus();
  cudaGetLastError();  // else the next launch would be blamed for it
  const std::string message = std::string(call) + ": " + cudaGetErrorString(error) + " (" + cudaGetErrorName(error) +
                              ", " + std::to_string(static_cast<int>(error)) + ")";
  switch (error) {
    case cudaErrorInsufficientDriver:
    case cudaErrorNoDevice:
    case cudaErrorStubLibrary:
    case cudaErrorSystemDriverMismatch:
    case cudaErrorSystemNotReady:
    case cudaErrorDevicesUnavailable:
    case cudaErrorNoKernelImageForDevice:
      return Status(StatusCode::kUnavailable, message);
    case cudaErrorMemoryAllocation:
      return Status(StatusCode::kResourceExhausted, message, StatusDetail::kNoMemory);
    case cudaErrorStreamCaptureUnsupported:
    case cudaErrorStreamCaptureInvalidated:
    case cudaErrorStreamCaptureImplicit:
    case cudaErrorStreamCaptureWrongThread:
    case cudaErrorStreamCaptureIsolation:
      return Status(StatusCode::kFailedPrecondition, message);
    default:
      return Status(StatusCode::kInternal, message);
  }
}

Result<int32_t> DeviceCount() {
  int count = 0;
  SWELL_RETURN_IF_ERROR(FromCuda(cudaGetDeviceCount(&count), "cudaGetDeviceCount"));
  if (count == 0) return FromCuda(cudaErrorNoDevice, "cudaGetDeviceCount");
  return count;
}

Result<DeviceInfo> GetDeviceInfo(int32_t device) {
  const auto count = DeviceCount();
  if (!count.ok()) return count.status();
  if (device < 0 || device >= *count) return InvalidArgument("device: there is no such CUDA device");
  cudaDeviceProp properties;
  SWELL_RETURN_IF_ERROR(FromCuda(cudaGetDeviceProperties(&properties, device), "cudaGetDeviceProperties"));
  DeviceInfo info;
  info.name = properties.name;
  info.compute_major = properties.major;
  info.compute_minor = properties.minor;
  info.multiprocessors = properties.multiProcessorCount;
  info.memory_bytes = properties.totalGlobalMem;
  info.l2_bytes = static_cast<uint64_t>(properties.l2CacheSize);
  return info;
}

DeviceScope::DeviceScope(int32_t device) {
  status_ = FromCuda(cudaGetDevice(&former_), "cudaGetDevice");
  if (status_.ok()) status_ = FromCuda(cudaSetDevice(device), "cudaSetDevice");
}

DeviceScope::~DeviceScope() {
  if (status_.ok()) cudaSetDevice(former_);
}

}  // namespace swell::cuda
