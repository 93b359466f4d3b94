// Checks of what callers pass; every message names the argument.
#ifndef SWELL_LIB_ENGINE_VALIDATE_H_
#define SWELL_LIB_ENGINE_VALIDATE_H_

#include <cstdint>
#include <memory>
#include <string>

#include "lib/engine/context.h"
#include "swell/engine.h"

namespace swell {

Status ValidateShape(const ModelShape& shape);
Status ValidateEngineOptions(const EngineOptions& options);
Status ValidateRetrieval(const RetrievalOptions& options, const ModelShape& shape);
Status ValidateSequenceOptions(const SequenceOptions& options, const ModelShape& shape);
Status ValidateLayer(int32_t layer, const ModelShape& shape);

// Null when `what` is required, and aligned to `alignment` bytes.
Status ValidatePointer(const void* pointer, size_t alignment, const std::string& what);
// float32, float16 or bfloat16.
Status ValidateFloatDType(DType dtype, const std::string& what);
// Pointers, dtypes and counts of an item; the sequence is not looked up.
Status ValidatePut(const PutItem& item, const Context& context);
Status ValidateAttend(const AttendItem& item, const Context& context);
Status ValidateSearch(const SearchItem& item, const Context& context);
Status ValidateFetch(const FetchItem& item, const Context& context);

Status StaleHandle();

}  // namespace swell

#endif  // SWELL_LIB_ENGINE_VALIDATE_H_
