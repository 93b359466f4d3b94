// Vectorised float32 loops of the forward pass, dispatched at run time to the best SIMD target of the machine.
//
// Reentrant, no allocation; pointers need element alignment only, and an output may be the input of the same index.
#ifndef SWELL_TOOLS_MODEL_KERNELS_H_
#define SWELL_TOOLS_MODEL_KERNELS_H_

#include <cstdint>

namespace swell::model {

// out[i] = x[i] / sqrt(mean(x^2) + epsilon) * weight[i]
void RmsNorm(const float* x, const float* weight, int64_t count, float epsilon, float* out);

// out[i] = gate[i] / (1 + exp(-gate[i])) * up[i]
void GatedSilu(const float* gate, const float* up, int64_t count, float* out);

// to[i] += from[i]
void AddTo(const float* from, int64_t count, float* to);

// Rotates the pair (x[2i], x[2i + 1]) by the angle whose cosine and sine are cosines[i] and sines[i], into `out`.
void RotatePairs(const float* x, const float* cosines, const float* sines, int64_t pairs, float* out);

// log(sum exp(x[i])); count >= 1.
double LogSumExp(const float* x, int64_t count);

}  // namespace swell::model

#endif  // SWELL_TOOLS_MODEL_KERNELS_H_
