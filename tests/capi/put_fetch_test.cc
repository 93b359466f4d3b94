// Goal: put and fetch through the C API: what was put comes back bit for bit, whatever the strides; bad input is
// refused by name and changes nothing; items of a batch are independent.
#include "tests/capi/fixture.h"

namespace swell_test {
namespace {

constexpr int64_t kMax = std::numeric_limits<int64_t>::max();

class PutFetchTest : public CapiTest {
 protected:
  // Ready to append 4 tokens; each test spoils one thing.
  void SetUp() override {
    CapiTest::SetUp();
    rows_ = Random(8 * kRow);
    ResetPut();
    ResetFetch();
  }

  void ResetPut() {
    put_ = SWELL_PUT_ARGS_INIT;
    put_.n_items = 1;
    put_.n_rows = 8;
    item_ = {sequence_, kPrompt, 4, 0};
  }
  swell_code Append(const void* keys, const void* values, const float* key_scales = nullptr,
                    const float* value_scales = nullptr) {
    return swell_put(engine_, &put_, &item_, keys, values, key_scales, value_scales, &status_, error_.address());
  }
  void PutRefused(const std::function<void()>& spoil, swell_detail detail, const std::string& word,
                  swell_code code = SWELL_INVALID_ARGUMENT) {
    spoil();
    status_ = {-7, -7};
    ExpectRefused([&] { return Append(rows_.data(), rows_.data()); }, detail, word, code);
    const bool whole = swell_error_item(error_.get()) == -1;
    EXPECT_EQ(status_.code, whole ? -7 : code);
    EXPECT_EQ(status_.detail, whole ? -7 : detail);
    ResetPut();
  }

  void ResetFetch() {
    fetch_ = SWELL_FETCH_ARGS_INIT;
    fetch_.n_items = 1;
    fetch_.n_rows = 3;
    fetch_item_ = {sequence_, 3, 0};
    tokens_ = {5, 0, kPrompt - 1};
    got_keys_.assign(3 * kRow, 123.0F);
    got_values_.assign(3 * kRow, 123.0F);
  }
  swell_code Fetch(const int64_t* tokens, void* keys, void* values, float* key_scales = nullptr) {
    return swell_fetch(engine_, &fetch_, &fetch_item_, tokens, keys, values, key_scales, nullptr, nullptr,
                       error_.address());
  }
  void FetchRefused(const std::function<void()>& spoil, swell_detail detail, const std::string& word,
                    swell_code code = SWELL_INVALID_ARGUMENT) {
    spoil();
    ExpectRefused([&] { return Fetch(tokens_.data(), got_keys_.data(), got_values_.data()); }, detail, word, code);
    EXPECT_EQ(got_keys_, std::vector<float>(3 * kRow, 123.0F));
    EXPECT_EQ(got_values_, std::vector<float>(3 * kRow, 123.0F));
    ResetFetch();
  }

