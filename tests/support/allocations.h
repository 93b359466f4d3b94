// Every allocation of the program through operator new, counted and, on demand, refused. A test program that is built
// with allocations.cc gets these operators, in its own code and in every library it loads.
//
// Not covered, because nothing of Swell calls them: malloc and its family; oneTBB's own tasks and the exception objects
// of the C++ run time come from there.
#ifndef SWELL_TESTS_SUPPORT_ALLOCATIONS_H_
#define SWELL_TESTS_SUPPORT_ALLOCATIONS_H_

#include <cstdint>

namespace swell::testing {

enum class Threads { kAll, kThis, kOthers };

// Which allocations are refused. `first` counts from 0, over the chosen threads; `second` counts from 0 again, from the
// allocation after the first refusal.
struct RefusalPlan {
  int64_t first = -1;       // -1: none
  int64_t second = -1;      // -1: none
  bool ever_after = false;  // all from `first` on
  Threads threads = Threads::kAll;
};

// A plan is in force as long as this lives; one at a time.
class Refusals {
 public:
  explicit Refusals(const RefusalPlan& plan);
  ~Refusals();
  Refusals(const Refusals&) = delete;
  Refusals& operator=(const Refusals&) = delete;
};

// Of the plan in force or the latest one: allocations asked for, and how many were refused.
int64_t AllocationsSeen();
int64_t AllocationsRefused();

// Refusals since the program began, and the different call stacks (innermost twelve frames) among them.
int64_t TotalRefused();
int64_t DistinctStacks();

// What is allocated and not yet freed.
struct LiveMemory {
  int64_t blocks = 0;
  int64_t bytes = 0;
  bool operator==(const LiveMemory&) const = default;
};
LiveMemory Live();

}  // namespace swell::testing

#endif  // SWELL_TESTS_SUPPORT_ALLOCATIONS_H_
