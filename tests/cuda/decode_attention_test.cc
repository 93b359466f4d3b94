// Goal: the kernel equals float64 attention and its CPU twin on awkward shapes, reads and writes nothing beside its
// rows. Method: NaN around every run of rows, in the workspace and in the outputs; guards behind the outputs. Arguments
// are checked on every machine, the kernel where there is a device.
#include "cuda/kernels/decode_attention.h"

#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <vector>

#include "cuda/device/device.h"
#include "lib/base/convert.h"
#include "swell/attention.h"

namespace swell::cuda {
namespace {

constexpr uint32_t kSeed = 90210;
constexpr uint16_t kNan16 = 0x7fff;  // NaN as float16 and as bfloat16
constexpr int64_t kGuard = 64;       // rows or elements of poison on either side

// Device memory that holds `host`, and gives it back.
template <typename T>
class DeviceArray {
 public:
  explicit DeviceArray(const std::vector<T>& host) : size_(host.size()) {
    EXPECT_EQ(cudaMalloc(reinterpret_cast<void**>(&data_), size_ * sizeof(T)), cudaSuccess);
    Set(host);
  }
  ~DeviceArray() { cudaFree(data_); }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;
  void Set(const std::vector<T>& host) {
    EXPECT_EQ(cudaMemcpy(data_, host.data(), size_ * sizeof(T), cudaMemcpyHostToDevice), cudaSuccess);
  }
  std::vector<T> Get() const {
    std::vector<T> host(size_);
    EXPECT_EQ(cudaMemcpy(host.data(), data_, size_ * sizeof(T), cudaMemcpyDeviceToHost), cudaSuccess);
    return host;
  }
  T* data() { return data_; }

 private:
  T* data_ = nullptr;
  size_t size_ = 0;
};

struct Shape {
  int32_t head_dim;
  int32_t group;
  DType dtype;
  int32_t splits;
};

// A batch of heads with runs of different lengths, on the host and on the device.
class Batch {
 public:
  Batch(const Shape& shape, const std::vector<int64_t>& tokens, uint32_t seed) : shape_(shape), tokens_(tokens) {
    std::mt19937 random(seed);
    queries_host_ = Rows(random, static_cast<int64_t>(tokens.size()) * shape.group, 0);
    queries_ = std::make_unique<DeviceArray<uint16_t>>(queries_host_);
    std::vector<DeviceRun> runs;
    for (const int64_t count : tokens) {
      keys_host_.push_back(Rows(random, count, kGuard));
      values_host_.push_back(Rows(random, count, kGuard));
      keys_.push_back(std::make_unique<DeviceArray<uint16_t>>(keys_host_.back()));
      values_.push_back(std::make_unique<DeviceArray<uint16_t>>(values_host_.back()));
      const int64_t first = kGuard * shape.head_dim;
      runs.push_back({keys_.back()->data() + first, values_.back()->data() + first, count});
    }
    runs_ = std::make_unique<DeviceArray<DeviceRun>>(runs);
    runs_host_ = runs;
    const float nan = std::numeric_limits<float>::quiet_NaN();
    const size_t rows = tokens.size() * shape.group;
    output_ = std::make_unique<DeviceArray<float>>(std::vector<float>(rows * shape.head_dim + kGuard, nan));
    lse_ = std::make_unique<DeviceArray<float>>(std::vector<float>(rows + kGuard, nan));
    workspace_bytes_ = DecodeAttentionWorkspaceBytes(Args());
    workspace_ = std::make_unique<DeviceArray<float>>(std::vector<float>(workspace_bytes_ / 4 + kGuard, nan));
  }

  DecodeAttentionArgs Args() {
    DecodeAttentionArgs args;
    args.queries = queries_->data();
    args.runs = runs_->data();
    args.output = output_->data();
    args.lse = lse_->data();
    args.heads = static_cast<int32_t>(tokens_.size());
    args.group = shape_.group;
    args.head_dim = shape_.head_dim;
    args.dtype = shape_.dtype;
    args.splits = shape_.splits;
    args.scale = 1.0F / std::sqrt(static_cast<float>(shape_.head_dim));
    return args;
  }

  void Run() {
    const Status status = LaunchDecodeAttention(Args(), workspace_->data(), workspace_bytes_, nullptr);
    ASSERT_TRUE(status.ok()) << status.message();
    ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  }

