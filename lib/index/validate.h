// Checks of what a caller hands to IndexBuilder::Build, the same for every builder.
#ifndef SWELL_LIB_INDEX_VALIDATE_H_
#define SWELL_LIB_INDEX_VALIDATE_H_

#include <cstdint>
#include <span>

#include "swell/status.h"
#include "swell/types.h"

namespace swell {

// kInvalidArgument names the field of `shape` that is out of range.
Status ValidateShape(const HeadShape& shape);

// Checks shape and runs. The result is the number of tokens of all runs, 1..kMaxSegmentTokens.
Result<int64_t> ValidateBuild(const HeadShape& shape, std::span<const KvRun> runs);

}  // namespace swell

#endif  // SWELL_LIB_INDEX_VALIDATE_H_
