// The journal of a sweep folder: one append-only file per launch and writer, a JSON line per event. It is the truth for status and resume.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "moesweep/core/json.hpp"

namespace moesweep::store {

/// Appends to DIR/journal/LAUNCH-WRITER.jsonl, one write(2) a line, flushed to disk. One writer a file.
class JournalWriter {
 public:
  JournalWriter(const std::filesystem::path& sweep_folder, const std::string& launch, const std::string& writer);
  ~JournalWriter();
  JournalWriter(JournalWriter&&) noexcept;
  JournalWriter& operator=(JournalWriter&&) noexcept;
  JournalWriter(const JournalWriter&) = delete;

  /// `fields` gets `event` and `time` (UTC, for people only: events are never ordered by it) added in front.
  void write(const std::string& event, Json fields);
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
  int file_ = -1;
};

struct Journal {
  std::vector<Json> events;           ///< file by file in name order, line by line
  std::vector<std::string> problems;  ///< torn or foreign lines in the middle of a file, with `file:line`; a torn last line is no problem
};

/// Reads every journal file of the folder; an absent journal folder gives no events.
Journal read_journal(const std::filesystem::path& sweep_folder);

/// Where a trial stands according to the journal.
struct TrialStatus {
  std::string state = "pending";  ///< pending, running, or how its last attempt ended
  std::string reason;
  int attempts = 0;
  double seconds = 0.0;                ///< of the last ended attempt
  std::int64_t step = 0;               ///< last one reported
  double loss = 0.0;                   ///< at that step; NaN when none was reported
  std::map<std::string, int> charges;  ///< attempts that count against the trial, by the state in which they ended
  bool final = false;                  ///< it needs no further attempt
  bool suspect = false;                ///< it was open when its step died, nobody knows of which trial: its next attempt runs alone
};

/// Folds events `started`, `progress`, `ended`, `retry` (each with `trial` and `attempt`) into a state per trial, independent of the order of
/// files. `retry` forgives the attempts up to its own: the trial is pending again.
std::map<std::string, TrialStatus> fold(const Journal& journal);

}  // namespace moesweep::store
