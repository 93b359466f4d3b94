#include "cuda/step/plan.h"

#include <algorithm>
#include <cmath>
#include <new>
#include <string>
#include <utility>

namespace swell::cuda {
namespace {

int64_t RoundUpToBlocks(int64_t tiles) { return (tiles + kBlockTiles - 1) / kBlockTiles * kBlockTiles; }

float RetrieveShare(const RetrievalOptions& retrieval, int32_t layer, int32_t kv_head) {
  float share = retrieval.retrieve_share;
  for (const BudgetOverride& entry : retrieval.overrides) {
    const bool layer_fits = entry.layer == -1 || entry.layer == layer;
    const bool head_fits = entry.kv_head == -1 || entry.kv_head == kv_head;
    if (layer_fits && head_fits) share = entry.retrieve_share;
  }
  return share;
}

// Most tokens that the head's share and its ceilings let it read, before the floor.
int64_t ShareTokens(const RetrievalOptions& retrieval, const HeadPlan& head) {
  const double share = std::ceil(static_cast<double>(head.retrieve_share) * static_cast<double>(head.clustered_tokens));
  int64_t tokens = std::min(head.clustered_tokens, static_cast<int64_t>(share));
  if (retrieval.retrieve_tokens > 0) tokens = retrieval.retrieve_tokens;
  if (retrieval.max_retrieve_tokens > 0) tokens = std::min(tokens, retrieval.max_retrieve_tokens);
  return tokens;
}

// Most clustered tokens that a step can list: the cluster that crosses the budget may weigh twice what is left of it,
// and the first is taken whatever its size. A budget in clusters may take the largest.
int64_t MostListed(const RetrievalOptions& retrieval, const HeadPlan& head, int64_t largest_cluster) {
  if (retrieval.unit == BudgetUnit::kClusters) return head.clustered_tokens;
  const int64_t budget = std::max(ShareTokens(retrieval, head), retrieval.floor_tokens);
  return std::min(head.clustered_tokens, budget + std::max(budget, largest_cluster));
}

class Planner {
 public:
  Planner(const PlanOptions& options, const void* const* directory) : options_(options), directory_(directory) {}

  void AddHead(const PlanSequence& sequence, int32_t kv_head) {
    HeadPlan head = {};
    head.kv_head = kv_head;
    head.tail = sequence.tail;
    head.first_run = static_cast<int32_t>(plan_.runs.size());
    head.first_address = addresses_;
    head.retrieve_share = RetrieveShare(*options_.retrieval, options_.layer, kv_head);
    int64_t largest_cluster = 0;
    for (const auto& segment : sequence.segments) {
      const SegmentHead& part = segment->heads()[kv_head];
      if (part.clusters[0] == 0) {
        plan_.runs.push_back(part.rows);
        head.fixed_tokens += part.rows.tokens;
        continue;
      }
      head.clustered_tokens += part.rows.tokens;
      largest_cluster = std::max(largest_cluster, part.largest_cluster);
    }
    head.n_runs = static_cast<int32_t>(plan_.runs.size()) - head.first_run;
    for (int level = 0; level < kLevels; ++level) ListTiles(sequence, level, head);
    addresses_ += head.fixed_tokens + sequence.tail_tokens + MostListed(*options_.retrieval, head, largest_cluster);
    plan_.heads.push_back(head);
  }

  // Scores of heads that read everything anyway are not wanted.
  void AddBlocks(int level) {
    int64_t most = 0;
    for (const HeadPlan& head : plan_.heads) most = std::max<int64_t>(most, head.n_tiles[level]);
    // The first blocks of all heads come first: where few tiles are opened, they are the ones with work.
    for (int64_t tile = 0; tile < most; tile += kBlockTiles) {
      for (size_t h = 0; h < plan_.heads.size(); ++h) {
        const HeadPlan& head = plan_.heads[h];
        if (tile >= head.n_tiles[level] || ShareTokens(*options_.retrieval, head) >= head.clustered_tokens) continue;
        const auto count = static_cast<int32_t>(std::min<int64_t>(kBlockTiles, head.n_tiles[level] - tile));
        plan_.blocks[level].push_back(
            {head.tiles[level] + tile, static_cast<int32_t>(h), static_cast<int32_t>(tile), count});
      }
    }
  }

