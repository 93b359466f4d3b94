#include "tests/capi/no_memory/world.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <random>

namespace swell_test {
namespace {

constexpr int64_t kTopK = 4;

// What every world puts and asks, made once.
struct Inputs {
  std::vector<float> keys, values, bad_keys;  // [kMaxRows, kRow]; the last row of bad_keys holds a NaN
  std::vector<float> queries;                 // [kMaxQueries, kQuery]
  std::vector<uint16_t> half_queries;         // float16 of whole numbers
  std::vector<int64_t> tokens;                // 0, 1, 2, ...

  Inputs() {
    std::mt19937_64 random(kSeed);
    std::normal_distribution<float> normal;
    const auto fill = [&](std::vector<float>& to, int64_t count) {
      to.resize(static_cast<size_t>(count));
      for (float& number : to) number = normal(random);
    };
    fill(keys, kMaxRows * kRow);
    fill(values, kMaxRows * kRow);
    fill(queries, kMaxQueries * kQuery);
    bad_keys = keys;
    bad_keys.back() = std::numeric_limits<float>::quiet_NaN();
    constexpr std::array<uint16_t, 4> kHalves = {0x3C00, 0xBC00, 0x4000, 0x0000};  // 1, -1, 2, 0
    for (int64_t i = 0; i < kMaxQueries * kQuery; ++i) half_queries.push_back(kHalves[random() % kHalves.size()]);
    for (int64_t i = 0; i < kMaxRows; ++i) tokens.push_back(i);
  }
};

const Inputs& TheInputs() {
  static const Inputs inputs;
  return inputs;
}

template <typename T>
void Append(std::string* to, const T* items, size_t count) {
  to->append(reinterpret_cast<const char*>(items), count * sizeof(T));
}
template <typename T>
void Append(std::string* to, const std::vector<T>& items) {
  Append(to, items.data(), items.size());
}

void Ignore(void* /*context*/, const char* /*message*/) {}

}  // namespace

bool Near(const std::vector<float>& a, const std::vector<float>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](float x, float y) { return std::abs(x - y) <= 1e-5F * (1.0F + std::abs(y)); });
}

World::World(const WorldOptions& world_options) : options(world_options) {
  output_.resize(kMaxQueries * kQuery);
  lse_.resize(kMaxQueries * kHeads);
  certificates_.resize(kMaxQueries * kHeads);
  found_.resize(kMaxQueries * kHeads * kTopK);
  logits_.resize(found_.size());
  fetched_.resize(2 * kMaxRows * (kRow + kKvHeads));
  segments_.resize(64);
  ClearOutputs();

  engine_options.layers = kLayers;
  engine_options.kv_heads = kKvHeads;
  engine_options.group = kGroup;
  engine_options.head_dim = kHeadDim;
  engine_options.storage = options.storage;
  engine_options.threads = options.threads;
  engine_options.host_budget_bytes = options.budget_bytes;
  engine_options.flags = options.deterministic ? SWELL_ENGINE_DETERMINISTIC : 0U;
  engine_options.log = &Ignore;
  EXPECT_EQ(swell_preset("swell", &sequence_options, &retrieval_options, nullptr), SWELL_OK);
  sequence_options.index = options.index;
  sequence_options.cluster_tokens = 4;
  sequence_options.sink_tokens = 3;
  sequence_options.window_tokens = 5;
  sequence_options.seal_tokens = kSealTokens;
  sequence_options.segment_tokens = 2 * kSealTokens;
  retrieval_options.floor_tokens = 0;
  retrieval_options.retrieve_share = 0.1F;
  EXPECT_EQ(swell_engine_open(&engine_options, &engine, nullptr), SWELL_OK);
  EXPECT_EQ(swell_retrieval_create(&retrieval_options, nullptr, 0, &retrieval, nullptr), SWELL_OK);
  EXPECT_EQ(swell_sequence_create(engine, &sequence_options, retrieval, &base, nullptr), SWELL_OK);
  EXPECT_EQ(Put(base, 0, 0, kPrompt, 0, nullptr), SWELL_OK);
  EXPECT_EQ(Put(base, 1, 0, kPrompt / 2, 0, nullptr), SWELL_OK);
  EXPECT_EQ(swell_sequence_fork(engine, base, &fork, nullptr), SWELL_OK);
  EXPECT_EQ(Put(fork, 0, kPrompt, kForkPrompt - kPrompt, 200, nullptr), SWELL_OK);
  Settle();
}

World::~World() {
  swell_retrieval_destroy(&second_retrieval);
  swell_retrieval_destroy(&retrieval);
  swell_engine_close(&second_engine);
  swell_engine_close(&engine);
}

