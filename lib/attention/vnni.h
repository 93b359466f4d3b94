// AVX-512 VNNI, which Highway 1.0.3 does not have: what byte_dots.cc and byte_sums.cc share.
#ifndef SWELL_LIB_ATTENTION_VNNI_H_
#define SWELL_LIB_ATTENTION_VNNI_H_

// (The header draws false warnings from GCC 12, bug 105593.)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop

#include <cstdint>
#include <cstring>

namespace swell::attention {

#define SWELL_VNNI __attribute__((target("avx512f,avx512bw,avx512vnni")))

// The same four bytes in every lane.
SWELL_VNNI inline __m512i BroadcastQuad(const void* quad) {
  int32_t bytes;
  std::memcpy(&bytes, quad, sizeof(bytes));
  return _mm512_set1_epi32(bytes);
}

// sums[i] + the four products of the unsigned and the signed bytes of lane i. By hand, because GCC 12 copies the sums
// to another register and back around the intrinsic.
SWELL_VNNI inline __m512i AddByteProducts(__m512i sums, __m512i unsigned_bytes, __m512i signed_bytes) {
  asm("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(unsigned_bytes), "v"(signed_bytes));
  return sums;
}

}  // namespace swell::attention

#endif  // SWELL_LIB_ATTENTION_VNNI_H_