  // Compares what the device wrote with float64 over the first tokens of each run.
  void Check(const std::vector<int64_t>& tokens) {
    const std::vector<float> output = output_->Get();
    const std::vector<float> lse = lse_->Get();
    const int64_t d = shape_.head_dim;
    const double tolerance = shape_.dtype == DType::kFloat16 ? 2e-3 : 1e-2;
    for (size_t head = 0; head < tokens.size(); ++head) {
      const std::vector<float> keys = Decode(keys_host_[head]);
      const std::vector<float> values = Decode(values_host_[head]);
      const std::vector<float> queries = Decode(queries_host_);
      for (int64_t row = 0; row < shape_.group; ++row) {
        const int64_t query = static_cast<int64_t>(head) * shape_.group + row;
        SCOPED_TRACE(testing::Message() << "head_dim " << d << " group " << shape_.group << " splits " << shape_.splits
                                        << " tokens " << tokens[head] << " row " << row);
        double expected_lse = 0;
        const std::vector<double> expected =
            Reference(&queries[query * d], &keys[kGuard * d], &values[kGuard * d], tokens[head], &expected_lse);
        double norm = 0;
        double error = 0;
        for (int64_t i = 0; i < d; ++i) {
          norm += expected[i] * expected[i];
          error += std::pow(output[query * d + i] - expected[i], 2);
        }
        if (tokens[head] <= 0) {
          ASSERT_EQ(error, 0);
          ASSERT_EQ(lse[query], -std::numeric_limits<float>::infinity());
        } else {
          ASSERT_LE(std::sqrt(error), tolerance * std::sqrt(norm));
          ASSERT_NEAR(lse[query], expected_lse, 1e-4 * std::max(1.0, std::abs(expected_lse)));
        }
      }
    }
    const size_t rows = tokens.size() * shape_.group;
    const std::vector<float> workspace = workspace_->Get();
    for (int64_t i = 0; i < kGuard; ++i) {
      ASSERT_TRUE(std::isnan(output[rows * d + i]));
      ASSERT_TRUE(std::isnan(lse[rows + i]));
      ASSERT_TRUE(std::isnan(workspace[workspace_bytes_ / 4 + i]));
    }
  }

  // Output of the CPU twin for one head.
  std::vector<float> Twin(size_t head) const {
    const HeadShape shape{shape_.head_dim, shape_.group, 1.0F / std::sqrt(static_cast<float>(shape_.head_dim)),
                          shape_.dtype};
    const std::vector<float> queries = Decode(queries_host_);
    KvRun run;
    run.keys = &keys_host_[head][kGuard * shape_.head_dim];
    run.values = &values_host_[head][kGuard * shape_.head_dim];
    run.tokens = tokens_[head];
    std::vector<float> max(shape_.group);
    std::vector<float> sum(shape_.group);
    std::vector<float> out(shape_.group * shape_.head_dim);
    const attention::PartialState state{max.data(), sum.data(), out.data()};
    attention::ResetState(shape_.group, shape_.head_dim, state);
    attention::AttendRuns(shape, &queries[head * shape_.group * shape_.head_dim], {&run, 1}, state);
    std::vector<float> output(out.size());
    attention::FinishState(shape_.group, shape_.head_dim, state, output.data(), nullptr);
    return output;
  }

  std::vector<float> Output() const { return output_->Get(); }
  void SetTokens(const std::vector<int64_t>& tokens) {
    for (size_t head = 0; head < tokens.size(); ++head) runs_host_[head].tokens = tokens[head];
    runs_->Set(runs_host_);
  }
  float* workspace() { return workspace_->data(); }
  size_t workspace_bytes() const { return workspace_bytes_; }

 private:
  // Normal deviates, a third of the rows five times as large so that the softmax is not flat; poison around.
  std::vector<uint16_t> Rows(std::mt19937& random, int64_t count, int64_t guard) const {
    std::normal_distribution<float> normal;
    std::vector<float> plain(count * shape_.head_dim);
    for (int64_t i = 0; i < static_cast<int64_t>(plain.size()); ++i) {
      plain[i] = normal(random) * (i / shape_.head_dim % 3 == 0 ? 5.0F : 1.0F);
    }
    std::vector<uint16_t> rows((count + 2 * guard) * shape_.head_dim, kNan16);
    EXPECT_TRUE(ConvertFromFloat(plain.data(), static_cast<int64_t>(plain.size()), shape_.dtype,
                                 rows.data() + guard * shape_.head_dim));
    return rows;
  }

  std::vector<float> Decode(const std::vector<uint16_t>& rows) const {
    std::vector<float> plain(rows.size());
    ConvertToFloat(shape_.dtype, rows.data(), static_cast<int64_t>(rows.size()), plain.data());
    return plain;
  }

