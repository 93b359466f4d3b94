#include <cuda_bf16.h>

#include <algorithm>

#include "bench/gpu/baselines.h"
#include "bench/gpu/timing.h"
#include "cuda/device/device.h"
#include "cuda/kernels/decode_attention.h"

namespace swell::bench {
namespace {

__global__ void ReadKernel(const uint4* from, size_t words, float* sink) {
  uint32_t all = 0;
  const size_t stride = static_cast<size_t>(gridDim.x) * blockDim.x;
#pragma unroll 8
  for (size_t i = static_cast<size_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < words; i += stride) {
    const uint4 word = __ldcs(from + i);
    all ^= word.x ^ word.y ^ word.z ^ word.w;
  }
  if (all == 0x12345678U) *sink = 1;  // keeps the loads
}

__global__ void FillKernel(__nv_bfloat16* to, size_t count) {
  const size_t stride = static_cast<size_t>(gridDim.x) * blockDim.x;
  for (size_t i = static_cast<size_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += stride) {
    uint32_t x = static_cast<uint32_t>(i) * 2654435761U + static_cast<uint32_t>(i >> 32);
    x ^= x >> 15;
    x *= 2246822519U;
    x ^= x >> 13;
    to[i] = __float2bfloat16(static_cast<float>(static_cast<int>(x)) * 0x1p-31F);
  }
}

}  // namespace

void FillWithNumbers(void* to, size_t bytes) {
  FillKernel<<<4096, 256>>>(static_cast<__nv_bfloat16*>(to), bytes / 2);
  Check(cudaDeviceSynchronize(), "fill");
}

double ReadBandwidth() {
  constexpr size_t kBytes = size_t{4} << 30;
  void* memory = nullptr;
  float* sink = nullptr;
  Check(cudaMalloc(&memory, kBytes), "cudaMalloc");
  Check(cudaMalloc(&sink, 4), "cudaMalloc");
  FillWithNumbers(memory, kBytes);
  const double us = TimeGraph([&](cudaStream_t stream) {
    ReadKernel<<<2048, 512, 0, stream>>>(static_cast<const uint4*>(memory), kBytes / 16, sink);
  });
  cudaFree(memory);
  cudaFree(sink);
  return static_cast<double>(kBytes) / us / 1000;
}

double HostBandwidth() {
  constexpr size_t kBytes = size_t{1} << 30;
  void *memory = nullptr, *host = nullptr;
  Check(cudaMalloc(&memory, kBytes), "cudaMalloc");
  Check(cudaHostAlloc(&host, kBytes, cudaHostAllocDefault), "cudaHostAlloc");
  const double us = TimeGraph([&](cudaStream_t stream) {
    Check(cudaMemcpyAsync(memory, host, kBytes, cudaMemcpyHostToDevice, stream), "cudaMemcpyAsync");
  });
  cudaFree(memory);
  cudaFreeHost(host);
  return static_cast<double>(kBytes) / us / 1000;
}

double FullAttention(int64_t tokens, int32_t batch) {
  constexpr int32_t kKvHeads = 8, kGroup = 4, kHeadDim = 128;
  const int32_t heads = batch * kKvHeads;
  const size_t bytes = 2 * static_cast<size_t>(tokens) * kHeadDim;
  std::vector<cuda::DeviceRun> runs;
  std::vector<void*> allocations;
  const auto allocate = [&](size_t count) {
    void* memory = nullptr;
    Check(cudaMalloc(&memory, count), "cudaMalloc");
    FillWithNumbers(memory, count);
    allocations.push_back(memory);
    return memory;
  };
  for (int32_t head = 0; head < heads; ++head) runs.push_back({allocate(bytes), allocate(bytes), tokens});
  cuda::DecodeAttentionArgs args;
  args.queries = allocate(static_cast<size_t>(heads) * kGroup * kHeadDim * 2);
  args.output = static_cast<float*>(allocate(static_cast<size_t>(heads) * kGroup * kHeadDim * 4));
  auto* device_runs = static_cast<cuda::DeviceRun*>(allocate(runs.size() * sizeof(runs[0])));
  Check(cudaMemcpy(device_runs, runs.data(), runs.size() * sizeof(runs[0]), cudaMemcpyHostToDevice), "cudaMemcpy");
  args.runs = device_runs;
  args.heads = heads;
  args.group = kGroup;
  args.head_dim = kHeadDim;
  args.dtype = DType::kBFloat16;
  args.scale = 0.088F;
  const auto info = cuda::GetDeviceInfo(0);
  Check(info.status());
  args.splits = cuda::DecodeAttentionSplits(heads, tokens, info->multiprocessors);
  const size_t workspace_bytes = cuda::DecodeAttentionWorkspaceBytes(args);
  void* workspace = allocate(workspace_bytes);
  const double us = TimeGraph(
      [&](cudaStream_t stream) { Check(cuda::LaunchDecodeAttention(args, workspace, workspace_bytes, stream)); });
  for (void* memory : allocations) cudaFree(memory);
  return us;
}

}  // namespace swell::bench
