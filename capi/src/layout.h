// Sizes that the ABI fixes. FirstBytes is the size of a struct's first version: what every caller has at least. A
// struct that grows keeps it and gets a new sizeof here; capi/abi/ holds every offset.
#ifndef SWELL_CAPI_SRC_LAYOUT_H_
#define SWELL_CAPI_SRC_LAYOUT_H_

#include <cstddef>

#include "swell/gpu.h"
#include "swell/swell.h"

namespace swell::capi {

template <typename Struct>
inline constexpr size_t kFirstBytes = 0;

template <>
inline constexpr size_t kFirstBytes<swell_engine_options> = 64;
template <>
inline constexpr size_t kFirstBytes<swell_engine_shape> = 32;
template <>
inline constexpr size_t kFirstBytes<swell_engine_stats> = 112;
template <>
inline constexpr size_t kFirstBytes<swell_sequence_options> = 32;
template <>
inline constexpr size_t kFirstBytes<swell_retrieval_options> = 56;
template <>
inline constexpr size_t kFirstBytes<swell_layer_info> = 48;
template <>
inline constexpr size_t kFirstBytes<swell_segment_info> = 48;
template <>
inline constexpr size_t kFirstBytes<swell_put_item> = 32;
template <>
inline constexpr size_t kFirstBytes<swell_put_args> = 64;
template <>
inline constexpr size_t kFirstBytes<swell_attend_item> = 40;
template <>
inline constexpr size_t kFirstBytes<swell_attend_args> = 40;
template <>
inline constexpr size_t kFirstBytes<swell_certificate> = 32;
template <>
inline constexpr size_t kFirstBytes<swell_search_item> = 32;
template <>
inline constexpr size_t kFirstBytes<swell_search_args> = 40;
template <>
inline constexpr size_t kFirstBytes<swell_fetch_item> = 24;
template <>
inline constexpr size_t kFirstBytes<swell_fetch_args> = 32;
template <>
inline constexpr size_t kFirstBytes<swell_gpu_options> = 80;
template <>
inline constexpr size_t kFirstBytes<swell_gpu_stats> = 72;
template <>
inline constexpr size_t kFirstBytes<swell_gpu_put_args> = 48;
template <>
inline constexpr size_t kFirstBytes<swell_gpu_batch_options> = 32;

static_assert(sizeof(swell_engine_options) == 72);
static_assert(sizeof(swell_engine_shape) == 32);
static_assert(sizeof(swell_engine_stats) == 144);
static_assert(sizeof(swell_sequence_options) == 32);
static_assert(sizeof(swell_retrieval_options) == 72);
static_assert(sizeof(swell_layer_info) == 48);
static_assert(sizeof(swell_segment_info) == 48);
static_assert(sizeof(swell_put_item) == 32);
static_assert(sizeof(swell_put_args) == 64);
static_assert(sizeof(swell_attend_item) == 40);
static_assert(sizeof(swell_attend_args) == 40);
static_assert(sizeof(swell_certificate) == 32);
static_assert(sizeof(swell_search_item) == 32);
static_assert(sizeof(swell_search_args) == 40);
static_assert(sizeof(swell_fetch_item) == 24);
static_assert(sizeof(swell_fetch_args) == 32);
static_assert(sizeof(swell_gpu_options) == 80);
static_assert(sizeof(swell_gpu_stats) == 72);
static_assert(sizeof(swell_gpu_put_args) == 48);
static_assert(sizeof(swell_gpu_batch_options) == 32);
static_assert(sizeof(swell_status) == 8, "never grows");
static_assert(sizeof(swell_budget_override) == 12, "never grows");

}  // namespace swell::capi

#endif  // SWELL_CAPI_SRC_LAYOUT_H_
