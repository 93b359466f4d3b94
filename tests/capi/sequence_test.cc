// Goal: settings and the life of sequences, through the C API; every bad input is refused and changes nothing.
#include "tests/capi/fixture.h"

namespace swell_test {
namespace {

class SequenceTest : public CapiTest {
 protected:
  void Preset(const char* name) {
    ASSERT_EQ(swell_preset(name, &options_, &retrieval_, error_.address()), SWELL_OK) << error_.message();
  }

  // Creating a sequence with options_ and retrieval_ is refused.
  void ExpectNoSequence(const std::string& word, swell_detail detail = SWELL_DETAIL_NONE) {
    swell_retrieval* retrieval = nullptr;
    swell_sequence sequence = 77;
    ExpectRefused(
        [&] {
          swell_code code = swell_retrieval_create(
              &retrieval_, overrides_.data(), static_cast<int64_t>(overrides_.size()), &retrieval, error_.address());
          if (code != SWELL_OK) {
            EXPECT_EQ(retrieval, nullptr);
            return code;
          }
          code = swell_sequence_create(engine_, &options_, retrieval, &sequence, error_.address());
          EXPECT_EQ(sequence, 0U);
          return code;
        },
        detail, word);
    swell_retrieval_destroy(&retrieval);
    EXPECT_EQ(retrieval, nullptr);
    Preset("swell");
    overrides_.clear();
  }

