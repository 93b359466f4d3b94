// An engine that watches another one: counts what attention reads and, when asked, answers every query a second time
// exactly and keeps how far the two answers differ, per layer and KV head.
//
// The wrapped engine must outlive it. Attend may be called from one thread at a time; the rest as Engine.
#ifndef SWELL_TOOLS_SWELL_PROBE_H_
#define SWELL_TOOLS_SWELL_PROBE_H_

#include <cstdint>
#include <span>
#include <vector>

#include "swell/engine.h"

namespace swell::cli {

// Sums over the (query position, query head) pairs of one KV head of one layer.
struct HeadReading {
  int64_t queries = 0;
  int64_t tokens_visible = 0;
  int64_t tokens_read = 0;
  int64_t bytes_read = 0;
  double estimated_share = 0;
  int64_t audited = 0;         // queries that were answered exactly as well
  double error = 0;            // sum of |o - exact| / |exact|
  double predicted_error = 0;  // sum over the audited queries
};

// Actual and predicted relative error of one audited query.
struct ErrorPair {
  float actual = 0;
  float predicted = 0;
};

class AttendProbe final : public Engine {
 public:
  explicit AttendProbe(Engine& engine);

  // Counting starts anew. With `audit`, every Attend in kRetrieve mode is repeated in kExact mode.
  void Reset(bool audit);
  // [layers, kv_heads]
  const std::vector<HeadReading>& readings() const { return readings_; }
  // Every kPairStride-th audited query.
  const std::vector<ErrorPair>& pairs() const { return pairs_; }
  static constexpr int64_t kPairStride = 97;

  const ModelShape& shape() const override { return engine_.shape(); }
  Result<SequenceId> CreateSequence(const SequenceOptions& options) override { return engine_.CreateSequence(options); }
  Result<SequenceId> Fork(SequenceId sequence) override { return engine_.Fork(sequence); }
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
  Status Watch(int32_t layer, AttendItem item);
  void Compare(int32_t layer, const AttendItem& item, const std::vector<float>& exact);

  Engine& engine_;
  bool audit_ = false;
  std::vector<HeadReading> readings_;
  std::vector<ErrorPair> pairs_;
  int64_t audited_ = 0;
};

}  // namespace swell::cli

#endif  // SWELL_TOOLS_SWELL_PROBE_H_
