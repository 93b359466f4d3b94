// Timing of work on a CUDA stream. A failed CUDA call ends the benchmark: its figures would mean nothing.
#ifndef SWELL_BENCH_GPU_TIMING_H_
#define SWELL_BENCH_GPU_TIMING_H_

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "swell/status.h"

namespace swell::bench {

inline void Check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(error));
  std::exit(1);
}

inline void Check(const Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "%s\n", status.message().c_str());
  std::exit(1);
}

inline double Median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
  return values[values.size() / 2];
}

// Median us of `repeats` runs of enqueue(stream) as a CUDA graph after `warm_up` others; before each,
// prepare(i) is called, i from -warm_up on.
template <typename Enqueue, typename Prepare>
double TimeGraph(const Enqueue& enqueue, const Prepare& prepare, int warm_up, int repeats = 15) {
  cudaStream_t stream;
  cudaGraph_t graph;
  cudaGraphExec_t runnable;
  cudaEvent_t begin, end;
  Check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreate");
  Check(cudaEventCreate(&begin), "cudaEventCreate");
  Check(cudaEventCreate(&end), "cudaEventCreate");
  Check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
  enqueue(stream);
  Check(cudaStreamEndCapture(stream, &graph), "cudaStreamEndCapture");
  Check(cudaGraphInstantiate(&runnable, graph, 0), "cudaGraphInstantiate");
  std::vector<double> times;
  for (int i = -warm_up; i < repeats; ++i) {
    prepare(i);
    Check(cudaEventRecord(begin, stream), "cudaEventRecord");
    Check(cudaGraphLaunch(runnable, stream), "cudaGraphLaunch");
    Check(cudaEventRecord(end, stream), "cudaEventRecord");
    Check(cudaEventSynchronize(end), "cudaEventSynchronize");
    float milliseconds = 0;
    Check(cudaEventElapsedTime(&milliseconds, begin, end), "cudaEventElapsedTime");
    if (i >= 0) times.push_back(1000.0 * milliseconds);
  }
  cudaGraphExecDestroy(runnable);
  cudaGraphDestroy(graph);
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  cudaStreamDestroy(stream);
  return Median(times);
}

template <typename Enqueue>
double TimeGraph(const Enqueue& enqueue) {
  return TimeGraph(
      enqueue, [](int) {}, 3);
}

}  // namespace swell::bench

#endif  // SWELL_BENCH_GPU_TIMING_H_
