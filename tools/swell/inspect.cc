// swell inspect: what a sequence consists of.
#include <algorithm>
#include <bit>
#include <cmath>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <numeric>
#include <utility>

#include "swell/engine.h"
#include "tools/report/file.h"
#include "tools/report/format.h"
#include "tools/swell/command.h"
#include "tools/swell/json.h"
#include "tools/swell/runtime.h"
#include "tools/swell/table.h"
#include "tools/swell/terminal.h"
#include "tools/tasks/random.h"

namespace swell::cli {
namespace {

using report::FormatBytes;
using report::FormatCount;

constexpr int64_t kChunkTokens = 512;
constexpr int kSizeBins = 9;  // 1, 2, 3-4, 5-8, ... 65-128, more

struct Options {
  RuntimeOptions runtime;
  std::string text = "tools/assets/prideprejudice.txt";
  std::string preset = "swell";
  std::string json;
  bool synthetic = false;
  int64_t tokens = 8192;
  int32_t layers = 2, kv_heads = 2, head_dim = 64;
  int32_t layer = 0;
  uint64_t seed = 0;
};

// Cluster sizes of one layer.
struct Sizes {
  std::vector<int64_t> bins = std::vector<int64_t>(kSizeBins);
  int64_t clusters = 0;
  int64_t largest = 0;
};

struct Picture {
  SequenceOptions options;
  std::vector<LayerInfo> layers;
  Sizes sizes;
  EngineStats stats;
  uint64_t peak_bytes = 0;  // of the process, all sealed
};

// Keys in loose groups around a drifting mean, as real ones are; values are plain noise.
void FillSynthetic(tasks::Random& random, int64_t head_dim, std::vector<float>& keys, std::vector<float>& values) {
  for (size_t row = 0; row * head_dim < keys.size(); ++row) {
    const int64_t topic = random.Below(32);
    for (int64_t d = 0; d < head_dim; ++d) {
      const float center = std::sin(static_cast<float>(topic * (d + 1)));
      keys[row * head_dim + d] = center + random.Unit() - 0.5F;
      values[row * head_dim + d] = 2 * random.Unit() - 1;
    }
  }
}

Status PutSynthetic(Engine& engine, SequenceId sequence, const Options& options) {
  tasks::Random random(options.seed);
  Progress progress("writing", options.tokens * options.layers);
  const int64_t row = int64_t{options.kv_heads} * options.head_dim;
  for (int64_t at = 0; at < options.tokens; at += kChunkTokens) {
    PutItem item;
    item.sequence = sequence;
    item.position = at;
    item.tokens = std::min(kChunkTokens, options.tokens - at);
    std::vector<float> keys(item.tokens * row), values(item.tokens * row);
    for (int32_t layer = 0; layer < options.layers; ++layer) {
      FillSynthetic(random, options.head_dim, keys, values);
      item.keys.data = keys.data();
      item.values.data = values.data();
      Status status;
      SWELL_RETURN_IF_ERROR(engine.Put(layer, {&item, 1}, {&status, 1}));
      progress.Update(at * options.layers + item.tokens * (layer + 1));
    }
  }
  return OkStatus();
}

// The engine says how many clusters a segment has; their sizes come from clustering the same rows once more, which
// gives the same clusters.
Status AddSizes(Engine& engine, SequenceId sequence, int32_t layer, const SegmentInfo& segment,
                const IndexBuilder& builder, Sizes& sizes) {
  const ModelShape& shape = engine.shape();
  std::vector<int64_t> positions(segment.tokens);
  std::iota(positions.begin(), positions.end(), segment.first_token);
  const DType dtype = FetchDType(shape);
  const size_t row = shape.head_dim * DTypeSize(dtype);
  std::vector<std::byte> keys(segment.tokens * shape.kv_heads * row), values(keys.size());
  FetchItem fetch;
  fetch.sequence = sequence;
  fetch.tokens = positions;
  fetch.dtype = dtype;
  fetch.keys = keys.data();
  fetch.values = values.data();
  Status status;
  SWELL_RETURN_IF_ERROR(engine.Fetch(layer, {&fetch, 1}, {&status, 1}));
  const HeadShape head_shape{shape.head_dim, shape.group, shape.scale, dtype};
  std::vector<std::byte> head_keys(segment.tokens * row), head_values(head_keys.size());
  for (int32_t head = 0; head < shape.kv_heads; ++head) {
    for (int64_t token = 0; token < segment.tokens; ++token) {
      const size_t from = (token * shape.kv_heads + head) * row;
      std::copy_n(keys.begin() + from, row, head_keys.begin() + token * row);
      std::copy_n(values.begin() + from, row, head_values.begin() + token * row);
    }
    KvRun run;
    run.keys = head_keys.data();
    run.values = head_values.data();
    run.tokens = segment.tokens;
    Result<std::unique_ptr<const SegmentIndex>> index = builder.Build(head_shape, {&run, 1});
    if (!index.ok()) return index.status();
    const ClusterView clusters = index.value()->clusters();
    for (int64_t c = 0; c < clusters.clusters; ++c) {
      const int64_t size = clusters.first_rows[c + 1] - clusters.first_rows[c];
      if (size == 0) continue;
      ++sizes.clusters;
      ++sizes.bins[std::min<int64_t>(std::bit_width(static_cast<uint64_t>(size - 1)), kSizeBins - 1)];
      sizes.largest = std::max(sizes.largest, size);
    }
  }
  return OkStatus();
}

Status CheckLayer(int32_t layer, int32_t layers) {
  if (layer < layers) return OkStatus();
  return InvalidArgument("--layer " + std::to_string(layer) + ": the layers are 0 to " + std::to_string(layers - 1));
}

Result<Picture> Take(Engine& engine, SequenceId sequence, const SequenceOptions& options, int32_t layer) {
  SWELL_RETURN_IF_ERROR(engine.WaitSealed(sequence));
  Picture picture;
  picture.options = options;
  for (int32_t i = 0; i < engine.shape().layers; ++i) {
    Result<LayerInfo> info = engine.Inspect(sequence, i);
    if (!info.ok()) return info.status();
    picture.layers.push_back(std::move(info.value()));
  }
  picture.stats = engine.Stats();
  picture.peak_bytes = PeakResidentBytes();
  Result<std::unique_ptr<const IndexBuilder>> builder = MakeIndexBuilder(options.index);
  if (!builder.ok()) return builder.status();
  const std::vector<SegmentInfo>& segments = picture.layers[layer].segments;
  Progress progress("clusters", static_cast<int64_t>(segments.size()));
  for (size_t s = 0; s < segments.size(); ++s) {
    SWELL_RETURN_IF_ERROR(AddSizes(engine, sequence, layer, segments[s], *builder.value(), picture.sizes));
    progress.Update(static_cast<int64_t>(s) + 1);
  }
  return picture;
}

std::string BinName(int bin) {
  if (bin < 2) return std::to_string(bin + 1);
  const int64_t low = (int64_t{1} << (bin - 1)) + 1, high = int64_t{1} << bin;
  return bin == kSizeBins - 1 ? std::to_string(low) + " or more" : std::to_string(low) + "-" + std::to_string(high);
}

struct Totals {
  int64_t clusters = 0;
  uint64_t row_bytes = 0, index_bytes = 0;
};

Totals Sum(const LayerInfo& layer) {
  Totals totals;
  for (const SegmentInfo& segment : layer.segments) {
    totals.clusters += segment.clusters;
    totals.row_bytes += segment.row_bytes;
    totals.index_bytes += segment.index_bytes;
  }
  return totals;
}

nlohmann::json ToJson(const Picture& picture, const Options& options) {
  nlohmann::json json = {{"program", "swell inspect"},
                         {"version", SWELL_VERSION},
                         {"preset", options.preset},
                         {"histogram_layer", options.layer},
                         {"bytes_in_use", picture.stats.bytes_in_use},
                         {"peak_resident_bytes", picture.peak_bytes}};
  for (const LayerInfo& layer : picture.layers) {
    nlohmann::json segments = nlohmann::json::array();
    for (const SegmentInfo& segment : layer.segments) {
      segments.push_back({{"first_token", segment.first_token},
                          {"tokens", segment.tokens},
                          {"clusters", segment.clusters},
                          {"row_bytes", segment.row_bytes},
                          {"index_bytes", segment.index_bytes},
                          {"owners", segment.owners}});
    }
    json["layers"].push_back({{"tokens", layer.tokens},
                              {"sealed_tokens", layer.sealed_tokens},
                              {"tail_tokens", layer.tail_tokens},
                              {"segments", std::move(segments)}});
  }
  for (int bin = 0; bin < kSizeBins; ++bin) {
    json["cluster_sizes"].push_back({{"tokens", BinName(bin)}, {"clusters", picture.sizes.bins[bin]}});
  }
  json["largest_cluster"] = picture.sizes.largest;
  return json;
}

void PrintHistogram(const Sizes& sizes, int32_t layer) {
  std::cout << "\nCluster sizes of layer " << layer << " (" << FormatCount(sizes.clusters) << " clusters, largest "
            << sizes.largest << ")\n";
  const int64_t most = std::max<int64_t>(1, *std::max_element(sizes.bins.begin(), sizes.bins.end()));
  Table table({"tokens", "clusters", ""});
  for (int bin = 0; bin < kSizeBins; ++bin) {
    table.Add({BinName(bin), FormatCount(sizes.bins[bin]), std::string(sizes.bins[bin] * 40 / most, '#')});
  }
  table.Print(std::cout);
}

void PrintPicture(const Picture& picture, const Options& options) {
  Table layers({"layer", "tokens", "sealed", "tail", "segments", "clusters", "K and V", "index"});
  for (size_t i = 0; i < picture.layers.size(); ++i) {
    const LayerInfo& layer = picture.layers[i];
    const Totals totals = Sum(layer);
    layers.Add({std::to_string(i), FormatCount(layer.tokens), FormatCount(layer.sealed_tokens),
                FormatCount(layer.tail_tokens), std::to_string(layer.segments.size()), FormatCount(totals.clusters),
                FormatBytes(static_cast<double>(totals.row_bytes)),
                FormatBytes(static_cast<double>(totals.index_bytes))});
  }
  layers.Print(std::cout);
  std::cout << "In use by all layers, sinks and tails included: "
            << FormatBytes(static_cast<double>(picture.stats.bytes_in_use))
            << ". The process held at most: " << FormatBytes(static_cast<double>(picture.peak_bytes))
            << "\n\nSegments of layer " << options.layer << "\n";
  Table segments({"first token", "tokens", "clusters", "K and V", "index", "owners"});
  for (const SegmentInfo& segment : picture.layers[options.layer].segments) {
    segments.Add({FormatCount(segment.first_token), FormatCount(segment.tokens), FormatCount(segment.clusters),
                  FormatBytes(static_cast<double>(segment.row_bytes)),
                  FormatBytes(static_cast<double>(segment.index_bytes)), std::to_string(segment.owners)});
  }
  segments.Print(std::cout);
  PrintHistogram(picture.sizes, options.layer);
}

Result<Picture> TakeSynthetic(const Options& options, const SequenceOptions& sequence_options) {
  SWELL_RETURN_IF_ERROR(CheckLayer(options.layer, options.layers));
  EngineOptions engine_options;
  engine_options.shape = {options.layers, options.kv_heads, 1, options.head_dim, 0, Storage(options.runtime)};
  engine_options.threads = options.runtime.threads;
  Result<std::unique_ptr<Engine>> engine = Engine::Open(engine_options);
  if (!engine.ok()) return engine.status();
  Result<SequenceId> sequence = engine.value()->CreateSequence(sequence_options);
  if (!sequence.ok()) return sequence.status();
  SWELL_RETURN_IF_ERROR(PutSynthetic(*engine.value(), sequence.value(), options));
  return Take(*engine.value(), sequence.value(), sequence_options, options.layer);
}

Result<Picture> TakeText(const Options& options, const SequenceOptions& sequence_options) {
  Result<std::unique_ptr<Runtime>> opened = Runtime::Open(options.runtime, false);
  if (!opened.ok()) return opened.status();
  Runtime& runtime = *opened.value();
  SWELL_RETURN_IF_ERROR(CheckLayer(options.layer, runtime.engine().shape().layers));
  Result<TokenIds> ids = runtime.ReadText(options.text);
  if (!ids.ok()) return ids.status();
  const int64_t tokens = std::min<int64_t>(options.tokens, static_cast<int64_t>(ids.value().size()));
  SWELL_RETURN_IF_ERROR(runtime.CheckLength(tokens));
  Result<model::Session> session = runtime.CreateSession(sequence_options);
  if (!session.ok()) return session.status();
  {
    Progress progress("reading", tokens);
    SWELL_RETURN_IF_ERROR(ReadContext(session.value(), std::span(ids.value()).first(tokens), progress));
  }
  return Take(runtime.engine(), session.value().sequence(), sequence_options, options.layer);
}

Status RunInspect(const Options& options) {
  if (!options.json.empty()) SWELL_RETURN_IF_ERROR(report::CheckWritable(options.json));
  Result<SequenceOptions> preset = SequencePreset(options.preset);
  if (!preset.ok()) return preset.status();
  Result<Picture> picture =
      options.synthetic ? TakeSynthetic(options, preset.value()) : TakeText(options, preset.value());
  if (!picture.ok()) return picture.status();
  PrintPicture(picture.value(), options);
  if (options.json.empty()) return OkStatus();
  return report::WriteFile(options.json, JsonText(ToJson(picture.value(), options)));
}

}  // namespace

Command AddInspect(CLI::App& program) {
  auto options = std::make_shared<Options>();
  CLI::App* app = program.add_subcommand("inspect", "Show the segments, clusters, sizes and memory of a sequence");
  app->add_option("--text", options->text, "Text to read")->capture_default_str();
  app->add_flag("--synthetic", options->synthetic, "Made-up keys and values instead of a text; needs no model");
  app->add_option("--tokens", options->tokens, "Tokens to read")->check(CLI::Range(1, 1 << 24))->capture_default_str();
  app->add_option("--preset", options->preset, "Settings of the sequence")
      ->check(CLI::IsMember({"swell", "retroinfer"}))
      ->capture_default_str();
  app->add_option("--layer", options->layer, "Layer whose segments and cluster sizes are shown")
      ->check(CLI::Range(0, 4095))
      ->capture_default_str();
  app->add_option("--layers", options->layers, "Layers, with --synthetic")
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  app->add_option("--kv-heads", options->kv_heads, "KV heads, with --synthetic")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  app->add_option("--head-dim", options->head_dim, "Dimension of a head, with --synthetic: a multiple of 16")
      ->check(CLI::Range(16, 256))
      ->capture_default_str();
  app->add_option("--seed", options->seed, "Seed of the made-up rows")->capture_default_str();
  app->add_option("--json", options->json, "Write everything to this file, too");
  AddRuntimeOptions(*app, options->runtime);
  return {app, [options] { return RunInspect(*options); }};
}

}  // namespace swell::cli
