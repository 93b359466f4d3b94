// Audits: now and then an answer is computed again exactly, and what comes out calibrates the predicted error.
//
// Any thread.
#ifndef SWELL_LIB_ENGINE_AUDIT_H_
#define SWELL_LIB_ENGINE_AUDIT_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "lib/engine/calibration.h"
#include "lib/engine/layer.h"
#include "swell/engine.h"
#include "swell/types.h"

namespace swell {

struct Context;

// One answer to be checked: a KV head of a layer at one query position.
struct Audit {
  int32_t layer_index = 0;
  int32_t head = 0;
  Layer layer;                   // as the call found it
  int64_t position = 0;          // of the query
  std::vector<float> queries;    // [group, head_dim]
  std::vector<float> output;     // [group, head_dim], as answered
  std::vector<float> raw;        // [group]: RawError
  std::vector<float> predicted;  // [group]: what the certificate said
};

class AuditBook {
 public:
  // Throws std::bad_alloc. `interval` in calls of a head, 0: no audits.
  AuditBook(const ModelShape& shape, int64_t interval);

  // Relative error of the output of query head `g` of a KV head, from its raw error.
  float Predict(int32_t layer, int32_t head, int32_t g, float raw) const { return At(layer, head)[g].Predict(raw); }
  // Counts a call; true for those to be audited: calls 1, 2, 4, 8, ... and then every `interval`. While an audit is
  // busy none is: the head's next call takes the turn, so that heads whose turns fall together are audited one by one.
  bool IsDue(int32_t layer, int32_t head);
  // Leaves a turn that could not be taken to the head's next call.
  void Postpone(int32_t layer, int32_t head) { TurnsOf(layer, head).postponed.store(true, std::memory_order_relaxed); }
  // Enters the true relative errors [group] of an audit.
  void Enter(const Audit& audit, const std::vector<float>& actual);

  // Audited answers (query heads), and those whose error was within a factor of 2 and 3 of the predicted one.
  std::atomic<int64_t> answers{0};
  std::atomic<int64_t> within_2{0};
  std::atomic<int64_t> within_3{0};
  std::atomic<double> factor_sum{0};  // over them, of the greater of the two over the lesser
  // One audit waits or runs in the background at a time.
  std::atomic<bool> busy{false};

 private:
  // Calls of a head so far, and whether one of them left its turn to the next.
  struct Turns {
    std::atomic<int64_t> calls{0};
    std::atomic<bool> postponed{false};
  };

  Turns& TurnsOf(int32_t layer, int32_t head) const { return turns_[layer * kv_heads_ + head]; }
  // [group]
  Calibration* At(int32_t layer, int32_t head) const { return &calibrations_[(layer * kv_heads_ + head) * group_]; }

  const int64_t kv_heads_, group_;
  const int64_t interval_;
  const std::unique_ptr<Turns[]> turns_;               // [layers, kv_heads]
  std::mutex mutex_;                                   // audits are entered one by one
  const std::unique_ptr<Calibration[]> calibrations_;  // [layers, kv_heads, group]
};

// Computes the answer exactly and enters the result. Throws std::bad_alloc.
void RunAudit(Context& context, const Audit& audit);

// Runs the audit on a background thread, or at once in a deterministic engine. One that finds another at work
// is postponed, one that gets no memory is dropped.
void StartAudit(Context& context, std::unique_ptr<Audit> audit);

}  // namespace swell

#endif  // SWELL_LIB_ENGINE_AUDIT_H_
