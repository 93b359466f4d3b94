// The index of one KV head of a segment in device memory, read back as the CPU shows an index.
#ifndef SWELL_TESTS_CUDA_DOWNLOADED_INDEX_H_
#define SWELL_TESTS_CUDA_DOWNLOADED_INDEX_H_

#include <cstdint>
#include <memory>

#include "cuda/step/segment.h"
#include "swell/index.h"
#include "tests/cuda/step_world.h"

namespace swell::cuda {

// Rows in the order of the clusters, and the views of both levels; order() is empty. Expects of every record that its
// addresses lead where they should and that its padding is zero.
HostRows DownloadHead(const SegmentHead& head, int32_t head_dim);

}  // namespace swell::cuda

#endif  // SWELL_TESTS_CUDA_DOWNLOADED_INDEX_H_
