// Reader of GGUF files, version 2 and 3, little-endian: metadata and tensors.
//
// The whole file lies in memory that the object owns, read with plain file calls, never mapped. Every count, length and
// offset of the file is checked against the bytes that are there before anything is allocated for it, so that a
// truncated, altered or hostile file costs at most a small multiple of its size and gives an error. Const after Parse:
// any thread may read. Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
#ifndef SWELL_TOOLS_MODEL_GGUF_H_
#define SWELL_TOOLS_MODEL_GGUF_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "swell/status.h"
#include "tools/model/dequantize.h"

namespace swell::model {

struct GgufTensor {
  std::string name;
  TensorType type = TensorType::kF32;
  std::vector<int64_t> shape;  // as the file has it: shape[0] is the dimension that is dense in memory
  int64_t elements = 0;
  std::span<const std::byte> data;  // within the file's memory
};

class Gguf {
 public:
  // A value of the metadata. Unsigned integers above int64 are refused.
  using Value = std::variant<int64_t, double, bool, std::string, std::vector<int64_t>, std::vector<double>,
                             std::vector<std::string>>;

  // kNotFound, kPermissionDenied or kUnavailable when the file cannot be read; otherwise as Parse.
  static Result<Gguf> ReadFile(const std::string& path);
  // kDataLoss says what is wrong and where; kUnimplemented names a version or a type that this reader does not know.
  static Result<Gguf> Parse(std::vector<std::byte> file);

  // Metadata of the given type: kNotFound without the key, kDataLoss when its type is another one.
  Result<int64_t> Integer(const std::string& key) const;
  Result<double> Number(const std::string& key) const;  // an integer is taken as well
  Result<std::string> String(const std::string& key) const;
  // Empty when absent or of another type. Valid as long as this object.
  std::span<const std::string> Strings(const std::string& key) const;
  std::span<const int64_t> Integers(const std::string& key) const;
  bool Has(const std::string& key) const { return metadata_.find(key) != metadata_.end(); }

  const std::map<std::string, GgufTensor>& tensors() const { return tensors_; }
  // kNotFound, or kDataLoss when the shape (outermost dimension first, the reverse of the file's order) is another one.
  Result<const GgufTensor*> Tensor(const std::string& name, std::span<const int64_t> shape) const;
  // Dequantised elements, row-major; kDataLoss, too, when one is not finite.
  Result<std::vector<float>> Floats(const std::string& name, std::span<const int64_t> shape) const;

 private:
  friend class GgufParser;

  std::vector<std::byte> file_;  // moving a vector keeps its memory, so the tensors' spans stay valid
  std::map<std::string, Value> metadata_;
  std::map<std::string, GgufTensor> tensors_;
};

}  // namespace swell::model

#endif  // SWELL_TOOLS_MODEL_GGUF_H_
