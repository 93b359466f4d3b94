#include <cstdio>
#include <exception>
#include <iostream>

#include "tools/swell/command.h"
#include "tools/swell/terminal.h"

namespace swell::cli {
namespace {

int Report(const char* command, const std::string& message) {
  std::cout.flush();
  std::cerr << "swell " << command << ": " << message << "\n";
  return kExitError;
}

int RunProgram(int argc, char** argv) {
  CLI::App program("Attention over long contexts from a vector index, side by side with exact attention.", "swell");
  program.set_version_flag("--version", "swell " SWELL_VERSION, "Print the version and leave");
  program.require_subcommand(1);
  program.get_formatter()->column_width(36);
  program.footer("Exit codes: 0 done, 1 something failed while running, 2 wrong command line, 130 Ctrl-C.");
  const Command commands[] = {AddRun(program),        AddChat(program),     AddFidelity(program),
                              AddInspect(program),    AddSpeed(program),    AddTrace(program),
                              AddIndexBench(program), AddCacheSim(program), AddBench(program)};
  try {
    program.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return program.exit(error) == 0 ? kExitOk : kExitUsage;
  }
  InstallSignalHandlers();
  for (const Command& command : commands) {
    if (!command.app->parsed()) continue;
    const std::string name = command.app->get_name();
    if (const Status status = command.run(); !status.ok()) return Report(name.c_str(), status.message());
    if (!std::cout.flush()) return Report(name.c_str(), "cannot write to standard output");
  }
  return kExitOk;
}

}  // namespace
}  // namespace swell::cli

int main(int argc, char** argv) {
  try {
    return swell::cli::RunProgram(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "swell: %s\n", error.what());
    return swell::cli::kExitError;
  }
}
