#include "lib/engine/retrieve.h"

#include <algorithm>
#include <cmath>

namespace swell {
namespace {

float RetrieveShare(const HeadStep& step) {
  float share = step.retrieval->retrieve_share;
  for (const BudgetOverride& entry : step.retrieval->overrides) {
    const bool layer_fits = entry.layer == -1 || entry.layer == step.layer_index;
    const bool head_fits = entry.kv_head == -1 || entry.kv_head == step.head;
    if (layer_fits && head_fits) share = entry.retrieve_share;
  }
  return share;
}

int64_t CeilShare(float share, int64_t count) {
  return std::min(count, static_cast<int64_t>(std::ceil(static_cast<double>(share) * static_cast<double>(count))));
}

// `steady_tokens` are read in any case, `clustered_tokens` lie in `clusters` clusters.
Budget PlanBudget(const HeadStep& step, int64_t steady_tokens, int64_t clustered_tokens, int64_t clusters) {
  const RetrievalOptions& options = *step.retrieval;
  const int64_t floor_tokens = std::max<int64_t>(0, options.floor_tokens - steady_tokens);
  const float share = RetrieveShare(step);
  int64_t tokens = options.retrieve_tokens > 0 ? options.retrieve_tokens : CeilShare(share, clustered_tokens);
  if (options.max_retrieve_tokens > 0) tokens = std::min(tokens, options.max_retrieve_tokens);
  Budget budget;
  budget.everything = std::max(tokens, floor_tokens) >= clustered_tokens;
  if (budget.everything) return budget;
  budget.estimate = std::llround(static_cast<double>(options.estimate_share) * static_cast<double>(clusters));
  if (options.unit == BudgetUnit::kTokens) {
    budget.retrieve = std::max(tokens, floor_tokens);
    return budget;
  }
  const double per_token = static_cast<double>(clusters) / static_cast<double>(std::max<int64_t>(1, clustered_tokens));
  const int64_t by_share = options.retrieve_tokens > 0 || options.max_retrieve_tokens > 0
                               ? std::llround(static_cast<double>(tokens) * per_token)
                               : std::llround(static_cast<double>(share) * static_cast<double>(clusters));
  const auto by_floor = static_cast<int64_t>(std::ceil(static_cast<double>(floor_tokens) * per_token));
  budget.retrieve = std::max({int64_t{1}, by_share, by_floor});
  return budget;
}

// Sorts the segments into those whose clusters are ranked and those read exactly; adds the steady zone.
void SortSegments(const HeadShape& shape, HeadStep& step) {
  const Layer& layer = *step.layer;
  const int64_t end = step.position + 1;
  int64_t first_cluster = 0;
  for (const auto& segment : *layer.segments) {
    if (segment->first_token >= end) break;
    const ClusterView view = segment->heads[step.head]->clusters();
    const KvRun rows = segment->Run(step.head);
    if (segment->end() > end) {
      step.masked.push_back(rows);
    } else if (view.clusters == 0 || segment->end() + step.sequence->window_tokens > end) {
      step.exact.push_back(rows);
    } else {
      step.estimated.push_back({view, rows, first_cluster});
      first_cluster += view.clusters;
    }
  }
  step.clusters = first_cluster;
  AppendUnsealedRuns(layer, step.head, 0, end, &step.exact);
  step.zones.resize(static_cast<size_t>(step.clusters));
  step.logits.resize(static_cast<size_t>(step.clusters * shape.group));
  step.sigmas.resize(static_cast<size_t>(step.clusters * shape.group));
  step.log_mass.resize(static_cast<size_t>(shape.group));
}

int64_t CountTokens(const std::vector<ClusteredSegment>& segments) {
  int64_t tokens = 0;
  for (const ClusteredSegment& segment : segments) tokens += segment.rows.tokens;
  return tokens;
}

void ReadEverything(HeadStep& step) {
  for (const ClusteredSegment& segment : step.estimated) step.exact.push_back(segment.rows);
  step.estimated.clear();
  step.clusters = 0;
  step.tokens_read = step.position + 1;
}

// Adds the rows of the retrieved clusters to step.exact, neighbours in one run.
void AppendRetrieved(const HeadShape& shape, HeadStep& step) {
  for (const ClusteredSegment& segment : step.estimated) {
    const attention::Zone* zones = step.zones.data() + segment.first_cluster;
    for (int64_t j = 0; j < segment.view.clusters;) {
      if (zones[j] != attention::Zone::kRetrieved) {
        step.clusters_estimated += zones[j] == attention::Zone::kEstimated ? 1 : 0;
        ++j;
        continue;
      }
      const int64_t row = segment.view.first_rows[j];
      while (j < segment.view.clusters && zones[j] == attention::Zone::kRetrieved) ++j;
      step.exact.push_back(SubRun(segment.rows, row, segment.view.first_rows[j] - row, shape));
    }
  }
}

void Select(const HeadShape& shape, HeadStep& step) {
  std::vector<uint32_t> sizes(static_cast<size_t>(step.clusters));
  for (const ClusteredSegment& segment : step.estimated) {
    for (int64_t j = 0; j < segment.view.clusters; ++j) {
      sizes[segment.first_cluster + j] = segment.view.first_rows[j + 1] - segment.view.first_rows[j];
    }
  }
  std::vector<float> importance(static_cast<size_t>(step.clusters));
  std::vector<uint32_t> scratch(static_cast<size_t>(step.clusters));
  attention::RankClusters(shape.group, step.clusters, step.Scores(0), sizes.data(), step.retrieval->ranking,
                          step.retrieval->kappa, importance.data(), step.log_mass.data());
  step.tokens_read +=
      attention::SelectClusters(step.clusters, importance.data(), sizes.data(), step.retrieval->unit,
                                step.budget.retrieve, step.budget.estimate, step.zones.data(), scratch.data());
  AppendRetrieved(shape, step);
}

}  // namespace

void PlanExact(const HeadShape& shape, HeadStep& step) {
  SortSegments(shape, step);
  ReadEverything(step);
}

void PlanHeadSteps(Context& context, std::span<HeadStep* const> steps) {
  const HeadShape shape = context.head_shape();
  std::vector<std::pair<HeadStep*, int64_t>> scoring;  // first segment of each task
  std::vector<HeadStep*> selecting;
  for (HeadStep* step : steps) {
    SortSegments(shape, *step);
    const int64_t clustered_tokens = CountTokens(step->estimated);
    step->tokens_read = step->position + 1 - clustered_tokens;  // the steady zone; what is retrieved comes on top
    step->budget = PlanBudget(*step, step->tokens_read, clustered_tokens, step->clusters);
    if (step->budget.everything) {
      ReadEverything(*step);
      continue;
    }
    selecting.push_back(step);
    for (size_t s = 0; s < step->estimated.size(); s += kSegmentsPerTask) scoring.emplace_back(step, s);
  }
  context.arena.ParallelFor(static_cast<int64_t>(scoring.size()), [&](int64_t i) {
    auto [step, first] = scoring[i];
    const int64_t last = std::min<int64_t>(first + kSegmentsPerTask, static_cast<int64_t>(step->estimated.size()));
    for (int64_t s = first; s < last; ++s) {
      const ClusteredSegment& segment = step->estimated[s];
      attention::ScoreClusters(shape, step->queries, segment.view, step->Scores(segment.first_cluster));
    }
  });
  context.arena.ParallelFor(static_cast<int64_t>(selecting.size()), [&](int64_t i) { Select(shape, *selecting[i]); });
}

}  // namespace swell
