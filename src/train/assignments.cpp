// See assignments.hpp.
#include "assignments.hpp"

#include <cmath>
#include <cstring>

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
    const auto narrow = static_cast<std::int32_t>(value);
    const auto bytes = std::as_bytes(std::span(&narrow, 1));
    array.bytes.insert(array.bytes.end(), bytes.begin(), bytes.end());
  }
  return array;
}

std::vector<std::int64_t> integers_of(const store::TrialRecord& record, const std::string& path) {
  std::vector<std::int64_t> values;
  if (const auto* array = record.find(path))
    for (const double value : store::as_doubles(*array)) values.push_back(std::llround(value));
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

void take_assignments(const store::TrialRecord& record, routing::Recording& recording) {
  recording.take({integers_of(record, "assignments/key"), integers_of(record, "assignments/slots"), integers_of(record, "assignments/expert")});
}

std::shared_ptr<const routing::Recording> read_assignments(const std::filesystem::path& path) {
  auto recording = std::make_shared<routing::Recording>();
  take_assignments(store::read_trial(path), *recording);
  if (recording->empty()) throw Error(ErrorKind::data, "the trial recorded no assignments", path.string(), "run it with routing.record=true");
  return recording;
}

}  // namespace moesweep::train
