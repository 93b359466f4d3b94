// Plan of one layer's steps: what the kernels need to know of the batch, made on the host whenever sequences join,
// leave, or gain a segment. Tails are not part of it: they grow on the device.
#ifndef SWELL_CUDA_STEP_PLAN_H_
#define SWELL_CUDA_STEP_PLAN_H_

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "cuda/step/layout.h"
#include "cuda/step/segment.h"
#include "swell/engine.h"
#include "swell/status.h"

namespace swell::cuda {

// One sequence of the batch, in one layer.
struct PlanSequence {
  std::span<const std::shared_ptr<const DeviceSegment>> segments;
  int32_t tail = 0;         // its number in the table
  int32_t tail_tokens = 0;  // its capacity
};

// How many there may be of everything, over the whole batch.
struct PlanLimits {
  int32_t heads = 0;
  int64_t tiles[kLevels] = {};
  int64_t addresses = 0;  // of token records that are read
  int32_t runs = 0;
  int32_t score_parts = 0;
  int32_t parts = 0;
};

struct PlanOptions {
  int32_t kv_heads = 1;
  int32_t head_dim = 128;
  int32_t layer = 0;
  int32_t wanted_score_parts = 1;  // CTAs that fill the device
  int32_t wanted_parts = 1;
  const RetrievalOptions* retrieval = nullptr;
  PlanLimits limits;
};

// As the arrays lie in device memory. `tiles` is the directory that HeadPlan::tiles and ScorePart::tiles point into.
struct Plan {
  PlanSize size = {};
  std::vector<HeadPlan> heads;
  std::vector<ScorePart> score_parts[kLevels];
  std::vector<Part> parts;
  std::vector<TokenRun> runs;
  std::vector<const void*> tiles;
};

// `directory`: where Plan::tiles will lie in device memory. Heads are ordered [sequences, kv_heads]. kResourceExhausted
// names the limit that the batch exceeds.
Result<Plan> MakePlan(const PlanOptions& options, std::span<const PlanSequence> batch, const void* const* directory);

}  // namespace swell::cuda

#endif  // SWELL_CUDA_STEP_PLAN_H_
