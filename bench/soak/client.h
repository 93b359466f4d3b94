// A client of the engine: starts sequences, lets them grow, forks, cuts and ends them, and checks that the engine holds
// what was put.
#ifndef SWELL_BENCH_SOAK_CLIENT_H_
#define SWELL_BENCH_SOAK_CLIENT_H_

#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "bench/soak/latency.h"
#include "swell/engine.h"

namespace swell::soak {

struct Workload {
  ModelShape shape;
  uint64_t seed = 1;
  int64_t sequences = 12;  // that a client keeps alive
  int64_t min_prompt = 1024;
  int64_t max_prompt = 6144;
  int64_t max_tokens = 8192;  // a sequence ends there
};

// What a client saw. Adding up is not thread-safe.
struct Totals {
  Latency attend;             // one query position of one layer, wave index
  Latency append;             // one token of one layer
  int64_t blocked = 0;        // appends above the limit in which the thread waited for another, and
  double blocked_max_us = 0;  // the longest of them; the others were preempted or spent the time computing
  int64_t tokens = 0;         // put, times layers
  int64_t begun = 0, forked = 0, cut = 0, ended = 0, refused = 0, rows_checked = 0;
  std::string failure;  // first; empty: none

  void Add(const Totals& other);
};

// Appends above this are looked at: what sealing may never cost.
constexpr double kAppendLimitUs = 2000;

class Client {
 public:
  // Several clients of one engine may run at the same time, each on a thread of its own.
  Client(Engine& engine, const Workload& workload, uint64_t seed);
  // One turn: a sequence begins, grows by a few tokens, is forked, cut or ended. False after a failure.
  bool Turn();
  // Ends every sequence.
  void Finish();
  const Totals& totals() const { return totals_; }

 private:
  // Where the rows of a sequence come from: tokens from `begin` on are those of `stream`.
  struct Part {
    int64_t begin;
    uint64_t stream;
  };
  struct Live {
    SequenceId id;
    std::vector<Part> parts;
    int64_t tokens = 0;
  };

  void Begin();
  void Grow(Live& live);
  void Fork(const Live& live);
  void Cut(Live& live);
  void End(const Live& live);
  void Check(const Live& live);
  // Puts the next tokens of every layer; while the budget is spent, other sequences end. False when `live` has ended
  // itself, for there was no other, and after a failure.
  bool Append(Live& live, int64_t tokens);
  bool AppendLayer(const Live& live, int32_t layer, int64_t tokens);
  bool MakeRoom(const Live& live);
  void Attend(const Live& live, int32_t layer);
  // Row of the pool that holds a token.
  int64_t RowOf(const Live& live, int64_t token) const;
  void Fail(const std::string& what, const Status& status);

  Engine& engine_;
  const Workload workload_;
  std::mt19937_64 random_;
  int64_t width_;                      // elements of a row: kv_heads * head_dim
  std::vector<float> pool_;            // [kPoolRows, width]; values are keys times two
  std::vector<float> keys_, values_;   // of one put
  std::vector<float> query_, output_;  // [heads, head_dim]
  std::vector<std::unique_ptr<Live>> live_;
  Totals totals_;
};

}  // namespace swell::soak

#endif  // SWELL_BENCH_SOAK_CLIENT_H_
