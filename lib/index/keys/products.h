// Inner products of queries with keys: scattered rows for the search, dense blocks for the build.
//
// head_dim is a multiple of 16. Vectorised with run-time dispatch. Products that float cannot hold are clamped to its
// range, so that they can be ordered; NaN becomes the lowest.
#ifndef SWELL_LIB_INDEX_KEYS_PRODUCTS_H_
#define SWELL_LIB_INDEX_KEYS_PRODUCTS_H_

#include <cstdint>
#include <span>

#include "lib/index/keys/key_rows.h"
#include "swell/types.h"

namespace swell {

// products[i] = query . rows[i]
void RowProducts(DType storage, int32_t head_dim, const float* query, std::span<const KeyRow> rows, float* products);

// products[i * stride + j] = a_i . b_j for dense float rows a [m, head_dim] and b [n, head_dim].
void BlockProducts(int32_t head_dim, const float* a, int64_t m, const float* b, int64_t n, float* products,
                   int64_t stride);

// |a - b|^2
float SquaredDistance(int32_t head_dim, const float* a, const float* b);

}  // namespace swell

#endif  // SWELL_LIB_INDEX_KEYS_PRODUCTS_H_
