// Pinned host memory, which the device copies from at full speed and kernels can read in place.
#ifndef SWELL_CUDA_DEVICE_PINNED_H_
#define SWELL_CUDA_DEVICE_PINNED_H_

#include "swell/transfer.h"

namespace swell::cuda {

// For a transfer::HostPool; null from Allocate also when there is no driver. Portable to every device and mapped into
// its address space. Static storage.
transfer::HostAllocator* PinnedAllocator();

}  // namespace swell::cuda

#endif  // SWELL_CUDA_DEVICE_PINNED_H_
