#include "tools/model/gguf.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "tests/model/gguf_writer.h"

namespace swell::model {
namespace {

std::vector<std::byte> FromHex(const std::string& hex) {
  std::vector<std::byte> bytes;
  for (size_t i = 0; i < hex.size(); i += 2) {
    bytes.push_back(static_cast<std::byte>(std::stoi(hex.substr(i, 2), nullptr, 16)));
  }
  return bytes;
}

// One of every kind of value and several tensors.
GgufWriter SmallWriter() {
  GgufWriter writer;
  writer.Key<uint8_t>("u8", GgufWriter::kUint8, 200)
      .Key<int8_t>("i8", GgufWriter::kInt8, -5)
      .Key<uint16_t>("u16", GgufWriter::kUint16, 60000)
      .Key<int32_t>("i32", GgufWriter::kInt32, -70000)
      .Key<uint64_t>("u64", GgufWriter::kUint64, 1ULL << 40)
      .Key<float>("f32", GgufWriter::kFloat32, 1.5F)
      .Key<uint8_t>("yes", GgufWriter::kBool, 1)
      .Key("name", std::string("small"))
      .Key("words", std::vector<std::string>{"a", "", "long word"})
      .Array<int32_t>("kinds", GgufWriter::kInt32, {3, -1})
      .Array<float>("scores", GgufWriter::kFloat32, {0.5F})
      .Floats("matrix", {3, 2}, {1, 2, 3, 4, 5, 6})
      .Tensor("half", TensorType::kF16, {2}, FromHex("003c00c0"))
      .Tensor("quantised", TensorType::kQ4_0, {32}, FromHex("ecb5e5f1a94106a0956a26afbccdafe562f9"));
  return writer;
}

TEST(Gguf, ReadsMetadataAndTensors) {
  for (const uint32_t version : {2U, 3U}) {
    Result<Gguf> gguf = Gguf::Parse(SmallWriter().File(version));
    ASSERT_TRUE(gguf.ok()) << gguf.status().message();
    EXPECT_EQ(gguf->Integer("u8").value(), 200);
    EXPECT_EQ(gguf->Integer("i8").value(), -5);
    EXPECT_EQ(gguf->Integer("u16").value(), 60000);
    EXPECT_EQ(gguf->Integer("i32").value(), -70000);
    EXPECT_EQ(gguf->Integer("u64").value(), int64_t{1} << 40);
    EXPECT_EQ(gguf->Number("f32").value(), 1.5);
    EXPECT_EQ(gguf->Number("u8").value(), 200);
    EXPECT_EQ(gguf->String("name").value(), "small");
    ASSERT_EQ(gguf->Strings("words").size(), 3U);
    EXPECT_EQ(gguf->Strings("words")[2], "long word");
    ASSERT_EQ(gguf->Integers("kinds").size(), 2U);
    EXPECT_EQ(gguf->Integers("kinds")[1], -1);
    const std::vector<int64_t> shape = {2, 3};
    EXPECT_EQ(gguf->Floats("matrix", shape).value(), (std::vector<float>{1, 2, 3, 4, 5, 6}));
    EXPECT_EQ(gguf->Floats("half", std::vector<int64_t>{2}).value(), (std::vector<float>{1, -2}));
  }
}

TEST(Gguf, SaysWhatIsMissingOrOfAnotherKind) {
  Result<Gguf> gguf = Gguf::Parse(SmallWriter().File());
  ASSERT_TRUE(gguf.ok());
  EXPECT_EQ(gguf->Integer("absent").status().code(), StatusCode::kNotFound);
  EXPECT_NE(gguf->Integer("absent").status().message().find("absent"), std::string::npos);
  EXPECT_EQ(gguf->Integer("name").status().code(), StatusCode::kDataLoss);
  EXPECT_EQ(gguf->String("u8").status().code(), StatusCode::kDataLoss);
  EXPECT_TRUE(gguf->Strings("u8").empty());
  EXPECT_EQ(gguf->Floats("matrix", std::vector<int64_t>{3, 2}).status().code(), StatusCode::kDataLoss);
  EXPECT_EQ(gguf->Floats("absent", std::vector<int64_t>{3, 2}).status().code(), StatusCode::kNotFound);
}

// Blocks of random bytes; expected values from the Python package gguf 0.19 (gguf.quants.dequantize).
struct QuantCase {
  TensorType type;
  const char* hex;
  std::vector<std::pair<size_t, double>> values;
  double sum;
  double weighted_sum;  // sum over i of (i + 1) * value i
};

TEST(Dequantize, MatchesTheReferencePackage) {
  const std::vector<QuantCase> cases = {
      {TensorType::kQ4_0,
       "ecb5e5f1a94106a0956a26afbccdafe562f9",
       {{0, 1.1103515625}, {1, 2.5908203125}, {15, -0.3701171875}, {16, -2.220703125}, {31, -2.5908203125}},
       -2.220703125,
       -206.525390625},
      {TensorType::kQ4_1,
       "ecb5003d42276ad5ab2da7394551370e99b2d74c",
       {{0, 0.509765625}, {1, -1.3408203125}, {15, -3.19140625}, {17, 0.509765625}, {31, -0.23046875}},
       -41.42578125,
       -646.1435546875},
      {TensorType::kQ8_0,
       "ecb5fa48d732a1df70aca1e926115901dd06f27f8f063cd25e19a621f9bd0ccc2139",
       {{0, 2.220703125}, {1, -26.6484375}, {15, -2.220703125}, {17, -47.0048828125}, {31, -21.0966796875}},
       -11.4736328125,
       -422.673828125},
      {TensorType::kQ6_K,
       "c795ca7748dc03d17a88934d85527357a2e64647f03e2fb81f223f4192c58efd5185f0711ef7677a1f132a818d882195a100b28d6b236b8"
       "2"
       "481bd9fe630dc3ce3be4ebcab72f45b35223479f6e794d57037e2cfde9e15a7789781e3721a557d8e5a703296dcb81db3f65cf9c1bdc5d1"
       "d"
       "8fc83f0b0bb4db71be572209851d3d24f4c0cf83fe4363f82f4759778955f6ced681cbea7179ced2c8f814a13472ff70ce369d8385452a4"
       "4"
       "f318337f08cd1e614f235d3f83bc45fee9ee0403a79be118544441317c9311f85e0429b19f7ec0e14c22",
       {{0, -25.8270263671875},
        {15, 7.2315673828125},
        {31, -15.8897705078125},
        {161, -4.538177490234375},
        {255, 11.43768310546875}},
       -86.69271850585938,
       8934.478515625},
  };
  for (const QuantCase& expected : cases) {
    const std::vector<std::byte> block = FromHex(expected.hex);
    const BlockShape shape = BlockShapeOf(expected.type);
    ASSERT_EQ(static_cast<int64_t>(block.size()), shape.bytes);
    std::vector<std::byte> data = block;  // two equal blocks: the second must land behind the first
    data.insert(data.end(), block.begin(), block.end());
    std::vector<float> values(static_cast<size_t>(2 * shape.elements));
    ASSERT_TRUE(Dequantize(expected.type, data, values.data()));
    double sum = 0;
    double weighted_sum = 0;
    for (int64_t i = 0; i < shape.elements; ++i) {
      sum += values[i];
      weighted_sum += static_cast<double>(i + 1) * values[i];
      EXPECT_EQ(values[i], values[i + shape.elements]);
    }
    for (const auto& [index, value] : expected.values) EXPECT_FLOAT_EQ(values[index], static_cast<float>(value));
    EXPECT_NEAR(sum, expected.sum, 1e-4);
    EXPECT_NEAR(weighted_sum, expected.weighted_sum, 1e-2);
  }
}

TEST(Dequantize, HalfAndBfloat16CoverTheirSpecialValues) {
  // 1, -2, smallest subnormal, largest subnormal, largest finite, -0
  std::vector<float> values(6);
  ASSERT_TRUE(Dequantize(TensorType::kF16, FromHex("003c00c00100ff03ff7b0080"), values.data()));
  EXPECT_EQ(values[0], 1.0F);
  EXPECT_EQ(values[1], -2.0F);
  EXPECT_EQ(values[2], std::ldexp(1.0F, -24));
  EXPECT_EQ(values[3], std::ldexp(1023.0F, -24));
  EXPECT_EQ(values[4], 65504.0F);
  EXPECT_TRUE(values[5] == 0 && std::signbit(values[5]));
  EXPECT_FALSE(Dequantize(TensorType::kF16, FromHex("007c"), values.data()));  // infinity
  EXPECT_FALSE(Dequantize(TensorType::kF16, FromHex("017e"), values.data()));  // NaN
  ASSERT_TRUE(Dequantize(TensorType::kBF16, FromHex("803fc0c0"), values.data()));
  EXPECT_EQ(values[0], 1.0F);
  EXPECT_EQ(values[1], -6.0F);
  EXPECT_FALSE(Dequantize(TensorType::kBF16, FromHex("807f"), values.data()));
}

// Walks through everything that a successful parse gives, so that the sanitizers see every byte of it.
void UseAll(const Gguf& gguf) {
  for (const auto& [name, tensor] : gguf.tensors()) {
    const std::vector<int64_t> shape(tensor.shape.rbegin(), tensor.shape.rend());
    (void)gguf.Floats(name, shape);
  }
}

TEST(HostileGguf, EveryTruncationIsAnError) {
  const std::vector<std::byte> file = SmallWriter().File();
  for (size_t size = 0; size < file.size(); ++size) {
    // A vector of exactly this size, so that AddressSanitizer sees the first byte beyond it.
    Result<Gguf> gguf = Gguf::Parse(std::vector<std::byte>(file.begin(), file.begin() + static_cast<int64_t>(size)));
    ASSERT_FALSE(gguf.ok()) << size;
    EXPECT_EQ(gguf.status().code(), StatusCode::kDataLoss) << size;
    EXPECT_FALSE(gguf.status().message().empty());
  }
}

TEST(HostileGguf, EverySingleBitFlipIsSurvived) {
  const std::vector<std::byte> file = SmallWriter().File();
  for (size_t bit = 0; bit < file.size() * 8; ++bit) {
    std::vector<std::byte> altered = file;
    altered[bit / 8] ^= static_cast<std::byte>(1U << (bit % 8));
    if (Result<Gguf> gguf = Gguf::Parse(std::move(altered)); gguf.ok()) UseAll(gguf.value());
  }
}

TEST(HostileGguf, RandomDamageIsSurvived) {
  const uint32_t seed = std::random_device{}();
  std::printf("seed %u\n", seed);
  std::mt19937 random(seed);
  const std::vector<std::byte> file = SmallWriter().File();
  for (int round = 0; round < 4000; ++round) {
    std::vector<std::byte> altered = file;
    const int changes = 1 + static_cast<int>(random() % 16);
    for (int i = 0; i < changes; ++i) altered[random() % altered.size()] = static_cast<std::byte>(random());
    if (Result<Gguf> gguf = Gguf::Parse(std::move(altered)); gguf.ok()) UseAll(gguf.value());
  }
}

void ExpectRefused(const GgufWriter& writer, const std::string& word, StatusCode code = StatusCode::kDataLoss) {
  Result<Gguf> gguf = Gguf::Parse(writer.File());
  ASSERT_FALSE(gguf.ok()) << word;
  EXPECT_EQ(gguf.status().code(), code) << gguf.status().message();
  EXPECT_NE(gguf.status().message().find(word), std::string::npos) << gguf.status().message();
}

TEST(HostileGguf, LyingHeadersAreNamed) {
  constexpr int64_t kHuge = std::numeric_limits<int64_t>::max();
  const std::vector<std::byte> four(16);
  ExpectRefused(GgufWriter().Tensor("huge", TensorType::kF32, {kHuge}, four), "huge");
  ExpectRefused(GgufWriter().Tensor("overflow", TensorType::kF32, {1 << 20, 1 << 20, 1 << 20, 1 << 20}, four),
                "overflow");
  ExpectRefused(GgufWriter().Tensor("negative", TensorType::kF32, {-4}, four), "negative");
  ExpectRefused(GgufWriter().Tensor("empty", TensorType::kF32, {0}, four), "empty");
  ExpectRefused(GgufWriter().Tensor("flat", TensorType::kF32, {}, four), "flat");
  ExpectRefused(GgufWriter().Tensor("deep", TensorType::kF32, {1, 1, 1, 1, 4}, four), "deep");
  ExpectRefused(GgufWriter().Tensor("beyond", TensorType::kF32, {4}, four, 32), "beyond");
  ExpectRefused(GgufWriter().Tensor("far", TensorType::kF32, {4}, four, kHuge - 31), "far");
  ExpectRefused(GgufWriter().Tensor("crooked", TensorType::kF32, {2}, four, 4), "crooked");
  ExpectRefused(GgufWriter().Tensor("partial", TensorType::kQ4_0, {33}, four), "partial");
  ExpectRefused(GgufWriter().Tensor("strange", static_cast<TensorType>(99), {4}, four), "strange",
                StatusCode::kUnimplemented);
  ExpectRefused(GgufWriter().Tensor("twin", TensorType::kF32, {4}, four).Tensor("twin", TensorType::kF32, {4}, four),
                "twin");
  ExpectRefused(GgufWriter().Tensor("", TensorType::kF32, {4}, four), "name");
  ExpectRefused(GgufWriter().Key<uint32_t>("two", GgufWriter::kUint32, 1).Key<uint32_t>("two", GgufWriter::kUint32, 1),
                "two");
  ExpectRefused(GgufWriter().Key<uint8_t>("maybe", GgufWriter::kBool, 2), "maybe");
  ExpectRefused(GgufWriter().Key<uint32_t>("odd", 77, 1), "odd", StatusCode::kUnimplemented);
  ExpectRefused(GgufWriter().Key<uint64_t>("large", GgufWriter::kUint64, ~0ULL), "large", StatusCode::kUnimplemented);
  // A count of 2^61 strings or numbers must not be believed; nested arrays are not known.
  ExpectRefused(GgufWriter().Array<uint64_t>("nested", GgufWriter::kArray, {0}), "nested", StatusCode::kUnimplemented);
  for (const uint32_t type : {GgufWriter::kString, GgufWriter::kUint8, GgufWriter::kFloat32}) {
    struct [[gnu::packed]] Claim {
      uint32_t element;
      uint64_t count;
    };
    ExpectRefused(GgufWriter().Key("many", GgufWriter::kArray, Claim{type, 1ULL << 61}), "many");
  }
  ExpectRefused(GgufWriter().Key<uint32_t>("general.alignment", GgufWriter::kUint32, 0), "alignment");
  ExpectRefused(GgufWriter().Key<uint32_t>("general.alignment", GgufWriter::kUint32, ~0U), "alignment");
  EXPECT_EQ(Gguf::Parse(SmallWriter().File(1)).status().code(), StatusCode::kUnimplemented);
  EXPECT_EQ(Gguf::Parse(SmallWriter().File(0x03000000)).status().code(), StatusCode::kUnimplemented);  // big-endian
  const float infinity = std::numeric_limits<float>::infinity();
  Result<Gguf> gguf = Gguf::Parse(GgufWriter().Floats("poisoned", {2}, {1, infinity}).File());
  ASSERT_TRUE(gguf.ok());
  EXPECT_EQ(gguf->Floats("poisoned", std::vector<int64_t>{2}).status().code(), StatusCode::kDataLoss);
}

TEST(Gguf, FilesThatCannotBeReadAreErrors) {
  const std::filesystem::path folder = std::filesystem::path(testing::TempDir());
  EXPECT_EQ(Gguf::ReadFile((folder / "absent.gguf").string()).status().code(), StatusCode::kNotFound);
  EXPECT_EQ(Gguf::ReadFile(folder.string()).status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(Gguf::ReadFile("/dev/zero").status().code(), StatusCode::kInvalidArgument);
  const std::string path = (folder / "swell_gguf_test.gguf").string();
  const std::vector<std::byte> file = SmallWriter().File();
  std::ofstream(path, std::ios::binary)
      .write(reinterpret_cast<const char*>(file.data()), static_cast<std::streamsize>(file.size()));
  EXPECT_TRUE(Gguf::ReadFile(path).ok());
  std::filesystem::resize_file(path, file.size() / 2);
  const Status status = Gguf::ReadFile(path).status();
  EXPECT_EQ(status.code(), StatusCode::kDataLoss);
  EXPECT_NE(status.message().find("swell_gguf_test"), std::string::npos);
  std::filesystem::remove(path);
}

}  // namespace
}  // namespace swell::model
