// Long-context tasks over real text: one context, and independent questions about it.
//
//   needles  facts planted in a text, among others that differ in one word ("The secret code of the calm otter is ...")
//   lines    a long list of keys and values, then a look-up
//   recall   the continuation of a passage that is quoted from somewhere in the text
//   text     the text simply goes on
//
// A question's answer is scored after `prompt`, on a fork of the sequence that has read `context`.
#ifndef SWELL_TOOLS_TASKS_TASKS_H_
#define SWELL_TOOLS_TASKS_TASKS_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "swell/status.h"

namespace swell::tasks {

using TokenIds = std::vector<int32_t>;
using Encode = std::function<TokenIds(std::string_view)>;

enum class Kind { kNeedles, kLines, kRecall, kText };

std::optional<Kind> ParseKind(std::string_view name);
const char* KindName(Kind kind);

struct Question {
  TokenIds prompt;
  TokenIds answer;
  int64_t where = 0;     // position of the fact, the line or the passage in the context
  std::string ask;       // for a reader: what is asked; empty for recall and text
  std::string expected;  // for a reader: the answer; empty for recall and text
};

struct Exam {
  TokenIds context;
  std::vector<Question> questions;
  int64_t facts = 0;  // facts or lines that the context holds; 0 for recall and text
};

// A context of about `tokens` tokens (a little less) and up to `questions` questions; text has one question whatever is
// asked for. The result depends on the arguments alone. kInvalidArgument when `tokens` is below kMinTokens,
// `questions` below 1, or the corpus has too few tokens.
inline constexpr int64_t kMinTokens = 1024;
Result<Exam> MakeExam(Kind kind, const Encode& encode, std::span<const int32_t> corpus, int64_t tokens,
                      int64_t questions, uint64_t seed);

// The prompt that asks a free question.
std::string QuestionPrompt(std::string_view question);

}  // namespace swell::tasks

#endif  // SWELL_TOOLS_TASKS_TASKS_H_
