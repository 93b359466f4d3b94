// Running another program and reading what it prints.
#ifndef SWELL_TOOLS_SWELL_PROCESS_H_
#define SWELL_TOOLS_SWELL_PROCESS_H_

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "swell/status.h"

namespace swell::cli {

// Runs `path` with `arguments` and gives back what it wrote to standard output; standard error is shared. `watch`,
// which may be empty, is called with all of the output so far whenever there is more. The program ends when this
// process does. kNotFound when it cannot be started, kUnavailable when it ends with another code than 0 or by a signal,
// kResourceExhausted when it prints more than `max_bytes`. To be called while the process has one thread.
Result<std::string> RunProgram(const std::string& path, const std::vector<std::string>& arguments, size_t max_bytes,
                               const std::function<void(std::string_view)>& watch);

}  // namespace swell::cli

#endif  // SWELL_TOOLS_SWELL_PROCESS_H_
