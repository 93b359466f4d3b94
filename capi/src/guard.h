// The one place where C++ ends: turns Status and every exception into a code and an error object.
#ifndef SWELL_CAPI_SRC_GUARD_H_
#define SWELL_CAPI_SRC_GUARD_H_

#include <cstdint>
#include <exception>
#include <new>
#include <stdexcept>
#include <string>
#include <utility>

#include "swell/status.h"
#include "swell/swell.h"

struct swell_error {
  swell_code code;
  swell_detail detail;
  int64_t item;
  std::string message;
};

namespace swell::capi {

// What a call ended with; item is the index of the batch item that failed, -1 for the call as a whole.
struct Outcome {
  Outcome(Status call_status, int64_t failed_item = -1)  // NOLINT(google-explicit-constructor)
      : status(std::move(call_status)), item(failed_item) {}
  Status status;
  int64_t item;
};

// Stores an error object in *error, if error is not null, and returns the code. Where there is no memory for one,
// *error is a static object that says so.
swell_code Fail(const Outcome& outcome, swell_error** error) noexcept;
swell_code FailNoMemory(swell_error** error) noexcept;
swell_code FailException(const char* what, swell_error** error) noexcept;

// Runs `function`, which returns Status or Outcome.
template <typename Function>
swell_code Guard(swell_error** error, Function&& function) noexcept {
  if (error != nullptr) *error = nullptr;
  try {
    const Outcome outcome = std::forward<Function>(function)();
    return outcome.status.ok() ? SWELL_OK : Fail(outcome, error);
  } catch (const std::bad_alloc&) {
    return FailNoMemory(error);
  } catch (const std::length_error&) {  // a container was asked for more than any memory holds
    return FailNoMemory(error);
  } catch (const std::exception& exception) {
    return FailException(exception.what(), error);
  } catch (...) {
    return FailException("unknown exception", error);
  }
}

}  // namespace swell::capi

#endif  // SWELL_CAPI_SRC_GUARD_H_
