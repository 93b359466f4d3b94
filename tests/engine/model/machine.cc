#include "tests/engine/model/machine.h"

#include <algorithm>
#include <cmath>

namespace swell::testing {
namespace {

constexpr size_t kMostSequences = 20;
constexpr double kTolerance = 1e-5;

bool IsOverBudget(const Status& status) { return status.detail() == StatusDetail::kOverBudget; }

}  // namespace

Machine::Machine(uint64_t seed, Engine& engine, const Model* prefix)
    : random_(seed),
      engine_(engine),
      shape_(engine.shape()),
      prefix_(prefix),
      width_(int64_t{shape_.kv_heads} * shape_.head_dim) {}

void Machine::Step() {
  const uint64_t choice = models_.empty() ? 0 : random_() % 100;
  if (choice < 5) return prefix_ != nullptr && random_() % 2 == 0 ? ForkPrefix() : Create();
  const size_t at = random_() % models_.size();
  if (choice < 40) return Append(models_[at]);
  if (choice < 47) return AppendBatch();
  if (choice < 55) return Fork(models_[at]);
  if (choice < 63) return Truncate(models_[at]);
  if (choice < 68) return Release(at);
  if (choice < 70) return MisuseIds();
  if (choice < 72) return Misplace(models_[at]);
  if (choice < 77) return CheckBatch();
  Check(models_[at]);
}

void Machine::Finish() {
  for (const Model& model : models_) Check(model);
  while (!models_.empty()) Release(models_.size() - 1);
}

int64_t Machine::AnyTokens() {
  return static_cast<int64_t>(random_() % 3 == 0 ? 1 + random_() % 300 : 1 + random_() % 3);
}

void Machine::Create() {
  if (models_.size() > kMostSequences) return;
  SequenceOptions options;
  options.sink_tokens = static_cast<int32_t>(random_() % 6);
  options.window_tokens = static_cast<int32_t>(random_() % 40);
  options.seal_tokens = 16 * static_cast<int32_t>(1 + random_() % 3);
  options.segment_tokens = options.seal_tokens * static_cast<int32_t>(1 + random_() % 4);
  options.index.kind = random_() % 4 == 0 ? IndexKind::kFlat : IndexKind::kWave;
  options.index.cluster_tokens = static_cast<int32_t>(1 + random_() % 16);
  options.retrieval.floor_tokens = static_cast<int64_t>(random_() % 2 * 64);
  const auto created = engine_.CreateSequence(options);
  ASSERT_TRUE(created.ok()) << created.status().message();
  models_.push_back({*created, std::vector<Rows>(static_cast<size_t>(shape_.layers))});
}

void Machine::ForkPrefix() { Fork(*prefix_); }

void Machine::Fork(const Model& model) {
  if (models_.size() > kMostSequences) return;
  const auto forked = engine_.Fork(model.id);
  ASSERT_TRUE(forked.ok()) << forked.status().message();
  Model copy = model;  // before push_back, which may move `model`
  copy.id = *forked;
  models_.push_back(std::move(copy));
}

Machine::Batch Machine::MakeBatch(const Model& model, int32_t layer, int64_t tokens) {
  Batch batch;
  batch.fresh = {ExactRows(random_, shape_, tokens), ExactRows(random_, shape_, tokens)};
  const uint64_t dtypes = shape_.storage == DType::kInt8 ? 4 : 3;
  const auto dtype = static_cast<DType>(random_() % dtypes);
  batch.keys = ToCaller(batch.fresh.keys, shape_, dtype);
  batch.values = ToCaller(batch.fresh.values, shape_, dtype);
  batch.item.sequence = model.id;
  batch.item.position = Length(shape_, model.layers[layer]);
  batch.item.tokens = tokens;
  batch.item.keys = batch.keys.View(dtype);
  batch.item.values = batch.values.View(dtype);
  return batch;
}

void Machine::Settle(Model& model, int32_t layer, const Batch& batch, const Status& status) {
  Rows& rows = model.layers[layer];
  if (status.ok()) {
    rows.keys.insert(rows.keys.end(), batch.fresh.keys.begin(), batch.fresh.keys.end());
    rows.values.insert(rows.values.end(), batch.fresh.values.begin(), batch.fresh.values.end());
  } else {
    ASSERT_TRUE(IsOverBudget(status)) << status.message();
    ++refused_;
  }
  CheckLengths(model);
}

void Machine::Append(Model& model) {
  const int32_t layer = AnyLayer();
  const Batch batch = MakeBatch(model, layer, AnyTokens());
  Status status;
  static_cast<void>(engine_.Put(layer, {&batch.item, 1}, {&status, 1}));
  Settle(model, layer, batch, status);
}

// Several sequences at once; in one batch out of four an item is not finite, which must not touch the others.
void Machine::AppendBatch() {
  const int32_t layer = AnyLayer();
  std::vector<Batch> batches;
  for (const Model& model : models_)
    batches.push_back(MakeBatch(model, layer, 1 + static_cast<int64_t>(random_() % 40)));
  const size_t bad = random_() % (4 * batches.size());
  if (bad < batches.size()) {
    Batch& batch = batches[bad];
    batch.fresh.keys[random_() % batch.fresh.keys.size()] = std::nanf("");
    batch.item.keys = {};
    batch.item.keys.data = batch.fresh.keys.data();
  }
  std::vector<PutItem> items;
  for (const Batch& batch : batches) items.push_back(batch.item);
  std::vector<Status> statuses(items.size());
  static_cast<void>(engine_.Put(layer, items, statuses));
  for (size_t i = 0; i < items.size(); ++i) {
    if (i == bad && !IsOverBudget(statuses[i])) {
      ASSERT_EQ(statuses[i].detail(), StatusDetail::kNonFinite) << statuses[i].message();
      CheckLengths(models_[i]);
    } else {
      Settle(models_[i], layer, batches[i], statuses[i]);
    }
  }
}

void Machine::Truncate(Model& model) {
  int64_t longest = 0;
  for (const Rows& rows : model.layers) longest = std::max(longest, Length(shape_, rows));
  const auto length = static_cast<int64_t>(random_() % static_cast<uint64_t>(longest + 2));
  const Status status = engine_.Truncate(model.id, length);
  if (status.ok()) {
    for (Rows& rows : model.layers) {
      rows.keys.resize(std::min(rows.keys.size(), static_cast<size_t>(length * width_)));
      rows.values.resize(rows.keys.size());
    }
  } else {
    ASSERT_TRUE(IsOverBudget(status)) << status.message();
    ++refused_;
  }
  CheckLengths(model);
}

void Machine::Release(size_t at) {
  ASSERT_TRUE(engine_.Release(models_[at].id).ok());
  released_.push_back(models_[at].id);
  models_.erase(models_.begin() + static_cast<int64_t>(at));
}

void Machine::MisuseIds() {
  if (released_.empty()) return;
  const SequenceId id = released_[random_() % released_.size()];
  EXPECT_EQ(engine_.Release(id).detail(), StatusDetail::kStaleHandle);
  EXPECT_EQ(engine_.Fork(id).status().detail(), StatusDetail::kStaleHandle);
  EXPECT_EQ(engine_.Truncate(id, 0).detail(), StatusDetail::kStaleHandle);
  EXPECT_EQ(engine_.Length(id, 0).status().detail(), StatusDetail::kStaleHandle);
}

void Machine::Misplace(const Model& model) {
  const int32_t layer = AnyLayer();
  Batch batch = MakeBatch(model, layer, 2);
  batch.item.position += random_() % 2 == 0 ? 1 : -1;
  Status status;
  static_cast<void>(engine_.Put(layer, {&batch.item, 1}, {&status, 1}));
  EXPECT_FALSE(status.ok());
  CheckLengths(model);
}

void Machine::CheckLengths(const Model& model) {
  for (int32_t layer = 0; layer < shape_.layers; ++layer) {
    ASSERT_EQ(*engine_.Length(model.id, layer), Length(shape_, model.layers[layer]));
  }
}

void Machine::Check(const Model& model) {
  CheckLengths(model);
  const int32_t layer = AnyLayer();
  if (model.layers[layer].keys.empty()) return;
  CheckRows(model, layer);
  CheckAttention(model, layer);
  CheckSearch(model, layer);
}

void Machine::CheckRows(const Model& model, int32_t layer) {
  const Rows& rows = model.layers[layer];
  std::vector<int64_t> tokens;
  for (int i = 0; i < 20; ++i) tokens.push_back(static_cast<int64_t>(random_() % Length(shape_, rows)));
  std::vector<float> keys(tokens.size() * static_cast<size_t>(width_));
  std::vector<float> values(keys.size());
  FetchItem fetch;
  fetch.sequence = model.id;
  fetch.tokens = tokens;
  fetch.keys = keys.data();
  fetch.values = values.data();
  Status status;
  ASSERT_TRUE(engine_.Fetch(layer, {&fetch, 1}, {&status, 1}).ok()) << status.message();
  for (size_t i = 0; i < tokens.size(); ++i) {
    const auto from = tokens[i] * width_;
    const auto to = static_cast<int64_t>(i) * width_;
    ASSERT_TRUE(std::equal(keys.begin() + to, keys.begin() + to + width_, rows.keys.begin() + from)) << tokens[i];
    ASSERT_TRUE(std::equal(values.begin() + to, values.begin() + to + width_, rows.values.begin() + from)) << tokens[i];
  }
}

void Machine::CheckAttention(const Model& model, int32_t layer) {
  const Rows& rows = model.layers[layer];
  const int64_t length = Length(shape_, rows);
  const auto n = static_cast<int64_t>(1 + random_() % std::min<uint64_t>(3, static_cast<uint64_t>(length)));
  const auto queries = RandomRows(random_, n * width_ * shape_.group);
  const Answer exact = Attend(engine_, model.id, layer, queries, AttendMode::kExact);
  ASSERT_TRUE(exact.status.ok()) << exact.status.message();
  ASSERT_LT(LargestError(shape_, rows, queries, exact, length), kTolerance);
  RetrievalOptions unlimited;
  unlimited.retrieve_share = 1.0F;
  const Answer all = Attend(engine_, model.id, layer, queries, AttendMode::kRetrieve, &unlimited);
  ASSERT_LT(LargestError(shape_, rows, queries, all, length), kTolerance);
  RetrievalOptions few;
  few.retrieve_above = random_() % 2 == 0 ? 0.0F : 0.02F;
  few.retrieve_share = 0.1F;
  few.floor_tokens = 0;
  const Answer wave = Attend(engine_, model.id, layer, queries, AttendMode::kRetrieve, &few);
  ASSERT_TRUE(wave.status.ok()) << wave.status.message();
  for (size_t i = 0; i < wave.certificates.size(); ++i) {
    const Certificate& certificate = wave.certificates[i];
    ASSERT_TRUE(std::isfinite(wave.lse[i]));
    ASSERT_LE(certificate.tokens_read, certificate.tokens_visible);
    if (certificate.tokens_read < certificate.tokens_visible) continue;
    ASSERT_NEAR(wave.lse[i], exact.lse[i], kTolerance * std::max(1.0F, std::abs(exact.lse[i])));
  }
  ASSERT_TRUE(std::all_of(wave.output.begin(), wave.output.end(), [](float x) { return std::isfinite(x); }));
}

void Machine::CheckSearch(const Model& model, int32_t layer) {
  const Rows& rows = model.layers[layer];
  const auto heads = static_cast<size_t>(shape_.kv_heads) * static_cast<size_t>(shape_.group);
  const auto top_k = static_cast<size_t>(1 + random_() % 8);
  const auto queries = RandomRows(random_, width_ * shape_.group);
  std::vector<int64_t> tokens(heads * top_k);
  std::vector<float> found(heads * top_k);
  SearchItem item;
  item.sequence = model.id;
  item.mode = AttendMode::kExact;
  item.queries = queries.data();
  item.top_k = static_cast<int64_t>(top_k);
  item.tokens = tokens.data();
  item.logits = found.data();
  Status status;
  ASSERT_TRUE(engine_.Search(layer, {&item, 1}, {&status, 1}).ok()) << status.message();
  for (size_t head = 0; head < heads; ++head) {
    const float* query = queries.data() + head * static_cast<size_t>(shape_.head_dim);
    const auto logits = Logits(shape_, rows, query, static_cast<int32_t>(head));
    auto best = logits;
    std::sort(best.rbegin(), best.rend());
    for (size_t k = 0; k < top_k; ++k) {
      const size_t at = head * top_k + k;
      if (k >= best.size()) {
        ASSERT_EQ(tokens[at], -1);
        continue;
      }
      ASSERT_NEAR(found[at], best[k], 1e-4);
      ASSERT_NEAR(found[at], logits.at(static_cast<size_t>(tokens[at])), 1e-4);
    }
  }
}

// All sequences that hold something in one call: the answers are those of calls of their own.
void Machine::CheckBatch() {
  const int32_t layer = AnyLayer();
  const auto query_size = static_cast<size_t>(width_) * static_cast<size_t>(shape_.group);
  const auto queries = RandomRows(random_, static_cast<int64_t>(query_size));
  std::vector<const Model*> asked;
  for (const Model& model : models_) {
    if (!model.layers[layer].keys.empty()) asked.push_back(&model);
  }
  std::vector<std::vector<float>> outputs(asked.size(), std::vector<float>(query_size));
  std::vector<AttendItem> items(asked.size());
  for (size_t i = 0; i < asked.size(); ++i) {
    items[i].sequence = asked[i]->id;
    items[i].mode = AttendMode::kExact;
    items[i].queries = queries.data();
    items[i].output = outputs[i].data();
  }
  std::vector<Status> statuses(items.size());
  ASSERT_TRUE(engine_.Attend(layer, items, statuses).ok());
  for (size_t i = 0; i < asked.size(); ++i) {
    Answer answer = Attend(engine_, asked[i]->id, layer, queries, AttendMode::kExact);
    answer.output = outputs[i];
    ASSERT_LT(LargestError(shape_, asked[i]->layers[layer], queries, answer, Length(shape_, asked[i]->layers[layer])),
              kTolerance);
  }
}

}  // namespace swell::testing
