#include "swell/faiss_index.h"

#include <faiss/IndexFlat.h>
#include <faiss/IndexHNSW.h>
#include <faiss/IndexIVFFlat.h>
#include <faiss/IndexScalarQuantizer.h>
#include <faiss/impl/FaissException.h>
#include <faiss/impl/IDSelector.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <exception>
#include <limits>
#include <mutex>
#include <new>
#include <shared_mutex>
#include <string>
#include <utility>
#include <vector>

#include "lib/index/keys/key_rows.h"
#include "lib/index/keys/key_table.h"

namespace swell {
namespace {

using FaissId = faiss::Index::idx_t;

// FAISS takes threads of its own from OpenMP; a KeyIndex works on the calling thread.
class OneThread {
 public:
  OneThread() : before_(omp_get_max_threads()) { omp_set_num_threads(1); }
  ~OneThread() { omp_set_num_threads(before_); }
  OneThread(const OneThread&) = delete;
  OneThread& operator=(const OneThread&) = delete;

 private:
  const int before_;
};

// Runs `call` and turns what FAISS throws into a status.
template <typename Call>
auto GuardFaiss(Call call) -> decltype(call()) try {
  const OneThread one_thread;
  return call();
} catch (const std::bad_alloc&) {
  return KeyIndexOutOfMemory();
} catch (const std::exception& error) {
  return Status(StatusCode::kInternal, std::string("FAISS: ") + error.what());
}

// FAISS counts the comparisons of HNSW in one variable of the process: whoever counts does so alone.
std::mutex& CountMutex() {
  static std::mutex mutex;
  return mutex;
}

class FaissIndex final : public KeyIndex {
 public:
  FaissIndex(const FaissOptions& options, const KeyTable& keys)
      : kind_(options.kind), storage_(keys.storage), head_dim_(keys.head_dim) {
    if (kind_ == FaissKind::kHnsw) {
      hnsw_ = std::make_unique<faiss::IndexHNSWFlat>(head_dim_, options.size, faiss::METRIC_INNER_PRODUCT);
      return;
    }
    if (kind_ == FaissKind::kFlat) {
      flat_ = std::make_unique<faiss::IndexFlatIP>(head_dim_);
      return;
    }
    coarse_ = std::make_unique<faiss::IndexFlatIP>(head_dim_);
    const auto lists = static_cast<size_t>(options.size);
    if (kind_ == FaissKind::kIvfFlat) {
      ivf_ = std::make_unique<faiss::IndexIVFFlat>(coarse_.get(), head_dim_, lists, faiss::METRIC_INNER_PRODUCT);
    } else {
      ivf_ = std::make_unique<faiss::IndexIVFScalarQuantizer>(
          coarse_.get(), head_dim_, lists, faiss::ScalarQuantizer::QT_8bit, faiss::METRIC_INNER_PRODUCT);
    }
    ivf_->cp.min_points_per_centroid = 1;  // no warnings for short contexts
  }

  Status Train(const std::vector<float>& keys) {
    const auto tokens = static_cast<FaissId>(keys.size()) / head_dim_;
    index()->train(tokens, keys.data());
    index()->add(tokens, keys.data());
    return OkStatus();
  }

  int64_t tokens() const override {
    const std::shared_lock lock(mutex_);
    return index()->ntotal;
  }

  size_t bytes() const override {
    const std::shared_lock lock(mutex_);
    const auto keys = static_cast<size_t>(index()->ntotal);
    const size_t dims = static_cast<size_t>(head_dim_);
    if (flat_ != nullptr) return keys * dims * sizeof(float);
    if (hnsw_ != nullptr) {
      return keys * dims * sizeof(float) + hnsw_->hnsw.neighbors.size() * sizeof(hnsw_->hnsw.neighbors[0]) +
             hnsw_->hnsw.offsets.size() * sizeof(size_t) + hnsw_->hnsw.levels.size() * sizeof(int);
    }
    return keys * (ivf_->code_size + sizeof(FaissId)) + ivf_->nlist * dims * sizeof(float);
  }

  Status Extend(const KeyTable& keys) override {
    return GuardFaiss([&]() -> Status {
      const std::unique_lock lock(mutex_);
      SWELL_RETURN_IF_ERROR(ValidateKeyTable(keys, storage_, head_dim_, index()->ntotal));
      const Result<std::vector<float>> decoded = DecodeKeys(keys);
      if (!decoded.ok()) return decoded.status();
      const FaissId before = index()->ntotal;
      index()->add(keys.tokens - before, decoded->data() + before * head_dim_);
      return OkStatus();
    });
  }

  Status Search(const KeyTable& keys, const float* queries, int64_t n_queries, int64_t top_k,
                const SearchEffort& effort, FoundKey* found, int64_t* scanned) const override {
    return GuardFaiss([&]() -> Status {
      const std::shared_lock lock(mutex_);
      SWELL_RETURN_IF_ERROR(ValidateKeySearch(keys, storage_, head_dim_, 1, queries, n_queries, top_k, found));
      SWELL_RETURN_IF_ERROR(ValidateEffort(effort, n_queries));
      if (n_queries == 0) return OkStatus();
      std::vector<float> products(static_cast<size_t>(n_queries * top_k));
      std::vector<FaissId> tokens(products.size());
      const faiss::IDSelectorRange known(0, keys.tokens);
      const Asked asked{queries, n_queries, top_k, keys.tokens < index()->ntotal ? &known : nullptr};
      int64_t compared = 0;
      if (flat_ != nullptr) {
        compared = SearchFlat(asked, products.data(), tokens.data());
      } else if (hnsw_ != nullptr) {
        compared = SearchHnsw(asked, effort.pool, scanned != nullptr, products.data(), tokens.data());
      } else {
        compared = SearchIvf(asked, effort.pool, products.data(), tokens.data());
      }
      for (size_t i = 0; i < products.size(); ++i) {
        found[i] =
            tokens[i] < 0 ? FoundKey{-1, -std::numeric_limits<float>::infinity()} : FoundKey{tokens[i], products[i]};
      }
      if (scanned != nullptr) *scanned += compared;
      return OkStatus();
    });
  }

