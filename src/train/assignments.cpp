// See assignments.hpp.
#include "assignments.hpp"

#include <algorithm>
#include <cstring>
#include <iterator>
#include <limits>
#include <string>
#include <utility>

#include "moesweep/core/error.hpp"

namespace moesweep::train {

namespace {

std::vector<std::int64_t> gathered(const std::vector<std::int64_t>& mine, comm::Transport& gang) {
  std::vector<std::int64_t> all;
  for (const auto& part : gang.all_gather(std::as_bytes(std::span(mine)), "recorded assignments")) {
    const std::size_t first = all.size();
    all.resize(first + part.size() / sizeof(std::int64_t));
    if (!part.empty()) std::memcpy(all.data() + first, part.data(), part.size());
  }
  return all;
}

store::Array compact(const std::string& path, std::vector<std::int64_t> shape, const std::vector<std::int64_t>& values, const std::string& unit,
                     const std::string& description) {
  store::Array array{path, DType::i32, std::move(shape), {}, unit, description, false};
  for (const std::int64_t value : values) {
    MOESWEEP_ASSERT(std::in_range<std::int32_t>(value), "a recorded number beyond 32 bits");
    const auto narrow = static_cast<std::int32_t>(value);
    const auto bytes = std::as_bytes(std::span(&narrow, 1));
    array.bytes.insert(array.bytes.end(), bytes.begin(), bytes.end());
  }
  return array;
}

/// The numbers of a dataset that FORMAT.md says to be i32 with that many columns (1: one dimension).
std::vector<std::int64_t> integers_of(const store::Array& array, std::int64_t columns) {
  const auto wrong = [&](const std::string& what) { throw Error(ErrorKind::corrupt, "dataset " + array.path + ": " + what); };
  if (array.type != DType::i32) wrong("it holds " + std::string(name_of(array.type)) + ", not i32");
  const bool flat = columns == 1;
  if (array.shape.size() != (flat ? 1U : 2U) || (!flat && array.shape[1] != columns))
    wrong(flat ? "it has not one dimension" : "its shape is not [n, " + std::to_string(columns) + "]");
  std::vector<std::int64_t> values(array.bytes.size() / sizeof(std::int32_t));
  for (std::size_t i = 0; i < values.size(); ++i) {
    std::int32_t value;
    std::memcpy(&value, array.bytes.data() + i * sizeof value, sizeof value);
    values[i] = value;
  }
  return values;
}

}  // namespace

std::vector<store::Array> assignment_arrays(const routing::Recording& recording, comm::Transport& gang) {
  auto flat = recording.flat();
  if (gang.size() > 1) {
    // Joined in rank order, then sorted by going through a recording.
    routing::Recording whole;
    const auto sizes = [&](const std::vector<std::int64_t>& mine) { return gathered({static_cast<std::int64_t>(mine.size())}, gang); };
    const auto keys = sizes(flat.key), tokens = sizes(flat.slots), experts = sizes(flat.expert);
    const auto key = gathered(flat.key, gang), slots = gathered(flat.slots, gang), expert = gathered(flat.expert, gang);
    auto k = key.begin(), s = slots.begin(), e = expert.begin();
    for (std::size_t rank = 0; rank < keys.size(); ++rank) {
      whole.take({{k, k + keys[rank]}, {s, s + tokens[rank]}, {e, e + experts[rank]}});
      k += keys[rank], s += tokens[rank], e += experts[rank];
    }
    flat = whole.flat();
  }
  const auto rows = static_cast<std::int64_t>(flat.key.size() / 4);
  return {
      compact("assignments/key", {rows, 4}, flat.key, "1",
              "record (the step, or -1 - steps done for a validation), MoE layer, sequence of the batch, its tokens"),
      compact("assignments/slots", {static_cast<std::int64_t>(flat.slots.size())}, flat.slots, "slots", "experts of each token, in the order of key"),
      compact("assignments/expert", {static_cast<std::int64_t>(flat.expert.size())}, flat.expert, "1",
              "experts of each token, in the order of slots; -1 - number for a dropped one")};
}

void take_assignments(const store::TrialRecord& record, routing::Recording& recording, const routing::Recording::Bounds& bounds) {
  const store::Array* arrays[] = {record.find("assignments/key"), record.find("assignments/slots"), record.find("assignments/expert")};
  if (std::ranges::none_of(arrays, [](const auto* array) { return array != nullptr; })) return;
  constexpr const char* kNames[] = {"key", "slots", "expert"};
  for (std::size_t i = 0; i < std::size(arrays); ++i)
    if (arrays[i] == nullptr) throw Error(ErrorKind::corrupt, std::string("dataset assignments/") + kNames[i] + ": it is missing");
  const routing::Recording::Flat flat{integers_of(*arrays[0], 4), integers_of(*arrays[1], 1), integers_of(*arrays[2], 1)};
  try {
    recording.take(flat, bounds);
  } catch (const Error& error) {
    throw Error(error.kind(), "dataset assignments/" + error.message());
  }
}

std::shared_ptr<const routing::Recording> read_assignments(const std::filesystem::path& path) {
  auto recording = std::make_shared<routing::Recording>();
  const store::TrialRecord record = store::read_trial(path);
  try {
    take_assignments(record, *recording);
  } catch (const Error& error) {
    throw Error(error.kind(), error.message(), path.string(), "record them again: run the trial with routing.record=true");
  }
  if (recording->empty()) throw Error(ErrorKind::data, "the trial recorded no assignments", path.string(), "run it with routing.record=true");
  return recording;
}

}  // namespace moesweep::train
