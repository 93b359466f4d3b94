#include "lib/engine/search.h"

#include <algorithm>
#include <limits>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "lib/engine/attend.h"
#include "lib/engine/retrieve.h"
#include "lib/engine/validate.h"

namespace swell {
namespace {

constexpr int64_t kRowsPerScore = 1024;

struct Candidate {
  float logit = 0;
  int64_t token = 0;
};

// Best first: higher logit, then earlier token.
bool Better(const Candidate& a, const Candidate& b) {
  return a.logit != b.logit ? a.logit > b.logit : a.token < b.token;
}

// Keeps the `limit` best of what it is offered, as a heap with the worst on top.
void Offer(std::vector<Candidate>& heap, int64_t limit, const Candidate& candidate) {
  if (static_cast<int64_t>(heap.size()) == limit) {
    if (!Better(candidate, heap.front())) return;
    std::pop_heap(heap.begin(), heap.end(), Better);
    heap.pop_back();
  }
  heap.push_back(candidate);
  std::push_heap(heap.begin(), heap.end(), Better);
}

struct Job {
  const SearchItem* item = nullptr;
  std::shared_ptr<Sequence> sequence;
  Layer layer;
  LayerGraph graph;
  std::vector<float> buffer;
  const float* queries = nullptr;
};

// One KV head of one item; `heaps` are filled by the task and written out when all tasks have come through.
struct Unit {
  Job* job = nullptr;
  HeadStep step;
  std::vector<std::vector<Candidate>> heaps;  // [group]
};

Status Begin(const Context& context, int32_t layer, Job& job) {
  SWELL_RETURN_IF_ERROR(ValidateSearch(*job.item, context));
  job.sequence = context.sequences.Find(job.item->sequence);
  auto snapshot = job.sequence == nullptr ? std::nullopt : job.sequence->Snapshot(layer, &job.graph);
  if (!snapshot.has_value()) return StaleHandle();
  job.layer = *std::move(snapshot);
  auto queries = FloatQueries(context, job.item->queries, job.item->query_dtype, 1, job.buffer);
  if (!queries.ok()) return queries.status();
  job.queries = *queries;
  return OkStatus();
}

void FindBest(const HeadShape& shape, Unit& unit) {
  unit.heaps.resize(static_cast<size_t>(shape.group));
  std::vector<float> logits(static_cast<size_t>(shape.group) * kRowsPerScore);
  const auto offer = [&](const KvRun& run) {
    for (int64_t row = 0; row < run.tokens; row += kRowsPerScore) {
      const KvRun part = SubRun(run, row, std::min(kRowsPerScore, run.tokens - row), shape);
      attention::ScoreRows(shape, unit.step.queries, part, logits.data(), kRowsPerScore);
      for (int32_t g = 0; g < shape.group; ++g) {
        for (int64_t r = 0; r < part.tokens; ++r) {
          Offer(unit.heaps[g], unit.job->item->top_k, {logits[g * kRowsPerScore + r], TokenOfRow(part, r)});
        }
      }
    }
  };
  std::for_each(unit.step.steady.begin(), unit.step.steady.end(), offer);
  std::for_each(unit.step.retrieved.begin(), unit.step.retrieved.end(), offer);
  for (auto& heap : unit.heaps) std::sort_heap(heap.begin(), heap.end(), Better);
}

void WriteBest(const HeadShape& shape, const Unit& unit) {
  const SearchItem& item = *unit.job->item;
  for (int32_t g = 0; g < shape.group; ++g) {
    const int64_t row = (int64_t{unit.step.head} * shape.group + g) * item.top_k;
    const auto& heap = unit.heaps[g];
    for (int64_t k = 0; k < item.top_k; ++k) {
      const bool found = k < static_cast<int64_t>(heap.size());
      item.tokens[row + k] = found ? heap[k].token : -1;
      if (item.logits != nullptr) {
        item.logits[row + k] = found ? heap[k].logit : -std::numeric_limits<float>::infinity();
      }
    }
  }
}

std::vector<Unit> MakeUnits(const Context& context, int32_t layer, std::span<const std::unique_ptr<Job>> jobs) {
  const HeadShape shape = context.head_shape();
  std::vector<Unit> units;
  for (const auto& job : jobs) {
    for (int32_t head = 0; head < context.shape().kv_heads; ++head) {
      Unit& unit = units.emplace_back();
      unit.job = job.get();
      HeadStep& step = unit.step;
      step.layer = &job->layer;
      step.graph = &job->graph;
      step.sequence = &job->sequence->config->options;
      step.retrieval = job->item->retrieval != nullptr ? job->item->retrieval : &step.sequence->retrieval;
      step.layer_index = layer;
      step.head = head;
      step.position = job->layer.length - 1;
      step.queries = job->queries + int64_t{head} * shape.group * shape.head_dim;
    }
  }
  return units;
}

}  // namespace

void SearchSequences(Context& context, int32_t layer, std::span<const SearchItem> items, std::span<Status> statuses) {
  const HeadShape shape = context.head_shape();
  std::vector<std::unique_ptr<Job>> jobs;
  for (size_t i = 0; i < items.size(); ++i) {
    auto job = std::make_unique<Job>();
    job->item = &items[i];
    statuses[i] = Begin(context, layer, *job);
    if (statuses[i].ok()) jobs.push_back(std::move(job));
  }
  std::vector<Unit> units = MakeUnits(context, layer, jobs);
  context.arena.ParallelFor(static_cast<int64_t>(units.size()), [&](int64_t i) {
    Unit& unit = units[i];
    if (unit.job->item->mode == AttendMode::kExact) {
      PlanExact(unit.step);
    } else {
      PlanHeadStep(context, unit.step);
    }
    FindBest(shape, unit);
  });
  for (const Unit& unit : units) WriteBest(shape, unit);
}

}  // namespace swell
