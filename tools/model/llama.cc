#include "tools/model/llama.h"

#include <cblas.h>

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

// Appends tensor `name` of `outputs` x `inputs` to `matrix`.
Status Append(const Gguf& gguf, const std::string& name, int64_t outputs, int64_t inputs, std::vector<float>* matrix) {
  const int64_t shape[] = {outputs, inputs};
  Result<std::vector<float>> values = gguf.Floats(name, shape);
  if (!values.ok()) return values.status();
  if (matrix->empty()) {
    *matrix = std::move(values).value();
  } else {
    matrix->insert(matrix->end(), values->begin(), values->end());
  }
  return OkStatus();
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
      SWELL_RETURN_IF_ERROR(Named(options.adapter_path, model->MergeAdapter(adapter.value())));
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

  // Anything beyond the known tensors (biases, experts, rope factors) would change the result.
  size_t expected = 2 + 9 * static_cast<size_t>(shape_.layers);
  const bool tied = base.tensors().count("output.weight") == 0;
  if (!tied) ++expected;
  if (base.tensors().size() != expected) {
    return Unknown("the file has " + std::to_string(base.tensors().size()) + " tensors, the LLaMA architecture " +
                   std::to_string(expected));
  }
  SWELL_RETURN_IF_ERROR(Append(base, "token_embd.weight", shape_.vocabulary, shape_.width, &embedding_));
  SWELL_RETURN_IF_ERROR(ReadVector(base, "output_norm.weight", shape_.width, &output_norm_));
  if (!tied) SWELL_RETURN_IF_ERROR(Append(base, "output.weight", shape_.vocabulary, shape_.width, &output_));
  layers_.resize(static_cast<size_t>(shape_.layers));
  std::vector<Status> statuses(layers_.size());
  matmul_.ParallelFor(shape_.layers, [&](int64_t layer) {
    statuses[static_cast<size_t>(layer)] = LoadLayer(base, static_cast<int32_t>(layer));
  });
  for (const Status& status : statuses) SWELL_RETURN_IF_ERROR(status);
  return OkStatus();
}

Status Model::LoadLayer(const Gguf& base, int32_t index) {
  LlamaLayer& layer = layers_[static_cast<size_t>(index)];
  const auto name = [index](const std::string& part) { return LayerName(index, part); };
  const int64_t width = shape_.width;
  SWELL_RETURN_IF_ERROR(ReadVector(base, name("attn_norm"), width, &layer.attention_norm));
  SWELL_RETURN_IF_ERROR(ReadVector(base, name("ffn_norm"), width, &layer.ffn_norm));
  SWELL_RETURN_IF_ERROR(Append(base, name("attn_q"), shape_.query_width(), width, &layer.qkv));
  SWELL_RETURN_IF_ERROR(Append(base, name("attn_k"), shape_.kv_width(), width, &layer.qkv));
  SWELL_RETURN_IF_ERROR(Append(base, name("attn_v"), shape_.kv_width(), width, &layer.qkv));
  SWELL_RETURN_IF_ERROR(Append(base, name("attn_output"), width, shape_.query_width(), &layer.attention_out));
  SWELL_RETURN_IF_ERROR(Append(base, name("ffn_gate"), shape_.ffn_width, width, &layer.gate_up));
  SWELL_RETURN_IF_ERROR(Append(base, name("ffn_up"), shape_.ffn_width, width, &layer.gate_up));
  return Append(base, name("ffn_down"), width, shape_.ffn_width, &layer.down);
}

namespace {

// weights [outputs, inputs] += scale * B A of the tensors name.lora_a [rank, inputs] and name.lora_b [outputs, rank].
// *merged counts the tensors that were used.
Status MergeLowRank(const Gguf& adapter, const std::string& name, double alpha, int64_t outputs, int64_t inputs,
                    float* weights, size_t* merged) {
  const auto found = adapter.tensors().find(name + ".lora_a");
  if (found == adapter.tensors().end()) return OkStatus();
  if (found->second.shape.size() != 2 || found->second.shape[1] > kMaxRank) {
    return Status(StatusCode::kDataLoss, "model: " + found->first + " is not a matrix of low rank");
  }
  const int64_t rank = found->second.shape[1];
  std::vector<float> a;
  std::vector<float> b;
  SWELL_RETURN_IF_ERROR(Append(adapter, name + ".lora_a", rank, inputs, &a));
  SWELL_RETURN_IF_ERROR(Append(adapter, name + ".lora_b", outputs, rank, &b));
  const float scale = static_cast<float>(alpha / static_cast<double>(rank));
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, static_cast<blasint>(outputs), static_cast<blasint>(inputs),
              static_cast<blasint>(rank), scale, b.data(), static_cast<blasint>(rank), a.data(),
              static_cast<blasint>(inputs), 1.0F, weights, static_cast<blasint>(inputs));
  *merged += 2;
  return OkStatus();
}

}  // namespace

Status Model::MergeAdapter(const Gguf& adapter) {
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
  const int64_t width = shape_.width;
  const int64_t queries = shape_.query_width();
  const int64_t kv = shape_.kv_width();
  const int64_t ffn = shape_.ffn_width;
  size_t merged = 0;
  for (int64_t index = 0; index < shape_.layers; ++index) {
    LlamaLayer& layer = layers_[static_cast<size_t>(index)];
    const auto merge = [&](const char* part, int64_t outputs, int64_t inputs, float* weights) {
      return MergeLowRank(adapter, LayerName(index, part), alpha, outputs, inputs, weights, &merged);
    };
    SWELL_RETURN_IF_ERROR(merge("attn_q", queries, width, layer.qkv.data()));
    SWELL_RETURN_IF_ERROR(merge("attn_k", kv, width, layer.qkv.data() + queries * width));
    SWELL_RETURN_IF_ERROR(merge("attn_v", kv, width, layer.qkv.data() + (queries + kv) * width));
    SWELL_RETURN_IF_ERROR(merge("attn_output", width, queries, layer.attention_out.data()));
    SWELL_RETURN_IF_ERROR(merge("ffn_gate", ffn, width, layer.gate_up.data()));
    SWELL_RETURN_IF_ERROR(merge("ffn_up", ffn, width, layer.gate_up.data() + ffn * width));
    SWELL_RETURN_IF_ERROR(merge("ffn_down", width, ffn, layer.down.data()));
  }
  if (merged != adapter.tensors().size()) return Unknown("the adapter has tensors that fit no matrix of the model");
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
  size_t floats = embedding_.size() + output_norm_.size() + output_.size();
  for (const LlamaLayer& layer : layers_) {
    floats += layer.attention_norm.size() + layer.qkv.size() + layer.attention_out.size() + layer.ffn_norm.size() +
              layer.gate_up.size() + layer.down.size();
  }
  return floats * sizeof(float);
}

}  // namespace swell::model
