// swell trace: writes the keys, values and queries of a text that is read and continued.
#include "tools/trace/trace.h"

#include <algorithm>
#include <iostream>
#include <memory>
#include <numeric>
#include <utility>

#include "tools/report/file.h"
#include "tools/report/format.h"
#include "tools/swell/command.h"
#include "tools/swell/json.h"
#include "tools/swell/runtime.h"
#include "tools/swell/table.h"
#include "tools/swell/terminal.h"
#include "tools/tasks/tasks.h"

namespace swell::cli {
namespace {

constexpr int64_t kMaxTokens = 131072;
constexpr int64_t kQuestions = 160;  // as many as a context has facts
constexpr int64_t kFetchTokens = 4096;

struct Options {
  RuntimeOptions runtime;
  std::string text = "tools/assets/prideprejudice.txt";
  std::string task = "text";
  std::vector<int64_t> layers;  // empty: all
  int64_t tokens = 8192;
  int64_t steps = 64;
  int64_t prefill_queries = 1024;
  uint64_t seed = 0;
  std::string mode = "exact";
  std::string out = "swell-trace.bin";
  std::string json;
};

// What is read, and what is then put token by token.
struct Script {
  TokenIds context;
  TokenIds steps;
};

// The text itself; or a task's context, then its questions, each with its answer.
Result<Script> MakeScript(const Runtime& runtime, const Options& options) {
  const Result<TokenIds> text = runtime.ReadText(options.text);
  if (!text.ok()) return text.status();
  const TokenIds& ids = text.value();
  Script script;
  const tasks::Kind kind = *tasks::ParseKind(options.task);
  if (kind == tasks::Kind::kText) {
    const int64_t needed = options.tokens + options.steps;
    if (static_cast<int64_t>(ids.size()) < needed) {
      return InvalidArgument("'" + options.text + "' has only " + report::FormatCount(ids.size()) + " tokens of " +
                             report::FormatCount(needed));
    }
    script.context.assign(ids.begin(), ids.begin() + options.tokens);
    script.steps.assign(ids.begin() + options.tokens, ids.begin() + needed);
    return script;
  }
  Status failed;
  const tasks::Encode encode = [&](std::string_view part) {
    Result<TokenIds> part_ids = runtime.Encode(part);
    if (!part_ids.ok()) failed = part_ids.status();
    return part_ids.ok() ? part_ids.value() : TokenIds();
  };
  Result<tasks::Exam> exam = tasks::MakeExam(kind, encode, ids, options.tokens, kQuestions, options.seed);
  if (!exam.ok()) return exam.status();
  SWELL_RETURN_IF_ERROR(failed);
  script.context = std::move(exam.value().context);
  for (const tasks::Question& question : exam.value().questions) {
    script.steps.insert(script.steps.end(), question.prompt.begin(), question.prompt.end());
    script.steps.insert(script.steps.end(), question.answer.begin(), question.answer.end());
  }
  script.steps.resize(std::min<size_t>(script.steps.size(), static_cast<size_t>(options.steps)));
  return script;
}

// Collects the queries of some positions of some layers from the engine's calls.
class QueryRecorder {
 public:
  explicit QueryRecorder(const trace::TraceShape& shape)
      : shape_(shape),
        row_(int64_t{shape.query_heads} * shape.head_dim),
        queries_(shape.layers.size(), std::vector<float>(static_cast<size_t>(shape.queries() * row_))) {}

  // The call's queries stand at `position` and behind it.
  void Record(int64_t position, int32_t layer, const AttendItem& item) {
    const auto found = std::lower_bound(shape_.layers.begin(), shape_.layers.end(), layer);
    if (found == shape_.layers.end() || *found != layer) return;
    std::vector<float>& rows = queries_[found - shape_.layers.begin()];
    const auto* from = static_cast<const float*>(item.queries);
    for (int64_t i = 0; i < item.n_queries; ++i) {
      const int64_t row = RowOf(position + i);
      if (row >= 0) std::copy_n(from + i * row_, row_, rows.begin() + row * row_);
    }
  }

  const std::vector<float>& queries(size_t index) const { return queries_[index]; }

 private:
  int64_t RowOf(int64_t position) const {
    const std::vector<int64_t>& sampled = shape_.prefill_positions;
    if (position >= shape_.prefill_tokens) {
      return static_cast<int64_t>(sampled.size()) + position - shape_.prefill_tokens;
    }
    const auto found = std::lower_bound(sampled.begin(), sampled.end(), position);
    return found != sampled.end() && *found == position ? found - sampled.begin() : -1;
  }

