// The files of a trial's folder that launches rename and remove: regular files of exactly the names that moesweep gives, never through a link,
// and nothing is replaced.
#pragma once

#include <filesystem>
#include <string>

namespace moesweep::launch {

/// Why `folder` is no folder of ours: it is a link or no folder. Empty when it is one or is not there.
std::string trouble_with_folder(const std::filesystem::path& folder);

/// Renames the regular file `file` to its name and `suffix` (`trial.h5.damaged`), or with a number behind it when that is there already
/// (`trial.h5.damaged.2`). Gives the new path; an empty one when there is no such file. An `io` error names the file when it is no regular file, its
/// folder is a link, or it cannot be renamed.
std::filesystem::path set_aside(const std::filesystem::path& file, const std::string& suffix);

/// The same with a name of the caller's choice in the same folder; a number is put behind it when that is there.
std::filesystem::path set_aside_as(const std::filesystem::path& file, const std::string& name);

/// Removes a regular file; false, and nothing happens, when it is absent, something else, or its folder is a link. Never throws.
bool remove_own(const std::filesystem::path& file);

/// Removes what an earlier attempt was writing in the trial's folder when it was killed (`.trial.h5.*.tmp` and the like). Only for who holds the
/// trial's claim.
void remove_half_written(const std::filesystem::path& trial_folder);

}  // namespace moesweep::launch
