// Goal: segments built on the device hold every token once, in clusters as tight as the CPU builder's, with a meta
// index that says of them what float64 says; nothing depends on timing. Method: memory is poisoned before every build.
#include "cuda/build/segment_builder.h"

#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <functional>
#include <memory>
#include <numeric>
#include <random>
#include <utility>
#include <vector>

#include "cuda/device/device.h"
#include "lib/base/convert.h"
#include "tests/cuda/downloaded_index.h"
#include "tests/cuda/step_world.h"

namespace swell::cuda {
namespace {

constexpr uint32_t kSeed = 7919;
constexpr int32_t kHeads = 3;
constexpr int32_t kSegments = 2;

bool NoDevice() { return !DeviceCount().ok(); }

// Rows of all segments, token by token and head by head, with a gap behind each token.
struct Input {
  SegmentBuilderOptions options;
  int64_t tokens = 0;  // of a segment
  std::vector<uint16_t> keys, values;

  int32_t head_dim() const { return options.shape.head_dim; }
  int64_t token_stride() const { return (kHeads * head_dim()) + 8; }
  const uint16_t* Row(const std::vector<uint16_t>& rows, int64_t segment, int64_t token, int64_t head) const {
    return rows.data() + (segment * tokens + token) * token_stride() + head * head_dim();
  }
  // One head of a segment, dense.
  std::vector<uint16_t> Head(const std::vector<uint16_t>& rows, int64_t segment, int64_t head) const {
    std::vector<uint16_t> dense;
    for (int64_t t = 0; t < tokens; ++t) {
      const uint16_t* row = Row(rows, segment, t, head);
      dense.insert(dense.end(), row, row + head_dim());
    }
    return dense;
  }
};

std::vector<float> Floats(const Input& input, const std::vector<uint16_t>& rows) {
  std::vector<float> floats(rows.size());
  ConvertToFloat(input.options.shape.storage, rows.data(), static_cast<int64_t>(rows.size()), floats.data());
  return floats;
}

// Keys scale * (around centres) + offset, values normal.
Input MakeInput(int32_t head_dim, DType dtype, int64_t tokens, float scale, float offset, uint32_t seed) {
  Input input;
  input.options.shape = {.head_dim = head_dim, .group = 1, .storage = dtype};
  input.options.kv_heads = kHeads;
  input.options.max_segments = kSegments;
  input.tokens = tokens;
  const int64_t rows = kSegments * tokens;
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, 1);
  const int64_t centres = std::max<int64_t>(1, tokens / 10);
  std::vector<float> centre(static_cast<size_t>(centres * head_dim));
  for (float& x : centre) x = normal(random);
  std::vector<float> keys(static_cast<size_t>(rows * input.token_stride())), values(keys.size());
  for (int64_t t = 0; t < rows; ++t) {
    for (int64_t h = 0; h < kHeads; ++h) {
      const float* from = centre.data() + static_cast<int64_t>(random() % centres) * head_dim;
      for (int32_t i = 0; i < head_dim; ++i) {
        const auto at = static_cast<size_t>(t * input.token_stride() + h * head_dim + i);
        keys[at] = scale * (from[i] + 0.4F * normal(random)) + offset;
        values[at] = normal(random);
      }
    }
  }
  input.keys.resize(keys.size());
  input.values.resize(values.size());
  EXPECT_TRUE(ConvertFromFloat(keys.data(), static_cast<int64_t>(keys.size()), dtype, input.keys.data()));
  EXPECT_TRUE(ConvertFromFloat(values.data(), static_cast<int64_t>(values.size()), dtype, input.values.data()));
  return input;
}

using Segments = std::vector<std::shared_ptr<const DeviceSegment>>;

Result<Segments> Build(const Input& input) {
  auto builder = SegmentBuilder::Make(input.options);
  if (!builder.ok()) return builder.status();
  DeviceVector<uint16_t> keys(input.keys), values(input.values);
  auto build = (*builder)->Prepare({.keys = keys.data(),
                                    .values = values.data(),
                                    .token_stride = input.token_stride(),
                                    .head_stride = input.head_dim(),
                                    .segment_tokens = input.tokens,
                                    .segments = kSegments});
  if (!build.ok()) return build.status();
  EXPECT_EQ(cudaMemset(build->memory.get(), 0xff, build->built), cudaSuccess);
  EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  const Status enqueued = (*builder)->Enqueue(*build, nullptr);
  if (!enqueued.ok()) return enqueued;
  return (*builder)->Finish(*build, nullptr);
}

// The CPU's index of the same rows.
std::unique_ptr<const SegmentIndex> CpuIndex(const Input& input, int64_t segment, int64_t head) {
  const auto builder =
      MakeIndexBuilder({.cluster_tokens = input.options.cluster_tokens, .iterations = input.options.iterations});
  const std::vector<uint16_t> keys = input.Head(input.keys, segment, head);
  const std::vector<uint16_t> values = input.Head(input.values, segment, head);
  const KvRun run{.keys = keys.data(), .values = values.data(), .tokens = input.tokens};
  auto index = (*builder)->Build(input.options.shape, {&run, 1});
  EXPECT_TRUE(index.ok()) << index.status().message();
  return *std::move(index);
}

// Means, and squared distances from them, of rows first .. last in float64.
struct Moments {
  std::vector<double> mean, variance;
  double energy = 0;  // mean of |x|^2

