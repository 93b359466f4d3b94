// Clusters of one level of the meta index as one query sees them.
#ifndef SWELL_LIB_ENGINE_RANKED_LEVEL_H_
#define SWELL_LIB_ENGINE_RANKED_LEVEL_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <vector>

#include "swell/attention.h"
#include "swell/types.h"

namespace swell {

// Clusters that one task scores or estimates together, rounded up to whole runs; part of the order of summation, so
// independent of threads.
constexpr int64_t kClustersPerTask = 4096;

// Arrays of `entries` hold the entries of all runs (swell/attention.h), entry 0 being the first cluster of runs[0].
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

// Calls take(run, first, last) for every stretch of retrieved clusters [first, last) of run number `run`; `zones` are
// those of the entries of `runs`.
template <typename Take>
void ForEachRetrieved(std::span<const ClusterRun> runs, const attention::Zone* zones, const Take& take) {
  constexpr auto kRetrieved = static_cast<int>(attention::Zone::kRetrieved);
  for (size_t r = 0; r < runs.size(); ++r) {
    const attention::Zone* end = zones + runs[r].clusters;
    const attention::Zone* last = zones;
    while (const void* found = std::memchr(last, kRetrieved, static_cast<size_t>(end - last))) {
      const auto* first = static_cast<const attention::Zone*>(found);
      last = std::find_if(first, end, [](attention::Zone zone) { return zone != attention::Zone::kRetrieved; });
      take(r, first - zones, last - zones);
    }
    zones += attention::TileEntries(runs[r].clusters);
  }
}

}  // namespace swell

#endif  // SWELL_LIB_ENGINE_RANKED_LEVEL_H_
