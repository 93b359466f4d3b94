// Joins ranges that are neighbours, so that a gather of adjacent blocks costs one copy.
#ifndef SWELL_LIB_TRANSFER_COALESCE_H_
#define SWELL_LIB_TRANSFER_COALESCE_H_

#include <vector>

#include "swell/transfer.h"

namespace swell::transfer {

// `ranges` in order of targets, neighbours in both source and target joined. kInvalidArgument as Scheduler::Submit
// says; throws std::bad_alloc.
Status Coalesce(std::span<const CopyRange> ranges, std::vector<CopyRange>* joined);

}  // namespace swell::transfer

#endif  // SWELL_LIB_TRANSFER_COALESCE_H_
