// What the C API's fuzz target knows of an engine: rows that a number stands for, and what each sequence must hold.
#ifndef SWELL_TESTS_FUZZ_CAPI_STATE_H_
#define SWELL_TESTS_FUZZ_CAPI_STATE_H_

#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "swell/swell.h"
#include "tests/fuzz/fuzz.h"

namespace swell_fuzz {

constexpr int32_t kLayers = 2;
constexpr int32_t kKvHeads = 2;
constexpr int32_t kGroup = 2;
constexpr int32_t kHeads = kKvHeads * kGroup;
constexpr int32_t kHeadDim = 16;
constexpr int64_t kRow = int64_t{kKvHeads} * kHeadDim;
constexpr uint64_t kBudgetBytes = 128 << 10;
constexpr int64_t kMaxTokens = 320;  // of a sequence; more would only be slower

inline int64_t DTypeBytes(swell_dtype dtype) { return dtype == SWELL_FLOAT32 ? 4 : dtype == SWELL_INT8 ? 1 : 2; }

// Rows of keys and values are named by a seed. Elements are multiples of 1/8 up to 2, which every dtype but INT8 holds
// exactly; seeds from kLarge on have one element far beyond the others.
constexpr uint16_t kLarge = 0x8000;
constexpr float kLargeElement = 0x1p60F;

inline int Eighths(uint16_t seed, bool value, int64_t head, int64_t dim) {
  const uint32_t mixed =
      (seed * 2654435761U) ^ (static_cast<uint32_t>(head * 7 + dim * 131 + (value ? 977 : 0)) * 40503U);
  return static_cast<int>((mixed >> 11) % 33) - 16;
}

inline float Element(uint16_t seed, bool value, int64_t head, int64_t dim) {
  if (seed >= kLarge && dim == 0) return kLargeElement;
  return static_cast<float>(Eighths(seed, value, head, dim)) / 8;
}

// How far a stored element may be from Element(): half a step of INT8 rows that the engine quantised.
inline float Tolerance(uint16_t seed, swell_dtype storage) {
  if (storage != SWELL_INT8) return 0;
  return (seed >= kLarge ? kLargeElement : 2.0F) / 127;
}

// float16 of a multiple of 1/8 up to 2.
inline uint16_t HalfBits(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t magnitude = bits & 0x7FFFFFFFU;
  const uint32_t half = magnitude == 0 ? 0 : (magnitude >> 13) - (112U << 10);
  return static_cast<uint16_t>((bits >> 16 & 0x8000U) | half);
}

inline float HalfToFloat(uint16_t half) {
  const uint32_t magnitude = half & 0x7FFFU;
  const float value = magnitude >= 0x7C00U   ? std::bit_cast<float>(0x7F800000U | magnitude << 13)
                      : magnitude >= 0x0400U ? std::bit_cast<float>((magnitude << 13) + (112U << 23))
                                             : static_cast<float>(magnitude) * 0x1p-24F;
  return (half & 0x8000U) != 0 ? -value : value;
}

// Writes element `at` of an array of `dtype`. INT8 takes eighths.
inline void Store(swell_dtype dtype, void* array, int64_t at, float value) {
  auto* bytes = static_cast<unsigned char*>(array) + at * DTypeBytes(dtype);
  const auto half =
      dtype == SWELL_FLOAT16 ? HalfBits(value) : static_cast<uint16_t>(std::bit_cast<uint32_t>(value) >> 16);
  if (dtype == SWELL_FLOAT32) std::memcpy(bytes, &value, sizeof(value));
  if (dtype == SWELL_FLOAT16 || dtype == SWELL_BFLOAT16) std::memcpy(bytes, &half, sizeof(half));
  if (dtype == SWELL_INT8) *bytes = static_cast<unsigned char>(static_cast<int8_t>(value * 8));
}

inline float Load(swell_dtype dtype, const void* array, int64_t at, float scale = 1) {
  const auto* bytes = static_cast<const unsigned char*>(array) + at * DTypeBytes(dtype);
  if (dtype == SWELL_INT8) return scale * static_cast<float>(static_cast<int8_t>(*bytes));
  if (dtype == SWELL_FLOAT32) {
    float value = 0;
    std::memcpy(&value, bytes, sizeof(value));
    return value;
  }
  uint16_t half = 0;
  std::memcpy(&half, bytes, sizeof(half));
  return dtype == SWELL_FLOAT16 ? HalfToFloat(half) : std::bit_cast<float>(static_cast<uint32_t>(half) << 16);
}

// A sequence as it must be. tokens[layer][t] is the seed of token t.
struct Model {
  swell_sequence id = 0;
  bool live = false;
  std::array<std::vector<uint16_t>, kLayers> tokens;
};

// One engine per storage dtype, with and without a byte budget, kept from input to input. Every seal happens before put
// returns, so that the same input does the same.
inline swell_engine* EngineFor(swell_dtype storage, bool budget) {
  static std::array<swell_engine*, 8> engines{};
  swell_engine*& engine = engines[static_cast<size_t>(storage) * 2 + (budget ? 1 : 0)];
  if (engine != nullptr) return engine;
  swell_engine_options options = SWELL_ENGINE_OPTIONS_INIT;
  options.layers = kLayers;
  options.kv_heads = kKvHeads;
  options.group = kGroup;
  options.head_dim = kHeadDim;
  options.storage = storage;
  options.threads = 1;
  options.host_budget_bytes = budget ? kBudgetBytes : 0;
  options.flags = SWELL_ENGINE_DETERMINISTIC;
  SWELL_FUZZ_CHECK(swell_engine_open(&options, &engine, nullptr) == SWELL_OK);
  return engine;
}

// How the struct of a call's arguments, and what the call is given beside it, are spoilt.
enum class Damage {
  kNone,
  kNoEngine,
  kNoArgs,
  kMisalignedArgs,
  kSmallArgs,
  kDirtyArgs,
  kHugeArgs,
  kItemSize,
  kLayer,
  kItemCount,
  kRowCount,
  kNoItems,
  kMisalignedItems,
  kLarger,  // no damage: a newer caller's struct, zero where this library knows nothing
  kCount
};

inline Damage TakeDamage(Bytes& bytes) {
  const int choice = bytes.Choose(64);
  return choice < static_cast<int>(Damage::kCount) ? static_cast<Damage>(choice) : Damage::kNone;
}

inline bool Harmless(Damage damage) { return damage == Damage::kNone || damage == Damage::kLarger; }

// The arguments of a batched call as the engine gets them.
template <typename Args, typename Item>
class Call {
 public:
  Call(swell_engine* engine, Args args, const std::vector<Item>& items, Damage damage)
      : engine_(damage == Damage::kNoEngine ? nullptr : engine), items_(items.data()) {
    uint32_t size = sizeof(Args);
    if (damage == Damage::kSmallArgs) size = sizeof(Args) - 8;
    if (damage == Damage::kDirtyArgs || damage == Damage::kLarger) size = sizeof(Args) + 16;
    if (damage == Damage::kHugeArgs) size = 5000;
    args.struct_size = size;
    if (damage == Damage::kItemSize) args.item_size = sizeof(Item) - 4;
    if (damage == Damage::kLayer) args.layer = kLayers;
    if (damage == Damage::kItemCount) args.n_items = INT64_MAX / 8;
    if (damage == Damage::kRowCount) args.n_rows = -1;
    std::memcpy(buffer_, &args, sizeof(args));
    if (damage == Damage::kDirtyArgs) buffer_[size - 1] = 1;
    args_ = damage == Damage::kNoArgs ? nullptr : buffer_ + (damage == Damage::kMisalignedArgs ? 4 : 0);
    if (damage == Damage::kNoItems) items_ = nullptr;
    if (damage == Damage::kMisalignedItems) {
      items_ = reinterpret_cast<const Item*>(reinterpret_cast<const unsigned char*>(items_) + 4);
    }
  }
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

  swell_engine* engine() const { return engine_; }
  const Args* args() const { return reinterpret_cast<const Args*>(args_); }
  const Item* items() const { return items_; }

 private:
  swell_engine* engine_;
  alignas(8) unsigned char buffer_[sizeof(Args) + 24] = {};
  const unsigned char* args_ = nullptr;
  const Item* items_;
};

}  // namespace swell_fuzz

#endif  // SWELL_TESTS_FUZZ_CAPI_STATE_H_
