#include "cuda/step/attend.cuh"

namespace swell::cuda {
namespace {

struct AttendFunction {
  void (*kernel)(StepArgs) = nullptr;
  size_t part_bytes = 0;
};

template <typename T, int kHeadDim>
AttendFunction FunctionFor(int32_t group) {
  if (group <= 4) return {&AttendKernel<T, kHeadDim, 1>, sizeof(PartState<kHeadDim, 1>)};
  return {&AttendKernel<T, kHeadDim, 2>, sizeof(PartState<kHeadDim, 2>)};
}

template <typename T>
AttendFunction FunctionFor(int32_t head_dim, int32_t group) {
  return head_dim == 64    ? FunctionFor<T, 64>(group)
         : head_dim == 128 ? FunctionFor<T, 128>(group)
                           : FunctionFor<T, 256>(group);
}

}  // namespace

size_t PartBytes(int32_t head_dim, int32_t group) {
  return FunctionFor<__half>(head_dim, group).part_bytes * static_cast<size_t>(QueryBlocks(group));
}

Status LaunchAttend(const StepArgs& args, const StepLaunch& launch) {
  const AttendFunction function = args.is_half != 0 ? FunctionFor<__half>(launch.head_dim, args.group)
                                                    : FunctionFor<__nv_bfloat16>(launch.head_dim, args.group);
  // Accumulators of half the warps, one float4 for each lane and sixteen dims.
  const size_t shared = static_cast<size_t>(kAttendWarps) / 2 * (args.group <= 4 ? 1 : 2) *
                        static_cast<size_t>(launch.head_dim) / 16 * 32 * sizeof(float4);
  SWELL_RETURN_IF_ERROR(FromCuda(
      cudaFuncSetAttribute(function.kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared)),
      "cudaFuncSetAttribute"));
  const dim3 grid(static_cast<unsigned>(launch.parts), static_cast<unsigned>(QueryBlocks(args.group)));
  return LaunchStep("attention", grid, 32 * kAttendWarps, shared, 1, false, launch.stream, function.kernel, args);
}

}  // namespace swell::cuda
