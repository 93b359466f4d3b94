#include "lib/index/graph/project.h"

#include <algorithm>
#include <span>

namespace swell::graph {
namespace {

// Of the keys that stand in very many lists this many places are looked at, evenly over the queries.
constexpr int64_t kMaxPlacesInLists = 128;

// Of the slots that are not for adoption, the part that a key fills itself; the rest is for those that link to it.
constexpr double kOwnShare = 0.75;

// Where keys stand in the lists: entries [first[k], first[k + 1]) are positions in KeyLists::keys, ascending.
struct Occurrences {
  std::vector<int64_t> first;
  std::vector<uint32_t> at;
};

Occurrences FindOccurrences(const KeyLists& lists, int64_t tokens) {
  Occurrences found{std::vector<int64_t>(static_cast<size_t>(tokens) + 1), {}};
  for (const uint32_t key : lists.keys) {
    if (key != kNoKey) ++found.first[key + 1];
  }
  for (int64_t key = 0; key < tokens; ++key) found.first[key + 1] += found.first[key];
  found.at.resize(static_cast<size_t>(found.first.back()));
  std::vector<int64_t> next(found.first.begin(), found.first.end() - 1);
  for (size_t i = 0; i < lists.keys.size(); ++i) {
    if (lists.keys[i] != kNoKey) found.at[next[lists.keys[i]]++] = static_cast<uint32_t>(i);
  }
  return found;
}

// Keys that stand near `key` in a list, without repeats. seen[k] is the last key that k was a neighbour of.
void CollectNeighbours(const KeyLists& lists, std::span<const uint32_t> places, int64_t reach, uint32_t key,
                       std::vector<uint32_t>& seen, std::vector<uint32_t>& neighbours) {
  neighbours.clear();
  seen[key] = key;
  const auto count = static_cast<int64_t>(places.size());
  const int64_t looked_at = std::min(count, kMaxPlacesInLists);
  for (int64_t i = 0; i < looked_at; ++i) {
    const int64_t at = places[i * count / looked_at];
    const int64_t list = at / lists.width * lists.width;
    const int64_t end = std::min(at + reach + 1, list + lists.width);
    for (int64_t other = std::max(at - reach, list); other < end; ++other) {
      const uint32_t neighbour = lists.keys[other];
      if (neighbour == kNoKey || seen[neighbour] == key) continue;
      seen[neighbour] = key;
      neighbours.push_back(neighbour);
    }
  }
}

}  // namespace

void LinkLists(const KeyLists& lists, int64_t reach, int32_t head_dim, const float* places, int64_t tokens,
               int32_t degree, Adjacency& adjacency) {
  const auto own = std::max<int64_t>(1, static_cast<int64_t>((degree - kAdoptionSlots) * kOwnShare));
  const Occurrences occurrences = FindOccurrences(lists, tokens);
  const auto place = [&](uint32_t key) { return places + int64_t{key} * head_dim; };
  std::vector<uint32_t> seen(static_cast<size_t>(tokens), kNoKey), neighbours;
  std::vector<Near> near;
  for (int64_t k = 0; k < tokens; ++k) {
    const auto key = static_cast<uint32_t>(k);
    const std::span<const uint32_t> all(occurrences.at);
    CollectNeighbours(lists, all.subspan(occurrences.first[k], occurrences.first[k + 1] - occurrences.first[k]), reach,
                      key, seen, neighbours);
    near.clear();
    for (const uint32_t other : neighbours)
      near.push_back({SquaredDistance(head_dim, place(key), place(other)), other});
    std::sort(near.begin(), near.end());
    Occlude(place, head_dim, own, near);
    for (const Near& neighbour : near) adjacency.Link(key, neighbour.key, false);
  }
  for (int64_t k = 0; k < tokens; ++k) {
    const auto key = static_cast<uint32_t>(k);
    for (const Slot& slot : adjacency.Slots(key)) {
      const uint32_t neighbour = slot.load(std::memory_order_relaxed);
      if (neighbour != kNoKey) adjacency.Link(neighbour, key, false);
    }
  }
}

}  // namespace swell::graph
