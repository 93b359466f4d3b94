#include "tools/model/tokenizer.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <queue>
#include <tuple>
#include <utility>

#include "tools/model/utf8.h"

namespace swell::model {
namespace {

// Single digits first, then GPT-2's pattern on what lies between them. As one expression: a digit is a piece, and a run
// of spaces before a digit ends its part of the text, so that it keeps its last space.
constexpr char kPattern[] = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+|\p{N}| ?[^\p{White_Space}\p{L}\p{N}]+)"
                            R"(|\p{White_Space}+(?![^\p{White_Space}\p{N}])|\p{White_Space}+)";
constexpr char kReplacement[] = "\xEF\xBF\xBD";  // U+FFFD

enum TokenType : int64_t { kNormal = 1, kControl = 3, kUserDefined = 4 };

// GPT-2's spelling of a byte: itself where printable in Latin-1, otherwise the next free code point from U+0100 on.
std::array<uint32_t, 256> ByteSpelling() {
  std::array<uint32_t, 256> spelling{};
  uint32_t next = 256;
  for (uint32_t byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    spelling[byte] = printable ? byte : next++;
  }
  return spelling;
}

// Appends the characters of *text to `out`. Keeps in *text the beginning of a character that may still be completed,
// unless `all`; everything else that is no character becomes U+FFFD.
void MoveCharacters(std::string* text, bool all, std::string* out) {
  size_t at = 0;
  while (at < text->size()) {
    size_t bytes = 0;
    const Utf8 kind = NextUtf8(std::string_view(*text).substr(at), &bytes);
    if (kind == Utf8::kIncomplete && !all) break;
    if (kind == Utf8::kCharacter) {
      out->append(*text, at, bytes);
    } else {
      out->append(kReplacement);
    }
    at += bytes;
  }
  text->erase(0, at);
}

Status Damaged(const std::string& what) { return Status(StatusCode::kDataLoss, "tokenizer: " + what); }

uint64_t PairKey(TokenId left, TokenId right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

}  // namespace

struct Tokenizer::Pattern {
  Pattern() {
    int error = 0;
    size_t offset = 0;
    code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(kPattern), PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_UCP, &error,
                         &offset, nullptr);
    if (code != nullptr) pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);  // without it matching is slower, not different
  }
  ~Pattern() { pcre2_code_free(code); }
  Pattern(const Pattern&) = delete;
  Pattern& operator=(const Pattern&) = delete;
  pcre2_code* code = nullptr;
};

Result<Tokenizer> Tokenizer::FromGguf(const Gguf& gguf) {
  for (const auto& [key, known] : {std::pair("tokenizer.ggml.model", "gpt2"), {"tokenizer.ggml.pre", "smollm"}}) {
    Result<std::string> value = gguf.String(key);
    if (!value.ok()) return value.status();
    if (value.value() != known) {
      return Status(StatusCode::kUnimplemented,
                    std::string("tokenizer: ") + key + " is " + value.value() + "; only " + known + " is known");
    }
  }
  // The pattern is the same for all; compiling it takes longer than reading a small vocabulary.
  static const auto pattern = std::make_shared<const Pattern>();
  Tokenizer tokenizer;
  tokenizer.pattern_ = pattern;
  if (tokenizer.pattern_->code == nullptr) return Status(StatusCode::kInternal, "tokenizer: PCRE2 refused the pattern");
  SWELL_RETURN_IF_ERROR(tokenizer.LoadTokens(gguf));
  SWELL_RETURN_IF_ERROR(tokenizer.LoadMerges(gguf));
  return tokenizer;
}

