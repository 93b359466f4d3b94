// Goal: attend and search through the C API against a float64 computation; bad input is refused by name and writes
// nothing; items of a batch are independent.
#include <cmath>

#include "tests/capi/fixture.h"

namespace swell_test {
namespace {

constexpr int64_t kMax = std::numeric_limits<int64_t>::max();

class AttendSearchTest : public CapiTest {
 protected:
  void SetUp() override {
    CapiTest::SetUp();
    Reset();
  }

  void Reset() {
    attend_ = SWELL_ATTEND_ARGS_INIT;
    attend_.n_items = 1;
    attend_.n_rows = 1;
    item_ = {sequence_, 1, 0, nullptr, SWELL_ATTEND_EXACT, 0};
    search_ = SWELL_SEARCH_ARGS_INIT;
    search_.n_items = 1;
    search_.n_rows = 1;
    search_.top_k = 5;
    search_item_ = {sequence_, 0, nullptr, SWELL_ATTEND_EXACT, 0};
    output_.assign(kQuery, 123.0F);
    lse_.assign(kHeads, 123.0F);
    tokens_.assign(kHeads * 5, -99);
    logits_.assign(kHeads * 5, 123.0F);
  }

  swell_code Attend(const void* queries, void* output, float* lse = nullptr,
                    swell_certificate* certificates = nullptr) {
    return swell_attend(engine_, &attend_, &item_, queries, output, lse, certificates, nullptr, error_.address());
  }
  swell_code Search(const void* queries, int64_t* tokens, float* logits) {
    return swell_search(engine_, &search_, &search_item_, queries, tokens, logits, nullptr, error_.address());
  }
  // Both calls are refused after `spoil`, and their outputs are as they were.
  void AttendRefused(const std::function<void()>& spoil, swell_detail detail, const std::string& word,
                     swell_code code = SWELL_INVALID_ARGUMENT) {
    spoil();
    ExpectRefused([&] { return Attend(query_.data(), output_.data(), lse_.data()); }, detail, word, code);
    EXPECT_EQ(output_, std::vector<float>(kQuery, 123.0F));
    EXPECT_EQ(lse_, std::vector<float>(kHeads, 123.0F));
    Reset();
  }
  void SearchRefused(const std::function<void()>& spoil, swell_detail detail, const std::string& word,
                     swell_code code = SWELL_INVALID_ARGUMENT) {
    spoil();
    ExpectRefused([&] { return Search(query_.data(), tokens_.data(), logits_.data()); }, detail, word, code);
    EXPECT_EQ(tokens_, std::vector<int64_t>(kHeads * 5, -99));
    EXPECT_EQ(logits_, std::vector<float>(kHeads * 5, 123.0F));
    Reset();
  }

  double Logit(const float* query, int64_t head, int64_t token) const {
    double dot = 0;
    const float* key = &keys_[static_cast<size_t>(token * kRow + head / kGroup * kHeadDim)];
    for (int64_t d = 0; d < kHeadDim; ++d) dot += static_cast<double>(query[head * kHeadDim + d]) * key[d];
    return dot / std::sqrt(static_cast<double>(kHeadDim));
  }

  // Exact attention of one head over the first `visible` tokens.
  std::vector<double> Exact(const float* query, int64_t head, int64_t visible, double* lse) const {
    std::vector<double> output(kHeadDim, 0.0);
    double total = 0;
    for (int64_t token = 0; token < visible; ++token) {
      const double weight = std::exp(Logit(query, head, token));
      const float* value = &values_[static_cast<size_t>(token * kRow + head / kGroup * kHeadDim)];
      for (int64_t d = 0; d < kHeadDim; ++d) output[static_cast<size_t>(d)] += weight * value[d];
      total += weight;
    }
    for (double& number : output) number /= total;
    *lse = std::log(total);
    return output;
  }

