// Settings of sequences and retrieval, between the C structs and the engine's.
#ifndef SWELL_CAPI_SRC_SETTINGS_H_
#define SWELL_CAPI_SRC_SETTINGS_H_

#include "swell/engine.h"
#include "swell/swell.h"

namespace swell::capi {

// Reads the caller's struct over the defaults in *target; its retrieval is not touched.
Status ReadSequenceOptions(const swell_sequence_options* from, SequenceOptions* target);

}  // namespace swell::capi

#endif  // SWELL_CAPI_SRC_SETTINGS_H_
