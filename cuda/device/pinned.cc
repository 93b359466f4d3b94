#include "cuda/device/pinned.h"

#include <cuda_runtime_api.h>

namespace swell::cuda {
namespace {

class Pinned final : public transfer::HostAllocator {
 public:
  void* Allocate(size_t bytes) override {
    void* memory = nullptr;
    const cudaError_t error = cudaHostAlloc(&memory, bytes, cudaHostAllocPortable | cudaHostAllocMapped);
    return error == cudaSuccess ? memory : nullptr;
  }
  void Free(void* memory, size_t /*bytes*/) override { cudaFreeHost(memory); }
};

}  // namespace

transfer::HostAllocator* PinnedAllocator() {
  static Pinned allocator;
  return &allocator;
}

}  // namespace swell::cuda
