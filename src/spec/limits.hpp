// The most that a sweep may ask for, so that a slip of the pen is an error and not the end of the machine.
#pragma once

#include <cstddef>
#include <cstdint>

namespace moesweep::spec {

inline constexpr std::size_t kMostFileBytes = 16 * 1024 * 1024;  ///< one YAML file
inline constexpr std::size_t kMostNodes = 2'000'000;             ///< values in one YAML file, those that aliases repeat included
inline constexpr std::size_t kDeepestNodes = 32;                 ///< lists and mappings inside each other
inline constexpr std::size_t kLongestText = 4096;                ///< characters of a condition or of a derived value
inline constexpr int kDeepestTerms = 64;                         ///< brackets and signs inside each other, in either

/// Limits over a whole sweep; tests set them lower.
struct Limits {
  std::int64_t trials = 10'000'000;  ///< combinations of all blocks, before `exclude` and duplicates
  std::int64_t values = 2'000'000;   ///< what all ranges together, or one sample, stand for
  std::int64_t files = 10'000;       ///< files read, each time that one is named
};

}  // namespace moesweep::spec
