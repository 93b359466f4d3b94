#include "lib/engine/retrieve.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>

#include "lib/engine/find_tokens.h"

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

// Super-clusters are opened until their tokens are this many times those that will be read: fewer, and the ranking of
// super-clusters decides instead of that of clusters (docs/measurements.md).
constexpr int64_t kOpenedPerRead = 4;

// `steady_tokens` are read in any case, `clustered_tokens` lie in `clusters` clusters.
Budget PlanBudget(const HeadStep& step, int64_t steady_tokens, int64_t clustered_tokens, int64_t clusters) {
  const RetrievalOptions& options = *step.retrieval;
  const int64_t floor_tokens = std::max<int64_t>(0, options.floor_tokens - steady_tokens);
  const float share = RetrieveShare(step);
  const int64_t wanted = options.retrieve_tokens > 0 ? options.retrieve_tokens : CeilShare(share, clustered_tokens);
  int64_t tokens = options.max_retrieve_tokens > 0 ? std::min(wanted, options.max_retrieve_tokens) : wanted;
  // No more tokens can hold more than that share each.
  if (step.finds_tokens && options.retrieve_above > 0) {
    tokens = std::min(tokens, static_cast<int64_t>(1.0F / options.retrieve_above));
  }
  Budget budget;
  budget.tokens = std::max(tokens, floor_tokens);
  budget.everything = budget.tokens >= clustered_tokens;
  if (budget.everything) return budget;
  budget.estimate = std::llround(static_cast<double>(options.estimate_share) * static_cast<double>(clusters));
  budget.open_tokens = CeilShare(options.open_share, clustered_tokens);
  if (options.max_open_tokens > 0) budget.open_tokens = std::min(budget.open_tokens, options.max_open_tokens);
  budget.open_tokens = std::max(budget.open_tokens, std::min(clustered_tokens, kOpenedPerRead * budget.tokens));
  if (options.unit == BudgetUnit::kTokens) {
    budget.retrieve = budget.tokens;
    return budget;
  }
  const double per_token = static_cast<double>(clusters) / static_cast<double>(std::max<int64_t>(1, clustered_tokens));
  const int64_t by_share = options.retrieve_tokens > 0 || tokens < wanted
                               ? std::llround(static_cast<double>(tokens) * per_token)
                               : std::llround(static_cast<double>(share) * static_cast<double>(clusters));
  const auto by_floor = static_cast<int64_t>(std::ceil(static_cast<double>(floor_tokens) * per_token));
  budget.retrieve = std::max({int64_t{1}, by_share, by_floor});
  return budget;
}

// Sorts the segments into those whose clusters are ranked and those read exactly; adds the steady zone.
void SortSegments(HeadStep& step) {
  const Layer& layer = *step.layer;
  const int64_t end = step.position + 1;
  const std::optional<int64_t> known = TokensKnown(step);
  step.finds_tokens = known.has_value();
  for (const auto& segment : *layer.segments) {
    if (segment->first_token >= end) break;
    const SegmentIndex& index = *segment->heads[step.head];
    const KvRun rows = segment->Run(step.head);
    if (segment->end() > end) {
      step.masked.push_back(rows);
    } else if (index.clusters().clusters == 0 || segment->end() + step.sequence->window_tokens > end) {
      step.steady.push_back(rows);
    } else if (known.has_value() && segment->end() > step.sequence->sink_tokens + *known) {
      step.steady.push_back(rows);
    } else {
      const auto& found = segment->rows_of_tokens;
      step.segments.push_back({&index, rows, found.empty() ? nullptr : found[step.head].data()});
    }
  }
  AppendUnsealedRuns(layer, step.head, 0, end, &step.steady);
}

void ReadEverything(HeadStep& step) {
  for (const ClusteredSegment& segment : step.segments) step.steady.push_back(segment.rows);
  step.segments.clear();
  step.tokens_read = step.position + 1;
}

void AddWholeViews(const HeadStep& step, bool upper, RankedLevel& level) {
  for (size_t s = 0; s < step.segments.size(); ++s) {
    const SegmentIndex& index = *step.segments[s].index;
    const ClusterView& view = upper ? index.super_clusters() : index.clusters();
    level.Add({&view, 0, view.clusters}, static_cast<int32_t>(s));
  }
}

