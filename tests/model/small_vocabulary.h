// A tokenizer's metadata: the names of special tokens, then a token for each of 256 bytes, then the merges' results.
#ifndef SWELL_TESTS_MODEL_SMALL_VOCABULARY_H_
#define SWELL_TESTS_MODEL_SMALL_VOCABULARY_H_

#include <cstdint>
#include <string>
#include <vector>

#include "tests/model/gguf_writer.h"
#include "tools/model/utf8.h"

namespace swell::model {

// The first special token is the end of a text.
inline GgufWriter SmallVocabulary(const std::vector<std::string>& merges,
                                  const std::vector<std::string>& special = {"<|stop|>"}) {
  std::vector<std::string> tokens = special;
  std::vector<int32_t> types(special.size(), 3);
  uint32_t next = 256;
  for (uint32_t byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    tokens.push_back(EncodeUtf8(printable ? byte : next++));
    types.push_back(1);
  }
  for (const std::string& merge : merges) {
    std::string whole = merge;
    whole.erase(whole.find(' '), 1);
    tokens.push_back(whole);
    types.push_back(1);
  }
  GgufWriter writer;
  writer.Key("tokenizer.ggml.model", std::string("gpt2"))
      .Key("tokenizer.ggml.pre", std::string("smollm"))
      .Key("tokenizer.ggml.tokens", tokens)
      .Array<int32_t>("tokenizer.ggml.token_type", GgufWriter::kInt32, types)
      .Key("tokenizer.ggml.merges", merges)
      .Key<uint32_t>("tokenizer.ggml.eos_token_id", GgufWriter::kUint32, 0);
  return writer;
}

}  // namespace swell::model

#endif  // SWELL_TESTS_MODEL_SMALL_VOCABULARY_H_
