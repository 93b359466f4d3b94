// What one KV head reads exactly and what it estimates for one query position: scoring and selection over its segments.
#ifndef SWELL_LIB_ENGINE_RETRIEVE_H_
#define SWELL_LIB_ENGINE_RETRIEVE_H_

#include <cstdint>
#include <vector>

#include "lib/engine/context.h"
#include "lib/engine/head_task.h"
#include "lib/engine/layer.h"
#include "lib/engine/ranked_level.h"
#include "lib/engine/residual.h"
#include "swell/attention.h"
#include "swell/index.h"

namespace swell {

// Segment whose clusters are ranked.
struct ClusteredSegment {
  const SegmentIndex* index = nullptr;
  KvRun rows;
  const uint16_t* rows_of_tokens = nullptr;  // [tokens]; null unless single tokens are found
};

// How much of the clustered tokens is looked at, read and estimated.
struct Budget {
  int64_t open_tokens = 0;  // of the super-clusters whose clusters are scored
  int64_t retrieve = 0;     // tokens or clusters
  int64_t tokens = 0;       // what `retrieve` is in tokens
  int64_t estimate = 0;     // clusters
  bool everything = false;
};

// One query position of one KV head.
struct HeadStep {
  // Given.
  const Layer* layer = nullptr;
  const LayerGraph* graph = nullptr;  // of the layer
  const SequenceOptions* sequence = nullptr;
  const RetrievalOptions* retrieval = nullptr;
  int32_t layer_index = 0;
  int32_t head = 0;
  int64_t position = 0;            // of the query: it sees tokens 0 .. position
  const float* queries = nullptr;  // [group, head_dim]

  // Found by PlanHeadStep.
  std::vector<KvRun> steady;               // rows to read in any case, all visible
  std::vector<KvRun> masked;               // likewise, of which some lie beyond `position`
  HeadTask steady_task;                    // exact attention over both; without pieces unless it is done
  std::vector<float> log_steady;           // [group]: log of their mass, where that is done
  std::vector<KvRun> retrieved;            // rows of the retrieval zone
  std::vector<ClusteredSegment> segments;  // whose clusters were ranked; empty: everything is read
  RankedLevel supers;                      // empty when all clusters are scored
  RankedLevel clusters;                    // those that are scored
  Budget budget;
  bool finds_tokens = false;  // single tokens are read, not clusters
  Residuals residuals;        // of clusters of which some tokens are read
  int64_t tokens_read = 0;
  int64_t keys_compared = 0;
  int64_t clusters_scored = 0;  // of both levels
  int64_t clusters_estimated = 0;
};

// Fills what is to be found. The mass of the steady zone tells how much of it a cluster may hold, so where clusters are
// ranked, exact attention over that zone comes first. Throws std::bad_alloc.
void PlanHeadStep(Context& context, HeadStep& step);

// Everything visible is read: for AttendMode::kExact.
void PlanExact(HeadStep& step);

}  // namespace swell

#endif  // SWELL_LIB_ENGINE_RETRIEVE_H_
