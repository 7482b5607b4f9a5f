// Counter-based random numbers: a pure function of a seed and a place, so that rank, pass and layout never enter.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace moesweep {

/// What a number is for; two purposes never share a stream.
enum class Purpose : std::uint32_t {
  batch = 1,
  init,
  router_noise,
  random_router,
  synthetic_text,
  validation,
  capacity,
  resampled,
  test,
  router_jitter,
  hash_table,
  sweep_sample,
  simulation,
  claim,
};

/// Where a number is drawn: every field that does not apply stays 0.
struct Place {
  std::uint32_t layer = 0;
  std::uint32_t step = 0;
  std::uint32_t sequence = 0;  ///< index in the global batch
  std::uint32_t position = 0;  ///< token position in the sequence, or element index
};

/// Four independent 32-bit words for (seed, purpose, place): Philox4x32-10 of Salmon et al. 2011.
/// `lane` gives further words at the same place.
std::array<std::uint32_t, 4> random_words(std::uint64_t seed, Purpose purpose, Place place, std::uint32_t lane = 0);

/// A uniform in (0, 1): never 0 and never 1.
double to_uniform(std::uint32_t high, std::uint32_t low);

/// Two standard normals from the four words (Box-Muller).
std::array<double, 2> to_normals(const std::array<std::uint32_t, 4>& words);

/// A stable 64-bit number of a text, for streams named by a parameter (FNV-1a).
std::uint64_t stable_number(std::string_view text);

}  // namespace moesweep
