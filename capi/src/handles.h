// What the opaque handles hold.
#ifndef SWELL_CAPI_SRC_HANDLES_H_
#define SWELL_CAPI_SRC_HANDLES_H_

#include <memory>

#include "capi/src/structs.h"
#include "swell/engine.h"
#include "swell/swell.h"

struct swell_engine {
  std::unique_ptr<swell::Engine> engine;
};

struct swell_retrieval {
  swell::RetrievalOptions options;
};

namespace swell::capi {

inline Status CheckEngine(const swell_engine* engine) { return CheckPointer("engine", engine, alignof(swell_engine)); }

inline const RetrievalOptions* OptionsOf(const swell_retrieval* retrieval) {
  return retrieval == nullptr ? nullptr : &retrieval->options;
}

}  // namespace swell::capi

#endif  // SWELL_CAPI_SRC_HANDLES_H_
