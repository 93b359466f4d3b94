#include "tools/swell/runtime.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <map>
#include <numeric>
#include <utility>

#ifdef SWELL_FAISS
#include "swell/faiss_index.h"
#endif
#include "tools/model/sampler.h"
#include "tools/report/file.h"
#include "tools/report/format.h"
#include "tools/swell/terminal.h"

namespace swell::cli {
namespace {

const std::map<std::string, DType> kStorages = {
    {"float32", DType::kFloat32}, {"float16", DType::kFloat16}, {"bfloat16", DType::kBFloat16}, {"int8", DType::kInt8}};
constexpr size_t kMaxTextBytes = size_t{256} << 20;
constexpr int64_t kCopyTokens = 1024;

double Nll(std::span<const float> logits, int32_t id) {
  const float largest = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (float logit : logits) sum += std::exp(static_cast<double>(logit) - largest);
  return std::log(sum) + largest - logits[id];
}

Status CopyLayer(Engine& engine, int32_t layer, SequenceId from, SequenceId to) {
  const Result<int64_t> length = engine.Length(from, layer);
  if (!length.ok()) return length.status();
  const ModelShape& shape = engine.shape();
  const size_t row = static_cast<size_t>(shape.kv_heads) * shape.head_dim * DTypeSize(FetchDType(shape));
  std::vector<std::byte> keys(kCopyTokens * row), values(kCopyTokens * row);
  for (int64_t at = 0; at < length.value(); at += kCopyTokens) {
    std::vector<int64_t> positions(std::min(kCopyTokens, length.value() - at));
    std::iota(positions.begin(), positions.end(), at);
    FetchItem fetch;
    fetch.sequence = from;
    fetch.tokens = positions;
    fetch.dtype = FetchDType(shape);
    fetch.keys = keys.data();
    fetch.values = values.data();
    Status status;
    SWELL_RETURN_IF_ERROR(engine.Fetch(layer, {&fetch, 1}, {&status, 1}));
    PutItem put;
    put.sequence = to;
    put.position = at;
    put.tokens = static_cast<int64_t>(positions.size());
    put.keys.data = keys.data();
    put.values.data = values.data();
    put.keys.dtype = put.values.dtype = fetch.dtype;
    SWELL_RETURN_IF_ERROR(engine.Put(layer, {&put, 1}, {&status, 1}));
  }
  return OkStatus();
}

}  // namespace

void AddRuntimeOptions(CLI::App& command, RuntimeOptions& options) {
  command.add_option("--model", options.model, "GGUF file of the model")->capture_default_str();
  command.add_option("--adapter", options.adapter, "GGUF file of a LoRA adapter, or none")->capture_default_str();
  command.add_option("--threads", options.threads, "Threads, 0: all that there are")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  command.add_option("--storage", options.storage, "How keys and values are kept")
      ->check(CLI::IsMember(kStorages))
      ->capture_default_str();
  command
      .add_option("--audit-interval", options.audit_interval,
                  "Every which call of a head is answered exactly as well, to calibrate the predicted error; 0: none")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 30))
      ->capture_default_str();
}

uint64_t PeakResidentBytes() {
  rusage usage{};
  return getrusage(RUSAGE_SELF, &usage) == 0 ? static_cast<uint64_t>(usage.ru_maxrss) * 1024 : 0;
}

DType Storage(const RuntimeOptions& options) { return kStorages.at(options.storage); }

DType FetchDType(const ModelShape& shape) { return shape.storage == DType::kInt8 ? DType::kFloat32 : shape.storage; }

std::string FindFile(const std::string& path) {
  if (path.empty() || path[0] == '/' || access(path.c_str(), F_OK) == 0) return path;
  const std::string below_source = std::string(SWELL_SOURCE_DIR) + "/" + path;
  return access(below_source.c_str(), F_OK) == 0 ? below_source : path;
}

Result<std::unique_ptr<Runtime>> Runtime::Open(const RuntimeOptions& options, bool deterministic) {
  model::ModelOptions model_options;
  model_options.base_path = FindFile(options.model);
  model_options.adapter_path = options.adapter == "none" ? "" : FindFile(options.adapter);
  model_options.threads = options.threads;
  Result<std::unique_ptr<model::Model>> loaded = model::Model::Load(model_options);
  if (!loaded.ok()) return loaded.status();
  std::unique_ptr<Runtime> runtime(new Runtime);
  runtime->model_ = std::move(loaded.value());
  EngineOptions engine_options;
  engine_options.shape = runtime->model_->EngineShape(Storage(options));
  engine_options.threads = options.threads;
  engine_options.deterministic = deterministic;
  engine_options.audit_interval = options.audit_interval;
#ifdef SWELL_FAISS
  engine_options.faiss = BuildFaissIndexOfKind;
#endif
  Result<std::unique_ptr<Engine>> engine = Engine::Open(engine_options);
  if (!engine.ok()) return engine.status();
  runtime->engine_ = std::move(engine.value());
  runtime->probe_ = std::make_unique<AttendProbe>(*runtime->engine_);
  return runtime;
}

