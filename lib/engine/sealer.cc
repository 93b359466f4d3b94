#include "lib/engine/sealer.h"

#include <algorithm>
#include <exception>
#include <utility>

#include "lib/engine/build.h"

namespace swell {
namespace {

// Builds `ranges` of `layer`; `parallel_for(count, body)` says with which threads. Stops at the first failure.
template <typename ParallelFor>
Result<std::vector<std::shared_ptr<const Segment>>> BuildSegments(const Context& context, const Sequence& sequence,
                                                                  const Layer& layer,
                                                                  const std::vector<SealRange>& ranges,
                                                                  ParallelFor parallel_for) {
  const int64_t kv_heads = context.shape().kv_heads;
  std::vector<SegmentBuild> builds;
  builds.reserve(ranges.size());
  for (const SealRange& range : ranges) {
    builds.emplace_back(context, *sequence.config->builder, layer, range.begin, range.end);
    SWELL_RETURN_IF_ERROR(builds.back().Start());
  }
  std::vector<Status> statuses(ranges.size() * static_cast<size_t>(kv_heads));
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

// Does what is due for a layer whose `building` this caller has set, until nothing is; then clears it. `lock` holds the
// mutex on entry and on return. `retry_at` keeps a build that failed from being tried again with every token.
template <typename ParallelFor>
void BuildUntilDone(Context& context, Sequence& sequence, int32_t index, std::unique_lock<std::mutex>& lock,
                    ParallelFor parallel_for) {
  // Truncation and release replace the vector, so the layer is looked up anew after every unlocked stretch.
  while (!sequence.released && !context.closing.load()) {
    try {
      const Layer source = sequence.layers[index];
      const auto ranges = PlanSeals(source, sequence.config->options);
      if (ranges.empty()) break;
      lock.unlock();
      auto built = BuildSegments(context, sequence, source, ranges, parallel_for);
      lock.lock();
      Layer& now = sequence.layers[index];
      if (sequence.released || now.epoch != source.epoch) continue;
      if (built.ok()) {
        Publish(context, now, std::move(built).value());
        continue;
      }
      context.Log("swell: sealing failed, the tokens stay exact: " + built.status().message());
    } catch (const std::exception&) {
      if (!lock.owns_lock()) lock.lock();
    }
    context.counters.builds_failed.fetch_add(1, std::memory_order_relaxed);
    sequence.layers[index].retry_at = sequence.layers[index].length + sequence.config->options.seal_tokens;
    break;
  }
  sequence.layers[index].building = false;
  sequence.built.notify_all();
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
  sequence.built.wait(lock, [&] { return !sequence.layers[index].building; });
  if (sequence.released || !SealsAreDue(sequence.layers[index], sequence.config->options)) return;
  sequence.layers[index].building = true;
  BuildUntilDone(context, sequence, index, lock,
                 [&](int64_t count, const auto& body) { context.arena.ParallelFor(count, body); });
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
      BuildUntilDone(context, *sequence, index, job_lock, [](int64_t count, const auto& body) {
        for (int64_t i = 0; i < count; ++i) body(i);
      });
    });
  } catch (const std::exception&) {
    layer.building = false;
    layer.retry_at = layer.length + sequence->config->options.seal_tokens;
    context.counters.builds_failed.fetch_add(1, std::memory_order_relaxed);
  }
}

}  // namespace swell
