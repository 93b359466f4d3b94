#include "bench/soak/client.h"

#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cmath>

namespace swell::soak {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kPoolRows = 8191;
constexpr int64_t kPromptChunk = 1024;
constexpr int64_t kRowsPerCheck = 64;

double MicrosecondsSince(Clock::time_point start) {
  return std::chrono::duration<double, std::micro>(Clock::now() - start).count();
}

// How often this thread gave up its processor to wait.
int64_t Waits() {
  rusage usage{};
  getrusage(RUSAGE_THREAD, &usage);
  return usage.ru_nvcsw;
}

}  // namespace

void Totals::Add(const Totals& other) {
  attend.Add(other.attend);
  append.Add(other.append);
  blocked += other.blocked;
  blocked_max_us = std::max(blocked_max_us, other.blocked_max_us);
  tokens += other.tokens;
  begun += other.begun;
  forked += other.forked;
  cut += other.cut;
  ended += other.ended;
  refused += other.refused;
  rows_checked += other.rows_checked;
  if (failure.empty()) failure = other.failure;
}

Client::Client(Engine& engine, const Workload& workload, uint64_t seed)
    : engine_(engine), workload_(workload), random_(seed), width_(workload.shape.kv_heads * workload.shape.head_dim) {
  std::normal_distribution<float> normal;
  pool_.resize(static_cast<size_t>(kPoolRows * width_));
  // Small multiples of 1/64, which every storage dtype but int8 holds exactly, twice as large as well.
  for (float& x : pool_) x = std::round(std::clamp(normal(random_), -3.0F, 3.0F) * 32.0F) / 32.0F;
  keys_.resize(static_cast<size_t>(kPromptChunk * width_));
  values_.resize(keys_.size());
  query_.resize(static_cast<size_t>(width_) * workload.shape.group);
  output_.resize(query_.size());
  live_.reserve(static_cast<size_t>(workload.sequences) + 1);
}

bool Client::Turn() {
  if (static_cast<int64_t>(live_.size()) < workload_.sequences && (live_.empty() || random_() % 4 == 0)) {
    Begin();
    return totals_.failure.empty();
  }
  Live& live = *live_[random_() % live_.size()];
  const uint64_t choice = random_() % 100;
  if (choice < 4 || live.tokens >= workload_.max_tokens) {
    End(live);
  } else if (choice < 8 && static_cast<int64_t>(live_.size()) < workload_.sequences) {
    Fork(live);
  } else if (choice < 10) {
    Cut(live);
  } else if (choice < 14) {
    Check(live);
  } else {
    Grow(live);
  }
  return totals_.failure.empty();
}

void Client::Finish() {
  while (!live_.empty()) End(*live_.back());
}

void Client::Begin() {
  const auto created = engine_.CreateSequence({});
  if (!created.ok()) return Fail("create", created.status());
  live_.push_back(std::make_unique<Live>(Live{*created, {{0, random_()}}, 0}));
  Live& live = *live_.back();
  ++totals_.begun;
  int64_t prompt =
      workload_.min_prompt + static_cast<int64_t>(random_() % (workload_.max_prompt - workload_.min_prompt + 1));
  for (; prompt > 0; prompt -= kPromptChunk) {
    if (!Append(live, std::min(prompt, kPromptChunk))) return;
  }
}

void Client::Grow(Live& live) {
  const auto tokens = static_cast<int64_t>(8 + random_() % 56);
  for (int64_t i = 0; i < tokens && totals_.failure.empty(); ++i) {
    if (!Append(live, 1)) return;
    for (float& x : query_) x = static_cast<float>(random_() % 64) / 32.0F - 1.0F;
    for (int32_t layer = 0; layer < workload_.shape.layers; ++layer) Attend(live, layer);
  }
}

void Client::Fork(const Live& live) {
  const auto forked = engine_.Fork(live.id);
  if (!forked.ok()) return Fail("fork", forked.status());
  auto copy = std::make_unique<Live>(live);
  copy->id = *forked;
  copy->parts.push_back({live.tokens, random_()});
  live_.push_back(std::move(copy));
  ++totals_.forked;
}

void Client::Cut(Live& live) {
  const int64_t tokens = std::max<int64_t>(1, live.tokens - static_cast<int64_t>(random_() % 700));
  const Status status = engine_.Truncate(live.id, tokens);
  if (status.detail() == StatusDetail::kOverBudget) {
    ++totals_.refused;
    return;
  }
  if (!status.ok()) return Fail("truncate", status);
  while (live.parts.back().begin > tokens) live.parts.pop_back();
  live.parts.push_back({tokens, random_()});
  live.tokens = tokens;
  ++totals_.cut;
}

