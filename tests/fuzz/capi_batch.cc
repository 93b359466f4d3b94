// The batched calls of a session: put, attend, search, fetch.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "tests/fuzz/capi_session.h"

namespace swell_fuzz {
namespace {

constexpr swell_status kUntouched = {-7, -7};
constexpr float kUnwritten = 77;  // what outputs hold before a call

// A caller's array of exactly `elements`, so that AddressSanitizer sees what is beyond it.
class Array {
 public:
  Array(swell_dtype dtype, int64_t elements, float fill = 0)
      : dtype_(dtype), bytes_(static_cast<size_t>(std::max<int64_t>(elements, 0) * DTypeBytes(dtype))) {
    if (fill == 0) return;
    for (int64_t i = 0; i < elements; ++i) Set(i, fill);
  }
  void* data() { return bytes_.data(); }
  void Set(int64_t at, float value) { Store(dtype_, bytes_.data(), at, value); }
  float At(int64_t at, float scale = 1) const { return Load(dtype_, bytes_.data(), at, scale); }

 private:
  swell_dtype dtype_;
  std::vector<unsigned char> bytes_;
};

// Where the rows of a put lie.
struct Strides {
  int64_t token = 0;
  int64_t head = 0;
  bool valid = true;
};

Strides TakeStrides(Bytes& bytes, int64_t rows) {
  switch (bytes.Choose(16)) {
    case 0:
      return {kRow + 5, kHeadDim};
    case 1:
      return {kHeadDim, kHeadDim * std::max<int64_t>(rows, 1)};  // head by head
    case 2:
      return {kRow, kHeadDim - 1, false};
    case 3:
      return {-kRow, kHeadDim, false};
    case 4:
      return {INT64_MAX / 2, INT64_MAX / 2, false};
    default:
      return {};
  }
}

int64_t Extent(const Strides& strides, int64_t rows) {
  if (rows == 0 || !strides.valid) return rows * kRow + kRow;
  if (strides.token == 0) return rows * kRow;
  return (rows - 1) * strides.token + (kKvHeads - 1) * strides.head + kHeadDim;
}

int64_t Place(const Strides& strides, int64_t row, int64_t head) {
  if (strides.token == 0 || !strides.valid) return row * kRow + head * kHeadDim;
  return row * strides.token + head * strides.head;
}

// Rows as `seeds` name them.
Array MakeRows(swell_dtype dtype, const Strides& strides, const std::vector<uint16_t>& seeds, bool value) {
  const auto rows = static_cast<int64_t>(seeds.size());
  Array array(dtype, Extent(strides, rows));
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t head = 0; head < kKvHeads; ++head) {
      for (int64_t dim = 0; dim < kHeadDim; ++dim) {
        array.Set(Place(strides, row, head) + dim, Element(seeds[row], value, head, dim));
      }
    }
  }
  return array;
}

Array MakeQueries(Bytes& bytes, swell_dtype dtype, int64_t rows) {
  Array queries(dtype, rows * kHeads * kHeadDim);
  const auto seed = bytes.Take<uint8_t>();
  for (int64_t i = 0; i < rows * kHeads * kHeadDim; ++i) {
    queries.Set(i, static_cast<float>(Eighths(seed, false, i / kHeadDim, i % kHeadDim)) / 8);
  }
  return queries;
}

// float64 reference of the output of one query head over the first `visible` tokens.
void CheckExact(const std::vector<uint16_t>& tokens, int64_t visible, const Array& queries, int64_t query,
                int64_t kv_head, const Array& output, float tolerance) {
  double sum = 0;
  double out[kHeadDim] = {};
  for (int64_t t = 0; t < visible; ++t) {
    double logit = 0;
    for (int64_t d = 0; d < kHeadDim; ++d) {
      logit += double{queries.At(query * kHeadDim + d)} * Element(tokens[t], false, kv_head, d);
    }
    const double weight = std::exp(logit / 4);  // at most e^16, scale 1 / sqrt(16)
    sum += weight;
    for (int64_t d = 0; d < kHeadDim; ++d) out[d] += weight * Element(tokens[t], true, kv_head, d);
  }
  for (int64_t d = 0; d < kHeadDim; ++d) {
    SWELL_FUZZ_CHECK(std::abs(output.At(query * kHeadDim + d) - out[d] / sum) <= tolerance);
  }
}

bool AnyLarge(const std::vector<uint16_t>& tokens) {
  return std::any_of(tokens.begin(), tokens.end(), [](uint16_t seed) { return seed >= kLarge; });
}

