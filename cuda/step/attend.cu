#include "cuda/step/attend_function.cuh"

namespace swell::cuda {
namespace {

template <int kHeadDim>
size_t PartBytesOf(int32_t group) {
  return group <= 4 ? sizeof(PartState<kHeadDim, 1>) : sizeof(PartState<kHeadDim, 2>);
}

}  // namespace

size_t PartBytes(int32_t head_dim, int32_t group) {
  const size_t bytes = head_dim == 64    ? PartBytesOf<64>(group)
                       : head_dim == 128 ? PartBytesOf<128>(group)
                                         : PartBytesOf<256>(group);
  return bytes * static_cast<size_t>(QueryBlocks(group));
}

Status LaunchAttend(const StepArgs& args, const StepLaunch& launch) {
  const bool is_half = args.is_half != 0;
  const AttendFunction kernel = args.buffer.slots > 0 ? BufferedAttendFunction(is_half, launch.head_dim, args.group)
                                                      : AttendFunctionFor<false>(is_half, launch.head_dim, args.group);
  const int shared = AttendSharedBytes(launch.head_dim, args.group <= 4 ? 1 : 2);
  SWELL_RETURN_IF_ERROR(FromCuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared),
                                 "cudaFuncSetAttribute"));
  const dim3 grid(static_cast<unsigned>(launch.parts), static_cast<unsigned>(QueryBlocks(args.group)));
  return LaunchStep("attention", grid, 32 * kAttendWarps, static_cast<size_t>(shared), 1, false, launch.stream, kernel,
                    args);
}

}  // namespace swell::cuda
