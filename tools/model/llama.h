// A LLaMA model: its shape and its weights, read from GGUF files.
//
// Immutable after Load: any number of sessions may use it, from any thread.
#ifndef SWELL_TOOLS_MODEL_LLAMA_H_
#define SWELL_TOOLS_MODEL_LLAMA_H_

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "swell/engine.h"
#include "swell/status.h"
#include "tools/model/gguf.h"
#include "tools/model/linear.h"
#include "tools/model/matmul.h"
#include "tools/model/tokenizer.h"

namespace swell::model {

struct LlamaShape {
  int32_t layers = 0;
  int32_t width = 0;  // of the hidden state
  int32_t ffn_width = 0;
  int32_t heads = 0;  // query heads
  int32_t kv_heads = 0;
  int32_t head_dim = 0;
  int64_t vocabulary = 0;
  int64_t context_tokens = 0;  // the longest text that the model was trained for
  double rope_base = 0;
  float norm_epsilon = 0;

  int64_t query_width() const { return int64_t{heads} * head_dim; }
  int64_t kv_width() const { return int64_t{kv_heads} * head_dim; }
  int64_t qkv_width() const { return query_width() + 2 * kv_width(); }
};

// Those that read the same input stand together.
struct LlamaLayer {
  std::vector<float> attention_norm;  // [width]
  std::array<Linear, 3> qkv;          // width -> query_width, kv_width, kv_width
  Linear attention_out;               // query_width -> width
  std::vector<float> ffn_norm;        // [width]
  std::array<Linear, 2> gate_up;      // width -> ffn_width each
  Linear down;                        // ffn_width -> width
};

struct ModelOptions {
  std::string base_path;
  std::string adapter_path;  // LoRA adapter in llama.cpp's layout; empty: none
  int32_t threads = 0;       // of the matrix products; 0: all that this process may use
};

class Model {
 public:
  // Weights stay in the file's precision (matrix.h). With an adapter, W + (alpha / rank) B A stands in for W, and its
  // rope base and context length replace the base model's where it has them. Errors name the file and what is wrong
  // with it. Sets OpenBLAS to one thread for the whole process: products are cut into tasks of the arena instead.
  static Result<std::unique_ptr<Model>> Load(const ModelOptions& options);

  const LlamaShape& shape() const { return shape_; }
  // What an engine for this model must be opened with.
  ModelShape EngineShape(DType storage) const;
  const Tokenizer& tokenizer() const { return *tokenizer_; }
  // The file's tokenizer.chat_template, for ChatTemplate; empty when it has none.
  const std::string& chat_template() const { return chat_template_; }
  uint64_t weight_bytes() const;

  const std::vector<LlamaLayer>& layers() const { return layers_; }
  const Matrix& embedding() const { return embedding_.weights; }          // [vocabulary, width]
  const std::vector<float>& output_norm() const { return output_norm_; }  // [width]
  // width -> vocabulary, one layer: the embedding where the file ties them.
  std::span<const Linear> output() const { return {output_.outputs() == 0 ? &embedding_ : &output_, 1}; }
  const MatMul& matmul() const { return matmul_; }

 private:
  explicit Model(int32_t threads) : matmul_(threads) {}

  Status LoadBase(const Gguf& base);
  Status LoadLayer(const Gguf& base, int32_t layer);
  Status LoadAdapter(const Gguf& adapter);

  LlamaShape shape_;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::string chat_template_;
  std::vector<LlamaLayer> layers_;
  Linear embedding_;
  std::vector<float> output_norm_;
  Linear output_;
  MatMul matmul_;
};

}  // namespace swell::model

#endif  // SWELL_TOOLS_MODEL_LLAMA_H_
