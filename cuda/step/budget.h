// The retrieval options that the device step knows. Includable without CUDA.
#ifndef SWELL_CUDA_STEP_BUDGET_H_
#define SWELL_CUDA_STEP_BUDGET_H_

#include "swell/engine.h"

namespace swell::cuda {

// The device step reads until a budget is spent: Ranking::kOptimistic or kMass, `share` of the clustered tokens.
inline RetrievalOptions ByBudget(float share = 0.02F) {
  RetrievalOptions options;
  options.ranking = Ranking::kOptimistic;
  options.retrieve_above = 0;
  options.retrieve_share = share;
  options.max_retrieve_tokens = 0;
  return options;
}

}  // namespace swell::cuda

#endif  // SWELL_CUDA_STEP_BUDGET_H_
