// A model, its tokenizer and an engine that holds its keys and values: what the subcommands work with.
#ifndef SWELL_TOOLS_SWELL_SESSION_H_
#define SWELL_TOOLS_SWELL_SESSION_H_

#include <CLI/CLI.hpp>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "swell/engine.h"
#include "tools/swell/probe.h"

namespace swell::cli {

using TokenIds = std::vector<int32_t>;

struct SessionOptions {
  std::string model = "data/SmolLM2-135M-Instruct.Q4_1.gguf";
  std::string adapter = "tools/assets/smollm2-135m-128k-lora.gguf";  // "none" for none
  int32_t threads = 0;                                               // 0: all that the process may use
};
void AddSessionOptions(CLI::App& command, SessionOptions& options);

// A path as given, or, when nothing is there, the same path below the source tree that the program was built from.
std::string FindFile(const std::string& path);

// How an answer that was given fared.
struct Score {
  int64_t tokens = 0;
  int64_t correct = 0;  // tokens that were the model's first choice, each after the true tokens before it
  double nll = 0;       // sum over the tokens, nats
  bool exact_match() const { return correct == tokens; }
};

// What the model said by itself, always taking the likeliest token.
struct Generation {
  TokenIds ids;
  std::string text;
  std::vector<double> step_seconds;    // of each token after the first
  std::vector<double> attend_seconds;  // the part of it that attention took
};

// Not thread-safe.
class Session {
 public:
  // `deterministic` as in EngineOptions.
  static Result<std::unique_ptr<Session>> Open(const SessionOptions& options, bool deterministic);
  virtual ~Session() = default;

  virtual Engine& engine() = 0;
  virtual AttendProbe& probe() = 0;        // the model's attention goes through it
  virtual int64_t max_tokens() const = 0;  // longest text of the model, answer included

  virtual Result<TokenIds> Encode(std::string_view text) const = 0;
  virtual std::string Decode(std::span<const int32_t> ids) const = 0;

  // Appends `ids` to the sequence with exact attention, in chunks; `progress` (may be empty) hears the tokens done.
  virtual Status Read(SequenceId sequence, std::span<const int32_t> ids,
                      const std::function<void(int64_t)>& progress) = 0;
  // Scores `answer` after `prompt` on a fork of the sequence.
  virtual Result<Score> ScoreAnswer(SequenceId sequence, std::span<const int32_t> prompt,
                                    std::span<const int32_t> answer, AttendMode mode) = 0;
  // Answers after `prompt` on a fork of the sequence with at most `max_new_tokens`, up to a line's end if `one_line`.
  virtual Result<Generation> Generate(SequenceId sequence, std::span<const int32_t> prompt, int64_t max_new_tokens,
                                      bool one_line, AttendMode mode) = 0;
};

// Reads and encodes a UTF-8 text file.
Result<TokenIds> ReadText(const Session& session, const std::string& path);

// A new sequence with the same keys and values under other options. The caller waits for sealing.
Result<SequenceId> CopySequence(Engine& engine, SequenceId from, const SequenceOptions& options);

}  // namespace swell::cli

#endif  // SWELL_TOOLS_SWELL_SESSION_H_