  const trace::TraceShape& shape_;
  const int64_t row_;
  std::vector<std::vector<float>> queries_;  // [layers][queries, query_heads, head_dim]
};

Result<trace::TraceShape> MakeShape(const Runtime& runtime, const ModelShape& model, const Options& options,
                                    const Script& script) {
  trace::TraceShape shape;
  shape.dtype = FetchDType(model);
  shape.kv_heads = model.kv_heads;
  shape.query_heads = model.kv_heads * model.group;
  shape.head_dim = model.head_dim;
  shape.scale = model.scale;
  shape.prefill_tokens = static_cast<int64_t>(script.context.size());
  shape.decode_steps = static_cast<int64_t>(script.steps.size());
  shape.layers = options.layers;
  if (shape.layers.empty()) {
    shape.layers.resize(model.layers);
    std::iota(shape.layers.begin(), shape.layers.end(), 0);
  }
  std::sort(shape.layers.begin(), shape.layers.end());
  shape.layers.erase(std::unique(shape.layers.begin(), shape.layers.end()), shape.layers.end());
  if (shape.layers.back() >= model.layers) {
    return InvalidArgument("--layers " + std::to_string(shape.layers.back()) + ": the layers are 0 to " +
                           std::to_string(model.layers - 1));
  }
  const int64_t sampled = std::min(options.prefill_queries, shape.prefill_tokens);
  for (int64_t i = 1; i <= sampled; ++i) {  // evenly, the last one included
    shape.prefill_positions.push_back(i * shape.prefill_tokens / sampled - 1);
  }
  SWELL_RETURN_IF_ERROR(runtime.CheckLength(shape.tokens()));
  return shape;
}

Status ReadAndDecode(Runtime& runtime, model::Session& session, const Script& script, AttendMode mode,
                     QueryRecorder& recorder) {
  runtime.probe().SetListener(
      [&](int32_t layer, const AttendItem& item) { recorder.Record(session.length(), layer, item); });
  Progress progress("reading", static_cast<int64_t>(script.context.size() + script.steps.size()));
  Status status = ReadContext(session, script.context, progress);
  for (size_t step = 0; step < script.steps.size() && status.ok(); ++step) {
    status = session.Decode(script.steps[step], mode);
    progress.Update(session.length());
  }
  runtime.probe().SetListener({});
  return status;
}

// Appends all keys (or values) of a layer as the engine stores them.
Status AppendRows(Engine& engine, SequenceId sequence, int32_t layer, void* FetchItem::*rows, int64_t tokens,
                  report::FileWriter& writer) {
  const ModelShape& shape = engine.shape();
  const int64_t row_bytes =
      int64_t{shape.kv_heads} * shape.head_dim * static_cast<int64_t>(DTypeSize(FetchDType(shape)));
  std::string bytes(static_cast<size_t>(kFetchTokens * row_bytes), '\0');
  for (int64_t at = 0; at < tokens; at += kFetchTokens) {
    std::vector<int64_t> positions(static_cast<size_t>(std::min(kFetchTokens, tokens - at)));
    std::iota(positions.begin(), positions.end(), at);
    FetchItem fetch;
    fetch.sequence = sequence;
    fetch.tokens = positions;
    fetch.dtype = FetchDType(shape);
    fetch.*rows = bytes.data();
    Status status;
    SWELL_RETURN_IF_ERROR(engine.Fetch(layer, {&fetch, 1}, {&status, 1}));
    SWELL_RETURN_IF_ERROR(writer.Append(std::string_view(bytes).substr(0, positions.size() * row_bytes)));
  }
  return OkStatus();
}

Status WriteTrace(const std::string& path, const trace::TraceShape& shape, Engine& engine, SequenceId sequence,
                  const QueryRecorder& recorder) {
  const Result<std::string> header = trace::EncodeHeader(shape);
  if (!header.ok()) return header.status();
  Result<report::FileWriter> writer = report::FileWriter::Open(path);
  if (!writer.ok()) return writer.status();
  SWELL_RETURN_IF_ERROR(writer.value().Append(header.value()));
  for (size_t i = 0; i < shape.layers.size(); ++i) {
    const auto layer = static_cast<int32_t>(shape.layers[i]);
    for (void* FetchItem::*rows : {&FetchItem::keys, &FetchItem::values}) {
      SWELL_RETURN_IF_ERROR(AppendRows(engine, sequence, layer, rows, shape.tokens(), writer.value()));
    }
    const std::vector<float>& queries = recorder.queries(i);
    SWELL_RETURN_IF_ERROR(
        writer.value().Append({reinterpret_cast<const char*>(queries.data()), queries.size() * sizeof(float)}));
  }
  return writer.value().Commit();
}

void PrintTrace(const Options& options, const trace::TraceShape& shape) {
  const auto dimensions = [&](int64_t rows, int64_t heads) {
    return "[" + report::FormatCount(rows) + ", " + std::to_string(heads) + ", " + std::to_string(shape.head_dim) + "]";
  };
  Table table({"per layer", "shape", "bytes"});
  for (const char* rows : {"keys", "values"}) {
    table.Add(
        {rows, dimensions(shape.tokens(), shape.kv_heads), report::FormatBytes(static_cast<double>(RowsBytes(shape)))});
  }
  table.Add({"queries", dimensions(shape.queries(), shape.query_heads),
             report::FormatBytes(static_cast<double>(QueriesBytes(shape)))});
  table.Print(std::cout);
  std::cout << "\n"
            << options.out << ": " << shape.layers.size() << " layers, " << report::FormatCount(shape.prefill_tokens)
            << " tokens read and " << report::FormatCount(shape.decode_steps) << " decoded, "
            << report::FormatBytes(static_cast<double>(FileBytes(shape))) << "\n";
}

nlohmann::json ToJson(const Options& options, const trace::TraceShape& shape) {
  return {{"program", "swell trace"},
          {"version", SWELL_VERSION},
          {"text", options.text},
          {"task", options.task},
          {"mode", options.mode},
          {"file", options.out},
          {"bytes", FileBytes(shape)},
          {"layers", shape.layers},
          {"kv_heads", shape.kv_heads},
          {"query_heads", shape.query_heads},
          {"head_dim", shape.head_dim},
          {"prefill_tokens", shape.prefill_tokens},
          {"decode_steps", shape.decode_steps},
          {"prefill_queries", shape.prefill_positions.size()}};
}

Status RunTrace(const Options& options) {
  for (const std::string& path : {options.out, options.json}) {
    if (!path.empty()) SWELL_RETURN_IF_ERROR(report::CheckWritable(path));
  }
  const Result<SequenceOptions> preset = SequencePreset("swell");
  if (!preset.ok()) return preset.status();
  Result<std::unique_ptr<Runtime>> opened = Runtime::Open(options.runtime, true);
  if (!opened.ok()) return opened.status();
  Runtime& runtime = *opened.value();
  const Result<Script> script = MakeScript(runtime, options);
  if (!script.ok()) return script.status();
  const Result<trace::TraceShape> shape = MakeShape(runtime, runtime.engine().shape(), options, script.value());
  if (!shape.ok()) return shape.status();
  Result<model::Session> session = runtime.CreateSession(preset.value());
  if (!session.ok()) return session.status();
  QueryRecorder recorder(shape.value());
  const AttendMode mode = options.mode == "wave" ? AttendMode::kRetrieve : AttendMode::kExact;
  SWELL_RETURN_IF_ERROR(ReadAndDecode(runtime, session.value(), script.value(), mode, recorder));
  SWELL_RETURN_IF_ERROR(WriteTrace(options.out, shape.value(), runtime.engine(), session.value().sequence(), recorder));
  PrintTrace(options, shape.value());
  if (options.json.empty()) return OkStatus();
  return report::WriteFile(options.json, JsonText(ToJson(options, shape.value())));
}

}  // namespace

Command AddTrace(CLI::App& program) {
  auto options = std::make_shared<Options>();
  CLI::App* app = program.add_subcommand(
      "trace", "Write the keys, values and queries of a text that is read and continued to a file");
  app->add_option("--text", options->text, "UTF-8 text to read")->capture_default_str();
  app->add_option("--task", options->task, "What is read and continued: the text as it is, or a task made from it")
      ->check(CLI::IsMember({"text", "needles", "lines", "recall"}))
      ->capture_default_str();
  app->add_option("--tokens", options->tokens, "Tokens to read")
      ->check(CLI::Range(int64_t{1}, kMaxTokens))
      ->capture_default_str();
  app->add_option("--steps", options->steps, "Tokens to decode after them, at most as many as the task has")
      ->check(CLI::Range(int64_t{0}, kMaxTokens))
      ->capture_default_str();
  app->add_option("--layers", options->layers, "Layers to write, as 0,5,11 (default: all)")
      ->delimiter(',')
      ->check(CLI::Range(0, 4095));
  app->add_option("--prefill-queries", options->prefill_queries,
                  "How many of the queries of the tokens that are read are written, evenly over the text")
      ->check(CLI::Range(int64_t{0}, kMaxTokens))
      ->capture_default_str();
  app->add_option("--mode", options->mode, "How the decoded tokens attend: to every token, or over the wave index")
      ->check(CLI::IsMember({"exact", "wave"}))
      ->capture_default_str();
  app->add_option("--seed", options->seed, "Chooses the task's passage, facts and questions")->capture_default_str();
  app->add_option("--out", options->out, "The trace")->capture_default_str();
  app->add_option("--json", options->json, "Write what the trace holds to this file");
  AddRuntimeOptions(*app, options->runtime);
  return {app, [options] { return RunTrace(*options); }};
}

}  // namespace swell::cli
