// See sequence_order.hpp.
#include "sequence_order.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "moesweep/core/error.hpp"
#include "moesweep/core/random.hpp"

namespace moesweep::data {

namespace {

// Streams at one place: the order of a batch, and the windows of its sequences.
constexpr std::uint32_t kOrderLane = 0;
constexpr std::uint32_t kWindowLane = 1;

/// A shuffled 0 .. size-1 (Fisher-Yates), fixed by (seed, purpose, step).
std::vector<std::int64_t> permutation(std::uint64_t seed, Purpose purpose, std::uint32_t step, std::int64_t size) {
  std::vector<std::int64_t> order(static_cast<std::size_t>(size));
  std::iota(order.begin(), order.end(), 0);
  for (std::int64_t i = size - 1; i > 0; --i) {
    const auto words = random_words(seed, purpose, {.step = step, .position = static_cast<std::uint32_t>(i)}, kOrderLane);
    std::swap(order[static_cast<std::size_t>(i)], order[static_cast<std::size_t>(below(i + 1, words[0], words[1]))]);
  }
  return order;
}

}  // namespace

std::int64_t below(std::int64_t bound, std::uint32_t high, std::uint32_t low) {
  __extension__ using Wide = unsigned __int128;
  const std::uint64_t bits = (static_cast<std::uint64_t>(high) << 32) | low;
  return static_cast<std::int64_t>((static_cast<Wide>(bits) * static_cast<std::uint64_t>(bound)) >> 64);
}

std::vector<Slot> training_slots(std::int64_t seed, std::int64_t step, std::int64_t batch_sequences, std::int64_t domains, std::int64_t first,
                                 std::int64_t count) {
  if (batch_sequences % domains != 0)
    throw Error(ErrorKind::config, fmt::format("train.batch_sequences = {} is no multiple of the {} domains", batch_sequences, domains), {},
                fmt::format("every global batch holds equal shares of all domains: take {} or {}",
                            std::max<std::int64_t>(1, batch_sequences / domains) * domains, (batch_sequences / domains + 1) * domains));
  MOESWEEP_ASSERT(first >= 0 && count >= 0 && first + count <= batch_sequences, "a slice outside the global batch");
  const auto order = permutation(static_cast<std::uint64_t>(seed), Purpose::batch, static_cast<std::uint32_t>(step), batch_sequences);
  std::vector<Slot> slots(static_cast<std::size_t>(count));
  for (std::int64_t i = 0; i < count; ++i) {
    const auto place = order[static_cast<std::size_t>(first + i)];
    slots[static_cast<std::size_t>(i)] = {place % domains, place / domains};
  }
  return slots;
}

std::vector<Slot> validation_slots(std::int64_t domains, std::int64_t first, std::int64_t count) {
  MOESWEEP_ASSERT(first >= 0 && count >= 0, "a slice outside the validation set");
  const std::int64_t block_size = kValidationBlockPerDomain * domains;
  std::vector<Slot> slots;
  slots.reserve(static_cast<std::size_t>(count));
  std::vector<std::int64_t> order;
  for (std::int64_t index = first; index < first + count; ++index) {
    const std::int64_t block = index / block_size;
    if (order.empty() || index % block_size == 0) order = permutation(0, Purpose::validation, static_cast<std::uint32_t>(block), block_size);
    const auto place = order[static_cast<std::size_t>(index % block_size)];
    slots.push_back({place % domains, block * kValidationBlockPerDomain + place / domains});
  }
  return slots;
}

std::int64_t validation_sequences_for(std::int64_t tokens, std::int64_t length, std::int64_t domains) {
  const std::int64_t sequences = (tokens + length - 1) / length;
  const std::int64_t block = kValidationBlockPerDomain * domains;
  return (sequences + block - 1) / block * block;
}

std::int64_t training_start(std::int64_t seed, std::int64_t step, std::int64_t index, std::int64_t starts) {
  const auto words = random_words(static_cast<std::uint64_t>(seed), Purpose::batch,
                                  {.step = static_cast<std::uint32_t>(step), .sequence = static_cast<std::uint32_t>(index)}, kWindowLane);
  return below(starts, words[0], words[1]);
}

std::int64_t spread_window(std::int64_t number, std::int64_t windows) {
  // Multiples of a stride near the golden section of a circle fill its gaps evenly (three-distance theorem); coprime, so nothing repeats.
  auto stride = static_cast<std::int64_t>(std::llround(static_cast<double>(windows) * 0.6180339887498949));
  stride = std::max<std::int64_t>(stride, 1);
  while (std::gcd(stride, windows) != 1) ++stride;
  __extension__ using Wide = unsigned __int128;
  return static_cast<std::int64_t>(static_cast<Wide>(number) * static_cast<Wide>(stride) % static_cast<Wide>(windows));
}

}  // namespace moesweep::data
