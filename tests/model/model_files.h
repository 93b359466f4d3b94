// Where the tests find the model's files.
#ifndef SWELL_TESTS_MODEL_MODEL_FILES_H_
#define SWELL_TESTS_MODEL_MODEL_FILES_H_

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>

namespace swell::model {

inline std::string AssetPath(const std::string& name) { return std::string(SWELL_ASSETS_DIR) + "/" + name; }

// The base model is not part of the repository; the environment variable SWELL_MODEL_DIR overrides the build's setting.
inline std::string BasePath() {
  const char* folder = std::getenv("SWELL_MODEL_DIR");
  return std::string(folder != nullptr ? folder : SWELL_MODEL_DIR) + "/SmolLM2-135M-Instruct.Q4_1.gguf";
}

inline std::string ReadText(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
}

inline nlohmann::json Reference() { return nlohmann::json::parse(ReadText(AssetPath("reference.json"))); }

// Leaves the test when the base model is absent.
#define SWELL_REQUIRE_BASE_MODEL()                                                                             \
  if (!std::filesystem::exists(::swell::model::BasePath())) {                                                  \
    GTEST_SKIP() << ::swell::model::BasePath() << " is absent; tools/demo fetches it, or set SWELL_MODEL_DIR"; \
  }

}  // namespace swell::model

#endif  // SWELL_TESTS_MODEL_MODEL_FILES_H_
