// Writes small GGUF files for tests, well-formed or not.
#ifndef SWELL_TESTS_MODEL_GGUF_WRITER_H_
#define SWELL_TESTS_MODEL_GGUF_WRITER_H_

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "tools/model/dequantize.h"

namespace swell::model {

class GgufWriter {
 public:
  // Numbers of the value types in the format.
  enum Type : uint32_t { kUint8, kInt8, kUint16, kInt16, kUint32, kInt32, kFloat32, kBool, kString, kArray, kUint64 };

  template <typename T>
  GgufWriter& Key(const std::string& key, uint32_t type, T value) {
    AppendString(key, &pairs_);
    Append(type, &pairs_);
    Append(value, &pairs_);
    ++pair_count_;
    return *this;
  }
  GgufWriter& Key(const std::string& key, const std::string& value) {
    AppendString(key, &pairs_);
    Append<uint32_t>(kString, &pairs_);
    AppendString(value, &pairs_);
    ++pair_count_;
    return *this;
  }
  GgufWriter& Key(const std::string& key, const std::vector<std::string>& values) {
    BeginArray(key, kString, values.size());
    for (const std::string& value : values) AppendString(value, &pairs_);
    return *this;
  }
  template <typename T>
  GgufWriter& Array(const std::string& key, uint32_t type, const std::vector<T>& values) {
    BeginArray(key, type, values.size());
    for (const T value : values) Append(value, &pairs_);
    return *this;
  }
  // Data are placed at the next multiple of 32 within the data section, unless an offset is given.
  GgufWriter& Tensor(const std::string& name, TensorType type, const std::vector<int64_t>& shape,
                     const std::vector<std::byte>& data, int64_t offset = -1) {
    data_.resize((data_.size() + 31) / 32 * 32);
    AppendString(name, &infos_);
    Append(static_cast<uint32_t>(shape.size()), &infos_);
    for (const int64_t size : shape) Append(size, &infos_);
    Append(type, &infos_);
    Append(offset < 0 ? static_cast<uint64_t>(data_.size()) : static_cast<uint64_t>(offset), &infos_);
    data_.insert(data_.end(), data.begin(), data.end());
    ++tensor_count_;
    return *this;
  }
  GgufWriter& Floats(const std::string& name, const std::vector<int64_t>& shape, const std::vector<float>& values) {
    std::vector<std::byte> bytes(values.size() * sizeof(float));
    if (!bytes.empty()) std::memcpy(bytes.data(), values.data(), bytes.size());
    return Tensor(name, TensorType::kF32, shape, bytes);
  }

  std::vector<std::byte> File(uint32_t version = 3) const {
    std::vector<std::byte> file;
    Append(uint32_t{0x46554747}, &file);  // "GGUF"
    Append(version, &file);
    Append(tensor_count_, &file);
    Append(pair_count_, &file);
    file.insert(file.end(), pairs_.begin(), pairs_.end());
    file.insert(file.end(), infos_.begin(), infos_.end());
    file.resize((file.size() + 31) / 32 * 32);
    file.insert(file.end(), data_.begin(), data_.end());
    return file;
  }

 private:
  template <typename T>
  static void Append(T value, std::vector<std::byte>* to) {
    const size_t at = to->size();
    to->resize(at + sizeof(T));
    std::memcpy(to->data() + at, &value, sizeof(T));
  }
  static void AppendString(const std::string& value, std::vector<std::byte>* to) {
    Append(static_cast<uint64_t>(value.size()), to);
    for (const char letter : value) to->push_back(static_cast<std::byte>(letter));
  }
  void BeginArray(const std::string& key, uint32_t type, size_t count) {
    AppendString(key, &pairs_);
    Append<uint32_t>(kArray, &pairs_);
    Append(type, &pairs_);
    Append(static_cast<uint64_t>(count), &pairs_);
    ++pair_count_;
  }

  uint64_t pair_count_ = 0;
  uint64_t tensor_count_ = 0;
  std::vector<std::byte> pairs_;
  std::vector<std::byte> infos_;
  std::vector<std::byte> data_;
};

}  // namespace swell::model

#endif  // SWELL_TESTS_MODEL_GGUF_WRITER_H_
