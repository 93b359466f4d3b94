// UTF-8 as Unicode 15, table 3-7 defines it: no overlong forms, no surrogates, nothing above U+10FFFF.
#ifndef SWELL_TOOLS_MODEL_UTF8_H_
#define SWELL_TOOLS_MODEL_UTF8_H_

#include <cstdint>
#include <string>
#include <string_view>

namespace swell::model {

enum class Utf8 { kCharacter, kIncomplete, kInvalid };

// What `text` (not empty) begins with: a character of *bytes bytes, the first *bytes bytes of one that `text` ends
// within, or *bytes bytes (at least 1) that no character begins with.
Utf8 NextUtf8(std::string_view text, size_t* bytes);

// Offset of the first byte that is not part of a character; text.size() when there is none.
size_t FirstInvalidUtf8(std::string_view text);

// UTF-8 form of a code point up to U+10FFFF.
std::string EncodeUtf8(uint32_t code_point);

}  // namespace swell::model

#endif  // SWELL_TOOLS_MODEL_UTF8_H_
