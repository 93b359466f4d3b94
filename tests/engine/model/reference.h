// What the model keeps of a sequence: plain vectors. Rows are made so that every storage dtype holds them exactly.
#ifndef SWELL_TESTS_ENGINE_MODEL_REFERENCE_H_
#define SWELL_TESTS_ENGINE_MODEL_REFERENCE_H_

#include <random>
#include <vector>

#include "tests/engine/fixture.h"

namespace swell::testing {

struct Model {
  SequenceId id = SequenceId::kNone;
  std::vector<Rows> layers;
};

inline int64_t Length(const ModelShape& shape, const Rows& rows) {
  return static_cast<int64_t>(rows.keys.size()) / (int64_t{shape.kv_heads} * shape.head_dim);
}

// Multiples of 1/32 up to 127/32, which the first element of each row of each head reaches: float16 and bfloat16 hold
// them, and int8 finds the scale 1/32.
inline std::vector<float> ExactRows(std::mt19937_64& random, const ModelShape& shape, int64_t tokens) {
  std::vector<float> rows(static_cast<size_t>(tokens * shape.kv_heads * shape.head_dim));
  for (size_t i = 0; i < rows.size(); ++i) {
    const bool first = i % static_cast<size_t>(shape.head_dim) == 0;
    const auto step = static_cast<int64_t>(random() % 255) - 127;
    rows[i] = (first ? (step < 0 ? -127.0F : 127.0F) : static_cast<float>(step)) / 32.0F;
  }
  return rows;
}

// Rows as a caller may hold them: in any dtype that the engine takes.
struct CallerRows {
  std::vector<std::byte> data;
  std::vector<float> scales;  // [tokens, kv_heads], 1/32 each, for int8
  RowsView View(DType dtype) const {
    RowsView view;
    view.data = data.data();
    view.dtype = dtype;
    if (dtype == DType::kInt8) view.scales = scales.data();
    return view;
  }
};

inline CallerRows ToCaller(const std::vector<float>& rows, const ModelShape& shape, DType dtype) {
  CallerRows to;
  to.data.resize(rows.size() * DTypeSize(dtype));
  if (dtype != DType::kInt8) {
    EXPECT_TRUE(ConvertFromFloat(rows.data(), static_cast<int64_t>(rows.size()), dtype, to.data.data()));
    return to;
  }
  to.scales.assign(rows.size() / static_cast<size_t>(shape.head_dim), 1.0F / 32.0F);
  for (size_t i = 0; i < rows.size(); ++i) to.data[i] = static_cast<std::byte>(static_cast<int8_t>(rows[i] * 32.0F));
  return to;
}

// scale * q . k of every token for one query head.
inline std::vector<double> Logits(const ModelShape& shape, const Rows& rows, const float* query, int32_t head) {
  const double scale = shape.scale != 0 ? shape.scale : 1.0 / std::sqrt(static_cast<double>(shape.head_dim));
  std::vector<double> logits(static_cast<size_t>(Length(shape, rows)));
  for (size_t t = 0; t < logits.size(); ++t) {
    const size_t row = (t * static_cast<size_t>(shape.kv_heads) + static_cast<size_t>(head / shape.group));
    const float* key = rows.keys.data() + row * static_cast<size_t>(shape.head_dim);
    for (int32_t i = 0; i < shape.head_dim; ++i) logits[t] += scale * static_cast<double>(query[i]) * key[i];
  }
  return logits;
}

}  // namespace swell::testing

#endif  // SWELL_TESTS_ENGINE_MODEL_REFERENCE_H_
