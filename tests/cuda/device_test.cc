// Goal: without a GPU every entry says so clearly and nothing crashes; with one, it is described.
#include "cuda/device/device.h"

#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include "cuda/device/copy_engine.h"
#include "cuda/device/pinned.h"

namespace swell::cuda {
namespace {

TEST(FromCuda, TellsWhatACallerCanActOn) {
  EXPECT_TRUE(FromCuda(cudaSuccess, "f").ok());
  EXPECT_EQ(FromCuda(cudaErrorInsufficientDriver, "f").code(), StatusCode::kUnavailable);
  EXPECT_EQ(FromCuda(cudaErrorNoDevice, "f").code(), StatusCode::kUnavailable);
  EXPECT_EQ(FromCuda(cudaErrorNoKernelImageForDevice, "f").code(), StatusCode::kUnavailable);
  EXPECT_EQ(FromCuda(cudaErrorMemoryAllocation, "f").detail(), StatusDetail::kNoMemory);
  EXPECT_EQ(FromCuda(cudaErrorIllegalAddress, "f").code(), StatusCode::kInternal);
  const std::string message = FromCuda(cudaErrorInsufficientDriver, "cudaGetDeviceCount").message();
  EXPECT_NE(message.find("cudaGetDeviceCount"), std::string::npos) << message;
  EXPECT_NE(message.find("cudaErrorInsufficientDriver, 35"), std::string::npos) << message;
}

TEST(Device, IsDescribedOrSaidToBeMissing) {
  const auto count = DeviceCount();
  if (!count.ok()) {
    EXPECT_EQ(count.status().code(), StatusCode::kUnavailable) << count.status().message();
    EXPECT_EQ(GetDeviceInfo(0).status().code(), StatusCode::kUnavailable);
    EXPECT_EQ(MakeCopyEngine(0).status().code(), StatusCode::kUnavailable);
    EXPECT_EQ(PinnedAllocator()->Allocate(4096), nullptr);
    EXPECT_FALSE(DeviceScope(0).status().ok());
    return;
  }
  for (int32_t device = 0; device < *count; ++device) {
    const auto info = GetDeviceInfo(device);
    ASSERT_TRUE(info.ok()) << info.status().message();
    EXPECT_FALSE(info->name.empty());
    EXPECT_GT(info->compute_major, 0);
    EXPECT_GT(info->multiprocessors, 0);
    EXPECT_GT(info->memory_bytes, uint64_t{1} << 28);
    EXPECT_GT(info->l2_bytes, 0U);
  }
  EXPECT_EQ(GetDeviceInfo(-1).status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(GetDeviceInfo(*count).status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(MakeCopyEngine(*count).status().code(), StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace swell::cuda
