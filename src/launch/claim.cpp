// See claim.hpp.
#include "claim.hpp"

#include <fmt/core.h>
#include <fmt/ranges.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <deque>
#include <sstream>

#include "moesweep/comm/watchdog.hpp"
#include "moesweep/core/error.hpp"
#include "moesweep/core/foreign_json.hpp"
#include "moesweep/core/publish.hpp"
#include "moesweep/launch/aggregate.hpp"
#include "moesweep/launch/folder.hpp"
#include "moesweep/launch/status.hpp"
#include "own_files.hpp"

namespace moesweep::launch {

namespace fs = std::filesystem;

Attempts attempts_of(const fs::path& trial_folder) {
  Attempts attempts;
  attempts.trouble = trouble_with_folder(trial_folder);
  if (!attempts.trouble.empty()) return attempts;
  std::error_code failure;
  for (fs::directory_iterator entry(trial_folder, failure), end; !failure && entry != end; entry.increment(failure)) {
    const std::string name = entry->path().filename().string();
    constexpr std::string_view kPrefix = "attempt-";
    if (!name.starts_with(kPrefix)) continue;
    std::int64_t number = 0;
    const char *first = name.data() + kPrefix.size(), *last = name.data() + name.size();
    const auto read = std::from_chars(first, last, number);
    // Names that moesweep does not give: other numbers, leading zeros, signs, and what is put behind a number.
    if (read.ec != std::errc() || read.ptr != last || *first < '1' || *first > '9' || number > store::kMostAttempt) continue;
    attempts.last = std::max(attempts.last, static_cast<int>(number));
    if (const std::string trouble = trouble_with_folder(entry->path()); !trouble.empty()) attempts.trouble = trouble;
  }
  if (failure && failure != std::errc::no_such_file_or_directory)
    attempts.trouble = fmt::format("{} cannot be listed: {}", trial_folder.string(), failure.message());
  return attempts;
}

int last_attempt(const fs::path& trial_folder) { return attempts_of(trial_folder).last; }

store::TrialFinding find_trial_file(const fs::path& sweep_folder, const std::string& id, const store::Published& published) {
  const fs::path file = trial_file(sweep_folder, id);
  store::TrialFinding finding;
  if (finding.why = trouble_with_folder(file.parent_path()); !finding.why.empty()) {
    finding.kind = store::TrialFinding::Kind::unreadable;
    return finding;
  }
  finding = store::find_trial(file, id, published);
  if (!finding.why.empty()) finding.why = fmt::format("{}: {}", file.string(), finding.why);
  return finding;
}

Json fields_of_found(const fs::path& file, const store::TrialFinding& finding) {
  const store::TrialRecord& record = finding.record;
  Json fields = {{"state", record.state}, {"reason", record.reason}, {"seconds", 0.0}, {"final", true}, {"file", json_of(finding.published)}};
  try {
    add_results(fields, record, file);
  } catch (const Error&) {
    // Its metrics or its config contradict themselves: what is known of it is written.
  }
  return fields;
}

fs::path collective_file(const fs::path& trial_folder, int attempt, int rank) {
  return trial_folder / fmt::format("attempt-{}", attempt) / fmt::format("collective-{}", rank);
}

std::string last_collectives(const fs::path& trial_folder, int attempt) {
  constexpr int kMost = 8;  // a sentence, not a list
  std::string text;
  for (int rank = 0; rank < kMost; ++rank)
    if (const std::string last = comm::watchdog::recorded_in(collective_file(trial_folder, attempt, rank)); !last.empty())
      text += fmt::format("; rank {} was {}", rank, last);
  return text;
}

std::optional<Owner> owner_of(const fs::path& trial_folder, int attempt, std::string* why) {
  constexpr std::size_t kMostBytes = std::size_t{1} << 20;
  const fs::path file = trial_folder / fmt::format("attempt-{}", attempt) / "claim.json";
  std::string text;
  try {
    text = read_text(file, kMostBytes);
  } catch (const Error& error) {
    if (is_absent(file)) return Owner();
    if (why != nullptr) *why = fmt::format("{}: {}", file.string(), error.message());
    return std::nullopt;
  }
  try {
    return Owner::of_json(parse_json(text, file.string()), file.string());
  } catch (const Error&) {
    return Owner();  // claims appear whole: this one says nothing
  }
}

namespace {

/// What came of making an attempt's folder.
struct Made {
  enum class Result { made, there, forbidden };
  Result result = Result::made;
  std::string why;  ///< of a folder that may not be made: the path, and what is wrong
};

/// Makes attempt-N with its claim inside, in one step: a folder prepared beside it is renamed, which fails when N is there already. Errors that are
/// the disk's throw; a right that is missing, or something else in its place, concerns this trial alone.
Made make_attempt(const fs::path& folder, int attempt, const Owner& me) {
  const fs::path target = folder / fmt::format("attempt-{}", attempt);
  const fs::path prepared = temporary_beside(target);
  const auto is_of_this_trial = [](int code) { return code == EACCES || code == EPERM || code == ENOTDIR || code == ELOOP || code == EISDIR; };
  const auto refused = [&](int code, const fs::path& path) -> Made {
    if (is_of_this_trial(code)) return {Made::Result::forbidden, fmt::format("{}: cannot make it: {}", path.string(), std::strerror(code))};
    throw Error(ErrorKind::io, fmt::format("cannot make it: {}", std::strerror(code)), path.string(), "is the folder writable, and is there space?");
  };
  std::error_code failure;
  fs::create_directories(folder, failure);
  if (failure) return refused(failure.value(), folder);
  if (const std::string trouble = trouble_with_folder(folder); !trouble.empty()) return {Made::Result::forbidden, trouble};
  if (::mkdir(prepared.c_str(), 0777) != 0) return refused(errno, prepared);
  const auto clear = [&] {
    remove_own(prepared / "claim.json");
    ::rmdir(prepared.c_str());
  };
  try {
    publish_text(prepared / "claim.json", me.json().dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
  } catch (...) {
    clear();
    throw;
  }
  if (std::rename(prepared.c_str(), target.c_str()) == 0) return {};
  const int code = errno;
  // A network file system may repeat a rename whose answer was lost: then the claim is there, and it is ours.
  const auto holder = owner_of(folder, attempt);
  clear();
  if (holder && holder->launch == me.launch && holder->writer == me.writer && holder->process == me.process) return {};
  if (code == EEXIST || code == ENOTEMPTY) return {Made::Result::there, ""};
  return refused(code, target);
}

/// The last lines of a trial's log, on one line; empty when there are none.
std::string end_of_log(const fs::path& folder) {
  constexpr std::size_t kLines = 3, kBytes = 2048;
  std::string text(kBytes, '\0');
  try {
    const int file = open_regular(folder / "log.txt");
    struct stat status {};
    const off_t size = ::fstat(file, &status) == 0 ? status.st_size : 0;
    const ssize_t got = ::pread(file, text.data(), text.size(), std::max<off_t>(0, size - static_cast<off_t>(kBytes)));
    ::close(file);
    text.resize(static_cast<std::size_t>(std::max<ssize_t>(got, 0)));
  } catch (const Error&) {
    return "";
  }
  std::deque<std::string> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) {
    lines.push_back(line);
    if (lines.size() > kLines) lines.pop_front();
  }
  return fmt::format("{}", fmt::join(lines, " | "));
}

/// Why the trial's checkpoint cannot be read just now; empty when it can, or there is none. Whether it is whole is seen by who reads it.
std::string trouble_with_checkpoint(const fs::path& folder) {
  const fs::path file = folder / "checkpoint.h5";
  if (is_absent(file)) return "";
  try {
    ::close(open_regular(file));
    return "";
  } catch (const Error& error) {
    return fmt::format("{}: {}", file.string(), error.message());
  }
}

/// The reason of a trial's last crash, with the end of its log.
std::string with_end_of_log(const std::string& reason, const fs::path& folder) {
  const std::string log = end_of_log(folder);
  return log.empty() ? reason : reason + "; its log ends: " + log;
}

/// Whether every rank of the attempt's gang had noted that when it died.
bool all_asked_to_stop(const fs::path& trial_folder, const History::Open& open) {
  if (open.ranks < 1) return false;
  for (int rank = 0; rank < open.ranks; ++rank)
    if (!comm::watchdog::stop_recorded_in(collective_file(trial_folder, open.attempt, rank))) return false;
  return true;
}

}  // namespace

void give_back(const fs::path& trial_folder, int attempt) {
  try {
    set_aside_as(trial_folder / fmt::format("attempt-{}", attempt) / "claim.json", "claim.given-back.json");
  } catch (const Error&) {
    // Another rank may have done it.
  }
}

Claims::Claims(fs::path sweep_folder, Owner me, const Retries& retries, std::function<store::JournalWriter&()> journal)
    : sweep_folder_(std::move(sweep_folder)), me_(std::move(me)), retries_(retries), journal_(std::move(journal)) {}

void Claims::read_journal() {
  store::Journal journal = store::read_journal(sweep_folder_);
  history_ = History(journal);
  problems_ = std::move(journal.problems);
  read_at_ = std::chrono::steady_clock::now();
}

void Claims::know_about(const std::string& id, int attempt) {
  // A journal of many trials is not read for each of them: what changed within the last moment is found by the next look.
  constexpr auto kMoment = std::chrono::milliseconds(200);
  if (history_.ending_of(id, attempt) != nullptr) return;
  if (read_at_ && history_.owner_of(id, attempt) != nullptr && std::chrono::steady_clock::now() - *read_at_ < kMoment) return;
  read_journal();
}

void Claims::close(const std::string& id, int attempt, const Owner& owner) {
  const fs::path folder = trial_folder(sweep_folder_, id);
  Verdict verdict{"preempted", "its launch gave it back: its files failed it", false, false};
  if (!owner.launch.empty())
    verdict =
        judge(history_, id, attempt, owner, fmt::format("process {} on {} is gone", owner.process, owner.host) + last_collectives(folder, attempt),
              ended_from_outside(owner, me_),
              [this](const History::Open& open) { return all_asked_to_stop(trial_folder(sweep_folder_, open.trial), open); });
  Json fields = ending_fields(verdict, history_.status_of(id), retries_);
  if (fields["final"].get<bool>()) fields["reason"] = with_end_of_log(verdict.reason, folder);
  Json event = {{"trial", id}, {"attempt", attempt}, {"launch", me_.launch}};
  event.update(fields);
  journal_().write("ended", std::move(event));
}

bool Claims::finish_if_spent(const std::string& id) {
  const store::TrialStatus& status = history_.status_of(id);
  if (status.final || status.state != "crashed" || !needs_no_attempt(status, retries_)) return false;
  const fs::path folder = trial_folder(sweep_folder_, id);
  journal_().write("ended", {{"trial", id},
                             {"attempt", last_attempt(folder)},
                             {"launch", me_.launch},
                             {"state", status.state},
                             {"reason", with_end_of_log(status.reason, folder)},
                             {"seconds", status.seconds},
                             {"charged", true},
                             {"final", true}});
  return true;
}

store::TrialFinding Claims::find(const std::string& id) const { return find_trial_file(sweep_folder_, id, history_.status_of(id).published); }

Claims::Standing Claims::settle(const std::string& id, int attempt, const Owner& owner, std::string& why) {
  know_about(id, attempt);
  if (history_.ending_of(id, attempt) != nullptr) return Standing::ended;
  if (!owner.launch.empty() && life_of(owner, me_) != Life::gone) return Standing::held;
  const store::TrialFinding found = find(id);
  if (found.kind == store::TrialFinding::Kind::unreadable) {
    why = found.why;
    return Standing::unreadable;
  }
  if (found.valid()) {
    Json event = {{"trial", id}, {"attempt", attempt}, {"launch", me_.launch}};
    event.update(fields_of_found(trial_file(sweep_folder_, id), found));
    journal_().write("ended", std::move(event));
  } else {
    close(id, attempt, owner);
  }
  return Standing::closed;
}

bool Claims::close_if_lost(const std::string& id) {
  const fs::path folder = trial_folder(sweep_folder_, id);
  const Attempts attempts = attempts_of(folder);
  if (attempts.last == 0 || !attempts.trouble.empty()) return false;
  const auto owner = owner_of(folder, attempts.last);
  std::string why;
  return owner && owner->launch != me_.launch && settle(id, attempts.last, *owner, why) == Standing::closed;
}

Claim Claims::look(const std::string& id, bool alone) {
  const fs::path folder = trial_folder(sweep_folder_, id);
  const auto [last, trouble] = attempts_of(folder);
  if (!trouble.empty()) return {Claim::Result::unreadable, last, "", trouble};
  std::string why;
  if (last > 0) {
    const auto owner = owner_of(folder, last, &why);
    if (!owner) return {Claim::Result::unreadable, last, "", why};
    if (owner->launch == me_.launch) return {Claim::Result::taken, last, "", ""};
    switch (settle(id, last, *owner, why)) {
      case Standing::held: return {Claim::Result::taken, last, "", ""};
      case Standing::unreadable: return {Claim::Result::unreadable, last, "", why};
      case Standing::closed: read_journal(); break;
      case Standing::ended: break;
    }
  }
  const store::TrialFinding found = find(id);
  if (found.kind == store::TrialFinding::Kind::unreadable) return {Claim::Result::unreadable, last, "", found.why};
  if (found.valid()) return {Claim::Result::ended, last, found.record.state, ""};
  const store::TrialStatus& status = history_.status_of(id);
  // One that was finished by the journal, but whose file is gone or damaged, runs again.
  const bool has_lost_its_file = status.state == "done" || status.state == "diverged";
  if (last > 0 && !has_lost_its_file && needs_no_attempt(status, retries_)) return {Claim::Result::ended, last, status.state, ""};
  if (status.suspect && !alone && last > 0) return {Claim::Result::suspect, last, "", ""};
  if (why = trouble_with_checkpoint(folder); !why.empty()) return {Claim::Result::unreadable, last, "", why};
  if (last >= store::kMostAttempt)
    return {Claim::Result::unreadable, last, "",
            fmt::format("{}: no attempt has a greater number than attempt-{}: remove attempts that were made by hand", folder.string(), last)};
  return {Claim::Result::open, last + 1, "", ""};
}

Claim Claims::make(const std::string& id, int attempt) {
  const Made made = make_attempt(trial_folder(sweep_folder_, id), attempt, me_);
  switch (made.result) {
    case Made::Result::made: return {Claim::Result::claimed, attempt, "", ""};
    case Made::Result::there: return {Claim::Result::taken, attempt, "", ""};
    case Made::Result::forbidden: break;
  }
  return {Claim::Result::unreadable, attempt, "", made.why};
}

Claim Claims::try_claim(const std::string& id, bool alone) {
  Claim claim = look(id, alone);
  return claim.result == Claim::Result::open ? make(id, claim.attempt) : claim;
}

Claim Claims::claim_again(const std::string& id, int ended_attempt) { return make(id, ended_attempt + 1); }

}  // namespace moesweep::launch
