// Cutting sequences back.
#ifndef SWELL_LIB_ENGINE_TRUNCATE_H_
#define SWELL_LIB_ENGINE_TRUNCATE_H_

#include "lib/engine/context.h"

namespace swell {

// Engine::Truncate for a sequence that was found; `tokens` >= 0. All layers or none.
Status TruncateSequence(Context& context, Sequence& sequence, int64_t tokens);

}  // namespace swell

#endif  // SWELL_LIB_ENGINE_TRUNCATE_H_
