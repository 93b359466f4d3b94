// Element formats of GGUF tensors and their expansion to float32. The block layouts are ggml's (ggml-common.h).
#ifndef SWELL_TOOLS_MODEL_DEQUANTIZE_H_
#define SWELL_TOOLS_MODEL_DEQUANTIZE_H_

#include <cstddef>
#include <cstdint>
#include <span>

namespace swell::model {

// Numbers of the file format.
enum class TensorType : uint32_t {
  kF32 = 0,
  kF16 = 1,
  kQ4_0 = 2,
  kQ4_1 = 3,
  kQ8_0 = 8,
  kQ6_K = 14,
  kBF16 = 30,
};

// Elements are stored in blocks of `elements` that take `bytes`; both are 0 for a type that is not known.
struct BlockShape {
  int64_t elements = 0;
  int64_t bytes = 0;
};
BlockShape BlockShapeOf(TensorType type);

// Expands whole blocks: data.size() / bytes * elements values. False when one is not finite.
bool Dequantize(TensorType type, std::span<const std::byte> data, float* to);

}  // namespace swell::model

#endif  // SWELL_TOOLS_MODEL_DEQUANTIZE_H_
