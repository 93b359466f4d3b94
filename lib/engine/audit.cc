#include "lib/engine/audit.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <new>
#include <utility>

#include "lib/engine/context.h"
#include "lib/engine/head_task.h"
#include "swell/attention.h"

namespace swell {

AuditBook::AuditBook(const ModelShape& shape, int64_t interval)
    : kv_heads_(shape.kv_heads),
      group_(shape.group),
      interval_(interval),
      turns_(new Turns[static_cast<size_t>(shape.layers * kv_heads_)]),
      calibrations_(new Calibration[static_cast<size_t>(shape.layers * kv_heads_ * group_)]) {}

bool AuditBook::IsDue(int32_t layer, int32_t head) {
  if (interval_ == 0) return false;
  Turns& turns = TurnsOf(layer, head);
  const int64_t call = turns.calls.fetch_add(1, std::memory_order_relaxed) + 1;
  const bool turn = call < interval_ ? std::has_single_bit(static_cast<uint64_t>(call)) : call % interval_ == 0;
  if (!busy.load(std::memory_order_relaxed)) {
    const bool left = turns.postponed.exchange(false, std::memory_order_relaxed);
    return turn || left;
  }
  if (turn) Postpone(layer, head);
  return false;
}

void AuditBook::Enter(const Audit& audit, const std::vector<float>& actual) {
  const std::lock_guard lock(mutex_);
  for (size_t g = 0; g < actual.size(); ++g) {
    const float truth = std::max(actual[g], kLeastPredictedError);
    const float factor = std::max(audit.predicted[g], truth) / std::min(audit.predicted[g], truth);
    answers.fetch_add(1, std::memory_order_relaxed);
    within_2.fetch_add(factor <= 2 ? 1 : 0, std::memory_order_relaxed);
    within_3.fetch_add(factor <= 3 ? 1 : 0, std::memory_order_relaxed);
    factor_sum.fetch_add(factor, std::memory_order_relaxed);
    At(audit.layer_index, audit.head)[g].Learn(audit.raw[g], actual[g]);
  }
}

void RunAudit(Context& context, const Audit& audit) {
  const HeadShape shape = context.head_shape();
  HeadTask task;
  task.first_position = audit.position;
  task.queries = audit.queries.data();
  task.query_stride = int64_t{shape.group} * shape.head_dim;
  AddPieces(shape, AllRuns(audit.layer, audit.head, audit.position + 1), audit.position + 1 < audit.layer.length, task);
  RunTask(context, task);
  std::vector<float> exact(audit.output.size());
  attention::FinishState(shape.group, shape.head_dim, task.State(0), exact.data(), nullptr);
  std::vector<float> actual(static_cast<size_t>(shape.group));
  for (int64_t g = 0; g < shape.group; ++g) {
    double norm = 0;
    double difference = 0;
    for (int64_t i = g * shape.head_dim; i < (g + 1) * shape.head_dim; ++i) {
      norm += static_cast<double>(exact[i]) * exact[i];
      difference +=
          (static_cast<double>(exact[i]) - audit.output[i]) * (static_cast<double>(exact[i]) - audit.output[i]);
    }
    actual[g] = norm > 0 ? static_cast<float>(std::sqrt(difference / norm)) : 0;
  }
  context.audits.Enter(audit, actual);
}

void StartAudit(Context& context, std::unique_ptr<Audit> audit) {
  if (context.options.deterministic) return RunAudit(context, *audit);
  if (context.audits.busy.exchange(true)) return context.audits.Postpone(audit->layer_index, audit->head);
  // The queue copies what it holds.
  try {
    std::shared_ptr<Audit> shared = std::move(audit);
    context.arena.Enqueue([&context, shared = std::move(shared)]() mutable noexcept {
      try {
        if (!context.closing.load()) RunAudit(context, *shared);
      } catch (const std::bad_alloc&) {
        // The next one may get it.
      }
      shared.reset();
      context.audits.busy.store(false);
    });
  } catch (const std::bad_alloc&) {
    context.audits.busy.store(false);
  }
}

}  // namespace swell
