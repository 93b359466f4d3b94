#include "lib/attention/byte_sums.h"

#include <algorithm>
#include <limits>

#include "lib/attention/row_tile.h"

#if defined(__x86_64__)
#include "lib/attention/vnni.h"

namespace swell::attention {
namespace {

// Rows whose bytes one instruction adds up.
constexpr int64_t kRows = 4;
// Query heads that share the load of a row; columns, a vector of bytes.
constexpr int64_t kQueries = 4;
constexpr int64_t kColumns = 64;

// weight = step * (256 * high + low), within step / 2; step = the largest weight / 65535 (0 where that is no normal
// float).
struct QuantizedWeights {
  float step;
  alignas(64) uint8_t high[kTileTokens];
  alignas(64) uint8_t low[kTileTokens];
};

// The first `count` of `weights` [kTileTokens]; 0 behind them.
SWELL_VNNI void Quantize(const float* weights, int64_t count, QuantizedWeights* to) {
  constexpr int64_t kLanes = 16;
  __m512 parts[kTileTokens / kLanes];
  __m512 largest = _mm512_setzero_ps();
  for (int64_t i = 0; i < kTileTokens / kLanes; ++i) {
    const int64_t left = std::clamp<int64_t>(count - i * kLanes, 0, kLanes);
    parts[i] = _mm512_maskz_loadu_ps(static_cast<__mmask16>((1U << left) - 1), weights + i * kLanes);
    largest = _mm512_max_ps(largest, parts[i]);
  }
  to->step = _mm512_reduce_max_ps(largest) / 65535;
  if (to->step < std::numeric_limits<float>::min()) to->step = 0;  // its reciprocal would not be finite
  const __m512 inverse = _mm512_set1_ps(to->step > 0 ? 1 / to->step : 0);
  for (int64_t i = 0; i < kTileTokens / kLanes; ++i) {
    const __m512i rounded = _mm512_cvtps_epi32(parts[i] * inverse);
    _mm_store_si128(reinterpret_cast<__m128i*>(to->high + i * kLanes),
                    _mm512_cvtepi32_epi8(_mm512_srli_epi32(rounded, 8)));
    _mm_store_si128(reinterpret_cast<__m128i*>(to->low + i * kLanes), _mm512_cvtepi32_epi8(rounded));
  }
}

// Four rows, of which every 32-bit lane takes a column's bytes: `kHalf` says which half of each 16 columns.
template <int kHalf>
SWELL_VNNI inline void Interleave(const __m512i* rows, __m512i* columns) {
  const __m512i ab = kHalf == 0 ? _mm512_unpacklo_epi8(rows[0], rows[1]) : _mm512_unpackhi_epi8(rows[0], rows[1]);
  const __m512i ce = kHalf == 0 ? _mm512_unpacklo_epi8(rows[2], rows[3]) : _mm512_unpackhi_epi8(rows[2], rows[3]);
  columns[0] = _mm512_unpacklo_epi16(ab, ce);
  columns[1] = _mm512_unpackhi_epi16(ab, ce);
}

// Adds half of the columns [column, column + kColumns) that `valid` names.
template <int kQueryCount, int kHalf>
SWELL_VNNI void SumHalf(const int8_t* const* rows, int64_t count, const QuantizedWeights* weights, int64_t head_dim,
                        int64_t column, uint64_t valid, float* sums) {
  __m512i high[kQueryCount][2], low[kQueryCount][2];
  for (int q = 0; q < kQueryCount; ++q) {
    for (int half = 0; half < 2; ++half) high[q][half] = low[q][half] = _mm512_setzero_si512();
  }
  for (int64_t t = 0; t < count; t += kRows) {
    __m512i quad[kRows], columns[2];
    for (int64_t r = 0; r < kRows; ++r) quad[r] = _mm512_maskz_loadu_epi8(valid, rows[t + r] + column);
    Interleave<kHalf>(quad, columns);
    for (int q = 0; q < kQueryCount; ++q) {
      const __m512i upper = BroadcastQuad(weights[q].high + t), lower = BroadcastQuad(weights[q].low + t);
      for (int half = 0; half < 2; ++half) {
        high[q][half] = AddByteProducts(high[q][half], upper, columns[half]);
        low[q][half] = AddByteProducts(low[q][half], lower, columns[half]);
      }
    }
  }
  // Unrolled, or GCC keeps the sums in memory.
#pragma GCC unroll 4
  for (int q = 0; q < kQueryCount; ++q) {
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      const __m512i sum = _mm512_add_epi32(_mm512_slli_epi32(high[q][half], 8), low[q][half]);
      const __m512 scaled = _mm512_cvtepi32_ps(sum) * _mm512_set1_ps(weights[q].step);
      // Block b of four lanes holds columns 16 b + 8 kHalf + 4 half, ...
      float* to = sums + q * head_dim + column + 8 * kHalf + 4 * half;
      const __m128 blocks[] = {_mm512_extractf32x4_ps(scaled, 0), _mm512_extractf32x4_ps(scaled, 1),
                               _mm512_extractf32x4_ps(scaled, 2), _mm512_extractf32x4_ps(scaled, 3)};
      for (int64_t b = 0; b < kColumns / 16 && column + 16 * b < head_dim; ++b) {
        _mm_storeu_ps(to + 16 * b, _mm_loadu_ps(to + 16 * b) + blocks[b]);
      }
    }
  }
}

template <int kQueryCount>
SWELL_VNNI void SumFor(const int8_t* const* rows, int64_t count, const QuantizedWeights* weights, int64_t head_dim,
                       float* sums) {
  for (int64_t column = 0; column < head_dim; column += kColumns) {
    const int64_t left = head_dim - column;
    const uint64_t valid = left >= kColumns ? ~uint64_t{0} : (uint64_t{1} << left) - 1;
    SumHalf<kQueryCount, 0>(rows, count, weights, head_dim, column, valid, sums);
    SumHalf<kQueryCount, 1>(rows, count, weights, head_dim, column, valid, sums);
  }
}

}  // namespace

void SumByteRows(const void* const* rows, int64_t count, const float* weights, int64_t group, int64_t head_dim,
                 float* sums) {
  const int8_t* whole[kTileTokens];
  for (int64_t t = 0; t < kTileTokens; ++t) whole[t] = static_cast<const int8_t*>(rows[std::min(t, count - 1)]);
  QuantizedWeights quantized[kQueries];
  for (; group > 0; group -= kQueries, weights += kQueries * kTileTokens, sums += kQueries * head_dim) {
    const int64_t queries = std::min(group, kQueries);
    for (int64_t q = 0; q < queries; ++q) Quantize(weights + q * kTileTokens, count, &quantized[q]);
    switch (queries) {
      case 1:
        SumFor<1>(whole, count, quantized, head_dim, sums);
        break;
      case 2:
        SumFor<2>(whole, count, quantized, head_dim, sums);
        break;
      case 3:
        SumFor<3>(whole, count, quantized, head_dim, sums);
        break;
      default:
        SumFor<4>(whole, count, quantized, head_dim, sums);
        break;
    }
  }
}

}  // namespace swell::attention

#else

namespace swell::attention {

void SumByteRows(const void* const*, int64_t, const float*, int64_t, int64_t, float*) {}

}  // namespace swell::attention

#endif
