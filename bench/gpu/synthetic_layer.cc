#include "bench/gpu/synthetic_layer.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <thread>
#include <utility>

#include "bench/gpu/timing.h"
#include "lib/base/convert.h"

namespace swell::bench {
namespace {

constexpr float kDeviation = 0.5F;  // of keys around their centre
constexpr float kQueryLength = 1.8F;

// Calls body(i) for i below `count` on all processors.
template <typename Body>
void ForAll(int64_t count, const Body& body) {
  std::atomic<int64_t> next{0};
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < std::max(1U, std::thread::hardware_concurrency()); ++t) {
    threads.emplace_back([&] {
      for (int64_t i = next++; i < count; i = next++) body(i);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

std::vector<uint16_t> Reorder(const std::vector<uint16_t>& rows, std::span<const uint16_t> order) {
  std::vector<uint16_t> result;
  result.reserve(rows.size());
  for (const uint16_t token : order) {
    const auto from = rows.begin() + int64_t{token} * kHeadDim;
    result.insert(result.end(), from, from + kHeadDim);
  }
  return result;
}

// Sums of twelve bytes are near enough to a normal distribution, and quick.
class Normal {
 public:
  explicit Normal(uint32_t seed) : random_(seed) {}
  float operator()() {
    const uint64_t a = random_(), b = random_();
    int sum = 0;
    for (int i = 0; i < 8; ++i) sum += static_cast<int>(a >> (8 * i) & 255);
    for (int i = 0; i < 4; ++i) sum += static_cast<int>(b >> (8 * i) & 255);
    return (static_cast<float>(sum) - 12 * 127.5F) / 256;
  }
  uint64_t Number() { return random_(); }

 private:
  std::mt19937_64 random_;
};

}  // namespace

HeadShape SyntheticLayer::Shape() {
  return {.head_dim = kHeadDim,
          .group = kGroup,
          .scale = 1.0F / std::sqrt(static_cast<float>(kHeadDim)),
          .storage = DType::kBFloat16};
}

std::vector<uint16_t> SyntheticLayer::ToRows(const std::vector<float>& floats) {
  std::vector<uint16_t> rows(floats.size());
  ConvertFromFloat(floats.data(), static_cast<int64_t>(floats.size()), DType::kBFloat16, rows.data());
  return rows;
}

std::vector<float> SyntheticLayer::QueryFloats(int64_t rows, uint32_t seed) {
  Normal normal(seed);
  std::vector<float> floats(static_cast<size_t>(rows * kHeadDim));
  for (float& x : floats) x = kQueryLength * normal();
  return floats;
}

void SyntheticLayer::Fill(int64_t segment, int32_t head) {
  Normal normal(static_cast<uint32_t>(segment * kKvHeads + head + 1));
  constexpr int64_t kCentres = kSegmentTokens / 8;
  std::vector<float> centres(kCentres * kHeadDim), keys, values(kSegmentTokens * kHeadDim);
  for (float& x : centres) x = normal();
  for (int64_t token = 0; token < kSegmentTokens; ++token) {
    const float* centre = centres.data() + normal.Number() % kCentres * kHeadDim;
    for (int32_t i = 0; i < kHeadDim; ++i) keys.push_back(centre[i] + kDeviation * normal());
  }
  for (float& x : values) x = normal();
  const std::vector<uint16_t> key_rows = ToRows(keys), value_rows = ToRows(values);
  const KvRun run{.keys = key_rows.data(), .values = value_rows.data(), .tokens = kSegmentTokens};
  const auto builder = MakeIndexBuilder({});
  auto index = (*builder)->Build(Shape(), {&run, 1});
  if (!index.ok()) {
    std::fprintf(stderr, "%s\n", index.status().message().c_str());
    std::exit(1);
  }
  Head& to = heads_[static_cast<size_t>(segment * kKvHeads + head)];
  to.index = *std::move(index);
  to.keys = Reorder(key_rows, to.index->order());
  to.values = Reorder(value_rows, to.index->order());
}

SyntheticLayer::SyntheticLayer(int64_t tokens) : heads_(static_cast<size_t>(tokens / kSegmentTokens * kKvHeads)) {
  ForAll(static_cast<int64_t>(heads_.size()),
         [&](int64_t i) { Fill(i / kKvHeads, static_cast<int32_t>(i % kKvHeads)); });
}

std::vector<std::shared_ptr<const cuda::DeviceSegment>> SyntheticLayer::Upload() const {
  std::vector<std::shared_ptr<const cuda::DeviceSegment>> segments(heads_.size() / kKvHeads);
  ForAll(static_cast<int64_t>(segments.size()), [&](int64_t s) {
    std::vector<cuda::SegmentSource> sources;
    for (int32_t h = 0; h < kKvHeads; ++h) {
      const Head& head = heads_[static_cast<size_t>(s * kKvHeads + h)];
      cuda::SegmentSource source;
      source.rows = {.keys = head.keys.data(), .values = head.values.data(), .tokens = kSegmentTokens};
      source.levels[0] = &head.index->clusters();
      source.levels[1] = &head.index->super_clusters();
      sources.push_back(source);
    }
    auto segment = cuda::DeviceSegment::Upload(Shape(), sources);
    if (!segment.ok()) {
      std::fprintf(stderr, "%s\n", segment.status().message().c_str());
      std::exit(1);
    }
    segments[static_cast<size_t>(s)] = *std::move(segment);
  });
  return segments;
}

DeviceRows SyntheticLayer::UploadRows(int64_t tokens) const {
  constexpr int64_t kStep = 1021;  // a prime: visits every row of a segment
  const auto upload = [&](std::vector<uint16_t> Head::*rows) {
    std::vector<uint16_t> host(static_cast<size_t>(tokens * kKvHeads * kHeadDim));
    ForAll(tokens, [&](int64_t token) {
      const int64_t row = token % kSegmentTokens * kStep % kSegmentTokens;
      for (int64_t h = 0; h < kKvHeads; ++h) {
        const auto from = (heads_[static_cast<size_t>(token / kSegmentTokens * kKvHeads + h)].*rows).begin();
        std::copy_n(from + row * kHeadDim, kHeadDim, host.begin() + (token * kKvHeads + h) * kHeadDim);
      }
    });
    auto memory = cuda::ReserveDevice(2 * host.size(), "rows");
    Check(memory.status());
    Check(cudaMemcpy(memory->get(), host.data(), 2 * host.size(), cudaMemcpyHostToDevice), "copy of rows");
    return *std::move(memory);
  };
  return {upload(&Head::keys), upload(&Head::values)};
}

}  // namespace swell::bench
