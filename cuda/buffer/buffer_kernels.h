// Kernels that keep the books of a wave buffer. Includable without nvcc; they enqueue on `stream` and return a launch's
// error; LaunchMaintain can be captured.
#ifndef SWELL_CUDA_BUFFER_BUFFER_KERNELS_H_
#define SWELL_CUDA_BUFFER_BUFFER_KERNELS_H_

#include <driver_types.h>

#include "cuda/buffer/buffer_view.h"
#include "cuda/step/segment.h"
#include "swell/status.h"

namespace swell::cuda {

// All slots free, nothing cached.
Status LaunchClear(const BufferView& view, cudaStream_t stream);

// Ends a step: records that were on their way are cached from now on, and second chance (CLOCK) frees slots until there
// are view.reserve. Twin of EndStep in lib/cache.
Status LaunchMaintain(const BufferView& view, cudaStream_t stream);

// Drops records first .. first + count, whose home is given back.
Status LaunchForget(const BufferView& view, int64_t first, int64_t count, cudaStream_t stream);

// Writes the records of one head as int8 to their home, each row with the scale max / 127, and the scales to the books.
// Twin of QuantizeRow in lib/base.
Status LaunchQuantise(const BufferView& view, const SegmentHead& head, int32_t head_dim, bool is_half, int64_t first,
                      cudaStream_t stream);

// Writes the rows of the first `tokens` tokens of a head, wherever they live, as token records in the order of the
// tokens, in the storage dtype: what was int8 at home is rounded. Without a buffer `view` is empty.
Status LaunchReopen(const BufferView& view, const SegmentHead& head, int32_t head_dim, bool is_half, int64_t tokens,
                    std::byte* records, cudaStream_t stream);

// Corrects the addresses in the records of one head's tiles after its rows and its index have moved by so many bytes.
Status LaunchRelocate(const SegmentHead& head, int32_t head_dim, int64_t rows_by, int64_t index_by,
                      cudaStream_t stream);

}  // namespace swell::cuda

#endif  // SWELL_CUDA_BUFFER_BUFFER_KERNELS_H_
