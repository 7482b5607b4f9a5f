// What this build and machine can do, and the mend for what they cannot.
#include <fmt/core.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <sstream>
#include <thread>

#include "cli.hpp"
#include "moesweep/comm/nccl.hpp"
#include "moesweep/core/text.hpp"
#include "moesweep/core/version.hpp"
#include "moesweep/data/source.hpp"
#include "moesweep/launch/command.hpp"
#include "moesweep/launch/provenance.hpp"
#include "moesweep/spec/sweep.hpp"

namespace moesweep::cli {

namespace fs = std::filesystem;

namespace {

/// `ok`; `note`: something that only some uses need is missing; `wrong`: no sweep can run.
struct Finding {
  std::string topic, state, text, mend;
};

std::string first_line(const std::string& text) { return text.substr(0, text.find('\n')); }

std::optional<std::string> on_path(const std::string& program) {
  const char* path = std::getenv("PATH");
  std::istringstream folders(path == nullptr ? "" : path);
  for (std::string folder; std::getline(folders, folder, ':');)
    if (const fs::path file = fs::path(folder) / program; ::access(file.c_str(), X_OK) == 0) return file.string();
  return std::nullopt;
}

Finding cpu() {
  std::ifstream file("/proc/cpuinfo");
  std::string flags;
  for (std::string line; flags.empty() && std::getline(file, line);)
    if (line.starts_with("flags")) flags = line + " ";
  std::string have;
  for (const char* flag : {"avx2", "fma", "avx512f", "avx512_bf16", "amx_bf16"})
    if (flags.find(fmt::format(" {} ", flag)) != std::string::npos) have += fmt::format(" {}", flag);
  const double memory = static_cast<double>(::sysconf(_SC_PHYS_PAGES)) * static_cast<double>(::sysconf(_SC_PAGE_SIZE));
  return {"cpu", "ok",
          fmt::format("{}, {} cores,{}; {} memory", launch::cpu_model(), std::thread::hardware_concurrency(), have, bytes_in_words(memory)), ""};
}

Finding gpus() {
  if (const auto listed = launch::output_of({"nvidia-smi", "-L"}, 20); listed && !listed->empty())
    return {"gpus", "ok",
            fmt::format("{}: {}; this build computes on {}", std::ranges::count(*listed, '\n'), first_line(*listed),
                        comm::nccl_is_built() ? "them" : "the CPU"),
            comm::nccl_is_built() ? "" : "bash jobs/setup.sh cuda builds for GPUs"};
  std::error_code failure;
  int devices = 0;
  for (const auto& entry : fs::directory_iterator("/dev", failure)) {
    const std::string name = entry.path().filename().string();
    devices += name.size() > 6 && name.starts_with("nvidia") && std::isdigit(static_cast<unsigned char>(name[6])) != 0 ? 1 : 0;
  }
  if (devices > 0) return {"gpus", "note", fmt::format("{} devices in /dev, but nvidia-smi does not answer", devices), "install the driver's tools"};
  return {"gpus", "ok", "none", ""};
}

Finding nccl() {
  std::string text;
  for (const std::string& line : comm::describe_nccl()) text += (text.empty() ? "" : "; ") + line;
  return {"nccl", "ok", text, ""};
}

Finding mpi() {
  const auto mpirun = on_path("mpirun");
  if (!mpirun)
    return {"mpi", "note", launch::mpi_version() + "; no mpirun on PATH", "install openmpi-bin, or load the module of the MPI that this build used"};
  const auto version = launch::output_of({"mpirun", "--version"}, 20);
  return {"mpi", "ok", fmt::format("built with {}; {} is {}", launch::mpi_version(), *mpirun, version ? first_line(*version) : "silent"), ""};
}

Finding slurm() {
  if (!on_path("sbatch")) return {"slurm", "ok", "none on this machine", ""};
  const auto version = launch::output_of({"sbatch", "--version"}, 20);
  const std::string text = version ? first_line(*version) : "sbatch";
  if (!launch::output_of({"squeue", "-h", "-t", "running", "-o", "%A"}, 20))
    return {"slurm", "note", text + "; the controller does not answer", "ask the site, or set SLURM_CONF"};
  const auto plugins = launch::output_of({"sh", "-c", "srun --mpi=list 2>&1"}, 20);
  if (plugins && plugins->find("pmix") == std::string::npos)
    return {"slurm", "note", text + "; srun has no pmix plugin", "start ranks with mpirun inside the allocation, as jobs/README.md shows"};
  return {"slurm", "ok", text + ", the controller answers, srun has pmix", ""};
}

Finding data_folder() {
  const fs::path folder = data::data_folder();
  std::string stores;
  std::error_code failure;
  for (const auto& entry : fs::directory_iterator(folder, failure))
    if (std::error_code none; fs::exists(entry.path() / "manifest.json", none))
      stores += (stores.empty() ? "" : ", ") + entry.path().filename().string();
  if (stores.empty())
    return {"data", "note", fmt::format("no token store in {}", fs::absolute(folder).string()),
            "build one: moesweep-data build configs/data/languages8.yaml (or use data/synthetic8.yaml, which needs none)"};
  return {"data", "ok", fmt::format("{}: {}", fs::absolute(folder).string(), stores), ""};
}

Finding configs() {
  for (const auto& folder : spec::config_folders())
    if (std::error_code none; fs::is_directory(folder / "sweeps", none)) return {"configs", "ok", folder.string(), ""};
  return {"configs", "wrong", "no configs folder was found", "set MOESWEEP_CONFIGS to the configs folder of moesweep"};
}

Finding threads() {
  const char* set = std::getenv("OMP_NUM_THREADS");
  if (set != nullptr) return {"threads", "ok", fmt::format("OMP_NUM_THREADS={}", set), ""};
  return {"threads", "ok", "OMP_NUM_THREADS is not set; each trial sets parallel.threads", ""};
}

Finding disk() {
  std::error_code failure;
  const fs::path here = fs::current_path(failure);
  const auto space = fs::space(here, failure);
  const std::string text = fmt::format("{} free in {}", bytes_in_words(static_cast<double>(space.available)), here.string());
  if (::access(here.c_str(), W_OK) != 0) return {"disk", "note", text + ", not writable: runs/ cannot be made here", "change folder, or give --out"};
  constexpr double kLittle = 1024.0 * 1024 * 1024;
  if (static_cast<double>(space.available) < kLittle) return {"disk", "note", text, "free some space"};
  return {"disk", "ok", text, ""};
}

}  // namespace

void add_doctor(CLI::App& app, Invocation& invocation) {
  auto json = std::make_shared<bool>(false);
  CLI::App* sub = subcommand(
      app, "doctor", "What this build and machine can do, and the mend for what they cannot. Exit code 4 when no sweep can run.", "moesweep doctor");
  sub->add_flag("--json", *json, "as JSON");
  sub->callback([json, &invocation] {
    std::vector<Finding> findings{{"moesweep", "ok", fmt::format("{} ({})", version(), git_version()), ""},
                                  {"libtorch", "ok", MOESWEEP_TORCH_VERSION, ""},
                                  {"hdf5", MOESWEEP_HDF5_PARALLEL ? "ok" : "wrong",
                                   fmt::format("{}, {}", MOESWEEP_HDF5_VERSION, MOESWEEP_HDF5_PARALLEL ? "parallel" : "serial"),
                                   MOESWEEP_HDF5_PARALLEL ? "" : "install libhdf5-openmpi-dev and build again"},
                                  mpi(),
                                  cpu(),
                                  threads(),
                                  gpus(),
                                  nccl(),
                                  slurm(),
                                  configs(),
                                  data_folder(),
                                  disk()};
    std::string text;
    Json list = Json::array();
    for (const Finding& finding : findings) {
      if (finding.state == "wrong") invocation.exit_code = ExitCode::io;
      text += fmt::format("{:<6}{:<10}{}\n", finding.state, finding.topic, printable_line(finding.text));
      if (!finding.mend.empty()) text += fmt::format("{:16}mend: {}\n", "", finding.mend);
      list.push_back({{"topic", finding.topic}, {"state", finding.state}, {"text", finding.text}, {"mend", finding.mend}});
    }
    if (*json) print_json(list);
    else print(text);
  });
}

}  // namespace moesweep::cli