Result<model::Session> Runtime::CreateSession(const SequenceOptions& options) {
  return model::Session::Create(*model_, *probe_, options);
}

Result<TokenIds> Runtime::ReadText(const std::string& path) const {
  const std::string found = FindFile(path);
  Result<std::string> text = report::ReadFile(found, kMaxTextBytes);
  if (!text.ok()) return text.status();
  Result<TokenIds> ids = Encode(text.value());
  if (!ids.ok()) return Status(ids.status().code(), "'" + found + "': " + ids.status().message());
  if (ids.value().empty()) return InvalidArgument("'" + found + "' is empty");
  return ids;
}

std::string Runtime::Decode(std::span<const int32_t> ids) const {
  const Result<std::string> text = model_->tokenizer().Decode(ids);
  return text.ok() ? text.value() : text.status().message();
}

Status Runtime::CheckLength(int64_t tokens) const {
  const int64_t most = model_->shape().context_tokens;
  if (tokens <= most) return OkStatus();
  return InvalidArgument("a text of " + report::FormatCount(tokens) + " tokens is too long: the model reads at most " +
                         report::FormatCount(most));
}

Status ReadContext(model::Session& session, std::span<const int32_t> ids, Progress& progress) {
  const int64_t before = session.length();
  return session.Prefill(ids, AttendMode::kExact, [&](int64_t done) {
    progress.Update(before + done);
    return true;
  });
}

Result<Score> ScoreAnswer(const model::Session& context, std::span<const int32_t> prompt,
                          std::span<const int32_t> answer, AttendMode mode) {
  Result<model::Session> forked = context.Fork();
  if (!forked.ok()) return forked.status();
  model::Session& session = forked.value();
  SWELL_RETURN_IF_ERROR(session.Prefill(prompt, mode));
  Score score;
  score.tokens = static_cast<int64_t>(answer.size());
  score.positions = static_cast<int64_t>(prompt.size() + answer.size()) - 1;
  model::Sampler best;
  for (size_t i = 0; i < answer.size(); ++i) {
    if (best.Next(session.logits()) == answer[i]) ++score.correct;
    score.nll += Nll(session.logits(), answer[i]);
    if (i + 1 < answer.size()) SWELL_RETURN_IF_ERROR(session.Decode(answer[i], mode));
  }
  return score;
}

Result<Generation> Generate(Runtime& runtime, const model::Session& context, std::span<const int32_t> prompt,
                            const GenerateOptions& options, AttendMode mode) {
  Result<model::Session> forked = context.Fork();
  if (!forked.ok()) return forked.status();
  model::Session& session = forked.value();
  const model::Tokenizer& tokenizer = runtime.model().tokenizer();
  SWELL_RETURN_IF_ERROR(session.Prefill(prompt, mode));
  runtime.probe().Start(Watch::kReads);
  Generation generation;
  model::Sampler best;
  while (static_cast<int64_t>(generation.ids.size()) < options.max_tokens) {
    const int32_t id = best.Next(session.logits());
    const bool line_ends = options.one_line && tokenizer.Bytes(id).find('\n') != std::string_view::npos;
    if (id == tokenizer.end_of_text() || line_ends) break;
    generation.ids.push_back(id);
    const double attended = runtime.probe().attend_seconds();
    const auto start = std::chrono::steady_clock::now();
    SWELL_RETURN_IF_ERROR(session.Decode(id, mode));
    const std::chrono::duration<double> step = std::chrono::steady_clock::now() - start;
    generation.step_seconds.push_back(step.count());
    generation.attend_seconds.push_back(runtime.probe().attend_seconds() - attended);
  }
  return generation;
}

Result<SequenceId> CopySequence(Engine& engine, SequenceId from, const SequenceOptions& options) {
  Result<SequenceId> to = engine.CreateSequence(options);
  if (!to.ok()) return to.status();
  Status status;
  for (int32_t layer = 0; layer < engine.shape().layers && status.ok(); ++layer) {
    status = CopyLayer(engine, layer, from, to.value());
  }
  if (status.ok()) status = engine.WaitSealed(to.value());
  if (status.ok()) return to;
  static_cast<void>(engine.Release(to.value()));
  return status;
}

}  // namespace swell::cli
