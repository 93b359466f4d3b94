#include "tools/model/gguf.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <new>
#include <system_error>
#include <type_traits>
#include <utility>

namespace swell::model {
namespace {

constexpr uint32_t kMagic = 0x46554747;  // "GGUF"
constexpr int64_t kDefaultAlignment = 32;
constexpr int64_t kMaxAlignment = 1 << 20;
constexpr int64_t kMaxNameBytes = 65535;  // of keys; the format's own limit

enum class ValueType : uint32_t {
  kUint8 = 0,
  kInt8 = 1,
  kUint16 = 2,
  kInt16 = 3,
  kUint32 = 4,
  kInt32 = 5,
  kFloat32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9,
  kUint64 = 10,
  kInt64 = 11,
  kFloat64 = 12,
};

// Bytes of one element; the length field alone for a string; 0 for an unknown type and for arrays.
int64_t ValueBytes(ValueType type) {
  switch (type) {
    case ValueType::kUint8:
    case ValueType::kInt8:
    case ValueType::kBool:
      return 1;
    case ValueType::kUint16:
    case ValueType::kInt16:
      return 2;
    case ValueType::kUint32:
    case ValueType::kInt32:
    case ValueType::kFloat32:
      return 4;
    case ValueType::kString:
    case ValueType::kUint64:
    case ValueType::kInt64:
    case ValueType::kFloat64:
      return 8;
    case ValueType::kArray:
      return 0;
  }
  return 0;
}

Status Damaged(const std::string& what) { return Status(StatusCode::kDataLoss, "GGUF: " + what); }
Status Unknown(const std::string& what) { return Status(StatusCode::kUnimplemented, "GGUF: " + what); }

}  // namespace

// Walks through the file once. Every Take checks the bytes that are left.
class GgufParser {
 public:
  explicit GgufParser(Gguf* out) : out_(*out) {}

  Status Run() {
    uint32_t magic = 0;
    uint32_t version = 0;
    uint64_t tensors = 0;
    uint64_t pairs = 0;
    if (!Take(&magic) || magic != kMagic) return Damaged("the file does not begin with the letters GGUF");
    if (!Take(&version)) return Truncated("the version");
    if (version != 2 && version != 3) return Unknown("version " + std::to_string(version) + " (2 and 3 are known)");
    if (!Take(&tensors) || !Take(&pairs)) return Truncated("the counts");
    for (uint64_t i = 0; i < pairs; ++i) SWELL_RETURN_IF_ERROR(ReadPair());
    for (uint64_t i = 0; i < tensors; ++i) SWELL_RETURN_IF_ERROR(ReadTensor());
    return PlaceTensors();
  }

 private:
  int64_t left() const { return static_cast<int64_t>(out_.file_.size()) - at_; }
  Status Truncated(const std::string& where) const {
    return Damaged("the file ends at byte " + std::to_string(out_.file_.size()) + " within " + where);
  }

  template <typename T>
  bool Take(T* value) {
    static_assert(std::is_trivially_copyable_v<T>);
    if (left() < static_cast<int64_t>(sizeof(T))) return false;
    std::memcpy(value, out_.file_.data() + at_, sizeof(T));
    at_ += static_cast<int64_t>(sizeof(T));
    return true;
  }

  bool TakeString(std::string* value) {
    uint64_t bytes = 0;
    if (!Take(&bytes) || bytes > static_cast<uint64_t>(left())) return false;
    value->assign(reinterpret_cast<const char*>(out_.file_.data() + at_), bytes);
    at_ += static_cast<int64_t>(bytes);
    return true;
  }

  Status TakeName(const std::string& what, std::string* name) {
    if (!TakeString(name)) return Truncated(what);
    if (name->empty() || name->size() > kMaxNameBytes) return Damaged(what + " is empty or too long");
    return OkStatus();
  }

  template <typename Stored, typename Kept>
  Status TakeNumber(const std::string& key, Kept* value) {
    Stored stored{};
    if (!Take(&stored)) return Truncated("the value of " + key);
    if constexpr (std::is_same_v<Stored, uint64_t>) {
      if (stored > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
        return Unknown("the value of " + key + " does not fit 64 bits with sign");
      }
    }
    *value = static_cast<Kept>(stored);  // NOLINT(bugprone-signed-char-misuse): int8 is a number here
    return OkStatus();
  }

