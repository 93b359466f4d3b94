// A LLaMA model of two layers with random weights, as a GGUF file and as a plain float64 forward pass.
#ifndef SWELL_TESTS_MODEL_SMALL_MODEL_H_
#define SWELL_TESTS_MODEL_SMALL_MODEL_H_

#include <cmath>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "tests/model/gguf_writer.h"
#include "tools/model/tokenizer.h"
#include "tools/model/utf8.h"

namespace swell::model {

struct SmallModel {
  static constexpr int64_t kLayers = 2, kWidth = 40, kFfn = 56, kHeads = 4, kKvHeads = 2, kHeadDim = 16;
  static constexpr int64_t kVocabulary = 257, kContext = 1200, kRank = 3;
  static constexpr double kRopeBase = 1000, kAdapterRopeBase = 50000, kAlpha = 6;

  using Matrix = std::vector<float>;  // [outputs, inputs]
  std::map<std::string, Matrix> tensors;
  std::map<std::string, std::vector<int64_t>> shapes;  // the file's order: inputs first
  double rope_base = kRopeBase;

  explicit SmallModel(uint32_t seed) : random_(seed) {
    Add("token_embd.weight", {kWidth, kVocabulary}, 1);
    Add("output_norm.weight", {kWidth}, 1);
    for (int64_t layer = 0; layer < kLayers; ++layer) {
      const std::string prefix = "blk." + std::to_string(layer) + ".";
      Add(prefix + "attn_norm.weight", {kWidth}, 1);
      Add(prefix + "ffn_norm.weight", {kWidth}, 1);
      Add(prefix + "attn_q.weight", {kWidth, kHeads * kHeadDim}, 0.3F);
      Add(prefix + "attn_k.weight", {kWidth, kKvHeads * kHeadDim}, 0.3F);
      Add(prefix + "attn_v.weight", {kWidth, kKvHeads * kHeadDim}, 0.3F);
      Add(prefix + "attn_output.weight", {kHeads * kHeadDim, kWidth}, 0.3F);
      Add(prefix + "ffn_gate.weight", {kWidth, kFfn}, 0.3F);
      Add(prefix + "ffn_up.weight", {kWidth, kFfn}, 0.3F);
      Add(prefix + "ffn_down.weight", {kFfn, kWidth}, 0.3F);
    }
  }

  // The metadata alone; Base() adds the tensors.
  static GgufWriter Metadata() {
    GgufWriter writer;
    const auto integer = [&](const char* key, int64_t value) {
      writer.Key<uint32_t>(key, GgufWriter::kUint32, static_cast<uint32_t>(value));
    };
    writer.Key("general.architecture", std::string("llama"));
    integer("llama.block_count", kLayers);
    integer("llama.embedding_length", kWidth);
    integer("llama.feed_forward_length", kFfn);
    integer("llama.attention.head_count", kHeads);
    integer("llama.attention.head_count_kv", kKvHeads);
    integer("llama.attention.key_length", kHeadDim);
    integer("llama.context_length", kContext);
    writer.Key<float>("llama.attention.layer_norm_rms_epsilon", GgufWriter::kFloat32, 1e-5F);
    writer.Key<float>("llama.rope.freq_base", GgufWriter::kFloat32, kRopeBase);
    std::vector<std::string> tokens;
    uint32_t next = 256;
    for (uint32_t byte = 0; byte < 256; ++byte) {
      const bool printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
      tokens.push_back(EncodeUtf8(printable ? byte : next++));
    }
    tokens.push_back("th");
    writer.Key("tokenizer.ggml.model", std::string("gpt2")).Key("tokenizer.ggml.pre", std::string("smollm"));
    writer.Key("tokenizer.ggml.tokens", tokens).Key("tokenizer.ggml.merges", std::vector<std::string>{"t h"});
    return writer;
  }

  std::vector<std::byte> Base() const {
    GgufWriter writer = Metadata();
    for (const auto& [name, values] : tensors) writer.Floats(name, shapes.at(name), values);
    return writer.File();
  }

  // An adapter on the named matrices, and this model with it merged.
  std::vector<std::byte> MakeAdapter(const std::vector<std::string>& names) {
    GgufWriter writer;
    writer.Key("general.architecture", std::string("llama")).Key("general.type", std::string("adapter"));
    writer.Key("adapter.type", std::string("lora")).Key<float>("adapter.lora.alpha", GgufWriter::kFloat32, kAlpha);
    writer.Key<float>("llama.rope.freq_base", GgufWriter::kFloat32, kAdapterRopeBase);
    writer.Key<uint32_t>("llama.context_length", GgufWriter::kUint32, 2 * kContext);
    rope_base = kAdapterRopeBase;
    for (const std::string& name : names) {
      const int64_t inputs = shapes.at(name)[0];
      const int64_t outputs = shapes.at(name)[1];
      const Matrix a = Random(kRank * inputs, 0.2F);
      const Matrix b = Random(outputs * kRank, 0.2F);
      writer.Floats(name + ".lora_a", {inputs, kRank}, a).Floats(name + ".lora_b", {kRank, outputs}, b);
      Matrix& w = tensors.at(name);
      for (int64_t o = 0; o < outputs; ++o) {
        for (int64_t i = 0; i < inputs; ++i) {
          double sum = 0;
          for (int64_t r = 0; r < kRank; ++r) sum += double{b[o * kRank + r]} * a[r * inputs + i];
          w[o * inputs + i] += static_cast<float>(kAlpha / kRank * sum);
        }
      }
    }
    return writer.File();
  }

