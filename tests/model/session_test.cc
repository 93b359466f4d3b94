#include "tools/model/session.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "tests/model/exact_engine.h"
#include "tests/model/small_model.h"

namespace swell::model {
namespace {

using Ids = std::vector<TokenId>;
constexpr AttendMode kMode = AttendMode::kExact;

std::string WriteTemporary(const std::string& name, const std::vector<std::byte>& bytes) {
  const std::string path =
      (std::filesystem::path(testing::TempDir()) / ("swell_session_test_" + name + ".gguf")).string();
  std::ofstream(path, std::ios::binary)
      .write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  return path;
}

Result<std::unique_ptr<Model>> LoadBytes(const std::vector<std::byte>& base,
                                         const std::vector<std::byte>& adapter = {}) {
  ModelOptions options;
  options.threads = 2;
  options.base_path = WriteTemporary("base", base);
  if (!adapter.empty()) options.adapter_path = WriteTemporary("adapter", adapter);
  return Model::Load(options);
}

class SessionTest : public testing::Test {
 protected:
  SessionTest() : seed_(std::random_device{}()), random_(seed_), small_(seed_) { std::printf("seed %u\n", seed_); }

  void Load(const std::vector<std::byte>& adapter = {}) {
    Result<std::unique_ptr<Model>> model = LoadBytes(base_, adapter);
    ASSERT_TRUE(model.ok()) << model.status().message();
    model_ = std::move(model).value();
    engine_ = std::make_unique<ExactEngine>(model_->EngineShape(DType::kFloat32));
  }
  Session Open() {
    Result<Session> session = Session::Create(*model_, *engine_, {});
    EXPECT_TRUE(session.ok()) << session.status().message();
    return std::move(session).value();
  }
  Ids RandomIds(size_t count) {
    Ids ids(count);
    for (TokenId& id : ids) id = static_cast<TokenId>(random_() % SmallModel::kVocabulary);
    return ids;
  }
  static void ExpectLogits(std::span<const float> logits, const std::vector<double>& expected) {
    ASSERT_EQ(logits.size(), expected.size());
    for (size_t i = 0; i < expected.size(); ++i) {
      ASSERT_NEAR(logits[i], expected[i], 2e-4 * (1 + std::abs(expected[i]))) << i;
    }
  }

