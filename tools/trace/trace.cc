#include "tools/trace/trace.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <utility>

namespace swell::trace {
namespace {

static_assert(std::endian::native == std::endian::little, "traces are used where they lie");

constexpr char kMagic[8] = {'S', 'W', 'E', 'L', 'L', 'T', 'R', 'C'};
constexpr uint32_t kVersion = 1;
constexpr uint32_t kMaxLayers = 4096;
constexpr int64_t kMaxTokens = int64_t{1} << 30;

// The file's first bytes; the layers' numbers and the positions of the prefill's queries follow, int64 each.
struct Header {
  char magic[8];
  uint32_t version;
  uint32_t dtype;
  uint32_t layers;
  uint32_t kv_heads;
  uint32_t query_heads;
  uint32_t head_dim;
  float scale;
  uint32_t reserved;
  int64_t prefill_tokens;
  int64_t decode_steps;
  int64_t prefill_queries;
};
static_assert(sizeof(Header) == 64);

Status Damaged(const std::string& what) { return Status(StatusCode::kDataLoss, "trace: " + what); }

bool Ascending(const std::vector<int64_t>& numbers, int64_t end) {
  int64_t least = 0;
  for (const int64_t number : numbers) {
    if (number < least || number >= end) return false;
    least = number + 1;
  }
  return true;
}

// What is out of range, empty when nothing is. Products of the sizes of one layer stay below 2^60.
std::string FindFault(const TraceShape& shape) {
  if (shape.dtype != DType::kFloat32 && shape.dtype != DType::kFloat16 && shape.dtype != DType::kBFloat16) {
    return "dtype " + std::to_string(static_cast<int32_t>(shape.dtype)) + " is not float32, float16 or bfloat16";
  }
  if (shape.kv_heads < 1 || shape.kv_heads > 1024) return "kv_heads is not 1..1024";
  if (shape.query_heads < 1 || shape.query_heads % shape.kv_heads != 0 || shape.query_heads / shape.kv_heads > 16) {
    return "query_heads is not 1..16 times kv_heads";
  }
  if (shape.head_dim < 16 || shape.head_dim > 256 || shape.head_dim % 16 != 0) {
    return "head_dim is not a multiple of 16 in 16..256";
  }
  if (!std::isfinite(shape.scale)) return "scale is not finite";
  if (shape.prefill_tokens < 0 || shape.prefill_tokens > kMaxTokens) return "prefill_tokens is out of range";
  if (shape.decode_steps < 0 || shape.decode_steps > kMaxTokens) return "decode_steps is out of range";
  if (shape.layers.empty() || !Ascending(shape.layers, kMaxLayers)) return "layers are not ascending in 0..4095";
  if (!Ascending(shape.prefill_positions, shape.prefill_tokens)) {
    return "prefill positions are not ascending within the prefill";
  }
  return "";
}

std::vector<int64_t> Numbers(const std::byte* from, size_t count) {
  std::vector<int64_t> numbers(count);
  if (count > 0) std::memcpy(numbers.data(), from, count * sizeof(int64_t));
  return numbers;
}

int64_t HeaderBytes(const TraceShape& shape) {
  return static_cast<int64_t>(sizeof(Header) +
                              (shape.layers.size() + shape.prefill_positions.size()) * sizeof(int64_t));
}

int64_t LayerBytes(const TraceShape& shape) { return 2 * RowsBytes(shape) + QueriesBytes(shape); }

Status SystemError(const std::string& path, int error) {
  const StatusCode code = error == ENOENT   ? StatusCode::kNotFound
                          : error == EACCES ? StatusCode::kPermissionDenied
                                            : StatusCode::kUnavailable;
  return Status(code, "cannot read '" + path + "': " + std::strerror(error));
}

}  // namespace

Result<std::string> EncodeHeader(const TraceShape& shape) {
  if (const std::string fault = FindFault(shape); !fault.empty()) return InvalidArgument("trace: " + fault);
  Header header{};
  std::memcpy(header.magic, kMagic, sizeof(kMagic));
  header.version = kVersion;
  header.dtype = static_cast<uint32_t>(shape.dtype);
  header.layers = static_cast<uint32_t>(shape.layers.size());
  header.kv_heads = static_cast<uint32_t>(shape.kv_heads);
  header.query_heads = static_cast<uint32_t>(shape.query_heads);
  header.head_dim = static_cast<uint32_t>(shape.head_dim);
  header.scale = shape.scale;
  header.prefill_tokens = shape.prefill_tokens;
  header.decode_steps = shape.decode_steps;
  header.prefill_queries = static_cast<int64_t>(shape.prefill_positions.size());
  std::string bytes(reinterpret_cast<const char*>(&header), sizeof(header));
  for (const std::vector<int64_t>* numbers : {&shape.layers, &shape.prefill_positions}) {
    bytes.append(reinterpret_cast<const char*>(numbers->data()), numbers->size() * sizeof(int64_t));
  }
  return bytes;
}

int64_t RowsBytes(const TraceShape& shape) {
  return shape.tokens() * shape.kv_heads * shape.head_dim * static_cast<int64_t>(DTypeSize(shape.dtype));
}

int64_t QueriesBytes(const TraceShape& shape) {
  return shape.queries() * shape.query_heads * shape.head_dim * static_cast<int64_t>(sizeof(float));
}

int64_t FileBytes(const TraceShape& shape) {
  const auto layers = static_cast<int64_t>(shape.layers.size());
  return HeaderBytes(shape) + layers * LayerBytes(shape);
}

Result<Trace> Trace::Open(const std::string& path) {
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) return SystemError(path, errno);
  struct stat info {};
  int error = fstat(file, &info) == 0 ? 0 : errno;
  if (error == 0 && S_ISDIR(info.st_mode)) error = EISDIR;
  const auto bytes = static_cast<size_t>(std::max<off_t>(info.st_size, 0));
  void* memory = nullptr;
  if (error == 0 && bytes > 0) {
    memory = mmap(nullptr, bytes, PROT_READ, MAP_PRIVATE, file, 0);
    if (memory == MAP_FAILED) error = errno;
  }
  close(file);
  if (error != 0) return SystemError(path, error);
  const auto unmap = [bytes](const std::byte* mapped) {
    if (mapped != nullptr) munmap(const_cast<std::byte*>(mapped), bytes);
  };
  Result<Trace> trace = Parse(std::shared_ptr<const std::byte>(static_cast<const std::byte*>(memory), unmap), bytes);
  if (!trace.ok()) return Status(trace.status().code(), "'" + path + "': " + trace.status().message());
  return trace;
}

