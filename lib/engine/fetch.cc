#include "lib/engine/fetch.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <vector>

#include "lib/base/convert.h"
#include "lib/engine/guard.h"
#include "lib/engine/validate.h"

namespace swell {
namespace {

// Writes one stored row of one tensor to place `at` of the caller's buffers.
void WriteRow(const ModelShape& shape, DType dtype, const void* rows, const float* scales, int64_t row, int64_t at,
              void* out, float* out_scales) {
  if (out == nullptr) return;
  const auto row_bytes = static_cast<int64_t>(DTypeSize(shape.storage)) * shape.head_dim;
  const auto* from = static_cast<const std::byte*>(rows) + row * row_bytes;
  if (dtype == shape.storage) {
    std::memcpy(static_cast<std::byte*>(out) + at * row_bytes, from, static_cast<size_t>(row_bytes));
    if (scales != nullptr) out_scales[at] = scales[row];
    return;
  }
  DecodeRow(shape.storage, from, scales != nullptr ? scales[row] : 1.0F, shape.head_dim,
            static_cast<float*>(out) + at * shape.head_dim);
}

class Reader {
 public:
  Reader(const Context& context, const FetchItem& item, const Layer& layer, int32_t head)
      : shape_(context.shape()), item_(item), layer_(layer), head_(head) {}

  void Read(int64_t place, int64_t token) {
    const int64_t sinks = layer_.sinks == nullptr ? 0 : layer_.sinks->capacity();
    if (token < sinks) return Write(place, layer_.sinks->Run(head_, 0, sinks), token);
    if (token >= layer_.sealed_end) {
      const int64_t index = (token - layer_.tail_origin) / kTailBlockTokens;
      return Write(place, (*layer_.tail)[index]->Run(head_, 0, kTailBlockTokens),
                   (token - layer_.tail_origin) % kTailBlockTokens);
    }
    const auto& segments = *layer_.segments;
    const auto found = std::upper_bound(segments.begin(), segments.end(), token,
                                        [](int64_t value, const auto& segment) { return value < segment->end(); });
    Load(**found);
    Write(place, run_, rows_[token - (*found)->first_token]);
  }

 private:
  // Inverts the order of a segment: rows_[offset of the token] = its row.
  void Load(const Segment& segment) {
    if (segment_ == &segment) return;
    segment_ = &segment;
    run_ = segment.Run(head_);
    rows_.resize(static_cast<size_t>(segment.tokens));
    for (int64_t row = 0; row < segment.tokens; ++row) rows_[TokenOfRow(run_, row) - segment.first_token] = row;
  }

  void Write(int64_t place, const KvRun& run, int64_t row) {
    const int64_t at = place * shape_.kv_heads + head_;
    WriteRow(shape_, item_.dtype, run.keys, run.key_scales, row, at, item_.keys, item_.key_scales);
    WriteRow(shape_, item_.dtype, run.values, run.value_scales, row, at, item_.values, item_.value_scales);
  }

  const ModelShape& shape_;
  const FetchItem& item_;
  const Layer& layer_;
  const int32_t head_;
  const Segment* segment_ = nullptr;
  KvRun run_;
  std::vector<int64_t> rows_;
};

Status FetchItemTokens(Context& context, int32_t layer, const FetchItem& item) {
  SWELL_RETURN_IF_ERROR(ValidateFetch(item, context));
  const auto sequence = context.sequences.Find(item.sequence);
  const auto found = sequence == nullptr ? std::nullopt : sequence->Snapshot(layer);
  if (!found.has_value()) return StaleHandle();
  const Layer& snapshot = *found;
  for (int64_t token : item.tokens) {
    if (token >= 0 && token < snapshot.length) continue;
    return Status(StatusCode::kOutOfRange, "tokens holds " + std::to_string(token) + " but layer " +
                                               std::to_string(layer) + " holds " + std::to_string(snapshot.length) +
                                               " tokens");
  }
  // Token by token in rising order, so that each segment's order is inverted once.
  std::vector<int64_t> places(item.tokens.size());
  for (size_t i = 0; i < places.size(); ++i) places[i] = static_cast<int64_t>(i);
  std::stable_sort(places.begin(), places.end(), [&](int64_t a, int64_t b) { return item.tokens[a] < item.tokens[b]; });
  context.arena.ParallelFor(context.shape().kv_heads, [&](int64_t head) {
    Reader reader(context, item, snapshot, static_cast<int32_t>(head));
    for (int64_t place : places) reader.Read(place, item.tokens[place]);
  });
  return OkStatus();
}

}  // namespace

void FetchTokens(Context& context, int32_t layer, std::span<const FetchItem> items, std::span<Status> statuses) {
  for (size_t i = 0; i < items.size(); ++i) {
    statuses[i] = Guard([&] { return FetchItemTokens(context, layer, items[i]); });
  }
}

}  // namespace swell
