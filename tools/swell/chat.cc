// swell chat: a conversation with the model, a line a turn, on the wave index.
#include "tools/model/chat.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <iostream>
#include <memory>
#include <utility>

#include "swell/metrics.h"
#include "tools/model/sampler.h"
#include "tools/report/file.h"
#include "tools/report/format.h"
#include "tools/swell/command.h"
#include "tools/swell/json.h"
#include "tools/swell/runtime.h"
#include "tools/swell/terminal.h"

namespace swell::cli {
namespace {

constexpr int64_t kMaxTokens = 131072;
constexpr size_t kMaxLineBytes = 1 << 20;

struct Options {
  RuntimeOptions runtime;
  std::string text;
  int64_t tokens = 16384;
  std::string system;
  bool own_system = false;  // --system was given; otherwise the model's own
  std::string mode = "wave";
  int64_t answer_tokens = 256;
  float temperature = 0;
  uint64_t seed = 0;
  bool json = false;
  std::string metrics;
};

// A question and its answer.
struct Turn {
  const char* end = "limit";  // or "model" where it ended its message, "interrupt" after Ctrl-C
  int64_t prompt_tokens = 0;
  int64_t answer_tokens = 0;
  int64_t context_tokens = 0;  // of the conversation, this turn included
  double prompt_seconds = 0;
  double answer_seconds = 0;
  model::Counters answering;  // what the answer's tokens were made from
  std::string answer;

  double tokens_per_second() const { return static_cast<double>(answer_tokens) / answer_seconds; }
  double share_read() const {
    return static_cast<double>(answering.tokens_read) / static_cast<double>(answering.tokens_visible);
  }
};

void Append(TokenIds& ids, const TokenIds& more) { ids.insert(ids.end(), more.begin(), more.end()); }

double Since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

class Conversation {
 public:
  Conversation(const Options& options, model::ChatTemplate chat, model::Session session)
      : chat_(std::move(chat)),
        session_(std::move(session)),
        mode_(options.mode == "wave" ? AttendMode::kRetrieve : AttendMode::kExact),
        answer_tokens_(options.answer_tokens),
        sampler_(options.temperature, options.seed) {}

  // The system's message, with a text that the conversation may be about, read with exact attention.
  Status Begin(const std::string& system, const TokenIds& text) {
    if (system.empty() && text.empty()) return OkStatus();
    Result<TokenIds> message = chat_.Open("system", text.empty() || system.empty() ? system : system + "\n\n");
    if (!message.ok()) return message.status();
    Append(message.value(), text);
    Append(message.value(), chat_.Close());
    Progress progress("reading", static_cast<int64_t>(message.value().size()));
    return ReadContext(session_, message.value(), progress);
  }

  // Every piece of the answer goes to `show` when it is there. After an error, and after Ctrl-C while the question is
  // read, the conversation is as before; after Ctrl-C later, the answer ends there.
  Result<Turn> Ask(const Runtime& runtime, const std::string& question,
                   const std::function<void(const std::string&)>& show) {
    TokenIds prompt = closing_;
    for (const auto& [role, content] : {std::pair("user", question), {"assistant", std::string()}}) {
      const Result<TokenIds> message = chat_.Open(role, content);
      if (!message.ok()) return message.status();
      Append(prompt, message.value());
      if (!content.empty()) Append(prompt, chat_.Close());
    }
    const int64_t before = session_.length();
    SWELL_RETURN_IF_ERROR(runtime.CheckLength(before + static_cast<int64_t>(prompt.size()) + 1));
    Turn turn;
    const InterruptNote interrupt;
    Status status = Read(prompt, interrupt, turn);
    if (status.ok()) status = Answer(interrupt, show, turn);
    if (status.ok()) {
      closing_ = chat_.Close();
    } else {
      SWELL_RETURN_IF_ERROR(session_.Truncate(before));
      if (status.code() != StatusCode::kCancelled) return status;
      turn.end = "interrupt";
    }
    turn.context_tokens = session_.length();
    return turn;
  }

