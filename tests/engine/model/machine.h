// Makes random calls on many sequences of an engine and compares every answer with plain vectors.
#ifndef SWELL_TESTS_ENGINE_MODEL_MACHINE_H_
#define SWELL_TESTS_ENGINE_MODEL_MACHINE_H_

#include <random>
#include <vector>

#include "tests/engine/model/reference.h"

namespace swell::testing {

// One thread. Several machines may share an engine; each knows its own sequences only.
class Machine {
 public:
  // `prefix` may be null: a sequence of the same engine that nobody changes; this machine forks it now and then.
  Machine(uint64_t seed, Engine& engine, const Model* prefix);

  // One call and its check; failures are GoogleTest's.
  void Step();
  // Compares everything and releases every sequence.
  void Finish();
  int64_t refused() const { return refused_; }

 private:
  void Create();
  void ForkPrefix();
  void Fork(const Model& model);
  void Append(Model& model);
  void AppendBatch();
  void Truncate(Model& model);
  void Release(size_t at);
  void MisuseIds();
  void Misplace(const Model& model);
  void Check(const Model& model);
  void CheckBatch();

  // The parts of Check.
  void CheckRows(const Model& model, int32_t layer);
  void CheckAttention(const Model& model, int32_t layer);
  void CheckSearch(const Model& model, int32_t layer);
  void CheckLengths(const Model& model);

  // Fills an item and the rows that it points to.
  struct Batch {
    Rows fresh;
    CallerRows keys, values;
    PutItem item;
  };
  Batch MakeBatch(const Model& model, int32_t layer, int64_t tokens);
  // Takes over what was put, or sees that nothing was.
  void Settle(Model& model, int32_t layer, const Batch& batch, const Status& status);
  int32_t AnyLayer() { return static_cast<int32_t>(random_() % static_cast<uint64_t>(shape_.layers)); }
  int64_t AnyTokens();

  std::mt19937_64 random_;
  Engine& engine_;
  const ModelShape& shape_;
  const Model* prefix_;
  const int64_t width_;  // elements of a token
  std::vector<Model> models_;
  std::vector<SequenceId> released_;
  int64_t refused_ = 0;  // calls that the byte budget did not allow
};

}  // namespace swell::testing

#endif  // SWELL_TESTS_ENGINE_MODEL_MACHINE_H_
