// Goal: a step on the device chooses what the CPU twin chooses and answers what the formulas in float64 say, on awkward
// shapes, for batches of unequal length that grow, fork, end and are batched anew under one graph, and reads nothing
// that it should not. Method: NaN bits in the workspace, in the free part of tails and in the outputs before every
// step.
#include "cuda/step/decode_step.h"

#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <vector>

#include "cuda/device/device.h"
#include "tests/cuda/step_world.h"

namespace swell::cuda {
namespace {

constexpr uint32_t kSeed = 40961;
constexpr size_t kGuard = 64;

bool NoDevice() {
  const auto count = DeviceCount();
  return !count.ok();
}

struct Case {
  int32_t head_dim = 128;
  int32_t group = 4;
  DType dtype = DType::kBFloat16;
  RetrievalOptions retrieval;
  const char* name = "";
};

RetrievalOptions Share(float share) {
  RetrievalOptions options;
  options.retrieve_share = share;
  options.floor_tokens = 0;
  return options;
}

RetrievalOptions TwoLevels() {
  RetrievalOptions options = Share(0.03F);
  options.open_share = 0.3F;
  return options;
}

RetrievalOptions PaperRule() {
  RetrievalOptions options = Share(0.05F);
  options.unit = BudgetUnit::kClusters;
  options.ranking = Ranking::kMass;
  options.correct = false;
  return options;
}

class StepTest {
 public:
  StepTest(const Case& test, int32_t max_batch, uint32_t seed)
      : test_(test), world_(ShapeOf(test), 2, seed), tail_tokens_(300) {
    auto sequences = Sequences::Make(
        {.layers = 1, .kv_heads = 2, .head_dim = test.head_dim, .max_sequences = 6, .tail_tokens = tail_tokens_});
    EXPECT_TRUE(sequences.ok()) << sequences.status().message();
    sequences_ = *std::move(sequences);
    DecodeStepOptions options;
    options.shape = world_.shape;
    options.max_batch = max_batch;
    options.max_tokens = 20000;
    options.max_sequence_tokens = 10000;
    options.retrieval = test.retrieval;
    auto step = DecodeStep::Make(options, sequences_.get());
    EXPECT_TRUE(step.ok()) << step.status().message();
    step_ = *std::move(step);
    const size_t heads = static_cast<size_t>(max_batch) * 2 * test.group;
    const float nan = std::numeric_limits<float>::quiet_NaN();
    poison_ = std::vector<float>(heads * test.head_dim + kGuard, nan);
    output_ = std::make_unique<DeviceVector<float>>(poison_);
    for (auto& array : scalars_) array = std::make_unique<DeviceVector<float>>(std::vector<float>(heads + kGuard, nan));
    EXPECT_EQ(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), cudaSuccess);
    queries_ = std::make_unique<DeviceVector<uint16_t>>(world_.RandomRows(max_batch * 2 * test.group, 1));
    keys_ = std::make_unique<DeviceVector<uint16_t>>(world_.RandomRows(max_batch * 2, 1));
    values_ = std::make_unique<DeviceVector<uint16_t>>(world_.RandomRows(max_batch * 2, 1));
  }
  ~StepTest() { cudaStreamDestroy(stream_); }

  static HeadShape ShapeOf(const Case& test) {
    return {.head_dim = test.head_dim,
            .group = test.group,
            .scale = 2.0F / std::sqrt(static_cast<float>(test.head_dim)),
            .storage = test.dtype};
  }

  HostSequence Create(const std::vector<int64_t>& segments) {
    HostSequence sequence;
    const auto id = sequences_->Create();
    EXPECT_TRUE(id.ok()) << id.status().message();
    sequence.id = *id;
    sequence.tail.resize(2);
    PoisonTail(sequence.id);
    Add(sequence, 4, false);  // sinks
    for (const int64_t tokens : segments) Add(sequence, tokens, true);
    return sequence;
  }

  void Add(HostSequence& sequence, int64_t tokens, bool clustered) {
    sequence.segments.push_back(world_.MakeSegment(tokens, clustered));
    ASSERT_TRUE(sequences_->AddSegment(sequence.id, 0, sequence.segments.back()->device).ok());
  }

