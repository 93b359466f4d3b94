// Freed memory stays poisoned for a while. Less of it than AddressSanitizer's default of 256 MiB keeps the caches warm;
// calls that ask for more memory than there can be want a refusal, not a report.
extern "C" const char* __asan_default_options();
const char* __asan_default_options() { return "quarantine_size_mb=16:allocator_may_return_null=1"; }
