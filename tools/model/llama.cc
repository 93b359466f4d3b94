#include "tools/model/llama.h"

#include <new>
#include <utility>

namespace swell::model {
namespace {

constexpr double kMaxRopeBase = 1e12;
constexpr double kMaxAlpha = 1e6;
constexpr int64_t kMaxRank = 1 << 16;

Status Unknown(const std::string& what) { return Status(StatusCode::kUnimplemented, "model: " + what); }

std::string LayerName(int64_t layer, const std::string& part) {
  return "blk." + std::to_string(layer) + "." + part + ".weight";
}

// *value = the integer `key`, which must lie within [low, high]; `fallback` >= 0 stands for an absent key.
template <typename T>
Status ReadInteger(const Gguf& gguf, const std::string& key, int64_t low, int64_t high, T* value,
                   int64_t fallback = -1) {
  int64_t number = fallback;
  if (fallback < 0 || gguf.Has(key)) {
    Result<int64_t> found = gguf.Integer(key);
    if (!found.ok()) return found.status();
    number = found.value();
  }
  if (number < low || number > high) {
    return Status(StatusCode::kDataLoss, "model: " + key + " is " + std::to_string(number) + ", outside of " +
                                             std::to_string(low) + " .. " + std::to_string(high));
  }
  *value = static_cast<T>(number);
  return OkStatus();
}

// *value = the number `key`, in (0, high].
Status ReadPositive(const Gguf& gguf, const std::string& key, double high, double* value) {
  Result<double> found = gguf.Number(key);
  if (!found.ok()) return found.status();
  if (!(found.value() > 0 && found.value() <= high)) {
    return Status(StatusCode::kDataLoss, "model: " + key + " is " + std::to_string(found.value()) + ", out of range");
  }
  *value = found.value();
  return OkStatus();
}

// kUnimplemented unless the string `key` is `known`, or absent and `optional`.
Status RequireString(const Gguf& gguf, const std::string& key, const std::string& known, bool optional = false) {
  if (optional && !gguf.Has(key)) return OkStatus();
  Result<std::string> found = gguf.String(key);
  if (!found.ok()) return found.status();
  if (found.value() == known) return OkStatus();
  return Unknown(key + " is " + found.value() + "; only " + known + " is known here");
}

Result<LlamaShape> ReadShape(const Gguf& gguf) {
  LlamaShape shape;
  double epsilon = 0;
  SWELL_RETURN_IF_ERROR(ReadInteger(gguf, "llama.block_count", 1, 4096, &shape.layers));
  SWELL_RETURN_IF_ERROR(ReadInteger(gguf, "llama.embedding_length", 1, 1 << 16, &shape.width));
  SWELL_RETURN_IF_ERROR(ReadInteger(gguf, "llama.feed_forward_length", 1, 1 << 18, &shape.ffn_width));
  SWELL_RETURN_IF_ERROR(ReadInteger(gguf, "llama.attention.head_count", 1, 1 << 14, &shape.heads));
  SWELL_RETURN_IF_ERROR(
      ReadInteger(gguf, "llama.attention.head_count_kv", 1, shape.heads, &shape.kv_heads, shape.heads));
  SWELL_RETURN_IF_ERROR(
      ReadInteger(gguf, "llama.attention.key_length", 16, kMaxHeadDim, &shape.head_dim, shape.width / shape.heads));
  SWELL_RETURN_IF_ERROR(ReadInteger(gguf, "llama.context_length", 1, int64_t{1} << 40, &shape.context_tokens));
  SWELL_RETURN_IF_ERROR(ReadPositive(gguf, "llama.attention.layer_norm_rms_epsilon", 1, &epsilon));
  shape.norm_epsilon = static_cast<float>(epsilon);
  shape.rope_base = 10000;
  if (gguf.Has("llama.rope.freq_base")) {
    SWELL_RETURN_IF_ERROR(ReadPositive(gguf, "llama.rope.freq_base", kMaxRopeBase, &shape.rope_base));
  }
  int32_t rotated = 0;
  SWELL_RETURN_IF_ERROR(
      ReadInteger(gguf, "llama.rope.dimension_count", 1, kMaxHeadDim, &rotated, int64_t{shape.head_dim}));
  if (rotated != shape.head_dim) return Unknown("rope on a part of the head");
  if (shape.heads % shape.kv_heads != 0) return Unknown("query heads that are no multiple of the KV heads");
  SWELL_RETURN_IF_ERROR(RequireString(gguf, "llama.rope.scaling.type", "none", true));
  return shape;
}

Status ReadMatrix(const Gguf& gguf, const std::string& name, int64_t outputs, int64_t inputs, Matrix* matrix) {
  const int64_t shape[] = {outputs, inputs};
  const Result<const GgufTensor*> tensor = gguf.Tensor(name, shape);
  if (!tensor.ok()) return tensor.status();
  *matrix = Matrix((*tensor)->type, (*tensor)->data, outputs, inputs);
  if (matrix->finite()) return OkStatus();
  return Status(StatusCode::kDataLoss, "model: " + name + " has an element that is not finite");
}

Status ReadVector(const Gguf& gguf, const std::string& name, int64_t size, std::vector<float>* vector) {
  Result<std::vector<float>> values = gguf.Floats(name, std::span(&size, 1));
  if (!values.ok()) return values.status();
  *vector = std::move(values).value();
  return OkStatus();
}

Status Named(const std::string& path, const Status& status) {
  if (status.ok()) return status;
  return Status(status.code(), path + ": " + status.message(), status.detail());
}

}  // namespace

Result<std::unique_ptr<Model>> Model::Load(const ModelOptions& options) {
  try {
    std::unique_ptr<Model> model(new Model(options.threads));
    {
      Result<Gguf> base = Gguf::ReadFile(options.base_path);
      if (!base.ok()) return base.status();
      SWELL_RETURN_IF_ERROR(Named(options.base_path, model->LoadBase(base.value())));
    }
    if (!options.adapter_path.empty()) {
      Result<Gguf> adapter = Gguf::ReadFile(options.adapter_path);
      if (!adapter.ok()) return adapter.status();
      SWELL_RETURN_IF_ERROR(Named(options.adapter_path, model->LoadAdapter(adapter.value())));
    }
    return model;
  } catch (const std::bad_alloc&) {
    return Status(StatusCode::kResourceExhausted, "model: no memory for the weights", StatusDetail::kNoMemory);
  }
}

Status Model::LoadBase(const Gguf& base) {
  SWELL_RETURN_IF_ERROR(RequireString(base, "general.architecture", "llama"));
  SWELL_RETURN_IF_ERROR(RequireString(base, "general.type", "model", true));
  Result<LlamaShape> shape = ReadShape(base);
  if (!shape.ok()) return shape.status();
  shape_ = shape.value();
  Result<Tokenizer> tokenizer = Tokenizer::FromGguf(base);
  if (!tokenizer.ok()) return tokenizer.status();
  tokenizer_ = std::make_unique<Tokenizer>(std::move(tokenizer).value());
  shape_.vocabulary = tokenizer_->size();
  if (base.Has("tokenizer.chat_template")) {
    Result<std::string> chat_template = base.String("tokenizer.chat_template");
    if (!chat_template.ok()) return chat_template.status();
    chat_template_ = std::move(chat_template).value();
  }

  // Anything beyond the known tensors (biases, experts, rope factors) would change the result.
  size_t expected = 2 + 9 * static_cast<size_t>(shape_.layers);
  const bool tied = base.tensors().count("output.weight") == 0;
  if (!tied) ++expected;
  if (base.tensors().size() != expected) {
    return Unknown("the file has " + std::to_string(base.tensors().size()) + " tensors, the LLaMA architecture " +
                   std::to_string(expected));
  }
  SWELL_RETURN_IF_ERROR(ReadMatrix(base, "token_embd.weight", shape_.vocabulary, shape_.width, &embedding_.weights));
  SWELL_RETURN_IF_ERROR(ReadVector(base, "output_norm.weight", shape_.width, &output_norm_));
  if (!tied)
    SWELL_RETURN_IF_ERROR(ReadMatrix(base, "output.weight", shape_.vocabulary, shape_.width, &output_.weights));
  layers_.resize(static_cast<size_t>(shape_.layers));
  std::vector<Status> statuses(layers_.size());
  matmul_.ParallelFor(shape_.layers, [&](int64_t layer) {
    statuses[static_cast<size_t>(layer)] = LoadLayer(base, static_cast<int32_t>(layer));
  });
  for (const Status& status : statuses) SWELL_RETURN_IF_ERROR(status);
  return OkStatus();
}

namespace {

// A linear layer, its name in a file and its shape.
struct Part {
  const char* name;
  Linear* linear;
  int64_t outputs;
  int64_t inputs;
};

std::array<Part, 7> Parts(const LlamaShape& shape, LlamaLayer& layer) {
  const int64_t width = shape.width;
  return {{{"attn_q", &layer.qkv[0], shape.query_width(), width},
           {"attn_k", &layer.qkv[1], shape.kv_width(), width},
           {"attn_v", &layer.qkv[2], shape.kv_width(), width},
           {"attn_output", &layer.attention_out, width, shape.query_width()},
           {"ffn_gate", &layer.gate_up[0], shape.ffn_width, width},
           {"ffn_up", &layer.gate_up[1], shape.ffn_width, width},
           {"ffn_down", &layer.down, width, shape.ffn_width}}};
}

}  // namespace

Status Model::LoadLayer(const Gguf& base, int32_t index) {
  LlamaLayer& layer = layers_[static_cast<size_t>(index)];
  SWELL_RETURN_IF_ERROR(ReadVector(base, LayerName(index, "attn_norm"), shape_.width, &layer.attention_norm));
  SWELL_RETURN_IF_ERROR(ReadVector(base, LayerName(index, "ffn_norm"), shape_.width, &layer.ffn_norm));
  for (const Part& part : Parts(shape_, layer)) {
    SWELL_RETURN_IF_ERROR(
        ReadMatrix(base, LayerName(index, part.name), part.outputs, part.inputs, &part.linear->weights));
  }
  return OkStatus();
}

namespace {

// Puts the tensors name.lora_a [rank, inputs] and name.lora_b [outputs, rank] beside the layer's weights, if there are
// any. *used counts them.
Status ReadLowRank(const Gguf& adapter, const std::string& name, double alpha, Linear* linear, size_t* used) {
  const auto found = adapter.tensors().find(name + ".lora_a");
  if (found == adapter.tensors().end()) return OkStatus();
  if (found->second.shape.size() != 2 || found->second.shape[1] > kMaxRank) {
    return Status(StatusCode::kDataLoss, "model: " + found->first + " is not a matrix of low rank");
  }
  const int64_t rank = found->second.shape[1];
  SWELL_RETURN_IF_ERROR(ReadMatrix(adapter, name + ".lora_a", rank, linear->weights.inputs(), &linear->into_rank));
  SWELL_RETURN_IF_ERROR(ReadMatrix(adapter, name + ".lora_b", linear->weights.outputs(), rank, &linear->from_rank));
  linear->factor = static_cast<float>(alpha / static_cast<double>(rank));
  *used += 2;
  return OkStatus();
}

}  // namespace

Status Model::LoadAdapter(const Gguf& adapter) {
  SWELL_RETURN_IF_ERROR(RequireString(adapter, "general.architecture", "llama"));
  SWELL_RETURN_IF_ERROR(RequireString(adapter, "general.type", "adapter"));
  SWELL_RETURN_IF_ERROR(RequireString(adapter, "adapter.type", "lora"));
  double alpha = 0;
  SWELL_RETURN_IF_ERROR(ReadPositive(adapter, "adapter.lora.alpha", kMaxAlpha, &alpha));
  if (adapter.Has("llama.rope.freq_base")) {
    SWELL_RETURN_IF_ERROR(ReadPositive(adapter, "llama.rope.freq_base", kMaxRopeBase, &shape_.rope_base));
  }
  SWELL_RETURN_IF_ERROR(
      ReadInteger(adapter, "llama.context_length", 1, int64_t{1} << 40, &shape_.context_tokens, shape_.context_tokens));
  size_t used = 0;
  for (int64_t index = 0; index < shape_.layers; ++index) {
    for (const Part& part : Parts(shape_, layers_[static_cast<size_t>(index)])) {
      SWELL_RETURN_IF_ERROR(ReadLowRank(adapter, LayerName(index, part.name), alpha, part.linear, &used));
    }
  }
  if (used != adapter.tensors().size()) return Unknown("the adapter has tensors that fit no matrix of the model");
  return OkStatus();
}

ModelShape Model::EngineShape(DType storage) const {
  ModelShape shape;
  shape.layers = shape_.layers;
  shape.kv_heads = shape_.kv_heads;
  shape.group = shape_.heads / shape_.kv_heads;
  shape.head_dim = shape_.head_dim;
  shape.storage = storage;
  return shape;
}

uint64_t Model::weight_bytes() const {
  uint64_t bytes = embedding_.bytes() + output_.bytes() + output_norm_.size() * sizeof(float);
  for (const LlamaLayer& layer : layers_) {
    bytes += (layer.attention_norm.size() + layer.ffn_norm.size()) * sizeof(float);
    for (const Linear& linear : layer.qkv) bytes += linear.bytes();
    for (const Linear& linear : layer.gate_up) bytes += linear.bytes();
    bytes += layer.attention_out.bytes() + layer.down.bytes();
  }
  return bytes;
}

}  // namespace swell::model