  const uint32_t seed_;
  std::mt19937 random_;
  SmallModel small_;
  const std::vector<std::byte> base_ = small_.Base();
  std::unique_ptr<Model> model_;
  std::unique_ptr<ExactEngine> engine_;
};

double NegativeLog(const std::vector<double>& logits, TokenId id) {
  double sum = 0;
  for (const double logit : logits) sum += std::exp(logit - logits[0]);
  return std::log(sum) + logits[0] - logits[static_cast<size_t>(id)];
}

TEST_F(SessionTest, MatchesAForwardPassInDouble) {
  Load();
  const Ids ids = RandomIds(40);
  const auto expected = small_.Logits(ids);
  Session session = Open();
  ASSERT_TRUE(session.Prefill(std::span(ids).first(23), kMode).ok());
  ExpectLogits(session.logits(), expected[22]);
  for (size_t t = 23; t < 30; ++t) {
    ASSERT_TRUE(session.Decode(ids[t], kMode).ok());
    ExpectLogits(session.logits(), expected[t]);
  }
  for (const bool single_steps : {false, true}) {
    Session fork = std::move(session.Fork()).value();
    const Result<std::vector<float>> nll = fork.Score(std::span(ids).subspan(30), kMode, single_steps);
    ASSERT_TRUE(nll.ok());
    for (size_t t = 30; t < 40; ++t) EXPECT_NEAR(nll.value()[t - 30], NegativeLog(expected[t - 1], ids[t]), 1e-3);
    ExpectLogits(fork.logits(), expected[39]);
  }
  EXPECT_EQ(session.length(), 30);
}

TEST_F(SessionTest, ChunksAreInvisible) {
  Load();
  const Ids ids = RandomIds(Session::kChunkTokens + 77);
  std::vector<int64_t> steps;
  Session session = Open();
  ASSERT_TRUE(session
                  .Prefill(ids, kMode,
                           [&](int64_t tokens) {
                             steps.push_back(tokens);
                             return true;
                           })
                  .ok());
  EXPECT_EQ(steps, (std::vector<int64_t>{Session::kChunkTokens, Session::kChunkTokens + 77}));
  ExpectLogits(session.logits(), small_.Logits(ids).back());
  const Counters& counters = session.counters();
  EXPECT_EQ(counters.tokens, static_cast<int64_t>(ids.size()));
  const int64_t heads = SmallModel::kLayers * SmallModel::kKvHeads;
  const int64_t count = static_cast<int64_t>(ids.size());
  EXPECT_EQ(counters.head_steps, count * heads);
  EXPECT_EQ(counters.tokens_read, count * (count + 1) / 2 * heads);
  EXPECT_EQ(counters.bytes_read, counters.tokens_read * SmallModel::kHeadDim * 8);
}

TEST_F(SessionTest, TheAdapterReplacesWeightsRopeAndContext) {
  const std::vector<std::byte> adapter = small_.MakeAdapter(
      {"blk.0.attn_q.weight", "blk.0.attn_k.weight", "blk.1.attn_v.weight", "blk.1.attn_output.weight",
       "blk.0.ffn_gate.weight", "blk.1.ffn_up.weight", "blk.1.ffn_down.weight"});
  Load(adapter);
  EXPECT_EQ(model_->shape().context_tokens, 2 * SmallModel::kContext);
  const Ids ids = RandomIds(30);
  Session session = Open();
  ASSERT_TRUE(session.Prefill(ids, kMode).ok());
  ExpectLogits(session.logits(), small_.Logits(ids).back());
}

// Long enough that the engine seals segments; a budget of everything answers as exact attention does.
TEST_F(SessionTest, TheLibrarysEngineGivesTheSame) {
  Load();
  EngineOptions options;
  options.shape = model_->EngineShape(DType::kFloat32);
  Result<std::unique_ptr<Engine>> engine = Engine::Open(options);
  ASSERT_TRUE(engine.ok()) << engine.status().message();
  const Ids ids = RandomIds(1100);
  const std::vector<double> expected = small_.Logits(ids).back();
  for (const AttendMode mode : {AttendMode::kExact, AttendMode::kRetrieve}) {
    SequenceOptions sequence;
    sequence.retrieval.retrieve_share = 1;
    Session session = std::move(Session::Create(*model_, **engine, sequence)).value();
    ASSERT_TRUE(session.Prefill(std::span(ids).first(1000), mode).ok());
    for (size_t t = 1000; t < 1050; ++t) ASSERT_TRUE(session.Decode(ids[t], mode).ok());
    ASSERT_TRUE(session.Prefill(std::span(ids).subspan(1050), mode).ok());
    ExpectLogits(session.logits(), expected);
    EXPECT_EQ(session.counters().tokens_read, session.counters().tokens_visible);
  }
}

TEST_F(SessionTest, ForksAndTruncationAreIndependent) {
  Load();
  const Ids ids = RandomIds(20);
  const auto expected = small_.Logits(ids);
  Session session = Open();
  ASSERT_TRUE(session.Prefill(std::span(ids).first(10), kMode).ok());
  Session fork = std::move(session.Fork()).value();
  ExpectLogits(fork.logits(), expected[9]);
  ASSERT_TRUE(fork.Prefill(std::span(ids).subspan(10), kMode).ok());
  ExpectLogits(fork.logits(), expected[19]);
  ASSERT_TRUE(session.Decode(ids[0], kMode).ok());  // goes another way
  ASSERT_TRUE(session.Truncate(5).ok());
  EXPECT_TRUE(session.logits().empty());
  EXPECT_EQ(session.Score(ids, kMode).status().code(), StatusCode::kFailedPrecondition);
  EXPECT_EQ(session.Truncate(6).code(), StatusCode::kOutOfRange);
  EXPECT_EQ(session.Truncate(-1).code(), StatusCode::kOutOfRange);
  ASSERT_TRUE(session.Prefill(std::span(ids).subspan(5), kMode).ok());
  ExpectLogits(session.logits(), expected[19]);
  ExpectLogits(fork.logits(), expected[19]);
  {
    Session moved = std::move(fork);
    EXPECT_EQ(engine_->Stats().sequences, 2);
  }
  EXPECT_EQ(engine_->Stats().sequences, 1);
}

TEST_F(SessionTest, ABatchGivesWhatSingleStepsGive) {
  Load();
  std::vector<Session> sessions;
  std::vector<std::vector<double>> expected;
  Ids next;
  for (size_t i = 0; i < 11; ++i) {  // unequal lengths; more than the own product kernel takes at once
    Ids ids = RandomIds(3 + i);
    sessions.push_back(Open());
    ASSERT_TRUE(sessions.back().Prefill(std::span(ids).first(ids.size() - 1), kMode).ok());
    next.push_back(ids.back());
    expected.push_back(small_.Logits(ids).back());
  }
  std::vector<Session*> pointers;
  for (Session& session : sessions) pointers.push_back(&session);
  std::vector<Status> statuses(sessions.size());
  ASSERT_TRUE(Session::DecodeBatch(pointers, next, kMode, statuses).ok());
  for (size_t i = 0; i < sessions.size(); ++i) {
    ExpectLogits(sessions[i].logits(), expected[i]);
    EXPECT_EQ(sessions[i].length(), static_cast<int64_t>(3 + i));
  }
}

TEST_F(SessionTest, InABatchOneFailureStaysAlone) {
  Load();
  const Ids ids = RandomIds(8);
  const auto expected = small_.Logits(ids);
  std::vector<Session> sessions;
  for (int i = 0; i < 3; ++i) {
    sessions.push_back(Open());
    ASSERT_TRUE(sessions.back().Prefill(std::span(ids).first(7), kMode).ok());
  }
  engine_->FailPut(sessions[1].sequence(), 1);
  Session* pointers[] = {&sessions[0], &sessions[1], &sessions[2]};
  const Ids next = {ids[7], ids[7], -4};
  std::vector<Status> statuses(3);
  const Status status = Session::DecodeBatch(pointers, next, kMode, statuses);
  EXPECT_EQ(status.code(), StatusCode::kResourceExhausted);
  EXPECT_TRUE(statuses[0].ok());
  EXPECT_EQ(statuses[1].detail(), StatusDetail::kOverBudget);
  EXPECT_EQ(statuses[2].code(), StatusCode::kInvalidArgument);
  ExpectLogits(sessions[0].logits(), expected[7]);
  ExpectLogits(sessions[1].logits(), expected[6]);
  engine_->FailNothing();
  for (const size_t i : {1U, 2U}) {
    ASSERT_TRUE(sessions[i].Decode(ids[7], kMode).ok());
    ExpectLogits(sessions[i].logits(), expected[7]);
  }
  Session* twice[] = {&sessions[0], &sessions[0]};
  EXPECT_EQ(Session::DecodeBatch(twice, Ids{1, 1}, kMode, std::span(statuses).first(2)).code(),
            StatusCode::kInvalidArgument);
  EXPECT_EQ(Session::DecodeBatch(twice, Ids{1}, kMode, std::span(statuses).first(2)).detail(), StatusDetail::kBadSize);
}

TEST_F(SessionTest, AFailureChangesNothing) {
  Load();
  const Ids ids = RandomIds(Session::kChunkTokens + 10);
  Session session = Open();
  engine_->FailPut(session.sequence(), 1);
  EXPECT_EQ(session.Prefill(std::span(ids).first(12), kMode).detail(), StatusDetail::kOverBudget);
  EXPECT_EQ(session.length(), 0);
  EXPECT_EQ(engine_->Length(session.sequence(), 0).value(), 0);
  engine_->FailNothing();
  const int64_t puts = engine_->puts();
  EXPECT_EQ(session.Prefill(RandomIds(SmallModel::kContext + 1), kMode).code(), StatusCode::kOutOfRange);
  EXPECT_EQ(session.Prefill(Ids{1, SmallModel::kVocabulary}, kMode).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(session.Prefill(Ids{-1}, kMode).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(engine_->puts(), puts);
  EXPECT_EQ(session.Prefill(ids, kMode, [](int64_t) { return false; }).code(), StatusCode::kCancelled);
  EXPECT_EQ(session.length(), Session::kChunkTokens);
  ASSERT_TRUE(session.Prefill(std::span(ids).subspan(Session::kChunkTokens), kMode).ok());
  ExpectLogits(session.logits(), small_.Logits(ids).back());
  EXPECT_TRUE(session.Prefill({}, kMode).ok());
}

TEST_F(SessionTest, TheContextEndsAtItsLength) {
  Load();
  Session session = Open();
  ASSERT_TRUE(session.Prefill(RandomIds(SmallModel::kContext - 1), kMode).ok());
  EXPECT_TRUE(session.Decode(5, kMode).ok());
  const Status status = session.Decode(5, kMode);
  EXPECT_EQ(status.code(), StatusCode::kOutOfRange);
  EXPECT_NE(status.message().find(std::to_string(SmallModel::kContext)), std::string::npos) << status.message();
}

TEST_F(SessionTest, AnEngineOfAnotherShapeIsRefused) {
  Load();
  ModelShape shape = model_->EngineShape(DType::kFloat32);
  shape.layers += 1;
  ExactEngine other(shape);
  EXPECT_EQ(Session::Create(*model_, other, {}).status().code(), StatusCode::kInvalidArgument);
}

void ExpectRefused(const std::vector<std::byte>& base, const std::vector<std::byte>& adapter, const std::string& word) {
  const Result<std::unique_ptr<Model>> model = LoadBytes(base, adapter);
  ASSERT_FALSE(model.ok()) << word;
  EXPECT_NE(model.status().message().find(word), std::string::npos) << model.status().message();
}

TEST(ModelFile, WhatDoesNotFitIsNamed) {
  const SmallModel good(7);
  {
    SmallModel lacking = good;
    lacking.tensors.erase("blk.1.ffn_up.weight");
    ExpectRefused(lacking.Base(), {}, "tensors");
    lacking.tensors["blk.1.ffn_up.bias"] = SmallModel::Matrix(SmallModel::kFfn);
    lacking.shapes["blk.1.ffn_up.bias"] = {SmallModel::kFfn};
    ExpectRefused(lacking.Base(), {}, "blk.1.ffn_up.weight");
  }
  {
    SmallModel turned = good;
    turned.shapes["blk.0.ffn_down.weight"] = {SmallModel::kWidth, SmallModel::kFfn};
    ExpectRefused(turned.Base(), {}, "blk.0.ffn_down.weight");
  }
  {
    SmallModel poisoned = good;
    poisoned.tensors["blk.0.attn_k.weight"][5] = NAN;
    ExpectRefused(poisoned.Base(), {}, "blk.0.attn_k.weight");
  }
  ExpectRefused(GgufWriter().Key("general.architecture", std::string("mamba")).File(), {}, "mamba");
  ExpectRefused(GgufWriter().Key<uint32_t>("general.architecture", GgufWriter::kUint32, 1).File(), {}, "architecture");
  ExpectRefused(GgufWriter().Key("general.architecture", std::string("llama")).File(), {}, "llama.block_count");
  ExpectRefused(SmallModel::Metadata().Key("llama.rope.scaling.type", std::string("yarn")).File(), {}, "yarn");
  ExpectRefused(SmallModel::Metadata().Key<uint32_t>("llama.rope.dimension_count", GgufWriter::kUint32, 8).File(), {},
                "rope");
  ExpectRefused(good.Base(), good.Base(), "general.type");
  const auto adapter = [] {
    return GgufWriter()
        .Key("general.architecture", std::string("llama"))
        .Key("general.type", std::string("adapter"))
        .Key("adapter.type", std::string("lora"))
        .Key<float>("adapter.lora.alpha", GgufWriter::kFloat32, 1);
  };
  ExpectRefused(good.Base(), adapter().Floats("blk.9.attn_q.weight.lora_a", {1}, {1}).File(), "fit no matrix");
  ExpectRefused(good.Base(), adapter().Floats("blk.0.attn_q.weight.lora_a", {1}, {1}).File(), "low rank");
  ExpectRefused(good.Base(), adapter().Floats("blk.0.attn_q.weight.lora_a", {1, 1}, {1}).File(), "lora_a");
  ExpectRefused(adapter().File(), {}, "general.type");
}

// Damage in the header of a whole model: an error or a model, never a crash.
TEST(ModelFile, RandomDamageIsSurvived) {
  const uint32_t seed = std::random_device{}();
  std::printf("seed %u\n", seed);
  std::mt19937 random(seed);
  const std::vector<std::byte> good = SmallModel(seed).Base();
  const size_t header = good.size() - SmallModel(seed).tensors.at("token_embd.weight").size() * sizeof(float);
  for (int round = 0; round < 300; ++round) {
    std::vector<std::byte> altered = good;
    altered[random() % std::min<size_t>(header, 6000)] ^= static_cast<std::byte>(1U << (random() % 8));
    (void)LoadBytes(altered);
  }
}

}  // namespace
}  // namespace swell::model
