// The journal of a sweep folder: one append-only file per launch and writer, a JSON line per event. It is the truth for status and resume.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "moesweep/core/foreign_json.hpp"
#include "moesweep/core/json.hpp"
#include "moesweep/store/record.hpp"

namespace moesweep::store {

/// Attempts are numbered from 1 to this; 0 stands for none (a trial that was skipped).
inline constexpr std::int64_t kMostAttempt = 1'000'000;

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
  std::vector<Json> events;  ///< file by file in name order, line by line; known fields of known events have their types and ranges
  /// Lines that are no events or hold a field of a wrong type or range, with `file:line` and what is wrong; files that could not be read, with
  /// the reason. A torn last line is no problem.
  std::vector<std::string> problems;
};

/// A published file as the journal has it in its `ended` line: {"sha256": ..., "digest": ..., "bytes": N}. Reading one that is not so throws the
/// error of the view.
Json json_of(const Published& published);
Published published_of(const JsonView& view);

/// What is read of a line and of a file of the journal, in bytes; more is listed in `problems`.
inline constexpr std::size_t kMostLineBytes = std::size_t{1} << 20;
inline constexpr std::size_t kMostJournalBytes = std::size_t{1} << 30;

/// Calls `line` with each whole line of a regular file (without its end) and its number from 1. A line longer than `most_line_bytes` is told to
/// `too_long` by its number and passed over; of a file longer than `most_bytes` the rest is not read, and `too_long` is told 0. `io` errors as those
/// of `read_text`.
void for_each_line(const std::filesystem::path& file, const std::function<void(std::size_t number, std::string_view text)>& line,
                   const std::function<void(std::size_t number)>& too_long, std::size_t most_line_bytes = kMostLineBytes,
                   std::size_t most_bytes = kMostJournalBytes);

/// Reads every journal file of the folder; an absent journal folder gives no events. Only regular files are read; a link, a pipe, a device or a file
/// that cannot be read just now is listed in `problems`, and the others are read.
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
  Published published;                 ///< its trial.h5 as the last attempt that left one wrote it; empty sha256: not known
  std::vector<std::string> warnings;   ///< of its last attempt, in words: `no_better_than_uniform`
  bool final = false;                  ///< it needs no further attempt
  bool suspect = false;                ///< it was open when its step died, nobody knows of which trial: its next attempt runs alone
};

/// Folds events `started`, `progress`, `ended`, `retry` (each with `trial` and `attempt`) into a state per trial, independent of the order of
/// files. `retry` forgives the attempts up to its own: the trial is pending again.
std::map<std::string, TrialStatus> fold(const Journal& journal);

}  // namespace moesweep::store
