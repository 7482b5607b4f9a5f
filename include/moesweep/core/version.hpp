// The version of this build.
#pragma once

#include <string>

namespace moesweep {

/// Release, "0.1.0".
std::string version();
/// `git describe` at build time, with `-dirty` for uncommitted changes; "unknown" outside git.
std::string git_version();

}  // namespace moesweep