Outlook Worse(Outlook a, Outlook b) {
  if (a == Outlook::kRefuse || b == Outlook::kRefuse) return Outlook::kRefuse;
  return a == Outlook::kEither || b == Outlook::kEither ? Outlook::kEither : Outlook::kAccept;
}

Outlook AcceptIf(bool valid) { return valid ? Outlook::kAccept : Outlook::kRefuse; }

}  // namespace

void Session::ExpectBatch(Outlook call, const std::vector<Outlook>& items, swell_code code, swell_error** error) {
  const int64_t item = swell_error_item(*error);
  const bool as_a_whole = code != SWELL_OK && item < 0;
  if (call == Outlook::kAccept) SWELL_FUZZ_CHECK(!as_a_whole);
  if (call == Outlook::kRefuse) SWELL_FUZZ_CHECK(as_a_whole);
  bool found = false;
  for (size_t i = 0; i < items.size(); ++i) {
    const swell_status& status = statuses_[i];
    if (as_a_whole) {
      SWELL_FUZZ_CHECK(status.code == kUntouched.code && status.detail == kUntouched.detail);
      continue;
    }
    const bool over = status.detail == SWELL_DETAIL_OVER_BUDGET;
    SWELL_FUZZ_CHECK(!over || budget_);
    if (items[i] == Outlook::kAccept) SWELL_FUZZ_CHECK(status.code == SWELL_OK || over);
    if (items[i] == Outlook::kRefuse) SWELL_FUZZ_CHECK(status.code > SWELL_OK);
    if (status.code == SWELL_OK || found) continue;
    found = true;
    SWELL_FUZZ_CHECK(item == static_cast<int64_t>(i) && code == status.code);
  }
  if (!as_a_whole) SWELL_FUZZ_CHECK(found == (code != SWELL_OK));
  Expect(Outlook::kEither, code, error);
}

void Session::Put() {
  swell_put_args args = SWELL_PUT_ARGS_INIT;
  args.layer = bytes_.Choose(kLayers);
  const int kind = bytes_.Choose(16);
  args.dtype = kind < 8 ? storage_ : kind < 11 ? SWELL_FLOAT32 : kind % 5;
  const bool known = args.dtype <= SWELL_INT8;
  const swell_dtype dtype = known ? args.dtype : SWELL_FLOAT32;  // of the arrays
  const bool large = bytes_.Choose(32) == 0 && (dtype == SWELL_FLOAT32 || dtype == SWELL_BFLOAT16);
  std::vector<swell_put_item> items(static_cast<size_t>(1 + bytes_.Choose(8) / 7));
  std::vector<Model*> owners;
  std::vector<Outlook> outlooks;
  std::vector<uint16_t> seeds;
  for (swell_put_item& item : items) {
    swell_sequence id = 0;
    Model& slot = Pick(&id);
    const auto length = static_cast<int64_t>(slot.live ? slot.tokens[args.layer].size() : 0);
    const int how = bytes_.Choose(16);
    const int64_t tokens = bytes_.Choose(50);
    item = {id, how == 0 ? bytes_.Take<int8_t>() : length, how == 1 ? INT64_MAX - 1 : tokens,
            static_cast<int64_t>(seeds.size())};
    const auto first = static_cast<uint16_t>(bytes_.Take<uint8_t>() << 6);
    for (int64_t t = 0; t < tokens; ++t) seeds.push_back(static_cast<uint16_t>((first + t) | (large ? kLarge : 0)));
    const bool fits = !(large && storage_ == SWELL_FLOAT16) && (dtype != SWELL_INT8 || storage_ == SWELL_INT8);
    Outlook outlook =
        AcceptIf(slot.live && item.tokens > 0 && item.tokens == tokens && item.position == length && fits);
    if (owners.size() == 1 && owners[0]->id == id) outlook = Worse(outlook, Outlook::kEither);
    owners.push_back(&slot);
    outlooks.push_back(outlook);
    if (length + tokens > kMaxTokens) return;
  }
  args.n_items = static_cast<int64_t>(items.size());
  args.n_rows = static_cast<int64_t>(seeds.size());
  const Strides strides = TakeStrides(bytes_, args.n_rows);
  args.key_token_stride = strides.token;
  args.key_head_stride = strides.head;
  Array keys = MakeRows(dtype, strides, seeds, false);
  Array values = MakeRows(dtype, {}, seeds, true);
  if (bytes_.Choose(32) == 0 && !seeds.empty() && dtype == SWELL_FLOAT32) {
    values.Set(0, std::numeric_limits<float>::quiet_NaN());  // row 0 is of the first item that has rows
    for (size_t i = 0; i < items.size(); ++i) {
      if (items[i].first_row == 0 && items[i].tokens > 0) outlooks[i] = Outlook::kRefuse;
    }
  }
  for (Outlook& outlook : outlooks) outlook = Worse(outlook, strides.valid ? outlook : Outlook::kRefuse);
  const std::vector<float> scales(seeds.size() * kKvHeads, 0.125F);
  const float* given = dtype == SWELL_INT8 ? scales.data() : nullptr;
  const Damage damage = TakeDamage(bytes_);
  Call<swell_put_args, swell_put_item> call(engine_, args, items, damage);
  statuses_.assign(items.size(), kUntouched);
  const bool no_statuses = damage == Damage::kNone && items.size() == 1 && bytes_.Choose(4) == 0;
  swell_error* error = nullptr;
  const swell_code code = swell_put(call.engine(), call.args(), call.items(), keys.data(), values.data(), given, given,
                                    no_statuses ? nullptr : statuses_.data(), &error);
  Outlook whole = AcceptIf(Harmless(damage) && known);
  // Strides are refused with the call or item by item.
  if (!strides.valid) whole = Worse(whole, Outlook::kEither);
  if (no_statuses && swell_error_item(error) == 0) statuses_[0] = {code, swell_error_detail(error)};
  if (no_statuses && code == SWELL_OK) statuses_[0] = {SWELL_OK, SWELL_DETAIL_NONE};
  ExpectBatch(whole, outlooks, code, &error);
  for (size_t i = 0; i < items.size(); ++i) {
    if (statuses_[i].code != SWELL_OK) continue;
    std::vector<uint16_t>& tokens = owners[i]->tokens[args.layer];
    const auto first = seeds.begin() + items[i].first_row;
    tokens.insert(tokens.end(), first, first + items[i].tokens);
  }
}

