// Asks for the small arrays of runs that come later. They lie apart for every segment, a few cache lines each, which no
// hardware sees coming: without this, the kernels of a context of many segments mostly wait.
#ifndef SWELL_LIB_ATTENTION_RUN_AHEAD_H_
#define SWELL_LIB_ATTENTION_RUN_AHEAD_H_

#include <cstddef>
#include <cstdint>
#include <span>

#include "swell/types.h"

namespace swell::attention {

// Asks for `count` elements, into the second-level cache.
template <typename T>
void AskFor(const T* elements, int64_t count) {
  const char* at = reinterpret_cast<const char*>(elements);
  for (int64_t byte = 0; byte < count * static_cast<int64_t>(sizeof(T)); byte += 64) {
    __builtin_prefetch(at + byte, 0, 2);
  }
}

// To be called before run number `r` is worked on: calls ask(run) for a run that comes soon, whose view was asked for
// by an earlier call; before the first run for all that come until then.
template <typename Ask>
void AskAhead(std::span<const ClusterRun> runs, size_t r, const Ask& ask) {
  constexpr size_t kRuns = 3;
  if (r == 0) {
    for (size_t i = 0; i < kRuns && i < runs.size(); ++i) ask(runs[i]);
  }
  if (r + 2 * kRuns < runs.size()) AskFor(runs[r + 2 * kRuns].view, 1);
  if (r + kRuns < runs.size()) ask(runs[r + kRuns]);
}

// Walks the tiles of runs.
class TileCursor {
 public:
  // `skip`: tiles that are passed over at the start.
  TileCursor(std::span<const ClusterRun> runs, int64_t skip) : runs_(runs) {
    SkipEmpty();
    for (int64_t i = 0; i < skip; ++i) Next();
  }

  // The next tile, as a run; the last one when there are no more, and none of a null view when there never was one.
  const ClusterRun& Next() {
    if (run_ < runs_.size()) {
      latest_ = {runs_[run_].view, runs_[run_].first + cluster_, kClusterTile};
      cluster_ += kClusterTile;
      SkipEmpty();
    }
    return latest_;
  }

 private:
  void SkipEmpty() {
    while (run_ < runs_.size() && cluster_ >= runs_[run_].clusters) {
      ++run_;
      cluster_ = 0;
    }
  }

  std::span<const ClusterRun> runs_;
  size_t run_ = 0;
  int64_t cluster_ = 0;
  ClusterRun latest_;
};

}  // namespace swell::attention

#endif  // SWELL_LIB_ATTENTION_RUN_AHEAD_H_
