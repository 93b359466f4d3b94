// Goal: a trace holds what its header says or is refused with a reason, whatever bytes the file has.
#include "tools/trace/trace.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <cstring>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "tools/report/file.h"

namespace swell::trace {
namespace {

TraceShape SmallShape() {
  TraceShape shape;
  shape.kv_heads = 2;
  shape.query_heads = 6;
  shape.head_dim = 16;
  shape.scale = 0.25F;
  shape.prefill_tokens = 5;
  shape.decode_steps = 2;
  shape.layers = {0, 7};
  shape.prefill_positions = {1, 2, 4};
  return shape;
}

// A file whose every byte behind the header is the number of its layer and part.
std::string SmallFile(const TraceShape& shape) {
  std::string file = EncodeHeader(shape).value();
  for (size_t layer = 0; layer < shape.layers.size(); ++layer) {
    file += std::string(static_cast<size_t>(RowsBytes(shape)), static_cast<char>(3 * layer + 1));
    file += std::string(static_cast<size_t>(RowsBytes(shape)), static_cast<char>(3 * layer + 2));
    file += std::string(static_cast<size_t>(QueriesBytes(shape)), static_cast<char>(3 * layer + 3));
  }
  return file;
}

Result<Trace> Parse(const std::string& file) {
  const auto* bytes = reinterpret_cast<const std::byte*>(file.data());
  return Trace::Parse(std::vector<std::byte>(bytes, bytes + file.size()));
}

void CheckSmall(const Trace& trace) {
  const TraceShape expected = SmallShape(), &shape = trace.shape();
  EXPECT_EQ(shape.dtype, expected.dtype);
  EXPECT_EQ(shape.kv_heads, expected.kv_heads);
  EXPECT_EQ(shape.query_heads, expected.query_heads);
  EXPECT_EQ(shape.head_dim, expected.head_dim);
  EXPECT_EQ(shape.scale, expected.scale);
  EXPECT_EQ(shape.tokens(), 7);
  EXPECT_EQ(shape.queries(), 5);
  EXPECT_EQ(shape.layers, expected.layers);
  EXPECT_EQ(shape.prefill_positions, expected.prefill_positions);
  for (int64_t i = 0; i < 2; ++i) {
    const TraceLayer layer = trace.layer(i);
    ASSERT_EQ(layer.keys.size(), 7U * 2 * 16 * 2);
    ASSERT_EQ(layer.values.size(), layer.keys.size());
    ASSERT_EQ(layer.queries.size(), 5U * 6 * 16);
    for (const std::byte byte : {layer.keys.front(), layer.keys.back()})
      EXPECT_EQ(std::to_integer<int>(byte), 3 * i + 1);
    for (const std::byte byte : {layer.values.front(), layer.values.back()})
      EXPECT_EQ(std::to_integer<int>(byte), 3 * i + 2);
    for (const std::byte byte : std::as_bytes(layer.queries)) ASSERT_EQ(std::to_integer<int>(byte), 3 * i + 3);
  }
}

TEST(TraceTest, HoldsWhatWasWritten) {
  const std::string file = SmallFile(SmallShape());
  EXPECT_EQ(static_cast<int64_t>(file.size()), FileBytes(SmallShape()));
  const Result<Trace> parsed = Parse(file);
  ASSERT_TRUE(parsed.ok()) << parsed.status().message();
  CheckSmall(parsed.value());
}

TEST(TraceTest, OpensAFileAndOutlivesItsName) {
  const std::string path = testing::TempDir() + "swell_trace_test.bin";
  ASSERT_TRUE(report::WriteFile(path, SmallFile(SmallShape())).ok());
  const Result<Trace> opened = Trace::Open(path);
  std::remove(path.c_str());
  ASSERT_TRUE(opened.ok()) << opened.status().message();
  const Trace copy = opened.value();
  CheckSmall(copy);
}

TEST(TraceTest, FilesThatCannotBeRead) {
  const Status missing = Trace::Open("no/trace.bin").status();
  EXPECT_EQ(missing.code(), StatusCode::kNotFound);
  EXPECT_NE(missing.message().find("'no/trace.bin'"), std::string::npos);
  EXPECT_EQ(Trace::Open("/").status().code(), StatusCode::kUnavailable);
  const Status empty = Trace::Open("/dev/null").status();
  EXPECT_EQ(empty.code(), StatusCode::kDataLoss);
  EXPECT_NE(empty.message().find("'/dev/null'"), std::string::npos);
}

TEST(TraceTest, EveryCutAndEveryAdditionIsRefused) {
  const std::string file = SmallFile(SmallShape());
  for (size_t size = 0; size < file.size(); ++size) {
    EXPECT_EQ(Parse(file.substr(0, size)).status().code(), StatusCode::kDataLoss) << size;
  }
  EXPECT_EQ(Parse(file + "x").status().code(), StatusCode::kDataLoss);
}

// Writes `value` over the header's bytes at `offset` and gives back how the file is then refused.
template <typename T>
StatusCode Refusal(size_t offset, T value) {
  std::string file = SmallFile(SmallShape());
  std::memcpy(file.data() + offset, &value, sizeof(value));
  const Status status = Parse(file).status();
  EXPECT_FALSE(status.message().empty());
  return status.code();
}

TEST(TraceTest, HostileHeaders) {
  EXPECT_EQ(Refusal(0, 'X'), StatusCode::kDataLoss);
  EXPECT_EQ(Refusal<uint32_t>(8, 2), StatusCode::kUnimplemented);
  constexpr size_t kDType = 12, kLayers = 16, kScale = 32, kReserved = 36, kFirstSize = 40, kSizesEnd = 64;
  for (const uint32_t value : {3U, 77U, ~0U}) EXPECT_EQ(Refusal(kDType, value), StatusCode::kDataLoss);
  for (size_t offset = kLayers; offset < kScale; offset += 4) {
    for (const uint32_t value : {0U, 5U, 100000U, 1U << 31, ~0U}) {
      EXPECT_EQ(Refusal(offset, value), StatusCode::kDataLoss) << offset << " " << value;
    }
  }
  EXPECT_EQ(Refusal(kScale, std::numeric_limits<float>::quiet_NaN()), StatusCode::kDataLoss);
  EXPECT_EQ(Refusal<uint32_t>(kReserved, 1), StatusCode::kDataLoss);
  for (size_t offset = kFirstSize; offset < kSizesEnd; offset += 8) {
    for (const int64_t value : {int64_t{-1}, int64_t{1}, int64_t{1} << 30, std::numeric_limits<int64_t>::max(),
                                std::numeric_limits<int64_t>::min()}) {
      EXPECT_EQ(Refusal(offset, value), StatusCode::kDataLoss) << offset << " " << value;
    }
  }
  for (size_t offset = kSizesEnd; offset < kSizesEnd + 5 * 8; offset += 8) {  // layers, then positions
    for (const int64_t value : {int64_t{-1}, int64_t{7}, int64_t{1} << 40}) {
      if (offset == kSizesEnd + 8 && value == 7) continue;  // as it is
      EXPECT_EQ(Refusal(offset, value), StatusCode::kDataLoss) << offset << " " << value;
    }
  }
}

TEST(TraceTest, ShapesThatCannotBeWritten) {
  const std::vector<std::function<void(TraceShape&)>> faults = {
      [](TraceShape& shape) { shape.dtype = DType::kInt8; },    [](TraceShape& shape) { shape.query_heads = 5; },
      [](TraceShape& shape) { shape.query_heads = 34; },        [](TraceShape& shape) { shape.head_dim = 24; },
      [](TraceShape& shape) { shape.layers.clear(); },          [](TraceShape& shape) { shape.layers = {3, 3}; },
      [](TraceShape& shape) { shape.prefill_positions = {5}; }, [](TraceShape& shape) { shape.decode_steps = -1; },
  };
  for (size_t i = 0; i < faults.size(); ++i) {
    TraceShape shape = SmallShape();
    faults[i](shape);
    EXPECT_EQ(EncodeHeader(shape).status().code(), StatusCode::kInvalidArgument) << i;
  }
}

}  // namespace
}  // namespace swell::trace
