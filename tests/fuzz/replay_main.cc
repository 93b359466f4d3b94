// Runs a fuzz target without libFuzzer: every file of the folders named on the command line, whole and cut off after
// each of its bytes.
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <vector>

#include "tests/fuzz/fuzz.h"

int main(int argc, char** argv) {
  int files = 0;
  long long inputs = 0;
  for (int i = 1; i < argc; ++i) {
    for (const auto& entry : std::filesystem::directory_iterator(argv[i])) {
      std::ifstream stream(entry.path(), std::ios::binary);
      const std::vector<char> content{std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
      std::fprintf(stderr, "%s\n", entry.path().c_str());  // the last one named is the one that fails
      for (size_t size = 0; size <= content.size(); ++size, ++inputs) {
        // Memory of exactly this size, so that AddressSanitizer sees the first byte beyond it.
        const std::vector<uint8_t> input(content.begin(), content.begin() + static_cast<ptrdiff_t>(size));
        LLVMFuzzerTestOneInput(input.data(), input.size());
      }
      ++files;
    }
  }
  std::printf("%d files, %lld inputs\n", files, inputs);
  return files > 0 ? 0 : 1;
}
