// Selection against a full sort.
#include <numeric>

#include "tests/attention/support.h"

namespace swell::attention {
namespace {

struct Selection {
  std::vector<Zone> zones;
  int64_t tokens = 0;
};

// Sorts by falling importance, ties by number, and walks the order as attention.h says.
Selection SelectBySorting(const std::vector<float>& importance, const std::vector<uint32_t>& sizes, BudgetUnit unit,
                          int64_t budget, float least, int64_t estimate) {
  std::vector<int64_t> order(importance.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return importance[a] > importance[b]; });
  Selection result;
  result.zones.assign(importance.size(), Zone::kDropped);
  size_t rank = 0;
  for (int64_t spent = 0; rank < order.size() && spent < budget; ++rank) {
    const int64_t weight = unit == BudgetUnit::kTokens ? sizes[order[rank]] : 1;
    if (importance[order[rank]] < least) break;
    if (spent + weight > budget && 2 * (budget - spent) < weight && rank > 0) break;
    result.zones[order[rank]] = Zone::kRetrieved;
    result.tokens += sizes[order[rank]];
    spent += weight;
  }
  for (; rank < order.size() && estimate > 0; ++rank, --estimate) result.zones[order[rank]] = Zone::kEstimated;
  return result;
}

class SelectTest : public testing::Test {
 protected:
  // With every cluster eligible, and with those above some cluster's importance.
  void Check(const std::vector<float>& importance, const std::vector<uint32_t>& sizes, BudgetUnit unit, int64_t budget,
             int64_t estimate) {
    CheckFrom(kLeastImportance, importance, sizes, unit, budget, estimate);
    if (HasFatalFailure()) return;
    const float some = importance[random_.Below(static_cast<int64_t>(importance.size()))];
    CheckFrom(some, importance, sizes, unit, budget, estimate);
  }

  void CheckFrom(float least, const std::vector<float>& importance, const std::vector<uint32_t>& sizes, BudgetUnit unit,
                 int64_t budget, int64_t estimate) {
    const int64_t clusters = importance.size();
    SCOPED_TRACE(testing::Message() << "seed " << kSeed << " clusters " << clusters << " budget " << budget
                                    << " estimate " << estimate << " unit " << static_cast<int>(unit) << " least "
                                    << least);
    std::vector<Zone> zones(clusters + 1, static_cast<Zone>(77));
    std::vector<uint32_t> scratch(clusters + 1, 123456789);
    const Retrieved retrieved = SelectClusters(clusters, importance.data(), sizes.data(), unit, budget, least, estimate,
                                               zones.data(), scratch.data());
    ASSERT_EQ(zones.back(), static_cast<Zone>(77));
    ASSERT_EQ(scratch.back(), 123456789u);
    zones.pop_back();
    const Selection expected = SelectBySorting(importance, sizes, unit, budget, least, estimate);
    ASSERT_EQ(retrieved.tokens, expected.tokens);
    ASSERT_EQ(retrieved.clusters, std::count(zones.begin(), zones.end(), Zone::kRetrieved));
    ASSERT_EQ(zones, expected.zones);
  }

