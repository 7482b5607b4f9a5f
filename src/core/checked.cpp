// See include/moesweep/core/checked.hpp.
#include "moesweep/core/checked.hpp"

#include "moesweep/core/error.hpp"

namespace moesweep {

namespace {
std::int64_t checked(bool overflow, std::int64_t result, std::int64_t a, std::int64_t b) {
  if (a < 0 || b < 0 || overflow) throw Error(ErrorKind::corrupt, "a size is negative or too large");
  return result;
}
}  // namespace

std::int64_t checked_sum(std::int64_t a, std::int64_t b) {
  std::int64_t result = 0;
  const bool overflow = __builtin_add_overflow(a, b, &result);
  return checked(overflow, result, a, b);
}

std::int64_t checked_product(std::int64_t a, std::int64_t b) {
  std::int64_t result = 0;
  const bool overflow = __builtin_mul_overflow(a, b, &result);
  return checked(overflow, result, a, b);
}

std::int64_t checked_product(std::span<const std::int64_t> shape) {
  std::int64_t result = 1;
  bool empty = false;
  for (const auto dimension : shape) {
    if (dimension == 0) empty = true;
    else result = checked_product(result, dimension);
  }
  return empty ? 0 : result;
}

}  // namespace moesweep
