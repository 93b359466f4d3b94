// One text in progress: a sequence of the engine and the model's state at its end.
//
// A session belongs to one thread at a time; sessions of one model and one engine may run on different threads. It owns
// its sequence and releases it when destroyed; model and engine must outlive it.
#ifndef SWELL_TOOLS_MODEL_SESSION_H_
#define SWELL_TOOLS_MODEL_SESSION_H_

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "swell/engine.h"
#include "swell/status.h"
#include "tools/model/llama.h"

namespace swell::model {

class ForwardPass;
struct ForwardItem;

// Where time went and what attention read. Sums over all calls of a session and those it was forked from.
struct Counters {
  double matmul_seconds = 0;
  double put_seconds = 0;
  double attend_seconds = 0;
  double other_seconds = 0;  // norms, rope, activation
  int64_t tokens = 0;        // put through the model
  int64_t head_steps = 0;    // query positions x layers x KV heads; the sums below run over them
  int64_t tokens_visible = 0;
  int64_t tokens_read = 0;
  int64_t bytes_read = 0;  // keys, values and meta index
};

class Session {
 public:
  // Tokens of one step through the model while a text is read.
  static constexpr int64_t kChunkTokens = 512;

  // kInvalidArgument when the engine's shape is not the model's.
  static Result<Session> Create(const Model& model, Engine& engine, const SequenceOptions& options);
  ~Session();
  Session(Session&& other) noexcept;
  Session& operator=(Session&& other) noexcept;

  // Called with the tokens of this call that are done; false ends the call with kCancelled.
  using Progress = std::function<bool(int64_t tokens)>;

  // Reads `ids` in chunks of kChunkTokens. After an error or a cancellation the session holds the chunks before it.
  // kOutOfRange when the text would be longer than the model's context: then nothing is read.
  Status Prefill(std::span<const TokenId> ids, AttendMode mode, const Progress& progress = {});
  // Reads one token; logits() are then those of the next.
  Status Decode(TokenId id, AttendMode mode);
  // Reads `ids` and gives -log p(id | everything before it), in nats, for each: [ids]. The session must not be empty.
  // `single_steps`: token by token as while generating, otherwise in chunks.
  Result<std::vector<float>> Score(std::span<const TokenId> ids, AttendMode mode, bool single_steps = false);
  // One token of each of several sessions of one model and one engine, as one batch. statuses [sessions], one each; a
  // session that failed is as before. Returns the first status that is not ok.
  static Status DecodeBatch(std::span<Session* const> sessions, std::span<const TokenId> ids, AttendMode mode,
                            std::span<Status> statuses);

  // [vocabulary]: logits of the token after the last one; empty when nothing was read since Create or Truncate.
  std::span<const float> logits() const { return logits_; }

  // Shares what was read so far.
  Result<Session> Fork() const;
  // Keeps the first `tokens`; 0 .. length().
  Status Truncate(int64_t tokens);

  int64_t length() const { return length_; }
  SequenceId sequence() const { return sequence_; }
  const Model& model() const { return *model_; }
  Engine& engine() const { return *engine_; }
  const Counters& counters() const { return counters_; }
  void ResetCounters() { counters_ = {}; }

 private:
  friend class ForwardPass;

  Session(const Model& model, Engine& engine, SequenceId sequence);
  Status CheckTokens(std::span<const TokenId> ids) const;
  // One step; nll [ids] may be null.
  Status Step(std::span<const TokenId> ids, AttendMode mode, float* nll);
  void TakeLogits(std::span<const TokenId> ids, float* nll, ForwardPass* pass);
  static void StepBatch(std::span<const ForwardItem> items, AttendMode mode, std::span<const size_t> origins,
                        std::span<Status> statuses);

  const Model* model_;
  Engine* engine_;
  SequenceId sequence_;
  int64_t length_ = 0;
  std::vector<float> logits_;
  Counters counters_;
};

}  // namespace swell::model

#endif  // SWELL_TOOLS_MODEL_SESSION_H_
