// The subcommands of the program. Each adds itself and its options to the command line and gives back what to run when
// it was chosen; the returned function owns its options.
#ifndef SWELL_TOOLS_SWELL_COMMAND_H_
#define SWELL_TOOLS_SWELL_COMMAND_H_

#include <CLI/CLI.hpp>
#include <functional>

#include "swell/status.h"

namespace swell::cli {

struct Command {
  CLI::App* app = nullptr;
  std::function<Status()> run;
};

Command AddRun(CLI::App& program);
Command AddChat(CLI::App& program);
Command AddBench(CLI::App& program);
Command AddCacheSim(CLI::App& program);
Command AddFidelity(CLI::App& program);
Command AddIndexBench(CLI::App& program);
Command AddInspect(CLI::App& program);
Command AddSpeed(CLI::App& program);
Command AddTrace(CLI::App& program);

}  // namespace swell::cli

#endif  // SWELL_TOOLS_SWELL_COMMAND_H_
