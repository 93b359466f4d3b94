// Runs a test body once with every SIMD target that this machine can run.
#ifndef SWELL_TESTS_SUPPORT_EACH_TARGET_H_
#define SWELL_TESTS_SUPPORT_EACH_TARGET_H_

#include <gtest/gtest.h>

#include <cstdint>

#include "lib/base/simd_targets.h"

// Highway reads the targets above when it is included.
#include <hwy/highway.h>

namespace swell {

template <typename Body>
void ForEachTarget(const Body& body) {
  int targets = 0;
  for (int64_t left = hwy::SupportedTargets() & HWY_TARGETS; left != 0; left &= left - 1) {
    const int64_t target = left & -left;
    SCOPED_TRACE(hwy::TargetName(target));
    hwy::SetSupportedTargetsForTest(target);
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
    body(target);
    ++targets;
    hwy::SetSupportedTargetsForTest(0);
  }
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
  EXPECT_GT(targets, 0);
}

}  // namespace swell

#endif  // SWELL_TESTS_SUPPORT_EACH_TARGET_H_
