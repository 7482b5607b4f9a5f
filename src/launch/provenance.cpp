// See include/moesweep/launch/provenance.hpp.
#include "moesweep/launch/provenance.hpp"

#include <fmt/core.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <fstream>

#include "moesweep/comm/mpi.hpp"
#include "moesweep/core/version.hpp"

namespace moesweep::launch {

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

/// What is told of the environment, name by name: others of the same prefix may hold a secret (SLURM_JWT does).
constexpr std::array kTold{"MOESWEEP_CONFIGS",    "MOESWEEP_DATA",       "MOESWEEP_LOG",       "MOESWEEP_PROGRESS",   "OMP_NUM_THREADS",
                           "OMP_PLACES",          "OMP_PROC_BIND",       "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURM_CLUSTER_NAME",
                           "SLURM_CPUS_PER_TASK", "SLURM_JOB_ID",        "SLURM_JOB_NODELIST", "SLURM_JOB_PARTITION", "SLURM_NNODES",
                           "SLURM_NTASKS",        "SLURM_RESTART_COUNT", "SLURM_STEP_ID"};

}  // namespace

Json provenance(const std::vector<std::string>& command_line, std::int64_t ranks, const std::string& libtorch_version) {
  Json environment = Json::object();
  for (const char* name : kTold)
    if (const char* value = std::getenv(name)) environment[name] = value;
  Json slurm = Json::object();
  for (const auto& [key, name] : {std::pair("job", "SLURM_JOB_ID"),
                                  {"step", "SLURM_STEP_ID"},
                                  {"array_job", "SLURM_ARRAY_JOB_ID"},
                                  {"array_task", "SLURM_ARRAY_TASK_ID"},
                                  {"restarts", "SLURM_RESTART_COUNT"}})
    if (const auto found = environment.find(name); found != environment.end()) slurm[key] = *found;
  Json facts = {{"version", version()}, {"git", git_version()},      {"mpi", mpi_version()}, {"libtorch", nullptr},
                {"host", host_name()},  {"cpu_model", cpu_model()},  {"ranks", ranks},       {"command_line", command_line},
                {"slurm", slurm},       {"environment", environment}};
  if (!libtorch_version.empty()) facts["libtorch"] = libtorch_version;
  return facts;
}

}  // namespace moesweep::launch
