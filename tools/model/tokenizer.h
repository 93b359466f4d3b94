// Byte-level BPE tokenizer, built from a GGUF file's tokens and merges.
//
// Text is cut into pieces (every digit alone, then the pattern of GPT-2), each piece's bytes are the first symbols, and
// neighbours are merged in the order of the merge list. Const after construction: any thread may use it.
#ifndef SWELL_TOOLS_MODEL_TOKENIZER_H_
#define SWELL_TOOLS_MODEL_TOKENIZER_H_

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "swell/status.h"
#include "tools/model/gguf.h"

namespace swell::model {

using TokenId = int32_t;

class Tokenizer {
 public:
  // kDataLoss when tokens or merges do not fit together, kUnimplemented for another kind of tokenizer.
  static Result<Tokenizer> FromGguf(const Gguf& gguf);

  // What the names of special tokens (such as <|im_start|>) in a text mean: the token, or plain characters.
  enum class Special { kPlainText, kToken };

  // kInvalidArgument when `text` is not UTF-8; the message says at which byte. A byte for which the vocabulary has no
  // token (rare control characters in SmolLM2's) is left out, as the reference tokenizer does.
  Result<std::vector<TokenId>> Encode(std::string_view text, Special special = Special::kPlainText) const;

  // UTF-8 text; bytes that form no character become U+FFFD. kInvalidArgument for an id outside of the vocabulary.
  Result<std::string> Decode(std::span<const TokenId> ids) const;

  // The bytes that a token stands for, for ids of 0 .. size() - 1; a part of a character is possible.
  std::string_view Bytes(TokenId id) const { return bytes_[static_cast<size_t>(id)]; }
  int64_t size() const { return static_cast<int64_t>(bytes_.size()); }
  TokenId end_of_text() const { return end_of_text_; }  // -1: the file names none

 private:
  struct Pattern;  // compiled regular expression
  struct Merge {
    int32_t rank;
    TokenId id;
  };

  Status LoadTokens(const Gguf& gguf);
  Status LoadMerges(const Gguf& gguf);
  Status AppendText(std::string_view text, std::vector<TokenId>* ids) const;
  void AppendPiece(std::string_view piece, std::vector<TokenId>* ids) const;
  const Merge* FindMerge(TokenId left, TokenId right) const;
  TokenId FindSpecial(std::string_view text) const;

  std::shared_ptr<const Pattern> pattern_;
  std::vector<std::string> bytes_;                        // by id
  std::unordered_map<std::string, TokenId> ids_;          // by the file's spelling
  std::unordered_map<uint64_t, Merge> merges_;            // by left << 32 | right
  std::vector<std::pair<std::string, TokenId>> special_;  // longest first
  std::array<TokenId, 256> byte_ids_{};                   // -1: no token
  TokenId end_of_text_ = -1;
};

// Turns a stream of tokens into text, character by character.
class TextStream {
 public:
  explicit TextStream(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}
  // The characters that `id` (within the vocabulary) completes; what is not complete waits for the next token.
  std::string Push(TokenId id);
  // What still waits, as U+FFFD.
  std::string Finish();

 private:
  const Tokenizer& tokenizer_;
  std::string pending_;
};

}  // namespace swell::model

#endif  // SWELL_TOOLS_MODEL_TOKENIZER_H_
