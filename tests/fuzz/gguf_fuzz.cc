// The GGUF reader on any bytes, and what a model takes from it.
#include <cmath>
#include <cstddef>
#include <numeric>
#include <vector>

#include "tests/fuzz/fuzz.h"
#include "tools/model/gguf.h"
#include "tools/model/tokenizer.h"

namespace {

using swell::Result;
using swell::Status;
using swell::StatusCode;
using swell::model::Gguf;
using swell::model::GgufTensor;

void CheckRefusal(const Status& status) {
  SWELL_FUZZ_CHECK(status.code() == StatusCode::kDataLoss || status.code() == StatusCode::kUnimplemented);
  SWELL_FUZZ_CHECK(!status.message().empty());
}

void CheckTensor(const Gguf& gguf, const GgufTensor& tensor) {
  const swell::model::BlockShape block = swell::model::BlockShapeOf(tensor.type);
  SWELL_FUZZ_CHECK(!tensor.shape.empty() && tensor.shape.size() <= 4);
  SWELL_FUZZ_CHECK(std::accumulate(tensor.shape.begin(), tensor.shape.end(), int64_t{1}, std::multiplies<>()) ==
                   tensor.elements);
  SWELL_FUZZ_CHECK(static_cast<int64_t>(tensor.data.size()) == tensor.elements / block.elements * block.bytes);
  const std::vector<int64_t> shape(tensor.shape.rbegin(), tensor.shape.rend());
  const Result<std::vector<float>> values = gguf.Floats(tensor.name, shape);
  if (!values.ok()) return CheckRefusal(values.status());
  SWELL_FUZZ_CHECK(static_cast<int64_t>(values->size()) == tensor.elements);
  for (const float value : *values) SWELL_FUZZ_CHECK(std::isfinite(value));
}

}  // namespace

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto* bytes = reinterpret_cast<const std::byte*>(data);
  const Result<Gguf> gguf = Gguf::Parse(std::vector<std::byte>(bytes, bytes + size));
  if (!gguf.ok()) {
    CheckRefusal(gguf.status());
    return 0;
  }
  for (const auto& [name, tensor] : gguf->tensors()) {
    SWELL_FUZZ_CHECK(name == tensor.name);
    CheckTensor(*gguf, tensor);
  }
  for (const char* key : {"general.alignment", "general.architecture", "tokenizer.ggml.tokens", "k"}) {
    const bool number = gguf->Number(key).ok();
    SWELL_FUZZ_CHECK(number || !gguf->Integer(key).ok());
    SWELL_FUZZ_CHECK(gguf->Has(key) || !(number || gguf->String(key).ok()));
    SWELL_FUZZ_CHECK(gguf->Has(key) || (gguf->Strings(key).empty() && gguf->Integers(key).empty()));
  }
  if (const auto tokenizer = swell::model::Tokenizer::FromGguf(*gguf); !tokenizer.ok()) {
    SWELL_FUZZ_CHECK(!tokenizer.status().message().empty());
  }
  return 0;
}
