// Attention over what sequences hold.
#ifndef SWELL_LIB_ENGINE_ATTEND_H_
#define SWELL_LIB_ENGINE_ATTEND_H_

#include <span>
#include <vector>

#include "lib/engine/context.h"

namespace swell {

// Engine::Attend; arguments are not checked yet.
void AttendSequences(Context& context, int32_t layer, std::span<const AttendItem> items, std::span<Status> statuses);

// The queries of an item as float32 [n_queries, heads, head_dim]: the caller's memory, or `buffer` after conversion.
// kNonFinite when one is NaN or Inf.
Result<const float*> FloatQueries(const Context& context, const void* queries, DType dtype, int64_t n_queries,
                                  std::vector<float>& buffer);

}  // namespace swell

#endif  // SWELL_LIB_ENGINE_ATTEND_H_