  Moments(const float* rows, int64_t first, int64_t last, int32_t head_dim) : mean(head_dim), variance(head_dim) {
    const auto count = static_cast<double>(last - first);
    for (int64_t r = first; r < last; ++r) {
      for (int32_t i = 0; i < head_dim; ++i) {
        const double x = rows[r * head_dim + i];
        mean[i] += x / count;
        energy += x * x / count;
      }
    }
    for (int64_t r = first; r < last; ++r) {
      for (int32_t i = 0; i < head_dim; ++i) {
        const double x = rows[r * head_dim + i] - mean[i];
        variance[i] += x * x / count;
      }
    }
  }
  double Total() const { return std::accumulate(variance.begin(), variance.end(), 0.0); }
};

double Inertia(const ClusterView& view, const std::vector<float>& ordered_keys, int32_t head_dim) {
  double inertia = 0;
  for (int64_t j = 0; j < view.clusters; ++j) {
    const int64_t first = view.first_rows[j], last = view.first_rows[j + 1];
    inertia += Moments(ordered_keys.data(), first, last, head_dim).Total() * static_cast<double>(last - first);
  }
  return inertia;
}

// `elements` * scale says `expected` within half a step, and the scale is as small as it may be.
void ExpectQuantised(const std::vector<double>& expected, float scale, double rounding,
                     const std::function<int(int32_t)>& element) {
  double largest = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    largest = std::max(largest, std::abs(expected[i]));
    EXPECT_NEAR(static_cast<double>(scale) * element(static_cast<int32_t>(i)), expected[i], 0.501 * scale + rounding);
  }
  EXPECT_NEAR(127 * static_cast<double>(scale), largest, 1e-4 * largest + 4 * rounding);
}

// One level against float64 over the rows as they lie. `magnitude` of the keys.
void ExpectLevel(const ClusterView& view, const std::vector<float>& keys, const std::vector<float>& values,
                 int32_t head_dim, double magnitude) {
  const double rounding = 2e-6 * magnitude;
  const auto tokens = static_cast<int64_t>(keys.size()) / head_dim;
  const Moments all(keys.data(), 0, tokens, head_dim);
  for (int32_t i = 0; i < head_dim; ++i) EXPECT_NEAR(view.center[i], all.mean[i], rounding);
  std::vector<double> profile(static_cast<size_t>(head_dim));
  for (int64_t j = 0; j < view.clusters; ++j) {
    const int64_t first = view.first_rows[j], last = view.first_rows[j + 1];
    ASSERT_LT(first, last) << "empty cluster " << j;
    const Moments key(keys.data(), first, last, head_dim), value(values.data(), first, last, head_dim);
    std::vector<double> centroid;
    for (int32_t i = 0; i < head_dim; ++i) {
      centroid.push_back(key.mean[i] - view.center[i]);
      profile[i] += key.variance[i] * static_cast<double>(last - first);
    }
    const int8_t* lane = view.centroids + j / kClusterTile * kClusterTile * head_dim + j % kClusterTile * 4;
    ExpectQuantised(centroid, view.centroid_scales[j], rounding,
                    [&](int32_t i) { return lane[i / 4 * kClusterTile * 4 + i % 4]; });
    const double spread = std::sqrt(key.Total() / head_dim);
    EXPECT_NEAR(view.spreads[j], spread, 1e-4 * spread + rounding);
    ExpectQuantised(value.mean, view.value_scales[j], 1e-6,
                    [&](int32_t i) { return view.value_means[j * head_dim + i]; });
    EXPECT_NEAR(view.value_energies[j], value.energy, 1e-5 * value.energy);
  }
  const double total = std::accumulate(profile.begin(), profile.end(), 0.0);
  for (int32_t i = 0; i < head_dim && total > 1e-8 * magnitude * magnitude * tokens; ++i) {
    EXPECT_NEAR(view.spread_profile[i], profile[i] * head_dim / total, 1e-3);
  }
  for (int64_t first = 0; first < view.clusters; first += kClusterTile) {
    const int64_t tile = first / kClusterTile, last = std::min<int64_t>(first + kClusterTile, view.clusters);
    const Moments value(values.data(), view.first_rows[first], view.first_rows[last], head_dim);
    ExpectQuantised(value.mean, view.tile_scales[tile], 1e-6,
                    [&](int32_t i) { return view.tile_means[tile * head_dim + i]; });
  }
}