void Session::Attend() {
  swell_attend_args args = SWELL_ATTEND_ARGS_INIT;
  args.layer = bytes_.Choose(kLayers);
  const int kind = bytes_.Choose(32);
  args.query_dtype = kind < 24 ? SWELL_FLOAT32 : kind % 5;
  args.output_dtype = kind < 20 ? SWELL_FLOAT32 : kind / 4 % 4;
  const auto is_float = [](swell_dtype dtype) { return dtype >= 0 && dtype < SWELL_INT8; };
  const swell_dtype query_dtype = is_float(args.query_dtype) ? args.query_dtype : SWELL_FLOAT32;
  const swell_dtype output_dtype = is_float(args.output_dtype) ? args.output_dtype : SWELL_FLOAT32;
  std::vector<swell_attend_item> items(static_cast<size_t>(1 + bytes_.Choose(8) / 7));
  std::vector<Model*> owners;
  std::vector<Outlook> outlooks;
  int64_t rows = 0;
  bool overlap = false;
  for (swell_attend_item& item : items) {
    swell_sequence id = 0;
    Model& slot = Pick(&id);
    const auto length = static_cast<int64_t>(slot.live ? slot.tokens[args.layer].size() : 0);
    const int how = bytes_.Choose(32);
    item.sequence = id;
    item.n_queries = how == 0 ? 0 : how == 1 ? -1 : 1 + how % 3;
    item.mode = how / 4 % 2;
    if (how == 31) item.mode = 2;
    item.first_row = how == 30 ? 0 : rows;
    item.retrieval = how % 2 == 0 ? retrieval_ : nullptr;
    item.reserved = how == 29 ? 1 : 0;
    overlap = overlap || (how == 30 && rows > 0);
    rows = std::max(rows, item.first_row + item.n_queries);
    Outlook outlook =
        AcceptIf(slot.live && item.n_queries > 0 && item.n_queries <= length && item.mode < 2 && item.reserved == 0);
    if (item.retrieval != nullptr) outlook = Worse(outlook, Outlook::kEither);
    if (output_dtype == SWELL_FLOAT16 && AnyLarge(slot.tokens[args.layer])) outlook = Worse(outlook, Outlook::kEither);
    owners.push_back(&slot);
    outlooks.push_back(outlook);
  }
  args.n_items = static_cast<int64_t>(items.size());
  args.n_rows = rows + bytes_.Choose(2);  // rows that no item owns
  Array queries = MakeQueries(bytes_, query_dtype, args.n_rows);
  Array output(output_dtype, args.n_rows * kHeads * kHeadDim, 1.5F);
  std::vector<float> lse(static_cast<size_t>(args.n_rows) * kHeads, kUnwritten);
  std::vector<swell_certificate> certificates(lse.size(), {-1, -1, -1, 0, 0});
  const Damage damage = TakeDamage(bytes_);
  Call<swell_attend_args, swell_attend_item> call(engine_, args, items, damage);
  statuses_.assign(items.size(), kUntouched);
  swell_error* error = nullptr;
  const swell_code code = swell_attend(call.engine(), call.args(), call.items(), queries.data(), output.data(),
                                       lse.data(), certificates.data(), statuses_.data(), &error);
  Outlook whole = AcceptIf(Harmless(damage) && is_float(args.query_dtype) && is_float(args.output_dtype));
  if (overlap) whole = Worse(whole, Outlook::kEither);
  ExpectBatch(whole, outlooks, code, &error);
  std::vector<bool> owned(static_cast<size_t>(args.n_rows));
  for (size_t i = 0; i < items.size(); ++i) {
    const swell_attend_item& item = items[i];
    if (statuses_[i].code == SWELL_OUT_OF_RANGE) return;  // its rows are undefined
    if (statuses_[i].code != SWELL_OK) continue;
    const std::vector<uint16_t>& tokens = owners[i]->tokens[args.layer];
    const bool large = AnyLarge(tokens);
    for (int64_t q = 0; q < item.n_queries; ++q) {
      const int64_t visible = static_cast<int64_t>(tokens.size()) - item.n_queries + q + 1;
      owned[static_cast<size_t>(item.first_row + q)] = true;
      for (int64_t h = 0; h < kHeads; ++h) {
        const int64_t at = (item.first_row + q) * kHeads + h;
        const swell_certificate& certificate = certificates[static_cast<size_t>(at)];
        SWELL_FUZZ_CHECK(std::isfinite(lse[static_cast<size_t>(at)]));
        for (int64_t d = 0; d < kHeadDim; ++d) SWELL_FUZZ_CHECK(std::isfinite(output.At(at * kHeadDim + d)));
        SWELL_FUZZ_CHECK(certificate.tokens_visible == visible && certificate.bytes_read >= 0);
        SWELL_FUZZ_CHECK(certificate.tokens_read >= 0 && certificate.tokens_read <= visible);
        SWELL_FUZZ_CHECK(certificate.estimated_share >= 0 && certificate.estimated_share <= 1.0001F);
        SWELL_FUZZ_CHECK(certificate.predicted_error >= 0 && (large || std::isfinite(certificate.predicted_error)));
        if (item.mode != SWELL_ATTEND_EXACT || large) continue;
        SWELL_FUZZ_CHECK(certificate.tokens_read == visible && certificate.estimated_share == 0);
        const float tolerance = storage_ == SWELL_INT8 ? 0.2F : output_dtype == SWELL_FLOAT32 ? 1e-3F : 0.02F;
        CheckExact(tokens, visible, queries, at, h / kGroup, output, tolerance);
      }
    }
  }
  for (int64_t row = 0; row < args.n_rows; ++row) {
    if (owned[static_cast<size_t>(row)]) continue;
    SWELL_FUZZ_CHECK(lse[static_cast<size_t>(row * kHeads)] == kUnwritten);
    SWELL_FUZZ_CHECK(output.At(row * kHeads * kHeadDim) == 1.5F);
    SWELL_FUZZ_CHECK(certificates[static_cast<size_t>(row * kHeads)].bytes_read == -1);
  }
}