 private:
  Status Read(const TokenIds& prompt, const InterruptNote& interrupt, Turn& turn) {
    const auto start = std::chrono::steady_clock::now();
    SWELL_RETURN_IF_ERROR(session_.Prefill(prompt, mode_, [&](int64_t) { return !interrupt.seen(); }));
    turn.prompt_tokens = static_cast<int64_t>(prompt.size());
    turn.prompt_seconds = Since(start);
    return OkStatus();
  }

  Status Answer(const InterruptNote& interrupt, const std::function<void(const std::string&)>& show, Turn& turn) {
    const model::Tokenizer& tokenizer = session_.model().tokenizer();
    model::TextStream stream(tokenizer);
    const auto tell = [&](const std::string& piece) {
      turn.answer += piece;
      show(piece);
    };
    session_.ResetCounters();
    const auto start = std::chrono::steady_clock::now();
    const int64_t room = session_.model().shape().context_tokens - session_.length();
    while (turn.answer_tokens < std::min(answer_tokens_, room)) {
      const int32_t id = sampler_.Next(session_.logits());
      const bool ended = id == chat_.end() || id == tokenizer.end_of_text();
      if (ended || interrupt.seen()) {
        turn.end = ended ? "model" : "interrupt";
        break;
      }
      tell(stream.Push(id));
      ++turn.answer_tokens;
      SWELL_RETURN_IF_ERROR(session_.Decode(id, mode_));
    }
    tell(stream.Finish());
    turn.answer_seconds = Since(start);
    turn.answering = session_.counters();
    return OkStatus();
  }

