// Goal: every bad argument gets an error that names it, and the engine is as it was before.
#include <limits>

#include "tests/engine/fixture.h"

namespace swell {
namespace {

using testing::MakeRows;
using testing::OpenEngine;
using testing::RandomRows;
using testing::Rows;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();
const ModelShape kShape{2, 2, 2, 32, 0, DType::kFloat16};

class BadInput : public ::testing::Test {
 protected:
  void SetUp() override {
    std::mt19937_64 random(testing::Seed());
    engine_ = OpenEngine(kShape);
    rows_ = MakeRows(random, kShape, 100);
    queries_ = RandomRows(random, 4 * 32);
    output_.assign(queries_.size(), -7.0F);
    sequence_ = *engine_->CreateSequence({});
    ASSERT_TRUE(testing::Put(*engine_, sequence_, 0, rows_, 0, 50).ok());
    put_.sequence = sequence_;
    put_.position = 50;
    put_.tokens = 10;
    put_.keys.data = rows_.keys.data();
    put_.values.data = rows_.values.data();
    attend_.sequence = sequence_;
    attend_.queries = queries_.data();
    attend_.output = output_.data();
  }

  // A put that must fail, with this text in its message, and leave no trace.
  void ExpectRefused(const PutItem& item, const std::string& text, StatusDetail detail, int32_t layer = 0) {
    const EngineStats before = engine_->Stats();
    Status status;
    EXPECT_FALSE(engine_->Put(layer, {&item, 1}, {&status, 1}).ok()) << text;
    EXPECT_NE(status.message().find(text), std::string::npos) << status.message();
    EXPECT_EQ(status.detail(), detail) << status.message();
    EXPECT_EQ(*engine_->Length(sequence_, 0), 50);
    EXPECT_EQ(engine_->Stats().bytes_in_use, before.bytes_in_use);
    EXPECT_EQ(engine_->Stats().tokens_put, before.tokens_put);
  }
  void ExpectRefused(const AttendItem& item, const std::string& text, StatusDetail detail, int32_t layer = 0) {
    Status status;
    EXPECT_FALSE(engine_->Attend(layer, {&item, 1}, {&status, 1}).ok()) << text;
    EXPECT_NE(status.message().find(text), std::string::npos) << status.message();
    EXPECT_EQ(status.detail(), detail) << status.message();
    for (const float x : output_) EXPECT_EQ(x, -7.0F) << text;
  }

