#include "cuda/step/select.cuh"

namespace swell::cuda {
namespace {

using SelectFunction = void (*)(StepArgs, int);

constexpr size_t kKeptBytes = sizeof(Ranked) * kKeptTurns * kSelectThreads;

SelectFunction KernelFor(int32_t head_dim) {
  return head_dim == 64 ? &SelectKernel<64> : head_dim == 128 ? &SelectKernel<128> : &SelectKernel<256>;
}

Status AllowKept(int32_t head_dim) {
  return FromCuda(cudaFuncSetAttribute(KernelFor(head_dim), cudaFuncAttributeMaxDynamicSharedMemorySize, kKeptBytes),
                  "cudaFuncSetAttribute");
}

}  // namespace

Result<int32_t> SelectCtas(int32_t heads, int32_t head_dim) {
  int device = 0;
  int major = 0;
  SWELL_RETURN_IF_ERROR(FromCuda(cudaGetDevice(&device), "cudaGetDevice"));
  SWELL_RETURN_IF_ERROR(
      FromCuda(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "cudaDeviceGetAttribute"));
  SWELL_RETURN_IF_ERROR(AllowKept(head_dim));
  for (int32_t ctas = kMaxCtas; ctas > 1 && major >= 9; ctas /= 2) {
    cudaLaunchAttribute attribute = {};
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim.x = static_cast<unsigned>(ctas);
    attribute.val.clusterDim.y = 1;
    attribute.val.clusterDim.z = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(static_cast<unsigned>(ctas * heads));
    config.blockDim = dim3(kSelectThreads);
    config.dynamicSmemBytes = kKeptBytes;
    config.attrs = &attribute;
    config.numAttrs = 1;
    int held = 0;
    SWELL_RETURN_IF_ERROR(FromCuda(cudaOccupancyMaxActiveClusters(&held, KernelFor(head_dim), &config),
                                   "cudaOccupancyMaxActiveClusters"));
    if (held >= heads) return ctas;
  }
  return 1;
}

Status LaunchSelect(const StepArgs& args, const StepLaunch& launch, int level) {
  SWELL_RETURN_IF_ERROR(AllowKept(launch.head_dim));
  const auto ctas = static_cast<unsigned>(launch.select_ctas);
  return LaunchStep("selection", dim3(static_cast<unsigned>(launch.heads) * ctas), kSelectThreads, kKeptBytes, ctas,
                    false, launch.stream, KernelFor(launch.head_dim), args, level);
}

}  // namespace swell::cuda
