// A batched call: reads the items, hands the good ones to the engine, gives each its status.
#ifndef SWELL_CAPI_SRC_BATCH_H_
#define SWELL_CAPI_SRC_BATCH_H_

#include <algorithm>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "capi/src/guard.h"
#include "capi/src/handles.h"
#include "capi/src/structs.h"

namespace swell::capi {

// Rows [first, first + count) of the flat arrays of a call.
struct RowRun {
  int64_t first = 0;
  int64_t count = 0;
};

inline Status CheckRun(const char* first_name, const char* count_name, RowRun run, int64_t n_rows) {
  SWELL_RETURN_IF_ERROR(CheckNotNegative(first_name, run.first));
  SWELL_RETURN_IF_ERROR(CheckNotNegative(count_name, run.count));
  if (run.count <= n_rows && run.first <= n_rows - run.count) return OkStatus();
  return BadSize(std::string(first_name) + " " + std::to_string(run.first) + " + " + count_name + " " +
                 std::to_string(run.count) + " exceed n_rows " + std::to_string(n_rows));
}

// Runs that are written must not overlap: two items would race.
inline Status CheckDisjoint(std::vector<RowRun> runs) {
  std::erase_if(runs, [](const RowRun& run) { return run.count == 0; });
  std::sort(runs.begin(), runs.end(), [](const RowRun& a, const RowRun& b) { return a.first < b.first; });
  for (size_t i = 1; i < runs.size(); ++i) {
    if (runs[i - 1].first + runs[i - 1].count > runs[i].first) {
      return InvalidArgument("items: row " + std::to_string(runs[i].first) + " belongs to two items");
    }
  }
  return OkStatus();
}

// What the args of every batched call have in common, checked.
template <typename Item, typename Args>
Status CheckBatch(const swell_engine* engine, const Args& args, const Item* items, const swell_status* statuses) {
  const int32_t layers = engine->engine->shape().layers;
  if (args.layer < 0 || args.layer >= layers) {
    return InvalidArgument("args.layer is " + std::to_string(args.layer) + ", not 0.." + std::to_string(layers - 1));
  }
  SWELL_RETURN_IF_ERROR(CheckStride<Item>("args.item_size", args.item_size));
  SWELL_RETURN_IF_ERROR(CheckNotNegative("args.n_items", args.n_items));
  SWELL_RETURN_IF_ERROR(CheckNotNegative("args.n_rows", args.n_rows));
  // Beside the caller's arrays the call keeps about 200 bytes an item.
  SWELL_RETURN_IF_ERROR(CheckExtent("items", {args.n_items, std::max<int64_t>(args.item_size, 1024)}));
  if (args.n_items > 0) SWELL_RETURN_IF_ERROR(CheckPointer("items", items, alignof(Item)));
  return CheckOptionalPointer("statuses", statuses, alignof(swell_status));
}

// The failure of a batch item as that of the call. Where there is no memory for the index in the text, it is left out.
inline Outcome BlameItem(Status status, int64_t index) {
  try {
    return {Status(status.code(), "item " + std::to_string(index) + ": " + status.message(), status.detail()), index};
  } catch (const std::bad_alloc&) {
    return {std::move(status), index};
  }
}

// convert(item, &target, &run) reads one item; call(targets, statuses) is the engine's. With `writes_rows` the runs of
// different items must be disjoint.
template <typename Target, typename Item, typename Args, typename Convert, typename Call>
Outcome RunBatch(const Args& args, const Item* items, swell_status* statuses, bool writes_rows, Convert convert,
                 Call call) {
  const auto count = static_cast<size_t>(args.n_items);
  std::vector<Status> results(count);
  std::vector<Target> targets;
  std::vector<size_t> owners;
  std::vector<RowRun> runs;
  targets.reserve(count);
  for (size_t i = 0; i < count; ++i) {
    const unsigned char* source = reinterpret_cast<const unsigned char*>(items) + i * args.item_size;
    Item item = {};
    Target target;
    RowRun run;
    results[i] = CopyStruct("item", source, args.item_size, &item);
    if (results[i].ok()) results[i] = convert(item, &target, &run);
    if (!results[i].ok()) continue;
    targets.push_back(target);
    owners.push_back(i);
    runs.push_back(run);
  }
  if (writes_rows) {
    if (Status disjoint = CheckDisjoint(std::move(runs)); !disjoint.ok()) return disjoint;
  }
  std::vector<Status> engine_statuses(targets.size());
  Status overall = targets.empty() ? OkStatus() : call(std::span<const Target>(targets), std::span(engine_statuses));
  const bool blames_item =
      std::any_of(engine_statuses.begin(), engine_statuses.end(), [](const Status& status) { return !status.ok(); });
  if (!overall.ok() && !blames_item) return overall;
  for (size_t i = 0; i < owners.size(); ++i) results[owners[i]] = std::move(engine_statuses[i]);
  for (size_t i = 0; statuses != nullptr && i < count; ++i) {
    statuses[i] = {static_cast<swell_code>(results[i].code()), static_cast<swell_detail>(results[i].detail())};
  }
  const auto failed = std::find_if(results.begin(), results.end(), [](const Status& status) { return !status.ok(); });
  if (failed == results.end()) return OkStatus();
  return BlameItem(std::move(*failed), failed - results.begin());
}

}  // namespace swell::capi

#endif  // SWELL_CAPI_SRC_BATCH_H_
