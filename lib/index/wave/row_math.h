// Passes over decoded rows: range, centring, moments of a cluster, and the one quantiser of the meta index.
//
// Rows are float32 [.., head_dim], cache-line aligned, head_dim a multiple of 16. Sums are kept in float64, so that
// neither the number of tokens nor the size of the numbers matters. Vectorised with run-time dispatch.
#ifndef SWELL_LIB_INDEX_WAVE_ROW_MATH_H_
#define SWELL_LIB_INDEX_WAVE_ROW_MATH_H_

#include <cstdint>
#include <span>

namespace swell::wave {

// Rows of one cluster among the rows of a segment: row r is at rows + tokens[r] * head_dim.
struct ClusterRows {
  const float* rows = nullptr;
  std::span<const uint16_t> tokens;
  int32_t head_dim = 0;
};

// sums[i] = sum of column i, [head_dim] (NaN or Inf when an element is); returns the largest magnitude.
float ScanRows(const float* rows, int64_t count, int32_t head_dim, double* sums);

// row = scale * row - shift, for every row; shift [head_dim].
void CentreRows(float* rows, int64_t count, int32_t head_dim, float scale, const float* shift);

// mean[i] over the cluster; [head_dim].
void MeanOfRows(const ClusterRows& cluster, float* mean);

// variance[i] = mean of (x - mean[i])^2; [head_dim].
void VarianceOfRows(const ClusterRows& cluster, const float* mean, float* variance);

// Mean of |row|^2 over the cluster.
double EnergyOfRows(const ClusterRows& cluster);

// x[i] * unit is about to[i] * scale, the returned one, within half a step: scale = unit * max|x| / 127, rounded to
// nearest. A scale below the smallest normal float is 0 with zero elements; one that float cannot hold is clamped to
// where scale * 127 is finite.
float QuantizeSigned(const float* x, int32_t head_dim, double unit, int8_t* to);

}  // namespace swell::wave

#endif  // SWELL_LIB_INDEX_WAVE_ROW_MATH_H_
