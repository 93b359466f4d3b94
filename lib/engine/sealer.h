// When tokens are sealed and segments compacted. The plan depends on token positions alone, so sequences of the same
// length that were never truncated end up with the same segments, however their tokens arrived. After a truncation the
// segments that are left stay as they are until the next plan.
#ifndef SWELL_LIB_ENGINE_SEALER_H_
#define SWELL_LIB_ENGINE_SEALER_H_

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "lib/engine/context.h"

namespace swell {

// Tokens [begin, end) become one segment. begin < Layer::sealed_end means compaction of what lies there.
struct SealRange {
  int64_t begin = 0;
  int64_t end = 0;
};

// What is due: runs of seal_tokens beyond the window, and one segment of segment_tokens wherever all its tokens are
// there.
std::vector<SealRange> PlanSeals(const Layer& layer, const SequenceOptions& options);

// Builds what is due with all threads and returns when it is visible. Failures leave tokens exact; they are counted and
// logged. The sequence must not be locked by the caller.
void SealNow(Context& context, Sequence& sequence, int32_t layer);

// Queues a background build unless nothing is due or one is under way. `lock` holds the sequence's mutex.
void SealLater(Context& context, const std::shared_ptr<Sequence>& sequence, int32_t layer,
               const std::unique_lock<std::mutex>& lock);

}  // namespace swell

#endif  // SWELL_LIB_ENGINE_SEALER_H_
