// See include/moesweep/core/random.hpp.
#include "moesweep/core/random.hpp"

#include <cmath>
#include <numbers>

#include "moesweep/core/error.hpp"

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wpedantic"
#include <Random123/philox.h>
#pragma GCC diagnostic pop

namespace moesweep {

std::array<std::uint32_t, 4> random_words(std::uint64_t seed, Purpose purpose, Place place, std::uint32_t lane) {
  MOESWEEP_ASSERT(lane < 1024 && place.layer < 4096, "a lane or layer outside the counter's room");
  // The key holds the seed; purpose, lane and layer share a counter word with room for 2^10 lanes and 2^12 layers each.
  const r123::Philox4x32::key_type key = {{static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)}};
  const std::uint32_t mixed = (static_cast<std::uint32_t>(purpose) << 22) ^ (place.layer << 10) ^ lane;
  const r123::Philox4x32::ctr_type counter = {{place.position, place.sequence, place.step, mixed}};
  const auto words = r123::Philox4x32()(counter, key);
  return {words[0], words[1], words[2], words[3]};
}

double to_uniform(std::uint32_t high, std::uint32_t low) {
  const std::uint64_t bits = (static_cast<std::uint64_t>(high) << 20) ^ (low >> 12);  // 52 bits
  return (static_cast<double>(bits) + 0.5) * 0x1p-52;
}

std::array<double, 2> to_normals(const std::array<std::uint32_t, 4>& words) {
  const double radius = std::sqrt(-2.0 * std::log(to_uniform(words[0], words[1])));
  const double angle = 2.0 * std::numbers::pi * to_uniform(words[2], words[3]);
  return {radius * std::cos(angle), radius * std::sin(angle)};
}

std::uint64_t stable_number(std::string_view text) {
  std::uint64_t hash = 0xcbf29ce484222325ULL;
  for (const char c : text) {
    hash ^= static_cast<unsigned char>(c);
    hash *= 0x100000001b3ULL;
  }
  return hash;
}

}  // namespace moesweep
