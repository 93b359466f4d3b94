// The header as C++17 and C++20, included twice; every initialiser compiles.
#include "swell/gpu.h"
#include "swell/swell.h"

extern "C" int HEADER_FUNCTION();

int HEADER_FUNCTION() {
  const swell_engine_options engine_options = SWELL_ENGINE_OPTIONS_INIT;
  const swell_engine_shape shape = SWELL_ENGINE_SHAPE_INIT;
  const swell_engine_stats stats = SWELL_ENGINE_STATS_INIT;
  const swell_sequence_options sequence_options = SWELL_SEQUENCE_OPTIONS_INIT;
  const swell_retrieval_options retrieval_options = SWELL_RETRIEVAL_OPTIONS_INIT;
  const swell_layer_info info = SWELL_LAYER_INFO_INIT;
  const swell_put_args put = SWELL_PUT_ARGS_INIT;
  const swell_attend_args attend = SWELL_ATTEND_ARGS_INIT;
  const swell_search_args search = SWELL_SEARCH_ARGS_INIT;
  const swell_fetch_args fetch = SWELL_FETCH_ARGS_INIT;
  const swell_gpu_options gpu = SWELL_GPU_OPTIONS_INIT;
  const swell_gpu_stats gpu_stats = SWELL_GPU_STATS_INIT;
  const swell_gpu_put_args gpu_put = SWELL_GPU_PUT_ARGS_INIT;
  const swell_gpu_batch_options gpu_batch = SWELL_GPU_BATCH_OPTIONS_INIT;
  return engine_options.struct_size == sizeof engine_options && shape.struct_size == sizeof shape &&
         stats.struct_size == sizeof stats && sequence_options.struct_size == sizeof sequence_options &&
         retrieval_options.struct_size == sizeof retrieval_options && info.struct_size == sizeof info &&
         put.struct_size == sizeof put && attend.struct_size == sizeof attend && search.struct_size == sizeof search &&
         fetch.struct_size == sizeof fetch && gpu.struct_size == sizeof gpu &&
         gpu_stats.struct_size == sizeof gpu_stats && gpu_put.struct_size == sizeof gpu_put &&
         gpu_batch.struct_size == sizeof gpu_batch && swell_abi_version() == SWELL_ABI_VERSION;
}
