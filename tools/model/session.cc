#include "tools/model/session.h"

#include <algorithm>
#include <chrono>
#include <new>
#include <set>
#include <string>
#include <utility>

#include "tools/model/forward.h"
#include "tools/model/kernels.h"

namespace swell::model {
namespace {

constexpr int64_t kScoreRows = 128;  // rows of logits held at a time: 25 MB with 49,152 tokens

Status NoMemory() {
  return Status(StatusCode::kResourceExhausted, "model: no memory for a step", StatusDetail::kNoMemory);
}

double Since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

Result<Session> Session::Create(const Model& model, Engine& engine, const SequenceOptions& options) {
  const ModelShape expected = model.EngineShape(engine.shape().storage);
  const ModelShape& shape = engine.shape();
  if (shape.layers != expected.layers || shape.kv_heads != expected.kv_heads || shape.group != expected.group ||
      shape.head_dim != expected.head_dim) {
    return InvalidArgument("session: the engine was opened for a model of another shape", StatusDetail::kBadSize);
  }
  Result<SequenceId> sequence = engine.CreateSequence(options);
  if (!sequence.ok()) return sequence.status();
  return Session(model, engine, sequence.value());
}

Session::Session(const Model& model, Engine& engine, SequenceId sequence)
    : model_(&model), engine_(&engine), sequence_(sequence) {}

Session::~Session() {
  if (sequence_ != SequenceId::kNone) (void)engine_->Release(sequence_);  // fails only for a stale id: nothing to free
}

Session::Session(Session&& other) noexcept
    : model_(other.model_),
      engine_(other.engine_),
      sequence_(std::exchange(other.sequence_, SequenceId::kNone)),
      length_(other.length_),
      logits_(std::move(other.logits_)),
      counters_(other.counters_) {}

Session& Session::operator=(Session&& other) noexcept {
  std::swap(model_, other.model_);
  std::swap(engine_, other.engine_);
  std::swap(sequence_, other.sequence_);
  std::swap(length_, other.length_);
  std::swap(logits_, other.logits_);
  std::swap(counters_, other.counters_);
  return *this;
}

Status Session::CheckTokens(std::span<const TokenId> ids) const {
  const int64_t tokens = length_ + static_cast<int64_t>(ids.size());
  if (tokens > model_->shape().context_tokens) {
    return Status(StatusCode::kOutOfRange, "the text has " + std::to_string(tokens) +
                                               " tokens or more; the model's context holds " +
                                               std::to_string(model_->shape().context_tokens));
  }
  for (const TokenId id : ids) {
    if (id < 0 || id >= model_->shape().vocabulary) {
      return InvalidArgument("token " + std::to_string(id) + " is not of the vocabulary");
    }
  }
  return OkStatus();
}

Status Session::Prefill(std::span<const TokenId> ids, AttendMode mode, const Progress& progress) {
  SWELL_RETURN_IF_ERROR(CheckTokens(ids));
  for (size_t done = 0; done < ids.size();) {
    const size_t size = std::min<size_t>(kChunkTokens, ids.size() - done);
    SWELL_RETURN_IF_ERROR(Step(ids.subspan(done, size), mode, nullptr));
    done += size;
    if (progress && !progress(static_cast<int64_t>(done))) return Status(StatusCode::kCancelled, "cancelled");
  }
  return OkStatus();
}

Status Session::Decode(TokenId id, AttendMode mode) {
  SWELL_RETURN_IF_ERROR(CheckTokens(std::span(&id, 1)));
  return Step(std::span(&id, 1), mode, nullptr);
}

Result<std::vector<float>> Session::Score(std::span<const TokenId> ids, AttendMode mode, bool single_steps) {
  SWELL_RETURN_IF_ERROR(CheckTokens(ids));
  if (logits_.empty()) {
    return Status(StatusCode::kFailedPrecondition, "score: nothing was read that predicts the first token");
  }
  std::vector<float> nll(ids.size());
  for (size_t done = 0; done < ids.size();) {
    const size_t size = single_steps ? 1 : std::min<size_t>(kChunkTokens, ids.size() - done);
    SWELL_RETURN_IF_ERROR(Step(ids.subspan(done, size), mode, nll.data() + done));
    done += size;
  }
  return nll;
}

Status Session::Step(std::span<const TokenId> ids, AttendMode mode, float* nll) {
  Status status;
  try {
    const ForwardItem item{this, ids};
    ForwardPass pass(std::span(&item, 1), mode);
    pass.Run(std::span(&status, 1));
    if (status.ok()) {
      TakeLogits(ids, nll, &pass);
      length_ += static_cast<int64_t>(ids.size());
      return status;
    }
  } catch (const std::bad_alloc&) {
    status = NoMemory();
  }
  (void)engine_->Truncate(sequence_, length_);  // layers before the failing one have the tokens already
  return status;
}

// Logits of the last row are kept; with `nll`, those of all rows are made, a few at a time.
void Session::TakeLogits(std::span<const TokenId> ids, float* nll, ForwardPass* pass) {
  const auto start = std::chrono::steady_clock::now();
  const int64_t vocabulary = model_->shape().vocabulary;
  const int64_t rows = static_cast<int64_t>(ids.size());
  const auto loss = [&](const float* logits, int64_t token) {
    return static_cast<float>(LogSumExp(logits, vocabulary) - logits[ids[static_cast<size_t>(token)]]);
  };
  std::vector<float> last(static_cast<size_t>(vocabulary));
  if (nll != nullptr) {
    nll[0] = loss(logits_.data(), 0);
    std::vector<float> block(static_cast<size_t>(std::min(kScoreRows, rows) * vocabulary));
    for (int64_t begin = 0; begin < rows - 1; begin += kScoreRows) {
      const int64_t size = std::min(kScoreRows, rows - 1 - begin);
      for (int64_t row = 0; row < size; ++row) pass->Hidden(begin + row);
      model_->matmul().Apply(model_->output(), pass->Hidden(begin), size, block.data());
      model_->matmul().ParallelFor(
          size, [&](int64_t row) { nll[begin + row + 1] = loss(block.data() + row * vocabulary, begin + row + 1); });
    }
  }
  model_->matmul().Apply(model_->output(), pass->Hidden(rows - 1), 1, last.data());
  logits_ = std::move(last);
  counters_.matmul_seconds += Since(start);
}

Status Session::DecodeBatch(std::span<Session* const> sessions, std::span<const TokenId> ids, AttendMode mode,
                            std::span<Status> statuses) {
  if (sessions.size() != ids.size() || sessions.size() != statuses.size()) {
    return InvalidArgument("decode batch: sessions, ids and statuses differ in number", StatusDetail::kBadSize);
  }
  if (sessions.empty()) return OkStatus();
  if (std::set<Session*>(sessions.begin(), sessions.end()).size() != sessions.size()) {
    return InvalidArgument("decode batch: a session stands twice");
  }
  try {
    std::vector<ForwardItem> items;
    std::vector<size_t> origins;
    for (size_t i = 0; i < sessions.size(); ++i) {
      if (sessions[i]->model_ != sessions[0]->model_ || sessions[i]->engine_ != sessions[0]->engine_) {
        return InvalidArgument("decode batch: the sessions are not of one model and one engine");
      }
      statuses[i] = sessions[i]->CheckTokens(ids.subspan(i, 1));
      if (!statuses[i].ok()) continue;
      items.push_back({sessions[i], ids.subspan(i, 1)});
      origins.push_back(i);
    }
    if (!items.empty()) StepBatch(items, mode, origins, statuses);
  } catch (const std::bad_alloc&) {
    for (size_t i = 0; i < sessions.size(); ++i) {
      (void)sessions[i]->engine_->Truncate(sessions[i]->sequence_, sessions[i]->length_);
      statuses[i] = NoMemory();
    }
  }
  for (const Status& status : statuses) SWELL_RETURN_IF_ERROR(status);
  return OkStatus();
}

void Session::StepBatch(std::span<const ForwardItem> items, AttendMode mode, std::span<const size_t> origins,
                        std::span<Status> statuses) {
  const Model& model = items[0].session->model();
  const int64_t vocabulary = model.shape().vocabulary;
  const int64_t rows = static_cast<int64_t>(items.size());
  std::vector<Status> results(items.size());
  ForwardPass pass(items, mode);
  pass.Run(results);
  const auto start = std::chrono::steady_clock::now();
  std::vector<float> logits(static_cast<size_t>(rows * vocabulary));
  for (int64_t row = 0; row < rows; ++row) pass.Hidden(row);
  model.matmul().Apply(model.output(), pass.Hidden(0), rows, logits.data());
  std::vector<std::vector<float>> split;
  for (int64_t row = 0; row < rows; ++row) {
    split.emplace_back(logits.begin() + row * vocabulary, logits.begin() + (row + 1) * vocabulary);
  }
  // From here on nothing is allocated: each session advances or is taken back.
  const double seconds = Since(start) / static_cast<double>(rows);
  for (size_t i = 0; i < items.size(); ++i) {
    Session& session = *items[i].session;
    if (results[i].ok()) {
      session.logits_ = std::move(split[i]);
      session.length_ += 1;
      session.counters_.matmul_seconds += seconds;
    } else {
      (void)session.engine_->Truncate(session.sequence_, session.length_);
    }
    statuses[origins[i]] = std::move(results[i]);
  }
}

Result<Session> Session::Fork() const {
  Result<SequenceId> sequence = engine_->Fork(sequence_);
  if (!sequence.ok()) return sequence.status();
  Session fork(*model_, *engine_, sequence.value());
  fork.length_ = length_;
  fork.logits_ = logits_;
  fork.counters_ = counters_;
  return fork;
}

Status Session::Truncate(int64_t tokens) {
  if (tokens < 0 || tokens > length_) {
    return Status(StatusCode::kOutOfRange,
                  "truncate: tokens is " + std::to_string(tokens) + ", the session has " + std::to_string(length_));
  }
  if (tokens == length_) return OkStatus();
  SWELL_RETURN_IF_ERROR(engine_->Truncate(sequence_, tokens));
  length_ = tokens;
  logits_.clear();
  return OkStatus();
}

}  // namespace swell::model
