// A rank's peak of memory above its idle process, measured over a whole small trial and held against `plan`'s: within 10 % and 64 MiB.
// With --disk, what it leaves on disk: within 15 %.
//   memory_case [--disk] TRIAL.yaml [key=value ...]
#include <fmt/core.h>

#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "moesweep/comm/mpi.hpp"
#include "moesweep/data/source.hpp"
#include "moesweep/plan/cost.hpp"
#include "moesweep/spec/sweep.hpp"
#include "moesweep/store/record.hpp"
#include "moesweep/train/trial.hpp"
#include "support/scratch.hpp"

namespace {

using namespace moesweep;

constexpr double kMebibyte = 1048576, kShare = 0.10, kBeside = 64 * kMebibyte;

double status_bytes(const std::string& key) {
  std::ifstream file("/proc/self/status");
  for (std::string line; std::getline(file, line);)
    if (line.starts_with(key + ":")) return std::stod(line.substr(key.size() + 1)) * 1024;
  return 0;
}

/// On one rank: the bytes of trial.h5, trace.h5 and the last checkpoint.
int run_on_disk(int argc, char** argv) {
  constexpr double kMost = 0.15;
  const train::TrialConfig config = spec::load_trial(argv[2], std::vector<std::string>(argv + 3, argv + argc));
  train::prepare_process();
  const auto source = data::open_source(config.data);
  const testing_support::Scratch scratch("moesweep-disk");
  const auto& folder = scratch.path();
  train::RunOptions options;
  options.folder = folder;
  store::TrialRecord record = train::run_trial(config, *source, comm::Communicator::world(), options);
  record.provenance = Json{{"command", std::string(2000, 'x')}}.dump();  // about as long as a real one
  store::write_trial(folder / "trial.h5", record);
  double measured = 0;
  for (const auto& file : std::filesystem::directory_iterator(folder)) {
    fmt::print("{}: {} bytes\n", file.path().filename().string(), file.file_size());
    measured += static_cast<double>(file.file_size());
  }
  const double predicted = plan::cost_of(config).disk_bytes;
  fmt::print("measured {:.0f}, predicted {:.0f} bytes, ratio {:.3f}\n", measured, predicted, predicted / measured);
  return std::abs(predicted - measured) <= kMost * measured ? 0 : 1;
}

int run(int argc, char** argv) {
  const comm::Communicator world = comm::Communicator::world();
  const train::TrialConfig config = spec::load_trial(argv[1], std::vector<std::string>(argv + 2, argv + argc));
  train::prepare_process();
  const auto source = data::open_source(config.data);
  std::ofstream("/proc/self/clear_refs") << "5\n";  // the peak begins anew
  const double idle = status_bytes("VmRSS");
  (void)train::run_trial(config, *source, world, {});
  const double measured = status_bytes("VmHWM") - idle;
  const plan::TrialCost cost = plan::cost_of(config);
  const double predicted = cost.memory_bytes, most = kShare * measured + kBeside;
  const bool holds = std::abs(predicted - measured) <= most;
  const std::string line =
      fmt::format("rank {} of {}: idle {:.1f} MiB; above it measured {:.1f}, predicted {:.1f} MiB, ratio {:.3f}{}\n", world.rank(), world.size(),
                  idle / kMebibyte, measured / kMebibyte, predicted / kMebibyte, predicted / measured, holds ? "" : ": beyond 10 % and 64 MiB");
  for (const std::string& text : world.all_gather(line, "measured memory"))
    if (world.rank() == 0) fmt::print("{}", text);
  if (world.rank() == 0) fmt::print("{}\n", cost.json().at("memory").dump());
  std::fflush(stdout);
  return world.maximum(holds ? 0 : 1, "whether it holds") == 0 ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const comm::Environment environment;
    return std::string(argv[1]) == "--disk" ? run_on_disk(argc, argv) : run(argc, argv);
  } catch (const std::exception& error) {
    fmt::print(stderr, "{}\n", error.what());
    return 1;
  }
}
