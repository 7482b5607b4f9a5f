// A stand-in for data and training: trials of no content that leave a mark each time they run.
#pragma once

#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "moesweep/core/error.hpp"
#include "moesweep/launch/run.hpp"

namespace moesweep::launch::testing {

namespace fs = std::filesystem;

/// Data without content, with a digest of the test's choice.
class FakeSource final : public data::Source {
 public:
  explicit FakeSource(std::string digest) : digest_(std::move(digest)) {}
  std::int64_t vocabulary() const override { return 2; }
  std::int64_t domains() const override { return 1; }
  std::string digest() const override { return digest_; }
  double bytes_per_token(std::int64_t) const override { return 1; }
  data::Batch training(std::int64_t, std::int64_t, std::int64_t, std::int64_t, std::int64_t) const override { return {}; }
  data::Batch validation(std::int64_t, std::int64_t) const override { return {}; }
  std::int64_t validation_sequences(std::int64_t) const override { return 0; }

 private:
  std::string digest_;
};

/// A sweep over seeds 1..count; seed s needs gangs[(s-1) % size] ranks.
inline spec::Sweep sweep_of(int count, const std::vector<std::int64_t>& gangs = {1}) {
  spec::Sweep sweep;
  sweep.name = "fake";
  sweep.resolved = {{"sweep", "fake"}};
  for (int seed = 1; seed <= count; ++seed) {
    spec::Trial trial;
    trial.config.seed = seed;
    trial.config.data.domains = {"a"};
    trial.config.parallel.data = gangs[static_cast<std::size_t>(seed - 1) % gangs.size()];
    trial.id = train::id_of(trial.config);
    sweep.trials.push_back(trial);
  }
  return sweep;
}

/// A finished trial: two evaluations of two layers; loss and purity follow the seed.
inline store::TrialRecord record_of(const train::TrialConfig& config) {
  store::TrialRecord record;
  record.id = train::id_of(config);
  record.state = "done";
  const double seed = static_cast<double>(config.seed);
  const std::vector<double> loss{9.0, 3.0 + seed}, purity{0.0, 0.0, 0.25, 0.75 / seed}, steps{1, 2};
  record.arrays.push_back(store::make_array("evaluations/step", {2}, steps, "step", "step"));
  record.arrays.push_back(store::make_array("evaluations/loss", {2}, loss, "nats per token", "validation loss", true));
  record.arrays.push_back(store::make_array("evaluations/purity_expert", {2, 2}, purity, "1", "purity", true));
  return record;
}

/// A folder that all ranks of the world share, removed at the end by rank 0.
class SharedFolder {
 public:
  explicit SharedFolder(const comm::Communicator& world) : world_(world) {
    std::string name;
    if (world.rank() == 0) {
      std::string pattern = (fs::temp_directory_path() / "moesweep-launch-XXXXXX").string();
      name = ::mkdtemp(pattern.data());
    }
    path_ = world.broadcast(name, 0, "folder of the test");
  }
  ~SharedFolder() {
    world_.barrier("end of the test");
    std::error_code ignored;
    if (world_.rank() == 0) fs::remove_all(path_, ignored);
  }
  const fs::path& path() const { return path_; }

 private:
  const comm::Communicator& world_;
  fs::path path_;
};

/// Appends a line of its own to MARKS/ID each time a trial runs, by the gang's leader.
inline void mark(const fs::path& marks, const train::TrialConfig& config, const std::string& text) {
  fs::create_directories(marks);
  std::ofstream(marks / train::id_of(config), std::ios::app) << text + "\n";
}

/// Lines of every mark, by trial.
inline std::map<std::string, std::vector<std::string>> read_marks(const fs::path& marks) {
  std::map<std::string, std::vector<std::string>> result;
  std::error_code failure;
  for (const auto& entry : fs::directory_iterator(marks, failure)) {
    std::ifstream in(entry.path());
    for (std::string line; std::getline(in, line);) result[entry.path().filename()].push_back(line);
  }
  return result;
}

/// A runner that marks and then does `body`, which may throw or change the record.
inline Runner fake_runner(
    const fs::path& marks,
    std::function<void(const train::TrialConfig&, const comm::Communicator&, const train::RunOptions&, store::TrialRecord&)> body = nullptr,
    const std::string& digest = "d1") {
  Runner runner;
  runner.open_data = [digest](const data::DataConfig&) { return std::make_unique<FakeSource>(digest); };
  runner.run_trial = [marks, body](const train::TrialConfig& config, const data::Source&, const comm::Communicator& gang,
                                   const train::RunOptions& options) {
    if (gang.rank() == 0) mark(marks, config, std::to_string(gang.size()));
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    store::TrialRecord record = record_of(config);
    if (body) body(config, gang, options, record);
    return record;
  };
  return runner;
}

inline RunOptions options_for(const fs::path& folder) {
  RunOptions options;
  options.folder = folder;
  options.command_line = {"moesweep", "run", "fake"};
  options.show_progress = false;
  return options;
}

}  // namespace moesweep::launch::testing
