// Which domain and which piece of its text each sequence of a batch takes: pure functions of counters.
#pragma once

#include <cstdint>
#include <vector>

namespace moesweep::data {

/// One sequence of a batch: its domain, and a number that is unique among the batch's (or the validation set's) sequences of that domain.
struct Slot {
  std::int64_t domain = 0;
  std::int64_t number = 0;
};

/// Sequences of each domain in a block of the validation set; inside a block domains are shuffled as in a training batch.
constexpr std::int64_t kValidationBlockPerDomain = 8;

/// Slots [first, first + count) of the global batch of `step`: each domain has batch_sequences / domains of them.
/// A `config` error when batch_sequences is no multiple of `domains`, an internal one when the slice is outside the batch.
std::vector<Slot> training_slots(std::int64_t seed, std::int64_t step, std::int64_t batch_sequences, std::int64_t domains, std::int64_t first,
                                 std::int64_t count);

/// Slots [first, first + count) of the validation set, which is endless here: every block of kValidationBlockPerDomain * domains sequences
/// holds that many of each domain, shuffled; `number` counts a domain's sequences from 0.
std::vector<Slot> validation_slots(std::int64_t domains, std::int64_t first, std::int64_t count);

/// Sequences for `tokens` tokens, rounded up to whole blocks.
std::int64_t validation_sequences_for(std::int64_t tokens, std::int64_t length, std::int64_t domains);

/// Uniform in [0, bound), from 64 random bits; the bias is below bound / 2^64.
std::int64_t below(std::int64_t bound, std::uint32_t high, std::uint32_t low);

/// Where the window of a training sequence starts in its domain's tokens: uniform over [0, starts).
std::int64_t training_start(std::int64_t seed, std::int64_t step, std::int64_t index, std::int64_t starts);

/// The `number`-th of `windows` windows in an order of which every beginning is spread evenly over all of them; a permutation.
std::int64_t spread_window(std::int64_t number, std::int64_t windows);

}  // namespace moesweep::data
