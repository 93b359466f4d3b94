// The C API as a sequence of calls, valid and not, beside a model of what every sequence must hold.
//
// An input is one byte that picks the engine, then calls: a byte that picks the function, then its arguments. What a
// valid call does is compared with the model; an invalid one must be refused and change nothing. At the end everything
// is released and the engine must be empty.
#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "tests/fuzz/capi_session.h"

namespace swell_fuzz {

Session::Session(Bytes bytes) : bytes_(bytes) {
  const int choice = bytes_.Choose(8);
  storage_ = choice % 4;
  budget_ = choice >= 4;
  engine_ = EngineFor(storage_, budget_);
}

void Session::Run() {
  Create();
  for (int call = 0; call < 24 && !bytes_.empty(); ++call) One();
  for (Model& slot : slots_) {
    if (slot.live) SWELL_FUZZ_CHECK(swell_sequence_release(engine_, slot.id, nullptr) == SWELL_OK);
  }
  swell_retrieval_destroy(&retrieval_);
  swell_engine_stats stats = SWELL_ENGINE_STATS_INIT;
  SWELL_FUZZ_CHECK(swell_engine_get_stats(engine_, &stats, nullptr) == SWELL_OK);
  SWELL_FUZZ_CHECK(stats.sequences == 0 && stats.bytes_in_use == 0);
  SWELL_FUZZ_CHECK(!budget_ || stats.bytes_peak <= kBudgetBytes);
}

void Session::One() {
  switch (bytes_.Choose(16)) {
    case 0:
      return Create();
    case 1:
      return Fork();
    case 2:
      return Truncate();
    case 3:
      return Release();
    case 4:
      return Inspect();
    case 5:
      return MakeRetrieval();
    case 6:
      return Open();
    case 7:
    case 8:
    case 9:
    case 10:
      return Put();
    case 11:
    case 12:
      return Attend();
    case 13:
      return Search();
    case 14:
      return Fetch();
    default:
      return Settings();
  }
}

void Session::Expect(Outlook outlook, swell_code code, swell_error** error) {
  SWELL_FUZZ_CHECK(swell_error_code(*error) == code);
  SWELL_FUZZ_CHECK((code == SWELL_OK) == (*error == nullptr));
  SWELL_FUZZ_CHECK(code == SWELL_OK || *swell_error_message(*error) != '\0');
  SWELL_FUZZ_CHECK(code != SWELL_INTERNAL && code != SWELL_UNKNOWN);
  const bool over = swell_error_detail(*error) == SWELL_DETAIL_OVER_BUDGET;
  SWELL_FUZZ_CHECK(!over || budget_);
  if (outlook == Outlook::kAccept) SWELL_FUZZ_CHECK(code == SWELL_OK || over);
  if (outlook == Outlook::kRefuse) SWELL_FUZZ_CHECK(code != SWELL_OK);
  swell_error_destroy(error);
}

Model& Session::Pick(swell_sequence* id) {
  const int choice = bytes_.Choose(64);
  Model& slot = slots_[static_cast<size_t>(choice) % slots_.size()];
  *id = slot.id;  // of a released sequence, if it is not live
  if (choice < 60) return slot;
  *id = choice == 60 ? 0 : choice == 61 ? slot.id + (uint64_t{1} << 32) : bytes_.Take<uint64_t>();
  for (Model& other : slots_) {
    if (other.live && other.id == *id) return other;
  }
  nobody_ = {};
  return nobody_;
}

Model* Session::FreeSlot() {
  const auto free = std::find_if(slots_.begin(), slots_.end(), [](const Model& slot) { return !slot.live; });
  return free == slots_.end() ? nullptr : &*free;
}

void Session::Create() {
  Model* slot = FreeSlot();
  if (slot == nullptr) return;
  swell_sequence_options options = SWELL_SEQUENCE_OPTIONS_INIT;
  const int choice = bytes_.Choose(256);
  options.index = choice % 8 == 0 ? SWELL_INDEX_FLAT : SWELL_INDEX_WAVE;
  options.cluster_tokens = 1 + choice % 9;
  options.iterations = 1 + choice % 3;
  options.sink_tokens = choice % 5;
  options.window_tokens = choice % 7 * 3;
  options.seal_tokens = 16 + choice % 3 * 8;
  options.segment_tokens = options.seal_tokens * (1 + choice % 4);
  const bool wild = choice == 255;  // any numbers
  if (wild) {
    int32_t* const fields[] = {&options.index,         &options.cluster_tokens, &options.iterations,
                               &options.sink_tokens,   &options.window_tokens,  &options.seal_tokens,
                               &options.segment_tokens};
    for (int32_t* field : fields) *field = bytes_.Take<int32_t>();
  }
  swell_sequence id = 1;
  swell_error* error = nullptr;
  const bool preset = choice == 254;
  const swell_code code = swell_sequence_create(engine_, preset ? nullptr : &options, retrieval_, &id, &error);
  Expect(wild || retrieval_ != nullptr ? Outlook::kEither : Outlook::kAccept, code, &error);
  SWELL_FUZZ_CHECK((code == SWELL_OK) == (id != 0));
  if (code == SWELL_OK) *slot = {id, true, {}};
}

void Session::Fork() {
  swell_sequence id = 0;
  const Model from = Pick(&id);
  Model* slot = FreeSlot();
  if (slot == nullptr) return;
  swell_sequence fork = 1;
  swell_error* error = nullptr;
  const swell_code code = swell_sequence_fork(engine_, id, &fork, &error);
  Expect(from.live ? Outlook::kAccept : Outlook::kRefuse, code, &error);
  SWELL_FUZZ_CHECK((code == SWELL_OK) == (fork != 0));
  if (code == SWELL_OK) *slot = {fork, true, from.tokens};
}

void Session::Truncate() {
  swell_sequence id = 0;
  Model& slot = Pick(&id);
  const int64_t tokens = bytes_.Choose(32) == 31 ? bytes_.Take<int64_t>() : bytes_.Take<uint8_t>();
  swell_error* error = nullptr;
  const swell_code code = swell_sequence_truncate(engine_, id, tokens, &error);
  Expect(slot.live && tokens >= 0 ? Outlook::kAccept : Outlook::kRefuse, code, &error);
  if (code != SWELL_OK) return;
  for (auto& layer : slot.tokens) layer.resize(std::min(layer.size(), static_cast<size_t>(tokens)));
}

void Session::Release() {
  swell_sequence id = 0;
  Model& slot = Pick(&id);
  swell_error* error = nullptr;
  const swell_code code = swell_sequence_release(engine_, id, &error);
  if (!slot.live) SWELL_FUZZ_CHECK(swell_error_detail(error) == SWELL_DETAIL_STALE_HANDLE);
  Expect(slot.live ? Outlook::kAccept : Outlook::kRefuse, code, &error);
  SWELL_FUZZ_CHECK(!slot.live || code == SWELL_OK);
  slot.live = false;  // the id stays, to be tried again
  slot.tokens = {};
}

void Session::ReadMetrics() {
  swell_error* error = nullptr;
  int64_t size = 0;
  Expect(Outlook::kAccept, swell_engine_metrics(engine_, nullptr, 0, &size, &error), &error);
  std::vector<char> text(static_cast<size_t>(size) + 256, 'x');  // numbers grow between the calls
  const swell_code short_code = swell_engine_metrics(engine_, text.data(), 1, &size, &error);
  SWELL_FUZZ_CHECK(short_code == SWELL_OUT_OF_RANGE);
  Expect(Outlook::kRefuse, short_code, &error);
  const auto capacity = static_cast<int64_t>(text.size());
  Expect(Outlook::kAccept, swell_engine_metrics(engine_, text.data(), capacity, &size, &error), &error);
  SWELL_FUZZ_CHECK(size <= capacity && std::find(text.begin(), text.end(), '\0') - text.begin() + 1 == size);
}

void Session::Inspect() {
  ReadMetrics();
  swell_sequence id = 0;
  const Model& slot = Pick(&id);
  const int32_t layer = bytes_.Choose(kLayers + 1) - (bytes_.Choose(32) == 0 ? 1 : 0);
  const bool valid = slot.live && layer >= 0 && layer < kLayers;
  int64_t tokens = -1;
  swell_error* error = nullptr;
  swell_code code = swell_sequence_length(engine_, id, layer, &tokens, &error);
  Expect(valid ? Outlook::kAccept : Outlook::kRefuse, code, &error);
  SWELL_FUZZ_CHECK(tokens == (valid ? static_cast<int64_t>(slot.tokens[layer].size()) : -1));
  code = swell_sequence_wait_sealed(engine_, id, &error);
  Expect(slot.live ? Outlook::kAccept : Outlook::kRefuse, code, &error);
  swell_layer_info info = SWELL_LAYER_INFO_INIT;
  std::vector<swell_segment_info> segments(static_cast<size_t>(bytes_.Choose(4)));
  code =
      swell_sequence_inspect(engine_, id, layer, &info, segments.data(), static_cast<int64_t>(segments.size()), &error);
  Expect(valid ? Outlook::kAccept : Outlook::kRefuse, code, &error);
  if (code != SWELL_OK) return;
  SWELL_FUZZ_CHECK(info.tokens == tokens && info.sealing == 0 && info.sealed_tokens + info.tail_tokens <= tokens);
  int64_t next = -1;
  for (size_t i = 0; i < std::min(segments.size(), static_cast<size_t>(info.n_segments)); ++i) {
    SWELL_FUZZ_CHECK(segments[i].tokens > 0 && (next < 0 || segments[i].first_token == next));
    next = segments[i].first_token + segments[i].tokens;
    SWELL_FUZZ_CHECK(next <= tokens);
  }
}

void Session::MakeRetrieval() {
  swell_retrieval_options options = SWELL_RETRIEVAL_OPTIONS_INIT;
  SWELL_FUZZ_CHECK(swell_preset(bytes_.Choose(2) == 0 ? "swell" : "retroinfer", nullptr, &options, nullptr) ==
                   SWELL_OK);
  options.floor_tokens = bytes_.Choose(4) * 8;
  const int choice = bytes_.Choose(64);
  if (choice & 1) options.retrieve_share = static_cast<float>(1 + choice) / 64;
  if (choice & 2) options.flags ^= SWELL_RETRIEVAL_CORRECT;
  if (choice & 2) options.retrieve_above = choice == 63 ? bytes_.Take<float>() : static_cast<float>(choice) / 128;
  if (choice & 4) options.unit = bytes_.Choose(3);
  if (choice & 8) options.retrieve_tokens = choice == 63 ? bytes_.Take<int64_t>() : bytes_.Choose(64);
  if (choice & 16) options.estimate_share = choice == 63 ? bytes_.Take<float>() : static_cast<float>(choice) / 64;
  if (choice & 32) options.kappa = choice == 63 ? bytes_.Take<float>() : static_cast<float>(bytes_.Choose(8));
  std::vector<swell_budget_override> overrides(static_cast<size_t>(bytes_.Choose(3)));
  for (swell_budget_override& entry : overrides) {
    entry = {bytes_.Choose(4) - 1, bytes_.Choose(4) - 1, static_cast<float>(bytes_.Choose(12)) / 10};
  }
  swell_retrieval* made = nullptr;
  swell_error* error = nullptr;
  const swell_code code =
      swell_retrieval_create(&options, overrides.data(), static_cast<int64_t>(overrides.size()), &made, &error);
  Expect(options.unit > SWELL_BUDGET_CLUSTERS ? Outlook::kRefuse : Outlook::kAccept, code, &error);
  SWELL_FUZZ_CHECK((code == SWELL_OK) == (made != nullptr));
  if (made == nullptr) return;
  swell_retrieval_destroy(&retrieval_);
  retrieval_ = made;
}

void Session::Open() {
  swell_engine_options options = SWELL_ENGINE_OPTIONS_INIT;
  options.layers = bytes_.Take<int16_t>();
  options.kv_heads = bytes_.Take<int16_t>();
  options.group = bytes_.Take<int8_t>();
  options.head_dim = bytes_.Take<int16_t>();
  options.scale = bytes_.Take<float>();
  options.storage = bytes_.Choose(5);
  options.threads = 1;
  options.host_budget_bytes = bytes_.Take<uint16_t>();
  options.flags = static_cast<uint32_t>(bytes_.Choose(3));
  swell_engine* engine = engine_;
  swell_error* error = nullptr;
  const swell_code code = swell_engine_open(&options, &engine, &error);
  Expect(Outlook::kEither, code, &error);
  SWELL_FUZZ_CHECK((code == SWELL_OK) == (engine != nullptr));
  swell_sequence stranger = 0;
  if (engine != nullptr && swell_sequence_create(engine, nullptr, nullptr, &stranger, nullptr) == SWELL_OK) {
    SWELL_FUZZ_CHECK(swell_sequence_release(engine, stranger, nullptr) == SWELL_OK);
  }
  swell_engine_close(&engine);
  SWELL_FUZZ_CHECK(engine == nullptr);
}

void Session::Settings() {
  swell_error* error = nullptr;
  const std::string name = bytes_.Text(12);
  swell_sequence_options options = SWELL_SEQUENCE_OPTIONS_INIT;
  const bool small = bytes_.Choose(8) == 0;
  if (small) options.struct_size = bytes_.Take<uint8_t>() % sizeof(options);
  const bool known = std::string(name.c_str()) == "swell" || std::string(name.c_str()) == "retroinfer";
  Expect(known && !small ? Outlook::kAccept : Outlook::kRefuse, swell_preset(name.c_str(), &options, nullptr, &error),
         &error);
  swell_engine_shape shape = SWELL_ENGINE_SHAPE_INIT;
  Expect(Outlook::kAccept, swell_engine_get_shape(engine_, &shape, &error), &error);
  SWELL_FUZZ_CHECK(shape.head_dim == kHeadDim && shape.storage == storage_);
  Expect(Outlook::kRefuse, swell_engine_get_shape(nullptr, &shape, &error), &error);
}

}  // namespace swell_fuzz

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  swell_fuzz::Session(swell_fuzz::Bytes(data, size)).Run();
  return 0;
}
