// Partial states and error states: reset, merge, finish, and the predicted error.
#include "lib/base/simd_targets.h"
#include "swell/attention.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "lib/attention/state.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "lib/attention/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace swell {
namespace attention {
namespace HWY_NAMESPACE {

// into = a * from + b * into
void Combine(float a, const float* from, float b, int64_t count, float* into) {
  const FloatTag d;
  for (int64_t i = 0; i < count; i += hn::Lanes(d)) {
    const auto scaled = hn::Mul(hn::Set(d, b), hn::LoadU(d, into + i));
    hn::StoreU(hn::MulAdd(hn::Set(d, a), hn::LoadU(d, from + i), scaled), d, into + i);
  }
}

// to = factor * from
void Scale(float factor, const float* from, int64_t count, float* to) {
  const FloatTag d;
  for (int64_t i = 0; i < count; i += hn::Lanes(d)) {
    hn::StoreU(hn::Mul(hn::Set(d, factor), hn::LoadU(d, from + i)), d, to + i);
  }
}

const char* TargetName() { return hwy::TargetName(HWY_TARGET); }

}  // namespace HWY_NAMESPACE
}  // namespace attention
}  // namespace swell
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace swell::attention {
namespace {

constexpr float kNothing = -std::numeric_limits<float>::infinity();

// What two states are multiplied by when they merge.
struct MergeFactors {
  float max;
  float from;
  float into;
};

// A state without tokens is neutral whatever the other's maximum.
MergeFactors FactorsOf(float from_max, float into_max) {
  if (from_max == kNothing) return {into_max, 0, 1};
  const float max = std::max(from_max, into_max);
  return {max, std::exp(from_max - max), std::exp(into_max - max)};
}

}  // namespace

HWY_EXPORT(Combine);
HWY_EXPORT(Scale);
HWY_EXPORT(TargetName);

void ResetState(int64_t rows, int32_t head_dim, PartialState state) {
  std::fill_n(state.max, rows, kNothing);
  std::fill_n(state.sum, rows, 0.0f);
  std::fill_n(state.out, rows * head_dim, 0.0f);
}

void MergeState(int64_t rows, int32_t head_dim, const PartialState& from, PartialState into) {
  for (int64_t r = 0; r < rows; ++r) {
    const MergeFactors factors = FactorsOf(from.max[r], into.max[r]);
    if (factors.from == 0 && factors.into == 1) continue;
    into.max[r] = factors.max;
    into.sum[r] = factors.from * from.sum[r] + factors.into * into.sum[r];
    const int64_t at = r * head_dim;
    HWY_DYNAMIC_DISPATCH(Combine)(factors.from, from.out + at, factors.into, head_dim, into.out + at);
  }
}

void LogMassOfState(int64_t rows, const PartialState& state, float* log_mass) {
  for (int64_t r = 0; r < rows; ++r) log_mass[r] = state.sum[r] > 0 ? state.max[r] + std::log(state.sum[r]) : kNothing;
}

void FinishState(int64_t rows, int32_t head_dim, const PartialState& state, float* output, float* lse) {
  for (int64_t r = 0; r < rows; ++r) {
    const float sum = state.sum[r];
    const float factor = sum > 0 ? 1 / sum : 0;
    HWY_DYNAMIC_DISPATCH(Scale)(factor, state.out + r * head_dim, head_dim, output + r * head_dim);
  }
  if (lse != nullptr) LogMassOfState(rows, state, lse);
}

void ResetErrors(const HeadShape& shape, ErrorState errors) {
  std::fill_n(errors.energy, shape.group, 0.0f);
  std::fill_n(errors.weight, shape.group, 0.0f);
  std::fill_n(errors.mass, shape.group, 0.0f);
  std::fill_n(errors.cross, static_cast<int64_t>(shape.group) * shape.head_dim, 0.0f);
}

void MergeErrors(const HeadShape& shape, const float* from_max, const ErrorState& from, const float* into_max,
                 ErrorState into) {
  for (int64_t g = 0; g < shape.group; ++g) {
    const MergeFactors factors = FactorsOf(from_max[g], into_max[g]);
    // Mass is linear in the weights of the clusters, the others are quadratic.
    const float from_square = factors.from * factors.from;
    const float into_square = factors.into * factors.into;
    into.mass[g] = factors.from * from.mass[g] + factors.into * into.mass[g];
    into.energy[g] = from_square * from.energy[g] + into_square * into.energy[g];
    into.weight[g] = from_square * from.weight[g] + into_square * into.weight[g];
    const int64_t at = g * shape.head_dim;
    HWY_DYNAMIC_DISPATCH(Combine)(from_square, from.cross + at, into_square, shape.head_dim, into.cross + at);
  }
}

void PredictError(const HeadShape& shape, const PartialState& state, const ErrorState& errors, float* relative_error,
                  float* estimated_share) {
  for (int64_t g = 0; g < shape.group; ++g) {
    relative_error[g] = estimated_share[g] = 0;
    const double sum = state.sum[g];
    if (!(sum > 0)) continue;
    double cross = 0, square = 0;
    for (int64_t i = g * shape.head_dim; i < (g + 1) * shape.head_dim; ++i) {
      const double output = state.out[i] / sum;
      cross += output * errors.cross[i];
      square += output * output;
    }
    const double variance = std::max(errors.energy[g] - 2 * cross + square * errors.weight[g], 0.0) / (sum * sum);
    // An output of zero makes any error infinitely large relative to it; the figure stays a number.
    const double ratio = variance > 0 ? std::sqrt(variance / std::max(square, std::numeric_limits<double>::min())) : 0;
    relative_error[g] = static_cast<float>(std::min<double>(ratio, std::numeric_limits<float>::max()));
    estimated_share[g] = static_cast<float>(std::min(errors.mass[g] / sum, 1.0));
  }
}

const char* SimdTargetName() { return HWY_DYNAMIC_DISPATCH(TargetName)(); }

}  // namespace swell::attention
#endif  // HWY_ONCE
