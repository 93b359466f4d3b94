#include "lib/engine/sealer.h"

#include <algorithm>
#include <exception>
#include <utility>

#include "lib/engine/build.h"
#include "lib/engine/guard.h"

namespace swell {
namespace {

// Builds a first part of `ranges` of `layer`, at most `most`; `parallel_for(count, body)` says with which threads. What
// memory or the budget does not allow is left out; when that is everything, the status says why.
template <typename ParallelFor>
Result<std::vector<std::shared_ptr<const Segment>>> BuildSegments(const Context& context, const Sequence& sequence,
                                                                  const Layer& layer,
                                                                  const std::vector<SealRange>& ranges, size_t most,
                                                                  ParallelFor parallel_for) {
  const int64_t kv_heads = context.shape().kv_heads;
  std::vector<SegmentBuild> builds;
  builds.reserve(std::min(most, ranges.size()));
  while (builds.size() < std::min(most, ranges.size())) {
    const SealRange& range = ranges[builds.size()];
    SegmentBuild build(context, *sequence.config, layer, range.begin, range.end);
    if (Status status = build.Start(); !status.ok()) {
      if (builds.empty()) return status;
      break;
    }
    builds.push_back(std::move(build));
  }
  std::vector<Status> statuses(builds.size() * static_cast<size_t>(kv_heads));
  parallel_for(static_cast<int64_t>(statuses.size()),
               [&](int64_t i) { statuses[i] = builds[i / kv_heads].BuildHead(static_cast<int32_t>(i % kv_heads)); });
  for (const Status& status : statuses) SWELL_RETURN_IF_ERROR(status);
  std::vector<std::shared_ptr<const Segment>> segments;
  segments.reserve(builds.size());
  for (SegmentBuild& build : builds) segments.push_back(build.Finish());
  return segments;
}

// Puts built segments in the place of what they were built from. The sequence is locked.
void Publish(Context& context, Layer& layer, std::vector<std::shared_ptr<const Segment>> built) {
  auto segments = std::make_shared<SegmentList>();
  segments->reserve(layer.segments->size() + built.size());
  for (const auto& segment : *layer.segments) {
    if (segment->end() <= built.front()->first_token) segments->push_back(segment);
  }
  const auto compacted = static_cast<int64_t>(layer.segments->size() - segments->size());
  const auto sealed = static_cast<int64_t>(built.size());
  for (auto& segment : built) segments->push_back(std::move(segment));
  const int64_t sealed_end = segments->back()->end();
  const int64_t dropped =
      std::min((sealed_end - layer.tail_origin) / kTailBlockTokens, static_cast<int64_t>(layer.tail->size()));
  auto tail = std::make_shared<BlockList>(layer.tail->begin() + std::max<int64_t>(dropped, 0), layer.tail->end());
  layer.segments = std::move(segments);
  layer.tail = std::move(tail);
  layer.tail_origin += std::max<int64_t>(dropped, 0) * kTailBlockTokens;
  layer.sealed_end = sealed_end;
  context.counters.segments_sealed.fetch_add(sealed, std::memory_order_relaxed);
  context.counters.segments_compacted.fetch_add(compacted, std::memory_order_relaxed);
}

// Who builds: all threads while a caller waits, or one in the background.
struct ForegroundRound {
  Context& context;
  size_t most() const { return static_cast<size_t>(std::max(8, 2 * context.arena.threads())); }
  bool IsDone(const Sequence&) const { return false; }
  template <typename Body>
  void operator()(int64_t count, const Body& body) const {
    context.arena.ParallelFor(count, body);
  }
};
struct BackgroundRound {
  size_t most() const { return 1; }
  // Leaves the rest to a caller that waits to build it with all threads.
  bool IsDone(const Sequence& sequence) const { return sequence.waiting > 0; }
  template <typename Body>
  void operator()(int64_t count, const Body& body) const {
    for (int64_t i = 0; i < count; ++i) body(i);
  }
};

// One round: plans, builds unlocked, publishes. Says whether there may be more; an error when nothing could be built.
template <typename Round>
Result<bool> BuildRound(Context& context, Sequence& sequence, int32_t index, std::unique_lock<std::mutex>& lock,
                        const Round& round) {
  const Layer source = sequence.layers[index];
  const auto ranges = PlanSeals(source, sequence.config->options);
  if (ranges.empty()) return false;
  lock.unlock();
  auto built = Guard([&] { return BuildSegments(context, sequence, source, ranges, round.most(), round); });
  lock.lock();
  // Truncation and release replace the layers, so the layer is looked up anew.
  if (sequence.released || sequence.layers[index].epoch != source.epoch) return true;
  if (!built.ok()) return built.status();
  Publish(context, sequence.layers[index], std::move(built).value());
  return true;
}

// Does what is due for a layer whose `building` this caller has set, until nothing is; then clears it. `lock` holds the
// mutex on entry and on return. A build that failed is tried again seal_tokens later, not with every token.
template <typename Round>
void BuildUntilDone(Context& context, Sequence& sequence, int32_t index, std::unique_lock<std::mutex>& lock,
                    const Round& round) {
  Result<bool> more = true;
  while (more.ok() && *more && !sequence.released && !context.closing.load() && !round.IsDone(sequence)) {
    more = Guard([&] { return BuildRound(context, sequence, index, lock, round); });
  }
  if (!more.ok()) {
    sequence.layers[index].retry_at = sequence.layers[index].length + sequence.config->options.seal_tokens;
    context.counters.builds_failed.fetch_add(1, std::memory_order_relaxed);
  }
  sequence.layers[index].building = false;
  sequence.built.notify_all();
  if (more.ok()) return;
  lock.unlock();  // the callback may wait for whom it likes
  context.LogFailure("swell: sealing failed, the tokens stay exact: ", more);
  lock.lock();
}

bool SealsAreDue(const Layer& layer, const SequenceOptions& options) {
  return layer.length >= layer.retry_at &&
         layer.sealed_end + options.seal_tokens <= layer.length - options.window_tokens;
}

}  // namespace

std::vector<SealRange> PlanSeals(const Layer& layer, const SequenceOptions& options) {
  std::vector<SealRange> ranges;
  const int64_t limit = layer.length - options.window_tokens;
  int64_t begin = layer.sealed_end;
  while (begin + options.seal_tokens <= limit) {
    const int64_t group =
        begin - (begin - options.sink_tokens) % options.segment_tokens;  // start of the segment that `begin` falls into
    if (group + options.segment_tokens <= limit) {
      ranges.push_back({group, group + options.segment_tokens});
    } else {
      ranges.push_back({begin, begin + options.seal_tokens});
    }
    begin = ranges.back().end;
  }
  return ranges;
}

void SealNow(Context& context, Sequence& sequence, int32_t index) {
  std::unique_lock lock(sequence.mutex);
  ++sequence.waiting;
  sequence.built.wait(lock, [&] { return !sequence.layers[index].building; });
  --sequence.waiting;
  if (sequence.released || !SealsAreDue(sequence.layers[index], sequence.config->options)) return;
  sequence.layers[index].building = true;
  BuildUntilDone(context, sequence, index, lock, ForegroundRound{context});
}

void SealLater(Context& context, const std::shared_ptr<Sequence>& sequence, int32_t index,
               const std::unique_lock<std::mutex>& lock) {
  static_cast<void>(lock);  // its presence is the contract
  Layer& layer = sequence->layers[index];
  if (layer.building || !SealsAreDue(layer, sequence->config->options)) return;
  layer.building = true;
  try {
    context.arena.Enqueue([&context, sequence, index] {
      std::unique_lock job_lock(sequence->mutex);
      BuildUntilDone(context, *sequence, index, job_lock, BackgroundRound{});
    });
  } catch (const std::exception&) {
    layer.building = false;
    layer.retry_at = layer.length + sequence->config->options.seal_tokens;
    context.counters.builds_failed.fetch_add(1, std::memory_order_relaxed);
  }
}

}  // namespace swell
