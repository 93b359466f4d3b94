// What the kernel tests share: rows with poison around them, float64 references, one run per SIMD target.
#ifndef SWELL_TESTS_ATTENTION_SUPPORT_H_
#define SWELL_TESTS_ATTENTION_SUPPORT_H_

#include "lib/base/simd_targets.h"
// After the choice of targets.
#include <gtest/gtest.h>
#include <hwy/targets.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <iostream>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "lib/base/convert.h"
#include "swell/attention.h"

namespace swell::attention {

constexpr uint64_t kSeed = 20250502;
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

// Cheap deviates of mean 0 and variance 1, bounded by sqrt(12): four uniform bytes.
class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}
  float Normal() {
    const uint64_t bits = engine_();
    const int sum = static_cast<int>(bits & 255) + (bits >> 8 & 255) + (bits >> 16 & 255) + (bits >> 24 & 255);
    return (static_cast<float>(sum) - 510.0f + static_cast<float>(bits >> 40) * 0x1p-24f) * (1.0f / 147.8f);
  }
  // 0 .. bound - 1
  int64_t Below(int64_t bound) { return static_cast<int64_t>(engine_() % static_cast<uint64_t>(bound)); }
  std::vector<float> Normals(int64_t count, float scale = 1) {
    std::vector<float> result(count);
    for (float& value : result) value = scale * Normal();
    return result;
  }

 private:
  std::mt19937_64 engine_;
};

// Each test runs once for every SIMD target of the machine.
class TargetTest : public testing::TestWithParam<int64_t> {
 protected:
  void SetUp() override {
    hwy::SetSupportedTargetsForTest(GetParam());
    std::cout << "seed " << kSeed << "\n";
    ASSERT_STREQ(SimdTargetName(), hwy::TargetName(GetParam()));
  }
  void TearDown() override { hwy::SetSupportedTargetsForTest(0); }
  bool IsSlow() const { return GetParam() >= HWY_EMU128; }

  Random random_{kSeed};
};

inline std::string TargetName(const testing::TestParamInfo<int64_t>& info) { return hwy::TargetName(info.param); }

#define SWELL_EVERY_TARGET(suite) \
  INSTANTIATE_TEST_SUITE_P(Targets, suite, testing::ValuesIn(hwy::SupportedAndGeneratedTargets()), TargetName)

// Rows of K and V in runs; each run starts one element off alignment and has NaN on both sides.
class Rows {
 public:
  Rows(const HeadShape& shape, const std::vector<int64_t>& run_tokens, Random* random, float key_scale = 1)
      : head_dim_(shape.head_dim) {
    for (int64_t count : run_tokens) tokens_ += count;
    keys_.original = random->Normals(tokens_ * head_dim_, key_scale);
    values_.original = random->Normals(tokens_ * head_dim_);
    keys_.Store(shape.storage, head_dim_, run_tokens);
    values_.Store(shape.storage, head_dim_, run_tokens);
    int64_t first = 0;
    for (size_t i = 0; i < run_tokens.size(); ++i) {
      KvRun run;
      run.keys = keys_.RunAt(i);
      run.values = values_.RunAt(i);
      if (shape.storage == DType::kInt8) {
        run.key_scales = keys_.ScalesAt(i);
        run.value_scales = values_.ScalesAt(i);
      }
      run.first_token = first;
      run.tokens = run_tokens[i];
      first += run.tokens;
      runs.push_back(run);
    }
  }

  int64_t tokens() const { return tokens_; }
  const std::vector<float>& keys(bool decoded) const { return decoded ? keys_.decoded : keys_.original; }
  const std::vector<float>& values(bool decoded) const { return decoded ? values_.decoded : values_.original; }

  std::vector<KvRun> runs;

 private:
  struct Side {
    std::vector<float> original, decoded;  // [tokens, head_dim]
    std::vector<uint8_t> bytes;
    std::vector<float> scales;
    std::vector<int64_t> starts, scale_starts;

    void Store(DType dtype, int64_t head_dim, const std::vector<int64_t>& run_tokens) {
      const int64_t size = DTypeSize(dtype);
      const int64_t guard = 16 * size + size;
      decoded.resize(original.size());
      bytes.resize(original.size() * size + (run_tokens.size() + 1) * guard + 16, 0xFF);
      scales.resize(original.size() / head_dim + run_tokens.size() + 1, kNan);
      int64_t at = guard, scale_at = 1, row = 0;
      for (int64_t count : run_tokens) {
        starts.push_back(at);
        scale_starts.push_back(scale_at);
        for (int64_t end = row + count; row < end; ++row, at += head_dim * size, ++scale_at) {
          const float* from = original.data() + row * head_dim;
          float scale = 1;
          const bool stored = dtype == DType::kInt8
                                  ? QuantizeRow(from, head_dim, reinterpret_cast<int8_t*>(&bytes[at]), &scale)
                                  : ConvertFromFloat(from, head_dim, dtype, &bytes[at]);
          if (!stored) ADD_FAILURE() << "row " << row << " is not finite";
          scales[scale_at] = scale;
          DecodeRow(dtype, &bytes[at], scale, head_dim, decoded.data() + row * head_dim);
        }
        at += guard;
        ++scale_at;
      }
    }
    const void* RunAt(size_t i) const { return bytes.data() + starts[i]; }
    const float* ScalesAt(size_t i) const { return scales.data() + scale_starts[i]; }
  };

