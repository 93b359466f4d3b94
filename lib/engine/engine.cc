#include "swell/engine.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>

#include "lib/engine/attend.h"
#include "lib/engine/context.h"
#include "lib/engine/fetch.h"
#include "lib/engine/guard.h"
#include "lib/engine/key_graph.h"
#include "lib/engine/put.h"
#include "lib/engine/sealer.h"
#include "lib/engine/search.h"
#include "lib/engine/truncate.h"
#include "lib/engine/validate.h"

namespace swell {
namespace {

SegmentInfo Describe(const std::shared_ptr<const Segment>& segment) {
  SegmentInfo info;
  info.first_token = segment->first_token;
  info.tokens = segment->tokens;
  for (const auto& head : segment->heads) info.clusters += head->clusters().clusters;
  info.row_bytes = segment->rows->bytes();
  info.index_bytes = segment->index_bytes;
  info.owners = segment.use_count();
  return info;
}

class EngineImpl final : public Engine {
 public:
  explicit EngineImpl(const EngineOptions& options) : context_(options) {}
  ~EngineImpl() override { context_.closing.store(true); }

  const ModelShape& shape() const override { return context_.shape(); }

  Result<SequenceId> CreateSequence(const SequenceOptions& options) override {
    return Guard([&]() -> Result<SequenceId> {
      SWELL_RETURN_IF_ERROR(ValidateSequenceOptions(options, shape()));
      auto builder = MakeIndexBuilder(options.index);
      if (!builder.ok()) return builder.status();
      auto config = std::make_shared<SequenceConfig>();
      config->options = options;
      config->builder = std::move(builder).value();
      auto sequence = std::make_shared<Sequence>();
      Layer empty;
      empty.sealed_end = options.sink_tokens;
      empty.tail_origin = options.sink_tokens;
      empty.segments = std::make_shared<const SegmentList>();
      empty.tail = std::make_shared<const BlockList>();
      sequence->config = std::move(config);
      sequence->layers.assign(static_cast<size_t>(shape().layers), empty);
      if (IsFaiss(options.index.kind) && !context_.options.faiss) {
        return Status(StatusCode::kUnimplemented, "index.kind: this engine has no FAISS (EngineOptions::faiss)");
      }
      if (HasKeyIndex(options.index.kind)) {
        sequence->graphs = std::make_unique<LayerGraph[]>(sequence->layers.size());
        for (int32_t layer = 0; layer < shape().layers; ++layer) {
          sequence->graphs[layer] = NoGraphYet(context_, options);
        }
      }
      return context_.sequences.Insert(std::move(sequence));
    });
  }

  Result<SequenceId> Fork(SequenceId id) override {
    return Guard([&]() -> Result<SequenceId> {
      const auto source = context_.sequences.Find(id);
      if (source == nullptr) return StaleHandle();
      auto fork = std::make_shared<Sequence>();
      fork->config = source->config;
      {
        std::lock_guard lock(source->mutex);
        if (source->released) return StaleHandle();
        fork->layers = source->layers;
        if (source->graphs != nullptr) {
          fork->graphs = std::make_unique<LayerGraph[]>(fork->layers.size());
          std::copy_n(source->graphs.get(), fork->layers.size(), fork->graphs.get());
          for (size_t layer = 0; layer < fork->layers.size(); ++layer) fork->graphs[layer].drawing = false;
        }
      }
      for (Layer& layer : fork->layers) layer.building = false;  // builds under way belong to the source
      return context_.sequences.Insert(std::move(fork));
    });
  }

  Status Truncate(SequenceId id, int64_t tokens) override {
    return Guard([&]() -> Status {
      if (tokens < 0) return InvalidArgument("tokens must not be negative", StatusDetail::kBadSize);
      const auto sequence = context_.sequences.Find(id);
      if (sequence == nullptr) return StaleHandle();
      return TruncateSequence(context_, *sequence, tokens);
    });
  }

  Status Release(SequenceId id) override {
    return Guard([&]() -> Status {
      const auto sequence = context_.sequences.Remove(id);
      if (sequence == nullptr) return StaleHandle();
      std::unique_ptr<LayerGraph[]> graphs;
      {
        std::lock_guard lock(sequence->mutex);
        sequence->released = true;  // from here on `layers` keeps its place
        graphs.swap(sequence->graphs);
      }
      graphs.reset();
      for (Layer& layer : sequence->layers) {
        Layer freed;  // outlives the lock; one at a time, so that memory is given back without asking for any
        std::lock_guard lock(sequence->mutex);
        std::swap(layer, freed);
      }
      return OkStatus();
    });
  }