swell_code World::Put(swell_sequence sequence, int32_t layer, int64_t position, int64_t tokens, int64_t first_row,
                      swell_error** error) {
  swell_put_args args = SWELL_PUT_ARGS_INIT;
  args.layer = layer;
  args.n_items = 1;
  args.n_rows = kMaxRows;
  const swell_put_item item = {sequence, position, tokens, first_row};
  return swell_put(engine, &args, &item, TheInputs().keys.data(), TheInputs().values.data(), nullptr, nullptr, nullptr,
                   error);
}

swell_code World::PutBoth(int64_t tokens, size_t refused, swell_error** error) {
  std::array<swell_put_item, 2> both = {swell_put_item{base, kPrompt, tokens, kPrompt},
                                        swell_put_item{fork, kForkPrompt, tokens, kPrompt + tokens}};
  if (refused < both.size()) both[refused].first_row = kMaxRows - tokens;
  std::array<swell_put_item, 2> items;
  std::array<swell_status*, 2> owners;
  std::array<swell_status, 2> results;
  results.fill({-1, -1});
  swell_put_args args = SWELL_PUT_ARGS_INIT;
  args.n_rows = kMaxRows;
  for (size_t i = 0; i < both.size(); ++i) {
    if (statuses[i].code == SWELL_OK) continue;
    items[args.n_items] = both[i];
    owners[args.n_items++] = &statuses[i];
  }
  const auto& keys = refused < both.size() ? TheInputs().bad_keys : TheInputs().keys;
  const swell_code code = swell_put(engine, &args, items.data(), keys.data(), TheInputs().values.data(), nullptr,
                                    nullptr, results.data(), error);
  for (int64_t i = 0; i < args.n_items; ++i) *owners[i] = results[i];
  return code;
}

swell_code World::Attend(swell_attend_mode mode, int64_t n_queries, swell_dtype query_dtype, swell_error** error) {
  swell_attend_args args = SWELL_ATTEND_ARGS_INIT;
  args.query_dtype = query_dtype;
  args.n_items = 1;
  args.n_rows = kMaxQueries;
  const swell_attend_item item = {base, n_queries, 0, nullptr, mode, 0};
  const void* queries = TheInputs().queries.data();
  if (query_dtype != SWELL_FLOAT32) queries = TheInputs().half_queries.data();
  return swell_attend(engine, &args, &item, queries, output_.data(), lse_.data(), certificates_.data(), statuses.data(),
                      error);
}

swell_code World::AttendBoth(swell_attend_mode mode, swell_error** error) {
  swell_attend_args args = SWELL_ATTEND_ARGS_INIT;
  args.n_items = 2;
  args.n_rows = kMaxQueries;
  const std::array<swell_attend_item, 2> items = {swell_attend_item{base, 1, 0, retrieval, mode, 0},
                                                  swell_attend_item{fork, 2, 1, nullptr, mode, 0}};
  return swell_attend(engine, &args, items.data(), TheInputs().queries.data(), output_.data(), lse_.data(),
                      certificates_.data(), statuses.data(), error);
}

swell_code World::Search(swell_attend_mode mode, swell_error** error) {
  swell_search_args args = SWELL_SEARCH_ARGS_INIT;
  args.n_items = 2;
  args.n_rows = kMaxQueries;
  args.top_k = kTopK;
  const std::array<swell_search_item, 2> items = {swell_search_item{base, 0, retrieval, mode, 0},
                                                  swell_search_item{fork, 1, nullptr, mode, 0}};
  return swell_search(engine, &args, items.data(), TheInputs().queries.data(), found_.data(), logits_.data(),
                      statuses.data(), error);
}

swell_code World::Fetch(swell_sequence sequence, int32_t layer, int64_t tokens, swell_dtype dtype,
                        swell_error** error) {
  swell_fetch_args args = SWELL_FETCH_ARGS_INIT;
  args.layer = layer;
  args.dtype = dtype;
  args.n_items = 1;
  args.n_rows = kMaxRows;
  const swell_fetch_item item = {sequence, tokens, 0};
  float* keys = fetched_.data();
  float* values = keys + kMaxRows * kRow;
  float* scales = values + kMaxRows * kRow;
  const bool scaled = dtype == SWELL_INT8;
  return swell_fetch(engine, &args, &item, TheInputs().tokens.data(), keys, values, scaled ? scales : nullptr,
                     scaled ? scales + kMaxRows * kKvHeads : nullptr, statuses.data(), error);
}

swell_code World::Inspect(swell_sequence sequence, int32_t layer, swell_error** error) {
  info_ = SWELL_LAYER_INFO_INIT;
  return swell_sequence_inspect(engine, sequence, layer, &info_, segments_.data(),
                                static_cast<int64_t>(segments_.size()), error);
}