void Session::Search() {
  swell_search_args args = SWELL_SEARCH_ARGS_INIT;
  args.layer = bytes_.Choose(kLayers);
  const int how = bytes_.Choose(32);
  args.query_dtype = SWELL_FLOAT32;
  args.n_items = 1;
  args.n_rows = 1;
  args.top_k = how == 31 ? bytes_.Take<int64_t>() : how % 9;
  swell_sequence id = 0;
  const Model& slot = Pick(&id);
  const std::vector<uint16_t>& seeds = slot.tokens[args.layer];
  swell_search_item item = {id, how == 30 ? 1 : 0, how % 3 == 0 ? retrieval_ : nullptr, how / 4 % 2, 0};
  const int64_t capacity = how == 31 ? 8 : args.top_k;
  if (how == 31) args.top_k = std::min<int64_t>(args.top_k, 0) + (args.top_k > 0 ? INT64_MAX / 4 : 0);
  Array queries = MakeQueries(bytes_, SWELL_FLOAT32, 1);
  std::vector<int64_t> tokens(static_cast<size_t>(kHeads * capacity), -9);
  std::vector<float> logits(tokens.size(), kUnwritten);
  const Damage damage = TakeDamage(bytes_);
  const std::vector<swell_search_item> items = {item};
  Call<swell_search_args, swell_search_item> call(engine_, args, items, damage);
  statuses_.assign(1, kUntouched);
  swell_error* error = nullptr;
  const swell_code code = swell_search(call.engine(), call.args(), call.items(), queries.data(), tokens.data(),
                                       logits.data(), statuses_.data(), &error);
  Outlook outlook = AcceptIf(slot.live && how != 30);
  if (item.retrieval != nullptr || seeds.empty()) outlook = Worse(outlook, Outlook::kEither);
  ExpectBatch(AcceptIf(Harmless(damage) && args.top_k > 0 && how != 31), {outlook}, code, &error);
  if (code != SWELL_OK) {
    for (const int64_t token : tokens) SWELL_FUZZ_CHECK(token == -9);
    return;
  }
  const auto length = static_cast<int64_t>(seeds.size());
  for (int64_t head = 0; head < kHeads; ++head) {
    const int64_t* found = tokens.data() + head * args.top_k;
    const float* logit = logits.data() + head * args.top_k;
    for (int64_t k = 0; k < args.top_k; ++k) {
      SWELL_FUZZ_CHECK(found[k] >= -1 && found[k] < length && (k == 0 || logit[k] <= logit[k - 1]));
      SWELL_FUZZ_CHECK(found[k] >= 0 ? std::isfinite(logit[k]) : logit[k] == -std::numeric_limits<float>::infinity());
      SWELL_FUZZ_CHECK(found[k] < 0 || std::find(found, found + k, found[k]) == found + k);
      if (item.mode == SWELL_ATTEND_EXACT) SWELL_FUZZ_CHECK((found[k] >= 0) == (k < length));
    }
  }
}

