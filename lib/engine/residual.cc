#include "lib/engine/residual.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "lib/base/convert.h"
#include "lib/engine/layer.h"

namespace swell {

void Residuals::Add(const HeadShape& shape, const float* queries, const ClusterView& view, int64_t cluster,
                    const KvRun& rows, std::span<const int64_t> read, const float* logits, const float* widths) {
  const int64_t head_dim = shape.head_dim;
  const auto size = static_cast<float>(view.first_rows[cluster + 1] - view.first_rows[cluster]);
  const float left = size - static_cast<float>(read.size());
  if (left <= 0) return;
  std::array<float, kMaxGroup> logit_sums, token_logits;
  std::array<float, kMaxHeadDim> value_sums, value;
  for (int32_t g = 0; g < shape.group; ++g) logit_sums[g] = size * logits[g];
  const float scale = size * view.value_scales[cluster];
  const int8_t* mean = view.value_means + cluster * head_dim;
  for (int64_t d = 0; d < head_dim; ++d) value_sums[d] = scale * static_cast<float>(mean[d]);
  float energy_sum = size * view.value_energies[cluster];
  for (const int64_t row : read) {
    const KvRun one = SubRun(rows, row, 1, shape);
    attention::ScoreRows(shape, queries, one, token_logits.data(), 1);
    for (int32_t g = 0; g < shape.group; ++g) logit_sums[g] -= token_logits[g];
    DecodeRow(shape.storage, one.values, one.value_scales != nullptr ? *one.value_scales : 1.0F, head_dim,
              value.data());
    for (int64_t d = 0; d < head_dim; ++d) {
      value_sums[d] -= value[d];
      energy_sum -= value[d] * value[d];
    }
  }
  sizes_.push_back(left);
  for (int32_t g = 0; g < shape.group; ++g) {
    const float sigma = view.spreads[cluster] * widths[g];
    // The centroid is rounded; few tokens that are left must not make much of it.
    logits_.push_back(std::min(logit_sums[g] / left, logits[g] + sigma));
    sigmas_.push_back(sigma);
  }
  float norm = 0;
  for (int64_t d = 0; d < head_dim; ++d) {
    values_.push_back(value_sums[d] / left);
    norm += values_.back() * values_.back();
  }
  energies_.push_back(std::max(norm, energy_sum / left));
}

void Residuals::AddTo(const HeadShape& shape, bool correct, attention::PartialState state,
                      attention::ErrorState errors) const {
  const int64_t head_dim = shape.head_dim;
  for (int64_t g = 0; g < shape.group; ++g) {
    float max = std::numeric_limits<float>::lowest();
    for (int64_t j = 0; j < count(); ++j) max = std::max(max, logits_[j * shape.group + g]);
    state.max[g] = max;
    float* out = state.out + g * head_dim;
    float* cross = errors.cross + g * head_dim;
    for (int64_t j = 0; j < count(); ++j) {
      const float sigma = sigmas_[j * shape.group + g];
      const float half = 0.5F * sigma * sigma;
      float each = std::exp(logits_[j * shape.group + g] - max);
      if (correct) each *= std::exp(std::min(half, 1.0F));
      const float weight = sizes_[j] * each;
      const float term = weight * each * std::expm1(std::min(2 * half, 2.0F));
      state.sum[g] += weight;
      errors.mass[g] += weight;
      errors.energy[g] += term * energies_[j];
      errors.weight[g] += term;
      const float* value = &values_[j * head_dim];
      for (int64_t d = 0; d < head_dim; ++d) {
        out[d] += weight * value[d];
        cross[d] += term * value[d];
      }
    }
  }
}

}  // namespace swell
