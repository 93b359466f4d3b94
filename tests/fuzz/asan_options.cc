// For speed: freed memory stays poisoned for 16 MiB instead of 256, and a report's stack of an allocation has 4 frames.
// Calls that ask for more memory than there can be want a refusal, not a report.
extern "C" const char* __asan_default_options();
const char* __asan_default_options() {
  return "quarantine_size_mb=16:malloc_context_size=4:allocator_may_return_null=1";
}
