// swell fidelity: tasks x configurations on a real model.
#include "tools/swell/fidelity.h"

#include <algorithm>
#include <chrono>
#include <iostream>
#include <memory>
#include <utility>

#include "tools/report/file.h"
#include "tools/report/format.h"
#include "tools/swell/command.h"
#include "tools/swell/json.h"
#include "tools/swell/runtime.h"
#include "tools/swell/terminal.h"
#include "tools/swell/variant.h"
#include "tools/tasks/tasks.h"

namespace swell::cli {
namespace {

struct Options {
  RuntimeOptions runtime;
  int64_t tokens = 16384;
  int64_t seeds = 1;
  int64_t first_seed = 0;
  int64_t questions = 16;
  int64_t audit = 4;
  std::vector<std::string> tasks = {"needles", "lines", "recall"};
  std::vector<std::string> texts = {"tools/assets/prideprejudice.txt"};
  std::vector<std::string> configs = {"exact", "retroinfer", "swell"};
  std::vector<std::string> variants;
  std::string json;
  std::string report;
};

struct Config {
  std::string name;
  AttendMode mode = AttendMode::kRetrieve;
  SequenceOptions options;
};

Result<std::vector<Config>> MakeConfigs(const Options& options) {
  std::vector<Config> configs;
  for (const std::string& name : options.configs) {
    const bool exact = name == "exact";
    Result<SequenceOptions> preset = SequencePreset(exact ? "swell" : name);
    if (!preset.ok()) return preset.status();
    configs.push_back({name, exact ? AttendMode::kExact : AttendMode::kRetrieve, preset.value()});
  }
  for (const std::string& variant : options.variants) {
    Result<SequenceOptions> parsed = ParseVariant(variant);
    if (!parsed.ok()) return parsed.status();
    configs.push_back({variant, AttendMode::kRetrieve, parsed.value()});
  }
  return configs;
}

// Asks the engine whether it would take every configuration, so that the last one is not refused after hours of the
// others. Such a refusal names it.
Status CheckConfigs(Engine& engine, const std::vector<Config>& configs) {
  for (const Config& config : configs) {
    const Result<SequenceId> sequence = engine.CreateSequence(config.options);
    if (!sequence.ok()) return Status(sequence.status().code(), config.name + ": " + sequence.status().message());
    SWELL_RETURN_IF_ERROR(engine.Release(*sequence));
  }
  return OkStatus();
}

// Whether two configurations can use one sequence: what is read may differ, what is built may not.
bool SameIndex(const SequenceOptions& a, const SequenceOptions& b) {
  return a.index.kind == b.index.kind && a.index.cluster_tokens == b.index.cluster_tokens &&
         a.index.iterations == b.index.iterations && a.sink_tokens == b.sink_tokens &&
         a.window_tokens == b.window_tokens && a.seal_tokens == b.seal_tokens && a.segment_tokens == b.segment_tokens;
}

// The sequences of one context: the session's own, and a copy for every other index. Releases the copies.
class Contexts {
 public:
  Contexts(Runtime& runtime, const model::Session& session, const SequenceOptions& options)
      : runtime_(runtime), session_(session) {
    built_.emplace_back(options, session.sequence());
  }
  ~Contexts() {
    runtime_.probe().Redirect(SequenceId::kNone, SequenceId::kNone);
    for (size_t i = 1; i < built_.size(); ++i) static_cast<void>(runtime_.engine().Release(built_[i].second));
  }
  Contexts(const Contexts&) = delete;
  Contexts& operator=(const Contexts&) = delete;

  // From now on forks of the session are answered under `config`, which must outlive that.
  Status Use(const Config& config) {
    runtime_.probe().SetRetrieval(&config.options.retrieval);
    for (const auto& [options, sequence] : built_) {
      if (config.mode != AttendMode::kExact && !SameIndex(options, config.options)) continue;
      runtime_.probe().Redirect(session_.sequence(), sequence);
      return OkStatus();
    }
    Result<SequenceId> copy = CopySequence(runtime_.engine(), session_.sequence(), config.options);
    if (!copy.ok()) return copy.status();
    built_.emplace_back(config.options, copy.value());
    runtime_.probe().Redirect(session_.sequence(), copy.value());
    return OkStatus();
  }

