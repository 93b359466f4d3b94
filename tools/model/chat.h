// How a model marks who says what: ChatML, as the chat template in its GGUF file spells it.
//
// "<|im_start|>ROLE\nCONTENT<|im_end|>\n". Const after construction: any thread may use it.
#ifndef SWELL_TOOLS_MODEL_CHAT_H_
#define SWELL_TOOLS_MODEL_CHAT_H_

#include <string>
#include <string_view>
#include <vector>

#include "swell/status.h"
#include "tools/model/tokenizer.h"

namespace swell::model {

class ChatTemplate {
 public:
  // `text` is the file's tokenizer.chat_template. kUnimplemented when it is empty or not ChatML, or when the vocabulary
  // lacks its marks. The tokenizer must outlive the template.
  static Result<ChatTemplate> Parse(std::string_view text, const Tokenizer& tokenizer);

  // What the template says as the system where a conversation begins without it; may be empty.
  const std::string& default_system() const { return default_system_; }

  // A message that is not closed yet: the model goes on where `content` ends. Marks that stand in the content are plain
  // characters. kInvalidArgument when it is not UTF-8.
  Result<std::vector<TokenId>> Open(std::string_view role, std::string_view content) const;
  // Ends a message.
  const std::vector<TokenId>& Close() const { return close_; }
  // The token with which the model ends its own.
  TokenId end() const { return close_.front(); }

 private:
  explicit ChatTemplate(const Tokenizer& tokenizer) : tokenizer_(&tokenizer) {}

  const Tokenizer* tokenizer_;
  std::string default_system_;
  TokenId start_ = -1;
  std::vector<TokenId> close_;
};

}  // namespace swell::model

#endif  // SWELL_TOOLS_MODEL_CHAT_H_
