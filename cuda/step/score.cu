#include "cuda/step/score.cuh"

namespace swell::cuda {
namespace {

using ScoreFunction = void (*)(StepArgs, int);

template <int kHeadDim>
ScoreFunction KernelFor(int32_t group) {
  if (group <= 4) return &ScoreKernel<kHeadDim, 1>;
  return group <= 8 ? &ScoreKernel<kHeadDim, 2> : &ScoreKernel<kHeadDim, 4>;
}

}  // namespace

Status LaunchScore(const StepArgs& args, const StepLaunch& launch, int level, bool first) {
  const ScoreFunction kernel = launch.head_dim == 64    ? KernelFor<64>(args.group)
                               : launch.head_dim == 128 ? KernelFor<128>(args.group)
                                                        : KernelFor<256>(args.group);
  const size_t record = launch.head_dim == 64    ? sizeof(ScoredRecord<64>)
                        : launch.head_dim == 128 ? sizeof(ScoredRecord<128>)
                                                 : sizeof(ScoredRecord<256>);
  const size_t shared = kScoreWarps * kStages * record;
  SWELL_RETURN_IF_ERROR(
      FromCuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared)),
               "cudaFuncSetAttribute"));
  return LaunchStep("scores", dim3(static_cast<unsigned>(launch.score_parts)), 32 * kScoreWarps, shared, 1, first,
                    launch.stream, kernel, args, level);
}

}  // namespace swell::cuda
