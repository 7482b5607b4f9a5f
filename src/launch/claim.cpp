// See claim.hpp.
#include "claim.hpp"

#include <fmt/core.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <deque>
#include <fstream>

#include "moesweep/comm/watchdog.hpp"
#include "moesweep/core/error.hpp"
#include "moesweep/core/publish.hpp"
#include "moesweep/launch/folder.hpp"
#include "moesweep/launch/status.hpp"
#include "moesweep/store/record.hpp"

namespace moesweep::launch {

namespace fs = std::filesystem;

int last_attempt(const fs::path& trial_folder) {
  int last = 0;
  std::error_code failure;
  for (const auto& entry : fs::directory_iterator(trial_folder, failure)) {
    const std::string name = entry.path().filename().string();
    constexpr std::string_view kPrefix = "attempt-";
    if (!name.starts_with(kPrefix)) continue;
    int number = 0;
    const auto read = std::from_chars(name.data() + kPrefix.size(), name.data() + name.size(), number);
    if (read.ec == std::errc() && read.ptr == name.data() + name.size()) last = std::max(last, number);
  }
  return last;
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

std::optional<Owner> owner_of(const fs::path& trial_folder, int attempt) {
  const fs::path file = trial_folder / fmt::format("attempt-{}", attempt) / "claim.json";
  std::string text;
  try {
    text = read_text(file);
  } catch (const Error&) {
    std::error_code failure;
    if (fs::exists(file, failure) || failure) return std::nullopt;
    return Owner();
  }
  try {
    return Owner::of_json(Json::parse(text));
  } catch (const Json::exception&) {
    return Owner();
  }
}

namespace {

/// Makes attempt-N with its claim inside, in one step: a folder prepared beside it is renamed, which fails when N is there already.
bool make_attempt(const fs::path& folder, int attempt, const Owner& me) {
  const fs::path target = folder / fmt::format("attempt-{}", attempt);
  const fs::path prepared = temporary_beside(target);
  std::error_code failure;
  fs::create_directories(prepared, failure);
  if (failure) throw Error(ErrorKind::io, "cannot make it: " + failure.message(), prepared.string(), "is the folder writable, and is there space?");
  publish_text(prepared / "claim.json", me.json().dump(2) + "\n");
  if (std::rename(prepared.c_str(), target.c_str()) == 0) return true;
  const int code = errno;
  // A network file system may repeat a rename whose answer was lost: then the claim is there, and it is ours.
  const auto holder = owner_of(folder, attempt);
  fs::remove_all(prepared, failure);
  if (holder && holder->launch == me.launch && holder->writer == me.writer && holder->process == me.process) return true;
  if (code == EEXIST || code == ENOTEMPTY) return false;
  throw Error(ErrorKind::io, fmt::format("cannot make it: {}", std::strerror(code)), target.string());
}

/// The last lines of a trial's log, on one line; empty when there are none.
std::string end_of_log(const fs::path& folder) {
  constexpr std::size_t kLines = 3, kBytes = 2048;
  std::ifstream in(folder / "log.txt", std::ios::binary | std::ios::ate);
  if (!in) return "";
  const auto size = static_cast<std::size_t>(in.tellg());
  in.seekg(static_cast<std::streamoff>(size > kBytes ? size - kBytes : 0));
  std::deque<std::string> lines;
  for (std::string line; std::getline(in, line);) {
    lines.push_back(line);
    if (lines.size() > kLines) lines.pop_front();
  }
  return fmt::format("{}", fmt::join(lines, " | "));
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
  const fs::path claim = trial_folder / fmt::format("attempt-{}", attempt) / "claim.json";
  std::error_code ignored;  // another rank may have done it
  fs::rename(claim, claim.parent_path() / "claim.given-back.json", ignored);
}

Claims::Claims(fs::path sweep_folder, Owner me, const Retries& retries, std::function<store::JournalWriter&()> journal)
    : sweep_folder_(std::move(sweep_folder)), me_(std::move(me)), retries_(retries), journal_(std::move(journal)) {}

void Claims::read_journal() {
  history_ = History(store::read_journal(sweep_folder_));
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

bool Claims::close_if_lost(const std::string& id) {
  const fs::path folder = trial_folder(sweep_folder_, id);
  const int last = last_attempt(folder);
  if (last == 0) return false;
  const auto owner = owner_of(folder, last);
  if (!owner || owner->launch == me_.launch) return false;
  know_about(id, last);
  if (history_.ending_of(id, last) != nullptr) return false;
  if (!owner->launch.empty() && life_of(*owner, me_) != Life::gone) return false;
  if (store::is_valid_trial(folder / "trial.h5", id)) {
    const std::string found = store::read_trial(folder / "trial.h5").state;
    journal_().write("ended",
                     {{"trial", id}, {"attempt", last}, {"launch", me_.launch}, {"state", found}, {"reason", ""}, {"seconds", 0.0}, {"final", true}});
  } else {
    close(id, last, *owner);
  }
  return true;
}

Claim Claims::look(const std::string& id, bool alone) {
  const fs::path folder = trial_folder(sweep_folder_, id);
  const int last = last_attempt(folder);
  if (last == 0) return {Claim::Result::open, 1, ""};
  const auto owner = owner_of(folder, last);
  if (!owner || owner->launch == me_.launch) return {Claim::Result::taken, last, ""};
  if (close_if_lost(id)) read_journal();
  else if (history_.ending_of(id, last) == nullptr) return {Claim::Result::taken, last, ""};
  if (store::is_valid_trial(folder / "trial.h5", id)) return {Claim::Result::ended, last, store::read_trial(folder / "trial.h5").state};
  const store::TrialStatus& status = history_.status_of(id);
  // One that was finished by the journal, but whose file is gone or damaged, runs again.
  const bool has_lost_its_file = status.state == "done" || status.state == "diverged";
  if (!has_lost_its_file && needs_no_attempt(status, retries_)) return {Claim::Result::ended, last, status.state};
  if (status.suspect && !alone) return {Claim::Result::suspect, last, ""};
  return {Claim::Result::open, last + 1, ""};
}

Claim Claims::try_claim(const std::string& id, bool alone) {
  Claim claim = look(id, alone);
  if (claim.result != Claim::Result::open) return claim;
  claim.result = make_attempt(trial_folder(sweep_folder_, id), claim.attempt, me_) ? Claim::Result::claimed : Claim::Result::taken;
  return claim;
}

Claim Claims::claim_again(const std::string& id, int ended_attempt) {
  const bool made = make_attempt(trial_folder(sweep_folder_, id), ended_attempt + 1, me_);
  return {made ? Claim::Result::claimed : Claim::Result::taken, ended_attempt + 1, ""};
}

}  // namespace moesweep::launch
