// The tokenizer: any bytes as text and any ids under fixed vocabularies, and any vocabulary.
#include <array>
#include <string>
#include <vector>

#include "tests/fuzz/fuzz.h"
#include "tests/model/gguf_writer.h"
#include "tools/model/tokenizer.h"
#include "tools/model/utf8.h"

namespace {

using swell::Result;
using swell::model::EncodeUtf8;
using swell::model::FirstInvalidUtf8;
using swell::model::Gguf;
using swell::model::GgufWriter;
using swell::model::TextStream;
using swell::model::TokenId;
using swell::model::Tokenizer;
using swell_fuzz::Bytes;
using Words = std::vector<std::string>;

GgufWriter Header() {
  GgufWriter writer;
  writer.Key("tokenizer.ggml.model", std::string("gpt2")).Key("tokenizer.ggml.pre", std::string("smollm"));
  return writer;
}

Tokenizer Make(const Words& tokens, const std::vector<int32_t>& types, const Words& merges) {
  GgufWriter writer = Header();
  writer.Key("tokenizer.ggml.tokens", tokens).Key("tokenizer.ggml.merges", merges);
  writer.Array<int32_t>("tokenizer.ggml.token_type", GgufWriter::kInt32, types);
  Result<Gguf> gguf = Gguf::Parse(writer.File());
  SWELL_FUZZ_CHECK(gguf.ok());
  Result<Tokenizer> tokenizer = Tokenizer::FromGguf(*gguf);
  SWELL_FUZZ_CHECK(tokenizer.ok());
  return std::move(tokenizer).value();
}

// Every byte is a token; merges that compete with one another; two special tokens, one the beginning of the other.
const Tokenizer& Complete() {
  static const Tokenizer tokenizer = [] {
    Words tokens;
    uint32_t next = 256;
    for (uint32_t byte = 0; byte < 256; ++byte) {
      const bool printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
      tokens.push_back(EncodeUtf8(printable ? byte : next++));
    }
    const Words merges = {"b c", "a b",      "a bc",          "a a",           "aa aa",
                          "1 2", "\u0120 a", "\u0120 \u0120", "\u00C3 \u00A9", "\u010A \u010A"};
    for (std::string whole : merges) tokens.push_back(whole.erase(whole.find(' '), 1));
    std::vector<int32_t> types(tokens.size(), 1);
    for (const char* special : {"<|a|>", "<|a|>b"}) {
      tokens.emplace_back(special);
      types.push_back(3);
    }
    return Make(tokens, types, merges);
  }();
  return tokenizer;
}

// Most bytes have no token.
const Tokenizer& Sparse() {
  static const Tokenizer tokenizer = Make({"a", "b", "\u0120", "ab"}, {1, 1, 1, 1}, {"a b"});
  return tokenizer;
}

// What decoding gives must be UTF-8, and the same piece by piece.
std::string CheckDecode(const Tokenizer& tokenizer, const std::vector<TokenId>& ids) {
  const Result<std::string> text = tokenizer.Decode(ids);
  SWELL_FUZZ_CHECK(text.ok() && FirstInvalidUtf8(*text) == text->size());
  TextStream stream(tokenizer);
  std::string parts;
  for (const TokenId id : ids) parts += stream.Push(id);
  parts += stream.Finish();
  SWELL_FUZZ_CHECK(parts == *text);
  return *text;
}

void CheckEncode(const Tokenizer& tokenizer, const std::string& text, Tokenizer::Special special, bool complete) {
  const Result<std::vector<TokenId>> ids = tokenizer.Encode(text, special);
  SWELL_FUZZ_CHECK(ids.ok() == (FirstInvalidUtf8(text) == text.size()));
  if (!ids.ok()) {
    SWELL_FUZZ_CHECK(ids.status().code() == swell::StatusCode::kInvalidArgument);
    return;
  }
  for (const TokenId id : *ids) SWELL_FUZZ_CHECK(id >= 0 && id < tokenizer.size());
  const std::string decoded = CheckDecode(tokenizer, *ids);
  if (complete) SWELL_FUZZ_CHECK(decoded == text);
}

// A vocabulary of the input's own words, mostly one that does not fit together.
void TryVocabulary(Bytes& bytes) {
  Words tokens;
  std::vector<int32_t> types;
  Words merges;
  for (int left = bytes.Choose(16); left > 0; --left) {
    types.push_back(bytes.Choose(5));
    tokens.push_back(bytes.Text(8));
  }
  for (int left = bytes.Choose(8); left > 0; --left) merges.push_back(bytes.Text(8));
  GgufWriter writer = Header();
  writer.Key("tokenizer.ggml.tokens", tokens).Key("tokenizer.ggml.merges", merges);
  if (bytes.Choose(2) == 0) writer.Array<int32_t>("tokenizer.ggml.token_type", GgufWriter::kInt32, types);
  writer.Key<int32_t>("tokenizer.ggml.eos_token_id", GgufWriter::kInt32, bytes.Take<int8_t>());
  const Result<Gguf> gguf = Gguf::Parse(writer.File());
  SWELL_FUZZ_CHECK(gguf.ok());
  const Result<Tokenizer> tokenizer = Tokenizer::FromGguf(*gguf);
  if (!tokenizer.ok()) {
    SWELL_FUZZ_CHECK(tokenizer.status().code() == swell::StatusCode::kDataLoss);
    return;
  }
  SWELL_FUZZ_CHECK(tokenizer->end_of_text() < tokenizer->size());
  CheckEncode(*tokenizer, bytes.Rest(256), Tokenizer::Special::kToken, false);
}

}  // namespace

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Bytes bytes(data, size);
  const int what = bytes.Choose(8);
  if (what == 0) {
    TryVocabulary(bytes);
    return 0;
  }
  const bool complete = what % 2 == 1;
  const Tokenizer& tokenizer = complete ? Complete() : Sparse();
  if (what >= 6) {
    std::vector<TokenId> ids;
    while (!bytes.empty()) ids.push_back(bytes.Take<uint8_t>() % tokenizer.size());
    CheckDecode(tokenizer, ids);
    ids.push_back(static_cast<TokenId>(tokenizer.size()));
    SWELL_FUZZ_CHECK(!tokenizer.Decode(ids).ok());
    return 0;
  }
  CheckEncode(tokenizer, bytes.Rest(size), what < 4 ? Tokenizer::Special::kPlainText : Tokenizer::Special::kToken,
              complete);
  return 0;
}
