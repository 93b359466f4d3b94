// Codes and error objects.
#include <array>
#include <cstddef>

#include "capi/src/guard.h"

namespace swell::capi {
namespace {

constexpr std::array<const char*, 16> kCodeNames = {
    "OK",        "CANCELLED",      "UNKNOWN",           "INVALID_ARGUMENT",   "DEADLINE_EXCEEDED",
    "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION",
    "ABORTED",   "OUT_OF_RANGE",   "UNIMPLEMENTED",     "INTERNAL",           "UNAVAILABLE",
    "DATA_LOSS"};
constexpr std::array<const char*, 10> kDetailNames = {"NONE",         "STALE_HANDLE", "OUT_OF_ORDER", "NO_MEMORY",
                                                      "OVER_BUDGET",  "NON_FINITE",   "BAD_SIZE",     "MISALIGNED",
                                                      "NULL_POINTER", "UNKNOWN_DTYPE"};
static_assert(static_cast<size_t>(StatusCode::kDataLoss) + 1 == kCodeNames.size());
static_assert(static_cast<size_t>(StatusDetail::kUnknownDType) + 1 == kDetailNames.size());

template <size_t N>
const char* Name(const std::array<const char*, N>& names, int32_t value) {
  return value >= 0 && static_cast<size_t>(value) < N ? names[static_cast<size_t>(value)] : "?";
}

// Handed out when not even an error object can be allocated; never destroyed, so that it outlives every other static.
// The text fits std::string's own buffer.
swell_error* NoMemoryError() noexcept {
  alignas(swell_error) static unsigned char place[sizeof(swell_error)];
  static auto* const error =
      new (place) swell_error{SWELL_RESOURCE_EXHAUSTED, SWELL_DETAIL_NO_MEMORY, -1, "out of memory"};
  return error;
}

}  // namespace

swell_code Fail(const Outcome& outcome, swell_error** error) noexcept {
  const auto code = static_cast<swell_code>(outcome.status.code());
  if (error == nullptr) return code;
  try {
    *error = new swell_error{code, static_cast<swell_detail>(outcome.status.detail()), outcome.item,
                             outcome.status.message()};
  } catch (...) {
    *error = NoMemoryError();
  }
  return code;
}

swell_code FailNoMemory(swell_error** error) noexcept {
  if (error != nullptr) *error = NoMemoryError();
  return SWELL_RESOURCE_EXHAUSTED;
}

swell_code FailException(const char* what, swell_error** error) noexcept {
  try {
    return Fail(Status(StatusCode::kInternal, std::string("unexpected exception: ") + what), error);
  } catch (...) {
    return FailNoMemory(error);
  }
}

}  // namespace swell::capi

using swell::capi::kCodeNames;
using swell::capi::kDetailNames;

const char* swell_code_name(swell_code code) { return swell::capi::Name(kCodeNames, code); }

const char* swell_detail_name(swell_detail detail) { return swell::capi::Name(kDetailNames, detail); }

swell_code swell_error_code(const swell_error* error) { return error == nullptr ? SWELL_OK : error->code; }

swell_detail swell_error_detail(const swell_error* error) {
  return error == nullptr ? SWELL_DETAIL_NONE : error->detail;
}

const char* swell_error_message(const swell_error* error) { return error == nullptr ? "" : error->message.c_str(); }

int64_t swell_error_item(const swell_error* error) { return error == nullptr ? -1 : error->item; }

void swell_error_destroy(swell_error** error) {
  if (error == nullptr) return;
  if (*error != swell::capi::NoMemoryError()) delete *error;
  *error = nullptr;
}
