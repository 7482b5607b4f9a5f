// Claims: who runs which attempt of a trial. One folder made per attempt, at once and with its owner inside, so that two never hold the same.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "moesweep/store/journal.hpp"
#include "process.hpp"

namespace moesweep::launch {

struct Claim {
  enum class Result { open, claimed, taken, ended };
  Result result = Result::taken;
  int attempt = 0;
  std::string state;  ///< of an ended trial
  std::string crash;  ///< how the attempt before was lost; empty when it was not
};

/// Number of the last attempt made, 0 when there is none.
int last_attempt(const std::filesystem::path& trial_folder);

/// Where a rank of a gang writes the collective that it is in, for who finds the attempt lost.
std::filesystem::path collective_file(const std::filesystem::path& trial_folder, int attempt, int rank);
/// What a lost attempt's first ranks were in: "; rank 0 was in 'gradients', its collective number 120; ...", or nothing.
std::string last_collectives(const std::filesystem::path& trial_folder, int attempt);

/// The owner of an attempt. A default one, which is nobody, when its claim is not there or says nothing; nothing at all when the claim cannot
/// be read: then somebody may well hold it.
std::optional<Owner> owner_of(const std::filesystem::path& trial_folder, int attempt);

/// Tries to get the trial's next attempt for `me`. `taken`: somebody who lives, or of whom that cannot be found out, runs it. `ended`: it needs
/// no further attempt. An attempt whose owner is gone is closed in `journal`: by the state of the valid trial.h5 that it left, else as crashed.
Claim try_claim(const std::filesystem::path& sweep_folder, const std::string& id, const Owner& me, store::JournalWriter& journal);

/// The same without making the attempt: `open` where `try_claim` would try it.
Claim look_at_claim(const std::filesystem::path& sweep_folder, const std::string& id, const Owner& me, store::JournalWriter& journal);

}  // namespace moesweep::launch