Status Tokenizer::LoadTokens(const Gguf& gguf) {
  const std::span<const std::string> tokens = gguf.Strings("tokenizer.ggml.tokens");
  const std::span<const int64_t> types = gguf.Integers("tokenizer.ggml.token_type");
  if (tokens.empty() || tokens.size() > (1U << 24)) return Damaged("tokenizer.ggml.tokens is absent or too long");
  if (!types.empty() && types.size() != tokens.size()) return Damaged("tokenizer.ggml.token_type has another length");

  const std::array<uint32_t, 256> spelling = ByteSpelling();
  std::unordered_map<std::string, char> byte_of;
  for (size_t byte = 0; byte < 256; ++byte) byte_of[EncodeUtf8(spelling[byte])] = static_cast<char>(byte);

  for (size_t id = 0; id < tokens.size(); ++id) {
    const std::string& token = tokens[id];
    const TokenId token_id = static_cast<TokenId>(id);
    if (!ids_.emplace(token, token_id).second) return Damaged("the token " + token + " stands twice");
    const int64_t type = types.empty() ? static_cast<int64_t>(kNormal) : types[id];
    if ((type == kControl || type == kUserDefined) && !token.empty()) {
      special_.emplace_back(token, token_id);
      bytes_.push_back(token);
      continue;
    }
    std::string& bytes = bytes_.emplace_back();
    for (size_t at = 0, length = 0; at < token.size(); at += length) {
      NextUtf8(std::string_view(token).substr(at), &length);
      const auto found = byte_of.find(token.substr(at, length));
      if (found == byte_of.end()) return Damaged("the token " + token + " is not spelled in GPT-2's bytes");
      bytes.push_back(found->second);
    }
  }
  std::stable_sort(special_.begin(), special_.end(),
                   [](const auto& a, const auto& b) { return a.first.size() > b.first.size(); });
  for (size_t byte = 0; byte < 256; ++byte) {
    const auto found = ids_.find(EncodeUtf8(spelling[byte]));
    byte_ids_[byte] = found == ids_.end() ? -1 : found->second;
  }
  if (Result<int64_t> end = gguf.Integer("tokenizer.ggml.eos_token_id"); end.ok()) {
    if (end.value() < 0 || end.value() >= size()) return Damaged("tokenizer.ggml.eos_token_id is no token");
    end_of_text_ = static_cast<TokenId>(end.value());
  }
  return OkStatus();
}

Status Tokenizer::LoadMerges(const Gguf& gguf) {
  int32_t rank = 0;
  for (const std::string& merge : gguf.Strings("tokenizer.ggml.merges")) {
    const size_t space = merge.find(' ', 1);
    if (space == std::string::npos) return Damaged("the merge " + merge + " is not a pair");
    const auto left = ids_.find(merge.substr(0, space));
    const auto right = ids_.find(merge.substr(space + 1));
    if (left == ids_.end() || right == ids_.end()) return Damaged("the merge " + merge + " is not of two tokens");
    const auto whole = ids_.find(left->first + right->first);
    if (whole == ids_.end()) return Damaged("the merge " + merge + " gives no token");
    merges_.emplace(PairKey(left->second, right->second), Merge{rank++, whole->second});  // the first one counts
  }
  return OkStatus();
}

const Tokenizer::Merge* Tokenizer::FindMerge(TokenId left, TokenId right) const {
  const auto found = merges_.find(PairKey(left, right));
  return found == merges_.end() ? nullptr : &found->second;
}

// Merges the pair of lowest rank, leftmost first, until none is left. A heap of candidates keeps a long piece (a
// million letters without a space) at n log n; a candidate is stale when its symbols have changed since.
void Tokenizer::AppendPiece(std::string_view piece, std::vector<TokenId>* ids) const {
  struct Symbol {
    TokenId id;
    int64_t previous;
    int64_t next;  // -1: none
  };
  std::vector<Symbol> symbols;
  for (const char byte : piece) {
    const TokenId id = byte_ids_[static_cast<uint8_t>(byte)];
    if (id < 0) continue;
    const int64_t at = static_cast<int64_t>(symbols.size());
    if (at > 0) symbols.back().next = at;
    symbols.push_back({id, at - 1, -1});
  }
  using Candidate = std::tuple<int32_t, int64_t, TokenId, TokenId>;  // rank, position, left id, right id
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> candidates;
  const auto consider = [&](int64_t at) {
    if (at < 0 || symbols[at].next < 0) return;
    const TokenId right = symbols[symbols[at].next].id;
    if (const Merge* merge = FindMerge(symbols[at].id, right))
      candidates.emplace(merge->rank, at, symbols[at].id, right);
  };
  for (size_t at = 0; at < symbols.size(); ++at) consider(static_cast<int64_t>(at));
  while (!candidates.empty()) {
    const auto [rank, at, left, right] = candidates.top();
    candidates.pop();
    Symbol& symbol = symbols[at];
    if (symbol.id != left || symbol.next < 0 || symbols[symbol.next].id != right) continue;
    Symbol& merged = symbols[symbol.next];
    symbol.id = FindMerge(left, right)->id;
    merged.id = -1;
    symbol.next = merged.next;
    if (symbol.next >= 0) symbols[symbol.next].previous = at;
    consider(symbol.previous);
    consider(at);
  }
  for (const Symbol& symbol : symbols) {
    if (symbol.id >= 0) ids->push_back(symbol.id);
  }
}

