// Wave index (RetroInfer, arXiv 2505.02922): rows grouped by k-means cluster and an 8-bit meta index of the clusters.
#ifndef SWELL_LIB_INDEX_WAVE_WAVE_INDEX_H_
#define SWELL_LIB_INDEX_WAVE_WAVE_INDEX_H_

#include <cstdint>
#include <memory>

#include "swell/index.h"

namespace swell {

// Arguments are those of IndexOptions, in range.
std::unique_ptr<const IndexBuilder> MakeWaveIndexBuilder(int32_t cluster_tokens, int32_t iterations);

}  // namespace swell

#endif  // SWELL_LIB_INDEX_WAVE_WAVE_INDEX_H_
