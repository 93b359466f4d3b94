// Goal: versions, names, errors, opening and closing, shape and stats keep the header's promises.
#include <mutex>
#include <thread>

#include "tests/capi/fixture.h"

namespace swell_test {
namespace {

class EngineTest : public CapiTest {};

TEST(VersionTest, LibraryMatchesHeader) {
  EXPECT_STREQ(swell_version(), SWELL_VERSION);
  EXPECT_EQ(swell_abi_version(), SWELL_ABI_VERSION);
}

TEST(NamesTest, KnownAndUnknown) {
  EXPECT_STREQ(swell_code_name(SWELL_OK), "OK");
  EXPECT_STREQ(swell_code_name(SWELL_DATA_LOSS), "DATA_LOSS");
  EXPECT_STREQ(swell_code_name(SWELL_RESOURCE_EXHAUSTED), "RESOURCE_EXHAUSTED");
  EXPECT_STREQ(swell_detail_name(SWELL_DETAIL_NONE), "NONE");
  EXPECT_STREQ(swell_detail_name(SWELL_DETAIL_UNKNOWN_DTYPE), "UNKNOWN_DTYPE");
  for (int32_t value : {-1, 16, 1000, std::numeric_limits<int32_t>::min(), std::numeric_limits<int32_t>::max()}) {
    EXPECT_STREQ(swell_code_name(value), "?");
    EXPECT_STREQ(swell_detail_name(value), "?");
  }
}

TEST(ErrorTest, NullIsFine) {
  EXPECT_EQ(swell_error_code(nullptr), SWELL_OK);
  EXPECT_EQ(swell_error_detail(nullptr), SWELL_DETAIL_NONE);
  EXPECT_STREQ(swell_error_message(nullptr), "");
  EXPECT_EQ(swell_error_item(nullptr), -1);
  swell_error* error = nullptr;
  swell_error_destroy(&error);
  swell_error_destroy(nullptr);
}

TEST(ErrorTest, SecondDestroyDoesNothing) {
  swell_error* error = nullptr;
  EXPECT_EQ(swell_engine_open(nullptr, nullptr, &error), SWELL_INVALID_ARGUMENT);
  ASSERT_NE(error, nullptr);
  swell_error_destroy(&error);
  EXPECT_EQ(error, nullptr);
  swell_error_destroy(&error);
}

TEST_F(EngineTest, SuccessClearsTheError) {
  swell_error* error = reinterpret_cast<swell_error*>(this);
  swell_engine_stats stats = SWELL_ENGINE_STATS_INIT;
  EXPECT_EQ(swell_engine_get_stats(engine_, &stats, &error), SWELL_OK);
  EXPECT_EQ(error, nullptr);
}

TEST_F(EngineTest, EveryCallWorksWithoutAnErrorAddress) {
  EXPECT_EQ(swell_engine_open(nullptr, nullptr, nullptr), SWELL_INVALID_ARGUMENT);
  EXPECT_EQ(swell_sequence_release(engine_, 0, nullptr), SWELL_NOT_FOUND);
  EXPECT_EQ(swell_put(engine_, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr),
            SWELL_INVALID_ARGUMENT);
}

TEST_F(EngineTest, SecondCloseDoesNothing) {
  swell_engine_options options = EngineOptions();
  swell_engine* engine = nullptr;
  ASSERT_EQ(swell_engine_open(&options, &engine, nullptr), SWELL_OK);
  swell_engine_close(&engine);
  EXPECT_EQ(engine, nullptr);
  swell_engine_close(&engine);
  swell_engine_close(nullptr);
}

TEST_F(EngineTest, OpenReadsWhatStructSizeCovers) {
  swell_engine* engine = nullptr;
  SweepStructSize<swell_engine_options>(
      EngineOptions(),
      [&](const swell_engine_options* options) { return swell_engine_open(options, &engine, error_.address()); },
      [&] { swell_engine_close(&engine); }, offsetof(swell_engine_options, audit_interval));
  EXPECT_EQ(engine, nullptr);
}

TEST_F(EngineTest, OpenRefusesBadOptions) {
  const auto refused = [&](const std::function<void(swell_engine_options*)>& change, const std::string& word,
                           swell_detail detail = SWELL_DETAIL_NONE) {
    swell_engine_options options = EngineOptions();
    change(&options);
    swell_engine* engine = reinterpret_cast<swell_engine*>(this);
    ExpectRefused([&] { return swell_engine_open(&options, &engine, error_.address()); }, detail, word);
    EXPECT_EQ(engine, nullptr);
  };
  for (int32_t layers : {-1, 0, 4097}) refused([&](auto* options) { options->layers = layers; }, "layers");
  for (int32_t heads : {-1, 0, 1025}) refused([&](auto* options) { options->kv_heads = heads; }, "kv_heads");
  for (int32_t group : {-1, 0, 17}) refused([&](auto* options) { options->group = group; }, "group");
  for (int32_t dim : {-16, 0, 8, 40, 272}) refused([&](auto* options) { options->head_dim = dim; }, "head_dim");
  for (float scale : {-1.0F, kNan, kInf}) refused([&](auto* options) { options->scale = scale; }, "scale");
  for (int32_t threads : {-1, 1 << 30}) refused([&](auto* options) { options->threads = threads; }, "threads");
  for (int32_t dtype : {-1, 4, 1000}) {
    refused([&](auto* options) { options->storage = dtype; }, "storage", SWELL_DETAIL_UNKNOWN_DTYPE);
  }
  refused([](auto* options) { options->flags = 2; }, "flags");
  refused([](auto* options) { options->reserved = 1; }, "reserved");
  refused([](auto* options) { options->audit_interval = -1; }, "audit_interval");
}

TEST_F(EngineTest, OpenRefusesBadHandleAddress) {
  const swell_engine_options options = EngineOptions();
  swell_engine* engine = nullptr;
  ExpectRefused([&] { return swell_engine_open(&options, nullptr, error_.address()); }, SWELL_DETAIL_NULL_POINTER,
                "engine");
  ExpectRefused([&] { return swell_engine_open(&options, Misaligned(&engine), error_.address()); },
                SWELL_DETAIL_MISALIGNED, "engine");
}

TEST_F(EngineTest, ShapeIsWhatWasOpened) {
  swell_engine_shape shape = SWELL_ENGINE_SHAPE_INIT;
  ASSERT_EQ(swell_engine_get_shape(engine_, &shape, nullptr), SWELL_OK);
  EXPECT_EQ(shape.struct_size, sizeof(shape));
  EXPECT_EQ(shape.layers, 2);
  EXPECT_EQ(shape.kv_heads, kKvHeads);
  EXPECT_EQ(shape.group, kGroup);
  EXPECT_EQ(shape.head_dim, kHeadDim);
  EXPECT_FLOAT_EQ(shape.scale, 1 / std::sqrt(static_cast<float>(kHeadDim)));
  EXPECT_EQ(shape.storage, SWELL_FLOAT32);
}

TEST_F(EngineTest, OutStructsAreFilledAsFarAsTheyReach) {
  struct {
    swell_engine_stats stats;
    unsigned char beyond[64];
    unsigned char guard;
  } place;
  for (uint32_t size = 0; size <= sizeof(swell_engine_stats) + 64; ++size) {
    std::memset(&place, 0xAB, sizeof(place));
    place.stats.struct_size = size;
    const swell_code code = swell_engine_get_stats(engine_, &place.stats, error_.address());
    EXPECT_EQ(place.stats.struct_size, size);
    EXPECT_EQ(place.guard, 0xAB);
    if (size < offsetof(swell_engine_stats, audited_answers)) {
      EXPECT_EQ(code, SWELL_INVALID_ARGUMENT);
      EXPECT_EQ(swell_error_detail(error_.get()), SWELL_DETAIL_BAD_SIZE);
      EXPECT_EQ(place.stats.reserved, 0xABABABABU);
      continue;
    }
    EXPECT_EQ(code, SWELL_OK);
    EXPECT_EQ(place.stats.sequences, 1);
    EXPECT_EQ(place.stats.tokens_put, kPrompt);
    for (uint32_t i = 0; i < 64; ++i) {
      EXPECT_EQ(place.beyond[i], sizeof(swell_engine_stats) + i < size ? 0 : 0xAB);
    }
  }
}

TEST_F(EngineTest, AuditsAreAskedForAndCounted) {
  swell_engine_options options = EngineOptions();
  options.audit_interval = 2;
  Open(options);
  swell_sequence_options storage = SWELL_SEQUENCE_OPTIONS_INIT;
  swell_retrieval_options settings = SWELL_RETRIEVAL_OPTIONS_INIT;
  ASSERT_EQ(swell_preset("swell", &storage, &settings, nullptr), SWELL_OK);
  settings.floor_tokens = 0;
  storage.seal_tokens = storage.segment_tokens = 16;
  storage.window_tokens = 16;
  swell_retrieval* retrieval = nullptr;
  ASSERT_EQ(swell_retrieval_create(&settings, nullptr, 0, &retrieval, nullptr), SWELL_OK);
  ASSERT_EQ(swell_sequence_create(engine_, &storage, retrieval, &sequence_, nullptr), SWELL_OK);
  swell_retrieval_destroy(&retrieval);
  swell_put_item item = {sequence_, 0, kPrompt, 0};
  swell_put_args put = SWELL_PUT_ARGS_INIT;
  put.n_items = 1;
  put.n_rows = kPrompt;
  ASSERT_EQ(swell_put(engine_, &put, &item, keys_.data(), values_.data(), nullptr, nullptr, nullptr, nullptr),
            SWELL_OK);
  swell_attend_item ask = {sequence_, 1, 0, nullptr, 0, 0};
  swell_attend_args attend = SWELL_ATTEND_ARGS_INIT;
  attend.n_items = attend.n_rows = 1;
  std::vector<float> output(kQuery);
  for (int call = 0; call < 4; ++call) {
    ASSERT_EQ(
        swell_attend(engine_, &attend, &ask, query_.data(), output.data(), nullptr, nullptr, nullptr, error_.address()),
        SWELL_OK)
        << error_.message();
  }
  const swell_engine_stats stats = Stats();
  EXPECT_EQ(stats.audited_answers, 3 * kHeads);  // calls 1, 2 and 4
  EXPECT_GE(stats.audited_within_3, stats.audited_within_2);
  EXPECT_GE(stats.audited_factor_sum, static_cast<double>(stats.audited_answers));
}

TEST_F(EngineTest, MetricsFillABufferThatIsLargeEnough) {
  int64_t size = 0;
  ASSERT_EQ(swell_engine_metrics(engine_, nullptr, 0, &size, nullptr), SWELL_OK);
  ASSERT_GT(size, 1);
  std::string buffer(static_cast<size_t>(size) + 8, '#');
  int64_t written = 0;
  ASSERT_EQ(swell_engine_metrics(engine_, buffer.data(), size, &written, nullptr), SWELL_OK);
  EXPECT_EQ(written, size);
  EXPECT_EQ(buffer.find('\0'), static_cast<size_t>(size) - 1);
  EXPECT_EQ(buffer.substr(static_cast<size_t>(size)), "########");
  EXPECT_NE(buffer.find("\nswell_tokens_put_total " + std::to_string(kPrompt) + "\n"), std::string::npos) << buffer;

  std::string small(static_cast<size_t>(size) - 1, '#');
  written = 0;
  EXPECT_EQ(swell_engine_metrics(engine_, small.data(), size - 1, &written, error_.address()), SWELL_OUT_OF_RANGE);
  EXPECT_EQ(swell_error_detail(error_.get()), SWELL_DETAIL_BAD_SIZE);
  EXPECT_EQ(written, size);
  EXPECT_EQ(small, std::string(small.size(), '#'));
  ExpectRefused([&] { return swell_engine_metrics(engine_, small.data(), -1, &written, error_.address()); },
                SWELL_DETAIL_BAD_SIZE, "capacity");
  ExpectRefused([&] { return swell_engine_metrics(engine_, nullptr, 10, &written, error_.address()); },
                SWELL_DETAIL_NULL_POINTER, "buffer");
  ExpectRefused([&] { return swell_engine_metrics(engine_, small.data(), 10, nullptr, error_.address()); },
                SWELL_DETAIL_NULL_POINTER, "size");
}

TEST_F(EngineTest, NullEngineIsRefusedEverywhere) {
  swell_engine_shape shape = SWELL_ENGINE_SHAPE_INIT;
  swell_engine_stats stats = SWELL_ENGINE_STATS_INIT;
  swell_layer_info info = SWELL_LAYER_INFO_INIT;
  swell_sequence made = 77;
  int64_t tokens = -5;
  const swell_put_args put = SWELL_PUT_ARGS_INIT;
  const swell_attend_args attend = SWELL_ATTEND_ARGS_INIT;
  const swell_search_args search = SWELL_SEARCH_ARGS_INIT;
  const swell_fetch_args fetch = SWELL_FETCH_ARGS_INIT;
  const std::vector<std::function<swell_code()>> calls = {
      [&] { return swell_engine_get_shape(nullptr, &shape, error_.address()); },
      [&] { return swell_engine_get_stats(nullptr, &stats, error_.address()); },
      [&] { return swell_engine_metrics(nullptr, nullptr, 0, &tokens, error_.address()); },
      [&] { return swell_sequence_create(nullptr, nullptr, nullptr, &made, error_.address()); },
      [&] { return swell_sequence_fork(nullptr, sequence_, &made, error_.address()); },
      [&] { return swell_sequence_truncate(nullptr, sequence_, 0, error_.address()); },
      [&] { return swell_sequence_release(nullptr, sequence_, error_.address()); },
      [&] { return swell_sequence_length(nullptr, sequence_, 0, &tokens, error_.address()); },
      [&] { return swell_sequence_wait_sealed(nullptr, sequence_, error_.address()); },
      [&] { return swell_sequence_inspect(nullptr, sequence_, 0, &info, nullptr, 0, error_.address()); },
      [&] { return swell_put(nullptr, &put, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, error_.address()); },
      [&] {
        return swell_attend(nullptr, &attend, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, error_.address());
      },
      [&] { return swell_search(nullptr, &search, nullptr, nullptr, nullptr, nullptr, nullptr, error_.address()); },
      [&] {
        return swell_fetch(nullptr, &fetch, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr,
                           error_.address());
      },
  };
  for (const auto& call : calls) ExpectRefused(call, SWELL_DETAIL_NULL_POINTER, "engine");
  EXPECT_EQ(made, 0U);
  EXPECT_EQ(tokens, -5);
}

TEST_F(EngineTest, BudgetIsKeptAndNothingChangesWhenItWouldNotBe) {
  swell_engine_options options = EngineOptions();
  options.host_budget_bytes = 4 << 20;
  Open(options);
  const std::vector<float> rows = Random(100000 * kRow / 8);
  ExpectRefused([&] { return Put(sequence_, kPrompt, 12500, rows, rows); }, SWELL_DETAIL_OVER_BUDGET, "budget",
                SWELL_RESOURCE_EXHAUSTED);
  EXPECT_LE(Stats().bytes_peak, options.host_budget_bytes);
}

// What a log function received.
struct Log {
  std::mutex mutex;
  std::vector<std::string> messages;
  static void Receive(void* context, const char* message) {
    auto* log = static_cast<Log*>(context);
    std::lock_guard lock(log->mutex);
    log->messages.emplace_back(message);
  }
};

TEST_F(EngineTest, LogReceivesWarningsWithItsContext) {
  // The budget holds the prompt and nothing more, so that sealing it must fail: the tokens stay exact, and the log says
  // so.
  Log log;
  swell_engine_options options = EngineOptions();
  options.host_budget_bytes = Stats().bytes_in_use + 1024;
  options.log = &Log::Receive;
  options.log_context = &log;
  Open(options);
  ASSERT_EQ(swell_sequence_release(engine_, sequence_, error_.address()), SWELL_OK);
  swell_sequence_options settings = SWELL_SEQUENCE_OPTIONS_INIT;
  ASSERT_EQ(swell_preset("swell", &settings, nullptr, error_.address()), SWELL_OK);
  settings.seal_tokens = settings.segment_tokens = 32;
  ASSERT_EQ(swell_sequence_create(engine_, &settings, nullptr, &sequence_, error_.address()), SWELL_OK);
  ASSERT_EQ(Put(sequence_, 0, kPrompt, keys_, values_), SWELL_OK) << error_.message();
  ASSERT_EQ(swell_sequence_wait_sealed(engine_, sequence_, error_.address()), SWELL_OK);
  EXPECT_GE(Stats().builds_failed, 1);
  swell_engine_close(&engine_);
  ASSERT_FALSE(log.messages.empty());
  EXPECT_NE(log.messages[0].find("seal"), std::string::npos) << log.messages[0];
}

TEST_F(EngineTest, ThreadsOnSequencesOfTheirOwn) {
  // Each thread makes its own sequence, grows it token by token and must read back what it put.
  constexpr int kThreads = 4;
  std::vector<std::string> failures(kThreads);
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      const auto check = [&](swell_code code) {
        if (code != SWELL_OK) failures[t] += std::string(swell_code_name(code)) + " ";
      };
      swell_sequence sequence = 0;
      check(swell_sequence_create(engine_, nullptr, nullptr, &sequence, nullptr));
      swell_put_args put = SWELL_PUT_ARGS_INIT;
      put.n_items = put.n_rows = 1;
      swell_fetch_args fetch = SWELL_FETCH_ARGS_INIT;
      fetch.n_items = fetch.n_rows = 1;
      for (int64_t token = 0; token < 40; ++token) {
        const size_t row = static_cast<size_t>((token + 40 * t) * kRow);
        const swell_put_item item = {sequence, token, 1, 0};
        check(swell_put(engine_, &put, &item, &keys_[row], &values_[row], nullptr, nullptr, nullptr, nullptr));
        std::vector<float> got(kRow);
        const swell_fetch_item fetch_item = {sequence, 1, 0};
        check(
            swell_fetch(engine_, &fetch, &fetch_item, &token, nullptr, got.data(), nullptr, nullptr, nullptr, nullptr));
        if (std::memcmp(got.data(), &values_[row], kRow * sizeof(float)) != 0) failures[t] += "different ";
      }
      check(swell_sequence_release(engine_, sequence, nullptr));
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const std::string& failure : failures) EXPECT_EQ(failure, "");
}

}  // namespace
}  // namespace swell_test
