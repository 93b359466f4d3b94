#include <algorithm>
#include <cmath>

#include "cuda/device/device.h"
#include "cuda/kernels/decode_attention.cuh"

namespace swell::cuda {
namespace {

bool Misaligned(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 != 0; }

template <typename... Parameters>
Status Launch(const char* name, dim3 grid, unsigned threads, cudaStream_t stream, void (*kernel)(Parameters...),
              Parameters... parameters) {
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = dim3(threads);
  config.stream = stream;
  return FromCuda(cudaLaunchKernelEx(&config, kernel, parameters...), name);
}

using SplitKernel = void (*)(DecodeAttentionArgs, float*);

template <typename T>
SplitKernel KernelFor(int32_t head_dim) {
  switch (head_dim) {
    case 64:
      return &DecodeSplitKernel<T, 64>;
    case 128:
      return &DecodeSplitKernel<T, 128>;
    default:
      return &DecodeSplitKernel<T, 256>;
  }
}

}  // namespace

int32_t DecodeAttentionSplits(int32_t heads, int64_t tokens, int32_t multiprocessors) {
  // Two CTAs fit a multiprocessor: one wave (H200, 8 heads of 128K tokens: 135 us; two waves 152 us).
  const int64_t wanted = 2 * static_cast<int64_t>(multiprocessors) / std::max(heads, 1);
  const int64_t useful = tokens / 256;  // two steps of a CTA; fewer are not worth a state of their own
  return static_cast<int32_t>(std::clamp<int64_t>(std::min(wanted, useful), 1, kMaxDecodeSplits));
}

Status CheckDecodeAttention(const DecodeAttentionArgs& args) {
  if (args.queries == nullptr) return InvalidArgument("queries: null", StatusDetail::kNullPointer);
  if (Misaligned(args.queries)) return InvalidArgument("queries: not 16-byte aligned", StatusDetail::kMisaligned);
  if (args.runs == nullptr) return InvalidArgument("runs: null", StatusDetail::kNullPointer);
  if (args.output == nullptr) return InvalidArgument("output: null", StatusDetail::kNullPointer);
  if (args.heads < 1) return InvalidArgument("heads: must be at least 1", StatusDetail::kBadSize);
  if (args.group < 1 || args.group > kMaxGroup)
    return InvalidArgument("group: must be 1 .. 16", StatusDetail::kBadSize);
  if (args.head_dim != 64 && args.head_dim != 128 && args.head_dim != 256) {
    return InvalidArgument("head_dim: must be 64, 128 or 256", StatusDetail::kBadSize);
  }
  if (args.dtype != DType::kFloat16 && args.dtype != DType::kBFloat16) {
    return InvalidArgument("dtype: must be float16 or bfloat16", StatusDetail::kUnknownDType);
  }
  if (args.splits < 1 || args.splits > kMaxDecodeSplits) {
    return InvalidArgument("splits: must be 1 .. 1024", StatusDetail::kBadSize);
  }
  if (!std::isfinite(args.scale)) return InvalidArgument("scale: not finite", StatusDetail::kNonFinite);
  return OkStatus();
}

size_t DecodeAttentionWorkspaceBytes(const DecodeAttentionArgs& args) {
  if (!CheckDecodeAttention(args).ok()) return 0;
  // At most 2^31 * 2^10 * 2^4 * 258 * 4 bytes: fits.
  return sizeof(float) * static_cast<size_t>(args.heads) * args.splits * args.group * (args.head_dim + 2);
}

Status LaunchDecodeAttention(const DecodeAttentionArgs& args, void* workspace, size_t workspace_bytes,
                             cudaStream_t stream) {
  SWELL_RETURN_IF_ERROR(CheckDecodeAttention(args));
  if (workspace == nullptr) return InvalidArgument("workspace: null", StatusDetail::kNullPointer);
  if (Misaligned(workspace)) return InvalidArgument("workspace: not 16-byte aligned", StatusDetail::kMisaligned);
  if (workspace_bytes < DecodeAttentionWorkspaceBytes(args)) {
    return InvalidArgument("workspace_bytes: too small", StatusDetail::kBadSize);
  }
  auto* states = static_cast<float*>(workspace);
  const auto heads = static_cast<unsigned>(args.heads);
  const SplitKernel kernel =
      args.dtype == DType::kFloat16 ? KernelFor<__half>(args.head_dim) : KernelFor<__nv_bfloat16>(args.head_dim);
  SWELL_RETURN_IF_ERROR(Launch("decode attention", dim3(heads, static_cast<unsigned>(args.splits)), 32 * kDecodeWarps,
                               stream, kernel, args, states));
  return Launch<DecodeAttentionArgs, const float*>(
      "merge of decode attention", dim3(heads, static_cast<unsigned>(args.group)), static_cast<unsigned>(args.head_dim),
      stream, &DecodeMergeKernel, args, states);
}

}  // namespace swell::cuda