  Result<int64_t> Length(SequenceId id, int32_t layer) const override {
    return Guard([&]() -> Result<int64_t> {
      SWELL_RETURN_IF_ERROR(ValidateLayer(layer, shape()));
      const auto sequence = context_.sequences.Find(id);
      const auto snapshot = sequence == nullptr ? std::nullopt : sequence->Snapshot(layer);
      if (!snapshot.has_value()) return StaleHandle();
      return snapshot->length;
    });
  }

  Status Put(int32_t layer, std::span<const PutItem> items, std::span<Status> statuses) override {
    return Batch(layer, items, statuses, &PutTokens);
  }
  Status Attend(int32_t layer, std::span<const AttendItem> items, std::span<Status> statuses) override {
    return Batch(layer, items, statuses, &AttendSequences);
  }
  Status Search(int32_t layer, std::span<const SearchItem> items, std::span<Status> statuses) override {
    return Batch(layer, items, statuses, &SearchSequences);
  }
  Status Fetch(int32_t layer, std::span<const FetchItem> items, std::span<Status> statuses) override {
    return Batch(layer, items, statuses, &FetchTokens);
  }

  Status WaitSealed(SequenceId id) override {
    return Guard([&]() -> Status {
      const auto sequence = context_.sequences.Find(id);
      if (sequence == nullptr) return StaleHandle();
      for (int32_t layer = 0; layer < shape().layers; ++layer) {
        SealNow(context_, *sequence, layer);
        DrawGraphNow(context_, *sequence, layer);
      }
      return OkStatus();
    });
  }

  Result<LayerInfo> Inspect(SequenceId id, int32_t layer) const override {
    return Guard([&]() -> Result<LayerInfo> {
      SWELL_RETURN_IF_ERROR(ValidateLayer(layer, shape()));
      const auto sequence = context_.sequences.Find(id);
      LayerGraph graph;
      const auto found = sequence == nullptr ? std::nullopt : sequence->Snapshot(layer, &graph);
      if (!found.has_value()) return StaleHandle();
      const Layer& snapshot = *found;
      const int64_t sinks = sequence->config->options.sink_tokens;
      LayerInfo info;
      info.tokens = snapshot.length;
      info.sealed_tokens = snapshot.sealed_end - sinks;
      info.tail_tokens = std::max<int64_t>(0, snapshot.length - snapshot.sealed_end);
      info.graph_tokens = graph.tokens;
      info.sealing = snapshot.building;
      for (const auto& segment : *snapshot.segments) info.segments.push_back(Describe(segment));
      return info;
    });
  }

  EngineStats Stats() const override {
    const Counters& counters = context_.counters;
    EngineStats stats;
    stats.sequences = context_.sequences.size();
    stats.bytes_in_use = context_.budget->used();
    stats.bytes_peak = context_.budget->peak();
    stats.budget_bytes = context_.budget->limit();
    stats.tokens_put = counters.tokens_put.load();
    stats.attend_calls = counters.attend_calls.load();
    stats.head_steps = counters.head_steps.load();
    stats.tokens_visible = counters.tokens_visible.load();
    stats.tokens_read = counters.tokens_read.load();
    stats.bytes_read = counters.bytes_read.load();
    stats.segments_sealed = counters.segments_sealed.load();
    stats.segments_compacted = counters.segments_compacted.load();
    stats.builds_failed = counters.builds_failed.load();
    stats.audited_answers = context_.audits.answers.load();
    stats.audited_within_2 = context_.audits.within_2.load();
    stats.audited_within_3 = context_.audits.within_3.load();
    stats.audited_factor_sum = context_.audits.factor_sum.load();
    return stats;
  }

 private:
  template <typename Item>
  Status Batch(int32_t layer, std::span<const Item> items, std::span<Status> statuses,
               void (*operation)(Context&, int32_t, std::span<const Item>, std::span<Status>)) {
    return Guard([&]() -> Status {
      if (statuses.size() != items.size()) {
        return InvalidArgument("statuses must be as many as items", StatusDetail::kBadSize);
      }
      const Status status = Guard([&]() -> Status {
        SWELL_RETURN_IF_ERROR(ValidateLayer(layer, shape()));
        operation(context_, layer, items, statuses);
        return OkStatus();
      });
      if (!status.ok()) std::fill(statuses.begin(), statuses.end(), status);
      for (const Status& entry : statuses) SWELL_RETURN_IF_ERROR(entry);
      return OkStatus();
    });
  }

  Context context_;
};

}  // namespace

Result<std::unique_ptr<Engine>> Engine::Open(const EngineOptions& options) {
  return Guard([&]() -> Result<std::unique_ptr<Engine>> {
    SWELL_RETURN_IF_ERROR(ValidateEngineOptions(options));
    EngineOptions resolved = options;
    if (resolved.shape.scale == 0.0F)
      resolved.shape.scale = 1.0F / std::sqrt(static_cast<float>(options.shape.head_dim));
    return std::unique_ptr<Engine>(std::make_unique<EngineImpl>(resolved));
  });
}

}  // namespace swell