void Client::End(const Live& live) {
  const Status status = engine_.Release(live.id);
  if (!status.ok()) Fail("release", status);
  std::erase_if(live_, [&](const auto& entry) { return entry.get() == &live; });
  ++totals_.ended;
}

void Client::Check(const Live& live) {
  std::vector<int64_t> tokens(kRowsPerCheck);
  for (int64_t& token : tokens) token = static_cast<int64_t>(random_() % static_cast<uint64_t>(live.tokens));
  std::vector<float> keys(kRowsPerCheck * static_cast<size_t>(width_));
  std::vector<float> values(keys.size());
  FetchItem item;
  item.sequence = live.id;
  item.tokens = tokens;
  item.keys = keys.data();
  item.values = values.data();
  Status status;
  const auto layer = static_cast<int32_t>(random_() % static_cast<uint64_t>(workload_.shape.layers));
  static_cast<void>(engine_.Fetch(layer, {&item, 1}, {&status, 1}));
  if (!status.ok()) return Fail("fetch", status);
  const float tolerance = workload_.shape.storage == DType::kInt8 ? 0.03F : 0.0F;
  for (size_t i = 0; i < tokens.size(); ++i) {
    const float* row = pool_.data() + RowOf(live, tokens[i]) * width_;
    for (int64_t e = 0; e < width_; ++e) {
      const size_t at = i * static_cast<size_t>(width_) + static_cast<size_t>(e);
      if (std::abs(keys[at] - row[e]) <= tolerance && std::abs(values[at] - 2.0F * row[e]) <= tolerance) continue;
      return Fail("fetch",
                  Status(StatusCode::kDataLoss, "token " + std::to_string(tokens[i]) + " is not what was put"));
    }
  }
  totals_.rows_checked += kRowsPerCheck;
}

int64_t Client::RowOf(const Live& live, int64_t token) const {
  auto part = live.parts.rbegin();
  while (part->begin > token) ++part;
  return static_cast<int64_t>((part->stream + static_cast<uint64_t>(token)) % kPoolRows);
}

void Client::Fail(const std::string& what, const Status& status) {
  if (totals_.failure.empty()) totals_.failure = what + ": " + status.message();
}

bool Client::MakeRoom(const Live& live) {
  ++totals_.refused;
  const auto other = std::find_if(live_.begin(), live_.end(), [&](const auto& entry) { return entry.get() != &live; });
  End(other != live_.end() ? **other : live);
  return other != live_.end();
}

bool Client::Append(Live& live, int64_t tokens) {
  for (int64_t t = 0; t < tokens; ++t) {
    const float* row = pool_.data() + RowOf(live, live.tokens + t) * width_;
    for (int64_t i = 0; i < width_; ++i) {
      keys_[t * width_ + i] = row[i];
      values_[t * width_ + i] = 2.0F * row[i];
    }
  }
  for (int32_t layer = 0; layer < workload_.shape.layers; ++layer) {
    if (!AppendLayer(live, layer, tokens)) return false;
  }
  live.tokens += tokens;
  totals_.tokens += tokens * workload_.shape.layers;
  return true;
}

bool Client::AppendLayer(const Live& live, int32_t layer, int64_t tokens) {
  PutItem item;
  item.sequence = live.id;
  item.position = live.tokens;
  item.tokens = tokens;
  item.keys.data = keys_.data();
  item.values.data = values_.data();
  for (;;) {
    const int64_t waits = Waits();
    const auto start = Clock::now();
    Status status;
    static_cast<void>(engine_.Put(layer, {&item, 1}, {&status, 1}));
    const double elapsed = MicrosecondsSince(start);
    if (tokens == 1) totals_.append.Add(elapsed);
    if (tokens == 1 && elapsed > kAppendLimitUs && Waits() != waits) {
      ++totals_.blocked;
      totals_.blocked_max_us = std::max(totals_.blocked_max_us, elapsed);
    }
    if (status.ok()) return true;
    if (status.detail() != StatusDetail::kOverBudget) {
      Fail("put", status);
      return false;
    }
    if (!MakeRoom(live)) return false;
  }
}

void Client::Attend(const Live& live, int32_t layer) {
  AttendItem item;
  item.sequence = live.id;
  item.queries = query_.data();
  item.output = output_.data();
  Status status;
  const auto start = Clock::now();
  static_cast<void>(engine_.Attend(layer, {&item, 1}, {&status, 1}));
  totals_.attend.Add(MicrosecondsSince(start));
  if (!status.ok()) return Fail("attend", status);
  if (!std::all_of(output_.begin(), output_.end(), [](float x) { return std::isfinite(x); })) {
    Fail("attend", Status(StatusCode::kDataLoss, "an answer is not finite"));
  }
}

}  // namespace swell::soak
