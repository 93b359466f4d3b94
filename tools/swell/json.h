// Results as the text of a JSON file.
#ifndef SWELL_TOOLS_SWELL_JSON_H_
#define SWELL_TOOLS_SWELL_JSON_H_

#include <nlohmann/json.hpp>
#include <string>

namespace swell::cli {

// Indented, with a newline at the end. Bytes that are not UTF-8, which names of files may hold, become U+FFFD: a result
// that took hours must not be lost to a name.
inline std::string JsonText(const nlohmann::json& json) {
  return json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

// One line of a file of JSON lines.
inline std::string JsonLine(const nlohmann::json& json) {
  return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

}  // namespace swell::cli

#endif  // SWELL_TOOLS_SWELL_JSON_H_