void World::ClearOutputs() {
  statuses.fill({-1, -1});
  std::fill(output_.begin(), output_.end(), 0.0F);
  std::fill(lse_.begin(), lse_.end(), 0.0F);
  std::fill(certificates_.begin(), certificates_.end(), swell_certificate{});
  std::fill(found_.begin(), found_.end(), 0);
  std::fill(logits_.begin(), logits_.end(), 0.0F);
  std::fill(fetched_.begin(), fetched_.end(), 0.0F);
  std::fill(segments_.begin(), segments_.end(), swell_segment_info{});
  info_ = SWELL_LAYER_INFO_INIT;
}

std::string World::Outputs() const {
  std::string all;
  Append(&all, output_);
  Append(&all, lse_);
  Append(&all, certificates_);
  Append(&all, found_);
  Append(&all, logits_);
  Append(&all, fetched_);
  Append(&all, segments_);
  Append(&all, &info_, 1);
  return all;
}

void World::Settle() const {
  for (const swell_sequence sequence : {base, fork, other}) {
    swell_sequence_wait_sealed(engine, sequence, nullptr);  // one that is gone has nothing to wait for
  }
}

int64_t World::Length(swell_sequence sequence, int32_t layer) const {
  int64_t tokens = -1;  // stays for a sequence that is none
  swell_sequence_length(engine, sequence, layer, &tokens, nullptr);
  return tokens;
}

swell_engine_stats World::Stats() const {
  swell_engine_stats stats = SWELL_ENGINE_STATS_INIT;
  EXPECT_EQ(swell_engine_get_stats(engine, &stats, nullptr), SWELL_OK);
  return stats;
}

void World::LookAt(swell_sequence sequence, int32_t layer, Digest* digest) {
  const int64_t length = Length(sequence, layer);
  Append(&digest->content, &length, 1);
  if (length <= 0) return;
  EXPECT_EQ(Fetch(sequence, layer, length, options.storage, nullptr), SWELL_OK);
  const size_t width = options.storage == SWELL_FLOAT32 ? 4 : options.storage == SWELL_INT8 ? 1 : 2;
  const auto count = static_cast<size_t>(length * kRow) * width;
  Append(&digest->content, reinterpret_cast<const std::byte*>(fetched_.data()), count);
  Append(&digest->content, reinterpret_cast<const std::byte*>(fetched_.data() + kMaxRows * kRow), count);
  if (options.storage == SWELL_INT8) {
    const float* scales = fetched_.data() + 2 * kMaxRows * kRow;
    Append(&digest->content, scales, static_cast<size_t>(length * kKvHeads));
    Append(&digest->content, scales + kMaxRows * kKvHeads, static_cast<size_t>(length * kKvHeads));
  }
  EXPECT_EQ(Inspect(sequence, layer, nullptr), SWELL_OK);
  Append(&digest->state, &info_, 1);
  Append(&digest->state, segments_.data(), static_cast<size_t>(info_.n_segments));
  for (const swell_attend_mode mode : {SWELL_ATTEND_EXACT, SWELL_ATTEND_RETRIEVE}) {
    swell_attend_args attend = SWELL_ATTEND_ARGS_INIT;
    attend.layer = layer;
    attend.n_items = 1;
    attend.n_rows = 1;
    const swell_attend_item item = {sequence, 1, 0, nullptr, mode, 0};
    EXPECT_EQ(swell_attend(engine, &attend, &item, TheInputs().queries.data(), output_.data(), lse_.data(),
                           certificates_.data(), nullptr, nullptr),
              SWELL_OK);
    if (mode == SWELL_ATTEND_EXACT)
      digest->exact.insert(digest->exact.end(), output_.begin(), output_.begin() + kQuery);
    Append(&digest->state, output_.data(), kQuery);
    Append(&digest->state, lse_.data(), kHeads);
    Append(&digest->state, certificates_.data(), kHeads);
  }
}

Digest World::Look() {
  Digest digest;
  const auto statuses_of_the_operation = statuses;
  for (const swell_sequence sequence : {base, fork, other}) {
    for (int32_t layer = 0; layer < kLayers; ++layer) LookAt(sequence, layer, &digest);
  }
  statuses = statuses_of_the_operation;
  const swell_engine_stats stats = Stats();
  const std::array<int64_t, 6> kept = {stats.sequences,          static_cast<int64_t>(stats.bytes_in_use),
                                       stats.tokens_put,         stats.segments_sealed,
                                       stats.segments_compacted, stats.builds_failed};
  Append(&digest.counters, kept.data(), kept.size());
  return digest;
}

Digest World::Extend() {
  for (const swell_sequence sequence : {base, fork, other}) {
    for (int32_t layer = 0; layer < kLayers; ++layer) {
      const int64_t length = Length(sequence, layer);
      if (length > 0) Put(sequence, layer, length, kSealTokens, 300, nullptr);
    }
  }
  Settle();
  return Look();
}

}  // namespace swell_test
