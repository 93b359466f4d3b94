// The tokens that one KV head reads when its index finds single tokens.
#ifndef SWELL_LIB_ENGINE_FIND_TOKENS_H_
#define SWELL_LIB_ENGINE_FIND_TOKENS_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "lib/engine/retrieve.h"

namespace swell {

// How many sealed tokens of the layer, from the first on, are searched for; nothing when clusters are to be read: the
// index is another one, or its graph is not there or lacks too much.
std::optional<int64_t> TokensKnown(const HeadStep& step);

// Clusters at whose tokens a search of the graph begins (docs/measurements.md says why so many).
constexpr int64_t kEntryClusters = 96;

// Whether that is how tokens are found: FindTokens then needs the scores of step.clusters.
bool BeginsAtClusters(const HeadStep& step);

// Tokens of the kEntryClusters clusters that each query head [group] scores best, as the graph numbers them. Throws
// std::bad_alloc.
std::vector<std::vector<uint32_t>> EntryTokens(const HeadStep& step, int32_t group);

// Positions of the best tokens in step.segments, sorted, step.budget.tokens at most: of each query head the best one,
// then of each the second best, and so on. Adds to step.keys_compared. Throws std::bad_alloc.
std::vector<int64_t> FindTokens(const HeadShape& shape, HeadStep& step);

}  // namespace swell

#endif  // SWELL_LIB_ENGINE_FIND_TOKENS_H_
