// An engine's statistics as text for Prometheus.
#ifndef SWELL_METRICS_H_
#define SWELL_METRICS_H_

#include <string>

#include "swell/engine.h"
#include "swell/status.h"

namespace swell {

// Exposition format 0.0.4: each metric with HELP and TYPE, names that begin with swell_, totals as counters, and the
// audits as the histogram swell_audit_error_factor. Add what tells engines apart (an instance, a job) where it is
// scraped. Any thread. kResourceExhausted when there is no memory for the text.
Result<std::string> MetricsText(const EngineStats& stats);

}  // namespace swell

#endif  // SWELL_METRICS_H_
