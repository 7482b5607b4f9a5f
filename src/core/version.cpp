// See include/moesweep/core/version.hpp.
#include "moesweep/core/version.hpp"

#include "moesweep_git_version.hpp"

namespace moesweep {

std::string version() { return MOESWEEP_VERSION; }
std::string git_version() { return MOESWEEP_GIT_VERSION; }

}  // namespace moesweep
