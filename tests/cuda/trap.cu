#include "tests/cuda/trap.h"

namespace swell::cuda {
namespace {

__global__ void TrapKernel() { __trap(); }

}  // namespace

void LaunchTrap(cudaStream_t stream) { TrapKernel<<<1, 1, 0, stream>>>(); }

}  // namespace swell::cuda