  Status TakeInteger(ValueType type, const std::string& key, int64_t* value) {
    switch (type) {
      case ValueType::kUint8:
        return TakeNumber<uint8_t>(key, value);
      case ValueType::kInt8:
        return TakeNumber<int8_t>(key, value);
      case ValueType::kUint16:
        return TakeNumber<uint16_t>(key, value);
      case ValueType::kInt16:
        return TakeNumber<int16_t>(key, value);
      case ValueType::kUint32:
        return TakeNumber<uint32_t>(key, value);
      case ValueType::kInt32:
        return TakeNumber<int32_t>(key, value);
      case ValueType::kUint64:
        return TakeNumber<uint64_t>(key, value);
      default:
        return TakeNumber<int64_t>(key, value);
    }
  }

  Status TakeFloat(ValueType type, const std::string& key, double* value) {
    return type == ValueType::kFloat32 ? TakeNumber<float>(key, value) : TakeNumber<double>(key, value);
  }

  Status ReadArray(const std::string& key, Gguf::Value* value) {
    ValueType type{};
    uint64_t count = 0;
    if (!Take(&type) || !Take(&count)) return Truncated("the array " + key);
    const int64_t element_bytes = ValueBytes(type);
    if (element_bytes == 0) return Unknown("the array " + key + " has elements of type " + TypeNumber(type));
    if (count > static_cast<uint64_t>(left() / element_bytes)) return Truncated("the array " + key);
    if (type == ValueType::kString) {
      std::vector<std::string> strings(count);
      for (std::string& string : strings) {
        if (!TakeString(&string)) return Truncated("the array " + key);
      }
      *value = std::move(strings);
    } else if (type == ValueType::kFloat32 || type == ValueType::kFloat64) {
      std::vector<double> numbers(count);
      for (double& number : numbers) SWELL_RETURN_IF_ERROR(TakeFloat(type, key, &number));
      *value = std::move(numbers);
    } else {
      const ValueType stored = type == ValueType::kBool ? ValueType::kUint8 : type;
      std::vector<int64_t> integers(count);
      for (int64_t& integer : integers) SWELL_RETURN_IF_ERROR(TakeInteger(stored, key, &integer));
      *value = std::move(integers);
    }
    return OkStatus();
  }

  Status ReadValue(ValueType type, const std::string& key, Gguf::Value* value) {
    if (type == ValueType::kArray) return ReadArray(key, value);
    if (ValueBytes(type) == 0) return Unknown("the value of " + key + " has type " + TypeNumber(type));
    if (type == ValueType::kString) {
      std::string string;
      if (!TakeString(&string)) return Truncated("the value of " + key);
      *value = std::move(string);
    } else if (type == ValueType::kBool) {
      uint8_t flag = 0;
      if (!Take(&flag)) return Truncated("the value of " + key);
      if (flag > 1) return Damaged("the value of " + key + " is neither true nor false");
      *value = flag == 1;
    } else if (type == ValueType::kFloat32 || type == ValueType::kFloat64) {
      double number = 0;
      SWELL_RETURN_IF_ERROR(TakeFloat(type, key, &number));
      *value = number;
    } else {
      int64_t integer = 0;
      SWELL_RETURN_IF_ERROR(TakeInteger(type, key, &integer));
      *value = integer;
    }
    return OkStatus();
  }

  Status ReadPair() {
    std::string key;
    ValueType type{};
    Gguf::Value value;
    SWELL_RETURN_IF_ERROR(TakeName("a key of the metadata", &key));
    if (!Take(&type)) return Truncated("the value of " + key);
    SWELL_RETURN_IF_ERROR(ReadValue(type, key, &value));
    if (!out_.metadata_.emplace(key, std::move(value)).second) return Damaged("the key " + key + " stands twice");
    return OkStatus();
  }