  void AddBuilt(HostSequence& sequence, int64_t tokens) {
    sequence.segments.push_back(world_.BuildSegment(tokens));
    ASSERT_TRUE(sequences_->AddSegment(sequence.id, 0, sequence.segments.back()->device).ok());
  }

  void PoisonTail(int32_t id) {
    const Tail tail = DeviceVector<Tail>::ReadDevice(sequences_->tails() + id, 1)[0];
    ASSERT_EQ(cudaMemset(tail.rows, 0xff, 2 * tail.capacity * TokenBytes(test_.head_dim)), cudaSuccess);
  }

  HostSequence Fork(const HostSequence& from) {
    const auto id = sequences_->Fork(from.id, stream_);
    EXPECT_TRUE(id.ok()) << id.status().message();
    HostSequence fork;
    fork.id = *id;
    fork.segments = from.segments;
    for (const HostRows& rows : from.tail) {
      fork.tail.emplace_back();
      fork.tail.back().keys = rows.keys;
      fork.tail.back().values = rows.values;
      fork.tail.back().tokens = rows.tokens;
    }
    return fork;
  }

  void DropTail(HostSequence& sequence, int32_t tokens) {
    ASSERT_TRUE(sequences_->DropTail(sequence.id, 0, tokens, stream_).ok());
    for (HostRows& rows : sequence.tail) {
      const int64_t elements = static_cast<int64_t>(tokens) * test_.head_dim;
      rows.keys.erase(rows.keys.begin(), rows.keys.begin() + elements);
      rows.values.erase(rows.values.begin(), rows.values.begin() + elements);
      rows.tokens -= tokens;
    }
  }

  void SetBatch(const std::vector<HostSequence*>& batch) {
    batch_ = batch;
    std::vector<int32_t> ids;
    for (const HostSequence* sequence : batch) ids.push_back(sequence->id);
    const Status status = step_->SetBatch(0, ids, stream_);
    ASSERT_TRUE(status.ok()) << status.message();
  }

  void Enqueue() {
    Status status = step_->Append(0, keys_->data(), values_->data(), stream_);
    ASSERT_TRUE(status.ok()) << status.message();
    const DecodeCall call{queries_->data(), output_->data(), scalars_[0]->data(), scalars_[1]->data(),
                          scalars_[2]->data()};
    status = step_->Launch(0, call, stream_);
    ASSERT_TRUE(status.ok()) << status.message();
  }

  void Capture() {
    cudaGraph_t graph;
    ASSERT_EQ(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), cudaSuccess);
    Enqueue();
    ASSERT_EQ(cudaStreamEndCapture(stream_, &graph), cudaSuccess);
    ASSERT_EQ(cudaGraphInstantiate(&graph_, graph, 0), cudaSuccess);
    cudaGraphDestroy(graph);
  }

  // One step with fresh inputs, checked.
  void Step(bool check = true) {
    const auto rows = static_cast<int64_t>(batch_.size());
    const auto queries = Resized(world_.RandomRows(rows * 2 * test_.group, 1), *queries_);
    const auto keys = Resized(world_.RandomRows(rows * 2, 1), *keys_);
    const auto values = Resized(world_.RandomRows(rows * 2, 1), *values_);
    const StepArgs args = step_->Args(0);
    // All of the workspace but the counters, which must be zero between steps.
    const auto* first = reinterpret_cast<std::byte*>(args.scores[0].logits);
    ASSERT_EQ(cudaMemset(args.scores[0].logits, 0xff,
                         static_cast<size_t>(reinterpret_cast<std::byte*>(args.arrivals) - first)),
              cudaSuccess);
    output_->Set(poison_);
    ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    if (graph_ != nullptr) {
      ASSERT_EQ(cudaGraphLaunch(graph_, stream_), cudaSuccess);
    } else {
      Enqueue();
    }
    ASSERT_EQ(cudaStreamSynchronize(stream_), cudaSuccess);
    const int64_t d = test_.head_dim;
    for (size_t s = 0; s < batch_.size(); ++s) {
      for (size_t h = 0; h < 2; ++h) {
        HostRows& tail = batch_[s]->tail[h];
        const auto at = static_cast<int64_t>(2 * s + h) * d;
        tail.keys.insert(tail.keys.end(), keys.begin() + at, keys.begin() + at + d);
        tail.values.insert(tail.values.end(), values.begin() + at, values.begin() + at + d);
        ++tail.tokens;
      }
    }
    if (check) Check(world_.Floats(queries));
  }

