#include "lib/engine/key_graph.h"

#include <algorithm>
#include <bit>
#include <exception>
#include <new>
#include <utility>

#include "lib/engine/guard.h"

namespace swell {
namespace {

// Queries of a KV head's group that are kept for its graph: until it is built they take
// 4 * kSampledQueries * head_dim bytes a head.
constexpr int64_t kSampledQueries = 16384;

// A layer and its graph as they were when work on them began.
struct Source {
  Layer layer;
  LayerGraph graph;
  int64_t tokens = 0;  // that the graph is to know; 0: there is nothing to do
};

// Begins what is due for a layer; an extension is claimed. The sequence is locked.
Source BeginWork(Sequence& sequence, int32_t index) {
  Source source;
  if (sequence.released || sequence.graphs == nullptr || sequence.graphs[index].drawing) return source;
  const SequenceOptions& options = sequence.config->options;
  source.layer = sequence.layers[index];
  source.graph = sequence.graphs[index];
  const LayerGraph& graph = source.graph;
  const int64_t sealed = source.layer.sealed_end - options.sink_tokens;
  const bool has_queries = graph.queries == nullptr || !graph.queries->empty();
  const bool due = graph.graph == nullptr ? !graph.given_up && has_queries && sealed >= options.segment_tokens
                                          : sealed > graph.tokens && graph.graph->Claim(graph.tokens, sealed);
  if (!due) return source;
  source.tokens = sealed;
  sequence.graphs[index].drawing = true;
  return source;
}

Result<std::unique_ptr<KeyIndex>> BuildHead(const Context& context, const SequenceOptions& options,
                                            const Source& source, int32_t head) {
  std::vector<KeyChunk> chunks;
  const KeyTable table = TableOfKeys(context.head_shape(), source.layer, options, head, source.tokens, chunks);
  if (IsFaiss(options.index.kind)) return context.options.faiss(options.index.kind, table);
  std::vector<float> queries;
  std::vector<int64_t> visible;
  source.graph.queries->OfHead(head, queries, visible);
  for (int64_t& keys : visible) keys = std::clamp<int64_t>(keys + 1 - options.sink_tokens, 1, source.tokens);
  return BuildGraphIndex({}, table, {queries.data(), visible.data(), static_cast<int64_t>(visible.size())});
}

Status ExtendHead(const Context& context, const SequenceOptions& options, const Source& source, int32_t head) {
  std::vector<KeyChunk> chunks;
  return source.graph.graph->head(head).Extend(
      TableOfKeys(context.head_shape(), source.layer, options, head, source.tokens, chunks));
}

// The graph of a layer with its first `source.tokens` sealed tokens; `parallel_for(count, body)` says with which
// threads. Null when the engine is closing.
template <typename ParallelFor>
Result<std::shared_ptr<KeyGraph>> Draw(const Context& context, const SequenceOptions& options, const Source& source,
                                       const ParallelFor& parallel_for) {
  const auto kv_heads = static_cast<size_t>(context.shape().kv_heads);
  std::vector<std::unique_ptr<KeyIndex>> heads(kv_heads);
  std::vector<Status> statuses(kv_heads);
  parallel_for(context.shape().kv_heads, [&](int64_t i) {
    if (context.closing.load()) return;
    const auto head = static_cast<int32_t>(i);
    if (source.graph.graph != nullptr) {
      statuses[i] = ExtendHead(context, options, source, head);
      return;
    }
    auto built = BuildHead(context, options, source, head);
    if (built.ok()) heads[i] = std::move(built).value();
    statuses[i] = built.status();
  });
  for (const Status& status : statuses) SWELL_RETURN_IF_ERROR(status);
  if (context.closing.load()) return std::shared_ptr<KeyGraph>();
  auto graph =
      source.graph.graph != nullptr ? source.graph.graph : std::make_shared<KeyGraph>(std::move(heads), context.budget);
  if (graph->ChargeGrowth()) return graph;
  return Status(StatusCode::kResourceExhausted, "the byte budget of the engine would be exceeded",
                StatusDetail::kOverBudget);
}

// Whether the graph drawn from `source` still belongs to `sequence`, which is locked: tokens that were cut, or all of
// them, may have taken it along. One that was extended belongs to it as long as it is there.
bool IsWanted(const Sequence& sequence, int32_t index, const Source& source) {
  if (sequence.released) return false;
  return source.graph.graph != nullptr ? sequence.graphs[index].graph == source.graph.graph
                                       : sequence.layers[index].epoch == source.layer.epoch;
}

// Does what BeginWork began, and ends it. `lock` holds the mutex on entry.
template <typename ParallelFor>
void DrawAndPublish(Context& context, Sequence& sequence, int32_t index, const Source& source,
                    std::unique_lock<std::mutex>& lock, const ParallelFor& parallel_for) {
  Result<std::shared_ptr<KeyGraph>> drawn = std::shared_ptr<KeyGraph>();
  if (IsWanted(sequence, index, source)) {
    lock.unlock();
    drawn = Guard([&] { return Draw(context, sequence.config->options, source, parallel_for); });
    lock.lock();
  }
  if (!sequence.released) sequence.graphs[index].drawing = false;
  sequence.built.notify_all();
  if (!IsWanted(sequence, index, source)) return;
  LayerGraph& graph = sequence.graphs[index];
  if (source.graph.graph == nullptr) {
    graph.queries = nullptr;
    graph.given_up = !drawn.ok();
  }
  if (drawn.ok()) {
    if (*drawn == nullptr) return;
    graph.graph = std::move(drawn).value();
    graph.tokens = source.tokens;
    return;
  }
  context.counters.builds_failed.fetch_add(1, std::memory_order_relaxed);
  lock.unlock();  // the callback may wait for whom it likes
  context.LogFailure("swell: no graph over the keys: ", drawn);
}

}  // namespace

// --- queries
// ---------------------------------------------------------------------------------------------------------------------

PrefillQueries::PrefillQueries(const Context& context)
    : shape_(context.head_shape()),
      row_floats_(context.query_heads() * context.shape().head_dim),
      most_(static_cast<size_t>(std::max<int64_t>(1, kSampledQueries / shape_.group))),
      budget_(context.budget) {}

PrefillQueries::~PrefillQueries() { budget_->Refund(positions_.size() * row_floats_ * sizeof(float)); }

void PrefillQueries::Add(int64_t first, int64_t n, const float* queries) noexcept try {
  const std::lock_guard lock(mutex_);
  rows_.resize(positions_.size() * static_cast<size_t>(row_floats_));  // an earlier call may have ended between the two
  for (int64_t position = first; position < first + n; ++position) {
    if (position % stride_ != 0) continue;
    if (positions_.size() == most_) Thin();
    if (position % stride_ != 0) continue;
    const float* row = queries + (position - first) * row_floats_;
    rows_.insert(rows_.end(), row, row + row_floats_);
    positions_.push_back(position);
    if (budget_->TryCharge(row_floats_ * sizeof(float))) continue;
    positions_.pop_back();
    return;
  }
} catch (const std::exception&) {
  // A smaller sample gives a poorer graph.
}

// Doubles the stride.
void PrefillQueries::Thin() {
  stride_ *= 2;
  size_t kept = 0;
  for (size_t i = 0; i < positions_.size(); ++i) {
    if (positions_[i] % stride_ != 0) continue;
    positions_[kept] = positions_[i];
    std::copy_n(rows_.begin() + static_cast<int64_t>(i) * row_floats_, row_floats_,
                rows_.begin() + static_cast<int64_t>(kept) * row_floats_);
    ++kept;
  }
  budget_->Refund((positions_.size() - kept) * row_floats_ * sizeof(float));
  positions_.resize(kept);
  rows_.resize(kept * static_cast<size_t>(row_floats_));
}

bool PrefillQueries::empty() const {
  const std::lock_guard lock(mutex_);
  return positions_.empty();
}

void PrefillQueries::OfHead(int32_t head, std::vector<float>& queries, std::vector<int64_t>& positions) const {
  const std::lock_guard lock(mutex_);
  const int64_t floats = int64_t{shape_.group} * shape_.head_dim;
  queries.reserve(positions_.size() * static_cast<size_t>(floats));
  positions.reserve(positions_.size() * static_cast<size_t>(shape_.group));
  for (size_t i = 0; i < positions_.size(); ++i) {
    const auto row = rows_.begin() + static_cast<int64_t>(i) * row_floats_ + head * floats;
    queries.insert(queries.end(), row, row + floats);
    positions.insert(positions.end(), static_cast<size_t>(shape_.group), positions_[i]);
  }
}

// --- graphs
// ---------------------------------------------------------------------------------------------------------------------

bool KeyGraph::ChargeGrowth() {
  uint64_t bytes = sizeof(*this);
  for (const auto& head : heads_) bytes += head->bytes();
  if (bytes <= charged_) return true;
  if (!budget_->TryCharge(bytes - charged_)) return false;
  charged_ = bytes;
  return true;
}

KeyTable TableOfKeys(const HeadShape& shape, const Layer& layer, const SequenceOptions& options, int32_t head,
                     int64_t tokens, std::vector<KeyChunk>& chunks) {
  KeyTable table;
  table.storage = shape.storage;
  table.head_dim = shape.head_dim;
  table.tokens = tokens;
  // Segments begin at multiples of seal_tokens behind the sinks, so no chunk lies in two of them.
  table.chunk_bits = std::countr_zero(static_cast<uint32_t>(options.seal_tokens));
  for (const auto& segment : *layer.segments) {
    if (segment->first_token - options.sink_tokens >= tokens) break;
    const KvRun run = segment->Run(head);
    for (int64_t token = 0; token < segment->tokens; token += int64_t{1} << table.chunk_bits) {
      chunks.push_back({run.keys, run.key_scales, segment->rows_of_tokens[head].data() + token});
    }
  }
  table.chunks = chunks;
  return table;
}

LayerGraph NoGraphYet(const Context& context, const SequenceOptions& options) {
  LayerGraph none;
  if (options.index.kind == IndexKind::kGraph) none.queries = std::make_shared<PrefillQueries>(context);
  return none;
}

void CutGraph(const Context& context, const SequenceOptions& options, int64_t length, LayerGraph& graph) {
  if (graph.graph == nullptr) return;
  const int64_t known = graph.drawing ? graph.graph->claimed() : graph.tokens;
  if (length - options.sink_tokens >= known) return;
  const bool drawing = graph.drawing;  // what is under way finds out by itself
  graph = NoGraphYet(context, options);
  graph.drawing = drawing;
}

// --- when
// ---------------------------------------------------------------------------------------------------------------------

void DrawGraphNow(Context& context, Sequence& sequence, int32_t index) {
  std::unique_lock lock(sequence.mutex);
  sequence.built.wait(lock, [&] { return sequence.graphs == nullptr || !sequence.graphs[index].drawing; });
  const Source source = BeginWork(sequence, index);
  if (source.tokens == 0) return;
  DrawAndPublish(context, sequence, index, source, lock,
                 [&](int64_t count, const auto& body) { context.arena.ParallelFor(count, body); });
}

void DrawGraphLater(Context& context, const std::shared_ptr<Sequence>& sequence, int32_t index) {
  const std::lock_guard lock(sequence->mutex);
  const Source source = BeginWork(*sequence, index);
  if (source.tokens == 0) return;
  try {
    context.arena.Enqueue([&context, sequence, index, source] {
      std::unique_lock job_lock(sequence->mutex);
      DrawAndPublish(context, *sequence, index, source, job_lock, [](int64_t count, const auto& body) {
        for (int64_t i = 0; i < count; ++i) body(i);
      });
    });
  } catch (const std::exception&) {
    sequence->graphs[index].drawing = false;
    sequence->graphs[index].queries = nullptr;
    sequence->graphs[index].given_up = true;
    context.counters.builds_failed.fetch_add(1, std::memory_order_relaxed);
  }
}

}  // namespace swell
