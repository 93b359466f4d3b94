// Status and Result: how every fallible call of Swell reports what happened.
//
// Codes are numerically those of absl::StatusCode; the detail says what a caller may want to branch on.
// Values are immutable after construction and may be read from any thread.
#ifndef SWELL_STATUS_H_
#define SWELL_STATUS_H_

#include <cassert>
#include <cstdint>
#include <string>
#include <utility>
#include <variant>

namespace swell {

// Part of the C ABI: values never change, new ones are appended.
enum class StatusCode : int32_t {
  kOk = 0,
  kCancelled = 1,
  kUnknown = 2,
  kInvalidArgument = 3,
  kDeadlineExceeded = 4,
  kNotFound = 5,
  kAlreadyExists = 6,
  kPermissionDenied = 7,
  kResourceExhausted = 8,
  kFailedPrecondition = 9,
  kAborted = 10,
  kOutOfRange = 11,
  kUnimplemented = 12,
  kInternal = 13,
  kUnavailable = 14,
  kDataLoss = 15,
};

// Finer cause; part of the C ABI as well.
enum class StatusDetail : int32_t {
  kNone = 0,
  kStaleHandle = 1,   // the id was released, or never belonged to this engine
  kOutOfOrder = 2,    // tokens of a layer must arrive in order, without gaps
  kNoMemory = 3,      // the allocator refused
  kOverBudget = 4,    // a byte budget of the engine would be exceeded
  kNonFinite = 5,     // NaN or Inf where only finite numbers are allowed
  kBadSize = 6,       // struct_size, shape or count does not fit or overflows
  kMisaligned = 7,    // a pointer is not aligned to its element
  kNullPointer = 8,   // a required pointer is null
  kUnknownDType = 9,  // a dtype value that this version does not know
};

class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(StatusCode code, std::string message, StatusDetail detail = StatusDetail::kNone)
      : code_(code), detail_(detail), message_(std::move(message)) {}

  bool ok() const { return code_ == StatusCode::kOk; }
  StatusCode code() const { return code_; }
  StatusDetail detail() const { return detail_; }
  // Names the offending argument where there is one; empty when ok.
  const std::string& message() const { return message_; }

 private:
  StatusCode code_ = StatusCode::kOk;
  StatusDetail detail_ = StatusDetail::kNone;
  std::string message_;
};

inline Status OkStatus() { return Status(); }
inline Status InvalidArgument(std::string message, StatusDetail detail = StatusDetail::kNone) {
  return Status(StatusCode::kInvalidArgument, std::move(message), detail);
}

// A value, or the status that says why there is none.
template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::move(value)) {}        // NOLINT(google-explicit-constructor)
  Result(Status status) : state_(std::move(status)) {  // NOLINT(google-explicit-constructor)
    assert(!std::get<Status>(state_).ok());
  }

  bool ok() const { return std::holds_alternative<T>(state_); }
  Status status() const { return ok() ? Status() : std::get<Status>(state_); }
  // Require ok().
  T& value() & { return std::get<T>(state_); }
  const T& value() const& { return std::get<T>(state_); }
  T&& value() && { return std::get<T>(std::move(state_)); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T&& operator*() && { return std::move(*this).value(); }

 private:
  std::variant<Status, T> state_;
};

// Leaves the enclosing function with the status of `expression` unless it is ok.
#define SWELL_RETURN_IF_ERROR(expression)                                                        \
  do {                                                                                           \
    if (::swell::Status swell_status_ = (expression); !swell_status_.ok()) return swell_status_; \
  } while (false)

}  // namespace swell

#endif  // SWELL_STATUS_H_
