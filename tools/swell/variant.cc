#include "tools/swell/variant.h"

#include <fstream>
#include <functional>
#include <map>
#include <sstream>
#include <vector>

namespace swell::cli {
namespace {

// Reads all of `text` into `value`.
template <typename T>
bool Read(const std::string& text, T& value) {
  std::istringstream stream(text);
  return static_cast<bool>(stream >> value) && stream.eof();
}

bool ReadRanking(const std::string& text, Ranking& ranking) {
  static const std::map<std::string, Ranking> rankings = {
      {"optimistic", Ranking::kOptimistic}, {"mass", Ranking::kMass}, {"share", Ranking::kShare}};
  const auto found = rankings.find(text);
  if (found != rankings.end()) ranking = found->second;
  return found != rankings.end();
}

bool ReadUnit(const std::string& text, BudgetUnit& unit) {
  unit = text == "clusters" ? BudgetUnit::kClusters : BudgetUnit::kTokens;
  return text == "clusters" || text == "tokens";
}

bool ReadKind(const std::string& text, IndexKind& kind) {
  static const std::map<std::string, IndexKind> kinds = {{"flat", IndexKind::kFlat},
                                                         {"wave", IndexKind::kWave},
                                                         {"graph", IndexKind::kGraph},
                                                         {"scan", IndexKind::kScan},
                                                         {"faiss:flat", IndexKind::kFaissFlat},
                                                         {"faiss:ivf", IndexKind::kFaissIvf},
                                                         {"faiss:hnsw", IndexKind::kFaissHnsw}};
  const auto found = kinds.find(text);
  if (found != kinds.end()) kind = found->second;
  return found != kinds.end();
}

// `path`: a line "LAYER KV_HEAD SHARE" for each override.
bool ReadOverrides(const std::string& path, std::vector<BudgetOverride>& overrides) {
  std::ifstream file(path);
  BudgetOverride entry;
  overrides.clear();
  while (file >> entry.layer >> entry.kv_head >> entry.retrieve_share) overrides.push_back(entry);
  return file.eof() && !overrides.empty();
}

using Setter = std::function<bool(SequenceOptions&, const std::string&)>;

const std::map<std::string, Setter>& Setters() {
  static const std::map<std::string, Setter> setters = {
      {"index", [](auto& o, const auto& t) { return ReadKind(t, o.index.kind); }},
      {"cluster_tokens", [](auto& o, const auto& t) { return Read(t, o.index.cluster_tokens); }},
      {"iterations", [](auto& o, const auto& t) { return Read(t, o.index.iterations); }},
      {"unit", [](auto& o, const auto& t) { return ReadUnit(t, o.retrieval.unit); }},
      {"retrieve_above", [](auto& o, const auto& t) { return Read(t, o.retrieval.retrieve_above); }},
      {"retrieve_share", [](auto& o, const auto& t) { return Read(t, o.retrieval.retrieve_share); }},
      {"overrides", [](auto& o, const auto& t) { return ReadOverrides(t, o.retrieval.overrides); }},
      {"retrieve_tokens", [](auto& o, const auto& t) { return Read(t, o.retrieval.retrieve_tokens); }},
      {"max_retrieve_tokens", [](auto& o, const auto& t) { return Read(t, o.retrieval.max_retrieve_tokens); }},
      {"open_share", [](auto& o, const auto& t) { return Read(t, o.retrieval.open_share); }},
      {"max_open_tokens", [](auto& o, const auto& t) { return Read(t, o.retrieval.max_open_tokens); }},
      {"estimate_share", [](auto& o, const auto& t) { return Read(t, o.retrieval.estimate_share); }},
      {"ranking", [](auto& o, const auto& t) { return ReadRanking(t, o.retrieval.ranking); }},
      {"kappa", [](auto& o, const auto& t) { return Read(t, o.retrieval.kappa); }},
      {"correct", [](auto& o, const auto& t) { return Read(t, o.retrieval.correct); }},
      {"floor_tokens", [](auto& o, const auto& t) { return Read(t, o.retrieval.floor_tokens); }},
      {"sink_tokens", [](auto& o, const auto& t) { return Read(t, o.sink_tokens); }},
      {"window_tokens", [](auto& o, const auto& t) { return Read(t, o.window_tokens); }},
      {"seal_tokens", [](auto& o, const auto& t) { return Read(t, o.seal_tokens); }},
      {"segment_tokens", [](auto& o, const auto& t) { return Read(t, o.segment_tokens); }},
  };
  return setters;
}

}  // namespace

std::string VariantKeys() {
  std::string keys;
  for (const auto& [key, setter] : Setters()) keys += (keys.empty() ? "" : ", ") + key;
  return keys;
}

Result<SequenceOptions> ParseVariant(const std::string& text) {
  std::istringstream parts(text);
  std::string part;
  std::getline(parts, part, ',');
  Result<SequenceOptions> options = SequencePreset(part);
  if (!options.ok()) return options.status();
  while (std::getline(parts, part, ',')) {
    const size_t equals = part.find('=');
    const auto setter = Setters().find(part.substr(0, equals));
    if (equals == std::string::npos || setter == Setters().end()) {
      return InvalidArgument("variant: '" + part + "' is not KEY=VALUE with one of the keys " + VariantKeys());
    }
    if (!setter->second(options.value(), part.substr(equals + 1))) {
      return InvalidArgument("variant: '" + part + "' has no value of the right kind");
    }
  }
  return options;
}

}  // namespace swell::cli
