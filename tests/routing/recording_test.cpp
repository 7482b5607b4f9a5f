// Recorded assignments from elsewhere: what does not fit together is refused by name, and nothing of it is taken.
#include "moesweep/routing/recording.hpp"

#include <gtest/gtest.h>

#include <functional>
#include <limits>

#include "moesweep/core/error.hpp"

namespace moesweep::routing {
namespace {

using Flat = Recording::Flat;
constexpr std::int64_t kLeast32 = std::numeric_limits<std::int32_t>::min(), kMost32 = std::numeric_limits<std::int32_t>::max();
constexpr std::int64_t kLeast64 = std::numeric_limits<std::int64_t>::min(), kMost64 = std::numeric_limits<std::int64_t>::max();

/// Two sequences of two tokens, in training and after it; one slot was dropped, one token has no expert.
Flat sound() { return {{-2, 0, 1, 2, 0, 1, 0, 2}, {2, 1, 0, 2}, {3, -1, 0, 2, 1}}; }

Recording::Bounds bounds() {
  Recording::Bounds bounds;
  bounds.least_record = -3;
  bounds.most_record = 1;
  bounds.layers = 2;
  bounds.experts = 4;
  return bounds;
}

TEST(Recording, GivesBackWhatItTook) {
  Recording recording;
  recording.take(sound(), bounds());
  EXPECT_EQ(recording.flat().key, sound().key);
  EXPECT_EQ(recording.flat().slots, sound().slots);
  EXPECT_EQ(recording.flat().expert, sound().expert);
  EXPECT_EQ(recording.experts(), 4);
  EXPECT_TRUE(recording.covers(-2, 0, 0));
  recording.take(sound(), bounds());  // the same again, as when ranks join what a checkpoint gave to each
  EXPECT_EQ(recording.flat().expert, sound().expert);
}

TEST(Recording, RefusesWhatDoesNotFitByName) {
  const struct {
    const char* name;
    std::function<void(Flat&)> damage;
    const char* says;
  } table[] = {
      {"half a row", [](Flat& f) { f.key.pop_back(); }, "key: its numbers are not rows of 4"},
      {"a record before the first", [](Flat& f) { f.key[0] = -4; }, "key[0]: the record is -4, not from -3 to 1"},
      {"a record behind the last", [](Flat& f) { f.key[4] = 2; }, "key[4]: the record is 2"},
      {"a negative layer", [](Flat& f) { f.key[1] = -1; }, "key[1]: the MoE layer is -1, not from 0 to 1"},
      {"a layer that is none", [](Flat& f) { f.key[5] = 2; }, "key[5]: the MoE layer is 2"},
      {"a negative sequence", [](Flat& f) { f.key[2] = -1; }, "key[2]: the sequence is -1"},
      {"a sequence beyond 32 bits", [](Flat& f) { f.key[2] = kMost64; }, "key[2]: the sequence is 9223372036854775807"},
      {"no tokens", [](Flat& f) { f.key[3] = 0; }, "key[3]: the number of tokens is 0"},
      {"negative tokens", [](Flat& f) { f.key[3] = -2; }, "key[3]: the number of tokens is -2"},
      {"endless tokens", [](Flat& f) { f.key[3] = kMost32; }, "key[3]: it names 2147483647 tokens, and slots has 4 left"},
      {"tokens beyond 64 bits", [](Flat& f) { f.key[3] = kLeast64; }, "key[3]: the number of tokens is -9223372036854775808"},
      {"more tokens than there are", [](Flat& f) { f.key[7] = 3; }, "key[7]: it names 3 tokens, and slots has 2 left"},
      {"fewer tokens than there are", [](Flat& f) { f.key[7] = 1; }, "slots[3]: no key names this token"},
      {"a negative number of slots", [](Flat& f) { f.slots[0] = -2; }, "slots[0]: the number of experts of a token is -2"},
      {"endless slots", [](Flat& f) { f.slots[1] = kMost32; }, "slots[1]: a token has 2147483647 experts, and expert has 3 left"},
      {"slots that overflow a sum",
       [](Flat& f) {
         f.slots = {kMost64, kMost64, 2, 0};
       },
       "slots[0]: the number of experts of a token is 9223372036854775807"},
      {"fewer slots than experts", [](Flat& f) { f.slots[3] = 1; }, "expert[4]: no token has this expert"},
      {"an expert that is none", [](Flat& f) { f.expert[0] = 4; }, "expert[0]: an expert (-1 - number: dropped) is 4, not from -4 to 3"},
      {"a dropped expert that is none", [](Flat& f) { f.expert[1] = -5; }, "expert[1]: an expert (-1 - number: dropped) is -5"},
      {"the least number of 32 bits", [](Flat& f) { f.expert[2] = kLeast32; }, "expert[2]: an expert"},
      {"a key that comes twice", [](Flat& f) { f.key[4] = -2, f.key[5] = 0, f.key[6] = 1; },
       "key[4]: record -2, MoE layer 0, sequence 1 are there twice"},
  };
  for (const auto& [name, damage, says] : table) {
    Flat flat = sound();
    damage(flat);
    Recording recording;
    try {
      recording.take(flat, bounds());
      ADD_FAILURE() << name << " was taken";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::corrupt) << name;
      EXPECT_TRUE(error.message().starts_with(says)) << name << ": " << error.message();
    }
    EXPECT_TRUE(recording.empty()) << name;
  }
}

TEST(Recording, CountsTheLargestExpertOf32Bits) {
  Recording recording;
  recording.take({{0, 0, 0, 1}, {1}, {-kMost32}});
  EXPECT_EQ(recording.experts(), kMost32);
  EXPECT_THROW(recording.take({{0, 0, 0, 1}, {1}, {kLeast32}}), Error);
}

}  // namespace
}  // namespace moesweep::routing