 private:
  struct Asked {
    const float* queries;
    int64_t n_queries;
    int64_t top_k;
    const faiss::IDSelector* known;  // null: all keys
  };

  faiss::Index* index() const {
    if (flat_ != nullptr) return flat_.get();
    return hnsw_ != nullptr ? static_cast<faiss::Index*>(hnsw_.get()) : static_cast<faiss::Index*>(ivf_.get());
  }

  int64_t SearchFlat(const Asked& asked, float* products, FaissId* tokens) const {
    faiss::SearchParameters parameters;
    parameters.sel = const_cast<faiss::IDSelector*>(asked.known);  // FAISS only reads it
    flat_->search(asked.n_queries, asked.queries, asked.top_k, products, tokens, &parameters);
    return asked.n_queries * flat_->ntotal;
  }

  int64_t SearchHnsw(const Asked& asked, int64_t pool, bool count, float* products, FaissId* tokens) const {
    faiss::SearchParametersHNSW parameters;
    parameters.efSearch = static_cast<int>(std::max(pool, asked.top_k));
    parameters.sel = const_cast<faiss::IDSelector*>(asked.known);
    if (!count) {
      hnsw_->search(asked.n_queries, asked.queries, asked.top_k, products, tokens, &parameters);
      return 0;
    }
    const std::lock_guard lock(CountMutex());
    faiss::hnsw_stats.reset();
    hnsw_->search(asked.n_queries, asked.queries, asked.top_k, products, tokens, &parameters);
    return asked.n_queries + static_cast<int64_t>(faiss::hnsw_stats.n3);  // the entry point is not in it
  }

  // Compared with: every centroid, and every key of the lists that are probed.
  int64_t SearchIvf(const Asked& asked, int64_t pool, float* products, FaissId* tokens) const {
    faiss::SearchParametersIVF parameters;
    parameters.nprobe = std::min(static_cast<size_t>(pool), ivf_->nlist);
    parameters.sel = const_cast<faiss::IDSelector*>(asked.known);
    const size_t probes = static_cast<size_t>(asked.n_queries) * parameters.nprobe;
    std::vector<float> nearness(probes);
    std::vector<FaissId> lists(probes);
    coarse_->search(asked.n_queries, asked.queries, static_cast<FaissId>(parameters.nprobe), nearness.data(),
                    lists.data());
    ivf_->search_preassigned(asked.n_queries, asked.queries, asked.top_k, lists.data(), nearness.data(), products,
                             tokens, false, &parameters);
    int64_t compared = asked.n_queries * static_cast<int64_t>(ivf_->nlist);
    for (const FaissId list : lists) {
      if (list >= 0) compared += static_cast<int64_t>(ivf_->invlists->list_size(static_cast<size_t>(list)));
    }
    return compared;
  }

  const FaissKind kind_;
  const DType storage_;
  const int32_t head_dim_;
  mutable std::shared_mutex mutex_;
  std::unique_ptr<faiss::IndexFlatIP> flat_;  // or
  std::unique_ptr<faiss::IndexFlatIP> coarse_;
  std::unique_ptr<faiss::IndexIVF> ivf_;  // or
  std::unique_ptr<faiss::IndexHNSWFlat> hnsw_;
};

}  // namespace

Result<std::unique_ptr<KeyIndex>> BuildFaissIndex(const FaissOptions& options, const KeyTable& keys) {
  return GuardFaiss([&]() -> Result<std::unique_ptr<KeyIndex>> {
    SWELL_RETURN_IF_ERROR(ValidateKeyTable(keys, keys.storage, keys.head_dim, 1));
    SWELL_RETURN_IF_ERROR(CheckOption("kind", static_cast<int64_t>(options.kind), 0, 3));
    FaissOptions chosen = options;
    if (options.kind == FaissKind::kFlat) {
      chosen.size = 0;
    } else if (options.kind == FaissKind::kHnsw) {
      if (options.size == 0) chosen.size = 32;
      SWELL_RETURN_IF_ERROR(CheckOption("size", chosen.size, 2, 128));
    } else {
      if (options.size == 0) chosen.size = static_cast<int32_t>(std::sqrt(static_cast<double>(keys.tokens)));
      SWELL_RETURN_IF_ERROR(CheckOption("size", chosen.size, 1, std::numeric_limits<int32_t>::max()));
      chosen.size = static_cast<int32_t>(std::min<int64_t>(chosen.size, keys.tokens));
    }
    const Result<std::vector<float>> decoded = DecodeKeys(keys);
    if (!decoded.ok()) return decoded.status();
    auto index = std::make_unique<FaissIndex>(chosen, keys);
    SWELL_RETURN_IF_ERROR(index->Train(*decoded));
    return std::unique_ptr<KeyIndex>(std::move(index));
  });
}

Result<std::unique_ptr<KeyIndex>> BuildFaissIndexOfKind(IndexKind kind, const KeyTable& keys) {
  switch (kind) {
    case IndexKind::kFaissFlat:
      return BuildFaissIndex({FaissKind::kFlat, 0}, keys);
    case IndexKind::kFaissIvf:
      return BuildFaissIndex({FaissKind::kIvfFlat, 0}, keys);
    case IndexKind::kFaissHnsw:
      return BuildFaissIndex({FaissKind::kHnsw, 0}, keys);
    default:
      return InvalidArgument("kind is none of FAISS");
  }
}

}  // namespace swell
