// Goal: on a machine without a GPU, or with a library without CUDA, every function of swell/gpu.h says what is wrong
// and nothing else happens; with one, what is refused before the device is asked is refused the same.
#include "swell/gpu.h"

#include <gtest/gtest.h>

#include "tests/capi/fixture.h"

namespace swell_test {
namespace {

swell_gpu_options Options() {
  swell_gpu_options options = SWELL_GPU_OPTIONS_INIT;
  options.layers = 2;
  options.kv_heads = 2;
  options.group = 3;
  options.head_dim = 64;
  return options;
}

TEST(GpuTest, OpensOrSaysWhyNot) {
  const swell_gpu_options options = Options();
  swell_gpu* gpu = reinterpret_cast<swell_gpu*>(16);
  Error error;
  const swell_code code = swell_gpu_open(&options, &gpu, error.address());
  if (code == SWELL_OK) {
    ASSERT_NE(gpu, nullptr);
    swell_gpu_close(&gpu);
  } else {
    EXPECT_TRUE(code == SWELL_UNAVAILABLE || code == SWELL_UNIMPLEMENTED) << code;
    EXPECT_NE(error.message().find("CUDA"), std::string::npos) << error.message();
  }
  EXPECT_EQ(gpu, nullptr);
  swell_gpu_close(&gpu);
  swell_gpu_close(nullptr);
}

TEST(GpuTest, OptionsAreCheckedBeforeTheDevice) {
  swell_gpu* gpu = nullptr;
  const auto open = [&](const swell_gpu_options& options) {
    const swell_code code = swell_gpu_open(&options, &gpu, nullptr);
    EXPECT_EQ(gpu, nullptr);
    return code;
  };
  Error error;
  EXPECT_EQ(swell_gpu_open(nullptr, &gpu, error.address()), SWELL_INVALID_ARGUMENT);
  EXPECT_EQ(swell_error_detail(error.get()), SWELL_DETAIL_NULL_POINTER);
  swell_gpu_options options = Options();
  EXPECT_EQ(swell_gpu_open(&options, nullptr, nullptr), SWELL_INVALID_ARGUMENT);
  options.struct_size = 8;
  EXPECT_EQ(open(options), SWELL_INVALID_ARGUMENT);
  options = Options();
  options.storage = 77;
  EXPECT_EQ(open(options), SWELL_INVALID_ARGUMENT);
  options = Options();
  options.flags = 1;
  EXPECT_EQ(open(options), SWELL_INVALID_ARGUMENT);
}

TEST(GpuTest, EveryFunctionRefusesNull) {
  Error error;
  const auto refused = [&](swell_code code) {
    return code == SWELL_INVALID_ARGUMENT && swell_error_detail(error.get()) == SWELL_DETAIL_NULL_POINTER;
  };
  swell_sequence sequence = 7;
  int64_t tokens = 7;
  swell_gpu_stats stats = SWELL_GPU_STATS_INIT;
  const swell_gpu_put_args put = SWELL_GPU_PUT_ARGS_INIT;
  const swell_gpu_batch_options options = SWELL_GPU_BATCH_OPTIONS_INIT;
  auto* batch = reinterpret_cast<swell_gpu_batch*>(16);
  EXPECT_TRUE(refused(swell_gpu_get_stats(nullptr, &stats, error.address())));
  EXPECT_TRUE(refused(swell_gpu_sequence_create(nullptr, &sequence, error.address())));
  EXPECT_EQ(sequence, 0U);
  EXPECT_TRUE(refused(swell_gpu_sequence_fork(nullptr, 1, nullptr, &sequence, error.address())));
  EXPECT_TRUE(refused(swell_gpu_sequence_truncate(nullptr, 1, 0, nullptr, error.address())));
  EXPECT_TRUE(refused(swell_gpu_sequence_release(nullptr, 1, error.address())));
  EXPECT_TRUE(refused(swell_gpu_sequence_length(nullptr, 1, 0, nullptr, &tokens, error.address())));
  EXPECT_EQ(tokens, 0);
  EXPECT_TRUE(refused(swell_gpu_put(nullptr, &put, nullptr, nullptr, nullptr, error.address())));
  EXPECT_TRUE(refused(swell_gpu_seal(nullptr, nullptr, error.address())));
  EXPECT_TRUE(refused(swell_gpu_batch_create(nullptr, &options, nullptr, &batch, error.address())));
  EXPECT_EQ(batch, nullptr);
  EXPECT_TRUE(refused(swell_gpu_batch_set(nullptr, nullptr, 0, nullptr, error.address())));
  EXPECT_TRUE(refused(swell_gpu_append(nullptr, 0, nullptr, nullptr, nullptr, error.address())));
  EXPECT_TRUE(refused(swell_gpu_attend(nullptr, 0, nullptr, nullptr, nullptr, nullptr, nullptr, error.address())));
  swell_gpu_batch_destroy(&batch);
  swell_gpu_batch_destroy(nullptr);
}

}  // namespace
}  // namespace swell_test
