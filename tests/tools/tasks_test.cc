#include "tools/tasks/tasks.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <regex>
#include <set>
#include <string>

#include "tools/tasks/random.h"

namespace swell::tasks {
namespace {

// One token per byte, so that contexts can be read back as text; the corpus consists of the letters A to Z.
TokenIds Bytes(std::string_view text) { return TokenIds(text.begin(), text.end()); }
std::string Text(const TokenIds& ids) { return std::string(ids.begin(), ids.end()); }
TokenIds Corpus(int64_t tokens) {
  TokenIds corpus(tokens);
  for (int64_t i = 0; i < tokens; ++i) corpus[i] = static_cast<int32_t>('A' + i % 26);
  return corpus;
}

Exam Make(Kind kind, int64_t tokens, int64_t questions, uint64_t seed) {
  Result<Exam> exam = MakeExam(kind, Bytes, Corpus(20000), tokens, questions, seed);
  EXPECT_TRUE(exam.ok()) << exam.status().message();
  return exam.ok() ? exam.value() : Exam();
}

TEST(RandomTest, FollowsSplitMix64) {
  Random random(0);
  EXPECT_EQ(random.Next(), 0xE220A8397B1DCDAFULL);  // published first outputs for seed 0
  EXPECT_EQ(random.Next(), 0x6E789E6AA1B965F4ULL);
  EXPECT_EQ(random.Next(), 0x06C45D188009454FULL);
}

TEST(RandomTest, BelowCoversItsRangeEvenly) {
  Random random(7);
  int64_t counts[7] = {};
  for (int i = 0; i < 70000; ++i) {
    const int64_t draw = random.Below(7);
    ASSERT_GE(draw, 0);
    ASSERT_LT(draw, 7);
    ++counts[draw];
  }
  for (int64_t count : counts) EXPECT_NEAR(count, 10000, 500);
}

TEST(TasksTest, NamesRoundTrip) {
  for (Kind kind : {Kind::kNeedles, Kind::kLines, Kind::kRecall, Kind::kText}) {
    EXPECT_EQ(ParseKind(KindName(kind)), kind);
  }
  EXPECT_FALSE(ParseKind("needle").has_value());
  EXPECT_FALSE(ParseKind("").has_value());
}

TEST(TasksTest, SameArgumentsSameExamOtherSeedOtherExam) {
  for (Kind kind : {Kind::kNeedles, Kind::kLines, Kind::kRecall, Kind::kText}) {
    const Exam one = Make(kind, 8192, 8, 3), two = Make(kind, 8192, 8, 3), other = Make(kind, 8192, 8, 4);
    EXPECT_EQ(one.context, two.context) << KindName(kind);
    ASSERT_EQ(one.questions.size(), two.questions.size());
    for (size_t i = 0; i < one.questions.size(); ++i) {
      EXPECT_EQ(one.questions[i].prompt, two.questions[i].prompt);
      EXPECT_EQ(one.questions[i].answer, two.questions[i].answer);
    }
    EXPECT_NE(one.context, other.context) << KindName(kind);
  }
}

TEST(TasksTest, NeedlesAreInTheContextOnceAndAskedInTheSameWords) {
  const Exam exam = Make(Kind::kNeedles, 8192, 16, 1);
  const std::string text = Text(exam.context);
  ASSERT_EQ(exam.questions.size(), 16U);
  const std::regex ask("What is the ([a-z]+ [a-z]+) of the ([a-z]+ [a-z]+)\\?");
  std::set<std::string> asked;
  for (const Question& question : exam.questions) {
    std::smatch words;
    ASSERT_TRUE(std::regex_match(question.ask, words, ask)) << question.ask;
    EXPECT_TRUE(asked.insert(question.ask).second) << "asked twice: " << question.ask;
    const std::string of = words[1].str() + " of the " + words[2].str();
    const std::string fact = "\n\nThe " + of + " is " + question.expected + ".\n\n";
    EXPECT_EQ(text.find(fact), static_cast<size_t>(question.where));
    EXPECT_EQ(text.find("The " + of + " is ", question.where + fact.size()), std::string::npos);
    EXPECT_EQ(Text(question.prompt), "\n\nQuestion: " + question.ask + "\nAnswer: The " + of + " is");
    EXPECT_EQ(Text(question.answer), " " + question.expected);
    EXPECT_TRUE(std::regex_match(question.expected, std::regex("[0-9]{6}")));
  }
}

TEST(TasksTest, LinesHoldEveryAnswer) {
  const Exam exam = Make(Kind::kLines, 4096, 32, 2);
  const std::string text = Text(exam.context);
  EXPECT_TRUE(std::regex_match(text, std::regex("([a-hj-km-np-z]{5}: [0-9]{6}\n)+")));
  EXPECT_GE(exam.context.size(), 4096U - 64U);
  EXPECT_LT(exam.context.size(), 4096U);
  ASSERT_EQ(exam.questions.size(), 32U);
  for (const Question& question : exam.questions) {
    const std::string prompt = Text(question.prompt);
    ASSERT_EQ(prompt.rfind("\nLook up ", 0), 0U);
    const std::string key = prompt.substr(9, 5);
    EXPECT_EQ(text.substr(question.where, 14), key + ": " + question.expected + "\n");
    EXPECT_EQ(Text(question.answer), question.expected);
  }
}

TEST(TasksTest, RecallQuotesTheContextAndAsksWhatFollows) {
  const Exam exam = Make(Kind::kRecall, 4096, 8, 5);
  const std::string mark = "\n\nRecall the passage: ";
  ASSERT_EQ(exam.questions.size(), 8U);
  EXPECT_EQ(exam.context.size(), 4096U - 64U);
  for (const Question& question : exam.questions) {
    const TokenIds shown(question.prompt.begin() + static_cast<int64_t>(mark.size()), question.prompt.end());
    ASSERT_EQ(shown.size(), 12U);
    ASSERT_EQ(question.answer.size(), 16U);
    const auto at = exam.context.begin() + question.where;
    EXPECT_TRUE(std::equal(shown.begin(), shown.end(), at));
    EXPECT_TRUE(std::equal(question.answer.begin(), question.answer.end(), at + 12));
  }
}

TEST(TasksTest, TextGoesOn) {
  const Exam exam = Make(Kind::kText, 4096, 8, 5);
  ASSERT_EQ(exam.questions.size(), 1U);
  TokenIds all = exam.context;
  all.insert(all.end(), exam.questions[0].prompt.begin(), exam.questions[0].prompt.end());
  all.insert(all.end(), exam.questions[0].answer.begin(), exam.questions[0].answer.end());
  for (size_t i = 1; i < all.size(); ++i) ASSERT_EQ((all[i] - all[i - 1] + 26) % 26, 1) << i;
}

TEST(TasksTest, RefusesWhatCannotBe) {
  const auto code = [](int64_t corpus, int64_t tokens, int64_t questions, Kind kind = Kind::kNeedles) {
    return MakeExam(kind, Bytes, Corpus(corpus), tokens, questions, 0).status();
  };
  EXPECT_EQ(code(20000, 1023, 4).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(code(20000, 2048, 0).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(code(100, 2048, 4).message(), "the text has 100 tokens, 1280 are needed");
  EXPECT_EQ(code(100, 2048, 4, Kind::kText).code(), StatusCode::kInvalidArgument);
  EXPECT_TRUE(code(100, 2048, 4, Kind::kLines).ok());  // needs no text
}

}  // namespace
}  // namespace swell::tasks