  // Logits after every token: [tokens][kVocabulary].
  std::vector<std::vector<double>> Logits(const std::vector<TokenId>& ids) const {
    using Rows = std::vector<std::vector<double>>;
    Rows states;
    for (const TokenId id : ids) {
      const float* from = tensors.at("token_embd.weight").data() + id * kWidth;
      states.emplace_back(from, from + kWidth);
    }
    for (int64_t layer = 0; layer < kLayers; ++layer) {
      const std::string prefix = "blk." + std::to_string(layer) + ".";
      Rows queries, keys, values;
      for (size_t t = 0; t < ids.size(); ++t) {
        const std::vector<double> h = Normalised(states[t], prefix + "attn_norm.weight");
        queries.push_back(Rotated(Product(prefix + "attn_q.weight", h), t));
        keys.push_back(Rotated(Product(prefix + "attn_k.weight", h), t));
        values.push_back(Product(prefix + "attn_v.weight", h));
      }
      for (size_t t = 0; t < ids.size(); ++t) {
        Accumulate(Product(prefix + "attn_output.weight", Attention(queries[t], keys, values, t)), &states[t]);
        const std::vector<double> h = Normalised(states[t], prefix + "ffn_norm.weight");
        std::vector<double> gate = Product(prefix + "ffn_gate.weight", h);
        const std::vector<double> up = Product(prefix + "ffn_up.weight", h);
        for (size_t i = 0; i < gate.size(); ++i) gate[i] = gate[i] / (1 + std::exp(-gate[i])) * up[i];
        Accumulate(Product(prefix + "ffn_down.weight", gate), &states[t]);
      }
    }
    for (std::vector<double>& state : states) {
      state = Product("token_embd.weight", Normalised(state, "output_norm.weight"));
    }
    return states;
  }

 private:
  Matrix Random(int64_t count, float spread) {
    std::normal_distribution<float> normal(0, spread);
    Matrix values(static_cast<size_t>(count));
    for (float& value : values) value = normal(random_);
    return values;
  }
  void Add(const std::string& name, const std::vector<int64_t>& shape, float spread) {
    int64_t count = 1;
    for (const int64_t size : shape) count *= size;
    tensors[name] = Random(count, spread);
    shapes[name] = shape;
  }
  std::vector<double> Normalised(const std::vector<double>& x, const std::string& weight) const {
    double squares = 0;
    for (const double value : x) squares += value * value;
    std::vector<double> out(x.size());
    for (size_t i = 0; i < x.size(); ++i) {
      out[i] = x[i] / std::sqrt(squares / static_cast<double>(x.size()) + 1e-5) * tensors.at(weight)[i];
    }
    return out;
  }
  std::vector<double> Product(const std::string& name, const std::vector<double>& x) const {
    const Matrix& w = tensors.at(name);
    std::vector<double> out(w.size() / x.size());
    for (size_t o = 0; o < out.size(); ++o) {
      for (size_t i = 0; i < x.size(); ++i) out[o] += w[o * x.size() + i] * x[i];
    }
    return out;
  }
  std::vector<double> Rotated(std::vector<double> x, size_t position) const {
    for (size_t i = 0; i < x.size(); i += 2) {
      const double angle = static_cast<double>(position) *
                           std::pow(rope_base, -static_cast<double>(i % kHeadDim) / static_cast<double>(kHeadDim));
      const double first = x[i];
      x[i] = first * std::cos(angle) - x[i + 1] * std::sin(angle);
      x[i + 1] = first * std::sin(angle) + x[i + 1] * std::cos(angle);
    }
    return x;
  }
  static std::vector<double> Attention(const std::vector<double>& query, const std::vector<std::vector<double>>& keys,
                                       const std::vector<std::vector<double>>& values, size_t last) {
    std::vector<double> out(query.size());
    for (size_t head = 0; head < kHeads; ++head) {
      const size_t from = head / (kHeads / kKvHeads) * kHeadDim;
      double sum = 0;
      for (size_t t = 0; t <= last; ++t) {
        double logit = 0;
        for (size_t d = 0; d < kHeadDim; ++d) logit += query[head * kHeadDim + d] * keys[t][from + d];
        const double weight = std::exp(logit / std::sqrt(static_cast<double>(kHeadDim)));
        sum += weight;
        for (size_t d = 0; d < kHeadDim; ++d) out[head * kHeadDim + d] += weight * values[t][from + d];
      }
      for (size_t d = 0; d < kHeadDim; ++d) out[head * kHeadDim + d] /= sum;
    }
    return out;
  }
  static void Accumulate(const std::vector<double>& from, std::vector<double>* to) {
    for (size_t i = 0; i < to->size(); ++i) (*to)[i] += from[i];
  }

  std::mt19937 random_;
};

}  // namespace swell::model

#endif  // SWELL_TESTS_MODEL_SMALL_MODEL_H_
