// Random sequences on the host and on the device, and the float64 answer to a step over them.
#ifndef SWELL_TESTS_CUDA_STEP_WORLD_H_
#define SWELL_TESTS_CUDA_STEP_WORLD_H_

#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <vector>

#include "cuda/step/decode_step.h"
#include "swell/attention.h"
#include "swell/index.h"
#include "tests/cuda/device_vector.h"

namespace swell::cuda {

// Rows of one KV head of one segment or tail, in the order of the index.
struct HostRows {
  std::vector<uint16_t> keys;  // [tokens, head_dim]
  std::vector<uint16_t> values;
  std::unique_ptr<const SegmentIndex> index;  // null: no clusters
  int64_t tokens = 0;
};

struct HostSegment {
  std::vector<HostRows> heads;
  std::shared_ptr<const DeviceSegment> device;
};

struct HostSequence {
  int32_t id = 0;
  std::vector<std::shared_ptr<HostSegment>> segments;
  std::vector<HostRows> tail;  // [kv_heads]
};

// What one head's step read and said.
struct HeadAnswer {
  std::vector<double> output;  // [group, head_dim]
  std::vector<double> lse;     // [group]
  std::vector<double> error;
  std::vector<double> share;
};

// Which clusters selection prefers, by so many nats: those whose first token is not at home, or has a place in the
// cache.
struct Nearness {
  float preference = 0;
  std::vector<int32_t> places;  // BufferView's
};

class StepWorld {
 public:
  StepWorld(const HeadShape& shape, int32_t kv_heads, uint32_t seed);

  std::vector<uint16_t> RandomRows(int64_t rows, double scale);
  // Rows around a few centres, as keys of a text are.
  std::vector<uint16_t> ClusteredRows(int64_t rows);
  std::shared_ptr<HostSegment> MakeSegment(int64_t tokens, bool clustered);
  // The same, with clusters, built on the device.
  std::shared_ptr<HostSegment> BuildSegment(int64_t tokens);
  std::vector<float> Floats(const std::vector<uint16_t>& rows) const;

  // Addresses of the token records that the last step of `layer` listed, by head; at home where they have one.
  static std::vector<std::set<const std::byte*>> Listed(const DecodeStep& step, int32_t layer, size_t heads);
  // Places of the super-cluster tiles that were opened, by head; empty where all were.
  static std::vector<std::vector<const void*>> Opened(const DecodeStep& step, int32_t layer, size_t heads);

  // Checks that the steady tokens and whole clusters were listed, and those that the CPU twin chooses.
  void CheckChoice(const HostSequence& sequence, int32_t kv_head, const RetrievalOptions& retrieval,
                   const std::vector<float>& queries, const std::set<const std::byte*>& listed,
                   const std::vector<const void*>& opened, const Nearness& near = {}) const;
  // The answer of the formulas in float64, given what was read and opened.
  HeadAnswer Answer(const HostSequence& sequence, int32_t kv_head, const RetrievalOptions& retrieval,
                    const std::vector<float>& queries, const std::set<const std::byte*>& listed,
                    const std::vector<const void*>& opened) const;

  const HeadShape shape;
  const int32_t kv_heads;
  std::mt19937 random;

 private:
  struct Cluster;
  std::vector<Cluster> Clusters(const HostSequence& sequence, int32_t kv_head, const std::set<const std::byte*>& listed,
                                const std::vector<const void*>& opened) const;
  // Log of the mass of the steady tokens in device memory, [group].
  std::vector<float> LogSteady(const HostSequence& sequence, int32_t kv_head, const std::vector<float>& queries) const;
  std::vector<double> LogMass(const HostSequence& sequence, int32_t kv_head, const std::vector<Cluster>& clusters,
                              const std::vector<float>& queries) const;
};

}  // namespace swell::cuda

#endif  // SWELL_TESTS_CUDA_STEP_WORLD_H_
