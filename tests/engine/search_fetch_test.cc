// Goal: fetch gives back what was put, bit for bit; search finds the best tokens in order.
#include <algorithm>
#include <numeric>

#include "tests/engine/fixture.h"

namespace swell {
namespace {

using testing::MakeRows;
using testing::OpenEngine;
using testing::Put;
using testing::RandomRows;
using testing::Rows;

SequenceOptions SmallSegments() {
  SequenceOptions options;
  options.seal_tokens = 64;
  options.segment_tokens = 128;
  options.retrieval.floor_tokens = 0;
  return options;
}

class Fetch : public ::testing::TestWithParam<DType> {};

TEST_P(Fetch, IsBitForBit) {
  const DType storage = GetParam();
  std::mt19937_64 random(testing::Seed());
  const ModelShape shape{1, 3, 2, 48, 0, storage};
  constexpr int64_t kTokens = 777;
  auto engine = OpenEngine(shape);
  const SequenceId sequence = *engine->CreateSequence(SmallSegments());
  const int64_t row_bytes = 48 * static_cast<int64_t>(DTypeSize(storage));
  // Random bits that are finite numbers: every byte of a half keeps its exponent below all ones.
  std::vector<uint8_t> keys(kTokens * 3 * row_bytes);
  std::vector<uint8_t> values(keys.size());
  for (auto* bytes : {&keys, &values}) {
    for (uint8_t& byte : *bytes) byte = static_cast<uint8_t>(random()) & (storage == DType::kInt8 ? 0xFF : 0xBB);
  }
  const std::vector<float> key_scales = RandomRows(random, kTokens * 3);
  const std::vector<float> value_scales = RandomRows(random, kTokens * 3);
  PutItem put;
  put.sequence = sequence;
  put.tokens = kTokens;
  put.keys = {keys.data(), storage, 0, 0, key_scales.data()};
  put.values = {values.data(), storage, 0, 0, value_scales.data()};
  Status status;
  ASSERT_TRUE(engine->Put(0, {&put, 1}, {&status, 1}).ok()) << status.message();

  std::vector<int64_t> tokens(kTokens);
  std::iota(tokens.begin(), tokens.end(), 0);
  std::shuffle(tokens.begin(), tokens.end(), random);
  tokens.push_back(tokens.front());
  std::vector<uint8_t> got_keys(tokens.size() * 3 * row_bytes);
  std::vector<uint8_t> got_values(got_keys.size());
  std::vector<float> got_key_scales(tokens.size() * 3);
  std::vector<float> got_value_scales(tokens.size() * 3);
  FetchItem fetch;
  fetch.sequence = sequence;
  fetch.tokens = tokens;
  fetch.dtype = storage;
  fetch.keys = got_keys.data();
  fetch.values = got_values.data();
  fetch.key_scales = got_key_scales.data();
  fetch.value_scales = got_value_scales.data();
  ASSERT_TRUE(engine->Fetch(0, {&fetch, 1}, {&status, 1}).ok()) << status.message();
  for (size_t i = 0; i < tokens.size(); ++i) {
    const int64_t from = tokens[i] * 3 * row_bytes;
    const auto to = static_cast<int64_t>(i) * 3 * row_bytes;
    ASSERT_TRUE(std::equal(keys.begin() + from, keys.begin() + from + 3 * row_bytes, got_keys.begin() + to));
    ASSERT_TRUE(std::equal(values.begin() + from, values.begin() + from + 3 * row_bytes, got_values.begin() + to));
    if (storage != DType::kInt8) continue;
    for (int64_t head = 0; head < 3; ++head) {
      ASSERT_EQ(got_key_scales[i * 3 + head], key_scales[tokens[i] * 3 + head]);
      ASSERT_EQ(got_value_scales[i * 3 + head], value_scales[tokens[i] * 3 + head]);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(DTypes, Fetch,
                         ::testing::Values(DType::kFloat32, DType::kFloat16, DType::kBFloat16, DType::kInt8));

TEST(FetchRows, ConvertsToFloat) {
  std::mt19937_64 random(testing::Seed());
  for (const DType storage : {DType::kFloat16, DType::kBFloat16, DType::kInt8}) {
    const ModelShape shape{1, 2, 1, 64, 0, storage};
    auto engine = OpenEngine(shape);
    const SequenceId sequence = *engine->CreateSequence(SmallSegments());
    const Rows rows = MakeRows(random, shape, 400);
    ASSERT_TRUE(Put(*engine, sequence, 0, rows, 0, 400).ok());
    const std::vector<int64_t> tokens = {399, 0, 5, 100};
    std::vector<float> keys(4 * 2 * 64);
    FetchItem fetch;
    fetch.sequence = sequence;
    fetch.tokens = tokens;
    fetch.keys = keys.data();
    Status status;
    ASSERT_TRUE(engine->Fetch(0, {&fetch, 1}, {&status, 1}).ok());
    for (size_t i = 0; i < keys.size(); ++i) {
      const float put = rows.keys[tokens[i / 128] * 128 + i % 128];
      EXPECT_NEAR(keys[i], put, storage == DType::kInt8 ? 0.03F : 0.01F * std::max(1.0F, std::abs(put)));
    }
  }
}

double Logit(const ModelShape& shape, const Rows& rows, const std::vector<float>& queries, int64_t head,
             int64_t token) {
  const float* query = queries.data() + head * shape.head_dim;
  const float* key = rows.keys.data() + (token * shape.kv_heads + head / shape.group) * shape.head_dim;
  double dot = 0;
  for (int32_t i = 0; i < shape.head_dim; ++i) dot += double{query[i]} * key[i];
  return dot / std::sqrt(shape.head_dim);
}

TEST(Search, FindsTheBestTokensInOrder) {
  std::mt19937_64 random(testing::Seed());
  const ModelShape shape{1, 2, 3, 64, 0, DType::kFloat32};
  auto engine = OpenEngine(shape);
  const SequenceId sequence = *engine->CreateSequence(SmallSegments());
  const Rows rows = MakeRows(random, shape, 1000);
  ASSERT_TRUE(Put(*engine, sequence, 0, rows, 0, 1000).ok());
  const auto queries = RandomRows(random, 6 * 64);
  std::vector<int64_t> tokens(6 * 10);
  std::vector<float> logits(6 * 10);
  SearchItem search;
  search.sequence = sequence;
  search.mode = AttendMode::kExact;
  search.queries = queries.data();
  search.top_k = 10;
  search.tokens = tokens.data();
  search.logits = logits.data();
  Status status;
  ASSERT_TRUE(engine->Search(0, {&search, 1}, {&status, 1}).ok()) << status.message();
  for (int64_t head = 0; head < 6; ++head) {
    std::vector<std::pair<double, int64_t>> all;
    for (int64_t t = 0; t < 1000; ++t) all.emplace_back(-Logit(shape, rows, queries, head, t), t);
    std::sort(all.begin(), all.end());
    for (int64_t k = 0; k < 10; ++k) {
      EXPECT_EQ(tokens[head * 10 + k], all[k].second) << "head " << head << " place " << k;
      EXPECT_NEAR(logits[head * 10 + k], -all[k].first, 1e-4);
    }
  }
  // The index reads a part, so what it finds is a subset, still in order.
  search.mode = AttendMode::kRetrieve;
  ASSERT_TRUE(engine->Search(0, {&search, 1}, {&status, 1}).ok());
  for (size_t i = 1; i < 10; ++i) EXPECT_GE(logits[i - 1], logits[i]);
  for (int64_t i = 0; i < 60; ++i) {
    ASSERT_GE(tokens[i], 0);
    EXPECT_NEAR(logits[i], Logit(shape, rows, queries, i / 10, tokens[i]), 1e-4) << "token " << tokens[i];
  }
  // More than there is: the rest is marked.
  search.top_k = 2000;
  search.mode = AttendMode::kExact;
  tokens.resize(6 * 2000);
  logits.resize(6 * 2000);
  search.tokens = tokens.data();
  search.logits = logits.data();
  ASSERT_TRUE(engine->Search(0, {&search, 1}, {&status, 1}).ok());
  EXPECT_GE(tokens[999], 0);
  EXPECT_EQ(tokens[1000], -1);
  EXPECT_TRUE(std::isinf(logits[1000]));
}

TEST(Search, OfEqualTokensTheEarlierComeFirst) {
  const ModelShape shape{1, 1, 1, 16, 0, DType::kFloat32};
  auto engine = OpenEngine(shape);
  const SequenceId sequence = *engine->CreateSequence(SmallSegments());
  const Rows rows = {std::vector<float>(300 * 16, 0.5F), std::vector<float>(300 * 16, 0.5F)};
  ASSERT_TRUE(Put(*engine, sequence, 0, rows, 0, 300).ok());
  const std::vector<float> queries(16, 1.0F);
  std::vector<int64_t> tokens(20);
  SearchItem search;
  search.sequence = sequence;
  search.mode = AttendMode::kExact;
  search.queries = queries.data();
  search.top_k = 20;
  search.tokens = tokens.data();
  Status status;
  ASSERT_TRUE(engine->Search(0, {&search, 1}, {&status, 1}).ok()) << status.message();
  for (int64_t k = 0; k < 20; ++k) EXPECT_EQ(tokens[k], k);
}

TEST(Search, AnEmptySequenceHasNothing) {
  auto engine = OpenEngine({1, 1, 1, 16, 0, DType::kFloat32});
  const SequenceId sequence = *engine->CreateSequence({});
  const std::vector<float> queries(16, 1.0F);
  int64_t token = 5;
  SearchItem search;
  search.sequence = sequence;
  search.queries = queries.data();
  search.top_k = 1;
  search.tokens = &token;
  Status status;
  ASSERT_TRUE(engine->Search(0, {&search, 1}, {&status, 1}).ok()) << status.message();
  EXPECT_EQ(token, -1);
}

}  // namespace
}  // namespace swell
