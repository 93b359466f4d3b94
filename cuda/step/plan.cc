#include "cuda/step/plan.h"

#include <algorithm>
#include <cmath>
#include <new>
#include <string>
#include <utility>

namespace swell::cuda {
namespace {

float RetrieveShare(const RetrievalOptions& retrieval, int32_t layer, int32_t kv_head) {
  float share = retrieval.retrieve_share;
  for (const BudgetOverride& entry : retrieval.overrides) {
    const bool layer_fits = entry.layer == -1 || entry.layer == layer;
    const bool head_fits = entry.kv_head == -1 || entry.kv_head == kv_head;
    if (layer_fits && head_fits) share = entry.retrieve_share;
  }
  return share;
}

int64_t CeilShare(float share, int64_t count) {
  return std::min(count, static_cast<int64_t>(std::ceil(static_cast<double>(share) * static_cast<double>(count))));
}

int64_t RoundShare(double share, int64_t count) { return std::llround(share * static_cast<double>(count)); }

// Twin of PlanBudget in lib/engine/retrieve.cc.
void PlanBudget(const RetrievalOptions& retrieval, float share, const int64_t (&clusters)[kLevels], HeadPlan& head) {
  head.share_tokens =
      retrieval.retrieve_tokens > 0 ? retrieval.retrieve_tokens : CeilShare(share, head.clustered_tokens);
  if (retrieval.max_retrieve_tokens > 0) {
    head.share_tokens = std::min(head.share_tokens, retrieval.max_retrieve_tokens);
  }
  const double per_token =
      static_cast<double>(head.clusters) / static_cast<double>(std::max<int64_t>(1, head.clustered_tokens));
  const bool in_tokens = retrieval.retrieve_tokens > 0 || retrieval.max_retrieve_tokens > 0;
  head.share_clusters =
      in_tokens ? RoundShare(per_token, head.share_tokens) : RoundShare(static_cast<double>(share), head.clusters);
  head.open_tokens = CeilShare(retrieval.open_share, head.clustered_tokens);
  if (retrieval.max_open_tokens > 0) head.open_tokens = std::min(head.open_tokens, retrieval.max_open_tokens);
  for (int level = 0; level < kLevels; ++level) {
    const int64_t estimate = RoundShare(static_cast<double>(retrieval.estimate_share), clusters[level]);
    head.estimate[level] = estimate < clusters[level] ? estimate : kMaxHeadTiles * kClusterTile;  // all that there are
  }
}

// Most clustered tokens that a step can list: the cluster that crosses the budget may weigh twice what is left of it,
// and the first is taken whatever its size. A budget in clusters may take the largest.
int64_t MostListed(const RetrievalOptions& retrieval, const HeadPlan& head, int64_t largest_cluster) {
  if (retrieval.unit == BudgetUnit::kClusters) return head.clustered_tokens;
  const int64_t budget = std::max(head.share_tokens, retrieval.floor_tokens);
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
    int64_t largest_cluster = 0;
    int64_t clusters[kLevels] = {};
    for (const auto& segment : sequence.segments) {
      const SegmentHead& part = segment->heads()[kv_head];
      if (part.clusters[0] == 0) {
        plan_.runs.push_back(part.rows);
        head.fixed_tokens += part.rows.tokens;
        continue;
      }
      head.clustered_tokens += part.rows.tokens;
      for (int level = 0; level < kLevels; ++level) clusters[level] += part.clusters[level];
      largest_cluster = std::max(largest_cluster, part.largest_cluster);
    }
    head.clusters = clusters[0];
    for (int level = 0; level < kLevels; ++level) ListTiles(sequence, level, head);
    const float share = RetrieveShare(*options_.retrieval, options_.layer, kv_head);
    PlanBudget(*options_.retrieval, share, clusters, head);
    addresses_ += head.fixed_tokens + sequence.tail_tokens + MostListed(*options_.retrieval, head, largest_cluster);
    plan_.heads.push_back(head);
  }

  // Shares the CTAs that score among heads by their tiles. Where everything is read anyway nothing is scored.
  void AddScoreParts(int level) {
    const auto tiles_of = [&](const HeadPlan& head) {
      return head.share_tokens >= head.clustered_tokens ? 0 : int64_t{head.n_tiles[level]};
    };
    double all = 0;
    for (const HeadPlan& head : plan_.heads) all += static_cast<double>(tiles_of(head));
    constexpr int64_t kLeastTiles = 4;  // of a part: one a warp
    for (size_t h = 0; h < plan_.heads.size(); ++h) {
      HeadPlan& head = plan_.heads[h];
      if (tiles_of(head) == 0) continue;
      const auto share = static_cast<int64_t>(options_.wanted_score_parts * static_cast<double>(tiles_of(head)) / all);
      const auto count =
          static_cast<int32_t>(std::clamp<int64_t>(share, 1, (tiles_of(head) + kLeastTiles - 1) / kLeastTiles));
      head.first_score_part[level] = static_cast<int32_t>(plan_.score_parts[level].size());
      head.n_score_parts[level] = count;
      for (int32_t i = 0; i < count; ++i) {
        plan_.score_parts[level].push_back(
            {head.tiles[level], head.first_tile[level], head.n_tiles[level], static_cast<int32_t>(h), i, count});
      }
    }
  }

  // Shares the CTAs that attend among heads by the bytes that they read.
  void AddParts() {
    constexpr double kTileShare = 1.0 / 8;  // of a tile's record that the estimate reads, and of its scores
    const auto token_bytes = static_cast<double>(TokenBytes(options_.head_dim));
    const double tile_bytes = kTileShare * static_cast<double>(TileBytes(options_.head_dim));
    std::vector<double> work;
    double all = 0;
    for (const HeadPlan& head : plan_.heads) {
      const int64_t tokens = 1 + head.fixed_tokens + std::min(head.clustered_tokens, head.share_tokens);
      work.push_back(static_cast<double>(tokens) * token_bytes + head.n_tiles[0] * tile_bytes);
      all += work.back();
    }
    for (size_t h = 0; h < plan_.heads.size(); ++h) {
      const double useful = std::ceil(work[h] / (32 * token_bytes));  // two steps of a warp
      const double share = std::floor(options_.wanted_parts * work[h] / all);
      const auto count = static_cast<int32_t>(std::max(1.0, std::min(share, useful)));
      for (int32_t i = 0; i < count; ++i) plan_.parts.push_back({static_cast<int32_t>(h), i, count});
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
    plan_.size.heads = static_cast<int32_t>(plan_.heads.size());
    plan_.size.parts = static_cast<int32_t>(plan_.parts.size());
    for (int level = 0; level < kLevels; ++level) {
      plan_.size.score_parts[level] = static_cast<int32_t>(plan_.score_parts[level].size());
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
    }
    head.n_tiles[level] = static_cast<int32_t>(plan_.tiles.size() - first);
    places_[level] += head.n_tiles[level];
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
  for (int level = 0; level < kLevels; ++level) planner.AddScoreParts(level);
  planner.AddParts();
  return planner.Finish();
} catch (const std::bad_alloc&) {
  return Status(StatusCode::kResourceExhausted, "plan: out of host memory", StatusDetail::kNoMemory);
}

}  // namespace swell::cuda
