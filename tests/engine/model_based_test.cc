// Goal: any order of operations leaves every sequence with exactly the tokens it should have. Method: random operations
// on many sequences beside a model that keeps plain vectors; fetch and exact attention are compared after each step.
// The seed is printed; SWELL_TEST_SEED replays it.
#include <algorithm>

#include "tests/engine/fixture.h"

namespace swell {
namespace {

using testing::Answer;
using testing::Attend;
using testing::LargestError;
using testing::OpenEngine;
using testing::RandomRows;
using testing::Rows;

const ModelShape kShape{1, 2, 2, 16, 0, DType::kFloat32};
constexpr int64_t kWidth = 2 * 16;

struct Model {
  SequenceId id;
  Rows rows;
  int64_t length() const { return static_cast<int64_t>(rows.keys.size()) / kWidth; }
};

class Machine {
 public:
  Machine(uint64_t seed, bool deterministic) : random_(seed), engine_(OpenEngine(kShape, deterministic)) {}

  void Step() {
    const uint64_t choice = models_.empty() ? 0 : random_() % 100;
    if (choice < 5) return Create();
    const size_t at = random_() % models_.size();
    if (choice < 45) return Append(models_[at]);
    if (choice < 55) return Fork(at);
    if (choice < 65) return Truncate(models_[at]);
    if (choice < 70) return Release(at);
    Check(models_[at]);
  }
  void CheckAll() {
    for (Model& model : models_) Check(model);
    while (!models_.empty()) Release(models_.size() - 1);
    EXPECT_EQ(engine_->Stats().sequences, 0);
  }

 private:
  void Create() {
    SequenceOptions options;
    options.sink_tokens = static_cast<int32_t>(random_() % 6);
    options.window_tokens = static_cast<int32_t>(random_() % 40);
    options.seal_tokens = 16 * static_cast<int32_t>(1 + random_() % 3);
    options.segment_tokens = options.seal_tokens * static_cast<int32_t>(1 + random_() % 4);
    options.index.kind = random_() % 4 == 0 ? IndexKind::kFlat : IndexKind::kWave;
    models_.push_back({*engine_->CreateSequence(options), {}});
  }
  void Append(Model& model) {
    const auto tokens = static_cast<int64_t>(random_() % 3 == 0 ? 1 + random_() % 300 : 1 + random_() % 3);
    const Rows fresh{RandomRows(random_, tokens * kWidth), RandomRows(random_, tokens * kWidth)};
    PutItem item;
    item.sequence = model.id;
    item.position = model.length();
    item.tokens = tokens;
    item.keys.data = fresh.keys.data();
    item.values.data = fresh.values.data();
    Status status;
    ASSERT_TRUE(engine_->Put(0, {&item, 1}, {&status, 1}).ok()) << status.message();
    model.rows.keys.insert(model.rows.keys.end(), fresh.keys.begin(), fresh.keys.end());
    model.rows.values.insert(model.rows.values.end(), fresh.values.begin(), fresh.values.end());
  }
  void Fork(size_t at) {
    if (models_.size() > 20) return;
    const SequenceId id = *engine_->Fork(models_[at].id);
    models_.push_back({id, models_[at].rows});
  }
  void Truncate(Model& model) {
    const auto length = static_cast<int64_t>(random_() % static_cast<uint64_t>(model.length() + 1));
    ASSERT_TRUE(engine_->Truncate(model.id, length).ok());
    model.rows.keys.resize(length * kWidth);
    model.rows.values.resize(length * kWidth);
  }
  void Release(size_t at) {
    ASSERT_TRUE(engine_->Release(models_[at].id).ok());
    models_.erase(models_.begin() + static_cast<int64_t>(at));
  }
  void Check(const Model& model) {
    ASSERT_EQ(*engine_->Length(model.id, 0), model.length());
    if (model.length() == 0) return;
    std::vector<int64_t> tokens;
    for (int i = 0; i < 20; ++i) tokens.push_back(static_cast<int64_t>(random_() % model.length()));
    std::vector<float> keys(tokens.size() * kWidth);
    std::vector<float> values(keys.size());
    FetchItem fetch;
    fetch.sequence = model.id;
    fetch.tokens = tokens;
    fetch.keys = keys.data();
    fetch.values = values.data();
    Status status;
    ASSERT_TRUE(engine_->Fetch(0, {&fetch, 1}, {&status, 1}).ok());
    for (size_t i = 0; i < tokens.size(); ++i) {
      const auto from = model.rows.keys.begin() + tokens[i] * kWidth;
      ASSERT_TRUE(std::equal(from, from + kWidth, keys.begin() + static_cast<int64_t>(i) * kWidth));
      const auto value = model.rows.values.begin() + tokens[i] * kWidth;
      ASSERT_TRUE(std::equal(value, value + kWidth, values.begin() + static_cast<int64_t>(i) * kWidth));
    }
    const auto n = static_cast<int64_t>(1 + random_() % std::min<uint64_t>(3, model.length()));
    const auto queries = RandomRows(random_, n * 4 * 16);
    const Answer exact = Attend(*engine_, model.id, 0, queries, AttendMode::kExact);
    ASSERT_LT(LargestError(kShape, model.rows, queries, exact, model.length()), 1e-5);
    RetrievalOptions unlimited;
    unlimited.retrieve_share = 1.0F;
    const Answer all = Attend(*engine_, model.id, 0, queries, AttendMode::kRetrieve, &unlimited);
    ASSERT_LT(LargestError(kShape, model.rows, queries, all, model.length()), 1e-5);
  }

  std::mt19937_64 random_;
  std::unique_ptr<Engine> engine_;
  std::vector<Model> models_;
};

TEST(ModelBased, RandomOperations) {
  for (uint64_t run = 0; run < 6; ++run) {
    const uint64_t seed = testing::Seed() + run;
    SCOPED_TRACE("SWELL_TEST_SEED=" + std::to_string(seed));
    Machine machine(seed, run % 2 == 0);
    for (int step = 0; step < 400 && !::testing::Test::HasFatalFailure(); ++step) machine.Step();
    machine.CheckAll();
  }
}

}  // namespace
}  // namespace swell
