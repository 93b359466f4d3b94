// The scripted operations whose allocations are refused.
#ifndef SWELL_TESTS_CAPI_NO_MEMORY_OPERATIONS_H_
#define SWELL_TESTS_CAPI_NO_MEMORY_OPERATIONS_H_

#include <vector>

#include "tests/capi/no_memory/world.h"

namespace swell_test {

struct Operation {
  const char* name;
  // The call. It allocates nothing itself.
  swell_code (*run)(World& world, swell_error** error);
  // What is there before it; null: the world as it is made.
  void (*prepare)(World& world) = nullptr;
  // Core operations are run with two refusals as well.
  bool core = false;
  // Whether the call, when it failed, has left its out-handles alone; null: it has none.
  bool (*is_clear)(const World& world) = nullptr;
  int64_t spare_tokens = -1;  // what the byte budget leaves room for; -1: no budget. The operation then exceeds it
  bool is_put_batch = false;  // an item may be put although the call fails
};

const std::vector<Operation>& Operations();

}  // namespace swell_test

#endif  // SWELL_TESTS_CAPI_NO_MEMORY_OPERATIONS_H_
