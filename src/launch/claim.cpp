// See claim.hpp.
#include "claim.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstring>

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

/// How the journal says that the attempt ended; empty when it does not.
std::string ending_of(const store::Journal& journal, const std::string& id, int attempt) {
  for (const Json& event : journal.events)
    if (event.value("event", "") == "ended" && event.value("trial", "") == id && event.value("attempt", -1) == attempt)
      return event.value("state", "failed");
  return "";
}

}  // namespace

Claim look_at_claim(const fs::path& sweep_folder, const std::string& id, const Owner& me, store::JournalWriter& journal) {
  const fs::path folder = trial_folder(sweep_folder, id);
  const int last = last_attempt(folder);
  std::string close_last_because;
  if (last > 0) {
    const auto known = owner_of(folder, last);
    if (!known) return {Claim::Result::taken, last, "", ""};
    const Owner& owner = *known;
    if (owner.launch == me.launch) return {Claim::Result::taken, last, "", ""};
    const std::string state = ending_of(store::read_journal(sweep_folder), id, last);
    const bool ended = !state.empty();
    if (!ended && !owner.launch.empty() && life_of(owner, me) != Life::gone) return {Claim::Result::taken, last, "", ""};
    if (store::is_valid_trial(folder / "trial.h5", id)) {
      const std::string found = store::read_trial(folder / "trial.h5").state;
      if (!ended) journal.write("ended", {{"trial", id}, {"attempt", last}, {"state", found}, {"reason", ""}, {"seconds", 0.0}});
      return {Claim::Result::ended, last, found, ""};
    }
    // One that was finished by the journal, but whose file is gone or damaged, runs again.
    if (is_final(state) && state != "done" && state != "diverged") return {Claim::Result::ended, last, state, ""};
    if (!ended)
      close_last_because = owner.launch.empty() ? "its claim names no process"
                                                : fmt::format("process {} on {} is gone", owner.process, owner.host) + last_collectives(folder, last);
  }
  return {Claim::Result::open, last + 1, "", close_last_because};
}

Claim try_claim(const fs::path& sweep_folder, const std::string& id, const Owner& me, store::JournalWriter& journal) {
  Claim claim = look_at_claim(sweep_folder, id, me, journal);
  if (claim.result != Claim::Result::open) return claim;
  claim.result = make_attempt(trial_folder(sweep_folder, id), claim.attempt, me) ? Claim::Result::claimed : Claim::Result::taken;
  if (claim.result == Claim::Result::claimed && !claim.crash.empty())
    journal.write("ended", {{"trial", id}, {"attempt", claim.attempt - 1}, {"state", "crashed"}, {"reason", claim.crash}, {"seconds", 0.0}});
  return claim;
}

}  // namespace moesweep::launch