  swell_sequence_options options_ = SWELL_SEQUENCE_OPTIONS_INIT;
  swell_retrieval_options retrieval_ = SWELL_RETRIEVAL_OPTIONS_INIT;
  std::vector<swell_budget_override> overrides_;
};

TEST_F(SequenceTest, PresetsAreTheDocumentedSettings) {
  Preset("swell");
  EXPECT_EQ(options_.index, SWELL_INDEX_WAVE);
  EXPECT_EQ(options_.cluster_tokens, 8);
  EXPECT_EQ(options_.window_tokens, 64);
  EXPECT_EQ(options_.segment_tokens % options_.seal_tokens, 0);
  EXPECT_EQ(retrieval_.ranking, SWELL_RANKING_SHARE);
  EXPECT_FLOAT_EQ(retrieval_.retrieve_above, 0.0025F);
  EXPECT_FLOAT_EQ(retrieval_.retrieve_share, 0.16F);
  EXPECT_EQ(retrieval_.flags, SWELL_RETRIEVAL_CORRECT);
  Preset("retroinfer");
  EXPECT_EQ(options_.cluster_tokens, 16);
  EXPECT_EQ(retrieval_.unit, SWELL_BUDGET_CLUSTERS);
  EXPECT_EQ(retrieval_.ranking, SWELL_RANKING_MASS);
  EXPECT_EQ(retrieval_.flags, 0U);
  EXPECT_EQ(swell_preset("swell", nullptr, nullptr, nullptr), SWELL_OK);
}

TEST_F(SequenceTest, PresetRefusesBadArguments) {
  ExpectRefused([&] { return swell_preset("nonesuch", &options_, nullptr, error_.address()); }, SWELL_DETAIL_NONE,
                "nonesuch", SWELL_NOT_FOUND);
  ExpectRefused([&] { return swell_preset(nullptr, &options_, nullptr, error_.address()); }, SWELL_DETAIL_NULL_POINTER,
                "name");
  const swell_sequence_options before = options_;
  retrieval_.struct_size = 8;
  ExpectRefused([&] { return swell_preset("swell", &options_, &retrieval_, error_.address()); }, SWELL_DETAIL_BAD_SIZE,
                "retrieval.struct_size");
  EXPECT_EQ(std::memcmp(&before, &options_, sizeof(before)), 0);
  options_.struct_size = 0;
  ExpectRefused([&] { return swell_preset("swell", &options_, nullptr, error_.address()); }, SWELL_DETAIL_BAD_SIZE,
                "sequence.struct_size");
}

TEST_F(SequenceTest, StructSizes) {
  Preset("swell");
  swell_sequence sequence = 0;
  SweepStructSize<swell_sequence_options>(
      options_,
      [&](const swell_sequence_options* options) {
        // NULL stands for the defaults here, which the sweep takes for an error: it is tested below.
        if (options == nullptr) return swell_preset(nullptr, nullptr, nullptr, error_.address());
        return swell_sequence_create(engine_, options, nullptr, &sequence, error_.address());
      },
      [&] { EXPECT_EQ(swell_sequence_release(engine_, sequence, nullptr), SWELL_OK); });
  swell_retrieval* retrieval = nullptr;
  SweepStructSize<swell_retrieval_options>(
      retrieval_,
      [&](const swell_retrieval_options* options) {
        return swell_retrieval_create(options, nullptr, 0, &retrieval, error_.address());
      },
      [&] { swell_retrieval_destroy(&retrieval); }, offsetof(swell_retrieval_options, max_open_tokens));
}

TEST_F(SequenceTest, BadSequenceOptions) {
  Preset("swell");
  for (int32_t kind : {-1, SWELL_INDEX_SCAN + 1, 1000}) {
    options_.index = kind;
    ExpectNoSequence("index");
  }
  const std::vector<std::tuple<int32_t swell_sequence_options::*, int32_t, const char*>> cases = {
      {&swell_sequence_options::cluster_tokens, 0, "cluster_tokens"},
      {&swell_sequence_options::cluster_tokens, 4097, "cluster_tokens"},
      {&swell_sequence_options::iterations, 0, "iterations"},
      {&swell_sequence_options::iterations, 101, "iterations"},
      {&swell_sequence_options::sink_tokens, -1, "sink_tokens"},
      {&swell_sequence_options::sink_tokens, 1025, "sink_tokens"},
      {&swell_sequence_options::window_tokens, -1, "window_tokens"},
      {&swell_sequence_options::window_tokens, 65537, "window_tokens"},
      {&swell_sequence_options::seal_tokens, 15, "seal_tokens"},
      {&swell_sequence_options::seal_tokens, 65537, "seal_tokens"},
      {&swell_sequence_options::segment_tokens, 513, "segment_tokens"},
      {&swell_sequence_options::segment_tokens, 0, "segment_tokens"},
      {&swell_sequence_options::segment_tokens, 1 << 20, "segment_tokens"},
  };
  for (const auto& [field, value, word] : cases) {
    options_.*field = value;
    ExpectNoSequence(word);
  }
}

TEST_F(SequenceTest, BadRetrievalOptions) {
  Preset("swell");
  for (float share : {0.0F, -0.5F, 1.5F, kNan, kInf}) {
    retrieval_.retrieve_share = share;
    ExpectNoSequence("retrieve_share");
    overrides_ = {{-1, -1, share}};
    ExpectNoSequence("retrieve_share");
  }
  for (float share : {-0.1F, 1.0F, kNan}) {
    retrieval_.retrieve_above = share;
    ExpectNoSequence("retrieve_above");
  }
  retrieval_.ranking = SWELL_RANKING_OPTIMISTIC;  // under which 0.0025 of the mass means nothing
  ExpectNoSequence("retrieve_above");
  for (float share : {-0.5F, 1.5F, kNan}) {
    retrieval_.estimate_share = share;
    ExpectNoSequence("estimate_share");
  }
  for (float share : {-0.1F, 1.01F, kNan}) {
    retrieval_.open_share = share;
    ExpectNoSequence("open_share");
  }
  for (float kappa : {-1.0F, kNan, kInf}) {
    retrieval_.kappa = kappa;
    ExpectNoSequence("kappa");
  }
  for (int64_t swell_retrieval_options::*field :
       {&swell_retrieval_options::retrieve_tokens, &swell_retrieval_options::max_retrieve_tokens,
        &swell_retrieval_options::floor_tokens, &swell_retrieval_options::max_open_tokens}) {
    retrieval_.*field = -1;
    ExpectNoSequence("tokens");
  }
  retrieval_.unit = 2;
  ExpectNoSequence("unit");
  retrieval_.ranking = -1;
  ExpectNoSequence("ranking");
  retrieval_.flags = 6;
  ExpectNoSequence("flags");
  retrieval_.reserved_2 = 1;
  ExpectNoSequence("reserved");
  overrides_ = {{2, 0, 0.5F}};
  ExpectNoSequence("layer");
  overrides_ = {{0, -2, 0.5F}};
  ExpectNoSequence("kv_head");
}

TEST_F(SequenceTest, RetrievalArguments) {
  Preset("swell");
  swell_retrieval* retrieval = nullptr;
  const swell_budget_override one = {0, 0, 0.5F};
  const auto create = [&](const swell_budget_override* overrides, int64_t count, swell_retrieval** out) {
    return swell_retrieval_create(&retrieval_, overrides, count, out, error_.address());
  };
  ExpectRefused([&] { return create(nullptr, 1, &retrieval); }, SWELL_DETAIL_NULL_POINTER, "overrides");
  ExpectRefused([&] { return create(Misaligned(&one), 1, &retrieval); }, SWELL_DETAIL_MISALIGNED, "overrides");
  ExpectRefused([&] { return create(&one, -1, &retrieval); }, SWELL_DETAIL_BAD_SIZE, "n_overrides");
  ExpectRefused([&] { return create(&one, std::numeric_limits<int64_t>::max(), &retrieval); }, SWELL_DETAIL_BAD_SIZE,
                "overrides");
  ExpectRefused([&] { return create(&one, 1, nullptr); }, SWELL_DETAIL_NULL_POINTER, "retrieval");
  EXPECT_EQ(create(&one, 1, &retrieval), SWELL_OK);
  swell_sequence sequence = 0;
  EXPECT_EQ(swell_sequence_create(engine_, nullptr, retrieval, &sequence, error_.address()), SWELL_OK);
  swell_retrieval_destroy(&retrieval);
  swell_retrieval_destroy(&retrieval);
  swell_retrieval_destroy(nullptr);
}

TEST_F(SequenceTest, ForkTruncateRelease) {
  swell_sequence fork = 0;
  ASSERT_EQ(swell_sequence_fork(engine_, sequence_, &fork, error_.address()), SWELL_OK);
  EXPECT_NE(fork, sequence_);
  ASSERT_EQ(swell_sequence_truncate(engine_, fork, 50, error_.address()), SWELL_OK);
  int64_t tokens = 0;
  EXPECT_EQ(Length(fork, &tokens), SWELL_OK);
  EXPECT_EQ(tokens, 50);
  EXPECT_EQ(Length(sequence_, &tokens), SWELL_OK);
  EXPECT_EQ(tokens, kPrompt);
  EXPECT_EQ(Stats().sequences, 2);
  EXPECT_EQ(swell_sequence_wait_sealed(engine_, fork, error_.address()), SWELL_OK);
  EXPECT_EQ(swell_sequence_release(engine_, fork, error_.address()), SWELL_OK);
  EXPECT_EQ(Stats().sequences, 1);
  // Documented as safe: a second release is an error that does nothing.
  ExpectRefused([&] { return swell_sequence_release(engine_, fork, error_.address()); }, SWELL_DETAIL_STALE_HANDLE,
                "sequence", SWELL_NOT_FOUND);
}

TEST_F(SequenceTest, StaleAndForeignIdsAreRefusedEverywhere) {
  swell_sequence released = 0;
  ASSERT_EQ(swell_sequence_create(engine_, nullptr, nullptr, &released, nullptr), SWELL_OK);
  ASSERT_EQ(swell_sequence_release(engine_, released, nullptr), SWELL_OK);
  swell_layer_info info = SWELL_LAYER_INFO_INIT;
  swell_sequence made = 77;
  int64_t tokens = -5;
  for (swell_sequence bad :
       {swell_sequence{0}, released, sequence_ + 1000, ~swell_sequence{0}, sequence_ ^ (swell_sequence{1} << 40)}) {
    const std::vector<std::function<swell_code()>> calls = {
        [&] { return swell_sequence_fork(engine_, bad, &made, error_.address()); },
        [&] { return swell_sequence_truncate(engine_, bad, 0, error_.address()); },
        [&] { return swell_sequence_release(engine_, bad, error_.address()); },
        [&] { return swell_sequence_length(engine_, bad, 0, &tokens, error_.address()); },
        [&] { return swell_sequence_wait_sealed(engine_, bad, error_.address()); },
        [&] { return swell_sequence_inspect(engine_, bad, 0, &info, nullptr, 0, error_.address()); },
        [&] { return Put(bad, 0, 1, keys_, values_); },
    };
    for (const auto& call : calls) ExpectRefused(call, SWELL_DETAIL_STALE_HANDLE, "sequence", SWELL_NOT_FOUND);
  }
  EXPECT_EQ(made, 0U);
  EXPECT_EQ(tokens, -5);
  EXPECT_EQ(info.tokens, 0);
}

TEST_F(SequenceTest, BadArguments) {
  int64_t tokens = 0;
  swell_sequence sequence = 0;
  ExpectRefused([&] { return swell_sequence_truncate(engine_, sequence_, -1, error_.address()); },
                SWELL_DETAIL_BAD_SIZE, "tokens");
  for (int32_t layer : {-1, 2, 1000}) {
    ExpectRefused([&] { return swell_sequence_length(engine_, sequence_, layer, &tokens, error_.address()); },
                  SWELL_DETAIL_NONE, "layer");
  }
  ExpectRefused([&] { return swell_sequence_length(engine_, sequence_, 0, nullptr, error_.address()); },
                SWELL_DETAIL_NULL_POINTER, "tokens");
  ExpectRefused([&] { return swell_sequence_length(engine_, sequence_, 0, Misaligned(&tokens), error_.address()); },
                SWELL_DETAIL_MISALIGNED, "tokens");
  ExpectRefused([&] { return swell_sequence_create(engine_, nullptr, nullptr, nullptr, error_.address()); },
                SWELL_DETAIL_NULL_POINTER, "sequence");
  ExpectRefused([&] { return swell_sequence_fork(engine_, sequence_, nullptr, error_.address()); },
                SWELL_DETAIL_NULL_POINTER, "fork");
  ExpectRefused([&] { return swell_sequence_fork(engine_, sequence_, Misaligned(&sequence), error_.address()); },
                SWELL_DETAIL_MISALIGNED, "fork");
}

TEST_F(SequenceTest, InspectListsTheSegments) {
  Preset("swell");
  options_.seal_tokens = 32;
  options_.segment_tokens = 64;
  options_.window_tokens = 16;
  swell_sequence sequence = 0;
  ASSERT_EQ(swell_sequence_create(engine_, &options_, nullptr, &sequence, error_.address()), SWELL_OK);
  ASSERT_EQ(Put(sequence, 0, kPrompt, keys_, values_), SWELL_OK) << error_.message();
  ASSERT_EQ(swell_sequence_wait_sealed(engine_, sequence, error_.address()), SWELL_OK);

  struct Larger {  // as a newer caller has it
    swell_segment_info info;
    int64_t unknown[2];
  } segments[16];
  std::memset(segments, 0xAB, sizeof(segments));
  swell_layer_info info = SWELL_LAYER_INFO_INIT;
  info.segment_size = sizeof(Larger);
  ASSERT_EQ(swell_sequence_inspect(engine_, sequence, 0, &info, &segments[0].info, 2, error_.address()), SWELL_OK)
      << error_.message();
  EXPECT_EQ(info.tokens, kPrompt);
  EXPECT_EQ(info.sealing, 0);
  ASSERT_GE(info.n_segments, 3);
  EXPECT_EQ(segments[0].info.owners, 1);
  EXPECT_GT(segments[0].info.clusters, 0);
  EXPECT_GT(segments[0].info.row_bytes, 0U);
  EXPECT_EQ(segments[1].info.first_token, segments[0].info.first_token + segments[0].info.tokens);
  EXPECT_EQ(segments[1].unknown[1], 0);
  EXPECT_EQ(static_cast<unsigned char>(segments[2].info.tokens & 0xFF), 0xAB) << "beyond the capacity";
}

TEST_F(SequenceTest, InspectRefusesBadArguments) {
  swell_layer_info info = SWELL_LAYER_INFO_INIT;
  swell_segment_info segment;
  const auto inspect = [&](swell_layer_info* out, swell_segment_info* segments, int64_t capacity) {
    return swell_sequence_inspect(engine_, sequence_, 0, out, segments, capacity, error_.address());
  };
  ExpectRefused([&] { return inspect(nullptr, nullptr, 0); }, SWELL_DETAIL_NULL_POINTER, "info");
  ExpectRefused([&] { return inspect(Misaligned(&info), nullptr, 0); }, SWELL_DETAIL_MISALIGNED, "info");
  ExpectRefused([&] { return inspect(&info, nullptr, 1); }, SWELL_DETAIL_NULL_POINTER, "segments");
  ExpectRefused([&] { return inspect(&info, Misaligned(&segment), 1); }, SWELL_DETAIL_MISALIGNED, "segments");
  ExpectRefused([&] { return inspect(&info, &segment, -1); }, SWELL_DETAIL_BAD_SIZE, "capacity");
  ExpectRefused([&] { return inspect(&info, &segment, std::numeric_limits<int64_t>::max()); }, SWELL_DETAIL_BAD_SIZE,
                "segments");
  for (uint32_t size : {0U, 40U, 52U, 5000U}) {
    info.segment_size = size;
    ExpectRefused([&] { return inspect(&info, &segment, 1); }, SWELL_DETAIL_BAD_SIZE, "segment_size");
  }
  info.segment_size = sizeof(segment);
  info.struct_size = 4;
  ExpectRefused([&] { return inspect(&info, &segment, 1); }, SWELL_DETAIL_BAD_SIZE, "struct_size");
}

}  // namespace
}  // namespace swell_test
