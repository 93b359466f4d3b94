// Which Highway targets the kernels are compiled for; included before any Highway header.
#ifndef SWELL_LIB_BASE_SIMD_TARGETS_H_
#define SWELL_LIB_BASE_SIMD_TARGETS_H_

// Kernels keep arrays of vectors in registers, which types of unknown size cannot do: machines with SVE run NEON, those
// with RVV run scalar code. SSSE3 without SSE4 is extinct and would only cost time to compile.
#ifndef HWY_DISABLED_TARGETS
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV)
#endif

#endif  // SWELL_LIB_BASE_SIMD_TARGETS_H_
