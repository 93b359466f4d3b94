// An engine that watches another one: how long attention takes, what it reads, and, when asked, how far each answer is
// from the exact one, which it then computes as well.
//
// The wrapped engine must outlive it. Attend may be called from one thread at a time; the rest as Engine.
#ifndef SWELL_TOOLS_SWELL_PROBE_H_
#define SWELL_TOOLS_SWELL_PROBE_H_

#include <cstdint>
#include <functional>
#include <span>
#include <utility>
#include <vector>

#include "swell/engine.h"

namespace swell::cli {

// How closely attention is watched: its time; what it reads; what it reads and how far it is off.
enum class Watch { kTime, kReads, kErrors };

// Sums over the (query position, query head) pairs of one KV head of one layer. What a KV head reads serves its whole
// group, so that sums of tokens and bytes count it once per query head of the group.
struct HeadReading {
  int64_t queries = 0;
  int64_t tokens_visible = 0;
  int64_t tokens_read = 0;
  int64_t bytes_read = 0;
  double estimated_share = 0;
  int64_t audited = 0;         // queries that were answered exactly as well
  double error = 0;            // sum of |o - exact| / |exact|
  double predicted_error = 0;  // sum over the audited queries

  HeadReading& operator+=(const HeadReading& other);
};

// Actual and predicted relative error of one audited query.
struct ErrorPair {
  float actual = 0;
  float predicted = 0;
};

class AttendProbe final : public Engine {
 public:
  explicit AttendProbe(Engine& engine);

  // Everything is counted anew from here. kErrors repeats every float32 Attend in kRetrieve mode in kExact mode.
  void Start(Watch watch);
  // Given to every Attend that brings no options of its own; null: the sequence's. Must outlive its use.
  void SetRetrieval(const RetrievalOptions* retrieval) { retrieval_ = retrieval; }

  // Called with every Attend that succeeded, before the program sees its answer; empty: none.
  using Listener = std::function<void(int32_t layer, const AttendItem& item)>;
  void SetListener(Listener listener) { listener_ = std::move(listener); }

  // From now on a fork of `from` is a fork of `to`, which must hold the same tokens: so a session goes on under another
  // index. SequenceId::kNone ends it.
  void Redirect(SequenceId from, SequenceId to) {
    from_ = from;
    to_ = to;
  }

  double attend_seconds() const { return attend_seconds_; }  // without the repetitions
  // [layers, kv_heads]; zeros with kTime.
  const std::vector<HeadReading>& readings() const { return readings_; }
  // Every kPairStride-th audited query.
  const std::vector<ErrorPair>& pairs() const { return pairs_; }
  static constexpr int64_t kPairStride = 97;

  const ModelShape& shape() const override { return engine_.shape(); }
  Result<SequenceId> CreateSequence(const SequenceOptions& options) override { return engine_.CreateSequence(options); }
  Result<SequenceId> Fork(SequenceId sequence) override {
    return engine_.Fork(from_ != SequenceId::kNone && sequence == from_ ? to_ : sequence);
  }
  Status Truncate(SequenceId sequence, int64_t tokens) override { return engine_.Truncate(sequence, tokens); }
  Status Release(SequenceId sequence) override { return engine_.Release(sequence); }
  Result<int64_t> Length(SequenceId sequence, int32_t layer) const override { return engine_.Length(sequence, layer); }
  Status Put(int32_t layer, std::span<const PutItem> items, std::span<Status> statuses) override {
    return engine_.Put(layer, items, statuses);
  }
  Status Attend(int32_t layer, std::span<const AttendItem> items, std::span<Status> statuses) override;
  Status Search(int32_t layer, std::span<const SearchItem> items, std::span<Status> statuses) override {
    return engine_.Search(layer, items, statuses);
  }
  Status Fetch(int32_t layer, std::span<const FetchItem> items, std::span<Status> statuses) override {
    return engine_.Fetch(layer, items, statuses);
  }
  Status WaitSealed(SequenceId sequence) override { return engine_.WaitSealed(sequence); }
  Result<LayerInfo> Inspect(SequenceId sequence, int32_t layer) const override {
    return engine_.Inspect(sequence, layer);
  }
  EngineStats Stats() const override { return engine_.Stats(); }

 private:
  Status AttendOne(int32_t layer, AttendItem item);
  void Compare(int32_t layer, const AttendItem& item, const std::vector<float>& exact);

  Engine& engine_;
  Watch watch_ = Watch::kTime;
  const RetrievalOptions* retrieval_ = nullptr;
  Listener listener_;
  SequenceId from_ = SequenceId::kNone, to_ = SequenceId::kNone;
  double attend_seconds_ = 0;
  std::vector<HeadReading> readings_;
  std::vector<ErrorPair> pairs_;
  int64_t audited_ = 0;
};

}  // namespace swell::cli

#endif  // SWELL_TOOLS_SWELL_PROBE_H_
