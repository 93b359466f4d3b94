#include "tools/model/tokenizer.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/model/model_files.h"
#include "tests/model/small_vocabulary.h"
#include "tools/model/utf8.h"

namespace swell::model {
namespace {

using Ids = std::vector<TokenId>;

Tokenizer Small(const std::vector<std::string>& merges) {
  Result<Gguf> gguf = Gguf::Parse(SmallVocabulary(merges).File());
  EXPECT_TRUE(gguf.ok()) << gguf.status().message();
  Result<Tokenizer> tokenizer = Tokenizer::FromGguf(gguf.value());
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status().message();
  return std::move(tokenizer).value();
}

TEST(Tokenizer, MergesInTheOrderOfTheList) {
  // "abc": b+c has the lower rank, so a+b never happens. Bytes are tokens 1..256, merges follow from 257 on.
  const Tokenizer tokenizer = Small({"b c", "a b", "a bc", "a a"});
  EXPECT_EQ(tokenizer.Encode("abc").value(), (Ids{259}));
  EXPECT_EQ(tokenizer.Encode("ab").value(), (Ids{258}));
  EXPECT_EQ(tokenizer.Encode("aaa").value(), (Ids{260, 'a' + 1}));  // leftmost first
  EXPECT_EQ(tokenizer.Encode("aabc").value(), (Ids{'a' + 1, 259}));
  EXPECT_EQ(tokenizer.Encode("").value(), Ids{});
}

TEST(Tokenizer, CutsDigitsAndSpaces) {
  // Merges that would join across the cuts show where the cuts are (U+0120 is the spelling of a space).
  const Tokenizer tokenizer = Small({"1 2", "\u0120 1", "\u0120 \u0120", "\u0120 a", "\u00C2 \u00B2"});
  const TokenId space = 33;
  EXPECT_EQ(tokenizer.Encode("12").value(), (Ids{'1' + 1, '2' + 1}));
  EXPECT_EQ(tokenizer.Encode(" 1").value(), (Ids{space, '1' + 1}));
  EXPECT_EQ(tokenizer.Encode("  1").value(), (Ids{259, '1' + 1}));
  EXPECT_EQ(tokenizer.Encode("  a").value(), (Ids{space, 260}));
  EXPECT_EQ(tokenizer.Encode("  ").value(), (Ids{259}));
  EXPECT_EQ(tokenizer.Encode("\u00B2\u00B2").value(), (Ids{261, 261}));  // superscript two is a number as well
}

TEST(Tokenizer, SpecialTokensOnlyOnRequest) {
  const Tokenizer tokenizer = Small({"a b"});
  EXPECT_EQ(tokenizer.end_of_text(), 0);
  EXPECT_EQ(tokenizer.Encode("ab<|stop|>b", Tokenizer::Special::kToken).value(), (Ids{257, 0, 'b' + 1}));
  EXPECT_EQ(tokenizer.Encode("<|stop|>").value().size(), 8U);
  EXPECT_EQ(tokenizer.Decode(Ids{0, 257}).value(), "<|stop|>ab");
}

TEST(Tokenizer, RefusesWhatIsNoUtf8) {
  const Tokenizer tokenizer = Small({});
  for (const std::string text : {"ok\xFF", "ok\xC3", "ok\xED\xA0\x80", "ok\xC0\x80", "ok\xF4\x90\x80\x80"}) {
    const Status status = tokenizer.Encode(text).status();
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
    EXPECT_NE(status.message().find("byte 2"), std::string::npos) << status.message();
  }
  EXPECT_FALSE(tokenizer.Decode(Ids{-1}).ok());
  EXPECT_FALSE(tokenizer.Decode(Ids{257}).ok());
}

TEST(Tokenizer, StreamsWholeCharacters) {
  const Tokenizer tokenizer = Small({});
  const std::string text = "a\u00E9\u4F60\U0001F600z";
  TextStream stream(tokenizer);
  std::string out;
  const Ids ids = tokenizer.Encode(text).value();
  for (const TokenId id : ids) {
    const std::string part = stream.Push(id);
    EXPECT_EQ(FirstInvalidUtf8(part), part.size());
    out += part;
  }
  EXPECT_EQ(out, text);
  EXPECT_EQ(stream.Push(0xE4 + 1), "");
  EXPECT_EQ(stream.Push(0xBD + 1), "");
  EXPECT_EQ(stream.Push('x' + 1), "\uFFFDx");  // the character can no longer be completed
  EXPECT_EQ(stream.Push(0xE4 + 1), "");
  EXPECT_EQ(stream.Finish(), "\uFFFD");
  EXPECT_EQ(stream.Finish(), "");
}

TEST(Tokenizer, ALongWordIsNoTrouble) {
  const Tokenizer tokenizer = Small({"a a", "aa aa"});
  const Ids ids = tokenizer.Encode(std::string(1 << 20, 'a')).value();
  EXPECT_EQ(ids, Ids(1 << 18, 258));
}

TEST(Tokenizer, InconsistentVocabulariesAreRefused) {
  const auto expect_refused = [](const GgufWriter& writer, const std::string& word) {
    Result<Gguf> gguf = Gguf::Parse(writer.File());
    ASSERT_TRUE(gguf.ok());
    const Status status = Tokenizer::FromGguf(gguf.value()).status();
    EXPECT_FALSE(status.ok()) << word;
    EXPECT_NE(status.message().find(word), std::string::npos) << status.message();
  };
  const std::string model = "gpt2";
  const std::string pre = "smollm";
  expect_refused(GgufWriter(), "tokenizer.ggml.model");
  expect_refused(GgufWriter().Key("tokenizer.ggml.model", std::string("llama")), "llama");
  const auto begin = [&] { return GgufWriter().Key("tokenizer.ggml.model", model).Key("tokenizer.ggml.pre", pre); };
  using Words = std::vector<std::string>;
  expect_refused(begin(), "tokens");
  expect_refused(begin().Key("tokenizer.ggml.tokens", Words{"a", "a"}), "twice");
  expect_refused(begin().Key("tokenizer.ggml.tokens", Words{"a b"}), "a b");
  expect_refused(begin().Key("tokenizer.ggml.tokens", Words{"\xC4"}), "spelled");
  expect_refused(begin().Key("tokenizer.ggml.tokens", Words{"a", "b"}).Key("tokenizer.ggml.merges", Words{"a b"}),
                 "a b");
  expect_refused(begin().Key("tokenizer.ggml.tokens", Words{"a", "b"}).Key("tokenizer.ggml.merges", Words{"ab"}), "ab");
  expect_refused(begin().Key("tokenizer.ggml.tokens", Words{"a"}).Key("tokenizer.ggml.merges", Words{"a z"}), "a z");
  expect_refused(begin()
                     .Key("tokenizer.ggml.tokens", Words{"a"})
                     .Array<int32_t>("tokenizer.ggml.token_type", GgufWriter::kInt32, {1, 1}),
                 "token_type");
  expect_refused(begin()
                     .Key("tokenizer.ggml.tokens", Words{"a"})
                     .Key<uint32_t>("tokenizer.ggml.eos_token_id", GgufWriter::kUint32, 1),
                 "eos_token_id");
}

class SmolTokenizer : public testing::Test {
 protected:
  // The tokenizer of the base file, read once.
  static const Tokenizer& Get() {
    static const Tokenizer tokenizer = [] {
      Result<Gguf> gguf = Gguf::ReadFile(BasePath());
      EXPECT_TRUE(gguf.ok()) << gguf.status().message();
      Result<Tokenizer> loaded = Tokenizer::FromGguf(gguf.value());
      EXPECT_TRUE(loaded.ok()) << loaded.status().message();
      return std::move(loaded).value();
    }();
    return tokenizer;
  }
};

TEST_F(SmolTokenizer, GivesTheReferenceIds) {
  SWELL_REQUIRE_BASE_MODEL();
  const nlohmann::json reference = Reference();
  for (const auto& vector : reference["tokenize"]) {
    const std::string text = vector["text"];
    EXPECT_EQ(Get().Encode(text).value(), vector["ids"].get<Ids>()) << text;
    EXPECT_EQ(Get().Decode(vector["ids"].get<Ids>()).value(), text);
  }
  // 2,048 tokens of characters 20000 to 60000 of a novel.
  const std::string novel = ReadText(AssetPath("prideprejudice.txt"));
  Ids ids = Get().Encode(std::string_view(novel).substr(20000, 40000)).value();
  ids.resize(2048);
  EXPECT_EQ(ids, reference["ids"].get<Ids>());
}

TEST_F(SmolTokenizer, DecodesWhatItEncodes) {
  SWELL_REQUIRE_BASE_MODEL();
  const std::string novel = ReadText(AssetPath("sensesensibility.txt"));
  EXPECT_EQ(Get().Decode(Get().Encode(novel).value()).value(), novel);
  const std::string mixed =
      "\t \r\n\n  x  \u00A0\u3000y\u0301 \u0663\u00BD\u2167 don't DON'T we'll '' \u200D\U0001F469\u200D\U0001F680";
  EXPECT_EQ(Get().Decode(Get().Encode(mixed).value()).value(), mixed);
}

}  // namespace
}  // namespace swell::model
