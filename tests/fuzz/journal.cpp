// The journal of a sweep folder: files of lines, parted by lines of %%%%. What is folded does not depend on the order of the files, and a line that
// is no event takes none of the others with it.
#include "moesweep/store/journal.hpp"

#include <cmath>

#include "launch/history.hpp"
#include "moesweep/core/foreign_json.hpp"
#include "reading.hpp"

using namespace moesweep;         // NOLINT
using namespace moesweep::fuzz;   // NOLINT
using namespace moesweep::store;  // NOLINT

namespace {

constexpr std::size_t kMostFiles = 4;

void write_files(const std::vector<std::string>& parts, bool backwards, const std::string& more = {}) {
  const auto folder = scratch() / "journal";
  std::filesystem::remove_all(folder);
  std::filesystem::create_directory(folder);
  for (std::size_t i = 0; i < parts.size() && i < kMostFiles; ++i)
    spill(folder / ("launch-" + std::to_string(backwards ? kMostFiles - i : i) + ".jsonl"), parts[i] + more);
}

bool equal(double a, double b) { return a == b || (std::isnan(a) && std::isnan(b)); }

bool equal(const TrialStatus& a, const TrialStatus& b) {
  return a.state == b.state && a.reason == b.reason && a.attempts == b.attempts && equal(a.seconds, b.seconds) && a.step == b.step &&
         equal(a.loss, b.loss) && a.charges == b.charges && a.published.sha256 == b.published.sha256 && a.published.digest == b.published.digest &&
         a.published.bytes == b.published.bytes && a.warnings == b.warnings && a.final == b.final && a.suspect == b.suspect;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  auto parts = parts_of(data, size);
  if (parts.size() > kMostFiles) parts.resize(kMostFiles);
  write_files(parts, false);
  const Journal journal = read_journal(scratch());
  const auto states = fold(journal);
  for (const auto& problem : journal.problems) require(problem.starts_with(scratch().string()), "a problem without a place: " + problem);

  const launch::History history(journal);
  launch::Retries retries;
  for (const auto& [trial, status] : states) {
    require(is_trial_id(trial), "a trial of the name " + trial);
    require(status.attempts >= 1 && !(status.seconds < 0) && status.step >= 0, trial + " has a negative count");
    require(equal(history.status_of(trial), status), "another status in the history");
    static_cast<void>(launch::needs_no_attempt(status, retries));
    for (const int attempt : {0, 1, 2}) {
      static_cast<void>(history.ending_of(trial, attempt));
      const launch::Owner* owner = history.owner_of(trial, attempt);
      if (owner == nullptr) continue;
      const launch::Verdict verdict = judge(history, trial, attempt, *owner, "it is gone", "", [](const auto&) { return false; });
      const Json fields = ending_fields(verdict, status, retries);
      require(!fields.dump().empty(), "an ending that says nothing");
      for (const auto& open : history.open_in(owner->launch)) require(is_trial_id(open.trial), "an open trial of the name " + open.trial);
    }
  }

  write_files(parts, true);
  const auto backwards = fold(read_journal(scratch()));
  require(states.size() == backwards.size(), "other trials when the files have another order");
  for (const auto& [trial, status] : states)
    require(backwards.contains(trial) && equal(backwards.at(trial), status), trial + " stands elsewhere when the files have another order");

  // A torn last line is no event; one that comes after it is.
  const std::string line = R"({"event": "started", "trial": "0123456789abcdef", "attempt": 77})";
  write_files(parts, false, "\n" + line + "\n");
  const Journal longer = read_journal(scratch());
  require(longer.events.size() >= journal.events.size() + parts.size(), "a line behind others is not read");
  return 0;
}
