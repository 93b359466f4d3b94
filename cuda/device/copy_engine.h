// transfer::CopyEngine over CUDA: copies between host and device memory on streams of its own.
#ifndef SWELL_CUDA_DEVICE_COPY_ENGINE_H_
#define SWELL_CUDA_DEVICE_COPY_ENGINE_H_

#include <cstdint>
#include <memory>

#include "swell/transfer.h"

namespace swell::cuda {

// Ranges may lie in device memory of `device` or on the host; copies overlap other work only where the host memory is
// pinned. A copy is ordered with no stream of the caller: the source must be ready at Start. After a fault of the
// device copies complete with its error. kUnavailable without a device or driver.
Result<std::unique_ptr<transfer::CopyEngine>> MakeCopyEngine(int32_t device);

}  // namespace swell::cuda

#endif  // SWELL_CUDA_DEVICE_COPY_ENGINE_H_
