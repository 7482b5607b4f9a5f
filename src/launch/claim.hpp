// Claims: who runs which attempt of a trial. One folder made per attempt, at once and with its owner inside, so that two never hold the same.
#pragma once

#include <chrono>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "history.hpp"
#include "moesweep/store/journal.hpp"
#include "moesweep/store/record.hpp"
#include "process.hpp"

namespace moesweep::launch {

struct Claim {
  /// open: an attempt could be made. taken: somebody who lives, or of whom that cannot be found out, runs it. suspect: its next attempt has to run
  /// alone, which was not offered. ended: it needs no further attempt. unreadable: what its folder holds cannot be read just now, so it is left
  /// alone.
  enum class Result { open, claimed, taken, suspect, ended, unreadable };
  Result result = Result::taken;
  int attempt = 0;
  std::string state;  ///< of an ended trial
  std::string why;    ///< of an unreadable one: the file, and what is wrong
};

/// The attempts in a trial's folder.
struct Attempts {
  int last = 0;         ///< number of the last one made, 0 when there is none; at most store::kMostAttempt, greater numbers are nobody's
  std::string trouble;  ///< why they cannot be told, with the path: the folder or an attempt is a link, or cannot be listed; else empty
};
Attempts attempts_of(const std::filesystem::path& trial_folder);
/// The last of them.
int last_attempt(const std::filesystem::path& trial_folder);

/// What stands at the place of a trial's file: as store::find_trial tells it; unreadable too when the trial's folder is a link.
store::TrialFinding find_trial_file(const std::filesystem::path& sweep_folder, const std::string& id, const store::Published& published);

/// The fields of the `ended` line of a trial that left a valid file, by whoever finds it.
Json fields_of_found(const std::filesystem::path& file, const store::TrialFinding& finding);

/// Where a rank of a gang writes the collective that it is in, for who finds the attempt lost.
std::filesystem::path collective_file(const std::filesystem::path& trial_folder, int attempt, int rank);
/// What a lost attempt's first ranks were in: "; rank 0 was in 'gradients', its collective number 120; ...", or nothing.
std::string last_collectives(const std::filesystem::path& trial_folder, int attempt);

/// The owner of an attempt. A default one, which is nobody, when its claim is not there or says nothing that makes sense; nothing at all when the
/// claim cannot be read just now: then somebody may well hold it, and `why` says what is wrong.
std::optional<Owner> owner_of(const std::filesystem::path& trial_folder, int attempt, std::string* why = nullptr);

/// Takes the owner's name off an attempt that its own launch could not go on with: it is nobody's, and counts against nobody. Needs no disk space.
void give_back(const std::filesystem::path& trial_folder, int attempt);

/// Makes claims for one process. Keeps what the journal said, so that it is read again only where that cannot be enough.
class Claims {
 public:
  /// `journal` gives the process's own writer, when there is something to write.
  Claims(std::filesystem::path sweep_folder, Owner me, const Retries& retries, std::function<store::JournalWriter&()> journal);

  /// Tries to get the trial's next attempt. An attempt whose owner is gone is closed in the journal: by the state of the valid trial.h5 that it
  /// left, else by `judge`. `alone`: nothing else runs in this launch meanwhile, so that a suspect may run. Nothing is written about a trial whose
  /// files cannot be read just now.
  Claim try_claim(const std::string& id, bool alone = true);
  /// The same without making the attempt: `open` where `try_claim` would try it.
  Claim look(const std::string& id, bool alone = true);
  /// Makes the attempt after one that this process has just ended itself.
  Claim claim_again(const std::string& id, int ended_attempt);
  /// Closes the trial's last attempt if it is open and its owner is gone, and gives whether it did. The history does not know of that before
  /// `read_journal`.
  bool close_if_lost(const std::string& id);
  /// Writes down that a trial has had its last attempt, where the line of its end, written by the dying process, could not know. Gives whether it
  /// did.
  bool finish_if_spent(const std::string& id);
  /// As the journal told when it was last read.
  const History& history() const { return history_; }
  void read_journal();
  /// Of the journal when it was last read: see store::Journal.
  const std::vector<std::string>& problems() const { return problems_; }

 private:
  /// Makes sure that the history is not older than needed to know how the attempt ended.
  void know_about(const std::string& id, int attempt);
  void close(const std::string& id, int attempt, const Owner& owner);
  /// How the last attempt, which another launch made, stands: held by somebody, ended in the journal, closed right now, or not to be told.
  enum class Standing { held, ended, closed, unreadable };
  Standing settle(const std::string& id, int attempt, const Owner& owner, std::string& why);
  store::TrialFinding find(const std::string& id) const;
  Claim make(const std::string& id, int attempt);

  std::filesystem::path sweep_folder_;
  Owner me_;
  Retries retries_;
  std::function<store::JournalWriter&()> journal_;
  History history_;
  std::vector<std::string> problems_;
  std::optional<std::chrono::steady_clock::time_point> read_at_;
};

}  // namespace moesweep::launch
