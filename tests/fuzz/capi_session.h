// One input of the C API's fuzz target: a sequence of calls, valid and not, beside a model of what every sequence must
// hold.
#ifndef SWELL_TESTS_FUZZ_CAPI_SESSION_H_
#define SWELL_TESTS_FUZZ_CAPI_SESSION_H_

#include <array>
#include <vector>

#include "tests/fuzz/capi_state.h"
#include "tests/fuzz/fuzz.h"

namespace swell_fuzz {

// What is to come of a call or of one item of it.
enum class Outlook { kAccept, kRefuse, kEither };

class Session {
 public:
  explicit Session(Bytes bytes);
  void Run();

 private:
  void One();

  // Codes and error objects agree; refusals are explained. Only a budget may refuse a valid call. Destroys *error.
  void Expect(Outlook outlook, swell_code code, swell_error** error);
  // The same for a batch: item by item, and a call refused as a whole writes no statuses.
  void ExpectBatch(Outlook call, const std::vector<Outlook>& items, swell_code code, swell_error** error);
  // A slot and its id; now and then an id that no sequence has.
  Model& Pick(swell_sequence* id);
  Model* FreeSlot();

  // Each reads its arguments from the input, calls, and compares with the model.
  void Create();
  void Fork();
  void Truncate();
  void Release();
  void ReadMetrics();
  void Inspect();
  void MakeRetrieval();
  void Open();
  void Settings();
  void Put();
  void Attend();
  void Search();
  void Fetch();

  Bytes bytes_;
  swell_dtype storage_ = SWELL_FLOAT32;
  bool budget_ = false;
  swell_engine* engine_ = nullptr;
  swell_retrieval* retrieval_ = nullptr;
  std::array<Model, 4> slots_;
  Model nobody_;
  std::vector<swell_status> statuses_;  // of the batch under way
};

}  // namespace swell_fuzz

#endif  // SWELL_TESTS_FUZZ_CAPI_SESSION_H_
