// Element conversion between storage dtypes and float32, vectorised with run-time dispatch.
#ifndef SWELL_LIB_BASE_CONVERT_H_
#define SWELL_LIB_BASE_CONVERT_H_

#include <cstdint>

#include "swell/types.h"

namespace swell {

// to[i] = float(from[i]); `from` is float32, float16 or bfloat16. `from` needs element alignment only.
void ConvertToFloat(DType from_dtype, const void* from, int64_t count, float* to);

// Rounds to nearest even into float32, float16 or bfloat16. False when an input is NaN or Inf or overflows the target;
// `to` is then partly written.
bool ConvertFromFloat(const float* from, int64_t count, DType to_dtype, void* to);

// True when all `count` elements of `from` (float32, float16, bfloat16) are finite.
bool AllFinite(DType dtype, const void* from, int64_t count);

// int8 with one scale for the row: scale = max|x| / 127, element = round(x / scale); a zero row has scale 0.
// False when an input is NaN or Inf.
bool QuantizeRow(const float* from, int64_t count, int8_t* to, float* scale);

// One stored row of `count` elements as float32; `scale` is used for int8 only.
void DecodeRow(DType dtype, const void* from, float scale, int64_t count, float* to);

}  // namespace swell

#endif  // SWELL_LIB_BASE_CONVERT_H_
