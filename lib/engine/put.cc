#include "lib/engine/put.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <utility>

#include "lib/base/convert.h"
#include "lib/engine/guard.h"
#include "lib/engine/sealer.h"
#include "lib/engine/validate.h"

namespace swell {
namespace {

// Rows [row, row + tokens) of `block` are to receive the tokens from `source` on of the item.
struct Target {
  std::shared_ptr<KvBlock> block;  // null until the rows are claimed
  int64_t row = 0;
  int64_t tokens = 0;
  int64_t source = 0;
};

// One item between its preparation and its publication. The lock is held in between.
struct Pending {
  int64_t item = 0;
  std::shared_ptr<Sequence> sequence;
  std::unique_lock<std::mutex> lock;
  Layer next;
  std::vector<Target> targets;
  std::atomic<bool> refused{false};

  explicit Pending(int64_t index, std::shared_ptr<Sequence> owner) : item(index), sequence(std::move(owner)) {}
  ~Pending() { DropClaims(); }
  // Gives back what was claimed and not published.
  void DropClaims() {
    for (const Target& target : targets) {
      if (target.block != nullptr) target.block->DropClaim(target.row, target.tokens);
    }
    targets.clear();
  }
  void Publish(Layer& layer) {
    std::swap(layer, next);
    targets.clear();
  }
};

// Makes `*block` writable from `row` on: claims the rows, in a fresh copy when another owner was there first.
Status ClaimRows(const Context& context, std::shared_ptr<KvBlock>* block, int64_t row, int64_t tokens) {
  if ((*block)->TryClaim(row, tokens)) return OkStatus();
  auto copy = CopyBlock(context, **block, row);
  if (!copy.ok()) return copy.status();
  *block = std::move(copy).value();
  (*block)->TryClaim(row, tokens);
  return OkStatus();
}

Status AddBlock(const Context& context, int64_t capacity, std::shared_ptr<KvBlock>* block) {
  auto fresh = KvBlock::Allocate(context.budget, context.shape().kv_heads, context.head_shape(), capacity);
  if (!fresh.ok()) return fresh.status();
  *block = std::move(fresh).value();
  return OkStatus();
}

// Allocates and claims what `tokens` more tokens need; fills pending.next and pending.targets.
Status Prepare(const Context& context, int64_t tokens, Pending& pending) {
  Layer& next = pending.next;
  const int64_t sinks = pending.sequence->config->options.sink_tokens;
  const int64_t end = next.length + tokens;
  const int64_t begin = next.length;
  auto tail = std::make_shared<BlockList>(*next.tail);
  for (int64_t token = begin; token < end;) {
    std::shared_ptr<KvBlock>* block = nullptr;
    int64_t row = token;
    int64_t capacity = sinks;
    if (token < sinks) {
      block = &next.sinks;
    } else {
      const auto index = static_cast<size_t>((token - next.tail_origin) / kTailBlockTokens);
      row = (token - next.tail_origin) % kTailBlockTokens;
      capacity = kTailBlockTokens;
      if (index == tail->size()) tail->emplace_back();
      block = &(*tail)[index];
    }
    if (*block == nullptr) SWELL_RETURN_IF_ERROR(AddBlock(context, capacity, block));
    const int64_t count = std::min(end - token, capacity - row);
    Target& target = pending.targets.emplace_back();  // before the claim, which must not be forgotten
    SWELL_RETURN_IF_ERROR(ClaimRows(context, block, row, count));
    target = {*block, row, count, token - begin};
    token += count;
  }
  next.tail = std::move(tail);
  next.length = end;
  return OkStatus();
}

// Stores one row of `head_dim` elements; false when a number is refused.
bool StoreRow(const RowsView& rows, int64_t token, int32_t head, const ModelShape& shape, std::byte* to, float* scale) {
  const int64_t head_dim = shape.head_dim;
  const int64_t element = rows.token_stride != 0 ? token * rows.token_stride + head * rows.head_stride
                                                 : (token * shape.kv_heads + head) * head_dim;
  const auto bytes = static_cast<int64_t>(DTypeSize(rows.dtype));
  const std::byte* from = static_cast<const std::byte*>(rows.data) + element * bytes;
  if (rows.dtype == DType::kInt8) {
    std::memcpy(to, from, static_cast<size_t>(head_dim));
    *scale = rows.scales[token * shape.kv_heads + head];
    return std::isfinite(*scale * 128.0F);  // every element must decode to a finite number
  }
  if (rows.dtype == shape.storage) {
    std::memcpy(to, from, static_cast<size_t>(head_dim * bytes));
    return AllFinite(rows.dtype, from, head_dim);
  }
  std::array<float, kMaxHeadDim> buffer;
  const float* floats = reinterpret_cast<const float*>(from);
  if (rows.dtype != DType::kFloat32) {
    ConvertToFloat(rows.dtype, from, head_dim, buffer.data());
    floats = buffer.data();
  }
  if (shape.storage == DType::kInt8) return QuantizeRow(floats, head_dim, reinterpret_cast<int8_t*>(to), scale);
  return ConvertFromFloat(floats, head_dim, shape.storage, to);
}

bool StoreTarget(const Context& context, const PutItem& item, const Target& target) {
  const ModelShape& shape = context.shape();
  bool stored = true;
  for (int32_t head = 0; head < shape.kv_heads; ++head) {
    for (int64_t t = 0; t < target.tokens; ++t) {
      const int64_t row = target.row + t;
      stored = stored && StoreRow(item.keys, target.source + t, head, shape, target.block->keys(head, row),
                                  target.block->key_scales(head, row));
      stored = stored && StoreRow(item.values, target.source + t, head, shape, target.block->values(head, row),
                                  target.block->value_scales(head, row));
    }
  }
  return stored;
}

// Looks up and locks the sequences of the valid items, in an order that is the same for every caller.
std::vector<std::unique_ptr<Pending>> LockSequences(Context& context, std::span<const PutItem> items,
                                                    std::span<Status> statuses) {
  std::vector<std::unique_ptr<Pending>> pending;
  for (size_t i = 0; i < items.size(); ++i) {
    if (!statuses[i].ok()) continue;
    auto sequence = context.sequences.Find(items[i].sequence);
    if (sequence == nullptr) {
      statuses[i] = StaleHandle();
      continue;
    }
    pending.push_back(std::make_unique<Pending>(static_cast<int64_t>(i), std::move(sequence)));
  }
  std::stable_sort(pending.begin(), pending.end(),
                   [](const auto& a, const auto& b) { return a->sequence.get() < b->sequence.get(); });
  for (size_t i = 0; i < pending.size();) {
    if (i > 0 && pending[i]->sequence == pending[i - 1]->sequence) {
      statuses[pending[i]->item] = InvalidArgument("sequence stands twice in the batch");
      pending.erase(pending.begin() + static_cast<int64_t>(i));
      continue;
    }
    pending[i]->lock = std::unique_lock(pending[i]->sequence->mutex);
    ++i;
  }
  return pending;
}

// Claims rows for an item whose sequence is locked; on failure nothing stays claimed.
Status Begin(const Context& context, int32_t layer, const PutItem& item, Pending& pending) {
  const Layer& now = pending.sequence->layers[layer];
  if (pending.sequence->released) return StaleHandle();
  if (item.position != now.length) {
    return Status(StatusCode::kFailedPrecondition,
                  "position is " + std::to_string(item.position) + " but layer " + std::to_string(layer) + " holds " +
                      std::to_string(now.length) + " tokens",
                  StatusDetail::kOutOfOrder);
  }
  pending.next = now;
  return Prepare(context, item.tokens, pending);
}

// Takes an item back and unlocks.
Status Refuse(Pending& pending) {
  const std::unique_lock lock = std::move(pending.lock);
  pending.DropClaims();
  return InvalidArgument("keys or values hold NaN, Inf or a number that the storage dtype cannot hold",
                         StatusDetail::kNonFinite);
}

// Publishes an item and unlocks. True when what it completed is to be sealed before the put returns: not here, for the
// sequences of later items are still locked.
bool Finish(Context& context, int32_t layer, const PutItem& item, Pending& pending) noexcept {
  const std::unique_lock lock = std::move(pending.lock);
  pending.Publish(pending.sequence->layers[layer]);
  context.counters.tokens_put.fetch_add(item.tokens, std::memory_order_relaxed);
  if (context.options.deterministic || item.tokens > kAppendTokens) return true;
  SealLater(context, pending.sequence, layer, lock);
  return false;
}

}  // namespace

Result<std::shared_ptr<KvBlock>> CopyBlock(const Context& context, const KvBlock& block, int64_t rows) {
  const ModelShape& shape = context.shape();
  auto copy = KvBlock::Allocate(context.budget, shape.kv_heads, context.head_shape(), block.capacity());
  if (!copy.ok()) return copy;
  KvBlock& to = **copy;
  to.TryClaim(0, rows);
  const size_t bytes = static_cast<size_t>(rows) * static_cast<size_t>(shape.head_dim) * DTypeSize(shape.storage);
  for (int32_t head = 0; head < shape.kv_heads; ++head) {
    const KvRun from = block.Run(head, 0, rows);
    std::memcpy(to.keys(head, 0), from.keys, bytes);
    std::memcpy(to.values(head, 0), from.values, bytes);
    if (from.key_scales == nullptr) continue;
    std::copy_n(from.key_scales, rows, to.key_scales(head, 0));
    std::copy_n(from.value_scales, rows, to.value_scales(head, 0));
  }
  return copy;
}

void PutTokens(Context& context, int32_t layer, std::span<const PutItem> items, std::span<Status> statuses) {
  for (size_t i = 0; i < items.size(); ++i) statuses[i] = ValidatePut(items[i], context);
  auto pending = LockSequences(context, items, statuses);
  std::vector<std::pair<Pending*, const Target*>> work;
  for (auto& entry : pending) {
    Status& status = statuses[entry->item];
    status = Guard([&] { return Begin(context, layer, items[entry->item], *entry); });
    if (!status.ok()) {
      entry->DropClaims();
      entry->lock.unlock();
      continue;
    }
    for (const Target& target : entry->targets) work.emplace_back(entry.get(), &target);
  }
  context.arena.ParallelFor(static_cast<int64_t>(work.size()), [&](int64_t i) {
    auto& [entry, target] = work[i];
    if (!StoreTarget(context, items[entry->item], *target)) entry->refused.store(true);
  });
  std::vector<Sequence*> sealing;
  sealing.reserve(pending.size());
  for (auto& entry : pending) {
    Status& status = statuses[entry->item];
    if (status.ok() && entry->refused.load()) status = Guard([&] { return Refuse(*entry); });
  }
  // From here on nothing fails: what is published cannot be taken back.
  for (auto& entry : pending) {
    if (statuses[entry->item].ok() && Finish(context, layer, items[entry->item], *entry)) {
      sealing.push_back(entry->sequence.get());
    }
  }
  for (Sequence* sequence : sealing) SealNow(context, *sequence, layer);
}

}  // namespace swell
