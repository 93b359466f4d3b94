// What a step is compared with: the rate at which the device reads its memory, and full attention.
#ifndef SWELL_BENCH_GPU_BASELINES_H_
#define SWELL_BENCH_GPU_BASELINES_H_

#include <cstddef>
#include <cstdint>

namespace swell::bench {

// Fills device memory with different small bfloat16 numbers.
void FillWithNumbers(void* to, size_t bytes);

// GB/s of reading 4 GiB, median.
double ReadBandwidth();

// GB/s of copying 1 GiB of pinned host memory to the device, median.
double HostBandwidth();

// us of exact decode attention over all tokens, by Swell's own kernel: 8 KV heads, group 4, head_dim 128, bfloat16.
double FullAttention(int64_t tokens, int32_t batch);

}  // namespace swell::bench

#endif  // SWELL_BENCH_GPU_BASELINES_H_