  std::vector<double> Reference(const float* query, const float* keys, const float* values, int64_t tokens,
                                double* lse) const {
    const int64_t d = shape_.head_dim;
    std::vector<double> scores(std::max<int64_t>(tokens, 0));
    double max = -std::numeric_limits<double>::infinity();
    for (int64_t i = 0; i < tokens; ++i) {
      double dot = 0;
      for (int64_t k = 0; k < d; ++k) dot += static_cast<double>(query[k]) * keys[i * d + k];
      scores[i] = dot / std::sqrt(static_cast<double>(d));
      max = std::max(max, scores[i]);
    }
    std::vector<double> output(d, 0);
    double sum = 0;
    for (int64_t i = 0; i < tokens; ++i) {
      const double weight = std::exp(scores[i] - max);
      sum += weight;
      for (int64_t k = 0; k < d; ++k) output[k] += weight * values[i * d + k];
    }
    for (double& x : output) x = sum > 0 ? x / sum : 0;
    *lse = max + std::log(sum);
    return output;
  }

  const Shape shape_;
  const std::vector<int64_t> tokens_;
  std::vector<uint16_t> queries_host_;
  std::vector<std::vector<uint16_t>> keys_host_, values_host_;
  std::vector<DeviceRun> runs_host_;
  std::unique_ptr<DeviceArray<uint16_t>> queries_;
  std::vector<std::unique_ptr<DeviceArray<uint16_t>>> keys_, values_;
  std::unique_ptr<DeviceArray<DeviceRun>> runs_;
  std::unique_ptr<DeviceArray<float>> output_, lse_, workspace_;
  size_t workspace_bytes_ = 0;
};

class DecodeAttention : public testing::Test {
 protected:
  void SetUp() override {
    if (const auto count = DeviceCount(); !count.ok()) GTEST_SKIP() << count.status().message();
    RecordProperty("seed", static_cast<int>(kSeed));
  }
};

TEST_F(DecodeAttention, EqualsFloat64OnAwkwardShapes) {
  SCOPED_TRACE(testing::Message() << "seed " << kSeed);
  const std::vector<int64_t> tokens{0,  1,  2,  7,   8,   9,   15,  16,  17,   31, 32,
                                    33, 63, 65, 127, 128, 129, 255, 385, 1000, -3};
  std::vector<int64_t> present;
  for (const int64_t count : tokens) present.push_back(std::max<int64_t>(count, 0));
  for (const DType dtype : {DType::kFloat16, DType::kBFloat16}) {
    for (const int32_t head_dim : {64, 128, 256}) {
      for (const int32_t group : {1, 3, 4, 7, 8, 9, 16}) {
        for (const int32_t splits : {1, 2, 5}) {
          Batch batch({head_dim, group, dtype, splits}, present, kSeed);
          batch.SetTokens(tokens);
          batch.Run();
          if (!HasFatalFailure()) batch.Check(tokens);
          if (HasFatalFailure()) return;
        }
      }
    }
  }
}

TEST_F(DecodeAttention, EqualsFloat64AndItsTwinOnLongRuns) {
  SCOPED_TRACE(testing::Message() << "seed " << kSeed);
  const std::vector<int64_t> tokens{20011, 4096, 9999};
  for (const DType dtype : {DType::kFloat16, DType::kBFloat16}) {
    for (const int32_t head_dim : {64, 128, 256}) {
      Batch batch({head_dim, 4, dtype, DecodeAttentionSplits(3, 20011, 132)}, tokens, kSeed + 1);
      batch.Run();
      if (!HasFatalFailure()) batch.Check(tokens);
      if (HasFatalFailure()) return;
      const std::vector<float> output = batch.Output();
      const std::vector<float> twin = batch.Twin(1);
      const float tolerance = dtype == DType::kFloat16 ? 4e-3F : 3e-2F;
      for (size_t i = 0; i < twin.size(); ++i) ASSERT_NEAR(output[twin.size() + i], twin[i], tolerance);
      batch.Run();
      ASSERT_EQ(std::memcmp(output.data(), batch.Output().data(), 3 * 4 * head_dim * sizeof(float)), 0)
          << "two launches differ";
    }
  }
}

// A captured graph keeps serving while the sequences grow.
TEST_F(DecodeAttention, AGraphServesRunsThatGrow) {
  const std::vector<int64_t> full{3000, 700};
  Batch batch({128, 6, DType::kBFloat16, 8}, full, kSeed + 2);
  cudaStream_t stream = nullptr;
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
  ASSERT_EQ(cudaStreamCreate(&stream), cudaSuccess);
  ASSERT_EQ(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal), cudaSuccess);
  const Status status = LaunchDecodeAttention(batch.Args(), batch.workspace(), batch.workspace_bytes(), stream);
  ASSERT_EQ(cudaStreamEndCapture(stream, &graph), cudaSuccess);
  ASSERT_TRUE(status.ok()) << status.message();
  ASSERT_EQ(cudaGraphInstantiate(&exec, graph, 0), cudaSuccess);
  for (const std::vector<int64_t>& tokens : {std::vector<int64_t>{1, 0}, {130, 65}, {131, 66}, full}) {
    batch.SetTokens(tokens);
    ASSERT_EQ(cudaGraphLaunch(exec, stream), cudaSuccess);
    ASSERT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
    batch.Check(tokens);
  }
  cudaGraphExecDestroy(exec);
  cudaGraphDestroy(graph);
  cudaStreamDestroy(stream);
}

TEST(DecodeAttentionArgs, AreCheckedBeforeAnythingRuns) {
  alignas(16) static char memory[64];
  DecodeAttentionArgs good;
  good.queries = memory;
  good.runs = reinterpret_cast<const DeviceRun*>(memory);
  good.output = reinterpret_cast<float*>(memory);
  good.heads = 2;
  good.group = 4;
  good.head_dim = 128;
  good.splits = 3;
  good.scale = 0.1F;
  EXPECT_TRUE(CheckDecodeAttention(good).ok());
  EXPECT_EQ(DecodeAttentionWorkspaceBytes(good), 4U * 2 * 3 * 4 * 130);
  EXPECT_EQ(LaunchDecodeAttention(good, nullptr, 1 << 20, nullptr).detail(), StatusDetail::kNullPointer);
  EXPECT_EQ(LaunchDecodeAttention(good, memory + 4, 1 << 20, nullptr).detail(), StatusDetail::kMisaligned);
  EXPECT_EQ(LaunchDecodeAttention(good, memory, DecodeAttentionWorkspaceBytes(good) - 1, nullptr).detail(),
            StatusDetail::kBadSize);
  const auto expect = [&](auto change, StatusDetail detail, const char* name) {
    DecodeAttentionArgs bad = good;
    change(bad);
    const Status status = LaunchDecodeAttention(bad, memory, 1 << 20, nullptr);
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << name;
    EXPECT_EQ(status.detail(), detail) << name;
    EXPECT_EQ(status.message().find(name), 0U) << status.message();
    EXPECT_EQ(DecodeAttentionWorkspaceBytes(bad), 0U) << name;
  };
  using Args = DecodeAttentionArgs;
  expect([](Args& a) { a.queries = nullptr; }, StatusDetail::kNullPointer, "queries");
  expect([](Args& a) { a.queries = memory + 2; }, StatusDetail::kMisaligned, "queries");
  expect([](Args& a) { a.runs = nullptr; }, StatusDetail::kNullPointer, "runs");
  expect([](Args& a) { a.output = nullptr; }, StatusDetail::kNullPointer, "output");
  expect([](Args& a) { a.heads = 0; }, StatusDetail::kBadSize, "heads");
  expect([](Args& a) { a.group = 0; }, StatusDetail::kBadSize, "group");
  expect([](Args& a) { a.group = 17; }, StatusDetail::kBadSize, "group");
  expect([](Args& a) { a.head_dim = 96; }, StatusDetail::kBadSize, "head_dim");
  expect([](Args& a) { a.dtype = DType::kInt8; }, StatusDetail::kUnknownDType, "dtype");
  expect([](Args& a) { a.splits = 0; }, StatusDetail::kBadSize, "splits");
  expect([](Args& a) { a.splits = kMaxDecodeSplits + 1; }, StatusDetail::kBadSize, "splits");
  expect([](Args& a) { a.scale = INFINITY; }, StatusDetail::kNonFinite, "scale");
}

TEST(DecodeAttentionArgs, SplitsFillTheDeviceAndStayUseful) {
  EXPECT_EQ(DecodeAttentionSplits(8, 131072, 132), 33);
  EXPECT_EQ(DecodeAttentionSplits(1000, 131072, 132), 1);
  EXPECT_EQ(DecodeAttentionSplits(1, 600, 132), 2);
  EXPECT_EQ(DecodeAttentionSplits(1, 0, 132), 1);
  EXPECT_EQ(DecodeAttentionSplits(1, int64_t{1} << 40, 1 << 20), kMaxDecodeSplits);
}

TEST(DecodeAttentionArgs, ALaunchWithoutADriverSaysSo) {
  if (DeviceCount().ok()) GTEST_SKIP() << "this machine has a device";
  alignas(16) static char memory[64];
  DecodeAttentionArgs args;
  args.queries = memory;
  args.runs = reinterpret_cast<const DeviceRun*>(memory);
  args.output = reinterpret_cast<float*>(memory);
  args.heads = 1;
  args.head_dim = 64;
  args.scale = 1;
  const Status status = LaunchDecodeAttention(args, memory, 1 << 20, nullptr);
  EXPECT_EQ(status.code(), StatusCode::kUnavailable) << status.message();
}

}  // namespace
}  // namespace swell::cuda
