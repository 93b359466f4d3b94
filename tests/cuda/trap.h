// A kernel that fails: from then on every call of CUDA in this process does.
#ifndef SWELL_TESTS_CUDA_TRAP_H_
#define SWELL_TESTS_CUDA_TRAP_H_

#include <driver_types.h>

namespace swell::cuda {

void LaunchTrap(cudaStream_t stream);

}  // namespace swell::cuda

#endif  // SWELL_TESTS_CUDA_TRAP_H_
