// The best tokens of each query head.
#ifndef SWELL_LIB_ENGINE_SEARCH_H_
#define SWELL_LIB_ENGINE_SEARCH_H_

#include <span>

#include "lib/engine/context.h"

namespace swell {

// Engine::Search; arguments are not checked yet.
void SearchSequences(Context& context, int32_t layer, std::span<const SearchItem> items, std::span<Status> statuses);

}  // namespace swell

#endif  // SWELL_LIB_ENGINE_SEARCH_H_
