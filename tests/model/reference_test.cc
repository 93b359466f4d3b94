// The real model on a real engine against tools/assets/reference.json, which PyTorch computed in float32.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>
#include <numeric>
#include <vector>

#include "tests/model/model_files.h"
#include "tools/model/session.h"

namespace swell::model {
namespace {

using Ids = std::vector<TokenId>;

std::vector<TokenId> BestFive(std::span<const float> logits) {
  Ids ids(logits.size());
  std::iota(ids.begin(), ids.end(), 0);
  std::partial_sort(ids.begin(), ids.begin() + 5, ids.end(), [&](TokenId a, TokenId b) {
    return logits[static_cast<size_t>(a)] > logits[static_cast<size_t>(b)];
  });
  ids.resize(5);
  return ids;
}

void ExpectReference(const std::string& variant, const std::string& adapter_path, AttendMode mode, DType storage,
                     double logit_tolerance) {
  const nlohmann::json reference = Reference();
  const nlohmann::json& expected = reference[variant];
  const Ids ids = reference["ids"];
  Result<std::unique_ptr<Model>> model = Model::Load({BasePath(), adapter_path, 0});
  ASSERT_TRUE(model.ok()) << model.status().message();
  EXPECT_EQ(model.value()->shape().rope_base, expected["rope_freq_base"].get<double>());
  EXPECT_EQ(model.value()->shape().context_tokens, adapter_path.empty() ? 8192 : 131072);
  EngineOptions options;
  options.shape = model.value()->EngineShape(storage);
  Result<std::unique_ptr<Engine>> engine = Engine::Open(options);
  ASSERT_TRUE(engine.ok()) << engine.status().message();
  Result<Session> session = Session::Create(*model.value(), *engine.value(), {});
  ASSERT_TRUE(session.ok()) << session.status().message();

  // Position p of the reference is the prediction after ids[p]. The text is read in pieces that end there.
  std::vector<float> nll;
  ASSERT_TRUE(session->Prefill(std::span(ids).first(1), mode).ok());
  for (size_t i = 0; i < expected["positions"].size(); ++i) {
    const size_t end = expected["positions"][i].get<size_t>() + 1;
    const size_t begin = static_cast<size_t>(session->length());
    const Result<std::vector<float>> part = session->Score(std::span(ids).subspan(begin, end - begin), mode);
    ASSERT_TRUE(part.ok()) << part.status().message();
    nll.insert(nll.end(), part.value().begin(), part.value().end());
    const Ids best = expected["top5_ids"][i];
    EXPECT_EQ(BestFive(session->logits())[0], best[0]) << variant << " position " << end - 1;
    for (size_t k = 0; k < best.size(); ++k) {
      EXPECT_NEAR(session->logits()[static_cast<size_t>(best[k])], expected["top5_logits"][i][k].get<double>(),
                  logit_tolerance)
          << variant << " position " << end - 1 << " token " << best[k];
    }
  }
  const auto mean = [&](size_t from) {
    return std::accumulate(nll.begin() + static_cast<int64_t>(from), nll.end(), 0.0) /
           static_cast<double>(nll.size() - from);
  };
  ASSERT_EQ(nll.size(), 2047U);
  const double whole = expected["mean_nll_2048"];
  const double last = expected["nll_last_512"];
  std::printf("%s: mean NLL %.5f (reference %.5f), last 512 %.5f (%.5f)\n", variant.c_str(), mean(0), whole,
              mean(nll.size() - 512), last);
  EXPECT_NEAR(mean(0), whole, 0.005 * whole);
  EXPECT_NEAR(mean(nll.size() - 512), last, 0.005 * last);
}

TEST(Reference, BaseModelInFloat32) {
  SWELL_REQUIRE_BASE_MODEL();
  ExpectReference("base", "", AttendMode::kExact, DType::kFloat32, 0.05);
}

TEST(Reference, AdapterInFloat32) {
  SWELL_REQUIRE_BASE_MODEL();
  ExpectReference("adapter", AssetPath("smollm2-135m-128k-lora.gguf"), AttendMode::kExact, DType::kFloat32, 0.05);
}

TEST(Reference, AdapterWithFloat16Storage) {
  SWELL_REQUIRE_BASE_MODEL();
  ExpectReference("adapter", AssetPath("smollm2-135m-128k-lora.gguf"), AttendMode::kExact, DType::kFloat16, 0.05);
}

}  // namespace
}  // namespace swell::model
