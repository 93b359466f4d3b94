// What every KeyIndex must hold, whatever its kind and the storage dtype.
#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <iterator>
#include <limits>
#include <set>
#include <span>
#include <string>
#include <thread>
#include <tuple>

#include "swell/faiss_index.h"
#include "tests/index/key_world.h"

namespace swell {
namespace {

constexpr uint32_t kSeed = 20250117;
constexpr int32_t kHeadDim = 48;

struct Kind {
  std::string name;
  double recall;  // that it reaches with much effort; FAISS's HNSW leaves keys out of reach for such queries
  Result<std::unique_ptr<KeyIndex>> (*build)(const KeyTable& keys, const QuerySample& queries);
};

const Kind kKinds[] = {
    {"flat", 0.999, [](const KeyTable& keys, const QuerySample&) { return MakeFlatKeyIndex(keys); }},
    {"graph", 0.95,
     [](const KeyTable& keys, const QuerySample& queries) { return BuildGraphIndex({}, keys, queries); }},
    {"faiss_flat", 0.999,
     [](const KeyTable& keys, const QuerySample&) {
       return BuildFaissIndex({FaissKind::kFlat, 0}, keys);
     }},
    {"ivf_flat", 0.999,
     [](const KeyTable& keys, const QuerySample&) {
       return BuildFaissIndex({FaissKind::kIvfFlat, 16}, keys);
     }},
    {"ivf_sq8", 0.9,
     [](const KeyTable& keys, const QuerySample&) {
       return BuildFaissIndex({FaissKind::kIvfSq8, 16}, keys);
     }},
    {"hnsw", 0.3,
     [](const KeyTable& keys, const QuerySample&) {
       return BuildFaissIndex({FaissKind::kHnsw, 16}, keys);
     }},
};

class KeyIndexContract : public testing::TestWithParam<std::tuple<Kind, DType>> {
 protected:
  void SetUp() override { RecordProperty("seed", static_cast<int>(kSeed)); }
  static const Kind& kind() { return std::get<0>(GetParam()); }
  static DType Storage() { return std::get<1>(GetParam()); }
  static std::unique_ptr<KeyIndex> Build(const KeyTable& keys, const std::vector<float>& queries) {
    auto index = kind().build(keys, Sample(queries, keys.head_dim));
    EXPECT_TRUE(index.ok()) << index.status().message();
    return index.ok() ? std::move(index).value() : nullptr;
  }
};

constexpr SearchEffort kMuch{.pool = 400, .visits = 1 << 20};

TEST_P(KeyIndexContract, FindsTheBestKeys) {
  const KeyWorld world(Storage(), kHeadDim, RandomRows(1000, kHeadDim, 40, kSeed), 8, true, kSeed);
  const auto index = Build(world.table, RandomQueries(300, kHeadDim, kSeed));
  ASSERT_NE(index, nullptr);
  EXPECT_EQ(index->tokens(), world.tokens());
  EXPECT_GT(index->bytes(), 0U);
  EXPECT_GE(Recall(*index, world, RandomQueries(20, kHeadDim, kSeed + 1), 50, kMuch), kind().recall);
}

// Where a search begins changes what it costs, not what it may find: any tokens will do, also twice the same, others
// than the index knows, and none at all.
TEST_P(KeyIndexContract, EntriesMayBeAnyTokens) {
  constexpr int64_t kQueries = 6;
  const KeyWorld world(Storage(), kHeadDim, RandomRows(1000, kHeadDim, 40, kSeed), 8, true, kSeed);
  const auto index = Build(world.table, RandomQueries(300, kHeadDim, kSeed));
  ASSERT_NE(index, nullptr);
  const std::vector<float> queries = RandomQueries(kQueries, kHeadDim, kSeed + 1);
  const std::vector<uint32_t> lists[kQueries] = {
      {}, {17}, {1000, 1001, 0x7FFFFFFF, 0xFFFFFFFF}, {5, 5, 5, 1000, 5}, {999, 0}, {3, 0xFFFFFFFE, 2, 1}};
  const std::vector<std::span<const uint32_t>> entries(std::begin(lists), std::end(lists));
  SearchEffort effort = kMuch;
  effort.entries = entries;
  EXPECT_GE(Recall(*index, world, queries, 50, effort), kind().recall) << "seed " << kSeed;
  std::vector<FoundKey> found(kQueries * 10, {77, 7});
  effort.entries = {entries.data(), kQueries - 1};
  EXPECT_EQ(index->Search(world.table, queries.data(), kQueries, 10, effort, found.data(), nullptr).code(),
            StatusCode::kInvalidArgument);
  EXPECT_EQ(found[0].token, 77);
}

// What comes back is sorted, without repeats, with true products, and the rest is marked as unused.
TEST_P(KeyIndexContract, EveryLengthIsSound) {
  for (const int64_t tokens : {1, 2, 3, 16, 17, 127, 300}) {
    SCOPED_TRACE(testing::Message() << "seed " << kSeed << ", tokens " << tokens);
    const KeyWorld world(Storage(), kHeadDim, RandomRows(tokens, kHeadDim, 5, kSeed));
    const std::vector<float> queries = RandomQueries(3, kHeadDim, kSeed);
    const auto index = Build(world.table, queries);
    ASSERT_NE(index, nullptr);
    constexpr int64_t kTop = 130;
    std::vector<FoundKey> found(3 * kTop);
    int64_t scanned = 7;
    ASSERT_TRUE(index->Search(world.table, queries.data(), 3, kTop, kMuch, found.data(), &scanned).ok());
    EXPECT_GT(scanned, 7);
    for (int64_t q = 0; q < 3; ++q) {
      std::set<int64_t> seen;
      for (int64_t k = 0; k < kTop; ++k) {
        const FoundKey& key = found[q * kTop + k];
        if (key.token == -1) {
          EXPECT_EQ(key.product, -std::numeric_limits<float>::infinity());
          continue;
        }
        ASSERT_TRUE(key.token >= 0 && key.token < tokens);
        EXPECT_TRUE(seen.insert(key.token).second) << "token " << key.token << " twice";
        const double product = world.Product(&queries[q * kHeadDim], key.token);
        EXPECT_NEAR(key.product, product, 0.02 * (1 + std::abs(product)) * (kind().name == "ivf_sq8" ? 20 : 1));
        if (k > 0) {
          EXPECT_GE(found[q * kTop + k - 1].product, key.product);
        }
      }
      if (kind().name == "flat" || kind().name == "graph") {
        EXPECT_EQ(static_cast<int64_t>(seen.size()), std::min(kTop, tokens));
      }
      EXPECT_FALSE(seen.empty());
    }
  }
}

TEST_P(KeyIndexContract, OddKeys) {
  const float largest = Storage() == DType::kFloat16 ? 60000.0F : 1e36F;
  std::vector<std::vector<float>> worlds = {std::vector<float>(200 * kHeadDim, 0.0F),
                                            std::vector<float>(200 * kHeadDim, 1.5F),
                                            RandomRows(200, kHeadDim, 3, kSeed)};
  std::copy_n(worlds[2].begin(), 100 * kHeadDim, worlds[2].begin() + 100 * kHeadDim);  // every key twice
  worlds.push_back(worlds[2]);
  std::fill_n(worlds[3].begin(), kHeadDim, largest);
  std::fill_n(worlds[3].begin() + kHeadDim, kHeadDim, -largest);
  for (size_t w = 0; w < worlds.size(); ++w) {
    SCOPED_TRACE(testing::Message() << "seed " << kSeed << ", world " << w);
    const KeyWorld world(Storage(), kHeadDim, worlds[w]);
    const auto index = Build(world.table, RandomQueries(50, kHeadDim, kSeed));
    ASSERT_NE(index, nullptr);
    const std::vector<float> query(kHeadDim, 1.0F);
    std::vector<FoundKey> found(20);
    ASSERT_TRUE(index->Search(world.table, query.data(), 1, 20, kMuch, found.data(), nullptr).ok());
    EXPECT_NE(found[0].token, -1);
    if (w == 3) {
      EXPECT_EQ(found[0].token, 0);
    }
  }
}

TEST_P(KeyIndexContract, BadInputIsAStatusAndChangesNothing) {
  const KeyWorld world(Storage(), kHeadDim, RandomRows(100, kHeadDim, 3, kSeed));
  const std::vector<float> queries = RandomQueries(2, kHeadDim, kSeed);
  const auto index = Build(world.table, queries);
  ASSERT_NE(index, nullptr);
  std::vector<FoundKey> found(20, {77, 7});
  const auto code = [&](const KeyTable& keys, const float* query, int64_t n, int64_t top, SearchEffort effort) {
    return index->Search(keys, query, n, top, effort, found.data(), nullptr).code();
  };
  KeyTable wrong = world.table;
  wrong.head_dim = 64;
  KeyTable few = world.table;
  few.chunks = {};
  std::vector<float> nan = queries;
  nan[5] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(code(wrong, queries.data(), 2, 10, {}), StatusCode::kInvalidArgument);
  EXPECT_EQ(code(few, queries.data(), 2, 10, {}), StatusCode::kInvalidArgument);
  EXPECT_EQ(code(world.table, nullptr, 2, 10, {}), StatusCode::kInvalidArgument);
  EXPECT_EQ(code(world.table, nan.data(), 2, 10, {}), StatusCode::kInvalidArgument);
  EXPECT_EQ(code(world.table, queries.data(), -1, 10, {}), StatusCode::kInvalidArgument);
  EXPECT_EQ(code(world.table, queries.data(), int64_t{1} << 60, 10, {}), StatusCode::kInvalidArgument);
  EXPECT_EQ(code(world.table, queries.data(), 2, 0, {}), StatusCode::kInvalidArgument);
  EXPECT_EQ(code(world.table, queries.data(), 2, 10, {.pool = 0}), StatusCode::kInvalidArgument);
  EXPECT_EQ(code(world.table, queries.data(), 2, 10, {.visits = 0}), StatusCode::kInvalidArgument);
  EXPECT_EQ(code(world.table, queries.data(), 0, 10, {}), StatusCode::kOk);
  for (const FoundKey& key : found) EXPECT_EQ(key.token, 77);
  wrong.head_dim = 40;
  EXPECT_EQ(kind().build(wrong, {}).status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(kind().build(few, {}).status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(kind().build(world.Prefix(0), {}).status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(index->Extend(world.Prefix(99)).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(index->tokens(), 100);
}

TEST_P(KeyIndexContract, AddedKeysAreFound) {
  const KeyWorld world(Storage(), kHeadDim, RandomRows(1400, kHeadDim, 40, kSeed), 7, true, kSeed);
  const auto index = Build(world.Prefix(900), RandomQueries(300, kHeadDim, kSeed));
  ASSERT_NE(index, nullptr);
  for (const int64_t tokens : {900, 901, 1000, 1400}) {
    ASSERT_TRUE(index->Extend(world.Prefix(tokens)).ok());
    EXPECT_EQ(index->tokens(), tokens);
  }
  EXPECT_GE(Recall(*index, world, RandomQueries(20, kHeadDim, kSeed + 2), 50, kMuch), kind().recall);
}

// A fork that does not have the keys that another one added searches its own.
TEST_P(KeyIndexContract, APrefixIsSearchedAlone) {
  constexpr int64_t kOwn = 900;
  const KeyWorld world(Storage(), kHeadDim, RandomRows(1400, kHeadDim, 40, kSeed), 7, true, kSeed);
  const auto index = Build(world.Prefix(kOwn), RandomQueries(300, kHeadDim, kSeed));
  ASSERT_NE(index, nullptr);
  ASSERT_TRUE(index->Extend(world.table).ok());
  const std::vector<float> queries = RandomQueries(20, kHeadDim, kSeed + 2);
  std::vector<FoundKey> found(20 * 50);
  const Status status = index->Search(world.Prefix(kOwn), queries.data(), 20, 50, kMuch, found.data(), nullptr);
  ASSERT_TRUE(status.ok()) << status.message();
  int64_t common = 0;
  for (int64_t q = 0; q < 20; ++q) {
    const auto best = world.Best(&queries[q * kHeadDim], 50, kOwn);
    const std::set<int64_t> known(best.begin(), best.end());
    for (int64_t k = 0; k < 50; ++k) {
      EXPECT_LT(found[q * 50 + k].token, kOwn);
      common += static_cast<int64_t>(known.count(found[q * 50 + k].token));
    }
  }
  EXPECT_GE(static_cast<double>(common), kind().recall * 20 * 50);
}

TEST_P(KeyIndexContract, SearchWhileKeysAreAdded) {
  const KeyWorld world(Storage(), kHeadDim, RandomRows(900, kHeadDim, 20, kSeed), 7);
  const std::vector<float> queries = RandomQueries(100, kHeadDim, kSeed);
  const auto index = Build(world.Prefix(600), queries);
  ASSERT_NE(index, nullptr);
  std::atomic<int> wrong{0};
  std::atomic<bool> done{false};
  const auto search = [&] {
    std::vector<FoundKey> found(10);
    bool last = false;
    for (int64_t q = 0; !last; q = (q + 1) % 100) {
      last = done.load();
      const float* query = &queries[q * kHeadDim];
      const Status status = index->Search(world.table, query, 1, 10, {}, found.data(), nullptr);
      const int64_t tokens = index->tokens();
      wrong += !status.ok() || found[0].token < 0;
      for (const FoundKey& key : found) wrong += key.token >= tokens;
    }
  };
  std::thread first(search), second(search);
  for (int64_t tokens = 601; tokens <= 900; tokens += 23) {
    if (!index->Extend(world.Prefix(tokens)).ok()) ++wrong;
  }
  done = true;
  first.join();
  second.join();
  EXPECT_EQ(wrong.load(), 0);
}

std::string NameOf(const testing::TestParamInfo<std::tuple<Kind, DType>>& test) {
  const char* const names[] = {"float32", "float16", "bfloat16", "int8"};
  return std::get<0>(test.param).name + "_" + names[static_cast<int>(std::get<1>(test.param))];
}

// FAISS gets keys as float32 whatever they are stored in: one dtype shows all. ThreadSanitizer does not know what
// GCC's OpenMP, which FAISS uses, waits for.
#ifdef __SANITIZE_THREAD__
constexpr bool kTestFaiss = false;
#else
constexpr bool kTestFaiss = true;
#endif

std::vector<std::tuple<Kind, DType>> AllKinds() {
  std::vector<std::tuple<Kind, DType>> all;
  for (const Kind& kind : kKinds) {
    const bool is_faiss = kind.name != "flat" && kind.name != "graph";
    if (!is_faiss || kTestFaiss) all.emplace_back(kind, DType::kFloat16);
    if (is_faiss) continue;
    for (const DType storage : {DType::kFloat32, DType::kBFloat16, DType::kInt8}) all.emplace_back(kind, storage);
  }
  return all;
}

INSTANTIATE_TEST_SUITE_P(All, KeyIndexContract, testing::ValuesIn(AllKinds()), NameOf);

}  // namespace
}  // namespace swell