Status Tokenizer::AppendText(std::string_view text, std::vector<TokenId>* ids) const {
  const std::unique_ptr<pcre2_match_data, void (*)(pcre2_match_data*)> match(pcre2_match_data_create(1, nullptr),
                                                                             pcre2_match_data_free);
  if (!match) return Status(StatusCode::kResourceExhausted, "tokenizer: no memory", StatusDetail::kNoMemory);
  std::unordered_map<std::string, std::vector<TokenId>> seen;  // words repeat
  size_t at = 0;
  while (at < text.size()) {
    const int found = pcre2_match(pattern_->code, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), at,
                                  PCRE2_NO_UTF_CHECK, match.get(), nullptr);
    if (found < 0) return Status(StatusCode::kInternal, "tokenizer: PCRE2 error " + std::to_string(found));
    const size_t* range = pcre2_get_ovector_pointer(match.get());
    const auto [entry, fresh] = seen.try_emplace(std::string(text.substr(range[0], range[1] - range[0])));
    if (fresh) AppendPiece(entry->first, &entry->second);
    ids->insert(ids->end(), entry->second.begin(), entry->second.end());
    at = range[1];
  }
  return OkStatus();
}

TokenId Tokenizer::FindSpecial(std::string_view text) const {
  for (const auto& [name, id] : special_) {
    if (text.substr(0, name.size()) == name) return id;
  }
  return -1;
}

Result<std::vector<TokenId>> Tokenizer::Encode(std::string_view text, Special special) const {
  const size_t invalid = FirstInvalidUtf8(text);
  if (invalid < text.size()) return InvalidArgument("text is not UTF-8 at byte " + std::to_string(invalid));
  std::vector<TokenId> ids;
  size_t plain = 0;  // start of the plain text that is not encoded yet
  if (special == Special::kToken) {
    for (size_t at = 0; at < text.size();) {
      const TokenId id = FindSpecial(text.substr(at));
      if (id < 0) {
        ++at;
        continue;
      }
      SWELL_RETURN_IF_ERROR(AppendText(text.substr(plain, at - plain), &ids));
      ids.push_back(id);
      at += bytes_[static_cast<size_t>(id)].size();
      plain = at;
    }
  }
  SWELL_RETURN_IF_ERROR(AppendText(text.substr(plain), &ids));
  return ids;
}

Result<std::string> Tokenizer::Decode(std::span<const TokenId> ids) const {
  std::string bytes;
  for (const TokenId id : ids) {
    if (id < 0 || id >= size()) return InvalidArgument("token " + std::to_string(id) + " is not of the vocabulary");
    bytes += Bytes(id);
  }
  std::string text;
  MoveCharacters(&bytes, true, &text);
  return text;
}

std::string TextStream::Push(TokenId id) {
  pending_ += tokenizer_.Bytes(id);
  std::string text;
  MoveCharacters(&pending_, false, &text);
  return text;
}

std::string TextStream::Finish() {
  std::string text;
  MoveCharacters(&pending_, true, &text);
  return text;
}

}  // namespace swell::model
