#include "tools/model/utf8.h"

namespace swell::model {

Utf8 NextUtf8(std::string_view text, size_t* bytes) {
  const auto byte = [text](size_t i) { return static_cast<uint8_t>(text[i]); };
  const uint8_t first = byte(0);
  *bytes = 1;
  if (first < 0x80) return Utf8::kCharacter;
  if (first < 0xC2 || first > 0xF4) return Utf8::kInvalid;
  const size_t length = first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
  uint8_t low = 0x80;  // range of the second byte
  uint8_t high = 0xBF;
  if (first == 0xE0) low = 0xA0;
  if (first == 0xED) high = 0x9F;
  if (first == 0xF0) low = 0x90;
  if (first == 0xF4) high = 0x8F;
  for (size_t i = 1; i < length; ++i) {
    if (i == text.size()) return Utf8::kIncomplete;
    if (byte(i) < low || byte(i) > high) return Utf8::kInvalid;
    low = 0x80;
    high = 0xBF;
    *bytes = i + 1;
  }
  return Utf8::kCharacter;
}

size_t FirstInvalidUtf8(std::string_view text) {
  size_t at = 0;
  size_t bytes = 0;
  while (at < text.size() && NextUtf8(text.substr(at), &bytes) == Utf8::kCharacter) at += bytes;
  return at;
}

std::string EncodeUtf8(uint32_t code_point) {
  const auto tail = [code_point](int shift) { return static_cast<char>(0x80 | ((code_point >> shift) & 0x3F)); };
  if (code_point < 0x80) return {static_cast<char>(code_point)};
  if (code_point < 0x800) return {static_cast<char>(0xC0 | (code_point >> 6)), tail(0)};
  if (code_point < 0x10000) return {static_cast<char>(0xE0 | (code_point >> 12)), tail(6), tail(0)};
  return {static_cast<char>(0xF0 | (code_point >> 18)), tail(12), tail(6), tail(0)};
}

}  // namespace swell::model