  swell_attend_args attend_;
  swell_attend_item item_;
  swell_search_args search_;
  swell_search_item search_item_;
  std::vector<float> output_, lse_, logits_;
  std::vector<int64_t> tokens_;
};

TEST_F(AttendSearchTest, ExactAttentionOfABatch) {
  // Two sequences, three query positions in one and one in the other, rows out of order, one row unused.
  swell_sequence fork = 0;
  ASSERT_EQ(swell_sequence_fork(engine_, sequence_, &fork, nullptr), SWELL_OK);
  ASSERT_EQ(swell_sequence_truncate(engine_, fork, 77, nullptr), SWELL_OK);
  const swell_attend_item items[2] = {{sequence_, 3, 2, nullptr, SWELL_ATTEND_EXACT, 0},
                                      {fork, 1, 0, nullptr, SWELL_ATTEND_EXACT, 0}};
  const std::vector<float> queries = Random(5 * kQuery);
  std::vector<float> output(5 * kQuery, 123.0F);
  std::vector<float> lse(5 * kHeads, 123.0F);
  struct Larger {  // as a newer caller has it
    swell_certificate certificate;
    int64_t unknown;
  };
  std::vector<Larger> certificates(5 * kHeads, Larger{{-1, -1, -1, -1, -1}, -1});
  swell_status statuses[2];
  attend_.certificate_size = sizeof(Larger);
  attend_.n_items = 2;
  attend_.n_rows = 5;
  ASSERT_EQ(swell_attend(engine_, &attend_, items, queries.data(), output.data(), lse.data(),
                         &certificates[0].certificate, statuses, error_.address()),
            SWELL_OK)
      << error_.message();
  const int64_t visible[5] = {77, 0, kPrompt - 2, kPrompt - 1, kPrompt};
  for (int64_t row = 0; row < 5; ++row) {
    for (int64_t head = 0; head < kHeads; ++head) {
      const auto at = static_cast<size_t>(row * kHeads + head);
      SCOPED_TRACE(at);
      if (row == 1) {
        EXPECT_EQ(output[at * kHeadDim], 123.0F);
        EXPECT_EQ(lse[at], 123.0F);
        EXPECT_EQ(certificates[at].certificate.tokens_read, -1);
        continue;
      }
      double expected_lse = 0;
      const auto expected = Exact(&queries[static_cast<size_t>(row * kQuery)], head, visible[row], &expected_lse);
      for (size_t d = 0; d < kHeadDim; ++d) EXPECT_NEAR(output[at * kHeadDim + d], expected[d], 1e-5);
      EXPECT_NEAR(lse[at], expected_lse, 1e-5);
      EXPECT_EQ(certificates[at].certificate.tokens_visible, visible[row]);
      EXPECT_EQ(certificates[at].certificate.tokens_read, visible[row]);
      EXPECT_EQ(certificates[at].certificate.estimated_share, 0);
      EXPECT_EQ(certificates[at].unknown, 0);
    }
  }
}

TEST_F(AttendSearchTest, RetrievalOfACallReplacesTheSequences) {
  swell_sequence_options options = SWELL_SEQUENCE_OPTIONS_INIT;
  swell_retrieval_options settings = SWELL_RETRIEVAL_OPTIONS_INIT;
  ASSERT_EQ(swell_preset("swell", &options, &settings, nullptr), SWELL_OK);
  options.seal_tokens = 32;
  options.segment_tokens = 32;
  options.window_tokens = 16;
  settings.floor_tokens = 0;
  swell_retrieval* frugal = nullptr;
  ASSERT_EQ(swell_retrieval_create(&settings, nullptr, 0, &frugal, nullptr), SWELL_OK);
  swell_sequence sequence = 0;
  ASSERT_EQ(swell_sequence_create(engine_, &options, nullptr, &sequence, nullptr), SWELL_OK);
  ASSERT_EQ(Put(sequence, 0, kPrompt, keys_, values_), SWELL_OK);
  ASSERT_EQ(swell_sequence_wait_sealed(engine_, sequence, nullptr), SWELL_OK);
  std::vector<swell_certificate> certificates(kHeads);
  item_.sequence = sequence;
  item_.mode = SWELL_ATTEND_RETRIEVE;
  ASSERT_EQ(Attend(query_.data(), output_.data(), nullptr, certificates.data()), SWELL_OK) << error_.message();
  EXPECT_EQ(certificates[0].tokens_read, kPrompt) << "the floor of the preset is above the prompt";
  item_.retrieval = frugal;
  ASSERT_EQ(Attend(query_.data(), output_.data(), nullptr, certificates.data()), SWELL_OK) << error_.message();
  EXPECT_LT(certificates[0].tokens_read, kPrompt / 2);
  EXPECT_GT(certificates[0].estimated_share, 0);
  swell_retrieval_destroy(&frugal);
  Reset();

  // A bad range is said where the retrieval is used.
  settings.retrieve_share = 1.5F;
  ASSERT_EQ(swell_retrieval_create(&settings, nullptr, 0, &frugal, nullptr), SWELL_OK);
  AttendRefused([&] { item_.retrieval = frugal; }, SWELL_DETAIL_NONE, "retrieve_share");
  SearchRefused([&] { search_item_.retrieval = frugal; }, SWELL_DETAIL_NONE, "retrieve_share");
  swell_retrieval_destroy(&frugal);
}

TEST_F(AttendSearchTest, SearchFindsTheBestTokens) {
  ASSERT_EQ(Search(query_.data(), tokens_.data(), logits_.data()), SWELL_OK) << error_.message();
  for (int64_t head = 0; head < kHeads; ++head) {
    std::vector<std::pair<double, int64_t>> all;
    for (int64_t token = 0; token < kPrompt; ++token) all.emplace_back(-Logit(query_.data(), head, token), token);
    std::sort(all.begin(), all.end());
    for (size_t i = 0; i < 5; ++i) {
      const size_t at = static_cast<size_t>(head) * 5 + i;
      EXPECT_EQ(tokens_[at], all[i].second);
      EXPECT_NEAR(logits_[at], -all[i].first, 1e-4);
    }
  }
  EXPECT_EQ(Search(query_.data(), tokens_.data(), nullptr), SWELL_OK);
}

TEST_F(AttendSearchTest, UnusedPlacesOfASearchSaySo) {
  ASSERT_EQ(swell_sequence_truncate(engine_, sequence_, 3, nullptr), SWELL_OK);
  ASSERT_EQ(Search(query_.data(), tokens_.data(), logits_.data()), SWELL_OK) << error_.message();
  EXPECT_GE(tokens_[2], 0);
  EXPECT_EQ(tokens_[3], -1);
  EXPECT_EQ(logits_[4], -kInf);
}

TEST_F(AttendSearchTest, StructSizes) {
  SweepStructSize<swell_attend_args>(attend_, [&](const swell_attend_args* args) {
    return swell_attend(engine_, args, &item_, query_.data(), output_.data(), nullptr, nullptr, nullptr,
                        error_.address());
  });
  SweepStructSize<swell_search_args>(search_, [&](const swell_search_args* args) {
    return swell_search(engine_, args, &search_item_, query_.data(), tokens_.data(), nullptr, nullptr,
                        error_.address());
  });
}

TEST_F(AttendSearchTest, AttendRefusesBadInput) {
  for (uint32_t size : {0U, 36U, 44U, 5000U}) {
    AttendRefused([&] { attend_.item_size = size; }, SWELL_DETAIL_BAD_SIZE, "args.item_size");
  }
  for (int32_t layer : {-1, 2}) AttendRefused([&] { attend_.layer = layer; }, SWELL_DETAIL_NONE, "args.layer");
  for (int32_t dtype : {-1, 3, 4, 1 << 30}) {
    AttendRefused([&] { attend_.query_dtype = dtype; }, SWELL_DETAIL_UNKNOWN_DTYPE, "args.query_dtype");
    AttendRefused([&] { attend_.output_dtype = dtype; }, SWELL_DETAIL_UNKNOWN_DTYPE, "args.output_dtype");
  }
  AttendRefused([&] { attend_.n_items = -1; }, SWELL_DETAIL_BAD_SIZE, "args.n_items");
  AttendRefused([&] { attend_.n_items = kMax; }, SWELL_DETAIL_BAD_SIZE, "items");
  AttendRefused([&] { attend_.n_rows = -1; }, SWELL_DETAIL_BAD_SIZE, "args.n_rows");
  AttendRefused([&] { attend_.n_rows = kMax; }, SWELL_DETAIL_BAD_SIZE, "queries");
  AttendRefused([&] { item_.sequence = 0; }, SWELL_DETAIL_STALE_HANDLE, "sequence", SWELL_NOT_FOUND);
  for (int64_t count : {int64_t{-1}, int64_t{0}, int64_t{2}, kMax}) {
    AttendRefused([&] { item_.n_queries = count; }, SWELL_DETAIL_BAD_SIZE, "n_queries");
  }
  for (int64_t row : {int64_t{-1}, int64_t{1}, kMax}) {
    AttendRefused([&] { item_.first_row = row; }, SWELL_DETAIL_BAD_SIZE, "first_row");
  }
  for (int32_t mode : {-1, 2, 1 << 30}) AttendRefused([&] { item_.mode = mode; }, SWELL_DETAIL_NONE, "mode");
  AttendRefused([&] { item_.reserved = 1; }, SWELL_DETAIL_NONE, "reserved");
  for (float bad : {kNan, kInf, -kInf}) {
    const float good = query_[7];
    AttendRefused([&] { query_[7] = bad; }, SWELL_DETAIL_NON_FINITE, "queries");
    SearchRefused([] {}, SWELL_DETAIL_NON_FINITE, "queries");
    query_[7] = good;
  }
}

TEST_F(AttendSearchTest, AttendRefusesBadPointers) {
  swell_certificate certificates[kHeads];
  float* output = output_.data();
  const float* query = query_.data();
  ExpectRefused([&] { return Attend(nullptr, output); }, SWELL_DETAIL_NULL_POINTER, "queries");
  ExpectRefused([&] { return Attend(Misaligned(query), output); }, SWELL_DETAIL_MISALIGNED, "queries");
  ExpectRefused([&] { return Attend(query, nullptr); }, SWELL_DETAIL_NULL_POINTER, "output");
  ExpectRefused([&] { return Attend(query, Misaligned(output)); }, SWELL_DETAIL_MISALIGNED, "output");
  ExpectRefused([&] { return Attend(query, output, Misaligned(lse_.data())); }, SWELL_DETAIL_MISALIGNED, "lse");
  ExpectRefused([&] { return Attend(query, output, nullptr, Misaligned(certificates)); }, SWELL_DETAIL_MISALIGNED,
                "certificates");
  for (uint32_t size : {0U, 28U, 36U, 5000U}) {
    attend_.certificate_size = size;
    ExpectRefused([&] { return Attend(query, output, nullptr, certificates); }, SWELL_DETAIL_BAD_SIZE,
                  "args.certificate_size");
  }
  const swell_attend_item items[2] = {item_, item_};
  attend_.n_items = 2;
  const auto attend = [&](const swell_attend_item* from, swell_status* statuses) {
    return swell_attend(engine_, &attend_, from, query, output, nullptr, nullptr, statuses, error_.address());
  };
  swell_status statuses[2];
  ExpectRefused([&] { return attend(items, statuses); }, SWELL_DETAIL_NONE, "row 0");
  ExpectRefused([&] { return attend(nullptr, statuses); }, SWELL_DETAIL_NULL_POINTER, "items");
  ExpectRefused([&] { return attend(Misaligned(items), statuses); }, SWELL_DETAIL_MISALIGNED, "items");
  ExpectRefused([&] { return attend(items, Misaligned(statuses)); }, SWELL_DETAIL_MISALIGNED, "statuses");
  EXPECT_EQ(output_, std::vector<float>(kQuery, 123.0F));
}

TEST_F(AttendSearchTest, MoreQueriesThanTokens) {
  ASSERT_EQ(swell_sequence_truncate(engine_, sequence_, 1, nullptr), SWELL_OK);
  std::vector<float> queries = Random(2 * kQuery);
  std::vector<float> output(2 * kQuery, 123.0F);
  attend_.n_rows = 2;
  item_.n_queries = 2;
  EXPECT_NE(Attend(queries.data(), output.data()), SWELL_OK);
  EXPECT_NE(error_.message().find("n_queries"), std::string::npos) << error_.message();
  EXPECT_EQ(output, std::vector<float>(2 * kQuery, 123.0F));
}

TEST_F(AttendSearchTest, SearchRefusesBadInput) {
  SearchRefused([&] { search_.item_size = 28; }, SWELL_DETAIL_BAD_SIZE, "args.item_size");
  SearchRefused([&] { search_.layer = -1; }, SWELL_DETAIL_NONE, "args.layer");
  for (int32_t dtype : {-1, 3, 4}) {
    SearchRefused([&] { search_.query_dtype = dtype; }, SWELL_DETAIL_UNKNOWN_DTYPE, "args.query_dtype");
  }
  for (int64_t top_k : {int64_t{-1}, int64_t{0}}) {
    SearchRefused([&] { search_.top_k = top_k; }, SWELL_DETAIL_BAD_SIZE, "args.top_k");
  }
  SearchRefused([&] { search_.top_k = kMax; }, SWELL_DETAIL_BAD_SIZE, "tokens");
  SearchRefused([&] { search_.n_rows = kMax; }, SWELL_DETAIL_BAD_SIZE, "queries");
  SearchRefused([&] { search_item_.sequence = 99; }, SWELL_DETAIL_STALE_HANDLE, "sequence", SWELL_NOT_FOUND);
  for (int64_t row : {int64_t{-1}, int64_t{1}, kMax}) {
    SearchRefused([&] { search_item_.row = row; }, SWELL_DETAIL_BAD_SIZE, "row");
  }
  SearchRefused([&] { search_item_.mode = 2; }, SWELL_DETAIL_NONE, "mode");
  SearchRefused([&] { search_item_.reserved = 9; }, SWELL_DETAIL_NONE, "reserved");
  const float* query = query_.data();
  ExpectRefused([&] { return Search(nullptr, tokens_.data(), nullptr); }, SWELL_DETAIL_NULL_POINTER, "queries");
  ExpectRefused([&] { return Search(query, nullptr, nullptr); }, SWELL_DETAIL_NULL_POINTER, "tokens");
  ExpectRefused([&] { return Search(query, Misaligned(tokens_.data()), nullptr); }, SWELL_DETAIL_MISALIGNED, "tokens");
  ExpectRefused([&] { return Search(query, tokens_.data(), Misaligned(logits_.data())); }, SWELL_DETAIL_MISALIGNED,
                "logits");
}

}  // namespace
}  // namespace swell_test
