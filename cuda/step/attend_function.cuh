// The attention kernel for a shape. Instances for lists of entries and of addresses are compiled in files of their own.
#ifndef SWELL_CUDA_STEP_ATTEND_FUNCTION_CUH_
#define SWELL_CUDA_STEP_ATTEND_FUNCTION_CUH_

#include "cuda/step/attend.cuh"

namespace swell::cuda {

using AttendFunction = void (*)(StepArgs);

template <bool kBuffered, typename T, int kHeadDim>
AttendFunction AttendFunctionFor(int32_t group) {
  return group <= 4 ? &AttendKernel<kBuffered, T, kHeadDim, 1> : &AttendKernel<kBuffered, T, kHeadDim, 2>;
}

template <bool kBuffered>
AttendFunction AttendFunctionFor(bool is_half, int32_t head_dim, int32_t group) {
  switch (head_dim) {
    case 64:
      return is_half ? AttendFunctionFor<kBuffered, __half, 64>(group)
                     : AttendFunctionFor<kBuffered, __nv_bfloat16, 64>(group);
    case 128:
      return is_half ? AttendFunctionFor<kBuffered, __half, 128>(group)
                     : AttendFunctionFor<kBuffered, __nv_bfloat16, 128>(group);
    default:
      return is_half ? AttendFunctionFor<kBuffered, __half, 256>(group)
                     : AttendFunctionFor<kBuffered, __nv_bfloat16, 256>(group);
  }
}

AttendFunction BufferedAttendFunction(bool is_half, int32_t head_dim, int32_t group);

}  // namespace swell::cuda

#endif  // SWELL_CUDA_STEP_ATTEND_FUNCTION_CUH_
