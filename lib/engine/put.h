// Appending tokens to layers.
#ifndef SWELL_LIB_ENGINE_PUT_H_
#define SWELL_LIB_ENGINE_PUT_H_

#include <span>

#include "lib/engine/context.h"

namespace swell {

// Puts of more tokens than this index what they complete before they return, with all threads; shorter ones (tokens
// being generated) leave it to the background and never wait.
constexpr int64_t kAppendTokens = 32;

// Engine::Put; arguments are not checked yet.
void PutTokens(Context& context, int32_t layer, std::span<const PutItem> items, std::span<Status> statuses);

// A block of the same kind that holds copies of the first `rows` rows, claimed.
Result<std::shared_ptr<KvBlock>> CopyBlock(const Context& context, const KvBlock& block, int64_t rows);

}  // namespace swell

#endif  // SWELL_LIB_ENGINE_PUT_H_
