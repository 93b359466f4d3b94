// One pass of token rows through the model's layers.
#ifndef SWELL_TOOLS_MODEL_FORWARD_H_
#define SWELL_TOOLS_MODEL_FORWARD_H_

#include <cstdint>
#include <span>
#include <vector>

#include "tools/model/session.h"

namespace swell::model {

// Tokens that follow each other in one session; nothing about the session is changed except its counters.
struct ForwardItem {
  Session* session = nullptr;
  std::span<const TokenId> ids;
};

// Rows of all items are stacked, so that every weight is read once for the batch. An item whose Put or Attend fails
// keeps its status, and its rows go on with zeros; the caller truncates its sequence.
class ForwardPass {
 public:
  ForwardPass(std::span<const ForwardItem> items, AttendMode mode);

  // Puts the keys and values of every layer and leaves the hidden states after the last layer. statuses [items].
  void Run(std::span<Status> statuses);
  // Normalised hidden state of row r: [width].
  const float* Hidden(int64_t row);

 private:
  struct Times {
    double matmul = 0;
    double put = 0;
    double attend = 0;
  };

  void BuildRotations();
  void RunLayer(int32_t index, std::span<Status> statuses);
  void Rotate();
  void PutRows(int32_t index, std::span<Status> statuses);
  void AttendRows(int32_t index, std::span<Status> statuses);
  void Count(size_t item);
  void FeedForward(const LlamaLayer& layer);
  void Normalise(const std::vector<float>& weight);
  void AddBranch();

  const Model& model_;
  const LlamaShape& shape_;
  Engine& engine_;
  std::span<const ForwardItem> items_;
  AttendMode mode_;
  int64_t rows_ = 0;
  std::vector<int64_t> first_row_;         // [items]
  std::vector<float> state_;               // [rows, width]
  std::vector<float> normalised_;          // [rows, width]
  std::vector<float> qkv_;                 // [rows, qkv_width]
  std::vector<float> queries_;             // [rows, query_width]
  std::vector<float> attended_;            // [rows, query_width]
  std::vector<float> branch_;              // [rows, width]
  std::vector<float> gate_up_;             // [rows, 2 * ffn_width]
  std::vector<float> activation_;          // [rows, ffn_width]
  std::vector<float> cosines_;             // [rows, head_dim / 2]
  std::vector<float> sines_;               // [rows, head_dim / 2]
  std::vector<Certificate> certificates_;  // [rows, heads]
  Times times_;
};

}  // namespace swell::model

#endif  // SWELL_TOOLS_MODEL_FORWARD_H_
