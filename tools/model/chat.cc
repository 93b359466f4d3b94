#include "tools/model/chat.h"

namespace swell::model {
namespace {

constexpr std::string_view kStart = "<|im_start|>";
constexpr std::string_view kEnd = "<|im_end|>";

Status Unknown(const std::string& what) { return Status(StatusCode::kUnimplemented, "chat template: " + what); }

// The token of a mark, -1 when the vocabulary has none.
Result<TokenId> Mark(const Tokenizer& tokenizer, std::string_view mark) {
  const Result<std::vector<TokenId>> ids = tokenizer.Encode(mark, Tokenizer::Special::kToken);
  if (!ids.ok()) return ids.status();
  if (ids.value().size() != 1) return Unknown("the vocabulary has no token " + std::string(mark));
  return ids.value().front();
}

// The system message that the template spells out. Templates have a line's end as it is or as the escape \n; one that
// takes the message from the conversation leaves the quotes here.
std::string SystemOf(std::string_view text) {
  const std::string opening = std::string(kStart) + "system";
  const size_t start = text.find(opening);
  if (start == std::string_view::npos) return "";
  text.remove_prefix(start + opening.size());
  if (text.starts_with("\n")) {
    text.remove_prefix(1);
  } else if (text.starts_with("\\n")) {
    text.remove_prefix(2);
  }
  text = text.substr(0, text.find(kEnd));
  return text.find_first_of("'\"{}") == std::string_view::npos ? std::string(text) : "";
}

}  // namespace

Result<ChatTemplate> ChatTemplate::Parse(std::string_view text, const Tokenizer& tokenizer) {
  if (text.empty()) return Unknown("the model's file has none: it is not made for conversation");
  if (text.find(kStart) == std::string_view::npos || text.find(kEnd) == std::string_view::npos) {
    return Unknown("only ChatML (<|im_start|>, <|im_end|>) is known; the model's file has another one");
  }
  ChatTemplate chat(tokenizer);
  const Result<TokenId> start = Mark(tokenizer, kStart);
  if (!start.ok()) return start.status();
  const Result<TokenId> end = Mark(tokenizer, kEnd);
  if (!end.ok()) return end.status();
  const Result<std::vector<TokenId>> line = tokenizer.Encode("\n");
  if (!line.ok()) return line.status();
  chat.start_ = start.value();
  chat.close_ = {end.value()};
  chat.close_.insert(chat.close_.end(), line.value().begin(), line.value().end());
  chat.default_system_ = SystemOf(text);
  return chat;
}

Result<std::vector<TokenId>> ChatTemplate::Open(std::string_view role, std::string_view content) const {
  Result<std::vector<TokenId>> ids = tokenizer_->Encode(std::string(role) + "\n" + std::string(content));
  if (ids.ok()) ids.value().insert(ids.value().begin(), start_);
  return ids;
}

}  // namespace swell::model
