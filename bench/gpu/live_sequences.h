// Sequences of an engine on a device, through the C API, with all their rows on the host, too: what an answer is to be
// compared with. Every error ends the program.
#ifndef SWELL_BENCH_GPU_LIVE_SEQUENCES_H_
#define SWELL_BENCH_GPU_LIVE_SEQUENCES_H_

#include <cuda_runtime_api.h>

#include <cstdint>
#include <memory>
#include <random>
#include <vector>

#include "swell/gpu.h"

namespace swell::bench {

// A sequence and its rows, bfloat16 [tokens, kv_heads, head_dim] of each layer.
struct LiveSequence {
  static constexpr int32_t kLayers = 2;
  swell_sequence id = 0;
  int32_t topic = 0;  // of its last token
  std::vector<uint16_t> keys[kLayers], values[kLayers];
};

// Relative errors of the last step against float64 attention over the same rows.
struct AnswerErrors {
  double exact = 0;   // largest of a batch that reads every token
  double budget = 0;  // mean of the batch by budget, whose steps are replayed
};

// Rows are drawn around a hundred topics, and queries are near the key of some token, so that attention has
// something to find.
class LiveSequences {
 public:
  explicit LiveSequences(uint32_t seed);
  ~LiveSequences();
  LiveSequences(const LiveSequences&) = delete;
  LiveSequences& operator=(const LiveSequences&) = delete;

  std::unique_ptr<LiveSequence> Create();
  std::unique_ptr<LiveSequence> Fork(const LiveSequence& from);
  void Put(LiveSequence& to, int64_t tokens);
  void Truncate(LiveSequence& sequence, int64_t tokens);
  // No batch may name it.
  void Release(std::unique_ptr<LiveSequence> sequence);
  void SetBatch(std::vector<LiveSequence*> sequences);
  // Appends a token to each sequence of the batch and attends: one replay of a graph.
  void Step();
  void Seal();
  AnswerErrors Compare();
  swell_gpu_stats Stats();

 private:
  struct Inputs;  // pinned and device memory of a step
  void AddRows(LiveSequence& to, int32_t layer, std::vector<uint16_t>* keys, std::vector<uint16_t>* values);
  void Ask(const LiveSequence& about, int32_t layer, uint16_t* queries);
  void Enqueue(swell_gpu_batch* batch, bool append);
  double Error(int32_t layer, bool largest);

  std::mt19937 random_;
  std::vector<float> noise_, key_topics_, value_topics_;
  std::unique_ptr<Inputs> inputs_;
  swell_gpu* gpu_ = nullptr;
  swell_gpu_batch *budget_ = nullptr, *exact_ = nullptr;
  std::vector<LiveSequence*> batch_;
  cudaStream_t stream_ = nullptr;
  cudaGraphExec_t graph_ = nullptr;
};

}  // namespace swell::bench

#endif  // SWELL_BENCH_GPU_LIVE_SEQUENCES_H_
