// Words that the tasks draw names from.
#ifndef SWELL_TOOLS_TASKS_WORDS_H_
#define SWELL_TOOLS_TASKS_WORDS_H_

#include <array>

namespace swell::tasks {

constexpr std::array<const char*, 57> kAdjectives = {
    "amber", "azure",  "brisk",  "calm",   "coral",  "crimson", "dusty",  "eager",  "early",  "fancy",
    "feral", "frozen", "gentle", "giant",  "golden", "grand",   "hidden", "hollow", "humble", "icy",
    "ivory", "jolly",  "keen",   "lively", "lone",   "lucky",   "mellow", "misty",  "modern", "narrow",
    "noble", "olden",  "pale",   "plain",  "proud",  "quiet",   "rapid",  "rustic", "sandy",  "scarlet",
    "shady", "silent", "silver", "sleepy", "solid",  "stony",   "sunny",  "swift",  "tidy",   "tiny",
    "urban", "velvet", "vivid",  "wild",   "windy",  "wooden",  "young"};

constexpr std::array<const char*, 77> kNouns = {
    "anchor",  "badger", "bakery",  "barrel", "basin",  "beacon",  "bishop",  "bridge",  "cabin",    "candle",
    "canyon",  "castle", "cellar",  "chapel", "cliff",  "clock",   "comet",   "copper",  "cottage",  "cradle",
    "desert",  "dragon", "eagle",   "engine", "falcon", "farmer",  "ferry",   "forest",  "fountain", "garden",
    "glacier", "hammer", "harbor",  "hermit", "island", "jacket",  "kettle",  "ladder",  "lantern",  "library",
    "maple",   "market", "meadow",  "mirror", "museum", "needle",  "orchard", "otter",   "palace",   "parrot",
    "pepper",  "pilot",  "pirate",  "planet", "pocket", "prairie", "quarry",  "rabbit",  "river",    "saddle",
    "sailor",  "shadow", "shelter", "spider", "stable", "summit",  "temple",  "thunder", "tower",    "tunnel",
    "turtle",  "valley", "violin",  "wagon",  "walrus", "window",  "wizard"};

constexpr std::array<const char*, 5> kSecrets = {"secret code", "magic number", "locker number", "access key",
                                                 "ticket number"};

// Letters of the keys of `lines`; i, l and o are left out.
constexpr char kKeyLetters[] = "abcdefghjkmnpqrstuvwxyz";

}  // namespace swell::tasks

#endif  // SWELL_TOOLS_TASKS_WORDS_H_
