// An engine that keeps float32 rows and answers exactly in double, for tests of the model runtime; it can be told to
// fail.
#ifndef SWELL_TESTS_MODEL_EXACT_ENGINE_H_
#define SWELL_TESTS_MODEL_EXACT_ENGINE_H_

#include <cmath>
#include <map>
#include <vector>

#include "swell/engine.h"

namespace swell::model {

class ExactEngine final : public Engine {
 public:
  explicit ExactEngine(const ModelShape& shape) : shape_(shape) {
    if (shape_.scale == 0) shape_.scale = 1.0F / std::sqrt(static_cast<float>(shape_.head_dim));
  }

  // Put to this layer fails for this sequence from now on.
  void FailPut(SequenceId sequence, int32_t layer) { fail_[sequence] = layer; }
  void FailNothing() { fail_.clear(); }
  int64_t puts() const { return puts_; }

  const ModelShape& shape() const override { return shape_; }
  Result<SequenceId> CreateSequence(const SequenceOptions&) override {
    const SequenceId id = static_cast<SequenceId>(++created_);
    sequences_[id].resize(static_cast<size_t>(shape_.layers));
    return id;
  }
  Result<SequenceId> Fork(SequenceId sequence) override {
    const SequenceId id = static_cast<SequenceId>(++created_);
    sequences_[id] = sequences_.at(sequence);
    return id;
  }
  Status Truncate(SequenceId sequence, int64_t tokens) override {
    for (Layer& layer : sequences_.at(sequence)) {
      if (layer.tokens > tokens) {
        layer.tokens = tokens;
        layer.keys.resize(static_cast<size_t>(tokens * Width()));
        layer.values.resize(static_cast<size_t>(tokens * Width()));
      }
    }
    return OkStatus();
  }
  Status Release(SequenceId sequence) override {
    sequences_.erase(sequence);
    return OkStatus();
  }
  Result<int64_t> Length(SequenceId sequence, int32_t layer) const override {
    return sequences_.at(sequence)[static_cast<size_t>(layer)].tokens;
  }
  Status Put(int32_t layer, std::span<const PutItem> items, std::span<Status> statuses) override {
    Status first;
    for (size_t i = 0; i < items.size(); ++i) {
      statuses[i] = PutOne(layer, items[i]);
      if (first.ok()) first = statuses[i];
    }
    return first;
  }
  Status Attend(int32_t layer, std::span<const AttendItem> items, std::span<Status> statuses) override {
    for (size_t i = 0; i < items.size(); ++i) {
      AttendOne(sequences_.at(items[i].sequence)[static_cast<size_t>(layer)], items[i]);
      statuses[i] = OkStatus();
    }
    return OkStatus();
  }
  Status Search(int32_t, std::span<const SearchItem>, std::span<Status>) override { return InvalidArgument("unused"); }
  Status Fetch(int32_t, std::span<const FetchItem>, std::span<Status>) override { return InvalidArgument("unused"); }
  Status WaitSealed(SequenceId) override { return OkStatus(); }
  Result<LayerInfo> Inspect(SequenceId, int32_t) const override { return LayerInfo(); }
  EngineStats Stats() const override {
    EngineStats stats;
    stats.sequences = static_cast<int64_t>(sequences_.size());
    return stats;
  }

 private:
  struct Layer {
    int64_t tokens = 0;
    std::vector<float> keys;  // [tokens, kv_heads, head_dim]
    std::vector<float> values;
  };

  int64_t Width() const { return int64_t{shape_.kv_heads} * shape_.head_dim; }

  Status PutOne(int32_t index, const PutItem& item) {
    const auto fail = fail_.find(item.sequence);
    if (fail != fail_.end() && fail->second == index) {
      return Status(StatusCode::kResourceExhausted, "told to fail", StatusDetail::kOverBudget);
    }
    Layer& layer = sequences_.at(item.sequence)[static_cast<size_t>(index)];
    if (item.position != layer.tokens) return InvalidArgument("position", StatusDetail::kOutOfOrder);
    for (int64_t token = 0; token < item.tokens; ++token) {
      for (int64_t head = 0; head < shape_.kv_heads; ++head) {
        Append(item.keys, token, head, &layer.keys);
        Append(item.values, token, head, &layer.values);
      }
    }
    layer.tokens += item.tokens;
    ++puts_;
    return OkStatus();
  }

  void Append(const RowsView& rows, int64_t token, int64_t head, std::vector<float>* to) const {
    const float* from = static_cast<const float*>(rows.data) + token * rows.token_stride + head * rows.head_stride;
    to->insert(to->end(), from, from + shape_.head_dim);
  }

  void AttendOne(const Layer& layer, const AttendItem& item) const {
    const int64_t heads = int64_t{shape_.kv_heads} * shape_.group;
    const int64_t dim = shape_.head_dim;
    for (int64_t row = 0; row < item.n_queries * heads; ++row) {
      const int64_t visible = layer.tokens - item.n_queries + row / heads + 1;
      const int64_t offset = row % heads / shape_.group * dim;
      const float* query = static_cast<const float*>(item.queries) + row * dim;
      std::vector<double> out(static_cast<size_t>(dim));
      double sum = 0;
      for (int64_t token = 0; token < visible; ++token) {
        double logit = 0;
        for (int64_t d = 0; d < dim; ++d) logit += double{query[d]} * layer.keys[token * Width() + offset + d];
        const double weight = std::exp(logit * shape_.scale);  // small models: no overflow
        sum += weight;
        for (int64_t d = 0; d < dim; ++d) out[d] += weight * layer.values[token * Width() + offset + d];
      }
      for (int64_t d = 0; d < dim; ++d) {
        static_cast<float*>(item.output)[row * dim + d] = static_cast<float>(out[d] / sum);
      }
      item.certificates[row].tokens_visible = visible;
      item.certificates[row].tokens_read = visible;
      item.certificates[row].bytes_read = visible * dim * 8;
    }
  }

  ModelShape shape_;
  uint64_t created_ = 0;
  int64_t puts_ = 0;
  std::map<SequenceId, std::vector<Layer>> sequences_;
  std::map<SequenceId, int32_t> fail_;
};

}  // namespace swell::model

#endif  // SWELL_TESTS_MODEL_EXACT_ENGINE_H_
