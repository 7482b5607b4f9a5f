// See include/moesweep/launch/provenance.hpp.
#include "moesweep/launch/provenance.hpp"

#include <fmt/core.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "moesweep/core/text.hpp"
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

std::vector<std::string> gpu_models() {
  std::vector<std::filesystem::path> folders;
  std::error_code none;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/driver/nvidia/gpus", none)) folders.push_back(entry.path());
  std::ranges::sort(folders);
  std::vector<std::string> models;
  for (const auto& folder : folders) {
    std::ifstream file(folder / "information");
    for (std::string line; std::getline(file, line);) {
      constexpr std::string_view kModel = "Model:";
      if (!line.starts_with(kModel)) continue;
      line.erase(0, kModel.size());
      line.erase(line.begin(), std::ranges::find_if(line, [](unsigned char c) { return std::isspace(c) == 0; }));
      models.push_back(line);
    }
  }
  return models;
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
constexpr std::array kTold{"CUDA_VISIBLE_DEVICES", "MKL_NUM_THREADS",     "MOESWEEP_CONFIGS",    "MOESWEEP_DATA",      "MOESWEEP_LOG",
                           "MOESWEEP_PROGRESS",    "OMP_NUM_THREADS",     "OMP_PLACES",          "OMP_PROC_BIND",      "SLURM_ARRAY_JOB_ID",
                           "SLURM_ARRAY_TASK_ID",  "SLURM_CLUSTER_NAME",  "SLURM_CPUS_PER_TASK", "SLURM_GPUS_ON_NODE", "SLURM_JOB_ID",
                           "SLURM_JOB_NODELIST",   "SLURM_JOB_PARTITION", "SLURM_NNODES",        "SLURM_NTASKS",       "SLURM_PROCID",
                           "SLURM_RESTART_COUNT",  "SLURM_STEP_ID"};

std::string system_name() {
  utsname name{};
  return ::uname(&name) == 0 ? fmt::format("{} {} {}", name.sysname, name.release, name.machine) : "unknown";
}

std::string compiler() {
#ifdef __clang__
  return fmt::format("clang {}", __clang_version__);
#else
  return fmt::format("gcc {}", __VERSION__);
#endif
}

}  // namespace

bool is_told(std::string_view variable) { return std::ranges::find(kTold, variable) != kTold.end(); }

Json machine_facts() { return {{"host", host_name()}, {"cpu_model", cpu_model()}, {"gpus", gpu_models()}}; }

Json machines_of(const comm::Communicator& ranks) {
  Json machines = Json::array();
  for (const std::string& text : ranks.all_gather(machine_facts().dump(-1, ' ', false, Json::error_handler_t::replace), "machines of the ranks")) {
    Json machine = Json::parse(text);
    const auto known = std::ranges::find(machines, machine["host"], [](const Json& each) { return each["host"]; });
    if (known != machines.end()) {
      (*known)["ranks"] = (*known)["ranks"].get<std::int64_t>() + 1;
      continue;
    }
    machine["ranks"] = 1;
    machines.push_back(std::move(machine));
  }
  return machines;
}

Json provenance(const std::vector<std::string>& command_line, std::int64_t ranks, const std::map<std::string, std::string>& libraries) {
  Json environment = Json::object();
  for (const char* name : kTold)
    if (const char* value = std::getenv(name)) environment[name] = as_utf8(value);
  Json slurm = Json::object();
  for (const auto& [key, name] : {std::pair("job", "SLURM_JOB_ID"),
                                  {"step", "SLURM_STEP_ID"},
                                  {"array_job", "SLURM_ARRAY_JOB_ID"},
                                  {"array_task", "SLURM_ARRAY_TASK_ID"},
                                  {"restarts", "SLURM_RESTART_COUNT"}})
    if (const auto found = environment.find(name); found != environment.end()) slurm[key] = *found;
  std::error_code unknown;
  Json facts = {{"version", version()},
                {"git", git_version()},
                {"compiler", compiler()},
                {"mpi", mpi_version()},
                {"host", host_name()},
                {"system", system_name()},
                {"cpu_model", cpu_model()},
                {"gpus", gpu_models()},
                {"ranks", ranks},
                {"folder", as_utf8(std::filesystem::current_path(unknown).string())},
                {"command_line", command_line},
                {"slurm", slurm},
                {"environment", environment}};
  for (const auto& [name, number] : libraries) facts[name] = number;
  return facts;
}

}  // namespace moesweep::launch
