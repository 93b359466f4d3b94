// One KV head of a trace as the engine serves it by the wave index: which tokens a decoded token's step reads, and what
// the answer is worth.
#ifndef SWELL_TOOLS_SWELL_REPLAYED_HEAD_H_
#define SWELL_TOOLS_SWELL_REPLAYED_HEAD_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "swell/attention.h"
#include "swell/engine.h"
#include "swell/index.h"
#include "swell/status.h"
#include "swell/types.h"
#include "tools/trace/trace.h"

namespace swell::cli {

// The text's tokens are clustered as far as they fill runs of seal_tokens, but for sinks and window; everything else is
// read by every step. Decoded tokens stay unclustered. One thread at a time.
class ReplayedHead {
 public:
  // The budget is retrieval.retrieve_share of the clustered tokens, spent on clusters above retrieve_above. Steps whose
  // number is a multiple of `error_steps` have their exact answer kept. kInvalidArgument when the text is too short for
  // a cluster.
  static Result<std::unique_ptr<ReplayedHead>> Read(const trace::Trace& trace, int64_t layer, int32_t head,
                                                    const SequenceOptions& options, int64_t error_steps);

  int64_t steps() const { return steps_; }
  int64_t tokens() const { return static_cast<int64_t>(tokens_.size()); }  // clustered

  // Positions of the clustered tokens that a step reads; valid until the next call. A cluster of which a token is
  // `cached` is preferred by `beta` nats (others must be so much more than retrieve_above): caches hold clusters whole
  // but for the last that found room.
  std::span<const uint32_t> Select(int64_t step, float beta, const std::function<bool(uint32_t)>& cached);

  // Error of the output under the latest selection over the exact output's length, mean over the group; `step` is the
  // one selected for and a multiple of error_steps.
  double OutputError(int64_t step);

 private:
  struct State;
  ReplayedHead() = default;
  Status Cluster(const SequenceOptions& options);
  void Rank(int64_t step);
  void AddSteadyRuns(int64_t step, std::vector<KvRun>* runs) const;
  const float* Queries(int64_t step) const { return &queries_[step * shape_.group * shape_.head_dim]; }
  KvRun Rows(const std::vector<std::byte>& keys, const std::vector<std::byte>& values, int64_t first,
             int64_t tokens) const;

  HeadShape shape_;
  RetrievalOptions retrieval_;
  int64_t steps_ = 0, text_tokens_ = 0, sinks_ = 0, error_steps_ = 1;
  std::vector<std::byte> keys_, values_;                // [text and decoded tokens, head_dim], in order
  std::vector<std::byte> sorted_keys_, sorted_values_;  // of the clustered tokens, cluster by cluster
  std::vector<uint32_t> tokens_;                        // the token of a sorted row
  std::vector<float> queries_;                          // [steps, group, head_dim]
  std::vector<std::unique_ptr<const SegmentIndex>> segments_;
  std::vector<int64_t> first_rows_;  // of each segment
  std::vector<ClusterRun> runs_;
  int64_t entries_ = 0;
  std::vector<float> importance_;  // [steps, entries]
  std::vector<uint32_t> sizes_;    // [entries]
  std::vector<float> logits_, widths_, log_mass_;
  std::vector<float> exact_;  // [steps / error_steps, group, head_dim]
  // Of the latest selection.
  std::vector<float> preferred_;
  std::vector<attention::Zone> zones_;
  std::vector<uint32_t> scratch_, selected_;
  std::vector<KvRun> retrieved_;
};

}  // namespace swell::cli

#endif  // SWELL_TOOLS_SWELL_REPLAYED_HEAD_H_
