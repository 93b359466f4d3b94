// Where exceptions end.
#ifndef SWELL_LIB_ENGINE_GUARD_H_
#define SWELL_LIB_ENGINE_GUARD_H_

#include <exception>
#include <new>
#include <string>

#include "swell/status.h"

namespace swell {

// Runs `call`, which returns a Status or a Result, and turns what it throws into a status.
template <typename Call>
auto Guard(Call call) -> decltype(call()) {
  try {
    return call();
  } catch (const std::bad_alloc&) {
    return Status(StatusCode::kResourceExhausted, "out of memory", StatusDetail::kNoMemory);
  } catch (const std::exception& error) {
    return Status(StatusCode::kInternal, std::string("unexpected: ") + error.what());
  }
}

}  // namespace swell

#endif  // SWELL_LIB_ENGINE_GUARD_H_
