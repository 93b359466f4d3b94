// Times of one decode step of a layer on a synthetic context.
#ifndef SWELL_BENCH_GPU_STEP_TIMING_H_
#define SWELL_BENCH_GPU_STEP_TIMING_H_

#include <cstdint>
#include <vector>

#include "bench/gpu/synthetic_layer.h"
#include "swell/engine.h"

namespace swell::bench {

struct StepTimes {
  double step_us = 0;
  // The step cut off after each stage: scores, selection, and for two levels those of super-clusters before.
  double stages_us[4] = {};
  int stages = 0;
  double bytes = 0;            // that a step must read
  double tokens_read = 0;      // of a KV head, exactly
  double error = 0;            // relative, against reading everything, mean
  double predicted_error = 0;  // mean
};

// `tokens` in each of `batch` sequences, default options; layers in rotation until a round is four times the L2 cache.
StepTimes TimeStep(const SyntheticLayer& content, int64_t tokens, int32_t batch);

struct BufferedTimes {
  double walk = 0;       // correlation of a query with that of the step before
  double hit_ratio = 0;  // of the token records that live in host memory
  double step_us = 0;
  double host_bytes = 0;  // read from host memory, of a step
};

// How a buffer is made: kept as `home` in host memory, with `cache_share` of the rows' bytes cached on the device and
// WaveBufferOptions::preference.
struct BufferSetting {
  double cache_share = 0;
  DType home = DType::kBFloat16;
  float preference = 0;
};

// The same with all rows in host memory, for queries that walk: a time for each correlation.
std::vector<BufferedTimes> TimeBufferedStep(const SyntheticLayer& content, int64_t tokens, int32_t batch,
                                            const BufferSetting& setting, const std::vector<double>& walks);

}  // namespace swell::bench

#endif  // SWELL_BENCH_GPU_STEP_TIMING_H_