 private:
  Runtime& runtime_;
  const model::Session& session_;
  std::vector<std::pair<SequenceOptions, SequenceId>> built_;
};

void Accumulate(const AttendProbe& probe, const Score& score, FidelityResult& result) {
  ++result.questions;
  result.exact_matches += score.exact_match() ? 1 : 0;
  result.answer_tokens += score.tokens;
  result.correct_tokens += score.correct;
  result.nll += score.nll;
  result.query_positions += score.positions;
  result.readings.resize(probe.readings().size());
  for (size_t i = 0; i < result.readings.size(); ++i) result.readings[i] += probe.readings()[i];
  result.pairs.insert(result.pairs.end(), probe.pairs().begin(), probe.pairs().end());
}

// Those of the sequence that reads the context: a graph is drawn from its queries, which copies of it do not see.
const SequenceOptions& BaseOptions(const std::vector<Config>& configs) {
  const auto first = [&](bool graph) {
    return std::find_if(configs.begin(), configs.end(), [&](const Config& config) {
      return config.mode == AttendMode::kRetrieve && (!graph || config.options.index.kind == IndexKind::kGraph);
    });
  };
  auto found = first(true);
  if (found == configs.end()) found = first(false);
  return found == configs.end() ? configs[0].options : found->options;
}

// All configurations on one context; results [configs].
Status RunContext(Runtime& runtime, const std::vector<Config>& configs, const tasks::Exam& exam, int64_t audit,
                  const std::string& label, std::span<FidelityResult> results) {
  size_t longest = 0;
  for (const tasks::Question& question : exam.questions) {
    longest = std::max(longest, question.prompt.size() + question.answer.size());
  }
  SWELL_RETURN_IF_ERROR(runtime.CheckLength(static_cast<int64_t>(exam.context.size() + longest)));
  const SequenceOptions& base = BaseOptions(configs);
  Result<model::Session> session = runtime.CreateSession(base);
  if (!session.ok()) return session.status();
  {
    Progress progress(label + ": reading", static_cast<int64_t>(exam.context.size()));
    SWELL_RETURN_IF_ERROR(ReadContext(session.value(), exam.context, progress));
  }
  SWELL_RETURN_IF_ERROR(runtime.engine().WaitSealed(session.value().sequence()));
  Contexts contexts(runtime, session.value(), base);
  Progress progress(label + ": answering", static_cast<int64_t>(configs.size() * exam.questions.size()));
  int64_t answered = 0;
  for (size_t c = 0; c < configs.size(); ++c) {
    SWELL_RETURN_IF_ERROR(contexts.Use(configs[c]));
    const auto start = std::chrono::steady_clock::now();
    for (size_t q = 0; q < exam.questions.size(); ++q) {
      runtime.probe().Start(static_cast<int64_t>(q) < audit ? Watch::kErrors : Watch::kReads);
      const Result<Score> score =
          ScoreAnswer(session.value(), exam.questions[q].prompt, exam.questions[q].answer, configs[c].mode);
      if (!score.ok()) return score.status();
      Accumulate(runtime.probe(), score.value(), results[c]);
      progress.Update(++answered);
    }
    results[c].seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }
  return OkStatus();
}

FidelityReport EmptyReport(const Options& options, const std::vector<Config>& configs, const ModelShape& shape) {
  FidelityReport report;
  report.tokens = options.tokens;
  report.seeds = options.seeds;
  report.first_seed = options.first_seed;
  report.layers = shape.layers;
  report.kv_heads = shape.kv_heads;
  report.group = shape.group;
  report.texts = options.texts;
  report.tasks = options.tasks;
  for (const Config& config : configs) report.configs.push_back(config.name);
  for (const std::string& task : options.tasks) {
    for (const Config& config : configs) {
      FidelityResult result;
      result.task = task;
      result.config = config.name;
      result.readings.resize(static_cast<size_t>(shape.layers) * shape.kv_heads);
      report.results.push_back(std::move(result));
    }
  }
  return report;
}

Status RunFidelity(const Options& options) {
  for (const std::string& path : {options.json, options.report}) {
    if (!path.empty()) SWELL_RETURN_IF_ERROR(report::CheckWritable(path));
  }
  const Result<std::vector<Config>> configs = MakeConfigs(options);
  if (!configs.ok()) return configs.status();
  Result<std::unique_ptr<Runtime>> opened = Runtime::Open(options.runtime, true);
  if (!opened.ok()) return opened.status();
  Runtime& runtime = *opened.value();
  SWELL_RETURN_IF_ERROR(CheckConfigs(runtime.engine(), *configs));
  SWELL_RETURN_IF_ERROR(runtime.CheckLength(options.tokens));
  std::vector<TokenIds> corpora;
  for (const std::string& path : options.texts) {
    Result<TokenIds> ids = runtime.ReadText(path);
    if (!ids.ok()) return ids.status();
    corpora.push_back(std::move(ids.value()));
  }
  const tasks::Encode encode = [&](std::string_view text) {
    Result<TokenIds> ids = runtime.Encode(text);
    return ids.ok() ? ids.value() : TokenIds();
  };
  FidelityReport report = EmptyReport(options, configs.value(), runtime.engine().shape());
  for (size_t t = 0; t < options.tasks.size(); ++t) {
    for (int64_t seed = options.first_seed; seed < options.first_seed + options.seeds; ++seed) {
      const Result<tasks::Exam> exam =
          tasks::MakeExam(*tasks::ParseKind(options.tasks[t]), encode, corpora[seed % corpora.size()], options.tokens,
                          options.questions, static_cast<uint64_t>(seed));
      if (!exam.ok()) return exam.status();
      SWELL_RETURN_IF_ERROR(RunContext(
          runtime, configs.value(), exam.value(), options.audit, options.tasks[t] + ", seed " + std::to_string(seed),
          std::span(report.results).subspan(t * configs.value().size(), configs.value().size())));
    }
  }
  PrintFidelity(report, std::cout);
  if (!options.json.empty()) {
    SWELL_RETURN_IF_ERROR(report::WriteFile(options.json, JsonText(FidelityJson(report))));
  }
  if (options.report.empty()) return OkStatus();
  return report::WriteFile(options.report, FidelityHtml(report));
}

}  // namespace

Command AddFidelity(CLI::App& program) {
  auto options = std::make_shared<Options>();
  CLI::App* app =
      program.add_subcommand("fidelity", "Score tasks over long contexts under several configurations, side by side");
  app->add_option("--tokens", options->tokens, "Length of a context in tokens")
      ->check(CLI::Range(int64_t{tasks::kMinTokens}, int64_t{1} << 20))
      ->capture_default_str();
  app->add_option("--tasks", options->tasks, "Any of needles, lines, recall, text")
      ->delimiter(',')
      ->check(CLI::IsMember({"needles", "lines", "recall", "text"}))
      ->capture_default_str();
  app->add_option("--configs", options->configs,
                  "Any of exact, retroinfer (the paper's settings), swell (the defaults)")
      ->delimiter(',')
      ->check(CLI::IsMember({"exact", "retroinfer", "swell"}))
      ->capture_default_str();
  app->add_option("--variant", options->variants,
                  "One more configuration, PRESET,KEY=VALUE,... as in swell,floor_tokens=0; may be repeated. Keys: " +
                      VariantKeys());
  app->add_option("--seeds", options->seeds, "Contexts per task")->check(CLI::Range(1, 1000))->capture_default_str();
  app->add_option("--first-seed", options->first_seed, "Seed of the first context")
      ->check(CLI::Range(0, 1 << 30))
      ->capture_default_str();
  app->add_option("--questions", options->questions, "Questions per context")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  app->add_option("--audit", options->audit, "Questions per context whose output error is measured")
      ->check(CLI::Range(0, 1000))
      ->capture_default_str();
  app->add_option("--texts", options->texts, "Texts that contexts are cut from, taken in turn by seed")
      ->delimiter(',')
      ->capture_default_str();
  app->add_option("--json", options->json, "Write the results to this file");
  app->add_option("--report", options->report, "Write an HTML page with plots to this file");
  AddRuntimeOptions(*app, options->runtime);
  return {app, [options] { return RunFidelity(*options); }};
}

}  // namespace swell::cli
