// A small engine behind the C API with sequences in it, and all that can be seen of them as bytes, to say that nothing
// changed. Every buffer that an operation needs is allocated here, before allocations are counted.
#ifndef SWELL_TESTS_CAPI_NO_MEMORY_WORLD_H_
#define SWELL_TESTS_CAPI_NO_MEMORY_WORLD_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

#include "swell/swell.h"

namespace swell_test {

constexpr uint64_t kSeed = 20260401;
constexpr int32_t kLayers = 2;
constexpr int64_t kKvHeads = 2;
constexpr int64_t kGroup = 2;
constexpr int64_t kHeads = kKvHeads * kGroup;
constexpr int64_t kHeadDim = 16;
constexpr int64_t kRow = kKvHeads * kHeadDim;
constexpr int64_t kQuery = kHeads * kHeadDim;
constexpr int64_t kMaxRows = 400;
constexpr int64_t kMaxQueries = 8;
constexpr int64_t kSealTokens = 16;
// Tokens in layer 0; layer 1 of base has kPrompt / 2.
constexpr int64_t kPrompt = 75;
constexpr int64_t kForkPrompt = 77;

struct WorldOptions {
  const char* name = "";
  swell_dtype storage = SWELL_FLOAT16;
  swell_index_kind index = SWELL_INDEX_WAVE;
  bool deterministic = true;
  int32_t threads = 1;
  uint64_t budget_bytes = 0;
  bool pairs = false;  // two refusals as well
};

// Whether exact answers are equal up to rounding.
bool Near(const std::vector<float>& a, const std::vector<float>& b);

// What can be seen of all sequences.
struct Digest {
  std::string content;       // lengths and rows
  std::string state;         // segments, and every answer bit for bit
  std::string counters;      // statistics that no reading call changes
  std::vector<float> exact;  // exact attention, to compare within a tolerance where segments differ
  bool operator==(const Digest&) const = default;
};

class World {
 public:
  // Opens the engine and makes `base` and `fork`, which continues base with tokens of its own.
  explicit World(const WorldOptions& options);
  ~World();
  World(const World&) = delete;
  World& operator=(const World&) = delete;

  // Operations. Each row of the caller's arrays is a fixed pseudo-random one; token t of base has row t.
  swell_code Put(swell_sequence sequence, int32_t layer, int64_t position, int64_t tokens, int64_t first_row,
                 swell_error** error);
  // A batch over base and fork; an item whose status is OK is left out. Item `refused`, if there is one, holds a NaN.
  swell_code PutBoth(int64_t tokens, size_t refused, swell_error** error);
  swell_code Attend(swell_attend_mode mode, int64_t n_queries, swell_dtype query_dtype, swell_error** error);
  swell_code AttendBoth(swell_attend_mode mode, swell_error** error);
  swell_code Search(swell_attend_mode mode, swell_error** error);
  swell_code Fetch(swell_sequence sequence, int32_t layer, int64_t tokens, swell_dtype dtype, swell_error** error);
  swell_code Inspect(swell_sequence sequence, int32_t layer, swell_error** error);

  // Makes `statuses` and every output say that nothing was written.
  void ClearOutputs();
  std::string Outputs() const;

  // Waits for what is sealed in the background.
  void Settle() const;
  Digest Look();
  // Every sequence grows by one run, which is when sealing that failed is tried again.
  Digest Extend();
  int64_t Length(swell_sequence sequence, int32_t layer) const;
  swell_engine_stats Stats() const;

  const WorldOptions options;
  swell_engine_options engine_options = SWELL_ENGINE_OPTIONS_INIT;
  swell_sequence_options sequence_options = SWELL_SEQUENCE_OPTIONS_INIT;
  swell_retrieval_options retrieval_options = SWELL_RETRIEVAL_OPTIONS_INIT;
  swell_engine* engine = nullptr;
  swell_sequence base = 0;
  swell_sequence fork = 0;
  swell_sequence other = 0;  // for operations that make one or need an empty one
  swell_engine* second_engine = nullptr;
  swell_retrieval* retrieval = nullptr;  // of the sequences
  swell_retrieval* second_retrieval = nullptr;
  std::array<swell_status, 2> statuses{};

 private:
  // Rows, segments and answers of one layer of one sequence.
  void LookAt(swell_sequence sequence, int32_t layer, Digest* digest);

  std::vector<float> output_, lse_;  // [kMaxQueries, kQuery], [kMaxQueries, kHeads]
  std::vector<swell_certificate> certificates_;
  std::vector<int64_t> found_;  // [kMaxQueries, kHeads, 4]
  std::vector<float> logits_;
  std::vector<float> fetched_;  // keys, values, key scales, value scales, each with room for kMaxRows rows of float
  std::vector<swell_segment_info> segments_;
  swell_layer_info info_ = SWELL_LAYER_INFO_INIT;
};

}  // namespace swell_test

#endif  // SWELL_TESTS_CAPI_NO_MEMORY_WORLD_H_
