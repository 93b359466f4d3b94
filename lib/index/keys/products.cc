#include "lib/index/keys/products.h"

#include "lib/base/simd_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "lib/index/keys/products.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <algorithm>
#include <limits>

#include "lib/base/convert-inl.h"

HWY_BEFORE_NAMESPACE();
namespace swell {
namespace HWY_NAMESPACE {

HWY_INLINE float Sum(FloatVec v) { return hn::GetLane(hn::SumOfLanes(FloatTag(), v)); }

// NaN compares false with everything and becomes the lowest.
HWY_INLINE float Clamped(float product) {
  constexpr float kLargest = std::numeric_limits<float>::max();
  return product >= -kLargest ? std::min(product, kLargest) : -kLargest;
}

template <class Rows>
void RowProductsFor(int64_t head_dim, const float* query, std::span<const KeyRow> rows, float* products) {
  const FloatTag d;
  const int64_t lanes = hn::Lanes(d);
  size_t r = 0;
  for (; r + 2 <= rows.size(); r += 2) {  // two rows hide the latency of the additions
    const auto* row0 = reinterpret_cast<const typename Rows::Element*>(rows[r].elements);
    const auto* row1 = reinterpret_cast<const typename Rows::Element*>(rows[r + 1].elements);
    auto sum0 = hn::Zero(d), sum1 = hn::Zero(d);
    for (int64_t i = 0; i < head_dim; i += lanes) {
      const auto q = hn::LoadU(d, query + i);
      sum0 = hn::MulAdd(q, Rows::Load(d, row0 + i), sum0);
      sum1 = hn::MulAdd(q, Rows::Load(d, row1 + i), sum1);
    }
    products[r] = Clamped(Sum(sum0) * rows[r].scale);
    products[r + 1] = Clamped(Sum(sum1) * rows[r + 1].scale);
  }
  if (r == rows.size()) return;
  const auto* row = reinterpret_cast<const typename Rows::Element*>(rows[r].elements);
  auto sum = hn::Zero(d);
  for (int64_t i = 0; i < head_dim; i += lanes) sum = hn::MulAdd(hn::LoadU(d, query + i), Rows::Load(d, row + i), sum);
  products[r] = Clamped(Sum(sum) * rows[r].scale);
}

void RowProducts(DType storage, int32_t head_dim, const float* query, std::span<const KeyRow> rows, float* products) {
  switch (storage) {
    case DType::kFloat32:
      return RowProductsFor<Float32Rows>(head_dim, query, rows, products);
    case DType::kFloat16:
      return RowProductsFor<Float16Rows>(head_dim, query, rows, products);
    case DType::kBFloat16:
      return RowProductsFor<BFloat16Rows>(head_dim, query, rows, products);
    case DType::kInt8:
      return RowProductsFor<Int8Rows>(head_dim, query, rows, products);
  }
}

// kRows rows of a with one of b at a time would wait for loads; 4 x 2 sums stay in registers on every target.
template <int kRows>
HWY_INLINE void ProductStrip(int64_t head_dim, const float* a, const float* b, int64_t n, float* products,
                             int64_t stride) {
  const FloatTag d;
  const int64_t lanes = hn::Lanes(d);
  for (int64_t j = 0; j < n; j += 2) {
    const float* b0 = b + j * head_dim;
    const float* b1 = b + std::min(j + 1, n - 1) * head_dim;
    FloatVec sums0[kRows], sums1[kRows];
    for (int r = 0; r < kRows; ++r) sums0[r] = sums1[r] = hn::Zero(d);
    for (int64_t i = 0; i < head_dim; i += lanes) {
      const auto x0 = hn::LoadU(d, b0 + i);
      const auto x1 = hn::LoadU(d, b1 + i);
      for (int r = 0; r < kRows; ++r) {
        const auto q = hn::LoadU(d, a + r * head_dim + i);
        sums0[r] = hn::MulAdd(q, x0, sums0[r]);
        sums1[r] = hn::MulAdd(q, x1, sums1[r]);
      }
    }
    for (int r = 0; r < kRows; ++r) {
      products[r * stride + j] = Clamped(Sum(sums0[r]));
      if (j + 1 < n) products[r * stride + j + 1] = Clamped(Sum(sums1[r]));
    }
  }
}

void BlockProducts(int32_t head_dim, const float* a, int64_t m, const float* b, int64_t n, float* products,
                   int64_t stride) {
  int64_t i = 0;
  for (; i + 4 <= m; i += 4) ProductStrip<4>(head_dim, a + i * head_dim, b, n, products + i * stride, stride);
  for (; i < m; ++i) ProductStrip<1>(head_dim, a + i * head_dim, b, n, products + i * stride, stride);
}

float SquaredDistance(int32_t head_dim, const float* a, const float* b) {
  const FloatTag d;
  auto sum = hn::Zero(d);
  for (int64_t i = 0; i < head_dim; i += hn::Lanes(d)) {
    const auto difference = hn::Sub(hn::LoadU(d, a + i), hn::LoadU(d, b + i));
    sum = hn::MulAdd(difference, difference, sum);
  }
  return Sum(sum);
}

}  // namespace HWY_NAMESPACE
}  // namespace swell
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace swell {

HWY_EXPORT(RowProducts);
HWY_EXPORT(BlockProducts);
HWY_EXPORT(SquaredDistance);

void RowProducts(DType storage, int32_t head_dim, const float* query, std::span<const KeyRow> rows, float* products) {
  HWY_DYNAMIC_DISPATCH(RowProducts)(storage, head_dim, query, rows, products);
}

void BlockProducts(int32_t head_dim, const float* a, int64_t m, const float* b, int64_t n, float* products,
                   int64_t stride) {
  HWY_DYNAMIC_DISPATCH(BlockProducts)(head_dim, a, m, b, n, products, stride);
}

float SquaredDistance(int32_t head_dim, const float* a, const float* b) {
  return HWY_DYNAMIC_DISPATCH(SquaredDistance)(head_dim, a, b);
}

}  // namespace swell
#endif  // HWY_ONCE
