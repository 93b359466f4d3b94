// What one KV head reads exactly and what it estimates for one query position: scoring and selection over its segments.
#ifndef SWELL_LIB_ENGINE_RETRIEVE_H_
#define SWELL_LIB_ENGINE_RETRIEVE_H_

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "lib/engine/context.h"
#include "lib/engine/layer.h"
#include "swell/attention.h"

namespace swell {

// Segments that one task scores or estimates together; part of the order of summation, so independent of threads.
constexpr int64_t kSegmentsPerTask = 16;

// Meta index of one clustered segment, and where its clusters stand in the arrays of the head step.
struct ClusteredSegment {
  ClusterView view;
  KvRun rows;
  int64_t first_cluster = 0;
};

// How much of the clusters is read and estimated.
struct Budget {
  int64_t retrieve = 0;  // tokens or clusters
  int64_t estimate = 0;  // clusters
  bool everything = false;
};

// One query position of one KV head.
struct HeadStep {
  // Given.
  const Layer* layer = nullptr;
  const SequenceOptions* sequence = nullptr;
  const RetrievalOptions* retrieval = nullptr;
  int32_t layer_index = 0;
  int32_t head = 0;
  int64_t position = 0;            // of the query: it sees tokens 0 .. position
  const float* queries = nullptr;  // [group, head_dim]

  // Found by PlanHeadSteps.
  std::vector<KvRun> exact;                 // rows to read, all visible
  std::vector<KvRun> masked;                // rows of which some lie beyond `position`
  std::vector<ClusteredSegment> estimated;  // segments whose clusters were ranked; empty: everything is read
  std::vector<float> logits, sigmas;        // [group, clusters]
  std::vector<attention::Zone> zones;       // [clusters]
  std::vector<float> log_mass;              // [group]
  int64_t clusters = 0;
  Budget budget;
  int64_t tokens_read = 0;
  int64_t clusters_estimated = 0;

  attention::ClusterScores Scores(int64_t first_cluster) {
    return {logits.data() + first_cluster, sigmas.data() + first_cluster, clusters};
  }
};

// Fills what is to be found in every step. Throws std::bad_alloc.
void PlanHeadSteps(Context& context, std::span<HeadStep* const> steps);

// Everything visible is read: for AttendMode::kExact.
void PlanExact(const HeadShape& shape, HeadStep& step);

}  // namespace swell

#endif  // SWELL_LIB_ENGINE_RETRIEVE_H_