  const DecodeStep& step() const { return *step_; }
  Sequences& sequences() { return *sequences_; }
  cudaStream_t stream() const { return stream_; }
  const std::vector<float>& last_output() const { return last_output_; }

 private:
  std::vector<uint16_t> Resized(std::vector<uint16_t> rows, DeviceVector<uint16_t>& to) const {
    const size_t used = rows.size();
    rows.resize(to.Get().size(), 0x7fff);  // NaN behind the batch
    to.Set(rows);
    rows.resize(used);
    return rows;
  }

  void Check(const std::vector<float>& queries) {
    const size_t heads = batch_.size() * 2;
    const auto listed = StepWorld::Listed(*step_, 0, heads);
    const auto opened = StepWorld::Opened(*step_, 0, heads);
    last_output_ = output_->Get();
    const std::vector<float> lse = scalars_[0]->Get();
    const std::vector<float> errors = scalars_[1]->Get();
    const std::vector<float> shares = scalars_[2]->Get();
    const int64_t d = test_.head_dim;
    // The estimate is weighed in bfloat16 whatever the storage is.
    const double tolerance = test_.dtype == DType::kFloat16 ? 5e-3 : 1e-2;
    for (size_t head = 0; head < heads; ++head) {
      const HostSequence& sequence = *batch_[head / 2];
      const auto kv_head = static_cast<int32_t>(head % 2);
      SCOPED_TRACE(testing::Message() << test_.name << " head_dim " << d << " group " << test_.group << " head " << head
                                      << " sequence " << sequence.id << " tail " << sequence.tail[0].tokens);
      const auto row = static_cast<int64_t>(head) * test_.group;
      const std::vector<float> own(queries.begin() + row * d, queries.begin() + (row + test_.group) * d);
      world_.CheckChoice(sequence, kv_head, test_.retrieval, own, listed[head], opened[head]);
      const HeadAnswer answer = world_.Answer(sequence, kv_head, test_.retrieval, own, listed[head], opened[head]);
      for (int64_t g = 0; g < test_.group; ++g) {
        double difference = 0, norm = 0;
        for (int64_t i = 0; i < d; ++i) {
          const double expected = answer.output[g * d + i];
          const double actual = last_output_[(row + g) * d + i];
          difference += (actual - expected) * (actual - expected);
          norm += expected * expected;
        }
        EXPECT_LE(std::sqrt(difference / norm), tolerance) << "query " << g;
        EXPECT_NEAR(lse[row + g], answer.lse[g], 2e-3);
        EXPECT_NEAR(shares[row + g], answer.share[g], 2e-3 * answer.share[g] + 1e-6);
        EXPECT_NEAR(errors[row + g], answer.error[g], 0.02 * answer.error[g] + 1e-5);
      }
    }
    for (size_t i = heads * test_.group * static_cast<size_t>(d); i < last_output_.size(); ++i) {
      ASSERT_TRUE(std::isnan(last_output_[i])) << "wrote behind the batch";
    }
  }

  const Case test_;
  StepWorld world_;
  const int32_t tail_tokens_;
  std::unique_ptr<Sequences> sequences_;
  std::unique_ptr<DecodeStep> step_;
  std::vector<float> poison_;
  std::vector<float> last_output_;
  std::unique_ptr<DeviceVector<float>> output_;
  std::unique_ptr<DeviceVector<float>> scalars_[3];
  std::unique_ptr<DeviceVector<uint16_t>> queries_, keys_, values_;
  cudaStream_t stream_ = nullptr;
  cudaGraphExec_t graph_ = nullptr;
  std::vector<HostSequence*> batch_;
};

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
  RetrievalOptions with_floor;
  RetrievalOptions all = Share(1.0F);
  RetrievalOptions few = Share(0.02F);
  few.retrieve_tokens = 3;  // less than most clusters
  RetrievalOptions dropped = PaperRule();
  dropped.estimate_share = 0;
  for (const Case& test : std::vector<Case>{{128, 4, DType::kBFloat16, with_floor, "default"},
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