  Random random_{kSeed};
};

TEST_F(SelectTest, AgreesWithAFullSort) {
  for (int round = 0; round < 600; ++round) {
    const int64_t clusters = 1 + random_.Below(round % 10 == 0 ? 5000 : 60);
    std::vector<float> importance(clusters);
    std::vector<uint32_t> sizes(clusters);
    int64_t tokens = 0;
    for (int64_t j = 0; j < clusters; ++j) {
      switch (round % 4) {
        case 0:
          importance[j] = std::exp(8 * random_.Normal() - 10);
          break;
        case 1:
          importance[j] = static_cast<float>(random_.Below(4)) / 4;
          break;  // many ties, zeros among them
        case 2:
          importance[j] = 0.25f;
          break;
        default:
          importance[j] = 0.5f + 0x1p-23f * random_.Below(64);
          break;  // differ in the last bits only
      }
      sizes[j] = 1 + random_.Below(round % 3 == 0 ? 100 : 12);
      tokens += sizes[j];
    }
    const int64_t estimate = random_.Below(2) ? random_.Below(clusters + 3) : clusters;
    for (BudgetUnit unit : {BudgetUnit::kTokens, BudgetUnit::kClusters}) {
      const int64_t all = unit == BudgetUnit::kTokens ? tokens : clusters;
      for (int64_t budget : {int64_t{0}, int64_t{1}, random_.Below(all + 1), all - 1, all, all + 5}) {
        Check(importance, sizes, unit, budget, estimate);
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST_F(SelectTest, CrossingClusterIsTakenWhenHalfOfItFits) {
  const std::vector<float> importance = {0.5f, 0.3f, 0.2f};
  const std::vector<uint32_t> sizes = {10, 8, 4};
  Check(importance, sizes, BudgetUnit::kTokens, 14, 3);  // half of the second fits
  Check(importance, sizes, BudgetUnit::kTokens, 13, 3);  // less than half
  Check(importance, sizes, BudgetUnit::kTokens, 1, 1);   // the first one always
  Check(importance, sizes, BudgetUnit::kTokens, 0, 2);
}

TEST_F(SelectTest, NoClusters) {
  EXPECT_EQ(
      SelectClusters(0, nullptr, nullptr, BudgetUnit::kTokens, 100, kLeastImportance, 10, nullptr, nullptr).clusters,
      0);
}

// Padding is never chosen, and does not keep all real clusters from being so.
TEST_F(SelectTest, PaddingIsNoCluster) {
  for (int round = 0; round < 200; ++round) {
    const int64_t tiles = 1 + random_.Below(round % 10 == 0 ? 200 : 6);
    std::vector<float> importance, real_importance;
    std::vector<uint32_t> sizes, real_sizes;
    for (int64_t tile = 0; tile < tiles; ++tile) {
      const int64_t clusters = 1 + random_.Below(kClusterTile);
      for (int64_t j = 0; j < kClusterTile; ++j) {
        importance.push_back(j < clusters ? random_.Normal() : -kInf);
        sizes.push_back(j < clusters ? 1 + random_.Below(12) : 0);
        if (j >= clusters) continue;
        real_importance.push_back(importance.back());
        real_sizes.push_back(sizes.back());
      }
    }
    for (BudgetUnit unit : {BudgetUnit::kTokens, BudgetUnit::kClusters}) {
      const auto clusters = static_cast<int64_t>(real_sizes.size());
      const int64_t all =
          unit == BudgetUnit::kClusters ? clusters : std::accumulate(real_sizes.begin(), real_sizes.end(), int64_t{0});
      for (int64_t budget : {int64_t{0}, random_.Below(all + 1), all}) {
        for (int64_t estimate : {int64_t{0}, random_.Below(clusters + 1), clusters}) {
          const float least = random_.Below(2) == 0 ? kLeastImportance : random_.Normal();
          std::vector<Zone> zones(importance.size()), real_zones;
          std::vector<uint32_t> scratch(importance.size());
          const Retrieved retrieved =
              SelectClusters(static_cast<int64_t>(zones.size()), importance.data(), sizes.data(), unit, budget, least,
                             estimate, zones.data(), scratch.data());
          for (size_t j = 0; j < zones.size(); ++j) {
            if (sizes[j] > 0) real_zones.push_back(zones[j]);
          }
          const Selection expected = SelectBySorting(real_importance, real_sizes, unit, budget, least, estimate);
          ASSERT_EQ(retrieved.tokens, expected.tokens);
          ASSERT_EQ(real_zones, expected.zones);
        }
      }
    }
  }
}

TEST_F(SelectTest, ExtremeValues) {
  const std::vector<float> importance = {0.0f, -0.0f, 1e-45f, 3e38f, kInf, -1.0f, 1e-38f};
  const std::vector<uint32_t> sizes(importance.size(), 1);
  for (int64_t budget = 0; budget <= 7; ++budget) Check(importance, sizes, BudgetUnit::kTokens, budget, 2);
  Check(importance, sizes, BudgetUnit::kTokens, std::numeric_limits<int64_t>::max(), 2);
  Check(importance, sizes, BudgetUnit::kTokens, 2, std::numeric_limits<int64_t>::max());
}

}  // namespace
}  // namespace swell::attention
