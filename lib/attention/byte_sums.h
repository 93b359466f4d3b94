// Weighted sums of rows of bytes in integers, where the processor multiplies bytes (HasByteDots): the estimate's mean
// values. Elsewhere rows-inl.h sums floats.
#ifndef SWELL_LIB_ATTENTION_BYTE_SUMS_H_
#define SWELL_LIB_ATTENTION_BYTE_SUMS_H_

#include <cstdint>

namespace swell::attention {

// sums [group, head_dim] += weights [group, kTileTokens] x rows [count, head_dim] of int8. Weights are finite and not
// negative, and count in 16 bits: each within 2^-17 of the largest of its query head. count 1..kTileTokens; head_dim a
// multiple of 16. To be called only where HasByteDots().
void SumByteRows(const void* const* rows, int64_t count, const float* weights, int64_t group, int64_t head_dim,
                 float* sums);

}  // namespace swell::attention

#endif  // SWELL_LIB_ATTENTION_BYTE_SUMS_H_
