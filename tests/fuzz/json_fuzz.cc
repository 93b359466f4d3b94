// The program's JSON and tables with any names and numbers in them, and the settings that a command line names.
#include <cmath>
#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "tests/fuzz/fuzz.h"
#include "tools/model/utf8.h"
#include "tools/swell/fidelity.h"
#include "tools/swell/json.h"
#include "tools/swell/variant.h"

namespace {

using nlohmann::json;
using swell::Engine;
using swell::EngineOptions;
using swell::Result;
using swell::SequenceId;
using swell::SequenceOptions;
using swell::StatusCode;
using swell::cli::FidelityReport;
using swell::cli::FidelityResult;
using swell_fuzz::Bytes;

bool IsUtf8(const std::string& text) { return swell::model::FirstInvalidUtf8(text) == text.size(); }

// Settings that are read are either taken by an engine or refused by name.
void TryVariant(const std::string& text) {
  static const std::unique_ptr<Engine> engine = [] {
    EngineOptions options;
    options.shape = {1, 1, 1, 16, 0, swell::DType::kFloat16};
    options.threads = 1;
    return std::move(Engine::Open(options)).value();
  }();
  const Result<SequenceOptions> options = swell::cli::ParseVariant(text);
  if (!options.ok()) {
    SWELL_FUZZ_CHECK(options.status().code() == StatusCode::kInvalidArgument ||
                     options.status().code() == StatusCode::kNotFound);
    SWELL_FUZZ_CHECK(!options.status().message().empty());
    return;
  }
  const Result<SequenceId> sequence = engine->CreateSequence(*options);
  SWELL_FUZZ_CHECK(sequence.ok() || sequence.status().code() == StatusCode::kInvalidArgument);
  if (sequence.ok()) SWELL_FUZZ_CHECK(engine->Release(*sequence).ok());
}

std::vector<std::string> Names(Bytes& bytes, int most) {
  std::vector<std::string> names(static_cast<size_t>(bytes.Choose(most + 1)));
  for (std::string& name : names) name = bytes.Text(32);
  return names;
}

// Counts small enough to be summed.
int64_t Count(Bytes& bytes) { return bytes.Take<uint32_t>(); }

FidelityReport MakeReport(Bytes& bytes) {
  FidelityReport report;
  report.tokens = bytes.Take<int64_t>();
  report.seeds = Count(bytes);
  report.layers = 1 + bytes.Choose(2);
  report.kv_heads = 1 + bytes.Choose(2);
  report.group = 1 + bytes.Choose(16);
  report.texts = Names(bytes, 2);
  report.tasks = Names(bytes, 2);
  report.configs = Names(bytes, 2);
  for (const std::string& task : report.tasks) {
    for (const std::string& config : report.configs) {
      FidelityResult result;
      result.task = task;
      result.config = config;
      result.questions = Count(bytes);
      result.exact_matches = Count(bytes);
      result.answer_tokens = Count(bytes);
      result.correct_tokens = Count(bytes);
      result.nll = bytes.Take<double>();
      result.query_positions = Count(bytes);
      result.seconds = bytes.Take<double>();
      result.readings.resize(static_cast<size_t>(report.layers) * report.kv_heads);
      swell::cli::HeadReading& reading = result.readings.back();
      reading = {Count(bytes), Count(bytes), Count(bytes), Count(bytes), bytes.Take<float>(), Count(bytes)};
      reading.error = bytes.Take<double>();
      reading.predicted_error = bytes.Take<double>();
      result.pairs.resize(static_cast<size_t>(bytes.Choose(3)));
      for (swell::cli::ErrorPair& pair : result.pairs) pair = {bytes.Take<float>(), bytes.Take<float>()};
      report.results.push_back(std::move(result));
    }
  }
  return report;
}

void CheckNames(const json& found, const std::vector<std::string>& names) {
  SWELL_FUZZ_CHECK(found.size() == names.size());
  for (size_t i = 0; i < names.size(); ++i) {
    SWELL_FUZZ_CHECK(!IsUtf8(names[i]) || found[i].get<std::string>() == names[i]);
  }
}

void CheckNumber(const json& found, double value) {
  SWELL_FUZZ_CHECK(std::isfinite(value) ? found.get<double>() == value : found.is_null());
}

void CheckJson(const FidelityReport& report) {
  const std::string text = swell::cli::JsonText(FidelityJson(report));
  SWELL_FUZZ_CHECK(IsUtf8(text));
  const json read = json::parse(text, nullptr, false);
  SWELL_FUZZ_CHECK(read.is_object());
  SWELL_FUZZ_CHECK(read["tokens"].get<int64_t>() == report.tokens);
  CheckNames(read["texts"], report.texts);
  CheckNames(read["tasks"], report.tasks);
  CheckNames(read["configs"], report.configs);
  SWELL_FUZZ_CHECK(read["results"].size() == report.results.size());
  for (size_t i = 0; i < report.results.size(); ++i)
    CheckNumber(read["results"][i]["seconds"], report.results[i].seconds);
}

}  // namespace

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Bytes bytes(data, size);
  const int what = bytes.Choose(8);
  if (what < 4) {
    TryVariant(bytes.Rest(size));
    return 0;
  }
  const FidelityReport report = MakeReport(bytes);
  CheckJson(report);
  std::ostringstream table;
  PrintFidelity(report, table);
  SWELL_FUZZ_CHECK(!table.str().empty());
  return 0;
}