struct Inertias {
  double device[kLevels] = {};
  double cpu[kLevels] = {};
};

// All that a segment must hold, and how tight its clusters are.
void ExpectSound(const Input& input, const DeviceSegment& segment, int64_t number, double magnitude, Inertias* sums) {
  const int32_t d = input.head_dim();
  ASSERT_EQ(segment.heads().size(), static_cast<size_t>(kHeads));
  for (int64_t h = 0; h < kHeads; ++h) {
    SCOPED_TRACE(testing::Message() << "segment " << number << " head " << h);
    const SegmentHead& head = segment.heads()[h];
    const HostRows rows = DownloadHead(head, d);
    const ClusterView& view = rows.index->clusters();
    ASSERT_EQ(view.first_rows[view.clusters], input.tokens);
    ASSERT_EQ(rows.index->super_clusters().first_rows[rows.index->super_clusters().clusters], input.tokens);
    std::vector<std::vector<uint16_t>> expected, actual;
    uint32_t largest = 0;
    for (int64_t t = 0; t < input.tokens; ++t) {
      expected.emplace_back(input.Row(input.keys, number, t, h), input.Row(input.keys, number, t, h) + d);
      const uint16_t* value = input.Row(input.values, number, t, h);
      expected.back().insert(expected.back().end(), value, value + d);
      actual.emplace_back(rows.keys.begin() + t * d, rows.keys.begin() + (t + 1) * d);
      actual.back().insert(actual.back().end(), rows.values.begin() + t * d, rows.values.begin() + (t + 1) * d);
    }
    for (int64_t j = 0; j < view.clusters; ++j) {
      largest = std::max(largest, view.first_rows[j + 1] - view.first_rows[j]);
    }
    EXPECT_EQ(head.largest_cluster, largest);
    std::sort(expected.begin(), expected.end());
    std::sort(actual.begin(), actual.end());
    EXPECT_TRUE(expected == actual) << "the rows are not the tokens";
    const std::vector<float> keys = Floats(input, rows.keys), values = Floats(input, rows.values);
    const auto cpu = CpuIndex(input, number, h);
    std::vector<uint16_t> ordered;
    for (const uint16_t token : cpu->order()) {
      const uint16_t* row = input.Row(input.keys, number, token, h);
      ordered.insert(ordered.end(), row, row + d);
    }
    const std::vector<float> cpu_keys = Floats(input, ordered);
    for (int level = 0; level < kLevels; ++level) {
      const ClusterView& own = level == 0 ? view : rows.index->super_clusters();
      const ClusterView& twin = level == 0 ? cpu->clusters() : cpu->super_clusters();
      ExpectLevel(own, keys, values, d, magnitude);
      sums->device[level] += Inertia(own, keys, d);
      sums->cpu[level] += Inertia(twin, cpu_keys, d);
    }
  }
}

