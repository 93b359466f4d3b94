// An engine behind the C API with a prompt in it, and the means to say that a refused call changed nothing.
#ifndef SWELL_TESTS_CAPI_FIXTURE_H_
#define SWELL_TESTS_CAPI_FIXTURE_H_

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "swell/swell.h"

namespace swell_test {

constexpr uint64_t kSeed = 20240607;
constexpr int64_t kKvHeads = 2;
constexpr int64_t kGroup = 3;
constexpr int64_t kHeads = kKvHeads * kGroup;
constexpr int64_t kHeadDim = 32;
constexpr int64_t kRow = kKvHeads * kHeadDim;
constexpr int64_t kQuery = kHeads * kHeadDim;
constexpr int64_t kPrompt = 200;
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

// An error object that goes away by itself.
class Error {
 public:
  ~Error() { swell_error_destroy(&error_); }
  swell_error** address() {
    swell_error_destroy(&error_);
    return &error_;
  }
  const swell_error* get() const { return error_; }
  std::string message() const { return swell_error_message(error_); }

 private:
  swell_error* error_ = nullptr;
};

inline swell_engine_options EngineOptions(swell_dtype storage = SWELL_FLOAT32) {
  swell_engine_options options = SWELL_ENGINE_OPTIONS_INIT;
  options.layers = 2;
  options.kv_heads = kKvHeads;
  options.group = kGroup;
  options.head_dim = kHeadDim;
  options.storage = storage;
  options.threads = 2;
  options.flags = SWELL_ENGINE_DETERMINISTIC;
  return options;
}

// A pointer one byte off its alignment; never read.
template <typename T>
T* Misaligned(T* pointer) {
  return reinterpret_cast<T*>(reinterpret_cast<uintptr_t>(pointer) + 1);
}

// Owns an engine and one sequence of kPrompt tokens in layer 0.
class CapiTest : public testing::Test {
 protected:
  CapiTest() : random_(kSeed) {}

  void SetUp() override {
    RecordProperty("seed", std::to_string(kSeed));
    std::fprintf(stderr, "seed %llu\n", static_cast<unsigned long long>(kSeed));
    Open(EngineOptions());
  }
  void TearDown() override { swell_engine_close(&engine_); }

  void Open(const swell_engine_options& options) {
    swell_engine_close(&engine_);
    ASSERT_EQ(swell_engine_open(&options, &engine_, error_.address()), SWELL_OK) << error_.message();
    ASSERT_EQ(swell_sequence_create(engine_, nullptr, nullptr, &sequence_, error_.address()), SWELL_OK);
    keys_ = Random(kPrompt * kRow);
    values_ = Random(kPrompt * kRow);
    query_ = Random(kQuery);
    ASSERT_EQ(Put(sequence_, 0, kPrompt, keys_, values_), SWELL_OK) << error_.message();
  }

  std::vector<float> Random(int64_t count) {
    std::normal_distribution<float> normal;
    std::vector<float> numbers(static_cast<size_t>(count));
    for (float& number : numbers) number = normal(random_);
    return numbers;
  }

  swell_code Put(swell_sequence sequence, int64_t position, int64_t tokens, const std::vector<float>& keys,
                 const std::vector<float>& values) {
    swell_put_args args = SWELL_PUT_ARGS_INIT;
    args.n_items = 1;
    args.n_rows = tokens;
    const swell_put_item item = {sequence, position, tokens, 0};
    return swell_put(engine_, &args, &item, keys.data(), values.data(), nullptr, nullptr, nullptr, error_.address());
  }

  swell_code Length(swell_sequence sequence, int64_t* tokens) {
    return swell_sequence_length(engine_, sequence, 0, tokens, error_.address());
  }

  swell_engine_stats Stats() {
    swell_engine_stats stats = SWELL_ENGINE_STATS_INIT;
    EXPECT_EQ(swell_engine_get_stats(engine_, &stats, nullptr), SWELL_OK);
    return stats;
  }

  // `call` is refused with that code and detail, its message names `word`, and neither the engine nor the sequence
  // has changed. `call` must hand error_.address() over.
  void ExpectRefused(const std::function<swell_code()>& call, swell_detail detail, const std::string& word,
                     swell_code code = SWELL_INVALID_ARGUMENT) {
    SCOPED_TRACE(word);
    const swell_engine_stats before = Stats();
    EXPECT_EQ(call(), code) << error_.message();
    EXPECT_EQ(swell_error_code(error_.get()), code);
    EXPECT_STREQ(swell_detail_name(swell_error_detail(error_.get())), swell_detail_name(detail)) << error_.message();
    EXPECT_NE(error_.message().find(word), std::string::npos) << error_.message();
    const swell_engine_stats after = Stats();
    EXPECT_EQ(before.sequences, after.sequences);
    EXPECT_EQ(before.bytes_in_use, after.bytes_in_use);
    EXPECT_EQ(before.tokens_put, after.tokens_put);
    EXPECT_EQ(before.attend_calls, after.attend_calls);
    int64_t tokens = 0;
    EXPECT_EQ(swell_sequence_length(engine_, sequence_, 0, &tokens, nullptr), SWELL_OK);
    EXPECT_EQ(tokens, kPrompt);
  }

  // `call(struct)` with every struct_size from 0 to 64 above the true one: smaller is refused, larger is accepted as
  // long as the rest is zero. `undo` takes back what an accepted call did.
  template <typename Struct>
  void SweepStructSize(
      const Struct& good, const std::function<swell_code(const Struct*)>& call,
      const std::function<void()>& undo = [] {}, size_t first_bytes = sizeof(Struct)) {
    alignas(16) unsigned char buffer[sizeof(Struct) + 64];
    auto* candidate = reinterpret_cast<Struct*>(buffer);
    for (uint32_t size = 0; size <= sizeof(buffer); ++size) {
      std::memset(buffer, 0, sizeof(buffer));
      std::memcpy(buffer, &good, sizeof(Struct));
      std::memcpy(buffer, &size, sizeof(size));
      if (size < first_bytes) {
        ExpectRefused([&] { return call(candidate); }, SWELL_DETAIL_BAD_SIZE, "struct_size");
        continue;
      }
      EXPECT_EQ(call(candidate), SWELL_OK) << size << ": " << error_.message();
      undo();
      if (size <= sizeof(Struct)) continue;
      buffer[size - 1] = 1;
      ExpectRefused([&] { return call(candidate); }, SWELL_DETAIL_BAD_SIZE, "does not know");
    }
    const uint32_t huge = 0xFFFFFFFFU;
    std::memcpy(buffer, &huge, sizeof(huge));
    ExpectRefused([&] { return call(candidate); }, SWELL_DETAIL_BAD_SIZE, "struct_size");
    ExpectRefused([&] { return call(nullptr); }, SWELL_DETAIL_NULL_POINTER, "NULL");
    ExpectRefused([&] { return call(Misaligned(candidate)); }, SWELL_DETAIL_MISALIGNED, "aligned");
  }

  std::mt19937_64 random_;
  Error error_;
  swell_engine* engine_ = nullptr;
  swell_sequence sequence_ = 0;
  std::vector<float> keys_, values_, query_;
};

}  // namespace swell_test

#endif  // SWELL_TESTS_CAPI_FIXTURE_H_
