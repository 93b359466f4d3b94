// Goal: a step on the device chooses what the CPU twin chooses and answers what the formulas in float64 say, on awkward
// shapes, for batches of unequal length that grow, fork, end and are batched anew under one graph, and reads nothing
// that it should not. Method: NaN bits in the workspace, in the free part of tails and in the outputs before every
// step.
#include "cuda/step/decode_step.h"

#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <vector>

#include "tests/cuda/step_test.h"

namespace swell::cuda {
namespace {

constexpr uint32_t kSeed = 40961;

TEST(DecodeStepTest, EveryShape) {
  if (NoDevice()) GTEST_SKIP() << "no CUDA device";
  const bool few = std::getenv("SWELL_FEW_SHAPES") != nullptr;  // under compute-sanitizer
  for (const DType dtype : {DType::kBFloat16, DType::kFloat16}) {
    for (const int32_t head_dim : {64, 128, 256}) {
      for (const int32_t group : few ? std::vector<int32_t>{3, 16} : std::vector<int32_t>{1, 3, 4, 5, 8, 11, 16}) {
        StepTest test({head_dim, group, dtype, Share(0.05F), "share"}, 2, kSeed + head_dim + group);
        HostSequence first = test.Create({1100, 90});
        HostSequence second = test.Create({300});
        test.SetBatch({&first, &second});
        test.Step();
      }
    }
  }
}

TEST(DecodeStepTest, EveryRule) {
  if (NoDevice()) GTEST_SKIP() << "no CUDA device";
  RetrievalOptions with_floor = Share(0.02F);
  with_floor.floor_tokens = 1024;
  RetrievalOptions two_levels = Above(0.001F);
  two_levels.open_share = 0.3F;
  RetrievalOptions above_alone = Above(0.02F);
  above_alone.estimate_share = 0;               // where nothing is chosen, every cluster is dropped
  const RetrievalOptions by_shares = Above(0);  // of the mass, until the budget is spent
  RetrievalOptions all = Share(1.0F);
  RetrievalOptions few = Share(0.02F);
  few.retrieve_tokens = 3;  // less than most clusters
  RetrievalOptions dropped = PaperRule();
  dropped.estimate_share = 0;
  for (const Case& test : std::vector<Case>{{128, 4, DType::kBFloat16, with_floor, "floor"},
                                            {128, 4, DType::kBFloat16, RetrievalOptions(), "default"},
                                            {128, 4, DType::kBFloat16, Above(0.02F), "above"},
                                            {256, 2, DType::kFloat16, Above(0.0001F), "above, to the budget"},
                                            {64, 11, DType::kBFloat16, Above(0.3F), "above"},
                                            {64, 3, DType::kFloat16, two_levels, "above, two levels"},
                                            {128, 3, DType::kFloat16, above_alone, "above, nothing estimated"},
                                            {128, 4, DType::kFloat16, by_shares, "by shares"},
                                            {128, 4, DType::kBFloat16, all, "everything"},
                                            {64, 3, DType::kFloat16, TwoLevels(), "two levels"},
                                            {128, 8, DType::kBFloat16, TwoLevels(), "two levels"},
                                            {128, 4, DType::kBFloat16, PaperRule(), "paper"},
                                            {128, 4, DType::kFloat16, dropped, "nothing estimated"}}) {
    StepTest runner(test, 3, kSeed);
    HostSequence first = runner.Create({2048, 2048, 700});
    HostSequence second = runner.Create({});
    HostSequence third = runner.Create({2048, 513, 64, 16});
    runner.SetBatch({&first, &second, &third});
    for (int i = 0; i < 3; ++i) runner.Step();
  }
}

TEST(DecodeStepTest, SegmentsBuiltOnTheDevice) {
  if (NoDevice()) GTEST_SKIP() << "no CUDA device";
  for (const Case& test : std::vector<Case>{{128, 4, DType::kBFloat16, Share(0.05F), "share"},
                                            {128, 4, DType::kBFloat16, TwoLevels(), "two levels"},
                                            {64, 3, DType::kFloat16, TwoLevels(), "two levels"},
                                            {256, 2, DType::kBFloat16, Share(0.05F), "share"}}) {
    StepTest runner(test, 2, kSeed + 5);
    HostSequence first = runner.Create({600});
    HostSequence second = runner.Create({});
    for (const int64_t tokens : {2048, 1000, 2048}) runner.AddBuilt(first, tokens);
    for (const int64_t tokens : {512, 90, 5}) runner.AddBuilt(second, tokens);
    runner.SetBatch({&first, &second});
    for (int i = 0; i < 3; ++i) runner.Step();
  }
}

// One graph, and everything that happens to sequences.
TEST(DecodeStepTest, GraphServesSequencesThatComeAndGo) {
  if (NoDevice()) GTEST_SKIP() << "no CUDA device";
  for (const RetrievalOptions& retrieval : {Share(0.04F), TwoLevels()}) {
    StepTest test({128, 4, DType::kBFloat16, retrieval, "graph"}, 3, kSeed + 1);
    HostSequence first = test.Create({2048, 600});
    HostSequence second = test.Create({512});
    test.SetBatch({&first, &second});
    test.Capture();
    for (int i = 0; i < 100; ++i) test.Step(i % 33 == 0);
    HostSequence third = test.Fork(first);
    test.SetBatch({&second, &third, &first});
    for (int i = 0; i < 3; ++i) test.Step();
    test.Add(second, 48, true);  // a seal
    test.DropTail(second, 48);
    test.SetBatch({&third, &second});
    for (int i = 0; i < 3; ++i) test.Step();
    ASSERT_TRUE(test.sequences().Release(second.id).ok());
    HostSequence fourth = test.Create({1500});
    test.SetBatch({&fourth, &first, &third});
    for (int i = 0; i < 40; ++i) test.Step(i % 20 == 0);
    test.SetBatch({});
    test.Step();
  }
}

// Importances that are all equal are taken by number.
TEST(DecodeStepTest, SameInputsSameBits) {
  if (NoDevice()) GTEST_SKIP() << "no CUDA device";
  std::vector<float> first;
  for (int repeat = 0; repeat < 3; ++repeat) {
    StepTest test({128, 4, DType::kBFloat16, Share(0.05F), "repeat"}, 1, kSeed + 2);
    HostSequence sequence = test.Create({2048, 2048});
    test.SetBatch({&sequence});
    for (int i = 0; i < 5; ++i) test.Step();
    if (repeat == 0) first = test.last_output();
    EXPECT_EQ(std::memcmp(first.data(), test.last_output().data(), first.size() * sizeof(float)), 0);
  }
}

TEST(DecodeStepTest, FullTailIsReported) {
  if (NoDevice()) GTEST_SKIP() << "no CUDA device";
  StepTest test({64, 1, DType::kFloat16, Share(0.05F), "tail"}, 1, kSeed + 3);
  HostSequence sequence = test.Create({100});
  test.SetBatch({&sequence});
  for (int i = 0; i < 300; ++i) test.Step(i == 299);
  EXPECT_FALSE(*test.step().HasOverflowed(test.stream()));
  test.Step(false);
  EXPECT_TRUE(*test.step().HasOverflowed(test.stream()));
}

TEST(DecodeStepTest, RefusesWhatItCannotDo) {
  const auto bad_dim = Sequences::Make({.head_dim = 96});
  EXPECT_EQ(bad_dim.status().code(), StatusCode::kInvalidArgument);
  const auto none = DecodeStep::Make({}, nullptr);
  EXPECT_EQ(none.status().detail(), StatusDetail::kNullPointer);
  const auto segment = DeviceSegment::Upload({.head_dim = 128, .group = 1, .storage = DType::kInt8}, {});
  EXPECT_EQ(segment.status().detail(), StatusDetail::kUnknownDType);
  if (!NoDevice()) {
    StepTest test({64, 1, DType::kFloat16, Share(0.05F), "limits"}, 1, kSeed + 4);
    HostSequence sequence = test.Create({1000});
    const int32_t twice[] = {sequence.id, sequence.id};
    auto& step = const_cast<DecodeStep&>(test.step());
    EXPECT_EQ(step.SetBatch(0, twice, test.stream()).code(), StatusCode::kInvalidArgument);
    const int32_t stranger[] = {5};
    EXPECT_EQ(step.SetBatch(0, stranger, test.stream()).code(), StatusCode::kNotFound);
    EXPECT_EQ(step.SetBatch(1, {}, test.stream()).code(), StatusCode::kInvalidArgument);
    EXPECT_EQ(step.Launch(0, {}, test.stream()).detail(), StatusDetail::kNullPointer);
    for (int i = 0; i < 40; ++i) test.Add(sequence, 2048, true);
    const int32_t one[] = {sequence.id};
    EXPECT_EQ(step.SetBatch(0, one, test.stream()).code(), StatusCode::kResourceExhausted);
    return;
  }
  EXPECT_EQ(Sequences::Make({}).status().code(), StatusCode::kUnavailable);
}

}  // namespace
}  // namespace swell::cuda
