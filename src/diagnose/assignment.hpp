// The linear assignment problem, exactly.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace moesweep::diagnose {

/// For a square `gain` [n, n] (row-major): the column of each row in the one-to-one assignment with the largest sum.
/// Shortest augmenting paths (Jonker and Volgenant 1987), O(n^3).
std::vector<std::int64_t> largest_assignment(std::span<const double> gain, std::int64_t n);

}  // namespace moesweep::diagnose
