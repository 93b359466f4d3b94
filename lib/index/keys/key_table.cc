#include "lib/index/keys/key_table.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "lib/base/checked.h"
#include "lib/base/convert.h"
#include "lib/index/keys/key_rows.h"

namespace swell {
namespace {

constexpr int64_t kMaxKeys = int64_t{1} << 31;
constexpr int64_t kMaxTopK = int64_t{1} << 24;
constexpr int64_t kMaxEffort = int64_t{1} << 24;

Status CheckChunk(const KeyTable& keys, size_t index) {
  const KeyChunk& chunk = keys.chunks[index];
  const auto name = [&](const char* field) { return "keys.chunks[" + std::to_string(index) + "]." + field; };
  if (chunk.keys == nullptr) return InvalidArgument(name("keys") + " is null", StatusDetail::kNullPointer);
  if (reinterpret_cast<uintptr_t>(chunk.keys) % DTypeSize(keys.storage) != 0) {
    return InvalidArgument(name("keys") + " is not aligned to its element", StatusDetail::kMisaligned);
  }
  if (keys.storage == DType::kInt8 && chunk.scales == nullptr) {
    return InvalidArgument(name("scales") + " is null", StatusDetail::kNullPointer);
  }
  return OkStatus();
}

}  // namespace

Status CheckOption(const char* name, int64_t value, int64_t low, int64_t high) {
  if (value >= low && value <= high) return OkStatus();
  return InvalidArgument(std::string(name) + " is " + std::to_string(value) + ", not " + std::to_string(low) + ".." +
                         std::to_string(high));
}

Status ValidateKeyTable(const KeyTable& keys, DType storage, int32_t head_dim, int64_t at_least) {
  if (DTypeSize(keys.storage) == 0) {
    return InvalidArgument("keys.storage is no known dtype", StatusDetail::kUnknownDType);
  }
  if (keys.storage != storage) return InvalidArgument("keys.storage is not the one the index was built with");
  SWELL_RETURN_IF_ERROR(CheckOption("keys.head_dim", keys.head_dim, 16, kMaxHeadDim));
  if (keys.head_dim % 16 != 0) return InvalidArgument("keys.head_dim is not a multiple of 16");
  if (keys.head_dim != head_dim) return InvalidArgument("keys.head_dim is not the one the index was built with");
  SWELL_RETURN_IF_ERROR(CheckOption("keys.tokens", keys.tokens, at_least, kMaxKeys));
  SWELL_RETURN_IF_ERROR(CheckOption("keys.chunk_bits", keys.chunk_bits, 0, 30));
  const int64_t needed = (keys.tokens + (int64_t{1} << keys.chunk_bits) - 1) >> keys.chunk_bits;
  if (static_cast<int64_t>(keys.chunks.size()) < needed) {
    return InvalidArgument("keys.chunks are too few", StatusDetail::kBadSize);
  }
  for (int64_t i = 0; i < needed; ++i) {
    SWELL_RETURN_IF_ERROR(CheckChunk(keys, static_cast<size_t>(i)));
  }
  return OkStatus();
}

Status ValidateKeySearch(const KeyTable& keys, DType storage, int32_t head_dim, int64_t at_least, const float* queries,
                         int64_t n_queries, int64_t top_k, const FoundKey* found) {
  SWELL_RETURN_IF_ERROR(ValidateKeyTable(keys, storage, head_dim, at_least));
  SWELL_RETURN_IF_ERROR(CheckOption("top_k", top_k, 1, kMaxTopK));
  int64_t elements = 0;
  if (!CheckedProduct({n_queries, std::max<int64_t>(head_dim, top_k), 16}, &elements)) {
    return InvalidArgument("n_queries is negative or too large", StatusDetail::kBadSize);
  }
  if (n_queries == 0) return OkStatus();
  if (queries == nullptr || found == nullptr) {
    return InvalidArgument(queries == nullptr ? "queries is null" : "found is null", StatusDetail::kNullPointer);
  }
  for (int64_t i = 0; i < n_queries * head_dim; ++i) {
    if (!std::isfinite(queries[i])) return InvalidArgument("queries hold NaN or Inf", StatusDetail::kNonFinite);
  }
  return OkStatus();
}

Status ValidateEffort(const SearchEffort& effort, int64_t n_queries) {
  if (!effort.entries.empty() && static_cast<int64_t>(effort.entries.size()) != n_queries) {
    return InvalidArgument("effort.entries has " + std::to_string(effort.entries.size()) + " lists for " +
                               std::to_string(n_queries) + " queries",
                           StatusDetail::kBadSize);
  }
  SWELL_RETURN_IF_ERROR(CheckOption("effort.pool", effort.pool, 1, kMaxEffort));
  return CheckOption("effort.visits", effort.visits, 1, kMaxEffort);
}

Result<std::vector<float>> DecodeKeys(const KeyTable& keys) {
  const int64_t head_dim = keys.head_dim;
  std::vector<float> decoded(static_cast<size_t>(keys.tokens * head_dim));
  const KeyRows rows(keys);
  for (int64_t token = 0; token < keys.tokens; ++token) {
    float* to = &decoded[token * head_dim];
    const KeyRow row = rows[token];
    DecodeRow(keys.storage, row.elements, row.scale, head_dim, to);
    if (!AllFinite(DType::kFloat32, to, head_dim)) {
      return InvalidArgument("keys hold NaN or Inf", StatusDetail::kNonFinite);
    }
  }
  return decoded;
}

Status KeyIndexOutOfMemory() {
  return Status(StatusCode::kResourceExhausted, "out of memory", StatusDetail::kNoMemory);
}

}  // namespace swell
