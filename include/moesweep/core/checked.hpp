// Sizes that come from files: sums and products that cannot overflow unseen.
#pragma once

#include <cstdint>
#include <span>

namespace moesweep {

/// a + b and a * b of sizes. A `corrupt` error, without a place, when one is negative or the result does not fit into 64 bits with a sign.
std::int64_t checked_sum(std::int64_t a, std::int64_t b);
std::int64_t checked_product(std::int64_t a, std::int64_t b);

/// The number of elements of a shape, 1 for no dimensions. The same error when a dimension is negative, or when the product of the dimensions
/// that are not 0 does not fit: a shape is not made harmless by a 0 beside a huge dimension.
std::int64_t checked_product(std::span<const std::int64_t> shape);

}  // namespace moesweep
