// Version of the library.
#include "swell/swell.h"

const char* swell_version(void) { return SWELL_VERSION; }

int32_t swell_abi_version(void) { return SWELL_ABI_VERSION; }
