#include "tools/tasks/tasks.h"

#include <algorithm>
#include <set>
#include <string>
#include <utility>

#include "tools/tasks/random.h"
#include "tools/tasks/words.h"

namespace swell::tasks {
namespace {

constexpr int64_t kReserve = 64;       // tokens kept free for question and answer
constexpr int64_t kNeedleTokens = 22;  // a planted fact, rounded up
constexpr int64_t kMaxNeedles = 160;
constexpr int64_t kPassageShown = 12;  // recall: tokens quoted, tokens asked for
constexpr int64_t kPassageAsked = 16;
constexpr int64_t kPassageMargin = 600;  // recall: the end of the context is too easy
constexpr int64_t kTextShown = 8;
constexpr int64_t kTextAsked = 48;

constexpr Kind kKinds[] = {Kind::kNeedles, Kind::kLines, Kind::kRecall, Kind::kText};

struct Writer {
  const Encode& encode;
  std::span<const int32_t> corpus;
  Random random;

  template <typename Words>
  std::string Pick(const Words& words) {
    return words[random.Below(static_cast<int64_t>(words.size()))];
  }
  std::string Name() {
    std::string name = Pick(kAdjectives);
    return name + " " + Pick(kNouns);
  }
  std::string Digits() {
    std::string digits;
    for (int i = 0; i < 6; ++i) digits += static_cast<char>('0' + random.Below(10));
    return digits;
  }
  std::string Key() {
    std::string key;
    for (int i = 0; i < 5; ++i) key += kKeyLetters[random.Below(sizeof(kKeyLetters) - 1)];
    return key;
  }
  // `tokens` consecutive tokens of the corpus, from anywhere.
  Result<TokenIds> Passage(int64_t tokens) {
    const auto available = static_cast<int64_t>(corpus.size());
    if (available < tokens) {
      return InvalidArgument("the text has " + std::to_string(available) + " tokens, " + std::to_string(tokens) +
                             " are needed");
    }
    const int64_t start = available > tokens ? random.Below(available - tokens) : 0;
    return TokenIds(corpus.begin() + start, corpus.begin() + start + tokens);
  }
  // A random choice of `wanted` out of 0 .. count - 1, in random order.
  std::vector<int64_t> Choose(int64_t count, int64_t wanted) {
    std::vector<int64_t> all(count);
    for (int64_t i = 0; i < count; ++i) all[i] = i;
    wanted = std::min(wanted, count);
    for (int64_t i = 0; i < wanted; ++i) std::swap(all[i], all[i + random.Below(count - i)]);
    all.resize(wanted);
    return all;
  }
};

void Append(TokenIds& ids, const TokenIds& more) { ids.insert(ids.end(), more.begin(), more.end()); }

TokenIds Slice(const TokenIds& ids, int64_t start, int64_t count) {
  return TokenIds(ids.begin() + start, ids.begin() + start + count);
}

struct Fact {
  std::string secret, name, value;
  int64_t where;
};

Question AskFact(const Encode& encode, const Fact& fact) {
  const std::string of = fact.secret + " of the " + fact.name;
  Question question;
  question.ask = "What is the " + of + "?";
  question.expected = fact.value;
  question.prompt = encode("\n\nQuestion: " + question.ask + "\nAnswer: The " + of + " is");
  question.answer = encode(" " + fact.value);
  question.where = fact.where;
  return question;
}

Result<Exam> Needles(Writer& writer, int64_t tokens, int64_t questions) {
  const int64_t count = std::min(kMaxNeedles, tokens / 64);
  Result<TokenIds> passage = writer.Passage(tokens - count * kNeedleTokens - kReserve);
  if (!passage.ok()) return passage.status();
  const TokenIds& body = passage.value();
  std::vector<int64_t> places(count);
  for (int64_t& place : places) place = writer.random.Below(static_cast<int64_t>(body.size()));
  std::sort(places.begin(), places.end());

  Exam exam;
  std::vector<Fact> facts;
  std::set<std::string> seen;
  int64_t at = 0;
  for (int64_t place : places) {
    Append(exam.context, Slice(body, at, place - at));
    at = place;
    Fact fact;
    fact.secret = writer.Pick(kSecrets);
    fact.name = writer.Name();
    if (!seen.insert(fact.secret + "/" + fact.name).second) continue;
    fact.value = writer.Digits();
    fact.where = static_cast<int64_t>(exam.context.size());
    Append(exam.context,
           writer.encode("\n\nThe " + fact.secret + " of the " + fact.name + " is " + fact.value + ".\n\n"));
    facts.push_back(std::move(fact));
  }
  Append(exam.context, Slice(body, at, static_cast<int64_t>(body.size()) - at));
  exam.facts = static_cast<int64_t>(facts.size());
  for (int64_t i : writer.Choose(exam.facts, questions)) {
    exam.questions.push_back(AskFact(writer.encode, facts[i]));
  }
  return exam;
}

Exam Lines(Writer& writer, int64_t tokens, int64_t questions) {
  Exam exam;
  std::vector<Fact> facts;
  while (static_cast<int64_t>(exam.context.size()) < tokens - kReserve) {
    Fact fact;
    fact.name = writer.Key();
    fact.value = writer.Digits();
    fact.where = static_cast<int64_t>(exam.context.size());
    Append(exam.context, writer.encode(fact.name + ": " + fact.value + "\n"));
    facts.push_back(std::move(fact));
  }
  exam.facts = static_cast<int64_t>(facts.size());
  for (int64_t i : writer.Choose(exam.facts, questions)) {
    Question question;
    question.ask = "Look up " + facts[i].name;
    question.expected = facts[i].value;
    question.prompt = writer.encode("\nLook up " + facts[i].name + ": ");
    question.answer = writer.encode(facts[i].value);
    question.where = facts[i].where;
    exam.questions.push_back(std::move(question));
  }
  return exam;
}

Result<Exam> Recall(Writer& writer, int64_t tokens, int64_t questions) {
  Result<TokenIds> passage = writer.Passage(tokens - kReserve);
  if (!passage.ok()) return passage.status();
  Exam exam;
  exam.context = std::move(passage.value());
  const TokenIds mark = writer.encode("\n\nRecall the passage: ");
  for (int64_t i = 0; i < questions; ++i) {
    Question question;
    question.where = writer.random.Below(static_cast<int64_t>(exam.context.size()) - kPassageMargin);
    question.prompt = mark;
    Append(question.prompt, Slice(exam.context, question.where, kPassageShown));
    question.answer = Slice(exam.context, question.where + kPassageShown, kPassageAsked);
    exam.questions.push_back(std::move(question));
  }
  return exam;
}

Result<Exam> Text(Writer& writer, int64_t tokens) {
  Result<TokenIds> passage = writer.Passage(tokens);
  if (!passage.ok()) return passage.status();
  const TokenIds& body = passage.value();
  Exam exam;
  exam.context = Slice(body, 0, tokens - kReserve);
  Question question;
  question.prompt = Slice(body, tokens - kReserve, kTextShown);
  question.answer = Slice(body, tokens - kReserve + kTextShown, kTextAsked);
  exam.questions.push_back(std::move(question));
  return exam;
}

}  // namespace

const char* KindName(Kind kind) {
  switch (kind) {
    case Kind::kNeedles:
      return "needles";
    case Kind::kLines:
      return "lines";
    case Kind::kRecall:
      return "recall";
    case Kind::kText:
      return "text";
  }
  return "";
}

std::optional<Kind> ParseKind(std::string_view name) {
  for (Kind kind : kKinds) {
    if (name == KindName(kind)) return kind;
  }
  return std::nullopt;
}

Result<Exam> MakeExam(Kind kind, const Encode& encode, std::span<const int32_t> corpus, int64_t tokens,
                      int64_t questions, uint64_t seed) {
  if (tokens < kMinTokens) return InvalidArgument("tokens must be at least " + std::to_string(kMinTokens));
  if (questions < 1) return InvalidArgument("questions must be at least 1");
  Writer writer{encode, corpus, Random(seed * 4 + static_cast<uint64_t>(kind))};
  switch (kind) {
    case Kind::kNeedles:
      return Needles(writer, tokens, questions);
    case Kind::kLines:
      return Lines(writer, tokens, questions);
    case Kind::kRecall:
      return Recall(writer, tokens, questions);
    case Kind::kText:
      return Text(writer, tokens);
  }
  return InvalidArgument("unknown task");
}

std::string QuestionPrompt(std::string_view question) { return "\n\nQuestion: " + std::string(question) + "\nAnswer:"; }

}  // namespace swell::tasks