Result<Trace> Trace::Parse(std::vector<std::byte> file) {
  const auto owned = std::make_shared<const std::vector<std::byte>>(std::move(file));
  return Parse(std::shared_ptr<const std::byte>(owned, owned->data()), owned->size());
}

Result<Trace> Trace::Parse(std::shared_ptr<const std::byte> file, size_t bytes) {
  Header header{};
  if (bytes < sizeof(header)) return Damaged("the file ends within its header");
  std::memcpy(&header, file.get(), sizeof(header));
  if (std::memcmp(header.magic, kMagic, sizeof(kMagic)) != 0) return Damaged("this is no trace");
  if (header.version != kVersion) {
    return Status(StatusCode::kUnimplemented, "trace: version " + std::to_string(header.version) +
                                                  " is not known, only " + std::to_string(kVersion));
  }
  if (header.reserved != 0) return Damaged("the reserved field is not 0");
  const size_t numbers = (bytes - sizeof(header)) / sizeof(int64_t);  // that the file has room for
  if (header.layers > numbers || header.prefill_queries < 0 ||
      static_cast<uint64_t>(header.prefill_queries) > numbers - header.layers) {
    return Damaged("the file ends within its header");
  }
  const auto query_count = static_cast<size_t>(header.prefill_queries);
  const std::byte* lists = file.get() + sizeof(header);
  Trace trace;
  // Numbers above int32 become negative here and are refused with the rest.
  trace.shape_ = {static_cast<DType>(header.dtype),
                  static_cast<int32_t>(header.kv_heads),
                  static_cast<int32_t>(header.query_heads),
                  static_cast<int32_t>(header.head_dim),
                  header.scale,
                  header.prefill_tokens,
                  header.decode_steps,
                  Numbers(lists, header.layers),
                  Numbers(lists + header.layers * sizeof(int64_t), query_count)};
  if (const std::string fault = FindFault(trace.shape_); !fault.empty()) return Damaged(fault);
  trace.header_bytes_ = static_cast<size_t>(HeaderBytes(trace.shape_));
  const size_t room = bytes - trace.header_bytes_;
  const auto layer_bytes = static_cast<size_t>(LayerBytes(trace.shape_));
  if (layer_bytes > room || layer_bytes * header.layers != room) {
    return Damaged("the file has " + std::to_string(bytes) + " bytes, not what its header says");
  }
  trace.file_ = std::move(file);
  return trace;
}

TraceLayer Trace::layer(int64_t index) const {
  const auto rows = static_cast<size_t>(RowsBytes(shape_));
  const std::byte* at = file_.get() + header_bytes_ + index * LayerBytes(shape_);
  TraceLayer layer;
  layer.keys = {at, rows};
  layer.values = {at + rows, rows};
  layer.queries = {reinterpret_cast<const float*>(at + 2 * rows),
                   static_cast<size_t>(QueriesBytes(shape_)) / sizeof(float)};
  return layer;
}

}  // namespace swell::trace
