#include "lib/index/graph/metric.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>

#include "lib/index/keys/products.h"

namespace swell::graph {
namespace {

// Queries that fill only a part of the space would leave keys apart at no distance at all: this share of the mean
// variance is added to every dimension.
constexpr double kRidge = 1e-3;

// Lower L with L L^T = `moments` [dim, dim], which is symmetric and positive definite.
void Factorise(int64_t dim, std::vector<double>& moments) {
  for (int64_t i = 0; i < dim; ++i) {
    for (int64_t j = 0; j <= i; ++j) {
      double sum = moments[i * dim + j];
      for (int64_t k = 0; k < j; ++k) sum -= moments[i * dim + k] * moments[j * dim + k];
      moments[i * dim + j] =
          i == j ? std::sqrt(std::max(sum, std::numeric_limits<double>::min())) : sum / moments[j * dim + j];
    }
    std::fill(moments.begin() + i * dim + i + 1, moments.begin() + (i + 1) * dim, 0.0);
  }
}

std::vector<double> SecondMoments(int64_t dim, const float* queries, int64_t n_queries) {
  std::vector<double> moments(static_cast<size_t>(dim * dim));
  for (int64_t q = 0; q < n_queries; ++q) {
    const float* query = queries + q * dim;
    for (int64_t i = 0; i < dim; ++i) {
      for (int64_t j = 0; j <= i; ++j) moments[i * dim + j] += static_cast<double>(query[i]) * query[j];
    }
  }
  double trace = 0;
  for (int64_t i = 0; i < dim; ++i) trace += moments[i * dim + i];
  if (trace <= 0) trace = static_cast<double>(dim);  // no queries: only the ridge is left
  for (int64_t i = 0; i < dim; ++i) moments[i * dim + i] += kRidge * trace / static_cast<double>(dim);
  for (double& x : moments) x *= static_cast<double>(dim) / trace;
  return moments;
}

}  // namespace

Metric::Metric(int32_t head_dim, float* keys, int64_t tokens, const float* queries, int64_t n_queries)
    : head_dim_(head_dim), mean_(head_dim), factor_(int64_t{head_dim} * head_dim), transposed_(factor_.size()) {
  const int64_t elements = tokens * head_dim;
  float largest = 0;
  for (int64_t i = 0; i < elements; ++i) largest = std::max(largest, std::abs(keys[i]));
  if (largest >= std::numeric_limits<float>::min()) scale_ = 1 / largest;
  std::vector<double> sums(head_dim);
  for (int64_t i = 0; i < elements; ++i) sums[i % head_dim] += static_cast<double>(keys[i]) * scale_;
  for (int32_t i = 0; i < head_dim; ++i) mean_[i] = static_cast<float>(sums[i] / static_cast<double>(tokens));
  for (int64_t token = 0; token < tokens; ++token) Centre(keys + token * head_dim);
  std::vector<double> moments = SecondMoments(head_dim, queries, n_queries);
  Factorise(head_dim, moments);
  for (int64_t i = 0; i < head_dim; ++i) {
    for (int64_t j = 0; j < head_dim; ++j) {
      factor_[i * head_dim + j] = transposed_[j * head_dim + i] = static_cast<float>(moments[i * head_dim + j]);
    }
  }
}

void Metric::Centre(float* key) const {
  // Generated keys may be larger than those that the scale is from.
  constexpr float kFarthest = 1e9F;
  for (int32_t i = 0; i < head_dim_; ++i) {
    key[i] = std::clamp(key[i] * scale_, -kFarthest, kFarthest) - mean_[i];
  }
}

void Metric::Place(const float* centred, int64_t keys, float* places) const {
  BlockProducts(head_dim_, centred, keys, transposed_.data(), head_dim_, places, head_dim_);
}

void Metric::Approach(const float* place, float* query) const {
  // |a - b|^2 = |a|^2 - 2 (L a) . b + |b|^2 with b = scale k - mean; what does not depend on k is left out.
  BlockProducts(head_dim_, place, 1, factor_.data(), head_dim_, query, head_dim_);
  for (int32_t i = 0; i < head_dim_; ++i) query[i] *= 2 * scale_;
}

}  // namespace swell::graph
