#include "tests/cuda/step_world.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

#include "cuda/build/segment_builder.h"
#include "lib/base/convert.h"
#include "tests/cuda/downloaded_index.h"

namespace swell::cuda {

// A cluster of either level as the float64 formulas see it.
struct StepWorld::Cluster {
  const ClusterView* view = nullptr;
  int64_t number = 0;
  int level = 0;
  bool read = false;  // or opened
  bool scored = true;

  double size() const { return view->first_rows[number + 1] - view->first_rows[number]; }
};

namespace {

double CentroidDot(const ClusterView& view, int64_t cluster, const float* query, int32_t head_dim) {
  double dot = 0;
  const int8_t* lane = view.centroids + cluster / kClusterTile * kClusterTile * head_dim + cluster % kClusterTile * 4;
  for (int32_t i = 0; i < head_dim; ++i) {
    const double element = lane[i / 4 * kClusterTile * 4 + i % 4];
    dot += query[i] * (view.center[i] + static_cast<double>(view.centroid_scales[cluster]) * element);
  }
  return dot;
}

double Sigma(const ClusterView& view, int64_t cluster, const float* query, int32_t head_dim, double scale) {
  double width = 0;
  for (int32_t i = 0; i < head_dim; ++i) width += static_cast<double>(query[i]) * query[i] * view.spread_profile[i];
  return scale * view.spreads[cluster] * std::sqrt(width);
}

}  // namespace

StepWorld::StepWorld(const HeadShape& head_shape, int32_t heads, uint32_t seed)
    : shape(head_shape), kv_heads(heads), random(seed) {}

std::vector<float> StepWorld::Floats(const std::vector<uint16_t>& rows) const {
  std::vector<float> floats(rows.size());
  ConvertToFloat(shape.storage, rows.data(), static_cast<int64_t>(rows.size()), floats.data());
  return floats;
}

std::vector<uint16_t> StepWorld::RandomRows(int64_t rows, double scale) {
  std::normal_distribution<float> normal(0, static_cast<float>(scale));
  std::vector<float> floats(static_cast<size_t>(rows * shape.head_dim));
  for (float& x : floats) x = normal(random);
  std::vector<uint16_t> result(floats.size());
  EXPECT_TRUE(ConvertFromFloat(floats.data(), static_cast<int64_t>(floats.size()), shape.storage, result.data()));
  return result;
}

std::vector<uint16_t> StepWorld::ClusteredRows(int64_t rows) {
  constexpr int64_t kMeanTokens = 8;
  const int64_t centres = std::max<int64_t>(1, rows / kMeanTokens);
  std::normal_distribution<float> normal(0, 1);
  std::uniform_int_distribution<int64_t> choose(0, centres - 1);
  std::vector<float> centre(static_cast<size_t>(centres * shape.head_dim));
  for (float& x : centre) x = normal(random);
  std::vector<float> floats;
  for (int64_t row = 0; row < rows; ++row) {
    const float* from = centre.data() + choose(random) * shape.head_dim;
    for (int32_t i = 0; i < shape.head_dim; ++i) floats.push_back(from[i] + 0.3F * normal(random) + 0.2F);
  }
  std::vector<uint16_t> result(floats.size());
  EXPECT_TRUE(ConvertFromFloat(floats.data(), static_cast<int64_t>(floats.size()), shape.storage, result.data()));
  return result;
}

std::shared_ptr<HostSegment> StepWorld::MakeSegment(int64_t tokens, bool clustered) {
  const auto builder = MakeIndexBuilder({});
  EXPECT_TRUE(builder.ok());
  auto segment = std::make_shared<HostSegment>();
  const ClusterView none;
  std::vector<SegmentSource> sources;
  for (int32_t h = 0; h < kv_heads; ++h) {
    HostRows rows;
    rows.tokens = tokens;
    rows.keys = ClusteredRows(tokens);
    rows.values = RandomRows(tokens, 1);
    if (clustered) {
      const KvRun run{.keys = rows.keys.data(), .values = rows.values.data(), .tokens = tokens};
      auto index = (*builder)->Build(shape, {&run, 1});
      EXPECT_TRUE(index.ok()) << index.status().message();
      rows.index = *std::move(index);
      std::vector<uint16_t> keys;
      std::vector<uint16_t> values;
      for (const uint16_t token : rows.index->order()) {
        const int64_t at = int64_t{token} * shape.head_dim;
        keys.insert(keys.end(), rows.keys.begin() + at, rows.keys.begin() + at + shape.head_dim);
        values.insert(values.end(), rows.values.begin() + at, rows.values.begin() + at + shape.head_dim);
      }
      rows.keys = std::move(keys);
      rows.values = std::move(values);
    }
    segment->heads.push_back(std::move(rows));
  }
  for (const HostRows& rows : segment->heads) {
    SegmentSource source;
    source.rows = {.keys = rows.keys.data(), .values = rows.values.data(), .tokens = tokens};
    source.levels[0] = clustered ? &rows.index->clusters() : &none;
    source.levels[1] = clustered ? &rows.index->super_clusters() : &none;
    sources.push_back(source);
  }
  auto device = DeviceSegment::Upload(shape, sources);
  EXPECT_TRUE(device.ok()) << device.status().message();
  segment->device = *std::move(device);
  return segment;
}

std::shared_ptr<HostSegment> StepWorld::BuildSegment(int64_t tokens) {
  const auto builder = SegmentBuilder::Make({.shape = shape, .kv_heads = kv_heads});
  EXPECT_TRUE(builder.ok()) << builder.status().message();
  std::vector<uint16_t> rows;
  for (int32_t h = 0; h < kv_heads; ++h) {
    const std::vector<uint16_t> head = ClusteredRows(tokens);
    rows.insert(rows.end(), head.begin(), head.end());
  }
  DeviceVector<uint16_t> keys(rows), values(RandomRows(tokens * kv_heads, 1));
  const auto build = (*builder)->Prepare({.keys = keys.data(),
                                          .values = values.data(),
                                          .token_stride = shape.head_dim,
                                          .head_stride = tokens * shape.head_dim,
                                          .segment_tokens = tokens,
                                          .segments = 1});
  EXPECT_TRUE(build.ok()) << build.status().message();
  const Status enqueued = (*builder)->Enqueue(*build, nullptr);
  EXPECT_TRUE(enqueued.ok()) << enqueued.message();
  auto segments = (*builder)->Finish(*build, nullptr);
  EXPECT_TRUE(segments.ok()) << segments.status().message();
  auto segment = std::make_shared<HostSegment>();
  segment->device = segments->front();
  for (const SegmentHead& head : segment->device->heads()) {
    segment->heads.push_back(DownloadHead(head, shape.head_dim));
  }
  return segment;
}

std::vector<std::set<const std::byte*>> StepWorld::Listed(const DecodeStep& step, int32_t layer, size_t heads) {
  const StepArgs args = step.Args(layer);
  const auto plans = DeviceVector<HeadPlan>::ReadDevice(args.heads, heads);
  const auto counts = DeviceVector<int64_t>::ReadDevice(args.list_tokens, heads);
  const auto owners = DeviceVector<int32_t>::ReadDevice(args.buffer.owners, static_cast<size_t>(args.buffer.slots));
  std::vector<std::set<const std::byte*>> listed;
  for (size_t h = 0; h < heads; ++h) {
    auto addresses = DeviceVector<const std::byte*>::ReadDevice(args.addresses + plans[h].first_address,
                                                                static_cast<size_t>(counts[h]));
    const BufferView& buffer = args.buffer;
    for (const std::byte*& address : addresses) {
      const auto entry = reinterpret_cast<uint64_t>(address);
      const int64_t slot = buffer.slots > 0 ? (address - buffer.cache) / buffer.record_bytes : 0;
      int64_t record = -1;
      if (IsAtHome(entry)) record = RecordOfEntry(entry);
      if (!IsAtHome(entry) && buffer.slots > 0 && address >= buffer.cache && slot < buffer.slots) record = owners[slot];
      if (record < 0) continue;
      address = reinterpret_cast<const std::byte*>(kHomeBase + static_cast<uint64_t>(record * buffer.record_bytes));
    }
    listed.emplace_back(addresses.begin(), addresses.end());
    EXPECT_EQ(listed.back().size(), addresses.size()) << "a token is listed twice";
  }
  return listed;
}

std::vector<std::vector<const void*>> StepWorld::Opened(const DecodeStep& step, int32_t layer, size_t heads) {
  const StepArgs args = step.Args(layer);
  std::vector<std::vector<const void*>> opened(heads);
  if (args.rules.two_level == 0) return opened;
  const auto plans = DeviceVector<HeadPlan>::ReadDevice(args.heads, heads);
  const auto selected = DeviceVector<Selection>::ReadDevice(args.scores[1].selected, heads);
  for (size_t h = 0; h < heads; ++h) {
    if (selected[h].opened < 0) continue;
    opened[h] = DeviceVector<const void*>::ReadDevice(args.opened + plans[h].first_tile[0],
                                                      static_cast<size_t>(selected[h].opened));
  }
  return opened;
}

std::vector<StepWorld::Cluster> StepWorld::Clusters(const HostSequence& sequence, int32_t kv_head,
                                                    const std::set<const std::byte*>& listed,
                                                    const std::vector<const void*>& opened) const {
  std::vector<Cluster> clusters;
  const std::set<const void*> open(opened.begin(), opened.end());
  const auto token_bytes = static_cast<int64_t>(TokenBytes(shape.head_dim));
  for (int level = 0; level < (open.empty() ? 1 : 2); ++level) {
    for (const auto& segment : sequence.segments) {
      const HostRows& rows = segment->heads[kv_head];
      if (rows.index == nullptr) continue;
      const SegmentHead& device = segment->device->heads()[kv_head];
      const ClusterView& view = level == 0 ? rows.index->clusters() : rows.index->super_clusters();
      for (int64_t j = 0; j < view.clusters; ++j) {
        Cluster cluster{&view, j, level, false, true};
        const int64_t tile = level == 0 ? j / kClusterTile : j;
        const void* record = device.tiles[0] + tile * static_cast<int64_t>(TileBytes(shape.head_dim));
        const bool is_open = open.empty() || open.contains(record);
        cluster.read = level == 0 ? listed.contains(device.rows.rows + view.first_rows[j] * token_bytes) : is_open;
        cluster.scored = level == 1 || is_open;
        clusters.push_back(cluster);
      }
    }
  }
  return clusters;
}

namespace {

// What a step may choose from in one head: the tiles that it scored, each a run, and the amounts that budgets count.
struct Choices {
  int64_t steady = 0;     // tokens
  int64_t clustered = 0;  // tokens
  int64_t clusters = 0;
  std::vector<ClusterRun> runs;
  std::vector<const std::byte*> rows_of_run;  // token records of its segment
};

Choices ChoicesOf(const HostSequence& sequence, int32_t kv_head, int32_t head_dim,
                  const std::vector<const void*>& opened) {
  const std::set<const void*> open(opened.begin(), opened.end());
  Choices choices;
  choices.steady = sequence.tail[kv_head].tokens;
  for (const auto& segment : sequence.segments) {
    const HostRows& rows = segment->heads[kv_head];
    const SegmentHead& device = segment->device->heads()[kv_head];
    if (rows.index == nullptr) {
      choices.steady += rows.tokens;
      continue;
    }
    const ClusterView& view = rows.index->clusters();
    choices.clustered += rows.tokens;
    choices.clusters += view.clusters;
    for (int64_t first = 0; first < view.clusters; first += kClusterTile) {
      const std::byte* record = device.tiles[0] + first / kClusterTile * static_cast<int64_t>(TileBytes(head_dim));
      if (!open.empty() && !open.contains(record)) continue;
      choices.runs.push_back({&view, first, std::min<int64_t>(kClusterTile, view.clusters - first)});
      choices.rows_of_run.push_back(device.rows.rows);
    }
  }
  return choices;
}

}  // namespace

std::vector<float> StepWorld::LogSteady(const HostSequence& sequence, int32_t kv_head,
                                        const std::vector<float>& queries) const {
  std::vector<double> mass(static_cast<size_t>(shape.group));
  const auto add_rows = [&](const HostRows& rows) {
    const std::vector<float> keys = Floats(rows.keys);
    for (int64_t r = 0; r < rows.tokens; ++r) {
      for (int32_t g = 0; g < shape.group; ++g) {
        double dot = 0;
        for (int32_t i = 0; i < shape.head_dim; ++i) {
          dot += static_cast<double>(queries[g * shape.head_dim + i]) * keys[r * shape.head_dim + i];
        }
        mass[g] += std::exp(shape.scale * dot);
      }
    }
  };
  for (const auto& segment : sequence.segments) {
    const auto base = reinterpret_cast<uint64_t>(segment->device->heads()[kv_head].rows.rows);
    if (segment->heads[kv_head].index == nullptr && base < kHomeBase) add_rows(segment->heads[kv_head]);
  }
  add_rows(sequence.tail[kv_head]);
  std::vector<float> log_steady;
  for (const double m : mass) log_steady.push_back(static_cast<float>(std::log(m)));
  return log_steady;
}

void StepWorld::CheckChoice(const HostSequence& sequence, int32_t kv_head, const RetrievalOptions& retrieval,
                            const std::vector<float>& queries, const std::set<const std::byte*>& listed,
                            const std::vector<const void*>& opened, const Nearness& near) const {
  const auto token_bytes = static_cast<int64_t>(TokenBytes(shape.head_dim));
  const Choices choices = ChoicesOf(sequence, kv_head, shape.head_dim, opened);
  const auto& [steady, clustered, clusters, runs, rows_of_run] = choices;
  for (const auto& segment : sequence.segments) {
    const HostRows& rows = segment->heads[kv_head];
    const std::byte* base = segment->device->heads()[kv_head].rows.rows;
    for (int64_t r = 0; rows.index == nullptr && r < rows.tokens; ++r) {
      EXPECT_TRUE(listed.contains(base + r * token_bytes)) << "a steady token is left out";
    }
  }
  // The CPU twin over the same clusters.
  const int64_t floor = std::max<int64_t>(0, retrieval.floor_tokens - steady);
  const auto share = static_cast<int64_t>(std::ceil(static_cast<double>(retrieval.retrieve_share) * clustered));
  const int64_t most = retrieval.max_retrieve_tokens > 0 ? retrieval.max_retrieve_tokens : clustered;
  const int64_t tokens = std::max(std::min({share, clustered, most}), floor);
  if (tokens >= clustered) {
    EXPECT_EQ(static_cast<int64_t>(listed.size()), steady + clustered);
    return;
  }
  int64_t budget = tokens;
  if (retrieval.unit == BudgetUnit::kClusters) {
    budget = std::max<int64_t>(1, std::llround(static_cast<double>(retrieval.retrieve_share) * clusters));
  }
  const auto entries = static_cast<int64_t>(runs.size()) * kClusterTile;  // every run is one tile
  std::vector<float> logits(static_cast<size_t>(shape.group * entries));
  std::vector<float> widths(runs.size() * static_cast<size_t>(shape.group));
  std::vector<float> importance(static_cast<size_t>(entries));
  std::vector<uint32_t> sizes(static_cast<size_t>(entries));
  std::vector<float> log_mass(static_cast<size_t>(shape.group));
  const std::vector<float> log_steady = LogSteady(sequence, kv_head, queries);
  const attention::ClusterScores scores{logits.data(), widths.data(), entries};
  attention::ScoreClusters(shape, queries.data(), runs, scores);
  attention::RankClusters(shape.group, runs, scores, retrieval.ranking, retrieval.kappa, log_steady.data(),
                          importance.data(), sizes.data(), log_mass.data());
  for (size_t r = 0; near.preference > 0 && r < runs.size(); ++r) {
    for (int64_t j = 0; j < runs[r].clusters; ++j) {
      const auto address = reinterpret_cast<uint64_t>(rows_of_run[r]) +
                           runs[r].view->first_rows[runs[r].first + j] * static_cast<uint64_t>(token_bytes);
      const bool is_near = address < kHomeBase || near.places[(address - kHomeBase) / token_bytes] >= 0;
      importance[r * kClusterTile + j] -= is_near ? 0 : near.preference;
    }
  }
  std::vector<attention::Zone> zones(static_cast<size_t>(entries));
  std::vector<uint32_t> scratch(static_cast<size_t>(entries));
  const float least = std::log(retrieval.retrieve_above);  // of 0: kLeastImportance
  const attention::Retrieved expected = attention::SelectClusters(
      entries, importance.data(), sizes.data(), retrieval.unit, budget, least, entries, zones.data(), scratch.data());
  // Where the zones differ, the clusters must be as good as equal to the last that was taken or could be.
  float worst_taken = std::numeric_limits<float>::max();
  for (int64_t j = 0; j < entries; ++j) {
    if (sizes[j] > 0 && zones[j] == attention::Zone::kRetrieved) worst_taken = std::min(worst_taken, importance[j]);
  }
  const float tolerance = retrieval.ranking == Ranking::kMass ? 1e-4F * worst_taken : 1e-4F;
  int64_t read = 0;
  int64_t different = 0;
  for (size_t r = 0; r < runs.size(); ++r) {
    for (int64_t j = runs[r].first; j < runs[r].first + runs[r].clusters; ++j) {
      const int64_t entry = static_cast<int64_t>(r) * kClusterTile + j - runs[r].first;
      int64_t of_cluster = 0;
      for (uint32_t row = runs[r].view->first_rows[j]; row < runs[r].view->first_rows[j + 1]; ++row) {
        of_cluster += listed.contains(rows_of_run[r] + row * token_bytes) ? 1 : 0;
      }
      read += of_cluster;
      EXPECT_TRUE(of_cluster == 0 || of_cluster == sizes[entry]) << "part of a cluster";
      const bool taken = of_cluster > 0;
      if (taken == (zones[entry] == attention::Zone::kRetrieved)) continue;
      ++different;
      const float off = std::min(std::abs(importance[entry] - worst_taken), std::abs(importance[entry] - least));
      EXPECT_LE(off, 50 * tolerance) << "cluster " << entry << " of importance " << importance[entry];
    }
  }
  EXPECT_LE(different, 4);
  if (different == 0) {
    EXPECT_EQ(read, expected.tokens);
  }
  EXPECT_EQ(static_cast<int64_t>(listed.size()), steady + read);
}

std::vector<double> StepWorld::LogMass(const HostSequence&, int32_t, const std::vector<Cluster>& clusters,
                                       const std::vector<float>& queries) const {
  std::vector<double> log_mass;
  for (int32_t g = 0; g < shape.group; ++g) {
    double mass[kLevels] = {};
    for (const Cluster& cluster : clusters) {
      if (!cluster.scored) continue;
      const double dot =
          CentroidDot(*cluster.view, cluster.number, queries.data() + g * shape.head_dim, shape.head_dim);
      mass[cluster.level] += cluster.size() * std::exp(shape.scale * dot);
    }
    log_mass.push_back(std::log(std::max(mass[0], mass[1])));
  }
  return log_mass;
}

HeadAnswer StepWorld::Answer(const HostSequence& sequence, int32_t kv_head, const RetrievalOptions& retrieval,
                             const std::vector<float>& queries, const std::set<const std::byte*>& listed,
                             const std::vector<const void*>& opened) const {
  const int32_t d = shape.head_dim;
  const auto token_bytes = static_cast<int64_t>(TokenBytes(d));
  const std::vector<Cluster> clusters = Clusters(sequence, kv_head, listed, opened);
  const std::vector<double> log_mass = LogMass(sequence, kv_head, clusters, queries);
  HeadAnswer answer;
  for (int32_t g = 0; g < shape.group; ++g) {
    const float* query = queries.data() + static_cast<int64_t>(g) * d;
    double sum = 0, mass = 0, energy = 0, weight_sum = 0;
    std::vector<double> out(static_cast<size_t>(d)), cross(static_cast<size_t>(d));
    const auto add_rows = [&](const HostRows& rows, const std::byte* base) {
      const std::vector<float> keys = Floats(rows.keys);
      const std::vector<float> values = Floats(rows.values);
      for (int64_t r = 0; r < rows.tokens; ++r) {
        if (base != nullptr && !listed.contains(base + r * token_bytes)) continue;
        double dot = 0;
        for (int32_t i = 0; i < d; ++i) dot += static_cast<double>(query[i]) * keys[r * d + i];
        const double weight = std::exp(shape.scale * dot);
        sum += weight;
        for (int32_t i = 0; i < d; ++i) out[i] += weight * values[r * d + i];
      }
    };
    for (const auto& segment : sequence.segments) {
      add_rows(segment->heads[kv_head], segment->device->heads()[kv_head].rows.rows);
    }
    add_rows(sequence.tail[kv_head], nullptr);
    for (const Cluster& cluster : clusters) {
      if (cluster.read || !cluster.scored || retrieval.estimate_share == 0) continue;
      const ClusterView& view = *cluster.view;
      const double sigma = Sigma(view, cluster.number, query, d, shape.scale);
      const double logit = shape.scale * CentroidDot(view, cluster.number, query, d);
      const double exponential = std::exp(logit + (retrieval.correct ? std::min(0.5 * sigma * sigma, 1.0) : 0.0));
      const double weight = cluster.size() * exponential;
      const double term = weight * exponential * std::expm1(std::min(sigma * sigma, 2.0));
      const bool own = weight > std::exp(log_mass[g]) / 4096;
      const int64_t row = own ? cluster.number : cluster.number / kClusterTile;
      const int8_t* mean = (own ? view.value_means : view.tile_means) + row * d;
      const double scale = own ? view.value_scales[row] : view.tile_scales[row];
      sum += weight;
      mass += weight;
      energy += term * view.value_energies[cluster.number];
      weight_sum += term;
      for (int32_t i = 0; i < d; ++i) {
        out[i] += weight * scale * mean[i];
        cross[i] += term * scale * mean[i];
      }
    }
    double square = 0, along = 0;
    for (int32_t i = 0; i < d; ++i) {
      answer.output.push_back(sum > 0 ? out[i] / sum : 0);
      square += answer.output.back() * answer.output.back();
      along += answer.output.back() * cross[i];
    }
    answer.lse.push_back(std::log(sum));
    const double variance = std::max(energy - 2 * along + square * weight_sum, 0.0) / (sum * sum);
    answer.error.push_back(variance > 0 ? std::sqrt(variance / square) : 0);
    answer.share.push_back(sum > 0 ? mass / sum : 0);
  }
  return answer;
}

}  // namespace swell::cuda
