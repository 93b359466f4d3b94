#include "lib/engine/attend.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <memory>
#include <new>
#include <optional>
#include <utility>

#include "lib/base/convert.h"
#include "lib/engine/audit.h"
#include "lib/engine/head_task.h"
#include "lib/engine/key_graph.h"
#include "lib/engine/retrieve.h"
#include "lib/engine/validate.h"

namespace swell {
namespace {

// A valid item with what the call found of its sequence.
struct Job {
  const AttendItem* item = nullptr;
  Status* status = nullptr;
  std::shared_ptr<Sequence> sequence;
  Layer layer;
  LayerGraph graph;
  std::vector<float> buffer;
  const float* queries = nullptr;
  std::atomic<bool> overflow{false};

  int64_t first_position() const { return layer.length - item->n_queries; }
  // A decoding step that an index over all keys would serve.
  bool UsesGraph() const {
    return item->n_queries == 1 && item->mode == AttendMode::kRetrieve &&
           HasKeyIndex(sequence->config->options.index.kind);
  }
};

Status Begin(Context& context, int32_t layer, Job& job) {
  SWELL_RETURN_IF_ERROR(ValidateAttend(*job.item, context));
  job.sequence = context.sequences.Find(job.item->sequence);
  if (context.options.deterministic && job.sequence != nullptr && job.UsesGraph()) {
    DrawGraphNow(context, *job.sequence, layer);
  }
  auto snapshot = job.sequence == nullptr ? std::nullopt : job.sequence->Snapshot(layer, &job.graph);
  if (!snapshot.has_value()) return StaleHandle();
  job.layer = *std::move(snapshot);
  if (job.item->n_queries > job.layer.length) {
    return InvalidArgument("n_queries is " + std::to_string(job.item->n_queries) + " but layer " +
                               std::to_string(layer) + " holds " + std::to_string(job.layer.length) + " tokens",
                           StatusDetail::kBadSize);
  }
  auto queries = FloatQueries(context, job.item->queries, job.item->query_dtype, job.item->n_queries, job.buffer);
  if (!queries.ok()) return queries.status();
  job.queries = *queries;
  return OkStatus();
}

// Writes the answers of `n_queries` positions of one KV head from its merged state.
void WriteOutput(const Context& context, Job& job, int32_t head, int64_t first_query, int64_t n_queries,
                 const attention::PartialState& state) {
  const HeadShape shape = context.head_shape();
  const int64_t heads = context.query_heads();
  std::array<float, static_cast<size_t>(kMaxGroup) * kMaxHeadDim> buffer;
  std::array<float, kMaxGroup> lse;
  for (int64_t q = 0; q < n_queries; ++q) {
    const int64_t row = (first_query + q) * heads + int64_t{head} * shape.group;
    const attention::PartialState part{state.max + q * shape.group, state.sum + q * shape.group,
                                       state.out + q * shape.group * shape.head_dim};
    attention::FinishState(shape.group, shape.head_dim, part, buffer.data(), lse.data());
    auto* to = static_cast<std::byte*>(job.item->output) +
               row * shape.head_dim * static_cast<int64_t>(DTypeSize(job.item->output_dtype));
    if (!ConvertFromFloat(buffer.data(), int64_t{shape.group} * shape.head_dim, job.item->output_dtype, to)) {
      job.overflow.store(true);
    }
    if (job.item->lse != nullptr) std::copy_n(lse.data(), shape.group, job.item->lse + row);
  }
}

void WriteCertificates(Context& context, const Job& job, int32_t head, int64_t query, const Certificate& common,
                       const float* shares, const float* errors) {
  const HeadShape shape = context.head_shape();
  context.counters.tokens_visible.fetch_add(common.tokens_visible, std::memory_order_relaxed);
  context.counters.tokens_read.fetch_add(common.tokens_read, std::memory_order_relaxed);
  context.counters.bytes_read.fetch_add(common.bytes_read, std::memory_order_relaxed);
  context.counters.head_steps.fetch_add(1, std::memory_order_relaxed);
  if (job.item->certificates == nullptr) return;
  for (int32_t g = 0; g < shape.group; ++g) {
    Certificate& to = job.item->certificates[query * context.query_heads() + int64_t{head} * shape.group + g];
    to = common;
    to.estimated_share = shares == nullptr ? 0.0F : shares[g];
    to.predicted_error = errors == nullptr ? 0.0F : errors[g];
  }
}

// A block of query positions of one KV head of one item. Units run in parallel, and so do the pieces of each.
struct Unit {
  Job* job = nullptr;
  int32_t head = 0;
  int64_t first_query = 0;
  int64_t n_queries = 1;
};

// The task of `unit`, without pieces.
HeadTask MakeTask(const Context& context, const Unit& unit) {
  const HeadShape shape = context.head_shape();
  HeadTask task;
  task.n_queries = unit.n_queries;
  task.first_position = unit.job->first_position() + unit.first_query;
  task.queries = unit.job->queries +
                 (unit.first_query * context.query_heads() + int64_t{unit.head} * shape.group) * shape.head_dim;
  task.query_stride = context.query_heads() * shape.head_dim;
  return task;
}

// --- exact: every visible row ---------------------------------------------------------------------------------------

void RunExact(Context& context, const Unit& unit) {
  HeadTask task = MakeTask(context, unit);
  const int64_t end = task.first_position + task.n_queries;
  AddPieces(context.head_shape(), AllRuns(unit.job->layer, unit.head, end), unit.job->item->n_queries > 1, task);
  RunTask(context, task);
  WriteOutput(context, *unit.job, unit.head, unit.first_query, unit.n_queries, task.State(0));
  for (int64_t q = 0; q < unit.n_queries; ++q) {
    const int64_t visible = task.first_position + q + 1;
    WriteCertificates(context, *unit.job, unit.head, unit.first_query + q,
                      {visible, visible, visible * context.token_bytes(), 0.0F, 0.0F}, nullptr, nullptr);
  }
}

// --- retrieve: what the index says
// ------------------------------------------------------------------------------------

// Centroids, scales, spreads and sizes of what was scored; scales, energies and the tiles' mean values of what was
// estimated; keys that the search for tokens compared. Mean values of single clusters are few and not counted.
int64_t MetaBytes(const HeadShape& shape, const HeadStep& step) {
  const int64_t scored = shape.head_dim + 3 * static_cast<int64_t>(sizeof(float));
  const int64_t estimated = shape.head_dim / kClusterTile + 2 * static_cast<int64_t>(sizeof(float));
  const int64_t key = shape.head_dim * static_cast<int64_t>(DTypeSize(shape.storage));
  return step.clusters_scored * scored + step.clusters_estimated * estimated + step.keys_compared * key;
}

// Has the answer checked when it is its turn and there is memory for it. [group]: the raw error and what was
// made of it. What is dropped is not in the prediction: where there is some, nothing can be learned.
void AuditAnswer(Context& context, int32_t layer, const Unit& unit, const RetrievalOptions& retrieval,
                 const HeadTask& task, const std::array<float, kMaxGroup>& raw,
                 const std::array<float, kMaxGroup>& predicted) try {
  if (retrieval.estimate_share < 1 || !context.audits.IsDue(layer, unit.head)) return;
  const HeadShape shape = context.head_shape();
  const int64_t floats = int64_t{shape.group} * shape.head_dim;
  auto audit = std::make_unique<Audit>();
  audit->layer_index = layer;
  audit->head = unit.head;
  audit->layer = unit.job->layer;
  audit->position = task.first_position;
  audit->queries.assign(task.queries, task.queries + floats);
  audit->output.resize(static_cast<size_t>(floats));
  attention::FinishState(shape.group, shape.head_dim, task.State(0), audit->output.data(), nullptr);
  audit->raw.assign(raw.begin(), raw.begin() + shape.group);
  audit->predicted.assign(predicted.begin(), predicted.begin() + shape.group);
  StartAudit(context, std::move(audit));
} catch (const std::bad_alloc&) {
  // The answer is there all the same.
}

void RunRetrieve(Context& context, int32_t layer, const Unit& unit) {
  const HeadShape shape = context.head_shape();
  Job& job = *unit.job;
  const SequenceOptions& options = job.sequence->config->options;
  HeadTask task = MakeTask(context, unit);
  HeadStep step;
  step.layer = &job.layer;
  step.graph = &job.graph;
  step.sequence = &options;
  step.retrieval = job.item->retrieval != nullptr ? job.item->retrieval : &options.retrieval;
  step.layer_index = layer;
  step.head = unit.head;
  step.position = task.first_position;
  step.queries = task.queries;
  PlanHeadStep(context, step);
  AddStep(shape, step, task);
  RunTask(context, task);
  std::array<float, kMaxGroup> errors{};
  std::array<float, kMaxGroup> shares{};
  if (!step.segments.empty()) {
    std::array<float, kMaxGroup> raw{};
    attention::PredictError(shape, task.State(0), task.Errors(0), raw.data(), shares.data());
    for (int32_t g = 0; g < shape.group; ++g) {
      raw[g] = RawError(raw[g], shares[g]);
      errors[g] = context.audits.Predict(layer, unit.head, g, raw[g]);
    }
    AuditAnswer(context, layer, unit, *step.retrieval, task, raw, errors);
  }
  WriteOutput(context, job, unit.head, unit.first_query, 1, task.State(0));
  const int64_t bytes = step.tokens_read * context.token_bytes() + MetaBytes(shape, step);
  WriteCertificates(context, job, unit.head, unit.first_query, {step.position + 1, step.tokens_read, bytes, 0.0F, 0.0F},
                    shares.data(), errors.data());
}

std::vector<Unit> MakeUnits(const Context& context, std::span<const std::unique_ptr<Job>> jobs) {
  std::vector<Unit> units;
  for (const auto& job : jobs) {
    const bool exact = job->item->mode == AttendMode::kExact;
    const int64_t block = exact ? std::max<int64_t>(1, kQueryRowsPerTask / context.shape().group) : 1;
    for (int64_t query = 0; query < job->item->n_queries; query += block) {
      const int64_t n_queries = std::min(block, job->item->n_queries - query);
      for (int32_t head = 0; head < context.shape().kv_heads; ++head) {
        units.push_back({job.get(), head, query, n_queries});
      }
    }
  }
  return units;
}

}  // namespace

Result<const float*> FloatQueries(const Context& context, const void* queries, DType dtype, int64_t n_queries,
                                  std::vector<float>& buffer) {
  const int64_t count = n_queries * context.query_heads() * context.shape().head_dim;
  if (!AllFinite(dtype, queries, count)) {
    return InvalidArgument("queries hold NaN or Inf", StatusDetail::kNonFinite);
  }
  if (dtype == DType::kFloat32) return static_cast<const float*>(queries);
  buffer.resize(static_cast<size_t>(count));
  ConvertToFloat(dtype, queries, count, buffer.data());
  return static_cast<const float*>(buffer.data());
}

void AttendSequences(Context& context, int32_t layer, std::span<const AttendItem> items, std::span<Status> statuses) {
  std::vector<std::unique_ptr<Job>> jobs;
  for (size_t i = 0; i < items.size(); ++i) {
    auto job = std::make_unique<Job>();
    job->item = &items[i];
    job->status = &statuses[i];
    statuses[i] = Begin(context, layer, *job);
    if (statuses[i].ok()) jobs.push_back(std::move(job));
  }
  const std::vector<Unit> units = MakeUnits(context, jobs);
  context.arena.ParallelFor(static_cast<int64_t>(units.size()), [&](int64_t i) {
    if (units[i].job->item->mode == AttendMode::kExact) {
      RunExact(context, units[i]);
    } else {
      RunRetrieve(context, layer, units[i]);
    }
  });
  for (const auto& job : jobs) {
    if (job->item->n_queries > 1 && job->graph.queries != nullptr) {
      job->graph.queries->Add(job->first_position(), job->item->n_queries, job->queries);
    }
    if (!context.options.deterministic && job->UsesGraph()) DrawGraphLater(context, job->sequence, layer);
    context.counters.attend_calls.fetch_add(job->item->n_queries, std::memory_order_relaxed);
    if (!job->overflow.load()) continue;
    *job->status = Status(StatusCode::kOutOfRange, "output_dtype cannot hold the output", StatusDetail::kNonFinite);
  }
}

}  // namespace swell
