// Where exceptions end.
#ifndef SWELL_LIB_ENGINE_GUARD_H_
#define SWELL_LIB_ENGINE_GUARD_H_

#include <exception>
#include <new>
#include <string>

#include "swell/status.h"

namespace swell {

// Short enough to be kept without an allocation.
inline Status OutOfMemory() { return Status(StatusCode::kResourceExhausted, "out of memory", StatusDetail::kNoMemory); }

inline Status Unexpected(const std::exception& error) noexcept {
  try {
    return Status(StatusCode::kInternal, std::string("unexpected: ") + error.what());
  } catch (const std::bad_alloc&) {
    return OutOfMemory();
  }
}

// Runs `call`, which returns a Status or a Result, and turns what it throws into a status.
template <typename Call>
auto Guard(Call call) -> decltype(call()) {
  try {
    return call();
  } catch (const std::bad_alloc&) {
    return OutOfMemory();
  } catch (const std::exception& error) {
    return Unexpected(error);
  }
}

}  // namespace swell

#endif  // SWELL_LIB_ENGINE_GUARD_H_