void ExpectBuilds(const Input& input, double magnitude, double tolerance) {
  SCOPED_TRACE(testing::Message() << "seed " << kSeed << " head_dim " << input.head_dim() << " tokens " << input.tokens
                                  << " dtype " << static_cast<int>(input.options.shape.storage) << " magnitude "
                                  << magnitude);
  const auto segments = Build(input);
  ASSERT_TRUE(segments.ok()) << segments.status().message();
  ASSERT_EQ(segments->size(), static_cast<size_t>(kSegments));
  Inertias sums;
  for (int64_t s = 0; s < kSegments; ++s) ExpectSound(input, *(*segments)[s], s, magnitude, &sums);
  for (int level = 0; level < kLevels; ++level) {
    EXPECT_LE(sums.device[level], (1 + tolerance) * sums.cpu[level] + 1e-9 * magnitude * magnitude);
    EXPECT_GE(sums.device[level], (1 - tolerance) * sums.cpu[level] - 1e-9 * magnitude * magnitude);
  }
}

TEST(SegmentBuilderTest, EveryShape) {
  if (NoDevice()) GTEST_SKIP() << "no CUDA device";
  const bool few = std::getenv("SWELL_FEW_SHAPES") != nullptr;  // under compute-sanitizer
  for (const DType dtype : {DType::kBFloat16, DType::kFloat16}) {
    for (const int32_t head_dim : {64, 128, 256}) {
      for (const int64_t tokens :
           few ? std::vector<int64_t>{300} : std::vector<int64_t>{1, 7, 16, 100, 513, 1031, 2048}) {
        const Input input = MakeInput(head_dim, dtype, tokens, 1, 0.2F, kSeed + static_cast<uint32_t>(tokens));
        ExpectBuilds(input, 6, tokens < 500 ? 0.1 : 0.01);
      }
    }
  }
}

TEST(SegmentBuilderTest, EveryOption) {
  if (NoDevice()) GTEST_SKIP() << "no CUDA device";
  Input input = MakeInput(128, DType::kBFloat16, 700, 1, 0, kSeed);
  for (const int32_t cluster_tokens : {3, 16, 300, 4096}) {
    for (const int32_t iterations : {1, 20}) {
      input.options.cluster_tokens = cluster_tokens;
      input.options.iterations = iterations;
      ExpectBuilds(input, 6, 0.02);
    }
  }
}

// Keys that share a large mean, and keys at the ends of bfloat16.
TEST(SegmentBuilderTest, EveryMagnitude) {
  if (NoDevice()) GTEST_SKIP() << "no CUDA device";
  ExpectBuilds(MakeInput(128, DType::kFloat16, 600, 1, 30, kSeed), 36, 0.01);
  ExpectBuilds(MakeInput(64, DType::kBFloat16, 600, 1e36F, 0, kSeed + 1), 6e36, 0.01);
  ExpectBuilds(MakeInput(64, DType::kBFloat16, 600, 1e-25F, 0, kSeed + 2), 6e-25, 0.01);
  ExpectBuilds(MakeInput(64, DType::kFloat16, 600, 1e-3F, 0, kSeed + 3), 6e-3, 0.01);
}

// Clusters that no token is nearest to are left out, as the CPU does.
TEST(SegmentBuilderTest, EqualKeys) {
  if (NoDevice()) GTEST_SKIP() << "no CUDA device";
  for (const int64_t distinct : {1, 5, 40}) {
    for (const bool zero : {false, true}) {
      Input input = MakeInput(128, DType::kBFloat16, 1000, zero ? 0 : 1, 0, kSeed);
      for (int64_t t = distinct; t < kSegments * input.tokens; ++t) {
        const auto from = input.keys.begin() + t % input.tokens % distinct * input.token_stride();
        std::copy(from, from + input.token_stride(), input.keys.begin() + t * input.token_stride());
      }
      ExpectBuilds(input, 6, 0.02);
      const auto segments = Build(input);
      ASSERT_TRUE(segments.ok());
      for (int64_t h = 0; h < kHeads; ++h) {
        EXPECT_EQ((*segments)[1]->heads()[h].clusters[0], CpuIndex(input, 1, h)->clusters().clusters);
      }
    }
  }
}

