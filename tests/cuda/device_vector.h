// An array in device memory, for tests.
#ifndef SWELL_TESTS_CUDA_DEVICE_VECTOR_H_
#define SWELL_TESTS_CUDA_DEVICE_VECTOR_H_

#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <vector>

namespace swell::cuda {

// Device memory that holds `host`, and gives it back.
template <typename T>
class DeviceVector {
 public:
  explicit DeviceVector(const std::vector<T>& host) : size_(host.size()) {
    EXPECT_EQ(cudaMalloc(reinterpret_cast<void**>(&data_), size_ * sizeof(T) + 16), cudaSuccess);
    Set(host);
  }
  ~DeviceVector() { cudaFree(data_); }
  DeviceVector(const DeviceVector&) = delete;
  DeviceVector& operator=(const DeviceVector&) = delete;
  // The first elements; the others stay. Returns when they are there for every stream.
  void Set(const std::vector<T>& host) {
    EXPECT_LE(host.size(), size_);
    EXPECT_EQ(cudaMemcpy(data_, host.data(), host.size() * sizeof(T), cudaMemcpyHostToDevice), cudaSuccess);
    EXPECT_EQ(cudaStreamSynchronize(nullptr), cudaSuccess);
  }
  std::vector<T> Get() const { return ReadDevice(data_, size_); }
  T* data() { return data_; }

  static std::vector<T> ReadDevice(const T* from, size_t count) {
    std::vector<T> host(count);
    EXPECT_EQ(cudaMemcpy(host.data(), from, count * sizeof(T), cudaMemcpyDefault), cudaSuccess);
    return host;
  }

 private:
  T* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace swell::cuda

#endif  // SWELL_TESTS_CUDA_DEVICE_VECTOR_H_
