#include "tools/model/forward.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "tools/model/kernels.h"

namespace swell::model {
namespace {

constexpr int64_t kRowTask = 16;  // rows of a task of the element-wise parts

// Adds the time from construction to destruction to *seconds.
class Timer {
 public:
  explicit Timer(double* seconds) : seconds_(*seconds) {}
  ~Timer() { seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count(); }
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;

 private:
  double& seconds_;
  const std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

int64_t CountRows(std::span<const ForwardItem> items) {
  int64_t rows = 0;
  for (const ForwardItem& item : items) rows += static_cast<int64_t>(item.ids.size());
  return rows;
}

// body(row) for all rows; a few are not worth waking other threads.
template <typename Body>
void ForRows(const MatMul& threads, int64_t rows, const Body& body) {
  const auto run = [&](int64_t task) {
    for (int64_t row = task * kRowTask; row < std::min(rows, (task + 1) * kRowTask); ++row) body(row);
  };
  if (rows <= kRowTask) {
    run(0);
  } else {
    threads.ParallelFor((rows + kRowTask - 1) / kRowTask, run);
  }
}

}  // namespace

ForwardPass::ForwardPass(std::span<const ForwardItem> items, AttendMode mode)
    : model_(items[0].session->model()),
      shape_(model_.shape()),
      engine_(items[0].session->engine()),
      items_(items),
      mode_(mode),
      rows_(CountRows(items)) {
  const auto floats = [this](int64_t columns) { return std::vector<float>(static_cast<size_t>(rows_ * columns)); };
  state_ = floats(shape_.width);
  normalised_ = floats(shape_.width);
  qkv_ = floats(shape_.qkv_width());
  queries_ = floats(shape_.query_width());
  attended_ = floats(shape_.query_width());
  branch_ = floats(shape_.width);
  gate_up_ = floats(2 * int64_t{shape_.ffn_width});
  activation_ = floats(shape_.ffn_width);
  cosines_ = floats(shape_.head_dim / 2);
  sines_ = floats(shape_.head_dim / 2);
  certificates_.resize(static_cast<size_t>(rows_ * shape_.heads));
}

void ForwardPass::Run(std::span<Status> statuses) {
  const auto start = std::chrono::steady_clock::now();
  int64_t row = 0;
  for (const ForwardItem& item : items_) {
    first_row_.push_back(row);
    for (const TokenId id : item.ids) {
      model_.embedding().Row(id, state_.data() + row++ * shape_.width);
    }
  }
  BuildRotations();
  for (int32_t layer = 0; layer < shape_.layers; ++layer) {
    if (std::none_of(statuses.begin(), statuses.end(), [](const Status& status) { return status.ok(); })) break;
    RunLayer(layer, statuses);
  }
  const double total = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  const double share = 1.0 / static_cast<double>(items_.size());
  for (const ForwardItem& item : items_) {
    Counters& counters = item.session->counters_;
    counters.matmul_seconds += share * times_.matmul;
    counters.put_seconds += share * times_.put;
    counters.attend_seconds += share * times_.attend;
    counters.other_seconds += share * (total - times_.matmul - times_.put - times_.attend);
    counters.tokens += static_cast<int64_t>(item.ids.size());
  }
}

// Angle of pair i at position p: p * base^(-2i / head_dim), in double so that position 131,072 keeps its digits.
void ForwardPass::BuildRotations() {
  const int64_t pairs = shape_.head_dim / 2;
  int64_t row = 0;
  for (const ForwardItem& item : items_) {
    for (size_t token = 0; token < item.ids.size(); ++token, ++row) {
      const double position = static_cast<double>(item.session->length() + static_cast<int64_t>(token));
      for (int64_t pair = 0; pair < pairs; ++pair) {
        const double exponent = -2.0 * static_cast<double>(pair) / shape_.head_dim;
        const double angle = position * std::pow(shape_.rope_base, exponent);
        cosines_[static_cast<size_t>(row * pairs + pair)] = static_cast<float>(std::cos(angle));
        sines_[static_cast<size_t>(row * pairs + pair)] = static_cast<float>(std::sin(angle));
      }
    }
  }
}

void ForwardPass::RunLayer(int32_t index, std::span<Status> statuses) {
  const LlamaLayer& layer = model_.layers()[static_cast<size_t>(index)];
  Normalise(layer.attention_norm);
  {
    const Timer timer(&times_.matmul);
    model_.matmul().Apply(layer.qkv, normalised_.data(), rows_, qkv_.data());
  }
  Rotate();
  PutRows(index, statuses);
  AttendRows(index, statuses);
  {
    const Timer timer(&times_.matmul);
    model_.matmul().Apply(std::span(&layer.attention_out, 1), attended_.data(), rows_, branch_.data());
  }
  AddBranch();
  FeedForward(layer);
}

void ForwardPass::Normalise(const std::vector<float>& weight) {
  ForRows(model_.matmul(), rows_, [&](int64_t row) {
    const int64_t at = row * shape_.width;
    RmsNorm(state_.data() + at, weight.data(), shape_.width, shape_.norm_epsilon, normalised_.data() + at);
  });
}

void ForwardPass::AddBranch() {
  ForRows(model_.matmul(), rows_, [&](int64_t row) {
    AddTo(branch_.data() + row * shape_.width, shape_.width, state_.data() + row * shape_.width);
  });
}

// Queries are copied, for the engine wants them dense; keys are rotated where they lie.
void ForwardPass::Rotate() {
  const int64_t head_dim = shape_.head_dim;
  ForRows(model_.matmul(), rows_, [&](int64_t row) {
    const float* cosines = cosines_.data() + row * head_dim / 2;
    const float* sines = sines_.data() + row * head_dim / 2;
    float* from = qkv_.data() + row * shape_.qkv_width();
    float* queries = queries_.data() + row * shape_.query_width();
    for (int64_t head = 0; head < shape_.heads; ++head) {
      RotatePairs(from + head * head_dim, cosines, sines, head_dim / 2, queries + head * head_dim);
    }
    float* keys = from + shape_.query_width();
    for (int64_t head = 0; head < shape_.kv_heads; ++head) {
      RotatePairs(keys + head * head_dim, cosines, sines, head_dim / 2, keys + head * head_dim);
    }
  });
}

void ForwardPass::PutRows(int32_t index, std::span<Status> statuses) {
  const Timer timer(&times_.put);
  std::vector<PutItem> puts;
  std::vector<size_t> origins;
  for (size_t i = 0; i < items_.size(); ++i) {
    if (!statuses[i].ok()) continue;
    PutItem put;
    put.sequence = items_[i].session->sequence();
    put.position = items_[i].session->length();
    put.tokens = static_cast<int64_t>(items_[i].ids.size());
    put.keys.data = qkv_.data() + first_row_[i] * shape_.qkv_width() + shape_.query_width();
    put.keys.token_stride = shape_.qkv_width();
    put.keys.head_stride = shape_.head_dim;
    put.values = put.keys;
    put.values.data = static_cast<const float*>(put.keys.data) + shape_.kv_width();
    puts.push_back(put);
    origins.push_back(i);
  }
  std::vector<Status> results(puts.size());
  if (engine_.Put(index, puts, results).ok()) return;
  for (size_t i = 0; i < puts.size(); ++i) statuses[origins[i]] = results[i];
}

void ForwardPass::AttendRows(int32_t index, std::span<Status> statuses) {
  const Timer timer(&times_.attend);
  std::vector<AttendItem> attends;
  std::vector<size_t> origins;
  for (size_t i = 0; i < items_.size(); ++i) {
    const int64_t row = first_row_[i];
    const int64_t tokens = static_cast<int64_t>(items_[i].ids.size());
    float* output = attended_.data() + row * shape_.query_width();
    if (!statuses[i].ok()) {
      std::fill_n(output, tokens * shape_.query_width(), 0.0F);
      continue;
    }
    AttendItem attend;
    attend.sequence = items_[i].session->sequence();
    attend.n_queries = tokens;
    attend.mode = mode_;
    attend.queries = queries_.data() + row * shape_.query_width();
    attend.output = output;
    attend.certificates = certificates_.data() + row * shape_.heads;
    attends.push_back(attend);
    origins.push_back(i);
  }
  if (attends.empty()) return;
  std::vector<Status> results(attends.size());
  (void)engine_.Attend(index, attends, results);  // each item's own status follows
  for (size_t i = 0; i < attends.size(); ++i) {
    statuses[origins[i]] = results[i];
    if (results[i].ok()) Count(origins[i]);
  }
}

// The query heads of a group share what their KV head read: its first one speaks for it.
void ForwardPass::Count(size_t item) {
  Counters& counters = items_[item].session->counters_;
  const int64_t group = shape_.heads / shape_.kv_heads;
  const int64_t end = first_row_[item] + static_cast<int64_t>(items_[item].ids.size());
  for (int64_t head = first_row_[item] * shape_.heads; head < end * shape_.heads; head += group) {
    const Certificate& certificate = certificates_[static_cast<size_t>(head)];
    ++counters.head_steps;
    counters.tokens_visible += certificate.tokens_visible;
    counters.tokens_read += certificate.tokens_read;
    counters.bytes_read += certificate.bytes_read;
  }
}

void ForwardPass::FeedForward(const LlamaLayer& layer) {
  const int64_t width = shape_.ffn_width;
  Normalise(layer.ffn_norm);
  {
    const Timer timer(&times_.matmul);
    model_.matmul().Apply(layer.gate_up, normalised_.data(), rows_, gate_up_.data());
  }
  ForRows(model_.matmul(), rows_, [&](int64_t row) {
    const float* gate = gate_up_.data() + 2 * row * width;
    GatedSilu(gate, gate + width, width, activation_.data() + row * width);
  });
  {
    const Timer timer(&times_.matmul);
    model_.matmul().Apply(std::span(&layer.down, 1), activation_.data(), rows_, branch_.data());
  }
  AddBranch();
}

const float* ForwardPass::Hidden(int64_t row) {
  float* out = normalised_.data() + row * shape_.width;
  RmsNorm(state_.data() + row * shape_.width, model_.output_norm().data(), shape_.width, shape_.norm_epsilon, out);
  return out;
}

}  // namespace swell::model
