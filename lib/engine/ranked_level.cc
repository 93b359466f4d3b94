#include "lib/engine/ranked_level.h"

namespace swell {

void RankedLevel::Add(const ClusterRun& run, int32_t segment) {
  runs.push_back(run);
  segments.push_back(segment);
  clusters += run.clusters;
  entries += attention::TileEntries(run.clusters);
}

void RankedLevel::Allocate(int32_t group) {
  const auto heads = static_cast<size_t>(group);
  logits = std::make_unique_for_overwrite<float[]>(static_cast<size_t>(entries) * heads);
  widths = std::make_unique_for_overwrite<float[]>(runs.size() * heads);
  zones = std::make_unique_for_overwrite<attention::Zone[]>(static_cast<size_t>(entries));
  log_mass.resize(heads);
}

std::vector<RankedLevel::Piece> RankedLevel::Pieces() const {
  std::vector<Piece> pieces;
  int64_t first_entry = 0;
  for (size_t first = 0; first < runs.size();) {
    size_t last = first;
    int64_t count = 0;
    while (last < runs.size() && count < kClustersPerTask) count += attention::TileEntries(runs[last++].clusters);
    pieces.push_back({std::span(runs).subspan(first, last - first), static_cast<int64_t>(first), first_entry});
    first_entry += count;
    first = last;
  }
  return pieces;
}

}  // namespace swell
