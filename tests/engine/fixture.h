// Shared by the engine tests: random rows, short forms of calls, and attention in float64 to compare with.
#ifndef SWELL_TESTS_ENGINE_FIXTURE_H_
#define SWELL_TESTS_ENGINE_FIXTURE_H_

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "lib/base/convert.h"
#include "swell/engine.h"

namespace swell::testing {

// The seed of a test: SWELL_TEST_SEED if set, else fixed; printed with every failure through SCOPED_TRACE.
inline uint64_t Seed() {
  const char* text = std::getenv("SWELL_TEST_SEED");
  return text == nullptr ? 20260214 : std::strtoull(text, nullptr, 10);
}

inline std::vector<float> RandomRows(std::mt19937_64& random, int64_t count, float sigma = 1.0F) {
  std::normal_distribution<float> normal(0.0F, sigma);
  std::vector<float> rows(static_cast<size_t>(count));
  for (float& x : rows) x = normal(random);
  return rows;
}

inline std::unique_ptr<Engine> OpenEngineWith(const EngineOptions& options) {
  auto engine = Engine::Open(options);
  EXPECT_TRUE(engine.ok()) << engine.status().message();
  return engine.ok() ? std::move(engine).value() : nullptr;
}

inline std::unique_ptr<Engine> OpenEngine(const ModelShape& shape, bool deterministic = true, int threads = 2,
                                          uint64_t budget = 0) {
  EngineOptions options;
  options.shape = shape;
  options.threads = threads;
  options.deterministic = deterministic;
  options.host_budget_bytes = budget;
  return OpenEngineWith(options);
}

// Keys and values of one layer, [tokens, kv_heads, head_dim] each.
struct Rows {
  std::vector<float> keys;
  std::vector<float> values;
};

inline Rows MakeRows(std::mt19937_64& random, const ModelShape& shape, int64_t tokens) {
  const int64_t count = tokens * shape.kv_heads * shape.head_dim;
  return {RandomRows(random, count), RandomRows(random, count)};
}

// Puts tokens [begin, end) of `rows` into one layer.
inline Status Put(Engine& engine, SequenceId sequence, int32_t layer, const Rows& rows, int64_t begin, int64_t end) {
  const int64_t offset = begin * engine.shape().kv_heads * engine.shape().head_dim;
  PutItem item;
  item.sequence = sequence;
  item.position = begin;
  item.tokens = end - begin;
  item.keys.data = rows.keys.data() + offset;
  item.values.data = rows.values.data() + offset;
  Status status;
  return engine.Put(layer, {&item, 1}, {&status, 1});
}

struct Answer {
  Status status;
  std::vector<float> output;
  std::vector<float> lse;
  std::vector<Certificate> certificates;
};

inline Answer Attend(Engine& engine, SequenceId sequence, int32_t layer, const std::vector<float>& queries,
                     AttendMode mode = AttendMode::kRetrieve, const RetrievalOptions* retrieval = nullptr) {
  const int64_t heads = int64_t{engine.shape().kv_heads} * engine.shape().group;
  const int64_t n = static_cast<int64_t>(queries.size()) / (heads * engine.shape().head_dim);
  Answer answer;
  answer.output.assign(queries.size(), std::nanf(""));
  answer.lse.assign(static_cast<size_t>(n * heads), std::nanf(""));
  answer.certificates.resize(static_cast<size_t>(n * heads));
  AttendItem item;
  item.sequence = sequence;
  item.n_queries = n;
  item.mode = mode;
  item.retrieval = retrieval;
  item.queries = queries.data();
  item.output = answer.output.data();
  item.lse = answer.lse.data();
  item.certificates = answer.certificates.data();
  static_cast<void>(engine.Attend(layer, {&item, 1}, {&answer.status, 1}));
  return answer;
}

// Exact attention in float64 of query head `head` over tokens [0, visible); returns the LSE.
inline double Reference(const ModelShape& shape, const Rows& rows, const float* query, int32_t head, int64_t visible,
                        std::vector<double>& output) {
  const int64_t d = shape.head_dim;
  const int32_t kv = head / shape.group;
  const double scale = shape.scale != 0 ? shape.scale : 1.0 / std::sqrt(static_cast<double>(d));
  std::vector<double> scores(static_cast<size_t>(visible));
  double top = -INFINITY;
  for (int64_t t = 0; t < visible; ++t) {
    const float* key = rows.keys.data() + (t * shape.kv_heads + kv) * d;
    double dot = 0;
    for (int64_t i = 0; i < d; ++i) dot += static_cast<double>(query[i]) * key[i];
    scores[t] = scale * dot;
    top = std::max(top, scores[t]);
  }
  output.assign(static_cast<size_t>(d), 0.0);
  double sum = 0;
  for (int64_t t = 0; t < visible; ++t) {
    const double weight = std::exp(scores[t] - top);
    const float* value = rows.values.data() + (t * shape.kv_heads + kv) * d;
    sum += weight;
    for (int64_t i = 0; i < d; ++i) output[i] += weight * value[i];
  }
  for (double& x : output) x /= sum;
  return top + std::log(sum);
}

// Largest error of an answer of `n` positions, relative to the size of the reference output (root mean square times 4).
inline double LargestError(const ModelShape& shape, const Rows& rows, const std::vector<float>& queries,
                           const Answer& answer, int64_t length) {
  const int64_t heads = int64_t{shape.kv_heads} * shape.group;
  const int64_t d = shape.head_dim;
  const int64_t n = static_cast<int64_t>(queries.size()) / (heads * d);
  double worst = 0;
  std::vector<double> expected;
  for (int64_t q = 0; q < n; ++q) {
    for (int32_t head = 0; head < heads; ++head) {
      const int64_t row = q * heads + head;
      const double lse = Reference(shape, rows, queries.data() + row * d, head, length - n + q + 1, expected);
      double norm = 0;
      double error = 0;
      for (int64_t i = 0; i < d; ++i) {
        norm += expected[i] * expected[i];
        error += std::pow(expected[i] - answer.output[row * d + i], 2);
      }
      const double relative = std::sqrt(error / std::max(norm, 1e-30));
      worst = std::max({worst, relative, std::abs(lse - answer.lse[row]) / std::max(1.0, std::abs(lse))});
      if (std::isnan(relative) || std::isnan(answer.lse[row])) return INFINITY;
    }
  }
  return worst;
}

inline double Tolerance(DType storage) {
  switch (storage) {
    case DType::kFloat32:
      return 1e-5;
    case DType::kFloat16:
      return 2e-3;
    case DType::kBFloat16:
      return 1e-2;
    case DType::kInt8:
      return 3e-2;
  }
  return 0;
}

}  // namespace swell::testing

#endif  // SWELL_TESTS_ENGINE_FIXTURE_H_
