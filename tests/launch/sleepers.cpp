// A sweep of trials that only sleep: launch_sleepers FOLDER MARKS TRIALS MILLISECONDS [GANG FAILING_SEED]. Marks `begin PID` and `end PID` for
// each run of a trial, by its leader. In the trial of FAILING_SEED the gang's last rank throws, and the others wait for it.
#include <cstdlib>

#include "fake.hpp"

int main(int argc, char** argv) {
  using namespace moesweep;
  if (argc != 5 && argc != 7) return 2;
  const int gang_size = argc == 7 ? std::atoi(argv[5]) : 1, failing_seed = argc == 7 ? std::atoi(argv[6]) : 0;
  const comm::Environment environment;
  const auto world = comm::Communicator::world();
  const std::filesystem::path marks = argv[2];
  const auto pause = std::chrono::milliseconds(std::atoi(argv[4]));
  launch::Runner runner;
  runner.open_data = [](const data::DataConfig&) { return std::make_unique<launch::testing::FakeSource>("d1"); };
  runner.run_trial = [&](const train::TrialConfig& config, const data::Source&, const comm::Communicator& gang, const train::RunOptions&) {
    const bool leader = gang.rank() == 0;
    if (leader) launch::testing::mark(marks, config, "begin " + std::to_string(getpid()));
    if (config.seed == failing_seed && gang.rank() == gang.size() - 1) throw std::runtime_error("a rank of its own mind");
    gang.barrier("step of a trial");
    std::this_thread::sleep_for(pause);
    if (leader) launch::testing::mark(marks, config, "end " + std::to_string(getpid()));
    return launch::testing::record_of(config);
  };
  const auto outcome =
      launch::run_sweep(launch::testing::sweep_of(std::atoi(argv[3]), {gang_size}), launch::testing::options_for(argv[1]), runner, world);
  return outcome.states.size() == 1 && outcome.states.contains("done") ? 0 : 1;
}
