// Site profiles: what a cluster asks of every job, in one YAML file that `moesweep submit --profile NAME` reads.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "moesweep/core/fields.hpp"

namespace moesweep::spec {

/// Empty texts and lists ask for nothing.
struct SiteProfile {
  std::string partition, account, qos, constraint;
  std::string gpus;                  ///< of each node: a number, or a kind and a number ("a100:4")
  std::string time;                  ///< limit of an array element, as sbatch takes it
  std::string report = "auto";       ///< "auto", "none", or the path of moesweep-report
  std::vector<std::string> modules;  ///< loaded in this order
  std::vector<std::string> srun;     ///< further arguments of srun, each one argument
  std::vector<std::string> sbatch;   ///< further #SBATCH lines, as they are
  std::vector<std::string> setup;    ///< shell lines before the first step, as they are
  std::optional<std::int64_t> ranks_per_node;
  std::optional<std::int64_t> signal_seconds;      ///< USR2 comes so long before the time limit
  std::map<std::string, std::string> environment;  ///< by name; the job scripts hold the values, for everybody who can read them
  std::vector<std::string> inherit;                ///< names of variables whose values jobs take from the environment of `submit`; no file holds them

  std::filesystem::path file;  ///< where it was read; empty for a profile of defaults

  /// Everything but `environment`, a mapping, and `file`.
  void list(FieldList& fields);
};

/// The profile of that name (a path, or a name looked up in the folders of $MOESWEEP_PROFILES, separated by ':', then in profiles/ of the config
/// folders). A `config` error at `file:line:column` names an unknown key with the nearest one, or a value that does not fit.
SiteProfile load_profile(const std::string& name);

}  // namespace moesweep::spec
