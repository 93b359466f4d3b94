// Time of building the index of a layer on the device.
#ifndef SWELL_BENCH_GPU_BUILD_TIMING_H_
#define SWELL_BENCH_GPU_BUILD_TIMING_H_

#include <cstdint>

#include "bench/gpu/synthetic_layer.h"

namespace swell::bench {

// Milliseconds for the first `tokens` of a layer, a multiple of `segment_tokens`, in one build, all KV heads, default
// options; rows [tokens, kv_heads, head_dim].
double TimeBuild(const SyntheticLayer& content, int64_t tokens, int64_t segment_tokens);

}  // namespace swell::bench

#endif  // SWELL_BENCH_GPU_BUILD_TIMING_H_
