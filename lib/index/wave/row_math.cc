#include "lib/index/wave/row_math.h"

#include <algorithm>
#include <cstddef>
#include <limits>

#include "lib/base/simd_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "lib/index/wave/row_math.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace swell::wave {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// At most 16 lanes, which divide every head_dim.
const hn::CappedTag<float, 16> kFloats;
const hn::CappedTag<double, 8> kDoubles;
const hn::Rebind<float, decltype(kDoubles)> kHalf;

float ScanRows(const float* rows, int64_t count, int32_t head_dim, double* sums) {
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(kDoubles));
  auto largest = hn::Zero(kHalf);
  std::fill(sums, sums + head_dim, 0.0);
  for (int64_t row = 0; row < count; ++row) {
    for (int64_t i = 0; i < head_dim; i += lanes) {
      const auto x = hn::LoadU(kHalf, rows + row * head_dim + i);
      largest = hn::Max(largest, hn::Abs(x));
      hn::StoreU(hn::Add(hn::LoadU(kDoubles, sums + i), hn::PromoteTo(kDoubles, x)), kDoubles, sums + i);
    }
  }
  return hn::GetLane(hn::MaxOfLanes(kHalf, largest));
}

void CentreRows(float* rows, int64_t count, int32_t head_dim, float scale, const float* shift) {
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(kFloats));
  const auto factor = hn::Set(kFloats, scale);
  for (int64_t row = 0; row < count; ++row) {
    for (int64_t i = 0; i < head_dim; i += lanes) {
      float* x = rows + row * head_dim + i;
      hn::StoreU(hn::MulSub(hn::LoadU(kFloats, x), factor, hn::LoadU(kFloats, shift + i)), kFloats, x);
    }
  }
}

void MeanOfRows(const ClusterRows& cluster, float* mean) {
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(kDoubles));
  const auto count = hn::Set(kDoubles, static_cast<double>(cluster.tokens.size()));
  for (int64_t i = 0; i < cluster.head_dim; i += lanes) {
    auto sum = hn::Zero(kDoubles);
    for (const uint16_t token : cluster.tokens) {
      const float* row = cluster.rows + static_cast<int64_t>(token) * cluster.head_dim;
      sum = hn::Add(sum, hn::PromoteTo(kDoubles, hn::LoadU(kHalf, row + i)));
    }
    hn::StoreU(hn::DemoteTo(kHalf, hn::Div(sum, count)), kHalf, mean + i);
  }
}

void VarianceOfRows(const ClusterRows& cluster, const float* mean, float* variance) {
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(kDoubles));
  const auto count = hn::Set(kDoubles, static_cast<double>(cluster.tokens.size()));
  for (int64_t i = 0; i < cluster.head_dim; i += lanes) {
    const auto centre = hn::PromoteTo(kDoubles, hn::LoadU(kHalf, mean + i));
    auto sum = hn::Zero(kDoubles);
    for (const uint16_t token : cluster.tokens) {
      const float* row = cluster.rows + static_cast<int64_t>(token) * cluster.head_dim;
      const auto difference = hn::Sub(hn::PromoteTo(kDoubles, hn::LoadU(kHalf, row + i)), centre);
      sum = hn::MulAdd(difference, difference, sum);
    }
    hn::StoreU(hn::DemoteTo(kHalf, hn::Div(sum, count)), kHalf, variance + i);
  }
}

double EnergyOfRows(const ClusterRows& cluster) {
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(kDoubles));
  auto sum = hn::Zero(kDoubles);
  for (const uint16_t token : cluster.tokens) {
    const float* row = cluster.rows + static_cast<int64_t>(token) * cluster.head_dim;
    for (int64_t i = 0; i < cluster.head_dim; i += lanes) {
      const auto x = hn::PromoteTo(kDoubles, hn::LoadU(kHalf, row + i));
      sum = hn::MulAdd(x, x, sum);
    }
  }
  return hn::GetLane(hn::SumOfLanes(kDoubles, sum)) / static_cast<double>(cluster.tokens.size());
}

float QuantizeSigned(const float* x, int32_t head_dim, double unit, int8_t* to) {
  constexpr int32_t kSteps = std::numeric_limits<int8_t>::max();
  const hn::RebindToSigned<decltype(kFloats)> ints;
  const hn::Rebind<int8_t, decltype(kFloats)> bytes;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(kFloats));
  auto largest = hn::Zero(kFloats);
  for (int64_t i = 0; i < head_dim; i += lanes) largest = hn::Max(largest, hn::Abs(hn::LoadU(kFloats, x + i)));
  const float maximum = hn::GetLane(hn::MaxOfLanes(kFloats, largest));
  const double largest_scale = static_cast<double>(std::numeric_limits<float>::max()) / (kSteps + 1);
  const double scale = std::min(maximum * unit / kSteps, largest_scale);
  const float step = maximum / kSteps;
  if (scale < std::numeric_limits<float>::min() || step < std::numeric_limits<float>::min()) {
    std::fill(to, to + head_dim, int8_t{0});
    return 0;
  }
  const auto inverse = hn::Set(kFloats, 1 / step);
  for (int64_t i = 0; i < head_dim; i += lanes) {
    const auto rounded = hn::NearestInt(hn::Mul(hn::LoadU(kFloats, x + i), inverse));
    hn::StoreU(hn::DemoteTo(bytes, hn::Min(rounded, hn::Set(ints, kSteps))), bytes, to + i);
  }
  return static_cast<float>(scale);
}

}  // namespace HWY_NAMESPACE
}  // namespace swell::wave
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace swell::wave {

HWY_EXPORT(ScanRows);
HWY_EXPORT(CentreRows);
HWY_EXPORT(MeanOfRows);
HWY_EXPORT(VarianceOfRows);
HWY_EXPORT(EnergyOfRows);
HWY_EXPORT(QuantizeSigned);

float ScanRows(const float* rows, int64_t count, int32_t head_dim, double* sums) {
  return HWY_DYNAMIC_DISPATCH(ScanRows)(rows, count, head_dim, sums);
}

void CentreRows(float* rows, int64_t count, int32_t head_dim, float scale, const float* shift) {
  HWY_DYNAMIC_DISPATCH(CentreRows)(rows, count, head_dim, scale, shift);
}

void MeanOfRows(const ClusterRows& cluster, float* mean) { HWY_DYNAMIC_DISPATCH(MeanOfRows)(cluster, mean); }

void VarianceOfRows(const ClusterRows& cluster, const float* mean, float* variance) {
  HWY_DYNAMIC_DISPATCH(VarianceOfRows)(cluster, mean, variance);
}

double EnergyOfRows(const ClusterRows& cluster) { return HWY_DYNAMIC_DISPATCH(EnergyOfRows)(cluster); }

float QuantizeSigned(const float* x, int32_t head_dim, double unit, int8_t* to) {
  return HWY_DYNAMIC_DISPATCH(QuantizeSigned)(x, head_dim, unit, to);
}

}  // namespace swell::wave
#endif  // HWY_ONCE