  // Shares the wanted CTAs among heads by the bytes that they read.
  void AddParts() {
    std::vector<double> work;
    double all = 0;
    for (const HeadPlan& head : plan_.heads) {
      const auto tokens =
          static_cast<double>(std::max(ShareTokens(*options_.retrieval, head), int64_t{1}) + head.fixed_tokens);
      constexpr double kTileShare = 1.0 / 8;  // of a tile's record that the estimate reads, and of its scores
      work.push_back(tokens * static_cast<double>(TokenBytes(options_.head_dim)) +
                     head.n_tiles[0] * kTileShare * static_cast<double>(TileBytes(options_.head_dim)));
      all += work.back();
    }
    for (size_t h = 0; h < plan_.heads.size(); ++h) {
      const double bytes_of_step = 16.0 * static_cast<double>(TokenBytes(options_.head_dim));  // of one warp
      const double useful = std::ceil(work[h] / (2 * bytes_of_step));
      const double share = std::floor(options_.wanted_parts * work[h] / all);
      const auto parts = static_cast<int32_t>(std::clamp(std::min(share, useful), 1.0, 4096.0));
      plan_.heads[h].n_parts = parts;
      for (int32_t i = 0; i < parts; ++i) plan_.parts.push_back({static_cast<int32_t>(h), i});
    }
  }

  Result<Plan> Finish() {
    const PlanLimits& limits = options_.limits;
    const auto exceeded = [](const char* what) {
      return Status(StatusCode::kResourceExhausted, std::string("the batch exceeds the step's limit of ") + what);
    };
    if (plan_.heads.size() > static_cast<size_t>(limits.heads)) return exceeded("heads");
    for (int level = 0; level < kLevels; ++level) {
      if (places_[level] > limits.tiles[level]) return exceeded("clusters");
    }
    for (const HeadPlan& head : plan_.heads) {
      if (head.n_tiles[0] > kMaxHeadTiles) return exceeded("clusters of a head");
    }
    if (addresses_ > limits.addresses) return exceeded("tokens read");
    if (plan_.runs.size() > static_cast<size_t>(limits.runs)) return exceeded("segments without clusters");
    if (plan_.parts.size() > static_cast<size_t>(limits.parts)) return exceeded("parts");
    plan_.size.heads = static_cast<int32_t>(plan_.heads.size());
    plan_.size.parts = static_cast<int32_t>(plan_.parts.size());
    for (int level = 0; level < kLevels; ++level) {
      plan_.size.blocks[level] = static_cast<int32_t>(plan_.blocks[level].size());
    }
    return std::move(plan_);
  }

 private:
  void ListTiles(const PlanSequence& sequence, int level, HeadPlan& head) {
    const auto record_bytes = static_cast<int64_t>(TileBytes(options_.head_dim));
    const size_t first = plan_.tiles.size();
    head.tiles[level] = directory_ + first;
    head.first_tile[level] = places_[level];
    for (const auto& segment : sequence.segments) {
      const SegmentHead& part = segment->heads()[head.kv_head];
      for (int64_t tile = 0; tile < TilesOf(part.clusters[level]); ++tile) {
        plan_.tiles.push_back(part.tiles[level] + tile * record_bytes);
      }
      head.clusters[level] += part.clusters[level];
    }
    head.n_tiles[level] = static_cast<int32_t>(plan_.tiles.size() - first);
    places_[level] += RoundUpToBlocks(head.n_tiles[level]);
  }

  const PlanOptions& options_;
  const void* const* directory_;
  Plan plan_;
  int64_t places_[kLevels] = {};
  int64_t addresses_ = 0;
};

}  // namespace

Result<Plan> MakePlan(const PlanOptions& options, std::span<const PlanSequence> batch,
                      const void* const* directory) try {
  Planner planner(options, directory);
  for (const PlanSequence& sequence : batch) {
    for (int32_t kv_head = 0; kv_head < options.kv_heads; ++kv_head) planner.AddHead(sequence, kv_head);
  }
  for (int level = 0; level < kLevels; ++level) planner.AddBlocks(level);
  planner.AddParts();
  return planner.Finish();
} catch (const std::bad_alloc&) {
  return Status(StatusCode::kResourceExhausted, "plan: out of host memory", StatusDetail::kNoMemory);
}

}  // namespace swell::cuda
