#include "swell/status.h"
#include "swell/types.h"

int main() { return swell::OkStatus().ok() && swell::DTypeSize(swell::DType::kInt8) == 1 ? 0 : 1; }
