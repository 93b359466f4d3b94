#include "lib/transfer/coalesce.h"

#include <algorithm>
#include <string>

namespace swell::transfer {
namespace {

uintptr_t Address(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer); }

Status Check(std::span<const CopyRange> ranges) {
  if (ranges.empty()) return InvalidArgument("ranges: none given", StatusDetail::kBadSize);
  for (size_t i = 0; i < ranges.size(); ++i) {
    const std::string name = "ranges[" + std::to_string(i) + "]";
    if (ranges[i].source == nullptr) return InvalidArgument(name + ".source: null", StatusDetail::kNullPointer);
    if (ranges[i].target == nullptr) return InvalidArgument(name + ".target: null", StatusDetail::kNullPointer);
    const uintptr_t last = std::max(Address(ranges[i].source), Address(ranges[i].target));
    if (ranges[i].bytes == 0 || ranges[i].bytes > UINTPTR_MAX - last) {
      return InvalidArgument(name + ".bytes: 0, or beyond the address space", StatusDetail::kBadSize);
    }
  }
  return OkStatus();
}

}  // namespace

Status Coalesce(std::span<const CopyRange> ranges, std::vector<CopyRange>* joined) {
  SWELL_RETURN_IF_ERROR(Check(ranges));
  std::vector<CopyRange> sorted(ranges.begin(), ranges.end());
  const auto by_target = [](const CopyRange& a, const CopyRange& b) { return Address(a.target) < Address(b.target); };
  if (!std::is_sorted(sorted.begin(), sorted.end(), by_target)) std::sort(sorted.begin(), sorted.end(), by_target);
  joined->assign(1, sorted.front());
  for (size_t i = 1; i < sorted.size(); ++i) {
    CopyRange& last = joined->back();
    const uintptr_t end = Address(last.target) + last.bytes;
    if (Address(sorted[i].target) < end) return InvalidArgument("ranges: targets overlap");
    if (Address(sorted[i].target) == end && Address(sorted[i].source) == Address(last.source) + last.bytes) {
      last.bytes += sorted[i].bytes;
    } else {
      joined->push_back(sorted[i]);
    }
  }
  return OkStatus();
}

}  // namespace swell::transfer
