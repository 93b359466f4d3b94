// Arguments of the kernels of a step, and the launches that each kernel file offers. Includable without nvcc.
#ifndef SWELL_CUDA_STEP_STEP_ARGS_H_
#define SWELL_CUDA_STEP_STEP_ARGS_H_

#include <driver_types.h>

#include "cuda/buffer/buffer_view.h"
#include "cuda/step/layout.h"
#include "swell/status.h"
#include "swell/types.h"

namespace swell::cuda {

// Order of a head's clusters, best first: 26 bits of importance, then the number of the cluster among those scored, so
// that no two are equal and ties go to the first.
using Place = unsigned long long;
constexpr int kNumberBits = 22;
constexpr int kPlaceBits = 48;
constexpr uint32_t kNoKey = 0xffffffffU;              // of padding
constexpr Place kAllPlaces = Place{1} << kPlaceBits;  // as the end of a zone: every cluster is before it
constexpr Place kNoPlace = ~Place{0};                 // of padding

// What was chosen of one level of one head.
struct Selection {
  int32_t tiles;   // scored; 0: none, and nothing is estimated
  int32_t opened;  // of the upper level: tiles opened; -1: all, the upper level was not used
  float max_logit[kMaxGroup];
  float log_mass[kMaxGroup];  // log sum size exp(logit)
};

// Maximum and sum of two softmaxes of one part: over its clusters, and what importance is relative to.
struct PartSums {
  float max_logit;
  float mass;  // sum size exp(logit - max_logit)
  float max_rank;
  float ranks;  // sum exp(rank - max_rank) over clusters; under kMass of the logits, under kShare over steady tokens
};

struct ClusterShape {
  float spread;
  uint32_t size;  // 0: padding; after selection also what is read, opened or dropped
};

struct LevelScores {
  float* logits;          // [tiles, group, kClusterTile]
  float* widths;          // [tiles, group]: sigma of a cluster = its spread * width
  float* tops;            // [tiles, group]: largest rank of the tile's clusters; only where StepRules::least rules
  ClusterShape* shapes;   // [tiles, kClusterTile], of what is scored
  const void** contents;  // [tiles]: TileRecord::content
  PartSums* sums;         // [score parts, group]
  uint32_t* keys;         // [tiles, kClusterTile]: importance in units of 2^-20 nats below kMostImportance
  Selection* selected;    // [heads]
};

// Rules for all heads.
struct StepRules {
  int64_t floor_tokens;
  float kappa;
  int32_t by_clusters;  // BudgetUnit::kClusters
  int32_t by_mass;      // Ranking::kMass
  int32_t by_share;     // Ranking::kShare
  float least;          // importance below which no cluster is read; -inf: all may be
  int32_t correct;
  int32_t two_level;
};

struct StepArgs {
  const PlanSize* size;
  const HeadPlan* heads;
  const ScorePart* score_parts[kLevels];
  const Part* parts;
  const TokenRun* runs;
  const Tail* tails;
  const void* queries;  // [heads, group, head_dim]
  float* output;        // [heads, group, head_dim]
  float* lse;           // [heads, group]; may be null
  float* error;         // same
  float* share;         // same
  LevelScores scores[kLevels];
  const std::byte** addresses;  // of token records, HeadPlan::first_address on; with a buffer a ListEntry each
  const void** opened;          // records of opened tiles, at the place of the tile in the score arrays
  int64_t* list_tokens;         // [heads]
  float* states;                // of parts
  uint32_t* arrivals;           // [heads, query blocks], zero between steps
  StepRules rules;
  BufferView buffer;  // no slots: there is none
  float scale;
  int32_t group;
  int32_t is_half;  // of queries, keys and values: float16, else bfloat16
};

// How a step runs on this device.
struct StepLaunch {
  int32_t head_dim;
  int32_t heads;        // at most; grids are fixed, so that a graph serves every plan
  int32_t score_parts;  // at most
  int32_t parts;        // at most
  int32_t select_ctas;  // of a thread-block cluster
  cudaStream_t stream;
};

Status LaunchScore(const StepArgs& args, const StepLaunch& launch, int level, bool first);
Status LaunchSelect(const StepArgs& args, const StepLaunch& launch, int level);
Status LaunchLookUp(const StepArgs& args, const StepLaunch& launch);  // only with a buffer
Status LaunchAttend(const StepArgs& args, const StepLaunch& launch);

// CTAs of the largest thread-block cluster, at most 8, of which the device holds `heads` at a time; 1 if there is none.
Result<int32_t> SelectCtas(int32_t heads, int32_t head_dim);
// Bytes of a part's state, for all its blocks of queries.
size_t PartBytes(int32_t head_dim, int32_t group);
inline int32_t QueryBlocks(int32_t group) { return group <= 8 ? 1 : 2; }

}  // namespace swell::cuda

#endif  // SWELL_CUDA_STEP_STEP_ARGS_H_
