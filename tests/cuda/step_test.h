// Steps over random sequences, each checked against the CPU twin's choice and against float64.
#ifndef SWELL_TESTS_CUDA_STEP_TEST_H_
#define SWELL_TESTS_CUDA_STEP_TEST_H_

#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <vector>

#include "cuda/buffer/wave_buffer.h"
#include "cuda/device/device.h"
#include "cuda/step/decode_step.h"
#include "lib/base/convert.h"
#include "tests/cuda/step_world.h"

namespace swell::cuda {

constexpr size_t kGuard = 64;
constexpr int64_t kHomeRecords = 60000;

inline bool NoDevice() {
  const auto count = DeviceCount();
  return !count.ok();
}

struct Case {
  int32_t head_dim = 128;
  int32_t group = 4;
  DType dtype = DType::kBFloat16;
  RetrievalOptions retrieval;
  const char* name = "";
  int64_t cached_tokens = 0;   // of a wave buffer; 0: all rows in device memory
  bool bytes_at_home = false;  // int8
  float preference = 0;        // of the buffer
};

// Reads until a budget is spent.
inline RetrievalOptions Share(float share) {
  RetrievalOptions options;
  options.ranking = Ranking::kOptimistic;
  options.retrieve_above = 0;
  options.retrieve_share = share;
  options.max_retrieve_tokens = 0;
  options.floor_tokens = 0;
  return options;
}

// Reads what may hold more than `above` of the mass.
inline RetrievalOptions Above(float above) {
  RetrievalOptions options;
  options.retrieve_above = above;
  options.floor_tokens = 0;
  return options;
}

inline RetrievalOptions TwoLevels() {
  RetrievalOptions options = Share(0.03F);
  options.open_share = 0.3F;
  return options;
}

inline RetrievalOptions PaperRule() {
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
    if (test.cached_tokens > 0) {
      const uint64_t record = TokenBytes(test.head_dim);
      auto buffer = WaveBuffer::Make({.head_dim = test.head_dim,
                                      .storage = test.dtype,
                                      .home = test.bytes_at_home ? DType::kInt8 : test.dtype,
                                      .home_bytes = kHomeRecords * record / (test.bytes_at_home ? 2 : 1),
                                      .cache_bytes = static_cast<uint64_t>(test.cached_tokens) * record,
                                      .preference = test.preference});
      EXPECT_TRUE(buffer.ok()) << buffer.status().message();
      options.buffer = buffer_ = *std::move(buffer);
    }
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
    if (clustered && buffer_ != nullptr) {
      auto& device = sequence.segments.back()->device;
      auto moved = buffer_->MoveHome(*device, stream_);
      ASSERT_TRUE(moved.ok()) << moved.status().message();
      ASSERT_EQ(cudaStreamSynchronize(stream_), cudaSuccess);
      device = *std::move(moved);
      for (HostRows& rows : sequence.segments.back()->heads) {
        if (test_.bytes_at_home) RoundToBytes(rows);
      }
    }
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

  // Token records of clustered segments that the last step listed, of all heads.
  std::vector<int64_t> ListedRecords() const {
    const int32_t record_bytes = buffer_->view().record_bytes;
    std::vector<int64_t> records;
    for (const auto& listed : StepWorld::Listed(*step_, 0, batch_.size() * 2)) {
      for (const std::byte* address : listed) {
        const auto bits = reinterpret_cast<uint64_t>(address);
        if ((bits & kHomeBase) != 0) records.push_back(static_cast<int64_t>(bits - kHomeBase) / record_bytes);
      }
    }
    return records;
  }
  const WaveBuffer& buffer() const { return *buffer_; }
  WaveBuffer& buffer() { return *buffer_; }
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

  // What rows become that are kept as int8.
  void RoundToBytes(HostRows& rows) const {
    const int64_t d = test_.head_dim;
    std::vector<int8_t> bytes(static_cast<size_t>(d));
    for (std::vector<uint16_t>* of : {&rows.keys, &rows.values}) {
      std::vector<float> floats = world_.Floats(*of);
      for (int64_t at = 0; at < static_cast<int64_t>(floats.size()); at += d) {
        float scale = 0;
        ASSERT_TRUE(QuantizeRow(floats.data() + at, d, bytes.data(), &scale));
        DecodeRow(DType::kInt8, bytes.data(), scale, d, floats.data() + at);
      }
      ASSERT_TRUE(ConvertFromFloat(floats.data(), static_cast<int64_t>(floats.size()), test_.dtype, of->data()));
    }
  }

  // What selection knew of the cache: looking up leaves what is cached as it is.
  Nearness NearnessNow() const {
    const BufferView& view = buffer_->view();
    return {view.preference, DeviceVector<int32_t>::ReadDevice(view.places, static_cast<size_t>(view.home_records))};
  }

  void Check(const std::vector<float>& queries) {
    const size_t heads = batch_.size() * 2;
    const auto listed = StepWorld::Listed(*step_, 0, heads);
    const auto opened = StepWorld::Opened(*step_, 0, heads);
    last_output_ = output_->Get();
    const std::vector<float> lse = scalars_[0]->Get();
    const std::vector<float> errors = scalars_[1]->Get();
    const std::vector<float> shares = scalars_[2]->Get();
    const Nearness near = buffer_ == nullptr ? Nearness{} : NearnessNow();
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
      world_.CheckChoice(sequence, kv_head, test_.retrieval, own, listed[head], opened[head], near);
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
  std::shared_ptr<WaveBuffer> buffer_;
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

}  // namespace swell::cuda

#endif  // SWELL_TESTS_CUDA_STEP_TEST_H_
