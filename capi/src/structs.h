// Checked access to what a C caller hands in: pointers, structs with struct_size, arrays of growing structs.
#ifndef SWELL_CAPI_SRC_STRUCTS_H_
#define SWELL_CAPI_SRC_STRUCTS_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <string>

#include "capi/src/layout.h"
#include "lib/base/checked.h"
#include "swell/status.h"
#include "swell/types.h"

namespace swell::capi {

// Above this a struct_size is garbage, and reading so far would run into other memory.
constexpr size_t kMaxStructBytes = 4096;

inline Status BadSize(std::string message) { return InvalidArgument(std::move(message), StatusDetail::kBadSize); }

inline Status CheckPointer(const char* name, const void* pointer, size_t alignment) {
  if (pointer == nullptr) return InvalidArgument(std::string(name) + " is NULL", StatusDetail::kNullPointer);
  if (reinterpret_cast<uintptr_t>(pointer) % alignment != 0) {
    return InvalidArgument(std::string(name) + " is not aligned to " + std::to_string(alignment) + " bytes",
                           StatusDetail::kMisaligned);
  }
  return OkStatus();
}

inline Status CheckOptionalPointer(const char* name, const void* pointer, size_t alignment) {
  return pointer == nullptr ? OkStatus() : CheckPointer(name, pointer, alignment);
}

inline Status CheckNull(const char* name, const void* pointer, const char* unless) {
  if (pointer == nullptr) return OkStatus();
  return InvalidArgument(std::string(name) + " must be NULL unless " + unless);
}

template <typename Enum>
Status CheckEnum(const std::string& name, int32_t value, Enum last) {
  if (value >= 0 && value <= static_cast<int32_t>(last)) return OkStatus();
  return InvalidArgument(name + " is " + std::to_string(value) + ", not 0.." +
                         std::to_string(static_cast<int32_t>(last)));
}

inline Status CheckDType(const char* name, int32_t value) {
  if (value >= 0 && value <= static_cast<int32_t>(DType::kInt8)) return OkStatus();
  return InvalidArgument(std::string(name) + " is " + std::to_string(value) + ", no known dtype",
                         StatusDetail::kUnknownDType);
}

inline Status CheckZero(const std::string& name, uint64_t value) {
  return value == 0 ? OkStatus() : InvalidArgument(name + " must be 0");
}

inline Status CheckNotNegative(const char* name, int64_t value) {
  if (value >= 0) return OkStatus();
  return BadSize(std::string(name) + " is " + std::to_string(value) + ", below 0");
}

// The factors of a byte count of the caller's array.
inline Status CheckExtent(const char* name, std::initializer_list<int64_t> factors) {
  int64_t bytes = 0;
  return CheckedProduct(factors, &bytes) ? OkStatus() : BadSize(std::string("size of ") + name + " overflows");
}

// The size of a Struct as the caller knows it, said in the field `size_name`.
template <typename Struct>
Status CheckStructSize(const std::string& size_name, size_t size) {
  static_assert(kFirstBytes<Struct> > 0);
  if (size >= kFirstBytes<Struct> && size <= kMaxStructBytes) return OkStatus();
  return BadSize(size_name + " is " + std::to_string(size) + ", not " + std::to_string(kFirstBytes<Struct>) + ".." +
                 std::to_string(kMaxStructBytes));
}

// The same for the elements of an array, each of which must stay aligned.
template <typename Struct>
Status CheckStride(const std::string& size_name, size_t size) {
  SWELL_RETURN_IF_ERROR(CheckStructSize<Struct>(size_name, size));
  if (size % alignof(Struct) == 0) return OkStatus();
  return BadSize(size_name + " is " + std::to_string(size) + ", no multiple of " + std::to_string(alignof(Struct)));
}

// Copies what `size` covers of `source` over the defaults in *target; what this library does not know must be zero.
template <typename Struct>
Status CopyStruct(const std::string& name, const void* source, size_t size, Struct* target) {
  std::memcpy(static_cast<void*>(target), source, std::min(size, sizeof(Struct)));
  const auto* bytes = static_cast<const unsigned char*>(source);
  for (size_t i = sizeof(Struct); i < size; ++i) {
    if (bytes[i] != 0) return BadSize(name + " has non-zero fields that this version does not know");
  }
  return OkStatus();
}

// Reads a struct that begins with struct_size over the defaults in *target.
template <typename Struct>
Status ReadStruct(const char* name, const Struct* source, Struct* target) {
  SWELL_RETURN_IF_ERROR(CheckPointer(name, source, alignof(Struct)));
  const uint32_t size = source->struct_size;
  SWELL_RETURN_IF_ERROR(CheckStructSize<Struct>(std::string(name) + ".struct_size", size));
  SWELL_RETURN_IF_ERROR(CopyStruct(name, source, size, target));
  target->struct_size = size;
  return OkStatus();
}

// Writes the fields that `size` covers, zeros beyond.
template <typename Struct>
void WriteStruct(const Struct& source, size_t size, void* target) {
  const size_t known = std::min(size, sizeof(Struct));
  std::memcpy(target, &source, known);
  std::memset(static_cast<unsigned char*>(target) + known, 0, size - known);
}

// Fills a caller's out-struct, whose struct_size stays as it was.
template <typename Struct>
Status FillStruct(const char* name, Struct source, Struct* target) {
  SWELL_RETURN_IF_ERROR(CheckPointer(name, target, alignof(Struct)));
  source.struct_size = target->struct_size;
  SWELL_RETURN_IF_ERROR(CheckStructSize<Struct>(std::string(name) + ".struct_size", source.struct_size));
  WriteStruct(source, source.struct_size, target);
  return OkStatus();
}

}  // namespace swell::capi

#endif  // SWELL_CAPI_SRC_STRUCTS_H_
