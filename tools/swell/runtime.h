// A model and an engine that holds its keys and values, and what the subcommands do with the two.
#ifndef SWELL_TOOLS_SWELL_RUNTIME_H_
#define SWELL_TOOLS_SWELL_RUNTIME_H_

#include <CLI/CLI.hpp>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "swell/engine.h"
#include "tools/model/llama.h"
#include "tools/model/session.h"
#include "tools/swell/probe.h"

namespace swell::cli {

class Progress;
using TokenIds = std::vector<int32_t>;

struct RuntimeOptions {
  std::string model = "data/SmolLM2-135M-Instruct.Q4_1.gguf";
  std::string adapter = "tools/assets/smollm2-135m-128k-lora.gguf";  // "none" for none
  int32_t threads = 0;                                               // 0: all that the process may use
  std::string storage = "float16";                                   // of keys and values
  int64_t audit_interval = 256;                                      // as in EngineOptions
};
void AddRuntimeOptions(CLI::App& command, RuntimeOptions& options);
DType Storage(const RuntimeOptions& options);

// What rows of an engine are fetched as: as they are stored, but int8 without its scales would say nothing.
DType FetchDType(const ModelShape& shape);

// `path` as it is, or, when nothing is there, the same path below the source tree that the program was built from.
std::string FindFile(const std::string& path);

// The most memory that this process has had in use so far.
uint64_t PeakResidentBytes();

// Not thread-safe.
class Runtime {
 public:
  // `deterministic` as in EngineOptions.
  static Result<std::unique_ptr<Runtime>> Open(const RuntimeOptions& options, bool deterministic);

  const model::Model& model() const { return *model_; }
  Engine& engine() { return *engine_; }
  AttendProbe& probe() { return *probe_; }  // every session's attention goes through it

  Result<model::Session> CreateSession(const SequenceOptions& options);
  // kNotFound and the like for the file, kInvalidArgument for text that is not UTF-8 or is empty.
  Result<TokenIds> ReadText(const std::string& path) const;
  Result<TokenIds> Encode(std::string_view text) const { return model_->tokenizer().Encode(text); }
  std::string Decode(std::span<const int32_t> ids) const;
  // kInvalidArgument when a text of so many tokens is too long for the model.
  Status CheckLength(int64_t tokens) const;

 private:
  Runtime() = default;

  std::unique_ptr<model::Model> model_;
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<AttendProbe> probe_;
};

// Reads `ids` with exact attention; the bar shows what the session holds.
Status ReadContext(model::Session& session, std::span<const int32_t> ids, Progress& progress);

// How an answer that was given fared.
struct Score {
  int64_t tokens = 0;
  int64_t correct = 0;    // tokens that were the model's first choice, each after the true tokens before it
  double nll = 0;         // sum over the tokens, nats
  int64_t positions = 0;  // query positions that went through the model: prompt and answer
  bool exact_match() const { return correct == tokens; }
};

// Scores `answer` after `prompt`, token by token, on a fork of the context.
Result<Score> ScoreAnswer(const model::Session& context, std::span<const int32_t> prompt,
                          std::span<const int32_t> answer, AttendMode mode);

// What the model said by itself, always taking the likeliest token.
struct Generation {
  TokenIds ids;
  std::vector<double> step_seconds;    // of each token that was put through the model
  std::vector<double> attend_seconds;  // the part of it that attention took
};

struct GenerateOptions {
  int64_t max_tokens = 64;
  bool one_line = true;  // ends before a token that holds a line's end
};

// Answers after `prompt` on a fork of the context. What attention reads is counted for the generated tokens only.
Result<Generation> Generate(Runtime& runtime, const model::Session& context, std::span<const int32_t> prompt,
                            const GenerateOptions& options, AttendMode mode);

// A new sequence with the same keys and values under other options. Sealed when this returns.
Result<SequenceId> CopySequence(Engine& engine, SequenceId from, const SequenceOptions& options);

}  // namespace swell::cli

#endif  // SWELL_TOOLS_SWELL_RUNTIME_H_