  const model::ChatTemplate chat_;
  model::Session session_;
  const AttendMode mode_;
  const int64_t answer_tokens_;
  model::Sampler sampler_;
  TokenIds closing_;  // what ends the answer before, read with the next question
};

// Reads a line without its end; false when there is none.
Result<bool> ReadLine(std::string& line) {
  line.clear();
  int byte = std::getchar();
  if (byte == EOF && std::ferror(stdin) == 0) return false;
  for (; byte != EOF && byte != '\n'; byte = std::getchar()) {
    if (line.size() == kMaxLineBytes) return InvalidArgument("a line of the input is longer than 1 MiB");
    line.push_back(static_cast<char>(byte));
  }
  if (std::ferror(stdin) != 0) return Status(StatusCode::kUnavailable, "cannot read standard input");
  if (!line.empty() && line.back() == '\r') line.pop_back();
  return true;
}

nlohmann::json ToJson(const Turn& turn, const std::string& question) {
  return {{"question", question},
          {"answer", turn.answer},
          {"end", turn.end},
          {"prompt_tokens", turn.prompt_tokens},
          {"answer_tokens", turn.answer_tokens},
          {"context_tokens", turn.context_tokens},
          {"prompt_seconds", turn.prompt_seconds},
          {"answer_seconds", turn.answer_seconds},
          {"tokens_per_second", turn.tokens_per_second()},
          {"share_read", turn.share_read()},
          {"bytes_read", turn.answering.bytes_read}};
}

std::string Summary(const Turn& turn) {
  using report::FormatFixed;
  if (turn.answer_tokens == 0) return std::string("[no answer: ended by the ") + turn.end + "]\n";
  return "[" + report::FormatCount(turn.answer_tokens) + " tokens, " + FormatFixed(turn.tokens_per_second(), 1) +
         " tokens per second, " + report::FormatPercent(turn.share_read()) + " of " +
         report::FormatCount(turn.context_tokens) + " tokens read]\n";
}

Status WriteMetrics(const Engine& engine, const std::string& path) {
  const Result<std::string> text = MetricsText(engine.Stats());
  if (!text.ok()) return text.status();
  return report::WriteFile(path, text.value());
}

// Answers line after line of standard input until it ends. On a terminal a turn that fails is reported and the
// conversation goes on.
Status Converse(Runtime& runtime, const Options& options, Conversation& conversation) {
  const bool terminal = isatty(STDIN_FILENO) == 1;
  const auto show = [&](const std::string& piece) {
    if (!options.json) std::cout << Printable(piece, "\n\t") << std::flush;
  };
  if (terminal) std::cerr << "A line is a question. Ctrl-C ends an answer, Ctrl-D the conversation.\n";
  std::string line;
  while (std::cout.good()) {
    if (terminal) std::cerr << "> " << std::flush;
    const Result<bool> more = ReadLine(line);
    if (!more.ok()) return more.status();
    if (!more.value()) break;
    if (line.find_first_not_of(" \t") == std::string::npos) continue;
    const Result<Turn> turn = conversation.Ask(runtime, line, show);
    if (!turn.ok()) {
      if (!terminal) return turn.status();
      std::cerr << "\n" << turn.status().message() << "\n";
      continue;
    }
    std::cout << (options.json ? JsonLine(ToJson(turn.value(), line)) : "\n" + Summary(turn.value()) + "\n")
              << std::flush;
    if (!options.metrics.empty()) SWELL_RETURN_IF_ERROR(WriteMetrics(runtime.engine(), options.metrics));
  }
  if (terminal) std::cerr << "\n";
  return OkStatus();
}

Status RunChat(const Options& options) {
  if (!options.metrics.empty()) SWELL_RETURN_IF_ERROR(report::CheckWritable(options.metrics));
  const Result<SequenceOptions> preset = SequencePreset("swell");
  if (!preset.ok()) return preset.status();
  Result<std::unique_ptr<Runtime>> opened = Runtime::Open(options.runtime, false);
  if (!opened.ok()) return opened.status();
  Runtime& runtime = *opened.value();
  Result<model::ChatTemplate> chat =
      model::ChatTemplate::Parse(runtime.model().chat_template(), runtime.model().tokenizer());
  if (!chat.ok()) return chat.status();
  TokenIds text;
  if (!options.text.empty()) {
    Result<TokenIds> ids = runtime.ReadText(options.text);
    if (!ids.ok()) return ids.status();
    text = std::move(ids).value();
    text.resize(std::min<size_t>(text.size(), static_cast<size_t>(options.tokens)));
    SWELL_RETURN_IF_ERROR(runtime.CheckLength(static_cast<int64_t>(text.size())));
  }
  Result<model::Session> session = runtime.CreateSession(preset.value());
  if (!session.ok()) return session.status();
  const std::string system = options.own_system ? options.system : chat.value().default_system();
  Conversation conversation(options, std::move(chat).value(), std::move(session).value());
  SWELL_RETURN_IF_ERROR(conversation.Begin(system, text));
  return Converse(runtime, options, conversation);
}

}  // namespace

Command AddChat(CLI::App& program) {
  auto options = std::make_shared<Options>();
  CLI::App* app = program.add_subcommand("chat", "Talk with the model: a line of input is a question");
  app->add_option("--text", options->text, "UTF-8 text to read first, so that questions may be about it");
  app->add_option("--tokens", options->tokens, "Tokens of the text to read, at most")
      ->check(CLI::Range(int64_t{1}, kMaxTokens))
      ->capture_default_str();
  app->add_option("--mode", options->mode, "How the model attends: over the wave index, or to every token")
      ->check(CLI::IsMember({"wave", "exact"}))
      ->capture_default_str();
  const CLI::Option* system =
      app->add_option("--system", options->system, "What the system says at the beginning (default: the model's own)");
  app->add_option("--answer-tokens", options->answer_tokens, "Longest answer, in tokens")
      ->check(CLI::Range(int64_t{1}, kMaxTokens))
      ->capture_default_str();
  app->add_option("--temperature", options->temperature, "0 takes the likeliest token; above, tokens are drawn")
      ->check(CLI::Range(0.0, 10.0))
      ->capture_default_str();
  app->add_option("--seed", options->seed, "Chooses among the draws")->capture_default_str();
  app->add_flag("--json", options->json, "Print one line of JSON per turn instead of the text");
  app->add_option("--metrics", options->metrics,
                  "Write the engine's metrics (Prometheus text) to this file after each turn");
  AddRuntimeOptions(*app, options->runtime);
  return {app, [options, system] {
            options->own_system = system->count() > 0;
            return RunChat(*options);
          }};
}

}  // namespace swell::cli