  int64_t head_dim_;
  int64_t tokens_ = 0;
  Side keys_, values_;
};

// Splits `tokens` into runs: one run, or random ones of 0 .. 15 rows.
inline std::vector<int64_t> SplitTokens(int64_t tokens, bool short_runs, Random* random) {
  std::vector<int64_t> runs;
  while (short_runs && tokens > 0) {
    runs.push_back(std::min(tokens, random->Below(16)));
    tokens -= runs.back();
  }
  if (tokens > 0) runs.push_back(tokens);
  return runs;
}

// A state with room, and NaN guards behind each array.
struct StateBuffer {
  StateBuffer(int64_t rows_in, int32_t head_dim_in) : rows(rows_in), head_dim(head_dim_in) {
    max.assign(rows + 16, kNan);
    sum.assign(rows + 16, kNan);
    out.assign(rows * head_dim + 16, kNan);
    ResetState(rows, head_dim, view());
  }
  PartialState view() { return {max.data(), sum.data(), out.data()}; }
  bool GuardsHold() const {
    for (int i = 0; i < 16; ++i) {
      if (!std::isnan(max[rows + i]) || !std::isnan(sum[rows + i]) || !std::isnan(out[rows * head_dim + i]))
        return false;
    }
    return true;
  }
  // Outputs [rows, head_dim]; `lse` may be null.
  std::vector<float> Finish(std::vector<float>* lse = nullptr) {
    std::vector<float> output(rows * head_dim, kNan), log_sums(rows, kNan);
    FinishState(rows, head_dim, view(), output.data(), log_sums.data());
    if (lse != nullptr) *lse = log_sums;
    return output;
  }

  int64_t rows;
  int32_t head_dim;
  std::vector<float> max, sum, out;
};

// Errors of a fresh estimate.
struct ErrorBuffer {
  explicit ErrorBuffer(const HeadShape& shape)
      : energy(shape.group, kNan),
        weight(shape.group, kNan),
        cross(shape.group * shape.head_dim, kNan),
        mass(shape.group, kNan) {
    ResetErrors(shape, view());
  }
  ErrorState view() { return {energy.data(), weight.data(), cross.data(), mass.data()}; }
  std::vector<float> energy, weight, cross, mass;
};

// softmax(scale q . k) v of one query in float64 over the tokens that `visible` admits.
struct Reference {
  std::vector<double> output;
  double lse = -std::numeric_limits<double>::infinity();
};

template <class Visible>
Reference Attention(const HeadShape& shape, const float* query, const std::vector<float>& keys,
                    const std::vector<float>& values, Visible visible) {
  const int64_t head_dim = shape.head_dim;
  const int64_t tokens = static_cast<int64_t>(keys.size()) / head_dim;
  std::vector<double> logits(tokens);
  double max = -std::numeric_limits<double>::infinity();
  for (int64_t t = 0; t < tokens; ++t) {
    double dot = 0;
    for (int64_t i = 0; i < head_dim; ++i) dot += static_cast<double>(query[i]) * keys[t * head_dim + i];
    logits[t] = visible(t) ? dot * shape.scale : -std::numeric_limits<double>::infinity();
    max = std::max(max, logits[t]);
  }
  Reference result;
  result.output.assign(head_dim, 0);
  if (max == -std::numeric_limits<double>::infinity()) return result;
  double sum = 0;
  for (int64_t t = 0; t < tokens; ++t) {
    if (!visible(t)) continue;
    const double weight = std::exp(logits[t] - max);
    sum += weight;
    for (int64_t i = 0; i < head_dim; ++i) result.output[i] += weight * values[t * head_dim + i];
  }
  for (double& value : result.output) value /= sum;
  result.lse = max + std::log(sum);
  return result;
}

inline Reference Attention(const HeadShape& shape, const float* query, const std::vector<float>& keys,
                           const std::vector<float>& values) {
  return Attention(shape, query, keys, values, [](int64_t) { return true; });
}

// |actual - expected| / |expected| in the Euclidean norm.
inline double RelativeError(const float* actual, const std::vector<double>& expected) {
  double difference = 0, norm = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    difference += (actual[i] - expected[i]) * (actual[i] - expected[i]);
    norm += expected[i] * expected[i];
  }
  return norm > 0 ? std::sqrt(difference / norm) : std::sqrt(difference);
}

// What rounding the rows to `dtype` may cost in the output, relative.
inline double StorageTolerance(DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
      return 1e-5;
    case DType::kFloat16:
      return 2e-3;
    case DType::kBFloat16:
      return 1e-2;
    case DType::kInt8:
      return 5e-2;
  }
  return 0;
}

constexpr DType kDTypes[] = {DType::kFloat32, DType::kFloat16, DType::kBFloat16, DType::kInt8};
constexpr int32_t kHeadDims[] = {16, 64, 80, 96, 128, 256};
constexpr int32_t kGroups[] = {1, 3, 4, 7, 16};

}  // namespace swell::attention

#endif  // SWELL_TESTS_ATTENTION_SUPPORT_H_