// Finds the budget and the level to begin with. False when there is nothing to select.
bool BeginStep(const HeadShape& shape, HeadStep& step) {
  SortSegments(step);
  int64_t clustered_tokens = 0;
  int64_t clusters = 0;
  for (const ClusteredSegment& segment : step.segments) {
    clustered_tokens += segment.rows.tokens;
    clusters += segment.index->clusters().clusters;
  }
  step.tokens_read = step.position + 1 - clustered_tokens;  // the steady zone; what is retrieved comes on top
  step.budget = PlanBudget(step, step.tokens_read, clustered_tokens, clusters);
  if (step.budget.everything) {
    ReadEverything(step);
    return false;
  }
  const bool upper = !step.finds_tokens && step.budget.open_tokens < clustered_tokens;
  RankedLevel& level = upper ? step.supers : step.clusters;
  AddWholeViews(step, upper, level);
  level.Allocate(shape.group);
  return true;
}

// Attends to the steady zone.
void AttendSteady(Context& context, HeadStep& step) {
  const HeadShape shape = context.head_shape();
  HeadTask& task = step.steady_task;
  task.first_position = step.position;
  task.queries = step.queries;
  task.query_stride = int64_t{shape.group} * shape.head_dim;
  AddPieces(shape, step.steady, false, task);
  AddPieces(shape, step.masked, true, task);
  RunTask(context, task);
  step.log_steady.resize(static_cast<size_t>(shape.group));
  attention::LogMassOfState(shape.group, task.State(0), step.log_steady.data());
}

// Ranks a level and chooses its retrieval and estimation zones; clusters of an importance below `least` are not
// retrieved.
attention::Retrieved SelectLevel(const HeadShape& shape, const HeadStep& step, BudgetUnit unit, int64_t retrieve,
                                 float least, int64_t estimate, RankedLevel& level) {
  const RetrievalOptions& options = *step.retrieval;
  const auto entries = static_cast<size_t>(level.entries);
  const auto importance = std::make_unique_for_overwrite<float[]>(entries);
  const auto sizes = std::make_unique_for_overwrite<uint32_t[]>(entries);
  const auto scratch = std::make_unique_for_overwrite<uint32_t[]>(entries);
  attention::RankClusters(shape.group, level.runs, level.Scores({}), options.ranking, options.kappa,
                          step.log_steady.data(), importance.get(), sizes.get(), level.log_mass.data());
  return attention::SelectClusters(level.entries, importance.get(), sizes.get(), unit, retrieve, least, estimate,
                                   level.zones.get(), scratch.get());
}

// Clusters of a level that are estimated when all can be.
int64_t EstimateShare(const HeadStep& step, const RankedLevel& level) {
  return std::llround(static_cast<double>(step.retrieval->estimate_share) * static_cast<double>(level.clusters));
}

void CountClusters(const RankedLevel& level, const attention::Retrieved& retrieved, int64_t estimate, HeadStep& step) {
  step.clusters_scored += level.clusters;
  step.clusters_estimated += std::min(std::max<int64_t>(estimate, 0), level.clusters - retrieved.clusters);
}

// Chooses the super-clusters whose clusters will be scored.
void OpenSuperClusters(const HeadShape& shape, HeadStep& step) {
  const int64_t estimate = EstimateShare(step, step.supers);
  const attention::Retrieved opened = SelectLevel(shape, step, BudgetUnit::kTokens, step.budget.open_tokens,
                                                  attention::kLeastImportance, estimate, step.supers);
  CountClusters(step.supers, opened, estimate, step);
  ForEachRetrieved(step.supers.runs, step.supers.zones.get(), [&](size_t run, int64_t first, int64_t last) {
    const int32_t segment = step.supers.segments[run];
    const ClusterView& view = step.segments[segment].index->clusters();
    const int64_t begin = first * kClusterTile;
    step.clusters.Add({&view, begin, std::min(last * kClusterTile, view.clusters) - begin}, segment);
  });
  step.clusters.Allocate(shape.group);
}

// Chooses the clusters that are read and adds their rows to step.retrieved, neighbours in one run.
void SelectClusters(const HeadShape& shape, HeadStep& step) {
  const float least = std::log(step.retrieval->retrieve_above);  // of 0: kLeastImportance
  const attention::Retrieved retrieved =
      SelectLevel(shape, step, step.retrieval->unit, step.budget.retrieve, least, step.budget.estimate, step.clusters);
  CountClusters(step.clusters, retrieved, step.budget.estimate, step);
  step.tokens_read += retrieved.tokens;
  ForEachRetrieved(step.clusters.runs, step.clusters.zones.get(), [&](size_t r, int64_t first, int64_t last) {
    const ClusterRun& run = step.clusters.runs[r];
    const uint32_t* rows = run.view->first_rows + run.first;
    const KvRun& segment = step.segments[step.clusters.segments[r]].rows;
    step.retrieved.push_back(SubRun(segment, rows[first], int64_t{rows[last]} - rows[first], shape));
  });
  // The estimate is told how much mass there is in all: what the closed super-clusters hold counts as well.
  for (size_t g = 0; g < step.supers.log_mass.size(); ++g) {
    const float most = std::max(step.supers.log_mass[g], step.clusters.log_mass[g]);
    step.supers.log_mass[g] = step.clusters.log_mass[g] = most;
  }
}

