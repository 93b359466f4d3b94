// What every KeyIndex checks of its arguments, and keys as float32.
#ifndef SWELL_LIB_INDEX_KEYS_KEY_TABLE_H_
#define SWELL_LIB_INDEX_KEYS_KEY_TABLE_H_

#include <cstdint>
#include <vector>

#include "swell/key_index.h"

namespace swell {

// kInvalidArgument names what is wrong: another storage or head_dim than those given, fewer tokens than `at_least`,
// chunks missing.
Status ValidateKeyTable(const KeyTable& keys, DType storage, int32_t head_dim, int64_t at_least);

// The arguments of KeyIndex::Search but for its effort.
Status ValidateKeySearch(const KeyTable& keys, DType storage, int32_t head_dim, int64_t at_least, const float* queries,
                         int64_t n_queries, int64_t top_k, const FoundKey* found);
Status ValidateEffort(const SearchEffort& effort, int64_t n_queries);

// kInvalidArgument unless low <= value <= high.
Status CheckOption(const char* name, int64_t value, int64_t low, int64_t high);

// [tokens, head_dim]; kNonFinite when one is NaN or Inf. Throws std::bad_alloc.
Result<std::vector<float>> DecodeKeys(const KeyTable& keys);

// Short enough to be kept without an allocation.
Status KeyIndexOutOfMemory();

}  // namespace swell

#endif  // SWELL_LIB_INDEX_KEYS_KEY_TABLE_H_