  swell_put_args put_;
  swell_put_item item_;
  swell_status status_;
  std::vector<float> rows_;
  swell_fetch_args fetch_;
  swell_fetch_item fetch_item_;
  std::vector<int64_t> tokens_;
  std::vector<float> got_keys_, got_values_;
};

TEST_F(PutFetchTest, FetchGivesBackWhatWasPut) {
  ASSERT_EQ(Fetch(tokens_.data(), got_keys_.data(), got_values_.data()), SWELL_OK) << error_.message();
  for (size_t i = 0; i < 3; ++i) {
    const int64_t at = tokens_[i] * kRow;
    EXPECT_EQ(std::memcmp(&got_keys_[i * kRow], &keys_[static_cast<size_t>(at)], kRow * sizeof(float)), 0);
    EXPECT_EQ(std::memcmp(&got_values_[i * kRow], &values_[static_cast<size_t>(at)], kRow * sizeof(float)), 0);
  }
  EXPECT_EQ(Fetch(tokens_.data(), got_keys_.data(), nullptr), SWELL_OK);
  EXPECT_EQ(Fetch(tokens_.data(), nullptr, nullptr), SWELL_OK);
}

TEST_F(PutFetchTest, StridesAndFirstRow) {
  // Head-major keys [kv_heads, 8, head_dim]; values interleaved with something else: every second row of twice as many.
  put_.key_token_stride = kHeadDim;
  put_.key_head_stride = 8 * kHeadDim;
  put_.value_token_stride = 2 * kRow;
  put_.value_head_stride = kHeadDim;
  item_.first_row = 3;
  const std::vector<float> values = Random(16 * kRow);
  ASSERT_EQ(Append(rows_.data(), values.data()), SWELL_OK) << error_.message();
  tokens_ = {kPrompt, kPrompt + 1, kPrompt + 3};
  ASSERT_EQ(Fetch(tokens_.data(), got_keys_.data(), got_values_.data()), SWELL_OK) << error_.message();
  for (int64_t i = 0; i < 3; ++i) {
    const int64_t row = 3 + tokens_[static_cast<size_t>(i)] - kPrompt;
    for (int64_t head = 0; head < kKvHeads; ++head) {
      const float* key = &got_keys_[static_cast<size_t>(i * kRow + head * kHeadDim)];
      const float* value = &got_values_[static_cast<size_t>(i * kRow + head * kHeadDim)];
      EXPECT_EQ(std::memcmp(key, &rows_[static_cast<size_t>((head * 8 + row) * kHeadDim)], kHeadDim * 4), 0);
      EXPECT_EQ(std::memcmp(value, &values[static_cast<size_t>(row * 2 * kRow + head * kHeadDim)], kHeadDim * 4), 0);
    }
  }
}

TEST_F(PutFetchTest, Int8RowsWithTheirScales) {
  swell_engine_options options = EngineOptions(SWELL_INT8);
  swell_engine* engine = nullptr;
  swell_sequence sequence = 0;
  ASSERT_EQ(swell_engine_open(&options, &engine, nullptr), SWELL_OK);
  ASSERT_EQ(swell_sequence_create(engine, nullptr, nullptr, &sequence, nullptr), SWELL_OK);
  std::vector<int8_t> keys(4 * kRow), values(4 * kRow);
  for (size_t i = 0; i < keys.size(); ++i) {
    keys[i] = static_cast<int8_t>(random_() % 255);
    values[i] = static_cast<int8_t>(random_() % 255);
  }
  std::vector<float> scales(4 * kKvHeads);
  for (size_t i = 0; i < scales.size(); ++i) scales[i] = 0.01F * static_cast<float>(i + 1);
  put_.dtype = SWELL_INT8;
  put_.n_rows = 4;
  item_ = {sequence, 0, 4, 0};
  ASSERT_EQ(swell_put(engine, &put_, &item_, keys.data(), values.data(), scales.data(), scales.data(), nullptr,
                      error_.address()),
            SWELL_OK)
      << error_.message();
  std::vector<int8_t> got(3 * kRow);
  std::vector<float> got_scales(3 * kKvHeads);
  fetch_.dtype = SWELL_INT8;
  fetch_item_.sequence = sequence;
  tokens_ = {3, 1, 0};
  ASSERT_EQ(swell_fetch(engine, &fetch_, &fetch_item_, tokens_.data(), nullptr, got.data(), nullptr, got_scales.data(),
                        nullptr, error_.address()),
            SWELL_OK)
      << error_.message();
  for (size_t i = 0; i < 3; ++i) {
    const auto token = static_cast<size_t>(tokens_[i]);
    EXPECT_EQ(std::memcmp(&got[i * kRow], &values[token * kRow], kRow), 0);
    EXPECT_EQ(std::memcmp(&got_scales[i * kKvHeads], &scales[token * kKvHeads], kKvHeads * sizeof(float)), 0);
  }
  // Scales are required here, for put and for what is fetched.
  EXPECT_EQ(
      swell_put(engine, &put_, &item_, keys.data(), values.data(), nullptr, scales.data(), nullptr, error_.address()),
      SWELL_INVALID_ARGUMENT);
  EXPECT_NE(error_.message().find("key_scales"), std::string::npos) << error_.message();
  EXPECT_EQ(swell_fetch(engine, &fetch_, &fetch_item_, tokens_.data(), nullptr, got.data(), nullptr, nullptr, nullptr,
                        error_.address()),
            SWELL_INVALID_ARGUMENT);
  EXPECT_NE(error_.message().find("value_scales"), std::string::npos) << error_.message();
  swell_engine_close(&engine);
}

TEST_F(PutFetchTest, StructSizes) {
  SweepStructSize<swell_put_args>(
      put_,
      [&](const swell_put_args* args) {
        return swell_put(engine_, args, &item_, rows_.data(), rows_.data(), nullptr, nullptr, nullptr,
                         error_.address());
      },
      [&] { ASSERT_EQ(swell_sequence_truncate(engine_, sequence_, kPrompt, nullptr), SWELL_OK); });
  SweepStructSize<swell_fetch_args>(fetch_, [&](const swell_fetch_args* args) {
    return swell_fetch(engine_, args, &fetch_item_, tokens_.data(), got_keys_.data(), nullptr, nullptr, nullptr,
                       nullptr, error_.address());
  });
}

TEST_F(PutFetchTest, LargerItemsOfANewerCaller) {
  struct Larger {
    swell_put_item item;
    int64_t unknown;
  };
  swell_sequence other = 0;
  ASSERT_EQ(swell_sequence_create(engine_, nullptr, nullptr, &other, nullptr), SWELL_OK);
  Larger items[2] = {{{sequence_, kPrompt, 4, 0}, 1}, {{other, 0, 4, 4}, 0}};
  swell_status statuses[2];
  put_.item_size = sizeof(Larger);
  put_.n_items = 2;
  EXPECT_EQ(swell_put(engine_, &put_, &items[0].item, rows_.data(), rows_.data(), nullptr, nullptr, statuses,
                      error_.address()),
            SWELL_INVALID_ARGUMENT);
  EXPECT_EQ(swell_error_item(error_.get()), 0);
  EXPECT_EQ(statuses[0].detail, SWELL_DETAIL_BAD_SIZE);
  EXPECT_EQ(statuses[1].code, SWELL_OK);
  int64_t tokens = 0;
  EXPECT_EQ(Length(sequence_, &tokens), SWELL_OK);
  EXPECT_EQ(tokens, kPrompt);
  EXPECT_EQ(Length(other, &tokens), SWELL_OK);
  EXPECT_EQ(tokens, 4);
}

TEST_F(PutFetchTest, PutRefusesBadArgs) {
  for (uint32_t size : {0U, 24U, 36U, 5000U}) {
    PutRefused([&] { put_.item_size = size; }, SWELL_DETAIL_BAD_SIZE, "args.item_size");
  }
  for (int32_t layer : {-1, 2, 1 << 30}) PutRefused([&] { put_.layer = layer; }, SWELL_DETAIL_NONE, "args.layer");
  for (int32_t dtype : {-1, 4, 1 << 30}) {
    PutRefused([&] { put_.dtype = dtype; }, SWELL_DETAIL_UNKNOWN_DTYPE, "args.dtype");
  }
  PutRefused([&] { put_.n_items = -1; }, SWELL_DETAIL_BAD_SIZE, "args.n_items");
  PutRefused([&] { put_.n_items = kMax; }, SWELL_DETAIL_BAD_SIZE, "items");
  PutRefused([&] { put_.n_rows = -1; }, SWELL_DETAIL_BAD_SIZE, "args.n_rows");
  PutRefused([&] { put_.n_rows = kMax; }, SWELL_DETAIL_BAD_SIZE, "key");
  PutRefused([&] { put_.key_token_stride = kMax; }, SWELL_DETAIL_BAD_SIZE, "key");
  PutRefused([&] { put_.key_head_stride = kMax; }, SWELL_DETAIL_BAD_SIZE, "key");
  PutRefused([&] { put_.value_token_stride = -1; }, SWELL_DETAIL_BAD_SIZE, "args.value_token_stride");
  PutRefused([&] { put_.value_head_stride = -1; }, SWELL_DETAIL_BAD_SIZE, "args.value_head_stride");
  PutRefused([&] { put_.key_head_stride = kHeadDim - 1; }, SWELL_DETAIL_BAD_SIZE, "head_stride");
}

TEST_F(PutFetchTest, PutRefusesBadPointers) {
  const float* rows = rows_.data();
  ExpectRefused([&] { return Append(nullptr, rows); }, SWELL_DETAIL_NULL_POINTER, "keys");
  ExpectRefused([&] { return Append(rows, nullptr); }, SWELL_DETAIL_NULL_POINTER, "values");
  ExpectRefused([&] { return Append(Misaligned(rows), rows); }, SWELL_DETAIL_MISALIGNED, "keys");
  ExpectRefused([&] { return Append(rows, Misaligned(rows)); }, SWELL_DETAIL_MISALIGNED, "values");
  ExpectRefused([&] { return Append(rows, rows, rows); }, SWELL_DETAIL_NONE, "key_scales");
  ExpectRefused([&] { return Append(rows, rows, nullptr, rows); }, SWELL_DETAIL_NONE, "value_scales");
  const auto put = [&](const swell_put_item* items, swell_status* statuses) {
    return swell_put(engine_, &put_, items, rows, rows, nullptr, nullptr, statuses, error_.address());
  };
  ExpectRefused([&] { return put(nullptr, nullptr); }, SWELL_DETAIL_NULL_POINTER, "items");
  ExpectRefused([&] { return put(Misaligned(&item_), nullptr); }, SWELL_DETAIL_MISALIGNED, "items");
  ExpectRefused([&] { return put(&item_, Misaligned(&status_)); }, SWELL_DETAIL_MISALIGNED, "statuses");
  put_.dtype = SWELL_INT8;
  ExpectRefused([&] { return Append(rows, rows, rows, rows); }, SWELL_DETAIL_UNKNOWN_DTYPE, "int8");
}

TEST_F(PutFetchTest, PutRefusesBadItems) {
  PutRefused([&] { item_.sequence = 0; }, SWELL_DETAIL_STALE_HANDLE, "sequence", SWELL_NOT_FOUND);
  for (int64_t position : {kPrompt - 1, kPrompt + 1, int64_t{0}, kMax - 8}) {
    PutRefused([&] { item_.position = position; }, SWELL_DETAIL_OUT_OF_ORDER, "position", SWELL_FAILED_PRECONDITION);
  }
  PutRefused([&] { item_.position = -1; }, SWELL_DETAIL_OUT_OF_ORDER, "position");
  PutRefused([&] { item_.position = kMax - 2; }, SWELL_DETAIL_BAD_SIZE, "overflow");
  for (int64_t tokens : {int64_t{-1}, int64_t{0}, int64_t{9}, kMax}) {
    PutRefused([&] { item_.tokens = tokens; }, SWELL_DETAIL_BAD_SIZE, "tokens");
  }
  for (int64_t row : {int64_t{-1}, int64_t{5}, kMax}) {
    PutRefused([&] { item_.first_row = row; }, SWELL_DETAIL_BAD_SIZE, "first_row");
  }
  for (float bad : {kNan, kInf, -kInf}) {
    PutRefused([&] { rows_[static_cast<size_t>(3 * kRow)] = bad; }, SWELL_DETAIL_NON_FINITE, "");
    rows_[static_cast<size_t>(3 * kRow)] = 0;
  }
}

TEST_F(PutFetchTest, AFailedItemLeavesTheOthersAlone) {
  swell_sequence other = 0;
  ASSERT_EQ(swell_sequence_create(engine_, nullptr, nullptr, &other, nullptr), SWELL_OK);
  const swell_put_item items[4] = {{sequence_, kPrompt, 2, 0}, {12345, 0, 2, 2}, {other, 0, 3, 7}, {other, 0, 2, 4}};
  swell_status statuses[4];
  put_.n_items = 4;
  EXPECT_EQ(swell_put(engine_, &put_, items, rows_.data(), rows_.data(), nullptr, nullptr, statuses, error_.address()),
            SWELL_NOT_FOUND);
  EXPECT_EQ(swell_error_item(error_.get()), 1);
  EXPECT_NE(error_.message().find("item 1"), std::string::npos) << error_.message();
  EXPECT_EQ(statuses[0].code, SWELL_OK);
  EXPECT_EQ(statuses[1].detail, SWELL_DETAIL_STALE_HANDLE);
  EXPECT_EQ(statuses[2].detail, SWELL_DETAIL_BAD_SIZE);
  EXPECT_EQ(statuses[3].code, SWELL_OK);
  int64_t tokens = 0;
  EXPECT_EQ(Length(sequence_, &tokens), SWELL_OK);
  EXPECT_EQ(tokens, kPrompt + 2);
  EXPECT_EQ(Length(other, &tokens), SWELL_OK);
  EXPECT_EQ(tokens, 2);
}

TEST_F(PutFetchTest, EmptyBatchIsFine) {
  put_ = SWELL_PUT_ARGS_INIT;
  EXPECT_EQ(swell_put(engine_, &put_, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, error_.address()),
            SWELL_OK);
  fetch_ = SWELL_FETCH_ARGS_INIT;
  EXPECT_EQ(
      swell_fetch(engine_, &fetch_, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, error_.address()),
      SWELL_OK);
}

TEST_F(PutFetchTest, FetchRefusesBadInput) {
  FetchRefused([&] { fetch_.item_size = 20; }, SWELL_DETAIL_BAD_SIZE, "args.item_size");
  FetchRefused([&] { fetch_.layer = 2; }, SWELL_DETAIL_NONE, "args.layer");
  for (int32_t dtype : {-1, 4, 1 << 30}) {
    FetchRefused([&] { fetch_.dtype = dtype; }, SWELL_DETAIL_UNKNOWN_DTYPE, "args.dtype");
  }
  FetchRefused([&] { fetch_.dtype = SWELL_FLOAT16; }, SWELL_DETAIL_UNKNOWN_DTYPE, "args.dtype");
  FetchRefused([&] { fetch_.n_items = -1; }, SWELL_DETAIL_BAD_SIZE, "args.n_items");
  FetchRefused([&] { fetch_.n_rows = kMax; }, SWELL_DETAIL_BAD_SIZE, "keys");
  FetchRefused([&] { fetch_item_.sequence = 1; }, SWELL_DETAIL_STALE_HANDLE, "sequence", SWELL_NOT_FOUND);
  FetchRefused([&] { fetch_item_.first_row = 1; }, SWELL_DETAIL_BAD_SIZE, "first_row");
  FetchRefused([&] { fetch_item_.first_row = kMax; }, SWELL_DETAIL_BAD_SIZE, "first_row");
  FetchRefused([&] { fetch_item_.n_tokens = -1; }, SWELL_DETAIL_BAD_SIZE, "n_tokens");
  for (int64_t token : {int64_t{-1}, kPrompt, kMax, std::numeric_limits<int64_t>::min()}) {
    FetchRefused([&] { tokens_[1] = token; }, SWELL_DETAIL_NONE, "token", SWELL_OUT_OF_RANGE);
  }
  void* keys = got_keys_.data();
  ExpectRefused([&] { return Fetch(nullptr, keys, nullptr); }, SWELL_DETAIL_NULL_POINTER, "tokens");
  ExpectRefused([&] { return Fetch(Misaligned(tokens_.data()), keys, nullptr); }, SWELL_DETAIL_MISALIGNED, "tokens");
  ExpectRefused([&] { return Fetch(tokens_.data(), Misaligned(got_keys_.data()), nullptr); }, SWELL_DETAIL_MISALIGNED,
                "keys");
  ExpectRefused([&] { return Fetch(tokens_.data(), keys, Misaligned(got_values_.data())); }, SWELL_DETAIL_MISALIGNED,
                "values");
  ExpectRefused([&] { return Fetch(tokens_.data(), keys, nullptr, got_values_.data()); }, SWELL_DETAIL_NONE,
                "key_scales");
}

TEST_F(PutFetchTest, FetchedRunsMustNotOverlap) {
  const swell_fetch_item items[2] = {{sequence_, 2, 0}, {sequence_, 2, 1}};
  fetch_.n_items = 2;
  ExpectRefused(
      [&] {
        return swell_fetch(engine_, &fetch_, items, tokens_.data(), got_keys_.data(), nullptr, nullptr, nullptr,
                           nullptr, error_.address());
      },
      SWELL_DETAIL_NONE, "row 1");
}

}  // namespace
}  // namespace swell_test
