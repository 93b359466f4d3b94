#include <string>

#include "lib/index/flat/flat_index.h"
#include "lib/index/wave/wave_index.h"
#include "swell/index.h"

namespace swell {
namespace {

Status CheckRange(const char* name, int64_t value, int64_t low, int64_t high) {
  if (value >= low && value <= high) return OkStatus();
  return InvalidArgument("IndexOptions::" + std::string(name) + " is " + std::to_string(value) + ", not " +
                         std::to_string(low) + ".." + std::to_string(high));
}

}  // namespace

Result<std::unique_ptr<const IndexBuilder>> MakeIndexBuilder(const IndexOptions& options) {
  SWELL_RETURN_IF_ERROR(CheckRange("cluster_tokens", options.cluster_tokens, 1, 4096));
  SWELL_RETURN_IF_ERROR(CheckRange("iterations", options.iterations, 1, 100));
  switch (options.kind) {
    case IndexKind::kFlat:
      return MakeFlatIndexBuilder();
    case IndexKind::kWave:
    case IndexKind::kGraph:  // what spans segments is the engine's
    case IndexKind::kScan:
    case IndexKind::kFaissFlat:
    case IndexKind::kFaissIvf:
    case IndexKind::kFaissHnsw:
      return MakeWaveIndexBuilder(options.cluster_tokens, options.iterations);
  }
  return InvalidArgument("IndexOptions::kind is " + std::to_string(static_cast<int32_t>(options.kind)) +
                         ", which is no IndexKind");
}

}  // namespace swell
