// Values of axes that are computed where the file is read: ranges, and random samples as a pure function of their seed.
#pragma once

#include <cstdint>
#include <string>

#include "keys.hpp"
#include "node.hpp"

namespace moesweep::spec {

/// Whether it is `{linspace: ...}`, `{logspace: ...}` or `{range: ...}`.
bool is_range(const Node& node);

/// The values of a range as the list that could stand in its place:
///   linspace: [first, last, count]   evenly spaced
///   logspace: [first, last, count]   evenly spaced in the logarithm; first and last are values, not exponents
///   range: [first, last, step]       from first on in steps, up to last (included where a step falls on it)
/// At a key of integers, linspace and logspace are rounded to the nearest; numbers elsewhere to 12 significant digits.
/// More than a million, or than `most` (what the ranges of a sweep may still stand for), are an error.
Node range_values(const Node& range, const Key& key, std::int64_t most);

/// Checks `{count: N, seed: S, of: {key: distribution}}` but for the keys and the elements of `choice`, which the caller knows.
void check_sample(const Node& sample);

/// Checks the distribution of one key:
///   uniform: [least, most]   log_uniform: [least, most]   integers: [least, most]   choice: [a, b, ...]
/// `key` is null for a group of sets, which takes a choice alone.
void check_distribution(const Node& distribution, const std::string& path, const Key* key);

/// The draws of a checked sample as `zip` would give them: key -> list of `count` values; more than `most` in all are an error.
Node draw(const Node& sample, std::int64_t most);

}  // namespace moesweep::spec
