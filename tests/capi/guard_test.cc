// Goal: whatever C++ throws becomes a code and an error object. Method: throw it inside the guard.
#include "capi/src/guard.h"

#include <gtest/gtest.h>

namespace swell::capi {
namespace {

TEST(GuardTest, StatusBecomesAnError) {
  swell_error* error = nullptr;
  EXPECT_EQ(Guard(&error, [] { return Outcome(InvalidArgument("thing is odd", StatusDetail::kBadSize), 3); }),
            SWELL_INVALID_ARGUMENT);
  EXPECT_EQ(swell_error_code(error), SWELL_INVALID_ARGUMENT);
  EXPECT_EQ(swell_error_detail(error), SWELL_DETAIL_BAD_SIZE);
  EXPECT_EQ(swell_error_item(error), 3);
  EXPECT_STREQ(swell_error_message(error), "thing is odd");
  swell_error_destroy(&error);
}

TEST(GuardTest, ExceptionsBecomeErrors) {
  swell_error* error = nullptr;
  EXPECT_EQ(Guard(&error, []() -> Status { throw std::runtime_error("boom"); }), SWELL_INTERNAL);
  EXPECT_NE(std::string(swell_error_message(error)).find("boom"), std::string::npos);
  swell_error_destroy(&error);
  EXPECT_EQ(Guard(&error, []() -> Status { throw 42; }), SWELL_INTERNAL);
  swell_error_destroy(&error);
  EXPECT_EQ(Guard(nullptr, []() -> Status { throw 42; }), SWELL_INTERNAL);
}

TEST(GuardTest, NoMemoryNeedsNoMemory) {
  swell_error* error = nullptr;
  EXPECT_EQ(Guard(&error, []() -> Status { throw std::bad_alloc(); }), SWELL_RESOURCE_EXHAUSTED);
  EXPECT_EQ(swell_error_detail(error), SWELL_DETAIL_NO_MEMORY);
  const swell_error* first = error;
  swell_error_destroy(&error);
  EXPECT_EQ(error, nullptr);
  EXPECT_EQ(Guard(&error, []() -> Status { throw std::length_error("too long"); }), SWELL_RESOURCE_EXHAUSTED);
  EXPECT_EQ(error, first) << "the one static error object";
  EXPECT_STREQ(swell_error_message(error), "out of memory");
  swell_error_destroy(&error);
}

}  // namespace
}  // namespace swell::capi
