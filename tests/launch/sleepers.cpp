// A sweep of trials that only sleep: launch_sleepers FOLDER MARKS TRIALS MILLISECONDS. Marks `begin PID` and `end PID` for each run of a trial.
#include <cstdlib>

#include "fake.hpp"

int main(int argc, char** argv) {
  using namespace moesweep;
  if (argc != 5) return 2;
  const comm::Environment environment;
  const auto world = comm::Communicator::world();
  const std::filesystem::path marks = argv[2];
  const auto pause = std::chrono::milliseconds(std::atoi(argv[4]));
  launch::Runner runner;
  runner.open_data = [](const data::DataConfig&) { return std::make_unique<launch::testing::FakeSource>("d1"); };
  runner.run_trial = [&](const train::TrialConfig& config, const data::Source&, const comm::Communicator&, const train::RunOptions&) {
    launch::testing::mark(marks, config, "begin " + std::to_string(getpid()));
    std::this_thread::sleep_for(pause);
    launch::testing::mark(marks, config, "end " + std::to_string(getpid()));
    return launch::testing::record_of(config);
  };
  const auto outcome = launch::run_sweep(launch::testing::sweep_of(std::atoi(argv[3])), launch::testing::options_for(argv[1]), runner, world);
  return outcome.states.size() == 1 && outcome.states.contains("done") ? 0 : 1;
}
