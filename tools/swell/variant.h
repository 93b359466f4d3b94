// Settings of a sequence as a command line says them.
#ifndef SWELL_TOOLS_SWELL_VARIANT_H_
#define SWELL_TOOLS_SWELL_VARIANT_H_

#include <string>

#include "swell/engine.h"

namespace swell::cli {

// The keys that ParseVariant knows, separated by ", ".
std::string VariantKeys();

// "PRESET[,KEY=VALUE...]", as in "swell,retrieve_share=0.05,floor_tokens=0". kInvalidArgument names what is wrong;
// ranges are checked when a sequence is created.
Result<SequenceOptions> ParseVariant(const std::string& text);

}  // namespace swell::cli

#endif  // SWELL_TOOLS_SWELL_VARIANT_H_
