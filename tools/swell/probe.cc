#include "tools/swell/probe.h"

#include <chrono>
#include <cmath>

namespace swell::cli {

HeadReading& HeadReading::operator+=(const HeadReading& other) {
  queries += other.queries;
  tokens_visible += other.tokens_visible;
  tokens_read += other.tokens_read;
  bytes_read += other.bytes_read;
  estimated_share += other.estimated_share;
  audited += other.audited;
  error += other.error;
  predicted_error += other.predicted_error;
  return *this;
}

AttendProbe::AttendProbe(Engine& engine) : engine_(engine) { Start(Watch::kTime); }

void AttendProbe::Start(Watch watch) {
  watch_ = watch;
  attend_seconds_ = 0;
  readings_.assign(static_cast<size_t>(shape().layers) * shape().kv_heads, HeadReading());
  pairs_.clear();
  audited_ = 0;
}

// Item by item: the program asks for one sequence at a time.
Status AttendProbe::Attend(int32_t layer, std::span<const AttendItem> items, std::span<Status> statuses) {
  if (items.size() != statuses.size() || layer < 0 || layer >= shape().layers) {
    return engine_.Attend(layer, items, statuses);  // the engine's own error
  }
  Status first;
  for (size_t i = 0; i < items.size(); ++i) {
    statuses[i] = AttendOne(layer, items[i]);
    if (first.ok() && !statuses[i].ok()) first = statuses[i];
  }
  return first;
}

Status AttendProbe::AttendOne(int32_t layer, AttendItem item) {
  const int64_t heads = int64_t{shape().kv_heads} * shape().group;
  if (item.retrieval == nullptr) item.retrieval = retrieval_;
  std::vector<Certificate> own;
  if (watch_ != Watch::kTime && item.certificates == nullptr && item.n_queries > 0) {
    own.resize(static_cast<size_t>(item.n_queries * heads));
    item.certificates = own.data();
  }
  Status status;
  const auto start = std::chrono::steady_clock::now();
  SWELL_RETURN_IF_ERROR(engine_.Attend(layer, {&item, 1}, {&status, 1}));
  attend_seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (listener_) listener_(layer, item);
  if (watch_ == Watch::kTime) return OkStatus();
  for (int64_t q = 0; q < item.n_queries * heads; ++q) {
    const Certificate& certificate = item.certificates[q];
    HeadReading& reading = readings_[layer * shape().kv_heads + q % heads / shape().group];
    ++reading.queries;
    reading.tokens_visible += certificate.tokens_visible;
    reading.tokens_read += certificate.tokens_read;
    reading.bytes_read += certificate.bytes_read;
    reading.estimated_share += certificate.estimated_share;
  }
  if (watch_ != Watch::kErrors || item.mode != AttendMode::kRetrieve || item.output_dtype != DType::kFloat32)
    return OkStatus();
  std::vector<float> exact(static_cast<size_t>(item.n_queries * heads * shape().head_dim));
  AttendItem again = item;
  again.mode = AttendMode::kExact;
  again.output = exact.data();
  again.lse = nullptr;
  again.certificates = nullptr;
  SWELL_RETURN_IF_ERROR(engine_.Attend(layer, {&again, 1}, {&status, 1}));
  Compare(layer, item, exact);
  return OkStatus();
}

void AttendProbe::Compare(int32_t layer, const AttendItem& item, const std::vector<float>& exact) {
  const int64_t heads = int64_t{shape().kv_heads} * shape().group;
  const int64_t head_dim = shape().head_dim;
  const float* output = static_cast<const float*>(item.output);
  for (int64_t q = 0; q < item.n_queries * heads; ++q) {
    double difference = 0, norm = 0;
    for (int64_t d = q * head_dim; d < (q + 1) * head_dim; ++d) {
      difference += (output[d] - exact[d]) * (output[d] - exact[d]);
      norm += exact[d] * exact[d];
    }
    if (norm == 0) continue;
    const ErrorPair pair{static_cast<float>(std::sqrt(difference / norm)), item.certificates[q].predicted_error};
    HeadReading& reading = readings_[layer * shape().kv_heads + q % heads / shape().group];
    ++reading.audited;
    reading.error += pair.actual;
    reading.predicted_error += pair.predicted;
    if (audited_++ % kPairStride == 0) pairs_.push_back(pair);
  }
}

}  // namespace swell::cli
