// Flat index: no clusters, rows stay in token order, so that every row is read exactly.
#ifndef SWELL_LIB_INDEX_FLAT_FLAT_INDEX_H_
#define SWELL_LIB_INDEX_FLAT_FLAT_INDEX_H_

#include <memory>

#include "swell/index.h"

namespace swell {

std::unique_ptr<const IndexBuilder> MakeFlatIndexBuilder();

}  // namespace swell

#endif  // SWELL_LIB_INDEX_FLAT_FLAT_INDEX_H_
