#include "tests/capi/no_memory/operations.h"

namespace swell_test {
namespace {

using E = swell_error**;

bool OtherIsClear(const World& w) { return w.other == 0; }
void MakeOther(World& w) { swell_sequence_create(w.engine, &w.sequence_options, w.retrieval, &w.other, nullptr); }
void ReleaseFork(World& w) { swell_sequence_release(w.engine, w.fork, nullptr); }
// base grows to one token before its next run is full, and fork shares no more of it.
void FillRun(World& w) { w.Put(w.base, 0, kPrompt, 12, kPrompt, nullptr); }

std::vector<Operation> Lifecycle() {
  return {
      {"open engine", [](World& w, E e) { return swell_engine_open(&w.engine_options, &w.second_engine, e); }, nullptr,
       true, [](const World& w) { return w.second_engine == nullptr; }},
      {"open engine, refused",
       [](World& w, E e) {
         swell_engine_options options = w.engine_options;
         options.head_dim = 17;
         return swell_engine_open(&options, &w.second_engine, e);
       },
       nullptr, false, [](const World& w) { return w.second_engine == nullptr; }},
      {"preset",
       [](World& w, E e) { return swell_preset("retroinfer", &w.sequence_options, &w.retrieval_options, e); }},
      {"preset, unknown",
       [](World& w, E e) { return swell_preset("a name that no preset has", &w.sequence_options, nullptr, e); }},
      {"create retrieval",
       [](World& w, E e) {
         const std::array<swell_budget_override, 3> overrides = {{{0, -1, 0.5F}, {-1, 1, 0.25F}, {1, 0, 1.0F}}};
         return swell_retrieval_create(&w.retrieval_options, overrides.data(), 3, &w.second_retrieval, e);
       },
       nullptr, false, [](const World& w) { return w.second_retrieval == nullptr; }},
      {"create sequence",
       [](World& w, E e) { return swell_sequence_create(w.engine, &w.sequence_options, w.retrieval, &w.other, e); },
       nullptr, true, &OtherIsClear},
      {"create sequence in a free slot",
       [](World& w, E e) { return swell_sequence_create(w.engine, nullptr, nullptr, &w.other, e); }, &ReleaseFork,
       false, &OtherIsClear},
      {"fork", [](World& w, E e) { return swell_sequence_fork(w.engine, w.base, &w.other, e); }, nullptr, true,
       &OtherIsClear},
      {"fork, stale", [](World& w, E e) { return swell_sequence_fork(w.engine, w.fork, &w.other, e); }, &ReleaseFork,
       false, &OtherIsClear},
      {"truncate the tail", [](World& w, E e) { return swell_sequence_truncate(w.engine, w.base, kPrompt - 2, e); }},
      {"truncate a segment", [](World& w, E e) { return swell_sequence_truncate(w.engine, w.base, 43, e); }, nullptr,
       true},
      {"truncate to nothing", [](World& w, E e) { return swell_sequence_truncate(w.engine, w.base, 0, e); }},
      {"truncate over the budget", [](World& w, E e) { return swell_sequence_truncate(w.engine, w.base, 60, e); },
       nullptr, false, nullptr, 64},
      {"release", [](World& w, E e) { return swell_sequence_release(w.engine, w.base, e); }, nullptr, true},
      {"release, stale", [](World& w, E e) { return swell_sequence_release(w.engine, w.fork, e); }, &ReleaseFork},
      {"wait until sealed", [](World& w, E e) { return swell_sequence_wait_sealed(w.engine, w.base, e); }},
      {"length and statistics",
       [](World& w, E e) {
         int64_t tokens = 0;
         swell_engine_shape shape = SWELL_ENGINE_SHAPE_INIT;
         swell_engine_stats stats = SWELL_ENGINE_STATS_INIT;
         if (const swell_code code = swell_engine_get_shape(w.engine, &shape, e); code != SWELL_OK) return code;
         if (const swell_code code = swell_engine_get_stats(w.engine, &stats, e); code != SWELL_OK) return code;
         return swell_sequence_length(w.engine, w.base, 1, &tokens, e);
       }},
      {"inspect", [](World& w, E e) { return w.Inspect(w.base, 0, e); }},
  };
}

std::vector<Operation> Puts() {
  return {
      {"put a prompt", [](World& w, E e) { return w.Put(w.other, 0, 0, 90, 0, e); }, &MakeOther},
      {"put a short prompt", [](World& w, E e) { return w.Put(w.other, 0, 0, 40, 0, e); }, &MakeOther, true},
      {"append a token", [](World& w, E e) { return w.Put(w.fork, 0, kForkPrompt, 1, 210, e); }, nullptr, true},
      {"append to a shared block", [](World& w, E e) { return w.Put(w.base, 0, kPrompt, 1, kPrompt, e); }, nullptr,
       true},
      {"append a new block", [](World& w, E e) { return w.Put(w.other, 0, 130, 3, 130, e); },
       [](World& w) {
         w.sequence_options.seal_tokens = 256;
         w.sequence_options.segment_tokens = 256;
         MakeOther(w);
         w.Put(w.other, 0, 0, 130, 0, nullptr);
       }},
      {"append what completes a segment", [](World& w, E e) { return w.Put(w.base, 0, kPrompt + 12, 20, 100, e); },
       &FillRun, true},
      {"put batch", [](World& w, E e) { return w.PutBoth(14, false, e); }, nullptr, true, nullptr, -1, true},
      {"put batch, an item refused", [](World& w, E e) { return w.PutBoth(4, true, e); }, nullptr, true, nullptr, 0,
       true},
      {"put out of order", [](World& w, E e) { return w.Put(w.base, 0, kPrompt - 1, 1, 0, e); }},
      {"put over the budget", [](World& w, E e) { return w.Put(w.other, 1, 0, 390, 0, e); }, &MakeOther, true, nullptr,
       256},
      {"put that is sealed over the budget", [](World& w, E e) { return w.Put(w.other, 1, 0, 120, 0, e); }, &MakeOther,
       true, nullptr, 139},
  };
}

std::vector<Operation> Readers() {
  return {
      {"attend, exact", [](World& w, E e) { return w.Attend(SWELL_ATTEND_EXACT, 1, SWELL_FLOAT32, e); }, nullptr, true},
      {"attend, wave", [](World& w, E e) { return w.Attend(SWELL_ATTEND_RETRIEVE, 1, SWELL_FLOAT32, e); }, nullptr,
       true},
      {"attend, exact, several positions",
       [](World& w, E e) { return w.Attend(SWELL_ATTEND_EXACT, 5, SWELL_FLOAT16, e); }},
      {"attend, wave, several positions",
       [](World& w, E e) { return w.Attend(SWELL_ATTEND_RETRIEVE, 5, SWELL_FLOAT16, e); }},
      {"attend batch, exact", [](World& w, E e) { return w.AttendBoth(SWELL_ATTEND_EXACT, e); }, nullptr, true},
      {"attend batch, wave", [](World& w, E e) { return w.AttendBoth(SWELL_ATTEND_RETRIEVE, e); }, nullptr, true},
      {"attend batch, an item stale", [](World& w, E e) { return w.AttendBoth(SWELL_ATTEND_RETRIEVE, e); },
       &ReleaseFork},
      {"search, exact", [](World& w, E e) { return w.Search(SWELL_ATTEND_EXACT, e); }},
      {"search, wave", [](World& w, E e) { return w.Search(SWELL_ATTEND_RETRIEVE, e); }},
      {"fetch", [](World& w, E e) { return w.Fetch(w.base, 0, kPrompt, SWELL_FLOAT32, e); }},
      {"fetch as stored", [](World& w, E e) { return w.Fetch(w.fork, 0, kForkPrompt, w.options.storage, e); }},
      {"fetch, out of range", [](World& w, E e) { return w.Fetch(w.base, 1, kPrompt, SWELL_FLOAT32, e); }},
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
