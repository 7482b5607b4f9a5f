// See include/moesweep/routing/recording.hpp.
#include "moesweep/routing/recording.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <string>
#include <utility>

#include "moesweep/core/error.hpp"

namespace moesweep::routing {

void Recording::add(const TokenLayout& tokens, std::int64_t layer, const Slots& slots) {
  const at::Tensor offsets = slots.offsets.contiguous(), experts = slots.expert.contiguous();
  const auto* begin = offsets.const_data_ptr<std::int64_t>();
  const auto* expert = experts.const_data_ptr<std::int64_t>();
  const at::Tensor flags = slots.dropped.defined() ? slots.dropped.contiguous() : at::Tensor();
  const bool* dropped = flags.defined() ? flags.const_data_ptr<bool>() : nullptr;
  for (std::int64_t s = 0; s < tokens.sequences; ++s) {
    Sequence sequence;
    for (std::int64_t t = tokens.begin_of(s); t < tokens.begin_of(s + 1); ++t) {
      for (std::int64_t slot = begin[t]; slot < begin[t + 1]; ++slot) {
        const auto number = static_cast<std::int32_t>(expert[slot]);
        sequence.expert.push_back(dropped != nullptr && dropped[slot] ? -1 - number : number);
      }
      sequence.slots.push_back(static_cast<std::int32_t>(begin[t + 1] - begin[t]));
    }
    sequences_[{tokens.record, layer, tokens.index[static_cast<std::size_t>(s)]}] = std::move(sequence);
  }
}

bool Recording::covers(std::int64_t record, std::int64_t layer, std::int64_t sequences) const {
  for (std::int64_t index = 0; index < sequences; ++index)
    if (!sequences_.contains({record, layer, index})) return false;
  return true;
}

std::int64_t Recording::experts() const {
  std::int64_t most = 0;
  for (const auto& [key, sequence] : sequences_)
    for (const std::int32_t expert : sequence.expert) most = std::max(most, expert < 0 ? -std::int64_t{expert} : std::int64_t{expert} + 1);
  return most;
}

Slots Recording::find(const TokenLayout& tokens, std::int64_t layer) const {
  std::vector<std::int64_t> token, expert, offsets{0};
  bool any_dropped = false;
  const at::Tensor mask = tokens.mask.defined() ? tokens.mask.contiguous() : tokens.mask;
  const bool* counts = mask.defined() ? mask.const_data_ptr<bool>() : nullptr;
  bool even = counts == nullptr;
  for (std::int64_t s = 0; s < tokens.sequences; ++s) {
    const std::int64_t index = tokens.index[static_cast<std::size_t>(s)], first = tokens.begin_of(s), length = tokens.begin_of(s + 1) - first;
    const auto found = sequences_.find({tokens.record, layer, index});
    const std::string where =
        (tokens.record < 0 ? "validation after step " + std::to_string(-1 - tokens.record) : "step " + std::to_string(tokens.record)) + ", layer " +
        std::to_string(layer) + ", sequence " + std::to_string(index);
    if (found == sequences_.end())
      throw Error(ErrorKind::data, "the recorded assignments hold nothing for " + where, "",
                  "record them by a trial of the same batches with routing.record = true");
    const Sequence& sequence = found->second;
    if (static_cast<std::int64_t>(sequence.slots.size()) != length)
      throw Error(ErrorKind::data, "the recorded assignments have " + std::to_string(sequence.slots.size()) + " tokens for " + where + ", not " +
                                       std::to_string(length));
    std::size_t slot = 0;
    for (std::int64_t t = 0; t < length; ++t) {
      const std::int32_t count = sequence.slots[static_cast<std::size_t>(t)];
      even = even && count == sequence.slots.front() && (token.empty() || count == offsets[1]);
      for (std::int32_t i = 0; i < count; ++i, ++slot) {
        if (counts != nullptr && !counts[first + t]) continue;
        token.push_back(first + t);
        expert.push_back(sequence.expert[slot]);
        any_dropped = any_dropped || expert.back() < 0;
      }
      offsets.push_back(static_cast<std::int64_t>(token.size()));
    }
  }
  Slots slots;
  slots.token = at::tensor(token, at::kLong);
  slots.expert = at::tensor(expert, at::kLong);
  if (any_dropped) {
    slots.dropped = slots.expert < 0;
    slots.expert = at::where(slots.dropped, -1 - slots.expert, slots.expert);
  }
  slots.offsets = at::tensor(offsets, at::kLong);
  slots.fixed_k = even && offsets.size() > 1 ? offsets[1] : 0;
  return slots;
}

Recording::Flat Recording::flat() const {
  Flat flat;
  for (const auto& [key, sequence] : sequences_) {
    const auto [record, layer, index] = key;
    flat.key.insert(flat.key.end(), {record, layer, index, static_cast<std::int64_t>(sequence.slots.size())});
    flat.slots.insert(flat.slots.end(), sequence.slots.begin(), sequence.slots.end());
    flat.expert.insert(flat.expert.end(), sequence.expert.begin(), sequence.expert.end());
  }
  return flat;
}

namespace {

[[noreturn]] void refuse(const char* array, std::size_t element, const std::string& what) {
  throw Error(ErrorKind::corrupt, std::string(array) + "[" + std::to_string(element) + "]: " + what);
}

/// Element `element` of an array, which must lie in [least, most]; `what` says what the number is.
std::int64_t bounded(const char* array, const std::vector<std::int64_t>& values, std::size_t element, const char* what, std::int64_t least,
                     std::int64_t most) {
  const std::int64_t value = values[element];
  if (value < least || value > most)
    refuse(array, element,
           std::string(what) + " is " + std::to_string(value) + ", not from " + std::to_string(least) + " to " + std::to_string(most));
  return value;
}

}  // namespace

void Recording::take(const Flat& flat, const Bounds& bounds) {
  constexpr std::int64_t kMost = std::numeric_limits<std::int32_t>::max();  // as files hold them
  if (flat.key.size() % 4 != 0) throw Error(ErrorKind::corrupt, "key: its numbers are not rows of 4");
  Sequences taken;
  std::size_t slot = 0, expert = 0;
  for (std::size_t row = 0; row < flat.key.size(); row += 4) {
    const std::int64_t record = bounded("key", flat.key, row, "the record", bounds.least_record, bounds.most_record);
    const std::int64_t layer = bounded("key", flat.key, row + 1, "the MoE layer", 0, bounds.layers - 1);
    const std::int64_t index = bounded("key", flat.key, row + 2, "the sequence", 0, kMost);
    const std::int64_t tokens = bounded("key", flat.key, row + 3, "the number of tokens", 1, kMost);
    if (static_cast<std::int64_t>(flat.slots.size() - slot) < tokens)
      refuse("key", row + 3, "it names " + std::to_string(tokens) + " tokens, and slots has " + std::to_string(flat.slots.size() - slot) + " left");
    Sequence sequence;
    sequence.slots.reserve(static_cast<std::size_t>(tokens));
    for (std::int64_t t = 0; t < tokens; ++t, ++slot) {
      const auto left = static_cast<std::int64_t>(flat.expert.size() - expert);
      const std::int64_t count = bounded("slots", flat.slots, slot, "the number of experts of a token", 0, kMost);
      if (count > left) refuse("slots", slot, "a token has " + std::to_string(count) + " experts, and expert has " + std::to_string(left) + " left");
      sequence.slots.push_back(static_cast<std::int32_t>(count));
      for (std::int64_t i = 0; i < count; ++i, ++expert)
        sequence.expert.push_back(static_cast<std::int32_t>(
            bounded("expert", flat.expert, expert, "an expert (-1 - number: dropped)", -bounds.experts, bounds.experts - 1)));
    }
    if (!taken.try_emplace({record, layer, index}, std::move(sequence)).second)
      refuse(
          "key", row,
          "record " + std::to_string(record) + ", MoE layer " + std::to_string(layer) + ", sequence " + std::to_string(index) + " are there twice");
  }
  if (slot != flat.slots.size()) refuse("slots", slot, "no key names this token or those behind it");
  if (expert != flat.expert.size()) refuse("expert", expert, "no token has this expert or those behind it");
  for (auto& [key, sequence] : taken) sequences_.insert_or_assign(key, std::move(sequence));
}

}  // namespace moesweep::routing
