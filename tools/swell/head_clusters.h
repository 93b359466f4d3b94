// The clusters of one KV head's keys as the wave index forms them, and where they have a search of the graph begin.
#ifndef SWELL_TOOLS_SWELL_HEAD_CLUSTERS_H_
#define SWELL_TOOLS_SWELL_HEAD_CLUSTERS_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "swell/attention.h"
#include "swell/index.h"
#include "swell/key_index.h"
#include "swell/status.h"
#include "swell/types.h"

namespace swell::cli {

// One thread at a time.
class HeadClusters {
 public:
  // `keys` lie in one chunk, without scales; they are clustered in segments like those of an engine by default.
  static Result<HeadClusters> Build(const KeyTable& keys);

  int64_t clusters() const;

  // Appends the tokens of the `count` clusters that score best, as an engine that estimates the rest ranks them.
  // `query` [head_dim] is compared with the centroids of all.
  void AppendBest(const float* query, int64_t count, std::vector<uint32_t>& tokens);

 private:
  HeadShape shape_;
  int64_t segment_tokens_ = 0;
  std::vector<std::unique_ptr<const SegmentIndex>> segments_;
  std::vector<ClusterRun> runs_;  // [segments]
  std::vector<uint32_t> sizes_;   // [entries] of swell/attention.h, like what follows
  std::vector<float> logits_;     // of the latest query
  std::vector<float> widths_;     // [segments]
  std::vector<attention::Zone> zones_;
  std::vector<uint32_t> scratch_;
};

}  // namespace swell::cli

#endif  // SWELL_TOOLS_SWELL_HEAD_CLUSTERS_H_