  std::unique_ptr<Engine> engine_;
  Rows rows_;
  std::vector<float> queries_, output_;
  SequenceId sequence_ = SequenceId::kNone;
  PutItem put_;
  AttendItem attend_;
};

TEST_F(BadInput, EngineOptions) {
  const auto refused = [](const EngineOptions& options) { return Engine::Open(options).status().message(); };
  EngineOptions options;
  options.shape = kShape;
  const auto with = [&](auto change) {
    EngineOptions changed = options;
    change(changed);
    return refused(changed);
  };
  EXPECT_NE(with([](auto& o) { o.shape.layers = 0; }).find("layers"), std::string::npos);
  EXPECT_NE(with([](auto& o) { o.shape.kv_heads = -1; }).find("kv_heads"), std::string::npos);
  EXPECT_NE(with([](auto& o) { o.shape.group = 17; }).find("group"), std::string::npos);
  EXPECT_NE(with([](auto& o) { o.shape.head_dim = 40; }).find("head_dim"), std::string::npos);
  EXPECT_NE(with([](auto& o) { o.shape.head_dim = 272; }).find("head_dim"), std::string::npos);
  EXPECT_NE(with([](auto& o) { o.shape.scale = kNan; }).find("scale"), std::string::npos);
  EXPECT_NE(with([](auto& o) { o.shape.storage = static_cast<DType>(99); }).find("storage"), std::string::npos);
  EXPECT_NE(with([](auto& o) { o.threads = -1; }).find("threads"), std::string::npos);
}

TEST_F(BadInput, SequenceOptions) {
  const auto refused = [&](auto change) {
    swell::SequenceOptions options;
    change(options);
    const auto result = engine_->CreateSequence(options);
    EXPECT_EQ(result.status().code(), StatusCode::kInvalidArgument);
    return result.status().message();
  };
  EXPECT_NE(refused([](auto& o) { o.retrieval.retrieve_share = 0; }).find("retrieve_share"), std::string::npos);
  EXPECT_NE(refused([](auto& o) { o.retrieval.retrieve_share = 1.01F; }).find("retrieve_share"), std::string::npos);
  EXPECT_NE(refused([](auto& o) { o.retrieval.retrieve_share = kNan; }).find("retrieve_share"), std::string::npos);
  EXPECT_NE(refused([](auto& o) { o.retrieval.retrieve_above = kNan; }).find("retrieve_above"), std::string::npos);
  EXPECT_NE(refused([](auto& o) { o.retrieval.ranking = Ranking::kMass; }).find("retrieve_above"), std::string::npos);
  EXPECT_NE(refused([](auto& o) { o.retrieval.estimate_share = -0.1F; }).find("estimate_share"), std::string::npos);
  EXPECT_NE(refused([](auto& o) { o.retrieval.kappa = kInf; }).find("kappa"), std::string::npos);
  EXPECT_NE(refused([](auto& o) { o.retrieval.floor_tokens = -1; }).find("floor_tokens"), std::string::npos);
  EXPECT_NE(refused([](auto& o) { o.retrieval.retrieve_tokens = -1; }).find("retrieve_tokens"), std::string::npos);
  EXPECT_NE(refused([](auto& o) { o.retrieval.unit = static_cast<BudgetUnit>(7); }).find("unit"), std::string::npos);
  EXPECT_NE(refused([](auto& o) { o.retrieval.ranking = static_cast<Ranking>(7); }).find("ranking"), std::string::npos);
  EXPECT_NE(refused([](auto& o) {
              o.retrieval.overrides = {{2, 0, 0.5F}};
            }).find("overrides.layer"),
            std::string::npos);
  EXPECT_NE(refused([](auto& o) {
              o.retrieval.overrides = {{0, 2, 0.5F}};
            }).find("overrides.kv_head"),
            std::string::npos);
  EXPECT_NE(refused([](auto& o) {
              o.retrieval.overrides = {{0, 0, 0}};
            }).find("overrides.retrieve"),
            std::string::npos);
  EXPECT_NE(refused([](auto& o) { o.sink_tokens = -1; }).find("sink_tokens"), std::string::npos);
  EXPECT_NE(refused([](auto& o) { o.window_tokens = 65537; }).find("window_tokens"), std::string::npos);
  EXPECT_NE(refused([](auto& o) { o.seal_tokens = 15; }).find("seal_tokens"), std::string::npos);
  EXPECT_NE(refused([](auto& o) { o.segment_tokens = 1000; }).find("segment_tokens"), std::string::npos);
  EXPECT_NE(refused([](auto& o) { o.index.cluster_tokens = 0; }).find("cluster_tokens"), std::string::npos);
  EXPECT_NE(refused([](auto& o) { o.index.iterations = 0; }).find("iterations"), std::string::npos);
}

TEST_F(BadInput, Put) {
  const auto with = [&](auto change) {
    PutItem item = put_;
    change(item);
    return item;
  };
  ExpectRefused(with([](auto& i) { i.position = 49; }), "position", StatusDetail::kOutOfOrder);
  ExpectRefused(with([](auto& i) { i.position = 51; }), "position", StatusDetail::kOutOfOrder);
  ExpectRefused(with([](auto& i) { i.position = -1; }), "position", StatusDetail::kOutOfOrder);
  ExpectRefused(with([](auto& i) { i.tokens = 0; }), "tokens", StatusDetail::kBadSize);
  ExpectRefused(with([](auto& i) { i.tokens = INT64_MAX; }), "tokens", StatusDetail::kBadSize);
  ExpectRefused(with([](auto& i) { i.tokens = INT64_MAX / 64; }), "keys", StatusDetail::kBadSize);
  ExpectRefused(with([](auto& i) { i.keys.data = nullptr; }), "keys.data is null", StatusDetail::kNullPointer);
  ExpectRefused(with([](auto& i) { i.values.data = nullptr; }), "values.data is null", StatusDetail::kNullPointer);
  ExpectRefused(with([](auto& i) { i.keys.data = reinterpret_cast<const char*>(i.keys.data) + 1; }), "keys.data",
                StatusDetail::kMisaligned);
  ExpectRefused(with([](auto& i) { i.keys.dtype = static_cast<DType>(9); }), "keys.dtype", StatusDetail::kUnknownDType);
  ExpectRefused(with([](auto& i) { i.keys.dtype = DType::kInt8; }), "keys.dtype", StatusDetail::kUnknownDType);
  ExpectRefused(with([](auto& i) { i.keys.token_stride = 64; }), "keys", StatusDetail::kBadSize);
  ExpectRefused(with([](auto& i) { i.keys.token_stride = i.keys.head_stride = 16; }), "head_stride",
                StatusDetail::kBadSize);
  ExpectRefused(with([](auto& i) { i.keys.token_stride = i.keys.head_stride = INT64_MAX / 2; }), "keys",
                StatusDetail::kBadSize);
  ExpectRefused(with([](auto& i) { i.sequence = SequenceId::kNone; }), "sequence", StatusDetail::kStaleHandle);
  ExpectRefused(with([](auto& i) { i.sequence = static_cast<SequenceId>(12345); }), "sequence",
                StatusDetail::kStaleHandle);
  ExpectRefused(put_, "layer", StatusDetail::kNone, 2);
  ExpectRefused(put_, "layer", StatusDetail::kNone, -1);
}

TEST_F(BadInput, NumbersThatAreNone) {
  for (const float bad : {kNan, kInf, -kInf, 1e30F}) {  // 1e30 does not fit float16
    for (const size_t place : {size_t{0}, size_t{10 * 64 - 1}}) {
      for (auto* tensor : {&rows_.keys, &rows_.values}) {
        const float good = (*tensor)[place];
        (*tensor)[place] = bad;
        ExpectRefused(put_, "NaN", StatusDetail::kNonFinite);
        (*tensor)[place] = good;
      }
    }
  }
  Status status;
  EXPECT_TRUE(engine_->Put(0, {&put_, 1}, {&status, 1}).ok()) << "the same rows without the bad number are taken";
  for (const float bad : {kNan, kInf}) {
    queries_[70] = bad;
    ExpectRefused(attend_, "queries", StatusDetail::kNonFinite);
  }
}

TEST_F(BadInput, ScalesThatMakeElementsOverflow) {
  ModelShape shape = kShape;
  shape.storage = DType::kInt8;
  auto engine = OpenEngine(shape);
  const std::vector<int8_t> rows(2 * 32, 100);
  std::vector<float> scales = {1.0F, 3e38F};
  PutItem item;
  item.sequence = *engine->CreateSequence({});
  item.tokens = 1;
  item.keys = {rows.data(), DType::kInt8, 0, 0, scales.data()};
  item.values = item.keys;
  Status status;
  EXPECT_FALSE(engine->Put(0, {&item, 1}, {&status, 1}).ok());
  EXPECT_EQ(status.detail(), StatusDetail::kNonFinite);
  EXPECT_EQ(*engine->Length(item.sequence, 0), 0);
  scales[1] = 1.0F;
  EXPECT_TRUE(engine->Put(0, {&item, 1}, {&status, 1}).ok()) << status.message();
}

TEST_F(BadInput, Attend) {
  const auto with = [&](auto change) {
    AttendItem item = attend_;
    change(item);
    return item;
  };
  RetrievalOptions bad_retrieval;
  bad_retrieval.retrieve_share = 2.0F;
  ExpectRefused(with([](auto& i) { i.queries = nullptr; }), "queries is null", StatusDetail::kNullPointer);
  ExpectRefused(with([](auto& i) { i.output = nullptr; }), "output is null", StatusDetail::kNullPointer);
  ExpectRefused(with([](auto& i) { i.queries = reinterpret_cast<const char*>(i.queries) + 2; }), "queries",
                StatusDetail::kMisaligned);
  ExpectRefused(with([](auto& i) { i.lse = reinterpret_cast<float*>(3); }), "lse", StatusDetail::kMisaligned);
  ExpectRefused(with([](auto& i) { i.query_dtype = DType::kInt8; }), "query_dtype", StatusDetail::kUnknownDType);
  ExpectRefused(with([](auto& i) { i.output_dtype = static_cast<DType>(-1); }), "output_dtype",
                StatusDetail::kUnknownDType);
  ExpectRefused(with([](auto& i) { i.n_queries = 0; }), "n_queries", StatusDetail::kBadSize);
  ExpectRefused(with([](auto& i) { i.n_queries = INT64_MAX; }), "n_queries", StatusDetail::kBadSize);
  ExpectRefused(with([](auto& i) { i.mode = static_cast<AttendMode>(5); }), "mode", StatusDetail::kNone);
  ExpectRefused(with([&bad_retrieval](auto& i) { i.retrieval = &bad_retrieval; }), "retrieve_share",
                StatusDetail::kNone);
  ExpectRefused(with([](auto& i) { i.sequence = static_cast<SequenceId>(1); }), "sequence", StatusDetail::kStaleHandle);
  ExpectRefused(attend_, "n_queries", StatusDetail::kBadSize, 1);  // layer 1 holds nothing
  ExpectRefused(attend_, "layer", StatusDetail::kNone, 2);
}

TEST_F(BadInput, HandlesOfOthers) {
  auto other = OpenEngine(kShape);
  const SequenceId foreign = *other->CreateSequence({});
  EXPECT_EQ(engine_->Release(foreign).detail(), StatusDetail::kStaleHandle);
  EXPECT_EQ(engine_->Fork(foreign).status().detail(), StatusDetail::kStaleHandle);
  EXPECT_EQ(engine_->Truncate(foreign, 1).detail(), StatusDetail::kStaleHandle);
  EXPECT_EQ(engine_->Length(foreign, 0).status().detail(), StatusDetail::kStaleHandle);
  const SequenceId released = *engine_->CreateSequence({});
  ASSERT_TRUE(engine_->Release(released).ok());
  const SequenceId fresh = *engine_->CreateSequence({});  // takes the same slot
  EXPECT_NE(released, fresh);
  EXPECT_EQ(engine_->Length(released, 0).status().detail(), StatusDetail::kStaleHandle);
  EXPECT_TRUE(engine_->Length(fresh, 0).ok());
  EXPECT_FALSE(engine_->Truncate(fresh, -1).ok());
}

TEST_F(BadInput, OneBadItemDoesNotHarmTheOthers) {
  const SequenceId second = *engine_->CreateSequence({});
  std::vector<PutItem> items(3, put_);
  items[0].position = 7;
  items[1].sequence = second;
  items[1].position = 0;
  std::vector<Status> statuses(3);
  EXPECT_FALSE(engine_->Put(0, items, statuses).ok());
  EXPECT_EQ(statuses[0].detail(), StatusDetail::kOutOfOrder);
  EXPECT_TRUE(statuses[1].ok());
  EXPECT_FALSE(statuses[2].ok()) << "a sequence may stand once in a batch";
  EXPECT_EQ(*engine_->Length(second, 0), 10);
}

TEST_F(BadInput, SearchAndFetch) {
  std::vector<int64_t> tokens(4);
  SearchItem search;
  search.sequence = sequence_;
  search.queries = queries_.data();
  search.top_k = 0;
  search.tokens = tokens.data();
  Status status;
  EXPECT_FALSE(engine_->Search(0, {&search, 1}, {&status, 1}).ok());
  EXPECT_NE(status.message().find("top_k"), std::string::npos);
  search.top_k = INT64_MAX;
  EXPECT_FALSE(engine_->Search(0, {&search, 1}, {&status, 1}).ok());
  search.top_k = 1;
  search.tokens = nullptr;
  EXPECT_FALSE(engine_->Search(0, {&search, 1}, {&status, 1}).ok());
  EXPECT_EQ(status.detail(), StatusDetail::kNullPointer);

  std::vector<float> keys(64, -7.0F);
  FetchItem fetch;
  fetch.sequence = sequence_;
  for (const int64_t token : {int64_t{-1}, int64_t{50}, INT64_MAX}) {
    fetch.tokens = {&token, 1};
    fetch.keys = keys.data();
    EXPECT_FALSE(engine_->Fetch(0, {&fetch, 1}, {&status, 1}).ok());
    EXPECT_EQ(status.code(), StatusCode::kOutOfRange);
    EXPECT_EQ(keys[0], -7.0F);
  }
  fetch.dtype = DType::kBFloat16;
  EXPECT_FALSE(engine_->Fetch(0, {&fetch, 1}, {&status, 1}).ok());
  EXPECT_EQ(status.detail(), StatusDetail::kUnknownDType);
}

}  // namespace
}  // namespace swell
