// Counter-based random numbers: known answers of Random123, independence of places, moments, Box-Muller.
#include "moesweep/core/random.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <numbers>
#include <set>

namespace moesweep {

TEST(Random, PhiloxKnownAnswer) {
  // Random123's kat_vectors: philox4x32 10 rounds, counter and key 0 -> 6627e8d5 e169c58d bc57ac4c 9b00dbd8. A purpose of 0 gives the zero counter.
  const auto words = random_words(0, static_cast<Purpose>(0), {});
  EXPECT_EQ(words, (std::array<std::uint32_t, 4>{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
}

TEST(Random, EveryPartOfThePlaceMatters) {
  std::set<std::array<std::uint32_t, 4>> seen;
  std::size_t made = 0;
  const auto add = [&](const std::array<std::uint32_t, 4>& words) { ++made, seen.insert(words); };
  for (std::uint64_t seed : {0ULL, 1ULL, 1ULL << 32, ~0ULL}) add(random_words(seed, Purpose::batch, {1, 2, 3, 4}));
  for (std::uint32_t purpose = 2; purpose < 10; ++purpose) add(random_words(1, static_cast<Purpose>(purpose), {1, 2, 3, 4}));
  for (std::uint32_t i = 5; i < 10; ++i) {
    add(random_words(1, Purpose::batch, {i, 2, 3, 4}));
    add(random_words(1, Purpose::batch, {1, i, 3, 4}));
    add(random_words(1, Purpose::batch, {1, 2, i, 4}));
    add(random_words(1, Purpose::batch, {1, 2, 3, i}));
    add(random_words(1, Purpose::batch, {1, 2, 3, 4}, i));
  }
  EXPECT_EQ(seen.size(), made);
  EXPECT_EQ(random_words(5, Purpose::init, {1, 2, 3, 4}), random_words(5, Purpose::init, {1, 2, 3, 4}));
}

TEST(Random, LayersLanesAndPurposesShareAWordWithoutMeeting) {
  std::set<std::array<std::uint32_t, 4>> seen;
  for (std::uint32_t purpose = 1; purpose < 10; ++purpose)
    for (std::uint32_t layer : {0u, 1u, 1023u, 4095u})
      for (std::uint32_t lane : {0u, 1u, 511u, 1023u}) seen.insert(random_words(1, static_cast<Purpose>(purpose), {layer, 0, 0, 0}, lane));
  EXPECT_EQ(seen.size(), 9u * 4 * 4);
}

TEST(Random, UniformIsInsideTheOpenInterval) {
  EXPECT_GT(to_uniform(0, 0), 0.0);
  EXPECT_LT(to_uniform(~0u, ~0u), 1.0);
  EXPECT_NEAR(to_uniform(1u << 31, 0), 0.5, 1e-15);
  EXPECT_GT(to_uniform(0, 1u << 12), to_uniform(0, 0));  // the low word counts
}

TEST(Random, UniformsAndNormalsHaveTheirMoments) {
  constexpr int kCount = 100'000;
  double uniform = 0, uniform2 = 0, normal = 0, normal2 = 0, normal4 = 0;
  for (std::uint32_t i = 0; i < kCount; ++i) {
    const auto words = random_words(7, Purpose::test, {0, 0, 0, i});
    const double u = to_uniform(words[0], words[1]);
    uniform += u, uniform2 += u * u;
    for (const double x : to_normals(words)) normal += x, normal2 += x * x, normal4 += x * x * x * x;
  }
  const double root = std::sqrt(static_cast<double>(kCount));  // five standard errors each
  EXPECT_NEAR(uniform / kCount, 0.5, 5 * std::sqrt(1 / 12.0) / root);
  EXPECT_NEAR(uniform2 / kCount, 1 / 3.0, 5 * std::sqrt(4 / 45.0) / root);
  EXPECT_NEAR(normal / (2 * kCount), 0, 5 / (root * std::numbers::sqrt2));
  EXPECT_NEAR(normal2 / (2 * kCount), 1, 5 / root);
  EXPECT_NEAR(normal4 / (2 * kCount), 3, 5 * std::sqrt(96 / 2.0) / root);
}

TEST(Random, BoxMullerIsTheClosedForm) {
  const std::array<std::uint32_t, 4> words{1u << 31, 0, 1u << 30, 0};  // u = 1/2, v = 1/4: radius sqrt(2 log 2), angle pi / 2
  const auto [x, y] = to_normals(words);
  EXPECT_NEAR(x, 0.0, 1e-12);
  EXPECT_NEAR(y, std::sqrt(2 * std::numbers::ln2), 1e-12);
}

TEST(Random, StableNumberIsFnv1a) {
  EXPECT_EQ(stable_number(""), 0xcbf29ce484222325ULL);
  EXPECT_EQ(stable_number("a"), 0xaf63dc4c8601ec8cULL);
  EXPECT_EQ(stable_number("foobar"), 0x85944171f73967e8ULL);
}

}  // namespace moesweep