void ScoreLevel(Context& context, const HeadStep& step, const RankedLevel& level) {
  const HeadShape shape = context.head_shape();
  const std::vector<RankedLevel::Piece> pieces = level.Pieces();
  context.arena.ParallelFor(static_cast<int64_t>(pieces.size()), [&](int64_t i) {
    attention::ScoreClusters(shape, step.queries, pieces[i].runs, level.Scores(pieces[i]));
  });
}

// Adds what the clusters of `segment` lose and keep when `rows`, sorted and found in it, are read. `first_entry` and
// `widths` are those of its run.
void TakeOut(const HeadShape& shape, const ClusteredSegment& segment, std::span<const int64_t> rows,
             int64_t first_entry, const float* widths, HeadStep& step) {
  const ClusterView& view = segment.index->clusters();
  std::array<float, kMaxGroup> logits;
  for (size_t first = 0; first < rows.size();) {
    const uint32_t* end = std::upper_bound(view.first_rows, view.first_rows + view.clusters, rows[first]);
    const int64_t cluster = end - view.first_rows - 1;
    size_t last = first;
    while (last < rows.size() && rows[last] < int64_t{view.first_rows[cluster + 1]}) ++last;
    attention::Zone& zone = step.clusters.zones[first_entry + cluster];
    if (zone == attention::Zone::kEstimated) {
      for (int32_t g = 0; g < shape.group; ++g) {
        logits[g] = step.clusters.logits[g * step.clusters.entries + first_entry + cluster];
      }
      step.residuals.Add(shape, step.queries, view, cluster, segment.rows, rows.subspan(first, last - first),
                         logits.data(), widths);
    }
    zone = attention::Zone::kRetrieved;
    first = last;
  }
}

// Chooses the tokens that are read, adds their rows to step.retrieved, neighbours in one run, and takes them out of
// their clusters.
void SelectTokens(Context& context, HeadStep& step) {
  const HeadShape shape = context.head_shape();
  const bool estimates = step.budget.estimate > 0;
  if (estimates || BeginsAtClusters(step)) {
    ScoreLevel(context, step, step.clusters);
    CountClusters(step.clusters, {}, step.budget.estimate, step);
  }
  const std::vector<int64_t> tokens = FindTokens(shape, step);
  step.tokens_read += static_cast<int64_t>(tokens.size());
  if (estimates) {
    SelectLevel(shape, step, BudgetUnit::kTokens, 0, attention::kLeastImportance, step.budget.estimate, step.clusters);
  }
  int64_t first_entry = 0;
  auto next = tokens.begin();
  std::vector<int64_t> rows;
  for (size_t s = 0; s < step.segments.size(); ++s) {
    const ClusteredSegment& segment = step.segments[s];
    rows.clear();
    for (; next != tokens.end() && *next < segment.rows.first_token + segment.rows.tokens; ++next) {
      rows.push_back(segment.rows_of_tokens[*next - segment.rows.first_token]);
    }
    std::sort(rows.begin(), rows.end());
    for (size_t first = 0, last = 0; first < rows.size(); first = last) {
      while (last < rows.size() && rows[last] - rows[first] == static_cast<int64_t>(last - first)) ++last;
      step.retrieved.push_back(SubRun(segment.rows, rows[first], static_cast<int64_t>(last - first), shape));
    }
    if (estimates) TakeOut(shape, segment, rows, first_entry, &step.clusters.widths[s * shape.group], step);
    first_entry += attention::TileEntries(segment.index->clusters().clusters);
  }
  if (!estimates) step.segments.clear();
}

}  // namespace

void PlanExact(HeadStep& step) {
  SortSegments(step);
  ReadEverything(step);
}

void PlanHeadStep(Context& context, HeadStep& step) {
  const HeadShape shape = context.head_shape();
  if (!BeginStep(shape, step)) return;
  AttendSteady(context, step);
  if (step.supers.clusters > 0) {
    ScoreLevel(context, step, step.supers);
    OpenSuperClusters(shape, step);
  }
  if (step.finds_tokens) {
    SelectTokens(context, step);
    return;
  }
  ScoreLevel(context, step, step.clusters);
  SelectClusters(shape, step);
}

}  // namespace swell
