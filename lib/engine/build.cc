#include "lib/engine/build.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace swell {

void CopyRow(const HeadShape& shape, const KvRun& from, int64_t from_row, KvBlock& to, int32_t head, int64_t to_row) {
  const size_t row_bytes = static_cast<size_t>(shape.head_dim) * DTypeSize(shape.storage);
  const auto offset = static_cast<size_t>(from_row) * row_bytes;
  std::memcpy(to.keys(head, to_row), static_cast<const std::byte*>(from.keys) + offset, row_bytes);
  std::memcpy(to.values(head, to_row), static_cast<const std::byte*>(from.values) + offset, row_bytes);
  if (from.key_scales == nullptr) return;
  *to.key_scales(head, to_row) = from.key_scales[from_row];
  *to.value_scales(head, to_row) = from.value_scales[from_row];
}

void SegmentBuild::Gather(int32_t head, KvBlock& to) const {
  std::vector<KvRun> runs;
  for (const auto& segment : *layer_.segments) {
    if (segment->first_token < end_ && segment->end() > begin_) runs.push_back(segment->Run(head));
  }
  AppendUnsealedRuns(layer_, head, begin_, end_, &runs);
  for (const KvRun& run : runs) {
    for (int64_t row = 0; row < run.tokens; ++row) {
      const int64_t token = TokenOfRow(run, row);
      if (token >= begin_ && token < end_) CopyRow(context_.head_shape(), run, row, to, 0, token - begin_);
    }
  }
}

Status SegmentBuild::Start() {
  const HeadShape shape = context_.head_shape();
  const int64_t tokens = end_ - begin_;
  auto rows = KvBlock::Allocate(context_.budget, context_.shape().kv_heads, shape, tokens);
  if (!rows.ok()) return rows.status();
  auto segment = std::make_shared<Segment>();
  segment->first_token = begin_;
  segment->tokens = tokens;
  segment->heads.resize(static_cast<size_t>(context_.shape().kv_heads));
  const uint64_t head_bytes =
      builder_.MaxBytes(shape, tokens) + (finds_tokens_ ? static_cast<uint64_t>(tokens) * sizeof(uint16_t) : 0);
  const uint64_t index_bytes = head_bytes * static_cast<uint64_t>(context_.shape().kv_heads);
  if (!context_.budget->TryCharge(index_bytes)) {
    return Status(StatusCode::kResourceExhausted, "the byte budget of the engine would be exceeded",
                  StatusDetail::kOverBudget);
  }
  segment->index_bytes = index_bytes;
  segment->budget = context_.budget;
  if (finds_tokens_) segment->rows_of_tokens.resize(static_cast<size_t>(context_.shape().kv_heads));
  rows_ = std::move(rows).value();
  segment_ = std::move(segment);
  return OkStatus();
}

Status SegmentBuild::BuildHead(int32_t head) {
  const HeadShape shape = context_.head_shape();
  const int64_t tokens = end_ - begin_;
  // Scratch in token order; short-lived, so it is not charged.
  auto scratch = KvBlock::Allocate(std::make_shared<ByteBudget>(0), 1, shape, tokens);
  if (!scratch.ok()) return scratch.status();
  Gather(head, **scratch);
  const KvRun run = (*scratch)->Run(0, 0, tokens);
  auto index = builder_.Build(shape, {&run, 1});
  if (!index.ok()) return index.status();
  const auto order = (*index)->order();
  for (int64_t row = 0; row < tokens; ++row) {
    CopyRow(shape, run, order.empty() ? row : order[row], *rows_, head, row);
  }
  if (finds_tokens_) {
    std::vector<uint16_t>& rows = segment_->rows_of_tokens[head];
    rows.resize(static_cast<size_t>(tokens));
    for (int64_t row = 0; row < tokens; ++row) rows[order.empty() ? row : order[row]] = static_cast<uint16_t>(row);
  }
  segment_->heads[head] = std::move(index).value();
  return OkStatus();
}

std::shared_ptr<const Segment> SegmentBuild::Finish() {
  uint64_t index_bytes = 0;
  for (const auto& head : segment_->heads) index_bytes += head->bytes();
  for (const auto& rows : segment_->rows_of_tokens) index_bytes += rows.size() * sizeof(uint16_t);
  context_.budget->Refund(segment_->index_bytes - index_bytes);
  segment_->index_bytes = index_bytes;
  segment_->rows = std::move(rows_);
  return std::move(segment_);
}

}  // namespace swell
