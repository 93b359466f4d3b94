// Reading rows back.
#ifndef SWELL_LIB_ENGINE_FETCH_H_
#define SWELL_LIB_ENGINE_FETCH_H_

#include <span>

#include "lib/engine/context.h"

namespace swell {

// Engine::Fetch; arguments are not checked yet.
void FetchTokens(Context& context, int32_t layer, std::span<const FetchItem> items, std::span<Status> statuses);

}  // namespace swell

#endif  // SWELL_LIB_ENGINE_FETCH_H_