TEST(SegmentBuilderTest, SameInputsSameBits) {
  if (NoDevice()) GTEST_SKIP() << "no CUDA device";
  const Input input = MakeInput(128, DType::kBFloat16, 2048, 1, 0, kSeed);
  // Addresses differ from build to build; clusters, sizes and rows do not.
  std::vector<std::vector<uint16_t>> rows;
  for (int repeat = 0; repeat < 3; ++repeat) {
    const auto segments = Build(input);
    ASSERT_TRUE(segments.ok()) << segments.status().message();
    HostRows head = DownloadHead((*segments)[1]->heads()[2], 128);
    const ClusterView& view = head.index->clusters();
    std::vector<uint16_t> all = std::move(head.keys);
    for (int64_t j = 0; j < view.clusters; ++j) all.push_back(static_cast<uint16_t>(view.first_rows[j]));
    for (int64_t i = 0; i < view.clusters * 128; ++i) all.push_back(static_cast<uint16_t>(view.centroids[i]));
    rows.push_back(std::move(all));
    EXPECT_TRUE(rows.back() == rows.front());
  }
}

TEST(SegmentBuilderTest, NonFiniteRowsAreRefused) {
  if (NoDevice()) GTEST_SKIP() << "no CUDA device";
  for (const uint16_t bits : {0x7f80, 0xff80, 0x7fc1}) {
    Input input = MakeInput(64, DType::kBFloat16, 100, 1, 0, kSeed);
    const auto at = static_cast<size_t>(137 * input.token_stride() + 2 * 64 + 5);
    input.keys[at] = bits;
    EXPECT_EQ(Build(input).status().detail(), StatusDetail::kNonFinite);
    input.keys[at] = 0;
    input.values[at] = bits;
    EXPECT_EQ(Build(input).status().detail(), StatusDetail::kNonFinite);
    input.values[at] = 0;
    EXPECT_TRUE(Build(input).ok());
  }
}

TEST(SegmentBuilderTest, RefusesWhatItCannotDo) {
  const HeadShape shape{.head_dim = 128, .group = 1, .storage = DType::kBFloat16};
  const auto code = [](const SegmentBuilderOptions& options) { return SegmentBuilder::Make(options).status().code(); };
  EXPECT_EQ(code({.shape = {.head_dim = 96, .storage = DType::kFloat16}}), StatusCode::kInvalidArgument);
  EXPECT_EQ(code({.shape = {.head_dim = 64, .storage = DType::kInt8}}), StatusCode::kInvalidArgument);
  EXPECT_EQ(code({.shape = shape, .kv_heads = 0}), StatusCode::kInvalidArgument);
  EXPECT_EQ(code({.shape = shape, .max_segments = 65536}), StatusCode::kInvalidArgument);
  EXPECT_EQ(code({.shape = shape, .cluster_tokens = 0}), StatusCode::kInvalidArgument);
  EXPECT_EQ(code({.shape = shape, .iterations = 101}), StatusCode::kInvalidArgument);
  if (NoDevice()) {
    EXPECT_EQ(code({.shape = shape}), StatusCode::kUnavailable);
    return;
  }
  const auto builder = SegmentBuilder::Make({.shape = shape, .max_segments = 4});
  ASSERT_TRUE(builder.ok());
  alignas(16) static const uint16_t row[8] = {};
  const SegmentRows good{
      .keys = row, .values = row, .token_stride = 128, .head_stride = 128, .segment_tokens = 512, .segments = 4};
  const auto detail = [&](const SegmentRows& rows) { return (*builder)->Prepare(rows).status().detail(); };
  SegmentRows rows = good;
  rows.values = nullptr;
  EXPECT_EQ(detail(rows), StatusDetail::kNullPointer);
  rows = good;
  rows.keys = row + 1;
  EXPECT_EQ(detail(rows), StatusDetail::kMisaligned);
  rows = good;
  rows.token_stride = 120;
  EXPECT_EQ(detail(rows), StatusDetail::kBadSize);
  rows = good;
  rows.segment_tokens = 2049;
  EXPECT_EQ(detail(rows), StatusDetail::kBadSize);
  rows = good;
  rows.segments = 5;
  EXPECT_EQ(detail(rows), StatusDetail::kBadSize);
  EXPECT_TRUE((*builder)->Prepare(good).ok());
}

}  // namespace
}  // namespace swell::cuda