void Session::Fetch() {
  swell_fetch_args args = SWELL_FETCH_ARGS_INIT;
  args.layer = bytes_.Choose(kLayers);
  const int how = bytes_.Choose(16);
  args.dtype = how < 6 ? storage_ : how < 14 ? SWELL_FLOAT32 : how % 5;
  const bool fits = args.dtype == storage_ || args.dtype == SWELL_FLOAT32;
  swell_sequence id = 0;
  const Model& slot = Pick(&id);
  const std::vector<uint16_t>& seeds = slot.tokens[args.layer];
  const auto length = static_cast<int64_t>(seeds.size());
  std::vector<int64_t> tokens(static_cast<size_t>(bytes_.Choose(12)));
  bool within = true;
  for (int64_t& token : tokens) {
    const auto choice = bytes_.Take<uint8_t>();
    token = choice == 255 ? bytes_.Take<int64_t>() : length == 0 ? choice : choice * 5 % length;
    within = within && token >= 0 && token < length;
  }
  const auto n_tokens = static_cast<int64_t>(tokens.size());
  const std::vector<swell_fetch_item> items = {{id, n_tokens, 0}};
  args.n_items = 1;
  args.n_rows = n_tokens;
  const swell_dtype dtype = fits ? args.dtype : SWELL_FLOAT32;  // of the arrays
  Array keys(dtype, n_tokens * kRow, 1.5F);
  Array values(dtype, n_tokens * kRow, 1.5F);
  std::vector<float> key_scales(static_cast<size_t>(n_tokens) * kKvHeads, 1);
  std::vector<float> value_scales(key_scales);
  const bool scaled = dtype == SWELL_INT8;
  const Damage damage = TakeDamage(bytes_);
  Call<swell_fetch_args, swell_fetch_item> call(engine_, args, items, damage);
  statuses_.assign(1, kUntouched);
  swell_error* error = nullptr;
  const swell_code code = swell_fetch(call.engine(), call.args(), call.items(), tokens.data(), keys.data(),
                                      values.data(), scaled ? key_scales.data() : nullptr,
                                      scaled ? value_scales.data() : nullptr, statuses_.data(), &error);
  ExpectBatch(AcceptIf(Harmless(damage) && fits), {AcceptIf(slot.live && within)}, code, &error);
  for (int64_t i = 0; i < n_tokens * kRow; ++i) {
    const int64_t row = i / kHeadDim;
    if (code != SWELL_OK) {
      SWELL_FUZZ_CHECK(keys.At(i) == (scaled ? 12 : 1.5F));
      continue;
    }
    const uint16_t seed = seeds[static_cast<size_t>(tokens[static_cast<size_t>(i / kRow)])];
    const auto expect = [&](bool value, float found) {
      SWELL_FUZZ_CHECK(std::abs(found - Element(seed, value, row % kKvHeads, i % kHeadDim)) <=
                       Tolerance(seed, storage_));
    };
    expect(false, keys.At(i, key_scales[static_cast<size_t>(row)]));
    expect(true, values.At(i, value_scales[static_cast<size_t>(row)]));
  }
}

}  // namespace swell_fuzz
