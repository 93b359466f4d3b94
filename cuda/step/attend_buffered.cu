#include "cuda/step/attend_function.cuh"

namespace swell::cuda {

AttendFunction BufferedAttendFunction(bool is_half, int32_t head_dim, int32_t group) {
  return AttendFunctionFor<true>(is_half, head_dim, group);
}

}  // namespace swell::cuda
