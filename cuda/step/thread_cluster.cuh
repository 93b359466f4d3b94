// Thread-block clusters: the CTAs that share a head, and one another's shared memory. Below sm_90 there are none, and a
// "cluster" is one CTA.
#ifndef SWELL_CUDA_STEP_THREAD_CLUSTER_CUH_
#define SWELL_CUDA_STEP_THREAD_CLUSTER_CUH_

#include <cstdint>

namespace swell::cuda {

__device__ __forceinline__ int ClusterRank() {
#if __CUDA_ARCH__ >= 900
  int rank;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
#else
  return 0;
#endif
}

__device__ __forceinline__ int ClusterSize() {
#if __CUDA_ARCH__ >= 900
  int size;
  asm("mov.u32 %0, %%cluster_nctarank;" : "=r"(size));
  return size;
#else
  return 1;
#endif
}

// The two halves of a barrier of all threads of the cluster; what was written before the first is seen after the
// second.
__device__ __forceinline__ void ClusterArrive() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
#else
  __syncthreads();
#endif
}
__device__ __forceinline__ void ClusterWait() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
#endif
}
__device__ __forceinline__ void ClusterSync() {
  ClusterArrive();
  ClusterWait();
}

// Where CTA `rank` keeps what this CTA keeps at `own`, an address in shared memory. A CTA that has not been met at a
// barrier may not have started; one that reads another's memory must meet it again before that one ends.
template <typename T>
__device__ __forceinline__ T* RemoteShared(T* own, int rank) {
#if __CUDA_ARCH__ >= 900
  uint64_t address;
  asm("mapa.u64 %0, %1, %2;" : "=l"(address) : "l"(reinterpret_cast<uint64_t>(own)), "r"(rank));
  return reinterpret_cast<T*>(address);
#else
  return own;
#endif
}

}  // namespace swell::cuda

#endif  // SWELL_CUDA_STEP_THREAD_CLUSTER_CUH_
