// swell run: reads a text once and answers questions twice.
#include "tools/swell/run.h"

#include <algorithm>
#include <chrono>
#include <iostream>
#include <memory>
#include <optional>
#include <utility>

#include "tools/report/file.h"
#include "tools/report/format.h"
#include "tools/swell/command.h"
#include "tools/swell/runtime.h"
#include "tools/swell/terminal.h"
#include "tools/tasks/tasks.h"

namespace swell::cli {
namespace {

constexpr AttendMode kModes[] = {AttendMode::kExact, AttendMode::kRetrieve};
constexpr int64_t kMaxTokens = 131072;
constexpr int64_t kSpeedSteps = 7;   // decoded for one measurement; the first is not counted
constexpr int64_t kFactTokens = 12;  // generated for a planted fact: a space, six digits, and some more
constexpr size_t kAuditedQuestions = 4;

struct Options {
  RuntimeOptions runtime;
  std::string text = "tools/assets/prideprejudice.txt";
  std::vector<std::string> ask;
  int64_t tokens = 16384;
  int64_t questions = 8;
  int64_t answer_tokens = 48;
  uint64_t seed = 0;
  float retrieve_above = RetrievalOptions().retrieve_above;
  std::string report = "swell-report.html";
  std::string json;
};

// The context and the questions: planted facts, or what the user asks of the plain text.
Result<tasks::Exam> MakeExam(const Runtime& runtime, const Options& options) {
  Result<TokenIds> text = runtime.ReadText(options.text);
  if (!text.ok()) return text.status();
  const int64_t tokens = std::min<int64_t>(options.tokens, static_cast<int64_t>(text.value().size()));
  Status failed;
  const tasks::Encode encode = [&](std::string_view part) {
    Result<TokenIds> ids = runtime.Encode(part);
    if (!ids.ok()) failed = ids.status();
    return ids.ok() ? ids.value() : TokenIds();
  };
  if (options.ask.empty()) {
    if (tokens < tasks::kMinTokens) {
      return InvalidArgument("'" + options.text + "' has only " + report::FormatCount(tokens) +
                             " tokens; to plant facts it needs " + report::FormatCount(tasks::kMinTokens));
    }
    return tasks::MakeExam(tasks::Kind::kNeedles, encode, text.value(), tokens, options.questions, options.seed);
  }
  tasks::Exam exam;
  exam.context.assign(text.value().begin(), text.value().begin() + tokens);
  for (const std::string& ask : options.ask) {
    tasks::Question question;
    question.ask = ask;
    question.prompt = encode(tasks::QuestionPrompt(ask));
    exam.questions.push_back(std::move(question));
  }
  if (!failed.ok()) return InvalidArgument("--question: " + failed.message());
  return exam;
}

Status MeasureSpeed(Runtime& runtime, const model::Session& session, Speed& speed) {
  SWELL_RETURN_IF_ERROR(runtime.engine().WaitSealed(session.sequence()));
  speed.tokens = session.length();
  const TokenIds ids(kSpeedSteps, runtime.model().tokenizer().Encode(" the").value().front());
  for (size_t side = 0; side < 2; ++side) {
    const Result<Times> steps = MeasureSteps(runtime, session, ids, kModes[side]);
    if (!steps.ok()) return steps.status();
    speed.steps[side] = steps.value();
  }
  return OkStatus();
}

// Reads the context and stops at an eighth, a quarter, a half and the end to measure.
Status ReadAndMeasure(Runtime& runtime, model::Session& session, const TokenIds& context, RunResult& result) {
  Progress progress("reading", static_cast<int64_t>(context.size()));
  for (const int64_t part : {8, 4, 2, 1}) {
    const auto start = std::chrono::steady_clock::now();
    const int64_t end = static_cast<int64_t>(context.size()) / part;
    SWELL_RETURN_IF_ERROR(
        ReadContext(session, std::span(context).subspan(session.length(), end - session.length()), progress));
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
    result.read_seconds += elapsed.count();
    Speed speed;
    SWELL_RETURN_IF_ERROR(MeasureSpeed(runtime, session, speed));
    result.speeds.push_back(speed);
  }
  return OkStatus();
}

bool IsRight(const std::string& answer, const std::string& expected) {
  if (answer.compare(0, expected.size(), expected) != 0) return false;
  return answer.size() == expected.size() || answer[expected.size()] < '0' || answer[expected.size()] > '9';
}

// What the model generated, as a reader wants it: without the space before and, for a planted fact, the first word.
std::string AnswerText(const Runtime& runtime, const TokenIds& ids, bool fact) {
  std::string text = runtime.Decode(ids);
  text.erase(0, text.find_first_not_of(' '));
  if (fact) text.resize(std::min(text.size(), text.find_first_of(" .,;")));
  return text;
}

Status Answer(Runtime& runtime, const model::Session& session, const tasks::Question& question,
              const GenerateOptions& generate, AttendMode mode, Side& side, TokenIds& ids) {
  Result<Generation> generation = Generate(runtime, session, question.prompt, generate, mode);
  if (!generation.ok()) return generation.status();
  ids = generation.value().ids;
  const bool fact = !question.expected.empty();
  side.answers.push_back(AnswerText(runtime, ids, fact));
  if (fact) side.right.push_back(IsRight(side.answers.back(), question.expected));
  side.tokens += static_cast<int64_t>(ids.size());
  for (double seconds : generation.value().step_seconds) side.seconds += seconds;
  for (double seconds : generation.value().attend_seconds) side.attend_seconds += seconds;
  side.readings.resize(runtime.probe().readings().size());
  for (size_t i = 0; i < side.readings.size(); ++i) side.readings[i] += runtime.probe().readings()[i];
  return OkStatus();
}

Status AnswerAll(Runtime& runtime, const model::Session& session, const tasks::Exam& exam, const Options& options,
                 RunResult& result) {
  result.sides[0].name = "exact attention";
  result.sides[1].name = "wave index";
  result.audit.resize(runtime.probe().readings().size());
  GenerateOptions generate;
  generate.max_tokens = options.ask.empty() ? kFactTokens : options.answer_tokens;
  Progress progress("answering", static_cast<int64_t>(exam.questions.size()));
  for (size_t q = 0; q < exam.questions.size(); ++q) {
    const tasks::Question& question = exam.questions[q];
    std::array<TokenIds, 2> ids;
    for (size_t side = 0; side < 2; ++side) {
      SWELL_RETURN_IF_ERROR(Answer(runtime, session, question, generate, kModes[side], result.sides[side], ids[side]));
    }
    result.questions.push_back(question.ask);
    result.expected.push_back(question.expected);
    progress.Update(static_cast<int64_t>(q) + 1);
    if (q >= kAuditedQuestions || ids[0].empty()) continue;
    runtime.probe().Start(Watch::kErrors);
    const Result<Score> audited = ScoreAnswer(session, question.prompt, ids[0], AttendMode::kRetrieve);
    if (!audited.ok()) return audited.status();
    for (size_t i = 0; i < result.audit.size(); ++i) result.audit[i] += runtime.probe().readings()[i];
  }
  return OkStatus();
}

Status MeasureMemory(Engine& engine, SequenceId sequence, RunResult& result) {
  const ModelShape& shape = engine.shape();
  const double row = 2.0 * shape.kv_heads * shape.head_dim * static_cast<double>(DTypeSize(shape.storage));
  double rows = 0, index = 0;
  for (int32_t layer = 0; layer < shape.layers; ++layer) {
    const Result<LayerInfo> info = engine.Inspect(sequence, layer);
    if (!info.ok()) return info.status();
    rows += row * static_cast<double>(info.value().tokens);
    for (const SegmentInfo& segment : info.value().segments) index += static_cast<double>(segment.index_bytes);
  }
  result.sides[0].memory_bytes = rows;
  result.sides[1].memory_bytes = rows + index;
  return OkStatus();
}

Status RunRun(const Options& options) {
  for (const std::string& path : {options.report, options.json}) {
    if (!path.empty()) SWELL_RETURN_IF_ERROR(report::CheckWritable(path));
  }
  Result<SequenceOptions> preset = SequencePreset("swell");
  if (!preset.ok()) return preset.status();
  preset.value().retrieval.retrieve_above = options.retrieve_above;
  Result<std::unique_ptr<Runtime>> opened = Runtime::Open(options.runtime, false);
  if (!opened.ok()) return opened.status();
  Runtime& runtime = *opened.value();
  const Result<tasks::Exam> exam = MakeExam(runtime, options);
  if (!exam.ok()) return exam.status();
  size_t longest = 0;
  for (const tasks::Question& question : exam.value().questions) longest = std::max(longest, question.prompt.size());
  SWELL_RETURN_IF_ERROR(runtime.CheckLength(static_cast<int64_t>(exam.value().context.size() + longest) +
                                            (options.ask.empty() ? kFactTokens : options.answer_tokens)));
  Result<model::Session> session = runtime.CreateSession(preset.value());
  if (!session.ok()) return session.status();

  RunResult result;
  result.text = options.text;
  result.report = options.report;
  result.tokens = static_cast<int64_t>(exam.value().context.size());
  result.facts = exam.value().facts;
  result.layers = runtime.engine().shape().layers;
  result.kv_heads = runtime.engine().shape().kv_heads;
  result.group = runtime.engine().shape().group;
  SWELL_RETURN_IF_ERROR(ReadAndMeasure(runtime, session.value(), exam.value().context, result));
  SWELL_RETURN_IF_ERROR(AnswerAll(runtime, session.value(), exam.value(), options, result));
  SWELL_RETURN_IF_ERROR(MeasureMemory(runtime.engine(), session.value().sequence(), result));
  SWELL_RETURN_IF_ERROR(report::WriteFile(options.report, RunHtml(result)));
  if (!options.json.empty()) SWELL_RETURN_IF_ERROR(report::WriteFile(options.json, RunJson(result)));
  PrintRun(result, std::cout);
  return OkStatus();
}

}  // namespace

Command AddRun(CLI::App& program) {
  auto options = std::make_shared<Options>();
  CLI::App* app = program.add_subcommand(
      "run", "Read a text once, then answer questions with exact attention and with the wave index, side by side");
  app->add_option("--text", options->text, "UTF-8 text to read")->capture_default_str();
  app->add_option("--tokens", options->tokens, "Tokens of it to read")
      ->check(CLI::Range(int64_t{tasks::kMinTokens}, kMaxTokens))
      ->capture_default_str();
  app->add_option(
      "--question", options->ask,
      "A question about the text, may be given more than once; without it facts are planted in the text and "
      "asked for");
  app->add_option("--questions", options->questions, "How many planted facts are asked for")
      ->check(CLI::Range(1, 160))
      ->capture_default_str();
  app->add_option("--answer-tokens", options->answer_tokens, "Longest answer to a --question, in tokens")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  app->add_option("--seed", options->seed, "Chooses the passage, the facts and the questions")->capture_default_str();
  app->add_option("--retrieve-above", options->retrieve_above,
                  "Share of the attention mass that a token may hold for its cluster to be read exactly")
      ->check(CLI::Range(1e-6, 0.99))
      ->capture_default_str();
  app->add_option("--report", options->report, "HTML page with the plots")->capture_default_str();
  app->add_option("--json", options->json, "Write everything to this file, too");
  AddRuntimeOptions(*app, options->runtime);
  return {app, [options] { return RunRun(*options); }};
}

}  // namespace swell::cli