  Status ReadTensor() {
    GgufTensor tensor;
    SWELL_RETURN_IF_ERROR(TakeName("the name of a tensor", &tensor.name));
    uint32_t dimensions = 0;
    uint64_t offset = 0;
    if (!Take(&dimensions)) return Truncated("tensor " + tensor.name);
    if (dimensions < 1 || dimensions > 4) return Damaged("tensor " + tensor.name + " has no 1 to 4 dimensions");
    tensor.elements = 1;
    for (uint32_t i = 0; i < dimensions; ++i) {
      int64_t size = 0;
      if (!Take(&size)) return Truncated("tensor " + tensor.name);
      if (size < 1 || __builtin_mul_overflow(tensor.elements, size, &tensor.elements)) {
        return Damaged("tensor " + tensor.name + " has a dimension of " + std::to_string(size));
      }
      tensor.shape.push_back(size);
    }
    if (!Take(&tensor.type) || !Take(&offset)) return Truncated("tensor " + tensor.name);
    const BlockShape block = BlockShapeOf(tensor.type);
    if (block.bytes == 0) {
      return Unknown("tensor " + tensor.name + " has type " + std::to_string(static_cast<uint32_t>(tensor.type)) +
                     " (F32, F16, BF16, Q8_0, Q4_0, Q4_1 and Q6_K are known)");
    }
    if (tensor.shape[0] % block.elements != 0) return Damaged("rows of tensor " + tensor.name + " are no whole blocks");
    if (out_.tensors_.count(tensor.name) != 0) return Damaged("tensor " + tensor.name + " stands twice");
    offsets_.emplace_back(tensor.name, offset);
    out_.tensors_.emplace(tensor.name, std::move(tensor));
    return OkStatus();
  }

  // The data begin at the next multiple of the alignment; the tensors' offsets count from there.
  Status PlaceTensors() {
    int64_t alignment = kDefaultAlignment;
    if (out_.Has("general.alignment")) {
      Result<int64_t> given = out_.Integer("general.alignment");
      if (!given.ok()) return given.status();
      alignment = given.value();
    }
    if (alignment < 1 || alignment > kMaxAlignment) return Damaged("general.alignment is out of range");
    const int64_t size = static_cast<int64_t>(out_.file_.size());
    const int64_t begin = (at_ + alignment - 1) / alignment * alignment;
    for (const auto& [name, offset] : offsets_) {
      GgufTensor& tensor = out_.tensors_.at(name);
      const BlockShape block = BlockShapeOf(tensor.type);
      int64_t bytes = 0;
      if (__builtin_mul_overflow(tensor.elements / block.elements, block.bytes, &bytes) || begin > size ||
          bytes > size - begin || offset > static_cast<uint64_t>(size - begin - bytes)) {
        return Damaged("the data of tensor " + name + " go beyond the end of the file");
      }
      if (offset % static_cast<uint64_t>(alignment) != 0) return Damaged("tensor " + name + " is not aligned");
      tensor.data = std::span(out_.file_).subspan(static_cast<size_t>(begin) + offset, static_cast<size_t>(bytes));
    }
    return OkStatus();
  }

  static std::string TypeNumber(ValueType type) { return std::to_string(static_cast<uint32_t>(type)); }

