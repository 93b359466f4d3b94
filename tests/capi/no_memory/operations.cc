#include "tests/capi/no_memory/operations.h"

namespace swell_test {
namespace {

using E = swell_error**;

bool EngineIsClear(const World& w) { return w.second_engine == nullptr; }
bool RetrievalIsClear(const World& w) { return w.second_retrieval == nullptr; }
bool OtherIsClear(const World& w) { return w.other == 0; }
void MakeOther(World& w) { swell_sequence_create(w.engine, &w.sequence_options, w.retrieval, &w.other, nullptr); }
void ReleaseFork(World& w) { swell_sequence_release(w.engine, w.fork, nullptr); }
// base grows to just before the end of a run, and shares its last block no more.
void FillRun(World& w) { w.Put(w.base, 0, kPrompt, 12, kPrompt, nullptr); }
// other holds a tail of more than one block.
void FillBlock(World& w) {
  w.sequence_options.seal_tokens = 256;
  w.sequence_options.segment_tokens = 256;
  MakeOther(w);
  w.Put(w.other, 0, 0, 130, 0, nullptr);
}

swell_code OpenBadEngine(World& w, E e) {
  swell_engine_options options = w.engine_options;
  options.head_dim = 17;
  return swell_engine_open(&options, &w.second_engine, e);
}
swell_code CreateRetrieval(World& w, E e) {
  const std::array<swell_budget_override, 3> overrides = {{{0, -1, 0.5F}, {-1, 1, 0.25F}, {1, 0, 1.0F}}};
  return swell_retrieval_create(&w.retrieval_options, overrides.data(), 3, &w.second_retrieval, e);
}
swell_code CreateSequence(World& w, E e) {
  return swell_sequence_create(w.engine, &w.sequence_options, w.retrieval, &w.other, e);
}
swell_code CreateDefaultSequence(World& w, E e) {
  return swell_sequence_create(w.engine, nullptr, nullptr, &w.other, e);
}
swell_code ReadNumbers(World& w, E e) {
  int64_t tokens = 0;
  swell_engine_shape shape = SWELL_ENGINE_SHAPE_INIT;
  swell_engine_stats stats = SWELL_ENGINE_STATS_INIT;
  if (const swell_code code = swell_engine_get_shape(w.engine, &shape, e); code != SWELL_OK) return code;
  if (const swell_code code = swell_engine_get_stats(w.engine, &stats, e); code != SWELL_OK) return code;
  return swell_sequence_length(w.engine, w.base, 1, &tokens, e);
}
swell_code WriteMetrics(World& w, E e) {
  std::array<char, 8192> text;
  int64_t size = 0;
  return swell_engine_metrics(w.engine, text.data(), static_cast<int64_t>(text.size()), &size, e);
}
template <int64_t kTokens>
swell_code Truncate(World& w, E e) {
  return swell_sequence_truncate(w.engine, w.base, kTokens, e);
}
// Four tokens each; item `kRefused`, if there is one, holds a NaN.
template <size_t kRefused>
swell_code PutBoth(World& w, E e) {
  return w.PutBoth(4, kRefused, e);
}
swell_code ForkBase(World& w, E e) { return swell_sequence_fork(w.engine, w.base, &w.other, e); }
swell_code ForkFork(World& w, E e) { return swell_sequence_fork(w.engine, w.fork, &w.other, e); }

std::vector<Operation> Lifecycle() {
  return {
      {.name = "open engine",
       .run = [](World& w, E e) { return swell_engine_open(&w.engine_options, &w.second_engine, e); },
       .core = true,
       .is_clear = &EngineIsClear},
      {.name = "open engine, refused", .run = &OpenBadEngine, .is_clear = &EngineIsClear},
      {.name = "preset",
       .run = [](World& w, E e) { return swell_preset("swell", &w.sequence_options, &w.retrieval_options, e); }},
      {.name = "preset, unknown",
       .run = [](World& w, E e) { return swell_preset("a name of no preset", &w.sequence_options, nullptr, e); }},
      {.name = "create retrieval", .run = &CreateRetrieval, .is_clear = &RetrievalIsClear},
      {.name = "create sequence", .run = &CreateSequence, .core = true, .is_clear = &OtherIsClear},
      {.name = "create sequence in a free slot",
       .run = &CreateDefaultSequence,
       .prepare = &ReleaseFork,
       .is_clear = &OtherIsClear},
      {.name = "fork", .run = &ForkBase, .core = true, .is_clear = &OtherIsClear},
      {.name = "fork, stale", .run = &ForkFork, .prepare = &ReleaseFork, .is_clear = &OtherIsClear},
      {.name = "truncate the tail", .run = &Truncate<kPrompt - 2>},
      {.name = "truncate a segment", .run = &Truncate<43>, .core = true},
      {.name = "truncate to nothing", .run = &Truncate<0>},
      {.name = "truncate over the budget", .run = &Truncate<60>, .spare_tokens = 64},
      {.name = "release", .run = [](World& w, E e) { return swell_sequence_release(w.engine, w.base, e); }},
      {.name = "release, stale",
       .run = [](World& w, E e) { return swell_sequence_release(w.engine, w.fork, e); },
       .prepare = &ReleaseFork},
      {.name = "wait until sealed",
       .run = [](World& w, E e) { return swell_sequence_wait_sealed(w.engine, w.base, e); }},
      {.name = "length, shape and statistics", .run = &ReadNumbers},
      {.name = "metrics", .run = &WriteMetrics},
      {.name = "inspect", .run = [](World& w, E e) { return w.Inspect(w.base, 0, e); }},
  };
}

std::vector<Operation> Puts() {
  return {
      {.name = "put a prompt",
       .run = [](World& w, E e) { return w.Put(w.other, 0, 0, 90, 0, e); },
       .prepare = &MakeOther},
      {.name = "put a short prompt",
       .run = [](World& w, E e) { return w.Put(w.other, 0, 0, 40, 0, e); },
       .prepare = &MakeOther,
       .core = true},
      {.name = "append a token",
       .run = [](World& w, E e) { return w.Put(w.fork, 0, kForkPrompt, 1, 210, e); },
       .core = true},
      {.name = "append to a shared block",
       .run = [](World& w, E e) { return w.Put(w.base, 0, kPrompt, 1, kPrompt, e); },
       .core = true},
      {.name = "append a new block",
       .run = [](World& w, E e) { return w.Put(w.other, 0, 130, 3, 130, e); },
       .prepare = &FillBlock},
      {.name = "append what completes a segment",
       .run = [](World& w, E e) { return w.Put(w.base, 0, kPrompt + 12, 20, 100, e); },
       .prepare = &FillRun,
       .core = true},
      {.name = "put batch",
       .run = [](World& w, E e) { return w.PutBoth(14, 2, e); },
       .core = true,
       .is_put_batch = true},
      {.name = "put batch, first refused", .run = &PutBoth<0>, .core = true, .is_put_batch = true},
      {.name = "put batch, second refused", .run = &PutBoth<1>, .core = true, .is_put_batch = true},
      {.name = "put out of order", .run = [](World& w, E e) { return w.Put(w.base, 0, kPrompt - 1, 1, 0, e); }},
      {.name = "put over the budget",
       .run = [](World& w, E e) { return w.Put(w.other, 1, 0, 390, 0, e); },
       .prepare = &MakeOther,
       .core = true,
       .spare_tokens = 256},
      {.name = "put that is sealed over the budget",
       .run = [](World& w, E e) { return w.Put(w.other, 1, 0, 120, 0, e); },
       .prepare = &MakeOther,
       .core = true,
       .spare_tokens = 139},
  };
}

std::vector<Operation> Readers() {
  return {
      {.name = "attend, exact",
       .run = [](World& w, E e) { return w.Attend(SWELL_ATTEND_EXACT, 1, SWELL_FLOAT32, e); },
       .core = true},
      {.name = "attend, wave",
       .run = [](World& w, E e) { return w.Attend(SWELL_ATTEND_RETRIEVE, 1, SWELL_FLOAT32, e); },
       .core = true},
      {.name = "attend, exact, several positions",
       .run = [](World& w, E e) { return w.Attend(SWELL_ATTEND_EXACT, 5, SWELL_FLOAT16, e); }},
      {.name = "attend, wave, several positions",
       .run = [](World& w, E e) { return w.Attend(SWELL_ATTEND_RETRIEVE, 5, SWELL_FLOAT16, e); }},
      {.name = "attend batch, exact",
       .run = [](World& w, E e) { return w.AttendBoth(SWELL_ATTEND_EXACT, e); },
       .core = true},
      {.name = "attend batch, wave",
       .run = [](World& w, E e) { return w.AttendBoth(SWELL_ATTEND_RETRIEVE, e); },
       .core = true},
      {.name = "attend batch, an item stale",
       .run = [](World& w, E e) { return w.AttendBoth(SWELL_ATTEND_RETRIEVE, e); },
       .prepare = &ReleaseFork},
      {.name = "search, exact", .run = [](World& w, E e) { return w.Search(SWELL_ATTEND_EXACT, e); }},
      {.name = "search, wave", .run = [](World& w, E e) { return w.Search(SWELL_ATTEND_RETRIEVE, e); }},
      {.name = "fetch", .run = [](World& w, E e) { return w.Fetch(w.base, 0, kPrompt, SWELL_FLOAT32, e); }},
      {.name = "fetch as stored",
       .run = [](World& w, E e) { return w.Fetch(w.fork, 0, kForkPrompt, w.options.storage, e); }},
      {.name = "fetch, out of range",
       .run = [](World& w, E e) { return w.Fetch(w.base, 1, kPrompt, SWELL_FLOAT32, e); }},
  };
}

}  // namespace

const std::vector<Operation>& Operations() {
  static const std::vector<Operation> operations = [] {
    std::vector<Operation> all = Lifecycle();
    for (const auto& group : {Puts(), Readers()}) all.insert(all.end(), group.begin(), group.end());
    return all;
  }();
  return operations;
}

}  // namespace swell_test
