// See include/moesweep/launch/provenance.hpp.
#include "moesweep/launch/provenance.hpp"

#include <fmt/chrono.h>
#include <fmt/core.h>
#include <unistd.h>

#include <ctime>
#include <fstream>
#include <string_view>

#include "moesweep/comm/mpi.hpp"
#include "moesweep/core/version.hpp"

extern char** environ;

namespace moesweep::launch {

std::string utc_now() { return fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(std::time(nullptr))); }

std::string host_name() {
  char name[256] = {};
  return ::gethostname(name, sizeof name - 1) == 0 ? name : "unknown";
}

std::string cpu_model() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);)
    if (line.starts_with("model name"))
      if (const auto colon = line.find(": "); colon != std::string::npos) return line.substr(colon + 2);
  return "unknown";
}

std::string mpi_version() {
#ifdef OMPI_MAJOR_VERSION
  return fmt::format("Open MPI {}.{}.{}", OMPI_MAJOR_VERSION, OMPI_MINOR_VERSION, OMPI_RELEASE_VERSION);
#else
  return "unknown";
#endif
}

namespace {

/// What may be told of the environment: nothing that could hold a secret.
bool may_be_told(std::string_view name) { return name == "OMP_NUM_THREADS" || name.starts_with("MOESWEEP_") || name.starts_with("SLURM_"); }

}  // namespace

Json provenance(const std::vector<std::string>& command_line, std::int64_t ranks, const std::string& libtorch_version) {
  Json environment = Json::object();
  std::map<std::string, std::string> told;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string_view text(*entry);
    const auto equals = text.find('=');
    if (equals != std::string_view::npos && may_be_told(text.substr(0, equals))) told.emplace(text.substr(0, equals), text.substr(equals + 1));
  }
  for (const auto& [name, value] : told) environment[name] = value;
  Json slurm = Json::object();
  for (const auto& [key, name] : {std::pair("job", "SLURM_JOB_ID"),
                                  {"step", "SLURM_STEP_ID"},
                                  {"array_job", "SLURM_ARRAY_JOB_ID"},
                                  {"array_task", "SLURM_ARRAY_TASK_ID"},
                                  {"restarts", "SLURM_RESTART_COUNT"}})
    if (const auto found = told.find(name); found != told.end()) slurm[key] = found->second;
  Json facts = {{"version", version()}, {"git", git_version()},      {"mpi", mpi_version()}, {"libtorch", nullptr},
                {"host", host_name()},  {"cpu_model", cpu_model()},  {"ranks", ranks},       {"command_line", command_line},
                {"slurm", slurm},       {"environment", environment}};
  if (!libtorch_version.empty()) facts["libtorch"] = libtorch_version;
  return facts;
}

}  // namespace moesweep::launch
