#include <algorithm>
#include <new>
#include <unordered_map>

#include "swell/cache.h"

namespace swell::cache {
namespace {

Status NoMemory() {
  return Status(StatusCode::kResourceExhausted, "out of memory for the simulation", StatusDetail::kNoMemory);
}

// The trace with each block once a step, in order of keys.
Trace Distinct(Trace trace) {
  for (std::vector<BlockKey>& step : trace) {
    std::sort(step.begin(), step.end());
    step.erase(std::unique(step.begin(), step.end()), step.end());
  }
  return trace;
}

// next_uses[t][i]: the first step after t that reads trace[t][i]; the number of steps when none does.
std::vector<std::vector<size_t>> NextUses(const Trace& trace) {
  std::vector<std::vector<size_t>> next_uses(trace.size());
  std::unordered_map<uint64_t, size_t> later;
  for (size_t t = trace.size(); t-- > 0;) {
    next_uses[t].resize(trace[t].size());
    for (size_t i = 0; i < trace[t].size(); ++i) {
      const auto [entry, fresh] = later.try_emplace(static_cast<uint64_t>(trace[t][i]), trace.size());
      next_uses[t][i] = entry->second;
      entry->second = t;
    }
  }
  return next_uses;
}

TraceResult Optimum(int64_t slots, const Trace& trace, int64_t warm_steps) {
  const std::vector<std::vector<size_t>> next_uses = NextUses(trace);
  // Blocks that are read again are worth keeping; one whose next use is this step is a hit.
  std::vector<size_t> cached;  // next use of each cached block
  TraceResult result;
  for (size_t t = 0; t < trace.size(); ++t) {
    const auto hits = static_cast<int64_t>(std::erase(cached, t));
    if (static_cast<int64_t>(t) >= warm_steps) {
      result.hits += hits;
      result.misses += static_cast<int64_t>(trace[t].size()) - hits;
    }
    for (const size_t next : next_uses[t]) {
      if (next < trace.size()) cached.push_back(next);
    }
    if (static_cast<int64_t>(cached.size()) > slots) {
      std::nth_element(cached.begin(), cached.begin() + slots, cached.end());
      cached.resize(slots);
    }
  }
  return result;
}

}  // namespace

Result<TraceResult> SimulateTrace(const CacheOptions& options, const Trace& trace, int64_t warm_steps) {
  auto cache = BlockCache::Create(options);
  if (!cache.ok()) return cache.status();
  try {
    TraceResult result;
    std::vector<Placement> placements;
    int64_t counted_from = warm_steps;
    for (const std::vector<BlockKey>& step : Distinct(trace)) {
      placements.resize(step.size());
      SWELL_RETURN_IF_ERROR((*cache)->BeginStep());
      SWELL_RETURN_IF_ERROR((*cache)->Plan(step, placements));
      SWELL_RETURN_IF_ERROR((*cache)->EndStep());
      if (counted_from-- > 0) continue;
      const auto hits = std::count_if(placements.begin(), placements.end(), [](const Placement& p) { return p.hit; });
      result.hits += hits;
      result.misses += static_cast<int64_t>(step.size()) - hits;
    }
    return result;
  } catch (const std::bad_alloc&) {
    return NoMemory();
  }
}

Result<TraceResult> SimulateOptimum(int64_t slots, const Trace& trace, int64_t warm_steps) {
  if (slots <= 0) return InvalidArgument("slots: must be above 0", StatusDetail::kBadSize);
  try {
    return Optimum(slots, Distinct(trace), warm_steps);
  } catch (const std::bad_alloc&) {
    return NoMemory();
  }
}

}  // namespace swell::cache
