// What one KV head reads exactly and what it estimates for one query position: scoring and selection over its segments.
#ifndef SWELL_LIB_ENGINE_RETRIEVE_H_
#define SWELL_LIB_ENGINE_RETRIEVE_H_

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "lib/engine/context.h"
#include "lib/engine/layer.h"
#include "lib/engine/residual.h"
#include "swell/attention.h"
#include "swell/index.h"

namespace swell {

// Clusters that one task scores or estimates together, rounded up to whole runs; part of the order of summation, so
// independent of threads.
constexpr int64_t kClustersPerTask = 4096;

// Segment whose clusters are ranked.
struct ClusteredSegment {
  const SegmentIndex* index = nullptr;
  KvRun rows;
  const uint16_t* rows_of_tokens = nullptr;  // [tokens]; null unless single tokens are found
};

// Clusters of one level of the meta index as one query sees them; arrays of `entries` hold the entries of all runs
// (swell/attention.h), entry 0 being the first cluster of runs[0].
struct RankedLevel {
  // Runs that one task works on, and where they begin.
  struct Piece {
    std::span<const ClusterRun> runs;
    int64_t first_run = 0;
    int64_t first_entry = 0;
  };

  std::vector<ClusterRun> runs;
  std::vector<int32_t> segments;  // [runs]: where in HeadStep::segments the run is from
  int64_t clusters = 0;
  int64_t entries = 0;
  std::unique_ptr<float[]> logits;           // [group, entries]
  std::unique_ptr<float[]> widths;           // [runs, group]
  std::unique_ptr<attention::Zone[]> zones;  // [entries]
  std::vector<float> log_mass;               // [group]

  void Add(const ClusterRun& run, int32_t segment);
  void Allocate(int32_t group);  // throws std::bad_alloc
  std::vector<Piece> Pieces() const;
  attention::ClusterScores Scores(const Piece& piece) const {
    const auto group = static_cast<int64_t>(log_mass.size());
    return {logits.get() + piece.first_entry, widths.get() + piece.first_run * group, entries};
  }
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
  std::vector<KvRun> exact;                // rows to read, all visible
  std::vector<KvRun> masked;               // rows of which some lie beyond `position`
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

// Fills what is to be found. Throws std::bad_alloc.
void PlanHeadStep(Context& context, HeadStep& step);

// Everything visible is read: for AttendMode::kExact.
void PlanExact(HeadStep& step);

}  // namespace swell

#endif  // SWELL_LIB_ENGINE_RETRIEVE_H_