  Gguf& out_;
  int64_t at_ = 0;
  std::vector<std::pair<std::string, uint64_t>> offsets_;  // name and offset, in the file's order
};

Result<Gguf> Gguf::Parse(std::vector<std::byte> file) {
  try {
    Gguf gguf;
    gguf.file_ = std::move(file);
    SWELL_RETURN_IF_ERROR(GgufParser(&gguf).Run());
    return gguf;
  } catch (const std::bad_alloc&) {
    return Status(StatusCode::kResourceExhausted, "GGUF: no memory for the metadata", StatusDetail::kNoMemory);
  }
}

Result<Gguf> Gguf::ReadFile(const std::string& path) {
  std::error_code error;
  const std::filesystem::file_status file_status = std::filesystem::status(path, error);
  if (!std::filesystem::exists(file_status)) return Status(StatusCode::kNotFound, path + ": no such file");
  if (!std::filesystem::is_regular_file(file_status)) return InvalidArgument(path + ": not a regular file");
  const uintmax_t size = std::filesystem::file_size(path, error);
  if (error) return Status(StatusCode::kUnavailable, path + ": " + error.message());
  std::vector<std::byte> file;
  try {
    file.resize(size);
  } catch (const std::exception&) {  // bad_alloc or length_error
    return Status(StatusCode::kResourceExhausted, path + ": no memory for the file", StatusDetail::kNoMemory);
  }
  std::ifstream stream(path, std::ios::binary);
  if (!stream) return Status(StatusCode::kPermissionDenied, path + ": cannot be opened");
  if (!stream.read(reinterpret_cast<char*>(file.data()), static_cast<std::streamsize>(size))) {
    return Status(StatusCode::kUnavailable, path + ": cannot be read");
  }
  Result<Gguf> gguf = Parse(std::move(file));
  if (gguf.ok()) return gguf;
  return Status(gguf.status().code(), path + ": " + gguf.status().message(), gguf.status().detail());
}

namespace {

Status Missing(const std::string& key) {
  return Status(StatusCode::kNotFound, "GGUF: the metadata lack the key " + key);
}
Status WrongType(const std::string& key) { return Damaged("the value of " + key + " has an unexpected type"); }

}  // namespace

Result<int64_t> Gguf::Integer(const std::string& key) const {
  const auto found = metadata_.find(key);
  if (found == metadata_.end()) return Missing(key);
  if (const auto* value = std::get_if<int64_t>(&found->second)) return *value;
  return WrongType(key);
}

Result<double> Gguf::Number(const std::string& key) const {
  const auto found = metadata_.find(key);
  if (found == metadata_.end()) return Missing(key);
  if (const auto* value = std::get_if<double>(&found->second)) return *value;
  if (const auto* value = std::get_if<int64_t>(&found->second)) return static_cast<double>(*value);
  return WrongType(key);
}

Result<std::string> Gguf::String(const std::string& key) const {
  const auto found = metadata_.find(key);
  if (found == metadata_.end()) return Missing(key);
  if (const auto* value = std::get_if<std::string>(&found->second)) return *value;
  return WrongType(key);
}

std::span<const std::string> Gguf::Strings(const std::string& key) const {
  const auto found = metadata_.find(key);
  if (found == metadata_.end()) return {};
  const auto* value = std::get_if<std::vector<std::string>>(&found->second);
  return value == nullptr ? std::span<const std::string>() : std::span<const std::string>(*value);
}

std::span<const int64_t> Gguf::Integers(const std::string& key) const {
  const auto found = metadata_.find(key);
  if (found == metadata_.end()) return {};
  const auto* value = std::get_if<std::vector<int64_t>>(&found->second);
  return value == nullptr ? std::span<const int64_t>() : std::span<const int64_t>(*value);
}

Result<const GgufTensor*> Gguf::Tensor(const std::string& name, std::span<const int64_t> shape) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) return Status(StatusCode::kNotFound, "GGUF: there is no tensor " + name);
  const GgufTensor& tensor = found->second;
  if (!std::equal(shape.begin(), shape.end(), tensor.shape.rbegin(), tensor.shape.rend())) {
    return Damaged("tensor " + name + " has another shape than the model's metadata say");
  }
  return &tensor;
}

Result<std::vector<float>> Gguf::Floats(const std::string& name, std::span<const int64_t> shape) const {
  const Result<const GgufTensor*> found = Tensor(name, shape);
  if (!found.ok()) return found.status();
  const GgufTensor& tensor = **found;
  try {
    std::vector<float> values(static_cast<size_t>(tensor.elements));
    if (!Dequantize(tensor.type, tensor.data, values.data())) {
      return Damaged("tensor " + name + " has an element that is not finite");
    }
    return values;
  } catch (const std::exception&) {  // bad_alloc or length_error
    return Status(StatusCode::kResourceExhausted, "GGUF: no memory for tensor " + name, StatusDetail::kNoMemory);
  }
}

}  // namespace swell::model
