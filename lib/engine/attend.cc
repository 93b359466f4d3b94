#include "lib/engine/attend.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <memory>
#include <optional>
#include <utility>

#include "lib/base/convert.h"
#include "lib/engine/head_task.h"
#include "lib/engine/retrieve.h"
#include "lib/engine/validate.h"

namespace swell {
namespace {

// Head steps of a retrieving call are planned this many at a time, which bounds the memory for scores.
constexpr int64_t kStepsPerWave = 64;
// Exact tasks run together until their states take this much: 64 MiB.
constexpr int64_t kStateFloatsPerWave = int64_t{1} << 24;

// True error over the kernel's prediction, which takes the tokens of a cluster as independent: 2.4 to 3.9 on needles,
// lines and recall at 16K tokens of a real model (docs/measurements.md).
constexpr float kErrorCalibration = 2.7F;

// A valid item with what the call found of its sequence.
struct Job {
  const AttendItem* item = nullptr;
  Status* status = nullptr;
  std::shared_ptr<Sequence> sequence;
  Layer layer;
  std::vector<float> buffer;
  const float* queries = nullptr;
  std::atomic<bool> overflow{false};

  int64_t first_position() const { return layer.length - item->n_queries; }
};

Status Begin(const Context& context, int32_t layer, Job& job) {
  SWELL_RETURN_IF_ERROR(ValidateAttend(*job.item, context));
  job.sequence = context.sequences.Find(job.item->sequence);
  auto snapshot = job.sequence == nullptr ? std::nullopt : job.sequence->Snapshot(layer);
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

// --- exact: blocks of query positions over every visible row --------------------------------------------------------

struct ExactUnit {
  Job* job = nullptr;
  HeadTask task;
};

std::vector<ExactUnit> MakeExactUnits(const Context& context, std::span<const std::unique_ptr<Job>> jobs) {
  const HeadShape shape = context.head_shape();
  const int64_t block = std::max<int64_t>(1, kQueryRowsPerTask / shape.group);
  std::vector<ExactUnit> units;
  for (const auto& job : jobs) {
    if (job->item->mode != AttendMode::kExact) continue;
    for (int32_t head = 0; head < context.shape().kv_heads; ++head) {
      for (int64_t q = 0; q < job->item->n_queries; q += block) {
        const int64_t n = std::min(block, job->item->n_queries - q);
        const int64_t end = job->first_position() + q + n;
        ExactUnit& unit = units.emplace_back();
        unit.job = job.get();
        unit.task.head = head;
        unit.task.first_query = q;
        unit.task.n_queries = n;
        unit.task.first_position = job->first_position() + q;
        unit.task.queries = job->queries + (q * context.query_heads() + int64_t{head} * shape.group) * shape.head_dim;
        unit.task.query_stride = context.query_heads() * shape.head_dim;
        AddPieces(shape, AllRuns(job->layer, head, end), job->item->n_queries > 1, unit.task);
      }
    }
  }
  return units;
}

void ExactWave(Context& context, std::span<ExactUnit> units) {
  std::vector<HeadTask*> tasks;
  for (ExactUnit& unit : units) tasks.push_back(&unit.task);
  RunTasks(context, tasks);
  context.arena.ParallelFor(static_cast<int64_t>(units.size()), [&](int64_t i) {
    const HeadTask& task = units[i].task;
    Job& job = *units[i].job;
    WriteOutput(context, job, task.head, task.first_query, task.n_queries, task.State(0));
    for (int64_t q = 0; q < task.n_queries; ++q) {
      const int64_t visible = task.first_position + q + 1;
      WriteCertificates(context, job, task.head, task.first_query + q,
                        {visible, visible, visible * context.token_bytes(), 0.0F, 0.0F}, nullptr, nullptr);
    }
  });
}

void AttendExact(Context& context, std::span<const std::unique_ptr<Job>> jobs) {
  std::vector<ExactUnit> units = MakeExactUnits(context, jobs);
  const std::span<ExactUnit> all(units);
  for (size_t first = 0; first < all.size();) {
    size_t count = 0;
    for (int64_t floats = 0; first + count < all.size() && floats < kStateFloatsPerWave; ++count) {
      floats += units[first + count].task.StateFloats(context.head_shape());
    }
    ExactWave(context, all.subspan(first, count));
    for (ExactUnit& unit : all.subspan(first, count)) unit.task = {};
    first += count;
  }
}

// --- retrieve: every query position of every KV head on its own -----------------------------------------------------

struct RetrieveUnit {
  Job* job = nullptr;
  int64_t query = 0;
  int32_t head = 0;
};

int64_t MetaBytes(const HeadShape& shape, const HeadStep& step) {
  const int64_t scored = 2 * shape.head_dim + 2 * static_cast<int64_t>(sizeof(float));
  const int64_t estimated = shape.head_dim + 2 * static_cast<int64_t>(sizeof(float));
  return step.clusters_scored * scored + step.clusters_estimated * estimated;
}

void RetrieveWave(Context& context, int32_t layer, std::span<const RetrieveUnit> units) {
  const HeadShape shape = context.head_shape();
  std::vector<HeadStep> steps(units.size());
  for (size_t i = 0; i < units.size(); ++i) {
    const auto& [job, query, head] = units[i];
    const SequenceOptions& options = job->sequence->config->options;
    HeadStep& step = steps[i];
    step.layer = &job->layer;
    step.sequence = &options;
    step.retrieval = job->item->retrieval != nullptr ? job->item->retrieval : &options.retrieval;
    step.layer_index = layer;
    step.head = head;
    step.position = job->first_position() + query;
    step.queries = job->queries + (query * context.query_heads() + int64_t{head} * shape.group) * shape.head_dim;
  }
  std::vector<HeadStep*> planned(steps.size());
  for (size_t i = 0; i < steps.size(); ++i) planned[i] = &steps[i];
  PlanHeadSteps(context, planned);
  std::vector<HeadTask> tasks(units.size());
  std::vector<HeadTask*> pointers(units.size());
  for (size_t i = 0; i < units.size(); ++i) {
    HeadTask& task = tasks[i];
    task.head = units[i].head;
    task.first_query = units[i].query;
    task.first_position = steps[i].position;
    task.queries = steps[i].queries;
    task.query_stride = int64_t{shape.group} * shape.head_dim;
    AddPieces(shape, steps[i].exact, false, task);
    AddPieces(shape, steps[i].masked, true, task);
    AddEstimates(steps[i], task);
    pointers[i] = &task;
  }
  RunTasks(context, pointers);
  context.arena.ParallelFor(static_cast<int64_t>(units.size()), [&](int64_t i) {
    const auto& [job, query, head] = units[i];
    const HeadStep& step = steps[i];
    std::array<float, kMaxGroup> errors{};
    std::array<float, kMaxGroup> shares{};
    if (!step.segments.empty()) {
      attention::PredictError(shape, tasks[i].State(0), tasks[i].Errors(0), errors.data(), shares.data());
      for (float& error : errors) error *= kErrorCalibration;
    }
    WriteOutput(context, *job, head, query, 1, tasks[i].State(0));
    const int64_t bytes = step.tokens_read * context.token_bytes() + MetaBytes(shape, step);
    WriteCertificates(context, *job, head, query, {step.position + 1, step.tokens_read, bytes, 0.0F, 0.0F},
                      shares.data(), errors.data());
  });
}

void AttendRetrieve(Context& context, int32_t layer, std::span<const std::unique_ptr<Job>> jobs) {
  std::vector<RetrieveUnit> units;
  for (const auto& job : jobs) {
    if (job->item->mode != AttendMode::kRetrieve) continue;
    for (int64_t query = 0; query < job->item->n_queries; ++query) {
      for (int32_t head = 0; head < context.shape().kv_heads; ++head) units.push_back({job.get(), query, head});
    }
  }
  const std::span<const RetrieveUnit> all(units);
  for (size_t first = 0; first < all.size(); first += kStepsPerWave) {
    RetrieveWave(context, layer, all.subspan(first, std::min<size_t>(kStepsPerWave, all.size() - first)));
  }
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
  AttendExact(context, jobs);
  AttendRetrieve(context, layer, jobs);
  for (const auto& job : jobs) {
    context.counters.attend_calls.fetch_add(job->item->n_queries, std::memory_order_relaxed);
    if (!job->overflow.load()) continue;
    *job->status = Status(StatusCode::kOutOfRange, "output_dtype cannot hold the output", StatusDetail::kNonFinite);
  }
}

}  // namespace swell
